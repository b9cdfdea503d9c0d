"""E*TRADE's answers, and what becomes of them.

https://apisb.etrade.com/docs/api/market/api-quote-v1.html , …/api-market-v1.html
Asked for JSON, it sends numbers as text here and there, lists of one as that one, and errors as XML now and then.
Fields of an answer that are not listed here are passed over: there are sixty, of companies and dividends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.values import occ
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import MINUTE, SECOND
from recorder.values.messages import (
    INF,
    LONG_MAX,
    NAN,
    NO_TEXT,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    misfit,
    quoted,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import hashed_id, ticker
from recorder.values.tables import CALL, NOT_LAST_ELIGIBLE, PUT

SNAPSHOT_NS_MAX = 5 * MINUTE  # longer ago than that, a growth of the day's volume is no trade of now
MESSAGES_MAX = 1000  # different ones that are told once each
SIDES = {"CALL": CALL, "PUT": PUT}
# Errors that say there are no such options: 10031 in the month, 10032 of the symbol, 10037 standard, 10038 mini,
# 10044 of the symbol on the date. Everything else is one to be told.
PASSED_OVER_ERRORS = frozenset({10031, 10032, 10037, 10038, 10044})

_XML_CODE = re.compile(r"<code>\s*(\d{1,9})\s*</code>")
_XML_MESSAGE = re.compile(r"<message>([^<]{1,400})</message>")


class Extended(Struct, gc=False):
    """{"lastPrice":92.0,"bid":91.5,"bidSize":500,"ask":92.45,"askSize":100,"volume":5272545,
    "timeOfLastTrade":1646701052,"quoteStatus":"EH_BEFORE_OPEN", …}: outside of regular hours."""

    lastPrice: float = 0.0
    bid: float = 0.0
    bidSize: float | None = None
    ask: float = 0.0
    askSize: float | None = None
    timeOfLastTrade: int = 0
    quoteStatus: str = ""


class All(Struct, gc=False):
    """{"bid":1175.29,"bidSize":100,"bidExchange":" ","ask":1175.79,"askSize":100,"lastTrade":1175.74,
    "totalVolume":1167544,"timeOfLastTrade":1529522220,"primaryExchange":"NSDQ","osiKey":"IBM---180817C00200000", …}

    ``totalVolume`` is of the day, extended hours included. ``timeOfLastTrade``, in seconds, has been seen a day ahead
    in answers after the close.
    """

    bid: float = 0.0
    bidSize: float | None = None
    bidExchange: str = ""
    ask: float = 0.0
    askSize: float | None = None
    askExchange: str = ""
    lastTrade: float = 0.0
    totalVolume: int = 0
    timeOfLastTrade: int = 0
    exchgLastTrade: str = ""
    osiKey: str = ""
    ExtendedHourQuoteDetail: Extended | None = None
    EhQuote: Extended | None = None  # the same, as documented


class Product(Struct, gc=False):
    """{"securityType":"OPTN","symbol":"IBM","callPut":"CALL","expiryYear":2018,"expiryMonth":8,"expiryDay":17,
    "strikePrice":200}, {"securityType":"EQ","symbol":"GOOG"}"""

    symbol: str
    securityType: str = ""
    callPut: str = ""
    expiryYear: int = 0
    expiryMonth: int = 0
    expiryDay: int = 0
    strikePrice: float = 0.0


class QuoteData(Struct, gc=False):
    """{"dateTime":"15:17:00 EDT 06-20-2018","dateTimeUTC":1529522220,"quoteStatus":"DELAYED","ahFlag":"false",
    "All":{…},"Product":{…}}. Of a mutual fund "MutualFund" instead of "All"."""

    Product: Product
    dateTimeUTC: int
    quoteStatus: str = ""
    All: All | None = None


class Message(Struct, gc=False):
    """{"description":"Invalid Symbol","code":1019,"type":"WARNING"}: one symbol among others (unverified)."""

    description: str = ""
    code: int = 0


class Messages(Struct, gc=False):
    Message: msgspec.Raw = NO_TEXT


class QuoteResponse(Struct, gc=False):
    """{"QuoteData":[…]}"""

    QuoteData: msgspec.Raw = NO_TEXT
    Messages: Messages | None = None


class Greeks(Struct, gc=False):
    """{"rho":0.001,"vega":0.0086,"theta":-0.002,"delta":0.0049,"gamma":0.0008,"iv":0.3145,"currentValue":true}; all
    of them 0 where nothing was computed."""

    rho: float = NAN
    vega: float = NAN
    theta: float = NAN
    delta: float = NAN
    gamma: float = NAN
    iv: float = NAN  # a fraction


class Details(Struct, gc=False):
    """{"optionRootSymbol":"IBM","timeStamp":1529430484,"optionType":"CALL","strikePrice":200.0,"symbol":"IBM",
    "bid":0.0,"ask":0.05,"bidSize":0,"askSize":138,"volume":0,"openInterest":0,"lastPrice":0.0,
    "osiKey":"IBM---180817C00200000","OptionGreeks":{…}, …}"""

    osiKey: str
    symbol: str  # of the underlying
    optionType: str
    strikePrice: float
    timeStamp: int = 0
    bid: float = 0.0
    ask: float = 0.0
    bidSize: float | None = None
    askSize: float | None = None
    lastPrice: float = 0.0
    volume: float = NAN
    openInterest: float = NAN
    OptionGreeks: Greeks | None = None


class Pair(Struct, gc=False):
    """{"Call":{…},"Put":{…}}, or one of them"""

    Call: msgspec.Raw = NO_TEXT
    Put: msgspec.Raw = NO_TEXT


class OptionChainResponse(Struct, gc=False):
    """{"OptionPair":[…],"timeStamp":1529430420,"quoteType":"DELAYED","nearPrice":200.0,"SelectedED":{…}}"""

    OptionPair: msgspec.Raw = NO_TEXT
    timeStamp: int = 0


class Error(Struct, gc=False):
    """{"code":1019,"message":"Invalid symbol"}; of a refused token without a code."""

    code: int = 0
    message: str = ""


class ExpirationDate(Struct, gc=False):
    """{"year":2018,"month":8,"day":17,"expiryType":"MONTHLY"}"""

    year: int
    month: int
    day: int


class OptionExpireDateResponse(Struct, gc=False):
    ExpirationDate: msgspec.Raw = NO_TEXT


class Answer(Struct, gc=False):
    QuoteResponse: QuoteResponse | None = None
    OptionChainResponse: OptionChainResponse | None = None
    OptionExpireDateResponse: OptionExpireDateResponse | None = None
    Error: Error | None = None


_answer = msgspec.json.Decoder(Answer, strict=False).decode
_readers: dict[type[Struct], Callable[[Any], Any]] = {
    type_: msgspec.json.Decoder(type_, strict=False).decode
    for type_ in (QuoteData, Message, Pair, Details, ExpirationDate)
}
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def name_of(symbol: str) -> str:
    """Canonical symbol → E*TRADE's name, as it stands in an address: ``IBM``, or for ``IBM   180817C00200000``
    ``IBM:2018:8:17:CALL:200.000000``. Raises SymbolError."""
    try:
        contract = occ.parse(symbol.strip().upper())
    except SymbolError:
        name = ticker(symbol)
        if not re.fullmatch(r"[A-Z0-9.]+", name):
            raise SymbolError(f"{symbol[:40]!r} is no symbol of E*TRADE; write for example IBM or BRK.B") from None
        return name
    side, day = "CALL" if contract.option_type == CALL else "PUT", contract.expiration
    return f"{contract.underlying}:{day.year}:{day.month}:{day.day}:{side}:{contract.strike:.6f}"


def read(body: bytes) -> Answer:
    """An answer in JSON, or an error in JSON, XML or what cannot be read at all. Never raises."""
    if not body.strip():
        return Answer()
    if body.lstrip()[:1] == b"<":
        text = body[:4096].decode("utf-8", "replace")
        code, message = _XML_CODE.search(text), _XML_MESSAGE.search(text)
        words = message[1].strip() if message else "an answer that is no JSON"
        return Answer(Error=Error(int(code[1]) if code else 0, words))
    try:
        return _answer(body)
    except UNREADABLE as wrong:
        return Answer(Error=Error(0, f"an answer that cannot be read: {wrong}"))


def taken(answer: Answer) -> Answer:
    """The answer, if it is no error. Raises FrameError."""
    if answer.Error is not None:
        raise FrameError(f"E*TRADE: {answer.Error.message[:400]} ({answer.Error.code})")
    return answer


def _items(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """The elements of a list; of what is none, that itself."""
    text = bytes(raw).lstrip()
    if not text or text == b"null":
        return []
    return _raw_list(raw) if text[:1] == b"[" else [raw]


def expirations(body: bytes) -> list[date]:
    """The dates that have options, sorted; none of an empty answer. Raises FrameError."""
    answer = read(body)
    if answer.Error is not None and answer.Error.code in PASSED_OVER_ERRORS:
        return []
    found = taken(answer).OptionExpireDateResponse
    days = []
    for raw in _items(found.ExpirationDate) if found else []:
        try:
            day = _readers[ExpirationDate](raw)
            days.append(date(day.year, day.month, day.day))
        except (*UNREADABLE, ValueError) as wrong:
            raise FrameError(f"expiration {bytes(raw)[:80]!r}: {wrong}") from None
    return sorted(set(days))


def _symbol(data: QuoteData) -> str:
    """As rows carry it. Raises FrameError."""
    product, key = data.Product, data.All.osiKey.strip() if data.All else ""
    try:
        if product.securityType != "OPTN":
            return ticker(product.symbol)
        if key:
            return occ.parse(key).symbol
        day = date(product.expiryYear, product.expiryMonth, product.expiryDay)
        return occ.contract(ticker(product.symbol), day, SIDES[product.callPut], product.strikePrice).symbol
    except (SymbolError, ValueError, KeyError) as error:
        raise FrameError(f"product: {error}") from None


def decoder(scope: Scope, channels: frozenset[str]) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv): the rows of one answer."""
    snapshots, contracts = _Quotes(scope, channels), _chains(scope)

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        answer = taken(read(body))
        if answer.QuoteResponse is not None:
            snapshots.answer(answer.QuoteResponse, ts_recv)
        elif answer.OptionChainResponse is not None:
            contracts(answer.OptionChainResponse, ts_recv)
        elif answer.OptionExpireDateResponse is None and body.strip():
            raise FrameError(f"{key}: neither quotes nor options nor an error")

    return decode


