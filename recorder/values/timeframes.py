"""How long bars are, by the names that the column ``timeframe`` has."""

from __future__ import annotations

from datetime import UTC, datetime

from recorder.values.feed import HOUR, MINUTE, SECOND

DAY = 24 * HOUR
LENGTHS = {
    "1s": SECOND, "1m": MINUTE, "3m": 3 * MINUTE, "5m": 5 * MINUTE, "10m": 10 * MINUTE, "15m": 15 * MINUTE,
    "30m": 30 * MINUTE, "1h": HOUR, "2h": 2 * HOUR, "3h": 3 * HOUR, "4h": 4 * HOUR, "6h": 6 * HOUR, "8h": 8 * HOUR,
    "12h": 12 * HOUR, "1d": DAY, "3d": 3 * DAY, "1w": 7 * DAY, "1M": 31 * DAY,  # the longest month
}  # fmt: skip


def end_of(start: int, timeframe: str) -> int:
    """When a bar that begins at ``start`` is over, ns."""
    if timeframe != "1M":
        return start + LENGTHS[timeframe]
    begin = datetime.fromtimestamp(start // SECOND, UTC)
    following = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return int(following.timestamp()) * SECOND
