"""HTTP of the simulated providers: what is asked, how fast it may be asked, and how each says no."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from websockets.datastructures import Headers
from websockets.http11 import Response

from recorder.core.market import QUOTE, TRADE
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.venue import Venue

# Weight that one client may spend in a window of so many seconds, as the providers say (Kraken's is not documented).
LIMITS: Mapping[str, tuple[int, int]] = {
    "coinbase": (10, 1),
    "coinbase-advanced": (10, 1),
    "binance": (6000, 60),
    "binance-usdm": (2400, 60),
    "binance-coinm": (2400, 60),
    "kraken": (15, 15),
    "bitstamp": (400, 1),
    "okx": (20, 2),
    "bybit": (600, 5),
    "bybit-linear": (600, 5),
    "bybit-inverse": (600, 5),
    "deribit": (100, 5),
    "alpaca": (200, 60),
    "polygon": (100, 1),
}
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Asked:
    """A GET: the provider's own path, decoded; parameters, the last of equal names; headers by lower-case names."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """``body`` is JSON text or what becomes it."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """For a connection that ends with it."""
        body = (self.body if isinstance(self.body, str) else json.dumps(self.body, separators=(",", ":"))).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
        headers.update(self.headers)
        return Response(self.status, HTTPStatus(self.status).phrase, headers, body)


class Refused(Exception):
    """Raised by a provider's page for what it does not take; holds the answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Rest:
    """One provider's HTTP interface.

    page     (venue, trades, quotes, what is asked) → the answer; raises Refused
    weight   of a path
    limited  the answer to one who asks too fast
    told     headers by weight spent, most, and the window's end in ns
    retry_after  whether who is limited is told so by this header
    Rules of the venue: ``requests``, (weight, seconds) instead of LIMITS.
    """

    def __init__(
        self,
        venue: Venue,
        page: Callable[[Venue, Past, Past, Asked], Answer],
        limited: Answer,
        weight: Callable[[str], int] = lambda path: 1,
        told: Callable[[int, int, int], Mapping[str, str]] = lambda spent, most, end: {},
        retry_after: bool = True,
    ) -> None:
        self.failing: list[int | Answer] = []  # what to answer the next requests with, on command
        self.requests = 0
        self.trades, self.quotes = Past(TRADE), Past(QUOTE)
        self._venue, self._page, self._limited, self._weight = venue, page, limited, weight
        self._told, self._retry_after = told, retry_after
        rule: Any = venue.rules.get("requests", LIMITS[venue.key])
        self._most, seconds = rule
        self._window_ns = int(seconds * SECOND_NS)
        self._window, self._spent = 0, 0

    def happened(self, events: np.ndarray) -> None:
        """Remember events, delivered or not; quotes only where the provider sells their history."""
        self.trades.add(events)
        if self._venue.key in ("alpaca", "polygon"):
            self.quotes.add(events)

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer a GET of the provider's own ``path``, which has the parameters."""
        self.requests += 1
        if self.failing:
            failed = self.failing.pop(0)
            if isinstance(failed, Answer):
                return failed
            return Answer(failed, {"message": "failed on command"}, {"Retry-After": "1"})
        address = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        asked = Asked(unquote(address.path), query, {name.lower(): value for name, value in headers.items()})
        now = self._venue.now()
        if now // self._window_ns != self._window:
            self._window, self._spent = now // self._window_ns, 0
        self._spent += self._weight(asked.path)
        end = (self._window + 1) * self._window_ns
        told = self._told(self._spent, self._most, end)
        if self._spent > self._most:
            after = {"Retry-After": str(max(1, -(-(end - now) // SECOND_NS)))} if self._retry_after else {}
            return Answer(self._limited.status, self._limited.body, {**after, **told})
        try:
            answer = self._page(self._venue, self.trades, self.quotes, asked)
        except Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.body, {**answer.headers, **told})


def whole(asked: Asked, name: str, default: int | None, refusal: Answer, low: int = 0, high: int = 1 << 62) -> int:
    """A parameter that is a whole number between ``low`` and ``high``. Raises Refused, also without a default."""
    text = asked.query.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or not text.isascii() or len(text) > 19 or not low <= int(text) <= high:
        raise Refused(refusal)
    return int(text)
