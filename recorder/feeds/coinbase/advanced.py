"""Messages of Coinbase Advanced Trade and what becomes of them.

https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.templates import Message, Row, Templates
from recorder.core.text_time import rfc3339_ns
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND
from recorder.values.messages import (
    INF,
    LONG_MAX,
    NAN,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Id,
    Name,
    Reader,
    Unread,
    candle,
    element_reader,
    fields_of,
    fitting,
    misfit,
    quoted,
)  # fmt: skip
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import text_id
from recorder.values.tables import BACKFILLED, BUY, SELL, TRADES

BAR_TIMEFRAME = "5m"  # the only one of the candles channel
START_MAX = 1 << 33  # Unix seconds, year 2242: ten times this would not fit nanoseconds


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.50","size":"0.00150000","side":"BUY",
    "time":"2026-04-07T14:30:02.789012Z"}"""

    trade_id: Name  # numeric so far, documented as any text
    product_id: str
    price: float
    size: float
    side: Literal["BUY", "SELL"]  # of the maker
    time: str


class Quote(Struct, gc=False, forbid_unknown_fields=True):
    """{"type":"ticker","product_id":"BTC-USD","price":"68900.50","volume_24_h":"15328.12345678","low_24_h":"67500.00",
    "high_24_h":"69200.00","low_52_w":"25000.00","high_52_w":"73800.00","price_percent_chg_24_h":"1.85",
    "best_bid":"68900.00","best_bid_quantity":"1.50000000","best_ask":"68901.00","best_ask_quantity":"0.50000000"}"""

    product_id: str
    best_bid: float = 0.0
    best_ask: float = 0.0
    best_bid_quantity: float | None = None
    best_ask_quantity: float | None = None
    type: Unread = NO_TEXT
    price: Unread = NO_TEXT
    volume_24_h: Unread = NO_TEXT
    low_24_h: Unread = NO_TEXT
    high_24_h: Unread = NO_TEXT
    low_52_w: Unread = NO_TEXT
    high_52_w: Unread = NO_TEXT
    price_percent_chg_24_h: Unread = NO_TEXT


class Candle(Struct, gc=False, forbid_unknown_fields=True):
    """{"start":"1775521800","high":"68950.00","low":"68850.00","open":"68900.00","close":"68920.50",
    "volume":"42.15000000","product_id":"BTC-USD"}"""

    start: Id  # Unix seconds
    product_id: str
    open: float
    high: float
    low: float
    close: float
    volume: float


EventType = Literal["snapshot", "update"]


class TradesEvent(Struct, forbid_unknown_fields=True):
    trades: list[Trade]
    type: EventType = "update"

    def items(self) -> list[Trade]:
        return self.trades


class TickersEvent(Struct, forbid_unknown_fields=True):
    tickers: list[Quote]
    type: EventType = "update"

    def items(self) -> list[Quote]:
        return self.tickers


class CandlesEvent(Struct, forbid_unknown_fields=True):
    candles: list[Candle]
    type: EventType = "update"

    def items(self) -> list[Candle]:
        return self.candles


class Envelope(Struct, tag_field="channel", forbid_unknown_fields=True):
    """What every message of Advanced Trade is wrapped in; ``sequence_num`` counts the connection's messages.

    {"channel":"market_trades","client_id":"","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,"events":[…]}
    """

    sequence_num: Id
    timestamp: str = ""
    client_id: Unread = NO_TEXT


class MarketTrades(Envelope, tag="market_trades", forbid_unknown_fields=True, kw_only=True):
    events: list[TradesEvent]


class Tickers(Envelope, tag="ticker", forbid_unknown_fields=True, kw_only=True):
    events: list[TickersEvent]


class Candles(Envelope, tag="candles", forbid_unknown_fields=True, kw_only=True):
    events: list[CandlesEvent]


class Heartbeats(Envelope, tag="heartbeats", kw_only=True, forbid_unknown_fields=True):
    """Its current_time is no RFC 3339 and its counter now text, now number: only the envelope is read."""

    events: Unread = NO_TEXT


class Subscriptions(Envelope, tag="subscriptions", kw_only=True, forbid_unknown_fields=True):
    events: Unread = NO_TEXT


class L2Data(Envelope, tag="l2_data", kw_only=True, forbid_unknown_fields=True):
    """The book; known, not recorded."""

    events: Unread = NO_TEXT


ADVANCED = MarketTrades | Tickers | Candles | Heartbeats | Subscriptions | L2Data
CONTROL = {"type": frozenset({"error"})}


class RawEvent(Struct):
    """Any event, its elements unread."""

    type: EventType = "update"
    trades: msgspec.Raw = NO_TEXT
    tickers: msgspec.Raw = NO_TEXT
    candles: msgspec.Raw = NO_TEXT


class RawEnvelope(Struct):
    """Any message, its events unread."""

    sequence_num: Id
    events: msgspec.Raw
    timestamp: str = ""


# channel → its message, event and element, and the name of the array of elements
_PARTS: dict[str, tuple[Any, Any, Any, str]] = {
    "market_trades": (MarketTrades, TradesEvent, Trade, "trades"),
    "ticker": (Tickers, TickersEvent, Quote, "tickers"),
    "candles": (Candles, CandlesEvent, Candle, "candles"),
}


