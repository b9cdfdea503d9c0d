"""Bars that OKX remembers, by time. https://www.okx.com/docs-v5/en/#order-book-trading-market-data-get-candlesticks-history"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import msgspec
from msgspec import Struct

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.feeds.okx.history import page_of
from recorder.feeds.okx.messages import MILLISECOND
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import Id, fitting

PATH = "/api/v5/market/history-candles"
PAGE = 100  # bars in one answer at most; 300 are documented since 2024 (unverified)
NAMES = {
    "1s": "1s", "1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1H", "2h": "2H", "4h": "4H",
    "6h": "6Hutc", "12h": "12Hutc", "1d": "1Dutc", "1w": "1Wutc", "1M": "1Mutc",
}  # fmt: skip


class Candle(Struct, array_like=True, gc=False):
    """["1597026383085","3.721","3.743","3.677","3.708","8422410","22698348.04828491","12698348.04828491","1"]

    What follows the volume are volumes in other units and whether the bar is over, which its time says as well.
    """

    start: Id  # ms
    open: float
    high: float
    low: float
    close: float
    volume: float  # contracts on derivatives


_candle = msgspec.json.Decoder(Candle, strict=False).decode


def pages(base: str, name: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """``after`` is what is older, ``before`` what is newer, both exclusive."""

    def ask(start: int, end: int) -> HttpRequest:
        span = {"after": end // MILLISECOND + 1, "before": start // MILLISECOND - 1}
        return HttpRequest(address(base, PATH, instId=name, bar=NAMES[request.timeframe], **span, limit=PAGE))

    return past_bars.windows(request, PAGE, ask, page_of)


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        for c in fitting(page_of(body).data, _candle, refuse):
            yield Bar(c.start * MILLISECOND, c.open, c.high, c.low, c.close, c.volume)

    return past_bars.decoder(scope, read)
