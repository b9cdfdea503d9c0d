"""A WebSocket client that hands received frames over in arrays.

Handshake, control, fragmented and compressed frames go through the sans-I/O ``ClientProtocol`` of `websockets`, the
reference parser; runs of simple frames are found by ``core.websocket_frames.scan`` in the buffer that the socket was
read into. The reference parser sees every byte of the other frames and none of the simple ones: its state
stays right.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import struct
import termios
import time
from collections.abc import Callable
from ssl import SSLContext, SSLError
from typing import Any, Protocol

import numpy as np
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import WebSocketURI

from recorder import __version__
from recorder.core.websocket_frames import FRAME_BYTES_MAX, FULL, PARTIAL, FrameArrays, reference_span, scan, warm
from recorder.shell.websocket_address import cut_reason, parse_address, place, refusal, tls_context
from recorder.values.errors import ConnectError, ConnectionBroken
from recorder.values.feed import SECOND, Endpoint

__all__ = ["Receiver", "WebSocketClient", "connect", "open_client", "tls_context", "unread_bytes", "warm"]

READ_BYTES_MIN = 256 << 10  # offered to every read: what uvloop reads at once, and it stays in the L2 cache
FAST_FRAME_BYTES_MAX = 256 << 10  # a longer frame would grow the buffer: the reference parser collects it
WRITE_BYTES_MAX = 1 << 20  # unsent bytes: subscriptions are kilobytes, so a peer that lets 1 MiB pile up is gone
HEAD_BYTES_MAX = 64 << 10  # of the answer to the upgrade: proxies add cookies, none adds more
CLOSE_TIMEOUT_S = 5.0  # for the peer to finish a closing handshake: five slow round trips
DEAD_TIMEOUT_S = 0.25  # for a close frame to leave towards a peer that seems dead

_ABNORMAL = 1006
_QUIET = logging.Logger("recorder.websocket", logging.CRITICAL + 1)  # at DEBUG the reference parser would log headers


class Receiver(Protocol):
    """Who gets what a client receives: plain calls on the event loop's thread, in the order of the wire."""

    def on_open(self) -> None: ...

    def on_frames(
        self,
        chunk: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        opcodes: np.ndarray,
        count: int,
        control_indices: np.ndarray,
        ts_recv: int,
    ) -> None:
        """``count`` frames: payload i is ``chunk[starts[i]:starts[i] + lengths[i]]``, opcode 1 text or 2 binary.

        chunk            (n,) uint8, the connection's buffer: valid during this call only, as are all the arrays
        starts … opcodes (k,) int64, int64, uint8 with k >= count
        control_indices  (m,) int64, which frames no data mark recognises
        """

    def on_message(self, payload: bytes, binary: bool, ts_recv: int) -> None:
        """A message that was fragmented, compressed, longer than FAST_FRAME_BYTES_MAX, or came while closing."""

    def on_close(self, code: int, reason: str, error: Exception | None) -> None:
        """Once, after on_open: the code received, else the one we failed the connection with, else 1006.

        error  None after a closing handshake, whatever its code
        """


