"""WebSocket frames in a chunk of received bytes, found by Numba without a Python object per frame.

Two scanners share one rule (RFC 6455 §5.2): a frame is *simple* when it is text or binary, whole (FIN, no reserved
bit), unmasked, its length written in the fewest bytes and within ``length_max``. ``scan`` reports runs of simple
frames, ``reference_span`` the runs in between, which belong to the reference parser (`websockets`). Payloads are not
read here but for the data marks: whether a text is UTF-8 is left to the decoder, because a frame that is not costs one
rejected row there, and the whole connection here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recorder.compiled import njit

FRAME_BYTES_MAX = 16 << 20  # of one message: the longest snapshot a provider sends is below 4 MB
FRAMES_PER_SCAN = 4096  # one scan's arrays: 4096 small trades are 600 kB, more than one read brings

# Why ``scan`` stopped.
DONE = 0  # nothing is left
PARTIAL = 1  # the frame that starts at ``consumed`` is not here in full
FULL = 2  # the arrays are full; scan again from ``consumed``
CONTROL = 3  # ping, pong, close: from here on each is for the reference parser
FRAGMENT = 4  # FIN = 0 or a continuation
RESERVED = 5  # a reserved bit (compression) or opcode
MASKED = 6  # a server must not
TOO_LONG = 7  # above ``length_max``
NOT_MINIMAL = 8  # a length in more bytes than it needs

_HEADER_UNKNOWN = -1  # too few bytes to tell the length
_LENGTH_HOSTILE = 1 << 62  # no sum of positions overflows below it


def flatten_marks(data_marks: Sequence[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data marks as arrays for ``scan``: (k,) offsets in the payload, (k,) ends in the third, the bytes in a row."""
    offsets = np.array([offset for offset, _ in data_marks], np.int64)
    ends = np.cumsum(np.array([len(mark) for _, mark in data_marks], np.int64))
    return offsets, ends, np.array([byte for _, mark in data_marks for byte in mark], np.uint8)


@njit(nogil=True, cache=True, inline="always")
def _is_data(chunk, start, length, mark_offsets, mark_ends, mark_bytes):
    """Whether the payload at ``start`` has any mark at its offset."""
    first = 0
    for mark in range(mark_offsets.shape[0]):
        end = mark_ends[mark]
        at = start + mark_offsets[mark]
        if mark_offsets[mark] + (end - first) <= length:
            same = True
            for i in range(end - first):
                if chunk[at + i] != mark_bytes[first + i]:
                    same = False
                    break
            if same:
                return True
        first = end
    return False


@njit(nogil=True, cache=True, inline="always")
def _big_endian(chunk, start, count):
    value = np.uint64(0)
    for i in range(count):
        value = (value << np.uint64(8)) | np.uint64(chunk[start + i])
    return value


@njit(nogil=True, cache=True)
def _header(chunk, start, stop):
    """(bytes of header, length of payload) of an unmasked frame; (-1, 0) while too few bytes are here.

    Lengths from ``_LENGTH_HOSTILE`` on are reported as that.
    """
    short = np.int64(chunk[start + 1] & 0x7F)
    if short < 126:
        return 2, short
    size = 4 if short == 126 else 10
    if stop - start < size:
        return _HEADER_UNKNOWN, np.int64(0)
    long = _big_endian(chunk, start + 2, size - 2)
    return size, np.int64(min(long, np.uint64(_LENGTH_HOSTILE)))


