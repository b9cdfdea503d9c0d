"""Quiet or dead: looks once a second at what has arrived, and has connections opened again that should have delivered.

What is judged and why stands in ``core/arrivals.py``; here are the clock, the history and the consequences. Judged are
only connections that are ready, in the session itself (not in its lead or drain), and only while the pipeline keeps up:
while QuestDB takes no rows, the endpoint's ``silence_ns`` alone holds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recorder.core.arrivals import TICK_NS, Arrivals, Profile, Silence, dead
from recorder.shell.database.sql_client import SqlClient, connect
from recorder.values.config import Config
from recorder.values.errors import DatabaseError
from recorder.values.feed import HOUR, SECOND
from recorder.values.schedule import Open
from recorder.values.tables import BACKFILLED, QUALITY_EVENTS, QUOTES, TRADES, prefixed

CHANNELS = (TRADES.name, QUOTES.name)  # whose rows are many enough to be expected
LATE_NS = 5 * SECOND  # a tick this late: the machine slept or the loop was blocked, what came waits in the sockets
GRACE_NS = 15 * SECOND  # a connection that was just opened again is given this long
HOLD_NS = 30 * SECOND  # silent again at once: twice as long each time, a dead exchange is not cured by reconnecting
HOLD_MAX_NS = HOUR
HEALED_NS = 60 * SECOND  # delivering for so long: the next silence is the first again
MUTE_MIN_NS = 60 * SECOND  # a symbol halted for a minute is nobody's alarm
HISTORY_DAYS_MAX = 14  # two of each weekday: what a month ago was usual is usual no more
HISTORY_ROWS_MAX = 100_000  # of a table: 10 MB of JSON, 50 ms; fewer days where there are many symbols
HISTORY_NS = 24 * HOUR  # learnt anew so often
HISTORY_RETRY_S = 60.0
BINS_A_DAY = 288


@dataclass
class Watched:
    """A connection under watch."""

    reconnects: int
    since: int = 0  # ready since, ns
    strikes: int = 0  # judged dead in a row
    judged: int = 0  # when, the last time
    hold_until: int = 0
    problem: str = ""  # while it is silent after having been judged dead


@dataclass
class WatchedFeed:
    arrivals: Arrivals
    connections: dict[int, Watched] = field(default_factory=dict)  # by number
    mute: dict[int, int] = field(default_factory=dict)  # series → its last arrival


class Watch:
    """Watches every feed of a recording.

    recording  as commands.record.Recording: feeds, pipeline, engine, journal, observe, config
    """

    def __init__(self, recording: Any, config: Config, log: Any) -> None:
        self.judged_dead: dict[str, int] = {}  # feed → how often a connection was judged dead
        self._recording, self._config, self._log = recording, config, log
        self._feeds: dict[str, WatchedFeed] = {}
        self._series: dict[str, list[tuple[int, str]]] = {}  # feed → the pipeline's series and their symbols
        self._series_known = 0
        self._journalled = self._ticked = 0

    async def run(self) -> None:
        """For ever; what goes wrong here never disturbs recording."""
        history = asyncio.create_task(self._keep_history())
        told = ""
        try:
            while True:
                await asyncio.sleep(TICK_NS / SECOND)
                try:
                    self.tick(time.time_ns())
                except Exception as error:
                    if told != (told := repr(error)):
                        self._log.error("watch.failed", exception=error)
        finally:
            history.cancel()

    def problems(self) -> list[str]:
        """What /health says: connections judged dead that have not delivered since."""
        return [
            f"feed {name} connection {number}: {watched.problem}"
            for name, feed in list(self._feeds.items())
            for number, watched in list(feed.connections.items())
            if watched.problem
        ]

    def tick(self, now: int) -> None:
        """A second has passed; ``now`` in ns."""
        late = not 0 <= now - self._ticked <= LATE_NS
        behind = self._recording.engine.sealed_position < self._journalled
        self._ticked, self._journalled = now, self._recording.journal.end
        self._know_series()
        for name in [name for name in self._feeds if name not in self._recording.feeds]:
            del self._feeds[name]
        for name, run in list(self._recording.feeds.items()):
            if any(connection.capability.transport in ("poll", "files") for connection in list(run.connections)):
                self._feeds.pop(name, None)  # silent between two answers, and judged by these: see shell/poller.py
                continue
            if name not in self._feeds:
                zone = self._zone(run)
                if zone is None:
                    continue  # not connected yet
                self._feeds[name] = WatchedFeed(Arrivals(Profile(zone)))
            feed = self._feeds[name]
            if late:
                for watched in feed.connections.values():
                    watched.since = now  # what came meanwhile may wait in the sockets
            if not behind:
                self._look(name, run, feed, now)

    @staticmethod
    def _zone(run: Any) -> str | None:
        return run.connections[0].capability.session_zone if run.connections else None

    def _know_series(self) -> None:
        keys = self._recording.pipeline.out.series.keys
        for number in range(self._series_known, len(keys)):
            feed, symbol = keys[number]
            self._series.setdefault(feed, []).append((number, symbol))
        self._series_known = len(keys)

    def _look(self, name: str, run: Any, feed: WatchedFeed, now: int) -> None:
        profile, scalars = feed.arrivals.profile, self._recording.pipeline.kernels.state.scalars
        connections = {connection.spec.connection: connection for connection in list(run.connections)}
        since = np.zeros(max(connections, default=-1) + 1, np.int64)
        for number, connection in connections.items():
            since[number] = self._since(feed, number, connection, now)
        if not self._in_session(run, now):
            since[:] = 0
        for number in [number for number in feed.connections if number not in connections]:
            del feed.connections[number]
        place = self._places(connections)
        channels = [channel for channel in CHANNELS if channel in run.spec.channels]
        for number, symbol in self._series.get(name, ()):
            for channel in channels:
                if scalars[number][channel]:
                    profile.series(symbol, channel)
        symbols = {symbol: number for number, symbol in self._series.get(name, ())}
        numbers = np.array([symbols.get(symbol, -1) for symbol, _ in profile.names], np.int64)
        delivers = np.array([place.get(symbol, -1) for symbol, _ in profile.names], np.int64)
        counts, last = np.zeros(len(profile), np.int64), np.zeros(len(profile), np.int64)
        for channel in channels:
            own = (numbers >= 0) & np.array([c == channel for _, c in profile.names], bool)
            counts[own], last[own] = scalars[channel][numbers[own]], scalars[f"{channel}_recv"][numbers[own]]
        judgement = feed.arrivals.tick(now, counts, last, delivers, since)
        for number, silence in judgement.connections.items():
            self._judge(name, feed, connections[number], number, silence, now)
        self._mutes(name, feed, connections, delivers, judgement.series, last, now)

    def _since(self, feed: WatchedFeed, number: int, connection: Any, now: int) -> int:
        """Since when a connection could have delivered; 0 while it is not to be judged."""
        watched = feed.connections.setdefault(number, Watched(connection.reconnects))
        if not connection.ready or watched.reconnects != connection.reconnects:
            watched.reconnects, watched.since = connection.reconnects, 0  # for one tick at least: the silence before
            return 0  # is not taken for one that ended alive
        watched.since = watched.since or now
        return watched.since

    def _in_session(self, run: Any, now: int) -> bool:
        """Open, and neither in the lead before the session nor in the drain after it."""
        if run.schedule is None:
            return False
        lead, drain = self._config.schedule.lead_s * SECOND, self._config.schedule.drain_s * SECOND
        state = run.schedule.state(now)
        if not isinstance(state, Open):
            return False
        return state.until_ns is None or (run.schedule.state(now - lead) == state and now < state.until_ns - drain)

    def _places(self, connections: Mapping[int, Any]) -> dict[str, int]:
        """Symbol → number of the connection that delivers it: as configured, or as it came."""
        place: dict[str, int] = {}
        for number, connection in connections.items():
            place.update(dict.fromkeys(connection.spec.symbols, number))
            for source in list(self._recording.pipeline.sources.values()):
                if source.spec == connection.spec:
                    place.update(dict.fromkeys(source.scope.symbols, number))
        return place

    # Consequences.

    def _judge(self, name: str, feed: WatchedFeed, connection: Any, number: int, silence: Silence, now: int) -> None:
        watched = feed.connections[number]
        if silence.silent_ns <= 2 * TICK_NS and now - silence.silent_ns > watched.since:
            if watched.problem:
                watched.problem = ""
                self._log.info("feed.resumed", feed=name, connection=number)
            if watched.strikes and now - watched.judged > HEALED_NS + HOLD_NS:
                watched.strikes = 0
            return
        per_year = self._config.watch.false_alarms_per_year
        if now < watched.hold_until or not dead(silence, connection.spec.channels, per_year):
            return
        watched.strikes += 1
        watched.judged = now
        watched.hold_until = now + max(GRACE_NS, min(HOLD_MAX_NS, HOLD_NS << min(watched.strikes - 1, 16)))
        words = f"judged dead: {_words(silence)}"
        watched.problem = words
        self.judged_dead[name] = self.judged_dead.get(name, 0) + 1
        self._log.warning(
            "feed.judged_dead", feed=name, connection=number, strikes=watched.strikes, **_evidence(silence)
        )
        self._find(now, name, None, "critical", silence, f"connection {number} {words}; it is opened again")
        connection.reopen(words)

    def _mutes(
        self, name: str, feed: WatchedFeed, connections: Mapping[int, Any], delivers: np.ndarray,
        series: dict[int, Silence], last: np.ndarray, now: int,
    ) -> None:  # fmt: skip
        """Tell of symbols that are mute while their connection delivers, and ask for them again, once."""
        for number in [number for number, since in feed.mute.items() if last[number] != since]:
            del feed.mute[number]
            symbol, channel = feed.arrivals.profile.names[number]
            self._log.info("symbol.resumed", feed=name, symbol=symbol, channel=channel)
        per_year, judged = self._config.watch.false_alarms_per_year, len(feed.arrivals.profile)
        for number, silence in series.items():
            if number in feed.mute or silence.silent_ns < MUTE_MIN_NS or not silence.improbable(per_year, judged):
                continue
            feed.mute[number] = int(last[number])
            feed.arrivals.mute(number)
            symbol, channel = feed.arrivals.profile.names[number]
            self._log.warning("symbol.mute", feed=name, symbol=symbol, channel=channel, **_evidence(silence))
            words = f"{channel} of {symbol} {_words(silence)}, while others of its connection come; asked for again"
            self._find(now, name, symbol, "warning", silence, words)
            connections[int(delivers[number])].ask_again([(channel, symbol)])

    def _find(self, now: int, feed: str, symbol: str | None, severity: str, silence: Silence, words: str) -> None:
        limit = math.log(self._config.watch.false_alarms_per_year) - math.log(365.25 * 86_400)
        known = silence.log_p is not None
        value = math.exp(max(-700.0, silence.log_p)) if silence.log_p is not None else silence.silent_ns / SECOND
        row = (now, symbol, feed, "silence", severity, value, math.exp(limit) if known else None, words)
        self._recording.observe(QUALITY_EVENTS, [row])

    # History.

    async def _keep_history(self) -> None:
        """Learn every feed's history once the database answers, and again once a day."""
        learnt: dict[str, int] = {}
        while True:
            wait_s = HISTORY_RETRY_S
            for name, feed in list(self._feeds.items()):
                run, now = self._recording.feeds.get(name), time.time_ns()
                zone = self._zone(run) if run is not None else None
                if zone is None or now - learnt.get(name, 0) < HISTORY_NS or self._recording.sink is None:
                    continue
                try:
                    fresh = await asyncio.to_thread(self._history, run.spec, zone, list(feed.arrivals.profile.names))
                except DatabaseError as error:
                    self._log.debug("history.unavailable", feed=name, reason=str(error))
                    continue
                learnt[name] = now
                feed.arrivals.adopt(fresh)
                self._log.info("history.learnt", feed=name, series=int((fresh.seconds_total > 0).sum()))
            if not learnt:
                wait_s = 1.0  # just started: the database takes a few seconds
            await asyncio.sleep(wait_s)

    def _history(self, spec: Any, zone: str, names: Iterable[tuple[str, str]]) -> Profile:
        profile = Profile(zone)
        for symbol, channel in names:
            profile.series(symbol, channel)
        rows: list[tuple[str, str, int, int]] = []
        with connect(self._config) as client:
            for channel in CHANNELS:
                if channel in spec.channels:
                    table = prefixed(self._config.questdb.prefix)[channel]
                    found = history(client, table.name, spec.name, len(spec.symbols))
                    rows += [(symbol, channel, ts, count) for symbol, ts, count in found]
        profile.learn(rows)
        return profile


