"""What a row costs on its way into a batch, against other ways to fill one, and what sealing costs.

pytest bench/bench_batch.py
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from recorder.core.batch import Batch
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import QUOTES, TRADES

ROWS = 10_000
NOW = 1_790_000_000 * 10**9
TRADE = (NOW, NOW + 5_000_000, 3, TEXT_NULL, 1_000_000_000, TEXT_NULL, 60_001.25, 0.5, 1, TEXT_NULL, TEXT_NULL, 0)
QUOTE = (NOW, NOW + 5_000_000, 3, 77, 60_001.0, 1.5, 60_001.5, 2.5, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0)


def note(benchmark: Any, rows: int = ROWS) -> None:
    if benchmark.stats:
        benchmark.extra_info["ns_per_row"] = round(benchmark.stats.stats.min / rows * 1e9, 1)


@pytest.mark.parametrize(("table", "row"), [(TRADES, TRADE), (QUOTES, QUOTE)], ids=["trades", "quotes"])
def test_append(benchmark: Any, table: Any, row: tuple[Any, ...]) -> None:
    batch = Batch(table)
    append, rollback = batch.append, batch.rollback

    def fill() -> None:
        for _ in range(ROWS):
            append(*row)
        rollback(0)

    benchmark(fill)
    note(benchmark)


def test_seal(benchmark: Any) -> None:
    """A copy of the rows and the buffer from its start: per row."""
    batch = Batch(TRADES)

    def setup() -> None:
        for _ in range(ROWS):
            batch.append(*TRADE)

    sealed = benchmark.pedantic(batch.seal, setup=setup, rounds=20, iterations=1)
    assert len(sealed.rows) == ROWS
    note(benchmark)


def test_baseline_pack_into(benchmark: Any) -> None:
    """The least that Python can do: one call of struct per row."""
    layout = struct.Struct(TRADES.pack_format)
    size, pack_into = TRADES.dtype.itemsize, layout.pack_into
    buffer = bytearray(ROWS * size)

    def fill() -> None:
        at = 0
        for _ in range(ROWS):
            pack_into(buffer, at, *TRADE)
            at += size

    benchmark(fill)
    note(benchmark)


def test_baseline_list_of_tuples_to_numpy(benchmark: Any) -> None:
    """Collect tuples, convert them at the end of the block."""
    dtype = np.dtype([(name, TRADES.dtype[name]) for name in TRADES.dtype.names[: len(TRADE)]])

    def fill() -> Any:
        rows: list[tuple[Any, ...]] = []
        append = rows.append
        for _ in range(ROWS):
            append((*TRADE,))
        return np.array(rows, dtype)

    benchmark(fill)
    note(benchmark)