@njit(nogil=True, cache=True)
def scan(
    chunk, start, stop, starts, lengths, opcodes, controls, mark_offsets, mark_ends, mark_bytes, length_max
):  # fmt: skip
    """Find the run of simple frames at ``chunk[start:stop]``; ``start`` is the first byte of a frame.

    chunk                    (n,) uint8; what lies past ``stop`` is not read
    starts, lengths, opcodes (k,) int64, int64, uint8; filled with each payload's place, and 1 text or 2 binary
    controls                 (k,) int64; filled with the indices of frames that no mark calls data
    mark_*                   from ``flatten_marks``
    Returns (count, consumed, control_count, reason): ``consumed`` is just past the last frame reported, ``reason`` why
    the next was not. Oracle: tests/test_websocket_frames.py::slow_scan, and `websockets` in tests/test_websocket.py.
    """
    count = 0
    control_count = 0
    at = start
    room = starts.shape[0]
    while True:
        left = stop - at
        if left < 2:
            return count, at, control_count, DONE if left == 0 else PARTIAL
        first = chunk[at]
        second = chunk[at + 1]
        if first != 0x81 and first != 0x82:
            return count, at, control_count, _why_not(first)
        if second & 0x80:
            return count, at, control_count, MASKED
        if second < 126:
            size, length = 2, np.int64(second)
        else:
            size, length = _header(chunk, at, stop)
            if size == _HEADER_UNKNOWN:
                return count, at, control_count, PARTIAL
            if length < (126 if size == 4 else 65536):
                return count, at, control_count, NOT_MINIMAL
        if length > length_max:
            return count, at, control_count, TOO_LONG
        if left < size + length:
            return count, at, control_count, PARTIAL
        if count == room:
            return count, at, control_count, FULL
        starts[count] = at + size
        lengths[count] = length
        opcodes[count] = first & 0x0F
        if not _is_data(chunk, at + size, length, mark_offsets, mark_ends, mark_bytes):
            controls[control_count] = count
            control_count += 1
        count += 1
        at += size + length


@njit(nogil=True, cache=True)
def _why_not(first):
    opcode = first & 0x0F
    if first & 0x70 or 2 < opcode < 8 or opcode > 10:
        return RESERVED
    return CONTROL if opcode >= 8 else FRAGMENT


@njit(nogil=True, cache=True)
def reference_span(chunk, start, stop, fragmented, length_max):
    """Find the run of frames at ``chunk[start:stop]`` that the reference parser must see.

    fragmented  whether a fragmented message is open before ``start``; while one is, every frame belongs to the run
    Returns (end, owed, fragmented): feed ``chunk[start:end]``, then the next ``owed`` bytes to come, after which the
    parser stands between two frames again. ``end`` stops before a header that is not here in full.
    A frame that no parser accepts takes everything up to ``stop`` with it: nothing can be read after it.
    """
    at = start
    while stop - at >= 2:
        first = chunk[at]
        opcode = first & 0x0F
        if chunk[at + 1] & 0x80 or 2 < opcode < 8 or opcode > 10:
            return stop, 0, fragmented
        size, length = _header(chunk, at, stop)
        if size == _HEADER_UNKNOWN:
            return at, 0, fragmented
        minimal = size == 2 or length >= (126 if size == 4 else 65536)
        if not fragmented and (first == 0x81 or first == 0x82) and minimal and length <= length_max:
            return at, 0, fragmented
        if length > FRAME_BYTES_MAX:
            return stop, 0, fragmented
        if opcode < 3:
            fragmented = first & 0x80 == 0
        at += size + length
        if at > stop:
            return stop, at - stop, fragmented
    return at, 0, fragmented


class FrameArrays:
    """The arrays that ``scan`` fills, allocated once per connection."""

    def __init__(self, data_marks: Sequence[tuple[int, bytes]], frames_max: int = FRAMES_PER_SCAN) -> None:
        self.starts = np.zeros(frames_max, np.int64)
        self.lengths = np.zeros(frames_max, np.int64)
        self.opcodes = np.zeros(frames_max, np.uint8)
        self.controls = np.zeros(frames_max, np.int64)
        self.arguments = (self.starts, self.lengths, self.opcodes, self.controls, *flatten_marks(data_marks))


def warm() -> None:
    """Compile the scanners or load them from Numba's cache (1 s, 0.2 s), so that the first frame does not wait."""
    chunk = np.frombuffer(bytearray(b"\x81\x01x"), np.uint8)
    scan(chunk, 0, 3, *FrameArrays([(0, b"x")], 1).arguments, FRAME_BYTES_MAX)
    reference_span(chunk, 0, 3, False, FRAME_BYTES_MAX)
