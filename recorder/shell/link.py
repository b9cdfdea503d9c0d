"""One socket of a connection, from its opening to its end: what it receives is journalled, what its session wants is
done."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np
from websockets.frames import CLOSE_CODE_EXPLANATIONS, CloseCode

from recorder.core.frames import BINARY, CLOSED, OPENED, SENT, TEXT
from recorder.core.session import Session, State
from recorder.shell import event_stream, websocket
from recorder.values.errors import JournalFull
from recorder.values.feed import Command, Endpoint, Fatal, FeedSpec, Notice, Ready, Reconnect, Send

BEHIND = "reader.behind"  # the notice that reading does not keep up
TIMER_S = 1.0  # how often time-outs and a provider's own pings are looked at
QUEUE_BYTES_MAX = 256 << 10  # received and not read: more than one read takes, so reading does not keep up
QUEUE_LOOKS = 5  # in a row, a second apart, before it is told: bursts end sooner
CLOSE_TIMEOUT_S = 2.0  # for a polite close when stopping; the socket is cut after that


class FrameJournal(Protocol):
    """What a connection needs of the journal."""

    def source(self, spec: FeedSpec) -> int: ...
    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int: ...
    def append_frames(
        self,
        source: int,
        ts_recv: int,
        chunk: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        opcodes: np.ndarray,
        count: int,
    ) -> int: ...


class Client(Protocol):
    """What a link needs of an open socket, whatever is spoken on it."""

    @property
    def is_open(self) -> bool: ...
    @property
    def unread_bytes(self) -> int: ...
    def send(self, message: str | bytes) -> bytes | None:
        """Returns what was really sent, None when it is the message as it is."""

    def close(self, code: int = 1000, reason: str = "") -> None: ...
    def abort(self, error: Exception | None = None) -> None: ...


Connect = Callable[[Endpoint, Any], Awaitable[Client]]  # opens a socket for a receiver, which a Link is


class Link:
    """Receives, journals and answers on one socket.

    wake   called after something was journalled, so that the pipeline looks
    obey   called with every command of the session that is not a message to send, after the session has noted it
    connect  opens the socket; None: what the capability's transport says
    turn_ns  (now, messages a second) → how long to wait before sending one, where all links of a provider share its
             pace; None: this one alone is paced
    Frames never become Python objects here unless they are control frames.
    """

    def __init__(
        self,
        spec: FeedSpec,
        session: Session,
        journal: FrameJournal,
        wake: Callable[[], None],
        obey: Callable[[Link, Command], None],
        connect: Connect | None = None,
        turn_ns: Callable[[int, float], int] | None = None,
    ) -> None:
        self.spec, self.session, self.journal = spec, session, journal
        self.frames = 0
        self.data_frames = 0  # of those, the ones that a data mark recognises
        self.last_recv = 0
        self.ready_symbols: tuple[str, ...] = ()
        self.given_up = ""  # why we are closing it ourselves
        self.code = 0  # of its end
        self.queue_bytes = 0  # received by the system and not read, when last looked at
        self._full_looks = 0
        self.client: Client | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it is gone
        self._wake, self._obey, self._opener = wake, obey, connect
        self._source = -1
        self._outbox: collections.deque[Send] = collections.deque()
        self._pacing: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends_per_second_max, self._turn_ns = session.feed.capability().sends_per_second_max, turn_ns

    @property
    def ready(self) -> bool:
        return self.session.state is State.READY and not self.ended.done()

    @property
    def opened(self) -> bool:
        """Its session has begun."""
        return self._source >= 0

    @property
    def alive(self) -> bool:
        return self.client is not None and not self.ended.done()

    async def open(self, stopping: asyncio.Event) -> bool:
        """Connect; False when it was stopped meanwhile. Raises RecorderError as ``websocket.connect`` does."""
        stopped = asyncio.ensure_future(stopping.wait())
        opening = asyncio.ensure_future(self._connect())
        over = False
        try:
            await asyncio.wait([opening, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                return False
            self.client, over = opening.result(), True
        finally:
            stopped.cancel()
            if not over:
                opening.cancel()
                opening.add_done_callback(_abandon)  # nobody is left who would close what it opened
        if self.given_up:
            self.client.close(1000, "")
        self._send_next()  # what on_open and early frames asked for before there was anything to send through
        if not self.ended.done():
            self._timer = asyncio.get_running_loop().call_later(TIMER_S, self._on_timer)
        return True

    async def _connect(self) -> Client:
        endpoint = self.session.on_opening()
        if self._opener is not None:
            return await self._opener(endpoint, self)
        if self.session.feed.capability().transport == "sse":
            return await event_stream.connect(endpoint, self, self.session.events)
        return await websocket.connect(endpoint, self)

    async def close(self, reason: str) -> None:
        """End it politely, or not, within seconds; nothing is journalled after this returned."""
        self.given_up = self.given_up or reason  # also while it is opened: then its first moment is its last
        if self.client is not None and not self.ended.done():
            self.client.close(1000, reason)
            await asyncio.wait([self.ended], timeout=CLOSE_TIMEOUT_S)
            if not self.ended.done():
                self.client.abort()
                await asyncio.wait([self.ended], timeout=CLOSE_TIMEOUT_S)

    def dispose(self) -> None:
        """Leave nothing behind: of a link that has ended, or that nobody wants."""
        if self.client is not None and not self.ended.done():
            self.client.abort()
        self.client = None
        self._outbox.clear()
        for handle in (self._pacing, self._timer):
            if handle is not None:
                handle.cancel()
        self._pacing = self._timer = None

    def give_up(self, reason: str) -> None:
        """Close; the client's own time-out bounds how long that takes, and frames that still come are journalled."""
        self.given_up = self.given_up or reason
        if self.client is not None:
            self.client.close(1000, "")

    def become(self, spec: FeedSpec, reason: str) -> None:
        """From now on its frames are those of another spec: in the journal one source ends where the other begins."""
        now = time.time_ns()
        source = self.journal.source(spec)
        if self._source >= 0 and source != self._source:
            self.journal.append(self._source, CLOSED, now, reason.encode())
            self.journal.append(source, OPENED, now, b"")
            self._source = source
        self.spec = spec

    # Called by the client.

    def on_open(self) -> None:
        self._source = self.journal.source(self.spec)
        self.journal.append(self._source, OPENED, time.time_ns(), b"")
        self.carry_out(self.session.on_open(time.monotonic_ns()))

    def on_frames(
        self, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray, opcodes: np.ndarray, count: int,
        control: np.ndarray, ts_recv: int,
    ) -> None:  # fmt: skip
        self.journal.append_frames(self._source, ts_recv, chunk, starts, lengths, opcodes, count)
        self.frames += count
        self.data_frames += count - len(control)
        self.last_recv = ts_recv
        offered = range(count) if self._offers_data else control.tolist()
        if offered:
            for i in offered:
                payload = chunk[starts[i] : starts[i] + lengths[i]].tobytes()
                self.carry_out(self.session.on_control(payload, time.monotonic_ns()))
        self._wake()

    def on_message(self, payload: bytes, binary: bool, ts_recv: int) -> None:
        """A message that came fragmented or compressed."""
        self.journal.append(self._source, BINARY if binary else TEXT, ts_recv, payload)
        self.frames += 1
        self.last_recv = ts_recv
        data = any(payload.startswith(mark, offset) for offset, mark in self.session.endpoint.data_marks)
        self.data_frames += data
        if not data or self._offers_data:
            self.carry_out(self.session.on_control(payload, time.monotonic_ns()))
        self._wake()

    @property
    def _offers_data(self) -> bool:
        """Whether what the feed waits for may stand behind data."""
        return self.session.endpoint.mixed and self.session.state is not State.READY

    def on_control(self, payload: bytes) -> None:
        """A frame that was journalled, and that the feed must see as well."""
        self.carry_out(self.session.on_control(payload, time.monotonic_ns()))

    def on_sent(self, payload: bytes) -> None:
        """The client itself has sent this, as its protocol demands."""
        self.journal.append(self._source, SENT, time.time_ns(), payload)

    def on_lost(self, reason: str) -> None:
        """Frames did not come: what a feed builds up from increments must begin anew."""
        again = getattr(self.session.feed, "lost", list)
        self.carry_out([Notice("messages.lost", {"reason": reason}), *again()])

    @property
    def waiting(self) -> bool:
        """Whether the feed waits for answers, which may come as data."""
        return self.session.state is not State.READY or bool(getattr(self.session.feed, "waiting", False))

    def on_close(self, code: int, reason: str, error: Exception | None) -> None:
        words = f"{code or ''} {reason or CLOSE_CODE_EXPLANATIONS.get(code, '')}".strip()  # 0: no WebSocket
        why = "" if error is None else str(error).removesuffix("; reconnect")  # which is what is done
        # The client has found it dead: code and reason are what it said itself, or nobody has said any.
        ours = bool(why) and (code == CloseCode.ABNORMAL_CLOSURE or (bool(reason) and reason in why))
        words = self.given_up or (why if ours else f"{words} ({why})".strip() if why else words)
        self.code = 0 if self.given_up or ours else code
        if self._source >= 0:
            with contextlib.suppress(JournalFull):  # told by the journal; it may be why the connection is closed
                self.journal.append(self._source, CLOSED, time.time_ns(), words.encode())
            self._wake()
        if not self.ended.done():
            self.ended.set_result(words)

    # Carrying out what the session wants.

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TIMER_S, self._on_timer)
        self._look_at_queue()
        self.carry_out(self.session.on_timer(time.monotonic_ns(), mute=not self.frames, asking=bool(self._outbox)))

    def _look_at_queue(self) -> None:
        self.queue_bytes = self.client.unread_bytes if self.client is not None else 0
        self._full_looks = self._full_looks + 1 if self.queue_bytes > QUEUE_BYTES_MAX else 0
        if self._full_looks == QUEUE_LOOKS:  # once, until it has kept up again
            self._obey(self, Notice(BEHIND, {"unread_bytes": self.queue_bytes, "looks": QUEUE_LOOKS}))

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send():
                    self._outbox.append(command)
                    continue
                case Ready(symbols):
                    self.ready_symbols = symbols
                case Reconnect(reason) | Fatal(reason):
                    self.give_up(reason)
            self._obey(self, command)
        if self._outbox and self._pacing is None:
            self._send_next()

    def _send_next(self) -> None:
        """Send one message and pace the rest: providers drop who speaks faster than they allow."""
        self._pacing = None
        if not self._outbox or self.client is None or not self.client.is_open:
            return
        wait_ns = self._turn_ns(time.monotonic_ns(), self._sends_per_second_max) if self._turn_ns is not None else 0
        if wait_ns:
            self._pacing = asyncio.get_running_loop().call_later(wait_ns / 1e9, self._send_now)
        else:
            self._send_now()

    def _send_now(self) -> None:
        self._pacing = None
        if not self._outbox or self.client is None or not self.client.is_open:
            return
        send = self._outbox.popleft()
        sent = self.client.send(send.payload)
        self._pacing = asyncio.get_running_loop().call_later(1.0 / self._sends_per_second_max, self._send_next)
        if not send.secret:
            raw = send.payload.encode() if isinstance(send.payload, str) else send.payload
            self.journal.append(self._source, SENT, time.time_ns(), raw if sent is None else sent)


def _abandon(opening: asyncio.Future[Client]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
