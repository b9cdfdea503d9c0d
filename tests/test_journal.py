"""The journal on a real file system: what was appended is read back, whatever happened in between."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder.core.frames import BINARY, CLOSED, FRAME_BYTES_MAX, HEADER_BYTES, OPENED, SOURCE, TEXT, warm
from recorder.shell.journal import Journal
from recorder.shell.journal.segments import FILE_HEADER_BYTES, list_segments, read_path, verify
from recorder.values.errors import FrameTooLong, JournalCorrupt, JournalFull, JournalLocked, RecorderError
from recorder.values.feed import FeedSpec

SPEC = FeedSpec(name="cb", provider="coinbase", symbols=("BTC-USD",), options={"api": "exchange", "a": "b"})
DEADLINE_S = 30.0
SMALL = 4096
Entry = tuple[int, int, int, bytes]  # kind, source, ts_recv, payload


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile first, or the first example of a property would miss its deadline."""
    warm()


class Logged(list):
    """A log callback that keeps its events."""

    def __call__(self, event: str, **fields: object) -> None:
        self.append((event, fields))

    def of(self, event: str) -> list[dict]:
        return [fields for name, fields in self if name == event]


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.005)


def everything(journal: Journal, position: int = 0, bytes_max: int = 1 << 20) -> list[Entry]:
    """All frames but declarations, checking on the way that positions grow and name the frame read on from."""
    found = []
    while (frames := journal.read(position, bytes_max)) is not None:
        assert frames.count
        assert position < frames.ends[0]
        assert (np.diff(frames.ends) > 0).all()
        rows = zip(frames.kinds.tolist(), frames.sources.tolist(), frames.ts_recv.tolist(), strict=True)
        found += [(k, s, t, frames.payload(i)) for i, (k, s, t) in enumerate(rows) if k != SOURCE]
        position = frames.end
    assert position == journal.end or not found
    return found


def texts(entries: list[Entry]) -> list[bytes]:
    return [payload for _, _, _, payload in entries]


def fill(journal: Journal, payloads: list[bytes]) -> list[int]:
    source = journal.source(SPEC)
    return [journal.append(source, TEXT, i, payload) for i, payload in enumerate(payloads)]


def append_chunk(journal: Journal, source: int, ts_recv: int, payloads: list[bytes], opcodes: list[int]) -> int:
    chunk = np.frombuffer(b"\x81\x00" + b"".join(payloads), np.uint8)
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    starts = 2 + np.cumsum(lengths) - lengths
    return journal.append_frames(
        source, ts_recv, chunk, starts, lengths, np.array(opcodes, np.uint8), len(payloads)
    )  # fmt: skip


@pytest.fixture
def logged() -> Logged:
    return Logged()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([TEXT, OPENED, CLOSED]), st.binary(max_size=900)),
        st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.binary(max_size=300)), min_size=1, max_size=20),
        st.just("rotate"),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, bytes_max=st.integers(1, 6000), segment_bytes=st.sampled_from([SMALL, 8192, 1 << 20]))
def test_what_was_appended_is_read_back_however_it_was_segmented(steps, bytes_max, segment_bytes):
    with tempfile.TemporaryDirectory() as folder:
        expected: list[Entry] = []
        with Journal.open(Path(folder), segment_bytes=segment_bytes, compress=False) as journal:
            source = journal.source(SPEC)
            last = journal.end
            for number, step in enumerate(steps):
                if step == "rotate":
                    journal.rotate()
                    continue
                if isinstance(step, tuple):
                    position = journal.append(source, step[0], number, step[1])
                    expected.append((step[0], source, number, step[1]))
                else:
                    payloads, opcodes = [p for _, p in step], [o for o, _ in step]
                    position = append_chunk(journal, source, number, payloads, opcodes)
                    expected += [(opcode, source, number, payload) for opcode, payload in step]
                assert last < position == journal.end
                last = position
            assert everything(journal, 0, bytes_max) == expected
        with Journal.open(Path(folder), segment_bytes=segment_bytes, compress=False) as journal:
            assert journal.end == last
            assert everything(journal, 0, bytes_max) == expected
        read = [frames.payload(i) for frames in read_path(Path(folder)) for i in np.flatnonzero(frames.kinds != SOURCE)]
        assert read == texts(expected)


