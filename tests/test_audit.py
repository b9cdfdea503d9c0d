"""The audit of subscriptions: desired, requested, acknowledged, delivering; what is missing is told once and mended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_connection import MILLISECOND, Told, coinbase, feed_of, payloads, reached
from test_overlap import binance, maker
from test_session import CAPABILITY

from recorder.core import session as sessions
from recorder.core.audit import NOT_ACKNOWLEDGED, NOT_DELIVERING, NOT_REQUESTED, RATE_HALF_LIFE_NS, SNAPSHOT_NS, Audit
from recorder.core.frames import SENT
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import audit as audits
from recorder.shell import connection as connections
from recorder.shell import link as links
from recorder.shell import overlap
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.config import KernelsConfig
from recorder.values.feed import MINUTE, Key, Subscriptions
from recorder.values.schema import Table
from recorder.values.tables import FEED_EVENTS

# ruff: noqa: SIM117 (the second needs what the first has opened, and a line)

PLAIN = msgspec.structs.replace(CAPABILITY, channels=("trades", "quotes"))
SNAPSHOTS = msgspec.structs.replace(PLAIN, snapshots=("trades",))
KEYS = [(channel, symbol) for channel in ("trades", "quotes") for symbol in ("A", "B", "C")]
some = st.sets(st.sampled_from(KEYS))


def sets(desired: Iterable[Key], requested: Iterable[Key], acknowledged: Iterable[Key]) -> Subscriptions:
    return Subscriptions(frozenset(desired), frozenset(requested), frozenset(acknowledged))


@given(desired=some, requested=some, acknowledged=some)
def test_every_hole_between_the_sets_is_found_and_named(
    desired: set[Key], requested: set[Key], acknowledged: set[Key]
) -> None:
    requested &= desired
    acknowledged &= requested
    found = Audit(PLAIN).look(0, sets(desired, requested, acknowledged), None)
    assert (found.desired, found.requested, found.acknowledged) == (len(desired), len(requested), len(acknowledged))
    assert found.delivering is None
    assert {k for k, way in found.missing.items() if way == NOT_REQUESTED} == desired - requested
    assert {k for k, way in found.missing.items() if way == NOT_ACKNOWLEDGED} == requested - acknowledged


def counts(**by_symbol: int) -> dict[Key, int]:
    return {(channel, symbol): n for symbol, n in by_symbol.items() for channel in ("trades", "quotes")}


def test_what_is_answered_with_rows_at_once_must_deliver_and_what_is_not_may_be_quiet() -> None:
    whole, rows = sets(KEYS, KEYS, KEYS), counts(A=5, B=5, C=5)
    for capability, expected in ((SNAPSHOTS, {("trades", "B")}), (PLAIN, set())):
        audit = Audit(capability)
        audit.opened(0, rows)
        rows_now = {**counts(A=6, B=5, C=6)}
        assert audit.look(SNAPSHOT_NS - 1, whole, rows_now).missing == {}
        found = audit.look(SNAPSHOT_NS, whole, rows_now)
        assert set(found.missing) == expected
        assert found.delivering == 4


def minutes_of(audit: Audit, start: int, minutes: int, rows: dict[Key, int], per_minute: dict[str, int]) -> Any:
    whole = sets(KEYS, KEYS, KEYS)
    for minute in range(1, minutes + 1):
        for key in rows:
            rows[key] += per_minute[key[1]]
        found = audit.look(start + minute * MINUTE, whole, rows)
    return found


def test_a_symbol_that_delivered_before_and_is_silent_on_the_new_connection_is_found() -> None:
    audit, rows = Audit(PLAIN), counts(A=0, B=0, C=0)
    audit.opened(0, rows)
    minutes_of(audit, 0, 10, rows, {"A": 100, "B": 100, "C": 100})
    audit.opened(10 * MINUTE, rows)
    found = minutes_of(audit, 10 * MINUTE, 1, rows, {"A": 100, "B": 0, "C": 100})
    assert found.missing == {("trades", "B"): NOT_DELIVERING, ("quotes", "B"): NOT_DELIVERING}


@given(st.integers(1, 50), st.integers(1, 5_000))
def test_how_soon_the_first_look_comes_does_not_matter(early: int, milliseconds: int) -> None:
    """Looks are by the clock, so the second may follow the first at once, before anything could have come."""
    audit, rows, whole = Audit(PLAIN), counts(A=0, B=0, C=0), sets(KEYS, KEYS, KEYS)
    audit.opened(0, rows)
    for look in range(early + 1):
        audit.look(look * milliseconds * MILLISECOND // early, whole, rows)
    minutes_of(audit, milliseconds * MILLISECOND, 5, rows, {"A": 100, "B": 100, "C": 100})
    opened = milliseconds * MILLISECOND + 5 * MINUTE
    audit.opened(opened, rows)
    found = minutes_of(audit, opened, 1, rows, {"A": 100, "B": 0, "C": 100})
    assert set(found.missing) == {("trades", "B"), ("quotes", "B")}


def test_a_quiet_symbol_and_a_market_that_has_closed_are_not_taken_for_holes() -> None:
    audit, rows = Audit(PLAIN), counts(A=0, B=0, C=0)
    audit.opened(0, rows)
    minutes_of(audit, 0, 10, rows, {"A": 100, "B": 1, "C": 100})  # B: a trade a minute
    audit.opened(10 * MINUTE, rows)
    assert minutes_of(audit, 10 * MINUTE, 5, rows, {"A": 100, "B": 0, "C": 100}).missing == {}
    audit.opened(15 * MINUTE, rows)
    assert minutes_of(audit, 15 * MINUTE, 5, rows, {"A": 0, "B": 0, "C": 0}).missing == {}
    closed = 12 * RATE_HALF_LIFE_NS // MINUTE  # hours later one symbol trades again, its neighbours do not
    minutes_of(audit, 20 * MINUTE, closed, rows, {"A": 0, "B": 0, "C": 0})
    start = (20 + closed) * MINUTE
    audit.opened(start, rows)
    assert minutes_of(audit, start, 5, rows, {"A": 100, "B": 0, "C": 0}).missing == {}


def test_rows_that_are_not_decoded_yet_are_not_missed() -> None:
    audit, rows, whole = Audit(SNAPSHOTS), counts(A=0, B=0, C=0), sets(KEYS, KEYS, KEYS)
    audit.opened(0, rows)
    assert audit.look(5 * MINUTE, whole, None).missing == {}
    audit.opened(6 * MINUTE, None)  # opened while the pipeline is behind: what delivers is counted from when it is not
    assert audit.look(7 * MINUTE, whole, counts(A=9, B=9, C=9)).missing == {}
    assert set(audit.look(7 * MINUTE + SNAPSHOT_NS, whole, counts(A=10, B=9, C=10)).missing) == {("trades", "B")}


# Against simulated providers.


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BACKOFF_FIRST_NS", 5 * MILLISECOND)
    monkeypatch.setattr(links, "TIMER_S", 0.02)
    monkeypatch.setattr(overlap, "OVERLAP_S", 0.2)
    monkeypatch.setattr(connections, "AUDIT_S", 0.3)
    monkeypatch.setattr(audits, "PATIENCE_NS", 500 * MILLISECOND)


class Watched:
    """A connection whose journal is folded when it is asked what has come, and whose own rows are remembered."""

    def __init__(self, spec: Any, made: Any, journal: Journal) -> None:
        self.told, self.observed, self._journal = Told(), list[tuple[str, dict[str, Any]]](), journal
        self.asked = 0  # how often it was asked what has come
        self._pipeline, self._position = Pipeline(KernelsConfig(), make), journal.begin
        self.connection = Connection(
            spec, made(spec), journal, lambda: None, self.told, make_feed=made, observe=self.observe, rows=self.rows
        )

    def observe(self, table: Table, rows: Iterable[Any]) -> None:
        names = [column.name for column in table.packed]
        self.observed += [(table.name, dict(zip(names, row, strict=True))) for row in rows]

    def rows(self, feed: str, keys: Iterable[Key]) -> Mapping[Key, int]:
        self.asked += 1
        while (frames := self._journal.read(self._position)) is not None:
            self._pipeline.consume(frames)
            self._position = frames.end
        self._pipeline.seal()
        return self._pipeline.delivered(feed, keys)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [row for table, row in self.observed if table == FEED_EVENTS.name and row["event"] == event]

    async def __aenter__(self) -> Watched:
        self._task = asyncio.create_task(self.connection.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.stop()
        await asyncio.wait_for(self._task, 30)


def test_a_whole_connection_is_audited_without_a_finding(journal: Journal) -> None:
    async def run() -> None:
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=500) as place:
            async with Watched(binance(place.url("binance")), maker(), journal) as w:
                await reached(lambda: any(row["delivering"] == 4 for row in w.of("subscription.audited")))
        last = w.of("subscription.audited")[-1]
        assert [last[name] for name in ("desired", "requested", "acknowledged", "delivering")] == [4, 4, 4, 4]
        assert "subscription.incomplete" not in w.told.events

    asyncio.run(run())


def test_a_subscription_that_stays_silent_is_told_once_asked_for_again_and_then_worth_another_connection(
    journal: Journal,
) -> None:
    async def run() -> None:
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=1000) as place:
            async with Watched(binance(place.url("binance")), maker(), journal) as w:
                await reached(lambda: any(row["delivering"] == 4 for row in w.of("subscription.audited")))
                asked_before = w.asked
                await reached(lambda: w.asked >= asked_before + 3)  # audits have learnt what it delivers
                place.withhold("binance", "ETH-USDT")
                place.cut("binance")
                await reached(lambda: "subscription.incomplete" in w.told.events)
                await reached(lambda: w.connection.renewals == 1)
                await reached(lambda: "subscription.completed" in w.told.events)
        rows = w.of("subscription.incomplete")
        reasons = [row["reason"] for row in rows]
        assert len(reasons) == len(set(reasons)) <= 2  # one channel may be noticed before the other
        assert all(r.startswith("not delivering: ") and "ETH-USDT" in r and "BTC-USDT" not in r for r in reasons)
        assert (rows[-1]["desired"], rows[-1]["acknowledged"], rows[-1]["delivering"]) == (4, 4, 2)
        findings = [row for table, row in w.observed if table == "quality_events"]
        assert {(f["check_name"], f["symbol"]) for f in findings} == {("subscription", "ETH-USDT")}
        asked = [p for p in payloads(journal, SENT) if b"UNSUBSCRIBE" in p]
        assert asked
        assert not any(b"btcusdt" in p for p in asked)

    asyncio.run(run())


def test_a_symbol_the_provider_does_not_know_is_a_hole_that_is_told_and_does_not_cost_the_others_their_connection(
    journal: Journal,
) -> None:
    async def run() -> None:
        async with Simulator(["coinbase"], symbols={"coinbase": ["BTC-USD"]}, rate=500) as place:
            spec = msgspec.structs.replace(coinbase(place.url("coinbase")), symbols=("BTC-USD", "NOPE-USD"))
            async with Watched(spec, lambda s: feed_of(s), journal) as w:
                await reached(lambda: "subscription.incomplete" in w.told.events)
                frames = w.connection.frames
                await reached(lambda: w.connection.frames > frames + 1000)
            assert w.connection.reconnects == w.connection.renewals == 0
        row = w.of("subscription.incomplete")[0]
        assert "not acknowledged: quotes NOPE-USD, trades NOPE-USD" in row["reason"]
        assert next(row["symbol"] for table, row in w.observed if table == "quality_events") == "NOPE-USD"

    asyncio.run(run())


def test_reading_too_slowly_is_seen_in_the_sockets_queue_told_once_and_over_when_it_is_read(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "QUEUE_BYTES_MAX", 20_000)

    async def run() -> None:
        async with Simulator(["binance"], symbols=["BTC-USDT", "ETH-USDT"], rate=3000) as place:
            async with Watched(binance(place.url("binance")), maker(), journal) as w:
                await reached(lambda: w.connection.ready and w.connection.frames > 100)
                assert not w.of(links.BEHIND)
                client = w.connection._link.client
                client.pause_reading()
                await reached(lambda: w.of(links.BEHIND))
                assert w.connection.queue_bytes > 20_000
                client.resume_reading()
                await reached(lambda: w.connection.queue_bytes < 20_000)
            assert w.connection.reconnects == 0
        (finding,) = [row for table, row in w.observed if table == "quality_events"]
        assert finding["check_name"] == "slow_reader"
        assert finding["value"] > 20_000
        assert w.told.events.count(links.BEHIND) == 1

    asyncio.run(run())


def test_a_slow_reader_warning_is_a_finding_and_no_reason_to_hang_up(journal: Journal) -> None:
    async def run() -> None:
        keys = {"APCA_API_KEY_ID": "PK", "APCA_API_SECRET_KEY": "secret"}
        async with Simulator(["alpaca"], symbols=["AAPL"], rate=200) as place:
            spec = msgspec.structs.replace(
                coinbase(place.url("alpaca")), provider="alpaca", symbols=("AAPL",),
                options={"feed": "iex", "location": "us", "format": "json"},
            )  # fmt: skip
            async with Watched(spec, lambda s: feed_of(s, keys), journal) as w:
                await reached(lambda: w.connection.ready)
                place.garbage("alpaca", '[{"T":"error","code":407,"msg":"slow client"}]')
                await reached(lambda: w.of("reader.slow"))
                assert w.connection.ready
            assert w.connection.reconnects == 0
        findings = [row for table, row in w.observed if table == "quality_events"]
        assert [row["check_name"] for row in findings] == ["slow_reader"]

    asyncio.run(run())