def history(client: SqlClient, table: str, feed: str, symbols: int) -> list[tuple[str, int, int]]:
    """Arrivals of the last days by 5 minutes: (symbol, start in ns, rows). Raises DatabaseError."""
    days = max(1, min(HISTORY_DAYS_MAX, HISTORY_ROWS_MAX // (BINS_A_DAY * max(1, symbols))))
    answer = client.query(
        f"SELECT symbol, ts_event::long ts, count() FROM {table} WHERE feed = '{feed}' "
        f"AND ts_event > dateadd('d', -{days}, now()) AND ts_event <= now() AND flags & {BACKFILLED} = 0 "
        f"SAMPLE BY 5m LIMIT -{HISTORY_ROWS_MAX}"
    )
    return [(symbol, ts, count) for symbol, ts, count in answer.rows]


def _words(silence: Silence) -> str:
    seconds = silence.silent_ns / SECOND
    if silence.log_p is None:
        return f"silent for {seconds:.1f} s, before enough was known to expect anything"
    return f"silent for {seconds:.1f} s with {silence.expected:.3g} arrivals expected, p = {_p(silence.log_p)}"


def _p(log_p: float) -> str:
    return f"1e{log_p / math.log(10):.1f}"


def _evidence(silence: Silence) -> dict[str, Any]:
    found: dict[str, Any] = {"silent_s": round(silence.silent_ns / SECOND, 1)}
    if silence.log_p is not None:
        found |= {"expected": round(silence.expected, 1), "p": _p(silence.log_p)}
    return found
