"""Frames against compiled templates: rows written straight into the batches' buffers, without a Python object a frame.

Exact or nothing: a frame that is not byte for byte what a template says, or holds a value whose conversion would need
more than exact integer arithmetic and one correctly rounded division, is left to the feed's decoder, with no row
written. ``templates`` compiles what this interprets.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from recorder.core.frames import BINARY, KINDS, LENGTHS, SOURCES, STARTS, TS_RECV
from recorder.core.spellings import MEMORY, VALUE, find, word
from recorder.core.unaligned import double_of, load64, load_i64, poke8, poke32, poke64, poke_double, single_of

# Operations. Their arguments are the columns A to D of a program's row, TO is where they jump.
(
    MESSAGE, ROW, ROW_END, EITHER, MORE, FAIL, DONE,
    LITERAL, CHOICE, TEXT, NUMBER, WHOLE, DECIMAL, MILLISECONDS, RFC3339, SPELLED, SPAN, COUNTER,
    COUNT, MORE_COUNTED, PACKED_ANY, PACKED_WHOLE, PACKED_NUMBER, PACKED_TIME, PACKED_SPELLED, PACKED_SPAN,
) = range(26)  # fmt: skip
OP, A, B, C, D, TO = range(6)
WIDTH = 8

# State: of each of TABLES, where its rows lie and how many there are; then the cache of the last minute that was read.
TABLES = 3
ADDRESS, USED, ROOM = 0, TABLES, 2 * TABLES
MINUTE = 3 * TABLES  # 16 characters as two words, and their ns
STATE = MINUTE + 3

MATCHED, MISSED, FULL = 0, 1, 2  # why ``match`` returned; FULL + t: the buffer of table t has no room

YEAR_2000_NS = 946_684_800_000_000_000
AHEAD_NS_MAX = 86_400_000_000_000  # past the receive time: the same bounds that every decoder sets
EXACT_MAX = np.uint64(1 << 53)
DECIMALS_MAX = 22  # 10**22 is the last power of ten that is a double
DIGITS_MAX = 19
LONG_MAX = np.uint64((1 << 63) - 1)
NONE = -1

_POWERS = np.array([10.0**k for k in range(DECIMALS_MAX + 1)])
_SCALES = np.array([10 ** (9 - k) for k in range(10)], np.int64)
_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_QUOTE, _BACKSLASH, _POINT, _ZERO, _COMMA, _BRACKET = 34, 92, 46, 48, 44, 93


@njit(nogil=True, cache=True, inline="always")
def _byte(data, at):
    return np.int64(data[np.uint64(at)])


@njit(nogil=True, cache=True)
def _same(data, at, heap, start, length):
    """Whether ``length`` bytes are equal; the heap has zeros to a multiple of eight behind them."""
    for k in range(0, length, 8):  # noqa: SIM110 (no generators in compiled code)
        if word(data, at + k, length - k) != load64(heap, start + k):
            return False
    return True


@njit(nogil=True, cache=True)
def _plain_text(data, at, stop):
    """End of a JSON text's characters that need no second look: ASCII from the space on, no quote and no backslash."""
    limit = min(stop, len(data)) - 8
    while at <= limit:
        w = load64(data, at)
        quotes = w ^ (_ONES * np.uint64(_QUOTE))
        slashes = w ^ (_ONES * np.uint64(_BACKSLASH))
        odd = (quotes - _ONES) & ~quotes | (slashes - _ONES) & ~slashes | (w - _ONES * np.uint64(32)) & ~w | w
        if odd & _HIGH:
            break
        at += 8
    while at < stop:
        c = _byte(data, at)
        if c < 32 or c > 127 or c in (_QUOTE, _BACKSLASH):
            break
        at += 1
    return at


@njit(nogil=True, cache=True)
def _digits(data, at, stop, value):
    """``value`` continued by the digits from ``at`` on: (value, end). The caller bounds their number."""
    while at < stop:
        digit = np.uint64(data[np.uint64(at)]) - np.uint64(_ZERO)
        if digit > np.uint64(9):
            break
        value = value * np.uint64(10) + digit
        at += 1
    return value, at


@njit(nogil=True, cache=True)
def _whole(data, at, stop):
    """A JSON integer from 0 to 2**63 - 1: (value, end), end NONE if it is anything else."""
    value, end = _digits(data, at, min(stop, at + DIGITS_MAX + 1), np.uint64(0))
    length = end - at
    if length == 0 or length > DIGITS_MAX or (length > 1 and _byte(data, at) == _ZERO) or value > LONG_MAX:
        return np.int64(0), NONE
    return np.int64(value), end


