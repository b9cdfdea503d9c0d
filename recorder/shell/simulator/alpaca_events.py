"""Alpaca's stream of corporate-action events, with its authentication, its errors, and its way of going on.

https://docs.alpaca.markets/us/reference/subscribetocorporateactionseventssse
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATH = "/v1beta1/events/corporate-actions"
REGIONS = ("all", "us", "non_us")
TYPES = (
    "capital_gains_distribution", "cash_dividend", "cash_merger", "equity_partial_call", "forward_split", "name_change",
    "redemption", "reorganization", "reverse_split", "rights_distribution", "spin_off", "stock_and_cash_merger",
    "stock_dividend", "stock_merger", "unit_split", "worthless_removal",
)  # fmt: skip
KEEPALIVE_S = 0.05
HEAD_BYTES_MAX = 1 << 16
_OPEN = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class AlpacaEvents:
    """Serves ``events``, oldest first; what is appended by ``happen`` is sent to all who listen.

    keys     {key: secret} that are let in; others get 401, without any 403
    failing  statuses to answer the next requests with, on command
    listed   whether an event comes as an array of one, as its schema says, and not as its example shows
    numbered whether events have ``id:`` lines
    """

    def __init__(self, keys: Mapping[str, str], listed: bool = False, numbered: bool = True) -> None:
        self.keys, self.listed, self.numbered = keys, listed, numbered
        self.events: list[dict[str, Any]] = []
        self.failing: list[int] = []
        self.requests: list[tuple[str, dict[str, str]]] = []  # target, headers by lower-case name
        self._listeners: dict[asyncio.StreamWriter, str] = {}  # → region
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> AlpacaEvents:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def happen(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        for writer, region in self._listeners.items():
            if region in ("all", event["region"]):
                writer.write(self._said(event))

    def cut(self) -> None:
        """Cut every connection in the middle of an event."""
        for writer in list(self._listeners):
            writer.write(_chunk('data: {"event_type":'))
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            target = first.split(" ")[1]
            self.requests.append((target, headers))
            query = {name: values[-1] for name, values in parse_qs(urlsplit(target).query).items()}
            status = self._refused(target, headers, query)
            if status:
                body = json.dumps({"message": HTTPStatus(status).phrase})
                head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write((head + body).encode())
                return
            await self._listen(writer, headers, query)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # cancelled: its server is closed
        finally:
            self._listeners.pop(writer, None)
            writer.close()
            self._tasks.discard(task)

    def _refused(self, target: str, headers: Mapping[str, str], query: Mapping[str, str]) -> int:
        """The status of an error; 0: there is none."""
        if self.failing:
            return self.failing.pop(0)
        if urlsplit(target).path != PATH:
            return 404
        key, secret = headers.get("apca-api-key-id"), headers.get("apca-api-secret-key")
        if not key or not secret:
            return 403
        if self.keys.get(key) != secret:
            return 401
        types = [name.removesuffix("_corporateaction_event") for name in query.get("type", TYPES[0]).split(",")]
        known = query.get("region", "all") in REGIONS and all(name in TYPES for name in types)
        return 0 if known else 400

    async def _listen(self, writer: asyncio.StreamWriter, headers: Mapping[str, str], query: Mapping[str, str]) -> None:
        region, since = query.get("region", "all"), headers.get("last-event-id") or query.get("since_id")
        writer.write(_OPEN.encode())
        for event in self.events:
            if since is not None and event["event_id"] >= since and region in ("all", event["region"]):
                writer.write(self._said(event))  # the one asked for as well
        self._listeners[writer] = region
        while not writer.is_closing():
            writer.write(_chunk(": keep-alive\n\n"))
            await writer.drain()
            await asyncio.sleep(KEEPALIVE_S)

    def _said(self, event: dict[str, Any]) -> bytes:
        data = json.dumps([event] if self.listed else event, separators=(",", ":"))
        number = f"id: {event['event_id']}\n" if self.numbered else ""
        return _chunk(f"{number}data: {data}\n\n")


def _chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)
