"""Times that providers write as text, as int64 nanoseconds since the Unix epoch. Exact: no float, nothing rounded."""

from __future__ import annotations

import re
from datetime import date

from recorder.values.errors import FrameError

SECOND = 1_000_000_000
WHOLE_SECONDS_MAX = 4096  # cached seconds: over an hour of one feed's live times in about 0.5 MB
YEAR_MIN, YEAR_MAX = 1678, 2261  # years that int64 nanoseconds hold entirely, whatever the offset
EPOCH_DAYS = date(1970, 1, 1).toordinal()

_WHOLE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)
_SCALE = tuple(10 ** (9 - digits) for digits in range(10))
_DIGITS = frozenset("0123456789")
_whole_ns: dict[str, int] = {}  # text up to the second, as if UTC → ns; a pure function's memory, bounded above


def rfc3339_ns(text: str) -> int:
    """Nanoseconds since the epoch of ``2014-11-07T08:19:27.028459Z``.

    text  0 to 9 fractional digits; ``Z`` or ``±hh:mm``; ``T`` or a space between date and time
    Raises FrameError naming the text: no offset, no such day, a leap second, or a year outside 1678 to 2261 (Coinbase
    has sent ``0001-01-01T00:00:00Z``, which is no time at all).
    """
    try:
        whole = _whole_ns[text[:19]]
    except KeyError:
        whole = _whole_seconds(text)
    if text[19:20] == "." and text[-1] == "Z":  # nearly all there are
        digits = text[20:-1]
        if digits.isdecimal() and digits.isascii() and len(digits) <= 9:
            return whole + int(digits) * _SCALE[len(digits)]
    return whole + _fraction_and_offset(text)


def _whole_seconds(text: str) -> int:
    """Parse and remember the part up to the second, read as UTC."""
    match = _WHOLE.match(text)
    if match is None:
        raise FrameError(f"{text[:60]!r} is not a time such as 2026-08-01T14:30:02.789012Z")
    year, month, day, hour, minute, second = map(int, match.groups())
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise FrameError(f"time {text[:60]!r} has year {year}; nanoseconds reach from {YEAR_MIN} to {YEAR_MAX}")
    try:
        days = date(year, month, day).toordinal() - EPOCH_DAYS
    except ValueError as error:
        raise FrameError(f"time {text[:60]!r} names no day: {error}") from None
    if hour > 23 or minute > 59 or second > 59:
        raise FrameError(f"time {text[:60]!r} is past the end of an hour, minute or second")
    result = ((days * 24 + hour) * 3600 + minute * 60 + second) * SECOND
    if len(_whole_ns) >= WHOLE_SECONDS_MAX:
        _whole_ns.clear()
    _whole_ns[text[:19]] = result
    return result


def _fraction_and_offset(text: str) -> int:
    """Nanoseconds that the part after the second adds."""
    tail, fraction = text[19:], 0
    if tail[:1] == ".":
        end = 1
        while end < len(tail) and tail[end] in _DIGITS:
            end += 1
        if not 2 <= end <= 10:
            raise FrameError(f"time {text[:60]!r} has {end - 1} fractional digits, not 1 to 9")
        fraction, tail = int(tail[1:end]) * _SCALE[end - 1], tail[end:]
    if tail in ("Z", "z"):
        return fraction
    match = _OFFSET.fullmatch(tail)
    if match is None:
        raise FrameError(f"time {text[:60]!r} ends in {tail[:20]!r}, neither Z nor an offset such as +02:00")
    hours, minutes = int(match[2]), int(match[3])
    if hours > 23 or minutes > 59:
        raise FrameError(f"time {text[:60]!r} has offset {tail}, more than a day")
    ahead = (hours * 60 + minutes) * 60 * SECOND
    return fraction - ahead if match[1] == "+" else fraction + ahead


