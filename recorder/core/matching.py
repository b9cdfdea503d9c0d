"""Frames against compiled templates: rows written straight into the batches' buffers, without a Python object a frame.

Exact or nothing: a frame that is not byte for byte what a template says, or holds a value whose conversion would need
more than exact integer arithmetic and one correctly rounded division, is left to the feed's decoder, with no row
written. ``templates`` compiles what this interprets.
"""

from __future__ import annotations

import numpy as np

from recorder.compiled import njit
from recorder.core.fix_rows import read
from recorder.core.frames import BINARY, KINDS, LENGTHS, SOURCES, STARTS, TS_RECV
from recorder.core.spellings import MEMORY, VALUE, find
from recorder.core.unaligned import load_i64, poke8, poke32, poke64, poke_double
from recorder.core.wire import (
    MEMO,
    NONE,
    big_endian,
    byte,
    decimal,
    number_end,
    packed_any,
    packed_number,
    packed_span,
    packed_text,
    packed_time,
    packed_whole,
    plain_text,
    rfc3339,
    same,
    span_end,
    whole,
)  # fmt: skip

# Operations. Their arguments are the columns A to D of a program's row, TO is where they jump.
(
    MESSAGE, ROW, ROW_END, EITHER, MORE, FAIL, DONE,
    LITERAL, CHOICE, TEXT, NUMBER, WHOLE, DECIMAL, MILLISECONDS, RFC3339, SPELLED, SPAN, COUNTER,
    COUNT, MORE_COUNTED, PACKED_ANY, PACKED_WHOLE, PACKED_NUMBER, PACKED_TIME, PACKED_SPELLED, PACKED_SPAN,
    FIX, DATA,
) = range(28)  # fmt: skip
OP, A, B, C, D, TO = range(6)
WIDTH = 8

# State: the memo of times; then of each of TABLES where its rows lie, how many there are, how many have room.
TABLES = 3
ADDRESS, USED, ROOM = MEMO, MEMO + TABLES, MEMO + 2 * TABLES
STATE = MEMO + 3 * TABLES

MATCHED, MISSED, FULL = 0, 1, 2  # why ``match`` returned; FULL + t: the buffer of table t has no room

YEAR_2000_NS = 946_684_800_000_000_000
AHEAD_NS_MAX = 86_400_000_000_000  # past the receive time: the same bounds that every decoder sets

_COMMA = 44


@njit(nogil=True, cache=True)
def _copy(address, heap, start, size):
    k = 0
    while k + 8 <= size:
        poke64(address + k, load_i64(heap, start + k))
        k += 8
    while k < size:
        poke8(address + k, heap[np.uint64(start + k)])
        k += 1


@njit(nogil=True, cache=True)
def _spelled(data, at, end, ops, pc, row, slots, keys, entries):
    """Look a text up and store what it stands for; its entry, or -1."""
    if end <= at:
        return np.int64(-1)
    entry = find(data, at, end - at, ops[pc, A], slots, keys, entries)
    if entry >= 0:
        for k in range(3):
            offset = ops[pc, B + k]
            if offset >= 0:
                poke32(row + offset, np.int32(entries[entry, VALUE + k]))
    return entry


