"""The latency ledger: times of frames and blocks on their way into queries, and a row a second for each feed and stage.

What the stages are and why they add up: ``recorder.core.latency``. This module holds the times until a block is
applied. A second is that in which rows became queryable. Per chunk of received bytes it costs two appends to an array,
per read one to a list, per row (when its block is sent and when it is applied) compiled work over columns: about 40 ns
of CPU a row of a single-trade frame, 1 in 20 of what the engine takes for it.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recorder.core.encode import Sealed
from recorder.core.frames import Frames
from recorder.core.latency import STAGES, BlockTimes, StageHistograms, block_times, cut_chunks
from recorder.values.feed import SECOND
from recorder.values.schema import Table
from recorder.values.tables import LATENCY

MARKS_MAX = 1 << 16  # chunks journalled and not decoded yet: 1 MB; those of a longer backlog are forgotten
FRAMES_MAX = 1 << 18  # decoded since the last block: 12 MB; a block has more only if most of them have no rows
ROWS_MAX = 1 << 20  # sent and not applied yet: 16 MB; while a table is suspended later rows are not measured
BLOCKS_MAX = 1 << 14  # likewise: 10 MB, 80 s of 5 ms windows
READY_MAX = 1 << 16  # rows of LATENCY nobody took: a quarter of an hour of ten feeds
_NO_CHUNKS = np.empty((0, 3), np.int64)

Observe = Callable[[Table, Iterable[Sequence[Any]]], None]


@dataclass(frozen=True)
class _Sent:
    position: int
    times: BlockTimes
    sent: int


class Ledger:
    """Of one engine. Everything is called on the event loop but ``answered``. Times are ns.

    total       since the start, for /metrics; a second is in it once it is over
    offsets     feed → least exchange stage of its last second, ns: its clock's offset and the way here, signed
    unmeasured  rows that nothing is known of: beyond the bounds above, or restored with a snapshot
    """

    def __init__(self, position: int, clock: Callable[[], int] = time.time_ns) -> None:
        """``position`` is the journal's end: who appended what is before it was another process."""
        self.total = StageHistograms()
        self.offsets: dict[str, int] = {}
        self.unmeasured = 0
        self._clock = clock
        self._second = 0
        self._now = StageHistograms()  # of _second
        self._ready: deque[tuple[int | str | None, ...]] = deque(maxlen=READY_MAX)
        self._feeds: dict[str, int] = {}
        self._feed_of = np.empty(0, np.int32)  # series → feed
        self._marked = self._known_from = position
        self._positions, self._appended = array("q"), array("q")  # what nobody decoded yet
        self._reads: deque[tuple[np.ndarray, np.ndarray, int]] = deque()  # ts_recv, ends, when: since the last block
        self._frames = 0
        self._chunks = _NO_CHUNKS  # of the last block: rows it held back are in the next
        self._waiting: deque[_Sent] = deque()
        self._rows = 0
        self._answers: deque[tuple[int, int]] = deque()

    def rewound(self) -> None:
        """What was decoded is decoded again: it is in no stage, as what another process appended."""
        del self._positions[:], self._appended[:]
        self._reads.clear()
        self._waiting.clear()
        self._answers.clear()
        self._frames = self._rows = 0
        self._chunks, self._known_from = _NO_CHUNKS, self._marked

    def appended(self, end: int) -> None:
        """The journal ends at ``end`` now."""
        if end != self._marked:
            self._marked = end
            self._positions.append(end)
            self._appended.append(self._clock())
            if len(self._positions) > MARKS_MAX:
                half = MARKS_MAX // 2
                self._known_from = self._positions[half - 1]
                del self._positions[:half], self._appended[:half]

    def decoded(self, frames: Frames, now: int) -> None:
        """Frames were read and decoded."""
        self._reads.append((frames.ts_recv, frames.ends, now))
        self._frames += frames.count
        while self._frames > FRAMES_MAX and len(self._reads) > 1:
            self._frames -= len(self._reads.popleft()[0])

    def sent(self, sealed: Sealed, series: list[tuple[str, str]], now: int) -> None:
        """A block was handed to the sink; ``series`` are the (feed, symbol) of its ids."""
        fresh = self._cut()
        chunks, self._chunks = np.concatenate([self._chunks, fresh]), fresh
        if len(series) > len(self._feed_of):
            new = [self._feeds.setdefault(feed, len(self._feeds)) for feed, _ in series[len(self._feed_of) :]]
            self._feed_of = np.concatenate([self._feed_of, np.array(new, np.int32)])
            self._now.know(list(self._feeds))
        times, passed_over = block_times(sealed.tables, self._feed_of, chunks)
        self.unmeasured += passed_over
        if self._rows + len(times) > ROWS_MAX or len(self._waiting) >= BLOCKS_MAX:
            self.unmeasured += len(times)
        elif len(times):
            self._rows += len(times)
            self._waiting.append(_Sent(sealed.position, times, now))

    def _cut(self) -> np.ndarray:
        """Chunks of what was decoded since the last block, (n, 3) int64; their marks are not needed any more."""
        if not self._reads:
            return _NO_CHUNKS
        chunks = np.empty((self._frames, 3), np.int64)
        found, used = cut_chunks(
            np.concatenate([recv for recv, _, _ in self._reads]),
            np.concatenate([ends for _, ends, _ in self._reads]),
            np.cumsum([len(recv) for recv, _, _ in self._reads]),
            np.array([now for _, _, now in self._reads], np.int64),
            np.array(self._positions, np.int64),
            np.array(self._appended, np.int64),
            self._known_from,
            chunks,
        )
        del self._positions[:used], self._appended[:used]
        self._reads.clear()
        self._frames = 0
        return chunks[:found]

    def answered(self, position: int) -> None:
        """QuestDB acknowledged what is up to ``position``. Called from the sink's threads."""
        if len(self._answers) < BLOCKS_MAX:
            self._answers.append((position, self._clock()))

    def applied(self, position: int, now: int) -> None:
        """Rows up to ``position`` were found to be queryable at ``now``."""
        answers = self._answers
        while self._waiting and self._waiting[0].position <= position:
            block = self._waiting.popleft()
            while answers and answers[0][0] < block.position:
                answers.popleft()
            self._begin(now)
            self._rows -= len(block.times)
            self._now.add(block.times, block.sent, answers[0][1] if answers else now, now)
        while answers and answers[0][0] < position:
            answers.popleft()

    def _begin(self, now: int) -> None:
        """Finish the second before, if ``now`` is in another."""
        if now // SECOND == self._second:
            return
        if self._now.rows:
            rows = self._now.table_rows(self._second)
            self._ready += rows
            for _, feed, *_, least, _sum in rows[:: len(STAGES)]:
                self.offsets[str(feed)] = int(least or 0)
            self.total.add_all(self._now)
            self._now.clear()
        self._second = now // SECOND

    def take(self, now: int | None) -> list[tuple[int | str | None, ...]]:
        """Rows of LATENCY of the seconds before ``now``, or of all there were (None); each is given once."""
        self._begin(-1 if now is None else now)
        rows = list(self._ready)
        self._ready.clear()
        return rows


async def keep(ledger: Ledger, observe: Observe) -> None:
    """Record each second, soon after its end, for ever; a second in which no row became queryable has none."""
    while True:
        await asyncio.sleep((SECOND - time.time_ns() % SECOND) / SECOND)
        if rows := ledger.take(time.time_ns()):
            observe(LATENCY, rows)
