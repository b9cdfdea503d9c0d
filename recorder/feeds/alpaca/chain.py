"""Option chains of Alpaca: snapshots of all contracts of an underlying with Greeks, asked for again and again.

https://docs.alpaca.markets/reference/optionchain , https://docs.alpaca.markets/reference/stocklatesttrades-1
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.alpaca import history
from recorder.values import occ
from recorder.values.chains import ChainFeed
from recorder.values.errors import FrameError, SymbolError
from recorder.values.feed import MINUTE, FeedSpec, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.history import PAGES_MAX, address
from recorder.values.messages import INF, NAN, UNREADABLE, element_reader, nulls_absent, option, quoted
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import ticker

OF_STOCKS = {"indicative": "iex", "opra": "sip"}  # whose last trade a plan that has these options may ask for
PAGE = 1000  # contracts in one answer at most
SYMBOLS_MAX = 500  # at three pages each the free plan's 200 requests a minute take seven minutes and a half
ROUND_NS_MAX = 2 * MINUTE  # pages that follow each other within this are one snapshot
MICROS = 1_000_000  # of a price as decoders keep it between two pages


class Quote(Struct, gc=False):
    t: str
    bp: float = 0.0  # 0: no active side
    bs: float = 0.0
    ap: float = 0.0
    as_: float = msgspec.field(name="as", default=0.0)


class Trade(Struct, gc=False):
    t: str
    p: float


class Bar(Struct, gc=False):
    v: float | None = None


class Greeks(Struct, gc=False):
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None


class Leg(Struct, gc=False):
    """{"greeks":{"delta":0.674,"gamma":0.028,"rho":0.061,"theta":-0.126,"vega":0.147},"impliedVolatility":0.316,
    "latestQuote":{"ap":0.59,"as":458,"ax":"X","bp":0.48,"bs":396,"bx":"X","c":" ","t":"2024-02-02T20:59:59.73Z"},
    "latestTrade":{"c":"I","p":0.52,"s":1,"t":"2024-02-02T17:29:53.55240448Z","x":"W"},"dailyBar":{…}}

    No Greeks where a side is missing, on the day of expiration, and where Alpaca's solver finds no volatility. Open
    interest is not part of it.
    """

    latestQuote: Quote | None = None
    latestTrade: Trade | None = None
    dailyBar: Bar | None = None
    greeks: Greeks | None = None
    impliedVolatility: float | None = None


class Page(Struct, gc=False):
    """{"snapshots":{"AAPL240126P00050000":{…}},"next_page_token":null}, or {"trades":{"AAPL":{"t":…,"p":…}}}"""

    snapshots: dict[str, msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET  # null: none
    next_page_token: str | None = None
    trades: dict[str, Trade] | msgspec.UnsetType | None = msgspec.UNSET


_read_page = msgspec.json.Decoder(Page, strict=False).decode


def read(body: bytes) -> Page:
    """Raises FrameError for what is no answer."""
    try:
        page: Page = _read_page(body)
    except UNREADABLE as error:
        raise FrameError(f"no chain: {error}") from None
    if page.snapshots is msgspec.UNSET and page.trades is msgspec.UNSET:
        raise FrameError(f"neither snapshots nor trades: {body[:200]!r}")
    return page


class Chains(ChainFeed):
    """What is asked of Alpaca for one feed whose channel is ``options``; symbols are underlyings."""

    def __init__(self, info: ProviderInfo, spec: FeedSpec, headers: tuple[tuple[str, str], ...]) -> None:
        """``headers``: with the keys. Raises ConfigError, SymbolError."""
        super().__init__(info, spec, map(ticker, spec.symbols), SYMBOLS_MAX, history.PER_SECOND_MAX)
        self._headers = headers
        self._source = option(info, spec, "chains")
        self._base = (spec.rest_url or history.URL).rstrip("/")

    def asker(self, symbol: str) -> Callable[[], Generator[HttpRequest, HttpResponse, None]]:
        def ask() -> Generator[HttpRequest, HttpResponse, None]:
            if symbol not in occ.EUROPEAN:  # indices have no trades
                query: dict[str, Any] = {"symbols": symbol, "feed": OF_STOCKS[self._source]}
                read((yield self._get("/v2/stocks/trades/latest", query)).body)
            token: str | None = None
            for _ in range(PAGES_MAX):
                query = {"feed": self._source, "limit": PAGE, "page_token": token}
                page = read((yield self._get(f"/v1beta1/options/snapshots/{symbol}", query)).body)
                if not page.next_page_token or page.next_page_token == token:
                    return
                token = page.next_page_token

        return ask

    def _get(self, path: str, query: Mapping[str, Any]) -> HttpRequest:
        return HttpRequest(address(self._base, path, **query), (), self._headers)

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        return decoder(out)


def decoder(scope: Scope) -> Callable[[str, bytes, int], None]:
    """decode(key, body, ts_recv). Raises FrameError.

    Alpaca gives no time of a snapshot: all its pages have that of the receipt of the first answer of the round, which
    is the underlying's last trade.
    """
    rounds = scope.kept("rounds")  # "at AAPL": when the round began; "price AAPL" in micros; absent: none open
    read_leg = nulls_absent(element_reader(Leg))

    def decode(key: str, body: bytes, ts_recv: int) -> None:
        kind, _, symbol = key.partition(" ")
        if kind != "chain" or not symbol:
            raise FrameError(f"{key[:40]!r}: a poll that this version does not know")
        page, at, price = read(body), f"at {symbol}", f"price {symbol}"
        if page.trades is not msgspec.UNSET:
            trade = (page.trades or {}).get(symbol)
            rounds[at] = ts_recv
            rounds.pop(price, None)
            if trade is not None and 0.0 < trade.p < 1e9:
                rounds[price] = round(trade.p * MICROS)
        if page.snapshots is msgspec.UNSET:
            return
        if not 0 <= ts_recv - rounds.get(at, -ROUND_NS_MAX) < ROUND_NS_MAX:
            rounds[at] = ts_recv
            rounds.pop(price, None)
        ts_event = rounds[at]
        worth = rounds[price] / MICROS if price in rounds else NAN
        for name, raw in (page.snapshots or {}).items():
            try:
                _append(scope, symbol, occ.parse(name), read_leg(raw), worth, ts_event, ts_recv)
            except (FrameError, SymbolError, *UNREADABLE) as error:
                scope.reject(f"{name[:40]}: {error}", bytes(raw), ts_recv)
        if not page.next_page_token:
            rounds.pop(at, None)
            rounds.pop(price, None)

    return decode


def _append(
    scope: Scope, symbol: str, contract: occ.Contract, leg: Leg, worth: float, ts_event: int, ts_recv: int
) -> None:
    """Raises FrameError."""
    quote, trade, greeks = leg.latestQuote, leg.latestTrade, leg.greeks or Greeks()
    bid = bid_size = ask = ask_size = NAN
    age_ns = LONG_NULL
    if quote is not None:
        bid, bid_size, ask, ask_size = quoted(
            "quote", rfc3339_ns(quote.t), ts_recv, quote.bp, quote.bs, quote.ap, quote.as_
        )
        age_ns = ts_event - rfc3339_ns(quote.t)
    elif trade is not None:
        age_ns = ts_event - rfc3339_ns(trade.t)
    known = greeks.delta is not None
    iv = _number(leg.impliedVolatility)
    scope.options.append(
        ts_event, ts_recv, scope.feed_id, scope.text(contract.symbol), scope.text(symbol), contract.expires_ns,
        contract.strike, contract.option_type, bid, bid_size, ask, ask_size,
        trade.p if trade is not None and 0.0 < trade.p < INF else NAN,
        _number(leg.dailyBar.v if leg.dailyBar is not None else None), NAN, iv if iv > 0.0 else NAN,
        *map(_number, (greeks.delta, greeks.gamma, greeks.theta, greeks.vega, greeks.rho)),
        scope.text("provider") if known else TEXT_NULL, worth, age_ns,
    )  # fmt: skip


def _number(value: float | None) -> float:
    return value if value is not None and -INF < value < INF else NAN
