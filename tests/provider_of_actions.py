"""Alpaca, Polygon and Yahoo as far as they tell corporate actions, behind one real HTTP server: pages, keys, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import plain_server

KEYS = {"APCA_API_KEY_ID": "key-of-alpaca", "APCA_API_SECRET_KEY": "secret-of-alpaca", "POLYGON_API_KEY": "key-of-poly"}


@dataclass
class Providers:
    """What each tells, and what was asked.

    alpaca   items by their kind, such as forward_splits
    splits, dividends, tickers  of Polygon; tickers by symbol, as (date, ticker)
    charts   of Yahoo, by its own symbol: the events
    page     items on one
    failing  answers to give first: (status, body, headers)
    """

    alpaca: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    splits: list[dict[str, Any]] = field(default_factory=list)
    dividends: list[dict[str, Any]] = field(default_factory=list)
    tickers: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    charts: dict[str, dict[str, Any]] = field(default_factory=dict)
    zone: str = "America/New_York"
    page: int = 1000
    failing: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        self.asked.append(path)
        if self.failing:
            return self.failing.pop(0)
        parts = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/v1/corporate-actions":
            return self._alpaca(query, headers)
        if parts.path.startswith("/v8/finance/chart/"):
            return self._yahoo(unquote(parts.path.rpartition("/")[2]), query)
        return self._polygon(parts.path, query, headers)

    def _alpaca(self, query: dict[str, str], headers: Any) -> tuple[int, str, dict[str, str]]:
        keys = headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")
        if None in keys:
            return 401, '{"message":"unauthorized."}', {}
        if keys != (KEYS["APCA_API_KEY_ID"], KEYS["APCA_API_SECRET_KEY"]):
            return 403, '{"message":"forbidden."}', {}
        names = set(query["symbols"].split(","))
        items = [
            (kind, item)
            for kind, listed in self.alpaca.items()
            for item in listed
            if names & {value for name, value in item.items() if name.endswith("symbol")}
            and query["start"] <= item["process_date"] <= query["end"]
        ]
        first = int(query.get("page_token", "0"))
        shown = items[first : first + min(self.page, int(query["limit"]))]
        by_kind: dict[str, list[Any]] = {}
        for kind, item in shown:
            by_kind.setdefault(kind, []).append(item)
        token = str(first + len(shown)) if first + len(shown) < len(items) else None
        return 200, json.dumps({"corporate_actions": by_kind, "next_page_token": token}), {}

    def _polygon(self, path: str, query: dict[str, str], headers: Any) -> tuple[int, str, dict[str, str]]:
        if headers.get("Authorization") != f"Bearer {KEYS['POLYGON_API_KEY']}":
            return 401, '{"status":"ERROR","request_id":"r","error":"Unknown API Key"}', {}
        if path.startswith("/vX/reference/tickers/"):
            symbol = unquote(path.split("/")[4])
            if symbol not in self.tickers:
                return 404, '{"status":"NOT_FOUND","request_id":"r","message":"Ticker not found."}', {}
            events = [
                {"type": "ticker_change", "date": date, "ticker_change": {"ticker": name}}
                for date, name in self.tickers[symbol]
            ]
            return 200, json.dumps({"status": "OK", "results": {"name": "A company", "events": events}}), {}
        listed, day = {
            "/stocks/v1/splits": (self.splits, "execution_date"),
            "/stocks/v1/dividends": (self.dividends, "ex_dividend_date"),
        }[path]
        cursor = int(query.get("cursor", "0"))
        found = [item for item in listed if item["ticker"] == query["ticker"]]
        found = [item for item in found if query[f"{day}.gte"] <= item[day] <= query[f"{day}.lte"]]
        shown = found[cursor : cursor + self.page]
        body: dict[str, Any] = {"status": "OK", "request_id": "r"}
        if shown:
            body["results"] = shown
        if cursor + len(shown) < len(found):
            kept = "&".join(f"{name}={value}" for name, value in query.items() if name != "cursor")
            body["next_url"] = f"https://api.polygon.io{path}?{kept}&cursor={cursor + len(shown)}"
        return 200, json.dumps(body), {}

    def _yahoo(self, name: str, query: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        if name not in self.charts:
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return 404, json.dumps({"chart": {"result": None, "error": error}}), {}
        first, last = int(query["period1"]), int(query["period2"])
        events = {
            kind: {key: event for key, event in listed.items() if first <= event["date"] <= last}
            for kind, listed in self.charts[name].items()
        }
        meta = {"currency": "USD", "symbol": name, "exchangeTimezoneName": self.zone, "priceHint": 2}
        result = {"meta": meta, "timestamp": [], "events": events, "indicators": {"quote": [{}]}}
        return 200, json.dumps({"chart": {"result": [result], "error": None}}), {}


@contextmanager
def serving(providers: Providers) -> Iterator[Providers]:
    def answer(path: str, headers: Mapping[str, str]) -> plain_server.Reply:
        status, body, more = providers.answer(path, headers)
        return status, more, body.encode()

    with plain_server.serving(answer) as providers.url:
        yield providers
