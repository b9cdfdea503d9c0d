"""Symbol changes move subscriptions: from the day on which corporate_actions say that A became B, feeds record B."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from recorder.core.renames import Rename, renamed
from recorder.shell.database.sql_client import connect
from recorder.values.config import Config
from recorder.values.errors import ConfigError, DatabaseError
from recorder.values.feed import FeedSpec

LOOK_S = 60.0  # names change at midnight, hours before a market opens; `recorder actions` may tell of one at any time
NOT_READY_S = 1.0  # how soon to look again while the database is starting
RENAMES_MAX = 100_000  # since the configuration was written; the whole market has a thousand a year


class Renames:
    """Keeps the feeds of a recording at what their symbols are called now.

    set_feeds  takes effect at once and leaves unchanged feeds alone; raises ConfigError
    ready      whether the database can be asked
    """

    def __init__(
        self, config: Config, set_feeds: Callable[[tuple[FeedSpec, ...]], None], ready: Callable[[], bool], log: Any
    ) -> None:
        self._config, self._set_feeds, self._ready, self._log = config, set_feeds, ready, log
        self._specs: tuple[FeedSpec, ...] = ()  # as configured
        self._written = 0
        self._current: tuple[FeedSpec, ...] = ()
        self._renames: tuple[Rename, ...] = ()
        self._refused = ""

    def set(self, specs: tuple[FeedSpec, ...], written: int) -> None:
        """The configuration, and when it was written, in ns. Raises ConfigError, and then nothing has changed."""
        current = self._named(specs, written)
        self._set_feeds(current)
        self._specs, self._written, self._current = specs, written, current

    async def keep(self) -> None:
        """For ever: look what has been renamed, and move the subscriptions."""
        while True:
            ready = self._ready()
            if ready and self._specs and not self._config.questdb.prefix:
                with contextlib.suppress(DatabaseError):  # told by who keeps the database
                    self._renames = await asyncio.to_thread(self._known)
                self._move()
            await asyncio.sleep(LOOK_S if ready else NOT_READY_S)

    def _move(self) -> None:
        """Make the change that is due, if there is one."""
        wanted = self._named(self._specs, self._written)
        if wanted == self._current:
            return
        try:
            self._set_feeds(wanted)
        except ConfigError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                self._log.error("symbol.rename_refused", reason=self._refused)
            return
        for before, after in zip(self._current, wanted, strict=True):
            if before.symbols != after.symbols:
                gone = [symbol for symbol in before.symbols if symbol not in after.symbols]
                come = [symbol for symbol in after.symbols if symbol not in before.symbols]
                action = "write the new names into the configuration"
                self._log.warning("symbol.renamed", feed=before.name, old=gone, new=come, action=action)
        self._current = wanted

    def _named(self, specs: tuple[FeedSpec, ...], written: int) -> tuple[FeedSpec, ...]:
        now = time.time_ns()
        return tuple(
            msgspec.structs.replace(spec, symbols=renamed(spec.symbols, self._renames, written, now)) for spec in specs
        )

    def _known(self) -> tuple[Rename, ...]:
        """Every change since the configuration was written, also those to come. Raises DatabaseError."""
        with connect(self._config) as client:
            rows = client.query(
                "SELECT ts_event::long, symbol, new_symbol FROM corporate_actions_now WHERE "
                f"action_type = 'symbol_change' AND ts_event > {self._written} AND new_symbol IS NOT NULL "
                f"ORDER BY ts_event LIMIT {RENAMES_MAX}"
            ).rows
        return tuple(Rename(ts_event, old, new) for ts_event, old, new in rows)
