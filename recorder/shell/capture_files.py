"""Files of captures and exports: plain, gzip or zstd; their lines, and what is said of a wrong one."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import zstandard

from recorder.values.errors import CaptureError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LINE_BYTES_MAX = (
    1 << 26
)  # the longest REST answers recorded are 1 MB; past 64 MB it is no line of text, and is cut there
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which some editors put before a text
EXCERPT = 80
ZSTD_BYTES = 1 << 10  # unpacked at once: even bytes made to swell give 32 MB at most


def lines_of(path: Path, peek: bool = False) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their end. ``peek``: what cannot be read behind the first one ends them, silently."""
    number = 0
    try:
        with path.open("rb") as raw, unpacked(raw) as file:
            reader = io.BufferedReader(file, 1 << 18) if isinstance(file, io.RawIOBase) else file
            while line := reader.readline(LINE_BYTES_MAX):
                number += 1
                if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
                    if peek:
                        return
                    while (rest := reader.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                        pass
                yield number, (line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line).rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno:
            raise CaptureError(f"{path}: cannot be read: {error.strerror}") from error
        if peek and number:
            return
        raise CaptureError(
            f"{path}: damaged or cut short after line {number:,} ({error}); fetch or copy it again"
        ) from error


def unpacked(raw: IO[bytes]) -> IO[bytes]:
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if magic == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(_Zstd(raw), 1 << 18)
    return raw


class _Zstd(io.RawIOBase):
    """What frames of zstd hold, one after the other. Raises EOFError where the last one is cut short.

    The library's own reader ends such a frame without a word.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._rest, self._out = raw, b"", memoryview(b"")
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while not self._out:
            if not self._more():
                return 0
        count = min(len(view), len(self._out))
        view[:count] = self._out[:count]
        self._out = self._out[count:]
        return count

    def _more(self) -> bool:
        """Unpack the next bytes; False at the end of the file."""
        packed = self._rest or self._raw.read(ZSTD_BYTES)
        if not packed:
            if self._frame is not None:
                raise EOFError("Compressed file ended before the end of its last frame")
            return False
        frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._out = memoryview(frame.decompress(packed))
        self._frame, self._rest = (None, frame.unused_data) if frame.eof else (frame, b"")
        return True


def magic_of(path: Path) -> bytes:
    """The first four bytes, unpacked; fewer of a shorter file, none of one that cannot be read."""
    try:
        with path.open("rb") as raw, unpacked(raw) as file:
            return file.read(4)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        return b""


def wrong_line(path: Path, number: int, expected: str, line: bytes) -> CaptureError:
    shown = line[:EXCERPT].decode("utf-8", "backslashreplace") + ("…" if len(line) > EXCERPT else "")
    return CaptureError(f"{path}:{number}: expected {expected}, found {shown!r}")


def text_of(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
