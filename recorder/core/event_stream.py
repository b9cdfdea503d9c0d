"""Server-sent events, sans I/O: the bytes of a stream in, whole events out, each exactly as it was received.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from recorder.values.errors import ConnectionBroken
from recorder.values.feed import HOUR

EVENT_BYTES_MAX = 8 << 20  # half of what the journal takes; a whole list of corporate actions is under 1 MB
RETRY_DIGITS_MAX = 12
RETRY_NS_MAX = HOUR  # a server that asks for more has made a mistake

_BOM = b"\xef\xbb\xbf"
_CR, _LF = 13, 10
_END_OF_LINE = re.compile(rb"[\r\n]")
_LINES = re.compile(rb"\r\n|\n|\r")  # nothing else ends a line: U+2028 and U+0085 are text


class Event(NamedTuple):
    """What an event says."""

    type: str
    data: bytes
    id: str | None  # None: it has no ``id`` line of its own


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of a line; one space after the colon is not part of the value."""
    name, _, value = line.partition(b":")
    return name, value[1:] if value[:1] == b" " else value


def read_event(raw: bytes) -> Event:
    """Read what ``EventParser.feed`` returned; of anything else what lines it has."""
    type_, id_, data = "", None, []
    for line in _LINES.split(raw):
        name, value = _field(line)
        if name == b"data":
            data.append(value)
        elif name == b"event":
            type_ = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            id_ = value.decode("utf-8", "replace")
    return Event(type_ or "message", b"\n".join(data), id_)


class EventParser:
    """Cuts a stream into events, wherever it was cut into pieces; one for all connections of a feed.

    last_event_id  what to ask the server to go on after; "" before any. Of the last event that was taken: one cut off
                   by an end, or not kept by who should have, does not count
    retry_ns       how long the server wants a client to wait before it connects again; 0: it has not said
    """

    def __init__(self) -> None:
        self.last_event_id = ""
        self.retry_ns = 0
        self.restart()

    def restart(self) -> None:
        """A new connection: what came of an unfinished event is dropped."""
        self._buffer = bytearray()  # from the start of the event that is coming
        self._line = self._seen = 0  # start of the line that is coming, and how far the buffer was looked at
        self._after_cr = False  # a line feed that follows belongs to the end of line before it
        self._begun = False  # past where a byte order mark may stand
        self._has_data = self._has_field = False
        self._id = self.last_event_id

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Events that are whole now: their lines with their ends, without the blank one. Those without data do not
        exist. Raises ConnectionBroken past EVENT_BYTES_MAX. To be taken until its end, or not to be gone on with."""
        buffer = self._buffer
        buffer += piece
        if not self._begun:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                return
            self._begun = True
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
        first = 0  # of the event that is coming
        while (found := _END_OF_LINE.search(buffer, self._seen)) is not None:
            end, start = found.start(), self._line
            self._line = self._seen = end + 1
            if self._after_cr and buffer[end] == _LF and end == start:
                self._after_cr = False
                first = end + 1 if first == end else first
                continue
            self._after_cr = buffer[end] == _CR
            if end > start:
                self._take(bytes(buffer[start:end]))
                first = first if self._has_field else end + 1  # comments before an event are no part of it
                continue
            if self._has_data:
                yield bytes(buffer[first:start])
            self.last_event_id = self._id
            self._has_data = self._has_field = False
            first = end + 1
        self._seen = len(buffer)
        del buffer[:first]
        self._line, self._seen = self._line - first, self._seen - first
        if len(buffer) > EVENT_BYTES_MAX:
            raise ConnectionBroken(f"an event of more than {EVENT_BYTES_MAX} bytes; reconnect")

    def _take(self, line: bytes) -> None:
        """A line that is not blank."""
        if line.startswith(b":"):
            return
        self._has_field = True
        name, value = _field(line)
        if name == b"data":
            self._has_data = True
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) <= RETRY_DIGITS_MAX:
            self.retry_ns = min(int(value) * 1_000_000, RETRY_NS_MAX)
