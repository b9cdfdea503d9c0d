"""A FIX client: a TCP or TLS socket, the session of ``core.fix_session`` on it, every message handed over as it came.

Messages are found and checked by ``core.fix_frames.scan`` in the buffer that the socket was read into; market data in
sequence never becomes a Python object here.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from websockets.uri import WebSocketURI

from recorder.core.fix_actions import Action, Deliver, Drop, LoggedOn, Lost, Transmit
from recorder.core.fix_frames import FRAMES_MAX, PARTIAL, SPECIAL, scan, warm
from recorder.core.fix_session import FixSession, Numbers
from recorder.core.frames import BINARY
from recorder.shell.websocket import open_client, unread_bytes
from recorder.values.config_check import is_loopback
from recorder.values.errors import ConfigError, ConnectError, ConnectionBroken, LogonRefused
from recorder.values.feed import SECOND, Endpoint
from recorder.values.fix import BEGIN, MESSAGE_BYTES_MAX, SESSION_TYPES, TRAILER_BYTES, FixLogon, checksum

__all__ = ["FixClient", "connect", "connector", "warm"]

READ_BYTES_MIN = 256 << 10  # offered to every read
WRITE_BYTES_MAX = 1 << 20  # unsent bytes: requests are kilobytes, so a peer that lets 1 MiB pile up is gone
TICK_S = 0.25  # how often heartbeats are looked at: intervals are whole seconds
CLOSE_TIMEOUT_S = 5.0  # for a Logout's answer and what was written to leave
REFUSED_HOLD_NS = 60 * SECOND  # after a refused Logon: counterparties lock accounts that try in quick succession
SECRET_BYTES_MIN = 4  # a shorter password cannot be told from any other text
KEPT_BYTES = 16  # of a file of numbers: two int64


class Receiver(Protocol):
    """Who gets what a client receives: plain calls on the event loop's thread, in the order of the wire."""

    @property
    def waiting(self) -> bool:
        """Whether snapshots are to be shown to ``on_control`` as well."""

    def on_open(self) -> None: ...
    def on_frames(
        self, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray, opcodes: np.ndarray, count: int,
        control: np.ndarray, ts_recv: int,
    ) -> None: ...  # fmt: skip
    def on_control(self, payload: bytes) -> None: ...
    def on_sent(self, payload: bytes) -> None: ...
    def on_lost(self, reason: str) -> None: ...
    def on_close(self, code: int, reason: str, error: Exception | None) -> None: ...


