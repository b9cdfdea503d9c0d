"""Cost of a frame in the journal: appended from a chunk, appended alone, read back. Goal: below 300 ns per frame.

The baseline writes the same records with ``file.write`` and zlib.crc32. ``extra_info.ns_per_frame`` is the figure.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recorder.core.frames import COLUMNS, TEXT, index, warm
from recorder.shell.journal import Journal
from recorder.values.feed import FeedSpec

FRAME_BYTES = 150
FRAMES = (64 << 10) // (FRAME_BYTES + 4)  # of a chunk of 64 KiB: each has a WebSocket header of 4 bytes
CHUNKS = 40  # a round: 2.5 MB, so that rounds of a bench stay within a few segments
SPEC = FeedSpec(name="cb", provider="coinbase")
_CHECKED = struct.Struct("<qHBB")
_LENGTH_CRC = struct.Struct("<II")


@pytest.fixture
def chunk() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(bytes as received, starts, lengths, opcodes)"""
    data = np.random.default_rng(1).integers(32, 127, 64 << 10, dtype=np.uint8)
    starts = 4 + np.arange(FRAMES, dtype=np.int64) * (FRAME_BYTES + 4)
    return data, starts, np.full(FRAMES, FRAME_BYTES, np.int64), np.ones(FRAMES, np.uint8)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    warm()
    with Journal.open(tmp_path, compress=False, keep_gb=0.2) as opened:
        yield opened


def per_frame(benchmark: Any, function: Callable[[], Any], frames: int) -> None:
    benchmark.pedantic(function, rounds=20, iterations=1, warmup_rounds=2)
    benchmark.extra_info["ns_per_frame"] = round(benchmark.stats.stats.median / frames * 1e9, 1)


def test_append_frames_of_a_chunk(benchmark, journal, chunk):
    source = journal.source(SPEC)

    def append() -> None:
        for _ in range(CHUNKS):
            journal.release(journal.append_frames(source, 1, *chunk, FRAMES))

    per_frame(benchmark, append, CHUNKS * FRAMES)
    assert benchmark.extra_info["ns_per_frame"] < 300


def test_append_one_frame(benchmark, journal, chunk):
    source, payload = journal.source(SPEC), chunk[0][:FRAME_BYTES].tobytes()

    def append() -> None:
        for _ in range(FRAMES):
            journal.append(source, TEXT, 1, payload)

    per_frame(benchmark, append, FRAMES)


def test_append_frames_of_a_chunk_with_one_frame(benchmark, journal, chunk):
    source = journal.source(SPEC)

    def append() -> None:
        for _ in range(FRAMES):
            journal.append_frames(source, 1, *chunk, 1)

    per_frame(benchmark, append, FRAMES)


def test_read_what_was_appended(benchmark, journal, chunk):
    source = journal.source(SPEC)
    for _ in range(CHUNKS):
        journal.append_frames(source, 1, *chunk, FRAMES)

    def read() -> int:
        position = count = 0
        while (frames := journal.read(position)) is not None:
            position, count = frames.end, count + frames.count
        return count

    assert read() == CHUNKS * FRAMES + 1
    per_frame(benchmark, read, CHUNKS * FRAMES)


def test_index_with_checksums(benchmark, journal, chunk):
    source = journal.source(SPEC)
    for _ in range(CHUNKS):
        journal.append_frames(source, 1, *chunk, FRAMES)
    frames = journal.read(0)
    out = np.empty((COLUMNS, frames.count), np.int64)
    stop = int(frames.starts[-1] + frames.lengths[-1])
    per_frame(benchmark, lambda: index(frames.data, int(frames.starts[0]) - 20, stop, 0, True, out), frames.count)


def test_baseline_file_write_with_zlib(benchmark, tmp_path, chunk):
    data, starts, lengths, _ = chunk
    raw, places = data.tobytes(), list(zip(starts.tolist(), lengths.tolist(), strict=True))

    with (tmp_path / "plain").open("wb") as file:

        def append() -> None:
            for _ in range(CHUNKS):
                for start, length in places:
                    checked = _CHECKED.pack(1, 1, TEXT, 0)
                    payload = raw[start : start + length]
                    crc = zlib.crc32(payload, zlib.crc32(checked))
                    file.write(_LENGTH_CRC.pack(length, crc) + checked + payload)
                file.flush()

        per_frame(benchmark, append, CHUNKS * FRAMES)
