"""Yahoo's charts and option chains as rows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from recorder.core.batch import Scope
from recorder.feeds.yahoo.names import TIMEFRAMES, canonical
from recorder.values import occ
from recorder.values.errors import FrameError, Limited, SymbolError
from recorder.values.feed import SECOND
from recorder.values.messages import (
    INF,
    NAN,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    element_reader,
    fitting,
    misfit,
    nulls_absent,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.tables import SPLIT_ADJUSTED

SECONDS = {"1m": 60, "2m": 120, "5m": 300, "15m": 900, "1h": 3600, "90m": 5400}
PLACEHOLDER_IV = 1e-4  # 1e-5 and the like are sent outside of trading hours
DOWN_S = 60.0  # left alone when it shows its page of maintenance
SECONDS_MAX = (1 << 62) // SECOND
_ALSO = {"1h": "60m"}  # two names of one interval
_FLOAT = struct.Struct("<f")


class Period(msgspec.Struct, frozen=True, gc=False):
    start: int
    end: int


class Periods(msgspec.Struct, frozen=True, gc=False):
    regular: Period


class Meta(msgspec.Struct, frozen=True, gc=False):
    symbol: str
    dataGranularity: str
    currentTradingPeriod: Periods
    regularMarketTime: int = 0


class Prices(msgspec.Struct, frozen=True, gc=False):
    """Columns; any element may be null."""

    open: list[float | None] = []
    high: list[float | None] = []
    low: list[float | None] = []
    close: list[float | None] = []
    volume: list[float | None] = []


class Indicators(msgspec.Struct, frozen=True, gc=False):
    quote: list[Prices]


class Result(msgspec.Struct, frozen=True, gc=False):
    """{"meta":{…},"timestamp":[1726459200,1726689602],"indicators":{"quote":[{"open":[217.55,217.59],…}]}}"""

    meta: Meta
    indicators: Indicators
    timestamp: list[int] = []  # absent where there are no bars


class Contract(msgspec.Struct, frozen=True, gc=False):
    """{"contractSymbol":"AAPL240920C00220000","strike":220.0,"lastPrice":1.5,"bid":1.49,"ask":1.53,"volume":812,
    "openInterest":5001,"lastTradeDate":1726689599,"impliedVolatility":0.21,…}; without what is not known"""

    contractSymbol: str
    lastTradeDate: int = 0
    lastPrice: float = 0.0
    bid: float = 0.0
    ask: float = 0.0
    volume: float = NAN
    openInterest: float = NAN
    impliedVolatility: float = 0.0


class Expiration(msgspec.Struct, frozen=True, gc=False):
    expirationDate: int
    calls: msgspec.Raw = msgspec.Raw(b"[]")  # of Contract
    puts: msgspec.Raw = msgspec.Raw(b"[]")


class Underlying(msgspec.Struct, frozen=True, gc=False):
    """The chain's ``quote``; its fields are unverified."""

    regularMarketTime: int = 0
    regularMarketPrice: float = NAN


class Chain(msgspec.Struct, frozen=True, gc=False):
    underlyingSymbol: str
    expirationDates: list[int] = []
    quote: Underlying = Underlying()
    options: list[Expiration] = []


class Failure(msgspec.Struct, frozen=True, gc=False):
    """{"code":"Not Found","description":"No data found, symbol may be delisted"}"""

    code: str = ""
    description: str | None = None


class Results(msgspec.Struct, frozen=True, gc=False):
    result: list[msgspec.Raw] | None = None
    error: Failure | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """One of them is there."""

    chart: Results | None = None
    optionChain: Results | None = None
    finance: Results | None = None  # errors of its gateway


_ANSWER = msgspec.json.Decoder(Answer)
_read_result = nulls_absent(msgspec.json.Decoder(Result).decode)
_read_chain = nulls_absent(msgspec.json.Decoder(Chain).decode)


