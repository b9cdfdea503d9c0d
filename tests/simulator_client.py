"""A plain WebSocket client of the simulated exchange, for its tests."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection

DEADLINE_S = 20
KEYS = {"keys": {"k": "s"}}  # what the simulated Alpaca accepts in tests
AUTH = {"action": "auth", "key": "k", "secret": "s"}


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test()

    asyncio.run(bounded())


async def heard(ws: ClientConnection, until: Callable[[Any], bool]) -> list[Any]:
    """Messages up to and including the one that fits."""
    messages = []
    while True:
        raw = await ws.recv()
        messages.append(msgspec.msgpack.decode(raw) if isinstance(raw, bytes) else json.loads(raw))
        if until(messages[-1]):
            return messages


async def ask(ws: ClientConnection, request: object, answers: int = 1) -> Any:
    """Send a request; return its answer, or a list of several."""
    await ws.send(json.dumps(request))
    result = [json.loads(await ws.recv()) for _ in range(answers)]
    return result if answers > 1 else result[0]


async def collect(ws: ClientConnection, trades: Callable[[Any], list[Any]], count: int) -> list[Any]:
    """Trades out of messages until there are so many."""
    found: list[Any] = []
    while len(found) < count:
        raw = await ws.recv()
        found += trades(msgspec.msgpack.decode(raw) if isinstance(raw, bytes) else json.loads(raw))
    return found


async def get(url: str) -> tuple[int, Any]:
    """Status and JSON of an answer over HTTP."""

    def fetch() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(fetch)


def coinbase_trades(message: Any) -> list[Any]:
    return [message] if message["type"] in ("match", "last_match") else []


def binance_trades(message: Any) -> list[Any]:
    data = message.get("data", {})
    return [data] if data.get("e") == "trade" else []


def bybit_trades(message: Any) -> list[Any]:
    live = message.get("topic", "").startswith("publicTrade.")
    return message["data"] if live else []


def okx_trades(message: Any) -> list[Any]:
    return message["data"] if message.get("arg", {}).get("channel") == "trades" and "data" in message else []


def kraken_trades(message: Any) -> list[Any]:
    return message["data"] if message.get("channel") == "trade" else []


def bitstamp_trades(message: Any) -> list[Any]:
    return [message["data"] | {"channel": message["channel"]}] if message["event"] == "trade" else []


def deribit_trades(message: Any) -> list[Any]:
    params = message.get("params", {})
    return params["data"] if params.get("channel", "").startswith("trades.") else []


def advanced_trades(message: Any) -> list[Any]:
    return message["events"][0]["trades"] if message.get("channel") == "market_trades" else []


def alpaca_trades(message: Any) -> list[Any]:
    return [item for item in message if item["T"] == "t"]


def polygon_trades(message: Any) -> list[Any]:
    return [item for item in message if item["ev"] == "T"]
