"""One connection to a provider, kept open for ever: socket → session → journal."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from websockets.frames import CLOSE_CODE_EXPLANATIONS

from recorder.core.frames import BINARY, CLOSED, OPENED, SENT, TEXT
from recorder.core.session import Session, State
from recorder.shell.websocket import WebSocketClient, connect
from recorder.values.errors import JournalFull, RecorderError, UpgradeRefused
from recorder.values.feed import SECOND, Command, Fatal, Feed, FeedSpec, Notice, Ready, Reconnect, Send

TIMER_S = 1.0  # how often time-outs and a provider's own pings are looked at
CLOSE_TIMEOUT_S = 2.0  # for a polite close when stopping; the socket is cut after that


class Log(Protocol):
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


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


class Connection:
    """Opens, keeps and reopens one connection; journals every frame as received and lets the session speak.

    wake  called after something was journalled, so that the pipeline looks
    Frames never become Python objects here unless they are control frames.
    """

    def __init__(
        self,
        spec: FeedSpec,
        feed: Feed,
        journal: FrameJournal,
        wake: Callable[[], None],
        log: Log,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.spec, self.session = spec, Session(feed, uniform)
        self.frames = 0
        self.reconnects = 0
        self.ready_symbols: tuple[str, ...] = ()
        self.last_recv = 0
        self._journal, self._wake, self._log = journal, wake, log
        self._source = -1
        self._client: WebSocketClient | None = None
        self._ended: asyncio.Future[str] | None = None
        self._stopping = asyncio.Event()
        self._outbox: collections.deque[Send] = collections.deque()
        self._pacing: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._send_spacing_s = 1.0 / feed.capability().sends_per_second_max
        self._given_up = ""  # why we are closing this connection ourselves
        self._announced: object = None  # last state told to the log: one line per change

    async def run(self) -> None:
        """Until ``stop()``: connect, record, wait as the session says, again."""
        while not self._stopping.is_set():
            wait_ns = await self._once()
            if self._stopping.is_set():
                break
            self.reconnects += 1
            try:
                await asyncio.wait_for(self._stopping.wait(), wait_ns / 1e9)
            except TimeoutError:
                continue

    async def stop(self) -> None:
        """Close politely; ``run`` returns soon after."""
        self._stopping.set()
        if self._client is not None:
            self._client.close(1000, "recorder stopped")
            ended = self._ended
            assert ended is not None  # made before the client
            await asyncio.wait([ended], timeout=CLOSE_TIMEOUT_S)
            if self._client is not None:
                self._client.abort()
                await asyncio.wait([ended], timeout=CLOSE_TIMEOUT_S)  # so that nothing is journalled after we returned

    def reopen(self, reason: str) -> None:
        """Close this connection and open another after the session's backoff; ``reason`` is logged and journalled.

        Without effect while none is open: the next one is on its way already.
        """
        if self._client is not None:
            self._carry_out([Reconnect(reason)], time.time_ns())

    async def _once(self) -> int:
        """One connection from its opening to its end; return how long to wait before the next, in ns."""
        loop = asyncio.get_running_loop()
        self._ended, self._given_up = loop.create_future(), ""
        retry_after_ns, over = 0, False
        stopping = asyncio.ensure_future(self._stopping.wait())
        opening = asyncio.ensure_future(connect(self.session.on_opening(), self))
        try:
            await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                opening.cancel()
                return 0
            self._client = opening.result()
            if self._given_up:
                self._client.close(1000, "")
            self._send_next()  # what on_open and early frames asked for before there was anything to send through
            self._timer = loop.call_later(TIMER_S, self._on_timer)
            closed = await self._ended
            over, reason = True, self._given_up or closed
        except UpgradeRefused as error:
            reason, retry_after_ns = str(error), error.retry_after_ns or 0
        except RecorderError as error:
            reason = str(error)
        finally:
            stopping.cancel()
            opening.cancel()
            if not over:
                opening.add_done_callback(_abandon)  # nobody is left who would close what it opened
            self._client = None
            self._outbox.clear()
            for handle in (self._pacing, self._timer):
                if handle is not None:
                    handle.cancel()
            self._pacing = self._timer = None
        wait_ns = self.session.on_closed(time.time_ns(), reason, retry_after_ns)
        if not self._stopping.is_set():
            self._tell_down(wait_ns)
        return wait_ns

    # Called by the WebSocket client.

    def on_open(self) -> None:
        now = time.time_ns()
        self._source = self._journal.source(self.spec)
        self._journal.append(self._source, OPENED, now, b"")
        self._carry_out(self.session.on_open(now), now)

    def on_frames(
        self, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray, opcodes: np.ndarray, count: int,
        control: np.ndarray, ts_recv: int,
    ) -> None:  # fmt: skip
        self._journal.append_frames(self._source, ts_recv, chunk, starts, lengths, opcodes, count)
        self.frames += count
        self.last_recv = ts_recv
        if len(control):
            for i in control.tolist():
                payload = chunk[starts[i] : starts[i] + lengths[i]].tobytes()
                self._carry_out(self.session.on_control(payload, ts_recv), ts_recv)
        self._wake()

    def on_message(self, payload: bytes, binary: bool, ts_recv: int) -> None:
        """A message that came fragmented or compressed."""
        self._journal.append(self._source, BINARY if binary else TEXT, ts_recv, payload)
        self.frames += 1
        self.last_recv = ts_recv
        marks = self.session.endpoint.data_marks
        if not any(payload.startswith(mark, offset) for offset, mark in marks):
            self._carry_out(self.session.on_control(payload, ts_recv), ts_recv)
        self._wake()

    def on_close(self, code: int, reason: str, error: Exception | None) -> None:
        words = f"{code} {reason or CLOSE_CODE_EXPLANATIONS.get(code, '')}".strip()
        words = words if error is None else f"{words} ({error})"
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(words)
        if self._source >= 0:
            with contextlib.suppress(JournalFull):  # told by the journal; it may be why the connection is closed
                self._journal.append(self._source, CLOSED, time.time_ns(), (self._given_up or words).encode())
            self._wake()

    # Carrying out what the session wants.

    def _on_timer(self) -> None:
        now = time.time_ns()
        self._timer = asyncio.get_running_loop().call_later(TIMER_S, self._on_timer)
        self._carry_out(self.session.on_timer(now), now)

    def _carry_out(self, commands: list[Command], now: int) -> None:
        for command in commands:
            match command:
                case Send():
                    self._outbox.append(command)
                case Ready(symbols):
                    self.ready_symbols = symbols
                    self._tell("feed.connected", symbols=len(symbols) or len(self.spec.symbols))
                case Notice(event, fields):
                    self._log.warning(event, feed=self.spec.name, connection=self.spec.connection, **fields)
                case Reconnect(reason):
                    self._give_up(reason)
                case Fatal(reason):
                    if self._announced != ("down", reason):
                        self._announced = ("down", reason)
                        self._log.error(
                            "feed.refused", feed=self.spec.name, connection=self.spec.connection, reason=reason
                        )
                    self._give_up(reason)
        if self._outbox and self._pacing is None:
            self._send_next()

    def _send_next(self) -> None:
        """Send one message and pace the rest: providers drop who speaks faster than they allow."""
        self._pacing = None
        if not self._outbox or self._client is None or not self._client.is_open:
            return
        send = self._outbox.popleft()
        self._client.send(send.payload)
        self._pacing = asyncio.get_running_loop().call_later(self._send_spacing_s, self._send_next)
        if not send.secret:
            raw = send.payload.encode() if isinstance(send.payload, str) else send.payload
            self._journal.append(self._source, SENT, time.time_ns(), raw)

    def _give_up(self, reason: str) -> None:
        """Close; the client's own time-out bounds how long that takes, and frames that still come are journalled."""
        self._given_up = self._given_up or reason
        if self._client is not None:
            self._client.close(1000, "")

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

    @property
    def ready(self) -> bool:
        return self.session.state is State.READY


def _abandon(opening: asyncio.Task[WebSocketClient]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
