"""Frames into the database without a loop or a journal: the pipeline and the sink, driven by a plain iterator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from recorder.core.encode import Sealed
from recorder.core.frames import Frames
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.database import Database, migrate, views
from recorder.shell.database.sql_client import SqlClient, connect
from recorder.shell.log import Log
from recorder.shell.sink import Sink
from recorder.shell.sink.acknowledged import Known
from recorder.values.config import Config
from recorder.values.errors import DatabaseError
from recorder.values.tables import prefixed

ROOM_POLL_S = 0.001  # between looks whether the sink takes another block
_ALARMS = ("sink.suspended", "sink.suspension_lasts", "sink.table_replaced")
STUCK_S = 60.0  # without any block answered: the database is not coming back by itself


class Load:
    """The same pipeline calls as a live recording makes, as fast as the database takes rows.

    chosen  what of a block is to be stored; all of it without
    """

    def __init__(
        self, config: Config, pipeline: Pipeline, sink: Sink, chosen: Callable[[Sealed], Sealed] | None = None
    ) -> None:
        self.pipeline, self.sink, self._chosen = pipeline, sink, chosen
        self._rows_max = config.batch.rows_max

    def frames(self, frames: Frames) -> None:
        self.pipeline.consume(frames)
        if self.pipeline.pending >= self._rows_max:
            self._submit()

    def _submit(self) -> None:
        """Hand over what was collected, waiting for room. Raises DatabaseError when there is none for STUCK_S."""
        deadline = time.monotonic() + STUCK_S
        self._check()
        while not self.sink.room():
            if time.monotonic() > deadline:
                raise DatabaseError(
                    f"QuestDB took no rows for {STUCK_S:.0f} s ({self.sink.last_error}); is it overloaded or stopped?"
                )
            time.sleep(ROOM_POLL_S)
        sealed = self.pipeline.seal()
        self.sink.submit(self._chosen(sealed) if self._chosen else sealed)

    def _check(self) -> None:
        if self.sink.lost:
            raise DatabaseError(f"{self.sink.lost}: run the command again, what is stored stays once")

    def finish(self, timeout_s: float) -> None:
        """Send the rest and wait until all of it is queryable. Raises DatabaseError when it is not in time."""
        self.pipeline.write_coverage()
        if self.pipeline.pending:
            self._submit()
        drained = self.sink.drain(timeout_s)
        self._check()
        if not drained:
            raise DatabaseError(
                f"rows are not queryable after {timeout_s:.0f} s ({self.sink.last_error}); see `recorder db status`"
            )


def migrate_to(config: Config) -> list[str]:
    """Create or bring forward the tables and views of the configured database; what was done, a line each."""
    with connect(config) as client:
        return migrate.apply_schema(client, config)


def drop_tables(client: SqlClient, prefix: str) -> None:
    """Drop every table of the recorder with this prefix. Raises ValueError without one: those are the user's."""
    if not prefix:
        raise ValueError("tables without a prefix are never dropped")
    for table in prefixed(prefix).values():
        client.execute(f"DROP TABLE IF EXISTS {table.name}")


def refresh_views(config: Config, timeout_s: float) -> None:
    """Bring the materialised views up to the last row: whoever looks next should not have to wait for their timer."""
    if config.questdb.prefix:
        return  # there are none
    with connect(config) as client:
        views.refresh(client, timeout_s)


def make_sink(
    config: Config,
    log: Log,
    on_answered: Callable[[int], None] | None = None,
    on_applied: Callable[[int], None] | None = None,
    on_suspended: Callable[[str, str | None], object] | None = None,
    on_replaced: Callable[[str, str], object] | None = None,
    on_resumed: Callable[[str], object] | None = None,
    known: Mapping[str, Known] | None = None,
) -> Sink:
    """The sink of the configured database, for the loader and for live recording alike."""

    def tell(event: str, **fields: object) -> None:
        good, bad = event.endswith(("recovered", "resumed")), event in _ALARMS
        if bad:
            log.error(event, exception=None, **fields)
        else:
            (log.info if good else log.warning)(event, **fields)

    return Sink(
        config.questdb,
        blocks_in_flight_max=config.batch.blocks_in_flight_max,
        log=tell,
        apply_schema=lambda: migrate_to(config),
        on_answered=on_answered,
        on_applied=on_applied,
        on_suspended=on_suspended,
        on_replaced=on_replaced,
        on_resumed=on_resumed,
        known=known,
    )


@contextmanager
def loader(config: Config, log: Log) -> Iterator[Load]:
    """A started database with its schema, a pipeline and a sink; the sink is closed at the end, the database stays."""
    if config.questdb.embedded:
        Database.from_config(config).start()
    migrate_to(config)
    sink = make_sink(config, log)
    try:
        yield Load(config, Pipeline(config.kernels, make), sink)
    finally:
        sink.close()
