"""Bars that Coinbase remembers, by time.

https://docs.cdp.coinbase.com/api-reference/exchange-api/rest-api/products/get-product-candles
https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/products/get-public-product-candles

A minute without a trade has no bar in either.
"""

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
from recorder.values.messages import UNREADABLE, Id, elements, fitting
from recorder.values.timeframes import LENGTHS

PATHS = {"exchange": "/products/{}/candles", "advanced": "/api/v3/brokerage/market/products/{}/candles"}
PAGE = 300  # bars in one answer at most; Advanced Trade gives 350
GRANULARITIES = {
    "1m": "ONE_MINUTE", "5m": "FIVE_MINUTE", "15m": "FIFTEEN_MINUTE", "30m": "THIRTY_MINUTE", "1h": "ONE_HOUR",
    "2h": "TWO_HOUR", "6h": "SIX_HOUR", "1d": "ONE_DAY",
}  # fmt: skip
TIMEFRAMES = {"exchange": ("1m", "5m", "15m", "1h", "6h", "1d"), "advanced": tuple(GRANULARITIES)}


class Candle(Struct, array_like=True, gc=False):
    """[1415398768,0.32,4.2,0.35,4.2,12.3]"""

    start: Id  # s
    low: float
    high: float
    open: float
    close: float
    volume: float


class AdvancedCandle(Struct, gc=False):
    """{"start":"1712192400","low":"66055.14","high":"66331.99","open":"66312.4","close":"66181.6",
    "volume":"355.82896243"}
    """

    start: Id  # s
    low: float
    high: float
    open: float
    close: float
    volume: float


class Page(Struct):
    """{"candles":[…]}"""

    candles: msgspec.Raw


_candle = msgspec.json.Decoder(Candle, strict=False).decode
_advanced = msgspec.json.Decoder(AdvancedCandle, strict=False).decode
_page = msgspec.json.Decoder(Page).decode


def _listed(body: bytes) -> msgspec.Raw:
    """Of Advanced Trade. Raises FrameError."""
    try:
        return _page(body).candles
    except UNREADABLE as error:
        raise FrameError(f"no page of candles, {error}: {body[:200].decode('utf-8', 'replace')}") from None


def pages(base: str, api: str, product: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    def ask(start: int, end: int) -> HttpRequest:
        span = {"start": start // SECOND, "end": end // SECOND}
        if api == "exchange":
            query: dict[str, object] = {"granularity": LENGTHS[request.timeframe] // SECOND, **span}
        else:
            query = {**span, "granularity": GRANULARITIES[request.timeframe], "limit": PAGE}
        return HttpRequest(address(base, PATHS[api].format(product), **query))

    return past_bars.windows(request, PAGE, ask, elements if api == "exchange" else _listed)


def decoder(scope: Scope, api: str) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        candles = fitting(body, _candle, refuse) if api == "exchange" else fitting(_listed(body), _advanced, refuse)
        for c in candles:
            yield Bar(c.start * SECOND, c.open, c.high, c.low, c.close, c.volume)

    return past_bars.decoder(scope, read)
