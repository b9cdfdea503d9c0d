"""FIX messages in a stream of bytes, found and checked in compiled code: BodyLength, CheckSum, and who goes first.

A message is ``8=FIX.x.y|9=<length>|35=…|…|10=<sum>|``. What is none is handed over as it came, up to where the next
message begins: it must not advance the expected number, and nothing of it is lost to whoever looks for the cause.
"""

from __future__ import annotations

import numpy as np

from recorder.compiled import njit
from recorder.values.fix import MESSAGE_BYTES_MAX, TRAILER_BYTES

# Why ``scan`` returned.
PARTIAL = 0  # what follows is not here in full
FULL = 1  # no room for more frames
SPECIAL = 2  # the last frame found is not plain data: its session must see it before the next is looked at

# What a frame is.
PLAIN = 0  # W or X with the expected MsgSeqNum from the expected counterparty to us, no PossDup: nothing to decide
OTHER = 1  # a whole message all the same
GARBLED = 2  # no message

FRAMES_MAX = 4096  # in one call: 1 MB of the smallest increments

_SOH, _EQUALS, _ZERO = 1, 61, 48
_BEGIN_BYTES_MAX = 12  # of the value of 8
_LENGTH_DIGITS_MAX = 9  # of the value of 9; Binance pads to seven
_BAD = -1


@njit(nogil=True, cache=True)
def counted(data, at, stop):
    """(number, place of the byte that ends it); the number is -1 if there is none."""
    number = np.int64(-1)
    while at < stop and _ZERO <= data[at] <= 57:
        number = (0 if number < 0 else number) * 10 + (np.int64(data[at]) - _ZERO)
        if number > 1 << 53:
            return _BAD, at
        at += 1
    return number, at


@njit(nogil=True, cache=True)
def _begins(data, at, stop):
    """Whether ``8=FIX`` stands here, or as much of it as there is."""
    return (
        (at >= stop or data[at] == 56)
        and (at + 1 >= stop or data[at + 1] == _EQUALS)
        and (at + 2 >= stop or data[at + 2] == 70)
        and (at + 3 >= stop or data[at + 3] == 73)
        and (at + 4 >= stop or data[at + 4] == 88)
    )


@njit(nogil=True, cache=True)
def _next(data, at, stop):
    """Where the next message begins behind ``at``: after an SOH, 8=FIX; ``stop`` when nowhere."""
    for i in range(at + 1, stop - 4):
        if data[i] == 56 and data[i - 1] == _SOH and _begins(data, i, stop):
            return i
    return stop


@njit(nogil=True, cache=True)
def _swallowed(data, at, stop):
    """Where a message begins right behind a checksum: none holds that, so the BodyLength before it is wrong."""
    for i in range(at + 12, stop - 4):
        if (
            data[i] == 56
            and data[i - 1] == _SOH
            and data[i - 5] == _EQUALS
            and data[i - 6] == _ZERO
            and data[i - 7] == 49
            and data[i - 8] == _SOH
            and _begins(data, i, stop)
        ):
            return i
    return stop


@njit(nogil=True, cache=True)
def extent(data, at, stop):
    """(place of 35=, end of the message) at ``at``; end is 0 when more bytes are needed, -1 when it is no message."""
    if not _begins(data, at, stop):
        return 0, _BAD
    i = at + 5
    while i < stop and data[i] != _SOH:
        i += 1
        if i - at > _BEGIN_BYTES_MAX:
            return 0, _BAD
    if i + 3 >= stop:
        return 0, 0
    if data[i + 1] != 57 or data[i + 2] != _EQUALS:
        return 0, _BAD
    length, i = counted(data, i + 3, min(stop, i + 3 + _LENGTH_DIGITS_MAX))
    if i >= stop:
        return 0, 0
    if length < 0 or data[i] != _SOH:
        return 0, _BAD
    body = i + 1
    end = body + length + TRAILER_BYTES
    if length < 5 or end - at > MESSAGE_BYTES_MAX:
        return body, _BAD
    if body + 2 < stop and not (data[body] == 51 and data[body + 1] == 53 and data[body + 2] == _EQUALS):
        return body, _BAD
    if end > stop:
        return body, 0
    t = end - TRAILER_BYTES
    whole = (
        data[t - 1] == _SOH
        and data[t] == 49
        and data[t + 1] == _ZERO
        and data[t + 2] == _EQUALS
        and data[end - 1] == _SOH
    )
    stated, after = counted(data, t + 3, end - 1)
    if not whole or after != end - 1:
        return body, _BAD
    total = np.int64(0)
    for k in range(at, t):
        total += np.int64(data[k])
    if total & 255 != stated:
        return body, _BAD
    return body, end


