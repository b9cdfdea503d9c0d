"""Looks into a folder for files: each that is complete and can be read is journalled once, the fold makes rows of it.

A file that is taken goes to the folder ``recorded`` beside it; one that cannot be read is reported and left where it
is, until somebody has changed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from recorder.core import polled
from recorder.core.batch import Output
from recorder.core.frames import FRAME_BYTES_MAX, POLLED
from recorder.shell.audit import Observe, Reporter
from recorder.values.errors import FrameError, JournalFull, RecorderError
from recorder.values.feed import Feed, FeedSpec, Polled

LOOK_S = 1.0  # files come by hand or by a nightly job
SETTLED_S = 2.0  # unchanged for this long: whoever writes it has finished
FILES_MAX = 10_000  # looked at in one folder; more are a mistake, and are said to be
FILE_BYTES_MAX = FRAME_BYTES_MAX - (64 << 10)  # with its line of JSON it must fit a frame
RECORDED = "recorded"  # where files go that were taken


class Journal(Protocol):
    def source(self, spec: FeedSpec) -> int: ...
    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int: ...
    def sync(self) -> int: ...


class Foldered(Polled, Protocol):
    """A feed whose capability says transport "files"."""

    def folder(self) -> tuple[str, str]:
        """Where its files appear, and the pattern of their names."""


class Look(NamedTuple):
    """What tells a file from the same one changed."""

    size: int
    mtime_ns: int
    inode: int


class Folder:
    """One watched folder. To its feed what a Connection is to a stream.

    make_feed  makes another feed, for other symbols
    observe    records rows of our own: what happens to the files
    """

    renewals = reconnects = queue_bytes = 0  # there is no connection that could be opened again

    def __init__(
        self,
        spec: FeedSpec,
        journal: Journal,
        wake: Callable[[], None],
        log: Any,
        make_feed: Callable[[FeedSpec], Feed],
        observe: Observe | None = None,
    ) -> None:
        self.frames = 0  # files journalled
        self.last_recv = 0  # when the last one was, ns; 0: none was
        self.reason = "has not been looked into yet"  # why it is not ready, in words
        self.problems: dict[str, str] = {}  # by file, why it is left
        self._journal, self._wake, self._log, self._make_feed = journal, wake, log, make_feed
        self._report = Reporter(spec, observe)
        self._since: dict[str, tuple[Look, float]] = {}  # how a file looked, and since when
        self._done: dict[str, Look] = {}  # taken or refused, and looks the same since
        self._stopped = asyncio.Event()
        self.change(spec)

    def change(self, spec: FeedSpec) -> None:
        """The same with other symbols; what was refused is looked at again. Raises ConfigError, SymbolError."""
        self._feed = cast(Foldered, self._make_feed(spec))
        folder, self._pattern = self._feed.folder()
        self.spec, self.capability, self._folder = spec, self._feed.capability(), Path(folder)
        for name in self.problems:
            self._done.pop(name, None)

    @property
    def ready(self) -> bool:
        return not self.reason

    async def run(self) -> None:
        """Until ``stop()``."""
        while not self._stopped.is_set():
            await self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), LOOK_S)

    async def stop(self, reason: str = "recorder stopped") -> None:
        self._stopped.set()

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(lambda: dict(self._listed()))
        except OSError as error:
            self._tell(f"{self._folder} cannot be looked into: {error.strerror or error}")
            return
        self._tell(f"{self._folder} holds more than {FILES_MAX} files" if len(found) >= FILES_MAX else "")
        now = time.monotonic()
        self._since = {name: self._kept(name, look, now) for name, look in found.items()}
        self._done = {name: look for name, look in self._done.items() if found.get(name) == look}
        self.problems = {name: words for name, words in self.problems.items() if name in self._done}
        for name, (look, since) in self._since.items():
            if self._stopped.is_set():
                return
            if name not in self._done and now - since >= SETTLED_S:
                await self._take(name, look)

    def _listed(self) -> Iterator[tuple[str, Look]]:
        """Files by name, in its order; hidden ones are others' temporary ones."""
        names = sorted(n for n in os.listdir(self._folder) if fnmatch(n, self._pattern) and not n.startswith("."))
        for name in names[:FILES_MAX]:
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                status = (self._folder / name).stat()
                if (self._folder / name).is_file():
                    yield name, Look(status.st_size, status.st_mtime_ns, status.st_ino)

    def _kept(self, name: str, look: Look, now: float) -> tuple[Look, float]:
        before = self._since.get(name)
        return before if before is not None and before[0] == look else (look, now)

    async def _take(self, name: str, look: Look) -> None:
        """Check a file, journal it, move it away."""
        try:
            body = await asyncio.to_thread(self._read, name, look)
            rows = await asyncio.to_thread(self._check, name, body)
            ts_recv = time.time_ns()
            payload = polled.encode(polled.Answer(key=name), body)
            self._journal.append(self._journal.source(self.spec), POLLED, ts_recv, payload)
        except JournalFull:
            return  # told by the journal; looked at again soon
        except (RecorderError, OSError) as error:
            words = (error.strerror if isinstance(error, OSError) else "") or str(error)
            self._done[name], self.problems[name] = look, f"{name}: {words}"
            self._log.warning("file.refused", feed=self.spec.name, file=name, reason=words)
            self._report.event("file.refused", f"{name}: {words}")
            self._report.finding("file_refused", None, 1, 0, f"{self._folder / name} is not recorded: {words}")
            return
        self.frames += 1
        self.last_recv = ts_recv
        self._done[name] = look
        self._wake()
        await asyncio.to_thread(self._journal.sync)
        words = await asyncio.to_thread(self._put_away, name)
        self._log.info("file.recorded", feed=self.spec.name, file=name, rows=rows, **({"kept": words} if words else {}))
        self._report.event("file.recorded", f"{name}: {rows} rows{f'; {words}' if words else ''}")

    def _read(self, name: str, look: Look) -> bytes:
        if look.size > FILE_BYTES_MAX:
            raise FrameError(f"{look.size} bytes, at most {FILE_BYTES_MAX} fit the journal; split it")
        with open(self._folder / name, "rb") as file:
            return file.read(FILE_BYTES_MAX)

    def _check(self, name: str, body: bytes) -> int:
        """How many rows it gives. Raises FrameError for one that gives none or that does not fit."""
        out = Output()
        self._feed.poll_decoder(out.scope(self.spec.name, self.spec.connection))(name, body, time.time_ns())
        rows = sum(out.counts())
        if not rows:
            raise FrameError("it holds no row of a symbol that is recorded")
        return rows

    def _put_away(self, name: str) -> str:
        """Move a file that was taken; else say why it stays: it is not taken again as long as it is the same."""
        target = self._folder / RECORDED
        try:
            target.mkdir(exist_ok=True)
            free = next(p for p in _names(target, name) if not p.exists())
            os.rename(self._folder / name, free)
        except OSError as error:
            return f"it stays where it is: {error.strerror}"
        return ""

    def _tell(self, reason: str) -> None:
        """Once for each change."""
        if reason == self.reason:
            return
        fields = {"feed": self.spec.name, "connection": self.spec.connection}
        if reason:
            self._log.warning("feed.unreachable", **fields, reason=reason)
        else:
            self._log.info("feed.connected", **fields, folder=str(self._folder))
        self.reason = reason


def _names(folder: Path, name: str) -> Iterator[Path]:
    """The file's own name, then the same with a number: two files of one name are two."""
    path = folder / name
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")
        number += 1
