"""Trades that Deribit remembers: by trade_seq, and by time where only that is known.

https://docs.deribit.com/api-reference/market-data/public-get_last_trades_by_instrument
https://docs.deribit.com/api-reference/market-data/public-get_last_trades_by_instrument_and_time
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.feeds.deribit.messages import MILLISECOND, Trade, past_trades
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address, asked, by_id
from recorder.values.messages import UNREADABLE, element_reader, fitting

URL = "https://www.deribit.com"
ROOT = "/api/v2"  # of every path; the address that a user sets may end in it
BY_SEQ = ROOT + "/public/get_last_trades_by_instrument"
BY_TIME = ROOT + "/public/get_last_trades_by_instrument_and_time"
PAGE = 1000  # trades in one answer at most
PER_SECOND_MAX = 5.0  # a quarter of what the refill of credits allows: 10,000 a second at 500 a request
LIMITED_BY = (b'"code":10028',)  # too_many_requests


class Result(Struct):
    trades: msgspec.Raw
    has_more: bool = False


class Page(Struct):
    """{"jsonrpc":"2.0","result":{"trades":[…],"has_more":false},"usIn":…,"usOut":…,"usDiff":764}, or
    {"jsonrpc":"2.0","error":{"code":10028,"message":"too_many_requests"}}"""

    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_page = msgspec.json.Decoder(Page).decode


_result = msgspec.json.Decoder(Result).decode


def result_of(body: bytes) -> msgspec.Raw:
    """Raises FrameError, also for an error that comes as HTTP 200."""
    try:
        page = _page(body)
    except UNREADABLE as error:
        raise FrameError(f"no answer of Deribit: {error}") from None
    if bytes(page.error) or not bytes(page.result):
        words = (bytes(page.error) or b"neither result nor error")[:200].decode("utf-8", "replace")
        raise FrameError(f"Deribit: {words}")
    return page.result


def read(body: bytes) -> Result:
    """A page of trades. Raises FrameError."""
    try:
        return _result(result_of(body))
    except UNREADABLE as error:
        raise FrameError(f"no page of trades: {error}") from None


def pages(base: str, instrument: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """Oldest first. A first page by time is followed by trade_seq: many trades may share a millisecond."""
    first = request.from_id if by_id(request) else None
    for _ in range(PAGES_MAX):
        if first is None:
            url = address(
                base, BY_TIME, instrument_name=instrument, start_timestamp=request.start // MILLISECOND,
                end_timestamp=request.end // MILLISECOND, count=PAGE, sorting="asc",
            )  # fmt: skip
        else:
            last = request.to_id if by_id(request) else None
            url = address(
                base, BY_SEQ, instrument_name=instrument, start_seq=first, end_seq=last, count=PAGE, sorting="asc"
            )  # fmt: skip
        response = yield HttpRequest(url)
        result = read(response.body)
        trades: list[Trade] = fitting(result.trades, element_reader(Trade), lambda why, part: None)
        if not trades or not result.has_more:
            return
        newest = max(trades, key=lambda trade: trade.trade_seq)
        if first is not None and newest.trade_seq < first:
            return
        if request.to_id is not None and by_id(request):
            done = newest.trade_seq >= request.to_id
        else:
            done = newest.timestamp * MILLISECOND > request.end
        if done:
            return
        first = newest.trade_seq + 1


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    store = past_trades(scope)

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        store(read(body).trades, request.symbol, ts_recv, lambda ts_event, seq: asked(request, ts_event, seq))

    return decode
