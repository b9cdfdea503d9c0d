"""Silences of real markets: recorded arrival times judged second by second, with and without a history."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from lean import midnight_ns

from recorder.core.arrivals import BIN_NS, Arrivals, Profile, dead
from recorder.values.feed import HOUR, MINUTE, SECOND

NEW_YORK_SUMMER, NEW_YORK = -4, "America/New_York"


def arrivals_of(path: Path, utc_offset_h: int = NEW_YORK_SUMMER) -> np.ndarray:
    """(n,) ns UTC, ascending: when every tick of a file of QuantConnect's came."""
    with zipfile.ZipFile(path) as archive:
        [name] = archive.namelist()
        ms = [line.partition(b",")[0] for line in archive.read(name).splitlines()]
    return np.sort(midnight_ns(path, utc_offset_h) + (np.array(ms, float) * 1e6).astype(np.int64))


class Replay:
    """One connection's series, replayed second by second."""

    def __init__(self, zone: str, series: list[tuple[str, str]]) -> None:
        self.profile = Profile(zone)
        for symbol, channel in series:
            self.profile.series(symbol, channel)
        self.series, self.arrivals = series, Arrivals(self.profile)
        self.channels = {channel for _, channel in series}

    def learn(self, days: list[list[np.ndarray]]) -> None:
        rows = []
        for day in days:
            for (symbol, channel), times in zip(self.series, day, strict=True):
                starts, counts = np.unique(times - times % BIN_NS, return_counts=True)
                rows += [(symbol, channel, ts, n) for ts, n in zip(starts.tolist(), counts.tolist(), strict=True)]
        self.profile.learn(rows)

    def judge(self, day: list[np.ndarray], start: int, stop: int) -> tuple[int, float]:
        """(false restarts, seconds until the silence after ``stop`` is noticed)."""
        connection, false, before, now = np.zeros(len(day), np.int64), 0, False, start
        while True:
            now += SECOND
            upto = [int(np.searchsorted(times, min(now, stop), "right")) for times in day]
            counts = np.array(upto, np.int64)
            last = np.array([times[i - 1] if i else 0 for times, i in zip(day, upto, strict=True)], np.int64)
            silence = self.arrivals.tick(now, counts, last, connection, np.array([start])).connections[0]
            judged = dead(silence, self.channels, 1.0)
            if now > stop:
                if judged:
                    return false, silence.silent_ns / SECOND
                continue
            false, before = false + (judged and not before), judged


EQUITIES = [  # symbol and channel, days to learn from, day to judge, noticed within, s
    ([("spy", "trade")], ["20131007"], "20131008", 60),
    ([("bac", "trade"), ("bac", "quote"), ("spy", "trade")], ["20131007", "20131008"], "20131009", 20),
    ([("aig", "trade")], [], "20131007", 1200),
]


@pytest.mark.parametrize(("series", "learnt", "day", "within_s"), EQUITIES)
def test_two_hours_of_us_equities_have_no_false_restart_and_their_end_is_noticed(
    shared_data: Path, series: list[tuple[str, str]], learnt: list[str], day: str, within_s: float
) -> None:
    folder = shared_data / "lean" / "equity" / "usa" / "tick"

    def times(of: str) -> list[np.ndarray]:
        return [arrivals_of(folder / symbol / f"{of}_{channel}.zip") for symbol, channel in series]

    replay = Replay(NEW_YORK, [(symbol, f"{channel}s") for symbol, channel in series])
    replay.learn([times(of) for of in learnt])
    midnight = midnight_ns(folder / f"{day}_trade.zip", NEW_YORK_SUMMER)
    opening = midnight + 9 * HOUR + 30 * MINUTE
    false, noticed_s = replay.judge(times(day), opening, opening + 2 * HOUR)
    assert false == 0
    assert noticed_s <= within_s
