"""Trades as exchanges send them, rendered faster than anything reads them: what benches send and feed.

Every frame is different: trade ids are contiguous per symbol, prices and sizes vary, times are fresh. All fields have a
fixed width, so that a frame is a template with digits filled in by compiled code (20 to 30 ns a trade).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from recorder.values.feed import FeedSpec

FIRST_ID = 1_000_000_000
DAY_NS = 86_400 * 10**9
_ID, _PRICE, _SIZE, _MS, _RFC = range(5)
_MARKS = {"id": (_ID, 10), "price": (_PRICE, 8), "size": (_SIZE, 5), "ms": (_MS, 13), "rfc": (_RFC, 27)}
_MARK = re.compile(r"<(\w+)>")


@dataclass(frozen=True)
class Venue:
    """A stream of trades: templates, and the feed that records it. All ``names`` have the same length."""

    spec: FeedSpec
    names: tuple[str, ...]  # the provider's own, in the order of spec.symbols
    trades: int  # in one frame
    head: str
    item: str
    tail: str


_BASES = ("BTC", "ETH", "SOL", "XRP", "BNB", "ADA", "LTC", "DOT")
_BINANCE = tuple(f"{base}USDT" for base in _BASES)
_BINANCE_SYMBOLS = tuple(f"{base}-USDT" for base in _BASES)
_USD = tuple(f"{base}-USD" for base in _BASES)

VENUES = {
    # what cryptofeed records of Binance, so that both record the same frames
    "binance_agg": Venue(
        FeedSpec(
            name="bench", provider="binance", channels=("trades",), symbols=_BINANCE_SYMBOLS, options={"trades": "agg"}
        ),
        _BINANCE, 1,
        '{"stream":"<lower>@aggTrade","data":{"e":"aggTrade","E":<ms>,"s":"<name>","a":<id>,"p":"<price>","q":"<size>",'
        '"f":<id>,"l":<id>,"T":<ms>,"m":true,"M":true}}',
        "", "",
    ),
    "binance_trade": Venue(
        FeedSpec(name="bench", provider="binance", channels=("trades",), symbols=_BINANCE_SYMBOLS),
        _BINANCE, 1,
        '{"stream":"<lower>@trade","data":{"e":"trade","E":<ms>,"s":"<name>","t":<id>,"p":"<price>","q":"<size>",'
        '"T":<ms>,"m":true,"M":true}}',
        "", "",
    ),
    "coinbase_match": Venue(
        FeedSpec(name="bench", provider="coinbase", channels=("trades",), symbols=_USD),
        _USD, 1,
        '{"type":"match","trade_id":<id>,"maker_order_id":"5d1f0a6c-2b34-4c0e-9d57-00<id>","taker_order_id":'
        '"7e2a1b7d-3c45-4d1f-8e68-00<id>","side":"buy","size":"<size>","price":"<price>","product_id":"<name>",'
        '"sequence":5<id>,"time":"<rfc>"}',
        "", "",
    ),
    "kraken": Venue(
        FeedSpec(name="bench", provider="kraken", channels=("trades",), symbols=_USD),
        tuple(f"{base}/USD" for base in _BASES), 20,
        '{"channel":"trade","type":"update","data":[',
        '{"symbol":"<name>","side":"sell","price":<price>,"qty":<size>,"ord_type":"market","trade_id":<id>,'
        '"timestamp":"<rfc>"}',
        "]}",
    ),
}  # fmt: skip


def frame_header(length: int) -> bytes:
    """WebSocket header of an unmasked, unfragmented text frame."""
    assert 0 < length < 1 << 16
    return bytes([0x81, length]) if length < 126 else bytes([0x81, 126]) + length.to_bytes(2, "big")


class Traffic:
    """Renders frames of a venue. ``header_bytes`` of a frame of ``frame_bytes`` are its WebSocket header."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        texts = [self._fill(name, venue)[0] for name in venue.names]
        self._fields = self._fill(venue.names[0], venue)[1]
        header = frame_header(len(texts[0]))
        self.header_bytes, self.frame_bytes = len(header), len(header) + len(texts[0])
        self._fields[:, 0] += self.header_bytes
        assert len({len(text) for text in texts}) == 1, "names must have the same length"
        self._templates = np.stack([np.frombuffer(header + text.encode(), np.uint8) for text in texts])

    @staticmethod
    def _fill(name: str, venue: Venue) -> tuple[str, np.ndarray]:
        """(the frame with zeros where values go, their places as rows of offset, kind, item)"""
        text, fields = "", []
        items = [venue.head] if not venue.item else [venue.head, *[venue.item] * venue.trades, venue.tail]
        for number, part in enumerate(items):
            item = max(0, number - 1)
            if number > 1 and number < len(items) - 1:
                text += ","
            at = 0
            for mark in _MARK.finditer(part):
                text += part[at : mark.start()]
                at = mark.end()
                if mark[1] in _MARKS:
                    kind, width = _MARKS[mark[1]]
                    fields.append((len(text), kind, item))
                    text += "0" * width
                else:
                    text += name.lower() if mark[1] == "lower" else name
            text += part[at:]
        return text, np.array(fields, np.int64)

    def render(self, first: int, count: int, ts: int, gap_ns: int = 1000) -> np.ndarray:
        """Frames ``first`` to ``first + count - 1`` of the stream, (count, frame_bytes) uint8; the first at ``ts``."""
        out = np.empty((count, self.frame_bytes), np.uint8)
        date = np.frombuffer(time.strftime("%Y-%m-%dT", time.gmtime(ts // 10**9)).encode(), np.uint8)
        _render(out, self._templates, self._fields, date, first, self.venue.trades, ts, gap_ns)
        return out

    def payloads(self, first: int, count: int, ts: int) -> list[bytes]:
        """The same frames without their headers."""
        return [row.tobytes() for row in self.render(first, count, ts)[:, self.header_bytes :]]

    def sizes(self, frames: int) -> float:
        """Sum of the sizes of frames 0 to ``frames - 1``, exactly."""
        symbols, per = len(self.venue.names), self.venue.trades
        rounds = np.array([frames // symbols + (s < frames % symbols) for s in range(symbols)])
        return float(sum(_sizes(int(n) * per) for n in rounds))

    def chunks(self, first: int, frames: int, chunk_frames: int) -> Iterator[tuple[int, int]]:
        for at in range(first, first + frames, chunk_frames):
            yield at, min(chunk_frames, first + frames - at)


def _sizes(ids: int) -> float:
    quarters = (np.arange(ids, dtype=np.int64) + FIRST_ID) % 97
    return 10.0 * ids + float(quarters.sum()) / 4


@njit(cache=True, nogil=True)
def _digits(out, row, at, width, value):
    for k in range(width - 1, -1, -1):
        out[row, at + k] = np.uint8(48 + value % 10)
        value //= 10


@njit(cache=True, nogil=True)
def _render(out, templates, fields, date, first, per_frame, ts, gap_ns):
    """Fill ``out`` with frames; ``date`` is that of ``ts``, a day that ends meanwhile stays at its last second."""
    midnight = ts - ts % DAY_NS
    for row in range(out.shape[0]):
        frame = first + row
        symbol = frame % templates.shape[0]
        base = FIRST_ID + frame // templates.shape[0] * per_frame
        now = ts + row * gap_ns
        for k in range(out.shape[1]):
            out[row, k] = templates[symbol, k]
        for f in range(fields.shape[0]):
            at, kind, number = fields[f, 0], fields[f, 1], base + fields[f, 2]
            if kind == _ID:
                _digits(out, row, at, 10, number)
            elif kind == _PRICE:
                cents = 6_000_000 + number * 7 % 997
                _digits(out, row, at, 5, cents // 100)
                out[row, at + 5] = 46
                _digits(out, row, at + 6, 2, cents % 100)
            elif kind == _SIZE:
                quarters = number % 97
                _digits(out, row, at, 2, 10 + quarters // 4)
                out[row, at + 2] = 46
                _digits(out, row, at + 3, 2, quarters % 4 * 25)
            elif kind == _MS:
                _digits(out, row, at, 13, now // 1_000_000)
            else:
                of_day = min(now - midnight, DAY_NS - 1)
                for k in range(date.size):
                    out[row, at + k] = date[k]
                seconds = of_day // 1_000_000_000
                _digits(out, row, at + 11, 2, seconds // 3600)
                out[row, at + 13] = 58
                _digits(out, row, at + 14, 2, seconds // 60 % 60)
                out[row, at + 16] = 58
                _digits(out, row, at + 17, 2, seconds % 60)
                out[row, at + 19] = 46
                _digits(out, row, at + 20, 6, of_day // 1000 % 1_000_000)
                out[row, at + 26] = 90
