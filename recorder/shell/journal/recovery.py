"""What a journal finds when it opens its directory: a crash's tail, damage, declarations, the released position."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from recorder.core.frames import COLUMNS, KINDS, LENGTHS, SOURCE, SOURCES, STARTS
from recorder.shell.journal.segments import (
    FILE_HEADER_BYTES,
    PACKED_SUFFIX,
    READ_FRAMES_MAX,
    Damage,
    Segment,
    list_segments,
    read_header,
    replace_file,
    segment_name,
    sync_directory,
    truncate,
)
from recorder.values.errors import JournalCorrupt, JournalLocked
from recorder.values.feed import FeedSpec

NEXT = "next.prepared"  # the segment prepared ahead; its header stays zero until frames go into it
RELEASED = "released"
LOCK = "lock"
LOCK_WAIT_S = 0.1  # somebody who looks whether the directory is in use holds the lock for an instant
LOCK_POLL_S = 0.005
SCRATCH_SUFFIX = ".tmp"

Log = Callable[..., None]


@dataclass(frozen=True)
class Held:
    """A segment on disk."""

    path: Path
    base: int
    created_ns: int
    size: int
    compressed: bool


@dataclass
class Found:
    """State of a journal directory, repaired."""

    held: list[Held] = field(default_factory=list)
    end: int = 0
    released: int = 0
    specs: dict[int, FeedSpec] = field(default_factory=dict)


def recover(directory: Path, log: Log) -> Found:
    """Bring a directory in order after whatever happened to it: nothing that can be read is thrown away."""
    _tidy(directory)
    found = Found(released=read_released(directory, log))
    infos = list_segments(directory)
    for info in infos:
        if not info.compressed and info.size <= FILE_HEADER_BYTES:
            info.path.unlink()  # created, and killed before it was preallocated
    infos = list_segments(directory)
    held = [Held(info.path, info.base, info.created_ns, info.size, info.compressed) for info in infos]
    while held:
        last = held.pop()
        segment = load(last.path, log)
        if segment is None:
            found.end = max(found.end, last.base + max(last.size - FILE_HEADER_BYTES, 0))
            found.held.insert(0, last)  # unreadable, but kept for whoever can
            continue
        frames, used = _scan(segment, found.specs, log)
        found.end = max(found.end, segment.origin + used)
        if not last.compressed:
            _truncate(segment, frames, used, log)
            if used == FILE_HEADER_BYTES:
                last.path.unlink()
                continue
        found.held.insert(0, Held(last.path, last.base, segment.created_ns, last.path.stat().st_size, last.compressed))
        break
    for index, each in enumerate(held):
        # A crash between sealing and truncating leaves a segment preallocated: its successor says where it ends.
        following = held[index + 1].base if index + 1 < len(held) else found.held[0].base if found.held else None
        size = FILE_HEADER_BYTES + following - each.base if following is not None else each.size
        if not each.compressed and each.size > size:
            os.truncate(each.path, size)
            held[index] = Held(each.path, each.base, each.created_ns, size, False)
    found.held[:0] = held
    sync_directory(directory)
    return found


def _tidy(directory: Path) -> None:
    """Finish or undo what was under way: scratch files, a segment begun but not yet named, half a compression."""
    for path in directory.glob(f"*{SCRATCH_SUFFIX}"):
        path.unlink()
    prepared = directory / NEXT
    if prepared.exists():
        with prepared.open("rb") as file:
            header = read_header(np.frombuffer(file.read(FILE_HEADER_BYTES), np.uint8))
        if header is None:
            prepared.unlink()
        else:
            prepared.rename(directory / segment_name(*header))
    for path in directory.glob(f"*{PACKED_SUFFIX}"):
        # Both there: the compressed one was verified, but the raw one is the original.
        if path.with_suffix("").exists():
            path.unlink()


def load(path: Path, log: Log) -> Segment | None:
    """Open a segment; None, logged, when nothing of it can be read."""
    try:
        segment = Segment.load(path, mapped=True)
    except FileNotFoundError:
        return None
    except JournalCorrupt as error:
        log("journal.corrupt", file=path.name, at=0, reason=str(error))
        return None
    if 0 in segment.damages and segment.data[:FILE_HEADER_BYTES].any():
        log_damage(log, segment, segment.damages[0])
    return segment


def _scan(segment: Segment, specs: dict[int, FeedSpec], log: Log) -> tuple[int, int]:
    """Check every record; (frames, offset past the last whole one). Collects the declared sources."""
    out = np.empty((COLUMNS, READ_FRAMES_MAX), np.int64)
    frames, offset, used = 0, FILE_HEADER_BYTES, FILE_HEADER_BYTES
    while offset < segment.used:
        count, offset, damage = segment.walk(offset, segment.used, True, out)
        if damage is not None and damage.resume < segment.used:
            log_damage(log, segment, damage)
        if not count:
            continue
        frames, used = frames + count, offset
        for i in np.flatnonzero(out[KINDS, :count] == SOURCE):
            start = int(out[STARTS, i])
            payload = segment.data[start : start + int(out[LENGTHS, i])].tobytes()
            try:
                specs[int(out[SOURCES, i])] = msgspec.json.decode(payload, type=FeedSpec)
            except msgspec.MsgspecError as error:
                log("journal.source_unknown", file=segment.path.name, source=int(out[SOURCES, i]), reason=str(error))
    return frames, used


def _truncate(segment: Segment, frames: int, used: int, log: Log) -> None:
    """Cut the preallocated rest, and a torn record with it; the latter is worth a log line."""
    if used >= segment.used:
        return
    rest = np.flatnonzero(segment.data[used:])
    if len(rest):
        log(
            "journal.truncated",
            file=segment.path.name,
            at=used,
            position=segment.origin + used,
            bytes=int(rest[-1]) + 1,
            frames=frames,
        )
    truncate(segment.path, used)


def log_damage(log: Log, segment: Segment, damage: Damage) -> None:
    """Say once what was passed over. The frames behind it are kept."""
    log(
        "journal.corrupt",
        file=segment.path.name,
        at=damage.at,
        position=segment.origin + damage.at,
        bytes=damage.resume - damage.at,
        reason=damage.reason,
    )


def read_released(directory: Path, log: Log) -> int:
    """The released position; 0, which replays more and stores nothing twice, when it cannot be read."""
    path = directory / RELEASED
    try:
        return int(msgspec.json.decode(path.read_bytes(), type=dict[str, int])["released"])
    except FileNotFoundError:
        return 0
    except (msgspec.MsgspecError, KeyError, OSError) as error:
        log("journal.released_unreadable", file=str(path), reason=str(error))
        return 0


def write_released(directory: Path, position: int) -> None:
    replace_file(directory / RELEASED, msgspec.json.encode({"released": position}) + b"\n")


def lock(directory: Path) -> int:
    """Take the directory for this process until the descriptor is closed. Raises JournalLocked."""
    path = directory / LOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(LOCK_POLL_S)
                continue
        user = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise JournalLocked(
            f"{directory}: in use by process {user}; stop that recorder or give this one another [journal] dir"
        )
    with suppress(OSError):  # a full disk must not keep a recorder from draining its backlog
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def holder(directory: Path) -> str | None:
    """The process id of the recorder that uses the directory, None when none does. Changes nothing."""
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go with the descriptor: ``lock`` waits longer than that
    except BlockingIOError:
        return os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(fd)
    return None
