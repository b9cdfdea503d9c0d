"""QuantConnect Lean's quote files as plain numbers: ticks, and second and minute bars of bid and ask."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

DAY_DIGITS = 8  # a file is of one day: 20140501_quote.zip
MS = 1_000_000  # ns


def _lines(path: Path) -> Iterator[list[str]]:
    with zipfile.ZipFile(path) as archive:
        [name] = archive.namelist()
        for line in archive.read(name).decode("ascii").splitlines():
            yield line.split(",")


def midnight_ns(path: Path, utc_offset_h: int) -> int:
    """Midnight of the file's day in its own fixed time zone, ns UTC."""
    day = datetime.strptime(path.name[:DAY_DIGITS], "%Y%m%d").replace(tzinfo=UTC)
    return (int(day.timestamp()) - utc_offset_h * 3600) * 10**9


def _ns(ms: str) -> int:
    """Milliseconds with up to six decimals as ns, exactly."""
    whole, _, part = ms.partition(".")
    return int(whole) * MS + int(part.ljust(6, "0"))


def ticks(path: Path, utc_offset_h: int) -> Iterator[tuple[int, float, float]]:
    """(ts, bid, ask) of every tick in the file's order, which is the only order of ticks of one millisecond."""
    start = midnight_ns(path, utc_offset_h)
    for ms, bid, ask in _lines(path):
        yield start + _ns(ms), float(bid), float(ask)


def bars(path: Path, utc_offset_h: int) -> Iterator[tuple[int, tuple[float, ...]]]:
    """(start, (bid open, high, low, close, ask open, high, low, close)) of every bar."""
    start = midnight_ns(path, utc_offset_h)
    for ms, bo, bh, bl, bc, _, ao, ah, al, ac, _ in _lines(path):
        yield start + _ns(ms), tuple(map(float, (bo, bh, bl, bc, ao, ah, al, ac)))
