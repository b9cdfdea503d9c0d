"""Cboe's delayed quotes: the whole option chain of an underlying with Greeks, about 15 minutes old, without an account.

https://cdn.cboe.com/api/global/delayed_quotes/options/AAPL.json . Not documented: field names are those of published
clients and captures. For personal use: see Cboe's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping

import msgspec

from recorder.core.batch import Scope
from recorder.values import occ
from recorder.values.chains import CHANNEL, INTERVALS, ChainFeed
from recorder.values.errors import ConfigError, FrameError, SymbolError, nearest
from recorder.values.feed import FeedSpec, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.local_time import local_ns
from recorder.values.messages import (
    INF,
    NAN,
    UNREADABLE,
    element_reader,
    fitting,
    quoted,
)
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import ticker

INFO = ProviderInfo(
    name="cboe",
    channels=(CHANNEL,),
    options={"interval": tuple(INTERVALS)},
    hosts=("cdn.cboe.com",),
)

BASE = "https://cdn.cboe.com"
PATH = "/api/global/delayed_quotes/options/{name}.json"
INDICES = frozenset({"SPX", "VIX", "XSP", "NDX", "RUT"})  # their files begin with an underscore
ZONE, EASTERN = "UTC", "America/New_York"  # of the snapshot (unverified), of last trades
SYMBOLS_MAX = 1500  # as many as can be asked in the default interval
PER_SECOND_MAX = 2.0  # no limit is documented; 500 chains take a little over four minutes
NOT_MODIFIED = 304
# What an answer is known by → how it is asked whether that has changed. That they are sent is unverified.
VALIDATORS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
# A symbol without options is a file that is not there: 403 of the storage behind the CDN (unverified), or 404.
NO_FILE = (403, 404)


class Leg(msgspec.Struct, gc=False):
    """{"option":"SPY210601P00290000","bid":0.0,"bid_size":0.0,"ask":0.01,"ask_size":2008.0,"iv":1.251,
    "open_interest":202.0,"volume":0.0,"delta":-0.0005,"gamma":0.0,"theta":-0.0128,"rho":-0.0016,"vega":0.0006,
    "theo":0.0058,…,"last_trade_price":0.01,"last_trade_time":"2021-05-21T13:02:06",…}

    Sizes, volumes and open interest come as decimals; an iv of 0 is one that Cboe did not find.
    """

    option: str
    bid: float | None = None
    bid_size: float | None = None
    ask: float | None = None
    ask_size: float | None = None
    iv: float | None = None
    open_interest: float | None = None
    volume: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None
    last_trade_price: float | None = None
    last_trade_time: str | None = None  # New York, without a zone; null: never traded


class Underlying(msgspec.Struct, gc=False):
    options: msgspec.Raw
    current_price: float | None = None


class Chain(msgspec.Struct, gc=False):
    """{"timestamp":"2026-01-05 19:55:00","data":{"symbol":"AAPL","current_price":260.1,…,"options":[…]},…}"""

    timestamp: str
    data: Underlying


_read_chain = msgspec.json.Decoder(Chain, strict=False).decode
_read_legs = msgspec.json.Decoder(list[Leg], strict=False).decode


class Cboe(ChainFeed):
    """What is asked of Cboe for one feed."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        wrong = [channel for channel in spec.channels if channel not in INFO.channels]
        if wrong:
            raise ConfigError(
                f"feed {spec.name!r}: cboe has no channel {wrong[0]!r}; {nearest(wrong[0], INFO.channels)}"
            )
        symbols = (ticker(symbol.strip().lstrip("_^")) for symbol in spec.symbols)
        super().__init__(INFO, spec, symbols, SYMBOLS_MAX, PER_SECOND_MAX)
        self._base = (spec.rest_url or BASE).rstrip("/")

    def asker(self, symbol: str) -> Callable[[], Generator[HttpRequest, HttpResponse, None]]:
        name = f"_{symbol}" if symbol in INDICES else symbol
        url = self._base + PATH.format(name=name)
        known: dict[str, str] = {}  # of the last answer, so that the same need not be sent again

        def ask() -> Generator[HttpRequest, HttpResponse, None]:
            headers = (("Accept-Encoding", "gzip"), *known.items())
            answer = yield HttpRequest(url, headers=headers, accepts=(NOT_MODIFIED, *NO_FILE))
            if answer.status == NOT_MODIFIED:
                return
            if answer.status in NO_FILE:
                raise FrameError(f"Cboe has no options of {symbol}: HTTP {answer.status}")
            if answer.body[:1] != b"{":
                raise FrameError(f"no chain of {symbol}: {answer.body[:80]!r}")
            known.clear()
            for theirs, ours in VALIDATORS.items():
                if value := answer.headers.get(theirs):
                    known[ours] = value

        return ask

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        return decoder(out)


def _number(value: float | None) -> float:
    return value if value is not None and -INF < value < INF else NAN


def _count(value: float | None) -> float:
    return value if value is not None and 0.0 <= value < INF else NAN


def decoder(scope: Scope) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv): every leg gets the chain's time. Raises FrameError."""
    read_leg, append = element_reader(Leg), scope.options.append

    def leg(item: Leg, underlying: int, price: float, ts_event: int, ts_recv: int) -> None:
        contract = occ.parse(item.option)
        bid, bid_size, ask, ask_size = quoted(
            item.option, ts_event, ts_recv, item.bid or 0.0, item.bid_size, item.ask or 0.0, item.ask_size
        )
        greeks = (item.delta, item.gamma, item.theta, item.vega, item.rho)
        iv = _number(item.iv)
        given = iv > 0.0 and any(greeks)
        age_ns = LONG_NULL
        if item.last_trade_time:
            age_ns = ts_event - local_ns(item.last_trade_time, EASTERN)
        append(
            ts_event, ts_recv, scope.feed_id, scope.text(contract.symbol), underlying, contract.expires_ns,
            contract.strike, contract.option_type, bid, bid_size, ask, ask_size, _count(item.last_trade_price) or NAN,
            _count(item.volume), _count(item.open_interest), iv if iv > 0.0 else NAN,
            *(map(_number, greeks) if given else (NAN,) * 5),
            scope.text("provider") if given else TEXT_NULL, price, age_ns,
        )  # fmt: skip

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        what, _, symbol = key.partition(" ")
        if what != "chain" or not symbol:
            raise FrameError(f"{key[:40]!r}: a poll that this version does not know")
        try:
            chain = _read_chain(body)
        except UNREADABLE as error:
            raise FrameError(f"no chain of {symbol}: {error}") from None
        ts_event = local_ns(chain.timestamp, ZONE)

        def refuse(reason: str, part: bytes) -> None:
            scope.reject(reason, part, ts_recv)

        try:
            legs: list[Leg] = _read_legs(chain.data.options)
        except UNREADABLE:
            legs = fitting(chain.data.options, read_leg, refuse)
        underlying, price = scope.text(symbol), _number(chain.data.current_price)
        for item in legs:
            try:
                leg(item, underlying, price if price > 0.0 else NAN, ts_event, ts_recv)
            except (FrameError, SymbolError) as error:
                refuse(str(error), msgspec.json.encode(item))

    return decode
