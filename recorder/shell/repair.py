"""Repair of gaps: asks providers for what is missing, journals their answers, and leaves the judging to the fold.

The work list is the pipeline's book of gaps, so a crash loses nothing: what is still open is asked for again. Tries are
counted anew then. A feed's trades and quotes are asked for beside each other, so that trades never wait for the many
quotes of an outage; the provider's pace bounds them together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from recorder.core import history
from recorder.core.frames import RESPONSE
from recorder.core.gaps import Counts, Gap, GapBook
from recorder.core.history import HISTORY_CONNECTION, Identity, Page
from recorder.shell.history_client import PASSING, HistoryClient, excerpt, limited
from recorder.shell.pace import Pace
from recorder.values.config import RepairConfig
from recorder.values.errors import JournalFull, RecorderError
from recorder.values.feed import SECOND, Capability, FeedSpec, Historian, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX
from recorder.values.tables import QUOTES

LOOK_S = 0.5  # how often the work list is looked at
TAKEN_S = 0.01  # how often it is looked at whether the fold has taken an answer
RETRY_FIRST_S = 2.0  # after a failed try, doubled with each further one
RETRY_MAX_S = 300.0  # a provider that is down for an hour is asked again within five minutes
FULL_S = 30.0  # nothing is asked for while the disk is full: answers could not be journalled
TELL_S = 10.0  # at most one line each about the gaps of a feed in this time


class Journal(Protocol):
    @property
    def end(self) -> int: ...
    def source(self, spec: FeedSpec) -> int: ...
    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int: ...


class Fold(Protocol):
    """The engine: the pipeline it drives now, and how to have it look at the journal."""

    pipeline: Any

    def wake(self) -> None: ...


class _Again(Exception):
    """This try has failed; another may succeed."""


class _Never(Exception):
    """Asking again cannot help."""


class _Later(Exception):
    """The feed is to be left alone for a while; this was no try."""


@dataclass
class _Tries:
    failed: int = 0
    not_before: float = 0.0  # of the loop's clock


class Repairer:
    """One task that looks, and one for each feed and channel with something to ask for.

    feeds     by name, spec and feed of those being recorded; asked each time
    pace      of a provider, shared by all who ask it; without it the repairer is alone
    requests  how many were made, by feed and status (0: no answer)
    """

    def __init__(
        self,
        config: RepairConfig,
        journal: Journal,
        fold: Fold,
        feeds: Callable[[], Mapping[str, tuple[FeedSpec, Historian]]],
        log: Any,
        uniform: Callable[[], float] = random.random,
        pace: Callable[[str], Pace] | None = None,
    ) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._config, self._journal, self._fold, self._feeds = config, journal, fold, feeds
        self._log, self._uniform = log, uniform
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}  # by feed and channel
        self._clients: dict[tuple[str, str], HistoryClient] = {}
        self._paces: dict[str, Pace] = {}  # by provider
        self._pace = pace or (lambda provider: self._paces.setdefault(provider, Pace()))
        self._tries: dict[Identity, _Tries] = {}
        self._told: dict[str, tuple[float, Counts]] = {}
        self._refused: dict[tuple[str, str], str] = {}  # by feed and channel, in words; told when they change
        self._not_before = 0.0  # of the loop's clock, for all
        self._stopped = False

    @property
    def book(self) -> GapBook:
        book: GapBook = self._fold.pipeline.gaps
        return book

    async def run(self) -> None:
        """Until ``stop()``: tell what changed, and see that every feed with something due is being asked."""
        while not self._stopped:
            await asyncio.sleep(LOOK_S)
            await self._taken(self._journal.end)  # before that the book is of the past: what it lacks may be journalled
            self._tell()
            self._tries = {identity: tries for identity, tries in self._tries.items() if identity in self.book.open}
            if not self._config.enabled or self._stopped:
                continue
            feeds = self._feeds()
            for key, gaps in self._due().items():
                task = self._tasks.get(key)
                if key[0] not in feeds or (task is not None and not task.done()):
                    continue
                spec, feed = feeds[key[0]]
                if not self._pace(spec.provider).held_s:
                    self._tasks[key] = asyncio.create_task(self._repair(spec, feed, gaps))

    async def stop(self) -> None:
        """Ask no more; what is open stays in the book. Nothing is journalled after this returned."""
        self._stopped = True
        for client in self._clients.values():
            client.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell(at_once=True)

    def _due(self) -> dict[tuple[str, str], list[Gap]]:
        """What may be asked for now, by feed and channel, oldest first; in one pass, as there may be thousands."""
        due: dict[tuple[str, str], list[Gap]] = {}
        now, latest = asyncio.get_running_loop().time(), time.time_ns() - round(self._config.delay_s * SECOND)
        if now < self._not_before:
            return due
        for identity, gap in list(self.book.open.items()):
            tries = self._tries.get(identity)
            if gap.ts_recv <= latest and (tries is None or now >= tries.not_before):
                due.setdefault((gap.feed, gap.channel), []).append(gap)
        return due

    async def _repair(self, spec: FeedSpec, feed: Historian, gaps: list[Gap]) -> None:
        """Ask for gaps of one feed and channel."""
        try:
            for due in gaps:
                gap = self.book.open.get(due.identity)  # none: an answer to another has completed it
                if gap is not None:
                    await self._try(spec, feed, gap)
        except _Later:
            return
        except JournalFull:
            self._not_before = asyncio.get_running_loop().time() + FULL_S

    async def _try(self, spec: FeedSpec, feed: Historian, gap: Gap) -> None:
        """Ask for one gap, and take a no for an answer. Raises _Later, JournalFull."""
        recovered = gap.recovered
        try:
            await self._ask(spec, feed, gap)
        except _Never as error:
            await self._give_up(spec, gap, str(error))
        except (_Later, JournalFull):
            raise
        except _Again as error:
            await self._failed(spec, gap, str(error), recovered)
        except Exception as error:  # an error of ours: neither other gaps nor other feeds are to suffer
            self._log.error("repair.failed", feed=spec.name, symbol=gap.symbol, exception=error)
            await self._failed(spec, gap, "an error of the recorder, see its log", recovered)

    async def _failed(self, spec: FeedSpec, gap: Gap, reason: str, recovered: int) -> None:
        """``recovered``: rows before this try. One that brought some starts the count of tries over."""
        now = self.book.open.get(gap.identity)
        if now is not None and now.recovered > recovered:
            self._tries.pop(gap.identity, None)
        tries = self._tries.setdefault(gap.identity, _Tries())
        tries.failed += 1
        if tries.failed >= self._config.attempts:
            await self._give_up(spec, gap, reason)
            return
        wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** (tries.failed - 1)) * (0.5 + 0.5 * self._uniform())
        tries.not_before = asyncio.get_running_loop().time() + wait_s

    async def _ask(self, spec: FeedSpec, feed: Historian, gap: Gap) -> None:
        """All pages of one question."""
        capability = feed.capability()
        if gap.channel not in capability.history_channels:
            raise _Never(f"the provider has no history of {gap.channel}")
        if gap.channel == QUOTES.name and gap.outage_ns >= self._config.quotes_s_max * SECOND:
            raise _Never(f"not below [repair] quotes_s_max = {self._config.quotes_s_max:g}; see `recorder backfill`")
        if capability.history_window_ns and gap.start < time.time_ns() - capability.history_window_ns:
            raise _Never("older than the provider's history")
        request = self.book.request(gap)
        failures, number, words = gap.failures, 0, ""
        try:
            pages = feed.history(request)
            http: HttpRequest | None = next(pages, None)
        except RecorderError as error:
            raise _Never(str(error)) from error
        while http is not None:
            response = await self._get(spec, gap.channel, http, capability)
            following, last, words = _following(pages, response)
            last = last and number + 1 < PAGES_MAX  # an end that histories make themselves
            page = Page(gap=gap.identity, request=request, number=number, url=http.url, last=last)
            await self._journalled(spec, history.encode(page, response.body))
            now = self.book.open.get(gap.identity)
            if now is None:
                return
            if now.failures > failures:
                raise _Again(words or "its history cannot be read")
            number, http = number + 1, following
        if number >= PAGES_MAX and not gap.by_id:
            raise _Never(f"it has more than {PAGES_MAX} pages of history")
        raise _Again(words or "not in the provider's history")

    async def _get(self, spec: FeedSpec, channel: str, http: HttpRequest, capability: Capability) -> HttpResponse:
        """One answer with status 200, no sooner than the provider's pace allows."""
        name, pace = spec.name, self._pace(spec.provider)
        await pace.turn(capability)
        client = self._clients.setdefault((name, channel), HistoryClient())
        try:
            response = await client.get(http)
        except RecorderError as error:
            raise _Never(str(error)) from error
        except OSError as error:
            self.requests[name, 0] += 1
            raise _Again(f"no answer: {type(error).__name__}") from error
        pace.heed(response.headers)
        status = response.status
        self.requests[name, status] += 1
        refused = limited(response, capability.limited_by, time.time())
        if refused is not None:
            wait_s = pace.limited(refused.wait_s)
            self._log.warning("history.limited", feed=name, status=status, wait_s=round(wait_s, 1))
            raise _Later
        if status == 200:
            pace.answered()
            self._refused.pop((name, channel), None)
            return response
        if status in PASSING:
            raise _Again(f"HTTP {status}")
        words = f"{status} {excerpt(response)}"
        if self._refused.get((name, channel)) != words:
            self._refused[name, channel] = words
            self._log.warning("history.refused", feed=name, status=status, url=http.url, reason=excerpt(response))
        raise _Never(f"HTTP {status}")

    async def _give_up(self, spec: FeedSpec, gap: Gap, reason: str) -> None:
        if gap.identity in self.book.open:
            page = Page(gap=gap.identity, request=self.book.request(gap), status=0, last=True, reason=reason)
            await self._journalled(spec, history.encode(page))

    async def _journalled(self, spec: FeedSpec, payload: bytes) -> None:
        """Journal, and wait until the fold has taken it. Raises JournalFull."""
        source = self._journal.source(msgspec.structs.replace(spec, connection=HISTORY_CONNECTION))
        position = self._journal.append(source, RESPONSE, time.time_ns(), payload)
        self._fold.wake()
        await self._taken(position)

    async def _taken(self, position: int) -> None:
        while self._fold.pipeline.position < position:
            await asyncio.sleep(TAKEN_S)

    def _tell(self, at_once: bool = False) -> None:
        """One line a feed for what has come since the last one."""
        now = asyncio.get_running_loop().time()
        for name, counts in self.book.counts.items():
            at, told = self._told.get(name, (-TELL_S, Counts()))
            if counts == told or (now - at < TELL_S and not at_once):
                continue
            self._told[name] = now, Counts(**vars(counts))
            if counts.opened > told.opened:
                self._log.warning(
                    "gap.opened", feed=name, gaps=counts.opened - told.opened, missing=counts.missing - told.missing
                )
            if counts.repaired > told.repaired:
                self._log.info(
                    "gap.repaired", feed=name, gaps=counts.repaired - told.repaired,
                    recovered=counts.recovered - told.recovered,
                )  # fmt: skip
            if counts.given_up > told.given_up:
                self._log.warning("gap.given_up", feed=name, gaps=counts.given_up - told.given_up, reason=counts.reason)


def _following(
    pages: Generator[HttpRequest, HttpResponse, None], response: HttpResponse
) -> tuple[HttpRequest | None, bool, str]:
    """(what to ask for after this page, whether it was the last, what is wrong with it)."""
    try:
        return pages.send(response), False, ""
    except StopIteration:
        return None, True, ""
    except RecorderError as error:
        return None, False, str(error)
