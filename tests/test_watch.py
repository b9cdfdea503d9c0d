"""What the watch does about silences: when it judges, how often it opens anew, what it tells, what it learns from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import time_machine
from test_arrivals import MONDAY
from test_record import START, ClockLoop

from recorder.core.market import KIND, SYMBOL, TS, Market
from recorder.shell import watch as watches
from recorder.shell.watch import CHANNELS, Watch
from recorder.values.config import Config, QuestdbConfig
from recorder.values.errors import DatabaseError
from recorder.values.feed import MINUTE, SECOND, FeedSpec, Key
from recorder.values.schedule import Schedule, Session
from recorder.values.tables import QUALITY_EVENTS

LEAD_S, DRAIN_S = 60, 90
LEARN_S = 900  # until silences are judged by what was learnt


class Connection:
    """Ready, and again at once when it is opened anew; notes what is asked of it."""

    def __init__(self, number: int, symbols: tuple[str, ...], clock: Callable[[], int]) -> None:
        self.spec = FeedSpec(name="f", provider="coinbase", symbols=symbols, connection=number)
        self.capability = SimpleNamespace(session_zone="UTC", transport="websocket")
        self.ready, self.reconnects = True, 0
        self.reopened: list[int] = []  # when, s
        self.asked: list[Key] = []
        self._clock = clock

    def reopen(self, reason: str) -> None:
        assert reason.startswith("judged dead")
        self.reopened.append(self._clock() // SECOND)
        self.reconnects += 1

    def ask_again(self, keys: list[Key]) -> None:
        self.asked += keys

    @property
    def intervals(self) -> list[int]:
        return np.diff(self.reopened).tolist()


class Watched:
    """A watched feed whose connections deliver a synthetic market, second by second."""

    def __init__(
        self, rate: float, symbols: int = 3, *, shares: int = 1, schedule: Schedule | None = None, start: int = MONDAY
    ) -> None:
        self.symbols = tuple(f"S{i}" for i in range(symbols))
        self.market, self.start, self.now = Market(symbols, 1, rate), start, start
        self.run = SimpleNamespace(schedule=schedule or Schedule(None), connections=[])
        self.run.spec = FeedSpec(name="f", provider="coinbase", symbols=self.symbols)
        self.connect(*(self.symbols[i::shares] for i in range(shares)))
        fields = [(name, np.int64) for channel in CHANNELS for name in (channel, f"{channel}_recv")]
        self.scalars = np.zeros(symbols, fields)
        self.rows: list[tuple[Any, ...]] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.recording = SimpleNamespace(
            feeds={"f": self.run}, sink=None, observe=self._observe,
            engine=SimpleNamespace(sealed_position=0), journal=SimpleNamespace(end=0),
            pipeline=SimpleNamespace(
                out=SimpleNamespace(series=SimpleNamespace(keys=[("f", symbol) for symbol in self.symbols])),
                kernels=SimpleNamespace(state=SimpleNamespace(scalars=self.scalars)), sources={},
            ),
        )  # fmt: skip
        config: Any = SimpleNamespace(
            schedule=SimpleNamespace(lead_s=LEAD_S, drain_s=DRAIN_S), watch=SimpleNamespace(false_alarms_per_year=1.0)
        )

        def tell(event: str, **fields: Any) -> None:
            self.told.append((event, fields))

        self.watch = Watch(self.recording, config, SimpleNamespace(info=tell, warning=tell, error=tell, debug=tell))

    def connect(self, *shares: tuple[str, ...]) -> None:
        self.run.connections = [Connection(i, share, lambda: self.now) for i, share in enumerate(shares)]

    def _observe(self, table: Any, rows: Any) -> None:
        assert table is QUALITY_EVENTS
        self.rows += rows

    def events(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.told if event == name]

    def seconds(self, count: int, without: tuple[int, ...] = (), silent: bool = False) -> None:
        """So many pass; nothing comes of some symbols, or of any."""
        for _ in range(count):
            self.now += SECOND
            events = self.market.until(self.now - self.start)
            events = events[:0] if silent else events[~np.isin(events[:, SYMBOL], without)]
            for kind, channel in enumerate(CHANNELS):
                own = events[events[:, KIND] == kind]
                np.add.at(self.scalars[channel], own[:, SYMBOL], 1)
                np.maximum.at(self.scalars[f"{channel}_recv"], own[:, SYMBOL], self.start + own[:, TS])
            self.recording.journal.end += len(events)
            self.recording.engine.sealed_position = self.recording.journal.end
            self.watch.tick(self.now)


def test_a_connection_that_stays_silent_is_opened_again_after_holds_that_double_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watches, "HOLD_MAX_NS", 200 * SECOND)
    feed = Watched(20)
    feed.seconds(LEARN_S)
    (connection,) = feed.run.connections
    assert (connection.reopened, feed.watch.problems(), feed.rows) == ([], [], [])
    fell_silent = feed.now // SECOND
    feed.seconds(700, silent=True)
    assert connection.reopened[0] - fell_silent <= 10
    assert connection.intervals == [30, 60, 120, 200, 200]
    assert [line["strikes"] for line in feed.events("feed.judged_dead")] == [1, 2, 3, 4, 5, 6]
    assert feed.watch.judged_dead == {"f": 6}
    (problem,) = feed.watch.problems()
    assert problem.startswith("feed f connection 0: judged dead: silent for")
    assert [(symbol, name, check, severity) for _, symbol, name, check, severity, *_ in feed.rows] == [
        (None, "f", "silence", "critical")
    ] * 6


@pytest.mark.parametrize(("healthy_s", "first_hold_s"), [(20, 60), (120, 30)])
def test_only_a_connection_that_has_healed_starts_its_holds_over(healthy_s: int, first_hold_s: int) -> None:
    feed = Watched(20)
    feed.seconds(LEARN_S)
    (connection,) = feed.run.connections
    while not connection.reopened and feed.now < MONDAY + 2 * LEARN_S * SECOND:
        feed.seconds(1, silent=True)
    assert len(feed.watch.problems()) == 1
    feed.seconds(healthy_s)
    assert len(feed.events("feed.resumed")) == 1
    assert feed.watch.problems() == []
    feed.seconds(100, silent=True)
    assert connection.intervals[1] == first_hold_s
    assert len(feed.events("feed.resumed")) == 1


def test_a_feed_that_is_asked_is_silent_between_two_answers_and_never_judged() -> None:
    feed = Watched(20)
    feed.seconds(LEARN_S)
    (connection,) = feed.run.connections
    connection.capability.transport = "poll"  # another feed under the same name, since a reload
    feed.seconds(700, silent=True)
    assert (connection.reopened, feed.watch.problems(), feed.rows) == ([], [], [])


def test_silence_in_lead_drain_and_between_sessions_is_nobodys_alarm_and_within_a_session_it_is() -> None:
    opens, length, pause = MONDAY + LEAD_S * SECOND, LEARN_S * SECOND, 10 * MINUTE
    sessions = [Session(opens, opens + length), Session(opens + length + pause, opens + 2 * length + pause)]
    feed = Watched(20, schedule=Schedule(sessions, LEAD_S * SECOND, DRAIN_S * SECOND))
    (first,) = feed.run.connections
    feed.seconds(LEAD_S, silent=True)
    feed.seconds(LEARN_S)
    feed.seconds(DRAIN_S, silent=True)
    feed.run.connections = []
    feed.seconds(pause // SECOND - DRAIN_S - LEAD_S, silent=True)
    feed.connect(feed.symbols)
    (second,) = feed.run.connections
    feed.seconds(LEAD_S, silent=True)
    assert (first.reopened, second.reopened) == ([], [])
    feed.seconds(30)
    assert second.reopened == []
    feed.seconds(15, silent=True)
    assert len(second.reopened) == 1
    feed.seconds(LEARN_S - 45)
    feed.seconds(DRAIN_S, silent=True)
    assert len(second.reopened) == 1
    assert feed.watch.judged_dead == {"f": 1}


def test_a_connection_keeps_its_number_when_another_is_closed() -> None:
    feed = Watched(20, 4, shares=3)
    feed.seconds(LEARN_S)
    first, _, third = feed.run.connections
    feed.run.connections = [first, third]
    feed.seconds(60, without=(1,))
    assert (first.reopened, third.reopened) == ([], [])
    feed.seconds(20, without=(1, 2))  # all that the third delivers
    assert first.reopened == []
    assert len(third.reopened) == 1
    assert feed.events("feed.judged_dead")[0]["connection"] == third.spec.connection == 2
    feed.run.connections = [first]
    feed.seconds(1, without=(1, 2))
    assert feed.watch.problems() == []  # it is gone, and its problem with it


def test_nothing_is_judged_while_rows_wait_to_be_decoded_or_the_machine_slept() -> None:
    feed = Watched(20)
    feed.seconds(LEARN_S)
    (connection,) = feed.run.connections
    for _ in range(60):
        feed.now += SECOND
        feed.recording.journal.end += 100  # received; no row of it is known yet
        feed.watch.tick(feed.now)
    assert connection.reopened == []
    feed.seconds(30)
    feed.now += 10 * MINUTE
    feed.watch.tick(feed.now)
    assert connection.reopened == []
    feed.seconds(60)
    assert connection.reopened == []
    feed.seconds(10, silent=True)
    assert len(connection.reopened) == 1


def test_a_machine_that_slept_before_anything_was_learnt_waits_the_fixed_time_out_from_then_on() -> None:
    feed = Watched(20)
    feed.seconds(10)
    (connection,) = feed.run.connections
    feed.now += 10 * MINUTE
    feed.seconds(100, silent=True)
    assert connection.reopened == []
    feed.seconds(30, silent=True)
    assert len(connection.reopened) == 1


def test_a_mute_symbol_is_told_and_asked_for_again_once_and_told_when_it_has_come_again() -> None:
    feed = Watched(50, 4)
    feed.seconds(LEARN_S)
    (connection,) = feed.run.connections
    feed.seconds(180, without=(1,))
    keys = sorted((channel, "S1") for channel in CHANNELS)
    assert sorted((line["channel"], line["symbol"]) for line in feed.events("symbol.mute")) == keys
    assert sorted(connection.asked) == keys
    assert {(symbol, check, severity) for _, symbol, _, check, severity, *_ in feed.rows} == {
        ("S1", "silence", "warning")
    }
    assert len(feed.rows) == len(keys)
    assert not feed.events("symbol.resumed")
    feed.seconds(60)
    assert sorted((line["channel"], line["symbol"]) for line in feed.events("symbol.resumed")) == keys
    assert len(connection.asked) == len(keys)
    assert (connection.reopened, feed.watch.problems()) == ([], [])


def test_a_symbol_that_was_mute_for_long_is_told_as_soon_the_next_time() -> None:
    feed, after_s = Watched(5, 4), []
    feed.seconds(LEARN_S)
    for number in (1, 2, 3):
        fell_silent = feed.now
        while len(feed.events("symbol.mute")) < number * len(CHANNELS):
            feed.seconds(5, without=(1,))
            assert feed.now < fell_silent + 200 * SECOND, after_s
        after_s.append((feed.now - fell_silent) // SECOND)
        feed.seconds(900, without=(1,))
        feed.seconds(120)
    assert max(after_s) <= after_s[0] + 30
    assert len(feed.events("symbol.resumed")) == 3 * len(CHANNELS)


# History.


@pytest.fixture
def clock() -> Iterator[Callable[[Any], None]]:
    """Runs a coroutine under a clock that jumps from timer to timer."""
    with time_machine.travel(START, tick=False) as traveller:
        loop = ClockLoop(traveller)
        yield lambda work: loop.run_until_complete(work)
        loop.close()


def test_history_is_learnt_once_the_database_answers_and_again_every_day(
    clock: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = int(START.timestamp()) * SECOND
    feed, down, asked = Watched(20, start=start), True, []

    @contextlib.contextmanager
    def connect(config: Any) -> Iterator[None]:
        if down:
            raise DatabaseError("connection refused")
        yield

    def history(client: Any, table: str, name: str, symbols: int) -> list[tuple[str, int, int]]:
        asked.append((table, name, symbols))
        before = start - start % watches.HISTORY_NS
        return [(symbol, before - n * 5 * MINUTE, 1500) for symbol in feed.symbols for n in range(1, 100)]

    feed.watch._config = Config(questdb=QuestdbConfig(prefix="mine_"))  # of a recorder beside others in one database
    monkeypatch.setattr(watches, "connect", connect)
    monkeypatch.setattr(watches, "history", history)

    async def run() -> None:
        nonlocal down
        feed.seconds(30)
        profile = feed.watch._feeds["f"].arrivals.profile
        assert len(profile) == 2 * len(feed.symbols)
        learning = asyncio.create_task(feed.watch._keep_history())
        await asyncio.sleep(5)
        assert not feed.told  # the database is being started: nothing to ask yet
        feed.recording.sink = object()
        await asyncio.sleep(5)
        assert {event for event, _ in feed.told} == {"history.unavailable"}
        assert feed.watch._feeds["f"].arrivals.profile is profile
        down = False
        await asyncio.sleep(5)
        assert asked == [(f"mine_{channel}", "f", len(feed.symbols)) for channel in CHANNELS]
        assert feed.events("history.learnt") == [{"feed": "f", "series": 2 * len(feed.symbols)}]
        learnt = feed.watch._feeds["f"].arrivals.profile
        assert learnt.names == profile.names
        assert learnt.means() == pytest.approx(np.full(len(learnt), 5.0))  # 1,500 in 5 minutes
        await asyncio.sleep(23 * 3600)
        assert len(feed.events("history.learnt")) == 1
        await asyncio.sleep(2 * 24 * 3600)
        assert len(feed.events("history.learnt")) == 3
        learning.cancel()
        await asyncio.gather(learning, return_exceptions=True)

    clock(run())
