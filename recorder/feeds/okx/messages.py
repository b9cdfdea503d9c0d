"""Messages of OKX's public WebSocket, version 5, and what becomes of them; and of what captures hold of version 3.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-all-trades-channel , …-ws-trades-channel ,
…-ws-order-book-channel , …-ws-tickers-channel , …-ws-candlesticks-channel
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.templates import Message, Row, Templates
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.okx import options, version3
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
    Patient,
    Sent,
    Unread,
    candle,
    decimal,
    fields_of,
    misfit,
    quoted,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import okx_canonical, okx_name
from recorder.values.tables import BUY, GAP_SEQUENCE, QUOTES, SELL, TRADES

MILLISECOND = 1_000_000
# Days as OKX writes them begin at midnight in Hong Kong; those with "utc" do not.
TIMEFRAMES = {
    "1m": "candle1m", "3m": "candle3m", "5m": "candle5m", "15m": "candle15m", "30m": "candle30m", "1h": "candle1H",
    "2h": "candle2H", "4h": "candle4H", "1d": "candle1Dutc",
}  # fmt: skip
PONG, DATA = b"pong", b'{"arg":'
EVENTS = frozenset(
    {"subscribe", "unsubscribe", "error", "notice", "login", "channel-conn-count", "channel-conn-count-error"}
)
KNOWN = frozenset(  # not recorded
    {
        "books", "books5", "books-l2-tbt", "books50-l2-tbt", "funding-rate", "index-tickers", "instruments",
        "mark-price", "open-interest", "price-limit", "estimated-price",
    }
)  # fmt: skip


class Arg(Struct, gc=False, forbid_unknown_fields=True):
    """{"channel":"trades","instId":"BTC-USDT"}; some channels are asked for by family or type."""

    channel: str
    instId: str = ""
    instType: Unread = NO_TEXT
    instFamily: Unread = NO_TEXT


class Frame(Struct, forbid_unknown_fields=True):
    """What every message with data is wrapped in. Books say with ``action`` whether it is a snapshot or an update."""

    arg: Arg
    data: msgspec.Raw
    action: Unread = NO_TEXT


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """trades: all fills of one taker's order at one price, ``count`` of them, ``tradeId`` being the last one's.
    trades-all: one fill, without count.

    {"instId":"BTC-USDT","tradeId":"130639474","px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897",
    "count":"3","source":"0","seqId":1234}
    """

    instId: str
    tradeId: Id
    px: float
    sz: float  # contracts on derivatives
    side: Literal["buy", "sell"]  # of the taker
    ts: Id  # ms
    count: Id = 1
    source: Unread = NO_TEXT  # 1: an order of the enhanced liquidity program
    seqId: Unread = NO_TEXT  # may repeat


class Level(Struct, array_like=True, gc=False):
    """["8476.98","415","0","13"]: price, size, a field that is always 0, number of orders."""

    px: float
    sz: float


class Best(Struct, gc=False, forbid_unknown_fields=True):
    """bbo-tbt. {"asks":[["8476.98","415","0","13"]],"bids":[["8476.97","256","0","12"]],"ts":"1597026383085",
    "seqId":123456}"""

    asks: list[Level]
    bids: list[Level]
    ts: Id  # ms
    seqId: Id | None = None  # not sent before 2023
    prevSeqId: Unread = NO_TEXT  # of books; whether it comes here is unverified
    checksum: Unread = NO_TEXT  # always 0 since 2026: not checked


class Ticker(Struct, gc=False, forbid_unknown_fields=True):
    """{"instType":"SPOT","instId":"BTC-USDT","last":"30236","lastSz":"0.0002","askPx":"30228.7","askSz":"1.55896972",
    "bidPx":"30228.6","bidSz":"0.23393","open24h":"29700.4","high24h":"31073","low24h":"28020.3","sodUtc0":"29028.8",
    "sodUtc8":"30337.7","volCcy24h":"525802090.62716611","vol24h":"17602.13085371","ts":"1652459224956"}"""

    instId: str
    askPx: Sent  # "" on a side without orders
    askSz: Sent
    bidPx: Sent
    bidSz: Sent
    ts: Id  # ms
    instType: Unread = NO_TEXT
    last: Unread = NO_TEXT
    lastSz: Unread = NO_TEXT
    open24h: Unread = NO_TEXT
    high24h: Unread = NO_TEXT
    low24h: Unread = NO_TEXT
    sodUtc0: Unread = NO_TEXT
    sodUtc8: Unread = NO_TEXT
    volCcy24h: Unread = NO_TEXT
    vol24h: Unread = NO_TEXT


class Candle(Struct, array_like=True, gc=False):
    """["1597026383085","8533.02","8553.74","8527.17","8548.26","45247","529.5858061","5529.5858061","1"]"""

    ts: Id  # ms, its start
    o: float
    h: float
    low: float
    c: float
    vol: float  # in the unit of ``sz``
    volCcy: Unread
    volCcyQuote: Unread
    confirm: Literal["0", "1", 0, 1]  # 1: it is closed


_SINGLE = '{"instId":"<series>","tradeId":"<trade_id>","px":"<price>","sz":"<size>","side":"<side:buy=buy,sell=sell>",'
TEMPLATES = Templates(
    (
        Message(
            '{"arg":{"channel":"trades-all","instId":"<text>"},"data":[<row>]}',
            Row(TRADES, _SINGLE + '"ts":"<ts_event:ms>"}'),  # as captured
            Row(TRADES, _SINGLE + '"source":"<text>","ts":"<ts_event:ms>"}'),  # as documented
        ),
        Message(
            "<row>",
            Row(
                QUOTES,
                '{"arg":{"channel":"bbo-tbt","instId":"<series>"},"data":[{"asks":[["<ask>","<ask_size>","<number>",'
                '"<number>"]],"bids":[["<bid>","<bid_size>","<number>","<number>"]],"ts":"<ts_event:ms>",'
                '"seqId":<sequence>}]}',
            ),
        ),
    )
)


def canonical(name: str) -> str:
    """OKX's own name → canonical symbol. Raises FrameError for what is no name."""
    try:
        plain = okx_name(name) == name
    except SymbolError:
        plain = False
    if not plain:
        raise FrameError(f"{name[:60]!r} is no instrument of OKX")
    return okx_canonical(name)


