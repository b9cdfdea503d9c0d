"""FIX market data as compiled code reads it: increments (X) and snapshots (W) → trades and quotes, or nothing at all.

A message is taken when it is what most of them are: whole, next in order, with instruments, venues and conditions
that the decoder has taught, times and decimals that are exact, ids that are numbers, and books of a single level whose
increments have all come. Any other is left to the decoder (feeds/fix/rows.py), of which this is no more than a faster
copy: nothing is written before the whole message has been read.
"""

from __future__ import annotations

import numpy as np

from recorder.compiled import njit
from recorder.core.fix_frames import counted, extent
from recorder.core.fix_tops import BEGUN, KEY, KEY_WORDS, LAST, LENGTH, MISSING, NOTHING, PRICE, SIDE, SIZE, STALE
from recorder.core.spellings import VALUE, find, word
from recorder.core.unaligned import bits_of, poke8, poke32, poke64, poke_double
from recorder.core.wire import DIGITS_MAX, NONE, byte, calendar_day, decimal, digits, pair, whole

MATCHED, MISSED, FULL = 0, 1, 2  # as matching's

# Of a program the first operation says what the connection is, in these columns. Those behind it hold, from column 1,
# bytes and offsets of a trade and of a quote (two operations each), and what flags and sides are.
COUNTER, PLACE, NAMES, EXCHANGES, CONDITIONS, BY_ID, SINGLE = range(1, 8)
TRADE, QUOTE, FLAGS = 1, 3, 5

# Fields of an entry, and of what is before the entries, by their tags.
(
    _IGNORED, _SYMBOL, _SECURITY, _TRANSACTED, _KIND, _PRICE, _SIZE, _DATE, _TIME, _EXCHANGE, _QUOTED, _SALE, _ID,
    _ACTION, _TRADE_ID, _SIDE, _NUMBER, _SENT, _REQUEST, _ENTRIES, _REFUSED,
) = range(21)  # fmt: skip
_TAGS = np.zeros(2447, np.int8)
for _tag, _which in (
    (55, _SYMBOL), (48, _SECURITY), (60, _TRANSACTED), (269, _KIND), (270, _PRICE), (271, _SIZE), (272, _DATE),
    (273, _TIME), (275, _EXCHANGE), (276, _QUOTED), (277, _SALE), (278, _ID), (279, _ACTION), (1003, _TRADE_ID),
    (2446, _SIDE), (34, _NUMBER), (52, _SENT), (262, _REQUEST), (268, _ENTRIES), (43, _REFUSED),
):  # fmt: skip
    _TAGS[_tag] = _which
# Lengths of data fields, whose values may hold anything.
_TAGS[[90, 93, 95, 212, 348, 350, 352, 354, 356, 358, 360, 362, 364, 445, 618, 621]] = _REFUSED

# Scratch, (SCRATCH_ROWS, SCRATCH): bounds of an entry's fields; the memo of times; books that the message changes; and
# what it does to them.
SCRATCH = 24
_BOOKS_MAX, _LEVELS_MAX = 64, 256  # of one message; one level of the book is 2 entries an instrument
_STARTS, _ENDS, MEMO, _BOOKS = 0, 1, 2, 3
_LEVELS = _BOOKS + _BOOKS_MAX
SCRATCH_ROWS = _LEVELS + _LEVELS_MAX
_DAY_WORD, _DAY_NS, _SECOND_WORD, _SECOND_NS = range(4)  # of the memo
_ROW, _SERIES, _WHEN, _WORDS, _OLD = range(5)  # of a book; _OLD: what was best, four numbers
_BOOK, _WHICH, _GONE, _BITS, _KEY_AT, _KEY_LENGTH = 0, 1, 2, 3, 5, 6  # of a level; _BITS: price, size

_DAY = 86_400_000_000_000
_YEAR_2000_NS = 946_684_800_000_000_000
_SCALES = np.array([10 ** (9 - k) for k in range(10)], np.int64)
_NAN = np.float64(np.nan)


@njit(nogil=True, cache=True)
def day_of(data, at, end, memo):
    """ns of the midnight that begins ``20260105``, NONE for any other form. Oracle: text_time.fix_date_ns"""
    if end - at != 8:
        return np.int64(NONE)
    text = np.int64(word(data, at, 8))
    if text != memo[_DAY_WORD]:
        century, year, month, day = pair(data, at), pair(data, at + 2), pair(data, at + 4), pair(data, at + 6)
        if century > 99 or year > 99:
            return np.int64(NONE)
        days = calendar_day(100 * century + year, month, day)
        if days == NONE:
            return np.int64(NONE)
        memo[_DAY_WORD], memo[_DAY_NS] = text, days * _DAY
    return memo[_DAY_NS]


