"""A simulated exchange with a past, and a plain HTTP client of it."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import websockets
from decoding import Recorded

from recorder.core.market import FIRST_ID, ID, KIND, PRICE, QUOTE, SIDE, SIZE, TRADE, TS
from recorder.feeds import make
from recorder.shell.simulator import Simulator
from recorder.values.feed import Feed, FeedSpec, HistoryRequest, HttpRequest, HttpResponse, Send

BASE = 1_790_000_000 * 10**9
# Between two looks at the exchange's clocks: some 200 trades a look, and three looks to a second of their times.
ELAPSED_NS, STEP_NS = 10_000_000, 400_000_000
TOTAL = 2600  # three pages of 1000
DEADLINE_S = 30
KEYS = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s", "POLYGON_API_KEY": "k"}
# simulated provider, provider, options, symbol, what a time is cut down to in the stream
CASES: dict[str, tuple[str, str, dict[str, str], str, int]] = {
    "coinbase-exchange": ("coinbase", "coinbase", {}, "BTC-USD", 1_000),
    "coinbase-advanced": ("coinbase-advanced", "coinbase", {"api": "advanced"}, "BTC-USD", 1_000),
    "binance-spot": ("binance", "binance", {}, "BTC-USDT", 1_000_000),
    "binance-spot-agg": ("binance", "binance", {"trades": "agg"}, "BTC-USDT", 1_000_000),
    "binance-usdm": ("binance-usdm", "binance", {"market": "usdm"}, "BTC-USDT-PERP", 1_000_000),
    "binance-coinm": ("binance-coinm", "binance", {"market": "coinm"}, "BTC-USD-PERP", 1_000_000),
    "kraken": ("kraken", "kraken", {}, "BTC-USD", 1_000),
    "okx": ("okx", "okx", {}, "BTC-USDT-PERP", 1_000_000),
    "deribit": ("deribit", "deribit", {}, "BTC-USD-PERP", 1_000_000),
    "alpaca-stocks": ("alpaca", "alpaca", {"feed": "iex"}, "AAPL", 1),
    "alpaca-crypto": ("alpaca", "alpaca", {"feed": "crypto"}, "BTC-USD", 1),
    "polygon-stocks": ("polygon", "polygon", {}, "AAPL", 1_000_000),
    "polygon-options": ("polygon", "polygon", {"cluster": "options"}, "AAPL  251219C00150000", 1_000_000),
    "polygon-crypto": ("polygon", "polygon", {"cluster": "crypto"}, "BTC-USD", 1_000_000),
}


class Exchange:
    """A simulated provider that trades one symbol, what it did, and a feed of its."""

    def __init__(self, case: str, rules: dict[str, object] | None = None, url: str = "") -> None:
        self.key, self.provider, self.options, self.symbol, self.unit = CASES[case]
        self.events: list[np.ndarray] = []
        self.quotes: list[dict[str, Any]] = []
        self._looks = 0
        self.sim = Simulator(
            [self.key], rate=20_000, burst=1, total=TOTAL, quotes=0.2, symbols=[self.symbol], wall=self._wall,
            clock=itertools.count(0, ELAPSED_NS).__next__,
            rules={self.key: {"requests": (1 << 30, 1), "keys": {"k": "s"}, **(rules or {})}},
        )  # fmt: skip
        self._url = url

    def _wall(self) -> int:
        self._looks += 1
        return BASE + self._looks * STEP_NS

    def feed(self, **fields: Any) -> Feed:
        own = {"url": self.sim.url(self.key) + self._url, "rest_url": self.sim.rest_url(self.key)}
        channels = ("trades",)
        spec = {"name": "f", "provider": self.provider, "options": self.options, "symbols": (self.symbol,)}
        return make(FeedSpec(**{**spec, "channels": channels, **own, **fields}), KEYS)

    def happened(self, kind: int = TRADE) -> list[dict[str, Any]]:
        """Rows that a feed should give for what happened, by this test's own arithmetic."""
        events = np.concatenate(self.events)
        digits = 10**6 if "-" in self.symbol else 1
        rows = events[events[:, KIND] == kind].tolist()
        if kind == QUOTE:
            return [
                {"ts_event": row[TS] // self.unit * self.unit, "bid": row[PRICE] / 100, "bid_size": row[SIZE] / digits}
                for row in rows
            ]
        return [
            {
                "ts_event": row[TS] // self.unit * self.unit, "trade_id": row[ID], "price": row[PRICE] / 100,
                "size": row[SIZE] / digits, "side": "buy" if row[SIDE] else "sell",
            }
            for row in rows
        ]  # fmt: skip

    async def trade(self, *channels: str) -> tuple[list[dict[str, Any]], list[int]]:
        """Let everything happen to a subscribed client; (trades of its stream, ids that it was not sent).

        channels  beside trades; ``quotes`` are those of its stream
        """
        feed = self.feed(channels=("trades", *channels))
        recorded = Recorded(self.provider, (self.symbol,), **self.options)
        endpoint, rows = feed.endpoint(), []
        truth = self.sim.truth[self.key]
        async with websockets.connect(endpoint.url, additional_headers=endpoint.headers) as ws:
            commands = feed.on_open()
            while not self.sim._stages[self.key].finished.is_set() or len(rows) < TOTAL - len(truth.dropped):
                for command in commands:
                    if isinstance(command, Send):
                        await ws.send(command.payload)
                message = await ws.recv()
                payload = message.encode() if isinstance(message, str) else message
                commands = feed.on_control(payload)
                recorded.decode(payload, BASE + 10**15)
                rows += [row for row in recorded.rows("trades") if row["trade_id"] >= FIRST_ID]
                self.quotes += recorded.rows("quotes") if channels else []
        return rows, [number for _, number in truth.dropped]

    async def fetch(self, request: HistoryRequest, table: str = "trades") -> list[dict[str, Any]]:
        """Rows of history."""
        return await asyncio.to_thread(fetch, self.feed(), self, request, table)

    def request(self, first: int, last: int, rows: list[dict[str, Any]], ids: bool) -> HistoryRequest:
        """For the trades at two places of ``rows``."""
        numbers = (rows[first]["trade_id"], rows[last]["trade_id"]) if ids else (None, None)
        return HistoryRequest(self.symbol, "trades", rows[first]["ts_event"], rows[last]["ts_event"], *numbers)


def get(request: HttpRequest) -> HttpResponse:
    address = urlsplit(request.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=DEADLINE_S)
    target = f"{address.path}?{address.query}"
    connection.request("GET", target, headers=dict((*request.headers, *request.secret_headers)))
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return HttpResponse(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def fetch(feed: Feed, exchange: Exchange, request: HistoryRequest, table: str) -> list[dict[str, Any]]:
    recorded = Recorded(exchange.provider, (exchange.symbol,), **exchange.options)
    decode = feed.history_decoder(recorded.scope)  # type: ignore[attr-defined]
    pages = feed.history(request)  # type: ignore[attr-defined]
    asked = next(pages)
    try:
        while True:
            response = get(asked)
            while response.status != 200:
                assert response.status in (418, 429, 503), (asked.url, response)
                time.sleep(float(response.headers["retry-after"]))
                response = get(asked)
            recorded.scope.position += 1
            decode(request, response.body, BASE + 10**15)
            asked = pages.send(response)
    except StopIteration:
        pass
    assert recorded.rows("rejected") == []
    return recorded.rows(table)