class KeptNumbers(Numbers):
    """Numbers in a file of their own that is mapped into memory: they outlive a killed process at no cost."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(fd).st_size != KEPT_BYTES:
                os.truncate(fd, KEPT_BYTES)
            self._places = memoryview(mmap.mmap(fd, KEPT_BYTES)).cast("q")
        finally:
            os.close(fd)

    @property
    def out(self) -> int:
        return max(1, self._places[0])

    @out.setter
    def out(self, number: int) -> None:
        self._places[0] = number

    @property
    def due(self) -> int:
        return max(1, self._places[1])

    @due.setter
    def due(self, number: int) -> None:
        self._places[1] = number


class FixClient(asyncio.BufferedProtocol):
    """One connection. ``connect`` makes it; a transport and ``loop`` drive it."""

    def __init__(
        self, endpoint: Endpoint, receiver: Receiver, loop: Any, numbers: Numbers, *,
        now: Callable[[], int] = time.time_ns, clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        assert endpoint.fix is not None, "the endpoint of a feed whose transport is fix"
        logon = endpoint.fix
        self.opened: asyncio.Future[None] = loop.create_future()
        self.session = FixSession(logon, numbers)
        self._place = endpoint.url
        self._receiver, self._loop, self._now, self._clock = receiver, loop, now, clock
        self._buffer = np.zeros(READ_BYTES_MIN + MESSAGE_BYTES_MAX, np.uint8)
        self._view = self._buffer.data
        self._kept = 0
        self._starts, self._lengths = np.zeros(FRAMES_MAX, np.int64), np.zeros(FRAMES_MAX, np.int64)
        self._kinds, self._none = np.full(FRAMES_MAX, BINARY, np.uint8), np.zeros(0, np.int64)
        self._peer, self._us = (np.frombuffer(text.encode(), np.uint8) for text in (logon.target, logon.sender))
        self._secrets = [s.encode() for s in (logon.password, logon.username) if len(s) >= SECRET_BYTES_MIN]
        self._transport: Any = None
        self._told = False  # the receiver knows that it is open
        self._reason, self._refused = "", False
        self._error: Exception | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # What the owner may do.

    @property
    def is_open(self) -> bool:
        """Logged on."""
        return self.opened.done() and not self._reason and self._transport is not None

    @property
    def unread_bytes(self) -> int:
        """Received by the system and not read yet; a system call, so not for every read."""
        return unread_bytes(self._transport)

    def send(self, message: str | bytes) -> bytes:
        """Send a message given by its fields from ``35=`` on; return it with header and trailer.

        Raises ConnectionBroken when nobody is logged on.
        """
        if not self.is_open:
            raise ConnectionBroken(f"{self._place}: not logged on, so nothing can be sent; reconnect first")
        body = message.encode() if isinstance(message, str) else message
        whole = self.session.application(body, self._clock(), self._now())
        self._write(whole)
        return whole

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Log out; on_close follows, within CLOSE_TIMEOUT_S. Messages until then are delivered."""
        self._later("close", CLOSE_TIMEOUT_S, self.abort)
        self._act(self.session.leave(reason or "closed", self._clock(), self._now()))

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection without a word."""
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._told = True
        self._receiver.on_open()
        self._act(self.session.on_connected(self._clock(), self._now()))
        self._later("tick", TICK_S, self._tick)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._kept :]

    def buffer_updated(self, nbytes: int) -> None:
        ts_recv, stop = self._now(), self._kept + nbytes
        try:
            at = self._consume(stop, ts_recv)
        except Exception as error:  # of the receiver: what came cannot be kept, so nothing more must come
            self.abort(error)
            at = stop
        self._kept = stop - at
        if at and self._kept:
            self._view[: self._kept] = self._view[at:stop]

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        error = self._error or exc
        reason = self._reason or (str(error) if error is not None else "ended without a Logout")
        if not self.opened.done():
            text = f"{self._place}: {reason}"
            refused = LogonRefused(text, 0, REFUSED_HOLD_NS) if self._refused else ConnectError(text)
            self.opened.set_exception(refused)
        self._reason = reason
        if self._told:
            self._told = False
            self._receiver.on_close(0, reason, None)

    # Receiving.

    def _consume(self, stop: int, ts_recv: int) -> int:
        """Hand over what ``buffer[:stop]`` holds; return where the message starts that is not here in full."""
        at, reason, session = 0, SPECIAL, self.session
        while reason != PARTIAL:
            count, at, reason, _ = scan(
                self._buffer, at, stop, session.numbers.due, self._peer, self._us, not self._receiver.waiting,
                self._starts, self._lengths,
            )  # fmt: skip
            if not count:
                break
            special = reason == SPECIAL
            payload = self._last(count) if special else b""
            self._receiver.on_frames(
                self._buffer, self._starts, self._lengths, self._kinds, count, self._none, ts_recv
            )  # fmt: skip
            if count > special:
                self._act(session.received(count - special, self._clock(), ts_recv))
            if special:
                self._act(session.on_message(payload, self._clock(), ts_recv))
        return at

    def _last(self, count: int) -> bytes:
        """The last frame found; where it repeats a secret of ours, with stars in its place, in the buffer too."""
        start = int(self._starts[count - 1])
        stop = start + int(self._lengths[count - 1])
        payload = bytes(self._view[start:stop])
        if not any(secret in payload for secret in self._secrets) or not _of_session(payload):
            return payload
        for secret in self._secrets:
            payload = payload.replace(secret, b"*" * len(secret))
        end = len(payload) - TRAILER_BYTES
        if payload[end : end + 3] == b"10=":
            payload = payload[: end + 3] + b"%03d\x01" % checksum(payload[:end])
        self._view[start:stop] = payload
        return payload

    # Carrying out what the session wants.

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Transmit(payload, secret):
                    self._write(payload)
                    if not secret:
                        self._receiver.on_sent(payload)
                case LoggedOn():
                    if not self.opened.done():
                        self.opened.set_result(None)
                case Deliver(payload):
                    self._receiver.on_control(payload)
                case Lost(first, last):
                    self._receiver.on_lost(f"messages {first} to {last} did not come")
                case Drop(reason, refused):
                    self._reason, self._refused = self._reason or reason, refused
                    self._transport.close()  # ends once what was written has left, or by the timer
                    self._later("close", CLOSE_TIMEOUT_S, self.abort)

    def _write(self, payload: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(payload)
        if self._transport.get_write_buffer_size() > WRITE_BYTES_MAX:
            self.abort(ConnectionBroken(f"{self._place}: over {WRITE_BYTES_MAX} bytes wait for the peer; reconnect"))

    def _tick(self) -> None:
        self._later("tick", TICK_S, self._tick)
        self._act(self.session.on_timer(self._clock(), self._now()))

    def _later(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(delay_s, callback)


def _of_session(payload: bytes) -> bool:
    """Whether it is a session's message: who repeats a secret does so in these, not in market data."""
    start = payload.find(b"\x0135=") + 4
    return not payload.startswith(BEGIN) or payload[start : payload.find(b"\x01", start)] in SESSION_TYPES


