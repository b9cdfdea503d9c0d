"""Quiet or dead: how probable a silence is of a stream that lives. Pure numpy; time is passed in.

Three things are learnt, each from data only:

1. Expected arrivals (``Profile``): rate r of a series (symbol × channel of one feed) by 5-minute bin of the local day,
   weekdays and weekends apart, from counts. Bins with little history lean on the siblings (the other symbols of the
   channel) times the series' share of them. A share nobody knows yet is nil: it makes no silence surprising.
   The bin that has not ended says nothing of itself: a burst at its beginning would be expected to last.
2. Today's activity: a = (A + seen) / (A + expected) over the last minutes, of arrivals that came; at most what makes
   a series' rate its mean of all times, and 1 where r is above that. When the whole market is calm, silence says less.
   What is expected during a silence counts only once the silence has ended, so no silence excuses itself.
3. Clustering (``core/silences.py``): v = the arrivals expected since the last one, the sum of a·r·dt, and its law
   P(V > v), learnt from silences that ended. It is not kept over a restart.

Judgement: a connection is dead when P(V > v) of its series' arrivals together falls below
false_alarms_per_year / ticks per year. That bounds the expected number of ticks in alarm of one connection by the named
rate, whatever the dependence between ticks (Markov), as far as the tail is a Lomax. A series is mute when its own v is
as improbable, divided by the number of series judged, while its connection delivers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np

from recorder.core.silences import Silences
from recorder.values.feed import MINUTE, SECOND
from recorder.values.schedule import day_boundaries

BIN_NS = 5 * MINUTE
BINS = 24 * 12  # of a day
WEIGHT_S = 600.0  # what siblings say weighs as much as ten minutes of one's own: two days of a bin
SHARE_S = 60.0  # a series looked at for a minute has half its share believed: too little delays, too much restarts
PRIOR_NS = 10 * SECOND  # how long siblings' means are used before they are computed again: a millisecond
STRANGE = 0.25  # of the mean rate is expected in a bin that nobody has seen: the first evening is not the first noon
QUIET_BINS_MAX = 12  # this many bins (1 h) without any row of a feed were quiet; more: it was closed, or not recorded
DAY_NS = 24 * 60 * MINUTE

TICK_NS = SECOND
TICKS_PER_YEAR = 365.25 * 86_400
KNOWN = 30  # arrivals, and silences that have ended, before one is judged by what was learnt
KNOWN_S = 600.0  # or for how long it must have been looked at, which history does
SILENCE_MIN_NS = 3 * SECOND  # a lost packet is sent again within two; opening anew costs as much
TIMEOUTS_NS = {"quotes": 2 * MINUTE, "trades": 10 * MINUTE}  # of a connection while too little is known
TIMEOUT_NS = 15 * MINUTE  # of other channels: bars come by the minute, statuses seldom
SERIES_LOG_P = -log(1000.0)  # a series likelier silent than this is not worth a word
ACTIVITY_S = 300.0  # today's activity forgets in this time
ACTIVITY_WEIGHT = 20.0  # clusters that must be missing to halve what is expected
ACTIVITY_MIN = 0.02  # not even a dead calm market trades less than that of its usual


class Profile:
    """Expected arrivals of one feed's series, learnt from its history and while it runs.

    zone  whose midnight starts the day (``Capability.session_zone``)
    """

    def __init__(self, zone: str) -> None:
        self.names: list[tuple[str, str]] = []  # (symbol, channel) of each series
        self.channel = np.empty(0, np.int64)  # number of its channel
        self.arrivals = np.zeros((0, 2, BINS))  # seen, by weekday or weekend and bin
        self.seconds = np.zeros((0, 2, BINS))  # for how long it was looked at
        self.arrivals_total, self.seconds_total = np.empty(0), np.empty(0)  # of each series, the running bin included
        self._running = np.zeros((2, 0))  # arrivals and seconds of the bin that has not ended
        self._running_slot = 0, 0
        self._channels: list[str] = []
        self._index: dict[tuple[str, str], int] = {}
        self._midnights = day_boundaries(zone)
        self._slot = 0, (0, 0)  # the last one asked for: where it starts, and which
        self._priors: tuple[tuple[int, int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def series(self, symbol: str, channel: str) -> int:
        """Number of a series, a new one if need be."""
        key = (symbol, channel)
        if key not in self._index:
            self._index[key] = len(self.names)
            self.names.append(key)
            if channel not in self._channels:
                self._channels.append(channel)
            self.channel = np.append(self.channel, self._channels.index(channel))
            self.arrivals = np.concatenate([self.arrivals, np.zeros((1, 2, BINS))])
            self.seconds = np.concatenate([self.seconds, np.zeros((1, 2, BINS))])
            self._running = np.concatenate([self._running, np.zeros((2, 1))], axis=1)
            self.arrivals_total = np.append(self.arrivals_total, 0.0)
            self.seconds_total = np.append(self.seconds_total, 0.0)
        return self._index[key]

    def slot(self, ts: int) -> tuple[int, int]:
        """(0 on weekdays, 1 at weekends; bin) of a time. On days when clocks change, bins are an hour off."""
        if not self._slot[0] <= ts < self._slot[0] + BIN_NS:
            kind, bin_ = self._slots(np.array([ts]))
            self._slot = ts - ts % BIN_NS, (int(kind[0]), int(bin_[0]))
        return self._slot[1]

    def _slots(self, ts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        midnight = self._midnights[np.searchsorted(self._midnights, ts, "right") - 1]
        weekday = ((midnight + DAY_NS // 2) // DAY_NS + 3) % 7  # the epoch was a Thursday
        return (weekday >= 5).astype(np.int64), np.minimum((ts - midnight) // BIN_NS, BINS - 1)

    def learn(self, history: Iterable[tuple[str, str, int, int]]) -> None:
        """Take over a history: (symbol, channel, start of a 5-minute bin in ns, rows in it), in any order.

        A bin without rows is quiet when others of the feed's are near it, see QUIET_BINS_MAX; else not looked at.
        """
        rows = list(history)
        if not rows:
            return
        numbers = np.array([self.series(symbol, channel) for symbol, channel, _, _ in rows])
        starts = np.array([ts for _, _, ts, _ in rows]) // BIN_NS
        counts = np.array([count for _, _, _, count in rows], float)
        active = np.unique(starts)
        quiet = [np.arange(a + 1, b) for a, b in pairwise(active.tolist()) if b - a <= QUIET_BINS_MAX]
        looked = np.sort(np.concatenate([active, *quiet]))
        kind, bin_ = self._slots(looked * BIN_NS)
        first = np.full(len(self), np.iinfo(np.int64).max)
        np.minimum.at(first, numbers, starts)  # a symbol is looked at from its first row on: it may be new
        for number in np.unique(numbers).tolist():
            own = looked >= first[number]
            np.add.at(self.seconds[number], (kind[own], bin_[own]), BIN_NS / SECOND)
        kind, bin_ = self._slots(starts * BIN_NS)
        np.add.at(self.arrivals, (numbers, kind, bin_), counts)
        self.arrivals_total, self.seconds_total = self.arrivals.sum((1, 2)), self.seconds.sum((1, 2))
        self._priors = None

    def add(self, ts: int, arrivals: np.ndarray, seconds: np.ndarray) -> None:
        """Add what came to all series, (n,) each, in the bin of ``ts``; the bin counts once another one has begun."""
        if self.slot(ts) != self._running_slot:
            kind, bin_ = self._running_slot
            self.arrivals[:, kind, bin_] += self._running[0]
            self.seconds[:, kind, bin_] += self._running[1]
            self._running_slot, self._running[:] = self.slot(ts), 0.0
        self._running += arrivals, seconds
        self.arrivals_total += arrivals
        self.seconds_total += seconds

    def rates(self, ts: int) -> np.ndarray:
        """Expected arrivals per second of every series, (n,) float64.

        (seen + WEIGHT_S · prior) / (looked at + WEIGHT_S), prior = share of the series × mean of its channel in the bin
        """
        kind, bin_ = self.slot(ts)
        key = (len(self), ts // PRIOR_NS, kind * BINS + bin_)
        if self._priors is None or self._priors[0] != key:
            self._priors = key, self._prior(kind, bin_)
        seen, looked = self.arrivals[:, kind, bin_], self.seconds[:, kind, bin_]
        return (seen + WEIGHT_S * self._priors[1]) / (looked + WEIGHT_S)

    def means(self) -> np.ndarray:
        """Arrivals per second of every series over all the time it was looked at, (n,) float64."""
        return np.divide(
            self.arrivals_total, self.seconds_total, out=np.zeros(len(self)), where=self.seconds_total > 0
        )  # fmt: skip

    def _prior(self, kind: int, bin_: int) -> np.ndarray:
        result = np.zeros(len(self))
        for channel in range(len(self._channels)):
            own = self.channel == channel
            seconds = self.seconds[own]
            seen, looked = self.arrivals[own].sum(0), seconds.sum(0)
            looked_total = self.seconds_total[own].sum()
            if not looked_total:
                continue
            mean = self.arrivals_total[own].sum() / looked_total
            kinds = (seen.sum(1) + WEIGHT_S * mean) / (looked.sum(1) + WEIGHT_S)  # on weekdays and at weekends
            both = (seen + WEIGHT_S * kinds[:, None]) / (looked + WEIGHT_S)  # the channel's mean in every bin
            here = both[kind, bin_]
            if not looked[kind, bin_]:
                other = looked[1 - kind, bin_]
                here = both[1 - kind, bin_] if other else STRANGE * mean
            expected = (seconds * both).sum((1, 2)) + self._running[1, own] * here + SHARE_S * mean
            if not mean:
                continue
            result[own] = self.arrivals_total[own] / expected * here
        return result


@dataclass(frozen=True)
class Silence:
    """How long a connection or a series has been silent, and what that says.

    silent_ns  since the last arrival, or since it could have delivered
    expected   arrivals in that time, by what was learnt
    log_p      natural logarithm of the chance of such a silence of a living one; None: too little is known
    """

    silent_ns: int
    expected: float
    log_p: float | None

    def improbable(self, per_year: float, judged: int = 1) -> bool:
        """Below the chance that makes ``per_year`` alarms of ``judged`` streams in a year."""
        return self.log_p is not None and self.log_p < log(per_year / TICKS_PER_YEAR / judged)


def dead(silence: Silence, channels: Iterable[str], per_year: float) -> bool:
    """Whether a connection of these channels should be opened again."""
    if silence.silent_ns < SILENCE_MIN_NS:
        return False
    if silence.log_p is None:
        return silence.silent_ns > min(TIMEOUTS_NS.get(channel, TIMEOUT_NS) for channel in channels)
    return silence.improbable(per_year)


@dataclass(frozen=True)
class Judgement:
    """connections: of those judged, by number. series: by the profile's number, those whose connection delivers."""

    connections: dict[int, Silence]
    series: dict[int, Silence]

    @property
    def log_p(self) -> float:
        """Chance of the silence of all connections together, were they to fall silent independently."""
        return sum(silence.log_p or 0.0 for silence in self.connections.values())


