"""Bars that Deribit remembers, by time. https://docs.deribit.com/#public-get_tradingview_chart_data"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import msgspec
from msgspec import Struct

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.feeds.deribit.history import ROOT, result_of
from recorder.feeds.deribit.messages import TIMEFRAMES
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import UNREADABLE

PATH = ROOT + "/public/get_tradingview_chart_data"
PAGE = 5000  # bars in one answer at most (unverified)
MILLISECOND = 1_000_000


class Chart(Struct):
    """{"volume":[19.00],"ticks":[1554373800000],"status":"ok","open":[4963.42],"low":[4728.94],"high":[5185.45],
    "cost":[19206.0],"close":[5052.95]}; status no_data and empty lists where there is nothing.
    """

    ticks: list[int]  # ms
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]  # in the base currency
    status: str = "ok"


_chart = msgspec.json.Decoder(Chart).decode


def pages(base: str, instrument: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    def ask(start: int, end: int) -> HttpRequest:
        span = {"start_timestamp": start // MILLISECOND, "end_timestamp": end // MILLISECOND}
        return HttpRequest(
            address(base, PATH, instrument_name=instrument, **span, resolution=TIMEFRAMES[request.timeframe])
        )

    return past_bars.windows(request, PAGE, ask, result_of)


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        try:
            chart = _chart(result_of(body))
        except UNREADABLE as error:
            raise FrameError(f"no chart: {error}") from None
        columns = (chart.ticks, chart.open, chart.high, chart.low, chart.close, chart.volume)
        if len({len(column) for column in columns}) != 1:
            raise FrameError(f"a chart with columns of {[len(column) for column in columns]} bars")
        for start, *values in zip(*columns, strict=True):
            yield Bar(int(start) * MILLISECOND, *values)

    return past_bars.decoder(scope, read)