def mend(name: str, payload: bytes, refuse: Callable[[str, bytes], None]) -> Any:
    """The message with the events and elements that fit; every other goes to ``refuse(reason, its bytes)``."""
    if name not in _PARTS:
        raise FrameError(f"{name}: the envelope does not fit")
    whole, part, element, array = _PARTS[name]
    try:
        envelope = msgspec.json.decode(payload, type=RawEnvelope, strict=False)
    except UNREADABLE as error:
        raise FrameError(f"{name}: {error}") from None
    read_event = msgspec.json.Decoder(RawEvent, strict=False).decode
    read_item = element_reader(element)
    events = []
    for event in fitting(envelope.events, read_event, refuse):
        try:
            events.append(part(type=event.type, **{array: fitting(getattr(event, array), read_item, refuse)}))
        except FrameError as error:
            refuse(f"{name}: {array}: {error}", msgspec.json.encode(event))
    return whole(sequence_num=envelope.sequence_num, timestamp=envelope.timestamp, events=events)


TEMPLATES = Templates(
    (
        Message(
            '{"channel":"market_trades","client_id":"<text>","timestamp":"<text>","sequence_num":<counter>,'
            '"events":[{"type":"update","trades":[<rows>]}]}',
            Row(
                TRADES,
                '{"trade_id":"<trade_id>","product_id":"<series>","price":"<price>","size":"<size>",'
                '"side":"<side:BUY=sell,SELL=buy>",'  # of the maker; we store the aggressor's
                '"time":"<ts_event:rfc3339>"}',
            ),
            Row(
                TRADES,
                '{"product_id":"<series>","trade_id":"<trade_id>","price":"<price>","size":"<size>",'
                '"time":"<ts_event:rfc3339>","side":"<side:BUY=sell,SELL=buy>"}',
            ),
        ),
    )
)


def decoder(scope: Scope, canonical: Callable[[str], str]) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection; ``canonical`` maps a product id or raises FrameError."""
    reader = Reader(ADVANCED, "channel", scope.unknown, CONTROL)
    add_trade, add_quote, add_bar = scope.trades.append, scope.quotes.append, scope.bars.append
    timeframe = scope.text(BAR_TIMEFRAME)
    series_of: dict[str, int] = {}

    def series(product: str) -> int:
        number = series_of.get(product)
        if number is None:
            number = series_of[product] = scope.series(canonical(product))
            scope.teach("series", product, number)
        return number

    def trade(message: Trade, ts_recv: int, flags: int) -> None:
        ts_event, price, size = rfc3339_ns(message.time), message.price, message.size
        if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
        trade_id, reference = text_id(message.trade_id)
        add_trade(
            ts_event, ts_recv, series(message.product_id), TEXT_NULL, trade_id, scope.trades.varchar(reference),
            price, size,
            BUY if message.side == "SELL" else SELL,  # the provider names the resting side; we store the aggressor's
            TEXT_NULL, TEXT_NULL, flags,
        )  # fmt: skip

    def quote(message: Quote, ts_event: int, ts_recv: int, sequence: int, flags: int) -> None:
        bid, bid_size, ask, ask_size = quoted(
            "ticker", ts_event, ts_recv, message.best_bid, message.best_bid_quantity, message.best_ask,
            message.best_ask_quantity,
        )  # fmt: skip
        add_quote(
            ts_event, ts_recv, series(message.product_id), sequence, bid, bid_size, ask, ask_size,
            TEXT_NULL, TEXT_NULL, TEXT_NULL, flags,
        )  # fmt: skip

    def bar(message: Candle, ts_recv: int, flags: int) -> None:
        ts_event = min(message.start, START_MAX) * SECOND
        prices = message.open, message.high, message.low, message.close
        candle(ts_event, ts_recv, prices, message.volume)
        add_bar(
            ts_event, ts_recv, series(message.product_id), timeframe, *prices, message.volume, NAN, LONG_NULL, flags
        )

    def decode(payload: bytes, ts_recv: int) -> None:
        refused: list[tuple[str, bytes]] = []  # said once it is sure that the frame as a whole is not refused
        try:
            message = reader.read(payload)
        except UNREADABLE as error:
            message = reader.again(payload, error, lambda name: mend(name, payload, lambda *why: refused.append(why)))
        if message is None:  # of a channel that is not known, which counts all the same
            number = fields_of(payload).get("sequence_num")
            if type(number) is int and 0 <= number <= LONG_MAX:
                scope.sequence(number, ts_recv)
            return
        sequence, ts_event = message.sequence_num, ts_recv
        if isinstance(message, Tickers) and message.timestamp:
            ts_event = rfc3339_ns(message.timestamp)
        scope.sequence(sequence, ts_recv)
        for reason, excerpt in refused:
            scope.reject(reason, excerpt, ts_recv)
        if not isinstance(message, (MarketTrades, Tickers, Candles)):
            return
        for event in message.events:
            flags = BACKFILLED if event.type == "snapshot" else 0
            for item in event.items():
                try:
                    if isinstance(item, Trade):
                        trade(item, ts_recv, flags)
                    elif isinstance(item, Quote):
                        quote(item, ts_event, ts_recv, sequence, flags)
                    else:
                        bar(item, ts_recv, flags)
                except FrameError as error:
                    scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    return decode
