"""Trades that OKX remembers, one by one, by id or by time.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-get-trades-history
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.feeds.okx.messages import MILLISECOND
from recorder.values.errors import FrameError
from recorder.values.feed import HOUR, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address, asked
from recorder.values.messages import INF, TS_AHEAD_MAX, TS_EVENT_MIN, UNREADABLE, Id, element_reader, fitting, misfit
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import BACKFILLED, BUY, SELL

URL = "https://www.okx.com"
PATH = "/api/v5/market/history-trades"
PAGE = 100  # trades in one answer at most
WINDOW_NS = 90 * 24 * HOUR  # about three months (unverified)
PER_SECOND_MAX = 5.0  # half of the 20 requests in 2 seconds that an address may make
LIMITED_BY = (b'"code":"50011"',)  # with status 429, and 200 (unverified)

BY_ID, BY_TIME = 1, 2  # what ``after`` is


class Past(Struct, gc=False):
    """{"instId":"BTC-USDT","side":"sell","sz":"0.00013669","px":"102537.9","tradeId":"734864333",
    "ts":"1747087163557"}"""

    tradeId: Id
    px: float
    sz: float  # contracts on derivatives
    side: Literal["buy", "sell"]  # of the taker
    ts: Id  # ms


class Page(Struct):
    """{"code":"0","msg":"","data":[…]}; an error is HTTP 200 with another code."""

    code: str
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


_page = msgspec.json.Decoder(Page).decode


def page_of(body: bytes) -> Page:
    """Raises FrameError, also for the errors that come as HTTP 200."""
    try:
        page = _page(body)
    except UNREADABLE as error:
        raise FrameError(f"no answer of OKX: {error}") from None
    if page.code != "0":
        raise FrameError(f"OKX: {page.code[:20]} {page.msg[:200]}")
    return page


def _read(body: bytes, refuse: Callable[[str, bytes], None]) -> list[Past]:
    """Trades of a page. Raises FrameError."""
    return fitting(page_of(body).data, element_reader(Past), refuse)


def pages(base: str, name: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """Newest first, from ``to_id`` or ``end`` down; ``after`` names what is just too new.

    name  the instrument as OKX writes it
    """
    first, last = request.from_id, request.to_id
    kind, cursor = BY_TIME, request.end // MILLISECOND + 1
    if first is not None and last is not None:
        kind, cursor = BY_ID, last + 1
    for _ in range(PAGES_MAX):
        limit = min(PAGE, cursor - first) if kind == BY_ID and first is not None and last is not None else PAGE
        response = yield HttpRequest(address(base, PATH, instId=name, type=kind, after=cursor, limit=max(1, limit)))
        trades = _read(response.body, lambda why, part: None)
        if not trades:
            return
        oldest = min(trade.tradeId for trade in trades)
        if first is not None and last is not None:
            done = oldest <= first
        else:
            done = min(trade.ts for trade in trades) < request.start // MILLISECOND
        if done or (kind == BY_ID and oldest >= cursor):
            return
        kind, cursor = BY_ID, oldest


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        for trade in _read(body, lambda why, part: scope.reject(why, part, ts_recv)):
            price, size, ts_event = trade.px, trade.sz, trade.ts * MILLISECOND
            if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
                reason = misfit("trade", ts_event, ts_recv, price=price, size=size)
                scope.reject(reason, msgspec.json.encode(trade), ts_recv)
            elif asked(request, ts_event, trade.tradeId):
                scope.trades.append(
                    ts_event, ts_recv, scope.series(request.symbol), TEXT_NULL, trade.tradeId, TEXT_NULL, price, size,
                    BUY if trade.side == "buy" else SELL, TEXT_NULL, TEXT_NULL, BACKFILLED,
                )  # fmt: skip

    return decode
