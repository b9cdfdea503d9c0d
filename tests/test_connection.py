"""One connection against a simulated provider over real sockets and journal: reconnecting, silence, stopping."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from recorder.core import session as sessions
from recorder.core.frames import CLOSED, OPENED, SENT, SOURCE, TEXT
from recorder.core.session import State
from recorder.feeds import make
from recorder.shell import link as links
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.proxy import Proxy
from recorder.values.errors import JournalFull
from recorder.values.feed import SECOND, Endpoint, FeedSpec

WAIT_S = 60.0
MILLISECOND = SECOND // 1000


class Told:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(("error", event, fields))

    @property
    def events(self) -> list[str]:
        return [event for _, event, _ in self.lines]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoffs a hundred times shorter; what is tested is their order, their sizes are in test_session."""
    monkeypatch.setattr(sessions, "BACKOFF_FIRST_NS", 5 * MILLISECOND)
    monkeypatch.setattr(links, "TIMER_S", 0.02)


def feed_of(spec: FeedSpec, keys: dict[str, str] | None = None, **endpoint: Any) -> Any:
    """A provider's feed that is quick to connect again, and impatient as ``endpoint`` says."""
    feed = make(spec, keys or {})
    capability = msgspec.structs.replace(feed.capability(), connects_per_minute_max=1e6, hold_ns=0)
    original: Endpoint = feed.endpoint()
    feed.capability = lambda: capability
    feed.endpoint = lambda: msgspec.structs.replace(original, **endpoint)
    return feed


def coinbase(url: str, **more: Any) -> FeedSpec:
    return FeedSpec(name="cb", provider="coinbase", symbols=("BTC-USD",), options={"api": "exchange"}, url=url, **more)


@asynccontextmanager
async def connected(feed: Any, journal: Journal, told: Told) -> Any:
    connection = Connection(feed.spec, feed, journal, lambda: None, told)
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        await connection.stop()
        await asyncio.wait_for(task, WAIT_S)


def simulator(provider: str = "coinbase", **settings: Any) -> Simulator:
    return Simulator([provider], **{"symbols": {"coinbase": ["BTC-USD"]}, "rate": 500, **settings})


