"""What is expected of a feed, and how improbable a silence is: against synthetic histories and markets."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.arrivals import (
    BIN_NS,
    KNOWN,
    SILENCE_MIN_NS,
    STRANGE,
    TICKS_PER_YEAR,
    TIMEOUTS_NS,
    Arrivals,
    Profile,
    Silence,
    dead,
)
from recorder.core.market import KIND, SYMBOL, TS, Market
from recorder.core.silences import Silences, log_survival
from recorder.values.feed import HOUR, MINUTE, SECOND

CHANNELS = ("trades", "quotes")
MONDAY = int(datetime(2026, 8, 3, tzinfo=UTC).timestamp()) * SECOND
DAY = 24 * HOUR


def bins(start: int, stop: int, per_s: float, symbol: str = "A") -> list[tuple[str, str, int, int]]:
    return [(symbol, "trades", ts, round(per_s * BIN_NS / SECOND)) for ts in range(start, stop, BIN_NS)]


# Expected arrivals.


def test_rates_follow_the_time_of_the_session():
    profile = Profile("America/New_York")
    opening = MONDAY + 13 * HOUR + 30 * MINUTE  # 09:30 in New York
    for day in range(4):
        start = opening + day * DAY
        profile.learn(bins(start, start + HOUR, 100.0) + bins(start + HOUR, start + 6 * HOUR, 10.0))
    friday = opening + 4 * DAY
    (early,), (late,) = profile.rates(friday + 5 * MINUTE), profile.rates(friday + 3 * HOUR)
    assert early == pytest.approx(100, rel=0.5)
    assert late == pytest.approx(10, rel=0.5)


def test_weekends_are_expected_to_be_like_weekends():
    profile = Profile("UTC")
    profile.learn(bins(MONDAY, MONDAY + 5 * DAY, 50.0) + bins(MONDAY + 5 * DAY, MONDAY + 7 * DAY, 5.0))
    assert profile.rates(MONDAY + 7 * DAY + 12 * HOUR)[0] == pytest.approx(50, rel=0.3)
    assert profile.rates(MONDAY + 12 * DAY + 12 * HOUR)[0] == pytest.approx(5, rel=0.7)


def test_the_zones_clock_decides_across_a_change_of_it():
    profile = Profile("America/New_York")
    noon = datetime(2026, 10, 28, 16, tzinfo=UTC)  # 12:00 in New York, four days before its clocks go back
    slots = [profile.slot(int((noon + timedelta(days=d)).timestamp()) * SECOND) for d in (0, 7)]
    assert slots == [(0, 12 * 12), (0, 11 * 12)]


def test_a_symbol_with_little_history_follows_its_siblings_by_its_share():
    profile = Profile("UTC")
    noon = MONDAY + 12 * HOUR
    for day in range(3):
        start = MONDAY + day * DAY
        profile.learn(bins(start, start + 12 * HOUR, 10.0, "OLD") + bins(start + 12 * HOUR, start + DAY, 40.0, "OLD"))
    profile.learn(bins(MONDAY + 3 * DAY, MONDAY + 3 * DAY + HOUR, 1.0, "NEW"))  # seen at night only: a tenth
    assert profile.rates(noon + 3 * DAY)[1] == pytest.approx(4.0, rel=0.4)


def test_an_hour_nobody_has_seen_expects_little():
    profile = Profile("UTC")
    profile.learn(bins(MONDAY + 9 * HOUR, MONDAY + 12 * HOUR, 100.0))
    assert profile.rates(MONDAY + 20 * HOUR)[0] <= STRANGE * 100


def test_a_quiet_bin_counts_and_a_night_of_no_recording_does_not():
    profile = Profile("UTC")
    quiet, later = MONDAY + HOUR, MONDAY + 10 * HOUR
    profile.learn(
        bins(MONDAY, quiet, 1.0) + bins(quiet + 10 * MINUTE, quiet + HOUR, 1.0) + bins(later, later + HOUR, 1)
    )
    assert profile.seconds_total[0] == 3 * 3600
    kind, number = profile.slot(quiet)
    assert (profile.seconds[0, kind, number], profile.arrivals[0, kind, number]) == (300, 0)


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_history_is_taken_over_whole_and_rates_are_sane(rows):
    profile = Profile("UTC")
    profile.learn([(str(s), "trades", MONDAY + b * BIN_NS, count) for b, s, count in rows])
    assert profile.arrivals_total.sum() == sum(count for _, _, count in rows)
    assert (profile.seconds >= (profile.arrivals > 0) * BIN_NS / SECOND).all()
    rates = profile.rates(MONDAY)
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()


# The law of silences.


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 100), st.floats(3, 40))
def test_the_law_is_a_gamma_mixture_of_exponentials(c, k):
    rates = np.random.default_rng(1).gamma(k, 1.0 / ((k - 1) * c), 200_000)
    for v in (0.5 * c, 3 * c):
        assert math.exp(log_survival(v, c, k)) == pytest.approx(np.exp(-rates * v).mean(), rel=0.05)


@pytest.mark.parametrize("cluster", [1, 8])
def test_clusters_are_learnt_from_silences_that_ended(cluster):
    """Poisson clusters: the silence so far, in arrivals expected, is exponential; its mean is the cluster's size."""
    rng, silences = np.random.default_rng(2), Silences()
    silences.grow(1, 1)
    rate, last, due = 0.5 * cluster, 0.0, rng.exponential(2.0)
    for second in range(1, 40_000):
        arrived = due <= second
        while due <= second:
            last, due = due, due + rng.exponential(2.0)
        silences.tick(np.array([rate]), np.array([rate * (second - last)]), np.array([arrived]), np.zeros(1, np.int64))
    c, k = silences.laws()
    assert c[0] == pytest.approx(cluster, rel=0.1)
    assert k[0] > 10  # no heavier than exponential