def test_a_frame_is_readable_at_once_and_positions_are_where_reading_goes_on(tmp_path):
    with Journal.open(tmp_path) as journal:
        positions = fill(journal, [b"one", b"", b"three"])
        frames = journal.read(positions[0])
        assert [frames.payload(i) for i in range(frames.count)] == [b"", b"three"]
        assert frames.ends.tolist() == positions[1:]
        assert journal.read(positions[2]) is None


def test_frames_stay_readable_after_their_segment_is_no_longer_open(tmp_path):
    with Journal.open(tmp_path, segment_bytes=SMALL) as journal:
        fill(journal, [b"first"])
        frames = journal.read(0)
        fill(journal, [bytes(1000)] * 40)
        assert b"first" in [frames.payload(i) for i in range(frames.count)]


def test_a_frame_larger_than_a_segment_gets_a_segment_of_its_own(tmp_path):
    large = os.urandom(50_000)
    with Journal.open(tmp_path, segment_bytes=SMALL) as journal:
        fill(journal, [b"before", large, b"after"])
        append_chunk(journal, 0, 1, [b"x", large], [1, 2])
        assert texts(everything(journal)) == [b"before", large, b"after", b"x", large]


def test_a_frame_above_the_bound_is_refused_and_nothing_is_written(tmp_path):
    with Journal.open(tmp_path) as journal:
        fill(journal, [b"one"])
        end = journal.end
        with pytest.raises(FrameTooLong):
            journal.append(0, TEXT, 1, bytes(FRAME_BYTES_MAX + 1))
        with pytest.raises(FrameTooLong):
            append_chunk(journal, 0, 1, [b"fits", bytes(FRAME_BYTES_MAX + 1)], [1, 1])
        assert journal.end == end


def test_sources_are_declared_again_in_every_segment_and_keep_their_ids_over_restarts(tmp_path):
    other = FeedSpec(name="kr", provider="kraken")
    with Journal.open(tmp_path, segment_bytes=SMALL, compress=False) as journal:
        assert [journal.source(SPEC), journal.source(other), journal.source(SPEC)] == [0, 1, 0]
        fill(journal, [bytes(900)] * 20)
    with Journal.open(tmp_path, segment_bytes=SMALL, compress=False) as journal:
        assert journal.specs == {0: SPEC, 1: other}
        assert [journal.source(other), journal.source(SPEC)] == [1, 0]
        assert journal.source(FeedSpec(name="bn", provider="binance")) == 2
        declared = journal.declarations(journal.end)
        assert declared.sources.tolist() == [0, 1, 2]
        assert declared.ends.tolist() == [journal.end] * 3
    for info in list_segments(tmp_path):
        first = next(read_path(info.path))
        assert first.kinds[:2].tolist() == [SOURCE, SOURCE]


def test_a_journal_without_frames_leaves_no_segment(tmp_path):
    Journal.open(tmp_path).close()
    assert list_segments(tmp_path) == []


def test_appending_after_close_is_an_error(tmp_path):
    journal = Journal.open(tmp_path)
    fill(journal, [b"one"])
    journal.close()
    journal.close()
    with pytest.raises(RecorderError, match="closed"):
        journal.append(0, TEXT, 1, b"late")


