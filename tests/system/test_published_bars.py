"""Bars that others published, rebuilt by SQL from the same ticks, stored as the recorder stores them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dbn
import lean
import pytest
from recorded import config_for, refresh

from recorder.commands.load import make_sink
from recorder.core.batch import Batch, Output
from recorder.core.encode import Dictionary, Sealed, sort_rows
from recorder.core.kernels import IDS_OPAQUE, Kernels
from recorder.shell.log import get
from recorder.shell.sink import Sink
from recorder.values.config import KernelsConfig
from recorder.values.schedule import day_boundaries
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.tables import BUY, SELL

BLOCK_ROWS = 50_000
DEADLINE_S = 120.0
NAN = float("nan")
SOURCES = (  # folder, symbol, hours from UTC
    ("forex/fxcm", "eurusd", -5),
    ("forex/oanda", "eurusd", 0),
    ("cfd/oanda", "xauusd", 0),
)
SECOND_BARS, MINUTE_BARS = 205_424, 24_090
NS = {"second": 10**9, "minute": 60 * 10**9}
SAMPLE = {"second": "1s", "minute": "1m"}
# Quotes of one time lie in the order of the dedup key within a block, of arrival between blocks: the sequence decides.
BARS = """
SELECT ts_event::long start,
  first(bid) bo, max(bid) bh, min(bid) bl, last(bid) bc, first(ask) ao, max(ask) ah, min(ask) al, last(ask) ac
FROM (SELECT ts_event, bid, ask FROM quotes WHERE feed = '{feed}' AND ts_event >= {start} AND ts_event < {end}
  ORDER BY ts_event, sequence) TIMESTAMP(ts_event)
SAMPLE BY {interval}
"""


def submit(sink: Sink, sealed: Sealed) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not sink.room():
        assert time.monotonic() < deadline, sink.last_error
        time.sleep(0.001)
    sink.submit(sealed)


@pytest.fixture
def sink(fresh_tables: Any) -> Iterator[Sink]:
    opened = make_sink(config_for(fresh_tables, ()), get("recorder"))
    yield opened
    opened.close()


def sealed_block(output: Output, batch: Batch, position: int) -> Sealed:
    return Sealed(position, (sort_rows(batch.seal()),), Dictionary.of(output))


def store_ticks(sink: Sink, folder: Path) -> int:
    """Every tick file's rows as quotes of the feed named by its folder; return how many."""
    output, total = Output(), 0
    for source, symbol, offset in SOURCES:
        scope = output.scope(source, 0)
        append, series = scope.quotes.append, scope.series(symbol)
        for path in sorted((folder / source / "tick" / symbol).iterdir()):
            for number, (ts, bid, ask) in enumerate(lean.ticks(path, offset)):
                append(ts, ts, series, number, bid, NAN, ask, NAN, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0)
                total += 1
                if len(scope.quotes) == BLOCK_ROWS:
                    submit(sink, sealed_block(output, scope.quotes, total))
            if len(scope.quotes):
                submit(sink, sealed_block(output, scope.quotes, total))
    assert sink.drain(DEADLINE_S), sink.last_error
    return total


def test_second_and_minute_bars_of_forex_and_gold_equal_the_published_ones(
    fresh_tables: Any, sink: Sink, shared_data: Path
) -> None:
    folder = shared_data / "lean"
    facts = json.loads((shared_data / "expected.json").read_bytes())["files"]
    ticks = [
        each["rows"]
        for name, each in facts.items()
        if name.startswith(("lean/forex/", "lean/cfd/"))
        if "/tick/" in name
    ]
    assert store_ticks(sink, folder) == sum(ticks) > 1_600_000
    assert fresh_tables.sql.value("SELECT count() FROM quotes") == sum(ticks)
    assert sink.rejected_rows == 0
    compared = {"second": 0, "minute": 0}
    for source, symbol, offset in SOURCES:
        for size in compared:
            for path in sorted((folder / source / size / symbol).iterdir()):
                published = list(lean.bars(path, offset))
                start = lean.midnight_ns(path, offset)
                sql = BARS.format(feed=source, start=start, end=start + 86_400 * 10**9, interval=SAMPLE[size])
                built = [(row[0], tuple(row[1:])) for row in fresh_tables.sql.query(sql).rows]
                assert built == published, f"{source} {path.name}"
                compared[size] += len(published)
    assert compared == {"second": SECOND_BARS, "minute": MINUTE_BARS}


def test_quotes_of_one_time_count_in_the_order_of_their_sequence_whenever_they_arrived(
    fresh_tables: Any, sink: Sink
) -> None:
    output, start = Output(), 1_400_000_000 * 10**9
    scope = output.scope("f", 0)
    for position, numbers in enumerate(((3, 1), (4, 0), (2,)), start=1):
        for number in numbers:
            bid, ask = 1.0 + number, 9.0 - number
            scope.quotes.append(
                start, start + position, scope.series("x"), number, bid, NAN, ask, NAN, TEXT_NULL, TEXT_NULL,
                TEXT_NULL, 0,
            )  # fmt: skip
        submit(sink, sealed_block(output, scope.quotes, position))
        assert sink.drain(DEADLINE_S)
    sql = BARS.format(feed="f", start=start, end=start + 1, interval="1s")
    assert fresh_tables.sql.query(sql).rows == [[start, 1.0, 5.0, 1.0, 5.0, 9.0, 9.0, 5.0, 5.0]]


def test_minute_bars_of_futures_equal_the_published_ones(fresh_tables: Any, sink: Sink, shared_data: Path) -> None:
    folder = shared_data / "databento"
    [trades_path], [bars_path] = folder.glob("futures_trades_*"), folder.glob("futures_ohlcv-1m_*")
    output, kernels = Output(), Kernels(KernelsConfig())
    scope = output.scope("databento", 0)
    trades = [record for record in dbn.records(trades_path) if isinstance(record, dbn.Trade)]
    kernels.state.add(IDS_OPAQUE, kernels.add_zone(day_boundaries("UTC")))
    for number, trade in enumerate(trades):
        scope.trades.append(
            trade.ts_event, trade.ts_recv, scope.series(str(trade.instrument)), TEXT_NULL, number, TEXT_NULL,
            trade.price / dbn.PRICE_SCALE, float(trade.size), {"A": SELL, "B": BUY}.get(trade.side, 0), TEXT_NULL,
            TEXT_NULL, 0,
        )  # fmt: skip
    rows = scope.trades.seal()
    kernels.trades(rows.rows)
    assert (rows.rows["missed"] == LONG_NULL).all()
    submit(sink, Sealed(1, (sort_rows(rows),), Dictionary.of(output)))
    assert sink.drain(DEADLINE_S), sink.last_error
    refresh(fresh_tables, "bars_1s", "bars_1m")

    built = fresh_tables.sql.rows(
        "SELECT symbol, ts_event::long start, open, high, low, close, volume FROM bars_1m ORDER BY ts_event"
    )
    published = [
        {
            "symbol": str(bar.instrument),
            "start": bar.ts_event,
            **{
                name: price / dbn.PRICE_SCALE
                for name, price in zip(("open", "high", "low", "close"), bar.prices, strict=True)
            },
            "volume": float(bar.volume),
        }
        for bar in dbn.records(bars_path)
        if isinstance(bar, dbn.Bar)
        and bar.instrument == trades[0].instrument
        and trades[0].ts_event - NS["minute"] < bar.ts_event <= trades[-1].ts_event
    ]
    assert len(trades) == 120
    assert {trade.instrument for trade in trades} == {trades[0].instrument}
    assert built == published
    assert len(built) == 4