def unix_ns(text: str) -> int:
    """Nanoseconds since the epoch of Unix seconds in decimals, ``1618678142.557535``: at most 10 and 9 digits.

    Raises FrameError naming the text; there is no sign, no exponent and nothing else that float() would forgive.
    """
    seconds, point, digits = text.partition(".")
    if seconds.isdecimal() and len(seconds) <= 10 and text.isascii() and int(seconds) * SECOND < 1 << 63:
        if not point:
            return int(seconds) * SECOND
        if digits.isdecimal() and len(digits) <= 9:
            result = int(seconds) * SECOND + int(digits) * _SCALE[len(digits)]
            if result < 1 << 63:
                return result
    raise FrameError(f"{text[:60]!r} is not a time in Unix seconds such as 1618678142.557535")


_fix_days: dict[bytes, int] = {}  # date → ns of its midnight; a pure function's memory, bounded like the seconds


def fix_date_ns(date_text: bytes) -> int:
    """Nanoseconds since the epoch of the beginning of FIX's ``20260105`` (UTCDateOnly). Raises FrameError."""
    known = _fix_days.get(date_text)
    if known is not None:
        return known
    if len(date_text) != 8 or not date_text.isdigit():
        raise FrameError(f"{date_text[:30]!r} is not a date such as 20260105")
    year, month, day = int(date_text[:4]), int(date_text[4:6]), int(date_text[6:])
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise FrameError(f"date {date_text!r}: nanoseconds reach from {YEAR_MIN} to {YEAR_MAX}")
    try:
        result = (date(year, month, day).toordinal() - EPOCH_DAYS) * 86_400 * SECOND
    except ValueError as error:
        raise FrameError(f"date {date_text!r} names no day: {error}") from None
    if len(_fix_days) >= WHOLE_SECONDS_MAX:
        _fix_days.clear()
    _fix_days[date_text] = result
    return result


_fix_seconds: dict[bytes, int] = {}  # time up to the second → ns since midnight; as ``_fix_days``


def fix_time_ns(text: bytes) -> int:
    """Nanoseconds since midnight of FIX's ``14:30:00.015`` (UTCTimeOnly), 0 to 9 digits after the point.

    A leap second (``23:59:60``) counts on into the next day. Raises FrameError.
    """
    whole = _fix_seconds.get(text[:8])
    if whole is None:
        whole = _fix_second(text)
    if len(text) == 8:
        return whole
    digits = text[9:]
    if text[8:9] != b"." or not digits.isdigit() or len(digits) > 9:
        raise FrameError(f"{text[:30]!r} is not a time such as 14:30:00.015")
    return whole + int(digits) * _SCALE[len(digits)]


def _fix_second(text: bytes) -> int:
    """Parse and remember the part up to the second."""
    hour, minute, second = text[:2], text[3:5], text[6:8]
    if len(text) < 8 or text[2:3] + text[5:6] != b"::" or not (hour + minute + second).isdigit():
        raise FrameError(f"{text[:30]!r} is not a time such as 14:30:00.015")
    hours, minutes, seconds = int(hour), int(minute), int(second)
    if hours > 23 or minutes > 59 or seconds > 60:
        raise FrameError(f"time {text[:30]!r} is past the end of an hour, minute or second")
    result = ((hours * 60 + minutes) * 60 + seconds) * SECOND
    if len(_fix_seconds) >= WHOLE_SECONDS_MAX:
        _fix_seconds.clear()
    _fix_seconds[text[:8]] = result
    return result


def fix_ns(text: bytes) -> int:
    """Nanoseconds since the epoch of FIX's ``20260105-14:30:00.015`` (UTCTimestamp). Raises FrameError."""
    if text[8:9] != b"-":
        raise FrameError(f"{text[:40]!r} is not a time such as 20260105-14:30:00.015")
    return fix_date_ns(text[:8]) + fix_time_ns(text[9:])


def fix_text(ns: int) -> bytes:
    """The UTCTimestamp with milliseconds that ``fix_ns`` reads: what FIX 4.4 itself allows at most."""
    days, rest = divmod(ns, 86_400 * SECOND)
    day = date.fromordinal(days + EPOCH_DAYS)
    seconds, fraction = divmod(rest, SECOND)
    minutes, second = divmod(seconds, 60)
    return b"%04d%02d%02d-%02d:%02d:%02d.%03d" % (
        day.year, day.month, day.day, minutes // 60, minutes % 60, second, fraction // 1_000_000,
    )  # fmt: skip
