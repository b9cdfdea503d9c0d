"""Trades that Binance remembers, by id.

https://developers.binance.com/docs/binance-spot-api-docs/rest-api
https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Compressed-Aggregate-Trades-List
https://developers.binance.com/docs/derivatives/coin-margined-futures/market-data/Compressed-Aggregate-Trades-List

Times are milliseconds here and in the streams. A stream that was asked for microseconds (``timeUnit`` in its url) has
others: then the header X-MBX-TIME-UNIT asks for them here, too (spot only, as the parameter is).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from recorder.core.batch import Scope
from recorder.feeds.binance.messages import Id
from recorder.feeds.binance.rows import INF, ns_of, time_ns
from recorder.values.errors import FrameError
from recorder.values.feed import HOUR, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address, asked, by_id
from recorder.values.messages import UNREADABLE, fitting
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import BinanceMarket
from recorder.values.tables import BACKFILLED, BUY, SELL

# data-api.binance.vision, which serves market data only, has aggTrades and no historicalTrades.
URLS = {"spot": "https://api.binance.com", "usdm": "https://fapi.binance.com", "coinm": "https://dapi.binance.com"}
AGGREGATED = {"spot": "/api/v3/aggTrades", "usdm": "/fapi/v1/aggTrades", "coinm": "/dapi/v1/aggTrades"}
SINGLE = "/api/v3/historicalTrades"  # of spot; that of futures needs a key
PAGE = 1000  # trades in one answer at most
# Futures documentation says one year; that of USD-M has dropped the sentence, other clients saw less (unverified).
WINDOW_NS = {"spot": 0, "usdm": 365 * 24 * HOUR, "coinm": 365 * 24 * HOUR}
# Weights by minute and address: 6,000 on spot, where a page of single trades weighs 25 and one of aggregated trades 4;
# 2,400 on futures, where a page weighs 20. So at most half of it is spent on repair. Who shares the address may have
# spent the rest: each answer says how much of the minute's is used, and before a page could exceed it, we wait.
WEIGHT_MAX = {"spot": 5900, "usdm": 2300, "coinm": 2300}
PER_SECOND_MAX = {("spot", False): 2.0, ("spot", True): 10.0, ("usdm", True): 1.0, ("coinm", True): 1.0}


class Past(msgspec.Struct, gc=False, kw_only=True):
    """{"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1499865549590,
    "isBuyerMaker":true,"isBestMatch":true}"""

    t: Id = msgspec.field(name="id")
    p: float = msgspec.field(name="price")
    q: float = msgspec.field(name="qty")
    T: int = msgspec.field(name="time")
    m: bool = msgspec.field(name="isBuyerMaker")


class PastAggregate(msgspec.Struct, gc=False, kw_only=True):
    """{"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,"T":1498793709153,"m":true,"M":true}"""

    t: Id = msgspec.field(name="a")
    p: float
    q: float
    f: Id
    T: int
    m: bool


_single = msgspec.json.Decoder(Past, strict=False).decode
_aggregate = msgspec.json.Decoder(PastAggregate, strict=False).decode


def _either(raw: Any) -> Any:
    """A single trade; or an aggregated one, of the page that only told from which id on to ask."""
    try:
        return _single(raw)
    except UNREADABLE as error:
        try:
            return _aggregate(raw)
        except UNREADABLE:
            raise error from None


def pages(
    base: str, market: BinanceMarket, aggregated: bool, name: str, microseconds: bool, request: HistoryRequest
) -> Generator[HttpRequest, HttpResponse, None]:
    """Oldest first, from ``from_id`` on. Without ids, the aggregated trades say which was the first since ``start``.

    name  the symbol as Binance writes it
    A page may hold less than was asked for: an empty one is the end.
    """
    headers = (("X-MBX-TIME-UNIT", "MICROSECOND"),) if microseconds else ()
    path = AGGREGATED[market] if aggregated else SINGLE

    def page(where: str, **query: int | None) -> Generator[HttpRequest, HttpResponse, list[Any]]:
        response = yield HttpRequest(address(base, where, symbol=name, **query), headers)
        return fitting(response.body, _aggregate if where == AGGREGATED[market] else _single, _ignore)

    first, last = request.from_id, request.to_id
    if first is None or last is None:
        since = yield from page(
            AGGREGATED[market], startTime=request.start // 1_000_000, limit=PAGE if aggregated else 1
        )
        last = None
        if not since:
            return
        if aggregated and _past(since[-1], request):
            return
        first = since[-1].t + 1 if aggregated else since[0].f
    for _ in range(PAGES_MAX):
        limit = PAGE if last is None else min(PAGE, last - first + 1)
        trades = yield from page(path, fromId=first, limit=limit)
        if not trades or _past(trades[-1], request) or trades[-1].t < first:
            return
        first = trades[-1].t + 1
        if last is not None and first > last:
            return


def _past(trade: Any, request: HistoryRequest) -> bool:
    """Whether this trade of a page ordered by id lies past the range of time; ids are their own end."""
    return not by_id(request) and ns_of(trade.T) > request.end


def _ignore(why: str, part: bytes) -> None:
    """Of a page that is only read to know how to go on."""


def decoder(scope: Scope, aggregated: bool) -> Callable[[HistoryRequest, bytes, int], None]:
    read = _aggregate if aggregated else _either

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        for trade in fitting(body, read, lambda why, part: scope.reject(why, part, ts_recv)):
            if isinstance(trade, PastAggregate) and not aggregated:
                continue
            try:
                ts_event = time_ns(trade.T, ts_recv)
                if not (0.0 < trade.p < INF and 0.0 <= trade.q < INF):
                    raise FrameError(f"trade of {trade.q} at {trade.p}")
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(trade), ts_recv)
                continue
            if asked(request, ts_event, trade.t):
                scope.trades.append(
                    ts_event, ts_recv, scope.series(request.symbol), TEXT_NULL, trade.t, TEXT_NULL, trade.p, trade.q,
                    SELL if trade.m else BUY, TEXT_NULL, TEXT_NULL, BACKFILLED,
                )  # fmt: skip

    return decode