@njit(nogil=True, cache=True)
def time_of_day(data, at, end, memo):
    """ns since midnight of ``14:30:00.123456``, 0 to 9 decimals, NONE for any other form. Oracle: fix_time_ns"""
    if end - at < 8:
        return np.int64(NONE)
    text = np.int64(word(data, at, 8))
    if text != memo[_SECOND_WORD]:
        hour, minute, second = pair(data, at), pair(data, at + 3), pair(data, at + 6)
        if hour > 23 or minute > 59 or second > 59 or byte(data, at + 2) != 58 or byte(data, at + 5) != 58:
            return np.int64(NONE)
        memo[_SECOND_WORD], memo[_SECOND_NS] = text, ((hour * 60 + minute) * 60 + second) * 1_000_000_000
    count = end - at - 9
    if count == -1:
        return memo[_SECOND_NS]
    if byte(data, at + 8) != 46 or count < 1 or count > 9:
        return np.int64(NONE)
    part, stop = digits(data, at + 9, end, np.uint64(0))
    if stop != end:
        return np.int64(NONE)
    return memo[_SECOND_NS] + np.int64(part) * _SCALES[count]


@njit(nogil=True, cache=True)
def stamp(data, at, end, memo):
    """ns of ``20260105-14:30:00.123``, NONE for any other form. Oracle: text_time.fix_ns"""
    if end - at < 17 or byte(data, at + 8) != 45:
        return np.int64(NONE)
    day, time = day_of(data, at, at + 8, memo), time_of_day(data, at + 9, end, memo)
    return np.int64(NONE) if day == NONE or time == NONE else day + time


@njit(nogil=True, cache=True)
def _event_time(data, seen, scratch, origin):
    """As rows._event_time, NONE where that would raise."""
    starts, ends, memo = scratch[_STARTS], scratch[_ENDS], scratch[MEMO]
    if seen >> _TIME & 1:
        time = time_of_day(data, starts[_TIME], ends[_TIME], memo)
        if time == NONE:
            return np.int64(NONE)
        if seen >> _DATE & 1:
            day = day_of(data, starts[_DATE], ends[_DATE], memo)
            return np.int64(NONE) if day == NONE else day + time
        ts = origin - origin % _DAY + time
        return ts - _DAY if ts - origin > _DAY // 2 else ts + _DAY if origin - ts > _DAY // 2 else ts
    if seen >> _TRANSACTED & 1:
        return stamp(data, starts[_TRANSACTED], ends[_TRANSACTED], memo)
    return origin


@njit(nogil=True, cache=True)
def _number(data, at, end):
    """A decimal as a double, negative when it is not exactly that."""
    value, stop = decimal(data, at, end)
    return value if stop == end else -1.0


@njit(nogil=True, cache=True)
def _text(data, at, end, space, slots, keys, entries):
    """The id of a text, or -2 when nobody has taught it."""
    found = find(data, at, end - at, space, slots, keys, entries)
    return entries[found, VALUE] if found >= 0 else np.int64(-2)


@njit(nogil=True, cache=True)
def _name(data, seen, ops, pc, scratch, slots, keys, entries):
    """Row in ``entries`` of the instrument that these fields name; -1 when they name none, -2 when it is not known."""
    field = _SECURITY if ops[pc, BY_ID] else _SYMBOL
    if not seen >> field & 1:
        field = _SYMBOL if ops[pc, BY_ID] else _SECURITY
        if not seen >> field & 1:
            return np.int64(-1)
    at, end = scratch[_STARTS, field], scratch[_ENDS, field]
    found = find(data, at, end - at, ops[pc, NAMES], slots, keys, entries)
    return found if found >= 0 else np.int64(-2)


@njit(nogil=True, cache=True)
def _action(data, seen, scratch):
    """0 new, 1 change, 2 delete; above 2 for what is no action."""
    if not seen >> _ACTION & 1:
        return np.int64(0)
    at = scratch[_STARTS, _ACTION]
    return byte(data, at) - 48 & 255 if scratch[_ENDS, _ACTION] == at + 1 else np.int64(3)


