"""Bars that Bybit remembers, by time. https://bybit-exchange.github.io/docs/v5/market/kline"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import msgspec
from msgspec import Struct

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.feeds.bybit.history import page_of
from recorder.feeds.bybit.messages import MILLISECOND, TIMEFRAMES
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import Id, fitting

PATH = "/v5/market/kline"
PAGE = 1000  # bars in one answer at most
NAMES = TIMEFRAMES | {"1w": "W", "1M": "M"}


class Candle(Struct, array_like=True, gc=False):
    """["1670608800000","17071","17073","17027","17055.5","268611","15.74462667"]; last is the turnover, not read."""

    start: Id  # ms
    open: float
    high: float
    low: float
    close: float
    volume: float  # coins; of inverse contracts dollars


_candle = msgspec.json.Decoder(Candle, strict=False).decode


def pages(base: str, market: str, name: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """``start`` and ``end`` name the first and the last bar."""

    def ask(start: int, end: int) -> HttpRequest:
        span = {"start": start // MILLISECOND, "end": end // MILLISECOND}
        interval = NAMES[request.timeframe]
        return HttpRequest(address(base, PATH, category=market, symbol=name, interval=interval, **span, limit=PAGE))

    return past_bars.windows(request, PAGE, ask, page_of)


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        for c in fitting(page_of(body).list, _candle, refuse):
            yield Bar(c.start * MILLISECOND, c.open, c.high, c.low, c.close, c.volume)

    return past_bars.decoder(scope, read)
