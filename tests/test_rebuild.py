"""``recorder rebuild``: what is stored against the journal decoded again, cell by cell, and what a swap repairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from conftest import QuestDB
from recorder_process import external, write_config
from sql_rows import refreshed

from recorder.commands import cli
from recorder.commands.load import Load, make_sink
from recorder.core.frames import CLOSED, OPENED, SOURCE, TEXT
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.database.migrate import apply_schema
from recorder.shell.journal import Journal, list_segments, reading
from recorder.shell.log import iso_ns
from recorder.values.config import Config, KernelsConfig, QuestdbConfig
from recorder.values.feed import SECOND, FeedSpec
from recorder.values.tables import TABLES

START = 1_722_513_480 * SECOND  # 2024-08-01T11:58:00Z
SPECS = (
    FeedSpec(name="cb", provider="coinbase", channels=("trades", "quotes"), symbols=("BTC-USD",)),
    FeedSpec(name="bn", provider="binance", channels=("trades", "quotes"), symbols=("BTC-USDT", "ETH-USDT")),
)
LOST = {"BTC-USD": {40, 41}, "BTC-USDT": {70}, "ETH-USDT": set()}  # trade ids that never came
COUNT = 240  # trades of each symbol, one a second: over a minute's end and into an hour
TRADES = 3 * COUNT - 3
KEPT = 36_500.0  # days, of a journal of the past
RANGE = ("--from", "2024-08-01", "--to", "2024-08-02")

Said = SimpleNamespace
Rebuild = Callable[..., Said]


def frame(symbol: str, i: int) -> tuple[int, list[dict[str, Any]]]:
    """The index of the feed and the messages of second ``i``: a trade, and a quote now and then."""
    price, size, ms = f"{100 + (i * 7919 % 1000) / 100:.2f}", f"0.{i * 31 % 97 + 1:04d}", (START // SECOND + i) * 1000
    if symbol == "BTC-USD":
        common = {"sequence": 1000 + 2 * i, "product_id": symbol, "time": iso_ns(START + i * SECOND)[:-4] + "Z"}
        match = {"type": "match", "trade_id": i, "size": size, "price": price, "side": "buy"} | common
        best = {"best_bid": price, "best_bid_size": size, "best_ask": "120.5", "best_ask_size": "1"}
        last = {"side": "sell", "trade_id": i, "last_size": size, "price": price}
        return 0, [match, {"type": "ticker"} | common | best | last]
    venue = symbol.replace("-", "")
    data = {"e": "trade", "E": ms, "s": venue, "t": i, "p": price, "q": size, "T": ms, "m": bool(i % 2), "M": True}
    book = {"u": i, "s": venue, "b": price, "B": size, "a": "120.50", "A": "1.0"}
    streams = (("trade", data), ("bookTicker", book))
    return 1, [{"stream": f"{venue.lower()}@{name}", "data": content} for name, content in streams]


def write_journal(folder: Path, first: int = 0, count: int = COUNT, delay: int = 0) -> None:
    """``count`` seconds from ``first`` on, received with a delay of so many ns more."""
    with Journal.open(folder, segment_bytes=1 << 16, compress=False, keep_days=KEPT, now=lambda: START) as journal:
        sources = [journal.source(spec) for spec in SPECS]
        for source in sources:
            journal.append(source, OPENED, START + first * SECOND + delay, b"")
        for i in range(first, first + count):
            if i == 100:
                journal.append(sources[0], CLOSED, START + i * SECOND, b"cut")
                journal.append(sources[0], OPENED, START + i * SECOND + 1, b"")
            ts_recv = START + i * SECOND + delay
            for symbol, lost in LOST.items():
                if i in lost:
                    continue
                number, messages = frame(symbol, i)
                for message in messages:
                    ts_recv += 5_000_000 + i % 3
                    journal.append(sources[number], TEXT, ts_recv, msgspec.json.encode(message))
        journal.release(journal.end)


def load(questdb: QuestDB, folder: Path, prefix: str = "") -> None:
    config = Config(questdb=QuestdbConfig(embedded=False, ilp=questdb.ilp_url, sql=questdb.sql_url, prefix=prefix))
    sink = make_sink(config, SimpleNamespace(info=print, warning=print, error=print))
    loader = Load(config, Pipeline(KernelsConfig(), make), sink)
    try:
        for frames in reading.read(folder):
            loader.frames(frames)
        loader.finish(60)
    finally:
        sink.close()


@pytest.fixture
def loaded(fresh_tables: QuestDB, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A journal of two feeds, and the database that holds what its frames give."""
    write_journal(tmp_path / "journal")
    load(fresh_tables, tmp_path / "journal")
    config = write_config(tmp_path, {}, 29999, external(fresh_tables.sql_url))
    yield SimpleNamespace(server=fresh_tables, sql=fresh_tables.sql, journal=tmp_path / "journal", config=config)
    names = [row["table_name"] for row in fresh_tables.sql.rows("tables()")]
    assert [name for name in names if name.startswith("rebuilt_")] == []


