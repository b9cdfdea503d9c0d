"""Moments as people write them on a command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from recorder.values.errors import ConfigError

_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
LAST_NS = (1 << 63) - 1


def parse_time(text: str, what: str) -> int:
    """ns since 1970 of ``2026-08-01``, ``2026-08-01T14:30``, ``…:05.123456789Z`` or with an offset; UTC without one.

    what  the option it was given for, for the error
    Raises ConfigError for anything else, and for what lies before 1970 or after 2262.
    """
    match = _MOMENT.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second, fraction, zone = match.groups()
        whole = f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:{second or '00'}{zone or 'Z'}"
        moment = datetime.fromisoformat(whole)
    except ValueError:
        raise ConfigError(
            f"{what} {text}: no date or time; write 2026-08-01, 2026-08-01T14:30:00Z or up to nine decimals of a second"
        ) from None
    since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    ns = (since.days * 86_400 + since.seconds) * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
    if not 0 <= ns <= LAST_NS:
        raise ConfigError(f"{what} {text}: outside of 1970 to 2262, which is what nanoseconds in 64 bits reach")
    return ns
