"""Bars and corporate actions of published series, put into a real server as rows; what was published beside them."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

S = 1_000_000_000
NEW_YORK = ZoneInfo("America/New_York")
INSERT_ROWS = 100  # of one statement: an address holds 60 KiB


@dataclass
class Published:
    """A series: ``bars`` as (ts_event, open, high, low, close, volume), ``actions`` as (ts_event, type, ratio, amount),
    ``adjusted`` closes and ``volumes`` by ts_event."""

    symbol: str
    bars: list[tuple[int, float, float, float, float, float]] = field(default_factory=list)
    actions: list[tuple[int, str, float | None, float | None]] = field(default_factory=list)
    adjusted: dict[int, float] = field(default_factory=dict)
    volumes: dict[int, float] = field(default_factory=dict)


def yahoo(path: Path, symbol: str) -> Published:
    """A file of yfinance's: Close is adjusted for splits already, so only cash is to be applied."""
    found = Published(symbol)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            moment = datetime.fromisoformat(row["Datetime"])
            ts = int(moment.timestamp()) * S
            prices = [float(row[name]) for name in ("Open", "High", "Low", "Close", "Volume")]
            found.bars.append((ts, *prices))
            found.adjusted[ts] = float(row["Adj Close"])
            begins = int(moment.replace(hour=0, minute=0).timestamp()) * S
            if float(row["Dividends"]):
                found.actions.append((begins, "cash_dividend", None, float(row["Dividends"])))
            if float(row.get("Capital Gains") or 0):
                found.actions.append((begins, "capital_gain", None, float(row["Capital Gains"])))
    return found


def quandl(path: Path, symbol: str) -> Published:
    """A ticker of Quandl's WIKI sample: raw prices, dividends, splits, and its own adjusted series."""
    found = Published(symbol)
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    for row in csv.DictReader(io.StringIO(text)):
        if row["ticker"] != symbol:
            continue
        ts = day(row["date"])
        found.bars.append((ts, *(float(row[name]) for name in ("open", "high", "low", "close", "volume"))))
        found.adjusted[ts], found.volumes[ts] = float(row["adj_close"]), float(row["adj_volume"])
        if float(row["ex-dividend"]):
            found.actions.append((ts, "cash_dividend", None, float(row["ex-dividend"])))
        if float(row["split_ratio"]) != 1.0:
            found.actions.append((ts, "split", float(row["split_ratio"]), None))
    return found


def day(text: str) -> int:
    """ns of the midnight in New York that begins ``2014-06-09`` or ``20140609``."""
    return int(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()) * S


def put_bars(server: Any, feed: str, timeframe: str, found: Published, flags: int = 0) -> None:
    rows = (
        f"({ts}, {ts}, '{feed}', '{found.symbol}', '{timeframe}', {o!r}, {h!r}, {low!r}, {c!r}, {v!r}, {flags})"
        for ts, o, h, low, c, v in found.bars
    )
    put(server, "bars", "ts_event, ts_recv, feed, symbol, timeframe, open, high, low, close, volume, flags", rows)


def put_actions(server: Any, feed: str, found: Published, known: int | None = None) -> None:
    """``known``  when all of them became known; None: on their ex dates."""
    rows = (
        f"({ts}, {known or ts}, '{feed}', '{found.symbol}', '{kind}', '{kind} {ts}', {known or ts}, "
        f"{'null' if ratio is None else repr(ratio)}, {'null' if amount is None else repr(amount)})"
        for ts, kind, ratio, amount in found.actions
    )
    names = "ts_event, ts_recv, feed, symbol, action_type, action_id, ts_known, ratio, amount"
    put(server, "corporate_actions", names, rows)


def put(server: Any, table: str, names: str, rows: Iterable[str]) -> None:
    """Insert rows written as SQL, and wait until they can be queried."""
    listed = list(rows)
    for i in range(0, len(listed), INSERT_ROWS):
        server.sql.execute(f"INSERT INTO {table} ({names}) VALUES {', '.join(listed[i : i + INSERT_ROWS])}")
    server.wait_applied(table)
