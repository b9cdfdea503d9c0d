"""Segment files of a journal: their header and names, mapping, damage, and reading them without a journal.

A segment is ``<created, UTC>-<base position, 16 hex digits>.journal``: a header of 64 bytes, then records
(core/frames.py). The position of file offset ``o`` is ``base + o - 64``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from recorder.core.frames import COLUMNS, CORRUPT, END, ENDS, TORN, Frames, index, resync
from recorder.shell.journal import packed
from recorder.values.errors import JournalCorrupt

FILE_HEADER_BYTES = 64
VERSION = 1
_MAGIC = b"RECJOURN"
_FILE_HEADER = struct.Struct("<8sIIqq32x")  # magic, version, crc32 of the rest with this field 0, base, created_ns
_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{16})\.journal(\.zst)?")
SUFFIX, PACKED_SUFFIX = ".journal", ".journal.zst"

READ_FRAMES_MAX = 65_536  # of one read: 3 MB of index
READ_UNMAP_BYTES = 1 << 20
RESYNC_BYTES_MAX = 1 << 30  # checksummed on false trails after damage: a second of work, then the rest is given up
_ZERO_BYTES = 1 << 20  # written at once where the file system cannot preallocate

_LIBC = ctypes.CDLL(None, use_errno=True)  # unlike mmap's own methods these let other threads run meanwhile
_MS_SYNC = 4 if sys.platform == "linux" else 16
_MADV_DONTNEED = 4
_MADV_POPULATE_WRITE = 23  # Linux 5.14; where it is unknown pages are faulted in when first written
_PAGE = mmap.PAGESIZE


@dataclass(frozen=True)
class SegmentInfo:
    """A segment file as its name and size tell. ``created_ns`` is to the second."""

    path: Path
    base: int
    created_ns: int
    size: int
    compressed: bool


def segment_name(base: int, created_ns: int) -> str:
    created = datetime.fromtimestamp(created_ns // 1_000_000_000, UTC)
    return f"{created:%Y%m%dT%H%M%SZ}-{base:016x}{SUFFIX}"


def segment_info(path: Path) -> SegmentInfo | None:
    """What a file name says, None when it is no segment's."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    created = datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    created_ns = int(created.timestamp()) * 1_000_000_000
    return SegmentInfo(path, int(match[2], 16), created_ns, path.stat().st_size, match[3] is not None)


def list_segments(directory: Path) -> list[SegmentInfo]:
    """Segments of a directory in order of position; of a segment both raw and compressed, the raw one."""
    found: dict[int, SegmentInfo] = {}
    for path in directory.iterdir():
        info = segment_info(path)
        if info is not None and not (info.compressed and info.base in found):
            found[info.base] = info
    return [found[base] for base in sorted(found)]


@dataclass(frozen=True)
class Damage:
    """Bytes of a segment that hold no valid record, from file offset ``at`` to ``resume``."""

    at: int
    resume: int
    reason: str


