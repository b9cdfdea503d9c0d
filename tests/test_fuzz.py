"""Damaged frames of every provider, hundreds of thousands, through one pipeline, with good ones between them.

Nothing raises, every good frame's row is the one it would have been alone, what does not fit is counted, and memory
stays within bounds that have names.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from zlib import crc32

import msgspec
import numpy as np
import psutil
import pytest
from feeds.fuzzing import mutations
from fuzz_cases import CASES, START, Case

from recorder.core.batch import EXCERPT_BYTES, UNKNOWN_NAMES_MAX
from recorder.core.encode import Sealed
from recorder.core.frames import SOURCE, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.tables import QUOTES, REJECTED, TRADES

TEMPLATED = [case for case in CASES if hasattr(make(case.spec), "templates")]
DAMAGED = int(os.environ.get("RECORDER_FUZZ", "100000"))  # twenty seconds; a million takes three minutes
SEED = 20260801
FRAMES_AT_ONCE = 4_000
GOOD_EVERY = 20  # one good frame after so many damaged ones
GARBAGE_EVERY = 16  # one of so many is bytes without any sense
SEAL_EVERY = 10  # in Frames
DAY_NS, YEAR_2000_NS = 86_400 * 10**9, 946_684_800 * 10**9
REJECTED_BYTES_MAX = 4 * EXCERPT_BYTES + 8192  # an excerpt with every byte escaped, or the longest reason
UNKNOWN_CHARS_MAX = 80
NAMES_MAX = 10_000  # damaged names that still are names: 950 series and 521 texts
GROWTH_BYTES_MAX = 96 << 20  # of the process over a million frames; measured 12 MB


def damaged(case: Case, count: int, seed: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for number, frame in enumerate(mutations(case.templates, count, seed)):
        yield rng.randbytes(rng.randrange(64)) if number % GARBAGE_EVERY == 0 else frame


def stream(broken: int) -> Iterator[list[tuple[int, int, int, bytes]]]:
    """``broken`` damaged frames (0: none, but the same good ones), all providers by turns, FRAMES_AT_ONCE at a time."""
    share = DAMAGED // len(CASES) + 1
    sources = [damaged(case, share, SEED + number) for number, case in enumerate(CASES)]
    listed = [(SOURCE, number, START * 10**9, msgspec.json.encode(case.spec)) for number, case in enumerate(CASES)]
    for i in range(DAMAGED):
        turn = i % len(CASES)
        case, ts_recv = CASES[turn], START * 10**9 + i
        if i < broken:
            listed.append((case.kind, turn, ts_recv, next(sources[turn])))
        if i % GOOD_EVERY == 0:
            listed.append((case.kind, turn, ts_recv, case.good(i)))
        if len(listed) >= FRAMES_AT_ONCE:
            yield listed
            listed = []
    yield listed


def text_lengths(offsets: np.ndarray) -> np.ndarray:
    """Bytes of each text of a batch; what lies behind the last one is not used."""
    return np.diff(offsets[: int(offsets.argmax()) + 1])


class Blocks:
    """What is looked at in every sealed block; the rows of good frames are kept, every column of them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.good: list[np.ndarray] = []
        self.rejected = 0

    def take(self, sealed: Sealed) -> None:
        for table in sealed.tables:
            if table.table is TRADES:
                assert_possible(table.rows, ("price", "size"))
                assert (table.rows["trade_id"] >= 0).all()
                self._keep(table.rows, table.varchar_heap, table.varchar_offsets)
            elif table.table is QUOTES:
                assert_possible(table.rows, ("bid", "bid_size", "ask", "ask_size"))
            elif table.table is REJECTED:
                self.rejected += len(table.rows)
                assert text_lengths(table.varchar_offsets).max() < REJECTED_BYTES_MAX

    def _keep(self, rows: np.ndarray, heap: np.ndarray, offsets: np.ndarray) -> None:
        keys, name_of = self.pipeline.out.series.keys, self.pipeline.out.texts.name
        ours = {(case.spec.name, case.symbol): number for number, case in enumerate(CASES)}
        numbers = np.array([ours.get(key, -1) for key in keys], np.int64)[rows["series"]]
        rows = rows[numbers >= 0]
        rows["series"] = numbers[numbers >= 0]
        for name in (
            "exchange",
            "conditions",
            "tape",
        ):  # ids depend on the texts met before: what they stand for instead
            rows[name] = [crc32(name_of(i).encode()) >> 1 if i >= 0 else i for i in rows[name]]
        refs = [crc32(heap[offsets[i] : offsets[i + 1]].tobytes()) >> 1 if i >= 0 else i for i in rows["trade_ref"]]
        rows["trade_ref"] = refs  # a place in the block's texts, among those of damaged frames
        self.good.append(rows)


def assert_possible(rows: np.ndarray, numbers: tuple[str, ...]) -> None:
    """A damaged frame that is read all the same gives no time and no number that cannot be; NaN is null."""
    assert (rows["ts_event"] >= YEAR_2000_NS).all()
    assert (rows["ts_event"] <= rows["ts_recv"] + DAY_NS).all()
    for name in numbers:
        values = rows[name]
        assert (np.isnan(values) | ((values >= 0.0) & np.isfinite(values))).all(), name


