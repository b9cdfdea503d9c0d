"""Frames in, sealed rows out: the one path of live recording, replay, recovery, tests and benches. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np

from recorder.core import history, observations, polled
from recorder.core.batch import Output, Rows
from recorder.core.chains import Chains
from recorder.core.coverage import BY_ID, BY_NOTHING, BY_NUMBER, BY_SEQUENCE, CHANNELS, Coverage
from recorder.core.delivered import Delivered
from recorder.core.encode import Dictionary, Sealed, merge_rows, sort_rows
from recorder.core.frames import BINARY, CLOSED, OBSERVED, OPENED, POLLED, RESPONSE, SOURCE, Frames
from recorder.core.gaps import GapBook
from recorder.core.kernels import (
    IDS_CONTIGUOUS,
    IDS_OPAQUE,
    QUOTES_NUMBERED,
    QUOTES_REMEMBERED,
    REVISED,
    Kernels,
)
from recorder.core.revisions import Revisions
from recorder.core.snapshot import (
    Content,
    Snapshot,
    SourceState,
    kernels_state,
    restore_kernels,
    restore_texts,
)
from recorder.core.source import Source, decoder_of
from recorder.core.templates import Matcher
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError, RecorderError
from recorder.values.feed import MINUTE, Capability, Feed, FeedSpec, Key
from recorder.values.schedule import day_boundaries
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import (
    DUPLICATE,
    FILLS,
    FOLLOWS,
    GAP_OPEN,
    GAP_TIME,
    GAPS,
    HISTORY,
    NAMED,
    OPTIONS_CHAIN,
    QUOTES,
    REJECTED,
    TRADES,
)

HELD_BACK = (TRADES.name, QUOTES.name)  # the tables with many rows a second
SET_BACK = 10 * MINUTE  # by less, or by frames that waited, reception stays in its minute
HELD_ROWS_MAX = 1024  # more in one ts_event are an auction or a snapshot: not worth a window's delay

NO_RULES = (IDS_OPAQUE, 0, *[BY_NOTHING] * len(CHANNELS))  # of a series that no feed declared


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
        self._series_rules: dict[str, tuple[int, ...]] = {}  # feed → (id kind, zone, how channels are verified …)
        self.kernels = Kernels(settings)
        self.revisions = Revisions(self.kernels, self.out)
        self.chains = Chains(settings, self.out)
        self.coverage = Coverage(self.out)
        self.gaps = GapBook(self.out, self.kernels, self.coverage.interrupted)
        self.out.interrupted, self.out.missed = self._interrupted, lambda *what: self.gaps.missed(*what)
        self._counted_quotes = False  # of any feed
        # Start of the minute of reception, the latest of any frame, and 1 ns for each time the clock was set back.
        self._minute = 0
        self._computed: dict[str, list[Rows]] = {}  # rows that kernels have seen, for the next block
        self._held: dict[str, Rows] = {}  # rows handed over with the next block
        self._sealed_to = 0  # position of the last block: what was held back then is in the one after it
        self._matcher, self._templates = Matcher(self.out), templates
        self._delivered = Delivered(self.out, self.kernels)

    def consume(self, frames: Frames) -> None:
        """Decode frames in order; a bad one is counted, recorded in ``rejected`` and passed over."""
        while frames.count:
            other = (frames.ts_recv >= self._minute + MINUTE) | (frames.ts_recv < self._minute - SET_BACK)
            first = int(np.argmax(other))
            if not other[first]:
                break
            self._consume(frames.part(0, first))
            self.write_coverage()
            self.coverage.clear()
            ts_recv = int(frames.ts_recv[first])
            # Entries of a minute that comes a second time must not replace those of the first.
            times = self._minute % MINUTE + (ts_recv < self._minute)
            self._minute = ts_recv - ts_recv % MINUTE + times
            frames = frames.part(first, frames.count)
        self._consume(frames)

    def write_coverage(self) -> None:
        """Entries of the minute of reception so far; the same again, with more in them, when the minute is over."""
        self._run_kernels()
        self.coverage.write(self._minute)

    def _consume(self, frames: Frames) -> None:
        at, count = 0, frames.count
        while at < count:
            at, last = self._matcher.match(frames, at)
            if at < last:
                self._decode(frames, at, last)
            at = last
        self._matcher.release()
        if count:
            self.gaps.received(frames, count)
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
                self._run_kernels()
                self.gaps.received(frames, int(np.searchsorted(frames.ends, end)))
                self.gaps.opened(scope.feed, scope.connection, number, ts_recv)
            elif kind == CLOSED:
                scope.position = end
                reason = payload.decode("utf-8", "replace")
                scope.event(ts_recv, "closed", reason)
                self.gaps.closed(scope.feed, scope.connection, ts_recv, reason)
            elif kind == RESPONSE:
                scope.position = end
                self._answered(source, payload, ts_recv)
            elif kind == POLLED:
                scope.position = end
                self._polled(source, payload, ts_recv)

    def _interrupted(self, feed: str, connection: int, kind: int, cause: str) -> None:
        self._run_kernels()
        self.gaps.interrupt(feed, connection, kind, cause)

    def _answered(self, source: Source, payload: bytes, ts_recv: int) -> None:
        """An answer of the provider's history: what was missing becomes rows, everything else is dropped."""
        self._run_kernels()
        before, readable = self.out.counts(), True
        try:
            page, body = history.decode(payload)
        except FrameError as error:
            source.rejected += 1
            source.scope.reject(str(error), payload, ts_recv)
            return
        try:
            if not page.reason:
                source.read_history(page.request, body, ts_recv)
        except Exception as error:
            self.out.rollback(before)
            source.rejected, readable = source.rejected + 1, False
            source.scope.reject(f"{page.url}: {type(error).__name__}: {error}", body, ts_recv)
        self._know_series()
        name = QUOTES.name if page.gap is not None and page.gap[2] == QUOTES.name else TRADES.name
        rows = self.out.batches[name].seal()
        if page.gap is None:  # a user asked: all of it, and none of it is news
            rows.rows["flags"] |= HISTORY
            kept = rows
        else:
            kept = replace(rows, rows=self.gaps.page(page, rows.rows, readable))
        repair = page.gap is not None
        self._computed.setdefault(name, []).append(self._compute(name, kept, live=False, covered=repair))
        self._run_kernels(covered=repair)

    def _polled(self, source: Source, payload: bytes, ts_recv: int) -> None:
        """An answer to a poll: all of it becomes rows, or what is wrong with it does."""
        source.decoded += 1
        before, key, body = self.out.counts(), "", payload
        try:
            head, body = polled.decode(payload)
            key = f"{head.key}: "
            source.read_poll(head.key, body, ts_recv)
        except Exception as error:
            self.out.rollback(before)
            source.rejected += 1
            words = str(error) if isinstance(error, FrameError) else f"{type(error).__name__}: {error}"
            source.scope.reject(key + words, body, ts_recv)

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
        kind |= (QUOTES_NUMBERED if capability.overlap else 0) | (REVISED if capability.revisions else 0)
        self.revisions.enabled |= capability.revisions
        self._counted_quotes |= capability.quotes_counted
        kind |= QUOTES_REMEMBERED if QUOTES.name in capability.history_channels else 0
        self._set_rules(spec.name, (kind, self._zones[zone], *_verification(capability)))
        scope = self.out.scope(spec.name, spec.connection)
        self._delivered.declare(spec.name, capability.transport == "poll")
        decode, templates = decoder_of(feed, scope), None
        if self._templates and hasattr(feed, "templates"):
            templates = feed.templates(scope)
        if templates is None:
            self._matcher.withdraw(number)
        else:
            self._matcher.declare(number, scope, templates)
        self.sources[number] = Source(spec, feed, scope, decode, partial(self._matcher.matched, number))

    def _set_rules(self, feed: str, rules: tuple[int, ...]) -> None:
        """How series of a feed are treated; of those known already only what its history has can have changed, and, by
        another version of ours, how its channels are verified."""
        before = self._series_rules.get(feed, rules)
        self._series_rules[feed] = rules
        remembers, verified = (before[0] ^ rules[0]) & QUOTES_REMEMBERED, before[2:] != rules[2:]
        if remembers or verified:
            known = self.out.series.keys[: self.kernels.state.known]
            own = [number for number, (name, _) in enumerate(known) if name == feed]
            self.kernels.state.scalars["id_kind"][own] ^= remembers
            self.coverage.verify[own] = rules[2:]

    @property
    def pending(self) -> int:
        """Rows collected and not handed over yet."""
        computed = sum(len(part.rows) for parts in self._computed.values() for part in parts)
        held = sum(len(rows.rows) for rows in self._held.values())
        return sum(len(batch) for batch in self.out.batches.values()) + computed + held

    def seal(self, hold: bool = False) -> Sealed:
        """Run the kernels over what was collected and hand it over, each table sorted by ts_event.

        hold  keep the rows of a table's newest ts_event back for the next block, once. Providers stamp milliseconds; a
              block that begins where the one before ended is merged by the server instead of appended, which at
              10,000 trades/s took twice the CPU and two to three times the latency.
        """
        self._run_kernels()
        tables: list[Rows] = []
        held, self._held = self._held, {}
        computed, self._computed = self._computed, {}
        for name in self.out.batches:
            parts = [rows for rows in (held.get(name), *computed.get(name, ())) if rows is not None and len(rows.rows)]
            if not parts:
                continue
            rows = sort_rows(merge_rows(parts))
            if hold and name in HELD_BACK:
                rows = self._hold_back(name, rows, held.get(name))
            if len(rows.rows):
                tables.append(rows)
        reached, self._sealed_to = self._sealed_to if self._held else self.position, self.position
        return Sealed(reached, tuple(tables), Dictionary.of(self.out))

    def _run_kernels(self, covered: bool = True) -> None:
        """Over what was collected, in the order it was received: where this is called changes no row."""
        self._know_series()
        for name, batch in self.out.batches.items():
            if len(batch):
                self._computed.setdefault(name, []).append(self._compute(name, batch.seal(), covered=covered))

    def _compute(self, name: str, sealed: Rows, live: bool = True, covered: bool = True) -> Rows:
        """What kernels add to fresh rows, and which of them are not to be stored again.

        live     by the stream, not from history
        covered  received, or the repair of a gap: not the past that a user asked for, of which coverage tells nothing
        """
        rows = counted = sealed.rows
        again: Rows | None = None
        flagged = name == QUOTES.name and self._counted_quotes
        if name == TRADES.name:
            if live:
                found, again, replaced = self.revisions.run(sealed)
                flagged = self.gaps.passed(rows, found)
                counted = np.delete(rows, replaced) if replaced else rows
            else:
                again = self.revisions.past(sealed)
            named = (rows["flags"] & NAMED) != 0
            if named.any():
                rows, counted = rows[~named], counted[(counted["flags"] & NAMED) == 0]
        elif name == QUOTES.name:
            if live:
                self.kernels.quotes(rows)
                self.gaps.quoted(rows)
        elif name == OPTIONS_CHAIN.name:
            self.chains.compute(rows)
        elif name in (GAPS.name, REJECTED.name):
            self._account(name, rows)
        if name in CHANNELS and covered:
            self.coverage.rows(name, counted)
        if flagged:
            rows["flags"] &= ~(FOLLOWS | FILLS)
        if name in HELD_BACK:
            repeated = (rows["flags"] & DUPLICATE) != 0
            if repeated.any():
                self.duplicates += int(repeated.sum())
                rows = rows[~repeated]
        self._delivered.add(name, rows)
        self.rows[name] += len(rows)
        computed = replace(sealed, rows=rows)
        return computed if again is None else merge_rows([computed, again])

    def _account(self, name: str, rows: np.ndarray) -> None:
        """What is missing or did not fit goes into the ledger."""
        if name == REJECTED.name:
            series, channel = self.out.series.id, self.out.texts.id("*")
            for feed, ts_event in rows[["feed", "ts_event"]].tolist():
                self.coverage.tell(series(self.out.texts.name(feed), "*"), channel, ts_event, 0, 1, TEXT_NULL)
            return
        fresh = rows[(rows["status"] <= GAP_OPEN) & (rows["kind"] != GAP_TIME)]
        columns = ["series", "channel", "ts_event", "missing", "cause"]
        for series_id, channel, ts_event, missing, cause in fresh[columns].tolist():
            self.coverage.tell(series_id, channel, ts_event, max(missing, 0), 0, cause)

    def delivered(self, feed: str, keys: Iterable[Key]) -> dict[Key, int]:
        """How many rows of these (channel, symbol) came so far, repeats included; of the symbol ``*``, of all."""
        return self._delivered.count(feed, keys)

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
            kind, zone, *verify = self._series_rules.get(keys[state.known][0], NO_RULES)
            state.add(kind, zone)
            self.coverage.add_series(tuple(verify))

    def snapshot(self) -> Snapshot:
        """State after the last frame consumed. Only right after ``seal()``: rows handed over are not in it."""
        assert not self.pending, "a snapshot is taken when every row has been handed over"
        self.out.tops.settle()
        by_scope = {source.scope.counter: number for number, source in self.sources.items()}
        sources = [
            SourceState(number, source.spec, int(self.out.counters[source.scope.counter]))
            for number, source in self.sources.items()
        ]
        content = Content(
            position=self.position,
            minute=self._minute,
            texts=self.out.texts.names(),
            series=list(self.out.series.keys),
            zones=list(self._zones),
            rules={feed: list(rules) for feed, rules in self._series_rules.items()},
            sources=sources,
            kept=[(*key, {name: dict(values) for name, values in kept.items()}) for key, kept in self.out.kept.items()],
            kernels=kernels_state(self.kernels),
            coverage=self.coverage.state(),
            gaps=self.gaps.state(),
            revisable=self.revisions.state(),
            revisions=self.revisions.cases(),
        )
        spaces = {space: (by_scope.get(scope, -1), name) for (scope, name), space in self.out.spaces.items()}
        return Snapshot(content, self.out.spellings.memories(), spaces)

    def restore(self, content: Content) -> None:
        """Go on from a snapshot; of a pipeline that has seen nothing yet."""
        restore_texts(self.out, content)
        for zone in content.zones:
            self._zones[zone] = self.kernels.add_zone(day_boundaries(zone))
        self._series_rules = {feed: tuple(rules) for feed, rules in content.rules.items()}
        restore_kernels(self.kernels, content.kernels)
        self.coverage.restore(content.coverage)
        self.gaps.restore(content.gaps)
        self.revisions.restore(content.revisable, content.revisions)
        for state in content.sources:
            self._declare(state.number, msgspec.json.encode(state.spec))
            source = self.sources.get(state.number)
            if source is not None:
                self.out.counters[source.scope.counter] = state.counter
                for kind, spelling, number in state.memories:
                    self.out.spellings.recall(source.scope.space(kind), spelling, number)
        self._minute = content.minute
        self.position = self._sealed_to = content.position

    def warm(self) -> None:
        """Compile, or load from the cache, all that frames and blocks need: seconds that no frame should wait for."""
        self.kernels.warm()
        self.chains.warm()
        self.coverage.warm()
        self._matcher.warm()


def _verification(capability: Capability) -> list[int]:
    """How rows of each channel are verified, BY_…"""
    if capability.loss_detector == "sequence" and capability.scope == "connection":
        return [BY_SEQUENCE] * len(CHANNELS)
    by = dict.fromkeys(CHANNELS, BY_NOTHING)
    by[TRADES.name] = BY_ID if capability.trade_ids == "contiguous" else BY_NOTHING
    by[QUOTES.name] = BY_NUMBER if capability.quotes_counted else BY_NOTHING
    return list(by.values())
