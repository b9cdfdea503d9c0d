"""Every recording a feed here can read, replayed into a real QuestDB and asked back by SQL.

What must come out was counted from the files by others (expected.json). Each recording gets a feed name of its own, so
that its rows can be told from those of the others in the same tables.
"""

from __future__ import annotations

import gzip
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from recorded import Recordings, canonical, config_for, named, refresh, short, trade_of

from recorder.commands.replay import replay
from recorder.values.tables import BACKFILLED, NOT_LAST_ELIGIBLE

RECORDINGS = 35  # of them, those that hold only HTTP answers included
QUOTE_MESSAGES = ("bookTicker", "ticker", "tickers", "orderbook_snapshot")
ROWS_MAX_SMALL = 1  # every megabyte of frames is a block
MINUTE = 60 * 10**9
SEED = 20260801


@pytest.fixture(scope="module")
def recordings(questdb: Any, shared_data: Path) -> Recordings:
    questdb.clear()
    found = Recordings(questdb, shared_data)
    for name in found.facts:
        found.summaries[name] = found.replay(name)
    return found


def exact(value: float) -> Decimal:
    """The shortest decimal that is this double: what the provider sent, as long as it sent at most 15 digits."""
    return Decimal(repr(value))


def test_every_frame_is_read_and_nothing_is_rejected_unknown_or_doubled(recordings: Recordings) -> None:
    assert len(recordings.facts) == RECORDINGS
    for name, facts in recordings.facts.items():
        summary = recordings.summaries[name]
        books = facts["messages_by_type"].get("rest_depth_snapshot", 0)  # asked for over HTTP, no frame of the stream
        assert summary.frames == facts["recv_messages"] - books, name
        assert summary.skipped.get("rest", 0) == books, name
        assert summary.skipped.get("http", 0) == facts["lines"].get("http", 0), name
        assert (summary.rejected, summary.unknown) == (0, {}), name
        repeated = sum(each["duplicate_ids"] for each in facts.get("trades_by_symbol", {}).values())
        assert summary.duplicates == repeated == 0, name
    assert recordings.questdb.sql.value("SELECT count() FROM rejected") == 0


def test_connections_are_recorded_as_opened(recordings: Recordings) -> None:
    for name, facts in recordings.facts.items():
        found = recordings.rows("SELECT event, connection FROM feed_events WHERE {feed}", name)
        assert found == [{"event": "opened", "connection": 0}] * facts["lines"].get("connect", 0), name


def test_trades_by_symbol_have_the_counted_number_sum_vwap_extremes_and_times(recordings: Recordings) -> None:
    total = 0
    for name in recordings.facts:
        expected = recordings.symbols(name)
        live = f"AND flags & {BACKFILLED} = 0"
        found = {
            row["symbol"]: row
            for row in recordings.rows(
                "SELECT symbol, count() n, min(price) low, max(price) high, ksum(size) size, "
                "ksum(price * size) / ksum(size) vwap, min(ts_event)::long first_event, "
                "max(ts_event)::long last_event, min(ts_recv)::long first_recv, max(ts_recv)::long last_recv "
                "FROM trades WHERE {feed} ",
                name,
                live,
            )
        }
        exactly: dict[str, list[Decimal]] = {}
        for row in recordings.rows("SELECT symbol, price, size FROM trades WHERE {feed}", name, live):
            sums = exactly.setdefault(row["symbol"], [Decimal(), Decimal()])
            size = exact(row["size"])
            sums[0] += size
            sums[1] += size * exact(row["price"])
        assert set(found) == {symbol for symbol, facts in expected.items() if facts["n"]}, name
        for symbol, row in found.items():
            facts, (size, worth) = expected[symbol], exactly[symbol]
            where = f"{name} {symbol}"
            assert row["n"] == facts["n"], where
            assert size == Decimal(facts["sum_size"]), where
            assert abs(worth / size / Decimal(facts["vwap"]) - 1) < Decimal("1e-14"), where  # it has 15 digits
            assert (row["low"], row["high"]) == (float(facts["min_price"]), float(facts["max_price"])), where
            assert (row["first_event"], row["last_event"]) == (facts["first_exchange_ns"], facts["last_exchange_ns"])
            assert (row["first_recv"], row["last_recv"]) == (facts["first_recv_ns"], facts["last_recv_ns"]), where
            # The server's own sums, of doubles: rounded once a row, compensated.
            assert row["size"] == pytest.approx(float(size), rel=1e-15), where
            assert row["vwap"] == pytest.approx(float(facts["vwap"]), rel=1e-14), where
            total += row["n"]
    counted = sum(facts.get("trades", {}).get("total", 0) for facts in recordings.facts.values())
    assert total == counted > 60_000