@njit(nogil=True, cache=True)
def _trade(data, seen, series, ts_event, ts_recv, flags, row, ops, pc, scratch, slots, keys, entries):
    """Write a trade at the address ``row``; whether it could be."""
    if seen >> _PRICE & seen >> _SIZE & 1 == 0:
        return False
    starts, ends = scratch[_STARTS], scratch[_ENDS]
    price, size = _number(data, starts[_PRICE], ends[_PRICE]), _number(data, starts[_SIZE], ends[_SIZE])
    if not (price > 0.0 and size >= 0.0):
        return False
    action = _action(data, seen, scratch)
    own = _TRADE_ID if seen >> _TRADE_ID & 1 else _ID
    if action > 2 or not seen >> own & 1:
        return False
    trade_id, end = whole(data, starts[own], ends[own])
    if end != ends[own] or end - starts[own] >= DIGITS_MAX:
        return False
    exchange = sale = np.int64(-1)
    if seen >> _EXCHANGE & 1:
        exchange = _text(data, starts[_EXCHANGE], ends[_EXCHANGE], ops[pc, EXCHANGES], slots, keys, entries)
    if seen >> _SALE & 1:
        sale = _text(data, starts[_SALE], ends[_SALE], ops[pc, CONDITIONS], slots, keys, entries)
    if exchange == -2 or sale == -2:
        return False
    side = np.int64(0)
    at = starts[_SIDE]
    if seen >> _SIDE & 1 and ends[_SIDE] == at + 1 and 49 <= byte(data, at) <= 50:
        side = ops[pc + FLAGS, 4 + byte(data, at) - 49]
    if action > 0:
        flags |= ops[pc + FLAGS, 1 + action]
    first, more = ops[pc + TRADE], ops[pc + TRADE + 1]
    poke64(row + first[2], ts_event)
    poke64(row + first[3], ts_recv)
    poke32(row + first[4], np.int32(series))
    poke32(row + first[5], np.int32(exchange))
    poke64(row + first[6], trade_id)
    poke32(row + first[7], np.int32(-1))
    poke_double(row + more[1], price)
    poke_double(row + more[2], size)
    poke8(row + more[3], np.uint8(side))
    poke32(row + more[4], np.int32(sale))
    poke32(row + more[5], np.int32(-1))
    poke32(row + more[6], np.int32(flags))
    return True


@njit(nogil=True, cache=True)
def _level(data, seen, book, which, level, scratch):
    """Put down in ``scratch`` what an entry does to a book; whether it is plain."""
    action = _action(data, seen, scratch)
    starts, ends = scratch[_STARTS], scratch[_ENDS]
    price = size = 0.0
    if seen >> _PRICE & 1:
        price = _number(data, starts[_PRICE], ends[_PRICE])
    if action == 2:
        if price < 0.0:
            return False
    else:
        if seen >> _SIZE & 1 == 0:
            return False
        size = _number(data, starts[_SIZE], ends[_SIZE])
        if action > 2 or not (price > 0.0 and size >= 0.0):
            return False
    at, length = starts[_ID], ends[_ID] - starts[_ID]
    if not seen >> _ID & 1:
        length = np.int64(0)
    if length > 8 * KEY_WORDS:
        return False
    for k in range(at, at + length):
        if byte(data, k) > 127:
            return False
    change = scratch[_LEVELS + level]
    change[_BOOK], change[_WHICH], change[_GONE] = book, which, action == 2
    change[_BITS], change[_BITS + 1] = bits_of(price), bits_of(size)
    change[_KEY_AT], change[_KEY_LENGTH] = at, length
    return True


@njit(nogil=True, cache=True)
def _book(row, series, origin, tops, books, scratch):
    """Place of a book among those that the message changes; ``books`` when it is a new one, for which there is room."""
    for k in range(books):
        if scratch[_BOOKS + k, _ROW] == row:
            return k
    book = scratch[_BOOKS + books]
    book[_ROW], book[_SERIES], book[_WHEN], book[_WORDS] = row, series, origin, -1
    for side in range(2):
        at = PRICE + side * SIDE
        there = tops[row, at + LENGTH] != NOTHING
        book[_OLD + 2 * side] = tops[row, at] if there else 0
        book[_OLD + 2 * side + 1] = tops[row, at + SIZE] if there else 0
    return books


