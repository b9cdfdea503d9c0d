"""What implied volatility and Greeks of a chain cost: American and European contracts, one core.

pytest bench/bench_greeks.py
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from recorder.core.batch import Output
from recorder.core.chains import Chains
from recorder.core.greeks import price
from recorder.values.config import KernelsConfig
from recorder.values.occ import contract
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import CALL, OPTIONS_CHAIN, PUT

CONTRACTS = 2000  # of one underlying: 25 expirations, 40 strikes, calls and puts
START = 1_790_000_000 * 10**9
NAN = float("nan")


def chain(root: str, dividends: str) -> tuple[Chains, np.ndarray]:
    """Legs around a price of 100 quoted at a volatility of 30 %, none with Greeks."""
    out = Output()
    scope, first = out.scope("bench", 0), date(2026, 10, 16)
    for i in range(CONTRACTS):
        kind, strike = (CALL, PUT)[i % 2], 80.0 + (i // 2) % 40
        found = contract(root, first + timedelta(14 * (i // 80)), kind, strike)
        years = (found.expires_ns - START) / (365 * 86_400e9)
        middle = price(False, 3.0 - 2.0 * kind, 100.0, strike, years, 0.04, 0.01, 0.3, np.empty((0, 2))) + 0.2
        scope.options.append(
            START, START, scope.feed_id, scope.text(found.symbol), scope.text(root), found.expires_ns, strike, kind,
            middle - 0.01, 1.0, middle + 0.01, 1.0, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, TEXT_NULL, 100.0, 0,
        )  # fmt: skip
    rows = out.batches[OPTIONS_CHAIN.name].seal().rows
    return Chains(KernelsConfig(dividends=dividends), out), rows


@pytest.mark.parametrize(
    ("root", "dividends"), [("SPX", "SPX 0.01"), ("SPY", "SPY 0.01"), ("AAPL", "AAPL 2026-11-06 0.3")]
)
def test_greeks_of_a_chain(benchmark: Any, root: str, dividends: str) -> None:
    chains, rows = chain(root, dividends)

    def setup() -> tuple[tuple[np.ndarray], dict[str, Any]]:
        return (rows.copy(),), {}

    filled = rows.copy()
    chains.compute(filled)
    assert (filled["iv"] > 0).mean() > 0.95
    benchmark.pedantic(chains.compute, setup=setup, rounds=10, iterations=1, warmup_rounds=1)
    benchmark.extra_info["contracts_per_s"] = round(CONTRACTS / benchmark.stats.stats.min)