def decoder(scope: Scope, aggregated: bool) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection.

    aggregated  trades come by ``trades``: whether their ids go on where the last one ended is told here, as the
                kernels know single ids only
    """
    read, elements = Patient(Frame, "frame", scope.unknown), Elements(scope)
    rows = _Rows(scope, aggregated)
    channels: dict[str, tuple[Any, Callable[[Any, str, int], None]]] = {
        "trades": (Trade, rows.trade),
        "trades-all": (Trade, rows.trade),
        "bbo-tbt": (Best, rows.best),
        "tickers": (Ticker, rows.ticker),
        options.CHANNEL: (options.Summary, rows.summary),
    }
    channels |= {channel: (Candle, rows.bars(name)) for name, channel in TIMEFRAMES.items()}

    tables = version3.reader(scope.unknown, elements.read)

    def decode(payload: bytes, ts_recv: int) -> None:
        if not payload.startswith(DATA):
            payload = version3.plain(payload)
            if payload.startswith(version3.TABLE):
                old(payload, ts_recv)
                return
            if _answered(payload, scope):
                return
        try:
            frame = read(payload)
        except UNREADABLE as error:
            raise FrameError(f"not a message: {error}") from None
        name = frame.arg.channel
        if name not in channels:
            if name not in KNOWN:
                scope.unknown(f"message {name}")
            return
        type_, store = channels[name]
        for item in elements.read(frame.data, name, type_, ts_recv):
            try:
                store(item, frame.arg.instId, ts_recv)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    def old(payload: bytes, ts_recv: int) -> None:
        for item in tables(payload, ts_recv):
            try:
                if isinstance(item, version3.Trade):
                    rows.old_trade(item, ts_recv)
                else:
                    rows.old_ticker(item, ts_recv)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    return decode


def _answered(payload: bytes, scope: Scope) -> bool:
    """Whether it is no data: an answer, a notice, a pong."""
    if payload == PONG:
        return True
    event = fields_of(payload).get("event")
    if isinstance(event, str) and event not in EVENTS:
        scope.unknown(f"message event {event}")
    return isinstance(event, str)


class _Rows:
    """Elements → rows. Each raises FrameError for what cannot be."""

    def __init__(self, scope: Scope, aggregated: bool) -> None:
        self._scope = scope
        self._last = scope.kept("trade_ids") if aggregated else None  # instrument → the last id of its trades
        self._series: dict[str, int] = {}
        self._add_option = options.summary_rows(scope)

    def _number(self, name: str) -> int:
        number = self._series.get(name)
        if number is None:
            number = self._series[name] = self._scope.series(canonical(name))
            self._scope.teach("series", name, number)
        return number

    def trade(self, item: Trade, name: str, ts_recv: int) -> None:
        self._trade(item, item.ts * MILLISECOND, ts_recv)

    def old_trade(self, item: version3.Trade, ts_recv: int) -> None:
        size = item.size if item.qty is None else item.qty
        if size is None:
            raise FrameError("trade: neither size nor qty")
        trade = Trade(item.instrument_id, item.trade_id, item.price, size, item.side, 0)
        self._trade(trade, rfc3339_ns(item.timestamp), ts_recv)

    def _trade(self, item: Trade, ts_event: int, ts_recv: int) -> None:
        price, size = item.px, item.sz
        if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
        series = self._number(item.instId)
        if self._last is not None:
            self._follow(self._last, item, series, ts_event, ts_recv)
        self._scope.trades.append(
            ts_event, ts_recv, series, TEXT_NULL, item.tradeId, TEXT_NULL, price, size,
            BUY if item.side == "buy" else SELL, TEXT_NULL, TEXT_NULL, 0,
        )  # fmt: skip

    def _follow(self, last_ids: dict[str, int], item: Trade, series: int, ts_event: int, ts_recv: int) -> None:
        """Note a gap where the first id of an aggregated trade is not the one after the last that came."""
        last, first = last_ids.get(item.instId), item.tradeId - max(1, item.count) + 1
        if last is not None and first > last + 1:
            self._scope.out.gap(
                series, TRADES.name, GAP_SEQUENCE, ts_event, ts_recv, "ids missing between aggregated trades",
                from_id=last + 1, to_id=first - 1, missing=first - last - 1,
            )  # fmt: skip
        last_ids[item.instId] = item.tradeId if last is None else max(last, item.tradeId)

    def _quote(self, name: str, ts_event: int, sequence: int, bid: tuple[float, float | None],
               ask: tuple[float, float | None], ts_recv: int) -> None:  # fmt: skip
        values = quoted("quote", ts_event, ts_recv, *bid, *ask)
        self._scope.quotes.append(
            ts_event, ts_recv, self._number(name), sequence, *values, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0
        )

    def best(self, item: Best, name: str, ts_recv: int) -> None:
        bid, ask = ((side[0].px, side[0].sz) if side else (0.0, 0.0) for side in (item.bids, item.asks))
        number = LONG_NULL if item.seqId is None else item.seqId
        self._quote(name, item.ts * MILLISECOND, number, bid, ask, ts_recv)

    def ticker(self, item: Ticker, name: str, ts_recv: int) -> None:
        bid, ask = (
            (decimal(item.bidPx, "ticker"), decimal(item.bidSz, "ticker")),
            (decimal(item.askPx, "ticker"), decimal(item.askSz, "ticker")),
        )
        self._quote(item.instId, item.ts * MILLISECOND, LONG_NULL, bid, ask, ts_recv)

    def old_ticker(self, item: version3.Ticker, ts_recv: int) -> None:
        bid_size, ask_size = (
            None if size is None else decimal(size, "ticker") for size in (item.best_bid_size, item.best_ask_size)
        )
        bid, ask = (decimal(str(price), "ticker") for price in (item.best_bid, item.best_ask))
        self._quote(
            item.instrument_id, rfc3339_ns(item.timestamp), LONG_NULL, (bid, bid_size), (ask, ask_size), ts_recv
        )

    def summary(self, item: options.Summary, name: str, ts_recv: int) -> None:
        self._add_option(item, ts_recv)

    def bars(self, timeframe: str) -> Callable[[Candle, str, int], None]:
        add, text = self._scope.bars.append, self._scope.text

        def bar(item: Candle, name: str, ts_recv: int) -> None:
            if item.confirm not in ("1", 1):
                return
            ts_event, prices = item.ts * MILLISECOND, (item.o, item.h, item.low, item.c)
            candle(ts_event, ts_recv, prices, item.vol)
            add(ts_event, ts_recv, self._number(name), text(timeframe), *prices, item.vol, NAN, LONG_NULL, 0)

        return bar
