"""Every query and check under sql/ against rows in a real server, with answers worked out here in plain Python."""

from __future__ import annotations

import bisect
import itertools
import math
import re
import statistics
import time
from collections import defaultdict
from typing import Any

import pytest
from sql_rows import (
    COINBASE,
    KRAKEN,
    MINUTE,
    REFRESH_TIMEOUT_S,
    SQL,
    START,
    S,
    ask,
    bars_of,
    counts,
    insert,
    iso,
    of,
    plant,
    quote,
    refreshed,
    sets_price,
    trade,
)  # fmt: skip

from recorder.shell.database.migrate import apply_schema
from recorder.values.tables import CANCELLED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, OUTLIER, SIZE_SPIKE

QUERIES = sorted(path.stem for path in (SQL / "queries").glob("*.sql"))
WITHDRAWN = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
CHECKS = sorted(path.stem for path in (SQL / "checks").glob("*.sql"))


@pytest.fixture(scope="module")
def planted(questdb: Any) -> Any:
    """Sound rows of five minutes and what was planted; nothing here changes them."""
    return plant(questdb)


# Files as they are shipped.


def test_every_query_and_check_says_first_what_it_answers():
    for path in [*SQL.glob("queries/*.sql"), *SQL.glob("checks/*.sql"), *SQL.glob("views/*.sql")]:
        assert re.match(r"-- [A-Z].*[.?:,\w]\n", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", [*(f"queries/{q}" for q in QUERIES), *(f"checks/{c}" for c in CHECKS)])
def test_file_runs_as_shipped(planted, path):
    ask(planted.server, path)  # the last hour is empty: the planted rows are of 2024


@pytest.mark.parametrize("name", QUERIES)
def test_query_answers_from_planted_rows(planted, name):
    assert ask(planted.server, f"queries/{name}", **{"from": planted.frm})


@pytest.mark.parametrize("name", CHECKS)
def test_check_finds_nothing_in_sound_rows(planted, name):
    text = (SQL / "checks" / f"{name}.sql").read_text(encoding="utf-8")
    assert ask(planted.server, f"checks/{name}", **({"from": planted.frm} if "@from" in text else {})) == []


# Queries.


def test_last_hour_bars_are_the_minutes_of_one_symbol_and_feed(planted):
    rows = ask(planted.server, "queries/last_hour_bars", **{"from": planted.frm}, feed="'kraken'")
    expected = bars_of(of(planted, KRAKEN), MINUTE)
    assert [(r["ts_event"], r["open"], r["close"], r["trade_count"]) for r in rows] == [
        (key[0], bar[0], bar[3], bar[6]) for key, bar in sorted(expected.items())
    ]


def test_price_is_compared_with_the_vwaps_stored_beside_it(planted):
    rows = ask(planted.server, "queries/vwap_against_price", **{"from": planted.frm})
    last = {t["ts_event"] // MINUTE: t for t in of(planted) if sets_price(t)}
    assert [r["price"] for r in rows] == [t["price"] for t in last.values()]
    for row, t in zip(rows, last.values(), strict=True):
        assert row["above_session_bp"] == pytest.approx((t["price"] / t["vwap"] - 1) * 1e4)
        assert row["above_rolling_bp"] == pytest.approx((t["price"] / t["rolling_vwap"] - 1) * 1e4)


def test_spread_over_time_counts_quotes_with_both_sides(planted):
    rows = ask(planted.server, "queries/spread_over_time", **{"from": planted.frm})
    minutes = defaultdict(list)
    for q in planted.quotes:
        if q["ask"] is not None and q["ts_event"] >= START:
            minutes[iso(q["ts_event"] // MINUTE * MINUTE)].append(q["ask"] - q["bid"])
    assert [(r["ts_event"], r["spread_max"], r["quotes"]) for r in rows] == [
        (minute, max(spreads), len(spreads)) for minute, spreads in minutes.items()
    ]
    assert [r["spread_avg"] for r in rows] == pytest.approx([statistics.fmean(s) for s in minutes.values()])


def with_quotes(planted: Any) -> list[tuple[dict, dict]]:
    """Each trade that sets a price with the last quote at or before it, found by bisection."""
    times = [q["ts_event"] for q in planted.quotes]
    pairs = ((t, bisect.bisect_right(times, t["ts_event"]) - 1) for t in of(planted) if sets_price(t))
    return [(t, planted.quotes[i]) for t, i in pairs if i >= 0]


def test_effective_spread_takes_the_quote_of_the_moment(planted):
    rows = ask(planted.server, "queries/effective_spread", **{"from": planted.frm})
    sides = defaultdict(list)
    for t, q in with_quotes(planted):
        if q["ask"] is not None:
            mid = (q["bid"] + q["ask"]) / 2
            sides[t["side"]].append((2 * abs(t["price"] - mid) / mid * 1e4, (q["ask"] - q["bid"]) / mid * 1e4))
    assert [(r["side"], r["trades"]) for r in rows] == [(side, len(sides[side])) for side in ("buy", "sell")]
    for row in rows:
        effective, quoted = zip(*sides[row["side"]], strict=True)
        assert row["effective_spread_bp"] == pytest.approx(statistics.fmean(effective))
        assert row["quoted_spread_bp"] == pytest.approx(statistics.fmean(quoted))


def test_trade_throughs_are_outside_the_quote_of_the_moment(planted):
    rows = ask(planted.server, "queries/trade_throughs", **{"from": planted.frm})
    outside = {
        t["trade_id"]: t["price"] - (q["bid"] if t["price"] < q["bid"] else q["ask"])
        for t, q in with_quotes(planted)
        if t["price"] < q["bid"] or (q["ask"] is not None and t["price"] > q["ask"])
    }
    assert {r["trade_id"]: r["outside"] for r in rows} == outside


def test_outliers_carry_a_flag(planted):
    rows = ask(planted.server, "queries/outliers", **{"from": planted.frm})
    flagged = [t for t in planted.trades if t["flags"] & (OUTLIER | SIZE_SPIKE)]
    assert len(rows) == len(flagged[:100])
    assert {(r["outlier"], r["size_spike"]) for r in rows} == {(True, False), (False, True)}


def test_gaps_are_summed_by_cause(planted):
    (row,) = ask(planted.server, "queries/gaps_today", **{"from": planted.frm})
    assert (row["gaps"], row["missing"], row["longest_s"], row["status"]) == (2, 4, 3.0, "open")


def test_latency_percentiles_take_a_clock_ahead_for_no_latency(planted):
    rows = ask(planted.server, "queries/latency_percentiles", **{"from": planted.frm})
    for row, key in zip(rows, (COINBASE, KRAKEN), strict=True):
        late = sorted((t["ts_recv"] - t["ts_event"]) / 1e6 for t in of(planted, key))
        assert (row["trades"], row["ms_min"], row["ms_max"]) == (len(late), late[0], late[-1])
        assert row["ms_p50"] == pytest.approx(late[(len(late) - 1) // 2], abs=1.01)  # a step of the data is 1 ms
        assert row["ms_p99"] == pytest.approx(late[math.ceil(len(late) * 0.99) - 1], abs=1.01)


def test_stages_of_latency_are_summed_in_their_order_and_stay_signed(planted):
    rows = ask(planted.server, "queries/latency_by_stage", **{"from": planted.frm})
    assert [(row["feed"], row["stage"]) for row in rows] == [("kraken", s) for s in ("exchange", "applied", "total")]
    assert [row["rows"] for row in rows] == [6, 6, 6]
    assert [row["ms_mean"] for row in rows] == [-0.25, 0.75, 0.5]  # the first two add up to the last
    assert [row["ms_p50"] for row in rows] == [-3.0, 0.75, -2.0]
    assert [row["ms_min"] for row in rows] == [-8.000002, 0.75, -7.0]
    assert [row["ms_max"] for row in rows] == [1.5, 0.75, 9.500002]


def test_volume_profile_adds_up_by_price(planted):
    rows = ask(planted.server, "queries/volume_profile", **{"from": planted.frm}, step="25.0")
    steps: dict[float, float] = defaultdict(float)
    bought: dict[float, float] = defaultdict(float)
    for t in filter(counts, of(planted)):
        steps[t["price"] // 25 * 25] += t["size"]
        bought[t["price"] // 25 * 25] += t["size"] * (t["side"] == "buy")
    assert {r["price_from"]: r["volume"] for r in rows} == steps
    assert {r["price_from"]: r["bought"] for r in rows} == pytest.approx({p: bought[p] / v for p, v in steps.items()})


def test_busiest_symbols_come_first(planted):
    rows = ask(planted.server, "queries/busiest_symbols", **{"from": planted.frm})
    for row, key in zip(rows, (COINBASE, KRAKEN), strict=True):
        counted = [t for t in of(planted, key) if counts(t)]
        seconds = [t["ts_event"] // S for t in counted]
        assert (row["feed"], row["trades"]) == (key[1], len(counted))
        assert row["turnover"] == sum(t["price"] * t["size"] for t in counted)
        assert row["trades_in_a_second_max"] == max(map(seconds.count, seconds))


def test_imbalance_is_bought_less_sold(planted):
    rows = ask(planted.server, "queries/buy_sell_imbalance", **{"from": planted.frm})
    for row in rows:
        minute = [t for t in of(planted) if counts(t) and iso(t["ts_event"] // MINUTE * MINUTE) == row["ts_event"]]
        bought, sold = (sum(t["size"] for t in minute if t["side"] == side) for side in ("buy", "sell"))
        assert (row["bought"], row["sold"]) == (bought, sold)
        assert row["imbalance"] == pytest.approx((bought - sold) / (bought + sold))
    assert len(rows) == 5


def test_realised_volatility_is_of_minute_closes(planted):
    rows = ask(planted.server, "queries/realised_volatility", **{"from": planted.frm})
    for row in rows:
        bars = bars_of(of(planted, ("BTC-USD", row["feed"])), MINUTE)
        closes = [bar[3] for _, bar in sorted(bars.items())]
        squares = [math.log(b / a) ** 2 for a, b in itertools.pairwise(closes)]
        assert row["returns"] == 4
        assert row["volatility_pct"] == pytest.approx(math.sqrt(sum(squares)) * 100)
        assert row["annualised_pct"] == pytest.approx(math.sqrt(sum(squares) / 4 * 525600) * 100)
    assert len(rows) == 2


def test_largest_trades_are_ordered_by_turnover(planted):
    rows = ask(planted.server, "queries/largest_trades", **{"from": planted.frm})
    turnovers = sorted((t["price"] * t["size"] for t in planted.trades if counts(t)), reverse=True)
    assert [r["turnover"] for r in rows] == turnovers[:20]
    means = {k[1]: statistics.fmean(t["size"] for t in of(planted, k) if counts(t)) for k in (COINBASE, KRAKEN)}
    assert [r["times_average"] for r in rows] == pytest.approx([r["size"] / means[r["feed"]] for r in rows])


def test_rejected_frames_are_counted_by_reason(planted):
    rows = ask(planted.server, "queries/rejected_by_reason", **{"from": planted.frm})
    assert [(r["reason"], r["rejected"], r["example"]) for r in rows] == [("not JSON", 2, "{2"), ("no price", 1, "{1")]


def test_uptime_is_the_time_between_opened_and_closed(planted):
    (row,) = ask(planted.server, "queries/feed_uptime", **{"from": planted.frm})
    assert (row["drops"], row["up_s"]) == (2, 150.0)
    assert row["up_pct"] == pytest.approx(150 / (time.time() - START / S) * 100, rel=1e-3)


def test_feeds_are_compared_minute_by_minute(planted):
    rows = ask(planted.server, "queries/compare_feeds", **{"from": planted.frm})
    mine, other = (bars_of(of(planted, key), MINUTE) for key in (COINBASE, KRAKEN))
    vwaps = [(a[5] / a[4], b[5] / b[4]) for a, b in zip(mine.values(), other.values(), strict=True)]
    assert [r["vwap"] for r in rows] == pytest.approx([a for a, _ in vwaps])
    assert [r["other_vwap"] for r in rows] == pytest.approx([b for _, b in vwaps])
    assert [r["apart_bp"] for r in rows] == pytest.approx([(a / b - 1) * 1e4 for a, b in vwaps])


# Checks, each with its fault planted among sound rows. From here on tables are cleared.


@pytest.fixture(scope="module")
def faulty(questdb: Any) -> Any:
    questdb.clear()
    sound = [trade(START + i * S, 100 + i, 100.0, 1.0) for i in range(60) if i not in (20, 21, 40)]
    gap = {"ts_event": START + 22 * S, "symbol": "BTC-USD", "feed": "coinbase", "channel": "trades", "kind": "trade_id"}
    faults = [
        trade(START + 61 * S, 105, 101.0, 1.0),  # an id used twice
        trade(START + 30 * S + 1, 110, 99.0, 1.0, flags=WITHDRAWN),  # a cancellation is not; its trade still counts
        trade(START + 62 * S, 1, -1.0, 1.0, KRAKEN),
        trade(START + 63 * S, 2, 100.0, -1.0, KRAKEN),
        trade(START + 64 * S, 3, 100.0, 1.0, KRAKEN, ts_recv=START + 61 * S),
        trade(START + 65 * S, 4, 100.0, 1.0, KRAKEN, ts_recv=START + 64 * S),
    ]
    insert(questdb, "trades", sound + faults)
    insert(questdb, "gaps", [gap | {"from_id": 120, "to_id": 121, "missing": 2}])  # of 140 nobody knows
    minute = {"ts_event": START, "symbol": "BTC-USD", "feed": "coinbase", "channel": "trades", "noticed": START}
    insert(questdb, "coverage", [minute | {"received": 61, "duplicate": 1}])
    insert(questdb, "quotes", [
        quote(START, 1, 100.0, 101.0), quote(START + 1, 2, 101.0, 101.0), quote(START + 2, 3, 102.0, 101.0),
        quote(START + 3, 4, 0.0, 101.0), quote(START + 4, 5, None, 101.0),
    ])  # fmt: skip
    bar = {"ts_event": START, "symbol": "BTC-USD", "feed": "coinbase", "timeframe": "1m", "open": 100.0, "high": 100.0}
    insert(questdb, "bars", [bar | {"low": 100.0, "close": 100.0, "volume": 60.0}])
    refreshed(questdb)
    return questdb


FOUND = {
    "repeated_trade_ids": [{"trade_id": 105, "stored": 2, "price_min": 100.0, "price_max": 101.0}],
    "crossed_quotes": [{"sequence": 3, "crossed_by": 1.0}],
    "impossible_trades": [{"trade_id": 2, "size": -1.0}, {"trade_id": 1, "price": -1.0}],
    "impossible_quotes": [{"sequence": 4, "bid": 0.0}],
    "trades_from_the_future": [{"trade_id": 3, "ahead_s": 3.0}],
    "gaps_still_missing": [{"from_id": 120, "to_id": 121, "missing": 2, "recorded": 1}],
    "unrecorded_gaps": [{"from_id": 140, "to_id": 140, "missing": 1}],
    "uncounted_trades": [{"ts_event": iso(START), "counted": 60, "stored": 58}],  # 57 of them and a cancellation
    "withdrawn_but_counted": [{"trade_id": 110, "price": 100.0, "withdrawn": iso(START + 30 * S + 1)}],
    "bars_unlike_the_providers": [{"ts_event": iso(START), "volume": 57.0, "provider_volume": 60.0}],
}


@pytest.mark.parametrize("name", FOUND)
def test_check_finds_the_planted_fault_and_nothing_else(faulty, name):
    rows = ask(faulty, f"checks/{name}", **{"from": f"'{iso(START)}'"})
    assert [{key: row[key] for key in found} for row, found in zip(rows, FOUND[name], strict=True)] == FOUND[name]


def test_of_recorded_gaps_those_are_named_that_the_table_still_has(faulty):
    """A row that came by another way fills its part of a gap; a hole that nobody recorded is the check's to find."""
    insert(faulty, "trades", [trade(START + 20 * S, 120, 100.0, 1.0)])
    faulty.wait_applied()
    (row,) = ask(faulty, "checks/gaps_still_missing", **{"from": f"'{iso(START)}'"})
    assert (row["from_id"], row["to_id"], row["missing"], row["recorded"]) == (121, 121, 1, 1)


def test_stopped_tables_are_found_and_the_views_made_anew(fresh_tables):
    fresh_tables.sql.execute("ALTER TABLE trades DROP COLUMN zscore")
    fresh_tables.wait_applied()
    deadline = time.monotonic() + REFRESH_TIMEOUT_S
    while {r["name"] for r in ask(fresh_tables, "checks/stopped_tables")} != {f"bars_1{u}" for u in "smhd"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    apply_schema(fresh_tables.sql)
    assert ask(fresh_tables, "checks/stopped_tables") == []
    assert set(CHECKS) == {*FOUND, "stopped_tables"}
