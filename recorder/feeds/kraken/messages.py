"""Messages of Kraken's public WebSocket, version 2, trades and best prices of version 1, and what becomes of them.

https://docs.kraken.com/api/docs/websocket-v2/trade , …/ticker , …/ohlc
https://docs.kraken.com/api/docs/websocket-v1/trade , …/spread , …/ticker
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.templates import Message, Row, Templates
from recorder.core.text_time import rfc3339_ns, unix_ns
from recorder.values.errors import FrameError
from recorder.values.messages import (
    INF,
    NAN,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Id,
    Reader,
    Unread,
    element_reader,
    fitting,
    misfit,
    quoted,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import canonical_pair, hashed_id
from recorder.values.tables import BACKFILLED, BUY, QUOTES, SELL, TRADES

TIMEFRAMES = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440, "1w": 10_080, "15d": 21_600}
PAIR_CHARS_MAX = 40  # the longest names of assets have ten letters

PAIR = re.compile(r"[A-Za-z0-9.]+[/-][A-Za-z0-9.]+")
V1_KNOWN = ("ohlc", "book")  # arrays of version 1 that are not recorded, with a depth or interval
CONTROL = {
    "method": frozenset({"subscribe", "unsubscribe", "ping", "pong"}),
    "event": frozenset({"heartbeat", "systemStatus", "subscriptionStatus", "pong", "error"}),
    "error": None,
    "Error": None,
}
LISTED = msgspec.json.Decoder(list[Any])


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,"ord_type":"market","trade_id":4665906,
    "timestamp":"2023-09-25T07:49:37.708706Z"}"""

    symbol: str
    side: Literal["buy", "sell"]  # of the taker
    price: float
    qty: float
    trade_id: Id
    timestamp: str
    ord_type: Unread = NO_TEXT


class Ticker(Struct, gc=False, forbid_unknown_fields=True):
    """{"symbol":"BTC/USD","bid":105944.20,"bid_qty":2.5,"ask":105944.30,"ask_qty":3.2,"last":105899.40,
    "volume":163.28908096,"vwap":105904.39279,"low":104711.00,"high":106613.10,"change":250.00,"change_pct":0.24,
    "timestamp":"2022-12-25T09:30:59.123456Z"}"""

    symbol: str
    bid: float
    bid_qty: float
    ask: float
    ask_qty: float
    timestamp: str | None = None  # not sent before 2025
    last: Unread = NO_TEXT
    volume: Unread = NO_TEXT
    vwap: Unread = NO_TEXT
    low: Unread = NO_TEXT
    high: Unread = NO_TEXT
    change: Unread = NO_TEXT
    change_pct: Unread = NO_TEXT


class Bar(Struct, gc=False, forbid_unknown_fields=True):
    """{"symbol":"BTC/USD","interval":1,"interval_begin":"2023-10-04T16:25:00.000000000Z","open":106038.2,
    "high":106044.3,"low":106038.1,"close":106040.1,"volume":30927.68066226,"vwap":106039.6,"trades":12}"""

    symbol: str
    interval: Id  # minutes
    interval_begin: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float = 0.0
    trades: Id = 0
    timestamp: Unread = NO_TEXT


class Spread1(Struct, array_like=True, gc=False):
    """Version 1's best bid and offer after a change of either."""

    bid: float
    ask: float
    time: str  # Unix seconds in decimals
    bid_size: float | None = None  # both were not sent at first
    ask_size: float | None = None


class Level1(Struct, array_like=True, gc=False):
    price: float
    whole_lots: int  # what follows, cut off
    lots: float


class Ticker1(Struct, gc=False):
    """Version 1's ticker, which has no time."""

    a: Level1
    b: Level1


Kind = Literal["snapshot", "update"]


class Trades(Struct, tag_field="channel", tag="trade", forbid_unknown_fields=True):
    data: list[Trade]
    type: Kind = "update"


class Tickers(Struct, tag_field="channel", tag="ticker", forbid_unknown_fields=True):
    data: list[Ticker]
    type: Kind = "update"


class Bars(Struct, tag_field="channel", tag="ohlc", forbid_unknown_fields=True):
    data: list[Bar]
    type: Kind = "update"
    timestamp: Unread = NO_TEXT


class Heartbeat(Struct, tag_field="channel", tag="heartbeat"):
    """{"channel":"heartbeat"}"""


class Status(Struct, tag_field="channel", tag="status"):
    """See ``on_control``."""


class Book(Struct, tag_field="channel", tag="book"):
    """Known, not recorded."""


class Level3(Struct, tag_field="channel", tag="level3"):
    """Known, not recorded."""


class Instrument(Struct, tag_field="channel", tag="instrument"):
    """Known, not recorded."""


class _Raw(Struct):
    data: msgspec.Raw
    type: Kind = "update"


