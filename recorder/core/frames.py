"""Journal records: how a frame lies in a segment, and the frames of a stretch of journal as arrays.

Record, little endian: ``u32 length | u32 crc32 | i64 ts_recv | u16 source | u8 kind | u8 0`` and ``length`` bytes of
payload. The checksum (zlib's) covers the header from ``ts_recv`` on and the payload. A record whose length and checksum
are both 0 ends the written data: segments are preallocated with zeros.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np

from recorder.compiled import njit
from recorder.values.errors import FrameTooLong

HEADER_BYTES = 20
FRAME_BYTES_MAX = 16 << 20  # the largest provider snapshot seen is under 4 MB; bounds what a torn length may claim

TEXT = 1  # a data frame of text; equal to its WebSocket opcode
BINARY = 2  # a binary data frame; equal to its WebSocket opcode
SOURCE = 3  # payload: JSON of a FeedSpec, declares the source id in the header
OPENED = 4  # a connection opened; older than the CLOSED before it: both were open, nothing was missed between them
CLOSED = 5  # a connection closed; payload: the reason
SENT = 6  # what we sent, never secrets
CLOCK = 7  # nothing came for a second: time went on; no payload
RESPONSE = 8  # an answer of a provider's HTTP interface; payload: core/history.py
OBSERVED = 9  # rows of our own, such as latencies; payload: core/observations.py
POLLED = 10  # an answer to a poll; payload: core/polled.py
KIND_MAX = 15  # kinds above are not ours: resynchronising does not try them

OK = 0  # the arrays are full, more may follow
END = 1  # no further record before ``stop``
TORN = 2  # the record at next_offset claims more bytes than there are
CORRUPT = 3  # the record at next_offset fails its checksum

# Rows of the array that ``index`` fills, one column per frame.
KINDS, SOURCES, TS_RECV, STARTS, LENGTHS, ENDS = range(6)
COLUMNS = 6

_HEADER = struct.Struct("<IIqHBB")
_CHECKED = struct.Struct("<qHBB")  # the part of the header under the checksum


def _tables() -> np.ndarray:
    """(16, 256) uint32: row k is the CRC of a byte followed by k zero bytes (slice-by-16)."""
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = np.where(first & 1, (first >> 1) ^ np.uint32(0xEDB88320), first >> 1)
    rows = [first]
    for _ in range(15):
        last = rows[-1]
        rows.append((last >> 8) ^ first[last & 0xFF])
    return np.array(rows, np.uint32)


_CRC = _tables()


@njit(nogil=True, cache=True, inline="always")
def _u32(data, at):
    i = np.uint64(at)
    return (
        np.uint64(data[i])
        | (np.uint64(data[i + np.uint64(1)]) << np.uint64(8))
        | (np.uint64(data[i + np.uint64(2)]) << np.uint64(16))
        | (np.uint64(data[i + np.uint64(3)]) << np.uint64(24))
    )


@njit(nogil=True, cache=True, inline="always")
def _put(data, at, value, size):
    for k in range(size):
        data[np.uint64(at + k)] = np.uint8((value >> np.uint64(8 * k)) & np.uint64(255))


@njit(nogil=True, cache=True)
def _crc32(data, start, length, value):
    """The running checksum ``value`` (as zlib.crc32 returns it) continued over ``data[start:start + length]``."""
    mask = np.uint64(255)
    crc = np.uint64(value) ^ np.uint64(0xFFFFFFFF)
    i = start
    stop = start + length
    while stop - i >= 16:
        a = _u32(data, i) ^ crc
        b = _u32(data, i + 4)
        c = _u32(data, i + 8)
        d = _u32(data, i + 12)
        crc = np.uint64(
            _CRC[15, a & mask]
            ^ _CRC[14, (a >> np.uint64(8)) & mask]
            ^ _CRC[13, (a >> np.uint64(16)) & mask]
            ^ _CRC[12, a >> np.uint64(24)]
            ^ _CRC[11, b & mask]
            ^ _CRC[10, (b >> np.uint64(8)) & mask]
            ^ _CRC[9, (b >> np.uint64(16)) & mask]
            ^ _CRC[8, b >> np.uint64(24)]
            ^ _CRC[7, c & mask]
            ^ _CRC[6, (c >> np.uint64(8)) & mask]
            ^ _CRC[5, (c >> np.uint64(16)) & mask]
            ^ _CRC[4, c >> np.uint64(24)]
            ^ _CRC[3, d & mask]
            ^ _CRC[2, (d >> np.uint64(8)) & mask]
            ^ _CRC[1, (d >> np.uint64(16)) & mask]
            ^ _CRC[0, d >> np.uint64(24)]
        )
        i += 16
    while stop - i >= 4:
        a = _u32(data, i) ^ crc
        crc = np.uint64(
            _CRC[3, a & mask]
            ^ _CRC[2, (a >> np.uint64(8)) & mask]
            ^ _CRC[1, (a >> np.uint64(16)) & mask]
            ^ _CRC[0, a >> np.uint64(24)]
        )
        i += 4
    while i < stop:
        crc = (crc >> np.uint64(8)) ^ np.uint64(_CRC[0, (crc ^ np.uint64(data[np.uint64(i)])) & mask])
        i += 1
    return crc ^ np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def crc32(data, start, length, value):
    """Continue the checksum ``value`` (0 to begin) over ``data[start:start + length]``.

    data  (n,) uint8
    Slice-by-16. Oracle: zlib.crc32(data[start:start + length], value)
    """
    return _crc32(data, start, length, value)


@njit(nogil=True, cache=True)
def write_frames(dest, offset, source, kinds, ts_recv, chunk, starts, lengths, first, count):
    """Write frames ``first`` to ``count - 1`` of a chunk as records into ``dest``; stop before one that has no room.

    dest             (n,) uint8, written from ``offset`` on
    kinds            (count,) uint8, one a frame; WebSocket opcodes 1 and 2 are the kinds TEXT and BINARY
    chunk            (m,) uint8; frame i is ``chunk[starts[i]:starts[i] + lengths[i]]``
    starts, lengths  (count,) int64
    Returns (frames written, offset past the last). (-1, offset) and nothing written if a frame lies outside the chunk
    or is longer than FRAME_BYTES_MAX.
    """
    for i in range(first, count):
        if lengths[i] < 0 or lengths[i] > FRAME_BYTES_MAX or starts[i] < 0 or starts[i] + lengths[i] > len(chunk):
            return -1, offset
    written = 0
    for i in range(first, count):
        length = lengths[i]
        start = starts[i]
        payload = offset + HEADER_BYTES
        if payload + length > len(dest):
            break
        for k in range(length):
            dest[np.uint64(payload + k)] = chunk[np.uint64(start + k)]
        _put(dest, offset + 8, np.uint64(ts_recv), 8)
        _put(dest, offset + 16, np.uint64(source), 2)
        dest[np.uint64(offset + 18)] = kinds[i]
        dest[np.uint64(offset + 19)] = 0
        crc = _crc32(dest, offset + 8, 12 + length, 0)
        _put(dest, offset, np.uint64(length), 4)
        _put(dest, offset + 4, crc, 4)
        offset = payload + length
        written += 1
    return written, offset


def write_one(dest: memoryview | bytearray, offset: int, source: int, kind: int, ts_recv: int, payload: bytes) -> int:
    """Write one record at ``offset``; return the offset past it, or -1 when there is no room.

    Raises FrameTooLong before anything is written.
    """
    length = len(payload)
    if length > FRAME_BYTES_MAX:
        raise FrameTooLong(f"frame of {length} bytes from source {source}: the journal takes at most {FRAME_BYTES_MAX}")
    stop = offset + HEADER_BYTES + length
    if stop > len(dest):
        return -1
    checked = _CHECKED.pack(ts_recv, source, kind, 0)
    crc = zlib.crc32(payload, zlib.crc32(checked))
    dest[offset + HEADER_BYTES : stop] = payload
    _HEADER.pack_into(dest, offset, length, crc, ts_recv, source, kind, 0)
    return stop


@njit(nogil=True, cache=True)
def index(data, offset, stop, position, verify, out):
    """List the records of ``data[offset:stop]``, at most as many as ``out`` has columns.

    position  global position of ``offset``
    verify    also check every record's checksum
    out       (6, n) int64, rows KINDS, SOURCES, TS_RECV, STARTS, LENGTHS, ENDS: ``data[start:start + length]`` is a
              payload, ENDS the global position just past its record
    Returns (count, next_offset, status): OK (``out`` is full), END, TORN or CORRUPT, the last two at next_offset.
    """
    origin = position - offset
    count = 0
    status = OK
    while count < out.shape[1]:
        if offset + HEADER_BYTES > stop:
            status = END
            for k in range(offset, stop):
                if data[np.uint64(k)] != 0:
                    status = TORN
            break
        length = np.int64(_u32(data, offset))
        crc = _u32(data, offset + 4)
        if length == 0 and crc == 0:
            status = END
            break
        start = offset + HEADER_BYTES
        if length > FRAME_BYTES_MAX or start + length > stop:
            status = TORN
            break
        if verify and _crc32(data, offset + 8, 12 + length, 0) != crc:
            status = CORRUPT
            break
        out[KINDS, count] = data[np.uint64(offset + 18)]
        out[SOURCES, count] = np.int64(_u32(data, offset + 16) & np.uint64(0xFFFF))
        out[TS_RECV, count] = np.int64(_u32(data, offset + 8) | (_u32(data, offset + 12) << np.uint64(32)))
        out[STARTS, count] = start
        out[LENGTHS, count] = length
        offset = start + length
        out[ENDS, count] = origin + offset
        count += 1
    return count, offset, status


@njit(nogil=True, cache=True)
def _valid(data, offset, stop):
    """Whether a whole record with a right checksum starts at ``offset``."""
    if offset + HEADER_BYTES > stop:
        return False
    length = np.int64(_u32(data, offset))
    crc = _u32(data, offset + 4)
    if length > FRAME_BYTES_MAX or offset + HEADER_BYTES + length > stop or (length == 0 and crc == 0):
        return False
    return _crc32(data, offset + 8, 12 + length, 0) == crc


@njit(nogil=True, cache=True)
def resync(data, offset, stop, budget):
    """Find the first whole record past the damaged one at ``offset``; -1 when there is none.

    budget  bytes of checksum that may be computed on false trails before giving up
    When the damaged record's own length leads to a whole record that one is its successor, and bytes in between that
    look like a record are payload, unless the damaged record's checksum is right if it ends where they begin: then its
    length is what was damaged.
    """
    believed = -1
    limit = stop
    crc = np.uint64(0)
    if offset + HEADER_BYTES <= stop:
        crc = _u32(data, offset + 4)
        following = offset + HEADER_BYTES + np.int64(_u32(data, offset))
        if following > offset + HEADER_BYTES and _valid(data, following, stop):
            believed = limit = following
    at = offset + 1
    while at < limit and at + HEADER_BYTES <= stop and budget > 0:
        kind = data[np.uint64(at + 18)]
        if kind == 0:
            at += 1
            continue
        if kind <= KIND_MAX and data[np.uint64(at + 19)] == 0:
            length = np.int64(_u32(data, at))
            if length <= FRAME_BYTES_MAX and at + HEADER_BYTES + length <= stop:
                budget -= HEADER_BYTES + length
                if _valid(data, at, stop):
                    if believed < 0:
                        return at
                    budget -= at - offset
                    if at >= offset + HEADER_BYTES and _crc32(data, offset + 8, at - offset - 8, 0) == crc:
                        return at
        at += 1
    return believed


class Frames:
    """Frames of a stretch of journal, one entry each in arrays of int64, in the order they were received.

    data     (n,) uint8, the bytes that ``starts`` and ``lengths`` point into; a view, valid while this object is held
    kinds, sources, ts_recv, starts, lengths
    ends     global position just past each frame
    end      position past the last; where to read on
    table    (6, count) int64, these arrays as rows
    """

    __slots__ = ("count", "data", "end", "ends", "kinds", "lengths", "sources", "starts", "table", "ts_recv")

    def __init__(self, data: np.ndarray, table: np.ndarray, end: int) -> None:
        """``table`` is what ``index`` filled, cut to the count: (6, count) int64."""
        self.data = data
        self.table = table
        self.kinds, self.sources, self.ts_recv, self.starts, self.lengths, self.ends = table
        self.count = table.shape[1]
        self.end = end

    def __len__(self) -> int:
        return self.count

    def payload(self, i: int) -> bytes:
        """The message of frame ``i`` exactly as received."""
        start = int(self.starts[i])
        return self.data[start : start + int(self.lengths[i])].tobytes()

    def part(self, first: int, last: int) -> Frames:
        """Frames ``first`` to ``last`` (excluded) of these, over the same data."""
        table = self.table[:, first:last].copy()
        return Frames(self.data, table, int(table[ENDS, -1]) if last > first else self.end)


def frames_from_list(frames: Iterable[tuple[int, int, int, bytes]], position: int = 0) -> Frames:
    """Frames of ``(kind, source, ts_recv, payload)`` as a journal that starts at ``position`` would return them."""
    listed = list(frames)
    buffer = bytearray(sum(HEADER_BYTES + len(payload) for _, _, _, payload in listed))
    offset = 0
    for kind, source, ts_recv, payload in listed:
        offset = write_one(buffer, offset, source, kind, ts_recv, payload)
    data = np.frombuffer(buffer, np.uint8)
    table = np.empty((COLUMNS, len(listed)), np.int64)
    index(data, 0, len(buffer), position, False, table)
    return Frames(data, table, position + offset)


def warm() -> None:
    """Compile every function here, or load it from the cache, for the types the journal calls them with."""
    chunk, dest = np.zeros(8, np.uint8), np.zeros(64, np.uint8)
    fixed = chunk.copy()
    fixed.flags.writeable = False  # a chunk of type bytes
    kinds, numbers = np.ones(1, np.uint8), np.ones(1, np.int64)
    for each in (chunk, fixed):
        write_frames(dest, 0, 0, kinds, 0, each, numbers, numbers, 0, 1)
        crc32(each, 0, 8, 0)
    index(dest, 0, 64, 0, True, np.empty((COLUMNS, 1), np.int64))
    resync(dest, 0, 64, 1)
