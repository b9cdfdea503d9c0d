from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.core import text_time
from recorder.core.text_time import rfc3339_ns, unix_ns
from recorder.values.errors import FrameError
from recorder.values.symbols import hashed_id, text_id

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1678, 1, 1), datetime(2261, 12, 31, 23, 59, 59)).map(lambda d: d.replace(microsecond=0))
FRACTIONS = st.text("0123456789", max_size=9)


def oracle(moment: datetime, digits: str, offset_minutes: int = 0) -> int:
    """Integer arithmetic on what datetime says, nanoseconds added by hand."""
    since = moment.replace(tzinfo=UTC) - timedelta(minutes=offset_minutes) - EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + int((digits + "0" * 9)[:9])


@given(MOMENTS, FRACTIONS, st.sampled_from(["T", "t", " "]))
def test_every_utc_time_is_exact_to_the_nanosecond(moment: datetime, digits: str, separator: str) -> None:
    text = moment.strftime(f"{moment.year:04d}-%m-%d{separator}%H:%M:%S") + (f".{digits}" if digits else "") + "Z"
    assert rfc3339_ns(text) == oracle(moment, digits)


@given(MOMENTS, FRACTIONS, st.integers(-(23 * 60 + 59), 23 * 60 + 59))
def test_offsets_are_taken_off(moment: datetime, digits: str, minutes: int) -> None:
    offset = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    text = moment.strftime(f"{moment.year:04d}-%m-%dT%H:%M:%S") + (f".{digits}" if digits else "") + offset
    assert rfc3339_ns(text) == oracle(moment, digits, minutes)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("2001-09-09T01:46:40Z", 1_000_000_000_000_000_000),
        ("2014-11-07T08:19:27.028459Z", 1_415_348_367_028_459_000),
        ("2026-04-07 14:30:10.000000001+00:00", 1_775_572_210_000_000_001),
        ("2023-09-25T09:49:37.708706+02:00", 1_695_628_177_708_706_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000_000),
    ],
)
def test_known_times(text: str, ns: int) -> None:
    assert rfc3339_ns(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00.000000Z",
        "1677-12-31T23:59:59Z",
        "2262-01-01T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2023-13-01T00:00:00Z",
        "2023-00-10T00:00:00Z",
        "2023-01-01T24:00:00Z",
        "2023-01-01T00:60:00Z",
        "2016-12-31T23:59:60Z",
        "2023-01-01T00:00:00",
        "2023-01-01T00:00:00.Z",
        "2023-01-01T00:00:00.1234567890Z",
        "2023-01-01T00:00:00.1_2Z",
        "2023-01-01T00:00:00.+1Z",
        "2023-01-01T00:00:00.-1Z",
        "2023-01-01T00:00:00.١Z",
        "٢٠٢٣-01-01T00:00:00Z",
        "2023-01-01T00:00:00 Z",
        "2023-01-01T00:00:00ZZ",
        "2023-01-01T00:00:00.5",
        "2023-01-01T00:00:00+24:00",
        "2023-01-01T00:00:00+02:60",
        "2023-01-01T00:00:00+0200",
        "2023-01-01T00:00:00Z\n",
        "2023-06-23 20:31:56.121961769 +0000 UTC m=+91717.5",
    ],
)
def test_nonsense_is_a_frame_error_that_names_the_text(text: str) -> None:
    with pytest.raises(FrameError) as raised:
        rfc3339_ns(text)
    assert repr(text)[:50].rstrip("'\"") in str(raised.value)


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_frame_error(text: str) -> None:
    for read in (rfc3339_ns, unix_ns):
        with contextlib.suppress(FrameError):
            assert -(1 << 63) < read(text) < 1 << 63


def test_the_memory_of_seconds_is_bounded() -> None:
    for second in range(2 * text_time.WHOLE_SECONDS_MAX):
        moment = EPOCH + timedelta(seconds=second)
        assert rfc3339_ns(moment.strftime("%Y-%m-%dT%H:%M:%SZ")) == second * 10**9
        assert len(text_time._whole_ns) <= text_time.WHOLE_SECONDS_MAX


@given(st.integers(0, 9_223_372_035), FRACTIONS)
def test_unix_seconds_are_exact_to_the_nanosecond(seconds: int, digits: str) -> None:
    text = f"{seconds}.{digits}" if digits else str(seconds)
    assert unix_ns(text) == seconds * 10**9 + int((digits + "0" * 9)[:9])


@pytest.mark.parametrize(
    "text", ["", ".", "1.", ".5", "-1", "+1", "1e9", "1_0", " 1", "1 ", "nan", "9223372036.9", "1.1234567890", "١"]
)
def test_what_only_float_would_forgive_is_no_unix_time(text: str) -> None:
    with pytest.raises(FrameError, match="Unix seconds"):
        unix_ns(text)


def test_hashed_ids_are_stable_across_runs_and_fit_a_positive_long() -> None:
    # echo -n b3eb3a57 | b2sum -l 64, shifted right by one bit
    assert hashed_id("b3eb3a57") == 1_146_856_863_500_266_192
    assert all(0 <= hashed_id(str(n)) < 1 << 63 for n in range(1000))
    assert len({hashed_id(str(n)) for n in range(10_000)}) == 10_000


def test_numbers_stay_numbers_and_other_ids_keep_their_text() -> None:
    assert text_id("995098700") == (995098700, None)
    assert text_id("0") == (0, None)
    for text in ("b3eb3a57", "007", "", "9" * 19, "-5", "１２", "1.5"):
        assert text_id(text) == (hashed_id(text), text)
