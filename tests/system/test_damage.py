"""Files that rot and clocks that jump: what is kept cannot be read, frames are damaged, time runs backwards.

Invariants as in test_kills.py; of damaged frames: exactly those are missing, each of them is told, and what their ids
leave open is a gap.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from conftest import QuestDB
from journalled import Seen, seen_in
from recorder_process import until
from rig import Rig, exchange
from stepping_clock import Clock

from recorder.core.frames import HEADER_BYTES, TEXT
from recorder.shell.journal import Journal
from recorder.shell.simulator.proxy import Proxy
from recorder.values.feed import HOUR, SECOND

SEED = 20261124
RATE = 500
FLIPS = 40
PROVIDERS = ("coinbase", "kraken", "binance")
CONTIGUOUS_IDS = ("coinbase", "binance")  # Kraken repeats trades on reconnecting: what was hit comes again
STEPS_NS = (-5 * SECOND, -90 * SECOND, 70 * SECOND, -HOUR, 0)  # from the true time


@pytest.fixture
def proxy(fresh_tables: QuestDB) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", fresh_tables.http_port)) as proxy:
        yield proxy


@pytest.fixture
def make_rig(tmp_path: Path, fresh_tables: QuestDB, proxy: Proxy, free_port: Any) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**settings: Any) -> Rig:
        made.append(Rig(tmp_path / "home", fresh_tables, proxy, place, free_port(), **settings))
        return made[-1]

    with exchange(*PROVIDERS, rate=RATE, seed=SEED) as place:
        try:
            yield make
        finally:
            for rig in made:
                rig.kill()


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 4]) + data[-19:]


def of_another_version(data: bytes) -> bytes:
    content = bytearray(zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 30))
    content[16:20] = (99).to_bytes(4, "little")
    return zstandard.ZstdCompressor().compress(bytes(content))


def written(path: Path) -> int:
    """When, in ns; 0 while one state is taking the place of another."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_a_state_that_cannot_be_read_is_set_aside_told_and_built_again(make_rig: Callable[..., Rig]) -> None:
    """Truncated, a bit flipped, of another version, the one before it as well: complete, once, right all the same."""
    rig = make_rig()
    rig.start()
    for damage, both in ((truncated, False), (flipped, False), (of_another_version, True)):
        rig.wait_live()
        until((rig.journal / "state.before").exists, "two states kept")
        at_first = written(rig.journal / "state")
        until(lambda: written(rig.journal / "state") > at_first, "a state of this run")  # noqa: B023
        rig.kill()
        for path in (rig.journal / "state", rig.journal / "state.before"):
            if path.exists() and (both or path.name == "state"):
                path.write_bytes(damage(path.read_bytes()))
        recorder = rig.start()
        told = recorder.wait_event("state.unreadable", 1 + both)
        assert [Path(event["file"]).name for event in told] == ["state", "state.before"][: 1 + both]
        assert (rig.journal / "state.unreadable").exists()
    rig.wait_live()
    rig.end()
    rig.verify()


def flip_bits(folder: Path, rng: random.Random) -> int:
    """Flip one bit in some of the frames that hold data, anywhere in the journal, the first megabyte's included."""
    places: list[tuple[Path, int]] = []
    with Journal.open(folder, compress=False) as journal:
        position = journal.begin
        while (frames := journal.read(position)) is not None:
            segment = max((each for each in journal.held if each.base <= position), key=lambda each: each.base)
            starts = [int(frames.starts[i]) for i in range(frames.count) if frames.kinds[i] == TEXT]
            places += [(segment.path, start) for start in starts]
            position = frames.end
    assert len({path for path, _ in places}) > 1, "sealed segments and the last one"
    hit = rng.sample(places, FLIPS)
    for path, start in hit:
        with path.open("r+b") as file:
            file.seek(start - HEADER_BYTES + rng.randrange(2 * HEADER_BYTES))
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ (1 << rng.randrange(8))]))
    return len(hit)


def test_of_a_damaged_journal_exactly_the_damaged_frames_are_missing_and_told(
    make_rig: Callable[..., Rig], proxy: Proxy, questdb: QuestDB
) -> None:
    """Bits flip in frames that were never stored, and the last frame is torn: the others are complete, once, right."""
    rng = random.Random(SEED)
    rig = make_rig()
    rig.outage()
    rig.start()
    rig.wait_live()
    until(lambda: sum(1 for _ in rig.journal.glob("*.journal")) > 2, "several segments")
    rig.kill()
    before = seen_in(rig.journal)
    hit = flip_bits(rig.journal, rng)
    last = max(rig.journal.glob("*.journal"), key=lambda path: path.name.split("-")[1])
    last.write_bytes(last.read_bytes()[:-7])
    damaged = seen_in(rig.journal)  # opening it cuts the torn frame off, as a start does
    gone = len(before.trades) - len(damaged.trades)
    assert 0 < gone <= hit + 1
    rig.settle()
    seen, _ = rig.verify()
    assert rig.recorder is not None
    told = rig.recorder.events("journal.corrupt")
    assert len({(event["file"], event["at"]) for event in told}) == len(told) >= hit - 2  # of neighbours one stretch
    assert seen.trades[: len(damaged.trades)] == damaged.trades
    for feed in CONTIGUOUS_IDS:
        first = {trade.symbol: trade.id for trade in reversed(seen.trades) if trade.feed == feed}
        lost = {t[:3] for t in before.trades if t.feed == feed and t.id > first[t.symbol]} - seen.ids
        assert lost <= missing(questdb, feed), feed
    assert holes(seen) == {gap for feed in CONTIGUOUS_IDS for gap in missing(questdb, feed)}


def missing(questdb: QuestDB, feed: str) -> set[tuple[str, str, int]]:
    """Ids that the rows of gaps name."""
    query = f"SELECT symbol, from_id, to_id FROM gaps WHERE feed = '{feed}' AND kind = 'trade_id'"
    return {(feed, symbol, n) for symbol, low, high in questdb.sql.query(query).rows for n in range(low, high + 1)}


def holes(seen: Seen) -> set[tuple[str, str, int]]:
    """Ids missing between the first and the last that the journal holds, by series."""
    found = set()
    for feed, symbol in {trade[:2] for trade in seen.trades if trade.feed in CONTIGUOUS_IDS}:
        ids = sorted({trade.id for trade in seen.of(feed, symbol)})
        found |= {(feed, symbol, n) for a, b in pairwise(ids) for n in range(a + 1, b)}
    return found


def test_a_clock_that_steps_backwards_and_forwards_costs_no_row(
    make_rig: Callable[..., Rig], tmp_path: Path, questdb: QuestDB
) -> None:
    """Steps of seconds to an hour while it records and over a kill: complete, once, right; coverage adds up."""
    rng = random.Random(SEED)
    clock = Clock(tmp_path / "offset")
    rig = make_rig(program=clock.program)
    rig.start()
    rig.wait_live(200)
    for number, step in enumerate(STEPS_NS):
        clock.step_to(step)
        before = rig.metric("recorder_frames_total", "coinbase")
        until(lambda: rig.metric("recorder_frames_total", "coinbase") > before + 300, "frames")  # noqa: B023
        if number == 1:
            time.sleep(rng.uniform(0.0, 1.0))
            rig.kill()
            rig.start()
            rig.wait_live(200)
    rig.end()
    rig.verify()
    backwards = questdb.sql.value("SELECT count() FROM trades WHERE ts_event > ts_recv + 60000000000L")
    assert backwards > 100, "the clock did step"
    assert questdb.sql.value("SELECT count() FROM rejected") == 0
