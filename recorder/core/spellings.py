"""What providers' texts stand for, as compiled code looks it up: bytes of a frame → ids of symbols and exchanges.

Learnt from what the decoders read: a spelling is known once they have met it, and until then frames that hold it are
theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recorder.compiled import njit
from recorder.core.unaligned import load64

SPELLINGS_MAX = 1 << 18  # 12,000 tickers in several connections, and every option contract that trades in a day
SPELLING_BYTES_MAX = 128  # a longer one is rare; its frames are left to the decoder
VALUES_MAX = 3  # numbers a spelling stands for

# Columns of ``entries``.
SPACE, START, LENGTH, LIVE, VALUE, MEMORY = 0, 1, 2, 3, 4, 7
_COLUMNS = 8  # one cache line
NOTHING = -1  # in MEMORY: no row of this spelling has been stored
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(nogil=True, cache=True)
def word(data, at, length):
    """Up to eight bytes from ``at`` as a number, zeros behind them; what lies past the array is never touched."""
    if at + 8 <= len(data):
        value = load64(data, at)
        if length >= 8:
            return value
        return value & (_ALL >> np.uint64(64 - 8 * length))
    value = np.uint64(0)
    for k in range(min(length, 8)):
        value |= np.uint64(data[np.uint64(at + k)]) << np.uint64(8 * k)
    return value


@njit(nogil=True, cache=True)
def _hash(data, at, length, space):
    value = np.uint64(space * 256 + length)
    for k in range(0, length, 8):
        value = (value ^ word(data, at + k, length - k)) * _FACTOR
        value ^= value >> np.uint64(29)
    return value * _FACTOR >> np.uint64(20)


@njit(nogil=True, cache=True)
def find(data, at, length, space, slots, heap, entries):
    """Row of ``entries`` of the spelling ``data[at:at + length]``, or -1: unknown or forgotten. ``length`` is not 0.

    slots    (a power of two,) int32, row of an entry or -1
    heap     (n,) uint8, spellings, each from a multiple of eight on with zeros behind it
    entries  (n, 8) int64
    """
    mask = np.uint64(len(slots) - 1)
    slot = _hash(data, at, length, space) & mask
    while True:
        row = np.int64(slots[slot])
        if row < 0:
            return np.int64(-1)
        if entries[row, SPACE] == space and entries[row, LENGTH] == length:
            start = entries[row, START]
            k = 0
            while k < length and word(data, at + k, length - k) == load64(heap, start + k):
                k += 8
            if k >= length:
                return row if entries[row, LIVE] else np.int64(-1)
        slot = (slot + np.uint64(1)) & mask


@njit(nogil=True, cache=True)
def _place(slots, heap, entries, first, count):
    """Put entries ``first`` to ``count - 1`` into free slots."""
    mask = np.uint64(len(slots) - 1)
    for row in range(first, count):
        slot = _hash(heap, entries[row, START], entries[row, LENGTH], entries[row, SPACE]) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = row


@dataclass(frozen=True)
class Memories:
    """The numbers put down for spellings: copied on the event loop, read by the thread that writes a snapshot."""

    entries: np.ndarray
    heap: bytes

    def items(self) -> Iterator[tuple[int, bytes, int]]:
        """(space, spelling, number) of each."""
        for space, start, length, *_, number in self.entries[self.entries[:, MEMORY] != NOTHING].tolist():
            yield space, self.heap[start : start + length], number


class Spellings:
    """A hash table over spaces: a space holds one connection's spellings of one kind, such as its symbols.

    Arrays are replaced when they grow; compiled code is handed those of the moment.
    """

    def __init__(self) -> None:
        self.slots = np.full(256, -1, np.int32)
        self.heap = np.zeros(4096, np.uint8)
        self.entries = np.zeros((128, _COLUMNS), np.int64)
        self._rows: dict[tuple[int, bytes], int] = {}
        self._used = 0  # bytes of the heap

    def __len__(self) -> int:
        return len(self._rows)

    def teach(self, space: int, spelling: bytes, values: tuple[int, ...]) -> bool:
        """From now on the spelling stands for these numbers (int32). False when there is no room left for it."""
        row = self._rows.get((space, spelling))
        if row is None:
            if not 0 < len(spelling) <= SPELLING_BYTES_MAX or len(self._rows) >= SPELLINGS_MAX:
                return False
            row = self._add(space, spelling)
        self.entries[row, VALUE : VALUE + len(values)] = values
        self.entries[row, LIVE] = 1
        return True

    def forget(self, space: int, spelling: bytes) -> None:
        """Leave frames with this spelling to the decoder, until it is taught again."""
        row = self._rows.get((space, spelling))
        if row is not None:
            self.entries[row, LIVE] = 0

    def clear(self, space: int) -> None:
        """Forget every spelling of a space."""
        self.entries[self.entries[:, SPACE] == space, LIVE] = 0

    def remember(self, space: int, spelling: bytes, number: int) -> bool:
        """Put a number down for a spelling; False if it is none of ours."""
        row = self._rows.get((space, spelling))
        if row is None:
            return False
        self.entries[row, MEMORY] = number
        return True

    def remembered(self, space: int, spelling: bytes) -> int | None:
        """The number put down last for this spelling, by ``remember`` or by compiled code."""
        row = self._rows.get((space, spelling))
        number = NOTHING if row is None else int(self.entries[row, MEMORY])
        return None if number == NOTHING else number

    def recall(self, space: int, spelling: bytes, number: int) -> None:
        """Put a number of a snapshot down, for a spelling that is yet to be taught."""
        if (space, spelling) not in self._rows:
            self._add(space, spelling)
        self.remember(space, spelling, number)

    def memories(self) -> Memories:
        """Every number that was put down, as they are now: a copy that may be read later."""
        return Memories(self.entries[: len(self._rows)].copy(), self.heap[: self._used].tobytes())

    def _add(self, space: int, spelling: bytes) -> int:
        row, padded = len(self._rows), -(-len(spelling) // 8) * 8
        if row >= len(self.entries):
            self.entries = np.concatenate([self.entries, np.zeros_like(self.entries)])
        if self._used + padded > len(self.heap):
            self.heap = np.concatenate([self.heap, np.zeros_like(self.heap)])
        self.heap[self._used : self._used + len(spelling)] = np.frombuffer(spelling, np.uint8)
        self.entries[row] = space, self._used, len(spelling), 0, 0, 0, 0, NOTHING
        self._used += padded
        self._rows[space, spelling] = row
        first = row
        if 2 * (row + 1) > len(self.slots):
            self.slots, first = np.full(2 * len(self.slots), -1, np.int32), 0
        _place(self.slots, self.heap, self.entries, first, row + 1)
        return row

    def warm(self) -> None:
        """Compile, or load from the cache, what learning a spelling needs."""
        _place(self.slots, self.heap, self.entries, 0, 0)
