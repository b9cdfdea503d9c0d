"""Latency histograms against numpy's own quantiles and Python's integers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.histogram import Histogram, warm

warm()  # compiling takes longer than an example may
LONG = 2**53  # 104 days: a recording played back as an exchange is that old
DURATIONS = st.lists(st.one_of(st.integers(-100, 100), st.integers(-LONG, LONG)), min_size=1, max_size=200)
NOW = 1_800_000_000_000_000_000


def filled(durations: list[int], weight: int = 1) -> Histogram:
    histogram = Histogram()
    histogram.add(NOW - np.array(durations, np.int64), NOW, weight)
    return histogram


@given(durations=DURATIONS, q=st.floats(0.001, 1.0))
def test_a_percentile_is_never_below_the_true_one_and_at_most_an_eighth_above(durations: list[int], q: float) -> None:
    true = int(np.quantile(np.array(durations, np.int64), q, method="inverted_cdf"))
    assert true <= filled(durations).percentile(q) <= true + abs(true) / 8


@given(durations=DURATIONS, weight=st.integers(1, 10**6))
def test_count_sum_and_max_are_exact(durations: list[int], weight: int) -> None:
    histogram = filled(durations, weight)
    assert (histogram.count, histogram.sum, histogram.max) == (
        len(durations) * weight, sum(durations) * weight, max(durations),
    )  # fmt: skip


@given(first=DURATIONS, second=DURATIONS)
def test_it_does_not_matter_in_how_many_calls_durations_came(first: list[int], second: list[int]) -> None:
    parts = filled(first)
    parts.add(NOW - np.array(second, np.int64), NOW)
    assert (parts.counts == filled(first + second).counts).all()


def test_a_clock_ahead_of_ours_counts_as_less_than_nothing() -> None:
    histogram = filled([-5_000, -3_000, 7_000])
    assert (histogram.count, histogram.sum, histogram.max) == (3, -1_000, 7_000)
    assert -5_000 <= histogram.percentile(0.3) <= -4_375 <= -3_000 <= histogram.percentile(0.5) <= -2_625


def test_an_empty_one_has_percentile_zero_and_clear_makes_it_empty() -> None:
    histogram = filled([1_000_000, -1])
    histogram.clear()
    assert (histogram.count, histogram.sum, histogram.max, histogram.percentile(0.99)) == (0,) * 4


def test_a_century_and_no_time_at_all_have_buckets() -> None:
    century = 100 * 366 * 86_400 * 10**9
    assert filled([century]).percentile(1.0) == century
    assert filled([-century]).percentile(1.0) == -century
    assert filled([0]).percentile(1.0) == 0