@pytest.fixture
def rebuild(loaded: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> Rebuild:
    def call(table: str, *words: str, expect: int, when: tuple[str, ...] = RANGE) -> Said:
        capsys.readouterr()
        code = cli.main(["--config", str(loaded.config), "rebuild", "--table", table, *when, *words])
        out, err = capsys.readouterr()
        assert code == expect, (code, out, err)
        return Said(out=out, err=err, json=json.loads(out) if "--json" in words and out else None)

    return call


def test_what_was_loaded_from_the_journal_is_what_it_gives_again(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    for table in ("trades", "quotes", "gaps", "coverage", "feed_events"):
        count = loaded.sql.value(f"SELECT count() FROM {table}")
        assert count > 0, table
        said = rebuild(table, "--json", expect=0).json
        assert said["equal"]
        assert (said["stored"], said["rebuilt"], said["same"]) == (count, count, count), table
        assert said["cells"] == {}
    assert loaded.sql.value("SELECT count() FROM trades") == TRADES
    assert loaded.sql.value("SELECT count() FROM gaps WHERE kind = 'trade_id'") == 2


def test_feed_symbol_and_time_choose_the_rows(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    assert rebuild("trades", "--json", "--feed", "cb", expect=0).json["same"] == COUNT - 2
    assert rebuild("trades", "--json", "--symbol", "BTC-USDT", expect=0).json["same"] == COUNT - 1
    assert rebuild("trades", "--json", "--symbol", "BTC-USDT", "--feed", "cb", expect=0).json["same"] == 0
    assert rebuild("feed_events", "--json", "--feed", "cb", expect=0).json["same"] == 3
    when = ("--from", "2024-08-01T11:58:10Z", "--to", "2024-08-01T11:58:20.000000001Z")
    assert rebuild("trades", "--json", expect=0, when=when).json["same"] == 33


def tamper(loaded: SimpleNamespace) -> None:
    """Two prices and an exchange changed, a vwap taken away, three rows removed, one added."""
    table, sql = "trades", loaded.sql
    columns = [row["column"] for row in sql.rows("table_columns('trades')")]
    changed = {
        "price": "CASE WHEN symbol = 'BTC-USDT' AND trade_id IN (5, 200) THEN price + 0.00000000000002 ELSE price END",
        "exchange": "CASE WHEN symbol = 'ETH-USDT' AND trade_id = 6 THEN '' ELSE exchange END",
        "vwap": "CASE WHEN symbol = 'BTC-USD' AND trade_id = 8 THEN NULL ELSE vwap END",
    }
    sql.execute(f"CREATE TABLE aside AS (SELECT * FROM {table}) TIMESTAMP(ts_event) PARTITION BY DAY")
    sql.execute("DROP TABLE trades")
    apply_schema(sql, loaded.server.config)
    chosen = ", ".join(f"{changed.get(name, name)} {name}" for name in columns)
    sql.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {chosen} FROM aside "
        "WHERE NOT (symbol = 'BTC-USD' AND trade_id IN (10, 11, 230))"
    )
    sql.execute("INSERT INTO trades (ts_event, ts_recv, feed, symbol, trade_id, price) VALUES "
                "('2024-08-01T11:59:00Z', '2024-08-01T11:59:00.01Z', 'bn', 'BTC-USDT', 9999, 1.5)")  # fmt: skip
    sql.execute("DROP TABLE aside")
    loaded.server.wait_applied(table)


def test_every_cell_changed_every_row_removed_and_added_is_told(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    tamper(loaded)
    said = rebuild("trades", "--json", expect=1).json
    assert not said["equal"]
    # An exchange is part of the identity: that row is another one on either side.
    assert (said["changed"], said["only_rebuilt"], said["only_stored"]) == (3, 4, 2)
    assert (said["stored"], said["rebuilt"]) == (TRADES - 2, TRADES)
    assert said["cells"] == {"price": 2, "vwap": 1}
    found = {(e["identity"]["symbol"], e["identity"]["trade_id"], e["column"]) for e in said["examples"]["changed"]}
    assert found == {("BTC-USDT", "5", "price"), ("BTC-USDT", "200", "price"), ("BTC-USD", "8", "vwap")}
    (nulled,) = (e for e in said["examples"]["changed"] if e["column"] == "vwap")
    assert nulled["stored"] is None
    assert float(nulled["rebuilt"]) > 100
    assert {row["trade_id"] for row in said["examples"]["only_rebuilt"]} == {"10", "11", "230", "6"}
    assert {row["trade_id"]: row["exchange"] for row in said["examples"]["only_stored"]} == {"9999": None, "6": ""}


def test_rows_that_were_retired_from_the_journal_are_not_compared(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    infos = list_segments(loaded.journal)
    assert len(infos) > 2
    infos[0].path.unlink()
    held = min(received(loaded))
    older = loaded.sql.value(f"SELECT count() FROM quotes WHERE ts_recv < '{iso_ns(held)}'")
    assert 0 < older < loaded.sql.value("SELECT count() FROM quotes")
    said = rebuild("quotes", "--json", expect=0).json
    assert said["older"] == older
    assert said["same"] == loaded.sql.value("SELECT count() FROM quotes") - older
    assert said["journal"]["positions"][0] == infos[1].base
    text = rebuild("trades", expect=1).out  # vwap of the session begins anew
    assert "its beginning has been retired" in text
    assert "received before the oldest frame held: not in the journal, not compared" in text


def test_the_report_reads_like_this(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    tamper(loaded)
    lines = rebuild("trades", "--symbol", "BTC-USDT", expect=1).out.splitlines()
    assert lines[1:10] == [
        "trades from 2024-08-01T00:00:00.000000000Z to 2024-08-02T00:00:00.000000000Z, symbol BTC-USDT",
        "           237  equal",
        "             2  changed",
        "             0  only rebuilt",
        "             1  only stored",
        "cells that differ: price 2",
        "  ts_event=2024-08-01T11:58:05.000000000Z symbol=BTC-USDT feed=bn trade_id=5: "
        "price is 105.95000000000002 in the table, 105.95 rebuilt",
        "  ts_event=2024-08-01T12:01:20.000000000Z symbol=BTC-USDT feed=bn trade_id=200: "
        "price is 108.00000000000001 in the table, 108.0 rebuilt",
        "only stored: ts_event=2024-08-01T11:59:00.000000000Z ts_recv=2024-08-01T11:59:00.010000000Z feed=bn "
        "symbol=BTC-USDT trade_id=9999 price=1.5",
    ]
    assert lines[0].startswith("journal: 1,438 frames, received 2024-08-01T11:58:00.000000000Z to 2024-08-01T12:01:59")
    assert lines[10:] == ["different"]


def bars(loaded: SimpleNamespace) -> list[list[Any]]:
    return loaded.sql.query("SELECT * FROM bars_1m ORDER BY ts_event, feed, symbol").rows


def test_a_swap_repairs_what_differs_and_leaves_what_only_the_table_has(
    loaded: SimpleNamespace, rebuild: Rebuild
) -> None:
    tamper(loaded)
    lines = rebuild("trades", "--swap", "--yes", expect=1).out.splitlines()
    assert "--swap sends rebuilt rows to trades: 3 replace stored ones, 4 are added" in lines
    assert "2 rows that are only stored stay: --remove takes them out" in lines
    said = rebuild("trades", "--json", expect=1).json
    assert (said["changed"], said["only_rebuilt"], said["only_stored"]) == (0, 0, 2)
    assert said["same"] == TRADES


def test_a_swap_that_removes_leaves_the_table_and_its_views_as_if_nothing_had_been(
    loaded: SimpleNamespace, rebuild: Rebuild
) -> None:
    rows = loaded.sql.query("SELECT * FROM trades ORDER BY ts_event, symbol, trade_id").rows
    refreshed(loaded.server)
    before = bars(loaded)
    assert len(before) == 3 * COUNT // 60
    tamper(loaded)
    loaded.sql.execute("INSERT INTO trades (ts_event, ts_recv, feed, symbol, trade_id) VALUES "
                       "('2024-08-01T00:00:00Z', '2024-08-01T11:59:00Z', 'other', 'X', 1), "
                       "('2024-08-02T00:00:00Z', '2024-08-01T11:59:00Z', 'cb', 'BTC-USD', 1)")  # fmt: skip
    loaded.server.wait_applied("trades")
    said = rebuild("trades", "--swap", "--remove", "--yes", "--json", "--feed", "bn", expect=0).json
    assert (said["only_stored"], said["changed"], said["only_rebuilt"]) == (2, 2, 1)
    assert (said["after"]["equal"], said["after"]["same"]) == (True, 2 * COUNT - 1)
    said = rebuild(
        "trades", "--swap", "--remove", "--yes", "--json", expect=0, when=(*RANGE[:2], "--to", "2024-08-03")
    ).json
    assert (said["only_stored"], said["changed"], said["only_rebuilt"]) == (2, 1, 3)  # the other feeds'
    assert (said["after"]["equal"], said["after"]["same"]) == (True, TRADES)
    assert loaded.sql.query("SELECT * FROM trades ORDER BY ts_event, symbol, trade_id").rows == rows
    refreshed(loaded.server)
    assert bars(loaded) == before
    assert rebuild("trades", "--json", expect=0).json["same"] == TRADES


def test_a_swap_leaves_rows_alone_that_the_journal_repeats_but_did_not_bring(
    loaded: SimpleNamespace, rebuild: Rebuild
) -> None:
    """A new journal, whose first trades are repeats of those that an earlier one brought."""
    shutil.rmtree(loaded.journal)
    write_journal(loaded.journal, first=COUNT - 10, count=30, delay=60 * SECOND)
    query = f"SELECT * FROM trades WHERE trade_id < {COUNT} ORDER BY ts_event, symbol"
    before = loaded.sql.query(query).rows
    said = rebuild("trades", "--swap", "--yes", "--json", expect=0).json
    assert (said["older"], said["rebuilt"], said["only_rebuilt"], said["changed"]) == (TRADES, 3 * 30, 3 * 20, 0)
    assert said["after"]["equal"]
    assert loaded.sql.value("SELECT count() FROM trades") == TRADES + 3 * 20
    assert loaded.sql.query(query).rows == before


def test_what_a_ttl_has_dropped_is_not_compared(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    loaded.sql.execute(
        "INSERT INTO trades (ts_event, ts_recv, symbol) VALUES ('2024-08-03', '2024-08-01T11:59:00', 'X')"
    )
    loaded.sql.execute("ALTER TABLE trades SET TTL 1 DAY")
    loaded.sql.execute("ALTER TABLE trades DROP PARTITION LIST '2024-08-01'")
    loaded.server.wait_applied("trades")
    said = rebuild("trades", "--json", expect=0)
    assert "has a TTL and begins at 2024-08-03T00:00:00.000000000Z: nothing older is compared" in said.err
    assert said.json["rebuilt"] == 0


def test_the_answer_no_changes_nothing(
    loaded: SimpleNamespace, rebuild: Rebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(loaded)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda prompt: print(prompt) or "n")
    lines = rebuild("trades", "--swap", "--remove", expect=1).out.splitlines()
    assert lines[-4:] == [
        "--remove takes out 2 rows, which the journal does not give. Partitions of trades to be copied without",
        "them, dropped and put back: 1. Views over it are made anew; no recorder may start meanwhile",
        "Go on? [y/N] ",
        "nothing was changed",
    ]
    assert rebuild("trades", "--json", expect=1).json["only_rebuilt"] == 4
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert rebuild("trades", "--swap", "--remove", expect=0).out.splitlines()[-1] == "equal"


def test_an_interrupted_removal_is_finished_by_the_next_rebuild(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    sql = loaded.sql
    sql.execute(replace(TABLES["trades"], name="rebuilt_partition_of_trades").ddl())
    sql.execute("INSERT INTO rebuilt_partition_of_trades SELECT * FROM trades")
    sql.execute("ALTER TABLE trades DROP PARTITION LIST '2024-08-01'")
    loaded.server.wait_applied("trades")
    assert sql.value("SELECT count() FROM trades") == 0
    said = rebuild("trades", "--json", expect=0)
    assert f"{TRADES} rows that an interrupted --remove had put aside are back in trades" in said.err
    assert said.json["same"] == TRADES


def test_a_swap_is_refused_where_the_rebuilt_rows_may_be_the_worse_ones(
    loaded: SimpleNamespace, rebuild: Rebuild
) -> None:
    loaded.sql.execute("INSERT INTO trades (ts_event, ts_recv, feed, symbol, trade_id) VALUES "
                       "('2024-08-01T12:01:00Z', '2024-08-01T12:01:00Z', 'other', 'X', 1)")  # fmt: skip
    loaded.server.wait_applied("trades")
    swap = ("--swap", "--remove", "--yes")
    with Journal.open(loaded.journal, compress=False, keep_days=KEPT):
        assert "in use by process" in rebuild("trades", *swap, "--feed", "other", expect=1).err
    assert "takes a terminal" in rebuild("trades", "--swap", expect=2).err
    infos = list_segments(loaded.journal)
    infos[0].path.unlink()
    held = min(received(loaded))
    assert f"Use --from {iso_ns(held + 26 * 3600 * SECOND)} or later" in rebuild("trades", *swap, expect=1).err
    infos[2].path.unlink()
    said = rebuild("trades", *swap, expect=1)
    assert f"left out: no segment leads up to position {infos[3].base}" in said.out
    assert "part of the journal is left out" in said.err
    assert loaded.sql.value("SELECT count() FROM trades") == TRADES + 1


def test_beside_a_running_recorder_its_last_seconds_are_left_out(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    with Journal.open(loaded.journal, compress=False, keep_days=KEPT) as journal:
        number, (message, _) = frame("BTC-USD", COUNT)
        journal.append(journal.source(SPECS[number]), TEXT, START + COUNT * SECOND, msgspec.json.encode(message))
        said = rebuild("trades", "--json", expect=0).json  # the last frame is not released: its row is nowhere yet
        assert (said["same"], said["newer"], said["journal"]["running"]) == (TRADES, 0, True)
        lately = iso_ns(max(received(loaded)) - 9 * SECOND)
        loaded.sql.execute(f"INSERT INTO trades (ts_event, ts_recv, symbol) VALUES ('{lately}', '{lately}', 'X')")
        loaded.server.wait_applied("trades")
        assert rebuild("trades", "--json", expect=0).json["newer"] == 1


def received(loaded: SimpleNamespace) -> list[int]:
    """Receive times of all that the journal holds."""
    return [ts for f in reading.read(loaded.journal) for ts in f.ts_recv[f.kinds != SOURCE].tolist()]


def test_wrong_use_is_refused_before_anything_is_asked(loaded: SimpleNamespace, rebuild: Rebuild) -> None:
    assert "did you mean trades?" in rebuild("trade", expect=2).err
    assert "is not before" in rebuild("trades", expect=2, when=("--from", "2024-08-02", "--to", "2024-08-01")).err
    assert "no date or time" in rebuild("trades", expect=2, when=("--from", "soon", "--to", "2024-08-01")).err
    assert "has no column symbol" in rebuild("latency", "--symbol", "BTC-USD", expect=2).err
    assert "is no name" in rebuild("trades", "--feed", "x' OR 1=1", expect=2).err
