"""Values in frames as compiled code reads them: JSON and MessagePack. Exact, or NONE where a decoder must look.

Each reader takes ``data`` (n,) uint8, where to begin and where the frame stops, and returns the end of what it read,
with the value before it where there is one.
"""

from __future__ import annotations

import numpy as np

from recorder.compiled import njit
from recorder.core.spellings import word
from recorder.core.unaligned import double_of, load64, single_of

NONE = -1
EXACT_MAX = np.uint64(1 << 53)
DECIMALS_MAX = 22  # 10**22 is the last power of ten that is a double
DIGITS_MAX = 19
LONG_MAX = np.uint64((1 << 63) - 1)
MEMO = 3  # the last minute read by ``rfc3339``: its 16 characters as two words, and its ns

_POWERS = np.array([10.0**k for k in range(DECIMALS_MAX + 1)])
_SCALES = np.array([10 ** (9 - k) for k in range(10)], np.int64)
_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_QUOTE, _BACKSLASH, _POINT, _ZERO, _COMMA, _BRACKET = 34, 92, 46, 48, 44, 93


@njit(nogil=True, cache=True, inline="always")
def byte(data, at):
    return np.int64(data[np.uint64(at)])


@njit(nogil=True, cache=True)
def same(data, at, heap, start, length):
    """Whether ``length`` bytes are equal; the heap has zeros to a multiple of eight behind them."""
    for k in range(0, length, 8):  # noqa: SIM110 (no generators in compiled code)
        if word(data, at + k, length - k) != load64(heap, start + k):
            return False
    return True


@njit(nogil=True, cache=True)
def plain_text(data, at, stop):
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
        c = byte(data, at)
        if c < 32 or c > 127 or c in (_QUOTE, _BACKSLASH):
            break
        at += 1
    return at


@njit(nogil=True, cache=True)
def digits(data, at, stop, value):
    """``value`` continued by the digits from ``at`` on: (value, end). The caller bounds their number."""
    while at < stop:
        digit = np.uint64(data[np.uint64(at)]) - np.uint64(_ZERO)
        if digit > np.uint64(9):
            break
        value = value * np.uint64(10) + digit
        at += 1
    return value, at


@njit(nogil=True, cache=True)
def whole(data, at, stop):
    """A JSON integer from 0 to 2**63 - 1: (value, end), end NONE if it is anything else."""
    value, end = digits(data, at, min(stop, at + DIGITS_MAX + 1), np.uint64(0))
    length = end - at
    if length == 0 or length > DIGITS_MAX or (length > 1 and byte(data, at) == _ZERO) or value > LONG_MAX:
        return np.int64(0), NONE
    return np.int64(value), end


@njit(nogil=True, cache=True)
def decimal(data, at, stop):
    """A JSON number without sign and exponent, as the double nearest to it: (value, end), end NONE if not sure.

    mantissa / 10**decimals with both exact is one correctly rounded operation (Clinger). Oracle: float()
    """
    bound = min(stop, at + DIGITS_MAX + 2)
    value, end = digits(data, at, bound, np.uint64(0))
    whole = end - at
    decimals = 0
    if whole == 0 or whole > DIGITS_MAX or (whole > 1 and byte(data, at) == _ZERO):
        return 0.0, NONE
    if end < stop and byte(data, end) == _POINT:
        start = end + 1
        value, end = digits(data, start, bound, value)
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
def pair(data, at):
    """Two digits as a number, or a number above 99."""
    tens = np.uint64(data[np.uint64(at)]) - np.uint64(_ZERO)
    ones = np.uint64(data[np.uint64(at + 1)]) - np.uint64(_ZERO)
    if tens > np.uint64(9) or ones > np.uint64(9):
        return 100
    return np.int64(tens * np.uint64(10) + ones)


