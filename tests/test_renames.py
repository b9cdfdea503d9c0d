"""What configured symbols are called now."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from recorder.core.renames import Rename, renamed

NAMES = st.sampled_from(["A", "B", "C", "D"])
RENAMES = st.lists(st.builds(Rename, ts_event=st.integers(0, 9), old=NAMES, new=NAMES), max_size=6)


def test_a_symbol_is_called_by_its_new_name_from_the_day_on():
    facebook = [Rename(100, "FB", "META")]
    assert renamed(("AAPL", "FB"), facebook, written=50, now=99) == ("AAPL", "FB")
    assert renamed(("AAPL", "FB"), facebook, written=50, now=100) == ("AAPL", "META")


def test_a_name_written_down_after_the_day_is_another_companys():
    """META was a fund until January 2022, when it became METV; who writes META since June means Facebook."""
    fund = [Rename(10, "META", "METV"), Rename(100, "FB", "META")]
    assert renamed(("META",), fund, written=200, now=300) == ("META",)
    assert renamed(("META", "FB"), fund, written=5, now=300) == ("METV", "META")


def test_names_are_followed_from_one_to_the_next():
    chain = [Rename(20, "B", "C"), Rename(10, "A", "B")]
    assert renamed(("A",), chain, written=0, now=30) == ("C",)


def test_two_that_swap_their_names_on_one_day_both_stay():
    assert renamed(("A", "B"), [Rename(1, "A", "B"), Rename(1, "B", "A")], written=0, now=2) == ("B", "A")


def test_the_tickers_of_companies_over_the_years_are_followed(shared_data):
    """Lean's map files: `last day,ticker[,exchange]` for each name a company had; 20501231 is for ever."""
    followed = 0
    for path in sorted((shared_data / "lean/equity/usa/map_files").glob("*.csv")):
        lines = [line.split(",")[:2] for line in path.read_text().split()]
        names = [(int(until), name) for until, name in lines[1:]] or [(20501231, lines[0][1])]
        renames = [Rename(until + 1, a, b) for (until, a), (_, b) in pairwise(names) if a != b]
        for until, name in names:
            assert renamed((names[0][1],), renames, 0, until) == (name,), path.name
        followed += len(renames)
    assert followed >= 5


@given(st.lists(NAMES, unique=True).map(tuple), RENAMES, st.integers(0, 9), st.integers(0, 9))
def test_only_what_lies_between_the_writing_and_now_counts(symbols, renames, written, now):
    between = [rename for rename in renames if written < rename.ts_event <= now]
    assert renamed(symbols, renames, written, now) == renamed(symbols, between, -1, 10)
    if not between:
        assert renamed(symbols, renames, written, now) == symbols


@given(st.lists(NAMES, unique=True).map(tuple), RENAMES)
def test_one_day_at_a_time_leads_where_all_days_at_once_do(symbols, renames):
    at_once, step_by_step = renamed(symbols, renames, -1, 9), symbols
    if len({(rename.ts_event, rename.old) for rename in renames}) < len({*renames}):
        return  # a symbol with two new names on one day: which of them is taken is nobody's promise
    for day in range(10):
        step_by_step = renamed(step_by_step, renames, day - 1, day)
    assert at_once == step_by_step
