"""Free space of the disks that the journal and an embedded QuestDB are on, and what is done when it runs out.

Two thresholds of [journal], looked at every second, each left again only somewhat above it:

  retain_below_gb  segments that QuestDB has are removed before their time, the oldest first
  pause_below_gb   feeds are paused: what is left is for closing them, for what is in flight and for QuestDB
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recorder.shell.alarms import Alarms
from recorder.values.config import Config

LOOK_S = 1.0  # between looks: 160 MB/s, more than feeds bring, take three seconds to fill the default pause_below_gb
LEAVE_FACTOR = 1.25  # above a threshold by so much it is left again, so that nothing flaps around it
HOLD_SHARE = 0.5  # of pause_below_gb, on the journal's disk: below it QuestDB gets no more rows, it fails when full
SEGMENTS_LEFT = 3  # pause_below_gb means at least so many: one being written, one prepared, one for what is in flight
PAUSE_REASON = "disk full"
GB = 1e9


class Level:
    """A threshold with hysteresis."""

    def __init__(self, below: float) -> None:
        self.below, self.reached = below, False

    def update(self, free: float) -> bool:
        """Whether ``reached`` has changed."""
        before = self.reached
        self.reached = free < (self.below * LEAVE_FACTOR if before else self.below)
        return self.reached != before


class DiskWatch:
    """``room`` is set while feeds may record, ``full`` while they must not; ``problems`` says why, in words.

    journal  the Journal: asked to retire early, and its own pauses count too
    sink     gives the sink, or None while there is none: it is held while QuestDB's disk is nearly full
    free     bytes free at a path
    """

    def __init__(
        self, config: Config, journal: Any, sink: Callable[[], Any], alarms: Alarms, log: Any,
        free: Callable[[Path], int] | None = None,
    ) -> None:  # fmt: skip
        self._journal, self._sink, self._alarms, self._log = journal, sink, alarms, log
        self._free = _free if free is None else free
        self._dir = config.journal.dir
        self._database = config.questdb.dir if config.questdb.embedded else None
        pause = config.journal.pause_below_gb * GB
        if pause:
            pause = max(pause, SEGMENTS_LEFT * (config.journal.segment_mb << 20))
        self._retain, self._pause = Level(max(pause, config.journal.retain_below_gb * GB)), Level(pause)
        self._hold_shared, self._hold = Level(pause * HOLD_SHARE), Level(pause)
        self.free_bytes: dict[str, int] = {}  # "journal", "questdb" → bytes
        self.problems: list[str] = []
        self.room, self.full = asyncio.Event(), asyncio.Event()
        self.room.set()

    async def keep(self) -> None:
        """Look for ever."""
        while True:
            try:
                self.look(*await asyncio.to_thread(self._measure))
            except OSError as error:
                self._log.error("disk.unreadable", reason=str(error))
            await asyncio.sleep(LOOK_S)

    def _measure(self) -> tuple[int, int | None]:
        """Bytes free for the journal, and for QuestDB where that is another disk."""
        free, database = self._free(self._dir), self._database
        if database is None or not database.exists() or database.stat().st_dev == self._dir.stat().st_dev:
            return free, None
        return free, self._free(database)

    def look(self, free: int, free_database: int | None) -> None:
        """Draw the consequences."""
        self.free_bytes = {"journal": free} | ({} if free_database is None else {"questdb": free_database})
        if self._retain.update(free):
            self._journal.retire_early = self._retain.reached
            action = "removing segments that QuestDB has, the oldest first"
            self._tell("disk_low", "disk.ran_low", self._retain, free, self._dir, action)
        self._pause.update(free)
        self._set_paused(free)
        level, left = (self._hold_shared, free) if free_database is None else (self._hold, free_database)
        if self._database is not None and level.update(left):
            action = "no more rows are sent to QuestDB, they wait in the journal"
            self._tell("database_disk_full", "database.disk_ran_full", level, left, self._database, action)
        if (sink := self._sink()) is not None:
            sink.held = level.reached
        self.problems = [
            f"{name} has {left / GB:.2f} GB free: {action}"
            for level, left, name, action in (
                (self._pause, free, self._dir, "feeds are paused"),
                (level, left, self._database, "rows wait in the journal"),
            )
            if level.reached
        ]

    def _set_paused(self, free: int) -> None:
        paused = self._pause.reached or self._journal.paused_reason is not None
        if paused == self.full.is_set():
            return
        going, coming = (self.room, self.full) if paused else (self.full, self.room)
        going.clear()
        coming.set()
        action = "feeds are paused until there is space again; free some, or lower [journal] keep_gb"
        self._pause.reached = paused
        self._tell("disk_full", "disk.ran_full", self._pause, free, self._dir, action)

    def _tell(self, check: str, event: str, level: Level, free: int, path: Path, action: str) -> None:
        """One line in the log and one finding at each change."""
        gb, below = round(free / GB, 3), level.below / GB
        fields = {"path": str(path), "free_gb": gb, "threshold_gb": below}
        if level.reached:
            low = level is self._retain
            (self._log.warning if low else self._log.error)(event, action=action, **fields)
            self._alarms.finding(check, "warning" if low else "critical", f"{path}: {gb} GB free; {action}", gb, below)
        else:
            self._log.info("disk.recovered", check=check, **fields)
            self._alarms.finding(check, "info", f"{path}: {gb} GB free again", gb, below)


def _free(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize
