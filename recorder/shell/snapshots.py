"""The pipeline's state in a file beside the journal, so that a restart goes on where the database is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from recorder.core import snapshot
from recorder.core.pipeline import Pipeline
from recorder.core.snapshot import Snapshot
from recorder.shell.journal import Journal
from recorder.shell.journal.segments import sync_directory
from recorder.values.errors import RecorderError, SnapshotError

NAME = "state"  # the newest
BEFORE_NAME = "state.before"  # the one before it, should the newest turn out to be unreadable
ASIDE_NAME = "state.unreadable"  # one that could not be read, for whoever wants to know why; the next replaces it
EVERY_S = 2.0  # a restart decodes again at most about this much
EVERY_IDLE_S = 60.0  # while no rows come
COST_SHARE = 1 / 500  # of the event loop's time that copying may take: with many symbols snapshots come seldomer
BYTES_MAX = 4 << 30  # of one state: TEXTS_MAX series would be 20 GB, which no machine of ours holds either

Log = Callable[..., None]


class Snapshots:
    """Takes snapshots of a pipeline when they are due, writes them once the database has their rows.

    saved  called with the position of a snapshot that is durable, from the thread that wrote it
    first  called before one is made the newest, in that thread: what must be durable by then. May raise OSError
    """

    def __init__(
        self,
        directory: Path,
        log: Log,
        saved: Callable[[int], None] = lambda position: None,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory, self._log, self.saved, self._first = directory, log, saved, first
        self._taken: Snapshot | None = None  # waiting until its rows are applied and its frames durable
        self._writer: threading.Thread | None = None
        self._due = time.monotonic() + EVERY_S
        self._rows = 0  # handed over since the last one
        self._failed = ""

    # Taking.

    def due(self, rows: int) -> bool:
        """Whether the block of ``rows`` rows about to be handed over should be followed by ``take``."""
        self._rows += rows
        if self._taken is not None or (self._writer is not None and self._writer.is_alive()):
            return False
        late = time.monotonic() - self._due
        return late >= 0 and (self._rows > 0 or late >= EVERY_IDLE_S - EVERY_S)

    def take(self, pipeline: Pipeline) -> None:
        """Copy the state of a pipeline that has just handed everything over."""
        began = time.monotonic()
        self._taken, self._rows = pipeline.snapshot(), 0
        now = time.monotonic()
        self._due = now + max(EVERY_S, (now - began) / COST_SHARE)

    def applied(self, position: int, synced: int) -> None:
        """The database has rows up to ``position``, the disk frames up to ``synced``: write what was waiting for it."""
        taken = self._taken
        if taken is None or taken.position > min(position, synced):
            return
        self._taken = None
        self._writer = threading.Thread(target=self.write_guarded, args=(taken,), name="snapshot", daemon=True)
        self._writer.start()

    def forget(self) -> None:
        """The pipeline is about to be replaced: what was taken of it is not written any more."""
        self._taken = None

    def close(self) -> None:
        """Wait until nothing is being written."""
        if self._writer is not None:
            self._writer.join()

    # Files.

    def write_guarded(self, taken: Snapshot) -> None:
        """Write, or log why not."""
        try:
            self.write(taken)
        except OSError as error:  # a full disk: the journal keeps its segments until a later one can be written
            if str(error) != self._failed:
                self._failed = str(error)
                self._log("state.not_kept", directory=str(self.directory), reason=self._failed)

    def write(self, taken: Snapshot) -> None:
        """Make a snapshot the newest, and tell ``saved``. Raises OSError."""
        scratch, newest = self.directory / (NAME + ".tmp"), self.directory / NAME
        try:
            self._first()
            with scratch.open("wb") as file:
                file.write(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(taken.encode()))
                file.flush()
                os.fsync(file.fileno())
            if newest.exists():
                newest.replace(self.directory / BEFORE_NAME)
            scratch.replace(newest)
            sync_directory(self.directory)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        self._failed = ""
        self.saved(taken.position)

    def read(self, path: Path) -> snapshot.Content:
        """Raises SnapshotError, also when there is none."""
        try:
            with path.open("rb") as file:
                data = zstandard.ZstdDecompressor().decompress(file.read(), max_output_size=BYTES_MAX)
        except (OSError, zstandard.ZstdError) as error:
            raise SnapshotError(f"{path}: {error}") from None
        try:
            return snapshot.decode(data)
        except SnapshotError as error:
            raise SnapshotError(f"{path}: {error}") from None

    def resume(self, journal: Journal, new_pipeline: Callable[[], Pipeline]) -> tuple[Pipeline, int]:
        """A pipeline in the state that was kept, and up to which position its rows are known to be stored.

        Without a readable snapshot: a pipeline at the journal's oldest frame; consuming what follows builds the state
        again. The position it goes on from is in the pipeline.
        """
        for name in (NAME, BEFORE_NAME):
            path = self.directory / name
            if not path.exists():
                continue
            pipeline = new_pipeline()
            try:
                content = self.read(path)
                pipeline.restore(content)
            except (RecorderError, ValueError, LookupError, TypeError) as error:  # bytes that only look like a state
                self._set_aside(path, error)
                continue
            if content.position < journal.begin and content.position < journal.released:
                self._log("state.too_old", file=str(path), position=content.position, journal_begins=journal.begin)
            pipeline.position = min(content.position, journal.end)  # a journal that was removed begins anew
            return pipeline, max(journal.released, content.position) if name == NAME else journal.released
        pipeline = new_pipeline()
        pipeline.position = journal.begin
        if journal.released > journal.begin:
            self._log("state.rebuilding", from_position=journal.begin, to_position=journal.released)
        return pipeline, journal.released

    def _set_aside(self, path: Path, error: Any) -> None:
        path.replace(self.directory / ASIDE_NAME)
        self._log(
            "state.unreadable", file=str(path), reason=str(error) or type(error).__name__, kept=ASIDE_NAME,
            action="built again from the journal",
        )  # fmt: skip
