"""`recorder backfill` against simulated exchanges: every bar once with its values, also after SIGKILL, and no more."""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import WAIT_S, Recorder, command, environment, external, until, write_config

from recorder.commands import cli
from recorder.commands.backfilling import LATE_NS
from recorder.shell.simulator.bars import made

KEYS = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s3cret-of-the-test"}
FIRST, LAST = 1_704_067_200, 1_704_326_399  # 2024-01-01 to 2024-01-03, s
PROVIDERS = {  # simulated provider → provider, options, symbol
    "alpaca": ("alpaca", {"feed": "iex"}, "AAPL"),
    "binance-usdm": ("binance", {"market": "usdm"}, "BTC-USDT-PERP"),
    "coinbase": ("coinbase", {}, "BTC-USD"),
    "coinbase-advanced": ("coinbase", {"api": "advanced"}, "BTC-USD"),
    "deribit": ("deribit", {}, "BTC-USD-PERP"),
    "okx": ("okx", {}, "BTC-USDT"),
}
FAST = {"requests": (1 << 30, 1), "keys": {"k": "s3cret-of-the-test"}}


@pytest.fixture(scope="module")
def place() -> Iterator[Exchange]:
    symbols = {key: [symbol] for key, (_, _, symbol) in PROVIDERS.items()}
    with Exchange(list(PROVIDERS), rate=10, symbols=symbols, rules=dict.fromkeys(PROVIDERS, FAST)) as exchange:
        yield exchange


@pytest.fixture
def configured(tmp_path: Path, fresh_tables: QuestDB, place: Exchange, free_port: Callable[[], int]) -> Path:
    feeds = {
        f"bf-{key}": {
            "provider": provider, "symbols": [symbol], "channels": ["trades"], **options,
            "url": place.urls[key], "rest_url": place.rest_urls[key],
        }
        for key, (provider, options, symbol) in PROVIDERS.items()
    }  # fmt: skip
    return write_config(tmp_path, feeds, free_port(), external(fresh_tables.sql_url))


