"""Asks a provider that cannot be listened to: each poll on its schedule, within the provider's limits; its answers are
journalled, and the fold makes rows of them.

What goes wrong with one poll (an unknown symbol, an error in an answer) delays that poll alone; what goes wrong with
the provider (no answer, a refused key, a pause it asks for) delays all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from recorder.core import polled
from recorder.core.frames import FRAME_BYTES_MAX, POLLED
from recorder.shell.audit import Observe, Reporter
from recorder.shell.history_client import BUSY, HistoryClient, Signer, excerpt, limited
from recorder.shell.pace import Pace
from recorder.values.errors import FrameError, JournalFull, Limited, LoginNeeded, RecorderError
from recorder.values.feed import SECOND, Feed, FeedSpec, HttpRequest, HttpResponse, Poll, Polled

BODY_BYTES_MAX = FRAME_BYTES_MAX - (64 << 10)  # with its line of JSON it must fit a frame
TIMEOUT_S = 30.0  # for a whole answer: an index's option chain is tens of MB
PAGES_MAX = 1000  # of one round; a provider whose cursor never ends does not keep us for ever
DOWN_FIRST_S = 1.0  # after no answer or a server's error, doubled with each further one in a row
DOWN_MAX_S = 60.0  # a provider that is down for an hour is found again within a minute
REFUSED_FIRST_S, REFUSED_MAX_S = 60.0, 900.0  # after a refused key: its owner may mend it while we run
FAILED_FIRST_S, FAILED_MAX_S = 60.0, 3600.0  # of one poll alone: a symbol may be listed tomorrow
LOGIN_S = 2.0  # how often it is looked at whether somebody has logged in; nobody is asked for that
FULL_S = 1.0  # the disk is: until the recording pauses, or there is room
REFUSED = (401, 403)


class Journal(Protocol):
    def source(self, spec: FeedSpec) -> int: ...
    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int: ...


class _Down(Exception):
    """The provider does not answer, or says that it cannot."""


class _Refused(Exception):
    """The provider does not take our key."""


@dataclass
class Asked:
    """A poll and what became of it. Times are those of the loop's clock."""

    poll: Poll
    due: float
    failures: int = 0  # in a row
    problem: str = ""
    since: int = 0  # when it began, ns


