"""Latency histograms with a fixed size: 8 buckets per power of two, so a percentile is at most an eighth too high."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

SUB_BITS = 3
BUCKETS = 64 << SUB_BITS


@njit(cache=True, nogil=True)
def _add(counts, totals, times, now, weight):
    """Count ``now - times`` ``weight`` times each; totals: sum, max, how many were negative."""
    for i in range(len(times)):
        duration = now - times[i]
        if duration < 0:
            totals[2] += weight
            duration = 0
        index = 0
        if duration > 0:
            mantissa, exponent = math.frexp(np.float64(duration))
            index = min((exponent << SUB_BITS) + int((mantissa - 0.5) * (2 << SUB_BITS)), BUCKETS - 1)
        counts[index] += weight
        totals[0] += duration * weight
        totals[1] = max(totals[1], duration)


class Histogram:
    """Counts of durations in ns. Negative ones (a clock ahead of ours) count as 0, and in ``negative``."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self._totals = np.zeros(3, np.int64)

    def add(self, times_ns: np.ndarray, now_ns: int, weight: int = 1) -> None:
        """Add ``now_ns - times_ns``, (n,) int64, each ``weight`` times. One compiled call: it runs for every read."""
        _add(self.counts, self._totals, times_ns, now_ns, weight)

    @property
    def sum(self) -> int:
        return int(self._totals[0])

    @property
    def max(self) -> int:
        return int(self._totals[1])

    @property
    def negative(self) -> int:
        return int(self._totals[2])

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def percentile(self, q: float) -> int:
        """Upper bound, in ns, of the bucket that holds the q-th quantile (0 < q ≤ 1); 0 when empty."""
        total = self.count
        if not total:
            return 0
        index = int(np.searchsorted(np.cumsum(self.counts), int(np.ceil(q * total))))
        return min(self.max, upper_bound(index))

    def clear(self) -> None:
        self.counts[:] = 0
        self._totals[:] = 0


def upper_bound(index: int) -> int:
    """The smallest duration in ns that is above bucket ``index``."""
    if index == 0:
        return 0
    exponent, sub = index >> SUB_BITS, index & ((1 << SUB_BITS) - 1)
    return int(np.ldexp(0.5 + (sub + 1) / (2 << SUB_BITS), exponent))


def warm() -> None:
    """Compile, or load from the cache, before the first frame."""
    Histogram().add(np.zeros(1, np.int64), 0)
