"""Yahoo Finance: charts, chains, cookie and crumb over HTTP, and the streamer; its prices follow from the time.

Errors are those that clients of others report.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from recorder.shell.simulator.alphavantage import price
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked

DAY = 86_400
OPEN, CLOSE = 48_600, 72_000  # 09:30 and 16:00 of New York's summer, in UTC
INTERVALS = {"1m": 60, "2m": 120, "5m": 300, "15m": 900, "60m": 3600, "1h": 3600, "90m": 5400, "1d": DAY}
BARS = 50
TOO_MANY = Answer(429, "Too Many Requests")
DOWN = Answer(200, "<html><body>Will be right back...</body></html>")
COOKIE = "A3=d=AQABBK0aTestOnly&S=AQAAAj0123456789"
_FIELDS = {  # of PricingData: number and kind
    "id": (1, "text"), "price": (2, "float"), "time": (3, "sint"), "currency": (4, "text"), "exchange": (5, "text"),
    "quote_type": (6, "int"), "market_hours": (7, "int"), "day_volume": (9, "sint"), "short_name": (13, "text"),
    "last_size": (22, "sint"), "bid": (23, "float"), "bid_size": (24, "sint"), "ask": (25, "float"),
    "ask_size": (26, "sint"), "circulating_supply": (32, "double"),
}  # fmt: skip


def single(value: float) -> float:
    """As a 32-bit float holds it, which is what Yahoo sends."""
    held: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return held


class YahooPages:
    """symbols it knows, and the time in ns.

    crumbs  it takes; ``expire`` makes those given so far worthless
    """

    def __init__(self, symbols: tuple[str, ...], now: Callable[[], int]) -> None:
        self.symbols, self.now, self.crumbs = symbols, now, [0]

    def expire(self) -> None:
        self.crumbs = [self.crumbs[-1] + 1]

    @property
    def crumb(self) -> str:
        return f"cr.umb/{self.crumbs[-1]:04d}"

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/":
            return Answer(404, "not found", {"Set-Cookie": f"{COOKIE}; Domain=.yahoo.com; Path=/; Secure; HttpOnly"})
        if asked.path == "/v1/test/getcrumb":
            return Answer(200, self.crumb) if asked.headers.get("cookie") == COOKIE else Answer(401, "")
        place, _, symbol = asked.path.rpartition("/")
        if place == "/v8/finance/chart":
            return self._chart(symbol, asked)
        if place == "/v7/finance/options":
            if asked.headers.get("cookie") != COOKIE or asked.query.get("crumb") != self.crumb:
                words = {"code": "Unauthorized", "description": "Invalid Crumb"}
                return Answer(401, {"finance": {"result": None, "error": words}})
            return self._chain(symbol, asked)
        return Answer(404, {"finance": {"result": None, "error": {"code": "Not Found", "description": None}}})

    def _chart(self, symbol: str, asked: Asked) -> Answer:
        def refused(status: int, code: str, description: str) -> Answer:
            return Answer(status, {"chart": {"result": None, "error": {"code": code, "description": description}}})

        interval = asked.query.get("interval", "")
        if symbol not in self.symbols:
            return refused(404, "Not Found", "No data found, symbol may be delisted")
        if interval not in INTERVALS:
            words = f"Invalid input - interval={interval} is not supported."
            return refused(422, "Unprocessable Entity", words)
        span, now = INTERVALS[interval], self.now() // SECOND_NS
        midnight = now // DAY * DAY
        newest = midnight + OPEN if interval == "1d" else now // span * span
        times = [newest - back * span for back in reversed(range(BARS)) if newest - back * span <= now]
        columns: dict[str, list[Any]] = {name: [] for name in ("open", "high", "low", "close", "volume")}
        for at in times:
            middle = price(symbol, at)
            values = (middle, middle + 1, middle - 1, middle + 0.5, 1000 + at // 60 % 1000)
            gone = at // span % 17 == 0  # now and then there is nothing
            for name, value in zip(columns, values, strict=True):
                columns[name].append(None if gone else value if name == "volume" else single(value))
        live = now if now % 60 else now - 1  # the last price, off the grid
        for name, column in columns.items():
            column.append(0 if name == "volume" else single(price(symbol, live)))
        meta = {
            "currency": "USD", "symbol": symbol, "exchangeName": "NMS", "regularMarketTime": live, "priceHint": 2,
            "currentTradingPeriod": {"regular": {"start": midnight + OPEN, "end": midnight + CLOSE}},
            "dataGranularity": interval, "range": asked.query.get("range", ""),
        }  # fmt: skip
        result = {"meta": meta, "timestamp": [*times, live], "indicators": {"quote": [columns]}}
        return Answer(200, {"chart": {"result": [result], "error": None}})

    def _chain(self, symbol: str, asked: Asked) -> Answer:
        if symbol not in self.symbols:
            return Answer(200, {"optionChain": {"result": [], "error": None}})
        now = self.now() // SECOND_NS
        dates = [(now // DAY + days) * DAY for days in (7, 14, 35)]
        date = int(asked.query.get("date", dates[0]))
        day = f"{datetime.fromtimestamp(date, UTC):%y%m%d}"
        contracts: dict[str, list[dict[str, Any]]] = {"calls": [], "puts": []}
        for side, found in contracts.items():
            for strike in (100, 150):
                contract = {
                    "contractSymbol": f"{symbol.replace('-', '')}{day}{side[0].upper()}{strike * 1000:08d}",
                    "strike": float(strike), "currency": "USD", "lastPrice": 1.5, "change": 0.0, "bid": 1.45,
                    "ask": 1.55, "contractSize": "REGULAR", "expiration": date, "lastTradeDate": now - 60,
                    "impliedVolatility": 0.25, "inTheMoney": False, "volume": 12, "openInterest": 345,
                }  # fmt: skip
                if strike == 150:  # without a market
                    contract |= {"bid": 0.0, "ask": 0.0, "impliedVolatility": 0.00001}
                    del contract["volume"]
                found.append(contract)
        quote = {"regularMarketTime": now, "regularMarketPrice": price(symbol, now)}
        result = {
            "underlyingSymbol": symbol, "expirationDates": dates, "strikes": [100.0, 150.0], "hasMiniOptions": False,
            "quote": quote, "options": [{"expirationDate": date, "hasMiniOptions": False, **contracts}],
        }  # fmt: skip
        return Answer(200, {"optionChain": {"result": [result], "error": None}})


def pricing_data(**fields: Any) -> bytes:
    """A PricingData; what is zero is left out, as proto3 does."""
    parts = []
    for name, value in fields.items():
        number, kind = _FIELDS[name]
        if not value:
            continue
        if kind == "text":
            raw = value.encode()
            parts.append(_varint(number << 3 | 2) + _varint(len(raw)) + raw)
        elif kind == "float":
            parts.append(_varint(number << 3 | 5) + struct.pack("<f", value))
        elif kind == "double":
            parts.append(_varint(number << 3 | 1) + struct.pack("<d", value))
        else:
            unsigned = value * 2 if value >= 0 else -value * 2 - 1
            parts.append(_varint(number << 3) + _varint(unsigned if kind == "sint" else value))
    return b"".join(parts)


def _varint(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


class YahooStreamer:
    """Its WebSocket at ``url`` until the ``async with`` block ends; sends what ``say`` is given to who subscribed.

    heard  every message of a client, decoded
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.heard: list[dict[str, list[str]]] = []
        self.url = ""
        self._host = host
        self._server: Server | None = None
        self._clients: dict[ServerConnection, set[str]] = {}

    async def __aenter__(self) -> YahooStreamer:
        self._server = await serve(self._serve, self._host, 0)
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://{self._host}:{port}/?version=2"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def subscribed(self) -> set[str]:
        return set().union(*self._clients.values())

    async def say(self, **fields: Any) -> None:
        """A PricingData to every client that subscribed to its ``id``."""
        text = base64.b64encode(pricing_data(**fields)).decode()
        for client, names in list(self._clients.items()):
            if fields["id"] in names:
                await client.send(json.dumps({"type": "pricing", "message": text}, separators=(",", ":")))

    async def cut(self) -> None:
        """Close every connection as a server that restarts."""
        await asyncio.gather(*(client.close(1012, "restart") for client in list(self._clients)))

    async def _serve(self, client: ServerConnection) -> None:
        names = self._clients[client] = set()
        try:
            async for message in client:
                said = json.loads(message)
                self.heard.append(said)
                names |= set(said.get("subscribe", ()))
                names -= set(said.get("unsubscribe", ()))
        except ConnectionClosed:
            pass
        finally:
            del self._clients[client]