class _Quotes:
    """Rows of quotes; and of trades what a growing volume of the day tells of them.

    E*TRADE sends no trades. Between two answers the volume grows by what traded meanwhile, however often; that much, at
    the last price, is one row with the condition ``synthetic`` and the volume of the day as its trade_id. It is a
    snapshot, not a print.
    """

    def __init__(self, scope: Scope, channels: frozenset[str]) -> None:
        self._scope, self._channels = scope, channels
        self._quoted = scope.kept("etrade quoted")  # symbol → hash of its last quote
        self._volumes = scope.kept("etrade volumes")  # symbol → of the day
        self._times = scope.kept("etrade times")  # symbol → when that was received
        self._told = scope.kept("etrade told")  # messages that were told

    def answer(self, response: QuoteResponse, ts_recv: int) -> None:
        for raw in _items(response.QuoteData):
            try:
                self._one(_readers[QuoteData](raw), ts_recv)
            except (*UNREADABLE, FrameError) as error:
                self._scope.reject(str(error), bytes(raw), ts_recv)
        for raw in _items(response.Messages.Message) if response.Messages else []:
            try:
                message = _readers[Message](raw)
                words = f"E*TRADE: {message.description} ({message.code})"
            except UNREADABLE as error:
                words = f"message: {error}"
            if words not in self._told and len(self._told) < MESSAGES_MAX:  # it comes with every answer
                self._told[words] = ts_recv
                self._scope.reject(words, bytes(raw), ts_recv)

    def _one(self, data: QuoteData, ts_recv: int) -> None:
        if data.All is None:
            self._scope.unknown(f"quote of {data.Product.securityType or 'nothing'}")
            return
        symbol, details = _symbol(data), data.All
        extended = details.ExtendedHourQuoteDetail or details.EhQuote
        status = (extended.quoteStatus if extended else "") or data.quoteStatus
        if "quotes" in self._channels:
            self._quote(symbol, data.dateTimeUTC * SECOND, extended or details, details, status, ts_recv)
        if "trades" in self._channels:
            price, time_s = details.lastTrade, details.timeOfLastTrade
            if extended:
                price, time_s = extended.lastPrice, extended.timeOfLastTrade
            ts_event = (time_s if 0 < time_s <= data.dateTimeUTC else data.dateTimeUTC) * SECOND
            self._trade(symbol, ts_event, price, details, status, ts_recv)

    def _quote(
        self, symbol: str, ts_event: int, prices: All | Extended, details: All, status: str, ts_recv: int
    ) -> None:
        bid, bid_size, ask, ask_size = quoted(
            "quote", ts_event, ts_recv, prices.bid, prices.bidSize, prices.ask, prices.askSize
        )
        same = hashed_id(f"{bid} {bid_size} {ask} {ask_size} {status}")
        if self._quoted.get(symbol) == same:
            return  # answered again: its time is that of the answer
        self._quoted[symbol] = same
        text, exchanges = self._scope.text, (details.bidExchange.strip(), details.askExchange.strip())
        self._scope.quotes.append(
            ts_event, ts_recv, self._scope.series(symbol), LONG_NULL, bid, bid_size, ask, ask_size,
            text(exchanges[0] or None), text(exchanges[1] or None), text(status or None), 0,
        )  # fmt: skip

    def _trade(self, symbol: str, ts_event: int, price: float, details: All, status: str, ts_recv: int) -> None:
        total = details.totalVolume
        if not (0.0 < price < INF and 0 <= total <= LONG_MAX and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            if not total:
                return  # nothing has traded today
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=float(total)))
        before, at = self._volumes.get(symbol), self._times.get(symbol, 0)
        self._volumes[symbol], self._times[symbol] = total, ts_recv
        if before is None or total <= before or ts_recv - at > SNAPSHOT_NS_MAX:
            return  # a smaller volume: another day, or a correction
        trades, text, exchange = self._scope.trades, self._scope.text, details.exchgLastTrade.strip()
        words = "synthetic" if status in ("", "REALTIME") else f"synthetic,{status}"
        trades.append(
            ts_event, ts_recv, self._scope.series(symbol), text(exchange or None), total, TEXT_NULL, price,
            float(total - before), 0, text(words), TEXT_NULL,
            NOT_LAST_ELIGIBLE if status.startswith("EH_") else 0,
        )  # fmt: skip