def refusal(body: bytes) -> str:
    """Yahoo's error in its own words; empty for an answer. Raises MsgspecError for what is neither."""
    answer = _ANSWER.decode(body)
    results = answer.chart or answer.optionChain or answer.finance
    if results is None:
        return "neither a chart nor a chain"
    if results.error is not None:
        return f"{results.error.code}: {results.error.description or ''}"[:300]
    return "" if results.result else "an empty answer"


def expirations(body: bytes) -> list[int]:
    """Of a chain's first answer, as it asks for them, nearest first."""
    try:
        results = _ANSWER.decode(body).optionChain
        first = results.result[0] if results is not None and results.result else b"{}"
        return sorted(_read_chain(first).expirationDates)
    except UNREADABLE as error:
        raise FrameError(f"no chain: {error}") from None


def plain(price: float) -> float:
    """Without the noise of the 32-bit float that it was: 217.5500030517578 → 217.55. Nothing that was sent is lost.

    Rounding to ``priceHint`` would lose digits: prices of fractions of a cent are sent as well.
    """
    if _FLOAT.unpack(_FLOAT.pack(price))[0] != price:
        return price
    for digits in range(6, 10):  # nine tell any two 32-bit floats apart
        text = f"{price:.{digits}g}"
        if _FLOAT.pack(float(text)) == _FLOAT.pack(price):
            return float(text)
    return price


def decoder(scope: Scope) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv). Raises FrameError."""
    newest = scope.kept("newest")  # "name timeframe" → the start of the last bar stored
    snapshots = scope.kept("snapshots")  # name → the time of the chain's first answer
    read_contract = element_reader(Contract)

    def refuse(ts_recv: int) -> Callable[[str, bytes], None]:
        return lambda why, part: scope.reject(why, part, ts_recv)

    def chart(name: str, timeframe: str, body: bytes, ts_recv: int) -> None:
        result, place = chart_of(body, name, timeframe), f"{name} {timeframe}"
        series, text = scope.series(canonical(name)), scope.text(timeframe)
        last = newest.get(place, 0)
        latest = last
        for start, *four, volume in listed(result):
            ts_event = start * SECOND
            if not _ended(start, timeframe, result.meta, ts_recv) or ts_event < last:
                continue  # stored already; the last one is once more: its volume may have been corrected
            fits = all(0.0 < price < INF for price in four) and 0.0 <= volume < INF and ts_event >= TS_EVENT_MIN
            if not fits:
                named = dict(zip(("open", "high", "low", "close"), four, strict=True)) | {"volume": volume}
                reason = misfit("bar", ts_event, ts_recv, **named)  # zeros among good bars are a fault of Yahoo's
                scope.reject(reason, msgspec.json.encode({"timestamp": start} | named), ts_recv)
                continue
            scope.bars.append(ts_event, ts_recv, series, text, *four, volume, NAN, LONG_NULL, SPLIT_ADJUSTED)
            latest = max(latest, ts_event)
        newest[place] = latest

    def options(name: str, raw: Any, ts_recv: int) -> None:
        chain = _read_chain(raw)
        if chain.underlyingSymbol.upper() != name:
            raise FrameError(f"the chain of {chain.underlyingSymbol[:40]!r}, which was not asked for")
        snapshot = chain.quote.regularMarketTime * SECOND or ts_recv
        first = bool(chain.options) and chain.options[0].expirationDate == min(chain.expirationDates, default=0)
        if not first:  # of the snapshot that the first answer began
            snapshot = snapshots.get(name, snapshot)
        if not TS_EVENT_MIN <= snapshot <= ts_recv + TS_AHEAD_MAX:
            raise FrameError(misfit("chain", snapshot, ts_recv))
        underlying, price = scope.text(canonical(name)), plain(chain.quote.regularMarketPrice)
        sides = (side for expiration in chain.options for side in (expiration.calls, expiration.puts))
        for contract in (contract for side in sides for contract in fitting(side, read_contract, refuse(ts_recv))):
            try:
                known = occ.parse(contract.contractSymbol)
            except SymbolError as error:
                scope.reject(str(error), contract.contractSymbol.encode("utf-8", "replace"), ts_recv)
                continue
            bid, ask, last = _price(contract.bid), _price(contract.ask), _price(contract.lastPrice)
            iv = contract.impliedVolatility if PLACEHOLDER_IV < contract.impliedVolatility < INF else NAN
            age = max(0, snapshot - contract.lastTradeDate * SECOND) if contract.lastTradeDate > 0 else LONG_NULL
            scope.options.append(
                snapshot, ts_recv, scope.feed_id, scope.text(known.symbol), underlying, known.expires_ns,
                known.strike, known.option_type, bid, NAN, ask, NAN, last, contract.volume, contract.openInterest, iv,
                NAN, NAN, NAN, NAN, NAN, TEXT_NULL, price, age,
            )  # fmt: skip
        if first:
            snapshots[name] = snapshot

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        try:
            if words := refusal(body):
                raise FrameError(words)
            answer = _ANSWER.decode(body)
            match key.split(" "):
                case ["chart", name, timeframe] if timeframe in TIMEFRAMES:
                    chart(name, timeframe, body, ts_recv)
                case ["options", name] if answer.optionChain and answer.optionChain.result:
                    options(name, answer.optionChain.result[0], ts_recv)
                case _:
                    raise FrameError("an answer to another question")
        except (*UNREADABLE, SymbolError, OverflowError) as error:
            raise FrameError(str(error)) from None

    return decode


def check(body: bytes) -> None:
    """Raises FrameError for an answer that is an error, Limited for the page of a server that is down."""
    if b"Will be right back" in body:
        raise Limited("Will be right back", DOWN_S)
    try:
        words = refusal(body)
    except UNREADABLE as error:
        raise FrameError(f"no answer of Yahoo's: {error}") from None
    if words:
        raise FrameError(words)


def chart_of(body: bytes, name: str, timeframe: str) -> Result:
    """The chart that was asked for. Raises FrameError, also for Yahoo's own errors, and what msgspec raises."""
    if words := refusal(body):
        raise FrameError(words)
    results = _ANSWER.decode(body).chart
    if results is None or not results.result:
        raise FrameError("an answer to another question")
    result = _read_result(results.result[0])
    meta, interval = result.meta, TIMEFRAMES[timeframe][0]
    if meta.symbol.upper() != name or meta.dataGranularity not in (interval, _ALSO.get(interval)):
        raise FrameError(f"bars of {meta.dataGranularity[:20]} of {meta.symbol[:40]!r}, which was not asked for")
    return result


