"""One provider's door: connects a minute over all its connections, refusals obeyed by all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_connection import Told, coinbase, feed_of, reached, simulator

from recorder.core import gate as gates
from recorder.core.frames import SENT
from recorder.core.gate import BANNED_HOLD_NS, HOLD_NS_MAX, LIMITED_HOLD_NS, Gate
from recorder.shell.connection import Connection
from recorder.shell.journal import Journal
from recorder.shell.pace import KeptGate
from recorder.shell.simulator import Simulator
from recorder.values.feed import HOUR, MINUTE, SECOND, FeedSpec

EIGHT = 8.0  # connects a second


@given(
    asks=st.lists(st.integers(0, 20), min_size=1, max_size=200), most=st.integers(1, 60), a_second=st.integers(1, 10)
)
def test_no_minute_and_no_second_sees_more_connects_than_allowed_whoever_asks(asks, most, a_second):
    gate, now, connects = Gate(), 0, []
    for ask_s in asks:
        now += ask_s * SECOND
        while (wait := gate.wait_ns(now, most, a_second)) > 0:
            now += wait
        gate.connecting(now)
        connects.append(now)
    for at in connects:
        assert sum(at <= other < at + MINUTE for other in connects) <= most
        assert sum(at <= other < at + SECOND - a_second for other in connects) <= a_second


@given(asks=st.lists(st.integers(0, 2 * SECOND), min_size=1, max_size=100), a_second=st.integers(1, 50))
def test_no_second_sees_more_messages_than_allowed_whoever_sends_them(asks, a_second):
    gate, now, sent = Gate(), 0, []
    for ask_ns in asks:  # each as another connection would: without waiting for the one before
        now += ask_ns
        sent.append(now + gate.send_wait_ns(now, a_second))
    assert sent == sorted(sent)
    for at in sent:
        assert sum(at <= other < at + SECOND - a_second for other in sent) <= a_second
    assert Gate().send_wait_ns(now, a_second) == 0  # of another provider


@given(asks=st.lists(st.integers(0, 59), min_size=1, max_size=59))
def test_who_stays_below_the_limit_does_not_wait(asks):
    gate = Gate()
    for second in sorted(set(asks)):
        assert gate.wait_ns(second * SECOND, 60, EIGHT) == 0
        gate.connecting(second * SECOND)


@pytest.mark.parametrize(
    ("status", "retry_after_ns", "hold_ns"),
    [
        (429, 7 * SECOND, 7 * SECOND),
        (429, None, LIMITED_HOLD_NS),
        (418, None, BANNED_HOLD_NS),
        (418, 10 * SECOND, BANNED_HOLD_NS),  # a ban is not over in seconds, whatever a proxy in between says
        (418, 3 * HOUR, 3 * HOUR),
        (429, 10**6 * HOUR, HOLD_NS_MAX),
        (503, 20 * SECOND, 0),  # of one server: the session of that connection waits
    ],
)
def test_a_refusal_holds_back_all_connections_of_the_provider(status, retry_after_ns, hold_ns):
    gate = Gate()
    assert gate.refused(0, status, retry_after_ns) == hold_ns
    assert gate.wait_ns(0, 60, EIGHT) == hold_ns
    assert gate.wait_ns(hold_ns, 60, EIGHT) == 0
    assert gate.refused(hold_ns // 2, status, 0) >= 0
    assert gate.wait_ns(0, 60, EIGHT) >= hold_ns  # a later, shorter word does not shorten it


def test_a_refused_connection_makes_the_others_of_its_provider_wait(tmp_path: Path) -> None:
    async def run() -> None:
        gate, told = Gate(), Told()
        with Journal.open(tmp_path / "journal") as journal:
            async with simulator() as place:
                place.refuse("coinbase", 1, 429, "2")
                feeds = [feed_of(coinbase(place.url("coinbase"), connection=i)) for i in range(2)]
                first, second = (Connection(f.spec, f, journal, lambda: None, told, gate=gate) for f in feeds)
                started = time.monotonic()
                tasks = [asyncio.create_task(first.run())]
                await reached(lambda: told.lines)
                tasks.append(asyncio.create_task(second.run()))
                await reached(lambda: first.ready and second.ready)
                waited = time.monotonic() - started
                assert place.truth["coinbase"].refused == 1
                await asyncio.gather(first.stop(), second.stop())
                await asyncio.gather(*tasks)
        assert waited >= 2
        assert "429" in told.lines[0][2]["reason"]
        assert told.lines[0][2]["retry_s"] >= 2

    asyncio.run(run())


def test_who_starts_again_connects_no_sooner_than_the_provider_has_asked_for(tmp_path: Path) -> None:
    wall = 1_790_000_000 * SECOND
    before, beside = (kept_at(tmp_path, lambda: wall) for _ in range(2))
    assert before.wait_ns(5 * SECOND, 60, EIGHT) == 0
    before.refused(5 * SECOND, 429, 100 * SECOND)
    before.refused(5 * SECOND, 503, 900 * SECOND)  # of one server
    wall += 40 * SECOND
    after = kept_at(tmp_path, lambda: wall)  # whose clock that never steps begins elsewhere
    assert [gate.wait_ns(now, 60, EIGHT) for gate, now in ((before, 45 * SECOND), (beside, 7), (after, 0))] == [
        60 * SECOND
    ] * 3
    wall += 61 * SECOND
    assert kept_at(tmp_path, lambda: wall).wait_ns(0, 60, EIGHT) == 0


def kept_at(folder: Path, wall: Callable[[], int]) -> KeptGate:
    return KeptGate(folder / "held-binance", wall)


def test_connections_of_a_provider_that_counts_messages_by_address_take_turns_to_send(tmp_path: Path) -> None:
    """Three connections with two messages each, at twenty a second: the sixth leaves a quarter of a second after the
    first."""

    async def run() -> list[int]:
        gate, told, tasks = Gate(), Told(), []
        with Journal.open(tmp_path / "journal") as journal:
            async with Simulator(["deribit"], symbols=["BTC-USD-PERP"], total=0) as place:
                for i in range(3):
                    spec = FeedSpec(
                        name="d", provider="deribit", symbols=("BTC-USD-PERP",), url=place.url("deribit"), connection=i
                    )
                    feed = feed_of(spec)
                    capability = msgspec.structs.replace(
                        feed.capability(), sends_per_second_max=20.0, connects_per_second_max=1e6
                    )
                    assert capability.sends_shared
                    feed.capability = lambda capability=capability: capability
                    connection = Connection(spec, feed, journal, lambda: None, told, gate=gate)
                    tasks.append((connection, asyncio.create_task(connection.run())))
                await reached(lambda: all(connection.ready for connection, _ in tasks))
                for connection, task in tasks:
                    await connection.stop()
                    await task
            frames = journal.read(journal.begin)
            assert frames is not None
            return sorted(frames.ts_recv[i].item() for i in range(frames.count) if frames.kinds[i] == SENT)

    sent = asyncio.run(run())
    assert len(sent) == 6
    assert sent[-1] - sent[0] >= 0.24 * SECOND


def test_what_is_remembered_is_bounded():
    gate = Gate()
    for now in range(3 * gates.CONNECTS_MAX):
        gate.connecting(now)
    assert len(gate._connects) == gates.CONNECTS_MAX