@njit(nogil=True, cache=True)
def _decimal(data, at, stop):
    """A JSON number without sign and exponent, as the double nearest to it: (value, end), end NONE if not sure.

    mantissa / 10**decimals with both exact is one correctly rounded operation (Clinger). Oracle: float()
    """
    bound = min(stop, at + DIGITS_MAX + 2)
    value, end = _digits(data, at, bound, np.uint64(0))
    whole = end - at
    decimals = 0
    if whole == 0 or whole > DIGITS_MAX or (whole > 1 and _byte(data, at) == _ZERO):
        return 0.0, NONE
    if end < stop and _byte(data, end) == _POINT:
        start = end + 1
        value, end = _digits(data, start, bound, value)
        decimals = end - start
        if decimals == 0 or whole + decimals > DIGITS_MAX:
            return 0.0, NONE
        while value > EXACT_MAX and decimals > 0 and value % np.uint64(10) == 0:
            value //= np.uint64(10)
            decimals -= 1
    if value > EXACT_MAX:
        return 0.0, NONE
    return np.float64(value) / _POWERS[decimals], end


@njit(nogil=True, cache=True)
def _pair(data, at):
    """Two digits as a number, or a number above 99."""
    tens = np.uint64(data[np.uint64(at)]) - np.uint64(_ZERO)
    ones = np.uint64(data[np.uint64(at + 1)]) - np.uint64(_ZERO)
    if tens > np.uint64(9) or ones > np.uint64(9):
        return 100
    return np.int64(tens * np.uint64(10) + ones)


@njit(nogil=True, cache=True)
def _minute(data, at):
    """ns of ``2026-08-01T14:30`` read as UTC, NONE if it names no minute."""
    century, year, month, day = _pair(data, at), _pair(data, at + 2), _pair(data, at + 5), _pair(data, at + 8)
    hour, minute = _pair(data, at + 11), _pair(data, at + 14)
    if century > 99 or year > 99 or month < 1 or month > 12 or day < 1 or hour > 23 or minute > 59:
        return NONE
    if _byte(data, at + 4) != 45 or _byte(data, at + 7) != 45 or _byte(data, at + 10) != 84:
        return NONE
    if _byte(data, at + 13) != 58:
        return NONE
    year += 100 * century
    longest = 31
    if month == 2:
        longest = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    if day > longest or year < 2000 or year > 2261:
        return NONE
    shifted = year - 1 if month <= 2 else year  # the year begins in March: its leap day is its last
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - 719_468
    return ((days * 24 + hour) * 60 + minute) * 60_000_000_000


@njit(nogil=True, cache=True)
def _rfc3339(data, at, stop, state):
    """ns of ``2026-08-01T14:30:02.789012Z``, 0 to 9 decimals: (ns, end), end NONE for any other form.

    Oracle: text_time.rfc3339_ns
    """
    if at + 20 > stop or at + 20 > len(data):
        return np.int64(0), NONE
    first, second = np.int64(load64(data, at)), np.int64(load64(data, at + 8))
    if first != state[MINUTE] or second != state[MINUTE + 1]:
        minute = _minute(data, at)
        if minute == NONE:
            return np.int64(0), NONE
        state[MINUTE], state[MINUTE + 1], state[MINUTE + 2] = first, second, minute
    seconds = _pair(data, at + 17)
    if seconds > 59 or _byte(data, at + 16) != 58:
        return np.int64(0), NONE
    ns = state[MINUTE + 2] + seconds * 1_000_000_000
    at += 19
    if _byte(data, at) == _POINT:
        part, end = _digits(data, at + 1, min(stop, at + 11), np.uint64(0))
        count = end - at - 1
        if count < 1 or count > 9:
            return np.int64(0), NONE
        ns += np.int64(part) * _SCALES[count]
        at = end
    if at >= stop or _byte(data, at) != 90:
        return np.int64(0), NONE
    return ns, at + 1


@njit(nogil=True, cache=True)
def _number_end(data, at, stop):
    """End of a JSON number without exponent that nobody reads, NONE for anything else."""
    if at < stop and _byte(data, at) == 45:
        at += 1
    bound = min(stop, at + DIGITS_MAX)
    _, end = _digits(data, at, bound, np.uint64(0))
    if end in (at, bound) or (end - at > 1 and _byte(data, at) == _ZERO):
        return NONE
    if _byte(data, end) == _POINT:
        start = end + 1
        bound = min(stop, start + DIGITS_MAX)
        _, end = _digits(data, start, bound, np.uint64(0))
        if end in (start, bound):
            return NONE
    return end


@njit(nogil=True, cache=True)
def _span_end(data, at, stop, quotes):
    """End of an array of texts and so many quotation marks behind it; who looks it up compares every byte."""
    while at < stop and _byte(data, at) != _BRACKET:
        at += 1
    while at < stop and quotes > 0:
        at += 1
        if at < stop and _byte(data, at) == _QUOTE:
            quotes -= 1
    return at + 1


