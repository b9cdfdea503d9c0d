"""Where a row's time goes: its way from the exchange into a query, cut at times that follow each other. Pure.

| stage | from | to |
|---|---|---|
| exchange | the provider's `ts_event` | `ts_recv`: network, and how far its clock is from ours |
| journalled | `ts_recv` | its bytes are in the journal, a crash of the recorder does not lose them |
| decoded | | the pipeline has read and decoded its frame |
| sent | | its block was handed to the sink: the window, and waiting for room |
| answered | | QuestDB has acknowledged the block: encoding, the request, the commit |
| applied | | QuestDB has applied it: the row can be queried |
| total | `ts_event` | applied |

Each stage begins where the one before ends, and a row is counted in all of them or in none, when it is applied. So the
sums of the stages add up to the sum of the total to the nanosecond, whatever clocks did meanwhile. All are signed: a
clock ahead of ours gives negative ``exchange``, and the least ``exchange`` of a second is the best estimate of the
offset between the clocks (plus the shortest way through the network). Sent, answered and applied are known per block,
decoded per read, journalled per chunk of received bytes; each row counts with the times of its own.

Measured are all rows of trades and quotes but those backfilled, whose ``ts_event`` says nothing of our speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recorder.compiled import njit
from recorder.core.batch import Rows
from recorder.core.histogram import (
    BUCKETS,
    EMPTY,
    LONGEST,
    MAX,
    MIN,
    SUM_HIGH,
    SUM_LOW,
    TOTALS,
    add_one,
    percentiles,
    sum_of,
)
from recorder.values.feed import SECOND
from recorder.values.tables import BACKFILLED, CANCELLED, CORRECTED, QUOTES, TRADES

NO_LATENCY = BACKFILLED | CANCELLED | CORRECTED  # flags of rows that tell of something older than their frame

STAGES = ("exchange", "journalled", "decoded", "sent", "answered", "applied", "total")
_EXCHANGE, _JOURNALLED, _DECODED, _SENT, _ANSWERED, _APPLIED, _TOTAL = range(len(STAGES))
MEASURED = (TRADES.name, QUOTES.name)
SHARES = (0.5, 0.99, 0.999)

RECV, APPENDED, OUT = range(3)  # columns of chunks: when received, journalled, decoded


@njit(cache=True, nogil=True)
def cut_chunks(ts_recv, ends, stops, decoded, positions, appended, known_from, chunks):
    """Chunks of received bytes, in the order of the frames read.

    ts_recv, ends        (n,) int64, of the frames: their receive time, their end in the journal
    stops, decoded       (reads,) int64: how many of the frames were read up to this one, and when they were decoded
    positions, appended  (marks,) int64, ascending: the journal's end after something was appended, and when that was
    known_from           what ends at or before this position was appended when nobody marked it
    chunks               (n, 3) int64; filled with RECV, APPENDED, OUT
    Returns (chunks, marks used). Where nobody marked it, APPENDED is RECV: all its waiting counts as ``decoded``.
    """
    found = mark = at = 0
    for read in range(len(stops)):
        while at < stops[read]:
            while mark < len(positions) and positions[mark] < ends[at]:
                mark += 1
            known = ends[at] > known_from and mark < len(positions)
            when = appended[mark] if known else ts_recv[at]
            if found == 0 or chunks[found - 1, RECV] != ts_recv[at]:
                chunks[found, RECV], chunks[found, APPENDED], chunks[found, OUT] = ts_recv[at], when, decoded[read]
                found += 1
            at += 1
    return found, mark


@njit(cache=True, nogil=True)
def place_chunks(chunks, slots):
    """Fill a hash table of RECV with indexes of chunks, the first of equal ones.

    slots  (2 ** n,) int32, at least twice as many as chunks, all -1; updated in place
    A table, for rows come sorted by ts_event: a binary search cost 35 to 80 ns a row, mostly branches foreseen wrongly.
    """
    for i in range(len(chunks)):
        at = slot_of(chunks[i, RECV], len(slots))
        while slots[at] >= 0 and chunks[slots[at], RECV] != chunks[i, RECV]:
            at = (at + 1) & (len(slots) - 1)
        if slots[at] < 0:
            slots[at] = i


@njit(cache=True, nogil=True)
def slot_of(ts_recv, slots):
    mixed = np.uint64(ts_recv) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(32)) & (slots - 1)


@njit(cache=True, nogil=True)
def find_chunks(rows, feed_of, chunks, slots, ts_event, chunk, feed, n):
    """What to remember of a block's rows until they are applied.

    rows     (m,) rows with ts_event, ts_recv, series and flags
    feed_of  (series,) int32
    chunks   (k, 3) int64
    slots    as ``place_chunks`` fills them
    ts_event, chunk, feed   int64, int32, int32 of the rows; filled from ``n`` on
    Returns (how many are filled, how many rows have no chunk). Rows of NO_LATENCY or no chunk are passed over.
    """
    last, found, lost = np.int64(-1), -1, 0
    for i in range(len(rows)):
        row = rows[i]
        if row.flags & NO_LATENCY:  # rows of what happened before they came
            continue
        if row.ts_recv != last:
            last = row.ts_recv
            at = slot_of(last, len(slots))
            while slots[at] >= 0 and chunks[slots[at], RECV] != last:
                at = (at + 1) & (len(slots) - 1)
            found = slots[at]
        if found >= 0:
            ts_event[n], chunk[n], feed[n] = row.ts_event, found, feed_of[row.series]
            n += 1
        else:
            lost += 1
    return n, lost


@njit(cache=True, nogil=True)
def add_block(ts_event, chunk, feed, chunks, sent, answered, applied, counts, totals):
    """Count a block's rows in every stage.

    ts_event, chunk, feed   (n,) as ``find_chunks`` fills them
    counts, totals          (feeds, stages, BUCKETS) and (feeds, stages, TOTALS) int64; updated in place
    """
    rows = np.zeros(len(counts), np.int64)
    owner, weight = np.full(len(chunks), -1, np.int32), np.zeros(len(chunks), np.int64)
    for i in range(len(ts_event)):
        f, c = feed[i], chunk[i]
        add_one(counts[f, _EXCHANGE], totals[f, _EXCHANGE], chunks[c, RECV] - ts_event[i], 1)
        add_one(counts[f, _TOTAL], totals[f, _TOTAL], applied - ts_event[i], 1)
        rows[f] += 1
        if owner[c] < 0:
            owner[c] = f
        if owner[c] == f:
            weight[c] += 1
        else:  # two feeds received something in the same ns
            _count_chunk(chunks[c], 1, sent, counts[f], totals[f])
    for c in range(len(chunks)):
        if weight[c]:
            f = owner[c]
            _count_chunk(chunks[c], weight[c], sent, counts[f], totals[f])
    for f in range(len(counts)):
        if rows[f]:
            add_one(counts[f, _ANSWERED], totals[f, _ANSWERED], answered - sent, rows[f])
            add_one(counts[f, _APPLIED], totals[f, _APPLIED], applied - answered, rows[f])


@njit(cache=True, nogil=True)
def _count_chunk(chunk, weight, sent, counts, totals):
    """Count ``weight`` rows of a chunk and a feed in the stages that only they share."""
    add_one(counts[_JOURNALLED], totals[_JOURNALLED], chunk[APPENDED] - chunk[RECV], weight)
    add_one(counts[_DECODED], totals[_DECODED], chunk[OUT] - chunk[APPENDED], weight)
    add_one(counts[_SENT], totals[_SENT], sent - chunk[OUT], weight)


@dataclass(frozen=True)
class BlockTimes:
    """The times of a block's rows, as ``find_chunks`` fills them, and of its chunks: 16 bytes a row."""

    ts_event: np.ndarray
    chunk: np.ndarray
    feed: np.ndarray
    chunks: np.ndarray

    def __len__(self) -> int:
        return len(self.ts_event)


