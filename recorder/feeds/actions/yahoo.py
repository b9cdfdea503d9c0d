"""Yahoo's dividends, splits and capital gains, from the events of its chart. Undocumented; yfinance is the reference.

Yahoo adjusts what a dividend paid by all later splits, again at each split. The table holds what was paid: the events
are asked for up to now, so that an answer has every split by which its amounts were divided.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec

from recorder.feeds.actions.asking import Action, Asked
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.history import address
from recorder.values.messages import UNREADABLE

SECOND = 1_000_000_000
AHEAD_S = 400 * 86_400  # from the end asked for: announced events lie within a year
DIGITS = 6  # decimals of an amount as Yahoo gives it
# Share classes of US stocks, which Yahoo joins by a dash: BRK.B is BRK-B. Other endings name an exchange: VOD.L.
_CLASS = re.compile(r"([A-Z]+)\.([ABC])")


class _Dividend(msgspec.Struct):
    """{"amount":0.77,"date":1573137000}"""

    amount: float
    date: int


class _Split(msgspec.Struct):
    """{"date":1598880600,"numerator":4,"denominator":1,"splitRatio":"4:1"}"""

    date: int
    numerator: float
    denominator: float


class _Events(msgspec.Struct):
    dividends: dict[str, _Dividend] = {}
    splits: dict[str, _Split] = {}
    capitalGains: dict[str, _Dividend] = {}


class _Meta(msgspec.Struct):
    exchangeTimezoneName: str


class _Result(msgspec.Struct):
    meta: _Meta
    events: _Events = msgspec.field(default_factory=_Events)


class _Chart(msgspec.Struct):
    result: list[_Result] | None = None
    error: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    chart: _Chart


_answer = msgspec.json.Decoder(_Answer).decode


class Yahoo(Asked):
    """{"chart":{"result":[{"meta":{"exchangeTimezoneName":"America/New_York",…},"timestamp":[…],
    "events":{"dividends":{"1573137000":{…}},"splits":{…}},"indicators":{…}}],"error":null}}
    """

    INFO = ProviderInfo(name="yahoo", channels=("actions",), hosts=("streamer.finance.yahoo.com",))
    URL = "https://query2.finance.yahoo.com"
    PER_SECOND_MAX = 1.0  # nothing is documented; it answers 429 to who asks much faster
    REACHES = "dividends, splits and capital gains since the listing"

    def pages(self, base: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        name = quote(_CLASS.sub(r"\1-\2", request.symbol), safe="")
        span = {"period1": max(0, request.start // SECOND - 86_400), "period2": request.end // SECOND + AHEAD_S}
        yield HttpRequest(
            address(base, f"/v8/finance/chart/{name}", interval="1d", **span, events="div,splits,capitalGains")
        )

    def actions(self, request: HistoryRequest, body: bytes, refuse: Callable[[str, bytes], None]) -> list[Action]:
        try:
            chart = _answer(body).chart
        except UNREADABLE as error:
            raise FrameError(f"no chart: {error}") from None
        if chart.error is not None or not chart.result:
            raise FrameError(f"no chart: {str(chart.error)[:200]}")
        zone, events = chart.result[0].meta.exchangeTimezoneName, chart.result[0].events
        for split in events.splits.values():
            if split.denominator <= 0:
                refuse(f"a split of {split.numerator:g} for {split.denominator:g}", msgspec.json.encode(split))
        splits = [(s.date, s.numerator / s.denominator) for s in events.splits.values() if s.denominator > 0]
        found = [
            Action(
                symbol=request.symbol, action_type="split", day=_day(s.date, zone), zone=zone,
                ratio=s.numerator / s.denominator,
            )
            for s in events.splits.values()
            if s.denominator > 0
        ]  # fmt: skip
        for kind, paid in (("cash_dividend", events.dividends), ("capital_gain", events.capitalGains)):
            for each in paid.values():
                amount = as_paid(each.amount, each.date, splits)
                found.append(
                    Action(symbol=request.symbol, action_type=kind, day=_day(each.date, zone), zone=zone, amount=amount)
                )
        return found


def as_paid(amount: float, date: int, splits: list[tuple[int, float]]) -> float:
    """What was paid for a share of then, to the digits that are left of it.

    splits  (Unix s, ratio)
    """
    ratio = math.prod(ratio for at, ratio in splits if at > date)
    if ratio == 1.0:
        return amount
    return round(amount * ratio, max(1, DIGITS - math.ceil(math.log10(max(1.0, ratio)))))


def _day(seconds: int, zone: str) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, ZoneInfo(zone)):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError, LookupError) as error:
        raise FrameError(f"time {seconds} in {zone[:60]!r}: {error}") from None
