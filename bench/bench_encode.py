"""What a row costs on its way to bytes: the encoder against the official client's row(), at the block sizes that occur.

    pytest bench/bench_encode.py --benchmark-columns=min,median --benchmark-sort=name

A 5 ms window of a quiet feed holds 1 to 10 trades, of a busy one 100 to 1,000; catching up fills 50,000.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recorder.core.batch import Output, Rows
from recorder.core.encode import Dictionary, Encoder, sort_rows, warm
from recorder.core.encode_client import encode_with_client, values_of
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import TRADES

SIZES = (1, 10, 100, 1_000, 10_000, 100_000)
CLIENT_SIZES = (1, 10, 100, 1_000, 10_000)
SYMBOLS = 50


def trades(count: int) -> tuple[Rows, Dictionary]:
    """Trades as a crypto feed sends them: 12 columns filled, the rest null."""
    output, rng = Output(), np.random.default_rng(7)
    scope = output.scope("coinbase", 0)
    series = np.array([scope.series(f"SYM{i}-USD") for i in range(SYMBOLS)])
    rows = np.zeros(count, TRADES.dtype)
    rows["ts_event"] = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(0, 20_000, count))
    rows["ts_recv"] = rows["ts_event"] + rng.integers(1_000_000, 9_000_000, count)
    rows["series"] = series[rng.integers(0, SYMBOLS, count)]
    rows["trade_id"] = 500_000_000 + np.arange(count)
    for name in ("price", "size", "vwap", "rolling_vwap", "zscore"):
        rows[name] = rng.random(count) * 60_000
    for name in ("exchange", "trade_ref", "conditions", "tape"):
        rows[name] = TEXT_NULL
    rows["side"], rows["missed"] = rng.integers(1, 3, count), np.iinfo(np.int64).min
    return Rows(TRADES, rows, np.zeros(0, np.uint8), np.zeros(1, np.int64)), Dictionary.of(output)


def note(benchmark: Any, count: int) -> None:
    if benchmark.stats:
        benchmark.extra_info["ns_per_row"] = round(benchmark.stats.stats.min / count * 1e9, 1)


@pytest.mark.parametrize("count", SIZES)
def test_encoder(benchmark: Any, count: int) -> None:
    warm()
    rows, dictionary = trades(count)
    encoder = Encoder()
    body = benchmark(encoder.encode, rows, dictionary)
    assert body[-1] == 10
    note(benchmark, count)


@pytest.mark.parametrize("count", CLIENT_SIZES)
def test_client_row_loop_over_ready_dicts(benchmark: Any, count: int) -> None:
    """The client alone: the Python values it wants are made beforehand, which the recorder could not do for nothing."""
    from questdb import TimestampNanos
    from questdb.ingress import Buffer

    rows, dictionary = trades(count)
    ready = []
    for values in values_of(rows, dictionary):
        at = TimestampNanos(values.pop("ts_event"))
        symbols = {name: values.pop(name) for name in ("feed", "symbol", "exchange", "side", "conditions", "tape")}
        values["ts_recv"] = TimestampNanos(values["ts_recv"])
        ready.append((symbols, values, at))
    buffer = Buffer(protocol_version=2)

    def encode() -> int:
        buffer.clear()
        for symbols, fields, at in ready:
            buffer.row("trades", symbols=symbols, columns=fields, at=at)
        return len(buffer)

    assert benchmark(encode) == len(Encoder().encode(rows, dictionary))
    note(benchmark, count)


@pytest.mark.parametrize("count", CLIENT_SIZES)
def test_client_from_rows(benchmark: Any, count: int) -> None:
    """What ``encoder = "client"`` costs."""
    rows, dictionary = trades(count)
    assert benchmark(encode_with_client, rows, dictionary) == bytes(Encoder().encode(rows, dictionary))
    note(benchmark, count)


@pytest.mark.parametrize("shuffled", [False, True])
def test_sort_of_10000_rows(benchmark: Any, shuffled: bool) -> None:
    rows, _ = trades(10_000)
    if shuffled:
        np.random.default_rng(1).shuffle(rows.rows)
    assert len(benchmark(sort_rows, rows).rows) == 10_000
    note(benchmark, 10_000)