MESSAGE = Trades | Tickers | Bars | Heartbeat | Status | Book | Level3 | Instrument
_PARTS: dict[str, tuple[Any, Any]] = {"trade": (Trades, Trade), "ticker": (Tickers, Ticker), "ohlc": (Bars, Bar)}


_LEVELS = '"symbol":"<series>","bid":<bid>,"bid_qty":<bid_size>,"ask":<ask>,"ask_qty":<ask_size>'
_DAY = (
    '"last":<number>,"volume":<number>,"vwap":<number>,"low":<number>,"high":<number>,"change":<number>,'
    '"change_pct":<number>'
)
TEMPLATES = Templates(
    (
        Message(
            '{"channel":"trade","type":"update","data":[<rows>]}',
            Row(
                TRADES,
                '{"symbol":"<series>","side":"<side:buy=buy,sell=sell>","price":<price>,"qty":<size>,'
                '"ord_type":"<text>","trade_id":<trade_id>,"timestamp":"<ts_event:rfc3339>"}',
            ),
        ),
        Message(
            '{"channel":"ticker","type":"update","data":[<rows>]}',
            Row(QUOTES, f'{{{_LEVELS},{_DAY},"timestamp":"<ts_event:rfc3339>"}}'),
            Row(QUOTES, f"{{{_LEVELS},{_DAY}}}"),  # before 2025
        ),
    )
)


def canonical(pair: str) -> str:
    """``BTC/USD`` or version 1's ``XBT/USD`` → ``BTC-USD``. Raises FrameError for what is no pair."""
    if len(pair) > PAIR_CHARS_MAX or not PAIR.fullmatch(pair):
        raise FrameError(f"{pair[:PAIR_CHARS_MAX]!r} is no pair of Kraken")
    return canonical_pair(pair)


