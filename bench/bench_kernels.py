"""What the kernels cost per trade: in blocks as they occur, one by one, and against numpy doing a fraction of the work.

pytest bench/bench_kernels.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recorder.core.kernels import IDS_CONTIGUOUS, IDS_OPAQUE, Kernels
from recorder.values.config import KernelsConfig
from recorder.values.schedule import day_boundaries
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import TRADES

SIZES = (1, 16, 256, 4_096, 50_000)
SYMBOLS = 50
START = 1_790_000_000 * 10**9
ROUNDS = 30


def trades(count: int) -> np.ndarray:
    rng, rows = np.random.default_rng(3), np.zeros(count, TRADES.dtype)
    rows["ts_event"] = START + np.arange(count) * 2_000
    rows["ts_recv"] = rows["ts_event"] + 5_000_000
    rows["series"] = np.arange(count) % SYMBOLS
    rows["trade_id"] = 1_000 + np.arange(count) // SYMBOLS
    rows["price"] = np.round(60_000 * np.exp(np.cumsum(rng.normal(0, 1e-5, count))), 2)
    rows["size"] = rng.integers(1, 1000, count) / 100
    rows["exchange"] = rows["conditions"] = rows["tape"] = rows["trade_ref"] = TEXT_NULL
    rows["missed"] = np.iinfo(np.int64).min
    return rows


def kernels(id_kind: int) -> Kernels:
    made = Kernels(KernelsConfig())
    zone = made.add_zone(day_boundaries("UTC"))
    for _ in range(SYMBOLS):
        made.state.add(id_kind, zone)
    made.warm()
    return made


def measure(benchmark: Any, id_kind: int, count: int) -> None:
    """Each round goes on where the one before ended: ids and times grow, rings are full."""
    made, rows = kernels(id_kind), trades(count)
    step = max(1, count // SYMBOLS)
    repeat = max(1, 20_000 // count)

    def setup() -> None:
        rows["flags"] = 0

    def once() -> None:
        for _ in range(repeat):
            rows["trade_id"] += step
            rows["ts_event"] += count * 2_000
            made.trades(rows)

    made.trades(rows)
    benchmark.pedantic(once, setup=setup, rounds=ROUNDS, iterations=1, warmup_rounds=2)
    benchmark.extra_info["ns_per_trade"] = round(benchmark.stats.stats.min / (repeat * count) * 1e9, 1)


@pytest.mark.parametrize("count", SIZES)
def test_all_kernels(benchmark: Any, count: int) -> None:
    measure(benchmark, IDS_CONTIGUOUS, count)


def test_all_kernels_with_opaque_ids(benchmark: Any) -> None:
    """Every trade is looked for among the last 64 ids."""
    measure(benchmark, IDS_OPAQUE, 4_096)


def test_baseline_numpy_log_returns(benchmark: Any) -> None:
    """One vectorised pass for a single symbol: log returns, their mean and deviation, nothing rolling, no state."""
    prices = np.ascontiguousarray(trades(4_096)["price"])

    def once() -> float:
        returns = np.diff(np.log(prices))
        return float((returns[-1] - returns.mean()) / returns.std())

    benchmark(once)
    benchmark.extra_info["ns_per_trade"] = round(benchmark.stats.stats.min / len(prices) * 1e9, 1)
