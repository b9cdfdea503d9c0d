"""Trades, quotes and bars that Massive remembers, by time.

https://massive.com/docs/rest/stocks/trades-quotes/trades , …/quotes , …/aggregates/custom-bars
Times are ns where the stream sends ms: rows are stored under the stream's time, so that what came both ways is one row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from recorder.core.batch import Scope
from recorder.core.eligibility import polygon_correction
from recorder.feeds.polygon.messages import Ids
from recorder.feeds.polygon.names import name_of, rest_name
from recorder.feeds.polygon.rows import MILLISECOND, Rows, place_of, trade_ident
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address
from recorder.values.messages import UNREADABLE, Id, fitting
from recorder.values.schema import LONG_NULL
from recorder.values.tables import BACKFILLED
from recorder.values.timeframes import end_of

URL = "https://api.massive.com"
HOSTS = ("api.massive.com", "api.polygon.io")  # of which either may be named by a next_url
PAGE = 50_000  # rows, and of bars the seconds or minutes that they are made of, in one answer at most
PER_SECOND_MAX = (
    20.0  # plans with a stream have no limit and a recommendation of about 100 (unverified); free: 5 a minute
)
TIMEFRAMES = {  # ours → theirs; days, weeks and months begin at midnight in New York
    "1s": "1/second", "1m": "1/minute", "3m": "3/minute", "5m": "5/minute", "15m": "15/minute", "30m": "30/minute",
    "1h": "1/hour", "4h": "4/hour", "1d": "1/day", "1w": "1/week", "1M": "1/month",
}  # fmt: skip
SOUND = ("OK", "DELAYED")  # DELAYED: of a plan that sees the last 15 minutes late
_RECORDS = frozenset({10, 11})  # of ``correction``: no trades, they tell of a cancel or an error


class Page(Struct):
    """{"results":[…],"status":"OK","request_id":"…","next_url":"https://api.massive.com/v3/quotes/AAPL?cursor=…"}

    ``results`` is left out where there are none. An error: {"status":"NOT_AUTHORIZED","request_id":"…","message":"…"}
    """

    status: str = "OK"
    results: msgspec.Raw = msgspec.Raw(b"[]")
    next_url: str | None = None
    error: str | None = None
    message: str | None = None


class PastTrade(Struct, gc=False):
    """{"conditions":[12,41],"exchange":11,"id":"1","participant_timestamp":1517562000015577000,"price":171.55,
    "sequence_number":1063,"sip_timestamp":1517562000016036600,"size":100,"tape":3}"""

    price: float
    size: float
    sip_timestamp: Id | None = None  # not of crypto
    participant_timestamp: Id | None = None
    conditions: Ids = None
    correction: int = 0
    exchange: int | None = None
    id: str | int | None = None
    sequence_number: Id | None = None
    tape: int | None = None
    trf_id: int | None = None
    decimal_size: float | None = None


class PastQuote(Struct, gc=False):
    """{"ask_exchange":15,"ask_price":155.87,"ask_size":3,"bid_exchange":19,"bid_price":155.85,"bid_size":4,
    "participant_timestamp":1652191872800402200,"sequence_number":19288684,"sip_timestamp":1652191872800638700,
    "tape":3}"""

    sip_timestamp: Id
    sequence_number: Id | None = None
    bid_price: float = 0.0
    bid_size: float = 0.0
    bid_exchange: int | None = None
    ask_price: float = 0.0
    ask_size: float = 0.0
    ask_exchange: int | None = None
    conditions: Ids = None
    indicators: Ids = None


class PastBar(Struct, gc=False):
    """{"v":642646396.0,"vw":1.469,"o":1.5032,"c":1.4604,"h":1.5064,"l":1.4489,"t":1112331600000,"n":82132}"""

    t: Id  # start, ms
    o: float
    h: float
    l: float  # noqa: E741
    c: float
    v: float
    vw: float = float("nan")
    n: Id = LONG_NULL


_page = msgspec.json.Decoder(Page).decode
_readers: dict[str, Callable[[Any], Any]] = {
    "trades": msgspec.json.Decoder(PastTrade, strict=False).decode,
    "quotes": msgspec.json.Decoder(PastQuote).decode,
    "bars": msgspec.json.Decoder(PastBar).decode,
}


def read(body: bytes) -> Page:
    """Raises FrameError for what is no page, or an error."""
    try:
        page = _page(body)
    except UNREADABLE as error:
        raise FrameError(f"no page of Massive's: {error}") from None
    if page.status not in SOUND:
        raise FrameError(f"Massive: {page.status[:40]} {(page.error or page.message or '')[:200]}")
    return page


def following(base: str, page: Page) -> str | None:
    """Address of the page behind this one, at ``base``: the key is sent to nobody else. Raises FrameError."""
    if not page.next_url:
        return None
    if page.next_url.startswith(f"{base}/"):
        return page.next_url
    try:
        parts = urlsplit(page.next_url)
    except ValueError:
        parts = urlsplit("")
    if parts.hostname not in HOSTS:
        raise FrameError(f"the next page is said to be at {page.next_url[:80]!r}, which is not Massive's")
    return f"{base}{parts.path}?{parts.query}"


def pages(
    base: str, cluster: str, secret_headers: tuple[tuple[str, str], ...], request: HistoryRequest
) -> Generator[HttpRequest, HttpResponse, None]:
    """Oldest first, each page where the one before says. Prices are as traded: not adjusted."""
    name = rest_name(cluster, request.channel, name_of(cluster, request.symbol))
    first, last = request.start // MILLISECOND, request.end // MILLISECOND
    if request.channel == "bars":
        path = f"/v2/aggs/ticker/{name}/range/{TIMEFRAMES[request.timeframe]}/{first}/{last}"
        url: str | None = address(base, path, adjusted="false", sort="asc", limit=PAGE)
    else:
        times = {"timestamp.gte": first * MILLISECOND, "timestamp.lte": (last + 1) * MILLISECOND - 1}
        url = address(base, f"/v3/{request.channel}/{name}", **times, order="asc", sort="timestamp", limit=PAGE)
    for _ in range(PAGES_MAX):
        asked = url
        if asked is None:
            return
        response = yield HttpRequest(asked, (), secret_headers)
        url = following(base, read(response.body))
        if url == asked:
            return


def decoder(scope: Scope, base: str, cluster: str, timeframe: str) -> Callable[[HistoryRequest, bytes, int], None]:
    """``timeframe``: of bars that are asked for without one."""
    rows = Rows(scope, cluster, BACKFILLED)

    def trade(request: HistoryRequest, name: str, t: PastTrade, ts_recv: int) -> None:
        exact = t.sip_timestamp if t.sip_timestamp is not None else t.participant_timestamp
        if exact is None:
            raise FrameError("a trade without a time")
        ts = _stream_time(exact)
        if t.correction in _RECORDS or not _asked(request, ts):
            return
        if cluster == "options" and t.sequence_number is None:
            raise FrameError("an option's trade without sequence_number cannot be told from what the stream sent")
        ident = t.sequence_number if cluster == "options" else t.id
        size = t.size if t.decimal_size is None else t.decimal_size
        number = trade_ident(name, ident, t.sequence_number, t.exchange, ts // MILLISECOND, t.price, t.size)
        if cluster == "crypto":
            rows.coin_trade(name, ts, ts_recv, t.exchange, number, t.price, size, t.conditions)
        else:
            place, flags = place_of(t.exchange, t.trf_id), polygon_correction(t.correction)
            rows.trade(name, ts, ts_recv, place, number, t.price, size, t.conditions, t.tape, flags)

    def quote(request: HistoryRequest, name: str, q: PastQuote, ts_recv: int) -> None:
        ts = _stream_time(q.sip_timestamp)
        if _asked(request, ts):
            bid, ask = (q.bid_price, q.bid_size, q.bid_exchange), (q.ask_price, q.ask_size, q.ask_exchange)
            rows.quote(name, ts, ts_recv, q.sequence_number, bid, ask, q.conditions, q.indicators)

    def bar(request: HistoryRequest, name: str, b: PastBar, ts_recv: int) -> None:
        ts, frame = b.t * MILLISECOND, request.timeframe or timeframe
        if _asked(request, ts) and end_of(ts, frame) <= ts_recv:  # that of now is not over
            rows.bar(name, ts, ts_recv, frame, (b.o, b.h, b.l, b.c), b.v, b.vw, b.n)

    stores: dict[str, Callable[[HistoryRequest, str, Any, int], None]] = {"trades": trade, "quotes": quote, "bars": bar}

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        page, channel = read(body), request.channel
        following(base, page)
        name = name_of(cluster, request.symbol)
        results = b"[]" if bytes(page.results) == b"null" else page.results
        for item in fitting(results, _readers[channel], lambda why, part: scope.reject(why, part, ts_recv)):
            try:
                stores[channel](request, name, item, ts_recv)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    return decode


def _stream_time(ns: int) -> int:
    """As the stream tells it: in whole ms. That it cuts them off and does not round is unverified."""
    return ns // MILLISECOND * MILLISECOND


def _asked(request: HistoryRequest, ts: int) -> bool:
    return _stream_time(request.start) <= ts <= request.end
