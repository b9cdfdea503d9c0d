"""A reader of Databento Binary Encoding, as far as trades and bars go.

https://databento.com/docs/standards-and-conventions/databento-binary-encoding
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

TRADE, BAR_1M = 0x00, 0x21  # rtype
PRICE_SCALE = 10**9  # prices are integers of 1e-9

_PREFIX = struct.Struct("<3sBI")  # "DBN", version, bytes of metadata
_HEADER = struct.Struct("<BBHIQ")  # length in words of 4 bytes, rtype, publisher, instrument, ts_event
_TRADE = struct.Struct("<qIccBBQiI")  # price, size, action, side, flags, depth, ts_recv, ts_in_delta, sequence
_BAR = struct.Struct("<qqqqQ")  # open, high, low, close, volume


class Trade(NamedTuple):
    instrument: int
    ts_event: int
    ts_recv: int
    price: int  # in 1e-9
    size: int
    side: str  # of the aggressor: A sells, B buys, N not known
    sequence: int


class Bar(NamedTuple):
    instrument: int
    ts_event: int  # its start
    prices: tuple[int, int, int, int]  # open, high, low, close in 1e-9
    volume: int


def records(path: Path) -> Iterator[Trade | Bar]:
    """Trades and one-minute bars of a ``.dbn.zst`` file, in its order. These files hold several zstd frames."""
    with path.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    mark, version, metadata = _PREFIX.unpack_from(data)
    assert mark == b"DBN", f"{path} is no DBN"
    assert version in (1, 2, 3)  # they differ in metadata and definitions, not in these records
    at = _PREFIX.size + metadata
    while at < len(data):
        words, kind, _, instrument, ts_event = _HEADER.unpack_from(data, at)
        body = at + _HEADER.size
        if kind == TRADE:
            price, size, action, side, _, _, ts_recv, _, sequence = _TRADE.unpack_from(data, body)
            assert action == b"T"
            yield Trade(instrument, ts_event, ts_recv, price, size, side.decode(), sequence)
        elif kind == BAR_1M:
            *prices, volume = _BAR.unpack_from(data, body)
            yield Bar(instrument, ts_event, tuple(prices), volume)  # type: ignore[arg-type]
        at += 4 * words
