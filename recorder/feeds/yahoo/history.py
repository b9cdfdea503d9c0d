"""Bars that Yahoo remembers: of a minute for 8 days or so, of 5 and 15 for 60, of an hour for 730, of a day for ever.

Of regular hours.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from urllib.parse import quote

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.feeds.yahoo.names import TIMEFRAMES, own_name
from recorder.feeds.yahoo.rows import chart_of, check, listed
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND, HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import address
from recorder.values.messages import UNREADABLE
from recorder.values.tables import SPLIT_ADJUSTED
from recorder.values.timeframes import LENGTHS

URL = "https://query2.finance.yahoo.com"
PER_SECOND_MAX = 1.0  # not documented
NAMES = tuple(name for name in TIMEFRAMES if name in LENGTHS)
PAGE = 7 * 24 * 60  # bars: of a minute it gives 7 days at once; of the others, years


def pages(base: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    path, step = f"/v8/finance/chart/{quote(own_name(request.symbol), safe='')}", LENGTHS[request.timeframe]

    def ask(start: int, end: int) -> HttpRequest:
        span = {"period1": start // SECOND, "period2": (end + step) // SECOND}
        return HttpRequest(
            address(base, path, interval=TIMEFRAMES[request.timeframe][0], includePrePost="false", **span)
        )

    # Its bars begin with the session, not on whole hours and days.
    return past_bars.windows(replace(request, start=max(0, request.start - step)), PAGE, ask, check)


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        try:
            chart = chart_of(body, own_name(request.symbol), request.timeframe)
        except UNREADABLE as error:
            raise FrameError(f"no chart: {error}") from None
        for start, open_, high, low, close, volume in listed(chart):
            if start != chart.meta.regularMarketTime and start % 60 == 0:
                yield Bar(start * SECOND, open_, high, low, close, volume)

    return past_bars.decoder(scope, read, SPLIT_ADJUSTED)
