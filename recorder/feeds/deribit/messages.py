"""Notifications of Deribit's public channels, and what becomes of them.

https://docs.deribit.com/articles/notifications , …/subscriptions/trades/ , …/subscriptions/market-data/
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import SECOND
from recorder.values.messages import (
    INF,
    NAN,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Id,
    Name,
    Reader,
    Unread,
    element_reader,
    fitting,
    misfit,
    quoted,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.tables import BACKFILLED, BUY, CALL, NOT_LAST_ELIGIBLE, PUT, SELL

MILLISECOND = 1_000_000
TIMEFRAMES = {
    "1m": "1", "3m": "3", "5m": "5", "10m": "10", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "3h": "180",
    "6h": "360", "12h": "720", "1d": "1D",
}  # fmt: skip
NAME_CHARS_MAX = 40  # the longest names, of options on pairs, have about 30
EXPIRY_HOUR = 8  # UTC, of everything that expires
_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
MONTHS = {name: i + 1 for i, name in enumerate(_NAMES)}
CONTROL = {"result": None, "error": None}

_ASSETS = r"(?:[A-Z0-9]+(?:_[A-Z0-9]+)?)"
_DATED = re.compile(rf"({_ASSETS})-(\d{{1,2}})([A-Z]{{3}})(\d\d)(?:-(\d+(?:[Dd]\d+)?)-([CP]))?")
_PAIR = re.compile(r"([A-Z0-9]+)[-/_]([A-Z0-9]+)(-PERP)?")
_PERPETUAL = re.compile(rf"({_ASSETS})-PERPETUAL")
_SPOT = re.compile(r"([A-Z0-9]+)_([A-Z0-9]+)")


class Trade(Struct, gc=False, forbid_unknown_fields=True):
    """{"timestamp":1765531356452,"price":92294.5,"amount":10.0,"direction":"sell","index_price":92276.75,
    "instrument_name":"BTC-PERPETUAL","trade_seq":271252854,"mark_price":92287.11,"tick_direction":2,"contracts":1.0,
    "trade_id":"403691824"}, of ETH "trade_id":"ETH-284830839"

    ``trade_seq`` is contiguous by instrument: it is what a row has as trade_id, and Deribit's trade_id its trade_ref.
    A combo's legs are trades of their own instruments too: ``legs`` is not read, so that none counts twice.
    """

    timestamp: Id
    price: float
    amount: float  # US dollars of inverse perpetuals and futures, coins of everything else
    direction: Literal["buy", "sell"]  # of the taker
    instrument_name: str
    trade_seq: Id
    trade_id: Name
    liquidation: str | None = None  # M, T or MT: which side was liquidated
    block_trade_id: str | None = None
    combo_id: str | None = None
    combo_trade_id: Unread = NO_TEXT
    block_trade_leg_count: Unread = NO_TEXT
    block_rfq_id: Unread = NO_TEXT
    index_price: Unread = NO_TEXT
    mark_price: Unread = NO_TEXT
    tick_direction: Unread = NO_TEXT
    contracts: Unread = NO_TEXT
    iv: Unread = NO_TEXT
    legs: Unread = NO_TEXT

    def conditions(self) -> str | None:
        """Why its price may be off the market."""
        named = (("liquidation", self.liquidation), ("block", self.block_trade_id), ("combo", self.combo_id))
        said = [f"{name}:{value}" if name == "liquidation" else name for name, value in named if value is not None]
        return ",".join(said) or None


class Quote(Struct, gc=False, forbid_unknown_fields=True):
    """{"timestamp":1765541767174,"instrument_name":"BTC-PERPETUAL","best_ask_price":92288.5,
    "best_bid_price":92288.0,"best_ask_amount":99470.0,"best_bid_amount":133440.0}"""

    timestamp: Id
    instrument_name: str
    best_bid_price: float | None
    best_ask_price: float | None
    best_bid_amount: float | None = None
    best_ask_amount: float | None = None


class Bar(Struct, gc=False, forbid_unknown_fields=True):
    """{"tick":1767200040000,"open":87490.0,"high":87500.0,"low":87465.0,"close":87474.0,"volume":0.95978896,
    "cost":83970.0}: volume in the base currency, cost in the quote currency. Sent without a trade in it, too."""

    tick: Id  # its start
    open: float
    high: float
    low: float
    close: float
    volume: float
    cost: Unread = NO_TEXT


class Greeks(Struct, gc=False):
    """{"vega":3.88497,"theta":-28.34113,"rho":0.66242,"gamma":0.00058,"delta":0.62959}"""

    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None


class Stats(Struct, gc=False):
    """{"volume":13.4,"price_change":-19.1489,"low":0.037,"high":0.047}, of the last 24 hours"""

    volume: float | None = None


class Ticker(Struct, gc=False):
    """Of an option; others lack what only options have.

    {"underlying_price":9440.73,"underlying_index":"SYN.BTC-5JUN20","timestamp":1590969652595,
    "stats":{…},"state":"open","open_interest":533.2,"mark_price":0.03847784,"mark_iv":63.21,"last_price":0.038,
    "interest_rate":0,"instrument_name":"BTC-5JUN20-9250-C","greeks":{…},"bid_iv":58.39,"best_bid_price":0.0365,
    "best_bid_amount":15.4,"best_ask_price":0.04,"best_ask_amount":4.8,"ask_iv":66.9, …}

    Prices of inverse options are in coins. Volatilities are in percent; rows have fractions.
    """

    timestamp: Id
    instrument_name: str
    best_bid_price: float | None = None
    best_ask_price: float | None = None
    best_bid_amount: float | None = None
    best_ask_amount: float | None = None
    last_price: float | None = None
    open_interest: float | None = None
    mark_iv: float | None = None
    greeks: Greeks | None = None
    stats: Stats | None = None
    underlying_price: float | None = None  # of the future with the same expiration, or a synthetic one


class Params(Struct, gc=False):
    channel: str
    data: msgspec.Raw


class Notification(Struct, tag_field="method", tag="subscription"):
    """{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.100ms","data":[…]}}"""

    params: Params


class Heartbeat(Struct, tag_field="method", tag="heartbeat"):
    """{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}: see ``on_control``."""


MESSAGE = Notification | Heartbeat
KINDS: dict[str, type[Struct]] = {"quote": Quote, "chart": Bar, "ticker": Ticker}
PASSED_OVER = frozenset(  # known, not recorded; nor is the ticker of a combo
    {
        "book", "incremental_ticker", "perpetual", "deribit_price_index", "deribit_price_ranking",
        "deribit_price_statistics", "deribit_volatility_index", "estimated_expiration_price", "markprice",
        "instrument", "platform_state", "block_rfq", "rfq",
    }
)  # fmt: skip


def instrument_of(symbol: str) -> str:
    """Canonical symbol, or Deribit's own name in any case → Deribit's name. Raises SymbolError.

    ``BTC-USD-PERP`` → ``BTC-PERPETUAL``, ``SOL-USDC-PERP`` → ``SOL_USDC-PERPETUAL``, ``BTC-USDC`` → ``BTC_USDC``
    (spot); dated futures and options have Deribit's own names: ``BTC-27DEC24``, ``XRP_USDC-30JUN23-0d625-C``.
    """
    text = symbol.strip().upper()
    if len(text) <= NAME_CHARS_MAX:
        dated = _DATED.fullmatch(text)
        if dated and dated[3] in MONTHS:
            strike = f"-{dated[5].replace('D', 'd')}-{dated[6]}" if dated[5] else ""
            return f"{dated[1]}-{dated[2]}{dated[3]}{dated[4]}{strike}"
        if _PERPETUAL.fullmatch(text):
            return text
        pair = _PAIR.fullmatch(text)
        if pair and pair[3]:
            return f"{pair[1]}-PERPETUAL" if pair[2] == "USD" else f"{pair[1]}_{pair[2]}-PERPETUAL"
        if pair:
            return f"{pair[1]}_{pair[2]}"
    raise SymbolError(
        f"{symbol[:NAME_CHARS_MAX]!r} is no instrument of Deribit; write for example BTC-USD-PERP, BTC-27DEC24 or "
        "BTC-27DEC24-100000-C (combos are not recorded: their prices may be 0 or below)"
    )


def canonical(instrument: str) -> str:
    """``BTC-PERPETUAL`` → ``BTC-USD-PERP``, ``BTC_USDC`` → ``BTC-USDC``; other names stay as they are."""
    perpetual = _PERPETUAL.fullmatch(instrument)
    if perpetual:
        base, _, quote = perpetual[1].partition("_")
        return f"{base}-{quote or 'USD'}-PERP"
    spot = _SPOT.fullmatch(instrument)
    return f"{spot[1]}-{spot[2]}" if spot else instrument


def option_of(instrument: str) -> tuple[str, int, float, int] | None:
    """(underlying, expiration in ns, strike, CALL or PUT) of an option's name; None for everything else.

    ``BTC-5JUN20-9250-C``: BTC, 2020-06-05 08:00 UTC, 9250; in strikes below a dollar and the like d is the point.
    """
    found = _DATED.fullmatch(instrument)
    if found is None or not found[5] or found[3] not in MONTHS:
        return None
    try:
        expiry = datetime(2000 + int(found[4]), MONTHS[found[3]], int(found[2]), EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        return None
    strike = float(found[5].replace("d", ".").replace("D", "."))
    return found[1], int(expiry.timestamp()) * SECOND, strike, CALL if found[6] == "C" else PUT


def has_market(instrument: str) -> bool:
    """Whether it is no combo, whose prices may be 0 or below."""
    return any(form.fullmatch(instrument) for form in (_PERPETUAL, _DATED, _SPOT))


def add_trades(scope: Scope) -> Callable[[Trade, int, int, int], None]:
    """add(trade, series, ts_recv, flags): one row. Raises FrameError for what cannot be."""
    trades = scope.trades

    def add(trade: Trade, series: int, ts_recv: int, flags: int) -> None:
        ts_event, price, size = trade.timestamp * MILLISECOND, trade.price, trade.amount
        if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
        if trade.block_trade_id is not None:  # at a price agreed between two parties
            flags |= NOT_LAST_ELIGIBLE
        trades.append(
            ts_event, ts_recv, series, TEXT_NULL, trade.trade_seq, trades.varchar(str(trade.trade_id)), price, size,
            BUY if trade.direction == "buy" else SELL, scope.text(trade.conditions()), TEXT_NULL, flags,
        )  # fmt: skip

    return add


def any_number(value: float | None) -> float:
    """A number of either sign, NaN for none."""
    return value if value is not None and -INF < value < INF else NAN


def decoder(scope: Scope) -> Callable[[bytes, int], None]:
    """decode(payload, ts_recv) for one connection."""
    reader = Reader(MESSAGE, "method", scope.unknown, CONTROL)
    read_trades = msgspec.json.Decoder(list[Trade]).decode
    readers: dict[str, Callable[[Any], Any]] = {
        kind: msgspec.json.Decoder(struct).decode for kind, struct in KINDS.items()
    }
    read_trade = element_reader(Trade)
    add_trade = add_trades(scope)
    series_of: dict[str, int] = {}
    options: dict[str, tuple[str, int, float, int] | None] = {}
    timeframes = {resolution: scope.text(name) for name, resolution in TIMEFRAMES.items()}
    provider = scope.text("provider")

    def series(instrument: str) -> int:
        number = series_of.get(instrument)
        if number is None:
            if not 0 < len(instrument) <= NAME_CHARS_MAX or not instrument.isascii():
                raise FrameError(f"{instrument[:NAME_CHARS_MAX]!r} is no instrument of Deribit")
            number = series_of[instrument] = scope.series(canonical(instrument))
        return number

    def trades(data: msgspec.Raw, ts_recv: int) -> None:
        items: list[Trade]
        try:
            items = read_trades(data)
        except UNREADABLE:
            items = fitting(data, known_or_counted, lambda why, part: scope.reject(why, part, ts_recv))
        for item in items:
            try:
                add_trade(item, series(item.instrument_name), ts_recv, 0)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    def known_or_counted(element: msgspec.Raw) -> Trade:
        fresh = msgspec.json.decode(element, type=dict[str, msgspec.Raw]).keys() - set(Trade.__struct_fields__)
        for name in fresh:
            scope.unknown(f"field trades.{name}")
        trade: Trade = read_trade(element)
        return trade

    def read(kind: str, data: msgspec.Raw) -> Any:
        try:
            return readers[kind](data)
        except UNREADABLE as error:
            try:
                result = element_reader(KINDS[kind])(data)
            except UNREADABLE:
                raise FrameError(f"{kind}: {error}") from None
            scope.unknown(f"field of {kind}: {error}")  # it fits but for what is new
            readers[kind] = element_reader(KINDS[kind])
            return result

    def quote(item: Quote | Ticker, ts_recv: int) -> None:
        ts_event = item.timestamp * MILLISECOND
        bid, bid_size, ask, ask_size = quoted(
            "quote", ts_event, ts_recv, item.best_bid_price or 0.0, item.best_bid_amount, item.best_ask_price or 0.0,
            item.best_ask_amount,
        )  # fmt: skip
        scope.quotes.append(
            ts_event, ts_recv, series(item.instrument_name), LONG_NULL, bid, bid_size, ask, ask_size,
            TEXT_NULL, TEXT_NULL, TEXT_NULL, 0,
        )  # fmt: skip

    def bar(item: Bar, channel: str, ts_recv: int) -> None:
        _, _, instrument, resolution = channel.split(".") if channel.count(".") == 3 else ("", "", "", "")
        timeframe = timeframes.get(resolution)
        if timeframe is None:
            raise FrameError(f"{channel[:60]!r}: no chart of a resolution that Deribit documents")
        ts_event, prices = item.tick * MILLISECOND, (item.open, item.high, item.low, item.close)
        fits = all(0.0 < price < INF for price in prices) and 0.0 <= item.volume < INF
        if not (fits and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            named = dict(zip(("open", "high", "low", "close"), prices, strict=True))
            raise FrameError(misfit("chart", ts_event, ts_recv, **named, volume=item.volume))
        scope.bars.append(
            ts_event, ts_recv, series(instrument), timeframe, *prices, item.volume, NAN, LONG_NULL, 0
        )  # fmt: skip

    def option(item: Ticker, contract: tuple[str, int, float, int], ts_recv: int) -> None:
        ts_event = item.timestamp * MILLISECOND
        bid, bid_size, ask, ask_size = quoted(
            "ticker", ts_event, ts_recv, item.best_bid_price or 0.0, item.best_bid_amount, item.best_ask_price or 0.0,
            item.best_ask_amount,
        )  # fmt: skip
        underlying, expiration, strike, option_type = contract
        greeks, stats = item.greeks or Greeks(), item.stats or Stats()
        scope.options.append(
            ts_event, ts_recv, scope.feed_id, scope.text(item.instrument_name), scope.text(underlying), expiration,
            strike, option_type, bid, bid_size, ask, ask_size, any_number(item.last_price), any_number(stats.volume),
            any_number(item.open_interest), any_number(item.mark_iv) / 100.0, any_number(greeks.delta),
            any_number(greeks.gamma), any_number(greeks.theta), any_number(greeks.vega), any_number(greeks.rho),
            TEXT_NULL if item.greeks is None else provider, any_number(item.underlying_price), 0,
        )  # fmt: skip

    def decode(payload: bytes, ts_recv: int) -> None:
        try:
            message = reader.read(payload)
        except UNREADABLE as error:
            message = reader.again(payload, error)
        if not isinstance(message, Notification):
            return
        channel, data = message.params.channel, message.params.data
        kind, _, rest = channel.partition(".")
        if kind == "trades":
            trades(data, ts_recv)
        elif kind == "quote":
            quote(read(kind, data), ts_recv)
        elif kind == "chart":
            bar(read(kind, data), channel, ts_recv)
        elif kind == "ticker":
            instrument = rest.rpartition(".")[0]
            if instrument not in options:
                options[instrument] = option_of(instrument)
            contract = options[instrument]
            if contract is not None:
                option(read(kind, data), contract, ts_recv)
            elif has_market(instrument):
                quote(read(kind, data), ts_recv)
        elif kind not in PASSED_OVER:
            scope.unknown(f"channel {kind}")

    return decode


def past_trades(scope: Scope) -> Callable[[msgspec.Raw, str, int, Callable[[int, int], bool]], None]:
    """store(trades, symbol, ts_recv, asked): rows of an array of trades that ``asked(ts_event, trade_seq)`` wants."""
    add_trade, read_trade = add_trades(scope), element_reader(Trade)

    def store(trades: msgspec.Raw, symbol: str, ts_recv: int, asked: Callable[[int, int], bool]) -> None:
        for item in fitting(trades, read_trade, lambda why, part: scope.reject(why, part, ts_recv)):
            if not asked(item.timestamp * MILLISECOND, item.trade_seq):
                continue
            try:
                add_trade(item, scope.series(symbol), ts_recv, BACKFILLED)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    return store
