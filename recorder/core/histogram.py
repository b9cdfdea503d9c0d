"""Latency histograms with a fixed size: 8 buckets per power of two, so a percentile is right to 9 %."""

from __future__ import annotations

import numpy as np

SUB_BITS = 3
BUCKETS = 64 << SUB_BITS


class Histogram:
    """Counts of durations in ns. Negative ones (a provider's clock ahead of ours) count as 0, and in ``negative``."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self.negative = 0
        self.max = 0
        self.sum = 0

    def add(self, durations_ns: np.ndarray, weight: int = 1) -> None:
        """Add (n,) int64 durations, each ``weight`` times."""
        if not len(durations_ns):
            return
        self.negative += int((durations_ns < 0).sum()) * weight
        values = np.maximum(durations_ns, 0)
        # frexp gives the power of two exactly for all but the top bits of 2^53: far beyond any latency
        mantissa, exponent = np.frexp(values.astype(np.float64))
        sub = ((mantissa - 0.5) * (2 << SUB_BITS)).astype(np.int64)
        index = np.where(values == 0, 0, (exponent.astype(np.int64) << SUB_BITS) + sub)
        self.counts += np.bincount(np.minimum(index, BUCKETS - 1), minlength=BUCKETS) * weight
        self.max = max(self.max, int(values.max()))
        self.sum += int(values.sum()) * weight

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
        self.negative = self.max = self.sum = 0


def upper_bound(index: int) -> int:
    """The smallest duration in ns that is above bucket ``index``."""
    if index == 0:
        return 0
    exponent, sub = index >> SUB_BITS, index & ((1 << SUB_BITS) - 1)
    return int(np.ldexp(0.5 + (sub + 1) / (2 << SUB_BITS), exponent))
