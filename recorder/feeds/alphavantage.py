"""Alpha Vantage, asked over HTTP: bars, the day so far, and option chains with Greeks. Delayed and end of day.

https://www.alphavantage.co/documentation/ . Its key stands in the query, so it is never part of a URL here. Every
refusal comes as HTTP 200.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from typing import Annotated, Any

import msgspec

from recorder.core.batch import Scope
from recorder.values import occ
from recorder.values.errors import ConfigError, FrameError, Limited, SymbolError, nearest
from recorder.values.feed import (
    HOUR,
    MINUTE,
    Capability,
    FeedSpec,
    HttpRequest,
    HttpResponse,
    Poll,
    ProviderInfo,
    polled,
)
from recorder.values.history import address
from recorder.values.local_time import local_date, local_ns
from recorder.values.messages import INF, NAN, TS_EVENT_MIN, UNREADABLE, fitting, misfit, option, sharded
from recorder.values.schema import LONG_NULL
from recorder.values.symbols import ticker

KEY = "ALPHAVANTAGE_API_KEY"
TIMEFRAMES = {"1d": "", "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}
INFO = ProviderInfo(
    name="alphavantage",
    channels=("bars", "options"),
    options={
        "timeframe": tuple(TIMEFRAMES),
        "today": ("no", "yes"),  # also the day so far, as a bar of 1d that grows
        "chains": ("historical", "realtime"),  # of the last session, or premium
        "plan": ("free", "75", "150", "300", "600", "1200"),  # requests a minute
    },
    credentials=(KEY,),
    hosts=("www.alphavantage.co",),
)

BASE = "https://www.alphavantage.co"
ZONE = "America/New_York"  # of days; intraday bars name theirs
FREE_A_DAY = 25
FREE_PER_SECOND_MAX = 1.0  # asked for in its refusals, not documented
DAY_EVERY_NS = 6 * HOUR  # bars of 1d: four requests of 25 a day and symbol
CHAIN_EVERY_NS = 6 * HOUR
TODAY_EVERY_NS = 5 * MINUTE
NIGHT_NS = 20 * HOUR  # after the midnight that a day begins with: its bar is whole when late trading has ended
PAUSE_S = 3600.0  # with the quota of a day used up
_DAILY = "Time Series (Daily)"
_LIMIT = re.compile(r"rate limit|call frequency|requests? per (second|minute|day)|sparingly", re.IGNORECASE)
_STRINGS = msgspec.json.Decoder(dict[str, msgspec.Raw])

Number = Annotated[float, msgspec.Meta(ge=0)]


class Bar(msgspec.Struct, frozen=True, gc=False):
    """{"1. open":"294.9800","2. high":"295.0000","3. low":"294.9800","4. close":"294.9900","5. volume":"132"}"""

    open: float = msgspec.field(name="1. open")
    high: float = msgspec.field(name="2. high")
    low: float = msgspec.field(name="3. low")
    close: float = msgspec.field(name="4. close")
    volume: float = msgspec.field(name="5. volume")


class Quote(msgspec.Struct, frozen=True, gc=False):
    """{"01. symbol":"AZN.LON","02. open":"10528.0000","03. high":"10554.0000","04. low":"10420.0000",
    "05. price":"10442.0000","06. volume":"1920774","07. latest trading day":"2022-06-01",…}"""

    symbol: str = msgspec.field(name="01. symbol")
    open: float = msgspec.field(name="02. open")
    high: float = msgspec.field(name="03. high")
    low: float = msgspec.field(name="04. low")
    price: float = msgspec.field(name="05. price")
    volume: float = msgspec.field(name="06. volume")
    day: str = msgspec.field(name="07. latest trading day")


class Leg(msgspec.Struct, frozen=True, gc=False):
    """A contract of a chain. All are strings; the list of fields is unverified.

    {"contractID":"IBM260116C00150000","symbol":"IBM","expiration":"2026-01-16","strike":"150.00","type":"call",
    "last":"0.00","mark":"147.33","bid":"146.00","bid_size":"10","ask":"148.65","ask_size":"12","volume":"0",
    "open_interest":"0","date":"2026-01-05","implied_volatility":"3.0","delta":"0.99","gamma":"0.0001",
    "theta":"-0.2","vega":"0.01","rho":"0.05"}
    """

    contractID: str
    date: str
    last: Number = 0.0
    bid: Number = 0.0
    bid_size: Number = 0.0
    ask: Number = 0.0
    ask_size: Number = 0.0
    volume: Number = NAN  # what is not said is not 0
    open_interest: Number = NAN
    implied_volatility: Number = 0.0
    delta: float = NAN
    gamma: float = NAN
    theta: float = NAN
    vega: float = NAN
    rho: float = NAN


_QUOTE = msgspec.json.Decoder(Quote, strict=False)
_read_bar = msgspec.json.Decoder(Bar, strict=False).decode
_strict_leg = msgspec.json.Decoder(Leg, strict=False).decode
_META = msgspec.json.Decoder(dict[str, str])


class Alphavantage:
    """What is asked of Alpha Vantage for one feed."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        wrong = [channel for channel in spec.channels if channel not in INFO.channels]
        if wrong:
            words = f"feed {spec.name!r}: alphavantage has no channel {wrong[0]!r}; {nearest(wrong[0], INFO.channels)}"
            raise ConfigError(f'{words}. It has no bid and no offer: its quote is the day so far, today = "yes"')
        self._options = {name: option(INFO, spec, name) for name in INFO.options}
        self._symbols = tuple(dict.fromkeys(ticker(symbol) for symbol in spec.symbols))
        self._key = (credentials or {}).get(KEY, "")
        self._base = (spec.rest_url or BASE).rstrip("/")

    def capability(self) -> Capability:
        plan = self._options["plan"]
        return polled(
            INFO.channels,
            10_000,  # not a limit of theirs: a round of so many takes eight minutes at best
            FREE_PER_SECOND_MAX if plan == "free" else int(plan) / 60,
            history="the last 100 bars, asked again and again",
            rest_quota=FREE_A_DAY if plan == "free" else int(plan),
            rest_quota_ns=24 * HOUR if plan == "free" else MINUTE,
        )

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    def polls(self) -> tuple[Poll, ...]:
        timeframe, polls = self._options["timeframe"], []

        def poll(key: str, every_ns: int, url: str) -> None:
            polls.append(Poll(key, every_ns, self._asker(url)))

        for symbol in self._symbols:
            if "bars" in self.spec.channels:
                every_ns = DAY_EVERY_NS if timeframe == "1d" else _NS[timeframe]
                poll(f"bars {symbol} {timeframe}", every_ns, self._bars(symbol))
                if self._options["today"] == "yes":
                    poll(f"today {symbol}", TODAY_EVERY_NS, self._query("GLOBAL_QUOTE", symbol))
            if "options" in self.spec.channels:
                function = f"{self._options['chains'].upper()}_OPTIONS"
                poll(f"options {symbol}", CHAIN_EVERY_NS, self._query(function, symbol))
        return tuple(polls)

    def _bars(self, symbol: str) -> str:
        interval = TIMEFRAMES[self._options["timeframe"]]
        if not interval:
            return self._query("TIME_SERIES_DAILY", symbol)  # unadjusted
        more = {"interval": interval, "adjusted": "false", "extended_hours": "true"}
        return self._query("TIME_SERIES_INTRADAY", symbol, **more)

    def _query(self, function: str, symbol: str, **more: str) -> str:
        return address(self._base, "/query", function=function, symbol=symbol, **more)

    def _asker(self, url: str) -> Callable[[], Generator[HttpRequest, HttpResponse, None]]:
        def ask() -> Generator[HttpRequest, HttpResponse, None]:
            answer = yield HttpRequest(url, secret_query=(("apikey", self._key),))
            words = refusal(answer.body)
            if words is None:
                return
            if _LIMIT.search(words):
                daily = "per day" in words and "per minute" not in words and "per second" not in words
                raise Limited(words, PAUSE_S if daily else None)
            raise FrameError(words)

        return ask

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        return decoder(out)