class Segment:
    """The bytes of one segment, mapped or decompressed.

    data     (n,) uint8, the whole file with its header, writable
    used     offset past the last record, or past the last byte that may hold one
    trusted  written by this process: checksums need not be looked at again
    """

    def __init__(self, path: Path, data: np.ndarray, used: int, base: int, created_ns: int) -> None:
        self.path, self.data, self.used = path, data, used
        self.base, self.created_ns = base, created_ns
        self.origin = base - FILE_HEADER_BYTES
        self.buffer = data.data if len(data) else memoryview(bytearray())
        self.trusted = self.sealed = self.named = False
        self.synced = self.mapped_from = self.populated = 0  # offsets; used by the sync thread alone
        self.read_from = 0  # offset; used by the reading thread alone
        self.damages: dict[int, Damage] = {}

    @property
    def end(self) -> int:
        """Position past the last record."""
        return self.origin + self.used

    @classmethod
    def create(cls, path: Path, size: int) -> Segment:
        """A preallocated, mapped file without base yet. Raises OSError (ENOSPC …), leaving no file behind."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            _allocate(fd, size)
            mapped = mmap.mmap(fd, size)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(fd)
        segment = cls(path, np.frombuffer(mapped, np.uint8), FILE_HEADER_BYTES, 0, 0)
        segment.trusted = True
        return segment

    @classmethod
    def closed(cls, base: int) -> Segment:
        """No file and no room: what a journal appends to before its first segment."""
        segment = cls(Path(), np.zeros(0, np.uint8), FILE_HEADER_BYTES, base, 0)
        segment.sealed = True
        return segment

    def start(self, base: int, created_ns: int) -> None:
        """Give a fresh segment its place."""
        self.base, self.created_ns, self.origin = base, created_ns, base - FILE_HEADER_BYTES
        blank = _FILE_HEADER.pack(_MAGIC, VERSION, 0, base, created_ns)
        self.buffer[:FILE_HEADER_BYTES] = _FILE_HEADER.pack(_MAGIC, VERSION, zlib.crc32(blank), base, created_ns)

    @classmethod
    def load(cls, path: Path, mapped: bool = False) -> Segment:
        """Open a segment file, raw or compressed, to read. Raises JournalCorrupt if nothing of it can be read.

        mapped  instead of read into memory; only where nobody can cut the file meanwhile (that would be a SIGBUS)
        A file whose header is damaged is read by what its name says; ``damages`` then has an entry at 0.
        """
        info = segment_info(path)
        reason = ""
        if path.name.endswith(PACKED_SUFFIX):
            data, reason = packed.unpack(path)
        elif mapped and info is not None and info.size:
            with path.open("rb") as file:
                # Private, not read-only: compiled functions would take a read-only array for another type.
                data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
        else:
            data = np.fromfile(path, np.uint8)
        header = read_header(data)
        if header is None:
            if info is None or len(data) < FILE_HEADER_BYTES:
                raise JournalCorrupt(f"{path}: no journal segment: its header is damaged and its name says no position")
            header, reason = (info.base, info.created_ns), reason or "the file header fails its checksum"
        segment = cls(path, data, len(data), *header)
        segment.sealed = True
        if reason:
            segment.damages[0] = Damage(0, FILE_HEADER_BYTES, reason)
        return segment

    def walk(self, offset: int, stop: int, verify: bool, out: np.ndarray) -> tuple[int, int, Damage | None]:
        """``index`` from ``offset`` with damage passed over: (count, next offset, damage met at ``offset`` or None).

        stop  offset beyond which records are left for later; one longer than that is listed all the same
        count is 0 at the end (next offset is then ``used``) and when damage was passed over. A stretch of zeros with
        nothing behind it is the end of a segment that was never truncated, no damage.
        """
        stop = min(stop, self.used)
        count, following, status = index(self.data, offset, stop, self.origin + offset, verify, out)
        if count == 0 and stop < self.used:
            one = np.empty((COLUMNS, 1), np.int64)  # a slice of ``out`` would be another type to the compiled function
            count, following, status = index(self.data, offset, self.used, self.origin + offset, verify, one)
            out[:, :count] = one[:, :count]
        if count or following >= self.used:
            return count, following, None
        known = self.damages.get(following)
        if known is not None:
            return 0, known.resume, None
        resume = resync(self.data, following, self.used, RESYNC_BYTES_MAX)
        if resume < 0:
            resume = self.used
            if status == END and not self.data[following : self.used].any():
                return 0, resume, None
        reason = {TORN: "length past the end", CORRUPT: "checksum", END: "zeros before a record"}.get(status, "")
        damage = self.damages[following] = Damage(following, resume, reason)
        return 0, resume, damage

    # What the sync thread does with the pages.

    def sync(self, until: int) -> None:
        """Make the bytes up to ``until`` durable. Raises OSError."""
        start = self.synced // _PAGE * _PAGE
        # Of this range alone: syncing the file would also write, and write-protect again, the pages prepared ahead.
        if _LIBC.msync(self._address(start), ctypes.c_size_t(until - start), _MS_SYNC):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self.path))
        self.synced = until

    def populate(self, ahead: int) -> None:
        """Fault in the pages up to ``ahead`` bytes past ``used``, so that appending meets none that is missing."""
        start = max(self.populated, self.used) // _PAGE * _PAGE
        stop = min(len(self.data), self.used + ahead) // _PAGE * _PAGE
        if stop - start >= ahead // 2 or (stop > start and self.populated == 0):
            _LIBC.madvise(self._address(start), ctypes.c_size_t(stop - start), _MADV_POPULATE_WRITE)
            self.populated = stop

    def unmap(self, until: int) -> None:
        """Give back the pages before ``until`` (they stay in the page cache), so that resident memory is flat."""
        stop = until // _PAGE * _PAGE
        if stop > self.mapped_from:
            _LIBC.madvise(self._address(self.mapped_from), ctypes.c_size_t(stop - self.mapped_from), _MADV_DONTNEED)
            self.mapped_from = stop

    def unmap_read(self, until: int) -> None:
        """Give back what a reader that is far behind has read, a MiB at a time: its backlog does not stay resident."""
        stop = until // _PAGE * _PAGE
        if stop - self.read_from >= READ_UNMAP_BYTES:
            start = self.read_from // _PAGE * _PAGE
            _LIBC.madvise(self._address(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)
            self.read_from = stop
        elif stop < self.read_from:
            self.read_from = stop  # somebody reads from the start again

    def _address(self, offset: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.data.ctypes.data + offset)


def _allocate(fd: int, size: int) -> None:
    """Reserve the blocks now: a sparse file would raise SIGBUS on a full disk, in the middle of an append."""
    try:
        os.posix_fallocate(fd, 0, size)
        return
    except AttributeError:
        pass  # macOS
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    zeros = bytes(_ZERO_BYTES)
    done = 0
    while done < size:
        done += os.write(fd, zeros[: size - done])


def read_header(data: np.ndarray) -> tuple[int, int] | None:
    """(base, created_ns) of a segment's first bytes, None when they are not a header of this version."""
    if len(data) < FILE_HEADER_BYTES:
        return None
    raw = data[:FILE_HEADER_BYTES].tobytes()
    magic, version, crc, base, created_ns = _FILE_HEADER.unpack(raw)
    blank = raw[:12] + bytes(4) + raw[16:]
    if magic != _MAGIC or version != VERSION or crc != zlib.crc32(blank):
        return None
    return base, created_ns


