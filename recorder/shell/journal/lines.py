"""A journal as plain JSON lines, for other programs and other machines, and back again.

The first line names the format and its version. Each further line is a frame:
``{"position":4242,"ts_recv":1618677817061845000,"kind":"text","source":0,"feed":"cb","payload":"…"}``. ``payload`` is
text; what is no UTF-8 stands in ``base64`` instead. ``source`` is the connection's number, ``feed`` its feed, with
``/1``, ``/2`` … for further connections. A line of kind "source" declares a number: its payload is the connection's
spec; before what was chosen a declaration that only repeats is left out. ``position`` tells where the frame was, just
past it.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import zstandard

from recorder.core.frames import (
    BINARY,
    CLOCK,
    CLOSED,
    ENDS,
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    KIND_MAX,
    OBSERVED,
    OPENED,
    POLLED,
    RESPONSE,
    SENT,
    SOURCE,
    TEXT,
    Frames,
    frames_from_list,
)
from recorder.core.observations import NO_SOURCE
from recorder.shell.capture_files import lines_of, wrong_line
from recorder.shell.journal import recovery
from recorder.shell.journal.journal import Journal
from recorder.values.errors import CaptureError, RecorderError
from recorder.values.feed import FeedSpec

FORMAT, VERSION = "recorder journal", 1
HEAD = msgspec.json.encode({"format": FORMAT, "version": VERSION})
KINDS = {
    "text": TEXT, "binary": BINARY, "source": SOURCE, "opened": OPENED, "closed": CLOSED, "sent": SENT, "clock": CLOCK,
    "response": RESPONSE, "observed": OBSERVED, "polled": POLLED,
}  # fmt: skip
_NAMES = {code: name for name, code in KINDS.items()}
TEXT_BYTES_MAX = 8 << 20  # longer ones go as base64: escaped, a byte may take six, and a line has at most 64 MiB
FRAMES_BYTES_MAX = 1 << 20  # payload bytes handed on at a time
SCRATCH_SUFFIX = ".part"
LEVEL = 3  # of zstd and, at 6, gzip: what their own programs do
ROTATE_NEVER_S = 1 << 32


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    position: int = 0
    ts_recv: int = 0
    kind: str | int = ""
    source: int = -1
    feed: str | None = None
    payload: str | None = None
    base64: str | None = None


class Frame(NamedTuple):
    """A frame as a line says. ``number`` is the line's; ``position`` is 0 where it names none."""

    number: int
    kind: int
    source: int
    ts_recv: int
    payload: bytes
    position: int


# Out.


def to_lines(stream: Iterable[Frames], chosen: Callable[[int, int], bool]) -> Iterator[bytes]:
    """The frames as lines, each with its end. Of those that are not chosen declarations only.

    chosen  asked with a frame's position (just past it) and its ts_recv
    """
    encode = msgspec.json.Encoder().encode
    declared: dict[int, bytes] = {}
    feeds: dict[int, str] = {}
    yield HEAD + b"\n"
    for frames in stream:
        for i, (kind, source, ts_recv, _, _, end) in enumerate(frames.table.T.tolist()):
            payload = frames.payload(i) if kind == SOURCE or chosen(end, ts_recv) else None
            if kind == SOURCE and payload is not None:
                if declared.get(source) == payload and not chosen(end, ts_recv):
                    continue
                declared[source] = payload
                feeds[source] = _feed_of(payload)
            if payload is None:
                continue
            line = _Line(end, ts_recv, _NAMES.get(kind, kind), source, feeds.get(source))
            text = _text_of(payload)
            if text is None:
                line.base64 = base64.b64encode(payload).decode()
            else:
                line.payload = text
            yield encode(line) + b"\n"


def _feed_of(payload: bytes) -> str:
    try:
        spec = msgspec.json.decode(payload, type=FeedSpec)
    except msgspec.MsgspecError:
        return "unknown"
    return f"{spec.name}/{spec.connection}" if spec.connection else spec.name


def _text_of(payload: bytes) -> str | None:
    if len(payload) > TEXT_BYTES_MAX:
        return None
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


@contextmanager
def created(path: Path) -> Iterator[IO[bytes]]:
    """A new file, packed as its suffix says (.gz, .zst), that is there as a whole or not at all.

    Raises CaptureError when the file exists or cannot be written.
    """
    if path.exists():
        raise CaptureError(f"{path}: exists already; remove it or give another name")
    scratch = path.with_name(path.name + SCRATCH_SUFFIX)
    try:
        with scratch.open("wb") as raw:
            with _packed(path, raw) as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
        scratch.replace(path)
    except OSError as error:
        raise CaptureError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def _packed(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=2 * LEVEL) as file:
            yield file  # type: ignore[misc]
    elif path.suffix == ".zst":
        with zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(raw, closefd=False) as writer:
            yield writer
    else:
        yield raw


# Back.


def is_export(line: bytes) -> bool:
    """Whether a file that begins with this line is one of these."""
    try:
        return msgspec.json.decode(line, type=_Head).format == FORMAT
    except msgspec.MsgspecError:
        return False


