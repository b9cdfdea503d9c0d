"""Recording, put together: connections → journal → pipeline → sink → QuestDB. Shared by ``run`` and ``demo``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from recorder.commands.feed_runs import FeedRun, FeedRuns, check_feeds
from recorder.commands.load import make_sink, migrate_to, refresh_views
from recorder.commands.renames import Renames
from recorder.core import encode, fix_frames, frames, histogram, latency, observations, websocket_frames
from recorder.core.observations import NO_SOURCE
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import ledger
from recorder.shell.alarms import Alarms
from recorder.shell.database import Database
from recorder.shell.disk import DiskWatch
from recorder.shell.engine import Engine
from recorder.shell.journal import Journal
from recorder.shell.last_events import LastEvents
from recorder.shell.repair import Repairer
from recorder.shell.sink import Sink
from recorder.shell.sink.acknowledged import Acknowledged
from recorder.shell.snapshots import Snapshots
from recorder.shell.watch import Watch
from recorder.values.config import Config
from recorder.values.errors import JournalFull, RecorderError
from recorder.values.feed import FeedSpec
from recorder.values.schedule import Schedule
from recorder.values.schema import Table
from recorder.values.tables import LATENCY

DRAIN_TIMEOUT_S = 30.0  # for rows to become queryable when stopping; the rest is loaded at the next start
VIEWS_TIMEOUT_S = 5.0  # for bars to follow when stopping: who stops a recorder wants it to end
DATABASE_RETRY_S = 5.0  # between tries to start or reach the database: frames are journalled meanwhile
SUPERVISE_S = 1.0
CLOCK_S = 1.0  # without a frame, after which one of the clock is journalled


class Recording:
    """Everything a running recorder is made of, and the order in which it starts and stops.

    schedule_for  gives a feed's Schedule; asked again when it ends
    """

    def __init__(
        self,
        config: Config,
        log: Any,
        schedule_for: Callable[[FeedSpec], Schedule],
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self.config, self.log = config, log
        self.database = Database.from_config(config) if config.questdb.embedded else None
        self.database_state = "starting"  # then "ready", "restarting" or why it cannot be used
        self.database_error = ""  # why it could not be used, the last time
        self.sink: Sink | None = None
        self.started = time.time_ns()
        self.watch = Watch(self, config, log)
        self._runs = FeedRuns(self, schedule_for, env)
        self._renames = Renames(config, self._runs.set, lambda: self.database_state == "ready", log)
        self._tasks: set[asyncio.Task[None]] = set()
        self._rows_lost: tuple[str, str] | None = None  # table and how it was seen, or "" if it was suspended

    async def start(self) -> None:
        """Reception first: feeds connect while the database is still starting. Raises ConfigError, JournalLocked."""
        check_feeds(self.config.feeds)
        self.journal = Journal.open(
            self.config.journal.dir,
            segment_bytes=self.config.journal.segment_mb << 20,
            fsync_ms=self.config.journal.fsync_ms,
            keep_days=self.config.journal.keep_days,
            keep_gb=self.config.journal.keep_gb,
            log=self.log.info,
        )
        self.acknowledged = Acknowledged(self.config.journal.dir, self.log.warning)
        self.alarms = Alarms(self.journal, self.observe)
        self.disk = DiskWatch(self.config, self.journal, lambda: self.sink, self.alarms, self.log)
        self.snapshots = Snapshots(self.config.journal.dir, self.log.warning, first=self._secure_tables)
        self.pipeline, stored = self.snapshots.resume(self.journal, self._new_pipeline)
        for module in (frames, websocket_frames, histogram, latency, encode, self.pipeline):
            module.warm()  # nothing is compiled once frames arrive
        if any(spec.provider == "fix" for spec in self.config.feeds):
            fix_frames.warm()
        behind = self.journal.end - self.pipeline.position
        if behind:
            self.log.info("journal.resumed", position=self.pipeline.position, bytes=behind)
        self.engine = Engine(self.journal, self.pipeline, self.config.batch, self.snapshots, stored, self.log.error)
        gc.collect()
        gc.freeze()  # what exists now lives as long as the process: the collector need not look at it again
        self.last_events = LastEvents(self.journal, make, self.log)
        self._spawn(self.last_events.keep())
        self._spawn(self._keep_database())
        self._spawn(self.disk.keep())
        self._clock = asyncio.create_task(self._keep_clock())
        if self.config.watch.enabled:
            self._spawn(self.watch.run())
        self._spawn(ledger.keep(self.engine.ledger, self.observe))
        self.repairer = Repairer(
            self.config.repair, self.journal, self.engine, self._runs.historians, self.log, pace=self._runs.pace
        )
        self._spawn(self.repairer.run())
        self.set_feeds(self.config.feeds)
        self._spawn(self._renames.keep())

    @property
    def feeds(self) -> dict[str, FeedRun]:
        """Every configured feed by name."""
        return self._runs.runs

    def set_feeds(self, specs: tuple[FeedSpec, ...], written: int | None = None) -> None:
        """Start what is new, stop what is gone or changed, leave the others alone. Raises ConfigError.

        written  when the configuration was, ns, if it is another: symbols renamed since go by their new names
        """
        self._renames.set(specs, self.config.written if written is None else written)

    def observe(self, table: Table, rows: Iterable[Sequence[Any]]) -> None:
        """Record rows of our own, by the journal like everything else; while the disk is full they are dropped."""
        try:
            self.journal.append(NO_SOURCE, frames.OBSERVED, time.time_ns(), observations.encode(table, rows))
        except JournalFull:
            return  # paused, with an alarm of its own: what is left of the disk is for frames
        self.engine.wake()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_clock(self) -> None:
        """Time enters the pipeline by frames only: when none comes for a second, a frame says that time went on."""
        while True:
            end = self.journal.end
            await asyncio.sleep(CLOCK_S)
            if self.journal.end == end:
                with contextlib.suppress(JournalFull):
                    self.journal.append(NO_SOURCE, frames.CLOCK, time.time_ns(), b"")
                    self.engine.wake()

    async def _keep_database(self) -> None:
        """Start or reach QuestDB, apply the schema, start loading; then see that it is alive and keeps what it has."""
        told = ""
        while True:
            try:
                if self.sink is None:
                    self.sink = await self._reach_database()
                    self.database_state = "ready"
                    self.engine.start(self.sink)
                await asyncio.sleep(SUPERVISE_S)
                if self._rows_lost is not None:
                    await self._rewind(*self._rows_lost)
                    continue
                await asyncio.to_thread(self.acknowledged.keep, self.sink.known)
                if self.database is None or await asyncio.to_thread(self.database.alive):
                    continue
                if self.database_state == "ready":
                    self.database_state, told = "restarting", ""
                    self.log.error("database.died", action="restarting it; frames are journalled meanwhile")
                await asyncio.to_thread(self.database.restart)
                self.database_state = "ready"
                self.log.info("database.restarted")
            except Exception as error:
                told = self._tell_unavailable(error, told)
                await asyncio.sleep(DATABASE_RETRY_S)

    async def _reach_database(self) -> Sink:
        if self.database is not None:
            anew = await asyncio.to_thread(self.database.start)
            status = await asyncio.to_thread(self.database.status)
            self.log.info("database.started" if anew else "database.found", pid=status.pid, sql=self.database.sql_url)
        changes = await asyncio.to_thread(migrate_to, self.config)
        if changes:
            self.log.info("schema.applied", changes=len(changes))
        loop = asyncio.get_running_loop()

        def on_replaced(table: str, reason: str) -> None:
            self._rows_lost = (table, reason)

        return make_sink(
            self.config, self.log, on_answered=self.engine.on_answered, on_applied=self.engine.on_applied,
            on_suspended=lambda *args: loop.call_soon_threadsafe(self.alarms.table_suspended, *args),
            on_replaced=on_replaced, on_resumed=lambda table: on_replaced(table, ""), known=self.acknowledged.tables,
        )  # fmt: skip

    def _secure_tables(self) -> None:
        """What QuestDB has of the rows whose frames are about to be given up. Raises OSError."""
        if self.sink is not None:
            self.acknowledged.secure(self.sink.known)

    async def _rewind(self, table: str, reason: str) -> None:
        """QuestDB lost rows that it had answered for: what the journal has not released is handed over once more.

        reason  how that was seen; empty: a suspended table applies again, and may lack some of what it was sent since
        """
        self.database_state = "starting"
        self.engine.stop()
        if self.sink is not None:
            await asyncio.to_thread(self.sink.close)
        self.snapshots.forget()
        await asyncio.to_thread(self.snapshots.close)
        self.pipeline, _ = self.snapshots.resume(self.journal, self._new_pipeline)
        self.engine.rewind(self.pipeline)
        self.sink, self._rows_lost = None, None
        self.alarms.look_anew()
        position, behind = self.pipeline.position, self.journal.end - self.pipeline.position
        if not reason:
            self.log.info("engine.resent", table=table, position=position, bytes=behind)
            return
        self.acknowledged.forget()
        action = f"rows before it are brought back by: recorder replay {self.config.journal.dir}"
        self.log.error("engine.rewound", table=table, reason=reason, position=position, bytes=behind, action=action)
        words = f"{table} lost rows: {reason}; sent again from position {position} on, {action}"
        self.alarms.finding("table_replaced", "critical", words, behind)

    def _new_pipeline(self) -> Pipeline:
        return Pipeline(self.config.kernels, make)

    async def _drain(self) -> None:
        """Wait until everything is queryable, the latencies of the last rows included."""
        if await self.engine.drain(DRAIN_TIMEOUT_S) and (rows := self.engine.ledger.take(None)):
            self.observe(LATENCY, rows)
            await self.engine.drain(DRAIN_TIMEOUT_S)

    def _tell_unavailable(self, error: Exception, told: str) -> str:
        """Say why QuestDB cannot be used, once for each reason; return it."""
        self.database_state = self.database_error = str(error) or type(error).__name__
        if self.database_state != told:
            unexpected = {} if isinstance(error, RecorderError) else {"exception": error}
            self.log.error("database.unavailable", reason=self.database_state, retry_s=DATABASE_RETRY_S, **unexpected)
        return self.database_state

    async def stop(self, hurry: asyncio.Event | None = None) -> bool:
        """Close the feeds, wait until everything is queryable, leave the database to its users.

        hurry  set it to stop waiting
        False when rows were not queryable in time: they are in the journal and are loaded at the next start.
        """
        await self.repairer.stop()
        await self._runs.close()
        self._clock.cancel()
        if not self.engine.stored and not self.engine.failed:
            self.pipeline.write_coverage()  # of the minute begun; should recording go on within it, these are replaced
        if self.sink is not None:
            await wait_first(self._drain(), *([hurry.wait()] if hurry is not None else []), timeout_s=None)
        drained = self.sink is not None and self.engine.settled
        if self.database is not None:
            self.database.abandon()  # the thread that waits for one that is starting would keep us for that long
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.engine.stop()
        if self.sink is not None:
            await asyncio.to_thread(self.sink.close)
            if self._rows_lost is None:
                self.acknowledged.keep(self.sink.known)
        await asyncio.to_thread(self.snapshots.close)
        await asyncio.to_thread(self.last_events.close)
        if drained:
            await asyncio.to_thread(self.engine.keep)
        else:
            self.log.warning(
                "journal.kept", bytes=self.journal.end - self.engine.released,
                reason=self.engine.failed or "not queryable yet; the next start loads it", database=self.database_state,
            )  # fmt: skip
        self.journal.close()
        if drained:
            await asyncio.to_thread(refresh_views, self.config, VIEWS_TIMEOUT_S)
        return drained


async def wait_first(*events: Awaitable[Any], timeout_s: float | None) -> None:
    """Until the first of ``events`` or the timeout."""
    tasks = [asyncio.ensure_future(event) for event in events]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
