"""Sessions of the exchanges, computed in a short-lived process and cached for the day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time as clock
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from importlib.metadata import version
from pathlib import Path

import platformdirs

from recorder.shell import log
from recorder.values.config import ScheduleConfig
from recorder.values.errors import ConfigError, RecorderError
from recorder.values.schedule import (
    ALWAYS,
    CALENDARS,
    NEW_YORK,
    US_EQUITY_CALENDARS,
    Schedule,
    Session,
    SessionKind,
    TradingDay,
    local_ns,
    nearest_calendar,
    us_sessions,
)

DAYS_BACK = 14  # a session that began before a long weekend, and what backfill asks about last week
DAYS_AHEAD = 366
COMPUTE_TIMEOUT_S = 120.0  # takes 2 s on an idle core
CACHE_BYTES_MAX = 1 << 20  # a year is 20 kB

_log = log.get("calendar")


@dataclass(frozen=True)
class ExchangeDay:
    """A day of an exchange: its date there, and its regular hours in ns UTC."""

    day: date
    open_ns: int
    close_ns: int


def schedule(calendar: str, config: ScheduleConfig, now_ns: int | None = None, cache: Path | None = None) -> Schedule:
    """When to record by ``calendar`` (a feed's own, or ``config.calendar``) with the lead and drain of ``config``.

    Known from DAYS_BACK before ``now_ns`` (None: the clock's) to about a year after: ask again
    every day. Takes seconds when not cached.
    Raises ConfigError for an unknown calendar, RecorderError when its sessions cannot be computed.
    """
    sessions = sessions_of(calendar, config.session, clock.time_ns() if now_ns is None else now_ns, cache)
    return Schedule(sessions, config.lead_s * 1_000_000_000, config.drain_s * 1_000_000_000)


def sessions_of(calendar: str, kind: SessionKind, now_ns: int, cache: Path | None = None) -> list[Session] | None:
    """Sessions of a calendar around ``now_ns``; None for 24/7. "extended" widens US equities only."""
    if calendar not in CALENDARS:
        raise ConfigError(f"calendar {calendar!r} is not known; {nearest_calendar(calendar)}")
    if calendar == ALWAYS:
        return None
    days = exchange_days(calendar, now_ns, cache)
    if calendar in US_EQUITY_CALENDARS:
        return us_sessions([TradingDay(d.day, _is_early(d)) for d in days], kind)
    return [Session(d.open_ns, d.close_ns) for d in days]


def _is_early(day: ExchangeDay) -> bool:
    return day.close_ns < local_ns(day.day, time(16), NEW_YORK)


def exchange_days(calendar: str, now_ns: int, cache: Path | None = None) -> list[ExchangeDay]:
    """Trading days of a calendar around ``now_ns``, from today's cache or computed. Raises RecorderError."""
    folder = cache or platformdirs.user_cache_path("recorder") / "calendars"
    today = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC).date()
    stem = f"{calendar.replace('/', '_')}-"
    path = folder / f"{stem}{version('exchange-calendars')}-{today}.json"
    known = _read(path)
    if known is not None:
        return known
    try:
        text = _compute(calendar, today)
        days = _parse(text)
    except RecorderError as error:
        older = _latest(folder, stem, now_ns)
        if older is None:
            raise
        _log.warning("calendar.reused", calendar=calendar, reason=str(error), known_until=older[-1].day.isoformat())
        return older
    _write(path, text, stem)
    return days


def _compute(calendar: str, today: date) -> str:
    program = Path(__file__).with_name("calendar_days.py")
    start, end = today - timedelta(DAYS_BACK), today + timedelta(DAYS_AHEAD)
    # -P: not this folder first on the path, whose modules have names of the standard library
    command = [sys.executable, "-P", str(program), calendar, start.isoformat(), end.isoformat()]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPUTE_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RecorderError(f"calendar {calendar}: its sessions could not be computed: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RecorderError(
            f"calendar {calendar}: its sessions could not be computed: {last[:300]}; reinstall exchange-calendars"
        )
    return done.stdout


def _parse(text: str) -> list[ExchangeDay]:
    """Raises RecorderError for anything but a list of sessions, oldest first."""
    try:
        days = [ExchangeDay(date.fromisoformat(d), int(o), int(c)) for d, o, c in json.loads(text)["sessions"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RecorderError(f"sessions are not as expected: {text[:80]!r}: {error}") from error
    if not days or any(d.close_ns <= d.open_ns for d in days):
        raise RecorderError(f"sessions are not as expected: none, or one that ends before it begins: {text[:80]!r}")
    return days


def _read(path: Path) -> list[ExchangeDay] | None:
    """A cached calendar; None when there is none or it is damaged (a cache is only a cache)."""
    try:
        if path.stat().st_size <= CACHE_BYTES_MAX:
            return _parse(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, RecorderError):
        return None
    return None


def _latest(folder: Path, stem: str, now_ns: int) -> list[ExchangeDay] | None:
    """The newest cached calendar that still reaches past ``now_ns``."""
    for path in sorted(folder.glob(f"{stem}*.json"), reverse=True):
        days = _read(path)
        if days and days[-1].close_ns > now_ns:
            return days
    return None


def _write(path: Path, text: str, stem: str) -> None:
    """Replace the calendars of earlier days; without a writable cache the next start computes again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
        for old in path.parent.glob(f"{stem}*.json"):
            if old != path:
                old.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("calendar.cache_failed", path=str(path), reason=str(error))