def connector(folder: Path) -> Callable[[Endpoint, Any], Any]:
    """``connect`` for feeds of a recorder whose numbers are kept in this folder."""
    kept: dict[str, Numbers] = {}

    async def opened(endpoint: Endpoint, receiver: Any) -> FixClient:
        name = _logon(endpoint).numbers
        if not name:
            return await connect(endpoint, receiver, Numbers())
        if name not in kept:
            path = folder / f"fix.{re.sub('[^A-Za-z0-9_-]', '_', name)}.numbers"
            try:
                kept[name] = KeptNumbers(path)
            except OSError as error:
                raise ConnectError(f"{path} cannot be used: {error.strerror}; message numbers are kept there") from None
        return await connect(endpoint, receiver, kept[name])

    return opened


def _logon(endpoint: Endpoint) -> FixLogon:
    if endpoint.fix is None:
        raise ConfigError(f"{endpoint.url}: no FIX session is configured for it")
    return endpoint.fix


async def connect(
    endpoint: Endpoint, receiver: Receiver, numbers: Numbers, *, ssl: SSLContext | None = None,
    now: Callable[[], int] = time.time_ns,
) -> FixClient:  # fmt: skip
    """Connect and log on within ``endpoint.open_timeout_ns``; ``receiver.on_open`` has been called when this returns.

    ssl  None: ``tls_context()`` for tcp+tls://
    Raises ConfigError for an address that cannot be right, LogonRefused, and ConnectError for all else that may pass.
    """
    where, parts = endpoint.url, urlsplit(endpoint.url)
    if parts.scheme not in ("tcp+tls", "tcp") or not parts.hostname or not parts.port:
        raise ConfigError(f"url {where!r} is no address of a FIX counterparty; write tcp+tls://HOST:PORT")
    if parts.scheme == "tcp" and not is_loopback(parts.hostname):
        raise ConfigError(f"url {where!r} is not encrypted: tcp:// is only for this machine; write tcp+tls://")
    client = FixClient(endpoint, receiver, asyncio.get_running_loop(), numbers, now=now)
    address = WebSocketURI(parts.scheme == "tcp+tls", parts.hostname, parts.port, "", "")
    await open_client(client, address, endpoint, ssl)
    return client
