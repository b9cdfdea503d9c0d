"""What is missing is known once, asked for, and complete or given up for a reason: properties over random streams."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market_of_gaps import LAG, LATER, LIVE, START, STEP, Fold, Trade, counted, trade

from recorder.core import gaps
from recorder.core.frames import CLOSED, OPENED
from recorder.core.gaps import FAILURES_MAX, SLACK_NS
from recorder.values.schema import LONG_NULL
from recorder.values.tables import BACKFILLED, LATE

N = 60


def opened(fold: Fold, ts: int) -> None:
    fold.frames((OPENED, LIVE, ts, b""))


def closed(fold: Fold, ts: int, reason: bytes = b"1006 abnormal closure") -> None:
    fold.frames((CLOSED, LIVE, ts, reason))


@given(
    lost=st.sets(st.integers(2, N - 1), max_size=40),
    gone=st.sets(st.integers(2, N - 1), max_size=6),
    late=st.sets(st.integers(2, N - 1), max_size=4),
    beats=st.sets(st.integers(2, N - 1), max_size=5),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_history_completes_every_gap_of_ids_and_nothing_is_stored_twice(lost, gone, late, beats, seed):
    """``lost`` of the stream, of these ``gone`` from history too; ``late`` ones come out of order by the stream."""
    rng, fold = random.Random(seed), Fold()
    lost = lost - late
    missing = lost & gone
    held = []
    for number in range(1, N + 1):
        if number in late:
            held.append(trade(number))
        elif number not in lost:
            fold.stream(trade(number))
        if number in beats and number not in late:
            fold.stream(Trade("A", number, START + number * STEP, named=True))
        if held and rng.random() < 0.3:
            fold.stream(held.pop(rng.randrange(len(held))))
        if fold.book.open and rng.random() < 0.3:
            gap = rng.choice(list(fold.book.open.values()))
            known = [n for n in range(1, number + 3) if n not in missing]
            page = [trade(rng.choice(known)) for _ in range(rng.randrange(8))]
            fold.answer(gap, page, number=rng.randrange(3), last=rng.random() < 0.5)
        if rng.random() < 0.2:
            fold.seal()
        if rng.random() < 0.2:
            fold.reopen_book()
    fold.stream(*held)
    fold.seal()
    while fold.book.open:
        gap = next(iter(fold.book.open.values()))
        request = fold.book.request(gap)
        found = [trade(n) for n in range(request.from_id, request.to_id + 1) if n not in missing]
        assert all(request.start <= t.ts <= request.end for t in found)
        rng.shuffle(found)
        fold.answer(gap, found)
        if gap.identity in fold.book.open:
            fold.answer(gap, reason="not in the provider's history")
    fold.seal()

    assert {number for _, number in fold.trades} == set(range(1, N + 1)) - missing
    for (_, number), copies in fold.trades.items():
        backfilled = [bool(row.flags & BACKFILLED) for row in copies]
        # A trade that comes by the stream after history had it is stored again, as the stream has it.
        assert backfilled in ([number in lost], [True, False] if number in late else [], [number in late])
        assert all(row.ts_event == trade(number).ts for row in copies)
        assert copies[-1].ts_recv == (START + LATER if backfilled[-1] else trade(number).ts + LAG)
        assert not backfilled[-1] or copies[-1].flags & LATE
    noticed = sum(gap.missing for gap in fold.gaps.values())
    assert noticed - sum(gap.recovered for gap in fold.gaps.values()) == len(missing)
    listed = [n for gap in fold.gaps.values() for n in range(gap.from_id, gap.to_id + 1)]
    assert len(listed) == len(set(listed)) == noticed  # no id is missing twice
    assert lost <= set(listed)
    for gap in fold.gaps.values():
        still = missing & set(range(gap.from_id, gap.to_id + 1))
        assert gap.missing - gap.recovered == len(still)
        wanted = "repaired" if not still else "partial" if gap.recovered else "unrepairable"
        assert gap.status == wanted
        assert gap.cause.endswith("; not in the provider's history") == bool(still)
    if not late:
        assert sum(counted(copies[-1].missed) for copies in fold.trades.values()) == noticed


@given(
    outages=st.lists(st.tuples(st.integers(2, N - 2), st.integers(1, 12)), max_size=4),
    late=st.sets(st.integers(2, N - 1), max_size=4),
    pages=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_of_a_series_without_ids_history_fills_what_a_lost_connection_cost(outages, late, pages, seed):
    """Trades come in pairs of one time. History comes from either end, and repeats what was received at the edges."""
    rng, fold = random.Random(seed), Fold(ids="opaque")
    down = {n for first, length in outages for n in range(first, min(first + length, N - 1))}
    late = late - down

    def at(number):
        return Trade("A", number, START + number // 2 * STEP)

    opened(fold, START)
    connected, held, received = True, [], set()
    for number in range(1, N + 1):
        if number in down and connected:
            closed(fold, at(number).ts)
            connected = False
        elif number not in down and not connected:
            opened(fold, at(number).ts + 1)
            connected = True
        if number in late:
            held.append(at(number))
        elif connected:
            fold.stream(at(number))
            received.add(number)
        if connected and held and rng.random() < 0.4:
            fold.stream(held.pop())
        if rng.random() < 0.2:
            fold.seal()
        if rng.random() < 0.2:
            fold.reopen_book()
    fold.stream(*held)
    fold.seal()
    while fold.book.open:
        gap = next(iter(fold.book.open.values()))
        start, end = fold.book.request(gap).start, gap.end
        whole = [at(n) for n in range(1, N + 1) if start <= at(n).ts <= end]
        if seed % 2:
            whole.reverse()
        for first in range(0, len(whole), pages):
            fold.answer(gap, whole[max(0, first - 1) : first + pages])  # a cursor by time repeats the last trade
            if rng.random() < 0.3:
                fold.reopen_book()
            if rng.random() < 0.3:
                break  # as after a crash: asked again from where it stood
        else:
            fold.answer(gap, (), last=True)
    fold.seal()

    assert {number for _, number in fold.trades} == set(range(1, N + 1))
    for (_, number), copies in fold.trades.items():
        assert [bool(row.flags & BACKFILLED) for row in copies] == [number in down], number
    assert sum(gap.recovered for gap in fold.of_series()) == len(down)
    assert all(gap.status == "repaired" and gap.missing == LONG_NULL for gap in fold.of_series())
    notes = [gap for gap in fold.gaps.values() if gap.symbol == "*"]
    assert all(gap.status is None and gap.kind == "disconnect" for gap in notes)


def notes_of(fold: Fold) -> list[tuple[int, str]]:
    fold.seal()
    return [(gap.span_ns, gap.cause) for gap in fold.gaps.values() if gap.symbol == "*"]


def test_a_lost_connection_is_a_gap_from_its_end_to_its_reopening():
    fold = Fold()
    opened(fold, START)
    fold.stream(trade(1))
    closed(fold, START + 2 * STEP)
    assert notes_of(fold) == []
    opened(fold, START + 9 * STEP)
    assert notes_of(fold) == [(7 * STEP, "1006 abnormal closure")]
    fold.stream(trade(2))  # the ids say that nothing was missed
    fold.seal()
    assert fold.of_series() == [] == list(fold.book.open)


def test_after_kill_9_the_gap_begins_with_the_last_frame_of_the_connection():
    fold = Fold()
    opened(fold, START)
    fold.stream(*(trade(number) for number in range(1, 6)))
    fold.reopen_book()
    fold.declare(START + 61 * STEP)  # a new segment: no sign of life of the connection
    opened(fold, START + 60 * STEP)
    assert notes_of(fold) == [(55 * STEP - LAG, gaps.NOT_TOLD)]
    closed(fold, START + 70 * STEP, b"1000 recorder stopped")
    opened(fold, START + 90 * STEP)
    assert notes_of(fold)[1] == (20 * STEP, "1000 recorder stopped")


def test_a_connection_that_opens_before_the_old_one_closes_leaves_no_gap():
    fold = Fold(ids="opaque")
    opened(fold, START)
    fold.stream(trade(1))
    closed(fold, START + 3 * STEP, b"the provider cuts connections of this age")
    opened(fold, START + 2 * STEP)
    fold.stream(trade(4))
    assert notes_of(fold) == []
    assert not fold.book.open
    closed(fold, START + 5 * STEP)
    opened(fold, START + 6 * STEP)
    assert notes_of(fold) == [(STEP, "1006 abnormal closure")]


def test_nothing_is_asked_for_the_time_between_two_sessions():
    fold = Fold(ids="opaque")
    opened(fold, START)
    fold.stream(trade(1))
    closed(fold, START + 2 * STEP, b"end of session")
    opened(fold, START + 9 * STEP)
    fold.stream(trade(10))
    assert notes_of(fold) == [(7 * STEP, "end of session")]
    assert not fold.book.open


def test_ids_that_a_heartbeat_named_are_missing_once_and_rows_after_say_so():
    fold = Fold()
    fold.stream(trade(1), Trade("A", 3, START + 3 * STEP, named=True), trade(5))
    fold.seal()
    assert [(g.from_id, g.to_id, g.missing, g.kind) for g in fold.of_series()] == [
        (2, 3, 2, "trade_id"),
        (4, 4, 1, "trade_id"),
    ]
    assert fold.trades["A", 5][0].missed == 3
    assert len(fold.trades) == 2


def test_gaps_close_together_are_asked_for_at_once():
    fold = Fold()
    fold.stream(trade(1), trade(3), trade(5), *(trade(number) for number in range(6, 1100)), trade(1200))
    fold.seal()
    first, *_, last = map(fold.book.request, fold.book.open.values())
    assert (first.from_id, first.to_id) == (2, 4)
    assert (first.start, first.end) == (trade(1).ts - SLACK_NS, trade(5).ts + SLACK_NS)
    assert (last.from_id, last.to_id) == (1100, 1199)


def test_ids_that_start_over_are_no_repair_of_what_was_missing_before():
    fold = Fold()
    fold.stream(trade(10), trade(11), trade(15))
    anew = [Trade("A", number, START + 10 * SLACK_NS + number * STEP) for number in range(1, 21)]
    fold.stream(*anew)
    fold.seal()
    (gap,) = fold.book.open.values()
    assert gap.left == [(12, 14)]
    fold.answer(gap, anew)  # a provider that knows these ids by their second meaning only
    assert gap.left == [(12, 14)]
    fold.answer(gap, [trade(number) for number in (12, 13, 14)])
    fold.seal()
    assert not fold.book.open
    times = [row.ts_event for number in (12, 13, 14) for row in fold.trades["A", number]]
    assert sorted(times) == sorted([trade(n).ts for n in (12, 13, 14)] + [anew[n - 1].ts for n in (12, 13, 14)])


def test_history_that_cannot_be_read_is_rejected_and_given_up_after_some_tries():
    fold = Fold()
    fold.stream(trade(1), trade(5))
    fold.seal()
    (gap,) = fold.book.open.values()
    for number in range(FAILURES_MAX):
        assert gap.identity in fold.book.open
        fold.answer(gap, body=b"sorry", number=number)
    fold.seal()
    (row,) = fold.of_series()
    assert (row.status, row.recovered) == ("unrepairable", 0)
    assert row.cause == "ids missing in the stream; its history cannot be read"


@pytest.mark.parametrize("payload", [b"", b"{}", b"{}\n[]", b'{"gap":1}\n[]', b"\xff\n"])
def test_an_answer_that_no_version_wrote_is_rejected_and_disturbs_nothing(payload):
    fold = Fold()
    fold.stream(trade(1), trade(3))
    fold.frames((8, LIVE, START + LATER, payload))
    fold.stream(trade(4))
    fold.seal()
    assert sorted(number for _, number in fold.trades) == [1, 3, 4]
    assert len(fold.book.open) == 1


def test_the_oldest_gap_is_given_up_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(gaps, "OPEN_GAPS_MAX", 3)
    fold = Fold()
    fold.stream(*(trade(number) for number in range(1, 12, 2)))
    fold.seal()
    assert [gap.from_id for gap in fold.book.open.values()] == [6, 8, 10]
    given_up = [gap for gap in fold.of_series() if gap.status == "unrepairable"]
    assert [(gap.from_id, gap.cause) for gap in given_up] == [
        (2, "ids missing in the stream; more than 3 gaps are open"),
        (4, "ids missing in the stream; more than 3 gaps are open"),
    ]
    assert fold.book.counts["f"].given_up == 2
