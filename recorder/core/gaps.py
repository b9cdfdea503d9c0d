"""What is missing: every gap from its notice to its repair, as the journal's frames tell it. The fold's work list.

A gap of ids is repaired when each of its ids has come, late from the stream or from history, or is given up with the
reason. Of a series without contiguous ids nobody knows what a lost connection cost: history is asked for the time from
its last trade before to its first trade after, and what was received live on both edges is known by its key. Gaps of
the kind ``time``, and the rows of whole connections (symbol ``*``), are notes: there is nothing to fetch for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from recorder.core.batch import Output
from recorder.core.frames import SOURCE, Frames
from recorder.core.history import Identity, Page
from recorder.core.kernels import BY_NAME, IDS_CONTIGUOUS, NO_TIME, RECENT_IDS, Kernels, keys_of
from recorder.values.feed import SECOND, HistoryRequest
from recorder.values.schema import LONG_NULL
from recorder.values.tables import (
    BACKFILLED,
    CANCELLED,
    CORRECTED,
    DUPLICATE,
    GAP_DISCONNECT,
    GAP_OPEN,
    GAP_PARTIAL,
    GAP_REPAIRED,
    GAP_TIME,
    GAP_UNREPAIRABLE,
    HISTORY,
    NAMED,
    TRADES,
)

OPEN_GAPS_MAX = 10_000  # a reconnect of ten thousand symbols, at half a kB each; the oldest is given up beyond
PIECES_MAX = 1024  # stretches of ids still missing in one gap; history comes in pages, so that there are few
SEEN_MAX = 4096  # trades known at the edges of a gap without ids: a snapshot on subscribing has 100
GOT_MAX = 1 << 18  # trades fetched of one such gap: more are stored as well, and again if it is asked for once more
FAILURES_MAX = 5  # pages of a gap that cannot be read before it is given up
NEAR_IDS = 1000  # gaps no farther apart are asked for together: a page of most providers
SLACK_NS = SECOND  # around the times of a gap of ids: matching engines stamp trades out of order
CAUSE_CHARS_MAX = 200
SOURCES = 1 << 16  # ids of a journal's sources are two bytes

END_OF_SESSION = "end of session"  # nothing trades until the next one
NOT_WANTED = "none of its symbols is wanted any more"  # closed by a reloaded configuration: nothing is missed
NOT_TOLD = "ended without a word: the recorder was killed, or the disk was full"
NO_TRADES = CANCELLED | CORRECTED | DUPLICATE | NAMED  # rows that say nothing about what has come


class Gap(msgspec.Struct):
    """A gap that history is asked for. Times in ns; ``from_id`` is LONG_NULL where ids are not contiguous.

    start, end  time it lies in, edges included
    left        [first, last] of ids still missing, ascending
    seen, got   keys of trades within ``start`` and ``end``, without ids: that came by the stream, and from history
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

    @property
    def identity(self) -> Identity:
        return self.feed, self.symbol, self.channel, self.kind, self.ts_event, self.from_id

    @property
    def by_id(self) -> bool:
        return self.from_id != LONG_NULL


class Interruption(msgspec.Struct):
    """A series without contiguous ids whose connection was lost: it becomes a gap at the next trade after ``start``."""

    start: int
    kind: int
    cause: str
    seen: set[int]


class Link(msgspec.Struct):
    """A connection of a feed."""

    source: int
    closed: int = 0  # when, ns; 0: it is open
    reason: str = ""


@dataclass
class Counts:
    """Of a feed, since this process began."""

    opened: int = 0
    missing: int = 0  # ids
    repaired: int = 0
    given_up: int = 0
    recovered: int = 0  # trades, of gaps that are closed
    dropped: int = 0  # trades of history that were not missing
    reason: str = ""  # why the last one was given up


@dataclass
class _Horizons:
    """Per series, what an arriving row is held against: one comparison a row while nothing of it concerns a gap."""

    ids: np.ndarray
    times: np.ndarray
    interrupted: np.ndarray


