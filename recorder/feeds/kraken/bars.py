"""Bars that Kraken remembers: the newest 720 of a timeframe, however old the start that is asked for.

https://docs.kraken.com/api/docs/rest-api/get-ohlc-data
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import msgspec
from msgspec import Struct

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.feeds.kraken.history import page_of, rest_name
from recorder.values.feed import MINUTE, SECOND, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import NAN, Id, fitting
from recorder.values.timeframes import LENGTHS

PATH = "/0/public/OHLC"
TIMEFRAMES = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w")


class Candle(Struct, array_like=True, gc=False):
    """[1688671200,"30306.1","30306.2","30305.7","30305.7","30306.1","3.39243896",23]"""

    start: Id  # s
    open: float
    high: float
    low: float
    close: float
    vwap: float  # 0.0 without trades
    volume: float
    count: Id


_candle = msgspec.json.Decoder(Candle, strict=False).decode


def pages(base: str, pair: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """One answer has all there is. ``since`` is exclusive (unverified), so a second is taken off."""
    minutes = LENGTHS[request.timeframe] // MINUTE
    response = yield HttpRequest(
        address(base, PATH, pair=rest_name(pair), interval=minutes, since=max(0, request.start // SECOND - 1))
    )
    page_of(response.body)


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        for c in fitting(page_of(body)[0], _candle, refuse):
            vwap = c.vwap if c.count else NAN
            yield Bar(c.start * SECOND, c.open, c.high, c.low, c.close, c.volume, vwap, c.count)

    return past_bars.decoder(scope, read)
