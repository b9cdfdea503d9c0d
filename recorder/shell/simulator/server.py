"""A simulated exchange: providers' own protocols over real sockets, fed by a synthetic market or by recordings."""

from __future__ import annotations

import asyncio
import http
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from recorder.core.frames import BINARY, TEXT
from recorder.core.market import KIND, TRADE, TS, Market, Ring
from recorder.shell.captures import Capture, Item, merge
from recorder.shell.simulator.client import Client, frame_bytes
from recorder.shell.simulator.render import warm
from recorder.shell.simulator.rest import Answer
from recorder.shell.simulator.stage import Commanded, Stage
from recorder.shell.simulator.truth import VenueTruth
from recorder.shell.simulator.venue import MESSAGE_BYTES_MAX, Conversation
from recorder.shell.simulator.venues import CONVERSATIONS, default_path, make_venue, venue_key
from recorder.values.errors import CaptureError, ConfigError, RecorderError, nearest

PORTS = range(20_000, 30_000)
SETTLE_S = 0.2  # after the last subscription, before the first event: a client subscribes in several messages
TICK_S = 0.001  # how often due events are sent
CHUNK_EVENTS = 4096  # at full speed: 1 MB of frames, some milliseconds of a fast client
CATCH_UP_NS = 1_000_000_000  # a pause longer than that (of the machine) is not made up for in one go
PLAY_BYTES = 1 << 16  # of a recording, written at once at full speed

Sleep = Callable[[float], Awaitable[Any]]


