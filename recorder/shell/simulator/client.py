"""One client of the simulator: its conversation, what it is given, and how slowly."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import numpy as np
from websockets.protocol import State

from recorder.core.market import KIND, SYMBOL, TRADE
from recorder.shell.simulator.render import Renderer
from recorder.shell.simulator.truth import VenueTruth
from recorder.shell.simulator.venue import Close, Conversation, Reply, Snapshot

BACKLOG_BYTES_MAX = 64 << 20  # held for a client that does not read: half a minute of a busy day, then it is cut
SLOW_STEP_S = 0.05  # how often a slowed client is given its share
TEXT, BINARY = 1, 2


class Socket(Protocol):
    """What is used of a WebSocket connection of the ``websockets`` package."""

    transport: asyncio.Transport

    @property
    def state(self) -> State: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    async def drain(self) -> None: ...


def frame_bytes(payload: bytes, opcode: int) -> bytes:
    """A whole, unmasked WebSocket frame (RFC 6455, 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 65_536:
        return bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big") + payload


class Client:
    """Writes whole frames straight to the transport: nothing can come between them, and a frame costs 0.2 us."""

    def __init__(self, ws: Socket, conversation: Conversation, truth: VenueTruth) -> None:
        self.ws, self.conversation, self.truth = ws, conversation, truth
        self._opened = asyncio.get_running_loop().time()
        self.withheld: int | None = None  # a symbol that is acknowledged and never delivered
        self.asked_at = 0.0  # when the set of subscriptions last changed, by the loop's clock
        self.subscribed = asyncio.Event()
        self.muted = np.zeros(len(conversation.venue.names), bool)  # symbols it is told nothing of, on command
        self.forgotten = self.muted.copy()  # of those, the ones that are sent again once they are subscribed to anew
        self._mask = np.zeros((2, len(conversation.venue.names)), bool)
        self._renderer: Renderer | None = None
        self._held = bytearray()
        self._pace: asyncio.Task[None] | None = None
        self._bytes_per_second: float | None = None  # None: as fast as the client reads
        self._closing: asyncio.Task[None] | None = None

    @property
    def age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._opened

    @property
    def open(self) -> bool:
        """Whether it may be sent anything: not after the client has said goodbye, whatever the transport says."""
        return self._closing is None and self.ws.state is State.OPEN and not self.ws.transport.is_closing()

    def say(self, replies: list[Reply]) -> None:
        """Send what the provider says; a Close ends the connection after what was said before it."""
        for reply in replies:
            if isinstance(reply, Close):
                self.close(reply.code, reply.reason)
                return
            payload = reply.payload if isinstance(reply, Snapshot) else reply
            text = isinstance(payload, str)
            self.write(frame_bytes(payload.encode() if isinstance(payload, str) else payload, TEXT if text else BINARY))
            if isinstance(reply, Snapshot):
                self._count(reply)

    def heard(self, message: str | bytes) -> None:
        """Answer a message, then give what is now subscribed: nothing is generated in between."""
        conversation = self.conversation
        self.say(conversation.received(message))
        self.refresh()

    def refresh(self) -> None:
        """Take over what the conversation has agreed to deliver."""
        before, self._mask = self._mask, self.conversation.mask()
        self.muted[self.forgotten & (before & ~self._mask).any(0)] = False
        if self.withheld is not None:
            self._mask[:, self.withheld] = False
        if self.conversation.wanted:
            self.asked_at = asyncio.get_running_loop().time()
            self.subscribed.set()

    def _count(self, snapshot: Snapshot) -> None:
        for index in snapshot.symbols:
            truth = self.truth.symbols[self.truth.names[index]]
            if snapshot.kind == TRADE:
                number = int(self.conversation.numbers(TRADE, index)["id"])
                truth.deliver(number, number)
                truth.trade_snapshots += 1
            else:
                truth.quote_snapshots += 1

    def give(self, events: np.ndarray) -> None:
        """Send the events that this client has subscribed to."""
        if not self.open or not len(events):
            return
        wanted = self._mask[events[:, KIND], events[:, SYMBOL]] & ~self.muted[events[:, SYMBOL]]
        own = events if wanted.all() else events[wanted]
        if not len(own):
            return
        if self._renderer is None:
            self._renderer = Renderer(self.conversation.program())
        self._renderer.sequence = self.conversation.sequence
        data, frames = self._renderer.render(own)
        self.conversation.sequence = self._renderer.sequence
        if self.write(data):
            self.truth.sent(own, frames, len(data))

    def write(self, data: bytes) -> bool:
        """Hand bytes of whole frames over; False when the client is gone or has just been cut for being slow."""
        if not self.open:
            return False
        waiting = len(self._held) + self.ws.transport.get_write_buffer_size()
        if waiting + len(data) > BACKLOG_BYTES_MAX:
            self.close(1008, "slow client")
            return False
        if self._bytes_per_second is None:
            self.ws.transport.write(data)
        else:
            self._held += data
        return True

    async def drain(self) -> None:
        """Wait until the client has read most of what it was given."""
        if self.open:
            await self.ws.drain()

    def limit(self, bytes_per_second: float | None) -> None:
        """Slow the client down; 0: nothing leaves, nothing it sends is read; None: what was held leaves at once."""
        self._bytes_per_second = bytes_per_second
        transport: Any = self.ws.transport
        if self._pace is not None:
            self._pace.cancel()
            self._pace = None
        if not self.open:
            return
        if bytes_per_second == 0:
            transport.pause_reading()
        else:
            transport.resume_reading()
        if bytes_per_second is None:
            held, self._held = bytes(self._held), bytearray()
            transport.write(held)
        elif bytes_per_second:
            self._pace = asyncio.get_running_loop().create_task(self._trickle(bytes_per_second))

    async def _trickle(self, bytes_per_second: float) -> None:
        share = max(1, int(bytes_per_second * SLOW_STEP_S))
        while self.open:
            part = bytes(self._held[:share])
            del self._held[:share]
            self.ws.transport.write(part)
            await asyncio.sleep(SLOW_STEP_S)

    def close(self, code: int, reason: str) -> None:
        """Say goodbye with a close frame; code 0: end the connection without one, after what was said."""
        if not code:
            self.ws.transport.close()
        elif self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.ws.close(code, reason))

    def cut(self) -> None:
        """Reset the connection without a word."""
        self.ws.transport.abort()

    async def ended(self) -> None:
        """The connection is gone: leave nothing running."""
        self.conversation.closed()
        if self._pace is not None:
            self._pace.cancel()
        if self._closing is not None:
            await asyncio.gather(self._closing, return_exceptions=True)
