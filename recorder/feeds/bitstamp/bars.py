"""Bars that Bitstamp remembers, by time. https://www.bitstamp.net/api/#tag/Market-info/operation/GetOHLCData"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import msgspec
from msgspec import Struct

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import UNREADABLE, Id, fitting
from recorder.values.timeframes import LENGTHS

URL = "https://www.bitstamp.net"
PAGE = 1000  # bars in one answer at most
TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d", "3d")
PER_SECOND_MAX = 5.0  # of 400 a second that an address may make, and 10,000 in ten minutes
LIMITED_BY = (b'"400.002"',)  # with status 400 (unverified)


class Candle(Struct, gc=False):
    """{"timestamp":"1712192400","open":"66312","high":"66331","low":"66055","close":"66181","volume":"35.82896243"}"""

    timestamp: Id  # s
    open: float
    high: float
    low: float
    close: float
    volume: float


class Data(Struct):
    ohlc: msgspec.Raw


class Page(Struct):
    """{"data":{"pair":"BTC/USD","ohlc":[…]}}"""

    data: Data


_page = msgspec.json.Decoder(Page).decode
_candle = msgspec.json.Decoder(Candle, strict=False).decode


def _listed(body: bytes) -> msgspec.Raw:
    try:
        return _page(body).data.ohlc
    except UNREADABLE as error:
        raise FrameError(f"no page of candles, {error}: {body[:200].decode('utf-8', 'replace')}") from None


def pages(base: str, pair: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    def ask(start: int, end: int) -> HttpRequest:
        span = {"start": start // SECOND, "end": end // SECOND}
        step = LENGTHS[request.timeframe] // SECOND
        return HttpRequest(address(base, f"/api/v2/ohlc/{pair}/", step=step, limit=PAGE, **span))

    return past_bars.windows(request, PAGE, ask, _listed)


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        for c in fitting(_listed(body), _candle, refuse):
            yield Bar(c.timestamp * SECOND, c.open, c.high, c.low, c.close, c.volume)

    return past_bars.decoder(scope, read)
