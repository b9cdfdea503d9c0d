"""One connection to a provider, kept open for ever: one link after the other, overlapping where that is possible."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from recorder.core.gate import Gate
from recorder.core.session import Session
from recorder.shell.audit import AUDIT_S, Auditor, Observe, Reporter, Rows
from recorder.shell.link import BEHIND, QUEUE_BYTES_MAX, Connect, FrameJournal, Link
from recorder.shell.overlap import HeldJournal, replace
from recorder.values.errors import RecorderError, UpgradeRefused
from recorder.values.feed import (
    HOUR,
    SECOND,
    Capability,
    Command,
    Fatal,
    Feed,
    FeedSpec,
    Key,
    Notice,
    Ready,
    Reconnect,
    Renew,
)

__all__ = ["Connection", "FrameJournal"]

SLOW = "reader.slow"  # the notice of a provider that its client does not keep up
OVER, OVER_NS = 204, 10_000 * HOUR  # an answer that forbids to ask again: the next session or start does
RENEW_RETRY_S = 60.0  # after a replacement that did not come about: nine tries before Binance cuts at 24 h


class Log(Protocol):
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


class Connection:
    """Opens, keeps and reopens one connection.

    wake       called after something was journalled, so that the pipeline looks
    gate       the provider's, shared by all its connections; without one it is alone
    make_feed  makes another feed like ``feed``, for a second link; without it there is no overlap
    observe    records rows of our own: what happens to the connection
    rows       how many rows of (channel, symbol) of a feed came; without it subscriptions are not audited
    connect    opens a socket; None: what the capability's transport says
    """

    def __init__(
        self,
        spec: FeedSpec,
        feed: Feed,
        journal: FrameJournal,
        wake: Callable[[], None],
        log: Log,
        uniform: Callable[[], float] = random.random,
        gate: Gate | None = None,
        make_feed: Callable[[FeedSpec], Feed] | None = None,
        observe: Observe | None = None,
        rows: Rows | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.spec, self.session = spec, Session(feed, uniform)
        self.reconnects = 0
        self.renewals = 0  # replaced without a hole
        self._journal, self._wake, self._log, self._uniform = journal, wake, log, uniform
        self._gate, self._make_feed, self._connect = gate or Gate(), make_feed, connect
        self._link: Link | None = None
        self._frames_before = 0  # of links that are gone
        self._last_recv = 0
        self._stopping = asyncio.Event()
        self._renewing = asyncio.Event()
        self._renew_reason = ""
        self._report = Reporter(spec, observe)
        self._auditor = None if rows is None else Auditor(spec, feed.capability(), log, self._report, rows)
        self._announced: object = None  # last state told to the log: one line per change

    @property
    def ready(self) -> bool:
        return self._link is not None and self._link.ready

    @property
    def reason(self) -> str:
        """Why it is not ready, in words."""
        return self.session.reason

    @property
    def capability(self) -> Capability:
        return self.session.feed.capability()

    @property
    def ready_symbols(self) -> tuple[str, ...]:
        return self._link.ready_symbols if self._link is not None else ()

    @property
    def frames(self) -> int:
        """Received and journalled so far."""
        return self._frames_before + (self._link.frames if self._link is not None else 0)

    @property
    def queue_bytes(self) -> int:
        """Received by the system and not read yet, looked at once a second."""
        return self._link.queue_bytes if self._link is not None else 0

    @property
    def last_recv(self) -> int:
        """When the last frame came, ns; 0: none has."""
        return max(self._last_recv, self._link.last_recv if self._link is not None else 0)

    async def run(self) -> None:
        """Until ``stop()``: connect, record, wait as the session says, again."""
        wait_ns = 0
        audit = asyncio.ensure_future(self._keep_auditing())
        try:
            while await self._admitted(wait_ns):
                wait_ns = await self._once()
                if not self._stopping.is_set():
                    self.reconnects += 1
        finally:
            audit.cancel()

    async def _keep_auditing(self) -> None:
        while self._auditor is not None:
            await asyncio.sleep(AUDIT_S)
            self._look()

    def _look(self) -> None:
        if self._auditor is not None and self._link is not None:
            self._auditor.look(self._link)

    async def stop(self, reason: str = "recorder stopped") -> None:
        """Close politely; ``run`` returns soon after."""
        self._stopping.set()
        if self._link is not None:
            await self._link.close(reason)

    def reopen(self, reason: str) -> None:
        """Close this connection and open another after the session's backoff; ``reason`` is logged and journalled.

        Without effect while none is open: the next one is on its way already.
        """
        if self._link is not None and self._link.alive:
            self._link.carry_out([Reconnect(reason)])

    def ask_again(self, keys: Iterable[Key]) -> None:
        """Unsubscribe from these and subscribe to them again while it is open; the others go on.

        Without effect on what is not to be recorded, and while it is not ready: it is asked for on its way.
        """
        if self._link is not None and self._link.ready:
            feed = self._link.session.feed
            desired = feed.subscriptions().desired
            if wanted := [key for key in keys if key in desired]:
                self._link.carry_out(feed.resubscribe(wanted))

    def change(self, spec: FeedSpec) -> None:
        """The same connection with other symbols: subscribed and unsubscribed while it is open, the others go on.

        Raises SymbolError, before anything has changed.
        """
        commands = self.session.on_change(spec.symbols, time.monotonic_ns())
        self.spec = spec
        if self._link is not None:
            self._link.become(spec, "its symbols have changed")
            if self._link.opened:
                self._link.carry_out(commands)

    async def _admitted(self, wait_ns: int) -> bool:
        """Wait, then until the provider may be connected to; False when stopped meanwhile."""
        due = time.monotonic_ns() + wait_ns
        capability = self.session.feed.capability()
        most = capability.connects_per_minute_max, capability.connects_per_second_max
        while not self._stopping.is_set():
            now = time.monotonic_ns()
            left = max(due - now, self._gate.wait_ns(now, *most))
            if left <= 0:
                self._gate.connecting(now)
                return True
            try:
                await asyncio.wait_for(self._stopping.wait(), left / 1e9)
            except TimeoutError:
                continue
        return False

    async def _once(self) -> int:
        """One connection from its opening to its end; return how long to wait before the next, in ns."""
        self._renewing.clear()
        link = self._link = self._new_link(self.session, self._journal)
        retry_after_ns, self._gate.open = 0, self._gate.open + 1
        if self._auditor is not None:
            self._auditor.opened(link)
        try:
            if not await link.open(self._stopping):
                return 0
            link = await self._attend(link)
            reason = link.ended.result()
        except UpgradeRefused as error:
            held_ns = self._gate.refused(time.monotonic_ns(), error.status, error.retry_after_ns)
            reason, retry_after_ns = str(error), max(held_ns, error.retry_after_ns or 0)
            if error.fatal:
                link.carry_out(self.session.on_wish(Fatal(reason), time.monotonic_ns()))
            if error.status == OVER:
                retry_after_ns = OVER_NS
        except RecorderError as error:
            reason = str(error)
        finally:
            self._gate.open -= 1
            self._leave(self._link)
            self._link = None
        wait_ns = self.session.on_closed(time.monotonic_ns(), reason, retry_after_ns, link.code)
        if not self._stopping.is_set():
            self._tell_down(wait_ns)
        return wait_ns

    def _new_link(self, session: Session, journal: FrameJournal) -> Link:
        turn_ns = self._gate.send_wait_ns if session.feed.capability().sends_shared else None
        return Link(self.spec, session, journal, self._wake, self._obey, self._connect, turn_ns)

    async def _attend(self, link: Link) -> Link:
        """Until the connection is gone; return the link that ended, which may be another one by then."""
        while not link.ended.done():
            renew = asyncio.ensure_future(self._renewing.wait())
            waited: list[asyncio.Future[Any]] = [link.ended, renew]
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                renew.cancel()
            if self._renewing.is_set() and not link.ended.done():
                self._renewing.clear()
                link = await self._renew(link)
        return link

    async def _renew(self, old: Link) -> Link:
        """Let another link take over and return it; else try again later: the provider's cut is what ends this one."""
        capability, reason = self.session.feed.capability(), self._renew_reason
        if self._make_feed is None or self._gate.open >= capability.connections_max:
            old.carry_out([Reconnect(reason)])
            return old
        most = capability.connects_per_minute_max, capability.connects_per_second_max
        if (wait_ns := self._gate.wait_ns(time.monotonic_ns(), *most)) > 0:
            asyncio.get_running_loop().call_later(wait_ns / 1e9, self._renewing.set)
            return old
        self._gate.connecting(time.monotonic_ns())
        session = Session(self._make_feed(self.spec), self._uniform)
        new = self._new_link(session, HeldJournal(self._journal))
        self._gate.open += 1
        try:
            problem = await replace(old, new, self._stopping, reason)
            if not problem:
                self._leave(old)
                self._link, self.session = new, session
        finally:
            self._gate.open -= 1
            if self._link is not new:
                new.dispose()
        if self._link is new:
            self.renewals += 1
            self._wake()
            if new.spec != self.spec:  # changed while it was opened
                self.change(self.spec)
            if self._auditor is not None:
                self._auditor.opened(new)
            self._look()
            self._log.info("feed.renewed", feed=self.spec.name, connection=self.spec.connection, reason=reason)
            if self._stopping.is_set():
                await new.close("recorder stopped")
            return new
        if not old.ended.done() and not self._stopping.is_set():
            fields = {"reason": problem, "retry_s": RENEW_RETRY_S}
            self._log.warning("feed.renewal_failed", feed=self.spec.name, connection=self.spec.connection, **fields)
            asyncio.get_running_loop().call_later(RENEW_RETRY_S, self._renewing.set)
        return old

    def _leave(self, link: Link | None) -> None:
        """It is gone: keep its counts, and nothing else of it."""
        if link is not None:
            self._frames_before += link.frames
            self._last_recv = max(self._last_recv, link.last_recv)
            link.frames = 0
            link.dispose()

    def _obey(self, link: Link, command: Command) -> None:
        """What the session of a link wants beyond messages."""
        match command:
            case Ready(symbols):
                self._tell("feed.connected", symbols=len(symbols) or len(self.spec.symbols))
                if link is self._link:
                    asyncio.get_running_loop().call_soon(self._look)
            case Notice(event, fields):
                self._log.warning(event, feed=self.spec.name, connection=self.spec.connection, **fields)
                words = ", ".join(f"{name} {value}" for name, value in fields.items())
                self._report.event(event, words)
                if event == SLOW:
                    self._report.finding("slow_reader", None, 1, 0, f"the provider finds us slow: {words}")
                elif event == BEHIND:
                    unread = float(fields["unread_bytes"])
                    self._report.finding("slow_reader", None, unread, QUEUE_BYTES_MAX, f"we read too slowly: {words}")
            case Renew(reason):
                self._renew_reason = reason
                self._renewing.set()
            case Fatal(reason) if self._announced != ("down", reason):
                self._announced = ("down", reason)
                self._log.error("feed.refused", feed=self.spec.name, connection=self.spec.connection, reason=reason)

    # The log: one line per change of state.

    def _tell(self, event: str, **fields: object) -> None:
        if self._announced != event:
            self._announced = event
            self._log.info(event, feed=self.spec.name, connection=self.spec.connection, **fields)

    def _tell_down(self, wait_ns: int) -> None:
        if isinstance(self._announced, tuple):  # ("down", reason): said already, say no more until it is up again
            return
        event = "feed.disconnected" if self._announced == "feed.connected" else "feed.unreachable"
        self._announced = ("down", self.session.reason)
        self._log.warning(
            event, feed=self.spec.name, connection=self.spec.connection, reason=self.session.reason,
            retry_s=round(wait_ns / SECOND, 1),
        )  # fmt: skip
