"""``recorder coverage`` and the views beside it, on rows that the pipeline itself stored."""

from __future__ import annotations

import argparse
import json
from types import SimpleNamespace

import msgspec
import pytest

from recorder.commands import coverage, gaps
from recorder.commands.load import Load, make_sink
from recorder.core.frames import SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import Config, KernelsConfig, QuestdbConfig
from recorder.values.feed import MINUTE, SECOND, FeedSpec


def call(config, *words):
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    coverage.add(commands)
    gaps.add(commands)
    try:
        args = parser.parse_args(words)
    except SystemExit as stop:
        return stop.code
    return args.run(args, config)


DAY = 1_704_067_200 * SECOND  # 2024-01-01
SPEC = FeedSpec(name="cov", provider="binance", symbols=("BTC-USDT", "ETH-USDT"))
LOST = {130, 131, 305}  # of BTC-USDT, in the third and the sixth minute
TRADES = 600  # one a second, of each symbol


def trade(i: int, symbol: str) -> bytes:
    ms = DAY // 1_000_000 + 1000 * i
    data = {"e": "trade", "E": ms, "s": symbol, "t": i, "p": "100.5", "q": "1", "T": ms, "m": True, "M": True}
    return msgspec.json.encode({"stream": f"{symbol.lower()}@trade", "data": data})


@pytest.fixture(scope="module")
def covered(questdb):
    """Ten minutes of two symbols, with ids missing of one."""
    server = QuestdbConfig(embedded=False, ilp=questdb.ilp_url, sql=questdb.sql_url)
    config = Config(questdb=server)
    frames = [(SOURCE, 0, DAY, msgspec.json.encode(SPEC))]
    for i in range(TRADES):
        symbols = ("ETHUSDT",) if i in LOST else ("BTCUSDT", "ETHUSDT")
        frames += [(TEXT, 0, DAY + i * SECOND + 1, trade(i, symbol)) for symbol in symbols]
    sink = make_sink(config, SimpleNamespace(info=print, warning=print))
    load = Load(config, Pipeline(KernelsConfig(), make), sink)
    load.frames(frames_from_list(frames))
    load.finish(30)
    sink.close()
    return SimpleNamespace(server=questdb, config=config)