def _chains(scope: Scope) -> Callable[[OptionChainResponse, int], None]:
    provider = scope.text("provider")

    def number(value: float) -> float:
        return value if -INF < value < INF else NAN

    def contract(item: Details, ts_event: int, ts_recv: int) -> None:
        option = occ.parse(item.osiKey.strip())
        if SIDES.get(item.optionType) != option.option_type or abs(item.strikePrice - option.strike) > 5e-4:
            raise FrameError(f"{item.osiKey}: is said to be a {item.optionType[:8]} of strike {item.strikePrice}")
        bid, bid_size, ask, ask_size = quoted(
            "option", ts_event, ts_recv, item.bid, item.bidSize, item.ask, item.askSize
        )
        read = item.OptionGreeks or Greeks()
        given = any(value and value == value for value in msgspec.structs.astuple(read))
        read = read if given else Greeks()
        scope.options.append(
            ts_event, ts_recv, scope.feed_id, scope.text(option.symbol), scope.text(ticker(item.symbol)),
            option.expires_ns, option.strike, option.option_type, bid, bid_size, ask, ask_size,
            number(item.lastPrice) or NAN, number(item.volume), number(item.openInterest), number(read.iv) or NAN,
            number(read.delta), number(read.gamma), number(read.theta), number(read.vega), number(read.rho),
            provider if given else TEXT_NULL, NAN,
            ts_event - at if 0 < (at := item.timeStamp * SECOND) <= ts_event else LONG_NULL,
        )  # fmt: skip

    def response(chain: OptionChainResponse, ts_recv: int) -> None:
        legs: list[tuple[Details, msgspec.Raw]] = []
        for raw in _items(chain.OptionPair):
            try:
                pair = _readers[Pair](raw)
                sides = (*_items(pair.Call), *_items(pair.Put))
            except UNREADABLE as error:
                scope.reject(f"pair: {error}", bytes(raw), ts_recv)
                continue
            for side in sides:
                try:
                    legs.append((_readers[Details](side), side))
                except UNREADABLE as error:
                    scope.reject(f"option: {error}", bytes(side), ts_recv)
        # A leg may be newer than the whole it came in: the snapshot is of the newest time in it that can be.
        latest_s = (ts_recv + TS_AHEAD_MAX) // SECOND
        ts_event = max((chain.timeStamp, *(leg.timeStamp for leg, _ in legs if leg.timeStamp <= latest_s))) * SECOND
        for item, side in legs:
            try:
                contract(item, ts_event, ts_recv)
            except (FrameError, SymbolError) as error:
                scope.reject(str(error), bytes(side), ts_recv)

    return response
