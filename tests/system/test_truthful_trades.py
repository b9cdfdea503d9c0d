"""What sale conditions and revisions make of a tape, asked of a real server: bars and both VWAPs."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lean
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recorded import config_for
from sql_rows import DAY, MINUTE, START, ask, insert, iso, refreshed, trade

from recorder.commands.load import make_sink
from recorder.core.batch import Output
from recorder.core.eligibility import eligibility
from recorder.core.encode import Dictionary, Sealed, sort_rows
from recorder.core.frames import SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.log import get
from recorder.shell.sink import Sink
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec
from recorder.values.schema import TEXT_NULL
from recorder.values.tables import CANCELLED, DAY_HIGH_LOW, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

DEADLINE_S = 60.0
# Published days of NYSE's stocks. IBM's high is a cent below that of the prints that may set one; nobody says why.
DAYS = ("aig/20131007", "bac/20131007", "bac/20131008", "bac/20131009", "ibm/20131007")
UNLIKE = {("ibm/20131007", "high")}


@pytest.fixture
def sink(fresh_tables: Any) -> Iterator[Sink]:
    opened = make_sink(config_for(fresh_tables, ()), get("recorder"))
    yield opened
    opened.close()


def store(sink: Sink, sealed: Sealed) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not sink.room():
        assert time.monotonic() < deadline, sink.last_error
        time.sleep(0.001)
    sink.submit(sealed)
    assert sink.drain(DEADLINE_S), sink.last_error


def test_high_low_and_close_of_eligible_prints_are_the_published_ones(
    fresh_tables: Any, sink: Sink, shared_data: Path
) -> None:
    """The days' files hold average prices up to 1.5 % off the market and prints of hours before and after it."""
    folder = shared_data / "lean/equity/usa"
    published, volume, extremes = {}, {}, {}
    output = Output()
    scope = output.scope("lean", 0)
    for position, day in enumerate(DAYS, start=1):
        name, date = day.split("/")
        published[day] = dict(lean.daily(folder / f"daily/{name}.zip"))[date]
        counted, prices = [], []
        for number, (ts, price, size, exchange, letters) in enumerate(
            lean.equity_trades(folder / f"tick/{day}_trade.zip", -4)
        ):
            scope.trades.append(
                ts, ts, scope.series(day), scope.text(exchange), number, TEXT_NULL, price, size, 0,
                scope.text(",".join(letters) or None), scope.text("A"), eligibility(letters, "A"),
            )  # fmt: skip
            counted.append(0.0 if {"M", "Q"} & set(letters) else size)
            prices.append(price)
        volume[day], extremes[day] = math.fsum(counted), (max(prices), min(prices))
        store(sink, Sealed(position, (sort_rows(scope.trades.seal()),), Dictionary.of(output)))
    refreshed(fresh_tables)
    rows = {row["symbol"]: row for row in fresh_tables.sql.rows("bars_1d")}
    for day, (_, high, low, close, _) in published.items():
        row = rows[day]
        assert row["volume"] == volume[day]
        assert row["low"] <= row["vwap_last"] <= row["high"]
        for name, value in (("high", high), ("low", low), ("close", close)):
            assert (row[name] == value) == ((day, name) not in UNLIKE), (day, name)
    assert extremes["bac/20131008"][0] > rows["bac/20131008"]["high"]
    assert extremes["bac/20131009"][1] < rows["bac/20131009"]["low"]


FLAGS = (0, 0, NOT_LAST_ELIGIBLE, NOT_LAST_ELIGIBLE | DAY_HIGH_LOW, NOT_VOLUME_ELIGIBLE, CANCELLED)
# Prices and sizes whose products and sums are rounded: a quotient of sums of one price is often not that price.
prints = st.lists(
    st.tuples(
        st.integers(0, 12 * 60 - 1),  # second
        st.one_of(st.integers(1, 10**7).map(lambda cents: cents / 100), st.floats(1e-6, 1e6)),
        st.one_of(st.integers(0, 10**7).map(lambda n: n / 1000), st.floats(1e-9, 1e9)),
        st.sampled_from(FLAGS),
        st.booleans(),  # at the price of the one before
    ),
    min_size=1,
    max_size=70,
)


