"""The views under sql/ against rows in a real server, and that they stay right whatever arrives."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sql_rows import (
    COINBASE,
    DAY,
    HOUR,
    MINUTE,
    START,
    S,
    bars_of,
    counts,
    insert,
    iso,
    plant,
    refreshed,
    sets_price,
    stored_bars,
    trade,
    trades_of,
)  # fmt: skip

from recorder.commands.replay import replay
from recorder.shell.database.migrate import apply_schema
from recorder.values.config import Config, QuestdbConfig
from recorder.values.tables import CANCELLED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE


@pytest.fixture(scope="module")
def planted(questdb: Any) -> Any:
    """Sound rows of five minutes and what was planted; nothing here changes them."""
    return plant(questdb)


@pytest.mark.parametrize(
    ("view", "width"),
    [("bars_1s", S), ("bars_1m", MINUTE), ("bars_1m_live", MINUTE), ("bars_1h", HOUR), ("bars_1d", DAY)],
)
def test_bars_are_those_of_the_trades_that_count(planted, view, width):
    assert stored_bars(planted.server, view) == bars_of(planted.trades, width)


def test_daily_vwap_is_turnover_over_volume_of_the_utc_day(planted):
    for row in planted.server.sql.rows("daily_vwap"):
        rows = [t for t in planted.trades if t["feed"] == row["feed"] and counts(t)]
        volume = sum(t["size"] for t in rows)
        assert (row["ts_event"], row["volume"]) == ("2024-03-05T00:00:00.000000000Z", volume)
        assert row["vwap"] == pytest.approx(sum(t["price"] * t["size"] for t in rows) / volume, rel=1e-12)
    assert planted.server.sql.value("select count() from daily_vwap") == 2


def test_latest_trade_is_the_last_that_sets_the_price(planted):
    rows = planted.server.sql.rows("latest_trades")
    expected = {t["feed"]: t["trade_id"] for t in planted.trades if sets_price(t)}
    assert {row["feed"]: row["trade_id"] for row in rows} == expected


def test_latest_quote_has_mid_and_spread(planted):
    (row,) = planted.server.sql.rows("latest_quotes")
    last = planted.quotes[-1]
    assert (row["bid"], row["ask"]) == (last["bid"], last["ask"])
    assert (row["mid"], row["spread"]) == ((last["bid"] + last["ask"]) / 2, last["ask"] - last["bid"])


def test_every_view_has_a_test(planted):
    made = {row["table_name"] for row in planted.server.sql.rows("tables() where table_type <> 'T'")}
    elsewhere = {"trades_clean", "coverage_minutes"}  # test_coverage_command
    elsewhere |= {
        "corporate_actions_now",
        "corporate_actions_applied",
        "adjustments",
        "bars_adjusted",
    }  # …bars_adjusted
    elsewhere |= {"options_by_expiration"}  # test_chain_command
    assert made == {"daily_vwap", "latest_trades", "latest_quotes", "bars_1m_live"} | elsewhere | {
        f"bars_{width}" for width in ("1s", "1m", "1h", "1d")
    }


# Bars stay right.


def test_bars_do_not_change_when_trades_are_sent_again(fresh_tables):
    trades = trades_of(COINBASE, 300, 5)
    for part in (trades[:150], trades[150:], trades[100:200], trades):
        insert(fresh_tables, "trades", part)
        refreshed(fresh_tables)
    assert stored_bars(fresh_tables, "bars_1s") == bars_of(trades, S)
    assert stored_bars(fresh_tables, "bars_1d") == bars_of(trades, DAY)


def test_late_trades_change_the_bars_they_belong_to(fresh_tables):
    trades = trades_of(COINBASE, 300, 6)
    late = [t for i, t in enumerate(trades) if i % 3 == 0 and trades[i - 1]["ts_event"] < t["ts_event"]]
    late = [t for t in late if sum(t["ts_event"] == other["ts_event"] for other in trades) == 1]
    insert(fresh_tables, "trades", [t for t in trades if t not in late])
    refreshed(fresh_tables)
    insert(fresh_tables, "trades", late)
    refreshed(fresh_tables)
    for view, width in (("bars_1s", S), ("bars_1m", MINUTE), ("bars_1d", DAY)):
        assert stored_bars(fresh_tables, view) == bars_of(trades, width)


def test_bar_without_a_price_setting_trade_has_volume_and_no_prices(fresh_tables):
    insert(fresh_tables, "trades", [
        trade(START, 1, 9.0, 2.0, flags=NOT_LAST_ELIGIBLE),
        trade(START + 1, 2, 7.0, 4.0, flags=CANCELLED),
        trade(START + MINUTE, 3, 8.0, 1.0, flags=NOT_VOLUME_ELIGIBLE),
        trade(START + 2 * MINUTE, 4, 5.0, 1.0, flags=NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE),
    ])  # fmt: skip
    refreshed(fresh_tables)
    assert stored_bars(fresh_tables, "bars_1m") == {
        (iso(START), *COINBASE): (None, None, None, None, 2.0, 18.0, 1),
        (iso(START + MINUTE), *COINBASE): (8.0, 8.0, 8.0, 8.0, 0.0, 0.0, 0),
    }
    assert stored_bars(fresh_tables, "bars_1d") == {
        (iso(START // DAY * DAY), *COINBASE): (8.0, 8.0, 8.0, 8.0, 2.0, 18.0, 1)
    }


def test_live_bars_hold_what_the_timer_has_not_brought_yet(fresh_tables):
    trades = trades_of(COINBASE, 200, 7)
    fresh_tables.sql.execute("ALTER MATERIALIZED VIEW bars_1s SET REFRESH MANUAL")
    insert(fresh_tables, "trades", trades[:100])
    fresh_tables.wait_applied()
    assert stored_bars(fresh_tables, "bars_1m_live") == bars_of(trades[:100], MINUTE)
    refreshed(fresh_tables)
    before = stored_bars(fresh_tables, "bars_1m")
    insert(fresh_tables, "trades", trades[100:])
    fresh_tables.wait_applied()
    assert stored_bars(fresh_tables, "bars_1m") == before != bars_of(trades, MINUTE)
    assert stored_bars(fresh_tables, "bars_1m_live") == bars_of(trades, MINUTE)


def test_trade_older_than_the_retention_erases_no_bar(fresh_tables):
    apply_schema(fresh_tables.sql, SimpleNamespace(retention={"trades": "3 DAYS"}))
    now = time.time_ns() // DAY * DAY
    trades = [trade(now - age * DAY + 1, 10 - age, 100.0 + age, 1.0) for age in (2, 1, 0)]
    insert(fresh_tables, "trades", trades)
    refreshed(fresh_tables)
    before = {view: stored_bars(fresh_tables, view) for view in ("bars_1s", "bars_1d")}
    assert before["bars_1d"] == bars_of(trades, DAY)
    insert(fresh_tables, "trades", [trade(now - 9 * DAY, 11, 1.0, 1.0), trades[-1]])
    refreshed(fresh_tables)
    assert {view: stored_bars(fresh_tables, view) for view in before} == before


# Recorded trades: several of one millisecond in every second one, in the order of their ids.


@pytest.mark.parametrize(
    "name", ["usdm_btcusdt_20230404", "usdm_btcusdt_20230405", "spot_btcusdt_20240808", "usdm_btcusdt_20240808"]
)
def test_minute_bars_of_a_recording_are_those_counted_from_its_file(fresh_tables, shared_data, name):
    file = f"hftbacktest/{name}.gz"
    facts = json.loads((shared_data / "expected.json").read_text())["files"][file]
    (counted,) = facts["trades_by_symbol"].values()
    expected = counted["minute_bars_ohlcv_n"]
    no_market = {ts // MINUTE * MINUTE for *_, ts in counted.get("not_market_trades_counted_in_the_above", ())}
    server = QuestdbConfig(embedded=False, ilp=fresh_tables.ilp_url, sql=fresh_tables.sql_url)
    replay(msgspec.structs.replace(Config(), questdb=server), [shared_data / file])
    refreshed(fresh_tables)
    bars = {ts: bar for (ts, *_), bar in stored_bars(fresh_tables, "bars_1m").items()}
    assert set(bars) == {iso(int(start)) for start in expected}
    for start, (*prices, volume, count) in expected.items():
        bar = bars[iso(int(start))]
        if int(start) in no_market:  # the file's facts count a trade of the insurance fund, which is not at the market
            assert bar[1] < float(prices[1])
            assert bar[6] == count - 1
        else:
            assert bar[:4] == tuple(map(float, prices))
            assert round(Decimal(bar[4]), 3 + name.startswith("spot") * 5) == Decimal(volume)
            assert bar[6] == count
