"""An HTTP/1.1 answer that does not end, sans I/O: bytes in, head and body out as they come. RFC 9112 §6 and §7."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from recorder.values.errors import ConnectError, ConnectionBroken

HEAD_BYTES_MAX = 64 << 10  # proxies add cookies, none adds more
LINE_BYTES_MAX = 4096  # a chunk's size with its extensions, a line of its trailer

_STATUS = re.compile(r"HTTP/1\.[01] (\d{3})(?: (.*))?")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


@dataclass(frozen=True)
class Head:
    """``headers`` have lower-case names; several of one name are joined by commas."""

    status: int
    phrase: str
    headers: dict[str, str] = field(default_factory=dict)


class HttpStream:
    """One answer. ``head`` is None until it is here in full; ``ended`` says that the body is complete."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.ended = False
        self._buffer = bytearray()
        self._chunked = False
        self._left: int | None = None  # bytes of the body still to come; None: until the connection ends
        self._owed = 0  # bytes of the chunk still to come; -1: the end of line behind it
        self._trailer = False

    def feed(self, piece: bytes) -> bytes:
        """What of the body is new. Raises ConnectError for a head that is no HTTP, ConnectionBroken for a body."""
        self._buffer += piece
        if self.head is None and not self._read_head():
            return b""
        return self._read_chunks() if self._chunked else self._read_plain()

    def eof(self) -> bool:
        """The connection was ended: whether that is how this body ends."""
        return self.ended or (self.head is not None and not self._chunked and self._left is None)

    def _read_head(self) -> bool:
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            found = _STATUS.fullmatch(lines[0])
            if found is None:
                raise ConnectError(f"the answer is not HTTP: {lines[0][:40]!r}")
            status = int(found[1])
            headers: dict[str, str] = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
            if status >= 200:  # those below announce another
                self.head = Head(status, found[2] or "", headers)
                self._begin(self.head)
                return True
        if len(self._buffer) > HEAD_BYTES_MAX:
            raise ConnectError(f"the answer's headers exceed {HEAD_BYTES_MAX} bytes")
        return False

    def _begin(self, head: Head) -> None:
        length = head.headers.get("content-length", "")
        self._chunked = head.headers.get("transfer-encoding", "").lower().endswith("chunked")
        if head.status in (204, 304):
            self._chunked, self._left, self.ended = False, 0, True
        elif not self._chunked and length.isdecimal() and len(length) < 16:
            self._left = int(length)
            self.ended = not self._left

    def _read_plain(self) -> bytes:
        count = len(self._buffer) if self._left is None else min(self._left, len(self._buffer))
        body = bytes(self._buffer[:count])
        self._buffer.clear()
        if self._left is not None:
            self._left -= count
            self.ended = not self._left
        return body

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while not self.ended:
            if self._owed > 0:
                count = min(self._owed, len(self._buffer))
                body += self._buffer[:count]
                del self._buffer[:count]
                self._owed -= count
                if self._owed:
                    break
                self._owed = -1
            line = self._line()
            if line is None:
                break
            if self._owed:
                if line:
                    raise ConnectionBroken(f"a chunk is followed by {line[:20]!r}; reconnect")
                self._owed = 0
            elif self._trailer:
                self.ended = not line
            else:
                size = line.partition(b";")[0].strip()
                if _SIZE.fullmatch(size) is None:
                    raise ConnectionBroken(f"{size[:20]!r} is no size of a chunk; reconnect")
                self._owed = int(size, 16)
                self._trailer = not self._owed
        return bytes(body)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise ConnectionBroken(f"a line of more than {LINE_BYTES_MAX} bytes between chunks; reconnect")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line
