"""A Recording put together in this process: market hours by a clock of the test's own, start, stop, feeds that fail."""

from __future__ import annotations

import asyncio
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from exchange_process import Exchange
from recorder_process import environment, external, write_config

from recorder.commands import feed_runs
from recorder.commands.feed_runs import FeedRun, check_feeds
from recorder.commands.record import Recording
from recorder.commands.run import schedules
from recorder.feeds import PROVIDERS
from recorder.values.config import Config, build
from recorder.values.errors import ConfigError, RecorderError
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.schedule import Schedule, Session

DAY_S = 86_400
START = datetime(2026, 10, 30, 7, 0, tzinfo=UTC)  # Friday 03:00 in New York, two days before its clocks go back


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop whose time and the system's move together and jump to the next timer when nothing else is to be done."""

    def __init__(self, traveller: time_machine.Coordinates) -> None:
        self._now = 0.0
        select = selectors.DefaultSelector()
        wait = select.select

        def jump(timeout: float | None = None) -> Any:
            ready = wait(0)
            if not ready and timeout:
                self._now += timeout
                traveller.shift(timeout)
            assert timeout is not None or ready, "nothing will ever happen again"
            return ready

        select.select = jump  # type: ignore[method-assign]
        super().__init__(select)

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        """In this thread: a thread of its own would not know that time jumps."""
        done = self.create_future()
        try:
            done.set_result(func(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


@dataclass
class Told:
    """A log that remembers."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level not in ("info", "warning", "error"):
            raise AttributeError(level)
        return lambda event, **fields: self.lines.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


class FakeConnection:
    """Open from run() to stop(); notes when, as UTC text."""

    log: list[tuple[str, str]]

    def __init__(self, spec: FeedSpec, *_: object, **__: object) -> None:
        self.spec, self.frames, self.reconnects = spec, 0, 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        self.log.append(("open", utc()))
        self.frames = 10
        await self._stopping.wait()

    async def stop(self, reason: str = "") -> None:
        if not self._stopping.is_set():
            self.log.append(("close", utc()))
        self._stopping.set()


def utc() -> str:
    return time.strftime("%a %H:%M:%S", time.gmtime(time.time_ns() // SECOND))


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run a coroutine function under a clock that starts at START."""
    log: list[tuple[str, str]] = []
    connection = type("Fake", (FakeConnection,), {"log": log})
    monkeypatch.setattr(feed_runs, "Connection", connection)
    with time_machine.travel(START, tick=False) as traveller:
        loop = ClockLoop(traveller)

        def run(function: Callable[[list[tuple[str, str]]], Any]) -> None:
            loop.run_until_complete(asyncio.wait_for(function(log), 60 * DAY_S))

        yield run
        loop.close()


def config_of(tmp_path: Path, **document: Any) -> Config:
    return build(document, {}, PROVIDERS, base=tmp_path, source="config.toml")


ALPACA = {"name": "al", "provider": "alpaca", "symbols": ["AAPL"]}
COINBASE = {"name": "cb", "provider": "coinbase", "symbols": ["BTC-USD"], "schedule": "24/7"}
KEYS = {"APCA_API_KEY_ID": "PK", "APCA_API_SECRET_KEY": "secret"}


def recording_of(config: Config, told: Told, schedule_for: Any = None, env: dict[str, str] | None = None) -> Recording:
    """A Recording whose feeds may run, without journal and database."""
    recording = Recording(config, told, schedule_for or schedules(config, now=False), KEYS if env is None else env)
    recording.journal, recording.engine = SimpleNamespace(), SimpleNamespace(wake=lambda: None)  # type: ignore[assignment]
    recording.disk = SimpleNamespace(room=asyncio.Event(), full=asyncio.Event())  # type: ignore[assignment]
    recording.disk.room.set()
    return recording


def test_recording_follows_new_yorks_clock_over_a_weekend_and_the_end_of_daylight_saving(
    clocked: Callable[..., None], tmp_path: Path
) -> None:
    told = Told()
    schedule = {"calendar": "XNYS", "session": "extended", "lead_s": 60, "drain_s": 90}
    config = config_of(tmp_path, feeds=[ALPACA], schedule=schedule)

    async def run(log: list[tuple[str, str]]) -> None:
        recording = recording_of(config, told)
        recording.set_feeds(config.feeds)
        await asyncio.sleep(4 * DAY_S)
        await recording._runs._drop(recording.feeds["al"])
        assert log == [
            ("open", "Fri 07:59:00"),  # 04:00 EDT is 08:00 UTC, and a minute before it
            ("close", "Sat 00:01:30"),  # 20:00 EDT and a minute and a half
            ("open", "Mon 08:59:00"),  # 04:00 EST
            ("close", "Tue 01:01:30"),
        ]

    clocked(run)
    waiting = told.of("feed.waiting")
    assert [line["opens"] for line in waiting] == [
        "2026-10-30T07:59:00Z", "2026-11-02T08:59:00Z", "2026-11-03T08:59:00Z",
    ]  # fmt: skip
    assert waiting[0]["wait_s"] == 59 * 60
    assert [line["reason"] for line in told.of("feed.closed")] == ["end of session"] * 2


def test_an_early_close_is_followed(clocked: Callable[..., None], tmp_path: Path) -> None:
    config = config_of(
        tmp_path, feeds=[ALPACA], schedule={"calendar": "XNYS", "session": "regular", "lead_s": 0, "drain_s": 0}
    )

    async def run(log: list[tuple[str, str]]) -> None:
        await asyncio.sleep((datetime(2026, 11, 26, 6, tzinfo=UTC) - START).total_seconds())  # Thanksgiving
        recording = recording_of(config, Told())
        recording.set_feeds(config.feeds)
        await asyncio.sleep(2 * DAY_S)
        await recording._runs._drop(recording.feeds["al"])
        assert log == [("open", "Fri 14:30:00"), ("close", "Fri 18:00:00")]  # 09:30 to 13:00 EST

    clocked(run)


def test_a_session_that_is_under_way_is_joined_at_once_and_counters_go_on(
    clocked: Callable[..., None], tmp_path: Path
) -> None:
    config = config_of(tmp_path, feeds=[COINBASE])
    start = int(START.timestamp()) * SECOND
    schedule = Schedule(
        Session(start + day * DAY_S * SECOND, start + day * DAY_S * SECOND + SECOND) for day in range(3)
    )

    async def run(log: list[tuple[str, str]]) -> None:
        recording = recording_of(config, Told(), lambda spec: schedule)
        recording.set_feeds(config.feeds)
        await asyncio.sleep(2.5 * DAY_S)
        assert log == [
            ("open", "Fri 07:00:00"), ("close", "Fri 07:00:01"), ("open", "Sat 07:00:00"), ("close", "Sat 07:00:01"),
            ("open", "Sun 07:00:00"), ("close", "Sun 07:00:01"),
        ]  # fmt: skip
        assert recording.feeds["cb"].frames == 30
        await recording._runs._drop(recording.feeds["cb"])

    clocked(run)


def test_a_feed_that_cannot_run_is_told_once_tried_again_and_reported(
    clocked: Callable[..., None], tmp_path: Path
) -> None:
    config, told, tries = config_of(tmp_path, feeds=[COINBASE]), Told(), []

    def broken(spec: FeedSpec) -> Schedule:
        tries.append(utc())
        if len(tries) < 4:
            raise RecorderError("the calendar of XNYS ends in 2026; update exchange-calendars")
        return Schedule(None)

    async def run(log: list[tuple[str, str]]) -> None:
        recording = recording_of(config, told, broken)
        recording.set_feeds(config.feeds)
        await asyncio.sleep(feed_runs.FEED_RETRY_S * 1.5)
        run = recording.feeds["cb"]
        assert "update exchange-calendars" in run.failed
        await asyncio.sleep(feed_runs.FEED_RETRY_S * 4)
        assert (run.failed, len(run.connections)) == ("", 1)
        await recording._runs._drop(run)

    clocked(run)
    assert len(told.of("feed.failed")) == 1
    assert len(tries) == 4


def test_a_connection_that_breaks_by_an_error_of_ours_is_made_anew(
    clocked: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, told = config_of(tmp_path, feeds=[COINBASE]), Told()
    runs = []
    original = feed_runs.Connection.run

    async def breaks(self: Any) -> None:
        runs.append(self)
        if len(runs) == 1:
            raise ValueError("a bug")
        await original(self)

    async def run(log: list[tuple[str, str]]) -> None:
        monkeypatch.setattr(feed_runs.Connection, "run", breaks)
        recording = recording_of(config, told, lambda spec: Schedule(None))
        recording.set_feeds(config.feeds)
        await asyncio.sleep(feed_runs.FEED_RETRY_S * 2)
        assert [name for name, _ in log] == ["close", "open"]
        await recording._runs._drop(recording.feeds["cb"])

    clocked(run)
    (failed,) = told.of("feed.failed")
    assert failed["reason"] == "a bug"
    assert isinstance(failed["exception"], ValueError)


def test_a_changed_feed_opens_only_after_the_old_one_has_closed(clocked: Callable[..., None], tmp_path: Path) -> None:
    config = config_of(tmp_path, feeds=[COINBASE])
    changed = config_of(tmp_path, feeds=[{**COINBASE, "symbols": ["ETH-USD"]}])

    async def run(log: list[tuple[str, str]]) -> None:
        recording = recording_of(config, Told(), lambda spec: Schedule(None))
        recording.set_feeds(config.feeds)
        await asyncio.sleep(1)
        recording.set_feeds(config.feeds)  # the same again: nothing happens
        await asyncio.sleep(1)
        assert [name for name, _ in log] == ["open"]
        recording.set_feeds(changed.feeds)
        recording.set_feeds(config.feeds)
        recording.set_feeds(changed.feeds)  # faster than connections close
        assert recording.feeds["cb"].frames == 10
        await asyncio.sleep(1)
        names = [name for name, _ in log]
        assert names[:3] == ["open", "close", "open"]
        assert names.count("open") == names.count("close") + 1
        assert recording.feeds["cb"].frames >= 20
        assert recording.feeds["cb"].previous is None
        await recording._runs._drop(recording.feeds["cb"])
        assert names.count("open") == [name for name, _ in log].count("close")

    clocked(run)


def test_without_keys_a_feed_is_skipped_and_the_others_run(clocked: Callable[..., None], tmp_path: Path) -> None:
    config, told = config_of(tmp_path, feeds=[ALPACA, COINBASE]), Told()

    async def run(log: list[tuple[str, str]]) -> None:
        recording = recording_of(config, told, lambda spec: Schedule(None), env={"APCA_API_KEY_ID": "PK"})
        recording.set_feeds(config.feeds)
        await asyncio.sleep(1)
        assert [name for name, _ in log] == ["open"]
        assert recording.feeds["al"].task is None
        recording.set_feeds(())
        await asyncio.sleep(1)

    clocked(run)
    (skipped,) = told.of("feed.skipped")
    assert skipped == {"feed": "al", "reason": "set APCA_API_SECRET_KEY in the environment to record it"}
    assert len(told.of("feed.removed")) == 2


def test_impossible_symbols_are_refused_before_anything_is_touched(
    clocked: Callable[..., None], tmp_path: Path
) -> None:
    config = config_of(tmp_path, feeds=[COINBASE])
    wrong = config_of(tmp_path, feeds=[{**COINBASE, "symbols": ["BTC_USD_X/"]}])

    async def run(log: list[tuple[str, str]]) -> None:
        recording = recording_of(config, Told(), lambda spec: Schedule(None))
        recording.set_feeds(config.feeds)
        await asyncio.sleep(1)
        with pytest.raises(ConfigError, match="cb"):
            recording.set_feeds(wrong.feeds)
        await asyncio.sleep(1)
        assert [name for name, _ in log] == ["open"]
        await recording._runs._drop(recording.feeds["cb"])

    clocked(run)


def test_every_impossible_feed_is_named_at_once() -> None:
    specs = [FeedSpec(name=name, provider="coinbase", symbols=("?",)) for name in ("one", "two")]
    with pytest.raises(ConfigError) as caught:
        check_feeds(specs)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(name in line for name, line in zip(("one", "two"), lines, strict=True))


def test_counters_of_a_feed_include_those_it_had_before_it_was_changed() -> None:
    spec = FeedSpec(name="cb", provider="coinbase")
    before = FeedRun(spec, frames_before=7, reconnects_before=2)
    after = FeedRun(spec, frames_before=1, previous=before)
    after.connections = [SimpleNamespace(frames=4, reconnects=1)]  # type: ignore[list-item]
    assert (after.frames, after.reconnects) == (12, 3)


IN_FLOW = """
import asyncio, gc, sys
from pathlib import Path
from types import SimpleNamespace
from numba.core.dispatcher import Dispatcher
from recorder.commands.record import Recording
from recorder.feeds import PROVIDERS
from recorder.shell import log
from recorder.values.config import load
from recorder.values.schedule import Schedule

def compiled():
    return {(d.__module__, d.__name__): len(d.signatures) for d in gc.get_objects() if isinstance(d, Dispatcher)}

async def main():
    config = load(Path(sys.argv[1]), {}, PROVIDERS)
    recording = Recording(config, log.get("recorder"), lambda spec: Schedule(None), {})
    await recording.start()
    before = compiled()
    async with asyncio.timeout(100):
        while not all(recording.pipeline.rows[table] > 500 for table in ("trades", "quotes")):
            await asyncio.sleep(0.05)
        while recording.engine.rows_queryable < 1000:
            await asyncio.sleep(0.05)
    after = compiled()
    await recording.stop()
    print(sorted(key for key, count in after.items() if count != before.get(key, 0)))

asyncio.run(main())
"""


def test_nothing_is_compiled_once_frames_arrive(tmp_path: Path, questdb: Any, free_port: Callable[[], int]) -> None:
    """In a process of its own: here other tests may have compiled everything already."""
    names = ("coinbase", "kraken")
    with Exchange(names, symbols=["BTC-USD"], rate=2000) as place:
        feeds = {f"flow-{name}": {"provider": name, "symbols": ["BTC-USD"], "url": place.urls[name]} for name in names}
        path = write_config(tmp_path, feeds, free_port(), external(questdb.sql_url))
        done = subprocess.run(
            [sys.executable, "-c", IN_FLOW, str(path)],
            env=environment(), capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "[]"
