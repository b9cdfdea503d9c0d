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


# Bits of the column of sale conditions (the asset class' readme) → the tapes' letter with that meaning.
# 0x1 is regular way, 0x20000000 a trade-through exemption: neither says anything of prices.
_SALES = {
    0x2: "C", 0x4: "N", 0x8: "R", 0x10: "Y", 0x20: "F", 0x40: "O", 0x80: "6", 0x100: "5", 0x200: "4", 0x400: "T",
    0x800: "L", 0x1000: "1", 0x2000: "T", 0x4000: "Z", 0x8000: "S", 0x10000: "A", 0x40000: "V", 0x80000: "D",
    0x100000: "W", 0x200000: "X", 0x400000: "H", 0x800000: "K", 0x1000000: "M", 0x2000000: "P", 0x4000000: "Q",
    0x80000000: "I",
}  # fmt: skip


def equity_trades(path: Path, utc_offset_h: int) -> Iterator[tuple[int, float, float, str, list[str]]]:
    """(ts, price, size, exchange, letters) of every print in the file's order; of these none is suspicious."""
    start = midnight_ns(path, utc_offset_h)
    for ms, price, size, exchange, sale, suspicious in _lines(path):
        assert suspicious == "0"
        bits = int(sale, 16)
        yield (
            start + _ns(ms),
            int(price) / 10_000,
            float(size),
            exchange,
            [code for bit, code in _SALES.items() if bits & bit],
        )


def daily(path: Path) -> Iterator[tuple[str, list[float]]]:
    """(YYYYMMDD, [open, high, low, close, volume]) of every day."""
    for time, *prices, volume in _lines(path):
        yield time[:DAY_DIGITS], [*(int(price) / 10_000 for price in prices), float(volume)]
