"""FIX over real sockets, journal and pipeline, against a simulated counterparty: what happened is in the rows, and its
errors, gaps and disconnects are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_connection import Told, kinds, payloads, reached
from test_overlap import folded

from recorder.core import session as sessions
from recorder.core.frames import BINARY, CLOSED, OPENED, SENT, SOURCE
from recorder.core.market import ASK, ASK_SIZE, ID, KIND, PRICE, QUOTE, SIDE, SIZE, SYMBOL, TRADE, TS
from recorder.feeds import make
from recorder.shell import fix as client
from recorder.shell import link as links
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.shell.simulator.fix import FixSimulator
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.fix import body_of
from recorder.values.tables import GAP_REPAIRED, GAP_SEQUENCE

TOTAL = 600
USER, PASSWORD = "someone", "s3cr3t-OfTheTests"
KEYS = {"FIX_USERNAME": USER, "FIX_PASSWORD": PASSWORD}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BACKOFF_FIRST_NS", SECOND // 200)
    monkeypatch.setattr(links, "TIMER_S", 0.02)
    monkeypatch.setattr(client, "TICK_S", 0.02)


def spec_of(place: FixSimulator, **options: str) -> FeedSpec:
    names = {"sender": "RECORDER", "target": "FEED", "names": "EUR-USD=EUR/USD"}
    symbols = tuple("EUR-USD" if name == "EUR/USD" else name for name in place.names)
    return FeedSpec(name="f", provider="fix", symbols=symbols, options=names | options, url=place.url)


@asynccontextmanager
async def connected(
    place: FixSimulator, journal: Journal, told: Told, folder: Path, keys: dict[str, str] | None = None, **options: str
) -> AsyncIterator[Connection]:
    feed = make(spec_of(place, **options), keys or {})
    capability = msgspec.structs.replace(feed.capability(), connects_per_minute_max=1e6, hold_ns=0)
    feed.capability = lambda: capability  # type: ignore[method-assign]
    connection = Connection(feed.spec, feed, journal, lambda: None, told, connect=client.connector(folder))  # type: ignore[attr-defined]
    task = asyncio.create_task(connection.run())
    try:
        yield connection
    finally:
        await connection.stop()
        await asyncio.wait_for(task, 60)


def whole(journal: Journal, rows: dict[str, Any], happened: list[np.ndarray]) -> Callable[[], bool]:
    def look() -> bool:
        rows.update(folded(journal))
        quotes = sum(int((e[:, KIND] == QUOTE).sum()) for e in happened)
        return len(rows.get("trades", ())) >= TOTAL and len(rows.get("quotes", ())) >= quotes

    return look


def named(symbol: int) -> str:
    return ("EUR-USD", "GBP/USD", "AAPL")[symbol]


def trades_of(events: np.ndarray) -> list[tuple[Any, ...]]:
    picked = events[events[:, KIND] == TRADE].tolist()
    return sorted((named(e[SYMBOL]), e[TS], e[ID], e[PRICE] / 100, e[SIZE] / 10**6, 1 + e[SIDE]) for e in picked)


def trade_rows(rows: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = rows["symbols"].tolist()
    columns = ("ts_event", "trade_id", "price", "size", "side")
    return sorted((names[r["series"]], *(r[c].item() for c in columns)) for r in rows["trades"])


def missing(rows: dict[str, Any]) -> int:
    """Messages that the rows of gaps say were lost. A gap that is repaired replaces the row that told it."""
    gaps = {gap["from_id"].item(): gap["missing"].item() for gap in rows["gaps"] if gap["kind"] == GAP_SEQUENCE}
    return sum(count for count in gaps.values() if count > 0)


def test_rows_are_what_happened(journal: Journal, happened: list[np.ndarray], tmp_path: Path) -> None:
    rows: dict[str, Any] = {}

    async def run() -> None:
        # As many messages as quotes: one that ends where it began tells nothing new.
        async with FixSimulator(rate=400, total=TOTAL) as place, connected(place, journal, Told(), tmp_path) as c:
            await reached(lambda: c.ready)
            await place.finished()
            await reached(lambda: folded(journal).get("trades", ()).__len__() >= TOTAL)
            rows.update(folded(journal))

    asyncio.run(run())
    events = np.concatenate(happened)
    assert trade_rows(rows) == trades_of(events)
    # Each message's last quote of a symbol is a row: no row is anything that has not happened, the last one is there.
    names, columns = rows["symbols"].tolist(), ("bid", "bid_size", "ask", "ask_size")
    quotes = {
        (named(e[SYMBOL]), e[TS], e[PRICE] / 100, e[SIZE] / 10**6, e[ASK] / 100, e[ASK_SIZE] / 10**6)
        for e in events[events[:, KIND] == QUOTE].tolist()
    }
    found = [(names[r["series"]], r["ts_event"].item(), *(r[c].item() for c in columns)) for r in rows["quotes"]]
    assert set(found) <= quotes
    assert len(set(found)) == len(found) > 100
    for symbol in {quote[0] for quote in quotes}:
        assert max(q for q in found if q[0] == symbol) == max(q for q in quotes if q[0] == symbol)
    assert "rejected" not in rows
    assert "gaps" not in rows


def test_a_conversation_is_journalled_in_its_order_and_without_secrets(journal: Journal, tmp_path: Path) -> None:
    async def run() -> None:
        rules = {"user": USER, "password": PASSWORD}
        told = Told()
        async with FixSimulator(rate=500, rules=rules) as place, connected(place, journal, told, tmp_path, KEYS) as c:
            await reached(lambda: c.ready and c.frames > 50)
        assert told.events[:1] == ["feed.connected"]

    asyncio.run(run())
    order = kinds(journal)
    assert order[:2] == [SOURCE, OPENED]
    assert order[-1] == CLOSED
    sent, received = payloads(journal, SENT), payloads(journal, BINARY)
    assert received[0].startswith(b"8=FIX.4.4\x019=")
    assert b"\x0135=A\x01" in received[0]
    assert [body_of(payload)[:5] for payload in sent[:7]] == [b"35=V\x01"] * 6 + [b"35=1\x01"]
    assert body_of(sent[-1])[:5] == b"35=5\x01"
    for payload in (*sent, *received):
        assert body_of(payload)
        assert PASSWORD.encode() not in payload
        assert USER.encode() not in payload


def test_a_refused_logon_is_told_and_not_repeated_at_once(journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        rules = {"user": USER, "password": "another"}
        async with FixSimulator(rules=rules) as place, connected(place, journal, told, tmp_path, KEYS):
            await reached(lambda: "feed.unreachable" in told.events)
            assert place.truth.refused == 1

    asyncio.run(run())
    event = next(fields for _, name, fields in told.lines if name == "feed.unreachable")
    assert "invalid username or password" in event["reason"]
    assert event["retry_s"] >= 60
    assert PASSWORD not in repr(told.lines)
    assert all(PASSWORD.encode() not in payload for payload in payloads(journal, BINARY) + payloads(journal, SENT))
    assert [k for k in kinds(journal) if k in (OPENED, CLOSED)] == [OPENED, CLOSED]


@pytest.mark.parametrize("replay", [True, False])
def test_a_message_lost_is_a_gap_and_what_is_sent_again_is_stored(
    journal: Journal, happened: list[np.ndarray], tmp_path: Path, replay: bool
) -> None:
    rows: dict[str, Any] = {}
    told = Told()

    async def run() -> None:
        rules = {"replay": replay}
        async with (
            FixSimulator(rate=400, total=TOTAL, rules=rules) as place,
            connected(place, journal, told, tmp_path) as c,
        ):
            await reached(lambda: c.ready and c.frames > 100)
            place.drop = 3
            await place.finished()
            expected = TOTAL if replay else 1
            await reached(lambda: len(folded(journal).get("trades", ())) >= expected and place.drop == 0)
            await reached(lambda: len(folded(journal).get("gaps", ())) > 0)
            rows.update(folded(journal))

    asyncio.run(run())
    assert missing(rows) == 3
    assert any(gap["status"] == GAP_REPAIRED for gap in rows["gaps"]) == replay
    assert "messages.lost" in told.events
    found = trade_rows(rows)
    if replay:
        assert found == trades_of(np.concatenate(happened))
    else:
        assert len(found) < TOTAL
        assert set(found) < set(trades_of(np.concatenate(happened)))
    subscriptions = [p for p in payloads(journal, SENT) if b"\x0135=V\x01" in p and b"\x01263=1\x01" in p]
    assert len(subscriptions) == 9  # three symbols, two channels; after the loss books once more


def test_a_damaged_message_is_kept_rejected_and_asked_for_again(
    journal: Journal, happened: list[np.ndarray], tmp_path: Path
) -> None:
    rows: dict[str, Any] = {}

    async def run() -> None:
        rules = {"replay": True}
        async with (
            FixSimulator(rate=400, total=TOTAL, rules=rules) as place,
            connected(place, journal, Told(), tmp_path) as c,
        ):
            await reached(lambda: c.ready and c.frames > 100)
            place.garble = 1
            await place.finished()
            await reached(lambda: len(folded(journal).get("trades", ())) >= TOTAL)
            rows.update(folded(journal))

    asyncio.run(run())
    assert trade_rows(rows) == trades_of(np.concatenate(happened))
    assert len(rows["rejected"]) == 1
    assert missing(rows) == 1


def test_a_cut_connection_is_opened_again_and_subscribed_to_anew(journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with FixSimulator(rate=400) as place, connected(place, journal, told, tmp_path) as c:
            await reached(lambda: c.ready and c.frames > 50)
            place.sessions[0].cut()
            await reached(lambda: c.reconnects == 1 and c.ready)
            frames = c.frames
            await reached(lambda: c.frames > frames + 50)
            place.sessions[0].logout("end of day")
            await reached(lambda: c.reconnects == 2 and c.ready)

    asyncio.run(run())
    assert [k for k in kinds(journal) if k in (OPENED, CLOSED)] == [OPENED, CLOSED] * 3
    reasons = [payload.decode() for payload in payloads(journal, CLOSED)]
    assert reasons[1:] == ["the counterparty logged out: end of day", "recorder stopped"]
    rows = folded(journal)
    ids = [(r["series"].item(), r["trade_id"].item()) for r in rows["trades"]]
    assert len(set(ids)) == len(ids)


def test_a_counterparty_that_falls_silent_is_tested_and_left(journal: Journal, tmp_path: Path) -> None:
    told = Told()

    async def run() -> None:
        async with FixSimulator(rate=400) as place, connected(place, journal, told, tmp_path, heartbeat="1") as c:
            await reached(lambda: c.ready and c.frames > 50)
            place.mute = True
            await reached(lambda: c.reconnects >= 1)
            place.mute = False
            await reached(lambda: c.ready)

    asyncio.run(run())
    assert any(b"112=TEST\x01" in payload for payload in payloads(journal, SENT))
    assert "nothing received" in payloads(journal, CLOSED)[0].decode()


def test_kept_numbers_go_on_after_a_restart_and_what_was_missed_is_sent_again(
    journal: Journal, happened: list[np.ndarray], tmp_path: Path
) -> None:
    rows: dict[str, Any] = {}

    async def run() -> None:
        rules = {"replay": True}
        async with FixSimulator(rate=400, total=TOTAL, rules=rules) as place:
            async with connected(place, journal, Told(), tmp_path, numbers="keep") as c:
                await reached(lambda: c.ready and c.frames > 50)
                place.drop = 2
                await reached(lambda: place.drop == 0)
            before = list(place.numbers["RECORDER"])
            async with connected(place, journal, Told(), tmp_path, numbers="keep") as c:
                await reached(lambda: c.ready)
                await place.finished()
                after = place.numbers["RECORDER"]
                assert after[0] > before[0]
                assert after[1] > before[1]
            rows.update(folded(journal))

    asyncio.run(run())
    found = trade_rows(rows)
    assert len(set(found)) == len(found)
    assert set(found) <= set(trades_of(np.concatenate(happened)))
    assert "rejected" not in rows, rows["rejected_words"]
    logons = [p for p in payloads(journal, BINARY) if b"\x0135=A\x01" in p]
    assert len(logons) == 2
    assert all(b"141=Y" not in logon for logon in logons)


def test_numbers_that_a_counterparty_does_not_agree_with_are_mended_by_its_words(
    journal: Journal, tmp_path: Path
) -> None:
    told = Told()

    async def run() -> None:
        async with FixSimulator(rate=400) as place:
            place.numbers["RECORDER"] = [1, 40]
            async with connected(place, journal, told, tmp_path, numbers="keep") as c:
                await reached(lambda: c.ready and c.frames > 20)

    asyncio.run(run())
    assert any("expecting 40" in str(fields.get("reason")) for _, _, fields in told.lines)