def test_a_day_is_as_complete_as_its_ids_say(covered, capsys):
    assert call(covered.config, "coverage", "--day", "2024-01-01", "--feed", "cov", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    btc, eth = answer["channels"]
    assert (btc["symbol"], btc["received"], btc["stored"], btc["missing"]) == ("BTC-USDT", TRADES - 3, TRADES - 3, 3)
    assert btc["completeness"] == pytest.approx((TRADES - 4) / TRADES)  # of the first nobody knows what came before
    assert (eth["received"], eth["missing"], eth["verified"]) == (TRADES, 0, TRADES - 1)
    assert btc["agrees"]
    assert eth["agrees"]
    assert [(hole["ts_event"][11:16], hole["missing"]) for hole in answer["holes"]] == [("00:02", 2), ("00:05", 1)]


def test_on_a_screen_it_reads_as_a_table_with_the_holes_below(covered, capsys):
    assert call(covered.config, "coverage", "--day", "2024-01-01", "--feed", "cov") == 0
    text = capsys.readouterr().out
    assert "99.3333%" in text
    assert "ids missing in the stream" in text
    assert "no loss" not in text
    assert "repaired  " not in text.partition("\n\n")[0], "a column of zeros"
    assert text.endswith("\n\ntrades: 99.5833% complete, 3 missing (2 series)\n")
    assert call(covered.config, "coverage", "--day", "2024-02-01", "--feed", "cov") == 0
    assert "nothing was recorded on 2024-02-01" in capsys.readouterr().out


def test_rows_that_vanish_from_the_table_are_told(covered, capsys):
    rows = [{"received": 5, "duplicate": 1, "agrees": False, "stored": 3, "completeness": None, "unverifiable": 5}]
    full = {name: 0 for name in (*coverage.COUNTS, "minutes")} | {"feed": "f", "symbol": "s", "channel": "trades"}
    coverage._print_channels("2024-01-01", [full | rows[0]])
    text = capsys.readouterr().out
    assert "3 (differs)" in text
    assert "unproven: the provider sends no ids that could prove completeness; that is no loss" in text


def channel_of(symbol: str, channel: str, **counts: int) -> dict[str, object]:
    return {"feed": "f", "symbol": symbol, "channel": channel, **dict.fromkeys(coverage.COUNTS, 0), **counts}


def test_the_day_in_a_line_tells_what_is_proven_from_what_nothing_can_prove():
    rows = [
        channel_of("*", "connection", missing=2),
        channel_of("A", "trades", received=99, verified=95, unverifiable=1, missing=6, repaired=3),
        channel_of("B", "trades", received=100, verified=100),
        channel_of("C", "trades", received=9, unverifiable=9),
        channel_of("A", "quotes", received=9, unverifiable=9),
        channel_of("B", "quotes", received=9, unverifiable=9),
    ]
    assert coverage.verdict(rows) == (
        "trades: 98.0198% complete, 3 missing (2 series); trades: unproven (C of f); quotes: unproven (2 series)"
    )
    assert coverage.verdict(rows[:1]) == ""


def of_kind(kind: str, status: str | None, gaps: int, missing: int | None, recovered: int, s: float = 0) -> dict:
    return {
        "feed": "f", "kind": kind, "status": status, "gaps": gaps, "missing": missing, "recovered": recovered,
        "span_ns": round(s * SECOND),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        ([of_kind("time", None, 3, None, 0, 900)], "✓ no row is known to be missing"),
        ([of_kind("trade_id", "repaired", 2, 25, 25)], "✓ 2 gaps: 2 repaired; 25 of 25 ids recovered"),
        (
            [
                of_kind("disconnect", None, 3, None, 0, 12.07), of_kind("disconnect", "repaired", 4, None, 1000, 12),
                of_kind("trade_id", "open", 1, 4, 1), of_kind("trade_id", "partial", 1, 10, 6),
                of_kind("trade_id", "unrepairable", 1, 1200, 0), of_kind("sequence", None, 1, 9, 0),
            ],
            "✗ 7 gaps: 4 repaired, 1 open, 2 given up; 7 of 1,214 ids recovered; 3 outages of connections, 12.1 s in "
            "all",
        ),
    ],
)  # fmt: skip
def test_the_gaps_of_a_day_in_a_line(sums, said, capsys):
    assert gaps.verdict(sums) == said
    gaps._print("2024-01-01", [], sums)
    assert capsys.readouterr().out.endswith(f"\n\n{said}\n")


def test_a_share_is_said_to_be_all_only_when_it_is():
    shares = [1.0, 0.99999999, 0.5, 0.0, 599 / 600]
    assert [coverage.percent(share) for share in shares] == ["100.0000%", "99.9999%", "50.0000%", "0.0000%", "99.8333%"]


@pytest.mark.parametrize("value", ["x' OR 1=1 --", "", "a;b", "é" * 200])
def test_names_that_are_none_do_not_reach_the_database(covered, value, capsys):
    assert call(covered.config, "coverage", "--symbol", value) == 2
    assert "no name of a feed, symbol or channel" in capsys.readouterr().err


def test_clean_trades_leave_out_the_minutes_touched_by_a_gap(covered):
    query = "SELECT symbol, count() n FROM trades_clean WHERE feed = 'cov' ORDER BY symbol"
    minute_trades = MINUTE // SECOND
    assert covered.server.sql.rows(query) == [
        {"symbol": "BTC-USDT", "n": TRADES - 2 * minute_trades},
        {"symbol": "ETH-USDT", "n": TRADES},
    ]