@njit(nogil=True, cache=True)
def calendar_day(year, month, day):
    """Days since 1970-01-01 of a day from 2000 to 2261, NONE if there is none such."""
    if year < 2000 or year > 2261 or month < 1 or month > 12 or day < 1:
        return NONE
    longest = 31
    if month == 2:
        longest = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    if day > longest:
        return NONE
    shifted = year - 1 if month <= 2 else year  # the year begins in March: its leap day is its last
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - 719_468


@njit(nogil=True, cache=True)
def _minute(data, at):
    """ns of ``2026-08-01T14:30`` read as UTC, NONE if it names no minute."""
    century, year, month, day = pair(data, at), pair(data, at + 2), pair(data, at + 5), pair(data, at + 8)
    hour, minute = pair(data, at + 11), pair(data, at + 14)
    if century > 99 or year > 99 or hour > 23 or minute > 59:
        return NONE
    if byte(data, at + 4) != 45 or byte(data, at + 7) != 45 or byte(data, at + 10) != 84:
        return NONE
    if byte(data, at + 13) != 58:
        return NONE
    days = calendar_day(100 * century + year, month, day)
    if days == NONE:
        return NONE
    return ((days * 24 + hour) * 60 + minute) * 60_000_000_000


@njit(nogil=True, cache=True)
def rfc3339(data, at, stop, memo):
    """ns of ``2026-08-01T14:30:02.789012Z``, 0 to 9 decimals: (ns, end), end NONE for any other form.

    Oracle: text_time.rfc3339_ns
    """
    if at + 20 > stop or at + 20 > len(data):
        return np.int64(0), NONE
    first, second = np.int64(load64(data, at)), np.int64(load64(data, at + 8))
    if first != memo[0] or second != memo[1]:
        minute = _minute(data, at)
        if minute == NONE:
            return np.int64(0), NONE
        memo[0], memo[1], memo[2] = first, second, minute
    seconds = pair(data, at + 17)
    if seconds > 59 or byte(data, at + 16) != 58:
        return np.int64(0), NONE
    ns = memo[2] + seconds * 1_000_000_000
    at += 19
    if byte(data, at) == _POINT:
        part, end = digits(data, at + 1, min(stop, at + 11), np.uint64(0))
        count = end - at - 1
        if count < 1 or count > 9:
            return np.int64(0), NONE
        ns += np.int64(part) * _SCALES[count]
        at = end
    if at >= stop or byte(data, at) != 90:
        return np.int64(0), NONE
    return ns, at + 1


@njit(nogil=True, cache=True)
def number_end(data, at, stop):
    """End of a JSON number without exponent that nobody reads, NONE for anything else."""
    if at < stop and byte(data, at) == 45:
        at += 1
    bound = min(stop, at + DIGITS_MAX)
    _, end = digits(data, at, bound, np.uint64(0))
    if end in (at, bound) or (end - at > 1 and byte(data, at) == _ZERO):
        return NONE
    if byte(data, end) == _POINT:
        start = end + 1
        bound = min(stop, start + DIGITS_MAX)
        _, end = digits(data, start, bound, np.uint64(0))
        if end in (start, bound):
            return NONE
    return end


@njit(nogil=True, cache=True)
def span_end(data, at, stop, quotes):
    """End of an array of texts and so many quotation marks behind it; who looks it up compares every byte."""
    while at < stop and byte(data, at) != _BRACKET:
        at += 1
    while at < stop and quotes > 0:
        at += 1
        if at < stop and byte(data, at) == _QUOTE:
            quotes -= 1
    return at + 1


@njit(nogil=True, cache=True)
def big_endian(data, at, size):
    value = np.uint64(0)
    for k in range(size):
        value = value << np.uint64(8) | np.uint64(data[np.uint64(at + k)])
    return value


