"""Which providers can be simulated, and how each spells symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recorder.shell.simulator import bars, pages
from recorder.shell.simulator.alpaca import Alpaca
from recorder.shell.simulator.alpaca_pages import alpaca, alpaca_headers
from recorder.shell.simulator.binance import Binance
from recorder.shell.simulator.bitstamp import Bitstamp, transactions
from recorder.shell.simulator.bybit import LIMITED as BYBIT_LIMITED
from recorder.shell.simulator.bybit import Bybit, bybit_headers, recent_trades
from recorder.shell.simulator.coinbase import Advanced, Exchange
from recorder.shell.simulator.deribit import LIMITED, Deribit, last_trades
from recorder.shell.simulator.kraken import Kraken
from recorder.shell.simulator.okx import Okx, okx_page
from recorder.shell.simulator.polygon import Polygon, cluster_of
from recorder.shell.simulator.polygon_pages import polygon
from recorder.shell.simulator.rest import Answer, Rest
from recorder.shell.simulator.venue import Conversation, Venue
from recorder.values.feed import FeedSpec
from recorder.values.occ import parse
from recorder.values.symbols import BybitMarket, binance_name, bybit_name, okx_name, pair_with

CONVERSATIONS: dict[str, type[Conversation]] = {
    "coinbase": Exchange,
    "coinbase-advanced": Advanced,
    "binance": Binance,
    "binance-usdm": Binance,
    "binance-coinm": Binance,
    "kraken": Kraken,
    "bitstamp": Bitstamp,
    "bybit": Bybit,
    "bybit-linear": Bybit,
    "bybit-inverse": Bybit,
    "okx": Okx,
    "deribit": Deribit,
    "alpaca": Alpaca,
    "polygon": Polygon,
}
_COINS = ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA", "LTC", "LINK", "AVAX", "DOT")
_ENDINGS = {  # of their symbols, where these are not spot in dollars
    "binance": "-USDT", "binance-usdm": "-USDT-PERP", "binance-coinm": "-USD-PERP", "okx": "-USDT",
    "bybit": "-USDT", "bybit-linear": "-USDT-PERP", "bybit-inverse": "-USD-PERP",
    "deribit": "-USD-PERP",
}  # fmt: skip
_SHARES = ("alpaca", "polygon")  # providers of stocks first of all
_STOCKS = ("SPY", "NVDA", "TSLA", "AAPL", "AMD", "MSFT", "AMZN", "QQQ", "META", "GOOGL")


def venue_key(spec: FeedSpec) -> str:
    """The simulated provider that a feed talks to."""
    if spec.provider == "coinbase":
        return "coinbase-advanced" if spec.options.get("api") == "advanced" else "coinbase"
    if spec.provider == "binance":
        market = spec.options.get("market", "spot")
        return "binance" if market == "spot" else f"binance-{market}"
    if spec.provider == "bybit":
        market = spec.options.get("market", "spot")
        return "bybit" if market == "spot" else f"bybit-{market}"
    return spec.provider


def default_symbols(key: str) -> tuple[str, ...]:
    """Ten canonical symbols that the provider really has."""
    if key in _SHARES:
        return _STOCKS
    return tuple(coin + _ENDINGS.get(key, "-USD") for coin in _COINS)


def _spelled(key: str, symbol: str) -> str:
    if key.startswith("binance"):
        market = key.partition("-")[2]
        return binance_name(symbol, "usdm" if market == "usdm" else "coinm" if market == "coinm" else "spot")
    if key == "deribit":
        perpetual = symbol.removesuffix("-PERP")
        return symbol if perpetual == symbol else f"{perpetual.removesuffix('-USD').replace('-', '_')}-PERPETUAL"
    if key == "bitstamp":
        return pair_with("", symbol).lower()
    if key == "okx":
        return okx_name(symbol)
    if key.startswith("bybit"):
        markets: dict[str, BybitMarket] = {"linear": "linear", "inverse": "inverse", "option": "option"}
        return bybit_name(symbol, markets.get(key.partition("-")[2], "spot"))
    if key == "polygon" and len(symbol) >= 16:
        return f"O:{parse(symbol).compact}"
    if key == "kraken" or (key == "alpaca" and "-" in symbol):
        return pair_with("/", symbol)
    return symbol.replace(" ", "") if key == "alpaca" else symbol


def make_venue(key: str, symbols: Sequence[str] | None, now: Callable[[], int], rules: dict[str, object]) -> Venue:
    """A provider with these canonical symbols; None: ten of its own; empty: it plays a recording and knows none."""
    chosen = default_symbols(key) if symbols is None else tuple(symbols)
    shares = key in _SHARES and not any("-" in symbol for symbol in chosen)
    names = tuple(_spelled(key, symbol) for symbol in chosen)
    return Venue(key, chosen, names, 0 if shares else 6, now, rules, playing=symbols is not None and not chosen)


def default_path(venue: Venue) -> str:
    """Path of the provider's own stream, after the provider's name."""
    if venue.key.startswith("binance"):
        return "/stream"
    if venue.key not in _SHARES:
        return ""
    if venue.key == "polygon":
        return f"/{cluster_of(venue)}"
    if venue.symbols and "-" in venue.symbols[0]:
        return "/v1beta3/crypto/us"
    return "/v1beta1/opra" if venue.symbols and len(venue.symbols[0]) >= 16 else "/v2/iex"


def make_rest(venue: Venue) -> Rest:
    """The provider's HTTP interface."""
    if venue.key.startswith("binance"):
        busy = Answer(429, {"code": -1003, "msg": "Too much request weight used; current limit is IP per minute."})
        return Rest(venue, bars.beside(pages.binance), busy, pages.binance_weight, pages.binance_headers)
    if venue.key == "kraken":
        return Rest(venue, bars.beside(pages.kraken), Answer(200, {"error": ["EGeneral:Too many requests"]}))
    if venue.key == "okx":
        busy = Answer(429, {"code": "50011", "msg": "Too Many Requests", "data": []})
        return Rest(venue, bars.beside(okx_page), busy)
    if venue.key.startswith("bybit"):
        return Rest(venue, bars.beside(recent_trades), BYBIT_LIMITED, told=bybit_headers, retry_after=False)
    if venue.key == "alpaca":
        busy = Answer(429, {"message": "too many requests."})
        return Rest(venue, bars.beside(alpaca), busy, told=alpaca_headers, retry_after=False)
    if venue.key == "polygon":
        return Rest(venue, polygon, Answer(429, {"status": "ERROR", "error": "You've exceeded the maximum requests"}))
    if venue.key == "bitstamp":
        limited = {"status": "error", "reason": "Request rejected due to exceeded rate limit.", "code": "400.002"}
        return Rest(venue, bars.beside(transactions), Answer(400, limited))
    if venue.key == "deribit":
        return Rest(venue, bars.beside(last_trades), LIMITED)
    page = pages.coinbase if venue.key == "coinbase" else pages.coinbase_advanced
    return Rest(venue, bars.beside(page), Answer(429, {"message": "Public rate limit exceeded"}))
