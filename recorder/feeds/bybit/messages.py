"""Messages of Bybit's public WebSocket, version 5, and what becomes of them; trades of versions 2 and 3 from captures.

https://bybit-exchange.github.io/docs/v5/websocket/public/trade , …/orderbook , …/ticker , …/kline
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from recorder.core.batch import Scope
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.bybit.options import OptionTicker, ticker_rows
from recorder.values.errors import FrameError, SymbolError
from recorder.values.messages import (
    INF,
    NAN,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Elements,
    Id,
    Name,
    Patient,
    Sent,
    Unread,
    candle,
    decimal,
    element_reader,
    fields_of,
    misfit,
    quoted,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import BybitMarket, bybit_canonical, bybit_name, text_id
from recorder.values.tables import BUY, NOT_LAST_ELIGIBLE, SELL

MILLISECOND = 1_000_000
TIMEFRAMES = {
    "1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "4h": "240", "6h": "360",
    "12h": "720", "1d": "D",
}  # fmt: skip
_NAMED = {interval: timeframe for timeframe, interval in TIMEFRAMES.items()}
DATA = b'{"topic":'
OPS = frozenset({"subscribe", "unsubscribe", "ping", "pong", "auth"})
# Not recorded: liquidations, price limits, insurance; order books, instruments and candles of versions 2 and 3.
KNOWN = frozenset(
    {
        "liquidation", "allLiquidation", "priceLimit", "insurance", "adlAlert", "orderBookL2_25", "orderBook_200",
        "instrument_info", "klineV2", "candle",
    }
)  # fmt: skip
_FLOATS, _LONGS = struct.Struct("<4d"), struct.Struct("<4q")
Best = tuple[float, float, float, float]  # bid, its size, ask, its size; 0 for a side that is not there


class Frame(Struct, forbid_unknown_fields=True):
    """What every message with data is wrapped in; the names with underscores are those of versions 2 and 3."""

    topic: str
    data: msgspec.Raw
    type: str = ""
    ts: Id = 0  # ms, of the system
    cts: Id | None = None  # ms, of the matching engine; order books since 2024
    cs: Id | None = None
    cross_seq: Unread = NO_TEXT
    timestamp_e6: Unread = NO_TEXT
    crossSeq: Unread = NO_TEXT
    timestampE6: Unread = NO_TEXT
    id: Unread = NO_TEXT  # of options


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """publicTrade. {"T":1672304486865,"s":"BTCUSDT","S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick",
    "i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,"seq":1783284617}"""

    T: Id  # ms, of the match
    s: str
    S: Literal["Buy", "Sell"]  # of the taker
    v: float  # coins; of inverse contracts dollars
    p: float
    i: Name  # a number on spot, a UUID elsewhere
    L: Unread = NO_TEXT
    BT: bool = False  # a block trade, agreed outside the order book
    RPI: bool = False  # retail price improvement
    seq: Unread = NO_TEXT  # of many trades at once
    mP: Unread = NO_TEXT  # of options: mark and index price, volatility of both
    iP: Unread = NO_TEXT
    mIv: Unread = NO_TEXT
    iv: Unread = NO_TEXT


class OldTrade(Struct, gc=False, forbid_unknown_fields=True):
    """trade of versions 2 and 3. {"symbol":"BCHUSDT","tick_direction":"MinusTick","price":"1053.90","size":0.14,
    "timestamp":"2021-04-17T16:43:05.000Z","trade_time_ms":"1618677785116","side":"Buy","trade_id":"01cacfe9-…"}"""

    symbol: str
    side: Literal["Buy", "Sell"]
    size: float
    price: float
    timestamp: str
    trade_id: Name = ""
    tradeId: Name = ""
    trade_time_ms: Id = 0
    tradeTimeMs: Id = 0
    tick_direction: Unread = NO_TEXT
    tickDirection: Unread = NO_TEXT
    cross_seq: Unread = NO_TEXT


class Level(Struct, array_like=True, gc=False):
    """["0.6131","17.9"]: price and size; in a delta size 0 says that the level is gone."""

    price: float
    size: float


class Book(Struct, gc=False, forbid_unknown_fields=True):
    """orderbook.1. {"s":"BANDUSDT","b":[["0.6131","17.9"]],"a":[["0.6134","35.4"]],"u":24042997,"seq":209972815373}

    A snapshot each time; sent again, with the same ``u``, after three quiet seconds. Deltas were recorded in 2023.
    ``u`` is one more with each; 1 after a restart of the service.
    """

    s: str
    b: list[Level]
    a: list[Level]
    u: Id
    seq: Unread = NO_TEXT


class Ticker(Struct, gc=False):
    """tickers of futures: a snapshot, then what has changed. {"symbol":"BTCUSD","bid1Price":"28560.00",
    "bid1Size":"340549","ask1Price":"28560.50","ask1Size":"70817", …}. On spot it has no best prices."""

    symbol: str
    bid1Price: Sent | None = None  # "" when nobody bids
    bid1Size: Sent | None = None
    ask1Price: Sent | None = None
    ask1Size: Sent | None = None


class Candle(Struct, gc=False):
    """kline.5.BTCUSDT. {"start":1672324800000,"end":1672325099999,"interval":"5","open":"16649.5","close":"16677",
    "high":"16677","low":"16608","volume":"2.081","turnover":"34666.4005","confirm":false,"timestamp":1672324988882}"""

    start: Id  # ms
    open: float
    high: float
    low: float
    close: float
    volume: float
    confirm: bool  # it is closed
    turnover: float = field(default=NAN)  # in the currency of the price; of inverse contracts in coins


def decoder(scope: Scope, market: BybitMarket) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection."""
    read, elements, rows = Patient(Frame, "frame", scope.unknown), Elements(scope), _Rows(scope, market)
    one: dict[str, Callable[[Any], Any]] = {
        "orderbook": Patient(Book, "orderbook", scope.unknown),
        "tickers": element_reader(OptionTicker if market == "option" else Ticker),
    }
    stores: dict[str, Callable[[Any, Frame, int], None]] = {
        "orderbook": rows.book, "tickers": rows.option if market == "option" else rows.ticker,
    }  # fmt: skip
    many: dict[str, tuple[Any, Callable[..., None]]] = {
        "publicTrade": (Trade, rows.trade), "trade": (OldTrade, rows.old_trade), "kline": (Candle, rows.bar),
    }  # fmt: skip

    def decode(payload: bytes, ts_recv: int) -> None:
        if not payload.startswith(DATA) and _answered(payload, scope):
            return
        try:
            frame = read(payload)
        except UNREADABLE as error:
            raise FrameError(f"not a message: {error}") from None
        kind, _, rest = frame.topic.partition(".")
        if kind == "orderbook" and not rest.startswith("1."):
            return  # deeper books are not recorded
        if kind in one:
            try:
                item = one[kind](frame.data)
            except UNREADABLE as error:
                raise FrameError(f"{kind}: {error}") from None
            stores[kind](item, frame, ts_recv)
        elif kind in many:
            type_, store = many[kind]
            for item in elements.read(frame.data, kind, type_, ts_recv):
                try:
                    store(item, rest, ts_recv)
                except FrameError as error:
                    scope.reject(str(error), msgspec.json.encode(item), ts_recv)
        elif kind not in KNOWN:
            scope.unknown(f"message {kind}")

    return decode


def _answered(payload: bytes, scope: Scope) -> bool:
    """Whether it is no data: an answer to a request, a pong."""
    message = fields_of(payload)
    op = message.get("op")
    if isinstance(op, str) and op not in OPS:
        scope.unknown(f"message op {op}")
    return "topic" not in message and (isinstance(op, str) or "success" in message)


class _Rows:
    """Messages → rows. Each raises FrameError for what cannot be."""

    def __init__(self, scope: Scope, market: BybitMarket) -> None:
        self._scope, self._market = scope, market
        self._add, self._add_option = add_trades(scope), ticker_rows(scope)
        self._follows = scope.counted("quotes")
        self._series: dict[str, int] = {}
        self._symbols: dict[str, str] = {}
        self._kept = scope.kept("best")  # "BTCUSDT 0" to "BTCUSDT 3": the bits of Best's floats
        self._best: dict[str, Best] = {}

    def _number(self, name: str) -> int:
        number = self._series.get(name)
        if number is None:
            number = self._series[name] = self._scope.series(self._symbol(name))
        return number

    def _symbol(self, name: str) -> str:
        symbol = self._symbols.get(name)
        if symbol is None:
            symbol = self._symbols[name] = canonical(name, self._market)
        return symbol

    def trade(self, item: Trade, rest: str, ts_recv: int) -> None:
        self._add(
            item.T * MILLISECOND, ts_recv, self._number(item.s), item.i, item.p, item.v, item.S, item.BT, item.RPI, 0
        )

    def old_trade(self, item: OldTrade, rest: str, ts_recv: int) -> None:
        ms = item.trade_time_ms or item.tradeTimeMs
        ts_event = ms * MILLISECOND if ms else rfc3339_ns(item.timestamp)
        name = item.trade_id or item.tradeId
        self._add(ts_event, ts_recv, self._number(item.symbol), name, item.price, item.size, item.side, False, False, 0)

    def book(self, item: Book, frame: Frame, ts_recv: int) -> None:
        bid: tuple[float, float] = (0.0, 0.0)
        ask = bid
        if frame.type == "delta":
            best = self._known(item.s)
            if best is None:
                raise FrameError(f"orderbook: a change of {item.s[:60]!r} before its snapshot")
            bid, ask = best[:2], best[2:]
        elif frame.type != "snapshot":
            raise FrameError(f"orderbook: type is {frame.type[:20]!r}")
        bid, ask = _changed(bid, item.b), _changed(ask, item.a)
        ts_event = (frame.ts if frame.cts is None else frame.cts) * MILLISECOND
        known = ts_event if TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX else ts_recv
        flags = self._follows(self._symbol(item.s), item.u, known, ts_recv)
        self._quote(item.s, ts_event, ts_recv, item.u, (*bid, *ask), flags)
        self._keep(item.s, (*bid, *ask))

    def ticker(self, item: Ticker, frame: Frame, ts_recv: int) -> None:
        sent = (item.bid1Price, item.bid1Size, item.ask1Price, item.ask1Size)
        if all(value is None for value in sent):
            return
        kept = f"{item.symbol} ticker"
        before = (0.0,) * 4 if frame.type == "snapshot" else self._known(kept)
        if before is None:
            raise FrameError(f"tickers: a change of {item.symbol[:60]!r} before its snapshot")
        now = [old if text is None else decimal(text, "tickers") for text, old in zip(sent, before, strict=True)]
        best = (now[0], now[1], now[2], now[3])
        number = LONG_NULL if frame.cs is None else frame.cs
        self._quote(item.symbol, frame.ts * MILLISECOND, ts_recv, number, best)
        self._keep(kept, best)

    def option(self, item: OptionTicker, frame: Frame, ts_recv: int) -> None:
        self._add_option(item, frame.ts * MILLISECOND, ts_recv)

    def _quote(self, name: str, ts_event: int, ts_recv: int, sequence: int, best: Best, flags: int = 0) -> None:
        values = quoted("quote", ts_event, ts_recv, *best)
        self._scope.quotes.append(
            ts_event, ts_recv, self._number(name), sequence, *values, TEXT_NULL, TEXT_NULL, TEXT_NULL, flags
        )

    def _known(self, name: str) -> Best | None:
        best = self._best.get(name)
        if best is None and f"{name} 0" in self._kept:
            bid, bid_size, ask, ask_size = _FLOATS.unpack(_LONGS.pack(*(self._kept[f"{name} {i}"] for i in range(4))))
            best = (bid, bid_size, ask, ask_size)
        return best

    def _keep(self, name: str, best: Best) -> None:
        self._best[name] = best
        for i, bits in enumerate(_LONGS.unpack(_FLOATS.pack(*best))):
            self._kept[f"{name} {i}"] = bits

    def bar(self, item: Candle, rest: str, ts_recv: int) -> None:
        interval, _, name = rest.partition(".")
        if not item.confirm:
            return
        if interval not in _NAMED:
            self._scope.unknown(f"kline {interval}")
            return
        ts_event, prices = item.start * MILLISECOND, (item.open, item.high, item.low, item.close)
        candle(ts_event, ts_recv, prices, item.volume)
        self._scope.bars.append(
            ts_event, ts_recv, self._number(name), self._scope.text(_NAMED[interval]), *prices, item.volume, NAN,
            LONG_NULL, 0,
        )  # fmt: skip


def add_trades(scope: Scope) -> Callable[[int, int, int, Name, float, float, str, bool, bool, int], None]:
    """add(ts_event, ts_recv, series, id, price, size, side, block, rpi, flags): one row. Raises FrameError."""
    trades, text = scope.trades, scope.text

    def add(
        ts_event: int, ts_recv: int, series: int, name: Name, price: float, size: float, side: str, block: bool,
        rpi: bool, flags: int,
    ) -> None:  # fmt: skip
        if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
        if name == "":
            raise FrameError("trade without an id")
        number, ref = text_id(name)
        conditions = ",".join(word for word, said in (("block", block), ("rpi", rpi)) if said)
        if block:  # at a price agreed between two parties
            flags |= NOT_LAST_ELIGIBLE
        trades.append(
            ts_event, ts_recv, series, TEXT_NULL, number, trades.varchar(ref), price, size,
            BUY if side == "Buy" else SELL, text(conditions or None), TEXT_NULL, flags,
        )  # fmt: skip

    return add


def canonical(name: str, market: BybitMarket) -> str:
    """Bybit's own name → canonical symbol. Raises FrameError for what is no name."""
    try:
        plain = bybit_name(name, market) == name
    except SymbolError:
        plain = False
    if not plain:
        raise FrameError(f"{name[:60]!r} is no instrument of Bybit")
    return bybit_canonical(name, market)


def _changed(side: tuple[float, float], levels: list[Level]) -> tuple[float, float]:
    """The best level after these changes of a book of one level."""
    for level in levels:
        if level.size == 0.0 and level.price == side[0]:
            side = (0.0, 0.0)
    for level in levels:
        if level.size != 0.0:
            side = (level.price, level.size)
    return side
