"""FIX messages found in a stream: however it is cut, whatever is damaged."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.fix_frames import GARBLED, PARTIAL, PLAIN, SPECIAL, scan
from recorder.core.text_time import fix_ns, fix_text
from recorder.values.errors import FrameError
from recorder.values.fix import body_of, checksum, closed, fields_of

PEER, US = (np.frombuffer(text, np.uint8) for text in (b"FEED", b"REC"))


def message(number: int, kind: str = "X", extra: str = "268=0|", head: str = "") -> bytes:
    text = f"35={kind}|49=FEED|56=REC|34={number}|{head}52=20260105-14:30:00.000|{extra}"
    return closed(text.replace("|", "\x01").encode())


def found(stream: bytes, cuts: list[int] | None = None, expected: int = 1) -> list[tuple[bytes, int]]:
    """(frame, what it is) as a client finds them that gets the stream in pieces."""
    buffer, result = b"", []
    starts, lengths = np.zeros(7, np.int64), np.zeros(7, np.int64)
    bounds = [0, *sorted(cuts or []), len(stream)]
    for first, last in pairwise(bounds):
        buffer += stream[first:last]
        data, at, reason = np.frombuffer(buffer, np.uint8), 0, SPECIAL
        while reason != PARTIAL:
            count, at, reason, what = scan(data, at, len(data), expected, PEER, US, True, starts, lengths)
            for i in range(count):
                kind = what if reason == SPECIAL and i == count - 1 else PLAIN
                expected += kind == PLAIN
                result.append((buffer[starts[i] : starts[i] + lengths[i]], kind))
            if not count:
                break
        buffer = buffer[at:]
    return result


STREAM = [message(n, "W" if n % 3 else "X", f"268=0|58={'x' * n}|") for n in range(1, 20)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, sum(map(len, STREAM))), max_size=30))
def test_messages_do_not_depend_on_how_the_stream_was_cut(cuts: list[int]) -> None:
    assert found(b"".join(STREAM), cuts) == [(each, PLAIN) for each in STREAM]


@pytest.mark.parametrize(
    "other",
    [message(1, "0"), message(2), message(1, head="43=Y|"), message(1, extra="43=Y|268=0|"), message(1, "XX"),
     message(1).replace(b"49=FEED", b"49=FOOD")],
)  # fmt: skip
def test_only_market_data_in_sequence_between_the_two_is_plain(other: bytes) -> None:
    if b"FOOD" in other:
        other = closed(body_of(message(1)).replace(b"49=FEED", b"49=FOOD"))
    ((frame, what),) = found(other)
    assert frame == other
    assert what != PLAIN


def test_a_damaged_message_is_kept_and_the_next_is_found() -> None:
    """Any single byte of any value: the two around it are whole."""
    rng = random.Random(5)
    for _ in range(2000):
        bad = bytearray(message(2))
        place, value = rng.randrange(len(bad)), rng.randrange(256)
        if bad[place] == value:
            continue
        bad[place] = value
        stream = message(1) + bytes(bad) + message(3) + message(4)
        frames = found(stream)
        assert b"".join(frame for frame, _ in frames) == stream
        kinds = dict(frames)
        assert kinds[message(1)] == PLAIN
        assert message(3) in kinds or message(4) in kinds
        assert GARBLED in kinds.values()


def test_a_length_that_is_too_long_does_not_swallow_what_follows() -> None:
    bad = message(2).replace(b"9=", b"9=9", 1)
    frames = found(message(1) + bad + message(3))
    assert [what for _, what in frames] == [PLAIN, GARBLED, 1]
    assert frames[2][0] == message(3)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_no_bytes_crash_it_and_none_disappear(noise: bytes) -> None:
    frames = found(noise + b"\x01" + message(1))
    assert b"".join(frame for frame, _ in frames).endswith(message(1)) or b"8=FIX" in noise


@given(st.binary(max_size=2000))
def test_the_checksum_is_the_sum_of_all_bytes(data: bytes) -> None:
    assert checksum(data) == sum(data) % 256


@given(st.lists(st.tuples(st.integers(1, 9999), st.binary(min_size=1, max_size=20))))
def test_fields_come_back_as_they_were_joined(pairs: list[tuple[int, bytes]]) -> None:
    lengths = {90, 93, 95, 212, 348, 350, 352, 354, 356, 358, 360, 362, 364, 445, 618, 621}
    pairs = [(tag, value.replace(b"\x01", b"-")) for tag, value in pairs if tag not in lengths]
    body = b"35=X\x01" + b"".join(b"%d=%s\x01" % pair for pair in pairs)
    assert fields_of(body_of(closed(body)))[1:] == [(b"%d" % tag, value) for tag, value in pairs]


def test_a_data_field_may_hold_separators() -> None:
    body = b"35=X\x0195=7\x0196=a\x0110=1=\x0158=end\x01"
    assert fields_of(body) == [(b"35", b"X"), (b"95", b"7"), (b"96", b"a\x0110=1="), (b"58", b"end")]
    with pytest.raises(FrameError):
        fields_of(body.replace(b"95=7", b"95=6"))


@given(st.integers(0, 4_102_444_800_000))
def test_times_come_back_as_they_were_written(milliseconds: int) -> None:
    assert fix_ns(fix_text(milliseconds * 1_000_000)) == milliseconds * 1_000_000


@pytest.mark.parametrize(
    "text", [b"", b"20260230-00:00:00", b"20260105 00:00:00", b"20260105-24:00:00", b"2026010-1:00:00"]
)
def test_what_is_no_time_is_refused(text: bytes) -> None:
    with pytest.raises(FrameError):
        fix_ns(text)
