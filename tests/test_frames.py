"""Journal records: written, listed, checksummed, and what damage does to them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.core import frames as fr
from recorder.values.errors import FrameTooLong

PAYLOADS = st.lists(st.binary(max_size=200), max_size=12)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile first, or the first example of a property would miss its deadline."""
    fr.warm()


def expected_record(source: int, kind: int, ts_recv: int, payload: bytes) -> bytes:
    """A record by the format's description, without the code under test."""
    checked = struct.pack("<qHBB", ts_recv, source, kind, 0)
    return struct.pack("<II", len(payload), zlib.crc32(checked + payload)) + checked + payload


def written(payloads: list[bytes], spare: int = 64, ts_recv: int = 1_700_000_000_000_000_000) -> tuple[np.ndarray, int]:
    """(buffer with the payloads as records and ``spare`` zeros behind them, offset past the last)."""
    data = b"".join(expected_record(7, fr.TEXT, ts_recv + i, payload) for i, payload in enumerate(payloads))
    return np.frombuffer(bytearray(data + bytes(spare)), np.uint8), len(data)


def listed(data: np.ndarray, stop: int, capacity: int = 64, offset: int = 0) -> tuple[list[bytes], int, int]:
    out = np.empty((fr.COLUMNS, capacity), np.int64)
    count, following, status = fr.index(data, offset, stop, offset, True, out)
    found = fr.Frames(data, out[:, :count].copy(), following)
    return [found.payload(i) for i in range(count)], following, status