def test_trades_in_snapshots_are_stored_and_flagged(recordings: Recordings) -> None:
    for name, facts in recordings.facts.items():
        found = recordings.rows(
            "SELECT symbol, count() n FROM trades WHERE {feed} ORDER BY symbol", name, f"AND flags & {BACKFILLED} != 0"
        )
        expected = {s: f["in_snapshots"] for s, f in recordings.symbols(name).items() if f.get("in_snapshots")}
        assert {row["symbol"]: row["n"] for row in found} == expected, name
        assert sum(expected.values()) == facts.get("trades", {}).get("in_snapshots", 0), name


def test_every_quote_message_is_a_row_with_its_receive_time(recordings: Recordings) -> None:
    for name, facts in recordings.facts.items():
        kinds = facts["messages_by_type"]  # of OKX's version 3 "swap/ticker_None" and the like
        sent = sum(count for kind, count in kinds.items() if kind in QUOTE_MESSAGES or kind.endswith("/ticker_None"))
        if "DERIBIT" in name:
            sent = 0  # its tickers are of contracts
        [row] = recordings.rows(
            "SELECT count() n, min(ts_recv)::long first_recv, max(ts_recv)::long last_recv FROM quotes WHERE {feed}",
            name,
        )
        assert sent == recordings.summaries[name].rows.get("quotes", 0), name
        assert row["n"] == sent - sent_again(recordings.folder / name), name
        if sent:
            assert facts["first_recv_ns"] <= row["first_recv"] < row["last_recv"] <= facts["last_recv_ns"], name


def sent_again(path: Path) -> int:
    """How often Bybit sends best prices anew, after three quiet seconds: of one update, of one time of its engine."""
    if "_BYBIT" not in path.name:
        return 0
    seen, again = set(), 0
    for line in gzip.decompress(path.read_bytes()).splitlines():
        if b'"topic":"orderbook.1.' in line:
            message = json.loads(line[line.find(b"{") :])
            key = (message["topic"], message["data"]["u"], message["cts"])
            again += key in seen
            seen.add(key)
    return again


def test_option_tickers_are_contracts_in_a_chain(recordings: Recordings) -> None:
    """Deribit's Greeks and volatilities, which it sends in percent; the newest of each contract against its message."""
    compared = 0
    for name in recordings.facts:
        if "DERIBIT" not in name:
            continue
        last: dict[str, dict[str, Any]] = {}
        for line in gzip.decompress((recordings.folder / name).read_bytes()).splitlines():
            if b'"channel":"ticker.' in line:
                data = json.loads(line[line.find(b"{") :])["params"]["data"]
                last[data["instrument_name"]] = data
        found = recordings.rows("SELECT * FROM options_chain WHERE {feed} LATEST ON ts_event PARTITION BY symbol", name)
        assert {row["symbol"] for row in found} == set(last)
        for row in found:
            sent = last[row["symbol"]]
            assert row["iv"] == pytest.approx(sent["mark_iv"] / 100, rel=1e-12)
            assert [row[name] for name in ("delta", "gamma", "theta", "vega", "rho")] == [
                sent["greeks"][name] for name in ("delta", "gamma", "theta", "vega", "rho")
            ]
            assert (row["open_interest"], row["greeks_source"]) == (sent["open_interest"], "provider")
            compared += 1
    assert compared > 0


def test_a_quote_follows_the_one_before_it_by_its_update_id(recordings: Recordings) -> None:
    """On Binance ids of one symbol grow; rows in the order they were received must too."""
    for name, facts in recordings.facts.items():
        if facts.get("sequence", {}).get("bookTicker_u.messages"):
            last: dict[str, int] = {}
            for row in recordings.rows("SELECT symbol, sequence FROM quotes WHERE {feed} ORDER BY ts_recv", name):
                assert row["sequence"] > last.get(row["symbol"], -1), name
                last[row["symbol"]] = row["sequence"]
            assert len(last) == facts["sequence"]["bookTicker_u.streams"], name


def test_minute_bars_by_sql_are_the_counted_ones(recordings: Recordings) -> None:
    compared = 0
    for name in recordings.facts:
        for symbol, facts in recordings.symbols(name).items():
            found = recordings.rows(
                "SELECT ts_event::long start, first(price) open, max(price) high, min(price) low, last(price) close, "
                "ksum(size) volume, count() n FROM trades WHERE {feed} SAMPLE BY 1m",
                name,
                f"AND symbol = '{symbol}'",
            )
            if "minute_bars_ohlcv_n" in facts:
                bars = facts["minute_bars_ohlcv_n"]
                assert [str(row["start"]) for row in found] == list(bars), name
                for row, (*prices, volume, n) in zip(found, bars.values(), strict=True):
                    assert [row["open"], row["high"], row["low"], row["close"]] == [float(p) for p in prices], name
                    assert row["volume"] == pytest.approx(float(volume), rel=1e-14), name
                    assert row["n"] == n, name
                    compared += 1
    assert compared == sum(
        len(facts.get("minute_bars_ohlcv_n", ()))
        for name in recordings.facts
        for facts in recordings.symbols(name).values()
    )
    assert compared > 40


