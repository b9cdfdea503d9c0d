"""Trades that Bybit remembers: the last ones, without a way to ask for older.

https://bybit-exchange.github.io/docs/v5/market/recent-trade
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.feeds.bybit.messages import MILLISECOND, add_trades
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import UNREADABLE, Id, Name, element_reader, fitting
from recorder.values.tables import BACKFILLED

URL = "https://api.bybit.com"
PATH = "/v5/market/recent-trade"
PAGE, PAGE_OF_SPOT = 1000, 60  # trades in the only answer there is
PER_SECOND_MAX = 10.0  # a twelfth of 600 requests in 5 seconds and address; who asks for more is banned for 10 minutes
LIMITED_BY = (b'"retCode":10006', b"access too frequent")  # of one endpoint with status 200; of the ban with 403


class Past(Struct, gc=False):
    """{"execId":"2100000000007764263","symbol":"BTCUSDT","price":"16618.49","size":"0.00012","side":"Buy",
    "time":"1672052955758","isBlockTrade":false}: execId is the stream's ``i`` (unverified)"""

    execId: Name
    price: float
    size: float
    side: Literal["Buy", "Sell"]  # of the taker
    time: Id  # ms
    isBlockTrade: bool = False
    isRPITrade: bool = False


class Result(Struct):
    list: msgspec.Raw = msgspec.Raw(b"[]")


class Page(Struct):
    """{"retCode":0,"retMsg":"OK","result":{"category":"spot","list":[…]},"retExtInfo":{},"time":1672053054358}

    An error is HTTP 200 with another code.
    """

    retCode: int
    retMsg: str = ""
    result: Result | None = None


_page = msgspec.json.Decoder(Page).decode


def page_of(body: bytes) -> Result:
    """What an answer holds. Raises FrameError, also for the errors that come as HTTP 200."""
    try:
        page = _page(body)
    except UNREADABLE as error:
        raise FrameError(f"no answer of Bybit: {error}") from None
    if page.retCode != 0 or page.result is None:
        raise FrameError(f"Bybit: {page.retCode} {page.retMsg[:200]}")
    return page.result


def _read(body: bytes, refuse: Callable[[str, bytes], None]) -> list[Past]:
    """Trades of a page. Raises FrameError."""
    return fitting(page_of(body).list, element_reader(Past), refuse)


def pages(base: str, market: str, name: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """One page, newest first. Raises FrameError also where it begins after what was asked for: then it is not the last
    page, and what is older stays missing."""
    limit = PAGE_OF_SPOT if market == "spot" else PAGE
    response = yield HttpRequest(address(base, PATH, category=market, symbol=name, limit=limit))
    trades = _read(response.body, lambda why, part: None)
    if len(trades) >= limit and min(trade.time for trade in trades) * MILLISECOND >= request.start:
        raise FrameError(f"Bybit remembers {limit} trades of {name}, the oldest is younger than what is missing")


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    add = add_trades(scope)

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        for trade in _read(body, lambda why, part: scope.reject(why, part, ts_recv)):
            ts_event = trade.time * MILLISECOND
            if not request.start <= ts_event <= request.end:
                continue
            try:
                add(
                    ts_event, ts_recv, scope.series(request.symbol), trade.execId, trade.price, trade.size, trade.side,
                    trade.isBlockTrade, trade.isRPITrade, BACKFILLED,
                )  # fmt: skip
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(trade), ts_recv)

    return decode
