"""Latency histograms with a fixed size, signed: 8 buckets per power of two on both sides of 0, nothing is clamped.

A percentile is at most an eighth of its size too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recorder.compiled import njit
from recorder.core.unaligned import bits_of

SUB_BITS = 3
ZERO = 64 << SUB_BITS  # bucket of 0; as many for shorter than 0 (a clock ahead of ours) as for longer
BUCKETS = 2 * ZERO
_BIAS = 1022 << SUB_BITS  # so that 1 ns is in the bucket 1 << SUB_BITS, and 0 in the bucket 0
LONGEST = np.iinfo(np.int64).max

SUM_HIGH, SUM_LOW, MIN, MAX = range(4)  # totals; a sum of ns overflows 63 bits within a second of old data, so in two
TOTALS = 4
EMPTY = (0, 0, LONGEST, -LONGEST)


@njit(cache=True, nogil=True)
def bucket_of(duration):
    """Which bucket counts a duration in ns: exponent and first bits of a double are its number. frexp() took 7 ns."""
    index = max((bits_of(np.float64(abs(duration))) >> (52 - SUB_BITS)) - _BIAS, 0)
    return ZERO + index if duration >= 0 else ZERO - 1 - index


@njit(cache=True, nogil=True)
def add_one(counts, totals, duration, weight):
    """Count one duration ``weight`` times.

    counts  (BUCKETS,) int64; updated in place
    totals  (TOTALS,) int64: sum >> 32 and the rest of it, added up apart, then min and max; updated in place
    """
    counts[bucket_of(duration)] += weight
    totals[SUM_HIGH] += (duration >> 32) * weight
    totals[SUM_LOW] += (duration & 0xFFFFFFFF) * weight
    totals[MIN] = min(totals[MIN], duration)
    totals[MAX] = max(totals[MAX], duration)


@njit(cache=True, nogil=True)
def _add(counts, totals, times, now, weight):
    for i in range(len(times)):
        add_one(counts, totals, now - times[i], weight)


@njit(cache=True, nogil=True)
def ranks(counts, shares, out):
    """Buckets that hold quantiles.

    counts  (n, BUCKETS) int64
    shares  (m,) float64, ascending, above 0 and at most 1
    out     (n, m) int64; filled with indexes of buckets, -1 where nothing was counted
    """
    for i in range(counts.shape[0]):
        total = counts[i].sum()
        seen, at = 0, -1
        for j in range(len(shares)):
            wanted = np.ceil(shares[j] * total)
            while seen < wanted:
                at += 1
                seen += counts[i, at]
            out[i, j] = at


def _upper_bounds() -> np.ndarray:
    """Of each bucket the longest duration it counts, ns."""
    edges = [0] * ZERO  # of each bucket on one side of 0 the duration nearest to 0
    for index in range(1, ZERO):
        exponent, sub = index >> SUB_BITS, index & ((1 << SUB_BITS) - 1)
        numerator = (1 << SUB_BITS) + sub
        shift = exponent - 1 - SUB_BITS
        edges[index] = numerator << shift if shift >= 0 else -(-numerator >> -shift)
    above = [0, *(edge - 1 for edge in edges[2:]), LONGEST]
    below = [-edge for edge in reversed(edges)]
    return np.array(below + above, np.int64)


UPPER_BOUNDS = _upper_bounds()


def percentiles(counts: np.ndarray, totals: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Upper bounds in ns of the quantiles of many histograms; 0 where nothing was counted.

    counts, totals  (n, BUCKETS), (n, TOTALS) int64
    shares          (m,) ascending, above 0 and at most 1
    Returns (n, m) int64.
    """
    out = np.empty((len(counts), len(shares)), np.int64)
    ranks(counts, np.array(shares, np.float64), out)
    bounds = np.clip(UPPER_BOUNDS[out], totals[:, MIN, None], totals[:, MAX, None])
    return np.where(out >= 0, bounds, 0)


def sum_of(totals: np.ndarray) -> int:
    """The exact sum, ns, that (TOTALS,) int64 stand for."""
    return (int(totals[SUM_HIGH]) << 32) + int(totals[SUM_LOW])


class Histogram:
    """Counts of durations in ns, negative ones (a clock ahead of ours) like all others."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self._totals = np.array(EMPTY, np.int64)

    def add(self, times_ns: np.ndarray, now_ns: int, weight: int = 1) -> None:
        """Add ``now_ns - times_ns``, (n,) int64, each ``weight`` times. One compiled call: it runs for every read."""
        _add(self.counts, self._totals, times_ns, now_ns, weight)

    @property
    def sum(self) -> int:
        return sum_of(self._totals)

    @property
    def max(self) -> int:
        """0 when empty."""
        return int(self._totals[MAX]) if self.count else 0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def percentile(self, q: float) -> int:
        """Upper bound, in ns, of the bucket that holds the q-th quantile (0 < q ≤ 1); 0 when empty."""
        return int(percentiles(self.counts[None], self._totals[None], (q,))[0, 0])

    def clear(self) -> None:
        self.counts[:] = 0
        self._totals[:] = EMPTY


def warm() -> None:
    """Compile, or load from the cache, before the first frame."""
    histogram: Any = Histogram()
    histogram.add(np.zeros(1, np.int64), 0)
    histogram.percentile(0.5)