@dataclass
class GapBook:
    """Open gaps of a pipeline. ``out`` gets their rows; ``kernels`` know what came last of each series."""

    out: Output
    kernels: Kernels
    open: dict[Identity, Gap] = field(default_factory=dict)  # oldest first
    interrupted: dict[int, Interruption] = field(default_factory=dict)  # by series
    links: dict[tuple[str, int], Link] = field(default_factory=dict)  # by feed and connection
    counts: dict[str, Counts] = field(default_factory=dict)  # by feed

    def __post_init__(self) -> None:
        self._by_series: dict[int, list[Gap]] = {}
        self._horizons: _Horizons | None = None
        self._last_recv = np.zeros(SOURCES, np.int64)

    # Connections

    def received(self, frames: Frames, count: int) -> None:
        """The first ``count`` frames have passed: when each source was last heard."""
        heard = np.flatnonzero(frames.kinds[:count] != SOURCE)  # a declaration, repeated in every segment, is ours
        self._last_recv[frames.sources[heard]] = frames.ts_recv[heard]

    def opened(self, feed: str, connection: int, source: int, ts_recv: int) -> None:
        """A connection is there. Kernels must have run over the rows before, frames before be ``received``."""
        before = self.links.get((feed, connection))
        self.links[feed, connection] = Link(source)
        if before is None:
            return
        closed, cause = before.closed, before.reason[:CAUSE_CHARS_MAX] or "connection lost"
        if not closed:
            closed, cause = int(self._last_recv[before.source]), NOT_TOLD
        if ts_recv <= closed or before.reason == NOT_WANTED:  # it was there before the old one closed, or is another
            return
        series = self.out.series.id(feed, "*")
        self.out.gap(series, "*", GAP_DISCONNECT, ts_recv, ts_recv, cause, span_ns=ts_recv - closed)
        if END_OF_SESSION not in cause:
            self.interrupt(feed, connection, GAP_DISCONNECT, cause)

    def closed(self, feed: str, connection: int, ts_recv: int, reason: str) -> None:
        link = self.links.get((feed, connection))
        if link is not None and not link.closed:
            link.closed, link.reason = ts_recv, reason

    def interrupt(self, feed: str, connection: int, kind: int, cause: str) -> None:
        """Trades of this connection may be missing here, without ids to tell. Kernels must have run."""
        state = self.kernels.state
        known = self.out.kept.get((feed, connection), {}).get("series", {})
        for series in known.values():
            if series >= state.known or series in self.interrupted:
                continue
            scalars = state.scalars[series]
            start = int(scalars["last_ts"])
            if not scalars["id_kind"] & IDS_CONTIGUOUS and start != NO_TIME:
                recent = state.ids[series][: min(int(scalars["seen"]), RECENT_IDS)].tolist()
                self.interrupted[series] = Interruption(start, kind, cause, set(recent))
                self._horizons = None

    # Rows

    def passed(self, rows: np.ndarray, found: np.ndarray) -> None:
        """TRADES rows have come by the stream and their kernels have found these gaps."""
        for values in found.tolist():
            self._found(*values)
        if not self.open and not self.interrupted:
            return
        series = rows["series"]
        if self.interrupted:
            for i in np.flatnonzero(self._look().interrupted[series] & (rows["flags"] & NO_TRADES == 0)).tolist():
                self._resumed(rows[i : i + 1])
        horizons = self._look()
        within = (rows["trade_id"] <= horizons.ids[series]) | (rows["ts_event"] <= horizons.times[series])
        if within.any():
            self._take(rows[within & (rows["flags"] & NO_TRADES == 0)], None)

    def page(self, page: Page, rows: np.ndarray, readable: bool = True) -> np.ndarray:
        """What is missing of an answer's TRADES rows, flagged for the kernels; its gap is closed if this was all."""
        assert page.gap is not None
        kept = rows[self._take(rows, page.gap)]
        kept["flags"] |= HISTORY | BACKFILLED
        self._counts(page.gap[0]).dropped += len(rows) - len(kept)
        gap = self.open.get(page.gap)
        if gap is None:
            return kept
        if not readable:
            gap.failures += 1
            if gap.failures >= FAILURES_MAX:
                self._close(gap, "its history cannot be read")
        elif page.reason:
            self._close(gap, page.reason)
        elif page.last and not gap.by_id:
            self._close(gap)
        return kept

    def request(self, gap: Gap) -> HistoryRequest:
        """What to ask for: what is left of the gap, and of gaps of ids that begin within a page after it."""
        if not gap.by_id:
            return HistoryRequest(gap.symbol, gap.channel, gap.start, gap.end)
        start, end, last = gap.start, gap.end, gap.left[-1][1]
        others = self._by_series.get(self.out.series.id(gap.feed, gap.symbol), ())
        for other in sorted((o for o in others if o.by_id), key=lambda o: o.left[0]):
            if other.channel == gap.channel and last < other.left[0][0] <= last + NEAR_IDS:
                start, end, last = min(start, other.start), max(end, other.end), other.left[-1][1]
        return HistoryRequest(gap.symbol, gap.channel, start - SLACK_NS, end + SLACK_NS, gap.left[0][0], last)

    # Within

    def _found(
        self, series: int, ts_event: int, ts_recv: int, kind: int, from_id: int, to_id: int, missing: int, span: int,
        by: int,
    ) -> None:  # fmt: skip
        if kind == GAP_TIME:
            cause = "no trade for longer than time_gap_s"
            self.out.gap(series, TRADES.name, kind, ts_event, ts_recv, cause, span_ns=span)
            return
        cause = "a heartbeat named trades that did not come" if by == BY_NAME else "ids missing in the stream"
        feed, symbol = self.out.series.keys[series]
        self._add(series, Gap(
            feed, symbol, TRADES.name, kind, ts_event, ts_recv, from_id, to_id, missing, span, cause,
            ts_event - span, ts_event, [(from_id, to_id)],
        ))  # fmt: skip

    def _resumed(self, row: np.ndarray) -> None:
        """The first trades of an interrupted series: one past its last time shows how far the gap reaches."""
        series, ts_event = int(row["series"][0]), int(row["ts_event"][0])
        before = self.interrupted.get(series)
        if before is None:
            return
        if ts_event <= before.start:
            if ts_event == before.start and len(before.seen) < SEEN_MAX:
                before.seen.add(int(keys_of(row)[0]))
            return
        del self.interrupted[series]
        feed, symbol = self.out.series.keys[series]
        self._add(series, Gap(
            feed, symbol, TRADES.name, before.kind, ts_event, int(row["ts_recv"][0]), LONG_NULL, LONG_NULL, LONG_NULL,
            ts_event - before.start, before.cause, before.start, ts_event, [], before.seen,
        ))  # fmt: skip

    def _add(self, series: int, gap: Gap) -> None:
        self._write(gap, GAP_OPEN, gap.cause)
        counts = self._counts(gap.feed)
        counts.opened += 1
        counts.missing += max(0, gap.missing)
        others = self._by_series.get(series, [])
        if gap.identity in self.open:  # where ids start over, the same place can be missed twice: it is one row
            others = [other for other in others if other.identity != gap.identity]
        self.open[gap.identity] = gap
        self._by_series[series] = [*others, gap]
        self._horizons = None
        if len(self.open) > OPEN_GAPS_MAX:
            self._close(next(iter(self.open.values())), f"more than {OPEN_GAPS_MAX} gaps are open")

    def _close(self, gap: Gap, reason: str = "") -> None:
        """Complete, or given up for a reason."""
        del self.open[gap.identity]
        series = self.out.series.id(gap.feed, gap.symbol)
        self._by_series[series] = [other for other in self._by_series[series] if other is not gap]
        self._horizons = None
        counts = self._counts(gap.feed)
        if reason:
            counts.given_up, counts.reason = counts.given_up + 1, reason
            status = GAP_PARTIAL if gap.recovered else GAP_UNREPAIRABLE
            self._write(gap, status, f"{gap.cause}; {reason[:CAUSE_CHARS_MAX]}")
        else:
            counts.repaired += 1
            self._write(gap, GAP_REPAIRED, gap.cause)
        counts.recovered += gap.recovered

    def _write(self, gap: Gap, status: int, cause: str) -> None:
        self.out.gap(
            self.out.series.id(gap.feed, gap.symbol), gap.channel, gap.kind, gap.ts_event, gap.ts_recv, cause,
            from_id=gap.from_id, to_id=gap.to_id, missing=gap.missing, span_ns=gap.span_ns, status=status,
            recovered=gap.recovered,
        )  # fmt: skip

    def _counts(self, feed: str) -> Counts:
        return self.counts.setdefault(feed, Counts())

    def _look(self) -> _Horizons:
        count = len(self.out.series)
        if self._horizons is not None and len(self._horizons.ids) == count:
            return self._horizons
        ids, times = np.full(count, LONG_NULL), np.full(count, LONG_NULL)
        for series, gaps in self._by_series.items():
            ids[series] = max((gap.left[-1][1] for gap in gaps if gap.by_id), default=LONG_NULL)
            times[series] = max((gap.end for gap in gaps if not gap.by_id), default=LONG_NULL)
        interrupted = np.zeros(count, np.bool_)
        interrupted[list(self.interrupted)] = True
        self._horizons = _Horizons(ids, times, interrupted)
        return self._horizons

    def _take(self, rows: np.ndarray, asked: Identity | None) -> np.ndarray:
        """Which rows were missing; they no longer are. Closes gaps that are complete.

        asked  for which gap history was asked; None: the rows came by the stream
        """
        taken = np.zeros(len(rows), np.bool_)
        plain = rows["flags"] & NO_TRADES == 0
        for series in np.unique(rows["series"]).tolist():
            own = np.flatnonzero((rows["series"] == series) & plain)
            for gap in sorted(self._by_series.get(series, ()), key=lambda gap: gap.identity != asked):
                if gap.by_id:
                    taken[own[_take_ids(gap, rows[own])]] = True
                elif gap.identity == asked:
                    taken[own[_take_times(gap, rows[own])]] = True
                else:
                    known = rows[own if asked is None else own[taken[own]]]
                    gap.seen.update(keys_of(known[_within(gap, known)]).tolist())
                if gap.by_id and not gap.left:
                    self._close(gap)
                elif max(len(gap.left) / PIECES_MAX, len(gap.seen) / SEEN_MAX) > 1:
                    self._close(gap, "too scattered to keep account of")
        return taken

    # For snapshots.

    def state(self) -> dict[str, Any]:
        """Everything a later ``restore`` needs, of plain types."""
        heard = np.flatnonzero(self._last_recv)
        return {
            "open": msgspec.to_builtins(list(self.open.values())),
            "interrupted": msgspec.to_builtins(self.interrupted),
            "links": [[*key, *msgspec.structs.astuple(link)] for key, link in self.links.items()],
            "heard": [heard.tolist(), self._last_recv[heard].tolist()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``, of a pipeline whose series have the same ids."""
        self.open = {gap.identity: gap for gap in msgspec.convert(state["open"], list[Gap])}
        self.interrupted = msgspec.convert(state["interrupted"], dict[int, Interruption])
        self.links = {(feed, connection): Link(*link) for feed, connection, *link in state["links"]}
        sources, times = state["heard"]
        self._last_recv[:] = 0
        self._last_recv[sources] = times
        self._by_series, self._horizons = {}, None
        for gap in self.open.values():
            self._by_series.setdefault(self.out.series.id(gap.feed, gap.symbol), []).append(gap)


def _take_ids(gap: Gap, rows: np.ndarray) -> np.ndarray:
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
        within = found[np.searchsorted(found, low) : np.searchsorted(found, high, side="right")]
        edges = np.concatenate([[low - 1], within, [high + 1]])
        holes = np.flatnonzero(np.diff(edges) > 1)
        left += zip((edges[holes] + 1).tolist(), (edges[holes + 1] - 1).tolist(), strict=True)
    gap.left = left
    return inside[first]


def _within(gap: Gap, rows: np.ndarray) -> np.ndarray:
    return np.flatnonzero((rows["ts_event"] >= gap.start) & (rows["ts_event"] <= gap.end))


def _take_times(gap: Gap, rows: np.ndarray) -> np.ndarray:
    """Places of the rows that are in the gap and not known, each once."""
    inside = _within(gap, rows)
    keys, first = np.unique(keys_of(rows[inside]), return_index=True)
    known = gap.seen | gap.got
    fresh = np.array([key not in known for key in keys.tolist()], np.bool_)
    gap.recovered += int(fresh.sum())
    gap.got.update(keys[fresh].tolist()[: GOT_MAX - len(gap.got)])
    return inside[np.sort(first[fresh])]