@njit(nogil=True, cache=True)
def _same(data, at, stop, text):
    """Whether the value at ``at`` is ``text``."""
    if at + len(text) >= stop or data[at + len(text)] != _SOH:
        return False
    same = True
    for k in range(len(text)):
        same &= data[at + k] == text[k]
    return same


@njit(nogil=True, cache=True)
def _plain(data, body, end, expected, peer, us, snapshots):
    """Whether it is market data that needs no decision: W (if ``snapshots``) or X, in sequence, rightly addressed."""
    kind = data[body + 3]
    if data[body + 4] != _SOH or not (kind == 88 or (snapshots and kind == 87)):
        return False
    at = body + 5
    known = 0
    while known != 7 and at < end:
        tag, i = counted(data, at, end)
        if tag < 0 or data[i] != _EQUALS:
            return False
        i += 1
        if tag == 34:
            number, after = counted(data, i, end)
            if number != expected or data[after] != _SOH:
                return False
            known |= 1
        elif tag == 49:
            if not _same(data, i, end, peer):
                return False
            known |= 2
        elif tag == 56:
            if not _same(data, i, end, us):
                return False
            known |= 4
        elif tag == 43 or tag not in (50, 52, 57, 115, 128, 129, 142, 143, 144, 145, 369, 1128):
            return False
        while i < end and data[i] != _SOH:
            i += 1
        at = i + 1
    if known != 7:
        return False
    # The rest of the header: a PossDup flag may still come.
    while at < end:
        tag, i = counted(data, at, end)
        if tag == 43:
            return False
        if tag not in (50, 52, 57, 115, 128, 129, 142, 143, 144, 145, 369, 1128):
            return True
        while i < end and data[i] != _SOH:
            i += 1
        at = i + 1
    return True


@njit(nogil=True, cache=True)
def scan(data, at, stop, expected, peer, us, snapshots, starts, lengths):
    """Find messages in ``data[at:stop]``, up to the first that is not plain.

    data             (n,) uint8
    expected         MsgSeqNum that the next message must have to be plain
    peer, us         (k,) uint8, CompIDs that its 49 and 56 must have
    snapshots        whether W may be plain
    starts, lengths  (m,) int64, filled; frame i is ``data[starts[i]:starts[i] + lengths[i]]``
    Returns (count, next, reason, what): where to go on, PARTIAL, FULL or SPECIAL, and what the last frame is
    """
    count = 0
    while count < len(starts):
        if at >= stop:
            return count, at, PARTIAL, PLAIN
        body, end = extent(data, at, stop)
        what = OTHER
        if end == 0:
            end = _swallowed(data, at, stop)
            if end == stop:
                return count, at, PARTIAL, PLAIN
            what = GARBLED
        elif end < 0:
            end = _next(data, at, stop)
            if end == stop and stop - at < MESSAGE_BYTES_MAX:
                return count, at, PARTIAL, PLAIN
            what = GARBLED
        elif _plain(data, body, end, expected, peer, us, snapshots):
            what = PLAIN
        starts[count] = at
        lengths[count] = end - at
        count += 1
        at = end
        if what != PLAIN:
            return count, at, SPECIAL, what
        expected += 1
    return count, at, FULL, PLAIN


def warm() -> None:
    """Compile, or load from the cache."""
    data, few = np.zeros(8, np.uint8), np.zeros(1, np.int64)
    scan(data, 0, 8, 1, data, data, True, few, few.copy())