def start(config: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command("--config", config, "backfill", *arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(**KEYS),
    )  # fmt: skip


def backfill(config: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    process = start(config, *arguments, "--json")
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, err.decode()[-3000:]
    assert b"s3cret" not in out + err
    return json.loads(out) if out else {"stderr": err.decode()}


def bars(questdb: QuestDB, feed: str) -> list[tuple[int, float, float, float, float, float]]:
    rows = questdb.sql.rows(
        f"SELECT ts_event::long t, open, high, low, close, volume FROM bars WHERE feed = '{feed}' ORDER BY ts_event"
    )
    return [(r["t"] // 10**9, r["open"], r["high"], r["low"], r["close"], r["volume"]) for r in rows]


def expected(first: int, last: int, step: int) -> list[tuple[int, float, float, float, float, float]]:
    """Of the exchange's only symbol."""
    return [(b.start, *map(float, b[1:6])) for b in made(0, first, last, step)]


@pytest.mark.parametrize("key", ["alpaca", "binance-usdm", "coinbase-advanced", "okx"])  # a way of paging each
def test_every_bar_of_three_days_is_stored_once_with_its_values(
    configured: Path, fresh_tables: QuestDB, key: str
) -> None:
    days = ("--from", "2024-01-01", "--to", "2024-01-03")
    said = backfill(configured, f"bf-{key}", "--timeframe", "5m", *days)
    assert said["failures"] == []
    assert said["rows"]["bars"] == 3 * 288
    feed = f"bf-{key}-history"
    wanted = expected(FIRST, LAST, 300)
    assert bars(fresh_tables, feed) == wanted
    kept = fresh_tables.sql.value(f"SELECT count() FROM bars WHERE feed = '{feed}' AND timeframe = '5m' AND flags = 8")
    assert kept == len(wanted)


def test_nothing_is_asked_for_twice(configured: Path, fresh_tables: QuestDB) -> None:
    asked = ("bf-deribit", "--timeframe", "1m", "--from", "2024-01-01", "--to")
    first = backfill(configured, *asked, "2024-01-10")
    again = backfill(configured, *asked, "2024-01-10")
    assert (again["requests"], again["skipped"]) == (0, first["pieces"])
    longer = backfill(configured, *asked, "2024-01-20")
    assert 0 < longer["skipped"] < first["pieces"]  # the last piece was cut at the end that was asked for
    assert bars(fresh_tables, "bf-deribit-history") == expected(FIRST, FIRST + 20 * 86_400 - 60, 60)


def test_a_symbol_in_any_spelling_is_the_canonical_one(configured: Path, fresh_tables: QuestDB) -> None:
    days = ("--from", "2024-01-01", "--to", "2024-01-01", "--timeframe", "1h")
    said = backfill(configured, "bf-coinbase", "btc-usd", "BTC/USD", *days)
    assert (said["pieces"], said["rows"]["bars"]) == (1, 24)
    assert backfill(configured, "bf-coinbase", "BTC-USD", *days)["requests"] == 0
    assert fresh_tables.sql.rows("SELECT DISTINCT symbol FROM bars WHERE feed = 'bf-coinbase-history'") == [
        {"symbol": "BTC-USD"}
    ]


def test_a_backfill_that_is_killed_goes_on_where_it_was(configured: Path, fresh_tables: QuestDB) -> None:
    arguments = ("bf-alpaca", "--timeframe", "1m", "--from", "2024-01-01", "--to", "2024-04-30", "--feed", "killed")
    whole = 121 * 1440

    def count() -> int:
        return int(fresh_tables.sql.value("SELECT count() FROM bars WHERE feed = 'killed'"))

    for stop in (1, 50_000):
        process = start(configured, *arguments)
        until(lambda stop=stop: count() >= stop or process.poll() is not None, f"{stop} bars")  # noqa: B023
        process.kill()
        process.communicate()
    assert 50_000 <= count() < whole
    said = backfill(configured, *arguments)
    assert 0 < said["requests"] == said["pieces"] - said["skipped"] < said["pieces"] - 4
    assert bars(fresh_tables, "killed") == expected(FIRST, FIRST + whole * 60 - 60, 60)


def test_the_bar_of_now_is_left_for_the_next_time(configured: Path, fresh_tables: QuestDB) -> None:
    backfill(configured, "bf-alpaca", "--timeframe", "1m", "--from", "yesterday")
    found = bars(fresh_tables, "bf-alpaca-history")
    assert found == expected(found[0][0], found[-1][0], 60)
    assert math.floor(time.time()) - 60 >= found[-1][0] >= time.time() - WAIT_S - 180


def test_trades_of_history_are_those_that_were_recorded_and_stored_once(
    configured: Path, fresh_tables: QuestDB
) -> None:
    def trades(feed: str, where: str = "") -> dict[int, tuple[Any, ...]]:
        columns = "trade_id, ts_event::long t, price, size, side"
        rows = fresh_tables.sql.rows(f"SELECT {columns} FROM trades WHERE feed = '{feed}' {where}")
        found = {row["trade_id"]: tuple(row.values()) for row in rows}
        assert len(found) == len(rows)
        return found

    with Recorder(configured) as recorder:  # without one who listens, nothing trades
        until(lambda: len(trades("bf-coinbase")) > 50, "trades")
        assert recorder.end() == 0
    newest = fresh_tables.sql.value("SELECT max(ts_event)::long FROM trades")
    until(lambda: time.time_ns() > newest + 2 * LATE_NS, "the last trades are old enough to be asked for")
    live = trades("bf-coinbase", "AND flags & 8 = 0")  # without the trade before the first, sent on subscribing
    for _ in range(2):
        backfill(configured, "bf-coinbase", "--channel", "trades", "--from", "today", "--again")
        past = trades("bf-coinbase-history")
        assert {number: past.get(number) for number in live} == live
        assert max(past) - min(past) + 1 == len(past)
    assert fresh_tables.sql.value("SELECT count() FROM gaps WHERE feed = 'bf-coinbase-history'") == 0
    kept = fresh_tables.sql.value("SELECT count() FROM trades WHERE feed = 'bf-coinbase-history' AND flags & 8 = 8")
    assert kept == len(past)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("binanse", "BTC-USDT", "--from", "today"), "did you mean binance"),
        (("bf-okx", "--from", "today", "--timeframe", "7m"), "known: "),
        (("bf-okx", "--from", "today", "--channel", "quotes"), "no history of 'quotes'"),
        (("bf-deribit", "--from", "today", "--channel", "quotes"), "no history of 'quotes'"),
        (("bf-okx", "no symbol!", "--from", "today"), "no symbol!"),
        (("bf-okx", "--from", "2024-13-01"), "is no day"),
        (("bf-okx", "--from", "today", "--option", "market"), "write KEY=VALUE"),
        (("okx", "--from", "today"), "0 symbols"),
        (("bf-okx", "--from", "today", "--feed", "../x"), "no name of a feed"),
        (("bf-okx", "--from", "2024-01-02", "--to", "2024-01-01"), "--from 2024-01-02 lies after --to"),
        (("bf-okx", "--from", "2200-01-02", "--to", "2200-01-03"), "--from 2200-01-02 has not come yet"),
        (("bf-alpaca", "../account", "--from", "today"), "is not a ticker"),
        (("polygon", "*", "--from", "today"), "name each of them"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_done(
    configured: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert cli.main(["--config", str(configured), "backfill", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (configured.parent / "journal" / "backfill").exists()


def test_a_refusal_is_told_and_what_came_before_is_kept(
    configured: Path, fresh_tables: QuestDB, place: Exchange
) -> None:
    place.fail_http("coinbase", 503)
    said = backfill(configured, "bf-coinbase", "--from", "2024-01-01", "--to", "2024-01-01", "--timeframe", "1h")
    assert said["rows"]["bars"] == 24  # one busy answer is tried again
    place.fail_http("coinbase", 403, 10)
    asked = ("bf-coinbase", "--from", "2024-01-01", "--to", "2024-03-01", "--timeframe", "1m", "--feed", "refused")
    said = backfill(configured, *asked, code=1)
    assert said["failures"][0].startswith("BTC-USD: coinbase: HTTP 403")


def test_an_error_with_status_200_is_told_each_time_and_its_piece_is_asked_for_again(
    configured: Path, fresh_tables: QuestDB
) -> None:
    asked = ("bf-okx", "ZZZ-USD", "BTC-USDT", "--from", "2024-01-01", "--to", "2024-01-01", "--timeframe", "1h")
    for pieces_known in (0, 1):  # the other symbol's is answered by then
        said = backfill(configured, *asked, code=1)
        assert (said["pieces"], said["skipped"], said["requests"]) == (2, pieces_known, 2 - pieces_known)
        (failure,) = said["failures"]
        assert failure.startswith("ZZZ-USD: OKX: 51001 Instrument ID")
    assert len(bars(fresh_tables, "bf-okx-history")) == 24
    rejected = fresh_tables.sql.rows("SELECT reason FROM rejected WHERE feed = 'bf-okx-history'")
    assert ["OKX: 51001" in row["reason"] for row in rejected] == [True, True]


def test_a_symbol_that_is_refused_is_asked_for_once_and_costs_no_other(configured: Path, fresh_tables: QuestDB) -> None:
    asked = ("bf-deribit", "ZZZ-USD-PERP", "BTC-USD-PERP", "--from", "2022-01-01", "--to", "2023-12-31")
    said = backfill(configured, *asked, "--timeframe", "1h", "--at-once", "1", code=1)
    (failure,) = said["failures"]
    assert failure.startswith("ZZZ-USD-PERP: deribit: HTTP 400")
    assert said["pieces"] >= 4
    assert len(bars(fresh_tables, "bf-deribit-history")) == 24 * 730
