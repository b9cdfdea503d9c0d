"""Our FIX session against QuickFIX/J, an engine that checks every message of ours against the FIX 4.4 dictionary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from quickfixj_process import SYMBOLS, QuickFixJ
from test_connection import Told, payloads, reached
from test_overlap import folded

from recorder.core import session as sessions
from recorder.core.frames import BINARY, SENT
from recorder.feeds import make
from recorder.shell import fix as client
from recorder.shell import link as links
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.tables import BACKFILLED, GAP_SEQUENCE

USER, PASSWORD = "someone", "s3cr3t-OfTheTests"


@pytest.fixture(scope="module")
def running(free_port: Callable[[], int]) -> Iterator[QuickFixJ]:
    """Started once: its Java takes seconds."""
    started = QuickFixJ(free_port(), "ENGINE", "RECORDER", USER, PASSWORD)
    yield started
    started.stop()


@pytest.fixture
def engine(running: QuickFixJ) -> QuickFixJ:
    """Logged out, its numbers at one."""
    running.do("reset")
    running.told.clear()
    return running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BACKOFF_FIRST_NS", SECOND // 200)
    monkeypatch.setattr(links, "TIMER_S", 0.02)
    monkeypatch.setattr(client, "TICK_S", 0.02)


@asynccontextmanager
async def connected(
    engine: QuickFixJ, journal: Journal, told: Told, folder: Path, password: str = PASSWORD, **options: str
) -> AsyncIterator[Connection]:
    spec = FeedSpec(
        name="f", provider="fix", symbols=(*SYMBOLS, "NONE"), url=f"tcp://127.0.0.1:{engine.port}",
        options={"sender": "RECORDER", "target": "ENGINE", **options},
    )  # fmt: skip
    feed: Any = make(spec, {"FIX_USERNAME": USER, "FIX_PASSWORD": password})
    capability = msgspec.structs.replace(feed.capability(), connects_per_minute_max=1e6, hold_ns=0)
    feed.capability = lambda: capability
    connection = Connection(spec, feed, journal, lambda: None, told, connect=client.connector(folder))
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        await connection.stop()
        await asyncio.wait_for(task, 60)


def trades(journal: Journal) -> list[tuple[str, int, float, float]]:
    rows = folded(journal)
    names = rows["symbols"].tolist()
    return [(names[r["series"]], *(r[c].item() for c in ("trade_id", "price", "size"))) for r in rows.get("trades", ())]


def expected(first: int, count: int) -> list[tuple[str, int, float, float]]:
    return [(SYMBOLS[i % 2], i, float(f"1.1{i % 10}5"), 1.0 + i) for i in range(first, first + count)]


def rejects(engine: QuickFixJ) -> list[str]:
    engine.do("look")
    return [each["raw"] for each in engine.told if each["event"] == "sent" and "\x0135=3\x01" in each["raw"]]


def test_it_takes_our_messages_and_we_its(engine: QuickFixJ, journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with connected(engine, journal, told, tmp_path) as c:
            await reached(lambda: c.ready)
            engine.do("increment 0 50")
            engine.do("test")
            engine.do("increment 50 50")
            await reached(lambda: len(trades(journal)) == 100)
        assert c.reconnects == 0

    asyncio.run(run())
    assert trades(journal) == expected(0, 100)
    rows = folded(journal)
    assert len(rows["quotes"]) == 2 + 99  # the first increment changes nothing
    assert {(r["bid"].item(), r["ask"].item()) for r in rows["quotes"][:2]} == {(1.10, 1.12)}
    assert "gaps" not in rows
    assert "rejected" not in rows
    assert not rejects(engine)
    assert any(each["event"] == "received" and "\x01112=HELLO\x01" in each["raw"] for each in engine.told)
    refused = [fields for _, event, fields in told.lines if event == "symbol.refused"]
    assert [(r["symbol"], r["channel"]) for r in refused] == [("NONE", "trades"), ("NONE", "quotes")]
    assert any(each["event"] == "logout" for each in engine.told)
    for payload in payloads(journal, SENT) + payloads(journal, BINARY):
        assert PASSWORD.encode() not in payload


def test_a_wrong_password_is_refused_in_its_words(engine: QuickFixJ, journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with connected(engine, journal, told, tmp_path, password="wrong-one"):
            await reached(lambda: "feed.unreachable" in told.events)

    asyncio.run(run())
    event = next(fields for _, name, fields in told.lines if name == "feed.unreachable")
    assert "who are you?" in event["reason"]
    assert event["retry_s"] >= 60


def test_numbers_it_skips_are_asked_for_and_filled(engine: QuickFixJ, journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with connected(engine, journal, told, tmp_path) as c:
            await reached(lambda: c.ready)
            engine.do("increment 0 10")
            engine.do("skip 5")
            engine.do("increment 10 10")
            await reached(lambda: len(trades(journal)) == 20)
            engine.do("increment 20 10")
            await reached(lambda: len(trades(journal)) == 30)

    asyncio.run(run())
    assert sorted(trades(journal)) == sorted(expected(0, 30))
    gaps = [g["missing"].item() for g in folded(journal)["gaps"] if g["kind"] == GAP_SEQUENCE and g["missing"] > 0]
    assert gaps == [5]
    assert told.events.count("messages.lost") == 1
    assert not rejects(engine)
    assert sum(b"\x0135=2\x01" in payload for payload in payloads(journal, SENT)) == 1


def test_what_it_sent_while_we_were_away_comes_when_numbers_are_kept(
    engine: QuickFixJ, journal: Journal, tmp_path: Path
) -> None:
    async def run() -> None:
        async with connected(engine, journal, Told(), tmp_path, numbers="keep") as c:
            await reached(lambda: c.ready)
            engine.do("increment 0 10")
            await reached(lambda: len(trades(journal)) == 10)
        engine.do("increment 10 10")
        async with connected(engine, journal, Told(), tmp_path, numbers="keep") as c:
            await reached(lambda: c.ready)
            await reached(lambda: len(trades(journal)) == 20)
            engine.do("increment 20 5")
            await reached(lambda: len(trades(journal)) == 25)

    asyncio.run(run())
    assert sorted(trades(journal)) == sorted(expected(0, 25))
    flags = {r["trade_id"].item(): bool(r["flags"] & BACKFILLED) for r in folded(journal)["trades"]}
    assert [number for number, flag in flags.items() if flag] == list(range(10, 20))
    assert not rejects(engine)


def test_it_cuts_and_logs_us_out_and_we_come_back(engine: QuickFixJ, journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with connected(engine, journal, told, tmp_path) as c:
            await reached(lambda: c.ready)
            engine.do("cut")
            await reached(lambda: c.reconnects == 1 and c.ready)
            engine.do("increment 0 5")
            await reached(lambda: len(trades(journal)) == 5)

    asyncio.run(run())
    assert trades(journal) == expected(0, 5)
    assert not rejects(engine)


def test_a_message_that_breaks_its_dictionary_is_rejected_and_told(
    engine: QuickFixJ, journal: Journal, tmp_path: Path
) -> None:
    told = Told()

    async def run() -> None:
        async with connected(engine, journal, told, tmp_path) as c:
            await reached(lambda: c.ready)
            assert c._link is not None
            assert c._link.client is not None
            c._link.client.send(b"35=V\x01262=x1\x01")
            await reached(lambda: "error.received" in told.events)
            assert c.ready

    asyncio.run(run())
    fields = next(fields for _, event, fields in told.lines if event == "error.received")
    assert fields["of"] == "V"
    assert "Required tag missing" in fields["reason"]
