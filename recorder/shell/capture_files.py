"""Files of captures and exports: plain, gzip or zstd; their lines, and what is said of a wrong one."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from recorder.values.errors import CaptureError

LINE_BYTES_MAX = 1 << 26  # the longest REST answers recorded are 1 MB; past 64 MB it is no line of text
EXCERPT = 80


def lines_of(path: Path, peek: bool = False) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their end. ``peek``: what cannot be text ends the lines instead of raising."""
    try:
        with path.open("rb") as raw, unpacked(raw) as file:
            reader = io.BufferedReader(file, 1 << 18) if isinstance(file, io.RawIOBase) else file
            number = 0
            while line := reader.readline(LINE_BYTES_MAX):
                number += 1
                if len(line) == LINE_BYTES_MAX and not peek:
                    raise CaptureError(f"{path}:{number}: a line of {LINE_BYTES_MAX} bytes or more; this is no capture")
                yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        if isinstance(error, OSError) and error.errno:
            raise CaptureError(f"{path}: cannot be read: {error.strerror}") from error
        raise CaptureError(f"{path}: damaged or cut short ({error}); fetch or copy it again") from error


def unpacked(raw: IO[bytes]) -> IO[bytes]:
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if magic == b"\x28\xb5\x2f\xfd":
        stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return io.BufferedReader(stream, 1 << 18)
    return raw


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
