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

from recorder.values import occ
from recorder.values.errors import FrameError, SymbolError
from recorder.values.messages import (
    NAN,
    NO_TEXT,
    UNREADABLE,
    nulls_absent,
)
from recorder.values.symbols import ticker
from recorder.values.tables import CALL

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


_answer = nulls_absent(msgspec.json.Decoder(Answer, strict=False).decode)
readers: dict[type[Struct], Callable[[Any], Any]] = {
    type_: nulls_absent(msgspec.json.Decoder(type_, strict=False).decode)
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


def items(raw: msgspec.Raw) -> list[msgspec.Raw]:
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
    for raw in items(found.ExpirationDate) if found else []:
        try:
            day = readers[ExpirationDate](raw)
            days.append(date(day.year, day.month, day.day))
        except (*UNREADABLE, ValueError) as wrong:
            raise FrameError(f"expiration {bytes(raw)[:80]!r}: {wrong}") from None
    return sorted(set(days))
