"""The engine between a real journal and a sink that a test opens and closes: bounded memory, release, catch-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recorder.core.encode import Sealed
from recorder.core.frames import TEXT
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import engine as engines
from recorder.shell.engine import Engine
from recorder.shell.journal import Journal
from recorder.shell.snapshots import NAME as STATE
from recorder.shell.snapshots import Snapshots
from recorder.values.config import BatchConfig, KernelsConfig
from recorder.values.feed import FeedSpec

SPEC = FeedSpec(name="cb", provider="coinbase", symbols=("BTC-USD",), options={"api": "exchange"})
MATCH = (
    '{{"type":"match","trade_id":{0},"maker_order_id":"m","taker_order_id":"t","side":"buy","size":"0.5",'
    '"price":"60000.01","product_id":"BTC-USD","sequence":{0},"time":"2026-11-23T12:00:00.{0:06d}Z"}}'
)
ROWS_MAX = 100


class GatedSink:
    """Takes ``blocks_max`` blocks until some are said to be applied; keeps the rows' ids."""

    def __init__(self, blocks_max: int = 8) -> None:
        self.blocks_max = blocks_max
        self.waiting: list[Sealed] = []
        self.ids: list[int] = []
        self.blocks: list[int] = []

    def room(self) -> bool:
        return len(self.waiting) < self.blocks_max

    def submit(self, sealed: Sealed) -> None:
        assert self.room()
        self.waiting.append(sealed)
        self.blocks.append(sum(len(rows.rows) for rows in sealed.tables))
        for rows in sealed.tables:
            if rows.table.name == "trades":
                self.ids += rows.rows["trade_id"].tolist()

    def apply(self, engine: Engine) -> int:
        """Everything submitted can be queried now; return the position."""
        position = self.waiting[-1].position
        self.waiting.clear()
        engine.on_applied(position)
        engine.on_answered(position)
        return position


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal", segment_bytes=1 << 20) as opened:
        yield opened


def append(journal: Journal, first: int, count: int, ts_recv: int | None = None) -> None:
    source = journal.source(SPEC)
    for number in range(first, first + count):
        journal.append(source, TEXT, time.time_ns() if ts_recv is None else ts_recv, MATCH.format(number).encode())


def new_engine(journal: Journal, window_ms: int = 1, rows_max: int = ROWS_MAX) -> Engine:
    pipeline = Pipeline(KernelsConfig(), make)
    pipeline.consume(journal.declarations(journal.released))
    pipeline.position = journal.released
    return Engine(journal, pipeline, BatchConfig(window_ms=window_ms, rows_max=rows_max))