async def reached(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def kinds(journal: Journal) -> list[int]:
    found: list[int] = []
    position = journal.begin
    while (frames := journal.read(position)) is not None:
        found += frames.kinds.tolist()
        position = frames.end
    return found


def payloads(journal: Journal, kind: int) -> list[bytes]:
    found: list[bytes] = []
    position = journal.begin
    while (frames := journal.read(position)) is not None:
        found += [frames.payload(i) for i in range(frames.count) if frames.kinds[i] == kind]
        position = frames.end
    return found


def match_ids(journal: Journal) -> list[int]:
    messages = [json.loads(payload) for payload in payloads(journal, TEXT)]
    return [message["trade_id"] for message in messages if message["type"] == "match"]


def test_a_conversation_is_journalled_in_its_order_from_opened_to_closed(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with simulator() as place, connected(feed_of(coinbase(place.url("coinbase"))), journal, told) as c:
            await reached(lambda: c.ready and c.frames > 50)
            assert c.ready_symbols == ("BTC-USD",)
        found = kinds(journal)
        assert found[:2] == [SOURCE, OPENED]
        assert found[-1] == CLOSED
        assert found.count(OPENED) == found.count(CLOSED) == 1
        assert found.count(TEXT) == c.frames
        asked = [json.loads(payload) for payload in payloads(journal, SENT)]
        assert asked[0]["type"] == "subscribe"
        assert told.events == ["feed.connected"]

    asyncio.run(run())


def test_stopping_journals_every_frame_that_the_provider_still_sent(journal: Journal) -> None:
    async def run() -> None:
        async with simulator(rate=5000) as place:
            async with connected(feed_of(coinbase(place.url("coinbase"))), journal, Told()) as c:
                await reached(lambda: c.frames > 500)
            await reached(lambda: not place.clients("coinbase"))
            sent = place.truth["coinbase"].symbols["BTC-USD"].sent
        ids = match_ids(journal)
        assert len(ids) == len(set(ids)) == sent

    asyncio.run(run())


@pytest.mark.parametrize("code", [None, 1001, 1012], ids=["reset", "going away", "service restart"])
def test_a_cut_connection_is_opened_again_and_told_once(journal: Journal, code: int | None) -> None:
    async def run() -> None:
        told = Told()
        async with simulator() as place, connected(feed_of(coinbase(place.url("coinbase"))), journal, told) as c:
            for round_ in (1, 2):
                await reached(lambda: c.ready)
                frames = c.frames
                await reached(lambda frames=frames: c.frames > frames + 20)
                place.cut("coinbase", code)
                await reached(lambda round_=round_: c.reconnects == round_ and c.ready)
        assert told.events == ["feed.connected", "feed.disconnected"] * 2 + ["feed.connected"]
        assert kinds(journal).count(OPENED) == 3
        causes = payloads(journal, CLOSED)[:2]
        assert all(cause.startswith(b"ws://" if code is None else b"%d" % code) for cause in causes), causes
        ids = match_ids(journal)
        assert len(ids) == len(set(ids))

    asyncio.run(run())


def test_a_connection_asked_to_reopen_closes_says_why_and_comes_back(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with simulator() as place, connected(feed_of(coinbase(place.url("coinbase"))), journal, told) as c:
            await reached(lambda: c.ready and c.frames > 20)
            c.reopen("judged dead: nothing for 12 s")
            c.reopen("asked twice, the first reason counts")
            await reached(lambda: c.reconnects == 1 and c.ready)
            frames = c.frames
            await reached(lambda: c.frames > frames + 20)
        assert told.lines[1][2]["reason"] == "judged dead: nothing for 12 s"
        assert payloads(journal, CLOSED)[0] == b"judged dead: nothing for 12 s"
        ids = match_ids(journal)
        assert len(ids) == len(set(ids))

    asyncio.run(run())


def test_refusals_are_tried_again_without_a_line_each(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with simulator() as place:
            place.refuse("coinbase", 5)
            async with connected(feed_of(coinbase(place.url("coinbase"))), journal, told) as c:
                await reached(lambda: c.ready)
                assert c.reconnects == 5
        assert told.events == ["feed.unreachable", "feed.connected"]
        assert "503" in told.lines[0][2]["reason"]

    asyncio.run(run())


def test_silence_of_an_open_connection_is_its_end(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with simulator() as place:
            feed = feed_of(coinbase(place.url("coinbase")), silence_ns=400 * MILLISECOND)
            async with connected(feed, journal, told) as c:
                await reached(lambda: c.ready and c.frames > 20)
                place.stall("coinbase")
                await reached(lambda: "feed.disconnected" in told.events)
                place.resume("coinbase")
                await reached(lambda: c.ready)
        assert "nothing received for" in told.lines[1][2]["reason"]
        ids = match_ids(journal)
        assert len(ids) == len(set(ids))

    asyncio.run(run())


def test_a_peer_that_does_not_even_answer_the_close_is_left_in_time(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "CLOSE_TIMEOUT_S", 0.1)

    async def run() -> None:
        async with simulator() as place, connected(feed_of(coinbase(place.url("coinbase"))), journal, Told()) as c:
            await reached(lambda: c.ready)
            place.stall("coinbase")
        assert kinds(journal)[-1] == CLOSED  # before stop() returned: the journal may be closed now

    asyncio.run(run())


@pytest.mark.parametrize("direction", ["down", "both"])
@pytest.mark.parametrize("rule", ["silence", "ping"])
def test_a_half_open_socket_is_noticed_by_the_endpoints_rules_and_replaced(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, rule: str, direction: str
) -> None:
    """Bytes stop without an end: the first connection through the proxy is stalled, the next one is not."""
    codes, on_closed = [], sessions.Session.on_closed

    def noted(self: Any, now: int, reason: str, retry_after_ns: int = 0, code: int = 0) -> int:
        codes.append(code)
        return on_closed(self, now, reason, retry_after_ns, code)

    monkeypatch.setattr(sessions.Session, "on_closed", noted)
    rules = {"silence_ns": 300 * MILLISECOND, "ping_ns": 0}
    if rule == "ping":
        rules = {"silence_ns": 600 * SECOND, "ping_ns": 200 * MILLISECOND}

    async def run() -> None:
        told = Told()
        async with simulator() as place:
            target = urlsplit(place.url("coinbase"))
            with Proxy((target.hostname or "", target.port or 0)) as proxy:
                url = place.url("coinbase").replace(f":{target.port}", f":{proxy.port}")
                async with connected(feed_of(coinbase(url), **rules), journal, told) as c:
                    await reached(lambda: c.ready and c.frames > 20)
                    proxy.down.stall_after(100)
                    if direction == "both":
                        proxy.up.stall_after(0)
                    await reached(lambda: c.reconnects == 1 and c.ready)
                    frames = c.frames
                    await reached(lambda: c.frames > frames + 20)
        words = "nothing received for" if rule == "silence" else "no pong and nothing else"
        assert told.lines[1][2]["reason"].count(words) == 1
        cause = payloads(journal, CLOSED)[0].decode()
        assert cause.startswith("ws://127.0.0.1:"), "no code: the provider has not said anything"
        assert cause.count(words) == 1
        assert not cause.endswith("; reconnect")
        assert codes == [0, 0], "a provider that goes away is connected to at once, a dead one as after any loss"
        assert told.events == ["feed.connected", "feed.disconnected", "feed.connected"]
        ids = match_ids(journal)
        assert len(ids) == len(set(ids))

    asyncio.run(run())


@pytest.mark.timeout(600)  # ten seconds on an idle machine
def test_whatever_the_network_does_frames_are_journalled_whole_and_once_and_the_next_connection_delivers(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "BACKOFF_MAX_NS", 100 * MILLISECOND)  # none lives for long enough to reset it
    rng = random.Random(1)

    async def run() -> None:
        async with simulator() as place:
            target = urlsplit(place.url("coinbase"))
            with Proxy((target.hostname or "", target.port or 0)) as proxy:

                def slow(bytes_s: float | None, delay_s: float) -> None:
                    proxy.down.bytes_s, proxy.up.bytes_s, proxy.down.delay_s = bytes_s, bytes_s, delay_s

                def cut_amid(plan: Callable[[], None]) -> Callable[[], None]:
                    """``plan`` is of the next connection."""
                    return lambda: (plan(), proxy.cut(reset=True))[1]

                ends: list[Callable[[], None]] = [
                    lambda: proxy.cut(reset=False), lambda: proxy.cut(reset=True),
                    lambda: proxy.down.truncate(rng.randrange(400)),  # amid a frame
                    lambda: proxy.down.truncate(rng.randrange(400), reset=True),
                    lambda: proxy.down.stall_after(rng.randrange(400)),  # half open
                    cut_amid(lambda: proxy.down.truncate(rng.randrange(120))),  # the answer to the upgrade
                    cut_amid(lambda: proxy.down.truncate(rng.randrange(120), reset=True)),
                    cut_amid(lambda: proxy.up.truncate(rng.randrange(120))),  # the upgrade
                    cut_amid(lambda: proxy.down.stall_after(rng.randrange(120))),
                    cut_amid(lambda: proxy.up.stall_after(rng.randrange(120))),
                    cut_amid(proxy.refuse),
                ]  # fmt: skip
                passes: list[Callable[[], None]] = [
                    lambda: slow(4000, 0.0), lambda: slow(None, 0.03), proxy.down.stall, proxy.up.stall
                ]  # fmt: skip
                url = place.url("coinbase").replace(f":{target.port}", f":{proxy.port}")
                rules = {"silence_ns": 1500 * MILLISECOND, "open_timeout_ns": 1500 * MILLISECOND, "ping_ns": 0}
                async with connected(feed_of(coinbase(url), **rules), journal, Told()) as c:
                    await reached(lambda: c.ready and c.frames > 20)
                    for fault in rng.sample(ends + passes, len(ends + passes)):
                        before = c.reconnects
                        fault()
                        if fault in ends:
                            await reached(lambda before=before: c.reconnects > before)
                        else:
                            await asyncio.sleep(0.2)
                        slow(None, 0.0)
                        proxy.down.flow()
                        proxy.up.flow()
                        proxy.accept()
                        await reached(lambda: c.ready)
                        frames = c.frames
                        await reached(lambda frames=frames: c.frames > frames + 20)
        sent = place.truth["coinbase"].symbols["BTC-USD"]
        ids = match_ids(journal)  # which reads every frame
        assert len(ids) == len(set(ids))
        assert all(any(first <= number <= last for first, last in sent.ranges) for number in ids)
        assert kinds(journal).count(OPENED) == kinds(journal).count(CLOSED)

    asyncio.run(run())


def test_a_frame_nobody_can_read_is_journalled_and_ends_nothing(journal: Journal) -> None:
    async def run() -> None:
        told, garbage = Told(), '{"type":"match","trade_id":'
        async with simulator() as place, connected(feed_of(coinbase(place.url("coinbase"))), journal, told) as c:
            await reached(lambda: c.ready)
            place.garbage("coinbase", garbage)
            frames = c.frames
            await reached(lambda: c.frames > frames + 50)
        assert garbage.encode() in payloads(journal, TEXT)
        assert told.events == ["feed.connected"]

    asyncio.run(run())


def test_a_refused_key_is_told_once_and_not_tried_again_at_once(journal: Journal) -> None:
    async def run() -> None:
        told, secret = Told(), "never-to-be-seen-0123456789"
        keys = {"APCA_API_KEY_ID": "PKWRONG", "APCA_API_SECRET_KEY": secret}
        async with simulator("alpaca", symbols=["AAPL"], rules={"alpaca": {"keys": {"PKRIGHT": "right"}}}) as place:
            spec = FeedSpec(
                name="al", provider="alpaca", symbols=("AAPL",), url=place.url("alpaca"),
                options={"feed": "iex", "location": "us", "format": "json"},
            )  # fmt: skip
            async with connected(feed_of(spec, keys), journal, told) as c:
                await reached(lambda: c.reconnects == 1)
                assert c.session.fatal
                assert not c.ready
        assert told.events == ["feed.refused"]
        assert not [p for kind in (SENT, TEXT, SOURCE) for p in payloads(journal, kind) if secret.encode() in p]

    asyncio.run(run())


def test_a_connection_that_alpaca_holds_to_be_one_too_many_is_tried_again_after_its_hold(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.feeds.alpaca.session.LIMIT_HOLD_NS", 400 * MILLISECOND)

    async def run() -> None:
        told, keys = Told(), {"APCA_API_KEY_ID": "PK", "APCA_API_SECRET_KEY": "secret"}
        async with simulator("alpaca", symbols=["AAPL"]) as place:
            spec = FeedSpec(
                name="al", provider="alpaca", symbols=("AAPL",), url=place.url("alpaca"),
                options={"feed": "iex", "location": "us", "format": "json"},
            )  # fmt: skip
            first, second = feed_of(spec, keys), feed_of(spec, keys)
            async with connected(first, journal, Told()) as holder:
                await reached(lambda: holder.ready)
                async with connected(second, journal, told) as c:
                    await reached(lambda: told.events)
                    assert told.lines[0][2]["retry_s"] >= 0.4
                    assert not c.session.fatal
                    assert holder.ready
                    await holder.stop()
                    await reached(lambda: c.ready)
        assert told.events == ["feed.unreachable", "feed.connected"]
        assert "406" in told.lines[0][2]["reason"]

    asyncio.run(run())


def test_cancelled_while_connecting_it_leaves_no_connection_behind(journal: Journal) -> None:
    async def run() -> None:
        async with simulator() as place:
            for turns in range(25):
                feed = feed_of(coinbase(place.url("coinbase")))
                task = asyncio.create_task(Connection(feed.spec, feed, journal, lambda: None, Told()).run())
                for _ in range(turns):  # another moment of the handshake each time
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            async with asyncio.timeout(4):  # the exchange itself cuts who does not subscribe, after 5 s
                await reached(lambda: not place.clients("coinbase"))

    asyncio.run(run())


class FullJournal:
    """A journal whose disk is full after ``room`` frames, until somebody makes room."""

    def __init__(self, journal: Journal, room: int) -> None:
        self.journal, self.room = journal, room

    def source(self, spec: FeedSpec) -> int:
        return self.journal.source(spec)

    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int:
        self._take(1)
        return self.journal.append(source, kind, ts_recv, payload)

    def append_frames(self, *arguments: Any) -> int:
        self._take(arguments[-1])
        return self.journal.append_frames(*arguments)

    def _take(self, count: int) -> None:
        if self.room < count:
            self.room = 0
            raise JournalFull("no room for another segment; free some space")
        self.room -= count


def test_a_full_journal_closes_the_connection_and_recording_resumes_with_room(journal: Journal) -> None:
    async def run() -> None:
        told, full = Told(), FullJournal(journal, 300)
        async with simulator() as place, connected(feed_of(coinbase(place.url("coinbase"))), full, told) as c:
            await reached(lambda: "feed.disconnected" in told.events)
            assert "no room" in told.lines[1][2]["reason"]
            await reached(lambda: c.reconnects >= 3)
            full.room = 1 << 30
            await reached(lambda: c.ready)
            frames = c.frames
            await reached(lambda: c.frames > frames + 50)
        assert told.events == ["feed.connected", "feed.disconnected", "feed.connected"]

    asyncio.run(run())


def test_a_session_that_never_becomes_ready_is_given_up(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with simulator() as place:
            feed = feed_of(coinbase(place.url("coinbase")), ready_timeout_ns=100 * MILLISECOND)
            feed.on_open = lambda: []  # asks for nothing, so nothing is acknowledged
            async with connected(feed, journal, told) as c:
                await reached(lambda: c.reconnects >= 2)
                assert c.session.state is not State.READY
        assert told.events == ["feed.unreachable"]
        assert told.lines[0][2]["reason"] == "mute: no message 0.1 s after opening"

    asyncio.run(run())
