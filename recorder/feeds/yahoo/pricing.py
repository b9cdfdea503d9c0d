"""The streamer's protobuf message, PricingData: read by hand, as its fields are few and flat.

https://protobuf.dev/programming-guides/encoding/ ; fields as in yfinance's pricing.proto.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from recorder.values.errors import FrameError

VARINT_BYTES_MAX = 10
_FLOAT = struct.Struct("<f")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_WIDTHS = {FIXED64: 8, FIXED32: 4}

ID, PRICE, TIME, EXCHANGE, DAY_VOLUME, LAST_SIZE, BID, BID_SIZE, ASK, ASK_SIZE = 1, 2, 3, 5, 9, 22, 23, 24, 25, 26
_TEXTS = (ID, EXCHANGE)
_SIGNED = (TIME, DAY_VOLUME, LAST_SIZE, BID_SIZE, ASK_SIZE)  # ZigZag
_FLOATS = (PRICE, BID, ASK)


class Pricing(NamedTuple):
    """What is read of it; what is zero was not sent. ``time`` in ms."""

    id: str
    exchange: str
    time: int
    price: float
    day_volume: int
    last_size: int
    bid: float
    bid_size: int
    ask: float
    ask_size: int


def pricing(message: bytes) -> Pricing:
    """Raises FrameError for what is no such message. Fields that are not read are passed over."""
    texts: dict[int, str] = dict.fromkeys(_TEXTS, "")
    numbers: dict[int, int] = dict.fromkeys(_SIGNED, 0)
    floats: dict[int, float] = dict.fromkeys(_FLOATS, 0.0)
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(message, at)
            if field in _SIGNED:
                numbers[field] = (value >> 1) ^ -(value & 1)
        elif wire == BYTES:
            size, at = _varint(message, at)
            at = _past(message, at, size)
            if field in _TEXTS:
                texts[field] = _text(message[at - size : at])
        elif wire in _WIDTHS:
            width = _WIDTHS[wire]
            at = _past(message, at, width)
            if field in _FLOATS and wire == FIXED32:
                floats[field] = _FLOAT.unpack_from(message, at - width)[0]
        else:
            raise FrameError(f"wire type {wire} of field {field} is none of protobuf's")
    return Pricing(
        texts[ID], texts[EXCHANGE], numbers[TIME], floats[PRICE], numbers[DAY_VOLUME], numbers[LAST_SIZE],
        floats[BID], numbers[BID_SIZE], floats[ASK], numbers[ASK_SIZE],
    )  # fmt: skip


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(value, place past it)"""
    value = 0
    for i in range(VARINT_BYTES_MAX):
        if at + i >= len(message):
            break
        byte = message[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & (1 << 64) - 1, at + i + 1
    raise FrameError("protobuf cut short, or a number of more than ten bytes")


def _past(message: bytes, at: int, size: int) -> int:
    if at + size > len(message):
        raise FrameError(f"protobuf cut short: {size} bytes are said, {len(message) - at} are there")
    return at + size


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"a text that is not UTF-8: {error}") from None