@njit(nogil=True, cache=True)
def packed_whole(data, at, stop):
    """A MessagePack integer from 0 to 2**63 - 1: (value, end), end NONE if it is anything else."""
    kind = byte(data, at) if at < stop else 0xC1
    if kind < 0x80:
        return np.int64(kind), at + 1
    if (0xCC <= kind <= 0xCF) or (0xD0 <= kind <= 0xD3):
        size = 1 << (kind & 3)
        if at + 1 + size <= stop:
            value = big_endian(data, at + 1, size)
            negative = kind >= 0xD0 and value >> np.uint64(8 * size - 1) != 0
            if not negative and value <= LONG_MAX:
                return np.int64(value), at + 1 + size
    return np.int64(0), NONE


@njit(nogil=True, cache=True)
def packed_number(data, at, stop):
    """A MessagePack number from 0 up as a double: (value, end), end NONE for a sign, an infinity, NaN or no number."""
    kind = byte(data, at) if at < stop else 0xC1
    if kind == 0xCB and at + 9 <= stop:
        bits = big_endian(data, at + 1, 8)
        if bits >= np.uint64(0x7FF0000000000000):
            return 0.0, NONE
        return double_of(bits), at + 9
    if kind == 0xCA and at + 5 <= stop:
        bits = big_endian(data, at + 1, 4)
        if bits >= np.uint64(0x7F800000):
            return 0.0, NONE
        return np.float64(single_of(np.uint32(bits))), at + 5
    value, end = packed_whole(data, at, stop)
    if end == NONE or np.uint64(value) > EXACT_MAX:
        return 0.0, NONE
    return np.float64(value), end


@njit(nogil=True, cache=True)
def packed_time(data, at, stop):
    """A MessagePack timestamp: (ns, end), end NONE for anything else, and past the year 2261."""
    if at + 6 > stop:
        return np.int64(0), NONE
    kind, code = byte(data, at), byte(data, at + 1)
    nanos, seconds, end = np.uint64(0), np.uint64(0), NONE
    if kind == 0xD7 and code == 0xFF and at + 10 <= stop:
        both = big_endian(data, at + 2, 8)
        nanos, seconds, end = both >> np.uint64(34), both & np.uint64(0x3_FFFF_FFFF), at + 10
    elif kind == 0xD6 and code == 0xFF:
        seconds, end = big_endian(data, at + 2, 4), at + 6
    elif kind == 0xC7 and code == 12 and at + 15 <= stop and byte(data, at + 2) == 0xFF:
        nanos, seconds, end = big_endian(data, at + 3, 4), big_endian(data, at + 7, 8), at + 15
    if nanos >= np.uint64(1_000_000_000) or seconds >= np.uint64(9_200_000_000):
        return np.int64(0), NONE
    return np.int64(seconds * np.uint64(1_000_000_000) + nanos), end


@njit(nogil=True, cache=True)
def packed_text(data, at, stop):
    """Bounds of a MessagePack text of at most 255 bytes: (start, end), end NONE for anything else."""
    kind = byte(data, at) if at < stop else 0xC1
    if 0xA0 <= kind <= 0xBF:
        start, end = at + 1, at + 1 + (kind & 31)
    elif kind == 0xD9 and at + 2 <= stop:
        start, end = at + 2, at + 2 + byte(data, at + 1)
    else:
        return at, NONE
    return start, end if end <= stop else NONE


@njit(nogil=True, cache=True)
def packed_span(data, at, stop, values):
    """End of so many texts or short arrays of texts, NONE if there is anything else among them."""
    while values > 0:
        if at >= stop:
            return NONE
        kind = byte(data, at)
        if 0x90 <= kind <= 0x9F:
            values += kind & 15
            at += 1
        else:
            _, at = packed_text(data, at, stop)
            if at == NONE:
                return NONE
        values -= 1
    return at


@njit(nogil=True, cache=True)
def packed_any(data, at, stop):
    """End of a number, a text, nil or a bool that nobody reads, NONE for anything else."""
    kind = byte(data, at) if at < stop else 0xC1
    if kind == 0xC0 or kind == 0xC2 or kind == 0xC3:
        return at + 1
    _, end = packed_number(data, at, stop)
    return end
