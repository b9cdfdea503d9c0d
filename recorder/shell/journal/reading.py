"""A journal directory read by others than its recorder: without its lock, while segments grow, are named and packed.

What looks damaged may be a record that is being written, seen half. So whatever looks damaged in a raw segment is read
again from the disk until it looks the same twice: records are written one after the other, so one with a record behind
it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recorder.core.frames import COLUMNS, ENDS, Frames
from recorder.shell.journal import recovery
from recorder.shell.journal.segments import (
    FILE_HEADER_BYTES,
    PACKED_SUFFIX,
    READ_FRAMES_MAX,
    Damage,
    Segment,
    SegmentInfo,
    list_segments,
    read_header,
)
from recorder.values.errors import JournalCorrupt

LOOKS_MAX = 64  # for a segment that is being named, packed or retired: each happens once in its life


@dataclass(frozen=True)
class Damaged:
    """A stretch of a segment that holds no valid record. ``offset`` is in the segment as it is unpacked."""

    path: Path
    offset: int
    bytes: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.bytes:,} bytes at offset {self.offset}: {self.reason}"


@dataclass
class Survey:
    """What a segment holds. ``bytes`` are those of whole records, ``stored`` what the file takes up.

    first_recv, last_recv  least and greatest receive time, ns; 0 without frames
    """

    path: Path
    base: int
    end: int
    frames: int = 0
    bytes: int = 0
    stored: int = 0
    first_recv: int = 0
    last_recv: int = 0
    compressed: bool = False
    active: bool = False
    damages: list[Damaged] = field(default_factory=list)


def segments(directory: Path) -> list[SegmentInfo]:
    """Segments in order of position, the one that is written to included, whatever it is named at this moment.

    Raises JournalCorrupt for a directory that holds no journal.
    """
    if not directory.is_dir():
        raise JournalCorrupt(f"{directory}: no such folder; name one that holds a journal")
    begun = directory / recovery.NEXT
    try:
        with begun.open("rb") as file:
            header = read_header(np.frombuffer(file.read(FILE_HEADER_BYTES), np.uint8))
    except FileNotFoundError:
        header = None
    for look in range(LOOKS_MAX):
        try:
            listed = list_segments(directory)  # after NEXT: it may have been renamed in between
            break
        except FileNotFoundError:  # one went between being listed and being looked at
            if look == LOOKS_MAX - 1:
                raise
    found = {info.base: info for info in listed}
    if header is not None and header[0] not in found:
        found[header[0]] = SegmentInfo(begun, header[0], header[1], 0, False)
    return [found[base] for base in sorted(found)]


def load(directory: Path, info: SegmentInfo) -> Segment | None:
    """The segment, wherever it is by now; None when it was retired. Raises JournalCorrupt if none of it is readable."""
    doubted = False
    for _ in range(LOOKS_MAX):
        try:
            segment = Segment.load(info.path)
            if segment.base == info.base:  # else the next segment was prepared under the name that this one had
                return segment
        except FileNotFoundError:
            pass
        except JournalCorrupt:  # it may be on its way out at this moment: looked at twice
            if doubted and info.path.exists():
                raise
            doubted = True
        again = next((each for each in segments(directory) if each.base == info.base), None)
        if again is None:
            return None
        info = again
    raise JournalCorrupt(f"{info.path}: is listed but cannot be opened; look at the permissions of the folder")


def walk(directory: Path, info: SegmentInfo, written: bool, verify: bool = True) -> Iterator[Frames | Damage | Segment]:
    """The segment once it is open, then its frames and damages in order.

    written  a recorder is writing to it: a record that is half there at its end is no damage
    Raises JournalCorrupt if nothing of it can be read.
    """
    segment = load(directory, info)
    if segment is None:
        return
    yield segment
    if 0 in segment.damages:
        yield segment.damages[0]
    out = np.empty((COLUMNS, READ_FRAMES_MAX), np.int64)
    offset, doubt = FILE_HEADER_BYTES, (-1, False)
    while offset < segment.used:
        count, following, damage = segment.walk(offset, segment.used, verify, out)
        if count:
            yield Frames(segment.data, out[:, :count].copy(), int(out[ENDS, count - 1]))
        if damage is not None:
            followed = damage.resume < segment.used
            if doubt != (damage.at, followed) and not segment.path.name.endswith(PACKED_SUFFIX):
                doubt = (damage.at, followed)
                segment = load(directory, info) or segment
                segment.damages.pop(damage.at, None)
                offset = damage.at
                continue
            if followed or not written:
                yield damage
        offset = following


def read(
    directory: Path,
    chosen: Callable[[list[SegmentInfo]], list[SegmentInfo]] = list,
    damaged: Callable[[Damaged], None] = lambda _: None,
) -> Iterator[Frames]:
    """Frames of a journal as far as it has come, in order.

    chosen   which of its segments
    damaged  is told of what was passed over
    """
    running = recovery.holder(directory) is not None
    infos = segments(directory)
    for info in chosen(infos):
        try:
            for piece in walk(directory, info, running and info is infos[-1]):
                if isinstance(piece, Frames):
                    yield piece
                elif isinstance(piece, Damage):
                    damaged(_damaged(info.path, piece))
        except JournalCorrupt as error:
            damaged(Damaged(info.path, 0, info.size, str(error)))


def survey(directory: Path, verify: bool) -> Iterator[Survey]:
    """Each segment as it is, oldest first. ``verify``: every checksum is computed, and a missing segment is damage."""
    running = recovery.holder(directory) is not None
    infos = segments(directory)
    end = infos[0].base if infos else 0
    for info in infos:
        last = info is infos[-1]
        found = Survey(info.path, info.base, info.base, compressed=info.compressed, active=running and last)
        if verify and info.base != end:
            what = f"no segment holds the positions from {end} to {info.base}"
            found.damages.append(Damaged(info.path, 0, info.base - end, what))
        try:
            for piece in walk(directory, info, found.active, verify):
                _add(found, piece)
        except JournalCorrupt as error:
            found.damages.append(Damaged(info.path, 0, info.size, str(error)))
        end = found.end
        yield found


def _add(found: Survey, piece: Frames | Damage | Segment) -> None:
    if isinstance(piece, Segment):
        found.path, found.compressed = piece.path, piece.path.name.endswith(PACKED_SUFFIX)
        found.stored = piece.path.stat().st_size if piece.path.exists() else len(piece.data)
    elif isinstance(piece, Damage):
        found.damages.append(_damaged(found.path, piece))
        found.end = max(found.end, found.base + piece.resume - FILE_HEADER_BYTES)
    else:
        first, last = int(piece.ts_recv.min()), int(piece.ts_recv.max())
        found.first_recv = min(found.first_recv or first, first)
        found.last_recv = max(found.last_recv, last)
        found.frames += piece.count
        found.bytes += piece.end - found.end
        found.end = piece.end


def _damaged(path: Path, damage: Damage) -> Damaged:
    return Damaged(path, damage.at, damage.resume - damage.at, damage.reason)