class WebSocketClient(asyncio.BufferedProtocol):
    """One connection. ``connect`` makes it; a transport and ``loop`` (time, call_later, create_future) drive it."""

    def __init__(
        self, endpoint: Endpoint, receiver: Receiver, loop: Any, *, now: Callable[[], int] = time.time_ns
    ) -> None:
        self.endpoint = endpoint
        self.last_recv_ns = 0  # when the last bytes arrived, by ``now``; 0 before any
        self.opened: asyncio.Future[None] = loop.create_future()
        self._receiver, self._loop, self._now = receiver, loop, now
        extensions = [ClientPerMessageDeflateFactory()] if endpoint.compression else None
        self._reference = ClientProtocol(
            parse_address(endpoint), extensions=extensions, max_size=FRAME_BYTES_MAX, logger=_QUIET
        )
        self._place = place(endpoint.url)
        self._buffer = np.zeros(READ_BYTES_MIN + FAST_FRAME_BYTES_MAX + 16, np.uint8)
        self._view = self._buffer.data
        self._kept = 0  # bytes at the front of the buffer: a frame that is not here in full
        self._arrays = FrameArrays(endpoint.data_marks)
        self._owed = 0  # bytes still to come of a frame that the reference parser is reading
        self._fragmented = False
        self._message, self._binary = bytearray(), False  # what came of a fragmented message
        self._head: bytearray | None = bytearray()  # None once the answer's headers are complete
        self._transport: Any = None
        self._error: Exception | None = None
        self._open = self._ended = self._paused = False
        self._chunks = 0  # received so far: whether any came since a ping
        self._chunks_at_ping: int | None = None  # None: no ping awaits its pong
        self._heard_s = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # What the owner may do.

    @property
    def is_open(self) -> bool:
        return self._reference.state is State.OPEN

    @property
    def unread_bytes(self) -> int:
        """Received by the system and not read yet; a system call, so not for every read."""
        return unread_bytes(self._transport)

    def send(self, message: str | bytes) -> None:
        """Send a text (str) or binary (bytes) message. Raises ConnectionBroken when the connection is not open."""
        if not self.is_open:
            raise ConnectionBroken(f"{self._place}: not open, so nothing can be sent; reconnect first")
        if isinstance(message, str):
            self._reference.send_text(message.encode())
        else:
            self._reference.send_binary(message)
        self._flush()
        if self._error is not None:
            raise self._error

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake; on_close follows, within CLOSE_TIMEOUT_S. Frames until then are delivered."""
        if self.is_open:
            self._reference.send_close(code, cut_reason(reason))
            self._flush()
        elif self._reference.state is State.CONNECTING:
            self._fail(code, reason, ConnectError(f"{self._place}: closed before it was open"))

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection without a handshake."""
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Stop reading from the socket; bytes read already are still delivered. Time does not count as silence."""
        if not self._paused and not self._ended:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self._ended:
            self._paused, self._chunks_at_ping, self._heard_s = False, None, self._loop.time()
            self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        request = self._reference.connect()
        request.headers["User-Agent"] = f"recorder/{__version__}"
        for name, value in self.endpoint.headers:
            request.headers.pop(name, None)
            request.headers[name] = value
        self._reference.send_request(request)
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._kept :]

    def buffer_updated(self, nbytes: int) -> None:
        self.last_recv_ns = ts_recv = self._now()
        self._heard_s = self._loop.time()
        self._chunks += 1
        stop = self._kept + nbytes
        try:
            at = self._consume(0 if self._head is None else self._read_head(stop, ts_recv), stop, ts_recv)
        except Exception as error:  # of the receiver: what came cannot be kept, so nothing more must come
            self._fail(1011, "the receiver failed", error)
            at = stop
        self._kept = stop - at
        if at and self._kept:
            self._view[: self._kept] = self._view[at:stop]

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._error is None:
            self._error = ConnectionBroken(f"{self._place}: {exc}; reconnect")
            self._error.__cause__ = exc
        self._end()
        for timer in self._timers.values():
            timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(self._open_error())
        elif self._open:
            self._open = False
            self._receiver.on_close(*self._closed_with())

    # Receiving.

    def _consume(self, at: int, stop: int, ts_recv: int) -> int:
        """Hand over what ``buffer[at:stop]`` holds; return where the frame starts that is not here in full."""
        buffer, arrays = self._buffer, self._arrays
        while at < stop:
            if not self.is_open:
                self._feed(self._view[at:stop], ts_recv)
                return stop
            if self._owed:
                end = min(stop, at + self._owed)
                self._owed -= end - at
                self._feed(self._view[at:end], ts_recv)
                at = end
                continue
            if not self._fragmented:
                count, at, controls, reason = scan(buffer, at, stop, *arrays.arguments, FAST_FRAME_BYTES_MAX)
                if count:
                    self._receiver.on_frames(
                        buffer, arrays.starts, arrays.lengths, arrays.opcodes, count,
                        arrays.controls[:controls], ts_recv,
                    )  # fmt: skip
                if reason <= PARTIAL:
                    return at
                if reason == FULL:
                    continue
            end, self._owed, self._fragmented = reference_span(
                buffer, at, stop, self._fragmented, FAST_FRAME_BYTES_MAX
            )  # fmt: skip
            if end == at:
                return at
            self._feed(self._view[at:end], ts_recv)
            at = end
        return at

    def _feed(self, data: bytearray | memoryview, ts_recv: int) -> None:
        """Let the reference parser read ``data``, answer as it says, and hand over what it found."""
        self._reference.receive_data(data)  # type: ignore[arg-type]  # it appends to a bytearray: any buffer will do
        events = self._reference.events_received()
        self._flush()
        for event in events:
            self._on_event(event, ts_recv)

    def _on_event(self, event: Any, ts_recv: int) -> None:
        if isinstance(event, Response):
            if self.is_open:
                self._start()
        elif isinstance(event, Frame):
            if event.opcode is Opcode.PONG:
                self._chunks_at_ping = None
            elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                if event.opcode is not Opcode.CONT:
                    self._binary = event.opcode is Opcode.BINARY
                self._message += event.data
                if event.fin:
                    payload, self._message = bytes(self._message), bytearray()
                    self._receiver.on_message(payload, self._binary, ts_recv)

    def _read_head(self, stop: int, ts_recv: int) -> int:
        """Collect the answer's headers and feed exactly these, so that frames behind them take the fast path."""
        assert self._head is not None
        before = len(self._head)
        self._head += self._view[:stop]
        end = self._head.find(b"\r\n\r\n", max(0, before - 3)) + 4
        if end < 4:
            if len(self._head) > HEAD_BYTES_MAX:
                self._fail(1002, "", ConnectError(f"{self._place}: the answer's headers exceed {HEAD_BYTES_MAX} bytes"))
            return stop
        head, self._head = self._head[:end], None
        self._feed(head, ts_recv)
        return end - before

    def _start(self) -> None:
        self._open = True
        if self.endpoint.ping_ns:
            self._later("ping", self.endpoint.ping_ns / SECOND, self._ping_tick)
        if self.endpoint.silence_ns:
            self._later("silence", self.endpoint.silence_ns / SECOND, self._silence_tick)
        if not self.opened.done():
            self.opened.set_result(None)
        self._receiver.on_open()

    def _end(self) -> None:
        """The stream is over: let the reference parser read what is left and draw its conclusions."""
        if self._ended:
            return
        self._ended = True
        if self._head:
            self._reference.receive_data(bytes(self._head))
        if self._kept:
            self._reference.receive_data(self._view[: self._kept])  # type: ignore[arg-type]
        self._kept = 0
        self._reference.receive_eof()
        self._flush()

    # Sending, failing and timing.

    def _flush(self) -> None:
        transport, closing = self._transport, False
        for data in self._reference.data_to_send():
            if not data:
                closing = True
            elif not transport.is_closing():
                transport.write(data)
        if closing:
            transport.close()  # ends once what was written has left, or by the timer below
        elif transport.get_write_buffer_size() > WRITE_BYTES_MAX:
            self.abort(ConnectionBroken(f"{self._place}: over {WRITE_BYTES_MAX} bytes wait for the peer; reconnect"))
        if (closing or self._reference.close_expected()) and "close" not in self._timers:
            self._later("close", CLOSE_TIMEOUT_S, self.abort)

    def _fail(self, code: int, reason: str, error: Exception, patience_s: float = CLOSE_TIMEOUT_S) -> None:
        """Give the connection up: say so to the peer if it is open, wait ``patience_s`` for its end, then drop it."""
        self._error = self._error or error
        if self._reference.state in (State.OPEN, State.CLOSING):
            self._reference.fail(code, cut_reason(reason))
            self._flush()
            self._later("close", patience_s, self.abort)
        else:
            self.abort()

    def _later(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(delay_s, callback)

    def _ping_tick(self) -> None:
        """Send a ping. By the next tick its pong or any other byte must have come: a busy feed's pong may be late."""
        if not self.is_open:
            return
        ping_s = self.endpoint.ping_ns / SECOND
        if self._chunks_at_ping == self._chunks and not self._paused:
            text = f"no pong and nothing else within {ping_s:g} s"
            self._fail(1011, text, ConnectionBroken(f"{self._place}: {text}; reconnect"), DEAD_TIMEOUT_S)
            return
        self._chunks_at_ping = self._chunks
        self._reference.send_ping(b"recorder")
        self._flush()
        self._later("ping", ping_s, self._ping_tick)

    def _silence_tick(self) -> None:
        if not self.is_open:
            return
        allowed_s = self.endpoint.silence_ns / SECOND
        silent_s = 0.0 if self._paused else self._loop.time() - self._heard_s
        if silent_s >= allowed_s:
            text = f"nothing received for {silent_s:.1f} s"
            self._fail(
                1001,
                text,
                ConnectionBroken(f"{self._place}: {text}, allowed {allowed_s:g} s; reconnect"),
                DEAD_TIMEOUT_S,
            )
            return
        self._later("silence", allowed_s - silent_s, self._silence_tick)

    # Errors in words.

    def _closed_with(self) -> tuple[int, str, Exception | None]:
        received, sent, cause = self._reference.close_rcvd, self._reference.close_sent, self._reference.parser_exc
        error = self._error
        if error is None and cause is not None and not isinstance(cause, EOFError):
            error = ConnectionBroken(f"{self._place}: the peer broke the protocol: {cause}; reconnect")
            error.__cause__ = cause
        if received is not None:
            return int(received.code), received.reason, error
        if sent is not None and error is not None:
            return int(sent.code), sent.reason, error
        return _ABNORMAL, "", error or ConnectionBroken(f"{self._place}: ended without a closing handshake; reconnect")

    def _open_error(self) -> Exception:
        cause = self._reference.handshake_exc
        if isinstance(cause, InvalidStatus):
            return refusal(cause.response, self.endpoint, self._now())
        if self._error is not None:
            return self._error if isinstance(self._error, ConnectError) else ConnectError(str(self._error))
        why = getattr(cause, "__cause__", None)
        words = f"{cause}: {why}" if why else cause
        error = ConnectError(f"{self._place}: the answer to the upgrade is no WebSocket: {words}")
        error.__cause__ = cause
        return error


async def connect(
    endpoint: Endpoint, receiver: Receiver, *, ssl: SSLContext | None = None, now: Callable[[], int] = time.time_ns
) -> WebSocketClient:
    """Open a connection within ``endpoint.open_timeout_ns``; ``receiver.on_open`` has been called when this returns.

    ssl  None: ``tls_context()`` for wss://
    Raises ConfigError for an address or header that cannot be right, UpgradeRefused for another HTTP status than 101,
    ConnectError for all else that may pass. ``receiver.on_close`` is called only after ``on_open``.
    """
    client = WebSocketClient(endpoint, receiver, asyncio.get_running_loop(), now=now)
    await open_client(client, parse_address(endpoint), endpoint, ssl)
    return client


async def open_client(client: Any, address: WebSocketURI, endpoint: Endpoint, ssl: SSLContext | None) -> None:
    """Connect a protocol that has ``opened``, a future, and ``abort()``; errors as those of ``connect``."""
    where, context = place(endpoint.url), (ssl or tls_context()) if address.secure else None
    try:
        async with asyncio.timeout(endpoint.open_timeout_ns / SECOND):
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: client, address.host, address.port, ssl=context)
            await client.opened
    except BaseException as error:
        client.abort()
        if not client.opened.cancel() and not client.opened.cancelled():
            client.opened.exception()  # seen: nobody else will ask for it
        if isinstance(error, TimeoutError):
            text = f"{where}: not open within {endpoint.open_timeout_ns / SECOND:g} s; is it reachable?"
            raise ConnectError(text) from None
        if isinstance(error, SSLError):
            words = getattr(error, "verify_message", "") or error.reason or error
            text = f"{where}: TLS failed: {words}; is the issuer in the system's certificate store?"
            raise ConnectError(text) from error
        if isinstance(error, OSError):
            raise ConnectError(f"{where}: cannot be reached: {error}") from error
        raise


def unread_bytes(transport: Any) -> int:
    """Received by the system and not read yet; 0 where there is no socket any more."""
    if transport is None or transport.is_closing():
        return 0
    count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int(struct.unpack("i", count)[0])
