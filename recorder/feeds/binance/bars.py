"""Bars that Binance remembers, by time.

https://developers.binance.com/docs/binance-spot-api-docs/rest-api (klines)
https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Kline-Candlestick-Data
https://developers.binance.com/docs/derivatives/coin-margined-futures/market-data/Kline-Candlestick-Data
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import msgspec
from msgspec import Struct

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import NAN, Id, elements, fitting
from recorder.values.symbols import BinanceMarket

PATHS = {"spot": "/api/v3/klines", "usdm": "/fapi/v1/klines", "coinm": "/dapi/v1/klines"}
PAGE = 1000  # of spot; 1,500 of futures, at twice the weight
MILLISECOND = 1_000_000
TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
SPOT_TIMEFRAMES = ("1s", *TIMEFRAMES)


class Kline(Struct, array_like=True, gc=False):
    """[1499040000000,"0.01634790","0.80000000","0.01575800","0.01577100","148976.11427815",1499644799999,
    "2434.19055334",308,"1756.87402397","28.46694368","0"]
    """

    start: Id  # ms
    open: float
    high: float
    low: float
    close: float
    volume: float  # contracts on COIN-M
    end: Id
    turnover: float  # base asset on COIN-M
    trades: Id


_kline = msgspec.json.Decoder(Kline, strict=False).decode


def pages(
    base: str, market: BinanceMarket, name: str, request: HistoryRequest
) -> Generator[HttpRequest, HttpResponse, None]:
    def ask(start: int, end: int) -> HttpRequest:
        span = {"startTime": start // MILLISECOND, "endTime": end // MILLISECOND}
        return HttpRequest(address(base, PATHS[market], symbol=name, interval=request.timeframe, **span, limit=PAGE))

    return past_bars.windows(request, PAGE, ask, elements)


def decoder(scope: Scope, market: BinanceMarket) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        for k in fitting(body, _kline, refuse):
            vwap = k.turnover / k.volume if k.volume and market != "coinm" else NAN  # contracts tell no price
            yield Bar(k.start * MILLISECOND, k.open, k.high, k.low, k.close, k.volume, vwap, k.trades)

    return past_bars.decoder(scope, read)
