"""Polygon's (Massive's) splits, dividends and ticker changes of US stocks.

https://massive.com/docs/rest/stocks/corporate-actions . Three questions: splits, dividends, and the tickers that the
company had. That the first two take the filters of their deprecated namesakes under /v3/reference is unverified.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from recorder.feeds.actions.asking import Action, Asked
from recorder.values.errors import FrameError
from recorder.values.feed import HistoryRequest, HttpRequest, HttpResponse, ProviderInfo
from recorder.values.history import PAGES_MAX, address
from recorder.values.messages import UNREADABLE

KEY = "POLYGON_API_KEY"
PAGE = 1000
# Of a dividend: CD regular, SC special, LT and ST capital gains. The current answers have a word in its place, of which
# only the shape is documented: whatever it is, it is cash.
_GAINS = frozenset({"LT", "ST"})
# Not in details: columns, and figures that change whenever a later action comes: that is no new version of this one.
_LEFT_OUT = frozenset(
    {
        "id", "ticker", "execution_date", "ex_dividend_date", "cash_amount", "currency",
        "historical_adjustment_factor", "split_adjusted_cash_amount",
    }
)  # fmt: skip
_answer = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_item = msgspec.json.Decoder(dict[str, Any]).decode
_text = msgspec.json.Decoder(str).decode


class _Change(msgspec.Struct):
    """{"type":"ticker_change","date":"2022-06-09","ticker_change":{"ticker":"META"}}"""

    type: str
    date: str
    ticker_change: dict[str, str]


class _Events(msgspec.Struct):
    events: list[_Change] = []


_events = msgspec.json.Decoder(_Events).decode


class Polygon(Asked):
    """{"status":"OK","results":[{"id":"E36416…","ticker":"AAPL","execution_date":"2020-08-31","split_from":1,
    "split_to":4}],"next_url":"https://api.massive.com/…cursor=…"}; ``results`` is missing when there are none.
    """

    INFO = ProviderInfo(
        name="polygon",
        channels=("actions",),
        credentials=(KEY,),
        hosts=("socket.massive.com", "delayed.massive.com", "socket.polygon.io", "delayed.polygon.io"),
    )
    URL = "https://api.massive.com"
    PER_SECOND_MAX = 5 / 60  # of the free plan; who pays says so with --per-minute
    REACHES = "splits, dividends and ticker changes of US stocks"

    def pages(self, base: str, request: HistoryRequest) -> Generator[HttpRequest, HttpResponse, None]:
        secrets = (("Authorization", f"Bearer {self.credentials.get(KEY, '')}"),)
        days = {".gte": _day(request.start), ".lte": _day(request.end)}
        for path, name in (("/stocks/v1/splits", "execution_date"), ("/stocks/v1/dividends", "ex_dividend_date")):
            span = {name + suffix: day for suffix, day in days.items()}
            url = address(base, path, ticker=request.symbol, **span, limit=PAGE)
            for _ in range(PAGES_MAX):
                response = yield HttpRequest(url, (), secrets)
                following = _next(base, response.body)
                if following is None or following == url:
                    break
                url = following
        url = address(base, f"/vX/reference/tickers/{quote(request.symbol, safe='')}/events", types="ticker_change")
        yield HttpRequest(url, (), secrets, accepts=(404,))  # of a ticker that it does not know: it has no events

    def actions(self, request: HistoryRequest, body: bytes, refuse: Callable[[str, bytes], None]) -> list[Action]:
        try:
            fields = _answer(body)
            if bytes(fields.get("status", b'"OK"')) not in (b'"OK"', b'"DELAYED"'):
                words = fields.get("error", fields.get("message", fields["status"]))
                raise FrameError(f"no answer of corporate actions: {bytes(words)[:200]!r}")
            results = fields.get("results", msgspec.Raw(b"[]"))
            if bytes(results)[:1] == b"{":
                return _changes(_events(results).events)
            items = _items(results)
        except UNREADABLE as error:
            raise FrameError(f"no answer of corporate actions: {error}") from None
        found = []
        for raw in items:
            try:
                found.append(_action(_item(raw)))
            except (*UNREADABLE, KeyError, TypeError, ValueError, ArithmeticError) as error:
                refuse(f"{type(error).__name__}: {error}", bytes(raw))
        return found


def _next(base: str, body: bytes) -> str | None:
    """The next page, where ours is: the address given may name another host of theirs, which gets no key."""
    try:
        parts = urlsplit(_text(_answer(body)["next_url"]))
    except (*UNREADABLE, KeyError, ValueError):
        return None
    return f"{base}{parts.path}?{parts.query}"


def _action(item: dict[str, Any]) -> Action:
    details = {name: value for name, value in item.items() if name not in _LEFT_OUT}
    symbol, action_id = str(item["ticker"]), item.get("id") or None
    if "split_to" in item:
        ratio = float(item["split_to"]) / float(item["split_from"])
        dividend = item.get("adjustment_type") == "stock_dividend"
        return Action(
            symbol=symbol, action_type="stock_dividend" if dividend else "split", day=str(item["execution_date"]),
            action_id=action_id, ratio=ratio, details=details,
        )  # fmt: skip
    day, sort = str(item["ex_dividend_date"]), item.get("dividend_type") or item.get("distribution_type") or ""
    return Action(
        symbol=symbol, action_type="capital_gain" if sort in _GAINS else "cash_dividend", day=day,
        action_id=action_id or f"{sort or 'dividend'} {day}",  # one of each sort a day in the answers without ids
        amount=float(item["cash_amount"]) or None, currency=item.get("currency"), details=details,
    )  # fmt: skip


def _changes(events: list[_Change]) -> list[Action]:
    """The tickers of a company, each from a day on → a change from each to the next."""
    names = sorted((e.date, e.ticker_change.get("ticker", "")) for e in events if e.type == "ticker_change")
    return [
        Action(symbol=old, action_type="symbol_change", day=day, new_symbol=new)
        for (_, old), (day, new) in pairwise(names)
        if old and new and old != new
    ]


def _day(ns: int) -> str:
    return f"{datetime.fromtimestamp(max(0, ns) // 1_000_000_000, UTC):%Y-%m-%d}"