def one_segment(folder: Path, payloads: list[bytes]) -> Path:
    """A closed journal with the payloads in one segment; its file."""
    with Journal.open(folder, compress=False) as journal:
        fill(journal, payloads)
    (info,) = list_segments(folder)
    return info.path


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> tuple[Path, list[bytes], np.ndarray]:
    """(segment file, its payloads, file offsets where each frame ends)"""
    payloads = [os.urandom(20 + 13 * i) for i in range(8)]
    path = one_segment(tmp_path_factory.mktemp("sample"), payloads)
    sizes = np.cumsum([HEADER_BYTES + len(payload) for payload in payloads])
    return path, payloads, path.stat().st_size - sizes[-1] + sizes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_torn_at_any_byte_of_the_tail_the_whole_frames_before_remain(sample, data):
    path, payloads, ends = sample
    size = path.stat().st_size
    cut = data.draw(st.integers(int(ends[0]), size))
    zeros = data.draw(st.sampled_from([0, 5000]))  # a preallocated rest, as kill -9 leaves it
    whole = int(np.searchsorted(ends, cut, side="right"))
    with tempfile.TemporaryDirectory() as folder:
        torn = Path(folder) / path.name
        torn.write_bytes(path.read_bytes()[:cut] + bytes(zeros))
        logged = Logged()
        with Journal.open(Path(folder), log=logged, compress=False) as journal:
            assert texts(everything(journal)) == payloads[:whole]
            assert torn.stat().st_size == ends[whole - 1]
            journal.append(journal.source(SPEC), TEXT, 1, b"goes on")
            assert texts(everything(journal)) == [*payloads[:whole], b"goes on"]
        rest = path.read_bytes()[ends[whole - 1] : cut]
        events = logged.of("journal.truncated")
        assert len(events) == (1 if any(rest) else 0)
        if events:
            assert events[0]["at"] == ends[whole - 1]
            assert events[0]["frames"] == whole + 1  # and the declaration


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_reported_and_costs_its_own_frame_only(sample, data):
    path, payloads, ends = sample
    raw = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    first = int(ends[0]) - HEADER_BYTES - len(payloads[0])
    hit = int(np.searchsorted(ends, bit // 8, side="right"))
    expected = payloads if bit // 8 < first else payloads[:hit] + payloads[hit + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder) / path.name
        damaged.write_bytes(raw)
        assert not verify(damaged).intact
        logged = Logged()
        with Journal.open(Path(folder), log=logged, compress=False) as journal:
            assert texts(everything(journal)) == expected
        assert logged.of("journal.corrupt") or logged.of("journal.truncated")
        if hit < len(payloads) - 1 and bit // 8 >= first:
            assert logged.of("journal.corrupt")[0]["at"] == (ends[hit - 1] if hit else first)


def test_corruption_in_an_older_segment_is_logged_once_and_the_frames_behind_it_are_read(tmp_path, logged):
    payloads = [bytes([i]) * 700 for i in range(1, 30)]
    with Journal.open(tmp_path, segment_bytes=SMALL, compress=False) as journal:
        fill(journal, payloads)
    oldest = list_segments(tmp_path)[0].path
    raw = oldest.read_bytes()
    oldest.write_bytes(raw.replace(payloads[1], payloads[1][:-1] + b"\x00"))
    with Journal.open(tmp_path, segment_bytes=SMALL, compress=False, log=logged) as journal:
        for _ in range(2):
            assert texts(everything(journal)) == payloads[:1] + payloads[2:]
    assert len(logged.of("journal.corrupt")) == 1


def test_pages_that_never_reached_the_disk_do_not_take_later_frames_with_them(tmp_path, logged):
    payloads = [os.urandom(1000) for _ in range(30)]
    path = one_segment(tmp_path, payloads)
    raw = bytearray(path.read_bytes())
    raw[8192:12288] = bytes(4096)
    path.write_bytes(raw)
    with Journal.open(tmp_path, log=logged, compress=False) as journal:
        kept = texts(everything(journal))
    assert len(payloads) - 6 <= len(kept) < len(payloads)
    assert kept[-1] == payloads[-1]
    assert logged.of("journal.corrupt")


def test_a_segment_begun_but_not_yet_named_is_adopted(tmp_path):
    path = one_segment(tmp_path, [b"one", b"two"])
    path.rename(tmp_path / "next.prepared")
    with Journal.open(tmp_path, compress=False) as journal:
        assert texts(everything(journal)) == [b"one", b"two"]
    assert path.exists()


@pytest.mark.parametrize("size", [0, 64, 4096])
def test_a_segment_file_created_but_never_begun_is_removed(tmp_path, logged, size):
    path = one_segment(tmp_path, [b"one", b"two"])
    end = path.stat().st_size - FILE_HEADER_BYTES
    (tmp_path / f"20991231T235959Z-{end:016x}.journal").write_bytes(bytes(size))
    with Journal.open(tmp_path, log=logged, compress=False) as journal:
        assert journal.end == end
        assert texts(everything(journal)) == [b"one", b"two"]
    assert [info.path for info in list_segments(tmp_path)] == [path]
    assert not logged


def test_sync_waits_until_everything_appended_is_durable(tmp_path):
    with Journal.open(tmp_path, fsync_ms=60_000) as journal:
        positions = fill(journal, [b"one", b"two"])
        assert journal.sync() == positions[-1] == journal.synced


def test_the_group_sync_advances_by_itself(tmp_path):
    with Journal.open(tmp_path, fsync_ms=10, segment_bytes=SMALL) as journal:
        end = fill(journal, [bytes(500)] * 40)[-1]
        wait_until(lambda: journal.synced == end)


def test_released_position_survives_a_restart(tmp_path):
    with Journal.open(tmp_path) as journal:
        positions = fill(journal, [b"one", b"two"])
        journal.release(positions[0])
        journal.release(positions[0] - 1)
    with Journal.open(tmp_path) as journal:
        assert journal.released == positions[0]
        assert texts(everything(journal, journal.released)) == [b"two"]


def test_an_unreadable_released_file_is_reported_and_everything_is_read_again(tmp_path, logged):
    one_segment(tmp_path, [b"one"])
    (tmp_path / "released").write_bytes(b'{"rel')
    with Journal.open(tmp_path, log=logged) as journal:
        assert journal.released == 0
    assert logged.of("journal.released_unreadable")


def test_positions_of_applied_frames_that_a_power_loss_took_are_not_given_out_again(tmp_path):
    path = one_segment(tmp_path, [b"one", b"two", b"three"])
    end = path.stat().st_size - FILE_HEADER_BYTES
    (tmp_path / "released").write_text(f'{{"released":{end}}}\n')
    os.truncate(path, path.stat().st_size - 30)
    with Journal.open(tmp_path, compress=False) as journal:
        assert journal.end == end
        assert journal.append(journal.source(SPEC), TEXT, 1, b"new") > end
        assert texts(everything(journal, journal.released)) == [b"new"]
        assert texts(everything(journal)) == [b"one", b"new"]


def sealed_and_compressed(folder: Path, payloads: list[bytes], segment_bytes: int, logged: Logged) -> None:
    with Journal.open(folder, segment_bytes=segment_bytes, fsync_ms=5, log=logged) as journal:
        fill(journal, payloads)
        journal.release(journal.end)
        journal.rotate()
        journal.append(0, TEXT, 1, b"last")
        raw = len(journal.held) - 1
        wait_until(lambda: len(logged.of("journal.compressed")) == raw)
        assert texts(everything(journal)) == [*payloads, b"last"]


def test_compressed_segments_read_back_equal_and_the_raw_ones_are_gone(tmp_path, logged):
    payloads = [bytes([i % 7 + 60]) * (i * 37 % 1500) for i in range(100)]
    sealed_and_compressed(tmp_path, payloads, 16384, logged)
    infos = list_segments(tmp_path)
    assert [info.compressed for info in infos] == [True] * (len(infos) - 1) + [False]
    assert all(fields["bytes"] < fields["bytes_before"] for fields in logged.of("journal.compressed"))
    assert all(verify(info.path).intact for info in infos)
    with Journal.open(tmp_path, segment_bytes=16384, compress=False) as journal:
        assert texts(everything(journal)) == [*payloads, b"last"]


def test_a_compressed_segment_is_an_ordinary_zstd_file(tmp_path, logged):
    sealed_and_compressed(tmp_path, [os.urandom(700) for _ in range(3000)], 4 << 20, logged)
    packed = list_segments(tmp_path)[0].path
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed.read_bytes()), read_across_frames=True) as reader:
        (tmp_path / "x").mkdir()
        raw = tmp_path / "x" / packed.with_suffix("").name
        raw.write_bytes(reader.read())
    assert verify(raw).frames == verify(packed).frames == 3001