def sync_directory(path: Path) -> None:
    """Make creations, renames and removals in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, content: bytes, durable: bool = True) -> None:
    """Replace a small file as a whole: a crash leaves the old content or the new. Raises OSError.

    durable  a power loss does too
    """
    scratch = path.with_suffix(".tmp")
    with scratch.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    scratch.replace(path)
    if durable:
        sync_directory(path.parent)


def truncate(path: Path, used: int) -> None:
    """Cut a file to what was used of it, durably."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(fd, used)
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass
class Report:
    """What ``verify`` found. ``bytes`` counts whole records; ``corrupt_at`` and ``torn_at`` are file offsets."""

    path: Path
    frames: int = 0
    bytes: int = 0
    corrupt_at: list[int] = field(default_factory=list)
    torn_at: int | None = None
    damages: list[Damage] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        return not self.damages


def verify(path: Path) -> Report:
    """Check every record of a segment file, raw or compressed. Damage with a record behind it is corrupt, else torn."""
    report = Report(path)
    segment = Segment.load(path)
    if 0 in segment.damages:
        report.damages.append(segment.damages[0])
        report.corrupt_at.append(0)
    out = np.empty((COLUMNS, READ_FRAMES_MAX), np.int64)
    offset = FILE_HEADER_BYTES
    while offset < segment.used:
        count, following, damage = segment.walk(offset, segment.used, True, out)
        if count:
            report.frames += count
            report.bytes += following - offset
        if damage is not None:
            report.damages.append(damage)
            if damage.resume < segment.used:
                report.corrupt_at.append(damage.at)
            else:
                report.torn_at = damage.at
        offset = following
    return report


def read_path(path: Path) -> Iterator[Frames]:
    """Frames of a segment file or of a directory of them, in order, damage passed over; needs no lock.

    A journal being written is read as far as it has come.
    """
    paths = [info.path for info in list_segments(path)] if path.is_dir() else [path]
    out = np.empty((COLUMNS, READ_FRAMES_MAX), np.int64)
    for each in paths:
        segment = Segment.load(each)
        offset = FILE_HEADER_BYTES
        while offset < segment.used:
            count, offset, _ = segment.walk(offset, segment.used, True, out)
            if count:
                yield Frames(segment.data, out[:, :count].copy(), int(out[ENDS, count - 1]))
