"""When to record: sessions of a calendar as values, and the midnights at which a VWAP session starts over.

Pure: the time is passed in, the trading days come from ``shell/calendars.py``.
"""

from __future__ import annotations

import difflib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np

ALWAYS = "24/7"
NEW_YORK = "America/New_York"
SessionKind = Literal["extended", "regular"]

# Calendars of US equities: those whose pre-market and post-market the rules below know.
US_EQUITY_CALENDARS = frozenset({"XNYS", "NYSE", "XNAS", "NASDAQ", "ARCX", "BATS", "XASE", "OOTC"})

# What [schedule] calendar and a feed's schedule may name. The library that knows the sessions costs 114 MB to
# import, so its names are written down here (test_schedule compares them with it).
CALENDARS = US_EQUITY_CALENDARS | {
    "24/7", "24/5", "AIXK", "ASEX", "BVMF", "CMES", "IEPA", "XAMS", "XASX", "XBDA", "XBEL", "XBKK",
    "XBOG", "XBOM", "XBRA", "XBRU", "XBSE", "XBUD", "XBUE", "XCBF", "XCSE", "XCYS", "XDUB", "XDUS",
    "XEEE", "XETR", "XEUR", "XFRA", "XHAM", "XHEL", "XHKG", "XICE", "XIDX", "XIST", "XJSE", "XKAR",
    "XKLS", "XKRX", "XLIM", "XLIS", "XLIT", "XLJU", "XLON", "XLUX", "XMAD", "XMEX", "XMIL", "XMOS",
    "XNZE", "XOSL", "XPAR", "XPHS", "XPRA", "XRIS", "XSAU", "XSES", "XSGO", "XSHG", "XSTO", "XSTU",
    "XSWX", "XTAE", "XTAI", "XTAL", "XTKS", "XTSE", "XWAR", "XWBO", "XZAG", "XTSX", "FWB", "LSE",
    "TSX", "BMF", "CME", "CBOT", "COMEX", "NYMEX", "ICE", "ICEUS", "NYFE", "CFE", "JKT", "SIX",
    "JPX", "ASX", "HKEX", "OSE", "BSE", "SSE", "TASE", "BVB", "LUXSE",
}  # fmt: skip

BOUNDARY_YEARS = (1990, 2050)  # electronic tick data starts later; 22,000 midnights are 175 kB

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# (open, close, close on an early-close day), New York wall clock
_US_HOURS: dict[str, tuple[time, time, time]] = {
    "extended": (time(4), time(20), time(17)),
    "regular": (time(9, 30), time(16), time(13)),
}


def nearest_calendar(value: str) -> str:
    """``did you mean X?`` for an error text; the whole list would fill the screen."""
    close = difflib.get_close_matches(value.upper(), CALENDARS, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"{hint}known: 24/7 and the MICs of {len(CALENDARS) - 1} calendars such as XNYS, XLON, XETR, XHKG, XTKS, CMES"
    )


@dataclass(frozen=True, order=True)
class Session:
    """A time to record: ``open_ns <= t < close_ns``, both int64 ns UTC."""

    open_ns: int
    close_ns: int


@dataclass(frozen=True)
class TradingDay:
    """A day an exchange trades, by its own date; ``early``: it closes at 13:00 instead of 16:00."""

    day: date
    early: bool = False


@dataclass(frozen=True)
class Open:
    """Record until ``until_ns``; None: for ever."""

    until_ns: int | None


@dataclass(frozen=True)
class Closed:
    """Do not record before ``next_open_ns``; None: no later session is known, ask the calendar again."""

    next_open_ns: int | None


class Schedule:
    """Sessions widened by a lead before the open and a drain after the close; overlapping ones become one.

    sessions  in any order; None means 24/7
    lead_ns   connect this much before the open, so that the first trade is not missed
    drain_ns  stay this much after the close: late prints and corrections still come
    """

    def __init__(self, sessions: Iterable[Session] | None, lead_ns: int = 0, drain_ns: int = 0) -> None:
        self.always = sessions is None
        self.sessions: tuple[Session, ...] = ()
        if sessions is not None:
            self.sessions = _merged(Session(s.open_ns - lead_ns, s.close_ns + drain_ns) for s in sessions)
        self._opens = [s.open_ns for s in self.sessions]

    @property
    def known_until_ns(self) -> int | None:
        """End of the last known session; None for 24/7. Past it every state is ``Closed(None)``."""
        return self.sessions[-1].close_ns if self.sessions else None

    def state(self, now_ns: int) -> Open | Closed:
        """Whether to record now, and when that changes."""
        if self.always:
            return Open(None)
        index = bisect_right(self._opens, now_ns)
        if index and now_ns < self.sessions[index - 1].close_ns:
            return Open(self.sessions[index - 1].close_ns)
        return Closed(self.next_open(now_ns))

    def next_open(self, now_ns: int) -> int | None:
        """The first start after ``now_ns``; None for 24/7 and past the last known session."""
        index = bisect_right(self._opens, now_ns)
        return self._opens[index] if index < len(self._opens) else None


def _merged(sessions: Iterable[Session]) -> tuple[Session, ...]:
    result: list[Session] = []
    for session in sorted(sessions):
        if session.close_ns <= session.open_ns:
            raise ValueError(f"session closes at {session.close_ns}, not after its open at {session.open_ns}")
        if result and session.open_ns <= result[-1].close_ns:
            result[-1] = Session(result[-1].open_ns, max(result[-1].close_ns, session.close_ns))
        else:
            result.append(session)
    return tuple(result)


def us_sessions(days: Iterable[TradingDay], kind: SessionKind) -> list[Session]:
    """Sessions of US equities: extended 04:00–20:00 (17:00 on early-close days), regular 09:30–16:00 (13:00)."""
    opens, closes, closes_early = _US_HOURS[kind]
    return [
        Session(local_ns(d.day, opens, NEW_YORK), local_ns(d.day, closes_early if d.early else closes, NEW_YORK))
        for d in days
    ]


def local_ns(day: date, at: time, zone: str) -> int:
    """A wall clock time as ns UTC. Shown twice by the clock: the first; skipped by it: the moment it jumps."""
    return _ns(datetime.combine(day, at, ZoneInfo(zone)))


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND * 1000  # integers throughout: a float would lose nanoseconds


@lru_cache(maxsize=16)  # zones of one configuration: every provider has one
def day_boundaries(zone: str) -> np.ndarray:
    """Start of every local day of BOUNDARY_YEARS (both included) in ``zone``: (n,) int64 ns UTC, strictly growing.

    ``np.searchsorted(boundaries, ts, "right")`` numbers the session of a time. Read-only and shared.
    """
    first, last = date(BOUNDARY_YEARS[0], 1, 1), date(BOUNDARY_YEARS[1] + 1, 1, 1)
    tz = ZoneInfo(zone)
    days = range(first.toordinal(), last.toordinal() + 1)
    midnights = [_ns(datetime.combine(date.fromordinal(n), time(0), tz)) for n in days]
    # unique: a day that a zone skipped altogether (Apia, 2011-12-30) starts and ends in the same moment
    boundaries = np.unique(np.array(midnights, np.int64))
    boundaries.flags.writeable = False
    return boundaries