class Arrivals:
    """Judges the silences of one feed, once a second."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._series, self._connections = Silences(), Silences()
        self._now = 0
        self._count = self._last = np.empty(0, np.int64)  # of each series at the last tick
        self._activity = np.empty((0, 3))  # of each series: seen, expected, and expected since its last arrival
        self._ticks = np.empty((0, 2))  # of each series: since its last arrival; looked at and not told the profile
        self._mute = np.empty(0, bool)  # of each series: until its next arrival nothing is learnt from its silence

    def adopt(self, profile: Profile) -> None:
        """Go on with what a fresh profile has learnt; its first series are this one's, those added since follow."""
        for symbol, channel in self.profile.names:
            profile.series(symbol, channel)
        assert profile.names[: len(self.profile)] == self.profile.names
        self.profile = profile

    def mute(self, number: int) -> None:
        """A series was judged mute: its silence is no example of how living ones are silent, and ends unlearnt."""
        self._mute[number] = True

    def tick(
        self, now: int, counts: np.ndarray, last: np.ndarray, connection: np.ndarray, since: np.ndarray
    ) -> Judgement:
        """A second has passed.

        counts      (n,) arrivals of every series of the profile so far, repeats and snapshots included
        last        (n,) ns, receive time of its last live one
        connection  (n,) which of the feed's connections delivers it; below 0: not known
        since       (m,) ns of every connection: when it was ready, or its last frame of data; 0: not to be judged now.
                    Those past its end are gone
        """
        since = np.append(since, np.zeros(max(0, len(self._connections.expected) - len(since)), np.int64))
        self._grow(counts, last, len(since))
        came = np.where(last > self._last, np.maximum(0, counts - self._count), 0)
        self._count, self._last = counts.copy(), last.copy()
        judged = since > 0
        on = (connection >= 0) & np.append(judged, False)[connection]
        heard = since.copy()
        np.maximum.at(heard, connection[on], np.minimum(last[on], now))
        delivered = judged & (heard > self._now)
        self._now = now
        rates = self.profile.rates(now)
        arrived = on & (came > 0)
        self._learn(now, came, on, on & np.append(delivered, False)[connection] & (arrived | ~self._mute), rates)
        usual = np.divide(self.profile.means(), rates, out=np.ones(len(rates)), where=rates > 0)
        rates = rates * np.minimum(self._todays(), np.maximum(1.0, usual))
        step = np.where(on, rates, 0.0) * (TICK_NS / SECOND)
        age_s = np.clip(now - np.maximum(last, 0), 0, TICK_NS) / SECOND
        known = on & (self.profile.arrivals_total >= KNOWN)
        self._series.tick(step, rates * age_s, arrived, np.where(known & ~self._mute, self.profile.channel, -1))
        self._series.restart(~on)
        self._mute &= ~arrived
        together = np.bincount(connection[on], step[on], len(since))
        group = np.where(judged & (np.bincount(connection[known], minlength=len(since)) > 0), 0, -1)
        self._connections.tick(together, together * np.minimum(now - heard, TICK_NS) / TICK_NS, delivered, group)
        self._connections.restart(~judged)
        return self._judge(now, last, connection, np.where(judged, heard, 0), delivered, known)

    def _grow(self, counts: np.ndarray, last: np.ndarray, connections: int) -> None:
        if (more := len(self.profile) - len(self._count)) > 0:
            self._count, self._last = np.append(self._count, counts[-more:]), np.append(self._last, last[-more:])
            self._activity = np.concatenate([self._activity, np.zeros((more, 3))])
            self._ticks = np.concatenate([self._ticks, np.zeros((more, 2))])
            self._mute = np.append(self._mute, np.zeros(more, bool))
        self._series.grow(len(self.profile), int(self.profile.channel.max(initial=-1)) + 1)
        self._connections.grow(connections, 1)

    def _learn(self, now: int, came: np.ndarray, on: np.ndarray, told: np.ndarray, rates: np.ndarray) -> None:
        """What came, and for how long it was looked at. Time counts once a connection has delivered again, what was
        expected of a series once it has: nothing is learnt from a silence that may be death."""
        self._ticks += on[:, None]
        self._ticks[~on] = 0.0
        self._ticks[self._mute, 1] = 0.0
        self._activity[self._mute, 2] = 0.0
        self.profile.add(now, np.where(told, came, 0), np.where(told, self._ticks[:, 1], 0.0) * (TICK_NS / SECOND))
        self._ticks[told, 1] = 0.0
        self._activity[:, 2] = np.where(on, self._activity[:, 2] + rates * (TICK_NS / SECOND), 0.0)
        ended = on & (came > 0)
        forget = np.exp(-self._ticks[ended, 0] * (TICK_NS / SECOND) / ACTIVITY_S)
        self._activity[ended, 0] = self._activity[ended, 0] * forget + came[ended]
        self._activity[ended, 1] = self._activity[ended, 1] * forget + self._activity[ended, 2]
        self._activity[ended, 2] = 0.0
        self._ticks[ended, 0] = 0.0

    def _todays(self) -> float:
        """Today's activity of the feed's market, at least ACTIVITY_MIN."""
        seen, expected, _ = self._activity.sum(0)
        weight = ACTIVITY_WEIGHT * float(self._connections.laws()[0][0]) if len(self._connections.expected) else 1.0
        return max(float((seen + weight) / (expected + weight)), ACTIVITY_MIN)

    def _judge(
        self, now: int, last: np.ndarray, connection: np.ndarray, heard: np.ndarray, delivered: np.ndarray,
        known: np.ndarray,
    ) -> Judgement:  # fmt: skip
        looked = self.profile.seconds_total >= KNOWN_S
        c_ended, s_ended = self._connections.ended() >= KNOWN, self._series.ended() >= KNOWN
        c_known = np.bincount(connection[known & (looked | c_ended[:1].any())], minlength=len(heard)) > 0
        c_log_p = self._connections.log_p(np.zeros(len(heard), np.int64))
        connections = {
            number: Silence(
                now - int(heard[number]),
                float(self._connections.expected[number]),
                float(c_log_p[number]) if c_known[number] else None,
            )
            for number in np.flatnonzero(heard).tolist()
        }
        s_known = known & looked & s_ended[self.profile.channel] & np.append(delivered, False)[connection]
        s_log_p = self._series.log_p(self.profile.channel)
        silent = np.minimum(now - last, (self._ticks[:, 0] * TICK_NS).astype(np.int64))  # while it could deliver
        series = {
            number: Silence(int(silent[number]), float(self._series.expected[number]), float(s_log_p[number]))
            for number in np.flatnonzero(s_known & (s_log_p < SERIES_LOG_P)).tolist()
        }
        return Judgement(connections, series)