def block_times(tables: Sequence[Rows], feed_of: np.ndarray, chunks: np.ndarray) -> tuple[BlockTimes, int]:
    """Of the rows that are measured, and how many should be and have no chunk.

    feed_of  (series,) int32
    chunks   (k, 3) int64, as ``cut_chunks`` fills them
    """
    slots = np.full(2 << len(chunks).bit_length(), -1, np.int32)
    place_chunks(chunks, slots)
    measured = [rows.rows for rows in tables if rows.table.name in MEASURED]
    room = sum(len(rows) for rows in measured)
    ts_event, chunk, feed = np.empty(room, np.int64), np.empty(room, np.int32), np.empty(room, np.int32)
    n = lost = 0
    for rows in measured:
        n, unknown = find_chunks(rows, feed_of, chunks, slots, ts_event, chunk, feed, n)
        lost += unknown
    return BlockTimes(ts_event[:n], chunk[:n], feed[:n], chunks), lost


class StageHistograms:
    """Histograms of every feed and stage.

    feeds  names by index
    counts, totals   (feeds, stages, BUCKETS), (feeds, stages, TOTALS) int64
    """

    def __init__(self) -> None:
        self.feeds: list[str] = []
        self.counts = np.zeros((0, len(STAGES), BUCKETS), np.int64)
        self.totals = np.zeros((0, len(STAGES), TOTALS), np.int64)
        self.rows = 0

    def know(self, feeds: list[str]) -> None:
        """Make room for feeds; those known before keep their index."""
        new = len(feeds) - len(self.feeds)
        if new:
            self.counts = np.concatenate([self.counts, np.zeros((new, *self.counts.shape[1:]), np.int64)])
            empty = np.broadcast_to(np.array(EMPTY, np.int64), (new, len(STAGES), TOTALS))
            self.totals = np.concatenate([self.totals, empty])
            self.feeds = list(feeds)  # last: a scrape that reads beside us finds arrays for every feed it knows

    def add(self, block: BlockTimes, sent: int, answered: int, applied: int) -> None:
        """Count a block's rows; the times are ns."""
        add_block(
            block.ts_event, block.chunk, block.feed, block.chunks, sent, answered, applied, self.counts, self.totals
        )
        self.rows += len(block)

    def add_all(self, other: StageHistograms) -> None:
        """Add what another one with the same feeds counted."""
        self.know(other.feeds)
        mine, its = self.totals, other.totals
        self.counts += other.counts
        low = mine[..., SUM_LOW] + its[..., SUM_LOW]
        mine[..., SUM_LOW] = low & 0xFFFFFFFF
        mine[..., SUM_HIGH] += its[..., SUM_HIGH] + (low >> 32)
        mine[..., MIN] = np.minimum(mine[..., MIN], its[..., MIN])
        mine[..., MAX] = np.maximum(mine[..., MAX], its[..., MAX])
        self.rows += other.rows

    def clear(self) -> None:
        self.counts[:] = 0
        self.totals[:] = EMPTY
        self.rows = 0

    def table_rows(self, second: int) -> list[tuple[int | str | None, ...]]:
        """Rows of LATENCY, of every feed that has any. ``second`` is a count of seconds since the epoch."""
        rows: list[tuple[int | str | None, ...]] = []
        if not self.rows:
            return rows
        for feed, counts, totals in zip(self.feeds, self.counts, self.totals, strict=True):
            measured = int(counts[_TOTAL].sum())
            if not measured:
                continue
            shares = percentiles(counts, totals, SHARES).tolist()
            for stage, quantiles, total in zip(STAGES, shares, totals, strict=True):
                added = sum_of(total)
                rows.append(
                    (second * SECOND, feed, stage, measured, *quantiles, int(total[MAX]), int(total[MIN]),
                     added if abs(added) <= LONGEST else None)
                )  # fmt: skip
        return rows


def warm() -> None:
    """Compile, or load from the cache, before the first frame."""
    none, of_rows = np.empty(0, np.int64), np.empty(0, np.int32)
    chunks = np.empty((0, 3), np.int64)
    cut_chunks(none, none, none, none, none, none, 0, chunks)
    for table in (TRADES, QUOTES):
        block_times([Rows(table, np.zeros(0, table.dtype), np.zeros(0, np.uint8), none)], of_rows, chunks)
    StageHistograms().add(BlockTimes(none, of_rows, of_rows, chunks), 0, 0, 0)
    percentiles(np.zeros((1, BUCKETS), np.int64), np.zeros((1, TOTALS), np.int64), SHARES)
