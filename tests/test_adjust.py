"""Which actions count as of a time, and what factors they give; the view is held against the same calls."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from adjusted_rows import day, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder.core.adjust import Known, applied, conflicts, steps, versions
from recorder.feeds import ACTIONS

DAY = 86_400 * 10**9
LAST = (1 << 63) - 1
START = day("2020-01-02")


def known(ts_event: int, kind: str = "split", feed: str = "alpaca", **fields: Any) -> Known:
    value: dict[str, Any] = {"ratio": 2.0} if kind in ("split", "stock_dividend") else {"amount": 1.0}
    given = {"ts_known": ts_event, "symbol": "A", "action_id": f"{feed} {kind} {ts_event}"} | value | fields
    return Known(ts_event=ts_event, feed=feed, action_type=kind, **given)


TOLD = st.lists(
    st.builds(
        lambda when, kind, feed, later, number, value: known(
            START + when * DAY, kind, feed, ts_known=START + (when + later) * DAY, action_id=str(number),
            **({"ratio": value} if kind in ("split", "stock_dividend") else {"amount": value}),
        ),
        st.integers(0, 12),
        st.sampled_from(["split", "stock_dividend", "cash_dividend", "capital_gain", "spin_off", "merger"]),
        st.sampled_from(["alpaca", "polygon", "yahoo", "else"]),
        st.integers(-3, 9),
        st.integers(0, 3),
        st.sampled_from([0.5, 1.5, 2.0]),
    ),
    max_size=8,
)  # fmt: skip


def test_as_of_a_time_the_version_known_then_counts():
    first = known(START, "cash_dividend", ts_known=START, action_id="d", amount=1.0)
    second = known(START + DAY, "cash_dividend", ts_known=START + 9 * DAY, action_id="d", amount=2.0)
    assert versions([second, first], START + 8 * DAY) == [first]
    assert versions([second, first], START + 9 * DAY) == [second]


def test_what_became_known_later_counts_as_it_was_first_told():
    late = [known(START, "cash_dividend", ts_known=START + n * DAY, action_id="d", amount=float(n)) for n in (5, 7)]
    assert versions(late, START) == [late[0]]


def test_an_action_that_several_providers_tell_counts_once():
    told = [known(START, feed=feed) for feed in ("yahoo", "polygon", "alpaca")]
    assert [row.feed for row in applied(told, LAST, ACTIONS)] == ["alpaca"]


def test_all_of_one_providers_dividends_of_a_day_count():
    """A special beside a regular one; Yahoo tells their sum."""
    told = [
        known(START, "cash_dividend", "polygon", action_id="regular", amount=0.5),
        known(START, "cash_dividend", "polygon", action_id="special", amount=3.0),
        known(START, "cash_dividend", "yahoo", amount=3.5),
    ]
    assert sum(row.amount or 0 for row in applied(told, LAST, ACTIONS)) == 3.5


def test_an_ex_date_that_another_provider_puts_a_day_off_is_the_same_action():
    told = [known(START + DAY, feed="alpaca"), known(START, feed="yahoo"), known(START + 2 * DAY, feed="polygon")]
    assert [row.feed for row in applied(told, LAST, ACTIONS)] == ["alpaca"]
    weekly = [known(START + n * 7 * DAY, "cash_dividend") for n in range(4)]
    assert applied(weekly, LAST, ACTIONS) == weekly


def test_what_is_to_come_and_what_is_paid_in_another_currency_moves_nothing():
    assert applied([known(START)], START - 1, ACTIONS) == []
    assert applied([known(START, "cash_dividend", currency="TWD")], LAST, ACTIONS) == []
    assert applied([known(START, "spin_off", ratio=0.5)], LAST, ACTIONS) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([2.0, 0.1, 1.05])), max_size=10))
def test_a_split_factor_is_the_product_of_the_ratios_still_to_come(splits):
    actions = [known(START + at * DAY, ratio=ratio, action_id=str(n)) for n, (at, ratio) in enumerate(splits)]
    times = np.array([START + n * DAY for n in range(-1, 52)], np.int64)
    split, cash = steps(actions, lambda ts_event: None).at(times)
    assert (cash == 1.0).all()
    for time, factor in zip(times.tolist(), split.tolist(), strict=True):
        expected = math.prod(1 / ratio for at, ratio in splits if START + at * DAY > time)
        assert factor == pytest.approx(expected, rel=1e-12)


def test_a_dividend_takes_its_share_of_the_close_before_it(shared_data):
    """Databento's factor of Microsoft's 10 cents of February 2007, and the close that it names."""
    text = (shared_data / "corporate_actions" / "databento_adjustment-factors.jsonl").read_text()
    for line in text.splitlines():
        item = json.loads(line)
        ex = day(item["ex_date"])
        action = known(ex, "cash_dividend", amount=float(item["detail"].split("DIVPAYRATE=")[1].split("]")[0]))
        _, cash = steps([action], lambda ts_event, close=item["close"]: close).at(np.array([ex - 1, ex]))
        assert cash.tolist() == [pytest.approx(item["factor"], rel=1e-12), 1.0]


def test_a_dividend_above_the_price_is_no_dividend():
    _, cash = steps([known(START, "cash_dividend", amount=5.0)], lambda ts_event: 4.0).at(np.array([START - 1]))
    assert cash.tolist() == [1.0]


@given(TOLD, st.integers(0, 12))
def test_conflicts_are_found_whichever_way_round_and_never_of_one_provider(told, as_of):
    now = START + as_of * DAY
    found = conflicts(told, now)
    assert conflicts(list(reversed(told)), now) == found or len({(t.action_id, t.ts_known) for t in told}) < len(told)
    for conflict in found:
        other = conflict.second.feed if conflict.second else conflict.missing_in
        assert conflict.first.feed != other
    for feed in ("alpaca", "yahoo"):
        assert conflicts([row for row in told if row.feed == feed], now) == []


@pytest.fixture(scope="module")
def emptied(questdb: Any) -> Any:
    questdb.sql.execute("TRUNCATE TABLE corporate_actions")
    questdb.wait_applied("corporate_actions")
    return questdb


def put_known(server: Any, rows: list[Known]) -> None:
    put(
        server,
        "corporate_actions",
        "ts_event, ts_recv, feed, symbol, action_type, action_id, ts_known, ratio, amount",
        (
            f"({r.ts_event}, {r.ts_known}, '{r.feed}', '{r.symbol}', '{r.action_type}', '{r.action_id}', {r.ts_known}, "
            f"{r.ratio or 'null'}, {r.amount or 'null'})"
            for r in rows
        ),
    )


_examples = iter(range(1 << 30))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TOLD, min_size=20, max_size=20))
def test_the_view_applies_the_same_actions(emptied, lists):
    """Twenty symbols at a time: what a view costs is its parsing."""
    expected, every, names = {}, [], []
    for told in lists:
        symbol = f"S{next(_examples)}"
        names.append(symbol)
        # A version with a time of its own: of two told at once nobody can say which is the newer.
        rows = {(r.feed, r.action_type, r.action_id, r.ts_known): r for r in told}
        mine = [Known(**{**vars(r), "symbol": symbol}) for r in rows.values()]
        every += mine
        expected[symbol] = sorted(
            (r.ts_event, r.feed, r.action_type, r.action_id) for r in applied(mine, LAST, ACTIONS)
        )
    put_known(emptied, every)
    listed = ", ".join(f"'{name}'" for name in names)
    found: dict[str, list[Any]] = {name: [] for name in names}
    for symbol, *row in emptied.sql.query(
        "SELECT symbol, ts_event::long, feed, action_type, action_id FROM corporate_actions_applied "
        f"WHERE symbol IN ({listed})"
    ).rows:
        found[symbol].append(tuple(row))
    assert {symbol: sorted(rows) for symbol, rows in found.items()} == expected


def test_versions_that_a_vendor_publishes_point_in_time_are_all_kept(emptied, shared_data):
    """One reverse split, told by Databento on two days: both lines are rows, each found as of its own time."""
    text = (shared_data / "corporate_actions" / "databento_corporate-actions-pit.jsonl").read_text()
    items = [json.loads(line) for line in text.splitlines()]
    assert len({item["event_unique_id"] for item in items}) == 1
    rows = [
        known(
            day(item["ex_date"]), feed="databento", symbol=item["symbol"], action_id=item["event_unique_id"],
            ratio=item["ratio_new"] / item["ratio_old"],
            ts_known=int(datetime.fromisoformat(item["ts_record"]).timestamp()) * 10**9,
        )
        for item in items
    ]  # fmt: skip
    put_known(emptied, rows)
    put_known(emptied, rows)  # again: no more rows
    stored = emptied.sql.query("SELECT ts_known::long FROM corporate_actions WHERE feed = 'databento'").rows
    assert sorted(ts for (ts,) in stored) == sorted(row.ts_known for row in rows)
    assert len(rows) == 2
    for row in rows:
        assert versions(rows, row.ts_known) == [row]