@njit(nogil=True, cache=True)
def _big_endian(data, at, size):
    value = np.uint64(0)
    for k in range(size):
        value = value << np.uint64(8) | np.uint64(data[np.uint64(at + k)])
    return value


@njit(nogil=True, cache=True)
def _packed_whole(data, at, stop):
    """A MessagePack integer from 0 to 2**63 - 1: (value, end), end NONE if it is anything else."""
    kind = _byte(data, at) if at < stop else 0xC1
    if kind < 0x80:
        return np.int64(kind), at + 1
    if (0xCC <= kind <= 0xCF) or (0xD0 <= kind <= 0xD3):
        size = 1 << (kind & 3)
        if at + 1 + size <= stop:
            value = _big_endian(data, at + 1, size)
            negative = kind >= 0xD0 and value >> np.uint64(8 * size - 1) != 0
            if not negative and value <= LONG_MAX:
                return np.int64(value), at + 1 + size
    return np.int64(0), NONE


@njit(nogil=True, cache=True)
def _packed_number(data, at, stop):
    """A MessagePack number from 0 up as a double: (value, end), end NONE for a sign, an infinity, NaN or no number."""
    kind = _byte(data, at) if at < stop else 0xC1
    if kind == 0xCB and at + 9 <= stop:
        bits = _big_endian(data, at + 1, 8)
        if bits >= np.uint64(0x7FF0000000000000):
            return 0.0, NONE
        return double_of(bits), at + 9
    if kind == 0xCA and at + 5 <= stop:
        bits = _big_endian(data, at + 1, 4)
        if bits >= np.uint64(0x7F800000):
            return 0.0, NONE
        return np.float64(single_of(np.uint32(bits))), at + 5
    value, end = _packed_whole(data, at, stop)
    if end == NONE or np.uint64(value) > EXACT_MAX:
        return 0.0, NONE
    return np.float64(value), end


@njit(nogil=True, cache=True)
def _packed_time(data, at, stop):
    """A MessagePack timestamp: (ns, end), end NONE for anything else, and past the year 2261."""
    if at + 6 > stop:
        return np.int64(0), NONE
    kind, code = _byte(data, at), _byte(data, at + 1)
    nanos, seconds, end = np.uint64(0), np.uint64(0), NONE
    if kind == 0xD7 and code == 0xFF and at + 10 <= stop:
        both = _big_endian(data, at + 2, 8)
        nanos, seconds, end = both >> np.uint64(34), both & np.uint64(0x3_FFFF_FFFF), at + 10
    elif kind == 0xD6 and code == 0xFF:
        seconds, end = _big_endian(data, at + 2, 4), at + 6
    elif kind == 0xC7 and code == 12 and at + 15 <= stop and _byte(data, at + 2) == 0xFF:
        nanos, seconds, end = _big_endian(data, at + 3, 4), _big_endian(data, at + 7, 8), at + 15
    if nanos >= np.uint64(1_000_000_000) or seconds >= np.uint64(9_200_000_000):
        return np.int64(0), NONE
    return np.int64(seconds * np.uint64(1_000_000_000) + nanos), end


@njit(nogil=True, cache=True)
def _packed_text(data, at, stop):
    """Bounds of a MessagePack text of at most 255 bytes: (start, end), end NONE for anything else."""
    kind = _byte(data, at) if at < stop else 0xC1
    if 0xA0 <= kind <= 0xBF:
        start, end = at + 1, at + 1 + (kind & 31)
    elif kind == 0xD9 and at + 2 <= stop:
        start, end = at + 2, at + 2 + _byte(data, at + 1)
    else:
        return at, NONE
    return start, end if end <= stop else NONE


@njit(nogil=True, cache=True)
def _packed_span(data, at, stop, values):
    """End of so many texts or short arrays of texts, NONE if there is anything else among them."""
    while values > 0:
        if at >= stop:
            return NONE
        kind = _byte(data, at)
        if 0x90 <= kind <= 0x9F:
            values += kind & 15
            at += 1
        else:
            _, at = _packed_text(data, at, stop)
            if at == NONE:
                return NONE
        values -= 1
    return at


