"""A recording of answers alone: what a command asks of providers is journalled, decoded by the fold and stored.

It has a journal of its own, so that it works beside a running recorder, and state beside it like any recording.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recorder.commands.load import make_sink, migrate_to
from recorder.core import history
from recorder.core.frames import POLLED, RESPONSE, SOURCE
from recorder.core.history import HISTORY_CONNECTION
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.database import Database
from recorder.shell.engine import FAILED_ACTION, Engine
from recorder.shell.journal import Journal
from recorder.shell.questions import Questions
from recorder.shell.snapshots import Snapshots
from recorder.values.config import Config
from recorder.values.errors import DatabaseError, RecorderError
from recorder.values.feed import FeedSpec, Historian, HistoryRequest, Poll
from recorder.values.tables import REJECTED

SEGMENT_BYTES = 4 << 20  # answers are few; a prepared segment takes up its whole size
KEEP_DAYS = 3650.0  # what was known when is worth keeping; keep_gb bounds it
APPLY_TIMEOUT_S = 60.0


class Asking:
    """Asks, journals, stores."""

    def __init__(self, journal: Journal, engine: Engine) -> None:
        self.finished = 0  # questions answered completely
        self._journal, self._engine = journal, engine

    def complete(self, spec: FeedSpec) -> set[HistoryRequest]:
        """Questions of such a feed to which the journal has every page."""
        found: set[HistoryRequest] = set()
        wanted: set[int] = set()
        position = self._journal.begin
        while (frames := self._journal.read(position)) is not None and frames.count:
            for i in np.flatnonzero((frames.kinds == RESPONSE) | (frames.kinds == SOURCE)).tolist():
                payload = bytes(frames.payload(i))
                if frames.kinds[i] == SOURCE:
                    mine = msgspec.json.decode(payload, type=FeedSpec) == _named(spec)
                    (wanted.add if mine else wanted.discard)(int(frames.sources[i]))
                elif int(frames.sources[i]) in wanted:
                    page, _ = history.decode(payload)
                    if page.last and page.gap is None:
                        found.add(page.request)
            position = frames.end
        return found

    async def ask(self, spec: FeedSpec, feed: Historian, request: HistoryRequest, questions: Questions) -> int:
        """All pages of one question; how many were journalled. Raises Unanswered, ConfigError, JournalFull.

        What came before an error is stored.
        """
        number = 0
        source = self._journal.source(_named(spec))
        async for payload in questions.history(feed, request):
            self._journal.append(source, RESPONSE, time.time_ns(), payload)
            self._engine.wake()
            number += 1
        self.finished += 1
        return number

    async def poll(self, spec: FeedSpec, poll: Poll, questions: Questions) -> int:
        """One round of a poll; how many answers were journalled. What came before an error is stored.

        Raises Unanswered, ConfigError, FrameError, JournalFull.
        """
        number = 0
        source = self._journal.source(_named(spec))
        async for payload in questions.poll(poll):
            self._journal.append(source, POLLED, time.time_ns(), payload)
            self._engine.wake()
            number += 1
        return number

    @property
    def rows(self) -> dict[str, int]:
        """Rows by table, since this began."""
        return {name: count for name, count in self._engine.pipeline.rows.items() if count}

    @property
    def rejected(self) -> int:
        """Answers, or parts of them, that could not be read: they are in the table ``rejected``."""
        return self.rows.get(REJECTED.name, 0)

    async def stored(self) -> None:
        """Wait until all of it can be queried. Raises DatabaseError; RecorderError when it cannot be decoded."""
        if not await self._engine.drain(APPLY_TIMEOUT_S):
            if why := self._engine.failed:
                raise RecorderError(f"{self._journal.directory} cannot be decoded: {why}; {FAILED_ACTION}")
            raise DatabaseError(
                f"rows are not queryable after {APPLY_TIMEOUT_S:.0f} s; they are in {self._journal.directory} and "
                "are stored when the same is asked again"
            )


@asynccontextmanager
async def asking(config: Config, folder: str, log: Any) -> AsyncIterator[Asking]:
    """Database started, schema applied, the journal of ``folder`` (beside the recorder's own) open.

    Raises JournalLocked when another command asks at the same time, DatabaseError.
    """
    directory = Path(config.journal.dir) / folder
    if config.questdb.embedded:
        await asyncio.to_thread(Database.from_config(config).start)
    await asyncio.to_thread(migrate_to, config)
    journal = Journal.open(
        directory, segment_bytes=SEGMENT_BYTES, fsync_ms=config.journal.fsync_ms, keep_days=KEEP_DAYS,
        keep_gb=config.journal.keep_gb, log=log.info,
    )  # fmt: skip
    try:
        snapshots = Snapshots(directory, log.warning)
        pipeline, stored = snapshots.resume(journal, lambda: Pipeline(config.kernels, make))
        engine = Engine(journal, pipeline, config.batch, snapshots, stored, log.error)
        sink = make_sink(config, log, on_answered=engine.on_answered, on_applied=engine.on_applied)
        engine.start(sink)
        try:
            yield Asking(journal, engine)
        finally:
            settled = await engine.drain(APPLY_TIMEOUT_S)
            engine.stop()
            await asyncio.to_thread(sink.close)
            await asyncio.to_thread(snapshots.close)
            if settled:
                await asyncio.to_thread(engine.keep)
    finally:
        journal.close()


def _named(spec: FeedSpec) -> FeedSpec:
    """What decoding needs to know of it."""
    return msgspec.structs.replace(
        spec, symbols=(), url=None, rest_url=None, schedule=None, connection=HISTORY_CONNECTION
    )