def _read_leg(raw: Any) -> Leg:
    """A text that says nothing is one that is not there. Raises what msgspec raises."""
    if b'""' not in bytes(raw):
        return _strict_leg(raw)
    said = {name: value for name, value in msgspec.json.decode(raw, type=dict[str, Any]).items() if value != ""}
    return _strict_leg(msgspec.json.encode(said))


_NS = {"1m": MINUTE, "5m": 5 * MINUTE, "15m": 15 * MINUTE, "30m": 30 * MINUTE, "1h": HOUR}


def refusal(body: bytes) -> str | None:
    """What it says instead of an answer; None when it answers.

    {"Error Message":…} is a wrong request, {"Information":…} and {"Note":…} are limits and what costs money.
    """
    try:
        fields = _STRINGS.decode(body)
    except UNREADABLE as error:
        return f"no JSON object: {error}"
    for name in ("Error Message", "Information", "Note"):
        if name in fields:
            return f"{name}: {_text(fields[name])}"
    empty = not fields or any(bytes(fields.get(name, b"-")) in (b"{}", b"[]") for name in ("Global Quote", "data"))
    return "an empty answer: no such symbol" if empty else None


def _text(raw: Any) -> str:
    value = msgspec.json.decode(raw)
    return value[:300] if isinstance(value, str) else "not in words"


