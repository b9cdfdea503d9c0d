"""Answers of corporate actions, sound and damaged: rows or FrameError, never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.batch import Output
from recorder.feeds import make
from recorder.feeds.actions.asking import midnight
from recorder.feeds.actions.yahoo import as_paid
from recorder.values.errors import FrameError
from recorder.values.feed import FeedSpec, HistoryRequest
from recorder.values.tables import CORPORATE_ACTIONS

NOW = 1_790_000_000 * 10**9
REQUEST = HistoryRequest("AAPL", "actions", 0, NOW)
ANSWERS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [
        {"corporate_actions": {
            "forward_splits": [{"id": "a", "symbol": "AAPL", "ex_date": "2020-08-31", "new_rate": 4, "old_rate": 1,
                                "process_date": "2020-08-31"}],
            "stock_and_cash_mergers": [{"id": "b", "acquiree_symbol": "X", "acquirer_symbol": "Y", "acquiree_rate": 1,
                                        "acquirer_rate": 0.5, "cash_rate": 2.5, "effective_date": "2023-07-18",
                                        "process_date": "2023-07-18"}],
            "partial_calls": [{"id": "c", "symbol": "Z", "price": 25, "process_date": "2024-01-02"}],
            "capital_gains_distributions": [{"id": "d", "symbol": "F", "long_term_rate": 0.5, "short_term_rate": 0.25,
                                             "ex_date": "2024-01-02", "process_date": "2024-01-02"}],
        }, "next_page_token": None},
    ],
    "polygon": [
        {"status": "OK", "results": [{"id": "a", "ticker": "AAPL", "execution_date": "2020-08-31", "split_from": 1,
                                      "split_to": 4, "adjustment_type": "forward_split"}]},
        {"status": "DELAYED", "results": [{"id": "b", "ticker": "AAPL", "ex_dividend_date": "2024-02-09",
                                           "cash_amount": 0.24, "currency": "USD", "dividend_type": "CD"}]},
        {"status": "OK", "results": {"name": "Meta", "events": [
            {"type": "ticker_change", "date": "2012-05-18", "ticker_change": {"ticker": "FB"}},
            {"type": "ticker_change", "date": "2022-06-09", "ticker_change": {"ticker": "META"}}]}},
    ],
    "yahoo": [
        {"chart": {"result": [{"meta": {"exchangeTimezoneName": "America/New_York"}, "events": {
            "dividends": {"1": {"amount": 0.24, "date": 1_707_489_000}},
            "splits": {"2": {"date": 1_598_880_600, "numerator": 4, "denominator": 1, "splitRatio": "4:1"}},
            "capitalGains": {"3": {"amount": 0.1, "date": 1_707_489_000}}}}], "error": None}},
    ],
}  # fmt: skip
CASES = [(provider, answer) for provider, answers in ANSWERS.items() for answer in answers]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.just(10**400), st.just("x" * 300), st.just("\n"), st.just("9999-12-31"), st.just("1969-12-31"),
)  # fmt: skip


def decoded(provider: str, *bodies: bytes) -> tuple[list[bytes], int]:
    """(rows as they lie in memory, how many rejects) of answers, one decoder for all. Raises FrameError."""
    out = Output()
    scope = out.scope(provider, -1)
    feed: Any = make(FeedSpec(name=provider, provider=provider, channels=("actions",)))
    decode = feed.history_decoder(scope)
    for body in bodies:
        decode(REQUEST, body, NOW)
    rows = out.batches[CORPORATE_ACTIONS.name].seal().rows
    return [row.tobytes() for row in rows], len(out.batches["rejected"])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


@pytest.mark.parametrize(("provider", "answer"), CASES)
def test_a_sound_answer_gives_its_rows_and_again_none(provider, answer):
    body = json.dumps(answer).encode()
    once, rejected = decoded(provider, body)
    assert once
    assert not rejected
    assert decoded(provider, body, body) == (once, 0)


def test_a_split_of_no_shares_is_rejected_beside_the_rest():
    events = {str(n): {"date": 1598880600 + n, "numerator": 4, "denominator": n, "splitRatio": ""} for n in (0, 1)}
    meta = {"exchangeTimezoneName": "America/New_York"}
    body = json.dumps({"chart": {"result": [{"meta": meta, "events": {"splits": events}}], "error": None}})
    rows, rejected = decoded("yahoo", body.encode())
    assert (len(rows), rejected) == (1, 1)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_answer_gives_rows_rejects_or_a_frame_error(data):
    provider, answer = data.draw(st.sampled_from(CASES))
    damaged = json.loads(json.dumps(answer))
    place = data.draw(st.sampled_from([p for p in places(damaged) if p]))
    holder = damaged
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = data.draw(ODD)
    sound = len(decoded(provider, json.dumps(answer).encode())[0])
    try:
        rows, _ = decoded(provider, json.dumps(damaged).encode())
    except FrameError:
        return
    assert len(rows) <= sound + 1


@settings(deadline=None)
@given(st.sampled_from(list(ANSWERS)), st.binary(max_size=64))
def test_bytes_that_are_no_answer_give_a_frame_error(provider, body):
    with pytest.raises(FrameError):
        decoded(provider, body)


@settings(deadline=None)
@given(st.sampled_from([1.0, 2.0, 4.0, 28.0, 0.1, 7.0]), st.integers(1, 10_000))
def test_what_was_paid_comes_back_to_the_cent_of_what_yahoo_divided(ratio, cents):
    paid = cents / 100
    assert as_paid(round(paid / ratio, 6), 0, [(1, ratio)]) == pytest.approx(paid, abs=0.5e-6 * max(1.0, ratio) + 1e-9)
    assert as_paid(paid, 2, [(1, ratio)]) == paid


def test_a_day_begins_at_its_own_midnight_and_none_before_1970_is_taken():
    assert midnight("2024-03-11", "America/New_York") - midnight("2024-03-10", "America/New_York") == 23 * 3600 * 10**9
    assert midnight("2024-03-11", "Europe/Madrid") == 1_710_111_600 * 10**9
    for text in ("1962-01-02", "2024-02-30", "now", "", "2024-3-1x"):
        with pytest.raises(FrameError):
            midnight(text, "America/New_York")
    with pytest.raises(FrameError):
        midnight("2024-01-02", "Mars/Olympus")