def test_a_heavy_tail_is_learnt():
    rng, silences = np.random.default_rng(3), Silences()
    silences.grow(1, 1)
    for _ in range(3_000):  # silences whose rate is drawn anew each time
        length = int(rng.exponential(1.0 / rng.gamma(3.0, 0.02))) + 1
        for second in range(length):
            silences.tick(np.full(1, 0.05), np.full(1, 0.01), np.array([second == 0]), np.zeros(1, np.int64))
    assert silences.laws()[1][0] < 6


def test_nothing_is_learnt_from_a_silence_that_was_given_up():
    silences = Silences()
    silences.grow(1, 1)
    for second in range(1000):
        silences.tick(np.ones(1), np.zeros(1), np.array([second % 2 == 0]), np.zeros(1, np.int64))
    before = silences.laws()
    for _ in range(1000):
        silences.tick(np.ones(1), np.zeros(1), np.array([False]), np.zeros(1, np.int64))
    silences.restart(np.array([True]))
    silences.tick(np.ones(1), np.zeros(1), np.array([True]), np.zeros(1, np.int64))
    assert np.allclose(silences.laws(), before, rtol=0.01)
    assert silences.log_p(np.zeros(1, np.int64))[0] == 0


# Judgements.


class Session:
    """A feed of a synthetic market on one connection, watched second by second."""

    def __init__(self, rate: float, symbols: int, seed: int = 1, start: int = MONDAY) -> None:
        self.market = Market(symbols, seed, rate)
        self.profile = Profile("UTC")
        for symbol in range(symbols):
            for channel in CHANNELS:
                self.profile.series(str(symbol), channel)
        self.arrivals, n = Arrivals(self.profile), 2 * symbols
        self.counts, self.last = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.start = self.now = start

    def second(self, deliver: bool = True, without: int | None = None):
        self.now += SECOND
        events = self.market.until(self.now - self.start)
        if without is not None:
            events = events[events[:, SYMBOL] != without]
        if deliver:
            series = events[:, SYMBOL] * 2 + events[:, KIND]
            self.counts += np.bincount(series, minlength=len(self.counts))
            np.maximum.at(self.last, series, self.start + events[:, TS])
        connection = np.zeros(len(self.counts), np.int64)
        return self.arrivals.tick(self.now, self.counts, self.last, connection, np.array([self.start]))

    def false_restarts(self, seconds: int) -> int:
        return sum(dead(self.second().connections[0], CHANNELS, 1.0) for _ in range(seconds))

    def detection_s(self, limit: int) -> float:
        for _ in range(limit):
            silence = self.second(deliver=False).connections[0]
            if dead(silence, CHANNELS, 1.0):
                return silence.silent_ns / SECOND
        raise AssertionError(f"alive after {limit} s of silence")