class Simulator(Commanded):
    """Serve providers' WebSockets and history on one port; each under its own path, see ``url`` and ``rest_url``.

    providers  of venues.CONVERSATIONS: coinbase, coinbase-advanced, binance, kraken, bitstamp, alpaca …
    port       0: a free one of PORTS
    rate       mean trades per second of each provider; None: as many as its clients take
    burst      how many times faster trades come in bursts
    quotes     mean quotes per trade
    symbols    canonical, for all providers or by provider; None: some of each
    total      trades of each provider, then ``finished``; None: for ever
    rules      by provider, see each provider's file: keys, limits
    captures   serve these recordings instead: each client gets its provider's from the start when it has subscribed
    speed      of recordings: 1 as recorded, None as fast as the client takes it
    clock, wall, sleep  monotonic ns, Unix ns, seconds; a test passes its own
    Raises ConfigError for an unknown provider or a taken port.
    """

    def __init__(
        self,
        providers: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate: float | None = 1000.0,
        burst: float = 10.0,
        quotes: float = 1.0,
        seed: int = 1,
        symbols: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        total: int | None = None,
        rules: Mapping[str, dict[str, object]] | None = None,
        captures: Iterable[Capture] = (),
        speed: float | None = 1.0,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.host, self.port = host, port
        self._rate, self._burst, self._quotes, self._seed, self._total = rate, burst, quotes, seed, total
        self._speed, self._clock, self._wall, self._sleep = speed, clock, wall, sleep
        super().__init__()
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        rules = rules or {}
        self.unread: dict[str, str] = {}  # recording → what of it could not be served
        recordings: dict[str, list[Capture]] = {}
        for capture in captures:
            keys = dict.fromkeys(venue_key(spec) for spec in capture.specs)
            served = [key for key in keys if key in CONVERSATIONS]
            for key in served or keys:  # beside them may be feeds that were asked: nobody is to be sent their answers
                recordings.setdefault(key, []).append(capture)
        for key in (*providers, *recordings):
            if key not in CONVERSATIONS:
                raise ConfigError(f"no simulated provider is called {key!r}; {nearest(key, (*CONVERSATIONS, 'fix'))}")
            own = symbols.get(key) if isinstance(symbols, Mapping) else symbols
            playing = recordings.get(key)
            venue = make_venue(key, own if playing is None else (), wall, dict(rules.get(key, {})))
            whole = None if playing is None else (playing[0] if len(playing) == 1 else merge(playing))
            self._stages[key] = Stage(venue, CONVERSATIONS[key], whole)

    # What others may know

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(self._stages)

    def url(self, provider: str) -> str:
        """Where to connect for this provider; put it into ``url`` of a feed."""
        return f"ws://{self.host}:{self.port}/{provider}{default_path(self._stages[provider].venue)}"

    def rest_url(self, provider: str) -> str:
        """Where this provider's history is; put it into ``rest_url`` of a feed."""
        return f"http://{self.host}:{self.port}/{provider}"

    def symbols(self, provider: str) -> tuple[str, ...]:
        """Canonical symbols that trade there."""
        return self._stages[provider].venue.symbols

    def clients(self, provider: str) -> int:
        """Connections that are open now."""
        return len(self._stages[provider].clients)

    @property
    def truth(self) -> dict[str, VenueTruth]:
        """What was sent so far, by provider."""
        return {key: stage.truth for key, stage in self._stages.items()}

    async def finished(self) -> None:
        """Wait until every provider has sent its ``total``, or its recording to somebody."""
        for stage in self._stages.values():
            await stage.finished.wait()

    # Life

    async def start(self) -> None:
        """Listen. Raises ConfigError when the port is taken."""
        for stage in self._stages.values():
            if stage.capture is None:
                warm(stage.conversation(stage.venue, "/", {}).program())
        candidates = [self.port] if self.port else random.sample(PORTS, 50)
        for port in candidates:
            try:
                self._server = await serve(
                    self._serve,
                    self.host,
                    port,
                    process_request=self._admit,
                    compression=None,
                    max_size=MESSAGE_BYTES_MAX,
                )
                self.port = port
                break
            except OSError as error:
                reason = error.strerror or str(error)
        else:
            where = f"port {self.port}" if self.port else f"every port tried of {PORTS.start}-{PORTS.stop - 1}"
            raise ConfigError(f"cannot listen on {self.host}: {where}: {reason}; choose another with --port")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._seconds())]
        self._tasks += [
            loop.create_task(self._trade(stage)) for stage in self._stages.values() if stage.capture is None
        ]

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._server is not None:
            for key in self._stages:
                self.resume(key)  # a stalled client would not read the goodbye
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Connections

    def _route(self, path: str) -> tuple[Stage, str] | None:
        """Stage and the provider's own path. Without a provider in the path it is the only one there is."""
        first, slash, rest = path.lstrip("/").partition("/")
        name, question, query = first.partition("?")
        if name in self._stages:
            return self._stages[name], f"/{rest}" if slash else f"/{question}{query}"
        return (next(iter(self._stages.values())), path) if len(self._stages) == 1 else None

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        found = self._route(request.path)
        if found is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, f"known here: {', '.join(self._stages)}\n")
        stage, path = found
        if request.headers.get("Upgrade", "").lower() != "websocket":
            none = Answer(404, {"message": "a recording has no history"})
            plain = stage.rest.answer(path, dict(request.headers.raw_items())) if stage.capture is None else none
            return plain.response()
        if stage.faults.refuse:
            stage.faults.refuse -= 1
            stage.truth.refused += 1
            answer = connection.respond(http.HTTPStatus(stage.faults.status), "refused on command\n")
            if stage.faults.retry_after is not None:
                answer.headers["Retry-After"] = stage.faults.retry_after
            return answer
        return None

    async def _serve(self, ws: ServerConnection) -> None:
        assert ws.request is not None  # set by the handshake
        found = self._route(ws.request.path)
        assert found is not None  # admitted
        stage, path = found
        client = Client(ws, stage.conversation(stage.venue, path, ws.request.headers), stage.truth)
        client.limit(stage.limit)
        client.conversation.forced, stage.faults.fail = stage.faults.fail, []
        client.withheld = stage.faults.withhold.pop(0) if stage.faults.withhold else None
        stage.clients.append(client)
        stage.truth.connections += 1
        play = asyncio.get_running_loop().create_task(self._play(stage, client)) if stage.capture is not None else None
        try:
            client.say(client.conversation.opened())
            self._changed(stage, client)
            async for message in ws:
                client.heard(message)
                self._changed(stage, client)
        except ConnectionClosed:
            pass
        finally:
            stage.clients.remove(client)
            if play is not None:
                play.cancel()
                await asyncio.gather(play, return_exceptions=True)
            await client.ended()

    def _changed(self, stage: Stage, client: Client) -> None:
        client.refresh()
        if client.subscribed.is_set():
            stage.arrived.set()

    async def _seconds(self) -> None:
        """Heartbeats, and time-outs of clients that do not do what the provider expects."""
        while True:
            await self._sleep(1.0)
            for stage in self._stages.values():
                for client in list(stage.clients):
                    if stage.life_s is not None and client.age_s > stage.life_s:
                        client.cut()
                    client.say(client.conversation.second())

    async def _settle(self, clients: Callable[[], list[Client]]) -> None:
        loop = asyncio.get_running_loop()
        while (waiting := max((c.asked_at for c in clients()), default=0.0) + SETTLE_S - loop.time()) > 0:
            await asyncio.sleep(waiting)

    # The synthetic market

    async def _trade(self, stage: Stage) -> None:
        venue, rate = stage.venue, self._rate
        market = Market(
            len(venue.symbols), self._seed, rate or 1e6, self._burst, self._quotes, size_digits=venue.size_digits
        )
        venue.open(market)
        ring = Ring(market) if rate is None else None
        await stage.arrived.wait()
        await self._settle(lambda: stage.clients)
        start, left = self._clock(), self._total
        while left is None or left > 0:
            if ring is None:
                await self._sleep(TICK_S)
                elapsed = self._clock() - start
                events = market.until(elapsed)
                if len(events) and elapsed - int(events[0, TS]) > CATCH_UP_NS:
                    start = self._clock() - int(events[-1, TS])
            else:
                await self._taken(stage)
                events = ring.take(CHUNK_EVENTS)
            if left is not None:
                events = _first_trades(events, left)
                left -= int((events[:, KIND] == TRADE).sum())
            if len(events):
                self._happen(stage, events)
        stage.finished.set()

    async def _taken(self, stage: Stage) -> None:
        """Wait until somebody takes more."""
        while not any(client.open and client.subscribed.is_set() for client in stage.clients):
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*(client.drain() for client in stage.clients), return_exceptions=True)
        await asyncio.sleep(0)

    def _happen(self, stage: Stage, events: np.ndarray) -> None:
        """Events take place now, 1 ns apart, and go to whoever wants them."""
        events = events.copy()
        events[:, TS] = self._wall() - len(events) + np.arange(len(events))
        stage.truth.happened(events)
        stage.venue.happened(events)
        stage.rest.happened(events)
        events, dropped = stage.faults.apply(events, stage.truth)
        for client in stage.clients:
            client.conversation.sequence += dropped  # where messages are numbered, a lost one leaves a hole
            client.give(events)

    # Recordings

    async def _play(self, stage: Stage, client: Client) -> None:
        """Send the recording to one client from the start, what it subscribed to, at the times recorded."""
        capture, conversation = stage.capture, client.conversation
        assert capture is not None
        await client.subscribed.wait()
        await self._settle(lambda: [client])
        start, first, pending, frames = self._clock(), None, bytearray(), 0
        ours = [venue_key(spec) == stage.venue.key for spec in capture.specs]
        for index, kind, ts, payload in self._readable(capture):
            if kind not in (TEXT, BINARY) or not ours[index]:
                continue
            first = ts if first is None else first
            key = _key_of(conversation, payload)
            name = "" if key is None else f"{key[0]} {key[1]}"
            if key is None or not conversation.wants(*key):
                stage.truth.unasked[name] = stage.truth.unasked.get(name, 0) + 1
                continue
            due = 0 if self._speed is None else start + int((ts - first) / self._speed) - self._clock()
            if due > 0 or len(pending) >= PLAY_BYTES:
                self._flush(stage, client, pending, frames)
                frames = 0
                await client.drain()
                await (self._sleep(due / 1e9) if due > 0 else asyncio.sleep(0))
            if not client.open:
                return
            pending += frame_bytes(conversation.renumbered(payload), kind)
            frames += 1
            stage.truth.recorded[name] = stage.truth.recorded.get(name, 0) + 1
        self._flush(stage, client, pending, frames)
        stage.finished.set()

    def _readable(self, capture: Capture) -> Iterator[Item]:
        """All that can be read of a recording; what cannot is noted."""
        try:
            yield from capture
        except CaptureError as error:
            self.unread[capture.path] = str(error)

    def _flush(self, stage: Stage, client: Client, pending: bytearray, frames: int) -> None:
        if pending and client.write(bytes(pending)):
            stage.truth.frames += frames
            stage.truth.bytes += len(pending)
        pending.clear()


def _first_trades(events: np.ndarray, count: int) -> np.ndarray:
    """Events up to and including the trade that makes the count full."""
    trades = np.flatnonzero(events[:, KIND] == TRADE)
    return events if len(trades) < count else events[: trades[count - 1] + 1]


def _key_of(conversation: Conversation, payload: bytes) -> tuple[str, str] | None:
    try:
        return conversation.key(payload)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecorderError):
        return None  # a frame that does not fit its provider: part of no subscription