def run(broken: int) -> tuple[Pipeline, Blocks, int]:
    """The pipeline after the stream, what its blocks held, and by how many bytes the process grew once it was warm."""
    pipeline = Pipeline(KernelsConfig(), make)
    blocks, position, process, warm = Blocks(pipeline), 0, psutil.Process(os.getpid()), 0
    for number, listed in enumerate(stream(broken)):
        frames = frames_from_list(listed, position=position)
        position = frames.end
        pipeline.consume(frames)
        if number % SEAL_EVERY == SEAL_EVERY - 1:
            blocks.take(pipeline.seal())
        if number == 2 * SEAL_EVERY:
            warm = process.memory_info().rss
    blocks.take(pipeline.seal())
    return pipeline, blocks, process.memory_info().rss - warm


@pytest.mark.timeout(600)
def test_damaged_frames_stop_nothing_change_no_row_of_the_good_ones_and_fill_no_memory() -> None:
    _, alone, _ = run(0)
    pipeline, among, grown = run(DAMAGED)

    expected, found = np.concatenate(alone.good), np.concatenate(among.good)
    assert len(found) == len(expected) == DAMAGED // GOOD_EVERY
    assert np.sort(found, order="ts_recv").tobytes() == np.sort(expected, order="ts_recv").tobytes()

    out, sources = pipeline.out, pipeline.sources.values()
    assert sum(source.frames for source in sources) == DAMAGED + DAMAGED // GOOD_EVERY
    refused = sum(source.rejected for source in sources)
    assert DAMAGED // 2 < refused <= among.rejected  # of some frames only a part is refused
    assert pipeline.rows[REJECTED.name] == among.rejected
    assert all(source.frames > source.rejected > 0 for source in sources)
    assert sum(out.unknown.values()) > 1000

    assert len(out.unknown) <= UNKNOWN_NAMES_MAX + len(CASES)  # and "other" of each feed
    assert all(len(what) <= UNKNOWN_CHARS_MAX for _, what in out.unknown)
    assert max(len(out.series), out.texts.count) < NAMES_MAX
    assert grown < GROWTH_BYTES_MAX


SLIGHTLY_DAMAGED = 30_000  # of each case
WHOLE_EVERY = 3  # frames that are whole, so that templates go on being tried
STRANGE = b'0123456789.-+eE",:{}[]\\ tfn\x00\x7f\x80\xc3\xff'


def slightly_damaged(case: Case) -> Iterator[bytes]:
    """One or two bytes changed, put in or taken out: frames that nearly are what templates expect."""
    rng = random.Random(SEED)
    whole = (*case.templates, *(case.good(number) for number in range(5)))
    for number in range(SLIGHTLY_DAMAGED):
        frame = bytearray(rng.choice(whole).replace(b'"sequence_num":5', b'"sequence_num":%d' % number))
        for _ in range(rng.choice((1, 1, 2)) if number % WHOLE_EVERY else 0):
            at, kind = rng.randrange(len(frame)), rng.randrange(4)
            frame[at : at + (kind != 1)] = b"" if kind == 2 else bytes([rng.choice(STRANGE)])
        yield bytes(frame)


def columns_of(case: Case, templates: bool) -> tuple[dict[str, list[np.ndarray]], Pipeline]:
    """Every column of every table, ids replaced by what they stand for, of the slightly damaged stream."""
    pipeline, position, listed = Pipeline(KernelsConfig(), make, templates), 0, []
    columns: dict[str, list[np.ndarray]] = {}
    declared = (SOURCE, 0, START * 10**9, msgspec.json.encode(case.spec))
    for number, frame in enumerate(slightly_damaged(case)):
        listed.append((case.kind, 0, START * 10**9 + number, frame))
        if len(listed) == FRAMES_AT_ONCE or number == SLIGHTLY_DAMAGED - 1:
            frames = frames_from_list([declared, *listed], position=position)
            pipeline.consume(frames)
            position, listed = frames.end, []
            for table in pipeline.seal().tables:
                for column in table.table.laid_out:
                    values = table.rows[column.name]
                    if column.type.kind == "series":
                        values = np.array([crc32(repr(pipeline.out.series.keys[i]).encode()) for i in values])
                    elif column.type.kind == "symbol":
                        name_of = pipeline.out.texts.name
                        values = np.array([crc32(name_of(i).encode()) if i >= 0 else -1 for i in values])
                    elif column.type.kind == "varchar":
                        heap, offsets = table.varchar_heap, table.varchar_offsets
                        texts = [heap[offsets[i] : offsets[i + 1]].tobytes() if i >= 0 else b"" for i in values]
                        values = np.array([crc32(text) for text in texts])
                    columns.setdefault(f"{table.table.name}.{column.name}", []).append(values)
    return columns, pipeline


@pytest.mark.parametrize("case", TEMPLATED, ids=lambda case: case.spec.name)
def test_compiled_templates_make_of_slightly_damaged_frames_what_decoders_make_of_them(case: Case) -> None:
    by_templates, fast = columns_of(case, True)
    by_decoder, slow = columns_of(case, False)
    assert by_templates.keys() == by_decoder.keys()
    for name, parts in by_decoder.items():
        found, expected = np.concatenate(by_templates[name]), np.concatenate(parts)
        np.testing.assert_array_equal(found, expected, err_msg=name)
    assert fast.sources[0].frames == slow.sources[0].frames == SLIGHTLY_DAMAGED
    assert fast.sources[0].rejected == slow.sources[0].rejected
    assert slow.sources[0].matched() == 0
    assert fast.out.unknown == slow.out.unknown
    assert fast.sources[0].matched() > SLIGHTLY_DAMAGED // 20
