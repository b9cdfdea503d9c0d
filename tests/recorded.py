"""The recordings beside the repository, their counted facts, and how tests bring them into a QuestDB and ask it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recorder.commands.replay import Summary, replay
from recorder.shell.captures import Capture, Item, open_capture
from recorder.values.config import BatchConfig, Config, QuestdbConfig
from recorder.values.errors import CaptureError
from recorder.values.feed import FeedSpec
from recorder.values.symbols import binance_canonical, bybit_canonical, canonical_pair, okx_canonical
from recorder.values.tables import TABLES

OURS = (
    "cryptofeed/BINANCE",
    "cryptofeed/BITSTAMP/",
    "cryptofeed/BYBIT/",
    "cryptofeed/COINBASE/",
    "cryptofeed/DERIBIT/",
    "cryptofeed/KRAKEN/",
    "cryptofeed/OKEX/",
    "cryptofeed/OKX/",
    "hftbacktest/spot",
    "hftbacktest/usdm",
    "hftbacktest/cm",
)
ROWS_MAX_LARGE = 1_000_000  # a recording is one block
REFRESH_TIMEOUT_S = 60.0


def short(name: str) -> str:
    return Path(name).name.removesuffix(".gz")


def config_for(questdb: Any, feeds: Iterable[FeedSpec], rows_max: int = ROWS_MAX_LARGE) -> Config:
    return Config(
        questdb=QuestdbConfig(embedded=False, ilp=questdb.ilp_url, sql=questdb.sql_url),
        batch=BatchConfig(rows_max=rows_max),
        feeds=tuple(feeds),
    )


def named(path: Path, name: str) -> FeedSpec:
    """A configured feed ``name`` that the recording's messages belong to."""
    [spec] = open_capture(path).specs
    return FeedSpec(name=name, provider=spec.provider, options=spec.options)


def canonical(spec: FeedSpec, symbol: str) -> str:
    if spec.provider == "binance":
        return binance_canonical(symbol, spec.options["market"])  # type: ignore[arg-type]
    if spec.provider == "bybit":
        return bybit_canonical(symbol, spec.options["market"])  # type: ignore[arg-type]
    if spec.provider == "okx":
        return okx_canonical(symbol)
    if spec.provider == "bitstamp":  # joins base and quote, which has three or four letters
        quote = 4 if symbol.endswith(("usdc", "usdt")) else 3
        return f"{symbol[:-quote]}-{symbol[-quote:]}".upper()
    return canonical_pair(symbol.replace("/", "-"))


def read(capture: Capture) -> tuple[list[Item], str]:
    """What comes out of a recording, the second time as the first, and what it tells at its end."""
    results = []
    for _ in range(2):
        items, told = [], ""
        try:
            for item in capture:
                items.append(item)  # noqa: PERF402 (what came before an error counts)
        except CaptureError as error:
            told = str(error)
        results.append((items, told))
    assert results[0] == results[1]
    return results[0]


class Recordings:
    """The recordings, their counted facts, and what the first replay of each one said."""

    def __init__(self, questdb: Any, folder: Path) -> None:
        self.questdb, self.folder = questdb, folder
        expected = json.loads((folder / "expected.json").read_bytes())
        self.checks = expected["checks"]
        self.facts = {name: facts for name, facts in expected["files"].items() if name.startswith(OURS)}
        self.specs = {name: named(folder / name, short(name)) for name in self.facts}
        self.summaries: dict[str, Summary] = {}

    def replay(self, name: str, rows_max: int = ROWS_MAX_LARGE) -> Summary:
        return replay(config_for(self.questdb, [self.specs[name]], rows_max), [self.folder / name])

    def symbols(self, name: str) -> dict[str, Any]:
        """Canonical symbol → counted facts of its trades."""
        spec = self.specs[name]
        counted = self.facts[name].get("trades_by_symbol", {})
        return {canonical(spec, symbol): facts for symbol, facts in counted.items()}

    def rows(self, sql: str, name: str, where: str = "") -> list[dict[str, Any]]:
        """``sql`` with {feed} for the condition that picks this recording's rows."""
        return self.questdb.sql.rows(sql.format(feed=f"feed = '{short(name)}' {where}"))

    def counts(self) -> dict[str, int]:
        return {table: self.questdb.sql.value(f"SELECT count() FROM {table}") for table in TABLES}

    def digests(self) -> dict[str, str]:
        """Of every table, over all columns of its rows in one order."""
        result = {}
        for table in TABLES:
            whole = b"".join(self.questdb.sql.export_csv(f"SELECT * FROM {table}"))
            result[table] = hashlib.sha256(b"\n".join(sorted(whole.splitlines()))).hexdigest()
        return result


def refresh(questdb: Any, *views: str) -> None:
    """Bring materialised views, each one the base of the next, up to what their tables hold."""
    deadline = time.monotonic() + REFRESH_TIMEOUT_S
    for view in views:
        questdb.wait_applied()
        questdb.sql.execute(f"REFRESH MATERIALIZED VIEW {view} INCREMENTAL")
        while True:
            [state] = questdb.sql.rows(f"SELECT * FROM materialized_views() WHERE view_name = '{view}'")
            assert state["view_status"] != "invalid", state
            if state["view_status"] == "valid" and state["refresh_base_table_txn"] == state["base_table_txn"]:
                break
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
    questdb.wait_applied()


def trade_of(line: bytes) -> tuple[str, int] | None:
    """(provider's symbol, id) of a recorded line that is a live trade, read without the project's decoders."""
    start = line.find(b"{")
    if start < 0 or not line[:1].isdigit():
        return None
    message = json.loads(line[start:])
    if message.get("type") == "match":
        return message["product_id"], message["trade_id"]
    data = message.get("data", {})
    if data.get("e") in ("trade", "aggTrade"):
        return data["s"], data["t" if data["e"] == "trade" else "a"]
    return None
