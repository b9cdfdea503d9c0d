"""Trades that Coinbase remembers: Exchange by id, Advanced Trade by time.

https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-trades
https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/products/get-market-trades

Times have microseconds in both, as in both streams; the pages show milliseconds in some examples, which would be
another identity (unverified: no live answer has shown them).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.coinbase import advanced
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address, asked
from recorder.values.messages import (
    INF,
    TS_AHEAD_MAX,
    TS_EVENT_MIN,
    UNREADABLE,
    Id,
    element_reader,
    fitting,
    misfit,
)
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import text_id
from recorder.values.tables import BACKFILLED, BUY, SELL

URLS = {"exchange": "https://api.exchange.coinbase.com", "advanced": "https://api.coinbase.com"}
PATHS = {"exchange": "/products/{}/trades", "advanced": "/api/v3/brokerage/market/products/{}/ticker"}
PAGE = 1000  # trades in one answer at most; of Advanced Trade not documented, but what public clients ask for
PER_SECOND_MAX = 5.0  # half of the ten requests a second that one address may make of the public endpoints


class Past(Struct, gc=False):
    """{"time":"2014-11-07T22:19:28.578544Z","trade_id":74,"price":"10.00000000","size":"0.01000000","side":"buy"}"""

    time: str
    trade_id: Id
    price: float
    size: float
    side: Literal["buy", "sell"]  # of the maker


class AdvancedPage(Struct):
    """{"trades":[{"trade_id":"995098663","product_id":"BTC-USD","price":"68923.67","size":"0.00064",
    "time":"2026-04-07T00:28:58.544778Z","side":"SELL","bid":"","ask":"","exchange":"coinbase"}],
    "best_bid":"68923.66","best_ask":"68923.67"}

    The side is the maker's as in the stream: SELL at the best ask above is a buyer's trade.
    """

    trades: msgspec.Raw


Refuse = Callable[[str, bytes], None]


def _exchange_trades(body: bytes, refuse: Refuse) -> list[Any]:
    return fitting(body, element_reader(Past), refuse)


def _advanced_trades(body: bytes, refuse: Refuse) -> list[Any]:
    try:
        page = msgspec.json.decode(body, type=AdvancedPage)
    except UNREADABLE as error:
        raise FrameError(f"no page of trades, {error}: {body[:200].decode('utf-8', 'replace')}") from None
    return fitting(page.trades, element_reader(advanced.Trade), refuse)


def _readable(read: Callable[[bytes, Refuse], list[Any]], body: bytes) -> list[tuple[int, Any]]:
    """(time, trade) of what can be read of a page; what is wrong with the rest, decode says. Raises FrameError."""
    found = []
    for trade in read(body, lambda why, part: None):
        with suppress(FrameError):
            found.append((rfc3339_ns(trade.time), trade))
    return found


def exchange_pages(url: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """Newest first: from ``to_id`` down; by time from now down, as there is no parameter for it."""
    first, last = request.from_id, request.to_id
    ids = first is not None and last is not None
    cursor = last + 1 if ids and last is not None else None
    for _ in range(PAGES_MAX):
        limit = min(PAGE, cursor - first) if ids and cursor is not None and first is not None else PAGE
        response = yield HttpRequest(address(url, "", limit=limit, after=cursor))  # older than this id
        trades = _readable(_exchange_trades, response.body)
        if not trades:
            return
        oldest = min(trade.trade_id for _, trade in trades)
        done = oldest <= first if ids and first is not None else min(time for time, _ in trades) < request.start
        if done or (cursor is not None and oldest >= cursor):
            return
        cursor = oldest


def advanced_pages(url: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """Newest first, by whole seconds; a page is followed by one that ends where its oldest whole second begins.

    How much a page may hold is not documented: the end is where nothing older comes.
    """
    start, end = request.start // SECOND, request.end // SECOND + 1
    for _ in range(PAGES_MAX):
        response = yield HttpRequest(address(url, "", limit=PAGE, start=start, end=end))
        times = [time for time, _ in _readable(_advanced_trades, response.body)]
        if not times:
            return
        following = _whole_from(times) // SECOND
        if following <= start or following >= end:
            return
        end = following


def _whole_from(times: list[int]) -> int:
    """From when on a page is whole, ns: its oldest second may have been cut, so the next page repeats it.

    A page of one second only is taken as it is: the rest of that second cannot be had.
    """
    oldest = min(times) // SECOND * SECOND
    return oldest + SECOND if max(times) >= oldest + SECOND else oldest


def exchange_decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        refuse = _refuser(scope, ts_recv)
        for trade in _exchange_trades(body, refuse):
            _store(scope, request, trade, trade.trade_id, None, ts_recv)

    return decode


def advanced_decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    page_before: tuple[HistoryRequest | None, frozenset[str | int]] = (None, frozenset())

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        """What the page before had is not stored twice: it ended in the second that this one begins with."""
        nonlocal page_before
        trades = _advanced_trades(body, _refuser(scope, ts_recv))
        known = page_before[1] if page_before[0] == request else frozenset()
        page_before = (request, frozenset(trade.trade_id for trade in trades))
        for trade in trades:
            if trade.trade_id not in known:
                trade_id, reference = text_id(trade.trade_id)
                _store(scope, request, trade, trade_id, reference, ts_recv)

    return decode


def _refuser(scope: Scope, ts_recv: int) -> Refuse:
    return lambda why, part: scope.reject(why, part, ts_recv)


def _store(
    scope: Scope, request: HistoryRequest, trade: Any, trade_id: int, reference: str | None, ts_recv: int
) -> None:
    """A row, if it was asked for; one that does not fit is rejected alone."""
    try:
        ts_event, price, size = rfc3339_ns(trade.time), trade.price, trade.size
        if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
            raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
    except FrameError as error:
        scope.reject(str(error), msgspec.json.encode(trade), ts_recv)
        return
    if not asked(request, ts_event, trade_id):
        return
    scope.trades.append(
        ts_event, ts_recv, scope.series(request.symbol), TEXT_NULL, trade_id, scope.trades.varchar(reference),
        price, size,
        BUY if trade.side in ("sell", "SELL") else SELL,  # it names the resting side; we store the aggressor's
        TEXT_NULL, TEXT_NULL, BACKFILLED,
    )  # fmt: skip