def test_a_gap_within_another_lets_nothing_of_the_other_back_in(covered):
    """As two recorders of one feed leave them: each its own, of any extent, also of the whole connection."""
    sql = covered.server.sql
    sql.execute(
        "INSERT INTO trades (ts_event, ts_recv, feed, symbol, trade_id, price, size, flags) "
        "SELECT dateadd('s', x::int - 1, '2024-01-03'::timestamp)::timestamp_ns, now(), 'two', 'A', x, 1.0, 1.0, 0 "
        "FROM long_sequence(1200)"
    )
    for start, end, symbol, channel in (
        ("00:01:30", "00:04:30", "A", "trades"), ("00:02:10", "00:02:20", "A", "trades"),
        ("00:10:30", "00:14:30", "*", "*"), ("00:12:10", "00:12:20", "*", "*"),
    ):  # fmt: skip
        sql.execute(
            "INSERT INTO gaps (ts_event, ts_recv, feed, symbol, channel, kind, from_id, span_ns, cause, status, "
            f"recovered) SELECT '2024-01-03T{end}.000000Z'::timestamp::timestamp_ns, now(), 'two', '{symbol}', "
            f"'{channel}', 'trade_id', 1, datediff('s', '2024-01-03T{start}'::timestamp, "
            f"'2024-01-03T{end}'::timestamp) * 1000000000L, 'lost', 'unrepairable', 0"
        )
    covered.server.wait_applied("trades", "gaps")
    rows = sql.rows("SELECT DISTINCT timestamp_floor('m', ts_event) m FROM trades_clean WHERE feed = 'two' ORDER BY m")
    assert [int(row["m"][14:16]) for row in rows] == [0, *range(5, 10), *range(15, 20)]


def test_the_ledger_by_minute_adds_up_to_the_day(covered):
    rows = covered.server.sql.rows("SELECT * FROM coverage_minutes WHERE feed = 'cov' AND symbol = 'BTC-USDT'")
    assert len(rows) == 10
    assert sum(row["received"] for row in rows) == TRADES - 3
    assert [row["missing"] for row in rows if row["missing"]] == [2, 1]


def test_of_recorders_with_tables_of_their_own_in_one_database_each_is_told_of_its_own(covered, capsys):
    sql = covered.server.sql
    server = msgspec.structs.replace(covered.config.questdb, prefix="other_")
    other = msgspec.structs.replace(covered.config, questdb=server)
    tables = ("coverage", "trades", "quotes", "bars", "gaps")
    try:
        for table in tables:
            sql.execute(f"CREATE TABLE other_{table} AS (SELECT * FROM {table} WHERE symbol = 'BTC-USDT')")
        for config, symbols in ((other, ["BTC-USDT"]), (covered.config, ["BTC-USDT", "ETH-USDT"])):
            assert call(config, "coverage", "--day", "2024-01-01", "--feed", "cov", "--json") == 0
            answer = json.loads(capsys.readouterr().out)
            assert [row["symbol"] for row in answer["channels"]] == symbols
            assert all(row["agrees"] and row["stored"] for row in answer["channels"])
            assert len(answer["holes"]) == 2
        sql.execute("TRUNCATE TABLE other_gaps")
        for config, said in ((other, "no gaps on 2024-01-01"), (covered.config, "ids missing in the stream")):
            assert call(config, "gaps", "--day", "2024-01-01", "--feed", "cov") == 0
            assert said in capsys.readouterr().out
    finally:
        for table in tables:
            sql.execute(f"DROP TABLE IF EXISTS other_{table}")


# The last one: it adds rows.


def test_the_past_that_was_asked_for_is_stored_beside_and_what_else_is_stored_is_told(covered, capsys):
    def agrees(symbol):
        assert call(covered.config, "coverage", "--day", "2024-01-01", "--feed", "cov", "--json") == 0
        channels = json.loads(capsys.readouterr().out)["channels"]
        return {row["symbol"]: (row["stored"] - row["received"], row["agrees"]) for row in channels}[symbol]

    def insert(symbol, number, flags):
        covered.server.sql.execute(
            "INSERT INTO trades (ts_event, ts_recv, feed, symbol, trade_id, price, size, flags) "
            f"SELECT dateadd('s', x::int, '2024-01-01T12:00:00'::timestamp)::timestamp_ns, now(), 'cov', '{symbol}', "
            f"x + 1000, 1.0, 1.0, {flags} FROM long_sequence({number})"
        )
        covered.server.wait_applied("trades")

    insert("BTC-USDT", 500, 8)
    assert (agrees("BTC-USDT"), agrees("ETH-USDT")) == ((500, True), (0, True))
    insert("ETH-USDT", 1, 0)
    assert (agrees("BTC-USDT"), agrees("ETH-USDT")) == ((500, True), (1, False))
