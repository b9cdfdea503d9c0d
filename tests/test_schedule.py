"""Expected times are those the exchanges publish (NYSE, LSE, HKEX for 2026), not what the code computes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.shell import calendars
from recorder.values.config import ScheduleConfig
from recorder.values.errors import ConfigError, RecorderError
from recorder.values.schedule import (
    CALENDARS,
    Closed,
    Open,
    Schedule,
    Session,
    TradingDay,
    day_boundaries,
    nearest_calendar,
    us_sessions,
)

MINUTE = 60_000_000_000
HOUR = 60 * MINUTE


def ns(text: str) -> int:
    """ns of ``2026-11-27 18:00`` UTC."""
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000


def session(start: str, end: str) -> Session:
    return Session(ns(start), ns(end))


# Sessions of US equities


@pytest.mark.parametrize(
    ("day", "early", "extended", "regular"),
    [  # day, UTC hours of 04:00–20:00 (17:00) and of 09:30–16:00 (13:00) New York
        ("2026-01-05", False, ("2026-01-05 09:00", "2026-01-06 01:00"), ("2026-01-05 14:30", "2026-01-05 21:00")),
        ("2026-07-02", False, ("2026-07-02 08:00", "2026-07-03 00:00"), ("2026-07-02 13:30", "2026-07-02 20:00")),
        # Clocks go forward on Sunday 8 March and back on Sunday 1 November.
        ("2026-03-06", False, ("2026-03-06 09:00", "2026-03-07 01:00"), ("2026-03-06 14:30", "2026-03-06 21:00")),
        ("2026-03-09", False, ("2026-03-09 08:00", "2026-03-10 00:00"), ("2026-03-09 13:30", "2026-03-09 20:00")),
        ("2026-10-30", False, ("2026-10-30 08:00", "2026-10-31 00:00"), ("2026-10-30 13:30", "2026-10-30 20:00")),
        ("2026-11-02", False, ("2026-11-02 09:00", "2026-11-03 01:00"), ("2026-11-02 14:30", "2026-11-02 21:00")),
        ("2026-11-27", True, ("2026-11-27 09:00", "2026-11-27 22:00"), ("2026-11-27 14:30", "2026-11-27 18:00")),
        ("2026-12-24", True, ("2026-12-24 09:00", "2026-12-24 22:00"), ("2026-12-24 14:30", "2026-12-24 18:00")),
    ],
)
def test_hours_of_us_equities_follow_new_york_through_daylight_saving(
    day: str, early: bool, extended: tuple[str, str], regular: tuple[str, str]
) -> None:
    days = [TradingDay(date.fromisoformat(day), early)]
    assert us_sessions(days, "extended") == [session(*extended)]
    assert us_sessions(days, "regular") == [session(*regular)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calendars")


def open_dates(sessions: list[Session] | None, zone: str) -> dict[str, Session]:
    assert sessions is not None
    return {datetime.fromtimestamp(s.open_ns // 10**9, ZoneInfo(zone)).date().isoformat(): s for s in sessions}


def test_new_york_has_the_published_holidays_and_early_closes_of_2026(cache: Path) -> None:
    holidays = {"2026-01-01", "2026-01-19", "2026-02-16", "2026-04-03", "2026-05-25", "2026-06-19", "2026-07-03",
                "2026-09-07", "2026-11-26", "2026-12-25"}  # fmt: skip
    sessions = open_dates(calendars.sessions_of("XNYS", "extended", ns("2025-12-31 12:00"), cache), "America/New_York")
    year = [(date(2026, 1, 1) + timedelta(n)) for n in range(365)]
    assert {d.isoformat() for d in year if d.weekday() < 5} - sessions.keys() == holidays
    assert not any(d.isoformat() in sessions for d in year if d.weekday() >= 5)
    early = {d for d, s in sessions.items() if d >= "2026" and s.close_ns - s.open_ns == 13 * HOUR}
    assert early == {"2026-11-27", "2026-12-24"}
    assert sessions["2026-11-27"] == session("2026-11-27 09:00", "2026-11-27 22:00")
    # The 2025 tail and what the same cached days give for regular hours.
    assert sessions["2025-12-24"] == session("2025-12-24 09:00", "2025-12-24 22:00")
    regular = open_dates(calendars.sessions_of("XNYS", "regular", ns("2025-12-31 12:00"), cache), "America/New_York")
    assert regular["2026-11-27"].close_ns == ns("2026-11-27 18:00")
    assert regular["2026-12-24"].close_ns == ns("2026-12-24 18:00")


def test_unscheduled_closure_of_9_january_2025_is_known(cache: Path) -> None:
    sessions = open_dates(calendars.sessions_of("XNAS", "extended", ns("2025-01-10 12:00"), cache), "America/New_York")
    assert "2025-01-09" not in sessions
    assert {"2025-01-08", "2025-01-10"} <= sessions.keys()


def test_london_keeps_its_own_hours_whatever_session_says(cache: Path) -> None:
    sessions = open_dates(calendars.sessions_of("XLON", "extended", ns("2026-03-20 12:00"), cache), "Europe/London")
    assert sessions["2026-03-27"] == session("2026-03-27 08:00", "2026-03-27 16:30")
    assert sessions["2026-03-30"] == session("2026-03-30 07:00", "2026-03-30 15:30")  # summer time since the 29th
    assert sessions["2026-12-24"] == session("2026-12-24 08:00", "2026-12-24 12:30")  # half day
    for closed in ("2026-04-03", "2026-04-06", "2026-05-04", "2026-05-25", "2026-08-31", "2026-12-25", "2026-12-28"):
        assert closed not in sessions


def test_hong_kong_is_recorded_through_its_lunch_break(cache: Path) -> None:
    sessions = open_dates(calendars.sessions_of("XHKG", "regular", ns("2026-02-10 12:00"), cache), "Asia/Hong_Kong")
    assert sessions["2026-02-10"] == session("2026-02-10 01:30", "2026-02-10 08:00")
    assert sessions["2026-02-16"] == session("2026-02-16 01:30", "2026-02-16 04:00")  # Lunar New Year's eve: half day
    for closed in ("2026-02-17", "2026-02-18", "2026-02-19"):
        assert closed not in sessions


# Calendars: how they are had


def test_pandas_never_enters_the_recorder_process(cache: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from recorder.shell import calendars;"
        f"calendars.sessions_of('XNYS', 'extended', {ns('2025-12-31 12:00')}, Path({str(cache)!r}));"
        f"calendars.sessions_of('XHKG', 'extended', {ns('2026-02-10 12:00')}, Path({str(cache)!r}));"
        "print('pandas' in sys.modules, 'exchange_calendars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_second_question_of_the_day_is_answered_from_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = calendars.sessions_of("XNYS", "regular", ns("2025-12-31 12:00"), cache)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert calendars.sessions_of("XNYS", "regular", ns("2025-12-31 20:00"), cache) == first


def test_damaged_cache_is_computed_anew(cache: Path, tmp_path: Path) -> None:
    wanted = calendars.exchange_days("XNYS", ns("2025-12-31 12:00"), cache)
    (written,) = cache.glob("XNYS-*.json")
    for damage in (b"", b"{}", b'{"sessions": [["2026-01-02", 5, 5]]}', b"\xff", written.read_bytes()[:-20]):
        shutil.copy(written, tmp_path)
        (tmp_path / written.name).write_bytes(damage)
        assert calendars._read(tmp_path / written.name) is None
    assert calendars.exchange_days("XNYS", ns("2025-12-31 12:00"), tmp_path) == wanted
    assert calendars._read(tmp_path / written.name) == wanted


def test_older_calendar_serves_when_a_new_one_cannot_be_computed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = calendars.exchange_days("XNYS", ns("2025-12-31 12:00"), cache)
    (written,) = cache.glob("XNYS-*.json")
    shutil.copy(written, tmp_path)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert calendars.exchange_days("XNYS", ns("2026-05-05 12:00"), tmp_path) == known
    with pytest.raises(RecorderError, match="calendar XNYS: its sessions could not be computed"):
        calendars.exchange_days("XNYS", ns("2028-05-05 12:00"), tmp_path)  # past all that it knew


def test_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sessions = calendars.sessions_of("24/5", "regular", ns("2026-01-07 12:00"), tmp_path / "file" / "folder")
    assert sessions is not None
    assert session("2026-01-07 00:00", "2026-01-08 00:00") in sessions


def test_unknown_calendar_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"calendar 'XNYZE' is not known; did you mean X"):
        calendars.sessions_of("XNYZE", "regular", 0)
    assert nearest_calendar("xlon").startswith("did you mean XLON? known: 24/7 and")


def test_names_written_down_are_those_the_library_knows() -> None:
    program = "import exchange_calendars as x, json; print(json.dumps(x.get_calendar_names(include_aliases=True)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) >= CALENDARS


def test_schedule_of_a_calendar_has_the_lead_and_drain_of_the_configuration(cache: Path) -> None:
    config = ScheduleConfig(session="regular", lead_s=120, drain_s=30)
    schedule = calendars.schedule("XNYS", config, ns("2025-12-31 12:00"), cache)
    assert schedule.state(ns("2025-12-31 12:00")) == Closed(ns("2025-12-31 14:28"))
    assert schedule.state(ns("2025-12-31 14:28")) == Open(ns("2025-12-31 21:00") + 30 * 10**9)
    assert schedule.next_open(ns("2025-12-31 21:01")) == ns("2026-01-02 14:28")  # over New Year's Day


def test_round_the_clock_needs_no_calendar() -> None:
    schedule = calendars.schedule("24/7", ScheduleConfig())
    assert schedule.state(0) == schedule.state(2**62) == Open(None)
    assert schedule.next_open(0) is None
    assert schedule.known_until_ns is None


# Schedule

DAY = session("2026-01-05 09:00", "2026-01-06 01:00")  # extended hours in winter reach past midnight UTC
NEXT = session("2026-01-06 09:00", "2026-01-07 01:00")


@pytest.mark.parametrize(
    ("now", "state"),
    [
        ("2026-01-05 08:59", Closed(DAY.open_ns)),
        ("2026-01-05 09:00", Open(DAY.close_ns)),
        ("2026-01-06 00:59", Open(DAY.close_ns)),
        ("2026-01-06 01:00", Closed(NEXT.open_ns)),
        ("2026-01-07 01:00", Closed(None)),
    ],
)
def test_state_changes_at_open_and_close_to_the_minute(now: str, state: Open | Closed) -> None:
    assert Schedule([NEXT, DAY]).state(ns(now)) == state


def test_close_is_not_part_of_the_session() -> None:
    schedule = Schedule([DAY])
    assert schedule.state(DAY.close_ns - 1) == Open(DAY.close_ns)
    assert schedule.state(DAY.close_ns) == Closed(None)
    assert schedule.state(DAY.open_ns - 1) == Closed(DAY.open_ns)


def test_sessions_that_meet_through_lead_and_drain_are_one() -> None:
    schedule = Schedule([DAY, NEXT], lead_ns=5 * HOUR, drain_ns=3 * HOUR)
    assert schedule.state(ns("2026-01-06 04:00")) == Open(NEXT.close_ns + 3 * HOUR)


def test_schedule_without_sessions_is_closed() -> None:
    assert Schedule([]).state(0) == Closed(None)


def test_session_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="not after its open"):
        Schedule([Session(5, 5)])


_SESSIONS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), max_size=12).map(
    lambda pairs: [Session(start, start + length) for start, length in pairs]
)


@given(sessions=_SESSIONS, lead=st.integers(0, 20), drain=st.integers(0, 20))
def test_state_is_open_exactly_within_a_widened_session(sessions: list[Session], lead: int, drain: int) -> None:
    schedule = Schedule(sessions, lead, drain)
    inside = [any(s.open_ns - lead <= t < s.close_ns + drain for s in sessions) for t in range(-30, 280)]
    for t in range(-30, 279):
        state = schedule.state(t)
        later = [u for u in range(t + 1, 280) if inside[u + 30] != inside[t + 30]]
        if inside[t + 30]:
            assert state == Open(later[0])
        else:
            assert state == Closed(later[0] if later else None)


# Midnights at which a VWAP session begins


@pytest.mark.parametrize(
    ("zone", "first", "hours"),
    [
        ("America/New_York", "2026-03-08 05:00", 23),  # clocks forward
        ("America/New_York", "2026-03-09 04:00", 24),
        ("America/New_York", "2026-11-01 04:00", 25),  # clocks back
        ("America/New_York", "2026-11-02 05:00", 24),
        ("Europe/London", "2026-03-29 00:00", 23),
        ("Asia/Hong_Kong", "2026-03-28 16:00", 24),
        ("UTC", "2026-03-08 00:00", 24),
        ("America/Sao_Paulo", "2018-11-04 03:00", 23),  # midnight itself did not exist: the day began at 01:00
    ],
)
def test_day_begins_at_local_midnight_and_lasts_what_the_clock_says(zone: str, first: str, hours: int) -> None:
    boundaries = day_boundaries(zone)
    index = int(np.searchsorted(boundaries, ns(first)))
    assert boundaries[index] == ns(first)
    assert boundaries[index + 1] - boundaries[index] == hours * HOUR


def test_boundaries_cover_1990_to_2050_and_grow() -> None:
    boundaries = day_boundaries("America/New_York")
    assert boundaries.dtype == np.int64
    assert boundaries[0] == ns("1990-01-01 05:00")
    assert boundaries[-1] == ns("2051-01-01 05:00")
    assert len(boundaries) == 61 * 365 + 15 + 1  # 15 leap days, and the end of the last day
    assert (np.diff(boundaries) > 0).all()


def test_day_that_a_zone_skipped_has_no_session_of_its_own() -> None:
    boundaries = day_boundaries("Pacific/Apia")  # went from 29 to 31 December 2011
    assert len(boundaries) == len(day_boundaries("UTC")) - 1
    assert (np.diff(boundaries) > 0).all()


@given(ts=st.integers(ns("1990-01-02 00:00"), ns("2050-12-31 00:00")))
def test_every_moment_lies_in_the_local_day_its_clock_shows(ts: int) -> None:
    boundaries = day_boundaries("America/New_York")
    start = boundaries[np.searchsorted(boundaries, ts, "right") - 1]
    zone = ZoneInfo("America/New_York")
    shown = [datetime.fromtimestamp(int(t) // 10**9, zone).date() for t in (start, ts)]
    assert shown[0] == shown[1]


def test_boundaries_are_shared_and_cannot_be_changed() -> None:
    assert day_boundaries("UTC") is day_boundaries("UTC")
    with pytest.raises(ValueError, match="read-only"):
        day_boundaries("UTC")[0] = 0