class Poller:
    """All polls of one share of a feed, asked one after the other. To its feed what a Connection is to a stream.

    make_feed  makes another feed, for other symbols
    pace       the provider's, shared by all who ask it
    observe    records rows of our own: what happens to the polls
    signer     sends the requests that are to be signed, where somebody has to log in
    uniform    returns a random float in [0, 1)
    """

    renewals = reconnects = queue_bytes = 0  # there is no connection that could be opened again

    def __init__(
        self,
        spec: FeedSpec,
        journal: Journal,
        wake: Callable[[], None],
        log: Any,
        make_feed: Callable[[FeedSpec], Feed],
        pace: Pace,
        observe: Observe | None = None,
        uniform: Callable[[], float] = random.random,
        signer: Signer | None = None,
    ) -> None:
        self.spec, self.pace, self._signer = spec, pace, signer
        self.requests: Counter[int] = Counter()  # by status; 0: no answer
        self.frames = 0  # answers journalled
        self.last_recv = 0  # when the last one came, ns; 0: none has
        self.problem = ""  # with the provider; empty while it answers
        self._journal, self._wake, self._log, self._make_feed, self._uniform = journal, wake, log, make_feed, uniform
        self._report = Reporter(spec, observe)
        self._client = HistoryClient(BODY_BYTES_MAX, TIMEOUT_S)
        self._polls: dict[str, Asked] = {}
        self._held_until = 0.0
        self._failures = 0  # of the provider, in a row
        self._announced = False  # that it answers
        self._told = ""  # the event told last of a problem of the provider
        self._since = 0  # when that began, ns
        self._asking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stopping = False
        self._take(spec)

    def _take(self, spec: FeedSpec) -> None:
        """Ask what a feed with this spec asks; polls that stay keep their time. Raises SymbolError, ConfigError."""
        feed = cast(Polled, self._make_feed(spec))
        polls, capability = feed.polls(), feed.capability()
        now = time.monotonic()
        kept = {poll.key: self._polls.get(poll.key) or Asked(poll, now) for poll in polls}
        for poll in polls:
            kept[poll.key].poll = poll
        self.spec, self.capability, self._polls = spec, capability, kept

    @property
    def ready(self) -> bool:
        """It has answered, and does so still."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why it is not ready, in words."""
        problems = self.problems
        if self.problem or (problems and len(problems) == len(self._polls)):
            return self.problem or next(iter(problems.values()))
        return "" if self.frames else "has not answered yet"

    @property
    def problems(self) -> dict[str, str]:
        """By poll, what is wrong with its last answer."""
        return {key: f"{key}: {asked.problem}" for key, asked in list(self._polls.items()) if asked.problem}

    @property
    def polls(self) -> int:
        return len(self._polls)

    async def run(self) -> None:
        """Until ``stop()``."""
        if self._stopping:
            return
        self._asking = asyncio.create_task(self._ask_for_ever())
        try:
            await asyncio.wait([self._asking])
            if not self._stopping:
                self._asking.result()
        finally:
            self._asking.cancel()
            self._client.close()

    async def stop(self, reason: str = "recorder stopped") -> None:
        """Ask no more; nothing is journalled after this returned."""
        self._stopping = True
        self._client.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def change(self, spec: FeedSpec) -> None:
        """The same with other symbols; polls that stay keep their time. Raises SymbolError, before anything changed."""
        self._take(spec)
        self._changed.set()

    async def _ask_for_ever(self) -> None:
        while True:
            self._changed.clear()
            asked = min(self._polls.values(), key=lambda each: each.due, default=None)
            now = time.monotonic()
            wait_s = None if asked is None else max(asked.due, self._held_until) - now
            if asked is None or (wait_s is not None and wait_s > 0):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait_s)
                continue
            asked.due = max(now, asked.due + asked.poll.every_ns / SECOND)
            await self._round(asked)

    async def _round(self, asked: Asked) -> None:
        """Ask once, all pages; say what is wrong and when to ask again."""
        key = asked.poll.key
        try:
            await self._ask(asked.poll)
        except Limited as error:
            self._limited(asked, f"{key}: {error}", error.wait_s)
        except _Down as error:
            self._hold(asked, f"{key}: {error}", DOWN_FIRST_S, DOWN_MAX_S)
        except _Refused as error:
            self._hold(asked, f"{key}: {error}", REFUSED_FIRST_S, REFUSED_MAX_S)
        except LoginNeeded as error:
            self._held_until = asked.due = time.monotonic() + LOGIN_S
            self._tell("login.needed", str(error), LOGIN_S)
        except JournalFull:
            self._held_until = asked.due = time.monotonic() + FULL_S
        except RecorderError as error:
            self._failed(asked, str(error))
        except Exception as error:  # an error of ours: other polls are not to suffer
            self._log.error("poll.broke", feed=self.spec.name, poll=key, exception=error)
            self._failed(asked, f"an error of the recorder, {type(error).__name__}, see its log")
        else:
            self._succeeded(asked)

    async def _ask(self, poll: Poll) -> None:
        pages, spec = poll.ask(), self.spec
        http, asked = next(pages, None), 0
        while http is not None:
            if (asked := asked + 1) > PAGES_MAX:
                raise FrameError(f"more than {PAGES_MAX} pages")
            response = await self._get(http)
            if response.status == 200 and not http.private:
                self._keep(spec, poll.key, http, response)
                if (refused := limited(response, self.capability.limited_by, time.time())) is not None:
                    raise refused
            encoding = response.headers.get("content-encoding", "")
            if encoding:
                body = await asyncio.to_thread(polled.unpacked, response.body, encoding)
                response = HttpResponse(response.status, response.headers, body)
            try:
                http = pages.send(response)
            except StopIteration:
                return

    async def _get(self, http: HttpRequest) -> HttpResponse:
        await self.pace.turn(self.capability)
        try:
            response = await self._client.get_signed(http, self._signer)
        except OSError as error:
            self.requests[0] += 1
            raise _Down(f"no answer: {str(error) or type(error).__name__}") from error
        self.pace.heed(response.headers)
        status = response.status
        self.requests[status] += 1
        if status in http.accepts or status == 200:
            return response
        words = f"HTTP {status} {excerpt(response)}".strip()
        if (refused := limited(response, self.capability.limited_by, time.time())) is not None:
            raise refused
        if http.private:
            return response
        if status in BUSY:
            raise _Down(words)
        if status in REFUSED:
            raise _Refused(words)
        raise FrameError(words)

    def _keep(self, spec: FeedSpec, key: str, http: HttpRequest, response: HttpResponse) -> None:
        """Journal an answer. Raises JournalFull, FrameTooLong."""
        ts_recv = time.time_ns()
        source = self._journal.source(spec)
        self._journal.append(source, POLLED, ts_recv, polled.encoded(key, http, response))
        self.frames += 1
        self.last_recv = ts_recv
        self._wake()

    # What became of it.

    def _succeeded(self, asked: Asked) -> None:
        self.pace.answered()
        first = not self._announced
        if self.problem or asked.problem:
            self._log.info("poll.resumed", feed=self.spec.name, connection=self.spec.connection, poll=asked.poll.key)
            self._report.event("poll.resumed", asked.poll.key)
        elif first:
            self._log.info("feed.connected", feed=self.spec.name, connection=self.spec.connection, polls=self.polls)
        self._announced = True
        self._failures = asked.failures = 0
        self._is_back()
        if asked.problem:
            self._report.outage(asked.since, f"{asked.poll.key}: {asked.problem}")
            asked.problem = ""

    def _is_back(self) -> None:
        """The provider answers: for how long it did not is a gap."""
        if self.problem:
            self._report.outage(self._since, self.problem)
        self.problem = ""

    def _limited(self, asked: Asked, reason: str, asked_s: float | None) -> None:
        """The provider wants a pause from all who ask it; the poll is the next then."""
        pause_s = self.pace.limited(asked_s)
        asked.due = self._held_until = time.monotonic() + pause_s
        self._tell("poll.limited", reason, pause_s)

    def _hold(self, asked: Asked, reason: str, first_s: float, most_s: float) -> None:
        """The provider is left alone; others that are due come before this poll then."""
        self._failures += 1
        asked.failures += 1
        wait_s = self._backoff(self._failures, first_s, most_s)
        self._held_until = time.monotonic() + wait_s
        asked.due = time.monotonic() + max(wait_s, self._backoff(asked.failures, first_s, most_s))
        self._tell("poll.failed", reason, wait_s)

    def _failed(self, asked: Asked, reason: str) -> None:
        """This poll alone."""
        self.pace.answered()
        self._is_back()
        self._failures = 0
        asked.failures += 1
        most_s = max(FAILED_MAX_S, asked.poll.every_ns / SECOND)
        wait_s = self._backoff(asked.failures, max(FAILED_FIRST_S, asked.poll.every_ns / SECOND), most_s)
        asked.due = time.monotonic() + wait_s
        if asked.problem != reason:
            asked.since = asked.since if asked.problem else time.time_ns()
            asked.problem = reason
            self._say("poll.failed", f"{asked.poll.key}: {reason}", wait_s)

    def _backoff(self, failures: int, first_s: float, most_s: float) -> float:
        """Capped and exponential, with full jitter in its upper half."""
        return min(most_s, first_s * 2.0 ** min(failures - 1, 16)) * (0.5 + 0.5 * self._uniform())

    def _tell(self, event: str, reason: str, wait_s: float) -> None:
        """A problem of the provider: once for each kind, until it answers again."""
        told, self.problem = self.problem, reason
        self._since = self._since if told else time.time_ns()
        if not told or event != self._told:
            self._told = event
            self._say(event, reason, wait_s)

    def _say(self, event: str, reason: str, wait_s: float) -> None:
        names = {"feed": self.spec.name, "connection": self.spec.connection}
        self._log.warning(event, **names, reason=reason, retry_s=round(wait_s, 1))
        self._report.event(event, f"{reason}; asked again in {wait_s:.0f} s")