@example(tape=[(60 * i, 7.0 + 0.07 * i, 0.1 + 0.3 * i, 0, False) for i in range(12)] * 2)  # quotients beside the price
@given(tape=prints)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_last_eligible_vwap_lies_between_low_and_high_of_any_tape(questdb: Any, tape: Any) -> None:
    questdb.clear()
    rows, price = [], 1.0
    for number, (second, drawn, size, flags, same) in enumerate(tape):
        price = price if same else drawn
        rows.append(trade(START + second * 10**9, number, price, size, flags=flags))
    insert(questdb, "trades", rows)
    refreshed(questdb)
    for view, width in (("bars_1m", MINUTE), ("bars_1m_live", MINUTE), ("bars_1h", 60 * MINUTE), ("bars_1d", DAY)):
        expected = defaultdict(list)
        highs = defaultdict(list)
        for row in rows:
            start = iso(row["ts_event"] // width * width)
            if not row["flags"] & (NOT_LAST_ELIGIBLE | CANCELLED):
                expected[start].append(row)
            if not row["flags"] & CANCELLED and row["flags"] in (0, NOT_VOLUME_ELIGIBLE, FLAGS[3]):
                highs[start].append(row["price"])
        for bar in questdb.sql.rows(view):
            setting = expected[bar["ts_event"]]
            both = [row for row in setting if not row["flags"] & NOT_VOLUME_ELIGIBLE]
            volume = math.fsum(row["size"] for row in both)
            assert bar["volume_last"] == pytest.approx(volume, rel=1e-12)
            if not volume:
                assert bar["vwap_last"] is None
                continue
            low, high = min(row["price"] for row in setting), max(row["price"] for row in setting)
            assert low <= bar["vwap_last"] <= high
            worth = math.fsum(row["price"] * row["size"] for row in both)
            assert bar["vwap_last"] == pytest.approx(worth / volume, rel=1e-9)
            prices = highs[bar["ts_event"]]
            names = ("high", "low") if view == "bars_1d" else ("day_high", "day_low")
            assert [bar[name] for name in names] == [max(prices), min(prices)], view


def messages(now: int) -> tuple[list[dict], list[dict], list[dict]]:
    """Prints of three minutes, what revises some of them later, and the tape as if it had been right at once."""

    def print_(second: int, number: int, price: float, size: float) -> dict:
        fields = {"T": "t", "S": "AAPL", "i": number, "x": "Q", "p": price, "s": size, "c": ["@"], "z": "C"}
        return fields | {"t": iso(now + second * 10**9)}

    first = [print_(20 * i, i, 100.0 + i, 10.0 + i) for i in range(9)]
    first[4]["p"] = 900.0  # fat finger, the high of its minute
    cancel = {"T": "x", "a": "E", "S": "AAPL", "i": 4, "x": "Q", "p": 900.0, "s": 14.0, "z": "C"}
    correction = {"T": "c", "S": "AAPL", "x": "Q", "oc": ["@"], "cc": ["@"], "z": "C"}
    revisions = [
        cancel | {"t": iso(now + 190 * 10**9)},
        correction | {"oi": 0, "op": 100.0, "os": 10.0, "ci": 77, "cp": 99.0, "cs": 1.0, "t": iso(now + 200 * 10**9)},
        correction | {"oi": 8, "op": 108.0, "os": 18.0, "ci": 8, "cp": 97.0, "cs": 2.0, "t": iso(now + 201 * 10**9)},
    ]
    right = [row for row in first if row["i"] not in (0, 4, 8)]
    right += [print_(0, 77, 99.0, 1.0), print_(160, 8, 97.0, 2.0)]
    return first, revisions, sorted(right, key=lambda row: row["t"])


def bars(server: Any, view: str, feed: str) -> list[dict]:
    refreshed(server)
    rows = [row for row in server.sql.rows(view) if row["feed"] == feed]
    return [{name: value for name, value in row.items() if name != "feed"} for row in rows]


def test_bars_and_vwaps_after_revisions_are_those_of_the_corrected_tape(fresh_tables: Any, sink: Sink) -> None:
    start = START
    first, revisions, right = messages(start)
    pipeline, position = Pipeline(KernelsConfig(), make), 0
    specs = [FeedSpec(name=name, provider="alpaca", symbols=("AAPL",)) for name in ("revised", "right", "early")]
    frames = [(SOURCE, number, 0, msgspec.json.encode(spec)) for number, spec in enumerate(specs)]
    frames += [(TEXT, 0, start + 200 * 10**9, msgspec.json.encode(first))]
    frames += [(TEXT, 1, start + 200 * 10**9, msgspec.json.encode(right))]
    frames += [(TEXT, 2, start + 202 * 10**9, msgspec.json.encode(revisions))]  # before what they revise
    views = ("bars_1s", "bars_1m", "bars_1m_live", "bars_1h", "bars_1d", "daily_vwap")
    last = [
        (TEXT, number, start + 202 * 10**9, msgspec.json.encode(piece))
        for number, piece in ((0, revisions), (2, first))
    ]
    for piece in (frames, last):
        before = {view: bars(fresh_tables, view, "revised") for view in views}
        block = frames_from_list(piece, position=position)
        position = block.end
        pipeline.consume(block)
        store(sink, pipeline.seal())
    for view in views:
        right_bars = bars(fresh_tables, view, "right")
        assert before[view] != bars(fresh_tables, view, "revised") == right_bars != [], view
        assert bars(fresh_tables, view, "early") == right_bars, view
    assert ask(fresh_tables, "checks/withdrawn_but_counted", **{"from": f"'{iso(start - DAY)}'"}) == []
    [latest] = fresh_tables.sql.rows("SELECT price FROM latest_trades WHERE feed = 'revised'")
    assert latest["price"] == 97.0


def test_a_trade_taken_back_after_it_was_forgotten_is_found_by_a_check(fresh_tables: Any) -> None:
    flags = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
    insert(fresh_tables, "trades", [
        trade(START, 1, 9.0, 2.0, exchange="Q"),
        trade(START + 1, 2, 9.0, 2.0, exchange="Q"),
        trade(START + 2, 1, 9.0, 2.0, exchange="Q", flags=flags),
        trade(START + 3, 2, 9.0, 2.0, exchange="N", flags=flags),
    ])  # fmt: skip
    fresh_tables.wait_applied()
    rows = ask(fresh_tables, "checks/withdrawn_but_counted", **{"from": f"'{iso(START - 1)}'"})
    assert [(row["trade_id"], row["ts_event"]) for row in rows] == [(1, iso(START))]