def test_damage_to_a_compressed_segment_costs_one_block_and_is_reported(tmp_path, logged):
    payloads = [i.to_bytes(4, "big") + os.urandom(900) for i in range(4000)]
    sealed_and_compressed(tmp_path, payloads, 8 << 20, logged)
    packed = list_segments(tmp_path)[0].path
    raw = bytearray(packed.read_bytes())
    raw[len(raw) // 2] ^= 16
    packed.write_bytes(raw)
    report = verify(packed)
    assert not report.intact
    assert report.corrupt_at
    with Journal.open(tmp_path, log=logged, compress=False) as journal:
        kept = texts(everything(journal))
    assert 0 < len(payloads) + 1 - len(kept) <= (1 << 20) // 920 + 3
    assert kept[-2:] == [payloads[-1], b"last"]
    assert set(kept) <= {*payloads, b"last"}
    assert logged.of("journal.corrupt")


def test_a_segment_that_is_not_released_is_neither_compressed_nor_removed(tmp_path, logged):
    with Journal.open(tmp_path, segment_bytes=SMALL, fsync_ms=5, keep_gb=0, keep_days=0, log=logged) as journal:
        positions = fill(journal, [bytes([i]) * 800 for i in range(60)])
        journal.release(positions[20])
        wait_until(lambda: journal.held[1].base > positions[20])  # no more may go than has gone
        assert journal.begin <= positions[20]
        assert logged.of("journal.retired")
        assert texts(everything(journal, positions[20])) == [bytes([i]) * 800 for i in range(21, 60)]
        unreleased = [each for each in journal.held if each.base >= positions[20]]
        assert unreleased
        assert not any(each.compressed for each in unreleased)


def test_reading_from_a_position_no_longer_held_starts_at_the_oldest_that_is(tmp_path, logged):
    with Journal.open(tmp_path, segment_bytes=SMALL, fsync_ms=5, keep_gb=0, log=logged) as journal:
        fill(journal, [bytes([i]) * 800 for i in range(60)])
        journal.release(journal.end)
        wait_until(lambda: len(journal.held) == 1)
        assert texts(everything(journal, 0)) == texts(everything(journal, journal.begin)) != []


def test_paused_retention_keeps_what_is_released_and_old(tmp_path, logged):
    with Journal.open(tmp_path, segment_bytes=SMALL, fsync_ms=5, keep_gb=0, keep_days=0, log=logged) as journal:
        journal.retention_paused = True
        fill(journal, [bytes(800)] * 30)
        journal.release(journal.end)
        wait_until(lambda: logged.of("journal.compressed"))
        assert journal.begin == 0
        journal.retention_paused = False
        wait_until(lambda: len(journal.held) == 1)


def test_paused_compression_leaves_segments_as_they_are_until_it_goes_on(tmp_path, logged):
    with Journal.open(tmp_path, segment_bytes=SMALL, fsync_ms=5, log=logged) as journal:
        journal.compression_paused = True
        fill(journal, [bytes([i]) * 800 for i in range(60)])
        journal.release(journal.end)
        wait_until(lambda: journal.released_kept == journal.end)  # only then may a segment be compressed
        for _ in range(3):  # further rounds of its thread, each of which would have begun it
            journal.append(journal.source(SPEC), TEXT, 1, b"more")
            wait_until(lambda: journal.synced == journal.end)
        assert not any(each.compressed for each in journal.held)
        journal.compression_paused = False
        wait_until(lambda: any(each.compressed for each in journal.held))
        assert texts(everything(journal))[:60] == [bytes([i]) * 800 for i in range(60)]


def test_a_segment_older_than_the_rotation_time_is_sealed(tmp_path):
    clock = [1_754_000_000_000_000_000]
    with Journal.open(tmp_path, fsync_ms=5, rotate_s=3600, now=lambda: clock[0], compress=False) as journal:
        fill(journal, [b"one"])
        clock[0] += 3_601_000_000_000
        wait_until(lambda: journal.append(0, TEXT, 1, b"later") and len(journal.held) == 2)
        assert set(texts(everything(journal))) == {b"one", b"later"}
    assert [info.path.name[:16] for info in list_segments(tmp_path)] == ["20250731T221320Z", "20250731T231321Z"]


def test_a_second_journal_on_the_directory_is_refused_and_the_holder_named(tmp_path):
    with Journal.open(tmp_path), pytest.raises(JournalLocked, match=f"process {os.getpid()}"):
        Journal.open(tmp_path)
    Journal.open(tmp_path).close()


def test_another_process_is_refused_too(tmp_path):
    script = (
        "import sys; from pathlib import Path; from recorder.shell.journal import Journal\n"
        "try: Journal.open(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    with Journal.open(tmp_path):
        ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.stdout.startswith("JournalLocked"), ran.stderr
    assert f"process {os.getpid()};" in ran.stdout


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_pauses_with_a_reason_loses_nothing_appended_and_resumes(small_disk, logged):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400 << 10))
    payload = [i.to_bytes(4, "big") * 100 for i in range(4000)]
    with Journal.open(
        small_disk / "journal", segment_bytes=64 << 10, fsync_ms=5, compress=False, log=logged
    ) as journal:
        source = journal.source(SPEC)
        with pytest.raises(JournalFull, match="no room for the next segment") as raised:
            append_chunk(journal, source, 1, payload, [1] * len(payload))
        done = raised.value.written
        assert 0 < done < len(payload)
        assert "recording resumes by itself" in journal.paused_reason
        with pytest.raises(JournalFull) as raised:
            append_chunk(journal, source, 1, payload[done : done + 50], [1] * 50)
        done += raised.value.written
        assert texts(everything(journal)) == payload[:done]
        ballast.unlink()
        wait_until(lambda: journal.paused_reason is None)
        append_chunk(journal, source, 1, payload[done : done + 50], [1] * 50)
        assert texts(everything(journal)) == payload[: done + 50]
    assert len(logged.of("journal.paused")) == len(logged.of("journal.resumed")) == 1


def test_a_full_disk_gives_up_released_segments_before_it_pauses(small_disk, logged):
    with Journal.open(small_disk, segment_bytes=64 << 10, fsync_ms=5, compress=False, log=logged) as journal:
        source = journal.source(SPEC)
        for number in range(4000):  # 2.5 times what the disk holds
            position = journal.append(source, TEXT, number, bytes(600))
            journal.release(position)
            if number % 50 == 0:  # slower than segments are prepared
                wait_until(lambda: journal.next is not None)
        assert journal.end > 2 << 20
    assert logged.of("journal.retired")
    assert not logged.of("journal.paused")


def test_free_space_to_be_left_is_respected(tmp_path, logged):
    with Journal.open(tmp_path, free_bytes_min=1 << 60, log=logged) as journal:
        with pytest.raises(JournalFull, match=str(1 << 60)):
            journal.source(SPEC)
        assert journal.specs == {}
    assert list_segments(tmp_path) == []


def test_a_file_that_is_no_segment_is_named_in_the_error(tmp_path):
    path = tmp_path / "notes.journal"
    path.write_bytes(b"hello" * 100)
    with pytest.raises(JournalCorrupt, match=r"notes\.journal"):
        next(read_path(path))
