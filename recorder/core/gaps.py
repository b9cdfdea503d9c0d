"""What is missing: every gap from its notice to its repair, as the journal's frames tell it. The fold's work list.

A gap of ids is repaired when each of its ids has come, late from the stream or from history, or is given up with the
reason. Of a series without contiguous ids, and of quotes where the provider remembers them, nobody knows what a lost
connection cost: history is asked for the time from its last row before to its first row after, and what was received
live on both edges is known by its key. It is repaired when history has been read to its end; that this was all of it
nothing verifies, and its row says so. Gaps of the kind ``time``, and the rows of whole connections (symbol ``*``), are
notes: there is nothing to fetch for them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from recorder.core.batch import Output
from recorder.core.frames import SOURCE, Frames
from recorder.core.history import Identity, Page
from recorder.core.kernels import (
    BY_NAME,
    IDS_CONTIGUOUS,
    NO_TIME,
    QUOTES_REMEMBERED,
    RECENT_IDS,
    Kernels,
    keys_of,
    quote_keys_of,
)
from recorder.core.missing import SLACK_NS, Channel, Gap, Interruption, take_ids, take_times
from recorder.values.feed import HistoryRequest
from recorder.values.schema import LONG_NULL
from recorder.values.tables import (
    BACKFILLED,
    CANCELLED,
    CORRECTED,
    DUPLICATE,
    FILLS,
    GAP_DISCONNECT,
    GAP_OPEN,
    GAP_PARTIAL,
    GAP_REPAIRED,
    GAP_SEQUENCE,
    GAP_TIME,
    GAP_UNREPAIRABLE,
    HISTORY,
    LATE,
    NAMED,
    QUOTES,
    TRADES,
)

OPEN_GAPS_MAX = 20_000  # a reconnect of ten thousand symbols, trades and quotes, at half a kB each; beyond, the oldest
PIECES_MAX = 1024  # stretches of ids still missing in one gap; history comes in pages, so that there are few
SEEN_MAX = 4096  # rows known at the edges of a gap without ids: a snapshot on subscribing has 100
QUOTES_MAX = 1 << 17  # fetched of one gap: minutes of the busiest share; it is given up as partial beyond
FAILURES_MAX = 5  # pages of a gap that cannot be read before it is given up
NEAR_IDS = 1000  # gaps no farther apart are asked for together: a page of most providers
CAUSE_CHARS_MAX = 200
SOURCES = 1 << 16  # ids of a journal's sources are two bytes

END_OF_SESSION = "end of session"  # nothing trades until the next one
NOT_WANTED = "none of its symbols is wanted any more"  # closed by a reloaded configuration: nothing is missed
NOT_TOLD = "ended without a word: the recorder was killed, or the disk was full"
UNVERIFIED = "all that history has was fetched; nothing verifies that it is all there was"
NO_NEWS = CANCELLED | CORRECTED | DUPLICATE | NAMED  # rows that say nothing about what has come


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
    recovered: int = 0  # rows, of gaps that are closed
    dropped: int = 0  # rows of history that were not missing
    reason: str = ""  # why the last one was given up


@dataclass
class GapBook:
    """Open gaps of a pipeline. ``out`` gets their rows; ``kernels`` know what came last of each series."""

    out: Output
    kernels: Kernels
    lost_sight: Callable[[np.ndarray], None] = lambda series: None  # told of series that may miss what nothing tells of
    open: dict[Identity, Gap] = field(default_factory=dict)  # oldest first
    links: dict[tuple[str, int], Link] = field(default_factory=dict)  # by feed and connection
    counts: dict[str, Counts] = field(default_factory=dict)  # by feed

    def __post_init__(self) -> None:
        self._channels = {TRADES.name: Channel(keys_of), QUOTES.name: Channel(quote_keys_of)}
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
            self.interrupt(feed, connection, GAP_DISCONNECT, cause, ts_recv - closed)

    def closed(self, feed: str, connection: int, ts_recv: int, reason: str) -> None:
        link = self.links.get((feed, connection))
        if link is not None and not link.closed:
            link.closed, link.reason = ts_recv, reason

    def interrupt(self, feed: str, connection: int, kind: int, cause: str, outage_ns: int = 0) -> None:
        """Rows of this connection may be missing here, without ids to tell. Kernels must have run."""
        state, trades, quotes = self.kernels.state, self._channels[TRADES.name], self._channels[QUOTES.name]
        known = self.out.kept.get((feed, connection), {}).get("series", {})
        self.lost_sight(np.array(list(known.values()), np.int64))
        for series in known.values():
            if series >= state.known:
                continue
            scalars = state.scalars[series]
            start, quoted = int(scalars["last_ts"]), int(scalars["quote_ts"])
            if not scalars["id_kind"] & IDS_CONTIGUOUS and start != NO_TIME:
                recent = state.ids[series][: min(int(scalars["seen"]), RECENT_IDS)].tolist()
                trades.interrupt(series, Interruption(start, kind, cause, set(recent), outage_ns))
            if scalars["id_kind"] & QUOTES_REMEMBERED and quoted != NO_TIME:
                quotes.interrupt(series, Interruption(quoted, kind, cause, state.newest_quotes(series), outage_ns))

    # Rows

    def passed(self, rows: np.ndarray, found: np.ndarray) -> bool:
        """TRADES rows have come by the stream and their kernels have found these gaps. Those whose ids were missing are
        flagged FILLS; whether there are any."""
        for values in found.tolist():
            self._found(*values)
        if channel := self._channels[TRADES.name]:
            self._resume(TRADES.name, channel, rows)
            horizons, series = channel.look(len(self.out.series)), rows["series"]
            near = (rows["trade_id"] <= horizons.ids[series]) | (rows["ts_event"] <= horizons.times[series])
            places = np.flatnonzero(near & (rows["flags"] & NO_NEWS == 0))
            if len(places):
                late = places[self._take(channel, rows[places], None)]
                rows["flags"][late] |= FILLS
                return bool(len(late))
        return False

    def quoted(self, rows: np.ndarray) -> None:
        """QUOTES rows have come by the stream, and their kernel has run."""
        if channel := self._channels[QUOTES.name]:
            self._resume(QUOTES.name, channel, rows)
            near = rows["ts_event"] <= channel.look(len(self.out.series)).times[rows["series"]]
            if len(came := rows[near & (rows["flags"] & NO_NEWS == 0)]):
                self._take(channel, came, None)

    def page(self, page: Page, rows: np.ndarray, readable: bool = True) -> np.ndarray:
        """What is missing of an answer's rows, flagged for the kernels; its gap is closed if this was all.

        rows  of TRADES or QUOTES, whichever the gap is of
        """
        assert page.gap is not None
        quotes = page.gap[2] == QUOTES.name
        kept = rows[self._take(self._channels[QUOTES.name if quotes else TRADES.name], rows, page.gap)]
        kept["flags"] |= BACKFILLED | (LATE if quotes else HISTORY)
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
        elif quotes and gap.recovered >= QUOTES_MAX:
            self._close(gap, f"it has more than {QUOTES_MAX} quotes")
        return kept

    def request(self, gap: Gap) -> HistoryRequest:
        """What to ask for: what is left of the gap, and of gaps of ids that begin within a page after it."""
        if not gap.by_id:
            return HistoryRequest(gap.symbol, gap.channel, gap.start, gap.end)
        start, end, last = gap.start, gap.end, gap.left[-1][1]
        others = self._channels[gap.channel].of(self.out.series.id(gap.feed, gap.symbol))
        for other in sorted((o for o in others if o.by_id), key=lambda o: o.left[0]):
            if last < other.left[0][0] <= last + NEAR_IDS:
                start, end, last = min(start, other.start), max(end, other.end), other.left[-1][1]
        return HistoryRequest(gap.symbol, gap.channel, start - SLACK_NS, end + SLACK_NS, gap.left[0][0], last)

    def missed(
        self, series: int, channel: str, ts_event: int, ts_recv: int, from_id: int, to_id: int, span_ns: int
    ) -> None:
        """Numbered rows did not come, of a provider whose history does not have them."""
        feed, symbol = self.out.series.keys[series]
        gap = Gap(
            feed, symbol, channel, GAP_SEQUENCE, ts_event, ts_recv, from_id, to_id, to_id - from_id + 1, span_ns,
            "numbers missing in the stream", ts_event - span_ns, ts_event,
        )  # fmt: skip
        counts, reason = self._counts(feed), f"the provider has no history of {channel}"
        counts.opened, counts.missing = counts.opened + 1, counts.missing + gap.missing
        counts.given_up, counts.reason = counts.given_up + 1, reason
        self._write(gap, GAP_OPEN, gap.cause)  # which the ledger counts
        self._write(gap, GAP_UNREPAIRABLE, f"{gap.cause}; {reason}")

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

    def _resume(self, name: str, channel: Channel, rows: np.ndarray) -> None:
        """The first rows of interrupted series: one past its last time shows how far the gap reaches."""
        if not channel.interrupted:
            return
        series, news = rows["series"], rows["flags"] & NO_NEWS == 0
        for i in np.flatnonzero(channel.look(len(self.out.series)).interrupted[series] & news).tolist():
            number, ts_event = int(series[i]), int(rows["ts_event"][i])
            before = channel.interrupted.get(number)
            if before is None:
                continue
            if ts_event <= before.start:
                if ts_event == before.start and len(before.seen) < SEEN_MAX:
                    before.seen.add(int(channel.keys(rows[i : i + 1])[0]))
                continue
            channel.resume(number)
            feed, symbol = self.out.series.keys[number]
            self._add(number, Gap(
                feed, symbol, name, before.kind, ts_event, int(rows["ts_recv"][i]), LONG_NULL, LONG_NULL, LONG_NULL,
                ts_event - before.start, before.cause, before.start, ts_event, [], before.seen,
                outage_ns=before.outage_ns,
            ))  # fmt: skip

    def _add(self, series: int, gap: Gap) -> None:
        self._write(gap, GAP_OPEN, gap.cause)
        counts = self._counts(gap.feed)
        counts.opened += 1
        counts.missing += max(0, gap.missing)
        self.open[gap.identity] = gap  # where ids start over, the same place can be missed twice: it is one row
        self._channels[gap.channel].add(series, gap)
        if len(self.open) > OPEN_GAPS_MAX:
            self._close(next(iter(self.open.values())), f"more than {OPEN_GAPS_MAX} gaps are open")

    def _close(self, gap: Gap, reason: str = "") -> None:
        """Complete, or given up for a reason."""
        del self.open[gap.identity]
        self._channels[gap.channel].remove(self.out.series.id(gap.feed, gap.symbol), gap)
        counts = self._counts(gap.feed)
        if reason:
            counts.given_up, counts.reason = counts.given_up + 1, reason
            status = GAP_PARTIAL if gap.recovered else GAP_UNREPAIRABLE
            self._write(gap, status, f"{gap.cause}; {reason[:CAUSE_CHARS_MAX]}")
        else:
            counts.repaired += 1
            self._write(gap, GAP_REPAIRED, gap.cause if gap.by_id else f"{gap.cause}; {UNVERIFIED}")
        counts.recovered += gap.recovered

    def _write(self, gap: Gap, status: int, cause: str) -> None:
        self.out.gap(
            self.out.series.id(gap.feed, gap.symbol), gap.channel, gap.kind, gap.ts_event, gap.ts_recv, cause,
            from_id=gap.from_id, to_id=gap.to_id, missing=gap.missing, span_ns=gap.span_ns, status=status,
            recovered=gap.recovered,
        )  # fmt: skip

    def _counts(self, feed: str) -> Counts:
        return self.counts.setdefault(feed, Counts())

    def _take(self, channel: Channel, rows: np.ndarray, asked: Identity | None) -> np.ndarray:
        """Which rows were missing; they no longer are. Closes gaps that are complete.

        asked  for which gap history was asked; None: the rows came by the stream
        """
        taken = np.zeros(len(rows), np.bool_)
        # What history calls corrected is a print of the gap; the stream's corrections are of trades that came before.
        plain = rows["flags"] & (NO_NEWS if asked is None else NO_NEWS & ~CORRECTED) == 0
        for series in np.unique(rows["series"]).tolist():
            own = np.flatnonzero((rows["series"] == series) & plain)
            by_id: np.ndarray | None = None
            by_time: tuple[list[int], list[int]] | None = None
            # Of thousands of gaps hardly any is the rows': find theirs without a look at all.
            for gap in sorted(channel.of(series), key=lambda gap: (gap.identity != asked, not gap.by_id)):
                if gap.by_id:
                    if by_id is None:
                        by_id = own[np.argsort(rows["trade_id"][own], kind="stable")]
                        ids = rows["trade_id"][by_id]
                    low, high = gap.left[0][0], gap.left[-1][1]
                    mine = np.sort(by_id[np.searchsorted(ids, low) : np.searchsorted(ids, high, side="right")])
                    taken[mine[take_ids(gap, rows[mine])]] = True
                elif gap.identity == asked:
                    taken[own[take_times(gap, rows[own], channel.keys(rows[own]))]] = True
                else:
                    if by_time is None:
                        known = rows[own if asked is None else own[taken[own]]]
                        known = known[np.argsort(known["ts_event"], kind="stable")]
                        by_time = known["ts_event"].tolist(), channel.keys(known).tolist()
                    times, keys = by_time
                    gap.seen.update(keys[bisect_left(times, gap.start) : bisect_right(times, gap.end)])
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
            "interrupted": msgspec.to_builtins(self._channels[TRADES.name].interrupted),
            "quotes_interrupted": msgspec.to_builtins(self._channels[QUOTES.name].interrupted),
            "links": [[*key, *msgspec.structs.astuple(link)] for key, link in self.links.items()],
            "heard": [heard.tolist(), self._last_recv[heard].tolist()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``, of a pipeline whose series have the same ids."""
        self.open = {gap.identity: gap for gap in msgspec.convert(state["open"], list[Gap])}
        for name, key in ((TRADES.name, "interrupted"), (QUOTES.name, "quotes_interrupted")):
            interrupted = msgspec.convert(state.get(key, {}), dict[int, Interruption])  # before there were quotes: none
            self._channels[name] = Channel(self._channels[name].keys, interrupted)
        self.links = {(feed, connection): Link(*link) for feed, connection, *link in state["links"]}
        sources, times = state["heard"]
        self._last_recv[:] = 0
        self._last_recv[sources] = times
        for gap in self.open.values():
            self._channels[gap.channel].add(self.out.series.id(gap.feed, gap.symbol), gap)
