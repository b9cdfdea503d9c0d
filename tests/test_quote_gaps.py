"""Quotes that a lost connection cost come from history, once; what was received stays as it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_of_gaps import START, STEP, Fold, StandIn, Trade, trade
from test_gaps import closed, opened

from recorder.core import gaps, snapshot
from recorder.core.gaps import UNVERIFIED
from recorder.core.kernels import QUOTES_REMEMBERED
from recorder.core.pipeline import Pipeline
from recorder.values.config import KernelsConfig
from recorder.values.tables import BACKFILLED, LATE

N = 60
AT_ONCE = 3  # quotes of one time


def quote(number: int, symbol: str = "A") -> Trade:
    return Trade(symbol, number, START + number // AT_ONCE * STEP, quote=True)


def interrupted(fold: Fold, first: int, stop: int, last: int) -> None:
    """Quotes up to ``last``, of which those from ``first`` to before ``stop`` came while nobody listened."""
    opened(fold, START)
    fold.stream(*(quote(number) for number in range(1, first)))
    closed(fold, quote(first).ts)
    opened(fold, quote(stop).ts)
    fold.stream(*(quote(number) for number in range(stop, last + 1)))
    fold.seal()


def memory(fold: Fold) -> bytes:
    state = fold.pipeline.kernels.state
    return state.scalars[: state.known].tobytes() + state.quote_keys[: state.known].tobytes()


@given(
    outages=st.lists(st.tuples(st.integers(2, N - 2), st.integers(1, 12)), max_size=4),
    late=st.sets(st.integers(2, N - 1), max_size=4),
    pages=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_quotes_of_a_lost_connection_come_from_history_once_and_disturb_nothing(outages, late, pages, seed):
    """History comes from either end and repeats what was received at the edges; the recorder is killed at any time."""
    rng, fold = random.Random(seed), Fold(ids="opaque")
    down = {n for first, length in outages for n in range(first, min(first + length, N - 1))}
    late = late - down
    opened(fold, START)
    connected, held = True, []
    for number in range(1, N + 1):
        if number in down and connected:
            closed(fold, quote(number).ts)
            connected = False
        elif number not in down and not connected:
            opened(fold, quote(number).ts + 1)
            connected = True
        if number in late:
            held.append(quote(number))
        elif connected:
            fold.stream(quote(number))
        if connected and held and rng.random() < 0.4:
            fold.stream(held.pop())
        if rng.random() < 0.03:
            fold.restart()
    fold.stream(*held)
    fold.seal()
    before = memory(fold)
    while fold.book.open:
        gap = next(iter(fold.book.open.values()))
        assert gap.channel == "quotes"
        request = fold.book.request(gap)
        whole = [quote(n) for n in range(1, N + 1) if request.start <= quote(n).ts <= request.end]
        if seed % 2:
            whole.reverse()
        for first in range(0, len(whole), pages):
            fold.answer(gap, whole[max(0, first - 1) : first + pages])
            if rng.random() < 0.05:
                fold.restart()
            if rng.random() < 0.3:
                break  # asked again from where it stood
        else:
            fold.answer(gap, (), last=True)
    fold.seal()

    assert {number for _, number in fold.quotes} == set(range(1, N + 1))
    for (_, number), copies in fold.quotes.items():
        flags = [row.flags & (BACKFILLED | LATE) for row in copies]
        assert flags == [BACKFILLED | LATE] if number in down else len(flags) == 1 and not flags[0] & BACKFILLED
    assert sum(gap.recovered for gap in fold.of_series()) == len(down)
    assert all((gap.status, gap.channel) == ("repaired", "quotes") for gap in fold.of_series())
    assert all(gap.cause.endswith(UNVERIFIED) for gap in fold.of_series())
    assert memory(fold) == before


def test_trades_and_quotes_of_one_outage_are_two_gaps_with_rows_of_their_own():
    fold = Fold(ids="opaque")
    opened(fold, START)
    fold.stream(trade(1), quote(3))
    closed(fold, trade(2).ts)
    opened(fold, trade(8).ts)
    fold.stream(quote(27), trade(9))
    fold.seal()
    channels = {gap.channel: gap for gap in fold.book.open.values()}
    assert set(channels) == {"trades", "quotes"}
    fold.answer(channels["quotes"], [quote(n) for n in range(3, 28)], last=True)
    assert [gap.channel for gap in fold.book.open.values()] == ["trades"]
    fold.answer(channels["trades"], [trade(n) for n in range(1, 10)], last=True)
    fold.seal()
    assert {gap.channel: gap.recovered for gap in fold.of_series()} == {"trades": 7, "quotes": 23}
    assert sorted(n for _, n in fold.trades) == list(range(1, 10))


def test_of_a_gap_with_too_many_quotes_the_rest_is_given_up(monkeypatch):
    monkeypatch.setattr(gaps, "QUOTES_MAX", 6)
    fold = Fold(ids="opaque")
    interrupted(fold, 6, 30, 32)
    (gap,) = fold.book.open.values()
    for first in range(3, 30, 4):
        fold.answer(gap, [quote(n) for n in range(first, first + 4)])
    fold.seal()
    (row,) = fold.of_series()
    assert (row.status, row.recovered) == ("partial", 9)
    assert row.cause == "1006 abnormal closure; it has more than 6 quotes"


def test_outages_before_a_symbol_is_quoted_again_add_up_and_quiet_times_do_not_count():
    fold = Fold(ids="opaque")
    opened(fold, START)
    fold.stream(quote(3))
    for first, stop in ((30, 33), (60, 69)):
        closed(fold, quote(first).ts)
        opened(fold, quote(stop).ts)
    fold.stream(quote(99))
    fold.seal()
    (gap,) = fold.book.open.values()
    assert (gap.start, gap.end, gap.outage_ns) == (quote(3).ts, quote(99).ts, 4 * STEP)


@pytest.mark.parametrize("channels", [("trades",), ("trades", "quotes")])
def test_quotes_are_missed_only_where_history_has_them(monkeypatch, channels):
    monkeypatch.setattr(StandIn, "HISTORY", channels)
    fold = Fold(ids="opaque")
    interrupted(fold, 6, 12, 15)
    assert [gap.channel for gap in fold.book.open.values()] == list(channels[1:])


def test_a_snapshot_of_a_version_before_is_gone_on_from_and_quotes_are_missed_from_then_on(monkeypatch):
    monkeypatch.setattr(StandIn, "HISTORY", ("trades",))
    fold = Fold(ids="opaque")
    opened(fold, START)
    fold.stream(quote(1), quote(2), trade(1))
    fold.seal()
    content = snapshot.decode(fold.pipeline.snapshot().encode())
    del content.kernels["quote_keys"], content.gaps["quotes_interrupted"]
    monkeypatch.setattr(StandIn, "HISTORY", ("trades", "quotes"))
    fold.pipeline = Pipeline(KernelsConfig(time_gap_s=0), StandIn)
    fold.pipeline.restore(content)
    assert fold.pipeline.kernels.state.scalars["id_kind"][0] & QUOTES_REMEMBERED
    fold.stream(quote(3))
    closed(fold, quote(6).ts)
    opened(fold, quote(12).ts)
    fold.stream(quote(12))
    fold.seal()
    (gap,) = fold.book.open.values()
    assert (gap.channel, gap.start, gap.end) == ("quotes", quote(3).ts, quote(12).ts)
