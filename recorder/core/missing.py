"""A gap, what is still missing of it, and what an arriving row of a channel is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from recorder.core.history import Identity
from recorder.values.feed import SECOND
from recorder.values.schema import LONG_NULL

GOT_MAX = 1 << 18  # rows fetched of one gap without ids; more are stored, and again if it is asked for once more
SLACK_NS = SECOND  # around the times of a gap of ids: matching engines stamp trades out of order


class Gap(msgspec.Struct):
    """A gap that history is asked for. Times in ns; ``from_id`` is LONG_NULL where ids are not contiguous.

    start, end  time it lies in, edges included
    left        [first, last] of ids still missing, ascending
    outage_ns   for how long nobody listened, where that is known: of a quiet symbol much shorter than the gap
    seen, got   keys of rows within ``start`` and ``end``, without ids: that came by the stream, and from history
    """

    feed: str
    symbol: str
    channel: str
    kind: int
    ts_event: int
    ts_recv: int
    from_id: int
    to_id: int
    missing: int
    span_ns: int
    cause: str
    start: int
    end: int
    left: list[tuple[int, int]] = []
    seen: set[int] = set()
    got: set[int] = set()
    recovered: int = 0
    failures: int = 0
    outage_ns: int = 0

    @property
    def identity(self) -> Identity:
        return self.feed, self.symbol, self.channel, self.kind, self.ts_event, self.from_id

    @property
    def by_id(self) -> bool:
        return self.from_id != LONG_NULL


class Interruption(msgspec.Struct):
    """A series without contiguous ids whose connection was lost: it becomes a gap at the next row after ``start``."""

    start: int
    kind: int
    cause: str
    seen: set[int]
    outage_ns: int = 0


@dataclass
class Horizons:
    """Per series, what an arriving row is held against: one comparison a row while nothing of it concerns a gap."""

    ids: np.ndarray
    times: np.ndarray
    interrupted: np.ndarray


@dataclass
class Channel:
    """The open gaps of a channel. ``keys`` gives what tells rows of one series apart, (n,) int64."""

    keys: Callable[[np.ndarray], np.ndarray]
    interrupted: dict[int, Interruption] = field(default_factory=dict)  # by series
    by_series: dict[int, dict[Identity, Gap]] = field(default_factory=dict)  # oldest first; none is empty
    _horizons: Horizons | None = None

    def __bool__(self) -> bool:
        """Whether an arriving row may concern a gap."""
        return bool(self.by_series or self.interrupted)

    def interrupt(self, series: int, interruption: Interruption) -> None:
        """One that is interrupted already stays so from where it was."""
        before = self.interrupted.setdefault(series, interruption)
        if before is not interruption:
            before.outage_ns += interruption.outage_ns
        self._horizons = None

    def resume(self, series: int) -> None:
        del self.interrupted[series]
        self._horizons = None

    def add(self, series: int, gap: Gap) -> None:
        """One more; of those with its identity it is the only one from now on."""
        gaps = self.by_series.setdefault(series, {})
        gaps.pop(gap.identity, None)
        gaps[gap.identity] = gap
        self._horizons = None

    def remove(self, series: int, gap: Gap) -> None:
        gaps = self.by_series[series]
        if gaps.get(gap.identity) is gap:
            del gaps[gap.identity]
        if not gaps:
            del self.by_series[series]
        self._horizons = None

    def of(self, series: int) -> list[Gap]:
        return list(self.by_series.get(series, {}).values())

    def look(self, count: int) -> Horizons:
        """Of the first ``count`` series, which are all."""
        if self._horizons is not None and len(self._horizons.ids) == count:
            return self._horizons
        ids, times = np.full(count, LONG_NULL), np.full(count, LONG_NULL)
        for series, gaps in self.by_series.items():
            ids[series] = max((gap.left[-1][1] for gap in gaps.values() if gap.by_id), default=LONG_NULL)
            times[series] = max((gap.end for gap in gaps.values() if not gap.by_id), default=LONG_NULL)
        interrupted = np.zeros(count, np.bool_)
        interrupted[list(self.interrupted)] = True
        self._horizons = Horizons(ids, times, interrupted)
        return self._horizons


def take_ids(gap: Gap, rows: np.ndarray) -> np.ndarray:
    """Places of the rows whose ids were left, each id once; they are left no more.

    A trade newer than the gap is none of it, whatever its id: ids that a provider starts over come again.
    """
    ids = np.where(rows["ts_event"] <= gap.end + SLACK_NS, rows["trade_id"], LONG_NULL)
    pieces = np.array(gap.left)
    place = np.searchsorted(pieces[:, 0], ids, side="right") - 1
    inside = np.flatnonzero((place >= 0) & (ids <= pieces[place, 1]))
    if not len(inside):
        return inside
    found, first = np.unique(ids[inside], return_index=True)
    gap.recovered += len(found)
    left: list[tuple[int, int]] = []
    for low, high in gap.left:
        came = found[np.searchsorted(found, low) : np.searchsorted(found, high, side="right")]
        edges = np.concatenate([[low - 1], came, [high + 1]])
        holes = np.flatnonzero(np.diff(edges) > 1)
        left += zip((edges[holes] + 1).tolist(), (edges[holes + 1] - 1).tolist(), strict=True)
    gap.left = left
    return inside[first]


def within(gap: Gap, rows: np.ndarray) -> np.ndarray:
    """Places of the rows whose time is the gap's."""
    return np.flatnonzero((rows["ts_event"] >= gap.start) & (rows["ts_event"] <= gap.end))


def take_times(gap: Gap, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Places of the rows that are in the gap and not known, each once; ``keys`` are those of the rows."""
    inside = within(gap, rows)
    found, first = np.unique(keys[inside], return_index=True)
    fresh = np.array([key not in gap.seen and key not in gap.got for key in found.tolist()], np.bool_)
    gap.recovered += int(fresh.sum())
    gap.got.update(found[fresh].tolist()[: GOT_MAX - len(gap.got)])
    return inside[np.sort(first[fresh])]