@njit(nogil=True, cache=True)
def match_frame(data, at, stop, ts_recv, ops, pc, heap, slots, keys, entries, state, counters, dry):
    """Match one frame and write its rows past those that the state counts: MATCHED, MISSED or FULL + table.

    dry  keep nothing of it, and take any count of a connection for the next
    """
    start, first, message, alternative = at, at, NONE, NONE
    row, entry, left = np.int64(0), np.int64(-1), np.int64(0)
    counter, counted = np.int64(-1), np.int64(0)
    memorable = np.int64(NONE)
    new_0, new_1, new_2 = 0, 0, 0
    latest = ts_recv + AHEAD_NS_MAX
    while True:
        op = ops[pc, OP]
        ok = True
        end = NONE
        if op == LITERAL:
            end = at + ops[pc, B]
            ok = end <= stop and same(data, at, heap, ops[pc, A], ops[pc, B])
        elif op == DECIMAL:
            number, end = decimal(data, at, stop)
            ok = end != NONE and (number > 0.0 or ops[pc, B] == 0)
            if ok:
                poke_double(row + ops[pc, A], number)
        elif op == WHOLE:
            value, end = whole(data, at, stop)
            ok = end != NONE
            if ok and ops[pc, A] >= 0:
                poke64(row + ops[pc, A], value)
                if ops[pc, B]:
                    memorable = value
        elif op == SPELLED:
            end = at
            closing = ops[pc, TO]
            while end < stop and byte(data, end) != closing:
                end += 1
            entry = _spelled(data, at, end, ops, pc, row, slots, keys, entries)
            ok = entry >= 0
        elif op == TEXT:
            end = plain_text(data, at, stop)
        elif op == CHOICE:
            end = at + ops[pc, B]
            if end <= stop and same(data, at, heap, ops[pc, A], ops[pc, B]):
                if ops[pc, D] >= 0:
                    poke8(row + ops[pc, D], np.uint8(ops[pc, C]))
                at = end
                pc = ops[pc, TO]
                continue
            end = at
        elif op == RFC3339:
            value, end = rfc3339(data, at, stop, state)
            ok = end != NONE and YEAR_2000_NS <= value <= latest
            if ok:
                poke64(row + ops[pc, A], value)
        elif op == MILLISECONDS:
            value, end = whole(data, at, stop)
            ok = end != NONE and YEAR_2000_NS // 1_000_000 <= value < 9_000_000_000_000
            if ok:
                value *= 1_000_000
                ok = value <= latest
                poke64(row + ops[pc, A], value)
        elif op == NUMBER:
            end = number_end(data, at, stop)
            ok = end != NONE
        elif op == ROW:
            table = ops[pc, A]
            new = new_0 if table == 0 else new_1 if table == 1 else new_2
            used = state[USED + table] + new
            if used >= state[ROOM + table]:
                return FULL + table
            row = state[ADDRESS + table] + used * ops[pc, C]
            _copy(row, heap, ops[pc, B], ops[pc, C])
            poke64(row + ops[pc, D], ts_recv)
            if ops[pc, TO] >= 0:
                poke64(row + ops[pc, TO], ts_recv)
            end = at
        elif op == ROW_END:
            if ops[pc, A] == 0:
                new_0 += 1
            elif ops[pc, A] == 1:
                new_1 += 1
            else:
                new_2 += 1
            alternative = NONE
            pc = ops[pc, TO]
            continue
        elif op == EITHER:
            alternative, first, end, memorable = ops[pc, TO], at, at, np.int64(NONE)
        elif op == MORE:
            if at < stop and byte(data, at) == _COMMA:
                at += 1
                pc = ops[pc, TO]
                continue
            end = at
        elif op == COUNTER:
            counted, end = whole(data, at, stop)
            counter = ops[pc, A]
            ok = end != NONE and (dry or (counters[counter] >= 0 and counted == counters[counter] + 1))
        elif op == MESSAGE:
            message, alternative, end = ops[pc, TO], NONE, start
            new_0, new_1, new_2, counter = 0, 0, 0, np.int64(-1)
        elif op == DONE:
            ok = at == stop
            if ok:
                if not dry:
                    state[USED] += new_0
                    state[USED + 1] += new_1
                    state[USED + 2] += new_2
                    if counter >= 0:
                        counters[counter] = counted
                    if memorable >= 0:
                        entries[entry, MEMORY] = memorable
                return MATCHED
        elif op == SPAN:
            end = span_end(data, at, stop, ops[pc, TO])
            ok = end <= stop and _spelled(data, at, end, ops, pc, row, slots, keys, entries) >= 0
        elif op == PACKED_SPELLED:
            begin, end = packed_text(data, at, stop)
            ok = end != NONE
            if ok:
                entry = _spelled(data, begin, end, ops, pc, row, slots, keys, entries)
                ok = entry >= 0
        elif op == PACKED_NUMBER:
            number, end = packed_number(data, at, stop)
            ok = end != NONE and (number > 0.0 or ops[pc, B] == 0)
            if ok:
                poke_double(row + ops[pc, A], number)
        elif op == PACKED_WHOLE:
            value, end = packed_whole(data, at, stop)
            ok = end != NONE
            if ok:
                poke64(row + ops[pc, A], value)
        elif op == PACKED_TIME:
            value, end = packed_time(data, at, stop)
            ok = end != NONE and YEAR_2000_NS <= value <= latest
            if ok:
                poke64(row + ops[pc, A], value)
        elif op == PACKED_SPAN:
            end = packed_span(data, at, stop, ops[pc, TO])
            ok = end != NONE and _spelled(data, at, end, ops, pc, row, slots, keys, entries) >= 0
        elif op == PACKED_ANY:
            end = packed_any(data, at, stop)
            ok = end != NONE
        elif op == COUNT:
            kind = byte(data, at) if at < stop else 0
            left, end = np.int64(kind & 15), at + 1
            ok = 0x91 <= kind <= 0x9F
            if kind == 0xDC and at + 3 <= stop:
                left, end = np.int64(big_endian(data, at + 1, 2)), at + 3
                ok = bool(left > 0)
        elif op == MORE_COUNTED:
            left -= 1
            end = at
            if left > 0:
                pc = ops[pc, TO]
                continue
        else:
            ok = False  # FAIL
        if ok:
            at = end
            pc += 1
        elif alternative >= 0:
            at = first
            pc = alternative
        elif message >= 0:
            pc = message
        else:
            return MISSED


