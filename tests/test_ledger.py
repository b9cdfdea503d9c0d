"""The latency ledger: stages add up to the total to the nanosecond, by feed and second, and are never clamped."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_process import external, write_config
from test_record import Told

from recorder.commands.record import Recording
from recorder.core import histogram, latency
from recorder.core.batch import Output, Rows
from recorder.core.encode import Dictionary, Sealed
from recorder.core.frames import TEXT, Frames, frames_from_list
from recorder.core.frames import warm as warm_frames
from recorder.core.latency import STAGES
from recorder.feeds import PROVIDERS
from recorder.shell import ledger as ledgers
from recorder.shell.ledger import Ledger
from recorder.shell.simulator import Simulator
from recorder.values.config import load
from recorder.values.feed import SECOND
from recorder.values.schedule import Schedule
from recorder.values.tables import BACKFILLED, BARS, LATENCY, QUOTES, TRADES

Taken = dict[tuple[Any, str, str], dict[str, Any]]  # (second, feed, stage) → a row of the table
FEEDS = ("cb", "kr")
SERIES = [("cb", "BTC-USD"), ("kr", "BTC-USD"), ("cb", "ETH-USD")]
NOW = 1_800_000_000 * SECOND
SKEW_NS = 3 * SECOND
warm_frames()
histogram.warm()
latency.warm()  # compiling takes longer than an example may


class Rig:
    """A ledger with a clock of its own; rows are (ts_event, ts_recv, series)."""

    def __init__(self) -> None:
        self.now, self.position = NOW, 0
        self.ledger = Ledger(0, lambda: self.now)

    def journal(self, ts_recv: int, count: int, marked: bool = True) -> Frames:
        frames = frames_from_list([(TEXT, 0, ts_recv, b"x")] * count, self.position)
        self.position = frames.end
        if marked:
            self.ledger.appended(self.position)
        return frames

    def send(self, rows: list[tuple[int, int, int]], table: Any = TRADES, flags: int = 0) -> None:
        packed = np.zeros(len(rows), table.dtype)
        for name, values in zip(("ts_event", "ts_recv", "series"), zip(*rows, strict=True), strict=False):
            packed[name] = values
        packed["flags"] = flags
        part = Rows(table, packed, np.zeros(0, np.uint8), np.zeros(1, np.int64))
        self.ledger.sent(Sealed(self.position, (part,), Dictionary.of(Output())), SERIES, self.now)

    def apply(self) -> None:
        self.ledger.applied(self.position, self.now)

    def taken(self) -> Taken:
        """Rows of the table by (second, feed, stage)."""
        names = [column.name for column in LATENCY.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.ledger.take(None)]
        found = {(row["ts_event"] // SECOND, row["feed"], row["stage"]): row for row in rows}
        assert len(found) == len(rows)
        return found


def by_second(rows: Taken) -> dict[tuple[Any, str], dict[str, dict[str, Any]]]:
    seconds: dict[tuple[Any, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for (second, feed, stage), row in rows.items():
        seconds[second, feed][stage] = row
    return seconds


def assert_adds_up(rows: Taken) -> None:
    for stages in by_second(rows).values():
        assert stages.keys() == set(STAGES)
        assert len({row["count"] for row in stages.values()}) == 1
        assert sum(stages[stage]["sum"] for stage in STAGES[:-1]) == stages["total"]["sum"]


STEP = st.one_of(st.integers(0, 10**6), st.integers(0, 2 * SECOND))
CHUNK = st.tuples(STEP, STEP, st.integers(1, 4))  # until received, until journalled, rows
READS = st.lists(st.lists(CHUNK, min_size=1, max_size=4), min_size=1, max_size=3)
BLOCKS = st.lists(st.tuples(READS, STEP, STEP, STEP), min_size=1, max_size=5)


@settings(deadline=None)  # a crowded machine may pause
@given(blocks=BLOCKS, seed=st.integers(0, 2**32))
def test_every_row_counts_in_every_stage_with_the_times_of_its_chunk_read_and_block(blocks: Any, seed: int) -> None:
    rig, rng = Rig(), np.random.default_rng(seed)
    durations: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    for reads, until_sent, until_answered, until_applied in blocks:
        rows, ways = [], []
        for chunks in reads:
            parts = []
            for until_received, until_journalled, count in chunks:
                rig.now += 1 + until_received
                recv = rig.now
                rig.now += until_journalled
                parts.append((recv, rig.now, rig.journal(recv, count)))
            rig.now += int(rng.integers(10**9))
            for recv, journalled, frames in parts:
                for _ in range(frames.count):
                    event, series = recv + int(rng.integers(-5 * SECOND, 5 * SECOND)), int(rng.integers(3))
                    rows.append((event, recv, series))
                    ways.append((SERIES[series][0], [event, recv, journalled, rig.now]))
            whole = np.concatenate([frames.table for _, _, frames in parts], axis=1)
            rig.ledger.decoded(Frames(parts[0][2].data, whole, rig.position), rig.now)
        rig.now += until_sent
        sent = rig.now
        rig.send(sorted(rows))
        rig.now += until_answered
        answered = rig.now
        rig.ledger.answered(rig.position)
        rig.now += until_applied
        rig.apply()
        for feed, times in ways:
            way = [*times, sent, answered, rig.now]
            for stage, duration in zip(STAGES, [*np.diff(way).tolist(), way[-1] - way[0]], strict=True):
                durations[rig.now // SECOND, feed, stage].append(duration)
    taken = rig.taken()
    assert set(taken) == set(durations)
    assert_adds_up(taken)
    for key, expected in durations.items():
        row = taken[key]
        assert (row["count"], row["sum"], row["min"], row["max"]) == (
            len(expected), sum(expected), min(expected), max(expected),
        ), key  # fmt: skip
        for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            true = int(np.quantile(np.array(expected), q, method="inverted_cdf"))
            assert true <= row[name] <= true + abs(true) / 8, (key, name)
    assert rig.ledger.unmeasured == 0
    counted = dict(zip(rig.ledger.total.feeds, rig.ledger.total.counts[:, -1].sum(axis=1).tolist(), strict=True))
    assert counted == {
        feed: sum(len(d) for (_, f, s), d in durations.items() if (f, s) == (feed, "total")) for feed in FEEDS
    }


CLOCKS = st.lists(st.integers(-(10**13), 10**13), min_size=6, max_size=6)


@settings(deadline=None)  # a crowded machine may pause
@given(blocks=st.lists(CLOCKS, min_size=1, max_size=6), same=st.booleans())
def test_stages_add_up_whatever_the_clocks_do(blocks: list[list[int]], same: bool) -> None:
    """Clocks are set at any moment, and two feeds may receive something in the same nanosecond."""
    rig = Rig()
    for clock in blocks:
        recv, journalled, decoded, sent, answered, applied = (NOW + t for t in clock)
        rig.now = journalled
        frames = rig.journal(NOW if same else recv, 4)
        rig.ledger.decoded(frames, decoded)
        rig.now = sent
        rig.send([(recv + i, int(frames.ts_recv[0]), i % 3) for i in range(4)])
        rig.now = answered
        rig.ledger.answered(rig.position)
        rig.now = applied
        rig.apply()
    rows = rig.ledger.take(None)
    sums: dict[str, int] = defaultdict(int)
    for row in rows:
        sums[str(row[2])] += int(row[9] or 0)
    assert sum(int(row[3] or 0) for row in rows if row[2] == "total") == 4 * len(blocks)
    assert sum(sums[stage] for stage in STAGES[:-1]) == sums["total"]


def test_rows_held_back_keep_the_times_of_their_own_chunk() -> None:
    rig = Rig()
    rig.ledger.decoded(rig.journal(NOW, 2), NOW + 10)
    rig.send([(NOW - 5, NOW, 0)])
    rig.ledger.decoded(rig.journal(NOW + 100, 1), NOW + 130)
    rig.now = NOW + 150
    rig.send([(NOW - 4, NOW, 0), (NOW + 99, NOW + 100, 0)])
    rig.now = NOW + 200
    rig.apply()
    taken = rig.taken()
    assert_adds_up(taken)
    assert rig.ledger.unmeasured == 0
    decoded = taken[NOW // SECOND, "cb", "decoded"]
    assert (decoded["count"], decoded["max"], decoded["sum"]) == (3, 130, 10 + 10 + 130)


def test_what_an_earlier_process_appended_waits_under_decoded() -> None:
    rig = Rig()
    rig.ledger = Ledger(10**6, lambda: rig.now)
    rig.ledger.decoded(rig.journal(NOW, 1, marked=False), NOW + 60 * SECOND)
    rig.now += 61 * SECOND
    rig.send([(NOW, NOW, 0)])
    rig.apply()
    taken = rig.taken()
    second = rig.now // SECOND
    assert taken[second, "cb", "journalled"]["max"] == 0
    assert taken[second, "cb", "decoded"]["max"] == 60 * SECOND


def test_only_trades_and_quotes_received_live_are_measured() -> None:
    rig = Rig()
    rig.ledger.decoded(rig.journal(NOW, 1), NOW)
    rig.send([(NOW - 86_400 * SECOND, NOW, 0)], flags=BACKFILLED)
    rig.send([(NOW - 60 * SECOND, NOW, 0)], table=BARS)
    rig.apply()
    assert rig.taken() == {}
    rig.ledger.decoded(rig.journal(NOW, 1), NOW)
    rig.send([(NOW, NOW, 1)], table=QUOTES)
    rig.apply()
    assert {feed for _, feed, _ in rig.taken()} == {"kr"}


def test_a_clock_ahead_of_ours_is_stored_as_it_is_and_as_the_offset() -> None:
    rig = Rig()
    rig.ledger.decoded(rig.journal(NOW, 3), NOW)
    rig.send([(NOW + SKEW_NS - late, NOW, 0) for late in (3, 2, 1)])
    rig.apply()
    exchange = rig.taken()[NOW // SECOND, "cb", "exchange"]
    assert (exchange["min"], exchange["max"], exchange["sum"]) == (1 - SKEW_NS, 3 - SKEW_NS, 6 - 3 * SKEW_NS)
    assert 1 - SKEW_NS <= exchange["p50"] <= 3 - SKEW_NS
    assert rig.ledger.offsets == {"cb": 1 - SKEW_NS}


def test_a_sum_beyond_63_bits_is_null_and_still_exact_in_memory() -> None:
    """A recording of last year played back as an exchange: 400 rows of 10**16.5 ns are more than a LONG holds."""
    rig, old = Rig(), 365 * 86_400 * SECOND
    rig.ledger.decoded(rig.journal(NOW, 1), NOW)
    rig.send([(NOW - old, NOW, 0)] * 400)
    rig.apply()
    taken = rig.taken()
    assert taken[NOW // SECOND, "cb", "total"]["sum"] is None
    assert taken[NOW // SECOND, "cb", "total"]["max"] == old
    assert histogram.sum_of(rig.ledger.total.totals[0, STAGES.index("total")]) == 400 * old


def test_each_second_is_given_once_and_an_idle_one_not_at_all() -> None:
    rig = Rig()
    for _ in range(2):
        rig.ledger.decoded(rig.journal(rig.now, 1), rig.now)
        rig.send([(rig.now, rig.now, 0)])
        rig.apply()
        assert rig.ledger.take(rig.now) == []  # not over yet
        rig.now += SECOND
        assert [row[0] for row in rig.ledger.take(rig.now)] == [rig.now - SECOND] * len(STAGES)
        rig.now += 5 * SECOND
        assert rig.ledger.take(rig.now) == []
    assert rig.ledger.take(None) == []


def test_rows_that_wait_too_long_are_counted_instead_of_filling_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "ROWS_MAX", 5)
    monkeypatch.setattr(ledgers, "MARKS_MAX", 4)
    rig = Rig()
    for _ in range(4):
        rig.ledger.decoded(rig.journal(NOW, 3), NOW)
        rig.send([(NOW, NOW, 0)] * 2)
    for _ in range(100):
        rig.journal(NOW, 1)  # and never read
    assert len(rig.ledger._positions) <= 4
    rig.apply()
    assert rig.taken()[NOW // SECOND, "cb", "total"]["count"] == 4
    assert rig.ledger.unmeasured == 4


def test_the_table_holds_each_second_of_each_feed_and_agrees_with_the_rows(
    tmp_path: Path, questdb: Any, free_port: Callable[[], int]
) -> None:
    """Against what QuestDB itself says of the rows: two feeds, of which one is stamped three seconds ahead of us."""
    feeds = {"led-cb": "coinbase", "led-kr": "kraken"}

    async def run() -> None:
        ahead = lambda: time.time_ns() + SKEW_NS  # noqa: E731
        walls = {"led-cb": time.time_ns, "led-kr": ahead}
        places = {
            name: Simulator([provider], symbols=["BTC-USD", "ETH-USD"], rate=2000, total=3000, wall=walls[name])
            for name, provider in feeds.items()
        }
        for place in places.values():
            await place.start()
        settings = {
            name: {"provider": provider, "symbols": ["BTC-USD", "ETH-USD"], "url": places[name].url(provider)}
            for name, provider in feeds.items()
        }
        config = load(write_config(tmp_path, settings, free_port(), external(questdb.sql_url)), {}, PROVIDERS)
        recording = Recording(config, Told(), lambda spec: Schedule(None), {})
        await recording.start()
        async with asyncio.timeout(90):
            for place in places.values():
                await place.finished()
            stored = recording.pipeline.rows
            while stored["trades"] < 6000 or not recording.engine.settled:
                await asyncio.sleep(0.01)
            second = time.time_ns() // SECOND
            while time.time_ns() // SECOND < second + 2 or not recording.engine.settled:
                await asyncio.sleep(0.01)
            emitted, second = stored["latency"], time.time_ns() // SECOND
            assert emitted >= len(feeds) * len(STAGES)
            while time.time_ns() // SECOND < second + 2:  # the feeds are open and silent
                await asyncio.sleep(0.01)
            assert stored["latency"] == emitted
        for place in places.values():
            await place.stop()
        assert await recording.stop()

    asyncio.run(run())
    rows = questdb.sql.rows("SELECT * FROM latency WHERE feed IN ('led-cb', 'led-kr') ORDER BY ts_event")
    taken = {(r["ts_event"], r["feed"], r["stage"]): r for r in rows}
    assert_adds_up(taken)
    for feed in feeds:
        both = " UNION ALL ".join(
            f"SELECT ts_recv::LONG - ts_event::LONG late FROM {table} WHERE feed = '{feed}' AND (flags & 8) = 0"
            for table in ("trades", "quotes")
        )
        (truth,) = questdb.sql.rows(f"SELECT count() n, sum(late) added, min(late) least, max(late) most FROM ({both})")
        of = [row for (_, name, stage), row in taken.items() if (name, stage) == (feed, "exchange")]
        assert truth["n"] == sum(row["count"] for row in of) > 3000
        assert truth["added"] == sum(row["sum"] for row in of)
        assert (truth["least"], truth["most"]) == (min(row["min"] for row in of), max(row["max"] for row in of))
        assert all(-SKEW_NS <= row["p50"] < 0 for row in of) == (feed == "led-kr")
