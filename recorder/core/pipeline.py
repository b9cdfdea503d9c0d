"""Frames in, sealed rows out: the one path of live recording, replay, recovery, tests and benches. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np

from recorder.core import observations
from recorder.core.batch import Output, Rows, Scope
from recorder.core.encode import Dictionary, Sealed, merge_rows, sort_rows
from recorder.core.frames import BINARY, CLOSED, OBSERVED, OPENED, SOURCE, Frames
from recorder.core.kernels import IDS_CONTIGUOUS, IDS_OPAQUE, QUOTES_NUMBERED, Kernels
from recorder.core.templates import Matcher
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError, RecorderError
from recorder.values.feed import Feed, FeedSpec
from recorder.values.schedule import day_boundaries
from recorder.values.tables import DUPLICATE, GAP_OPEN, GAP_TRADE_ID, GAPS, QUOTES, TRADES

HELD_BACK = (TRADES.name, QUOTES.name)  # the tables with many rows a second
HELD_ROWS_MAX = 1024  # more in one ts_event are an auction or a snapshot: not worth a window's delay

NO_RULES = (IDS_OPAQUE, 0)  # of a series that no feed has trades of

Decode = Callable[[bytes, int], None]


@dataclass
class Source:
    """A connection as the journal knows it: its decoder and what came of its frames."""

    spec: FeedSpec
    scope: Scope
    decode: Decode
    matched: Callable[[], int]  # frames that its templates took
    decoded: int = 0  # frames that its decoder was given
    rejected: int = 0

    @property
    def frames(self) -> int:
        return self.decoded + self.matched()


class Pipeline:
    """State = fold(journal): the same frames give the same rows wherever they were cut and batches sealed.

    ``make`` builds a feed from its spec. Without ``templates`` every frame goes through its feed's decoder: same rows.
    """

    def __init__(self, settings: KernelsConfig, make: Callable[[FeedSpec], Feed], templates: bool = True) -> None:
        self.out = Output()
        self.sources: dict[int, Source] = {}
        self.position = 0  # of the last frame consumed
        self.duplicates = 0
        self.rows: dict[str, int] = {name: 0 for name in self.out.batches}
        self._make = make
        self._zones: dict[str, int] = {}
        self._series_rules: dict[str, tuple[int, int]] = {}  # feed → (id kind, zone)
        self.kernels = Kernels(settings)
        self._held: dict[str, Rows] = {}  # rows handed over with the next block
        self._sealed_to = 0  # position of the last block: what was held back then is in the one after it
        self._matcher, self._templates = Matcher(self.out), templates

    def consume(self, frames: Frames) -> None:
        """Decode frames in order; a bad one is counted, recorded in ``rejected`` and passed over."""
        at, count = 0, frames.count
        while at < count:
            at, last = self._matcher.match(frames, at)
            if at < last:
                self._decode(frames, at, last)
            at = last
        self._matcher.release()
        if count:
            self.position = frames.end

    def _decode(self, frames: Frames, first: int, last: int) -> None:
        """Frames ``first`` to ``last - 1`` one by one: those that no template took."""
        start, stop = int(frames.starts[first]), int(frames.starts[last - 1] + frames.lengths[last - 1])
        blob = frames.data[start:stop].tobytes()  # one copy, then slices of bytes: half the cost of a memoryview each
        sources = self.sources
        current, source = -1, None
        for kind, number, ts_recv, place, length, end in frames.table[:, first:last].T.tolist():
            payload = blob[place - start : place - start + length]
            if number != current or kind == SOURCE:
                if kind == SOURCE:
                    self._declare(number, payload)
                current, source = number, sources.get(number)
            if kind == OBSERVED:
                self._observe(payload)
                continue
            if source is None:
                continue  # a segment whose declaration was lost: nothing can be said of its frames
            scope = source.scope
            if kind <= BINARY:
                scope.position = end
                source.decoded += 1
                try:
                    source.decode(payload, ts_recv)
                except Exception as error:
                    # A provider may send anything, a decoder may be wrong: neither may stop the others.
                    source.rejected += 1
                    words = str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"
                    scope.reject(words, payload, ts_recv)
            elif kind == OPENED:
                scope.position = end
                scope.opened()
                scope.event(ts_recv, "opened", None)
            elif kind == CLOSED:
                scope.position = end
                scope.event(ts_recv, "closed", payload.decode("utf-8", "replace"))

    def _observe(self, payload: bytes) -> None:
        """Rows of our own; those of another version that do not fit are counted and passed over."""
        before = self.out.counts()
        try:
            observations.store(self.out, payload)
        except Exception as error:
            self.out.rollback(before)
            self.out.unknown[("recorder", f"observation: {error}"[:80])] = 1

    def _declare(self, number: int, payload: bytes) -> None:
        """A SOURCE frame: known ones keep their state (they are declared again in every segment)."""
        try:
            spec = msgspec.json.decode(payload, type=FeedSpec)
            known = self.sources.get(number)
            if known is not None and known.spec == spec:
                return
            feed = self._make(spec)
        except (msgspec.MsgspecError, RecorderError) as error:
            # Of a provider or an option this version does not know: its frames are passed over, counted, and kept.
            self.sources.pop(number, None)
            self._matcher.withdraw(number)
            self.out.unknown[("journal", f"source {number}: {error}"[:80])] = 1
            return
        capability = feed.capability()
        zone = capability.session_zone
        if zone not in self._zones:
            self._zones[zone] = self.kernels.add_zone(day_boundaries(zone))
        kind = IDS_CONTIGUOUS if capability.trade_ids == "contiguous" else IDS_OPAQUE
        kind |= QUOTES_NUMBERED if capability.overlap else 0
        self._series_rules[spec.name] = (kind, self._zones[zone])
        scope = self.out.scope(spec.name, spec.connection)
        decode, templates = feed.decoder(scope), None
        if self._templates and hasattr(feed, "templates"):
            templates = feed.templates(scope)
        if templates is None:
            self._matcher.withdraw(number)
        else:
            self._matcher.declare(number, scope, templates)
        self.sources[number] = Source(spec, scope, decode, partial(self._matcher.matched, number))

    @property
    def pending(self) -> int:
        """Rows collected and not handed over yet."""
        return sum(len(batch) for batch in self.out.batches.values()) + sum(len(r.rows) for r in self._held.values())

    def seal(self, hold: bool = False) -> Sealed:
        """Run the kernels over what was collected and hand it over, each table sorted by ts_event.

        hold  keep the rows of a table's newest ts_event back for the next block, once. Providers stamp milliseconds; a
              block that begins where the one before ended is merged by the server instead of appended, which at
              10,000 trades/s took twice the CPU and two to three times the latency.
        """
        self._know_series()
        tables: list[Rows] = []
        held, self._held = self._held, {}
        for name, batch in self.out.batches.items():
            fresh = self._compute(name, batch.seal()) if len(batch) else None
            parts = [rows for rows in (held.get(name), fresh) if rows is not None and len(rows.rows)]
            if not parts:
                continue
            rows = sort_rows(merge_rows(parts))
            if hold and name in HELD_BACK:
                rows = self._hold_back(name, rows, held.get(name))
            if len(rows.rows):
                tables.append(rows)
        reached, self._sealed_to = self._sealed_to if self._held else self.position, self.position
        return Sealed(reached, tuple(tables), Dictionary.of(self.out))

    def _compute(self, name: str, sealed: Rows) -> Rows:
        """What kernels add to fresh rows, and which of them are not to be stored again."""
        rows = sealed.rows
        if name == TRADES.name:
            self._add_gaps(self.kernels.trades(rows))
        elif name == QUOTES.name:
            self.kernels.quotes(rows)
        if name in HELD_BACK:
            repeated = (rows["flags"] & DUPLICATE) != 0
            if repeated.any():
                self.duplicates += int(repeated.sum())
                rows = rows[~repeated]
        self.rows[name] += len(rows)
        return Rows(sealed.table, rows, sealed.varchar_heap, sealed.varchar_offsets)

    def _hold_back(self, name: str, rows: Rows, before: Rows | None) -> Rows:
        """Put the rows of the newest ts_event aside, unless they are all, too many, or held back already."""
        times = rows.rows["ts_event"]
        newest = times[-1]
        first = int(np.searchsorted(times, newest))
        again = before is not None and before.rows["ts_event"][-1] == newest
        if again or first == 0 or len(times) - first > HELD_ROWS_MAX:
            return rows
        self._held[name] = replace(rows, rows=rows.rows[first:])
        return replace(rows, rows=rows.rows[:first])

    def _know_series(self) -> None:
        state, keys = self.kernels.state, self.out.series.keys
        while state.known < len(keys):
            state.add(*self._series_rules.get(keys[state.known][0], NO_RULES))

    def _add_gaps(self, gaps: np.ndarray) -> None:
        """Gaps found by the kernels become rows of this same block: GAPS comes after TRADES among the batches."""
        batch, text = self.out.batches[GAPS.name], self.out.texts.id
        for series, ts_event, ts_recv, kind, from_id, to_id, missing, span in gaps.tolist():
            cause = "ids missing in the stream" if kind == GAP_TRADE_ID else "no trade for longer than time_gap_s"
            batch.append(
                ts_event, ts_recv, series, text("trades"), kind, from_id, to_id, missing, span, text(cause), GAP_OPEN, 0
            )

    def warm(self) -> None:
        """Compile, or load from the cache, all that frames and blocks need: seconds that no frame should wait for."""
        self.kernels.warm()
        self._matcher.warm()
