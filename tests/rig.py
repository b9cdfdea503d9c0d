"""A recorder between a simulated exchange and a QuestDB, all of them processes, that is killed and started again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import QuestDB
from exchange_process import Exchange
from journalled import Seen, seen_in
from recorder_process import Recorder, external, until, write_config
from undisturbed import assert_equal, undisturbed

from recorder.shell.simulator.proxy import Proxy
from recorder.values.config import KernelsConfig

SYMBOLS = {
    "coinbase": ["BTC-USD", "ETH-USD"],
    "binance": ["BTC-USDT", "ETH-USDT"],
    "kraken": ["BTC-USD", "ETH-USD"],
    "alpaca": ["AAPL", "SPY"],
}
OPTIONS: dict[str, dict[str, Any]] = {name: {"provider": name} for name in SYMBOLS}
OPTIONS["alpaca"] |= {"feed": "iex", "format": "json"}  # readable without a decoder of ours
KEY, SECRET = "PKTESTONLY0123456789", "s3cr3tOfTheTests/0123456789abcdef"
KEYS = {"APCA_API_KEY_ID": KEY, "APCA_API_SECRET_KEY": SECRET}
# Windows short enough to turn over many times between two kills, and a gap in time at each restart.
KERNELS = {"zscore_window": 64, "size_window": 64, "size_multiple": 8.0, "rolling_vwap_s": 5, "time_gap_s": 0.5}


def exchange(*providers: str, **settings: Any) -> Exchange:
    """A simulated exchange with the symbols of this module; Alpaca's takes its key."""
    rules = {"alpaca": {"keys": {KEY: SECRET}}}
    return Exchange(providers, symbols={name: SYMBOLS[name] for name in providers}, rules=rules, **settings)


class Rig:
    """A recorder that is started again and again, its exchange, and a way to QuestDB that can fail.

    urls     where it finds the providers, if not at the exchange itself
    program  runs the recorder instead of ``python -m recorder``
    """

    def __init__(
        self,
        folder: Path,
        questdb: QuestDB,
        proxy: Proxy,
        exchange: Exchange,
        port: int,
        urls: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self.folder, self.questdb, self.proxy, self.exchange = folder, questdb, proxy, exchange
        urls = urls or exchange.urls
        self.feeds = {
            name: {"url": urls[name], "symbols": SYMBOLS[name], **OPTIONS[name]} for name in exchange.providers
        }
        server = external(f"http://127.0.0.1:{proxy.port}")
        sections = {"kernels": KERNELS, "journal": {"segment_mb": 1}}
        self.config = write_config(folder, self.feeds, port, server, **sections)
        self.port, self.program = port, program
        self.recorder: Recorder | None = None
        self.live_s: list[float] = []  # start → a frame of every feed
        self.queryable_s: list[float] = []  # start → everything journalled before it is queryable

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def start(self) -> Recorder:
        self.began = time.monotonic()
        self.recorder = Recorder(self.config, metrics_port=self.port, program=self.program, **KEYS)
        return self.recorder

    def kill(self) -> None:
        if self.recorder is not None:
            self.recorder.kill()

    def metric(self, *key: str) -> float:
        assert self.recorder is not None
        return self.recorder.metric(*key)

    def wait_live(self, more_than: float = 0) -> None:
        """Until every feed has delivered; the time since the start is kept."""
        until(lambda: all(self.metric("recorder_frames_total", name) > more_than for name in self.feeds), "frames")
        self.live_s.append(time.monotonic() - self.began)

    def wait_caught_up(self) -> None:
        """Until what the start found in the journal is queryable; the time since the start is kept."""
        assert self.recorder is not None
        found = self.recorder.events("journal.resumed")
        reach = sum(found[0][key] for key in ("position", "bytes")) if found else 0
        until(lambda: self.metric("recorder_journal_released_bytes") >= reach, "the backlog")
        self.queryable_s.append(time.monotonic() - self.began)

    def outage(self) -> None:
        self.proxy.refuse()
        self.proxy.cut(reset=True)

    def settle(self) -> None:
        """A last run that is not killed: everything becomes queryable, and it ends by itself in order."""
        self.proxy.accept()
        self.start()
        self.wait_live()
        self.end()

    def end(self) -> None:
        """Stop the recorder that runs: everything becomes queryable, and it ends by itself in order."""
        assert self.recorder is not None
        self.wait_caught_up()
        until(lambda: self.metric("recorder_rows_queryable_total") > 0, "rows of this run")
        assert self.recorder.end() == 0, self.recorder.text()
        assert self.recorder.events("recorder.stopped", drained=True), self.recorder.text()
        self.questdb.wait_applied()

    def verify(self) -> tuple[Seen, dict[str, int]]:
        """Complete, once, right, back to baseline; what was journalled, and how many rows were compared by table."""
        compared = assert_equal(self.questdb, undisturbed(self.journal, KernelsConfig(**KERNELS)))
        seen = seen_in(self.journal)
        rows = self.questdb.sql.query("SELECT feed, symbol, trade_id FROM trades").rows
        assert len({tuple(row) for row in rows}) == len(rows), "stored twice"
        assert {tuple(row) for row in rows} == seen.ids
        for feed in self.feeds:
            sent = {(feed, symbol, number) for symbol, ids in self.exchange.trades(feed).items() for number in ids}
            live = {trade[:3] for trade in seen.trades if trade.feed == feed and trade.live}
            assert len(live) > 100, feed
            assert live <= sent, feed
        self._assert_coverage_adds_up()
        left = [path.name for path in self.journal.iterdir() if path.suffix == ".tmp"]
        assert not left, left
        return seen, compared

    def _assert_coverage_adds_up(self) -> None:
        """Of every series and minute: what came and was no repeat is what is stored."""
        counted = (
            "SELECT feed, symbol, ts_event, sum(received) - sum(duplicate) n FROM coverage WHERE channel = 'trades'"
        )
        stored = "SELECT feed, symbol, timestamp_floor('1m', ts_event) ts_event, count() n FROM trades"
        rows = [sorted(map(tuple, self.questdb.sql.query(query).rows)) for query in (counted, stored)]
        assert rows[0] == rows[1]