def chunk_of(payloads: list[bytes], gap: bytes = b"\x81\x05") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Payloads in one chunk with foreign bytes between them, their starts and lengths."""
    chunk, starts = b"", []
    for payload in payloads:
        chunk += gap
        starts.append(len(chunk))
        chunk += payload
    lengths = [len(payload) for payload in payloads]
    return np.frombuffer(bytearray(chunk + gap), np.uint8), np.array(starts, np.int64), np.array(lengths, np.int64)


@given(data=st.binary(max_size=400), start=st.integers(0, 40), value=st.integers(0, (1 << 32) - 1))
def test_crc32_equals_zlib(data, start, value):
    start = min(start, len(data))
    array = np.frombuffer(bytearray(data), np.uint8)
    assert fr.crc32(array, start, len(data) - start, value) == zlib.crc32(data[start:], value)


@given(data=st.binary(max_size=300), cut=st.integers(0, 300))
def test_crc32_of_header_part_continues_over_the_payload(data, cut):
    array = np.frombuffer(bytearray(data), np.uint8)
    cut = min(cut, len(data))
    assert fr.crc32(array, cut, len(data) - cut, fr.crc32(array, 0, cut, 0)) == zlib.crc32(data)


@given(payloads=PAYLOADS, ts_recv=INT64, source=st.integers(0, 65535), data=st.data())
def test_frames_of_a_chunk_become_the_records_the_format_describes(payloads, ts_recv, source, data):
    opcodes = data.draw(st.lists(st.sampled_from([1, 2]), min_size=len(payloads), max_size=len(payloads)))
    chunk, starts, lengths = chunk_of(payloads)
    dest = np.zeros(4096, np.uint8)
    count, offset = fr.write_frames(
        dest, 5, source, np.array(opcodes, np.uint8), ts_recv, chunk, starts, lengths, 0, len(payloads)
    )
    expected = b"".join(expected_record(source, o, ts_recv, p) for o, p in zip(opcodes, payloads, strict=True))
    assert count == len(payloads)
    assert dest[5:offset].tobytes() == expected
    assert not dest[offset:].any()


@given(payload=st.binary(max_size=500), ts_recv=INT64, source=st.integers(0, 65535), kind=st.integers(1, 6))
def test_write_one_writes_the_record_the_format_describes(payload, ts_recv, source, kind):
    dest = bytearray(600)
    offset = fr.write_one(dest, 3, source, kind, ts_recv, payload)
    assert dest[3:offset] == expected_record(source, kind, ts_recv, payload)


@given(payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=12), room=st.integers(0, 400))
def test_writing_stops_at_the_first_frame_without_room_and_goes_on_elsewhere(payloads, room):
    chunk, starts, lengths = chunk_of(payloads)
    opcodes = np.ones(len(payloads), np.uint8)
    dest, rest = np.zeros(room, np.uint8), np.zeros(4096, np.uint8)
    first, offset = fr.write_frames(dest, 0, 1, opcodes, 9, chunk, starts, lengths, 0, len(payloads))
    second, end = fr.write_frames(rest, 0, 1, opcodes, 9, chunk, starts, lengths, first, len(payloads))
    sizes = np.cumsum([fr.HEADER_BYTES + len(payload) for payload in payloads])
    assert first == np.searchsorted(sizes, room, side="right")
    assert first + second == len(payloads)
    assert listed(dest, offset)[0] + listed(rest, end)[0] == payloads


def test_a_frame_outside_its_chunk_is_refused_before_anything_is_written():
    dest, chunk = np.zeros(256, np.uint8), np.zeros(16, np.uint8)
    for start, length in ((10, 7), (-1, 3), (0, -1), (0, fr.FRAME_BYTES_MAX + 1)):
        starts, lengths = np.array([0, start], np.int64), np.array([4, length], np.int64)
        assert fr.write_frames(dest, 8, 1, np.ones(2, np.uint8), 1, chunk, starts, lengths, 0, 2) == (-1, 8)
    assert not dest.any()


def test_a_single_frame_above_the_bound_is_refused():
    dest = bytearray(64)
    with pytest.raises(FrameTooLong, match=str(fr.FRAME_BYTES_MAX + 1)):
        fr.write_one(dest, 0, 1, fr.TEXT, 0, bytes(fr.FRAME_BYTES_MAX + 1))
    assert dest == bytes(64)


def test_a_single_frame_without_room_is_not_begun():
    dest = bytearray(30)
    assert fr.write_one(dest, 0, 1, fr.TEXT, 0, b"x" * 11) == -1
    assert dest == bytes(30)


@given(payloads=PAYLOADS, position=st.integers(0, 1 << 60))
def test_index_gives_places_positions_and_header_of_every_frame(payloads, position):
    listed_frames = [(1 + i % 6, i * 31, i - 5, payload) for i, payload in enumerate(payloads)]
    frames = fr.frames_from_list(listed_frames, position)
    rows = zip(frames.kinds, frames.sources, frames.ts_recv, range(len(frames)), strict=True)
    assert [(k, s, t, frames.payload(i)) for k, s, t, i in rows] == listed_frames
    ends = position + np.cumsum([fr.HEADER_BYTES + len(payload) for payload in payloads], dtype=np.int64)
    assert frames.ends.tolist() == ends.tolist()
    assert frames.end == (ends[-1] if payloads else position)


@given(payloads=PAYLOADS, capacity=st.integers(1, 5))
def test_index_resumes_where_its_arrays_were_full(payloads, capacity):
    data, _ = written(payloads)
    found, offset, status = [], 0, fr.OK
    while status == fr.OK:
        part, offset, status = listed(data, len(data), capacity, offset)
        found += part
    assert found == payloads
    assert status == fr.END


@given(payloads=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), data=st.data())
def test_cut_at_any_byte_exactly_the_whole_frames_before_remain(payloads, data):
    array, end = written(payloads, spare=0)
    cut = data.draw(st.integers(0, end))
    sizes = np.cumsum([fr.HEADER_BYTES + len(payload) for payload in payloads])
    whole = int(np.searchsorted(sizes, cut, side="right"))
    found, offset, status = listed(array, cut)
    assert found == payloads[:whole]
    assert offset == (sizes[whole - 1] if whole else 0)
    assert status == (fr.END if offset == cut else fr.TORN)


@given(payloads=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), data=st.data())
def test_a_flipped_bit_anywhere_is_detected_at_its_frame(payloads, data):
    array, end = written(payloads)
    bit = data.draw(st.integers(0, end * 8 - 1))
    array[bit // 8] ^= 1 << (bit % 8)
    sizes = np.cumsum([fr.HEADER_BYTES + len(payload) for payload in payloads])
    hit = int(np.searchsorted(sizes, bit // 8, side="right"))
    found, offset, status = listed(array, end)
    assert found == payloads[:hit]
    assert status in (fr.TORN, fr.CORRUPT)
    assert offset == (sizes[hit - 1] if hit else 0)


@given(payloads=st.lists(st.binary(min_size=1, max_size=60), min_size=2, max_size=6), data=st.data())
def test_resync_finds_the_frame_behind_a_damaged_one(payloads, data):
    array, end = written(payloads)
    sizes = np.cumsum([0] + [fr.HEADER_BYTES + len(payload) for payload in payloads])
    hit = data.draw(st.integers(0, len(payloads) - 2))
    byte = data.draw(st.integers(int(sizes[hit]), int(sizes[hit + 1]) - 1))
    array[byte] ^= data.draw(st.integers(1, 255))
    assert fr.resync(array, int(sizes[hit]), end, 1 << 20) == sizes[hit + 1]


def test_resync_is_not_misled_by_a_damaged_length_that_leads_to_a_later_record():
    array, end = written([b"\x00", b"\x00\x00\x00\x00", b"\x00"])
    array[0] = 1 + fr.HEADER_BYTES + 4  # now reaches past the second record, to the third
    assert fr.resync(array, 0, end, 1 << 20) == fr.HEADER_BYTES + 1


def test_resync_does_not_take_a_record_inside_a_damaged_payload_for_one():
    inner = expected_record(1, fr.TEXT, 5, b"a record quoted in a payload")
    array, end = written([b"quotes: " + inner, b"after"])
    array[fr.HEADER_BYTES] ^= 1
    assert fr.resync(array, 0, end, 1 << 20) == 2 * fr.HEADER_BYTES + 8 + len(inner) - fr.HEADER_BYTES


def test_resync_gives_up_when_nothing_valid_follows():
    array, _ = written([b"only"], spare=5000)
    array[4] ^= 1
    assert fr.resync(array, 0, len(array), 1 << 20) == -1


def test_resync_passes_over_zeros_that_were_never_written():
    lost, _ = written([b"lost page"], spare=0)
    later, _ = written([b"kept page"], spare=16)
    array = np.concatenate([np.zeros(len(lost) + 4096, np.uint8), later])
    assert fr.resync(array, 0, len(array), 1 << 20) == len(lost) + 4096