def test_the_view_of_minute_bars_gives_them_without_trades_that_set_no_price(recordings: Recordings) -> None:
    """Where the counted bar holds a trade that is not of the market, the view's must differ by just that trade."""
    refresh(recordings.questdb, "bars_1s", "bars_1m")
    compared = 0
    for name in recordings.facts:
        for symbol, facts in recordings.symbols(name).items():
            found = recordings.rows(
                "SELECT ts_event::long start, open, high, low, close, volume, trade_count FROM bars_1m WHERE {feed}",
                name,
                f"AND symbol = '{symbol}' ORDER BY ts_event",
            )
            outside = facts.get("not_market_trades_counted_in_the_above", ())
            for row, (start, bar) in zip(found, facts.get("minute_bars_ohlcv_n", {}).items(), strict=False):
                left_out = [trade for trade in outside if 0 <= trade[3] - int(start) < MINUTE]
                volume = Decimal(bar[4]) - sum(Decimal(size) for _, _, size, _ in left_out)
                assert str(row["start"]) == start, name
                assert row["trade_count"] == bar[5] - len(left_out), name
                assert row["volume"] == pytest.approx(float(volume), rel=1e-12), name
                assert (row["open"], row["low"], row["close"]) == (float(bar[0]), float(bar[2]), float(bar[3])), name
                if left_out:
                    assert row["high"] < float(bar[1]) == float(left_out[0][1]), name
                else:
                    assert row["high"] == float(bar[1]), name
                compared += 1
            assert len(found) == len(facts["minute_bars_ohlcv_n"]) if "minute_bars_ohlcv_n" in facts else True, name
    assert compared > 40


def test_trades_that_are_not_of_the_market_are_kept_and_may_set_no_price(recordings: Recordings) -> None:
    for name in recordings.facts:
        found = recordings.rows(
            "SELECT conditions, price, size, ts_event::long ts FROM trades WHERE {feed}",
            name,
            f"AND flags & {NOT_LAST_ELIGIBLE} != 0",
        )
        expected = [
            [condition, float(price), float(size), ts]
            for facts in recordings.symbols(name).values()
            for condition, price, size, ts in facts.get("not_market_trades_counted_in_the_above", ())
        ]
        assert [list(row.values()) for row in found] == expected, name


@pytest.mark.parametrize("name", ["usdm_btcusdt_20230405.gz", "usdm_btcusdt_20240808.gz", "cm_btcusd_perp_20240808.gz"])
def test_the_aggressor_buys_at_the_offer_and_sells_at_the_bid(recordings: Recordings, name: str) -> None:
    """Against the last quote before the millisecond of the trade; the resting order's side would be wrong each time.

    Futures only: quotes of spot carry no time of the exchange.
    """
    found = recordings.rows(
        "SELECT t.side side, t.price price, q.bid bid, q.ask ask "
        f"FROM (trades WHERE {{feed}}) t LT JOIN (quotes WHERE feed = '{short(name)}') q ON (symbol)",
        name,
    )
    met = [row for row in found if row["bid"] is not None]
    right = sum((row["side"] == "buy") == (row["ask"] - row["price"] < row["price"] - row["bid"]) for row in met)
    assert len(met) > 2000
    assert right / len(met) > 0.99  # a quote may be sent after the trade of its millisecond


def test_no_recording_lost_anything(recordings: Recordings) -> None:
    """Sequences of these files are whole (data README); not one id is reported missing."""
    for name, facts in recordings.facts.items():
        assert not [key for key in facts.get("sequence", {}) if key.endswith(("gaps", "not_after_previous"))], name
    assert recordings.questdb.sql.rows("SELECT * FROM gaps") == []
    assert recordings.questdb.sql.value("SELECT count() FROM trades WHERE missed IS NOT NULL") == 0


def test_computed_columns_are_filled(recordings: Recordings) -> None:
    """The session VWAP of the last trade is the counted one, as this recording lies within one day of UTC."""
    name = "hftbacktest/spot_btcusdt_20240809.gz"
    [(symbol, facts)] = recordings.symbols(name).items()
    [row] = recordings.rows("SELECT vwap, rolling_vwap, zscore FROM trades WHERE {feed} LIMIT -1", name)
    assert row["vwap"] == pytest.approx(float(facts["vwap"]), rel=1e-12), symbol
    assert row["rolling_vwap"] == pytest.approx(row["vwap"], rel=1e-3)
    assert row["zscore"] is not None