@pytest.mark.parametrize(("rate", "hours", "within_s"), [(100, 0.2, 4), (10, 0.5, 20), (0.3, 2, 1800)])
def test_a_living_market_is_never_judged_dead_and_a_mute_one_soon(rate, hours, within_s):
    session = Session(rate, symbols=3)
    assert session.false_restarts(int(hours * 3600)) == 0
    assert session.detection_s(2 * within_s) <= within_s


@pytest.mark.parametrize("seed", [3, 7])
def test_bursts_of_the_first_hours_do_not_make_a_feed_of_a_trade_a_second_slow_to_judge(seed):
    session = Session(1, symbols=3, seed=seed)
    assert session.false_restarts(2 * 3600) == 0
    assert session.detection_s(400) <= 180


def test_a_burst_is_not_expected_to_last_within_the_bin_it_began_in():
    profile = Profile("UTC")
    profile.learn(bins(MONDAY - 7 * DAY, MONDAY, 1.0))
    before = profile.rates(MONDAY)[0]
    profile.add(MONDAY, np.array([5000.0]), np.array([60.0]))
    assert profile.rates(MONDAY + MINUTE)[0] == pytest.approx(before, rel=0.05)
    profile.add(MONDAY + BIN_NS, np.array([1.0]), np.array([1.0]))
    assert profile.arrivals_total.sum() == profile.arrivals.sum() + 1


def test_before_anything_is_known_a_fixed_time_out_holds():
    session = Session(100, symbols=1)
    waited = [session.second(deliver=False).connections[0] for _ in range(200)]
    assert all(silence.log_p is None for silence in waited)
    first = next(silence for silence in waited if dead(silence, CHANNELS, 1.0))
    assert TIMEOUTS_NS["quotes"] < first.silent_ns <= TIMEOUTS_NS["quotes"] + 2 * SECOND


def test_a_symbol_that_falls_silent_among_busy_ones_is_mute_and_its_connection_alive():
    session = Session(50, symbols=4)
    for _ in range(900):
        assert not any(silence.improbable(1.0, 8) for silence in session.second().series.values())
    for _ in range(120):
        judgement = session.second(without=1)
        assert not dead(judgement.connections[0], CHANNELS, 1.0)
    mute = {n for n, silence in judgement.series.items() if silence.improbable(1.0, len(session.profile))}
    assert {session.profile.names[n][0] for n in mute} == {"1"}


def test_a_calm_market_makes_the_same_silence_less_surprising():
    """Both have the same history; one trades at its usual rate today, the other at a tenth."""
    surprises = []
    for rate in (20.0, 2.0):
        session = Session(rate, symbols=1)
        session.profile.learn(bins(MONDAY - 7 * DAY, MONDAY, 20.0, "0"))
        for _ in range(900):
            session.second()
        silences = [session.second(deliver=False).connections[0] for _ in range(15)]
        surprises.append(silences[-1].log_p)
    assert surprises[0] < surprises[1] - 3


def test_silence_grows_less_probable_by_the_second():
    session = Session(20, symbols=2)
    session.false_restarts(120)
    silences = [session.second(deliver=False).connections[0] for _ in range(60)]
    assert all(b.log_p < a.log_p for a, b in pairwise(silences))


def test_known_is_what_has_been_seen_often_enough():
    session = Session(1000, symbols=1)
    known = [session.second().connections[0].log_p is not None for _ in range(2 * KNOWN)]
    assert not any(known[: KNOWN - 2])
    assert all(known[KNOWN + 1 :])


def test_alarms_are_bounded_per_year_of_ticks():
    limit = math.log(1 / TICKS_PER_YEAR)
    assert Silence(SECOND, 1.0, limit - 0.1).improbable(1.0)
    assert not Silence(SECOND, 1.0, limit + 0.1).improbable(1.0)
    assert Silence(SECOND, 1.0, limit + 0.1).improbable(2.0)
    assert not Silence(SECOND, 1.0, limit - 0.1).improbable(1.0, judged=2)
    assert not dead(Silence(SILENCE_MIN_NS - 1, 1e9, -1e3), CHANNELS, 1.0)
