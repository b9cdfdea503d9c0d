"""A server of scripted HTTP answers, for streams of events: each connection gets the next script."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
PLAIN = OPEN + b"\r\n"
CHUNKED = OPEN + b"Transfer-Encoding: chunked\r\n\r\n"
HOLD = None  # in a script: say nothing more and stay


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class EventServer:
    """``scripts``: what to write to each connection in turn, piece by piece; the last one is repeated.

    ``heads``: the requests as they came, by lower-case header name, the request line under "".
    """

    def __init__(self, *scripts: Iterable[bytes | None]) -> None:
        self.scripts = [list(script) for script in scripts]
        self.heads: list[dict[str, str]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> EventServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/events"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            number = len(self.heads)
            self.heads.append({"": lines[0]} | {n.lower(): v for n, _, v in (x.partition(": ") for x in lines[1:-2])})
            for piece in self.scripts[min(number, len(self.scripts) - 1)]:
                if piece is HOLD:
                    await reader.read()
                    break
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return  # cancelled: the server is closed
        finally:
            writer.close()