def decoder(scope: Scope) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv). Raises FrameError."""
    newest = scope.kept("newest")  # "symbol timeframe" → the start of the last bar stored

    def append(symbol: str, timeframe: str, start: int, ts_recv: int, bar: Bar | Quote, close: float) -> None:
        prices = (bar.open, bar.high, bar.low, close)
        if not (all(0.0 < price < INF for price in prices) and 0.0 <= bar.volume < INF and start >= TS_EVENT_MIN):
            named = dict(zip(("open", "high", "low", "close"), prices, strict=True))
            raise FrameError(misfit("bar", start, ts_recv, **named, volume=bar.volume))
        series, text = scope.series(symbol), scope.text(timeframe)
        scope.bars.append(start, ts_recv, series, text, *prices, bar.volume, NAN, LONG_NULL, 0)

    def bars(symbol: str, timeframe: str, fields: dict[str, Any], ts_recv: int) -> None:
        name = _DAILY if timeframe == "1d" else f"Time Series ({TIMEFRAMES.get(timeframe)})"
        meta = _META.decode(fields.get("Meta Data", b"{}"))
        said = {key.partition(". ")[2]: value for key, value in meta.items()}
        if said.get("Symbol", "").upper() != symbol or name not in fields:
            raise FrameError(f"no {name!r} of {symbol}: {', '.join(fields)[:200]}")
        zone, place = said.get("Time Zone", ""), f"{symbol} {timeframe}"
        last = newest.get(place, 0)
        rows = []
        for label, raw in _STRINGS.decode(fields[name]).items():
            start = local_ns(label, zone)  # intraday: that it labels a bar by its start is unverified
            end = start + (NIGHT_NS if timeframe == "1d" else _NS[timeframe])
            if start >= last and end <= ts_recv:  # the last one once more: its volume may have been corrected
                rows.append((start, raw))
        for start, raw in sorted(rows, key=lambda row: row[0]):
            try:
                bar = _read_bar(raw)
                append(symbol, timeframe, start, ts_recv, bar, bar.close)
            except (*UNREADABLE, FrameError) as error:
                scope.reject(str(error), bytes(raw), ts_recv)
        if rows:
            newest[place] = max(start for start, _ in rows)

    def today(symbol: str, fields: dict[str, Any], ts_recv: int) -> None:
        quote = _QUOTE.decode(fields.get("Global Quote", b"null"))
        start = local_ns(quote.day, ZONE)
        if quote.symbol.upper() != symbol or quote.day > local_date(ts_recv, ZONE):
            raise FrameError(f"the day {quote.day[:20]!r} of {quote.symbol[:20]!r} instead of {symbol} so far")
        append(symbol, "1d", start, ts_recv, quote, quote.price)

    def options(symbol: str, fields: dict[str, Any], ts_recv: int) -> None:
        legs = fitting(fields.get("data", b"null"), _read_leg, lambda why, part: scope.reject(why, part, ts_recv))
        for leg in legs:
            try:
                contract = occ.parse(leg.contractID)
            except SymbolError as error:
                scope.reject(str(error), leg.contractID.encode(), ts_recv)
                continue
            ts_event = local_ns(f"{leg.date} 16:00:00", ZONE)  # of a session only the day is said: as of its close
            known = leg.implied_volatility > 0.0
            scope.options.append(
                min(ts_event, ts_recv), ts_recv, scope.feed_id, scope.text(contract.symbol), scope.text(symbol),
                contract.expires_ns, contract.strike, contract.option_type, leg.bid or NAN,
                leg.bid_size if leg.bid else NAN, leg.ask or NAN, leg.ask_size if leg.ask else NAN, leg.last or NAN,
                leg.volume, leg.open_interest,
                leg.implied_volatility if known else NAN,
                *((leg.delta, leg.gamma, leg.theta, leg.vega, leg.rho) if known else [NAN] * 5),
                scope.text("provider" if known else None), NAN, LONG_NULL,
            )  # fmt: skip

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        words = refusal(body)
        if words is not None:
            raise FrameError(words)
        try:
            fields = _STRINGS.decode(body)
            match key.split(" "):
                case ["bars", symbol, timeframe] if timeframe in TIMEFRAMES:
                    bars(symbol, timeframe, fields, ts_recv)
                case ["today", symbol]:
                    today(symbol, fields, ts_recv)
                case ["options", symbol]:
                    options(symbol, fields, ts_recv)
                case _:
                    raise FrameError("a poll that this version does not know")
        except UNREADABLE as error:
            raise FrameError(str(error)) from None

    return decode
