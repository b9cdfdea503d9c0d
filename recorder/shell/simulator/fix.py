"""A simulated FIX 4.4 counterparty: who is connected to, with its refusals, gaps and disconnects, over real sockets.

It shares nothing with the recorder's own session but the bytes of a message.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recorder.core.market import (
    ASK,
    ASK_SIZE,
    ID,
    KIND,
    PRICE,
    PRICE_DIGITS,
    SIDE,
    SIZE,
    SYMBOL,
    TRADE,
    TS,
    Market,
    decimal_text,
)
from recorder.core.text_time import fix_text
from recorder.shell.simulator.truth import VenueTruth
from recorder.values.errors import ConfigError, FrameError
from recorder.values.fix import MESSAGE_BYTES_MAX, body_of, closed, fields_of, joined

PORTS = range(20_000, 30_000)
SYMBOLS = ("EUR/USD", "GBP/USD", "AAPL")
SETTLE_S = 0.2  # after the last subscription, before the first event: a client subscribes in several messages
TICK_S = 0.001
ENTRIES_MAX = 50  # in one increment
SIZE_DIGITS = 6
SENT_MAX = 100_000  # messages remembered for who asks for them again

Fields = dict[bytes, bytes]


class FixSimulator:
    """Accepts sessions and sends a synthetic market to whoever asks for it.

    symbols  as the counterparty names them
    rate     mean trades per second; quotes: mean quotes per trade; total: trades, then ``finished``
    rules    sender, target: CompIDs, ours first; user, password; replay: sends again what is asked for, else fills
             the gap; subscriptions_max; forbidden: symbols without permission; reasons: symbol → what its requests are
             refused with: a MsgType (Y, 3 or j), a reason, words, of a Reject the tag that does not please; logon:
             words of a Reject that answers every Logon
    wall     ns since the epoch
    """

    def __init__(
        self,
        symbols: Sequence[str] = SYMBOLS,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate: float = 1000.0,
        quotes: float = 1.0,
        seed: int = 1,
        total: int | None = None,
        rules: dict[str, Any] | None = None,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.host, self.port, self.wall = host, port, wall
        self.names = tuple(symbols)
        self.rules = {"sender": "FEED", "target": "RECORDER", **(rules or {})}
        self.truth = VenueTruth(self.names, SIZE_DIGITS)
        self.sessions: list[Acceptor] = []
        self.numbers: dict[str, list[int]] = {}  # counterparty → next out, due in: outlive connections
        self.drop = 0  # messages to come that get a number and are not sent
        self.garble = 0  # messages to come that are sent damaged
        self.mute = False  # nothing is sent at all
        self.last: dict[int, list[int]] = {}  # symbol → its last quote
        self._rate, self._quotes, self._seed, self._total = rate, quotes, seed, total
        self._server: asyncio.Server | None = None
        self._trading: asyncio.Task[None] | None = None
        self._asked_s = 0.0  # when somebody subscribed last
        self._arrived, self._finished = asyncio.Event(), asyncio.Event()

    @property
    def url(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    async def finished(self) -> None:
        """Wait until ``total`` trades have happened."""
        await self._finished.wait()

    async def start(self) -> None:
        """Listen. Raises ConfigError when the port is taken."""
        loop = asyncio.get_running_loop()
        for port in [self.port] if self.port else random.sample(PORTS, 50):
            try:
                self._server = await loop.create_server(lambda: Acceptor(self), self.host, port)
                self.port = port
                break
            except OSError as error:
                reason = error.strerror or str(error)
        else:
            raise ConfigError(f"cannot listen on {self.host}: {reason}; choose another port")
        self._trading = loop.create_task(self._trade())

    async def stop(self) -> None:
        """Log everybody out and stop listening."""
        if self._trading is not None:
            self._trading.cancel()
            await asyncio.gather(self._trading, return_exceptions=True)
        for session in list(self.sessions):
            session.logout("closing")
        if self._server is not None:
            self._server.close()

    async def __aenter__(self) -> FixSimulator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def subscribed(self) -> None:
        self._asked_s = time.monotonic()
        self._arrived.set()

    async def _trade(self) -> None:
        market = Market(len(self.names), self._seed, self._rate, 10.0, self._quotes, size_digits=SIZE_DIGITS)
        await self._arrived.wait()
        while (waiting := self._asked_s + SETTLE_S - time.monotonic()) > 0:
            await asyncio.sleep(waiting)
        start, left = time.monotonic_ns(), self._total
        while left is None or left > 0:
            await asyncio.sleep(TICK_S)
            events = market.until(time.monotonic_ns() - start).copy()
            trades = np.flatnonzero(events[:, KIND] == TRADE)
            if left is not None and len(trades) >= left:
                events = events[: trades[left - 1] + 1]
                left = 0
            elif left is not None:
                left -= len(trades)
            if len(events):
                self._happen(events)
        self._finished.set()

    def _happen(self, events: np.ndarray) -> None:
        now = self.wall() // 1000 * 1000
        events[:, TS] = now - 1000 * (len(events) - 1 - np.arange(len(events)))  # microseconds, all different
        self.truth.happened(events)
        listed = events.tolist()
        for event in listed:
            if event[KIND] != TRADE:
                self.last[event[SYMBOL]] = event
        for session in list(self.sessions):
            session.give(listed)
        for session in list(self.sessions):
            session.tick()


class Acceptor(asyncio.Protocol):
    """One connection. Numbers by counterparty outlive it, unless its Logon starts them over."""

    def __init__(self, venue: FixSimulator) -> None:
        self.venue = venue
        self.subscriptions: dict[tuple[str, bytes], str] = {}  # (name, entry type) → MDReqID
        self._numbers = [1, 1]
        self._requests: set[str] = set()
        self._sent: dict[int, tuple[bytes, bytes]] = {}  # number → body, SendingTime
        self._peer, self._open = b"", False
        self._buffer = bytearray()
        self._heartbeat_s, self._spoke = 30, time.monotonic()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.venue.sessions.append(self)
        self.venue.truth.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.venue.sessions:
            self.venue.sessions.remove(self)

    def cut(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()

    def logout(self, text: str) -> None:
        self.send(b"5", joined((58, text)))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\x0110=")) >= 0 and len(self._buffer) >= end + 8:
            message, self._buffer = bytes(self._buffer[: end + 8]), self._buffer[end + 8 :]
            try:
                fields = dict(reversed(fields_of(body_of(message))))
            except FrameError:
                continue
            self._heard(fields)
        if len(self._buffer) > MESSAGE_BYTES_MAX:
            self.cut()

    def tick(self) -> None:
        if self._open and time.monotonic() - self._spoke > self._heartbeat_s:
            self.send(b"0", b"")

    # Sending.

    def send(self, kind: bytes, body: bytes, number: int | None = None) -> None:
        """Send with the next number, or once more with the one it had."""
        text = fix_text(self.venue.wall())
        if number is None:
            number = self._numbers[0]
            self._numbers[0] += 1
            self._sent[number] = (joined((35, kind)) + body, text)
            if len(self._sent) > SENT_MAX:
                del self._sent[next(iter(self._sent))]
        rules = self.venue.rules
        head = joined((35, kind), (49, rules["sender"]), (56, self._peer), (34, number), (52, text))
        message = closed(head + body)
        if self.venue.mute or self._transport.is_closing():
            return
        if kind in (b"W", b"X") and b"\x0143=Y" not in body:
            if self.venue.drop:
                self.venue.drop -= 1
                return
            if self.venue.garble:
                self.venue.garble -= 1
                message = message[:-20] + b"?" + message[-19:]
        self._spoke = time.monotonic()
        self._transport.write(message)

    def give(self, events: list[list[int]]) -> None:
        """Market events → increments of what is subscribed to."""
        if self._transport.is_closing():
            return  # nor counted as delivered
        part: list[bytes] = []
        for event in [*events, None]:
            if part and (event is None or len(part) >= ENTRIES_MAX):
                self.send(b"X", joined((268, len(part))) + b"".join(part))
                part = []
            part += self._entries(event) if event is not None else []

    def _entries(self, event: list[int]) -> list[bytes]:
        name = self.venue.names[event[SYMBOL]]
        stamp = fix_text(event[TS])
        when = joined((272, stamp[:8]), (273, stamp[9:17] + b".%06d" % (event[TS] // 1000 % 1_000_000)))

        def level(kind: bytes, price: int, size: int, new: bytes = b"1") -> bytes:
            values = (decimal_text(price, PRICE_DIGITS), decimal_text(size, SIZE_DIGITS))
            return joined((279, new), (269, kind), (55, name), (270, values[0]), (271, values[1])) + when

        if event[KIND] == TRADE:
            if (name, b"2") not in self.subscriptions:
                return []
            self.venue.truth.symbols[name].deliver(event[ID], event[ID])
            return [level(b"2", event[PRICE], event[SIZE], b"0") + joined((278, event[ID]), (2446, 2 - event[SIDE]))]
        found = []
        if (name, b"0") in self.subscriptions:
            found.append(level(b"0", event[PRICE], event[SIZE]))
        if (name, b"1") in self.subscriptions:
            found.append(level(b"1", event[ASK], event[ASK_SIZE]))
        return found

    # Receiving.

    def _heard(self, fields: Fields) -> None:
        kind, number = fields[b"35"], int(fields.get(b"34", b"0"))
        if not self._open:
            self._logon(kind, fields, number)
            return
        if number > self._numbers[1]:
            self.send(b"2", joined((7, self._numbers[1]), (16, 0)))
        self._numbers[1] = max(self._numbers[1], number + 1)
        if kind == b"1":
            self.send(b"0", joined((112, fields.get(b"112", b""))))
        elif kind == b"2":
            self._again(int(fields[b"7"]), int(fields[b"16"]))
        elif kind == b"5":
            self.send(b"5", b"")
            self._transport.close()
        elif kind == b"V":
            self._request(fields, number)
        elif kind not in (b"0", b"3", b"4", b"A"):
            self.send(b"j", joined((45, number), (372, kind), (380, 3), (58, "Unsupported Message Type")))

    def _logon(self, kind: bytes, fields: Fields, number: int) -> None:
        rules = self.venue.rules
        parties = fields.get(b"56", b"").decode(), fields.get(b"49", b"").decode()
        if kind != b"A" or parties != (rules["sender"], rules["target"]):
            self.cut()
            return
        self._peer = fields[b"49"]
        if fields.get(b"141") == b"Y":
            self.venue.numbers[rules["target"]] = [1, 1]
        self._numbers = self.venue.numbers.setdefault(rules["target"], [1, 1])
        given = fields.get(b"553", b"").decode(), fields.get(b"554", b"").decode()
        if "user" in rules and given != (rules["user"], rules["password"]):
            self.venue.truth.refused += 1
            self.logout("invalid username or password")
            return
        if "logon" in rules:
            self.send(b"3", joined((45, number), (372, "A"), (373, 5), (58, rules["logon"])))
            self._transport.close()
            return
        if number < self._numbers[1]:
            self.logout(f"MsgSeqNum too low, expecting {self._numbers[1]} but received {number}")
            return
        gap = number > self._numbers[1]
        first = self._numbers[1]
        self._heartbeat_s, self._open = int(fields[b"108"]), True
        echoed = joined((98, 0), (108, fields[b"108"]))
        self.send(b"A", echoed + (joined((141, "Y")) if fields.get(b"141") == b"Y" else b""))
        self._numbers[1] = number + 1
        if gap:
            self.send(b"2", joined((7, first), (16, 0)))

    def _again(self, first: int, last: int) -> None:
        """Send once more, or fill the gap; the session's own messages are always filled."""
        last = self._numbers[0] - 1 if last == 0 else min(last, self._numbers[0] - 1)
        filled = first
        for number in range(first, last + 1):
            body, stamp = self._sent.get(number, (b"", b""))
            if self.venue.rules.get("replay") and body[3:5] in (b"W\x01", b"X\x01"):
                if filled < number:
                    self._fill(filled, number)
                self.send(body[3:4], joined((43, "Y"), (122, stamp)) + body[5:], number)
                filled = number + 1
        if filled <= last:
            self._fill(filled, last + 1)

    def _fill(self, number: int, new: int) -> None:
        stamp = fix_text(self.venue.wall())
        self.send(b"4", joined((43, "Y"), (122, stamp), (36, new), (123, "Y")), number)

    def _request(self, fields: Fields, number: int) -> None:
        """One symbol a request; the group of entry types is read from the message's own order."""
        request, name = fields.get(b"262", b"").decode(), fields.get(b"55", b"").decode()
        if not request:
            self.send(b"3", joined((45, number), (371, 262), (372, "V"), (373, 1), (58, "Required tag missing")))
            return
        types = (b"2",) if fields.get(b"267") == b"1" else (b"0", b"1")
        if fields.get(b"263") == b"2":
            for kind in types:
                self.subscriptions.pop((name, kind), None)
            return
        if name in self.venue.rules.get("reasons", ()):
            self._refuse(request, number, *self.venue.rules["reasons"][name])
            return
        reason = self._refusal(fields, request, name)
        if reason:
            self.send(b"Y", joined((262, request), (281, reason[0]), (58, reason[1])))
            return
        self._requests.add(request)
        self.subscriptions |= {(name, kind): request for kind in types}
        entries = []
        last = self.venue.last.get(self.venue.names.index(name))
        if types == (b"0", b"1") and last is not None:
            for kind, price, size in ((b"0", PRICE, SIZE), (b"1", ASK, ASK_SIZE)):
                values = decimal_text(last[price], PRICE_DIGITS), decimal_text(last[size], SIZE_DIGITS)
                entries.append(joined((269, kind), (270, values[0]), (271, values[1])))
        self.send(b"W", joined((262, request), (55, name), (268, len(entries))) + b"".join(entries))
        self.venue.subscribed()

    def _refuse(self, request: str, number: int, kind: str, reason: str, words: str, tag: int = 55) -> None:
        """Refuse a request on command."""
        said = {
            "Y": ((262, request), (281, reason)),
            "3": ((45, number), (371, tag), (372, "V"), (373, reason)),
            "j": ((45, number), (372, "V"), (379, request), (380, reason)),
        }[kind]
        self.send(kind.encode(), joined(*said, (58, words)))

    def _refusal(self, fields: Fields, request: str, name: str) -> tuple[str, str] | None:
        rules = self.venue.rules
        if name not in self.venue.names:
            return "0", f"unknown symbol {name}"
        if request in self._requests:
            return "1", f"MDReqID {request} was used before"
        if len(self.subscriptions) >= int(rules.get("subscriptions_max", 10_000)):
            return "2", "too many subscriptions"
        if name in rules.get("forbidden", ()):
            return "3", f"no permission for {name}"
        if fields.get(b"263") != b"1":
            return "4", "subscribe with 1, unsubscribe with 2"
        if fields.get(b"264") not in (b"0", b"1"):
            return "5", "MarketDepth is 0 or 1"
        if fields.get(b"265") != b"1":
            return "6", "incremental only"
        if b"266" in fields:
            return "7", "AggregatedBook is not supported"
        return None
