"""A connection that is replaced before its provider cuts it: no hole, nothing twice, and the journal in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
from test_connection import MILLISECOND, Told, kinds, payloads, reached

from recorder.core import session as sessions
from recorder.core.frames import CLOSED, OPENED, TEXT
from recorder.core.gate import Gate
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import connection as connections
from recorder.shell import link as links
from recorder.shell import overlap
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.config import KernelsConfig
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.schema import LONG_NULL

SHUTDOWN = '{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BACKOFF_FIRST_NS", 5 * MILLISECOND)
    monkeypatch.setattr(links, "TIMER_S", 0.02)
    monkeypatch.setattr(overlap, "OVERLAP_S", 0.3)


def maker(**changed: Any) -> Callable[[FeedSpec], Any]:
    """Makes feeds whose capability is changed so; sends are quick."""

    def made(spec: FeedSpec) -> Any:
        feed: Any = make(spec, {})
        capability = msgspec.structs.replace(
            feed.capability(), connects_per_minute_max=1e6, sends_per_second_max=1e3, **changed
        )
        feed.capability = lambda: capability
        return feed

    return made


def binance(url: str) -> FeedSpec:
    return FeedSpec(name="bn", provider="binance", symbols=("BTC-USDT", "ETH-USDT"), url=url)


@asynccontextmanager
async def connected(
    spec: FeedSpec, journal: Journal, told: Told, made: Callable[[FeedSpec], Any], gate: Gate | None = None
) -> Any:
    connection = Connection(spec, made(spec), journal, lambda: None, told, gate=gate, make_feed=made)
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        await connection.stop()
        await asyncio.wait_for(task, 30)


def folded(journal: Journal) -> dict[str, np.ndarray]:
    """Rows of the journal, table by table, and the texts of their symbols."""
    pipeline = Pipeline(KernelsConfig(), make)
    position = journal.begin
    while (frames := journal.read(position)) is not None:
        pipeline.consume(frames)
        position = frames.end
    sealed = pipeline.seal()
    rows = {table.table.name: table.rows for table in sealed.tables}
    rows["symbols"] = np.array([symbol for _, symbol in pipeline.out.series.keys])
    rows["texts"] = np.array(pipeline.out.texts.names())
    return rows


def assert_whole(journal: Journal, place: Simulator, key: str = "binance") -> dict[str, np.ndarray]:
    """Every trade that happened after the first one received is there once, and nothing is missing."""
    rows = folded(journal)
    trades = rows["trades"]
    assert len(trades)
    for series in np.unique(trades["series"]):
        own = np.sort(trades["trade_id"][trades["series"] == series])
        assert own.tolist() == list(range(int(own[0]), int(own[-1]) + 1)), "every id once"
    assert (trades["missed"] == LONG_NULL).all()
    assert not len(rows.get("gaps", ()))
    quotes = rows["quotes"]
    pairs = list(zip(quotes["series"].tolist(), quotes["sequence"].tolist(), strict=True))
    assert len(pairs) == len(set(pairs)), "every numbered quote once"
    return rows


def between(journal: Journal) -> list[tuple[int, int]]:
    """(when the one before closed, when it opened) of every opening but the first, ns."""
    found: list[tuple[int, int]] = []
    position, closed = journal.begin, None
    while (frames := journal.read(position)) is not None:
        for kind, ts in zip(frames.kinds.tolist(), frames.ts_recv.tolist(), strict=True):
            if kind == CLOSED:
                closed = ts
            elif kind == OPENED and closed is not None:
                found.append((closed, ts))
        position = frames.end
    return found


def test_a_provider_that_cuts_at_a_short_life_leaves_no_hole_and_nothing_twice(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=3000, seed=7) as place:
            place.live("binance", 4)
            spec = binance(place.url("binance"))
            async with connected(spec, journal, told, maker(life_ns=SECOND)) as c:
                await reached(lambda: c.renewals >= 3)
                frames = c.frames
                await reached(lambda: c.frames > frames + 500)
            assert c.reconnects == 0
            assert place.truth["binance"].connections == c.renewals + 1
        assert "feed.disconnected" not in told.events
        assert told.events.count("feed.renewed") == c.renewals
        assert_whole(journal, place)
        assert kinds(journal).count(OPENED) == kinds(journal).count(CLOSED) == c.renewals + 1
        assert all(opened < closed for closed, opened in between(journal))  # they overlapped: no time without one
        reasons = payloads(journal, CLOSED)
        assert reasons[0] == b"replaced by a new connection: the provider cuts connections of this age"

    asyncio.run(run())


def test_an_announced_shutdown_is_forestalled(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=2000) as place:
            async with connected(binance(place.url("binance")), journal, told, maker()) as c:
                await reached(lambda: c.ready and c.frames > 200)
                place.garbage("binance", SHUTDOWN)
                await reached(lambda: c.renewals == 1)
                frames = c.frames
                await reached(lambda: c.frames > frames + 200)
            assert c.reconnects == 0
        assert_whole(journal, place)
        (closed, opened), *rest = between(journal)
        assert opened < closed
        assert not rest
        assert b"announced a shutdown" in payloads(journal, CLOSED)[0]

    asyncio.run(run())


def test_the_new_connection_takes_over_when_the_old_one_is_cut_meanwhile(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "OVERLAP_S", 60.0)

    async def run() -> None:
        told = Told()
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=2000) as place:
            async with connected(binance(place.url("binance")), journal, told, maker()) as c:
                await reached(lambda: c.ready and c.frames > 200)
                place.garbage("binance", SHUTDOWN)
                await reached(lambda: place.clients("binance") == 2)
                await asyncio.sleep(0.5)  # both deliver
                place._stages["binance"].clients[0].cut()
                await reached(lambda: c.renewals == 1)
                frames = c.frames
                await reached(lambda: c.frames > frames + 200)
            assert c.reconnects == 0
        assert_whole(journal, place)

    asyncio.run(run())


def test_a_replacement_that_does_not_deliver_leaves_the_old_connection_as_it_was(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "TAKEOVER_S", 0.5)
    monkeypatch.setattr(connections, "RENEW_RETRY_S", 0.5)

    async def run() -> None:
        told = Told()
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=2000) as place:
            made = maker()
            async with connected(binance(place.url("binance")), journal, told, lambda spec: silent(made, spec)) as c:
                await reached(lambda: c.ready and c.frames > 200)
                silent.on = True
                place.garbage("binance", SHUTDOWN)
                await reached(lambda: "feed.renewal_failed" in told.events)
                assert c.ready
                silent.on = False
                await reached(lambda: c.renewals == 1)
                frames = c.frames
                await reached(lambda: c.frames > frames + 200)
            assert c.reconnects == 0
        assert_whole(journal, place)

    def silent(made: Any, spec: FeedSpec) -> Any:
        feed = made(spec)
        if silent.on:
            feed.on_open = lambda: []
        return feed

    silent.on = False  # type: ignore[attr-defined]
    asyncio.run(run())


def test_where_only_one_connection_is_allowed_it_is_closed_before_the_next_opens(journal: Journal) -> None:
    async def run() -> None:
        told = Told()
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=500) as place:
            spec = binance(place.url("binance"))
            made = maker(life_ns=SECOND // 2, connections_max=1)
            async with connected(spec, journal, told, made) as c:
                most = 0
                async with asyncio.timeout(30):
                    while c.reconnects < 2:
                        most = max(most, place.clients("binance"))
                        await asyncio.sleep(0.005)
            assert most == 1
            assert c.renewals == 0
        assert all(opened > closed for closed, opened in between(journal))

    asyncio.run(run())


def test_stopping_during_an_overlap_leaves_nothing_open(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "OVERLAP_S", 60.0)

    async def run() -> None:
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=2000) as place:
            async with connected(binance(place.url("binance")), journal, Told(), maker()) as c:
                await reached(lambda: c.ready and c.frames > 100)
                place.garbage("binance", SHUTDOWN)
                await reached(lambda: place.clients("binance") == 2)
            await reached(lambda: place.clients("binance") == 0)
        assert_whole(journal, place)
        found = kinds(journal)
        assert found.count(OPENED) == found.count(CLOSED)
        assert found[-1] == CLOSED

    asyncio.run(run())


def test_frames_held_are_journalled_as_they_were_received(journal: Journal) -> None:
    source = journal.source(FeedSpec(name="x", provider="binance"))
    held = overlap.HeldJournal(journal)
    chunk = np.frombuffer(b"..firstsecond..", np.uint8).copy()
    starts, lengths, opcodes = np.array([2, 7]), np.array([5, 6]), np.array([1, 1], np.uint8)
    held.append(source, OPENED, 1, b"")
    held.append_frames(source, 2, chunk, starts, lengths, opcodes, 2)
    held.append(source, TEXT, 3, b"third")
    chunk[:] = 0  # the socket's buffer is used again
    assert kinds(journal).count(OPENED) == 0
    held.release()
    assert payloads(journal, TEXT) == [b"first", b"second", b"third"]
    assert json.dumps(kinds(journal)[-4:]) == json.dumps([OPENED, TEXT, TEXT, TEXT])
