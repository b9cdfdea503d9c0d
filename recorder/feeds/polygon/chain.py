"""Option chains of Massive: a snapshot of all contracts of an underlying, with Greeks, asked for again and again.

https://massive.com/docs/rest/options/snapshots/option-chain-snapshot
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.feeds.polygon import history
from recorder.values import occ
from recorder.values.chains import ChainFeed
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import MINUTE, FeedSpec, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.history import PAGES_MAX, address
from recorder.values.messages import INF, NAN, TS_AHEAD_MAX, TS_EVENT_MIN, element_reader, fitting
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import ticker

PAGE = 250  # contracts in one answer at most
SYMBOLS_MAX = 2000  # underlyings: at ten pages each, as many as can be asked for in the default interval
# Pages that follow each other within this are one snapshot: those of SPX, 80, come in some ten seconds.
ROUND_NS_MAX = 2 * MINUTE
INDICES = frozenset({"SPX", "NDX", "RUT", "VIX", "XSP", "DJX", "XEO", "OEX"})  # written I:SPX (unverified)


class Details(Struct, gc=False):
    ticker: str


class Greeks(Struct, gc=False):
    """Empty where they could not be computed. There is no rho."""

    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None


class Quote(Struct, gc=False):
    bid: float = 0.0
    bid_size: float = 0.0
    ask: float = 0.0
    ask_size: float = 0.0
    last_updated: int = 0  # ns


class Trade(Struct, gc=False):
    price: float = 0.0
    sip_timestamp: int = 0  # ns


class Day(Struct, gc=False):
    """Empty for a contract that did not trade."""

    close: float = 0.0
    volume: float | None = None


class Underlying(Struct, gc=False):
    ticker: str = ""
    price: float | None = None
    value: float | None = None  # of an index
    last_updated: int = 0  # ns


class Leg(Struct):
    """{"break_even_price":179.075,"day":{…},"details":{"contract_type":"call","exercise_style":"american",
    "expiration_date":"2023-06-16","shares_per_contract":100,"strike_price":150,"ticker":"O:AAPL230616C00150000"},
    "greeks":{…},"implied_volatility":0.357,"last_quote":{…},"last_trade":{…},"open_interest":8133,
    "underlying_asset":{"change_to_break_even":19.1,"last_updated":1651254263172073152,"price":159.9606,
    "ticker":"AAPL","timeframe":"REAL-TIME"}}; quote and trade come with plans that have them.
    """

    details: Details
    day: Day | None = None
    greeks: Greeks | None = None
    implied_volatility: float | None = None
    last_quote: Quote | None = None
    last_trade: Trade | None = None
    open_interest: float | None = None
    underlying_asset: Underlying | None = None


class Chains(ChainFeed):
    """What is asked of Massive for one feed whose channel is ``options``; symbols are underlyings."""

    def __init__(self, info: ProviderInfo, key: str, spec: FeedSpec, credentials: Mapping[str, str] | None) -> None:
        """``key``: name of the credential. Raises ConfigError, SymbolError."""
        symbols = (ticker(symbol.strip().upper().removeprefix("I:")) for symbol in spec.symbols)
        super().__init__(info, spec, symbols, SYMBOLS_MAX, history.PER_SECOND_MAX)
        self._secret = (credentials or {}).get(key, "")
        self._base = (spec.rest_url or history.URL).rstrip("/")

    def asker(self, symbol: str) -> Callable[[], Generator[HttpRequest, HttpResponse, None]]:
        name = f"I:{symbol}" if symbol in INDICES else symbol
        first = address(self._base, f"/v3/snapshot/options/{name}", limit=PAGE, order="asc", sort="ticker")

        def ask() -> Generator[HttpRequest, HttpResponse, None]:
            url: str | None = first
            for _ in range(PAGES_MAX):
                asked = url
                if asked is None:
                    return
                answer = yield HttpRequest(asked, (), (("Authorization", f"Bearer {self._secret}"),))
                url = history.following(self._base, history.read(answer.body))
                if url == asked:
                    return

        return ask

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        return decoder(out, self._base)


def decoder(scope: Scope, base: str) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv). Raises FrameError.

    All pages of a snapshot have the time of its first: the underlying's, as Massive tells it, or that of its receipt.
    """
    rounds = scope.kept("rounds")  # "begun AAPL", "at AAPL": receipt of the first page and its time; absent: none open
    read = element_reader(Leg)

    def snapshot(symbol: str, legs: list[Leg], ts_recv: int, last: bool) -> int:
        begun, at = f"begun {symbol}", f"at {symbol}"
        if not 0 <= ts_recv - rounds.get(begun, -ROUND_NS_MAX) < ROUND_NS_MAX:
            told = next((leg.underlying_asset.last_updated for leg in legs if leg.underlying_asset), 0)
            rounds[begun] = ts_recv
            rounds[at] = told if TS_EVENT_MIN <= told <= ts_recv + TS_AHEAD_MAX else ts_recv
        ts_event = rounds[at]
        if last:
            del rounds[begun], rounds[at]
        return ts_event

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        kind, _, symbol = key.partition(" ")
        if kind != "chain" or not symbol:
            raise FrameError("a poll that this version does not know")
        page = history.read(body)
        last = history.following(base, page) is None
        results = b"[]" if bytes(page.results) == b"null" else page.results
        legs = fitting(results, read, lambda why, part: scope.reject(why, part, ts_recv))
        ts_event = snapshot(symbol, legs, ts_recv, last)
        for leg in legs:
            try:
                _append(scope, symbol, leg, ts_event, ts_recv)
            except (FrameError, SymbolError) as error:
                scope.reject(str(error), msgspec.json.encode(leg), ts_recv)

    return decode


def _append(scope: Scope, symbol: str, leg: Leg, ts_event: int, ts_recv: int) -> None:
    """Raises SymbolError, FrameError."""
    contract = occ.parse(leg.details.ticker)
    quote, trade, day = leg.last_quote or Quote(), leg.last_trade or Trade(), leg.day or Day()
    asset, greeks = leg.underlying_asset or Underlying(), leg.greeks or Greeks()
    prices = (quote.bid, quote.bid_size, quote.ask, quote.ask_size, trade.price or day.close)
    if not all(0.0 <= value < INF for value in prices):
        raise FrameError(f"{contract.symbol}: not numbers from 0 up: bid, its size, ask, its size, last {prices}")
    bid, bid_size, ask, ask_size, price = prices
    at = quote.last_updated or trade.sip_timestamp
    known = greeks.delta is not None
    scope.options.append(
        ts_event, ts_recv, scope.feed_id, scope.text(contract.symbol), scope.text(symbol), contract.expires_ns,
        contract.strike, contract.option_type, bid or NAN, bid_size if bid else NAN, ask or NAN,
        ask_size if ask else NAN, price or NAN, _number(day.volume), _number(leg.open_interest),
        _number(leg.implied_volatility) or NAN, *map(_number, (greeks.delta, greeks.gamma, greeks.theta, greeks.vega)),
        NAN, scope.text("provider") if known else TEXT_NULL,
        _number(asset.value if asset.price is None else asset.price),
        max(0, ts_event - at) if TS_EVENT_MIN <= at <= ts_recv + TS_AHEAD_MAX else LONG_NULL,
    )  # fmt: skip


def _number(value: float | None) -> float:
    return value if value is not None and -INF < value < INF else NAN
