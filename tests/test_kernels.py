"""Kernels against plain Python, and what they promise whatever arrives."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.kernels import IDS_CONTIGUOUS, IDS_OPAQUE, OVERLAP_SKEW_NS, QUOTES_NUMBERED, RECENT_IDS, Kernels
from recorder.values import tables as t
from recorder.values.schedule import day_boundaries
from recorder.values.schema import LONG_NULL

DAY = 86_400 * 10**9
START = 1_700_006_400 * 10**9  # 2023-11-15T00:00:00Z
SETTINGS = SimpleNamespace(
    zscore_window=16,
    outlier_sigma=4.0,
    min_samples=4,
    size_window=8,
    size_multiple=5.0,
    rolling_vwap_s=6.4,
    time_gap_s=60.0,
)


def kernels(series=1, kind=IDS_CONTIGUOUS, **changed):
    k = Kernels(SimpleNamespace(**{**vars(SETTINGS), **changed}))
    k.add_zone(day_boundaries("UTC"))
    for _ in range(series):
        k.state.add(kind, 0)
    return k


def rows_of(records):
    rows = np.zeros(len(records), t.TRADES.dtype)
    rows["vwap"] = rows["rolling_vwap"] = rows["zscore"] = math.nan
    rows["missed"], rows["exchange"] = LONG_NULL, -1
    for i, record in enumerate(records):
        for name, value in record.items():
            rows[i][name] = value
    return rows


def walk(n, seed=1, price=60_000.0, step_ns=50_000_000, **fixed):
    rng = np.random.default_rng(seed)
    prices = price + np.cumsum(rng.normal(size=n)).round(2)
    return [
        {
            "ts_event": START + i * step_ns,
            "trade_id": i + 1,
            "price": prices[i],
            "size": round(rng.exponential(), 4),
            **fixed,
        }
        for i in range(n)
    ]


trade = st.fixed_dictionaries(
    {
        "series": st.integers(0, 2),
        "ts_event": st.integers(0, 400).map(lambda n: START - DAY // 2 + n * (DAY // 300)),
        "trade_id": st.integers(1, 40),
        "exchange": st.integers(-1, 1),
        "price": st.integers(1, 50).map(lambda n: 100 + n / 4),
        "size": st.integers(0, 2000).map(lambda n: n / 8),
        "flags": st.sampled_from([0, 0, 0, 0, t.NOT_LAST_ELIGIBLE, t.NOT_VOLUME_ELIGIBLE, t.CANCELLED, t.CORRECTED]),
    }
)
near = trade.map(lambda r: {**r, "ts_event": START + (r["ts_event"] - START) // 100_000})


@given(records=st.lists(st.one_of(trade, near), max_size=120), kind=st.sampled_from([IDS_CONTIGUOUS, IDS_OPAQUE]))
@settings(max_examples=150, deadline=None)
def test_every_column_and_gap_equals_the_plain_python_oracle(records, kind):
    k = kernels(series=3, kind=kind)
    rows = rows_of(records)
    gaps = k.trades(rows)
    expected, expected_gaps = reference.trades(records, k.parameters, kind == IDS_CONTIGUOUS, lambda ts: ts // DAY)
    for row, (vwap, rolling, z, missed, flags) in zip(rows, expected, strict=True):
        assert row["flags"] == flags
        assert row["missed"] == missed
        assert row["vwap"] == pytest.approx(vwap, rel=1e-12, nan_ok=True)
        assert row["rolling_vwap"] == pytest.approx(rolling, rel=1e-12, nan_ok=True)
        assert row["zscore"] == pytest.approx(z, rel=1e-6, abs=1e-9, nan_ok=True)
    found = sorted((int(g[0]), int(g[1]), int(g[3]), *map(int, g[4:7])) for g in gaps)
    kinds = {"trade_id": 1, "time": 3}
    assert found == sorted(
        (records[i]["series"], records[i]["ts_event"], kinds[what], first, last, missing)
        for i, what, first, last, missing in expected_gaps
    )


@given(cuts=st.lists(st.integers(1, 299), max_size=12))
@settings(max_examples=50, deadline=None)
def test_results_do_not_depend_on_where_batches_were_sealed(cuts):
    records = walk(300, seed=5)
    whole = rows_of(records)
    kernels().trades(whole)
    k, pieces = kernels(), []
    edges = [0, *sorted(set(cuts)), 300]
    for first, last in itertools.pairwise(edges):
        piece = rows_of(records[first:last])
        k.trades(piece)
        pieces.append(piece)
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_zscore_is_nan_while_all_prices_are_equal():
    rows = rows_of([{**r, "price": 60_000.0} for r in walk(100)])
    kernels().trades(rows)
    assert np.isnan(rows["zscore"]).all()


def test_zscore_is_exact_after_a_burst_has_left_the_window():
    quiet = [{**r, "price": 60_000.0 + (0.01 if i % 2 else 0.0)} for i, r in enumerate(walk(400))]
    quiet[100]["price"] = 90_000.0
    rows = rows_of(quiet)
    kernels().trades(rows)
    expected = reference.zscores([r["price"] for r in quiet], SETTINGS.zscore_window, SETTINGS.min_samples)
    assert rows["zscore"] == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_a_constant_price_after_movement_gives_nan_not_a_quotient_of_rounding():
    records = walk(64) + [
        {**r, "ts_event": r["ts_event"] + DAY // 100, "trade_id": r["trade_id"] + 64, "price": 61_000.0}
        for r in walk(64)
    ]
    records.append({**records[-1], "trade_id": 129, "price": 61_000.01})
    rows = rows_of(records)
    kernels().trades(rows)
    assert np.isnan(rows["zscore"][-10:]).all()


def test_a_jump_is_an_outlier_and_a_block_is_a_size_spike():
    records = walk(60)
    records[40]["price"] *= 1.05
    records[50]["size"] = 1000.0
    rows = rows_of(records)
    kernels(outlier_sigma=30.0, size_multiple=100.0).trades(rows)
    assert rows["flags"][40] & t.OUTLIER
    assert rows["flags"][50] & t.SIZE_SPIKE
    assert not (rows["flags"][:40] & (t.OUTLIER | t.SIZE_SPIKE)).any()


def test_exactly_the_removed_ids_appear_as_gaps():
    records = walk(200)
    removed = {13, 14, 15, 90, 150, 151}
    rows = rows_of([r for r in records if r["trade_id"] not in removed])
    gaps = kernels().trades(rows)
    lost = {number for gap in gaps for number in range(gap[4], gap[5] + 1)}
    assert lost == removed
    assert rows["missed"][rows["missed"] != LONG_NULL].tolist() == [3, 1, 2]


def test_trades_repeated_after_a_reconnect_are_flagged_and_change_nothing():
    records = walk(120)
    repeated = rows_of(records[:100] + records[100 - RECENT_IDS :])
    gaps = kernels().trades(repeated)
    plain = rows_of(records)
    kernels().trades(plain)
    duplicate = (repeated["flags"] & t.DUPLICATE) != 0
    assert duplicate.sum() == RECENT_IDS
    assert len(gaps) == 0
    assert repeated[~duplicate].tobytes() == plain.tobytes()


def test_an_overlap_of_two_connections_of_any_length_changes_nothing_and_is_no_gap():
    records = walk(500)
    overlapped = rows_of(records[:400] + records[100:])
    gaps = kernels().trades(overlapped)
    plain = rows_of(records)
    kernels().trades(plain)
    duplicate = (overlapped["flags"] & t.DUPLICATE) != 0
    assert duplicate.sum() == 300
    assert len(gaps) == 0
    assert overlapped[~duplicate].tobytes() == plain.tobytes()


def test_what_only_the_other_connection_delivered_is_no_repeat():
    records = walk(500)
    first = [r for r in records[:400] if r["trade_id"] not in (150, 151)]
    rows = rows_of(first + records[100:])
    gaps = kernels().trades(rows)
    kept = rows[(rows["flags"] & t.DUPLICATE) == 0]
    assert [int(gap[4]) for gap in gaps] == [150]
    assert {150, 151} <= set(kept["trade_id"].tolist())
    assert set(kept["trade_id"].tolist()) == set(range(1, 501))


def test_a_provider_that_starts_its_ids_over_loses_nothing():
    records = walk(200)
    again = [{**r, "ts_event": r["ts_event"] + DAY} for r in records]
    rows = rows_of(records + again[: -RECENT_IDS * 2])
    kernels().trades(rows)
    assert not (rows["flags"] & t.DUPLICATE).any()


def quotes_of(numbers, recv, series=0):
    rows = np.zeros(len(numbers), t.QUOTES.dtype)
    rows["series"], rows["sequence"], rows["ts_recv"] = series, numbers, [START + ns for ns in recv]
    rows["ts_event"] = rows["ts_recv"]
    return rows


def test_numbered_quotes_of_an_overlap_are_kept_once_and_unnumbered_ones_all():
    second = 1_000_000_000
    numbers = [10, 20, 30, 10, 20, 30, 40]  # the second connection's were received while the first still delivered
    recv = [0, second, 2 * second, 1, second + 1, 2 * second + 1, 3 * second]
    for kind, kept in ((IDS_CONTIGUOUS | QUOTES_NUMBERED, [10, 20, 30, 40]), (IDS_CONTIGUOUS, numbers)):
        rows = quotes_of(numbers, recv)
        kernels(kind=kind).quotes(rows)
        assert rows["sequence"][(rows["flags"] & t.DUPLICATE) == 0].tolist() == kept


def test_quotes_whose_numbers_start_over_are_kept():
    rows = quotes_of([1000, 1, 2], [0, OVERLAP_SKEW_NS + 1, OVERLAP_SKEW_NS + 2])
    kernels(kind=QUOTES_NUMBERED).quotes(rows)
    assert not (rows["flags"] & t.DUPLICATE).any()


def test_the_session_vwap_starts_over_at_midnight_of_its_zone():
    k = Kernels(SETTINGS)
    k.add_zone(day_boundaries("UTC"))
    k.state.add(IDS_OPAQUE, k.add_zone(day_boundaries("America/New_York")))
    midnight = 1_699_938_000 * 10**9  # 2023-11-14T00:00 in New York, five hours behind UTC
    rows = rows_of(
        [
            {"ts_event": midnight - 1, "trade_id": 1, "price": 10.0, "size": 5.0},
            {"ts_event": midnight, "trade_id": 2, "price": 20.0, "size": 1.0},
            {"ts_event": midnight - 1, "trade_id": 3, "price": 10.0, "size": 1.0},
        ]
    )
    k.trades(rows)
    assert rows["vwap"][:2].tolist() == [10.0, 20.0]
    assert np.isnan(rows["vwap"][2])
    assert rows["flags"][2] & t.LATE


def test_state_grows_with_the_number_of_series():
    k = kernels(series=0)
    for _ in range(1000):
        k.state.add(IDS_CONTIGUOUS, 0)
    records = [{**r, "series": i} for i in (0, 999) for r in walk(30)]
    rows = rows_of(records)
    k.trades(rows)
    assert rows["zscore"][:30] == pytest.approx(rows["zscore"][30:], nan_ok=True)


@given(times=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=60))
@settings(max_examples=50, deadline=None)
def test_a_quote_older_than_the_last_of_its_series_is_late(times):
    k = kernels(series=3)
    rows = np.zeros(len(times), t.QUOTES.dtype)
    rows["series"] = [series for series, _ in times]
    rows["ts_event"] = [START + ts for _, ts in times]
    k.quotes(rows)
    late = [any(s == series and before > ts for s, before in times[:i]) for i, (series, ts) in enumerate(times)]
    assert ((rows["flags"] & t.LATE) != 0).tolist() == late


def test_ids_that_start_over_are_new_trades_and_no_repeats_even_within_one_stamp():
    """A provider that counts from one again, a second or more later: every trade is stored, the next loss is known."""
    before = [{"ts_event": START + i, "trade_id": 100 + i} for i in range(200)]
    later = START + 10 * 10**9
    after = [{"ts_event": later + i // 50, "trade_id": 100 + i} for i in range(300) if i != 250]
    rows = rows_of([{"price": 10.0, "size": 1.0, **record} for record in before + after])
    gaps = kernels().trades(rows)
    assert not (rows["flags"] & t.DUPLICATE).any()
    assert [(g[4], g[5]) for g in gaps.tolist()] == [(350, 350)]
