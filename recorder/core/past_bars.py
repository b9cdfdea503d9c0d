"""Bars of a provider's history: what all of them share of asking for pages and of making rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

from recorder.core.batch import Scope
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX
from recorder.values.messages import INF, NAN, TS_EVENT_MIN
from recorder.values.schema import LONG_NULL
from recorder.values.tables import BACKFILLED
from recorder.values.timeframes import LENGTHS, end_of

Refuse = Callable[[str, bytes], None]


class Bar(NamedTuple):
    """``start`` in ns; ``vwap`` is NAN and ``trades`` LONG_NULL where the provider sends none."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float = NAN
    trades: int = LONG_NULL


def windows(
    request: HistoryRequest, bars: int, ask: Callable[[int, int], HttpRequest], check: Callable[[bytes], object]
) -> Generator[HttpRequest, HttpResponse, None]:
    """Stretches of at most ``bars`` bars, oldest first; ``ask(start, end)`` in ns, both inclusive, on bars' starts.

    check  raises FrameError for an answer that is an error
    """
    step = LENGTHS[request.timeframe]
    start = -(-request.start // step) * step  # bars begin on whole multiples, and a week with a day of its own
    if step > LENGTHS["1d"]:
        start = request.start
    for _ in range(PAGES_MAX):
        if start > request.end:
            return
        response = yield ask(start, min(request.end, start + (bars - 1) * step))
        check(response.body)
        start += bars * step


def decoder(
    scope: Scope, read: Callable[[HistoryRequest, bytes, Refuse], Iterable[Bar]], flags: int = 0
) -> Callable[[HistoryRequest, bytes, int], None]:
    """Bars that were asked for and are over, as rows flagged BACKFILLED. A bar that does not fit is rejected alone.

    flags  further ones of every bar
    """

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        def refuse(why: str, part: bytes) -> None:
            scope.reject(why, part, ts_recv)

        series, timeframe = scope.series(request.symbol), scope.text(request.timeframe)
        for bar in read(request, body, refuse):
            if not request.start <= bar.start <= request.end or end_of(bar.start, request.timeframe) > ts_recv:
                continue  # pages hold more than was asked for, and the bar of now is not over
            try:
                _check(bar)
            except FrameError as error:
                refuse(str(error), repr(tuple(bar)).encode())
                continue
            scope.bars.append(
                bar.start, ts_recv, series, timeframe, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.vwap,
                bar.trades, BACKFILLED | flags,
            )  # fmt: skip

    return decode


def _check(bar: Bar) -> None:
    """Raises FrameError. Vendors round: an extreme may miss the open or the close by a rounding, which is theirs."""
    start, first, high, low, last, volume = bar[:6]
    if start < TS_EVENT_MIN:
        raise FrameError(f"bar of {start} ns since 1970")
    if not (0.0 < low <= high < INF and 0.0 < first < INF and 0.0 < last < INF and 0.0 <= volume < INF):
        raise FrameError(f"bar of open {first}, high {high}, low {low}, close {last}, volume {volume}")