def listed(result: Result) -> Iterator[tuple[int, float, float, float, float, float]]:
    """Bars as the chart lists them, without those of nulls: start in s, open, high, low, close, volume."""
    prices = result.indicators.quote[0] if result.indicators.quote else Prices()
    columns = (result.timestamp, prices.open, prices.high, prices.low, prices.close, prices.volume)
    if len({len(column) for column in columns}) != 1:
        raise FrameError(f"columns of {', '.join(str(len(column)) for column in columns)} elements")
    for start, open_, high, low, close, volume in zip(*columns, strict=True):
        if open_ is not None and high is not None and low is not None and close is not None and volume is not None:
            if not 0 < start < SECONDS_MAX:
                raise FrameError(f"a bar at {start} s since 1970")
            yield start, plain(open_), plain(high), plain(low), plain(close), volume


def _ended(start: int, timeframe: str, meta: Meta, ts_recv: int) -> bool:
    """Whether this is a whole bar: not under way, nor the last price, which Yahoo appends with a time of its own."""
    if start == meta.regularMarketTime or start % 60:
        return False
    if timeframe == "1d":
        today = meta.currentTradingPeriod.regular
        return start < today.start or today.end * SECOND <= ts_recv
    return (start + SECONDS[timeframe]) * SECOND <= ts_recv


def _price(price: float) -> float:
    """Null where there is none."""
    return plain(price) if 0.0 < price < INF else NAN
