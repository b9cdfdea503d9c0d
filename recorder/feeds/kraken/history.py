"""Trades that Kraken remembers, all of them, by time. https://docs.kraken.com/api/docs/rest-api/get-recent-trades"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.text_time import unix_ns
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address, asked
from recorder.values.messages import INF, TS_AHEAD_MAX, TS_EVENT_MIN, UNREADABLE, Id, fitting, misfit
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import BACKFILLED, BUY, SELL

URL = "https://api.kraken.com"
PATH = "/0/public/Trades"
PAGE = 1000  # trades in one answer at most
PER_SECOND_MAX = 1.0  # of the public endpoints, per address and pair (unverified number)
# With status 200 (words unverified).
LIMITED_BY = (b"EAPI:Rate limit exceeded", b"EGeneral:Too many requests", b"EService: Throttled")
MICROSECOND = 1_000

_OLD_NAMES = {"BTC": "XBT", "DOGE": "XDG"}  # of assets, in names of pairs


class Past(Struct, array_like=True, gc=False):
    """["105433.60000","0.00027625",1762795433.9717445,"b","l","",10218208]

    The time has seven digits, the stream's six. Both come from one clock of nanoseconds (``last``), so the seventh is
    cut off; that the stream cuts as well and does not round is unverified.
    """

    price: float
    volume: float
    time: msgspec.Raw  # read as text: a float would be rounded once more
    side: Literal["b", "s"]  # of the taker
    order_type: str
    misc: str
    trade_id: Id


class Page(Struct):
    """{"error":[],"result":{"XXBTZUSD":[[…],…],"last":"1688671969993150842"}}; errors come as HTTP 200, too."""

    error: list[str] = []  # a Struct copies its defaults
    result: dict[str, msgspec.Raw] = {}


_page = msgspec.json.Decoder(Page).decode
_past = msgspec.json.Decoder(Past, strict=False).decode
_last = msgspec.json.Decoder(int, strict=False).decode


def page_of(body: bytes) -> tuple[msgspec.Raw, msgspec.Raw]:
    """What an answer holds of the one pair, and its ``last``. Raises FrameError, also for errors as HTTP 200."""
    try:
        page = _page(body)
        if page.error:
            raise FrameError(f"Kraken: {', '.join(page.error)[:200]}")
        last = page.result.pop("last")
    except (*UNREADABLE, KeyError) as error:
        raise FrameError(f"no answer of Kraken: {error}") from None
    if len(page.result) != 1:
        raise FrameError(f"an answer about {len(page.result)} pairs; one was asked for")
    return next(iter(page.result.values())), last


def _read(body: bytes, refuse: Callable[[str, bytes], None]) -> tuple[list[Past], int]:
    """Trades of a page, and the time in ns after which the next one goes on. Raises FrameError."""
    listed, text = page_of(body)
    try:
        last = _last(text)
    except UNREADABLE as error:
        raise FrameError(f"no page of trades: {error}") from None
    return fitting(listed, _past, refuse), last


def rest_name(pair: str) -> str:
    """BTC/USD as the HTTP interface names it: XBTUSD."""
    return "".join(_OLD_NAMES.get(asset, asset) for asset in pair.split("/"))


def _time(trade: Past) -> int:
    return unix_ns(bytes(trade.time).decode("ascii", "replace")) // MICROSECOND * MICROSECOND


def pages(base: str, pair: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
    """Oldest first, after ``start``.

    pair  as version 2 of the stream writes it
    A page may hold less than was asked for: an empty one is the end.
    """
    name = rest_name(pair)
    since = request.start - MICROSECOND  # exclusive, and what was cut off of the first trade's time is less than that
    for _ in range(PAGES_MAX):
        response = yield HttpRequest(address(base, PATH, pair=name, since=since, count=PAGE))
        trades, last = _read(response.body, lambda why, part: None)
        done = not trades or last <= since or _time(trades[-1]) > request.end
        if done or (request.to_id is not None and trades[-1].trade_id >= request.to_id):
            return
        since = last


def decoder(scope: Scope) -> Callable[[HistoryRequest, bytes, int], None]:
    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        trades, _ = _read(body, lambda why, part: scope.reject(why, part, ts_recv))
        for trade in trades:
            price, size = trade.price, trade.volume
            try:
                ts_event = _time(trade)
                if not (0.0 < price < INF and 0.0 <= size < INF and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
                    raise FrameError(misfit("trade", ts_event, ts_recv, price=price, size=size))
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(trade), ts_recv)
                continue
            if asked(request, ts_event, trade.trade_id):
                scope.trades.append(
                    ts_event, ts_recv, scope.series(request.symbol), TEXT_NULL, trade.trade_id, TEXT_NULL, price, size,
                    BUY if trade.side == "b" else SELL, TEXT_NULL, TEXT_NULL, BACKFILLED,
                )  # fmt: skip

    return decode
