"""The synthetic market: seeded, contiguous, clustered, and the same however it is asked for."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.market import (
    ASK,
    ASK_SIZE,
    FIRST_ID,
    ID,
    KIND,
    PRICE,
    QUOTE,
    SIDE,
    SIZE,
    SYMBOL,
    TRADE,
    TS,
    Market,
    Ring,
    decimal_text,
)  # fmt: skip

SECOND = 1_000_000_000


def trades_of(events: np.ndarray) -> np.ndarray:
    return events[events[:, KIND] == TRADE]


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 2 * SECOND), max_size=8))
def test_events_do_not_depend_on_how_they_are_asked_for(cuts: list[int]) -> None:
    whole = Market(5, 7, 5000).until(2 * SECOND)
    market = Market(5, 7, 5000)
    parts = [market.until(cut) for cut in [*sorted(cuts), 2 * SECOND]]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(Market(5, 7, 5000).take(len(whole)), whole)


def test_another_seed_is_another_market() -> None:
    assert not np.array_equal(Market(3, 1, 1000).take(100), Market(3, 2, 1000).take(100))


@pytest.mark.parametrize("kind", [TRADE, QUOTE])
def test_ids_are_contiguous_per_symbol(kind: int) -> None:
    events = Market(4, 3, 1000).take(30_000)
    for symbol in range(4):
        ids = events[(events[:, KIND] == kind) & (events[:, SYMBOL] == symbol), ID]
        assert np.array_equal(ids, FIRST_ID + np.arange(len(ids)))
        assert len(ids) > 1000


def test_times_never_go_back_over_many_blocks() -> None:
    events = Market(4, 3, 500_000).take(50_000)
    assert (np.diff(events[:, TS]) >= 0).all()


@pytest.mark.parametrize(("burst", "rate"), [(1.0, 1000), (10.0, 1000), (30.0, 50_000)])
def test_the_mean_rate_is_the_one_asked_for(burst: float, rate: float) -> None:
    trades = trades_of(Market(5, 11, rate, burst).take(400_000))
    assert len(trades) * SECOND / trades[-1, TS] == pytest.approx(rate, rel=0.1)


def test_bursts_cluster_far_beyond_chance() -> None:
    def dispersion(burst: float) -> float:
        trades = trades_of(Market(5, 5, 10_000, burst).take(200_000))
        counts = np.bincount(trades[:, TS] // 10_000_000)
        return float(counts.var() / counts.mean())

    assert dispersion(10.0) > 3 * dispersion(1.0)


def test_prices_and_sizes_make_sense() -> None:
    events = Market(10, 9, 1000).take(100_000)
    quotes, trades = events[events[:, KIND] == QUOTE], trades_of(events)
    assert (quotes[:, PRICE] < quotes[:, ASK]).all()
    assert (quotes[:, ASK_SIZE] > 0).all()
    assert (events[:, SIZE] > 0).all()
    assert (events[:, PRICE] > 0).all()
    assert set(np.unique(trades[:, SIDE])) == {0, 1}


def test_quotes_per_trade_are_as_asked_for() -> None:
    events = Market(5, 5, 1000, quotes=2.5).take(100_000)
    trades = len(trades_of(events))
    assert (len(events) - trades) / trades == pytest.approx(2.5, rel=0.1)
    assert not (Market(5, 5, 1000, quotes=0).take(1000)[:, KIND] == QUOTE).any()


def test_a_ring_goes_on_with_contiguous_ids_over_the_seam() -> None:
    ring = Ring(Market(3, 1, 1000), events=1000)
    events = np.concatenate([ring.take(333) for _ in range(30)])
    for symbol in range(3):
        ids = trades_of(events[events[:, SYMBOL] == symbol])[:, ID]
        assert np.array_equal(ids, FIRST_ID + np.arange(len(ids)))


@pytest.mark.parametrize("arguments", [(0, 1, 1.0), (1, 1, 0.0), (1, 1, 1.0, 0.5), (1, 1, 1.0, 1.0, -1.0)])
def test_a_market_that_cannot_be_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a market needs"):
        Market(*arguments)  # type: ignore[arg-type]


@given(value=st.integers(-(10**20), 10**20), digits=st.integers(0, 8))
def test_decimal_texts_are_exact(value: int, digits: int) -> None:
    assert Decimal(decimal_text(value, digits)) == Decimal(value).scaleb(-digits)
