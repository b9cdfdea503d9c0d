"""A TCP proxy whose faults a test switches while bytes flow; its loop runs in a thread of its own.

    with Proxy(("127.0.0.1", 9000)) as proxy:
        …                           # connect to proxy.port
        proxy.cut(reset=True)       # every open connection, now
        proxy.refuse()              # nobody listens; proxy.accept() ends it
        proxy.down.stall()          # bytes to the client are held, connections stay open; proxy.down.flow() ends it
        proxy.up.bytes_s = 10_000   # throttle, each connection by itself; None ends it
        proxy.down.delay_s = 0.2    # a byte waits one to two delays; 0 ends it
        proxy.down.truncate(40)     # once: 40 more bytes of whichever connection is next, then it is closed
        proxy.up.stall_after(100)   # once: 100 more bytes, then that connection carries nothing in this direction
        proxy.target = ("127.0.0.1", 9001)  # of connections accepted from now on

``up`` is from client to target. Counters: ``accepted``, ``open``, ``cuts``, ``unreachable``, ``up.bytes``,
``down.bytes``, ``up.faults``. It carries any protocol over TCP, and what is within TLS.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

CHUNK_BYTES = 1 << 18  # read at once; what is held of a stalled or delayed connection is at most three of them
SMOOTH_S = 0.02  # a throttled direction is given its bytes in portions of this length
EOF_GRACE_S = 1.0  # after a polite close a peer that keeps its side open is cut off
CALL_TIMEOUT_S = 10.0
STOP_S = 0.01  # a few turns of the loop
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST

Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class _Plan:
    """What befalls the next connection that carries bytes, once it has carried so many."""

    bytes: int
    then: Literal["close", "reset", "stall"]


class Direction:
    """One direction of every connection, and what goes wrong with it. Methods may be called from any thread."""

    def __init__(self, proxy: Proxy) -> None:
        self.bytes_s: float | None = None
        self.delay_s = 0.0
        self.bytes = 0  # forwarded
        self.faults = 0  # of truncate and stall_after, how many have happened
        self._proxy = proxy
        self._plan: _Plan | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    def stall(self) -> None:
        self._proxy.call(self._flowing.clear)

    def flow(self) -> None:
        """End a stall; connections that ``stall_after`` stopped stay as they are."""
        self._proxy.call(self._flowing.set)

    def truncate(self, count: int, reset: bool = False) -> None:
        self._plan = _Plan(count, "reset" if reset else "close")

    def stall_after(self, count: int) -> None:
        self._plan = _Plan(count, "stall")

    async def carry(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until the source ends, then end the destination's side."""
        plan: _Plan | None = None
        left = 0
        while data := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._flowing.wait()
            if plan is None and self._plan is not None:
                plan, self._plan = self._plan, None
                left = plan.bytes
            await self._write(writer, data if plan is None else data[:left])
            left -= len(data)
            if plan is not None and left <= 0:
                self.faults += 1
                if plan.then == "stall":
                    await asyncio.Event().wait()
                connection.end(reset=plan.then == "reset")
                return
        writer.write_eof()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            bytes_s = self.bytes_s
            portion = data if bytes_s is None else data[: max(1, int(bytes_s * SMOOTH_S))]
            writer.write(portion)
            await writer.drain()
            self.bytes += len(portion)
            data = data[len(portion) :]
            if bytes_s is not None:
                await asyncio.sleep(len(portion) / bytes_s)


@dataclass(eq=False)
class _Connection:
    proxy: Proxy
    client: Way
    target: Way
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    _ended: bool = False

    async def run(self) -> None:
        for flow, source, sink in (
            (self.proxy.up, self.client, self.target),
            (self.proxy.down, self.target, self.client),
        ):
            self.tasks.append(asyncio.create_task(flow.carry(self, source[0], sink[1])))
        try:
            done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_EXCEPTION)
            broken = any(not task.cancelled() and task.exception() is not None for task in done)
            if self._ended:
                await self._see_out()
            self._close(reset=broken)  # a side that was reset resets the other
        finally:
            self._close(reset=True)

    def end(self, reset: bool) -> None:
        """Close both sides, ``reset``: by RST, else by FIN behind what was forwarded."""
        self.proxy.cuts += 1
        self._ended = True
        if reset:
            self._close(reset=True)
        for task in self.tasks:
            task.cancel()

    async def _see_out(self) -> None:
        """End both sides, then take and drop what they still send: closing over unread bytes would reset."""
        with suppress(OSError, RuntimeError, TimeoutError):
            for _, writer in (self.client, self.target):
                if not writer.is_closing():
                    writer.write_eof()
            async with asyncio.timeout(EOF_GRACE_S):
                for reader, _ in (self.client, self.target):
                    while await reader.read(CHUNK_BYTES):
                        pass

    def _close(self, reset: bool) -> None:
        for task in self.tasks:
            task.cancel()
        for _, writer in (self.client, self.target):
            if reset and not writer.is_closing():
                _reset(writer)
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Proxy:
    """Listens on a loopback port, a free one unless given; see the module for its faults."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self.target = target
        self.port = port
        self.accepted = 0
        self.cuts = 0  # connections ended by a fault
        self.unreachable = 0  # connections whose target could not be reached; they are reset
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listener: socket.socket | None = None
        self.up, self.down = Direction(self), Direction(self)

    @property
    def open(self) -> int:
        return len(self._connections)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(CALL_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def call(self, work: Callable[[], object]) -> None:
        """Run ``work`` in the proxy's loop and wait until it is done."""

        async def run() -> None:
            work()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_TIMEOUT_S)

    def cut(self, reset: bool = False) -> int:
        """Close every open connection; return how many. New ones are accepted as before."""
        found: list[_Connection] = []

        def end() -> None:
            found.extend(self._connections)
            for connection in found:
                connection.end(reset)

        self.call(end)
        return len(found)

    def refuse(self) -> None:
        """Listen no more: new connections are refused, open ones go on (``cut`` ends them)."""
        self.call(self._close_listener)

    def accept(self) -> None:
        """Listen, again after ``refuse`` on the same port."""
        self.call(self._listen)

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=100)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        """Not by sock_accept nor start_server: cancelling those can lose a connection without closing it."""
        with suppress(BlockingIOError):
            client, _ = listener.accept()
            self.accepted += 1
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
        try:
            target = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
        except BaseException as error:
            _reset(writer)
            if not isinstance(error, OSError):
                raise
            self.unreachable += 1
            return
        connection = _Connection(self, (reader, writer), target)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    async def _stop(self) -> None:
        self._close_listener()
        await asyncio.sleep(STOP_S)  # a task that has not begun would not close its socket
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(STOP_S)  # transports close in the loop's next turns
