"""Frames found in a chunk by Numba, against the same rules in plain Python."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core import websocket_frames as wf

LENGTH_MAX = 70_000  # of the simple frames in these tests
MARKS = ((0, b'{"e":"trade"'), (1, b"zz"), (3, b"\x00"))


def frame(payload: bytes, first: int = 0x81, length_bytes: int | None = None, masked: bool = False) -> bytes:
    """A frame as RFC 6455 §5.2 draws it; ``length_bytes`` 0, 2 or 8 forces a longer form than needed."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    mask = 0x80 if masked else 0
    if length_bytes == 0:
        head = bytes([first, mask | size])
    else:
        code, pack = (126, ">H") if length_bytes == 2 else (127, ">Q")
        head = bytes([first, mask | code]) + struct.pack(pack, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def run_scan(data: bytes, marks=MARKS, room: int = 64, length_max: int = LENGTH_MAX, start: int = 0):
    chunk = np.frombuffer(bytearray(data + b"\x81\x01?"), np.uint8)  # what lies past `stop` must not matter
    arrays = wf.FrameArrays(marks, room)
    count, consumed, controls, reason = wf.scan(chunk, start, len(data), *arrays.arguments, length_max)
    frames = [
        (int(arrays.opcodes[i]), data[arrays.starts[i] : arrays.starts[i] + arrays.lengths[i]]) for i in range(count)
    ]
    return frames, consumed, list(arrays.controls[:controls]), reason


def slow_scan(data: bytes, marks=MARKS, length_max: int = LENGTH_MAX):
    """The oracle: the rules one by one."""
    frames, controls, at = [], [], 0
    while True:
        rest = data[at:]
        if not rest:
            return frames, at, controls, wf.DONE
        if len(rest) < 2:
            return frames, at, controls, wf.PARTIAL
        fin, reserved, opcode = rest[0] >> 7, rest[0] >> 4 & 7, rest[0] & 15
        if reserved or opcode not in (0, 1, 2, 8, 9, 10):
            return frames, at, controls, wf.RESERVED
        if opcode >= 8:
            return frames, at, controls, wf.CONTROL
        if not fin or opcode == 0:
            return frames, at, controls, wf.FRAGMENT
        if rest[1] & 0x80:
            return frames, at, controls, wf.MASKED
        short = rest[1] & 0x7F
        extra = {126: 2, 127: 8}.get(short, 0)
        if len(rest) < 2 + extra:
            return frames, at, controls, wf.PARTIAL
        length = int.from_bytes(rest[2 : 2 + extra], "big") if extra else short
        if extra and length < {2: 126, 8: 65536}[extra]:
            return frames, at, controls, wf.NOT_MINIMAL
        if length > length_max:
            return frames, at, controls, wf.TOO_LONG
        payload = rest[2 + extra : 2 + extra + length]
        if len(payload) < length:
            return frames, at, controls, wf.PARTIAL
        if not any(payload[offset : offset + len(mark)] == mark for offset, mark in marks):
            controls.append(len(frames))
        frames.append((opcode, payload))
        at += 2 + extra + length


payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b'{"e":"trade","p":"1"}', b'{"e":"trade"', b'{"e":"trad', b"?zz", b"?z", b"\0\0\0\0"]),
    st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70_000, 70_001]).map(lambda size: b"x" * size),
)
frames = st.builds(
    frame,
    payloads,
    first=st.one_of(st.sampled_from([0x81, 0x82]), st.sampled_from([0x81, 0x82]), st.integers(0, 255)),
)


@given(st.lists(frames, max_size=12), st.binary(max_size=12), st.data())
@settings(max_examples=300, deadline=None)
def test_scan_equals_the_rules_written_out(parts, tail, data):
    stream = b"".join(parts) + tail
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    assert run_scan(stream) == slow_scan(stream)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_scan_of_random_bytes_equals_the_rules_written_out(stream):
    assert run_scan(stream) == slow_scan(stream)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_every_length_encoding_is_read_up_to_the_last_byte(size):
    stream = frame(b"x" * size) + frame(b"y" * size, first=0x82)
    got, consumed, _, reason = run_scan(stream)
    assert (got, consumed, reason) == ([(1, b"x" * size), (2, b"y" * size)], len(stream), wf.DONE)


