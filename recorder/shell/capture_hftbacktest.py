"""Recordings of hftbacktest's collector: ``LOCAL JSON`` a line, LOCAL in microseconds or nanoseconds.

https://github.com/nkaz001/hftbacktest (collector)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recorder.core.frames import TEXT
from recorder.shell.capture_files import EXCERPT, lines_of, text_of, wrong_line
from recorder.shell.capture_formats import TS_MAX, Capture, Item, overridden, spec_of
from recorder.values.errors import CaptureError

HEAD_BYTES = 260  # of a line, which have what tells markets apart in them
LINES_MAX = 5_000  # in which a market has to show itself; a trade or quote is among the first twenty

_PREFIXES = {"spot_": "spot", "usdm_": "usdm", "cm_": "coinm"}  # of file names
_SCALE = {16: 1000, 19: 1}  # digits of LOCAL → ns in its unit
_REST = b'{"lastUpdateId"'  # a REST depth snapshot, taken on the way


def is_line(line: bytes) -> bool:
    head, _, rest = line.partition(b" ")
    return head.isdigit() and rest.startswith(b"{")


def hftbacktest(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    market = None
    if provider in (None, "binance"):
        market = _shown(path) or next((own for prefix, own in _PREFIXES.items() if path.name.startswith(prefix)), None)
    if market is None and (provider is None or (provider == "binance" and options is None)):
        first = next((line.partition(b" ")[2] for _, line in lines_of(path, peek=True) if is_line(line)), b"")
        shown = text_of(first[:EXCERPT]) or ""
        raise CaptureError(
            f"{path}: these lines do not say whose they are ({shown}…); of Binance start the file name with "
            f"{', '.join(_PREFIXES)}, else name the provider and its options"
        )
    known = ("binance", {"market": market}) if market else None
    return Capture(str(path), [spec_of(*overridden(known, provider, options))], lambda capture: _read(path, capture))


def _shown(path: Path) -> str | None:
    """The market of Binance that the messages are of, None when they do not show it.

    COIN-M's name the pair (``ps``); spot's have no time of the engine in quotes and books, and ``M`` in trades.
    """
    for number, line in lines_of(path, peek=True):
        head = line[:HEAD_BYTES] if is_line(line) else b""
        if b'"ps":' in head or b'"pair":' in head or b"usd_perp@" in head:
            return "coinm"
        if b'@bookTicker"' in head or b"@depth" in head:
            return "usdm" if b'"T":' in head else "spot"
        if b'"e":"trade"' in head and (b'"M":' in head or b'"X":' in head) and b"_" not in head:
            return "spot" if b'"M":' in head else "usdm"
        if number >= LINES_MAX:
            break
    return None


def _read(path: Path, capture: Capture) -> Iterator[Item]:
    for number, line in lines_of(path):
        local, _, payload = line.partition(b" ")
        ts = int(local) * _SCALE[len(local)] if local.isdigit() and len(local) in _SCALE else TS_MAX
        if ts >= TS_MAX or not payload.startswith(b"{"):
            if not line.strip():
                capture.skip("blank")
            else:
                capture.pass_over(wrong_line(path, number, "LOCAL JSON, LOCAL of 16 digits (us) or 19 (ns)", line))
        elif payload.startswith(_REST):
            capture.skip("rest")
        else:
            yield 0, TEXT, ts, payload
