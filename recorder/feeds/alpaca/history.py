"""Trades, quotes and bars that Alpaca remembers, by time.

https://docs.alpaca.markets/reference/stocktrades , https://docs.alpaca.markets/reference/stockbars

Times have up to nine digits in JSON here and in the stream, and MessagePack's timestamps hold all nine as well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import msgspec

from recorder.core import past_bars
from recorder.core.batch import Scope
from recorder.core.past_bars import Bar, Refuse
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.alpaca.messages import Texts
from recorder.feeds.alpaca.rows import Store, past_rows
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse
from recorder.values.history import PAGES_MAX, address, rfc3339
from recorder.values.messages import NAN, UNREADABLE, fitting

URL = "https://data.alpaca.markets"
SANDBOX_URL = "https://data.sandbox.alpaca.markets"
CHANNELS = {"opra": ("trades", "bars")}  # of options no quotes are remembered
ALL_CHANNELS = ("trades", "quotes", "bars")
TIMEFRAMES = {  # of bars, ours → Alpaca's
    "1m": "1Min", "3m": "3Min", "5m": "5Min", "10m": "10Min", "15m": "15Min", "30m": "30Min", "1h": "1Hour",
    "2h": "2Hour", "3h": "3Hour", "4h": "4Hour", "6h": "6Hour", "8h": "8Hour", "12h": "12Hour", "1d": "1Day",
    "1w": "1Week", "1M": "1Month",
}  # fmt: skip
PAGE = 10_000  # trades or quotes in one answer at most; a page may be shorter and yet not the last
PER_SECOND_MAX = 3.0  # 200 a minute in the free plan
# Feeds of the stream → of history. The delayed stream is the consolidated one, fifteen minutes late: what it sends is
# just old enough for the free plan. "test" and "overnight" are not offered; "indicative" is not what its history has.
FEEDS: Mapping[str, str] = {"iex": "iex", "sip": "sip", "delayed_sip": "sip", "boats": "boats"}
_PATHS = {"crypto": "/v1beta3/crypto/{location}", "opra": "/v1beta1/options"}
_WITHDRAWN = frozenset({"canceled", "incorrect"})


class PastTrade(msgspec.Struct, gc=False, kw_only=True):
    """{"t":"2021-10-13T08:00:00.08960768Z","x":"P","p":140.2,"s":595,"c":["@","T"],"i":1,"z":"C"}

    u, if there: canceled, incorrect (another took its place) or corrected (which took the place of one).
    """

    S: str = ""  # as in a message of the stream; here it is the key of the page
    t: str
    p: float
    s: float
    i: int | None = None
    x: str | None = None
    c: Texts = None
    z: str | None = None
    tks: str | None = None
    u: str | None = None


class PastQuote(msgspec.Struct, gc=False, kw_only=True):
    """{"t":"2021-10-13T08:00:00.08960768Z","ax":"Q","ap":140.3,"as":1,"bx":"P","bp":140.2,"bs":4,"c":["R"],"z":"C"}

    Sizes before 2025-11-03 are round lots and not shares; whether the stream's were is documented both ways.
    """

    S: str = ""
    t: str
    bp: float
    bs: float
    ap: float
    as_: float = msgspec.field(name="as")
    x: str | None = None
    bx: str | None = None
    ax: str | None = None
    c: Texts = None
    z: str | None = None


class PastBar(msgspec.Struct, gc=False, kw_only=True):
    """{"t":"2022-01-03T09:00:00Z","o":178.26,"h":178.26,"l":178.21,"c":178.21,"v":1118,"n":65,"vw":178.235733}"""

    t: str
    o: float
    h: float
    l: float  # noqa: E741 (Alpaca's name)
    c: float
    v: float
    n: int
    vw: float


_readers = {
    "trades": msgspec.json.Decoder(PastTrade).decode,
    "quotes": msgspec.json.Decoder(PastQuote).decode,
    "bars": msgspec.json.Decoder(PastBar).decode,
}
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_symbols = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_token = msgspec.json.Decoder(str | None).decode


def pages(
    base: str, feed: str, location: str, name: str, secret_headers: tuple[tuple[str, str], ...], request: HistoryRequest
) -> Generator[HttpRequest, HttpResponse, None]:
    """Oldest first, by the token of each page.

    name  the symbol as Alpaca writes it
    """
    path = _PATHS.get(feed, "/v2/stocks").format(location=location)
    # asof "-": the symbol of the day and not today's, as the stream names it
    stocks = {"feed": FEEDS[feed], "asof": "-"} if feed in FEEDS else {}
    bars = {"timeframe": TIMEFRAMES[request.timeframe]} if request.channel == "bars" else {}
    span = {"start": rfc3339(request.start), "end": rfc3339(request.end)}  # both inclusive
    token: str | None = None
    for _ in range(PAGES_MAX):
        query = {"symbols": name, **span, **bars, "limit": PAGE, **stocks, "sort": "asc", "page_token": token}
        response = yield HttpRequest(address(base, f"{path}/{request.channel}", **query), (), secret_headers)
        following = _following(request.channel, response.body)
        if following is None or following == token:
            return
        token = following


def channels_of(feed: str) -> tuple[str, ...]:
    """What Alpaca remembers of a feed."""
    known = feed in FEEDS or feed in _PATHS
    return CHANNELS.get(feed, ALL_CHANNELS) if known else ()


def decoder(
    scope: Scope, name_of: Callable[[str], str], options: bool = False
) -> Callable[[HistoryRequest, bytes, int], None]:
    """``name_of`` spells a canonical symbol as Alpaca does."""
    rows_of: dict[tuple[str, str], Store] = {}
    alike = _Alike() if options else None

    def store(request: HistoryRequest, name: str) -> Store:
        key = (request.channel, name)
        if key not in rows_of:
            rows_of[key] = past_rows(scope, request.channel, {name: scope.series(request.symbol)}, alike)
        return rows_of[key]

    def decode(request: HistoryRequest, body: bytes, ts_recv: int) -> None:
        name = name_of(request.symbol)
        if alike is not None:
            alike.page(request, _following(request.channel, body) is not None)
        for item in _items(request.channel, name, body, lambda why, part: scope.reject(why, part, ts_recv)):
            if getattr(item, "u", None) in _WITHDRAWN:
                continue  # nothing that counts, and its withdrawal has a time of its own
            item.S = name
            try:
                ts_event = rfc3339_ns(item.t)
                if request.start <= ts_event <= request.end:
                    if alike is not None:
                        alike.at(ts_event)
                    store(request, name)(item, ts_recv)
            except FrameError as error:
                scope.reject(str(error), msgspec.json.encode(item), ts_recv)

    return decode


class _Alike(dict[str, int]):
    """How often trades without an id came that look the same: as often as in the stream, however often they are asked
    for, and wherever a page ends."""

    _request: HistoryRequest | None = None
    _more = False
    _ts = 0

    def page(self, request: HistoryRequest, more: bool) -> None:
        """A page begins. ``more``: another follows it."""
        if request != self._request or not self._more:
            self.clear()
        self._request, self._more = request, more

    def at(self, ts_event: int) -> None:
        """The next trade is of this time: only those of one instant can be alike."""
        if ts_event != self._ts:
            self.clear()
            self._ts = ts_event


def bars_decoder(scope: Scope, name_of: Callable[[str], str]) -> Callable[[HistoryRequest, bytes, int], None]:
    """Raw bars: nothing is adjusted that comes from here."""

    def read(request: HistoryRequest, body: bytes, refuse: Refuse) -> Iterator[Bar]:
        for bar in _items("bars", name_of(request.symbol), body, refuse):
            vwap = bar.vw if bar.v else NAN
            yield Bar(rfc3339_ns(bar.t), bar.o, bar.h, bar.l, bar.c, bar.v, vwap, bar.n)

    return past_bars.decoder(scope, read)


def _page(channel: str, body: bytes) -> dict[str, msgspec.Raw]:
    """Raises FrameError, and what msgspec raises."""
    fields = _fields(body)
    if channel not in fields:
        raise FrameError(f"no page of {channel}: {body[:200].decode('utf-8', 'replace')}")
    return fields


def _following(channel: str, body: bytes) -> str | None:
    """The token of the next page; None where there is none. Raises FrameError."""
    try:
        return _token(_page(channel, body).get("next_page_token", msgspec.Raw(b"null"))) or None
    except UNREADABLE as error:
        raise FrameError(f"no page of {channel}: {error}") from None


def _items(channel: str, name: str, body: bytes, refuse: Callable[[str, bytes], None]) -> list[Any]:
    """Trades or quotes of a page: {"trades":{"AAPL":[…]},"next_page_token":null}. Raises FrameError."""
    try:
        lists = _symbols(_page(channel, body)[channel]) or {}
    except UNREADABLE as error:
        raise FrameError(f"no page of {channel}: {error}") from None
    raw = lists.get(name, msgspec.Raw(b"[]"))
    return [] if bytes(raw) == b"null" else fitting(raw, _readers[channel], refuse)