@pytest.mark.parametrize("size", [0, 5, 126, 65536])
def test_a_frame_is_reported_only_when_its_last_byte_is_here(size):
    first, second = frame(b"a"), frame(b"x" * size)
    for cut in {1, 2, 3, len(second) // 2, len(second) - 1} & set(range(1, len(second))):
        got, consumed, _, reason = run_scan(first + second[:cut])
        assert (got, consumed, reason) == ([(1, b"a")], len(first), wf.PARTIAL)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (frame(b"", first=0x89), wf.CONTROL),
        (frame(b"bye", first=0x88), wf.CONTROL),
        (frame(b"part", first=0x01), wf.FRAGMENT),
        (frame(b"part", first=0x80), wf.FRAGMENT),
        (frame(b"deflated", first=0xC1), wf.RESERVED),
        (frame(b"?", first=0x83), wf.RESERVED),
        (frame(b"masked", masked=True), wf.MASKED),
        (frame(b"x" * 70_001), wf.TOO_LONG),
        (frame(b"short", length_bytes=2), wf.NOT_MINIMAL),
        (frame(b"short", length_bytes=8), wf.NOT_MINIMAL),
        (frame(b"x" * 65535, length_bytes=8), wf.NOT_MINIMAL),
        (b"\x81\x7f" + b"\xff" * 8, wf.TOO_LONG),
    ],
)
def test_scan_stops_before_a_frame_that_is_not_simple_and_says_why(odd, reason):
    before = frame(b"a") + frame(b"b")
    got, consumed, _, why = run_scan(before + odd + frame(b"after"))
    assert ([payload for _, payload in got], consumed, why) == ([b"a", b"b"], len(before), reason)


def test_full_arrays_stop_the_scan_which_goes_on_from_there():
    stream = frame(b"a") * 5
    got, consumed, _, reason = run_scan(stream, room=3)
    assert (len(got), consumed, reason) == (3, 9, wf.FULL)
    got, consumed, _, reason = run_scan(stream, room=3, start=consumed)
    assert (len(got), consumed, reason) == (2, 15, wf.DONE)


def test_frames_without_any_mark_are_control_candidates():
    stream = frame(b'{"e":"trade"}') + frame(b'{"result":null}') + frame(b"-zz") + frame(b"")
    assert run_scan(stream)[2] == [1, 3]
    assert run_scan(stream, marks=())[2] == [0, 1, 2, 3]


@given(st.lists(frames, max_size=10), st.booleans(), st.data())
@settings(max_examples=300, deadline=None)
def test_spans_and_scans_share_the_stream_without_gap_or_overlap(parts, fragmented, data):
    """Whatever comes, one of the two takes it, waits for more bytes, or leaves all that follows to the parser."""
    stream = b"".join(parts)
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    chunk = np.frombuffer(bytearray(stream + b"\0"), np.uint8)
    at = 0
    for _ in range(2 * len(parts) + 2):
        if not fragmented:
            _, at, _, reason = run_scan(stream, start=at)
            if reason <= wf.PARTIAL:
                break
        end, owed, fragmented = wf.reference_span(chunk, at, len(stream), fragmented, LENGTH_MAX)
        assert at <= end <= len(stream)
        assert owed == 0 or end == len(stream)
        if end == at:
            assert len(stream) - at < 14  # only a header that is not here in full
            break
        at = end
        if at == len(stream):
            break
    else:
        raise AssertionError("the scanners do not get ahead")


def test_a_span_covers_fragments_with_pings_between_and_ends_with_the_message():
    run = frame(b"one", first=0x01) + frame(b"hi", first=0x89) + frame(b"two", first=0x00) + frame(b"end", first=0x80)
    chunk = np.frombuffer(bytearray(run + frame(b"simple")), np.uint8)
    assert wf.reference_span(chunk, 0, len(chunk), False, LENGTH_MAX) == (len(run), 0, False)


def test_a_span_tells_how_many_bytes_of_its_last_frame_are_still_to_come():
    stream = frame(b"0123456789", first=0x01)
    chunk = np.frombuffer(bytearray(stream), np.uint8)
    assert wf.reference_span(chunk, 0, 7, False, LENGTH_MAX) == (7, 5, True)


def test_a_simple_frame_inside_an_open_message_belongs_to_the_parser():
    """It is an error of the peer's, which the reference parser must see to close with 1002."""
    stream = frame(b"one", first=0x01) + frame(b"intruder")
    chunk = np.frombuffer(bytearray(stream), np.uint8)
    assert wf.reference_span(chunk, 0, len(stream), False, LENGTH_MAX)[0] == len(stream)


def test_a_frame_no_parser_accepts_takes_the_rest_with_it():
    for broken in (frame(b"m", masked=True), frame(b"?", first=0x87), b"\x82\x7f" + b"\xff" * 8):
        stream = broken + frame(b"after")
        chunk = np.frombuffer(bytearray(stream), np.uint8)
        assert wf.reference_span(chunk, 0, len(stream), False, LENGTH_MAX)[:2] == (len(stream), 0)