async def reached(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def turns(count: int = 200) -> None:
    """Let everything run that is due, over many turns of the loop and several windows."""
    for _ in range(count):
        await asyncio.sleep(0.0005)


def test_rows_collected_stay_bounded_while_the_sink_has_no_room_and_none_is_lost(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink(blocks_max=1)
        engine.start(sink)
        most = 0
        for batch in range(40):
            append(journal, 1 + 1000 * batch, 1000)
            engine.wake()
            await turns(3)
            most = max(most, engine.pipeline.pending)
        frames_a_read = engines.READ_BYTES // 200  # a match is longer than that
        assert len(sink.blocks) == 1
        assert engine.pipeline.pending >= ROWS_MAX
        assert most <= ROWS_MAX + frames_a_read
        assert engine.backlog > 0
        while not engine.settled:
            await reached(lambda: sink.waiting or engine.settled)
            if sink.waiting:
                sink.apply(engine)
                await asyncio.sleep(0)
        assert sink.ids == list(range(1, 40_001))
        assert max(sink.blocks) <= ROWS_MAX + frames_a_read

    asyncio.run(run())


def test_positions_are_released_only_when_their_rows_are_applied(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink()
        engine.start(sink)
        append(journal, 1, 10)
        engine.wake()
        await reached(lambda: sink.waiting)
        engine.on_answered(sink.waiting[-1].position)
        await turns(20)
        assert (engine.released, journal.released, engine.rows_queryable) == (0, 0, 0)
        assert engine.waiting_since > 0
        position = sink.apply(engine)
        await reached(lambda: engine.released)
        assert engine.released == journal.released == position == journal.end
        assert (engine.rows_queryable, engine.waiting_since, engine.settled) == (10, 0, True)

    asyncio.run(run())


def test_a_block_applied_with_an_older_one_releases_both_and_never_backwards(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink()
        engine.start(sink)
        for number in (1, 2, 3):
            append(journal, number, 1)
            engine.wake()
            await reached(lambda number=number: len(sink.blocks) == number)
        first, _, last = (sealed.position for sealed in sink.waiting)
        engine.on_applied(last)
        engine.on_applied(first)
        await turns(5)
        assert (engine.released, engine.rows_queryable) == (last, 3)

    asyncio.run(run())


def test_frames_journalled_before_there_is_a_sink_are_loaded_when_it_comes(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink()
        append(journal, 1, 5000)
        engine.wake()
        await turns(20)
        assert engine.pipeline.pending == 0  # nothing is decoded into memory while rows have nowhere to go
        engine.start(sink)
        await drained(engine, sink)
        assert sink.ids == list(range(1, 5001))

    asyncio.run(run())


def test_the_journal_is_not_compressed_while_the_engine_catches_up(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "CATCHING_UP_BYTES", engines.READ_BYTES)

    async def run() -> None:
        engine, sink = new_engine(journal, rows_max=100_000), GatedSink()
        append(journal, 1, 5000)  # a megabyte: eight reads
        paused: list[bool] = []
        consume = engine.pipeline.consume
        monkeypatch.setattr(
            engine.pipeline, "consume", lambda frames: (consume(frames), paused.append(journal.compression_paused))
        )
        engine.start(sink)
        await drained(engine, sink)
        assert paused[0] is False  # nothing was behind before
        assert paused[1:3] == [True, True]
        assert journal.compression_paused is False

    asyncio.run(run())


async def drained(engine: Engine, sink: GatedSink) -> None:
    draining = asyncio.create_task(engine.drain(30))
    while not draining.done():
        if sink.waiting:
            sink.apply(engine)
        await asyncio.sleep(0.001)
    assert draining.result()


def test_an_error_of_ours_is_told_once_and_a_version_without_it_loads_what_came_meanwhile(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        told: list[str] = []
        engine, sink = new_engine(journal), GatedSink()
        engine._log = lambda event, **fields: told.append(event)
        engine.start(sink)
        append(journal, 1, 100)
        await drained(engine, sink)
        consume = engine.pipeline.consume

        def broken(frames: Any) -> None:
            consume(frames.part(0, 3))  # some of its rows are collected already
            raise ZeroDivisionError("division by zero")

        monkeypatch.setattr(engine.pipeline, "consume", broken)
        for number in range(10):
            append(journal, 101 + 10 * number, 10)
            engine.wake()
            await turns(5)
        assert told == ["engine.failed"]
        assert engine.failed == "ZeroDivisionError: division by zero"
        assert not engine.settled
        assert not await engine.drain(30)  # at once
        engine.stop()
        assert sink.ids == list(range(1, 101))

        after, other = new_engine(journal), GatedSink()
        after.start(other)
        await drained(after, other)
        assert other.ids == list(range(101, 201))

    asyncio.run(run())


def test_another_engine_continues_where_the_first_one_was_released(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink()
        engine.start(sink)
        append(journal, 1, 50)
        engine.wake()
        await drained(engine, sink)
        append(journal, 51, 50)
        engine.wake()
        await reached(lambda: len(sink.ids) == 100)  # submitted, and never applied: the process dies here
        engine.stop()
        following, other = new_engine(journal), GatedSink()
        assert following.released == engine.released > 0
        following.start(other)
        await drained(following, other)
        assert other.ids == list(range(51, 101))

    asyncio.run(run())


def test_nothing_is_built_again_by_a_start_from_a_state_at_the_released_position(journal: Journal) -> None:
    """Until then no coverage is written when stopping: entries of a state half built would be wrong."""
    append(journal, 1, 50)

    async def run() -> None:
        pipeline = Pipeline(KernelsConfig(), make)
        while (frames := journal.read(pipeline.position)) is not None:
            pipeline.consume(frames)
        assert Engine(journal, pipeline, BatchConfig(), stored=pipeline.position).stored == 0
        assert Engine(journal, Pipeline(KernelsConfig(), make), BatchConfig(), stored=pipeline.position).stored > 0

    asyncio.run(run())


def test_draining_gives_up_in_time_when_the_database_does_not_answer(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink()
        engine.start(sink)
        append(journal, 1, 1)
        assert not await engine.drain(0.05)

    asyncio.run(run())


def test_rows_that_are_sent_again_count_once(journal: Journal, tmp_path: Path) -> None:
    """The counter never goes back, stands still while rows are repeated, and goes on behind them."""

    async def run() -> None:
        snapshots = Snapshots(tmp_path, lambda event, **fields: None)
        pipeline = Pipeline(KernelsConfig(), make)
        engine = Engine(journal, pipeline, BatchConfig(window_ms=1, rows_max=ROWS_MAX), snapshots)
        first = GatedSink()
        snapshots.due = lambda rows: engine.rows_queryable == 0  # type: ignore[method-assign]  # the first block's only
        engine.start(first)
        append(journal, 1, 10)
        journal.sync()
        engine.wake()
        await drained(engine, first)
        append(journal, 11, 1000)
        engine.wake()
        await drained(engine, first)
        assert engine.rows_queryable == 1010
        engine.stop()
        snapshots.close()
        again, _ = snapshots.resume(journal, lambda: Pipeline(KernelsConfig(), make))
        assert 0 < again.position < journal.end
        engine.rewind(again)
        second, seen = GatedSink(blocks_max=1), []
        engine.start(second)
        while not engine.settled:
            await reached(lambda: second.waiting or engine.settled)
            if second.waiting:
                second.apply(engine)
                await asyncio.sleep(0)
                seen.append(engine.rows_queryable)
        assert second.ids == list(range(11, 1011))
        assert len(seen) > 1
        assert set(seen) == {1010}
        append(journal, 1011, 5)
        engine.wake()
        await drained(engine, second)
        assert engine.rows_queryable == 1015

    asyncio.run(run())


def test_no_state_is_the_newest_before_what_goes_with_it_is_durable(journal: Journal, tmp_path: Path) -> None:
    """What QuestDB has of the rows is noted first: else nobody would know, after a power loss, that it lacks them."""
    seen: list[bool] = []
    told: list[str] = []

    def first() -> None:
        seen.append((tmp_path / STATE).exists())
        if len(seen) == 1:
            raise OSError("the disk is full")

    saved: list[int] = []
    snapshots = Snapshots(tmp_path, lambda event, **fields: told.append(event), saved.append, first)
    pipeline = Pipeline(KernelsConfig(), make)
    append(journal, 1, 10)
    for last in (False, True):
        frames = journal.read(pipeline.position)
        if frames is not None:
            pipeline.consume(frames)
        pipeline.seal()
        snapshots.write_guarded(pipeline.snapshot())
        assert (tmp_path / STATE).exists() is last
    assert (seen, told, saved) == ([False, False], ["state.not_kept"], [pipeline.position])


def test_while_nothing_is_applied_blocks_in_flight_are_bounded_and_every_row_counts(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a table that is suspended for days: each of its blocks is answered, so that the sink has room."""
    monkeypatch.setattr(engines, "IN_FLIGHT_MAX", 4)

    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink(blocks_max=1000)
        engine.start(sink)
        for number in range(30):
            append(journal, 1 + 10 * number, 10)
            engine.wake()
            await reached(lambda number=number: len(sink.ids) >= 10 * (number + 1) - 1)  # one may be held back
        assert len(sink.waiting) >= 30
        assert len(engine._in_flight) == 4
        oldest = engine.waiting_since
        await drained(engine, sink)
        assert engine.rows_queryable == engine.queryable.count == 300
        assert oldest > 0

    asyncio.run(run())


def test_after_stop_nothing_is_submitted_any_more(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal, window_ms=5), GatedSink()
        engine.start(sink)
        append(journal, 1, 10)
        engine.wake()
        await reached(lambda: engine.pipeline.pending)
        engine.stop()
        engine.wake()
        await turns(30)
        assert sink.blocks == []

    asyncio.run(run())


def test_a_quiet_feed_waits_one_window_and_a_busy_one_fills_blocks(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal, window_ms=50, rows_max=1000), GatedSink(blocks_max=100)
        engine.start(sink)
        append(journal, 1, 1)
        engine.wake()
        await reached(lambda: sink.blocks)
        assert sink.blocks == [1]
        append(journal, 2, 20_000)
        engine.wake()
        await reached(lambda: len(sink.ids) == 20_001)
        assert sum(size >= 1000 for size in sink.blocks) >= 10

    asyncio.run(run())


def test_latencies_are_those_of_the_frames(journal: Journal) -> None:
    async def run() -> None:
        engine, sink = new_engine(journal), GatedSink()
        engine.start(sink)
        append(journal, 1, 1)
        engine.wake()
        await drained(engine, sink)
        for histogram in (engine.decoded, engine.queryable):
            histogram.clear()
        started = time.time_ns()
        append(journal, 2, 10, ts_recv=started - 3_000_000_000)
        engine.wake()
        await drained(engine, sink)
        elapsed = time.time_ns() - started + 3_000_000_000
        assert engine.decoded.count == engine.queryable.count == 10
        for histogram in (engine.decoded, engine.queryable):
            assert 3_000_000_000 <= histogram.max <= elapsed
        assert engine.decoded.sum <= engine.queryable.sum + elapsed

    asyncio.run(run())


def test_rows_held_back_do_not_age_the_blocks_after_them(journal: Journal) -> None:
    """The newest row of each block waits for the next one: what is in flight is never older than the block before."""
    second = 1_000_000_000
    base = time.time_ns() - 60 * second

    async def run() -> None:
        engine, sink = new_engine(journal, window_ms=20), GatedSink(blocks_max=100)
        engine.start(sink)
        for number in range(10):
            blocks = len(sink.blocks)
            append(journal, 1 + 5 * number, 5, ts_recv=base + number * second)
            engine.wake()
            await reached(lambda blocks=blocks: len(sink.blocks) > blocks)
            if number:  # the first block holds the source's declaration, stamped now
                assert base + (number - 1) * second <= engine.waiting_since <= base + number * second
            sink.apply(engine)
            await asyncio.sleep(0)
        await drained(engine, sink)
        assert sink.ids == list(range(1, 51))
        assert engine.waiting_since == 0

    asyncio.run(run())
