"""The feeds of a recording: their schedules, their connections, and what a reloaded configuration changes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from recorder.commands.logins import environment_of, session_of
from recorder.core.gaps import END_OF_SESSION, NOT_WANTED
from recorder.core.gate import Gate
from recorder.core.sharing import shared_anew
from recorder.feeds import PROVIDERS, make
from recorder.shell import fix
from recorder.shell.connection import Connection
from recorder.shell.disk import PAUSE_REASON
from recorder.shell.folder import Folder
from recorder.shell.login import Session
from recorder.shell.pace import Pace, kept, shared
from recorder.shell.poller import Poller
from recorder.values.config import credentials, wanted_credentials
from recorder.values.errors import ConfigError, RecorderError
from recorder.values.feed import HOUR, SECOND, Feed, FeedSpec, Historian, Key
from recorder.values.schedule import Closed, Open, Schedule

FEED_RETRY_S = 30.0  # after something unforeseen, such as a calendar that cannot be computed
AUDIT_BACKLOG_BYTES = 4 << 20  # journalled and not decoded: below it what has come is known to a fraction of a second
CALENDAR_NS = 12 * HOUR  # the calendar is asked again this often: exchanges close on short notice
SLEEP_MAX_S = 3600.0  # the clock is looked at again at least this often: clocks are set, machines are suspended

Runner = Connection | Poller | Folder  # what records a share of a feed
Tasks = dict[Runner, asyncio.Task[None]]


@dataclass
class FeedRun:
    """A configured feed while recording: its schedule and its connections."""

    spec: FeedSpec
    schedule: Schedule | None = None  # known once the calendar was asked
    task: asyncio.Task[None] | None = None
    connections: list[Runner] = field(default_factory=list)
    shards: list[FeedSpec] = field(default_factory=list)  # the connections that there shall be; none while closed
    reshape: asyncio.Event = field(default_factory=asyncio.Event)  # ``shards`` has other connections than there are
    waiting_until: int | None = None  # ns; None while open
    skipped: str = ""  # why it is not recorded at all
    failed: str = ""  # why it could not be recorded the last time
    frames_before: int = 0  # of connections that are gone: counters never go back
    reconnects_before: int = 0
    historian: Historian | None = None  # what asks for its past; None: it is not recorded
    previous: FeedRun | None = None  # the same feed before it was changed, until it has ended

    @property
    def frames(self) -> int:
        """Received so far, over all connections that there were."""
        before = self.previous.frames if self.previous is not None else 0
        return before + self.frames_before + sum(c.frames for c in list(self.connections))

    @property
    def reconnects(self) -> int:
        before = self.previous.reconnects if self.previous is not None else 0
        return before + self.reconnects_before + sum(c.reconnects for c in list(self.connections))


class FeedRuns:
    """Every configured feed, by name in ``runs``.

    recording     as commands.record.Recording: journal, engine, pipeline, sink, disk, log, observe
    schedule_for  gives a feed's Schedule; asked again when it ends
    """

    def __init__(self, recording: Any, schedule_for: Callable[[FeedSpec], Schedule], env: Mapping[str, str]) -> None:
        self.runs: dict[str, FeedRun] = {}
        self._recording, self._log = recording, recording.log
        self._schedule_for, self._env = schedule_for, env
        self._dropping: set[asyncio.Task[None]] = set()
        self._gates: dict[str, Gate] = {}  # by provider
        self._paces: dict[str, Pace] = {}  # by provider
        self._sessions: dict[str, Session | None] = {}  # by the name of a login; None: nobody has to log in
        self._fix = fix.connector(recording.config.journal.dir)

    async def close(self) -> None:
        """Close every connection politely."""
        await asyncio.gather(*(self._drop(run) for run in self.runs.values()), *self._dropping)
        self.runs.clear()
        for session in self._sessions.values():
            if session is not None:
                session.close()

    def set(self, specs: tuple[FeedSpec, ...]) -> None:
        """Start what is new, stop what is gone or changed, leave the others alone.

        Raises ConfigError, before anything is touched, for symbols or keys that cannot be.
        """
        check_feeds(specs)
        wanted = {spec.name: spec for spec in specs}
        keys = {name: credentials(PROVIDERS[spec.provider], self._env, spec) for name, spec in wanted.items()}
        for name, run in self.runs.items():
            if name in wanted and wanted[name] != run.spec and self._change_symbols(run, wanted[name], keys[name]):
                self._log.info("feed.changed", feed=name, symbols=len(run.spec.symbols))
        changed: dict[str, FeedRun] = {}
        for name in [name for name, run in self.runs.items() if wanted.get(name) != run.spec]:
            run = self.runs.pop(name)
            if name in wanted:
                changed[name] = run
            else:
                self._drop_soon(run)
                self._log.info("feed.removed", feed=name)
        for name, spec in wanted.items():
            if name in self.runs:
                continue
            run = self.runs[name] = FeedRun(spec, previous=changed.get(name))
            if run.previous is not None:
                self._log.info("feed.changed", feed=name, symbols=len(spec.symbols))
            info = PROVIDERS[spec.provider]
            needed = [key for key in wanted_credentials(info, spec) if key not in info.optional]
            missing = [key for key in needed if key not in keys[name]]
            if missing:
                run.skipped = f"set {' and '.join(missing)} in the environment to record it"
                self._log.warning("feed.skipped", feed=name, reason=run.skipped)
                if run.previous is not None:
                    self._drop_soon(run.previous)
                continue
            run.historian = cast(Historian, make(spec, keys[name]))
            run.task = asyncio.create_task(self._keep_feed(run, keys[name]))

    def _change_symbols(self, run: FeedRun, spec: FeedSpec, keys: Mapping[str, str]) -> bool:
        """Subscribe and unsubscribe on the open connections, open more, close what has no symbol left: if nothing but
        symbols has changed, and some go on."""
        if not run.shards or run.previous or msgspec.structs.replace(spec, symbols=run.spec.symbols) != run.spec:
            return False
        wanted = make(spec, keys)
        shards = shared_anew(
            run.shards,
            wanted.shards(),
            lambda shard: make(shard, keys).capability().symbols_per_connection_max,
            wanted.capability().connections_max,
        )
        if shards is None:
            return False
        changed = {shard.connection: shard for shard in shards}
        for connection in run.connections:
            shard = changed.get(connection.spec.connection)
            if shard is not None and shard != connection.spec:
                connection.change(shard)
        run.spec, run.shards = spec, shards
        run.reshape.set()
        return True

    def pace(self, provider: str) -> Pace:
        """How often it is asked over HTTP, by all who ask it."""
        if provider not in self._paces:
            self._paces[provider] = shared(self._recording.config.journal.dir, provider)
        return self._paces[provider]

    def historians(self) -> dict[str, tuple[FeedSpec, Historian]]:
        """Feeds whose gaps can be asked for."""
        return {name: (run.spec, run.historian) for name, run in self.runs.items() if run.historian is not None}

    def _delivered(self, feed: str, keys: Iterable[Key]) -> Mapping[Key, int] | None:
        """Rows that came, by (channel, symbol); None while what was received is not decoded yet."""
        behind = self._recording.sink is None or self._recording.engine.backlog > AUDIT_BACKLOG_BYTES
        return None if behind else self._recording.pipeline.delivered(feed, keys)

    def _drop_soon(self, run: FeedRun) -> None:
        task = asyncio.create_task(self._drop(run))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop(self, run: FeedRun) -> None:
        """Close its connections politely; what came until then is journalled."""
        if run.previous is not None:
            await self._drop(run.previous)
        if run.task is not None:
            run.task.cancel()
            await asyncio.wait([run.task])

    async def _keep_feed(self, run: FeedRun, keys: Mapping[str, str]) -> None:
        """Follow the feed's schedule for ever; what goes wrong is told and tried again, it never ends a feed."""
        if (previous := run.previous) is not None:  # some providers allow one connection: the old one goes first
            await self._drop(previous)
            run.frames_before, run.reconnects_before, run.previous = previous.frames, previous.reconnects, None
        told = ""
        while True:
            try:
                await self._follow(run, keys)
            except Exception as error:
                run.failed = str(error) or type(error).__name__
                if run.failed != told:
                    told = run.failed
                    unexpected = None if isinstance(error, RecorderError) else error
                    self._log.error(
                        "feed.failed", feed=run.spec.name, reason=told, retry_s=FEED_RETRY_S,
                        **({"exception": unexpected} if unexpected is not None else {}),
                    )  # fmt: skip
                await asyncio.sleep(FEED_RETRY_S)

    async def _follow(self, run: FeedRun, keys: Mapping[str, str]) -> None:
        """Wait for the open, record, drain after the close, wait again."""
        asked = 0
        while True:
            now = time.time_ns()
            if run.schedule is None or now - asked > CALENDAR_NS:
                run.schedule, asked = await asyncio.to_thread(self._schedule_for, run.spec), now
            match run.schedule.state(now):
                case Open(until):
                    run.waiting_until = None
                    await self._recording.disk.room.wait()
                    await self._record(run, keys, until)
                case Closed(next_open):
                    if run.waiting_until != next_open:
                        run.waiting_until = next_open
                        wait_s = round(_seconds(next_open, now))
                        self._log.info("feed.waiting", feed=run.spec.name, opens=_iso(next_open), wait_s=wait_s)
                    await asyncio.sleep(min(SLEEP_MAX_S, _seconds(next_open, now)))

    async def _record(self, run: FeedRun, keys: Mapping[str, str], until: int | None) -> None:
        """Keep the feed's connections until the session ends, None: for ever, or the disk is full."""
        run.shards = make(run.spec, keys).shards()
        run.failed, reason = "", "recorder stopped"
        tasks: Tasks = {}
        full = asyncio.create_task(self._recording.disk.full.wait())
        reshape = asyncio.create_task(run.reshape.wait())
        try:
            self._open_missing(run, keys, tasks)
            while until is None or time.time_ns() < until:  # asked again: a suspended machine slept longer
                timeout_s = None if until is None else min(SLEEP_MAX_S, _seconds(until, time.time_ns()))
                waited = [*tasks.values(), full, reshape]
                done, _ = await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if full in done:
                    reason = PAUSE_REASON
                    break
                for task in tasks.values():
                    if task.done():
                        task.result()  # a connection ends by an error of ours only
                if reshape in done:
                    await self._close_surplus(run, tasks)
                    self._open_missing(run, keys, tasks)
                    reshape = asyncio.create_task(run.reshape.wait())
            else:
                reason = END_OF_SESSION
            self._log.info("feed.closed", feed=run.spec.name, reason=reason)
        finally:
            run.shards = []
            try:
                await asyncio.gather(*(c.stop(reason) for c in run.connections))
            finally:
                for task in [*tasks.values(), full, reshape]:
                    task.cancel()
                self._forget(run, run.connections)

    def _open_missing(self, run: FeedRun, keys: Mapping[str, str], tasks: Tasks) -> None:
        """Open the connections that there shall be and are not."""
        provider, there = run.spec.provider, {c.spec.connection for c in run.connections}
        if provider not in self._gates:
            self._gates[provider] = kept(self._recording.config.journal.dir, provider)
        gate = self._gates[provider]

        def made(spec: FeedSpec) -> Feed:
            return make(spec, keys)

        journal, wake, observe = self._recording.journal, self._recording.engine.wake, self._recording.observe
        for shard in run.shards:
            if shard.connection in there:
                continue
            feed = made(shard)
            connection: Runner
            if feed.capability().transport == "poll":
                pace = self.pace(shard.provider)
                login = f"{shard.provider} {environment_of(shard)} {shard.rest_url}"
                if login not in self._sessions:
                    self._sessions[login] = session_of(shard, keys, self._recording.config.login.dir)
                signer = self._sessions[login]
                connection = Poller(shard, journal, wake, self._log, made, pace, observe, signer=signer)
            elif feed.capability().transport == "files":
                connection = Folder(shard, journal, wake, self._log, made, observe)
            else:
                connect = self._fix if feed.capability().transport == "fix" else None
                connection = Connection(
                    shard, feed, journal, wake, self._log, gate=gate, make_feed=made, observe=observe,
                    rows=self._delivered, connect=connect,
                )  # fmt: skip
                if feed.capability().transport == "sse":
                    self._recording.last_events.resume(shard, connection.session)
            run.connections = [*run.connections, connection]
            tasks[connection] = asyncio.create_task(connection.run())

    async def _close_surplus(self, run: FeedRun, tasks: Tasks) -> None:
        """Close the connections whose symbols are gone, before others are opened: some providers count strictly."""
        while run.reshape.is_set():  # changed again meanwhile
            run.reshape.clear()
            wanted = {shard.connection for shard in run.shards}
            surplus = [c for c in run.connections if c.spec.connection not in wanted]
            await asyncio.gather(*(c.stop(NOT_WANTED) for c in surplus))
            for connection in surplus:
                tasks.pop(connection).cancel()
            self._forget(run, surplus)

    @staticmethod
    def _forget(run: FeedRun, gone: list[Runner]) -> None:
        """They have ended: keep their counts."""
        run.frames_before += sum(c.frames for c in gone)
        run.reconnects_before += sum(c.reconnects for c in gone)
        run.connections = [c for c in run.connections if c not in gone]


def check_feeds(specs: Iterable[FeedSpec]) -> None:
    """What only a feed itself can tell: raises ConfigError for symbols or options that its provider cannot have."""
    problems = []
    for spec in specs:
        try:
            make(spec).shards()
        except RecorderError as error:
            words = str(error)
            problems.append(words if spec.name in words else f"feed {spec.name!r}: {words}")
    if problems:
        raise ConfigError("\n".join(problems))


def _seconds(until: int | None, now: int) -> float:
    return SLEEP_MAX_S if until is None else max(0.0, (until - now) / SECOND)


def _iso(ns: int | None) -> str:
    if ns is None:
        return "unknown"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns // SECOND))