def decoder(scope: Scope) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection."""
    reader = Reader(MESSAGE, "channel", scope.unknown, CONTROL)
    add_trade, add_quote, add_bar = scope.trades.append, scope.quotes.append, scope.bars.append
    timeframes = {minutes: scope.text(name) for name, minutes in TIMEFRAMES.items()}
    series_of: dict[str, int] = {}

    def series(pair: str) -> int:
        number = series_of.get(pair)
        if number is None:
            number = series_of[pair] = scope.series(canonical(pair))
            scope.teach("series", pair, number)
        return number

    def trades(message: Trades, ts_recv: int, flags: int) -> None:
        latest = ts_recv + TS_AHEAD_MAX
        for item in message.data:
            price, size = item.price, item.qty
            try:
                ts_event = rfc3339_ns(item.timestamp)
                if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= latest):
                    raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
                number = series_of.get(item.symbol)
                add_trade(
                    ts_event, ts_recv, series(item.symbol) if number is None else number, TEXT_NULL, item.trade_id,
                    TEXT_NULL, price, size, BUY if item.side == "buy" else SELL, TEXT_NULL, TEXT_NULL, flags,
                )  # fmt: skip
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    def quote(item: Ticker, ts_recv: int, flags: int) -> None:
        ts_event = ts_recv if item.timestamp is None else rfc3339_ns(item.timestamp)
        if not (ts_event or item.bid or item.ask):
            return  # 1970 and no side: the answer to subscribing to a tokenised share that is not quoted now
        bid, bid_size, ask, ask_size = quoted(
            "ticker", ts_event, ts_recv, item.bid, item.bid_qty, item.ask, item.ask_qty
        )
        add_quote(
            ts_event, ts_recv, series(item.symbol), LONG_NULL, bid, bid_size, ask, ask_size,
            TEXT_NULL, TEXT_NULL, TEXT_NULL, flags,
        )  # fmt: skip

    def bar(item: Bar, ts_recv: int, flags: int) -> None:
        ts_event = rfc3339_ns(item.interval_begin)
        prices = item.open, item.high, item.low, item.close
        fits = all(0.0 < price < INF for price in prices) and 0.0 <= item.volume < INF and 0.0 <= item.vwap < INF
        if not (fits and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            named = dict(zip(("open", "high", "low", "close"), prices, strict=True))
            raise FrameError(misfit("ohlc", ts_event, ts_recv, **named, volume=item.volume, vwap=item.vwap))
        timeframe = timeframes.get(item.interval)
        if timeframe is None:
            raise FrameError(f"ohlc: interval {item.interval} minutes is none that Kraken documents")
        # No update says that a bar is closed: each one replaces the last, and the last before the next bar stays.
        add_bar(
            ts_event,
            ts_recv,
            series(item.symbol),
            timeframe,
            *prices,
            item.volume,
            item.vwap or NAN,
            item.trades,
            flags,
        )

    def version1(payload: bytes, ts_recv: int) -> None:
        """``[993,[["354.11","0.895","1618678142.557535","s","l",""]],"trade","XMR/USD"]``: no ids, so made from it."""
        try:
            whole = LISTED.decode(payload)
        except UNREADABLE as error:
            raise FrameError(f"not a message: {error}") from None
        name, pair = whole[-2:] if len(whole) >= 4 else (None, None)
        if not isinstance(name, str) or not isinstance(pair, str):
            raise FrameError("an array that is no message of version 1: no channel and pair at its end")
        if name in ("ticker", "spread"):
            quote1(name, whole[1], pair, ts_recv)
            return
        if name != "trade":
            if name.partition("-")[0] not in V1_KNOWN:
                scope.unknown(f"message {name}")
            return
        if not isinstance(whole[1], list):
            raise FrameError("trade: an array of trades is expected")
        number = series(pair)
        equal: Counter[tuple[str, ...]] = Counter()
        for item in whole[1]:
            try:
                ts_event, price, size, side = _trade1(item, ts_recv)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)
                continue
            key = (pair, *item[:4])
            trade_id = hashed_id("|".join((*key, str(equal[key]))))
            equal[key] += 1
            add_trade(
                ts_event, ts_recv, number, TEXT_NULL, trade_id, TEXT_NULL, price, size, side, TEXT_NULL, TEXT_NULL, 0
            )

    def quote1(name: str, item: Any, pair: str, ts_recv: int) -> None:
        """``[325,["43770.2","43770.3","1633053779.916349","0.009","0.317"],"spread","XBT/USD"]``, and tickers:
        ``[1668,{"a":["13.2539",35,"35.7289"],"b":["13.2329",185,"185.1843"], …},"ticker","WAVES/EUR"]``"""
        try:
            if name == "spread":
                best = msgspec.convert(item, Spread1, strict=False)
                ts_event, values = unix_ns(best.time), (best.bid, best.bid_size, best.ask, best.ask_size)
            else:
                ticker = msgspec.convert(item, Ticker1, strict=False)
                ts_event, values = ts_recv, (ticker.b.price, ticker.b.lots, ticker.a.price, ticker.a.lots)
        except msgspec.ValidationError as error:
            raise FrameError(f"{name}: {error}") from None
        if not (ts_event or values[0] or values[2]):
            return  # 1970 and no side: nothing was ever quoted
        add_quote(
            ts_event, ts_recv, series(pair), LONG_NULL, *quoted(name, ts_event, ts_recv, *values), TEXT_NULL, TEXT_NULL,
            TEXT_NULL, 0,
        )  # fmt: skip

    def decode(payload: bytes, ts_recv: int) -> None:
        try:
            message = reader.read(payload)
        except UNREADABLE as error:
            if payload[:1] == b"[":
                version1(payload, ts_recv)
                return
            message = reader.again(
                payload, error, lambda name: mend(name, payload, lambda why, part: scope.reject(why, part, ts_recv))
            )
        if isinstance(message, Trades):
            trades(message, ts_recv, BACKFILLED if message.type == "snapshot" else 0)
        elif isinstance(message, (Tickers, Bars)):
            flags = BACKFILLED if message.type == "snapshot" else 0
            add: Callable[[Any, int, int], None] = quote if isinstance(message, Tickers) else bar
            for item in message.data:
                try:
                    add(item, ts_recv, flags)
                except FrameError as error:
                    scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    return decode


def mend(name: str, payload: bytes, refuse: Callable[[str, bytes], None]) -> Any:
    """The message with the elements that fit; every other goes to ``refuse(reason, its bytes)``."""
    if name not in _PARTS:
        raise FrameError(f"{name}: the message does not fit")
    whole, element = _PARTS[name]
    try:
        raw = msgspec.json.decode(payload, type=_Raw, strict=False)
    except UNREADABLE as error:
        raise FrameError(f"{name}: {error}") from None
    read = element_reader(element)
    return whole(type=raw.type, data=fitting(raw.data, read, refuse))


def _trade1(item: Any, ts_recv: int) -> tuple[int, float, float, int]:
    """(ts_event, price, size, side) of ``[price, volume, time, side, orderType, misc]``, all text."""
    if not isinstance(item, list) or len(item) < 4 or not all(isinstance(part, str) for part in item[:4]):
        raise FrameError("trade: price, volume, time and side are expected as texts")
    try:
        price, size = (msgspec.convert(text, float, strict=False) for text in item[:2])
    except msgspec.ValidationError as error:
        raise FrameError(f"trade: {error}") from None
    ts_event = unix_ns(item[2])
    if item[3] not in ("b", "s"):
        raise FrameError(f"trade: side is {item[3][:20]!r}, neither b nor s")
    if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
        raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
    return ts_event, price, size, BUY if item[3] == "b" else SELL
