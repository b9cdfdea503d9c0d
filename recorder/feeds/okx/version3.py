"""Trades and tickers of OKX's version 3, as captured until 2022: raw deflate or plain text, tables instead of channels.

Public clients and recordings are the source: OKX has taken its documentation away.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.values.errors import FrameError
from recorder.values.messages import NO_TEXT, UNREADABLE, Id, Patient, Unread

TABLE = b'{"table":'
INFLATED_MAX = 1 << 24  # the largest books recorded have 100 kB
# Behind "spot/", "swap/" …: known, not recorded.
KNOWN = frozenset(
    {
        "depth", "depth5", "depth_l2_tbt", "depth400", "funding_rate", "mark_price", "price_range", "estimated_price",
        "summary", "instruments", "liquidation", "candle60s", "candle180s", "candle300s", "candle900s", "candle1800s",
        "candle3600s", "candle7200s", "candle14400s", "candle21600s", "candle43200s", "candle86400s", "candle604800s",
    }
)  # fmt: skip


class Table(Struct, forbid_unknown_fields=True):
    """{"table":"swap/trade","data":[…]}; books say with ``action`` whether it is all of one."""

    table: str
    data: msgspec.Raw
    action: Unread = NO_TEXT


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """{"side":"sell","trade_id":"3175831","price":"0.01529","size":"115.3","instrument_id":"RNT-USDT",
    "timestamp":"2021-04-17T16:49:46.075Z"}, of futures and options "qty" instead of "size" """

    instrument_id: str
    trade_id: Id
    price: float
    side: Literal["buy", "sell"]  # of the taker
    timestamp: str
    size: float | None = None  # contracts on derivatives
    qty: float | None = None


class Ticker(Struct, gc=False):
    """{"last":"3.3914","best_bid":"3.3924","best_ask":"3.3948","instrument_id":"KNC-USDT-SWAP",
    "timestamp":"2021-04-17T16:49:50.009Z","best_bid_size":"2","best_ask_size":"740", …}"""

    instrument_id: str
    timestamp: str
    best_bid: str | float = ""  # "" on a side without orders
    best_ask: str | float = ""
    best_bid_size: str | None = None  # both were not sent before 2020
    best_ask_size: str | None = None


def plain(payload: bytes) -> bytes:
    """The text of a frame that may be raw deflate. Raises FrameError for what is neither."""
    text = payload.strip()
    if text[:1] in b'{["p':  # an empty one, too
        return text
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        text = inflate.decompress(payload, INFLATED_MAX)
    except zlib.error as error:
        raise FrameError(f"neither JSON nor deflated: {error}") from None
    if not inflate.eof:
        raise FrameError(f"a deflated frame that is cut off or has more than {INFLATED_MAX} bytes")
    return text


def reader(
    unknown: Callable[[str], None], read: Callable[[msgspec.Raw, str, Any, int], list[Any]]
) -> Callable[[bytes, int], list[Any]]:
    """items(payload, ts_recv): the Trades and Tickers in a table.

    read  (raw array, name, type, ts_recv) → what fits of it
    """
    whole, types = Patient(Table, "table", unknown), {"trade": Trade, "ticker": Ticker}

    def items(payload: bytes, ts_recv: int) -> list[Any]:
        try:
            table = whole(payload)
        except UNREADABLE as error:
            raise FrameError(f"not a message: {error}") from None
        market, _, name = table.table.partition("/")
        if name in types and market != "index":
            return read(table.data, table.table, types[name], ts_recv)
        if name not in KNOWN and market != "index":
            unknown(f"message {table.table}")
        return []

    return items
