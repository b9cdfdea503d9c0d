"""Free space that goes and comes back: what is done at each threshold, once, and left again only well above it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.feeds import PROVIDERS
from recorder.shell.alarms import Alarms
from recorder.shell.disk import GB, LEAVE_FACTOR, DiskWatch, Level
from recorder.values.config import build
from recorder.values.tables import QUALITY_EVENTS

RETAIN_GB, PAUSE_GB = 8.0, 4.0
SEGMENT_MB = 64


@settings(deadline=None)
@given(below=st.integers(0, 1000), samples=st.lists(st.integers(0, 2000)))
def test_a_threshold_is_reached_below_it_and_left_a_quarter_above_it(below: int, samples: list[int]) -> None:
    level, changes = Level(below), 0
    for number, free in enumerate(samples):
        changes += level.update(free)
        decisive = [s < below for s in samples[: number + 1] if s < below or s >= below * LEAVE_FACTOR]
        assert level.reached == bool(decisive and decisive[-1]), samples[: number + 1]
        assert level.reached == changes % 2


class Watched:
    """A DiskWatch of a journal and a sink that only remember; ``told`` are the events, ``found`` the findings."""

    def __init__(self, folder: Path, free: Callable[[Path], int] | None = None, **questdb: Any) -> None:
        self.told: list[tuple[str, str]] = []
        self.found: list[tuple[str, str]] = []
        self.journal = SimpleNamespace(retire_early=False, paused_reason=None, retention_paused=False)
        self.sink = SimpleNamespace(held=False)
        journal = {"segment_mb": SEGMENT_MB, "retain_below_gb": RETAIN_GB, "pause_below_gb": PAUSE_GB}
        config = build({"journal": journal, "questdb": questdb}, {}, PROVIDERS, base=folder, source="config.toml")
        for path in (config.journal.dir, config.questdb.dir):
            path.mkdir(exist_ok=True)
        self.watch = DiskWatch(config, self.journal, lambda: self.sink, Alarms(self.journal, self._observe), self, free)

    def _observe(self, table: Any, rows: Any) -> None:
        assert table is QUALITY_EVENTS
        names = [column.name for column in QUALITY_EVENTS.columns]
        at = names.index("check_name") + (len(rows[0]) - len(names))
        self.found += [(row[at], row[at + 1]) for row in rows]

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level not in ("info", "warning", "error"):
            raise AttributeError(level)
        return lambda event, **fields: self.told.append((level, event))

    def look(self, free_gb: float, database_gb: float | None = None) -> tuple[bool, bool, bool]:
        """(retiring early, paused, sink held)"""
        self.watch.look(int(free_gb * GB), None if database_gb is None else int(database_gb * GB))
        assert self.watch.full.is_set() != self.watch.room.is_set()
        return self.journal.retire_early, self.watch.full.is_set(), self.sink.held


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_filling_disk_is_answered_step_by_step_and_each_step_is_told_once(watched: Watched) -> None:
    steps = {
        9.0: (False, False, False),
        7.9: (True, False, False),
        8.1: (True, False, False),  # not left yet
        4.1: (True, False, False),
        3.9: (True, True, False),
        4.9: (True, True, False),
        1.9: (True, True, True),  # QuestDB fails on a full disk: it gets nothing more
        2.4: (True, True, True),
        2.6: (True, True, False),
        5.1: (True, False, False),
        9.9: (True, False, False),
        10.1: (False, False, False),
    }
    for free_gb, expected in steps.items():
        for _ in range(3):
            assert watched.look(free_gb) == expected, free_gb
        assert bool(watched.watch.problems) == expected[1]
    assert watched.told == [
        ("warning", "disk.ran_low"), ("error", "disk.ran_full"), ("error", "database.disk_ran_full"),
        *[("info", "disk.recovered")] * 3,
    ]  # fmt: skip
    assert watched.found == [
        ("disk_low", "warning"), ("disk_full", "critical"), ("database_disk_full", "critical"),
        ("database_disk_full", "info"), ("disk_full", "info"), ("disk_low", "info"),
    ]  # fmt: skip


def test_free_space_that_sways_around_a_threshold_is_told_once(watched: Watched) -> None:
    for free_gb in [7.9, 8.1] * 20 + [3.9, 4.2] * 20:
        watched.look(free_gb)
    assert watched.told == [("warning", "disk.ran_low"), ("error", "disk.ran_full")]


def test_a_journal_that_cannot_write_pauses_feeds_whatever_is_free(watched: Watched) -> None:
    watched.journal.paused_reason = "No space left on device"
    assert watched.look(100.0) == (False, True, False)
    watched.journal.paused_reason = None
    assert watched.look(100.0) == (False, False, False)
    assert watched.told == [("error", "disk.ran_full"), ("info", "disk.recovered")]


def test_questdb_on_a_disk_of_its_own_is_held_by_that_disk_alone(watched: Watched) -> None:
    assert watched.look(100.0, 3.9) == (False, False, True)
    assert watched.watch.free_bytes == {"journal": int(100 * GB), "questdb": int(3.9 * GB)}
    assert watched.look(100.0, 4.9) == (False, False, True)
    assert watched.look(100.0, 5.1) == (False, False, False)
    assert watched.look(1.0, 100.0) == (True, True, False)
    assert ("database_disk_full", "critical") in watched.found


def test_a_server_that_runs_elsewhere_is_never_held(tmp_path: Path) -> None:
    watched = Watched(tmp_path, embedded=False, ilp="http::addr=127.0.0.1:9000;", sql="http://127.0.0.1:9000")
    assert watched.look(0.1) == (True, True, False)


def test_without_a_sink_nothing_is_held_and_one_that_comes_later_is(watched: Watched) -> None:
    sink, watched.sink = watched.sink, None  # type: ignore[assignment]
    watched.watch.look(int(GB), None)
    watched.sink = sink
    assert watched.look(1.0) == (True, True, True)


def test_the_second_disk_is_measured_only_where_there_is_one(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second disk here")
    free = {tmp_path / "journal": int(100 * GB), tmp_path / "questdb": int(90 * GB), elsewhere: int(3 * GB)}

    async def looked(watched: Watched) -> tuple[dict[str, int], bool]:
        keeping = asyncio.create_task(watched.watch.keep())
        while not watched.watch.free_bytes:
            assert not keeping.done()
            await asyncio.sleep(0.001)
        keeping.cancel()
        return watched.watch.free_bytes, watched.sink.held

    assert asyncio.run(looked(Watched(tmp_path, free.__getitem__))) == ({"journal": int(100 * GB)}, False)
    both = Watched(tmp_path, free.__getitem__, dir=str(elsewhere))
    assert asyncio.run(looked(both)) == ({"journal": int(100 * GB), "questdb": int(3 * GB)}, True)


def test_a_disk_that_cannot_be_asked_is_told_and_looked_at_again(tmp_path: Path) -> None:
    def fails(path: Path) -> int:
        raise OSError("Stale file handle")

    async def run() -> None:
        watched = Watched(tmp_path, fails)
        keeping = asyncio.create_task(watched.watch.keep())
        while not watched.told:
            await asyncio.sleep(0.001)
        assert not keeping.done()
        keeping.cancel()
        assert watched.told == [("error", "disk.unreadable")]

    asyncio.run(run())
