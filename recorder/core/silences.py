"""The law that silences of living streams follow, learnt from those that have ended. Pure numpy.

At each tick (1 s) of a live stream v = the arrivals expected since the last one. Were arrivals Poisson, v would be
exponential with mean 1. Trades come in clusters of mean size c, and rates wander unseen, so v is taken as exponential
with a gamma-distributed rate (shape k), a Lomax:

    P(V > v) = (1 + v / ((k - 1) c)) ^ -k          mean c, mean excess over t: c + t / (k - 1)

c is the mean of v over ticks, k follows from the mean excess over 3 c; both pooled over siblings, both with a prior.
Neither outlives the process: both are learnt again within some tens of silences, and the prior is on the safe side.
"""

from __future__ import annotations

import numpy as np

CLUSTER_PRIOR, SHAPE_PRIOR, PRIOR_WEIGHT = 4.0, 6.0, 30.0  # of c and k, in silences
TAIL_WEIGHT = 10.0  # of the prior of k, in long silences
TAIL = 3.0  # a long silence exceeds this many times c: one tick in twenty
CLUSTER_MIN = 1.0  # Poisson; nothing that trades is more regular
SHAPE_MIN, SHAPE_MAX = 3.0, 40.0
MEMORY_TICKS = 500_000.0  # then half is forgotten: a day of a feed of six series


class Silences:
    """Silences of streams in expected arrivals, and the law they follow, pooled by group. Grows with its streams."""

    def __init__(self) -> None:
        self.expected = np.empty(0)  # v: arrivals expected since the last one
        self._pending = np.empty((0, 4))  # of the silence that has not ended: ticks, sum of v, long ticks, their excess
        # by group: ticks, sum of v, long ticks, sum of their excess, silences ended, long silences ended
        self._pools = np.empty((0, 6))
        self._laws = self._fit()

    def grow(self, streams: int, groups: int) -> None:
        more, fresh = streams - len(self.expected), groups - len(self._pools)
        if more > 0:
            self.expected = np.append(self.expected, np.zeros(more))
            self._pending = np.concatenate([self._pending, np.zeros((more, 4))])
        if fresh > 0:
            self._pools = np.concatenate([self._pools, np.zeros((fresh, 6))])
            self._laws = self._fit()

    def tick(self, step: np.ndarray, fresh: np.ndarray, arrived: np.ndarray, group: np.ndarray) -> None:
        """One second has passed.

        step     (n,) arrivals expected in it
        fresh    (n,) arrivals expected since the last one, of those that had one in it
        arrived  (n,) which had
        group    (n,) the pool of each stream; below 0: not learnt from
        """
        self.expected = np.where(arrived, fresh, self.expected + step)
        ended = arrived & (group >= 0)
        if ended.any():
            done, to = self._pending[ended], group[ended]
            for column in range(4):
                np.add.at(self._pools[:, column], to, done[:, column])
            np.add.at(self._pools[:, 4], to, 1.0)
            np.add.at(self._pools[:, 5], to, done[:, 2] > 0)
            self._pools[self._pools[:, 0] > MEMORY_TICKS] /= 2
            self._laws = self._fit()
        self._pending[arrived] = 0.0
        long = TAIL * self.laws()[0][np.maximum(group, 0)] if len(self._pools) else np.full(len(step), np.inf)
        over = self.expected > long
        self._pending[:, 0] += 1.0
        self._pending[:, 1] += self.expected
        self._pending[:, 2] += over
        self._pending[:, 3] += np.where(over, self.expected - long, 0.0)

    def restart(self, streams: np.ndarray) -> None:
        """These start over; the silence they were in is not learnt from: it may have been death."""
        self.expected[streams] = 0.0
        self._pending[streams] = 0.0

    def laws(self) -> tuple[np.ndarray, np.ndarray]:
        """(c, k) of every group."""
        return self._laws

    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        ticks, total, long, excess, ended, long_ended = self._pools.T
        seen = np.divide(total, ticks, out=np.full(len(ticks), CLUSTER_PRIOR), where=ticks > 0)
        c = np.maximum(CLUSTER_MIN, (seen * ended + CLUSTER_PRIOR * PRIOR_WEIGHT) / (ended + PRIOR_WEIGHT))
        prior = 1.0 + TAIL / (SHAPE_PRIOR - 1.0)
        ratio = np.divide(excess, long * c, out=np.full(len(ticks), prior), where=long > 0)
        ratio = (ratio * long_ended + prior * TAIL_WEIGHT) / (long_ended + TAIL_WEIGHT)
        k = 1.0 + TAIL / np.maximum(ratio - 1.0, 1e-9)
        return c, np.clip(k, SHAPE_MIN, SHAPE_MAX)

    def ended(self) -> np.ndarray:
        """How many silences each group has learnt from."""
        return self._pools[:, 4]

    def log_p(self, group: np.ndarray) -> np.ndarray:
        """ln P(V > v) of every stream by its group's law."""
        c, k = self.laws()
        return log_survival(self.expected, c[group], k[group])


def log_survival(v: np.ndarray, c: np.ndarray, k: np.ndarray) -> np.ndarray:
    """ln P(V > v) of a Lomax of mean c and shape k: (1 + v / ((k - 1) c)) ^ -k."""
    return -k * np.log1p(v / ((k - 1.0) * c))