PC, COUNTED = 0, 1  # columns of ``programs``


@njit(nogil=True, cache=True)
def match(data, frames, first, patience, programs, ops, heap, slots, keys, entries, state, counters, tops, scratch):
    """Match frames from ``first`` on until one does not; look ahead how many after it do not either.

    data      (n,) uint8
    frames    (6, m) int64, as ``frames.index`` fills it
    patience  at most so many frames are given up at once
    programs  (sources, 2) int64 by source: where its program begins or -1, and how many of its frames were matched
    ops       (p, WIDTH) int64, heap (h,) uint8: programs of all sources
    slots, keys, entries  of Spellings
    state     (STATE,) int64, counters (c,) int64: updated
    tops, scratch  of FIX, as ``fix_rows.read`` has them
    Returns (i, j, why): frames ``first`` to i - 1 are rows now; frames i to j - 1 are for the decoder (MISSED), or
    frame i finds no room (FULL + table, j == i).
    """
    count = frames.shape[1]
    i = j = first
    ahead = first < 0  # past a frame that did not match; never at first, and no constant, which would compile all twice
    while j < count and frames[KINDS, j] <= BINARY and not (ahead and j - i >= patience):
        source, start = frames[SOURCES, j], frames[STARTS, j]
        pc = programs[source, PC]
        why = MISSED
        if pc >= 0 and ops[pc, OP] == FIX:
            why = read(
                data, start, start + frames[LENGTHS, j], frames[TS_RECV, j], ops, pc, slots, keys, entries, state, USED,
                counters, tops, scratch, ahead,
            )  # fmt: skip
        elif pc >= 0:
            why = match_frame(
                data, start, start + frames[LENGTHS, j], frames[TS_RECV, j], ops, pc, heap, slots, keys, entries, state,
                counters, ahead,
            )  # fmt: skip
        if why >= FULL and not ahead:
            return i, i, why
        if why != MISSED and ahead:
            break
        j += 1
        if why == MATCHED:
            programs[source, COUNTED] += 1
            i = j
        ahead = why == MISSED
    return i, j if ahead else min(i + 1, count), MISSED
