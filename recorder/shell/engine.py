"""Journal → pipeline → sink on the event loop: read what was journalled, decode, send, release what is queryable."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recorder.core.encode import Sealed
from recorder.core.frames import Frames
from recorder.core.histogram import Histogram
from recorder.core.pipeline import Pipeline
from recorder.shell.ledger import Ledger
from recorder.shell.snapshots import Snapshots
from recorder.values.config import BatchConfig

READ_BYTES = 128 << 10  # decoded at a stretch: about 1 ms, so that sockets are read in between
BUSY_ROWS_PER_S = 250_000  # from here on blocks are made larger than a window
BUSY_BLOCK_ROWS = 20_000  # more rows in a block cost the server hardly less each
BUSY_WINDOW_S = 0.05  # the longest that a busy feed's rows are collected
STATES_KEPT = 3  # one that waits to be applied, the newest, and the one before it
IN_FLIGHT_MAX = 1 << 14  # 80 s of 5 ms windows; then blocks are counted together: a table may be suspended for days
CATCHING_UP_BYTES = 16 << 20  # of backlog, a second at 100,000 trades/s: compressing the journal waits for its end
FAILED_ACTION = "frames are journalled; the next start of a version without this error loads them"
RETRY_S = 0.002  # how soon to look again when the sink had no room


class FrameSource(Protocol):
    """What the engine needs of the journal."""

    compression_paused: bool

    @property
    def end(self) -> int: ...
    @property
    def synced(self) -> int: ...
    def read(self, position: int, bytes_max: int) -> Frames | None: ...
    def release(self, position: int) -> None: ...


class Sink(Protocol):
    def room(self) -> bool: ...
    def submit(self, sealed: Sealed) -> None: ...


@dataclass(frozen=True)
class InFlight:
    """A submitted block, remembered until its rows are queryable."""

    position: int
    rows: int
    first_recv: int


class Engine:
    """Consumes the journal at its own pace. Reception never waits for it, it waits for the sink in bounded memory.

    At most ``rows_max`` rows are collected; when the sink has no room the rest stays in the journal.

    snapshots  what keeps the pipeline's state; a position is then released to the journal once it is kept there.
               None: once it is applied
    stored     rows of frames up to this position are in the database already: they are decoded for the state alone
    log        told once when nothing can be decoded any more

    failed     why nothing is decoded any more; empty while it is. A frame that does not fit is counted and passed over
               by the pipeline; what gets out of it is an error of ours, which the same frames would meet again. They
               and all that follow are journalled, and loaded by the next start of a version without it
    """

    def __init__(
        self,
        journal: FrameSource,
        pipeline: Pipeline,
        batch: BatchConfig,
        snapshots: Snapshots | None = None,
        stored: int = 0,
        log: Callable[..., None] = lambda event, **fields: None,
    ) -> None:
        self.pipeline = pipeline
        self.failed, self._log = "", log
        self.stored = stored if stored > pipeline.position else 0
        self.decoded = Histogram()  # receive → decoded, per frame
        self.queryable = Histogram()  # receive → applied, per row, by the first row of its block
        self.ledger = Ledger(journal.end)
        self.rows_queryable = 0  # each is counted once, also when it is sent again
        self._rows_submitted = self._rows_applied = 0  # since the start, less what a rewind repeats
        self._rows_before = {pipeline.position: 0}  # position of a state that may be kept → rows submitted before it
        self.released = pipeline.position  # applied in the database
        self.sealed_position = pipeline.position
        self._journal, self._batch, self._snapshots = journal, batch, snapshots
        if snapshots is not None:
            snapshots.saved = journal.release
        self._sink: Sink | None = None
        self._loop = asyncio.get_running_loop()
        self._pumping = False
        self._window: asyncio.TimerHandle | None = None
        self._collected_s = 0.0  # windows passed since the last block was sealed
        self._first_recv = self._last_recv = 0  # of the frames whose rows are collected
        self._in_flight: collections.deque[InFlight] = collections.deque()

    def start(self, sink: Sink) -> None:
        """From now on rows have somewhere to go."""
        self._sink = sink
        self.wake()

    def stop(self) -> None:
        """The sink is about to be closed: what is not submitted stays in the journal."""
        self._sink = None
        if self._window is not None:
            self._window.cancel()
            self._window = None

    def rewind(self, pipeline: Pipeline) -> None:
        """Go on from ``pipeline``, whose position lies behind: all rows after it are handed over again.

        Between ``stop`` and ``start``, when nothing of the sink before is still to come.
        """
        self.pipeline, self.stored, self.failed = pipeline, 0, ""
        self._rows_submitted = self._rows_applied = self._rows_before.get(pipeline.position, 0)
        self._rows_before = {pipeline.position: self._rows_submitted}
        self.released = self.sealed_position = pipeline.position
        self._in_flight.clear()
        self._first_recv = self._last_recv = 0
        self._collected_s = 0.0
        self.ledger.rewound()

    def wake(self) -> None:
        """Something was journalled."""
        self.ledger.appended(self._journal.end)
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    @property
    def backlog(self) -> int:
        """Bytes journalled and not decoded yet."""
        return self._journal.end - self.pipeline.position

    @property
    def settled(self) -> bool:
        """Everything journalled so far is queryable."""
        return not self.failed and not self.backlog and not self.pipeline.pending and not self._in_flight

    @property
    def waiting_since(self) -> int:
        """Receive time, ns, of the oldest row that is not queryable yet; 0 when there is none."""
        try:
            return self._in_flight[0].first_recv
        except IndexError:
            return self._first_recv if self.pipeline.pending else 0

    def _pump(self) -> None:
        self._pumping = False
        self._guarded(self._step)

    def _guarded(self, work: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            work()
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"
            self._log("engine.failed", position=self.pipeline.position, action=FAILED_ACTION, exception=error)

    def _step(self) -> None:
        if self.pipeline.position < self.stored:
            self._rebuild()
            return
        if self._sink is None:
            return
        if self.pipeline.pending >= self._batch.rows_max and not self._seal():
            return  # _seal comes back to us when there is room
        frames = self._journal.read(self.pipeline.position, READ_BYTES)
        if frames is not None and frames.count:
            self.pipeline.consume(frames)
            now = time.time_ns()
            self.decoded.add(frames.ts_recv, now)
            self.ledger.decoded(frames, now)
            self._first_recv = self._first_recv or int(frames.ts_recv[0])
            self._last_recv = int(frames.ts_recv[-1])
            self._journal.compression_paused = self.backlog > CATCHING_UP_BYTES
            if self.backlog:
                self.wake()
        if self._window is None and (self.pipeline.pending or self.pipeline.position > self.sealed_position):
            self._window = self._loop.call_later(self._batch.window_ms / 1000, self._on_window)

    def _rebuild(self) -> None:
        """Decode what is stored already, for the state it leaves: a stretch at a time, beside reception."""
        frames = self._journal.read(self.pipeline.position, min(READ_BYTES, self.stored - self.pipeline.position))
        if frames is None or not frames.count:
            self.stored = 0  # the journal ends before
        else:
            self.pipeline.consume(frames)
        if self.pipeline.position < self.stored:
            self.pipeline.seal()
        else:
            self.stored = 0  # the last stretch may reach further: its rows are handed over once more
            self.released = self.sealed_position = self.pipeline.position
        self.wake()

    def _on_window(self) -> None:
        self._window = None
        self._guarded(self._close_window)

    def _close_window(self) -> None:
        """The deadline of the rows collected: seal them, or in a busy feed collect a few windows more.

        A row costs the server five times as much in blocks of 1,000 as in blocks of 20,000; who sends that fast gains
        more by the server's keeping up than by a window's delay.
        """
        self._collected_s += self._batch.window_ms / 1000
        busy = self._collected_s * BUSY_ROWS_PER_S <= self.pipeline.pending < BUSY_BLOCK_ROWS
        if busy and self._collected_s < BUSY_WINDOW_S:
            self._window = self._loop.call_later(self._batch.window_ms / 1000, self._on_window)
        else:
            self._seal()

    def _seal(self) -> bool:
        """Hand over what was collected, if the sink has room; otherwise try again soon and say False."""
        if self._sink is None:
            return False
        if not self._sink.room():
            if self._window is None:
                self._window = self._loop.call_later(RETRY_S, self._on_window)
            return False
        self._collected_s = 0.0
        keep = self._snapshots is not None and self._snapshots.due(self.pipeline.pending)
        sealed = self.pipeline.seal(hold=not keep)
        if keep and self._snapshots is not None:
            self._snapshots.take(self.pipeline)
        self.sealed_position = self.pipeline.position
        rows = sum(len(table.rows) for table in sealed.tables)
        self._rows_submitted += rows
        if keep:
            self._rows_before[self.sealed_position] = self._rows_submitted
            for position in sorted(self._rows_before)[:-STATES_KEPT]:
                del self._rows_before[position]
        self._remember(InFlight(sealed.position, rows, self._first_recv))
        self._first_recv = self._last_recv if self.pipeline.pending else 0  # held back are the newest
        self._sink.submit(sealed)
        self.ledger.sent(sealed, self.pipeline.out.series.keys, time.time_ns())
        if self.backlog:
            self.wake()
        elif self.pipeline.pending:  # rows held back for the next block
            self._window = self._window or self._loop.call_later(self._batch.window_ms / 1000, self._on_window)
        return True

    def _remember(self, block: InFlight) -> None:
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            before = self._in_flight.pop()
            block = InFlight(block.position, before.rows + block.rows, before.first_recv)
        self._in_flight.append(block)

    def on_answered(self, position: int) -> None:
        """There is room for another block. Called from the sink's threads."""
        self.ledger.answered(position)
        if self.backlog:
            self._loop.call_soon_threadsafe(self.wake)

    def on_applied(self, position: int) -> None:
        """Rows up to ``position`` are queryable. Called from the sink's threads."""
        self._loop.call_soon_threadsafe(self._release, position, time.time_ns())

    def _release(self, position: int, now: int) -> None:
        while self._in_flight and self._in_flight[0].position <= position:
            block = self._in_flight.popleft()
            self._rows_applied += block.rows
            if block.rows:
                self.queryable.add(np.array([block.first_recv]), now, block.rows)
        self.rows_queryable = max(self.rows_queryable, self._rows_applied)
        self.ledger.applied(position, now)
        self.released = max(self.released, position)
        if self._snapshots is not None:
            self._snapshots.applied(self.released, self._journal.synced)
        else:
            self._journal.release(self.released)

    def keep(self) -> None:
        """Keep the state as it is now that everything is applied, so that the next start decodes nothing again."""
        if self._snapshots is not None:
            self.pipeline.seal()
            self._snapshots.write_guarded(self.pipeline.snapshot())

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything journalled is queryable; False when ``timeout_s`` was not enough, or it cannot be."""
        deadline = self._loop.time() + timeout_s
        self.wake()
        while not self.settled:
            if self.failed or self._loop.time() > deadline:
                return False
            await asyncio.sleep(RETRY_S)
        return True