def read_lines(path: Path) -> Iterator[Frame]:
    """Every frame of an exported file. Raises CaptureError, naming file and line, for what does not fit."""
    decode = msgspec.json.Decoder(_Line).decode
    begun = False
    for number, raw in lines_of(path):
        if not begun:
            begun = _check_head(path, number, raw)
            continue
        if not raw:
            continue
        try:
            line = decode(raw)
            kind, source, ts_recv = _kind(line.kind), _source(line.source), _ts(line.ts_recv)
            yield Frame(number, kind, source, ts_recv, _payload(line), _position(line.position))
        except (msgspec.MsgspecError, ValueError) as error:
            raise wrong_line(path, number, f"a frame ({error})", raw) from error
    if not begun:
        raise CaptureError(f"{path}: is empty; a file of `recorder journal export` begins with {HEAD.decode()}")


def _check_head(path: Path, number: int, raw: bytes) -> bool:
    if not is_export(raw):
        raise wrong_line(path, number, f"{HEAD.decode()}, the first line of an export", raw)
    if (version := msgspec.json.decode(raw, type=_Head).version) != VERSION:
        raise CaptureError(f"{path}:{number}: version {version} of the format; this recorder reads {VERSION}")
    return True


def _kind(kind: str | int) -> int:
    if isinstance(kind, int):
        if not 0 < kind <= KIND_MAX:
            raise ValueError(f"kind {kind} is not between 1 and {KIND_MAX}")
        return kind
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    return KINDS[kind]


def _source(number: int) -> int:
    if not 0 <= number <= NO_SOURCE:
        raise ValueError(f"source {number} is not between 0 and {NO_SOURCE}")
    return number


def _ts(ts_recv: int) -> int:
    if not -(1 << 63) <= ts_recv < 1 << 63:
        raise ValueError(f"ts_recv {ts_recv} is no 64-bit number of ns")
    return ts_recv


def _position(position: int) -> int:
    if not 0 <= position < 1 << 62:
        raise ValueError(f"position {position} is none of a journal")
    return position


def _payload(line: _Line) -> bytes:
    if (line.payload is None) == (line.base64 is None):
        raise ValueError("expected either payload or base64")
    if line.payload is not None:
        payload = line.payload.encode()
    else:
        try:
            payload = base64.b64decode(line.base64 or "", validate=True)
        except binascii.Error as error:
            raise ValueError(f"base64: {error}") from None
    if len(payload) > FRAME_BYTES_MAX:
        raise ValueError(f"payload of {len(payload)} bytes; a frame has at most {FRAME_BYTES_MAX}")
    return payload


def read_frames(path: Path) -> Iterator[Frames]:
    """The same frames as a journal hands them out, at the positions they had there.

    A frame that names none, or one that is not past the frame before, gets the first one possible.
    """
    batch: list[tuple[int, int, int, bytes]] = []
    ends: list[int] = []
    size = position = 0
    for _, kind, source, ts_recv, payload, end in read_lines(path):
        batch.append((kind, source, ts_recv, payload))
        position = max(end, position + HEADER_BYTES + len(payload))
        ends.append(position)
        size += len(payload)
        if size >= FRAMES_BYTES_MAX:
            yield _at(batch, ends)
            batch, ends, size = [], [], 0
    if batch:
        yield _at(batch, ends)


def _at(batch: list[tuple[int, int, int, bytes]], ends: list[int]) -> Frames:
    frames = frames_from_list(batch)
    frames.table[ENDS] = ends
    return Frames(frames.data, frames.table, ends[-1])


def import_lines(path: Path, directory: Path, segment_bytes: int) -> int:
    """Make a journal of an exported file in a new directory, as a whole or not at all; return its frames.

    Sources get numbers of this journal's own; frames of a number that nothing declared stay nobody's.
    Raises CaptureError for a line that does not fit, and for a directory that holds anything.
    """
    _refuse(directory)
    scratch = directory.with_name(directory.name + SCRATCH_SUFFIX)
    _remove(scratch)
    now = 0
    count = 0
    numbers: dict[int, int] = {}
    try:
        with Journal.open(
            scratch, segment_bytes=segment_bytes, rotate_s=ROTATE_NEVER_S, compress=False, now=lambda: now
        ) as journal:
            for number, kind, source, ts_recv, payload, _ in read_lines(path):
                now = ts_recv  # declarations bear the time of the frames, not of this import
                if kind == SOURCE:
                    try:
                        numbers[source] = journal.source(msgspec.json.decode(payload, type=FeedSpec))
                    except msgspec.MsgspecError as error:
                        raise wrong_line(path, number, f"the spec of a feed ({error})", payload) from error
                    continue
                journal.append(numbers.get(source, NO_SOURCE), kind, ts_recv, payload)
                count += 1
        (scratch / recovery.LOCK).unlink(missing_ok=True)
        scratch.replace(directory)
    except OSError as error:
        raise CaptureError(f"{directory}: cannot be written: {error.strerror or error}") from error
    finally:
        _remove(scratch)
    return count


def _refuse(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise CaptureError(f"{directory}: is a file; --into takes a folder that is new or empty")
    if (user := recovery.holder(directory)) is not None:
        raise CaptureError(
            f"{directory}: a recorder runs on it (process {user}); nothing is imported into its journal. "
            "Name a new folder; `recorder replay` brings the file into the database as it is"
        )
    if any(directory.iterdir()):
        raise CaptureError(f"{directory}: is not empty; --into takes a folder that is new or empty")


def _remove(scratch: Path) -> None:
    """What an import that did not end left behind."""
    if not scratch.is_dir():
        return
    try:
        for each in scratch.iterdir():
            each.unlink()
        scratch.rmdir()
    except OSError as error:
        raise RecorderError(f"{scratch}: left by an earlier import, cannot be removed: {error.strerror}") from error
