"""Rows planted in a real server, and bars worked out from them in plain Python: what the SQL files are held to."""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recorder.shell.database.migrate import statements
from recorder.values.tables import CANCELLED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, OUTLIER, SIZE_SPIKE

SQL = Path(__file__).resolve().parent.parent / "sql"
S, MINUTE, HOUR, DAY = 10**9, 60 * 10**9, 3600 * 10**9, 86400 * 10**9
START = 1709640000 * S  # 2024-03-05 12:00:00 UTC
REFRESH_TIMEOUT_S = 60.0
ROWS_PER_STATEMENT = 75  # the statement travels in the request line, which the server bounds at 64 kB
COINBASE, KRAKEN = ("BTC-USD", "coinbase"), ("BTC-USD", "kraken")


def iso(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // S, UTC):%Y-%m-%dT%H:%M:%S}.{ns % S:09d}Z"


def literal(value: Any) -> str:
    if value is None:
        return "null"
    return f"'{value}'" if isinstance(value, str) else repr(value)


def insert(server: Any, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Store rows, each statement one transaction."""
    rows = list(rows)
    for first in range(0, len(rows), ROWS_PER_STATEMENT):
        part = rows[first : first + ROWS_PER_STATEMENT]
        values = ", ".join(f"({', '.join(literal(v) for v in row.values())})" for row in part)
        server.sql.execute(f"INSERT INTO {table} ({', '.join(part[0])}) VALUES {values}")


def refreshed(server: Any) -> None:
    """Bring every bar view to the last trade, as the timer does within a minute."""
    server.wait_applied()
    server.sql.execute("REFRESH MATERIALIZED VIEW bars_1s INCREMENTAL")
    deadline = time.monotonic() + REFRESH_TIMEOUT_S
    while True:
        views = server.sql.rows("materialized_views()")
        stored = server.sql.value("select sum(trade_count) from bars_1s")
        if (
            all(v["view_status"] == "valid" and v["refresh_base_table_txn"] == v["base_table_txn"] for v in views)
            and server.sql.value("select sum(trade_count) from bars_1d") == stored
        ):
            return
        assert time.monotonic() < deadline, views
        time.sleep(0.02)


def ask(server: Any, path: str, **parameters: str) -> list[dict[str, Any]]:
    """Run a file as it is, or with other values in its DECLARE line."""
    (statement,) = statements((SQL / f"{path}.sql").read_text(encoding="utf-8"))
    for name, value in parameters.items():
        statement, replaced = re.subn(rf"(@{name} := ).*?(?=, @|\n)", rf"\g<1>{value}", statement, count=1)
        assert replaced, f"{path} has no parameter @{name}"
    return server.sql.rows(statement)


def trade(ts: int, number: int, price: float, size: float, key: tuple[str, str] = COINBASE, **more: Any) -> dict:
    columns = {"exchange": None, "side": "buy", "conditions": None, "flags": 0, "vwap": None, "rolling_vwap": None}
    row = {"ts_event": ts, "ts_recv": ts + 5_000_000, "symbol": key[0], "feed": key[1], "trade_id": number}
    return row | {"price": price, "size": size} | columns | {"zscore": None, "missed": None, "trade_ref": None} | more


def quote(ts: int, number: int, bid: float | None, ask: float | None, key: tuple[str, str] = COINBASE) -> dict:
    row = {"ts_event": ts, "ts_recv": ts + 1_000_000, "symbol": key[0], "feed": key[1], "sequence": number}
    return row | {"bid": bid, "bid_size": 1.0, "ask": ask, "ask_size": 2.0, "flags": 0}


def trades_of(key: tuple[str, str], count: int, seed: int) -> list[dict]:
    """Trades over five minutes, several of one millisecond among them; sums of their sizes and turnovers are exact."""
    rng = random.Random(seed)
    times = sorted(START + rng.randrange(5 * 60 * 20) * 50_000_000 for _ in range(count))
    flags = [0] * 12 + [NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE, OUTLIER]
    return [
        trade(
            ts, 1000 + i, 60000 + rng.randrange(-400, 400) / 4, rng.randrange(1, 640) / 64, key,
            ts_recv=ts + rng.randrange(-2, 90) * 1_000_000, side=rng.choice(["buy", "sell"]),
            flags=rng.choice([*flags, SIZE_SPIKE]), vwap=60000.5 + i / 8, rolling_vwap=60001.5 + i / 8,
        )
        for i, ts in enumerate(times)
    ]  # fmt: skip


def counts(row: dict) -> bool:
    return not row["flags"] & (CANCELLED | NOT_VOLUME_ELIGIBLE)


def sets_price(row: dict) -> bool:
    return not row["flags"] & (CANCELLED | NOT_LAST_ELIGIBLE)


def bars_of(trades: Iterable[dict], width: int) -> dict[tuple, tuple]:
    """(start, symbol, feed) → open, high, low, close, volume, turnover, count, as the views define them."""
    grouped = defaultdict(list)
    for row in sorted(trades, key=lambda r: (r["ts_event"], r["trade_id"])):
        if counts(row) or sets_price(row):
            grouped[(iso(row["ts_event"] // width * width), row["symbol"], row["feed"])].append(row)
    bars = {}
    for key, rows in grouped.items():
        prices = [r["price"] for r in rows if sets_price(r)] or [None]
        volume = [(r["size"], r["price"] * r["size"]) for r in rows if counts(r)]
        some = [p for p in prices if p is not None]
        high, low = max(some, default=None), min(some, default=None)
        sums = sum(v for v, _ in volume), sum(t for _, t in volume)
        bars[key] = (prices[0], high, low, prices[-1], *sums, len(volume))
    return bars


def stored_bars(server: Any, view: str) -> dict[tuple, tuple]:
    rows = server.sql.rows(view)
    for row in rows:
        assert row["vwap"] == (pytest.approx(row["turnover"] / row["volume"], rel=1e-14) if row["volume"] else None)
    columns = ("open", "high", "low", "close", "volume", "turnover", "trade_count")
    return {(r["ts_event"], r["symbol"], r["feed"]): tuple(r[c] for c in columns) for r in rows}


def plant(questdb: Any) -> SimpleNamespace:
    """Sound rows of five minutes and what was planted; nothing here changes them."""
    questdb.clear()
    rng = random.Random(3)
    trades = trades_of(COINBASE, 500, 1) + trades_of(KRAKEN, 300, 2)
    quotes = []
    for i in range(400):
        bid = 60000 + rng.randrange(-400, 400) / 4
        sides = (bid, bid + rng.randrange(1, 40) / 4) if rng.random() < 0.9 else (bid, None)
        quotes.append(quote(START - 10 * S + i * 750_000_000 + 1, i, *sides))
    quotes.append(quote(START + 5 * MINUTE, 400, 60000.0, 60000.5))
    gap = {"ts_event": START + MINUTE, "ts_recv": START + MINUTE, "symbol": "BTC-USD", "feed": "coinbase"}
    gap |= {"channel": "trades", "kind": "trade_id", "from_id": 1, "to_id": 3, "missing": 3, "span_ns": 2 * S}
    gaps = [gap | {"cause": "ids missing", "status": "open", "recovered": None}]
    gaps.append(gaps[0] | {"ts_event": START + 2 * MINUTE, "from_id": 10, "to_id": 10, "missing": 1, "span_ns": 3 * S})
    events = [
        {"ts_event": START + at * S, "feed": "kraken", "connection": 0, "event": event, "reason": None}
        for at, event in ((0, "opened"), (1, "acknowledged"), (100, "closed"), (110, "opened"), (160, "closed"))
    ]
    rejected = [
        {"ts_event": START + i, "feed": "kraken", "position": i, "item": 0, "reason": reason, "excerpt": f"{{{i}"}
        for i, reason in enumerate(["not JSON", "no price", "not JSON"])
    ]
    bars = [
        {"ts_event": START, "symbol": "BTC-USD", "feed": "kraken", "timeframe": "1m"}
        | dict(zip(("open", "high", "low", "close", "volume"), values, strict=True))
        for (ts, _, feed), (*values, _, _) in bars_of(trades, MINUTE).items()
        if ts == iso(START) and feed == "kraken"
    ]
    latency = [
        {"ts_event": START + second * S, "feed": "kraken", "stage": stage, "count": 1 + second}
        | dict(zip(("p50", "p99", "p999", "max", "min", "sum"), figures, strict=True))
        for second in range(3)
        for stage, figures in (
            ("total", (-2_000_000, 9_000_000, 9_000_000, 9_500_000 + second, -7_000_000, (1 + second) * 500_000)),
            ("exchange", (-3_000_000, 1_000_000, 1_000_000, 1_500_000, -8_000_000 - second, (1 + second) * -250_000)),
            ("applied", (750_000, 750_000, 750_000, 750_000, 750_000, (1 + second) * 750_000)),
        )
    ]
    tables = {"trades": trades, "quotes": quotes, "gaps": gaps, "feed_events": events, "rejected": rejected}
    tables["latency"] = latency
    for table, rows in (tables | {"bars": bars}).items():
        insert(questdb, table, rows)
    refreshed(questdb)
    return SimpleNamespace(server=questdb, **tables, frm=f"'{iso(START)}'")


def of(planted: Any, key: tuple[str, str] = COINBASE) -> list[dict]:
    return [t for t in planted.trades if (t["symbol"], t["feed"]) == key]