def test_a_second_replay_merged_by_date_and_in_small_blocks_leaves_every_row_as_it_was(
    recordings: Recordings,
) -> None:
    """Recordings of one date ran at once: merged by receive time they give the same rows as one by one."""
    counts, digests = recordings.counts(), recordings.digests()
    merged: set[str] = set()
    for date, check in recordings.checks["merged_replay"].items():
        names = [f"hftbacktest/{file}" for file in check["files"]]
        specs = [recordings.specs[name] for name in names]
        paths = [recordings.folder / name for name in names]
        summary = replay(config_for(recordings.questdb, specs, ROWS_MAX_SMALL), paths)
        assert summary.frames + summary.skipped.get("rest", 0) == check["messages"], date
        merged |= set(names)
    assert len(merged) == 7
    for name in sorted(set(recordings.facts) - merged):
        assert recordings.replay(name, ROWS_MAX_SMALL).rows == recordings.summaries[name].rows, name
    assert recordings.counts() == counts
    assert recordings.digests() == digests


def test_a_recording_goes_on_where_that_of_the_day_before_ended(recordings: Recordings) -> None:
    names = ["hftbacktest/usdm_btcusdt_20230404.gz", "hftbacktest/usdm_btcusdt_20230405.gz"]
    paths = [recordings.folder / name for name in names]
    replay(config_for(recordings.questdb, [named(paths[0], "two-days")]), paths)
    rows = recordings.questdb.sql.rows(
        "SELECT count() n, max(trade_id) - min(trade_id) + 1 ids FROM trades WHERE feed = 'two-days'"
    )
    expected = sum(facts["n"] for name in names for facts in recordings.symbols(name).values())
    assert rows == [{"n": expected, "ids": expected}]
    assert recordings.questdb.sql.value("SELECT count() FROM gaps WHERE feed = 'two-days'") == 0


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("hftbacktest/spot_btcusdt_20230405.gz", 0.03),
        ("hftbacktest/usdm_btcusdt_20230404.gz", 0.2),
        ("hftbacktest/cm_btcusd_perp_20240808.gz", 0.03),
        ("cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz", 0.2),
        ("cryptofeed/BINANCE/2021-04-05_BINANCE-b38f7c.0.gz", 0.03),
    ],
)
def test_lines_taken_out_of_a_capture_are_the_gaps_found(
    recordings: Recordings, tmp_path: Path, name: str, share: float
) -> None:
    rng = random.Random(SEED)
    lines = gzip.decompress((recordings.folder / name).read_bytes()).splitlines(keepends=True)
    kept, kept_ids, lost_ids = [], {}, {}
    for line in lines:
        trade = trade_of(line)
        lost = line[:1].isdigit() and b"last_match" not in line and rng.random() < share
        if not lost:
            kept.append(line)
        if trade is not None:
            (lost_ids if lost else kept_ids).setdefault(trade[0], []).append(trade[1])
    path = tmp_path / f"{Path(name).name.split('_')[0]}_cut.gz"
    path.write_bytes(gzip.compress(b"".join(kept), 1))
    spec, feed = recordings.specs[name], f"cut-{short(name)}"
    replay(config_for(recordings.questdb, [named(path, feed)]), [path])

    gaps = recordings.questdb.sql.rows(
        f"SELECT symbol, channel, kind, from_id, to_id, missing, status FROM gaps WHERE feed = '{feed}'"
    )
    found: dict[str, list[int]] = {}
    for gap in gaps:
        assert (gap["channel"], gap["kind"], gap["status"]) == ("trades", "trade_id", "open")
        assert gap["missing"] == gap["to_id"] - gap["from_id"] + 1
        found.setdefault(gap["symbol"], []).extend(range(gap["from_id"], gap["to_id"] + 1))
    # What was lost before the first trade, or after the last one, no id tells; a snapshot's trade is a first one too.
    snapshots = recordings.questdb.sql.rows(
        f"SELECT symbol, min(trade_id) first FROM trades WHERE feed = '{feed}' GROUP BY symbol"
    )
    first = {row["symbol"]: row["first"] for row in snapshots}
    expected = {}
    for symbol, ids in lost_ids.items():
        ours, known = canonical(spec, symbol), kept_ids.get(symbol, [0])
        between = [i for i in ids if first.get(ours, known[0]) < i < max(known)]
        if between:
            expected[ours] = between
    assert {symbol: sorted(ids) for symbol, ids in found.items()} == expected
    assert expected
    missed = recordings.questdb.sql.rows(
        f"SELECT symbol, sum(missed) n FROM trades WHERE feed = '{feed}' AND missed IS NOT NULL"
    )
    assert {row["symbol"]: row["n"] for row in missed} == {symbol: len(ids) for symbol, ids in expected.items()}
    live = recordings.questdb.sql.value(
        f"SELECT count() FROM trades WHERE feed = '{feed}' AND flags & {BACKFILLED} = 0"
    )
    assert live == sum(map(len, kept_ids.values()))
