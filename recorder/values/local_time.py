"""Times that providers write as an exchange's wall clock shows them, as int64 nanoseconds since the Unix epoch."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from recorder.values.errors import FrameError
from recorder.values.feed import SECOND

_TEXT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?))?", re.ASCII)
# What providers write, and nothing else: a name of theirs never becomes the path of a file.
ZONES = {name: ZoneInfo(name) for name in ("America/New_York", "UTC")} | {"US/Eastern": ZoneInfo("America/New_York")}


@lru_cache(maxsize=65_536)  # the bars of a few hundred answers, which repeat each other
def local_ns(text: str, zone: str) -> int:
    """Of ``2026-01-05 19:55:00``, or of the midnight that a date begins with; of an hour that comes twice, the first.

    zone  a name of ZONES
    Raises FrameError for another text, and for a zone that is not known.
    """
    found = _TEXT.fullmatch(text)
    if zone not in ZONES:
        raise FrameError(f"time zone {zone[:40]!r} is none of {', '.join(ZONES)}")
    try:
        if found is None:
            raise ValueError("expected 2026-01-05 or 2026-01-05 19:55:00")
        moment = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}").replace(tzinfo=ZONES[zone])
        return int(moment.timestamp()) * SECOND
    except (ValueError, OverflowError) as error:
        raise FrameError(f"{text[:40]!r} is no time: {error}") from None


def local_date(ns: int, zone: str) -> str:
    """The day there, as 2026-01-05."""
    return f"{datetime.fromtimestamp(ns // SECOND, ZONES[zone]):%Y-%m-%d}"