@njit(nogil=True, cache=True)
def _apply(data, levels, tops, scratch):
    """Change the books."""
    for k in range(levels):
        change = scratch[_LEVELS + k]
        row = scratch[_BOOKS + change[_BOOK], _ROW]
        side = PRICE + change[_WHICH] * SIDE
        at, length = change[_KEY_AT], change[_KEY_LENGTH]
        if change[_GONE]:
            same = tops[row, side + LENGTH] == length
            for i in range(0, length, 8):
                same &= tops[row, side + KEY + i // 8] == np.int64(word(data, at + i, length - i))
            if same:
                tops[row, side + LENGTH] = NOTHING
        else:
            tops[row, side], tops[row, side + SIZE] = change[_BITS], change[_BITS + 1]
            tops[row, side + LENGTH] = length
            for i in range(KEY_WORDS):
                left = length - 8 * i
                tops[row, side + KEY + i] = np.int64(word(data, at + 8 * i, left)) if left > 0 else 0


@njit(nogil=True, cache=True)
def _quotes(books, fresh, number, ts_recv, row, ops, pc, tops, scratch):
    """Write the best of books that have changed, and of the first if it is ``fresh``, from the address ``row`` on.

    Returns how many.
    """
    count, nan = 0, bits_of(_NAN)
    first, more = ops[pc + QUOTE], ops[pc + QUOTE + 1]
    for k in range(books):
        book = scratch[_BOOKS + k]
        top = tops[book[_ROW]]
        changed = fresh and k == 0
        for side in range(2):
            at = PRICE + side * SIDE
            there = top[at + LENGTH] != NOTHING
            price, size = top[at] if there else 0, top[at + SIZE] if there else 0
            changed |= price != book[_OLD + 2 * side] or size != book[_OLD + 2 * side + 1]
            poke64(row + (first[6] if side == 0 else more[1]), price if there else nan)
            poke64(row + (first[7] if side == 0 else more[2]), size if there else nan)
        if not changed:
            continue
        poke64(row + first[2], book[_WHEN])
        poke64(row + first[3], ts_recv)
        poke32(row + first[4], np.int32(book[_SERIES]))
        poke64(row + first[5], number)
        poke32(row + more[3], np.int32(-1))
        poke32(row + more[4], np.int32(-1))
        poke32(row + more[5], np.int32(book[_WORDS]))
        poke32(row + more[6], np.int32(0))
        count += 1
        row += first[1]
    return count


@njit(nogil=True, cache=True)
def _field(data, at, stop, scratch, seen):
    """Read a field: (which, end of its value or NONE, ``seen`` with it)."""
    tag, i = np.int64(byte(data, at) - 48), at + 1
    if tag < 1 or tag > 9:
        return _REFUSED, NONE, seen
    while i < stop:
        digit = byte(data, i) - 48
        if digit < 0 or digit > 9:
            break
        tag = tag * 10 + digit
        i += 1
        if tag > 999_999:
            break
    if i >= stop or byte(data, i) != 61:
        return _REFUSED, NONE, seen
    at = end = i + 1
    while byte(data, end) != 1:  # the message's last byte is one
        end += 1
    field = np.int64(_TAGS[tag]) if tag < len(_TAGS) else np.int64(_IGNORED)
    if field == _IGNORED:
        return field, end, seen
    if field == _REFUSED or seen >> field & 1 or end == at:
        return field, NONE, seen
    scratch[_STARTS, field], scratch[_ENDS, field] = at, end
    return field, end, seen | 1 << field


@njit(nogil=True, cache=True)
def read(data, at, stop, ts_recv, ops, pc, slots, keys, entries, state, used, counters, tops, scratch, dry):
    """Read one message and write its rows past those that ``state`` counts: MATCHED, MISSED or FULL + table.

    data   (n,) uint8, the message is ``data[at:stop]``
    ops    (p, 8) int64, the connection's program from ``pc`` on; slots, keys, entries  of Spellings
    state  of matching: of trades and quotes, TABLES of each, where they lie, how many there are, how many have room:
           from ``used`` - TABLES on
    tops   of Tops; scratch (SCRATCH_ROWS, SCRATCH) int64
    dry    keep nothing of it, and take any number for the next
    Oracle: rows.decoder
    """
    body, end = extent(data, at, stop)
    kind = byte(data, body + 3) if end == stop else 0
    if not ((kind == 87 or kind == 88) and byte(data, body + 4) == 1):
        return MISSED
    snapshot = kind == 87
    latest = ts_recv + _DAY
    starts, ends, memo, place = scratch[_STARTS], scratch[_ENDS], scratch[MEMO], ops[pc, PLACE]
    stop -= 7
    # What is before the entries.
    at, seen, field = body + 5, np.int64(0), np.int64(_IGNORED)
    while field != _ENTRIES:
        if at >= stop:
            return MISSED
        field, end, seen = _field(data, at, stop, scratch, seen)
        if end == NONE:
            return MISSED
        at = end + 1
    if not (seen >> _NUMBER & seen >> _SENT & 1):
        return MISSED
    number, end = counted(data, starts[_NUMBER], ends[_NUMBER])
    if end != ends[_NUMBER] or number < 0 or number <= tops[place, MISSING]:
        return MISSED
    last = counters[ops[pc, COUNTER]]
    if not dry and (last < 0 or last != tops[place, LAST] or number != last + 1):
        return MISSED
    count, end = counted(data, starts[_ENTRIES], ends[_ENTRIES])
    if end != ends[_ENTRIES] or count < 1 or count > 999_999:
        return MISSED
    origin = stamp(data, starts[_SENT], ends[_SENT], memo)
    if not _YEAR_2000_NS <= origin <= latest:
        return MISSED
    name = _name(data, seen, ops, pc, scratch, slots, keys, entries)
    if name == -2:
        return MISSED
    books = levels = trades = np.int64(0)
    fresh = snapshot and name >= 0 and not (seen >> _REQUEST & 1 and byte(data, starts[_REQUEST]) == 116)
    if fresh:
        row = entries[name, VALUE + 1]
        if not ops[pc, SINGLE] or tops[row, STALE]:
            return MISSED
        books = _book(row, entries[name, VALUE], origin, tops, books, scratch) + 1
    # The entries.
    opening = _KIND if snapshot else _ACTION
    address, room = state[used - 3], state[used + 3]
    while at < stop:
        seen = np.int64(0)
        field, end, seen = _field(data, at, stop, scratch, seen)
        if field != opening or end == NONE:
            return MISSED
        at = end + 1
        while at < stop:
            before = seen
            field, end, seen = _field(data, at, stop, scratch, seen)
            if field == opening and before >> field & 1:
                seen = before
                break
            if end == NONE:
                return MISSED
            at = end + 1
        count -= 1
        own = _name(data, seen, ops, pc, scratch, slots, keys, entries)
        name = own if own != -1 else name
        if name < 0 or not seen >> _KIND & 1 or ends[_KIND] != starts[_KIND] + 1:
            return MISSED
        kind = byte(data, starts[_KIND])
        ts_event = _event_time(data, seen, scratch, origin)
        if kind == 50:
            if state[used] + trades >= room:
                return FULL
            flags = ops[pc + FLAGS, 1] if snapshot else np.int64(0)
            row = address + (state[used] + trades) * ops[pc + TRADE, 1]
            if not _YEAR_2000_NS <= ts_event <= latest or not _trade(
                data, seen, entries[name, VALUE], ts_event, ts_recv, flags, row, ops, pc, scratch, slots, keys, entries
            ):
                return MISSED
            trades += 1
        elif kind == 48 or kind == 49:
            row = entries[name, VALUE + 1]
            words = np.int64(-1)
            if seen >> _QUOTED & 1:
                words = _text(data, starts[_QUOTED], ends[_QUOTED], ops[pc, CONDITIONS], slots, keys, entries)
            if not ops[pc, SINGLE] or tops[row, STALE] or words == -2 or levels == _LEVELS_MAX or books == _BOOKS_MAX:
                return MISSED
            book = _book(row, entries[name, VALUE], origin, tops, books, scratch)
            books = max(books, book + 1)
            if not _YEAR_2000_NS <= ts_event <= latest or not _level(data, seen, book, kind - 48, levels, scratch):
                return MISSED
            levels += 1
            scratch[_BOOKS + book, _WHEN] = ts_event
            if words >= 0:
                scratch[_BOOKS + book, _WORDS] = words
        elif not (51 <= kind <= 57 or 65 <= kind <= 67):
            return MISSED
    if count != 0:
        return MISSED
    if state[used + 1] + books > state[used + 4]:
        return FULL + 1
    if dry:
        return MATCHED
    if fresh:
        row = scratch[_BOOKS, _ROW]
        tops[row, PRICE + LENGTH] = tops[row, PRICE + SIDE + LENGTH] = NOTHING
    for k in range(books):
        tops[scratch[_BOOKS + k, _ROW], BEGUN] = 1
    _apply(data, levels, tops, scratch)
    row = state[used - 2] + state[used + 1] * ops[pc + QUOTE, 1]
    state[used] += trades
    state[used + 1] += _quotes(books, fresh, number, ts_recv, row, ops, pc, tops, scratch)
    counters[ops[pc, COUNTER]] = tops[place, LAST] = number
    return MATCHED


def new_scratch() -> np.ndarray:
    """Room for ``read`` to work in; its memo of times begins with one that is true."""
    scratch = np.zeros((SCRATCH_ROWS, SCRATCH), np.int64)
    scratch[MEMO, [_DAY_WORD, _SECOND_WORD]] = np.frombuffer(b"2000010100:00:00", np.int64)
    scratch[MEMO, _DAY_NS] = _YEAR_2000_NS
    return scratch
