"""A client of server-sent events that looks to its owner like a WebSocket's, only that it cannot send.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.uri import WebSocketURI

from recorder import __version__
from recorder.core.event_stream import EventParser
from recorder.core.http_stream import Head, HttpStream
from recorder.shell.websocket import Receiver, open_client, unread_bytes
from recorder.shell.websocket_address import parse_address, place, refusal
from recorder.values.errors import ConnectError, ConnectionBroken
from recorder.values.feed import SECOND, Endpoint

REFUSAL_BYTES_MAX = 4096  # of the body of an answer that is no stream: enough for a provider's sentence
# The answer will be the same until somebody changes something: 204 says that the stream has ended for good, a body of
# another type that this is no stream. Asked again as seldom as after a refused key.
FATAL = (204, 400, 401, 403, 404, 410)
_TYPE = "text/event-stream"


class EventStreamClient(asyncio.Protocol):
    """One connection. ``connect`` makes it; a transport and ``loop`` (time, call_later, create_future) drive it.

    Each event is handed to ``receiver.on_message`` as it was received, see ``core.event_stream``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        address: WebSocketURI,
        receiver: Receiver,
        parser: EventParser,
        loop: Any,
        now: Callable[[], int],
    ) -> None:
        self.endpoint = endpoint
        self.opened: asyncio.Future[None] = loop.create_future()
        self._address, self._receiver, self._parser, self._loop, self._now = address, receiver, parser, loop, now
        self._place = place(endpoint.url)
        self._stream = HttpStream()
        self._refused = bytearray()  # body of an answer that is no stream
        self._transport: Any = None
        self._error: Exception | None = None
        self._open = False
        self._heard_s = 0.0
        self._silence: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def unread_bytes(self) -> int:
        """Received by the system and not read yet; a system call, so not for every read."""
        return unread_bytes(self._transport)

    def send(self, message: str | bytes) -> None:
        raise ConnectionBroken(f"{self._place}: a stream of events takes no messages")

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End it; on_close follows."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, error: Exception | None = None) -> None:
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        headers = {
            "Host": host if self._address.port in (80, 443) else f"{host}:{self._address.port}",
            "Accept": _TYPE,
            "Cache-Control": "no-store",
            "Accept-Encoding": "identity",
            "User-Agent": f"recorder/{__version__}",
        }
        self._parser.restart()
        if self._parser.last_event_id:
            headers["Last-Event-ID"] = self._parser.last_event_id
        lines = [f"{name}: {value}" for name, value in (*headers.items(), *self.endpoint.headers)]
        head = "\r\n".join((f"GET {self._address.resource_name} HTTP/1.1", *lines, "", ""))
        transport.write(head.encode("utf-8"))

    def data_received(self, data: bytes) -> None:
        ts_recv = self._now()
        self._heard_s = self._loop.time()
        try:
            body = self._stream.feed(data)
            if not self._open and not self._begin(body):
                return
            for event in self._parser.feed(body):
                self._receiver.on_message(event, False, ts_recv)
        except Exception as error:  # also of the receiver: what came cannot be kept, so nothing more must come
            self.abort(error)
            return
        if self._stream.ended:
            self._transport.close()

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        if exc is not None and self._error is None:
            self._error = ConnectionBroken(f"{self._place}: {exc}; reconnect")
        if not self.opened.done():
            self.opened.set_exception(self._open_error())
        elif self._open:
            self._open = False
            if self._error is None and not self._stream.eof():
                self._error = ConnectionBroken(f"{self._place}: ended in the middle of its answer; reconnect")
            self._receiver.on_close(0, "the stream ended", self._error)

    def _begin(self, body: bytes) -> bool:
        """Whether this is a stream of events; what is not one is read for its words, then closed."""
        head = self._stream.head
        if head is None:
            return False
        if head.status == 200 and head.headers.get("content-type", "").partition(";")[0].strip().lower() == _TYPE:
            self._open = True
            self._look()
            if not self.opened.done():
                self.opened.set_result(None)
            self._receiver.on_open()
            return True
        self._refused += body
        if self._stream.ended or len(self._refused) >= REFUSAL_BYTES_MAX:
            self._transport.close()
        return False

    def _look(self) -> None:
        """Comments keep a quiet stream alive: one without any bytes is dead."""
        allowed_s = self.endpoint.silence_ns / SECOND
        silent_s = self._loop.time() - self._heard_s
        if allowed_s and silent_s >= allowed_s:
            text = f"nothing received for {silent_s:.1f} s, allowed {allowed_s:g} s"
            self.abort(ConnectionBroken(f"{self._place}: {text}; reconnect"))
        elif allowed_s:
            self._silence = self._loop.call_later(allowed_s - silent_s, self._look)

    def _open_error(self) -> Exception:
        head = self._stream.head
        if head is not None and self._error is None:
            return self._refusal(head)
        why = self._error or "it was closed before it answered"
        return ConnectError(str(why) if self._place in str(why) else f"{self._place}: {why}")

    def _refusal(self, head: Head) -> Exception:
        headers = Headers({name.title(): value for name, value in head.headers.items()})
        phrase, wanted = head.phrase, "a stream of events"
        if head.status == 200:
            wanted += f"; its Content-Type is {head.headers.get('content-type', 'missing')[:60]!r}, not {_TYPE}"
        elif head.status == 204:
            wanted += ", which says that it will not be served again"
        response = Response(head.status, phrase, headers, bytes(self._refused[:REFUSAL_BYTES_MAX]))
        fatal = head.status in FATAL or head.status == 200
        return refusal(response, self.endpoint, self._now(), wanted, fatal)


async def connect(
    endpoint: Endpoint,
    receiver: Receiver,
    parser: EventParser,
    *,
    ssl: SSLContext | None = None,
    now: Callable[[], int] = time.time_ns,
) -> EventStreamClient:
    """Open a stream within ``endpoint.open_timeout_ns``; ``receiver.on_open`` has been called when this returns.

    parser  knows after which event to go on
    Errors as those of ``websocket.connect``; UpgradeRefused is for any answer but 200 with events.
    """
    address = parse_address(endpoint, "https", "http")
    client = EventStreamClient(endpoint, address, receiver, parser, asyncio.get_running_loop(), now)
    await open_client(client, address, endpoint, ssl)
    return client