@njit(nogil=True, cache=True)
def _packed_any(data, at, stop):
    """End of a number, a text, nil or a bool that nobody reads, NONE for anything else."""
    kind = _byte(data, at) if at < stop else 0xC1
    if kind == 0xC0 or kind == 0xC2 or kind == 0xC3:
        return at + 1
    _, end = _packed_number(data, at, stop)
    return end


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
            ok = end <= stop and _same(data, at, heap, ops[pc, A], ops[pc, B])
        elif op == DECIMAL:
            number, end = _decimal(data, at, stop)
            ok = end != NONE and (number > 0.0 or ops[pc, B] == 0)
            if ok:
                poke_double(row + ops[pc, A], number)
        elif op == WHOLE:
            value, end = _whole(data, at, stop)
            ok = end != NONE
            if ok and ops[pc, A] >= 0:
                poke64(row + ops[pc, A], value)
                if ops[pc, B]:
                    memorable = value
        elif op == SPELLED:
            end = at
            closing = ops[pc, TO]
            while end < stop and _byte(data, end) != closing:
                end += 1
            entry = _spelled(data, at, end, ops, pc, row, slots, keys, entries)
            ok = entry >= 0
        elif op == TEXT:
            end = _plain_text(data, at, stop)
        elif op == CHOICE:
            end = at + ops[pc, B]
            if end <= stop and _same(data, at, heap, ops[pc, A], ops[pc, B]):
                if ops[pc, D] >= 0:
                    poke8(row + ops[pc, D], np.uint8(ops[pc, C]))
                at = end
                pc = ops[pc, TO]
                continue
            end = at
        elif op == RFC3339:
            value, end = _rfc3339(data, at, stop, state)
            ok = end != NONE and YEAR_2000_NS <= value <= latest
            if ok:
                poke64(row + ops[pc, A], value)
        elif op == MILLISECONDS:
            value, end = _whole(data, at, stop)
            ok = end != NONE and YEAR_2000_NS // 1_000_000 <= value < 9_000_000_000_000
            if ok:
                value *= 1_000_000
                ok = value <= latest
                poke64(row + ops[pc, A], value)
        elif op == NUMBER:
            end = _number_end(data, at, stop)
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
            if at < stop and _byte(data, at) == _COMMA:
                at += 1
                pc = ops[pc, TO]
                continue
            end = at
        elif op == COUNTER:
            counted, end = _whole(data, at, stop)
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
            end = _span_end(data, at, stop, ops[pc, TO])
            ok = end <= stop and _spelled(data, at, end, ops, pc, row, slots, keys, entries) >= 0
        elif op == PACKED_SPELLED:
            begin, end = _packed_text(data, at, stop)
            ok = end != NONE
            if ok:
                entry = _spelled(data, begin, end, ops, pc, row, slots, keys, entries)
                ok = entry >= 0
        elif op == PACKED_NUMBER:
            number, end = _packed_number(data, at, stop)
            ok = end != NONE and (number > 0.0 or ops[pc, B] == 0)
            if ok:
                poke_double(row + ops[pc, A], number)
        elif op == PACKED_WHOLE:
            value, end = _packed_whole(data, at, stop)
            ok = end != NONE
            if ok:
                poke64(row + ops[pc, A], value)
        elif op == PACKED_TIME:
            value, end = _packed_time(data, at, stop)
            ok = end != NONE and YEAR_2000_NS <= value <= latest
            if ok:
                poke64(row + ops[pc, A], value)
        elif op == PACKED_SPAN:
            end = _packed_span(data, at, stop, ops[pc, TO])
            ok = end != NONE and _spelled(data, at, end, ops, pc, row, slots, keys, entries) >= 0
        elif op == PACKED_ANY:
            end = _packed_any(data, at, stop)
            ok = end != NONE
        elif op == COUNT:
            kind = _byte(data, at) if at < stop else 0
            left, end = np.int64(kind & 15), at + 1
            ok = 0x91 <= kind <= 0x9F
            if kind == 0xDC and at + 3 <= stop:
                left, end = np.int64(_big_endian(data, at + 1, 2)), at + 3
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
def match(data, frames, first, patience, programs, ops, heap, slots, keys, entries, state, counters):
    """Match frames from ``first`` on until one does not; look ahead how many after it do not either.

    data      (n,) uint8
    frames    (6, m) int64, as ``frames.index`` fills it
    patience  at most so many frames are given up at once
    programs  (sources, 2) int64 by source: where its program begins or -1, and how many of its frames were matched
    ops       (p, WIDTH) int64, heap (h,) uint8: programs of all sources
    slots, keys, entries  of Spellings
    state     (STATE,) int64, counters (c,) int64: updated
    Returns (i, j, why): frames ``first`` to i - 1 are rows now; frames i to j - 1 are for the decoder (MISSED), or
    frame i finds no room (FULL + table, j == i).
    """
    count = frames.shape[1]
    i = j = first
    ahead = False  # past a frame that did not match
    while j < count and frames[KINDS, j] <= BINARY and not (ahead and j - i >= patience):
        source, start = frames[SOURCES, j], frames[STARTS, j]
        pc = programs[source, PC]
        why = MISSED
        if pc >= 0:
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
