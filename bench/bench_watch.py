"""Quiet or dead: how soon a mute feed is noticed, and how often a living one is taken for dead.

pytest bench/bench_watch.py

Simulated, second by second and without waiting: living markets of several activities (clustered, in bursts ten times as
fast as calm) are watched for hours, then fall mute. Beside it what a fixed time-out of 60 s does to the same arrivals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from recorder.core.arrivals import Arrivals, Profile, dead
from recorder.core.market import KIND, SYMBOL, TS, Market
from recorder.values.feed import SECOND

CHANNELS = ("trades", "quotes")
START = 1_790_000_000 * SECOND
SEED = 7
FIXED_NS = 60 * SECOND
MARKETS = {  # name → (trades per second, quotes per trade, symbols, hours)
    "busy": (1_000.0, 1.0, 10, 0.5),
    "normal": (10.0, 1.0, 10, 6.0),
    "quiet": (1.0, 1.0, 3, 12.0),
    "very quiet": (1 / 60, 0.0, 1, 24.0),
}


@dataclass
class Found:
    false_restarts: int = 0
    fixed_restarts: int = 0
    detection_s: float = 0.0
    longest_s: float = 0.0


def watch(rate: float, quotes: float, symbols: int, hours: float, seed: int) -> Found:
    offered = CHANNELS if quotes else CHANNELS[:1]
    market, profile = Market(symbols, seed, rate, quotes=quotes), Profile("UTC")
    for symbol in range(symbols):
        for channel in offered:
            profile.series(str(symbol), channel)
    arrivals, n, found = Arrivals(profile), len(profile), Found()
    counts, last, on, since = *np.zeros((3, n), np.int64), [START]
    fixed_from, before = START, False
    for second in range(1, int(hours * 3600) + 1):
        events, now = market.until(second * SECOND), START + second * SECOND
        if len(events):
            series = events[:, SYMBOL] * len(offered) + events[:, KIND]
            counts += np.bincount(series, minlength=n)
            np.maximum.at(last, series, START + events[:, TS])
        silence = arrivals.tick(now, counts, last, on, np.array(since)).connections[0]
        found.longest_s = max(found.longest_s, silence.silent_ns / SECOND)
        judged = dead(silence, offered, 1.0)
        found.false_restarts += judged and not before
        before = judged
        fixed_from = max(fixed_from, now - silence.silent_ns)
        if now - fixed_from > FIXED_NS:
            found.fixed_restarts, fixed_from = found.fixed_restarts + 1, now
    while not dead(silence, offered, 1.0):
        now += SECOND
        silence = arrivals.tick(now, counts, last, on, np.array(since)).connections[0]
    found.detection_s = silence.silent_ns / SECOND
    return found


@pytest.mark.parametrize("name", MARKETS)
def test_quiet_or_dead(benchmark: Any, scale: float, name: str) -> None:
    rate, quotes, symbols, hours = MARKETS[name]
    found = benchmark.pedantic(watch, (rate, quotes, symbols, hours * scale, SEED), rounds=1, iterations=1)
    benchmark.extra_info.update(
        hours=hours * scale, false_restarts=found.false_restarts, detection_s=round(found.detection_s, 1),
        longest_silence_s=round(found.longest_s, 1), restarts_by_a_fixed_60_s=found.fixed_restarts,
    )  # fmt: skip
