"""`recorder actions`: what providers tell becomes versions in the table, by journal and fold."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adjusted_rows import S, day
from provider_of_actions import KEYS, Providers, serving

from recorder.commands import actions
from recorder.commands.replay import replay
from recorder.shell import log as logs
from recorder.shell.journal import Journal
from recorder.values.config import Config, JournalConfig, QuestdbConfig
from recorder.values.errors import ConfigError, SymbolError
from recorder.values.feed import FeedSpec, HistoryRequest

YEARS = ("2000-01-01", "2026-11-23")
SPLIT = {"id": "s1", "symbol": "SRE", "ex_date": "2023-08-22", "new_rate": 2, "old_rate": 1,
         "process_date": "2023-08-22"}  # fmt: skip
DIVIDEND = {"id": "d1", "symbol": "FCF", "ex_date": "2023-05-04", "rate": 0.125, "process_date": "2023-05-19",
            "special": False, "foreign": False}  # fmt: skip


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Providers]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serving(Providers()) as served:
        yield served


@pytest.fixture
def tables(questdb: Any) -> Any:
    """The server with the tables emptied that are looked at here: a tenth of what ``fresh_tables`` takes."""
    empty(questdb)
    return questdb


def empty(server: Any) -> None:
    for table in ("corporate_actions", "rejected"):
        server.sql.execute(f"TRUNCATE TABLE {table}")
    server.wait_applied()


@pytest.fixture
def config(tables: Any, tmp_path: Path, providers: Providers) -> Config:
    """Alpaca is where its configured feed says; ``ask`` says it of the others."""
    alpaca = FeedSpec(name="al", provider="alpaca", symbols=("SRE", "BTC-USD", "FCF"), rest_url=providers.url)
    settings = QuestdbConfig(embedded=False, ilp=tables.ilp_url, sql=tables.sql_url)
    return Config(journal=JournalConfig(dir=tmp_path / "journal"), questdb=settings, feeds=(alpaca,))


def ask(config: Config, providers: Providers, provider: str, *symbols: str) -> list[str]:
    """Everything of these symbols, from the provider as served here; what failed."""
    spec = FeedSpec(name=provider, provider=provider, channels=("actions",), rest_url=providers.url)
    requests = [HistoryRequest(symbol, "actions", day(YEARS[0]), day(YEARS[1])) for symbol in symbols]
    return asyncio.run(actions.fetch(config, [spec], requests, logs.get("test"), per_minute=60_000))


def called(config: Config, *words: str) -> int:
    parser = argparse.ArgumentParser()
    actions.add(parser.add_subparsers())
    args = parser.parse_args(["actions", *words])
    code: int = args.run(args, config)
    return code


def rows(server: Any, table: str = "corporate_actions") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.sql.rows(
        f"SELECT ts_event::long ts_event, ts_recv::long ts_recv, ts_known::long ts_known, feed, symbol, action_type, "
        f"action_id, ratio, amount, currency, new_symbol, details FROM {table} ORDER BY ts_event, action_id, ts_known"
    )
    return found


def alpaca_fixtures(shared_data: Path) -> dict[str, list[dict[str, Any]]]:
    """Every kind of action, as Alpaca's own client tests hold them."""
    merged: dict[str, list[dict[str, Any]]] = {}
    for line in (shared_data / "alpaca" / "alpaca_py_fixtures.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["test"] == "test_get_corporate_actions":
            for kind, items in case["response"]["corporate_actions"].items():
                merged.setdefault(kind, []).extend(items)
    return merged


def test_every_kind_of_alpacas_becomes_a_row(config, tables, providers, shared_data):
    providers.alpaca, providers.page = alpaca_fixtures(shared_data), 3  # several pages
    listed = [(kind, item) for kind, items in providers.alpaca.items() for item in items]
    symbols = {value for _, item in listed for name, value in item.items() if name.endswith("symbol")}
    assert len(listed) == 14
    assert ask(config, providers, "alpaca", *sorted(symbols)) == []
    stored = {row["action_id"]: row for row in rows(tables)}
    assert stored.keys() == {item["id"] for _, item in listed}
    for kind, item in listed:
        row = stored[item["id"]]
        assert row["ts_event"] == day(item.get("ex_date") or item.get("effective_date") or item["process_date"])
        assert json.loads(row["details"])["kind"] == kind
    by_symbol = {row["symbol"]: row for row in stored.values()}
    expected = {  # read off the fixtures: type, ratio, amount, what the holder gets
        "MNTS": ("split", 0.02, None, None), "SRE": ("split", 2.0, None, None),
        "TPBAU": ("unit_split", 1.0, None, "LVRO"), "MSBC": ("stock_dividend", 1.05, None, None),
        "FCF": ("cash_dividend", None, 0.125, None), "JUPW": ("spin_off", 1 / 19.35, None, "SRM"),
        "GLOP": ("merger", None, 5.37, None), "LSI": ("merger", 0.895, None, "EXR"),
        "MLVF": ("merger", 0.7733, 7.8, "FRBA"), "ORPHY": ("redemption", None, 0.141134, None),
        "BSAQ": ("symbol_change", None, None, "VFS"), "ATNXQ": ("removal", None, None, None),
        "IFN": ("rights", None, None, "IFN.RTWI"), "ZMTBY": ("cash_dividend", None, 0.086928, None),
    }  # fmt: skip
    fields = ("action_type", "ratio", "amount", "new_symbol")
    assert {symbol: tuple(row[name] for name in fields) for symbol, row in by_symbol.items()} == expected


def test_polygons_splits_and_dividends_become_rows(config, tables, providers, shared_data):
    folder = shared_data / "polygon" / "v3" / "reference"
    providers.splits = json.loads((folder / "splits.json").read_text())["results"]
    providers.dividends = json.loads((folder / "dividends.json").read_text())["results"]
    providers.page = 2
    symbols = sorted({item["ticker"] for item in providers.splits + providers.dividends})
    for symbol in symbols:
        providers.tickers[symbol] = []
    asyncio.run(
        actions.fetch(
            config,
            [FeedSpec(name="polygon", provider="polygon", channels=("actions",), rest_url=providers.url)],
            [HistoryRequest(symbol, "actions", day("1990-01-01"), day("2030-01-01")) for symbol in symbols],
            logs.get("test"),
            per_minute=600_000,
        )
    )
    stored = rows(tables)
    splits = {(r["symbol"], r["ts_event"], r["ratio"]) for r in stored if r["action_type"] == "split"}
    cash = {(r["symbol"], r["ts_event"], r["amount"]) for r in stored if r["action_type"] == "cash_dividend"}
    assert splits == {
        (i["ticker"], day(i["execution_date"]), i["split_to"] / i["split_from"]) for i in providers.splits
    }
    assert cash == {(i["ticker"], day(i["ex_dividend_date"]), i["cash_amount"]) for i in providers.dividends}
    assert len(stored) == len(splits) + len(cash)


def test_polygons_ticker_events_become_symbol_changes(config, tables, providers):
    providers.tickers["META"] = [("2012-05-18", "FB"), ("2022-06-09", "META")]
    assert ask(config, providers, "polygon", "META") == []
    found = rows(tables)
    assert [(r["symbol"], r["new_symbol"], r["action_type"], r["ts_event"]) for r in found] == [
        ("FB", "META", "symbol_change", day("2022-06-09"))
    ]


def test_a_ticker_without_events_of_its_own_is_no_failure(config, tables, providers):
    providers.dividends = [{"id": "p1", "ticker": "FCF", "ex_dividend_date": "2023-05-04", "cash_amount": 0.125}]
    assert ask(config, providers, "polygon", "FCF") == []
    assert [row["amount"] for row in rows(tables)] == [0.125]


def test_the_same_answer_again_gives_no_row(config, tables, providers):
    providers.alpaca = {"forward_splits": [SPLIT], "cash_dividends": [DIVIDEND]}
    ask(config, providers, "alpaca", "SRE", "FCF")
    before = rows(tables)
    ask(config, providers, "alpaca", "SRE", "FCF")
    assert len(before) == 2
    assert rows(tables) == before


def test_a_corrected_action_is_another_version_and_both_stay(config, tables, providers):
    providers.alpaca = {"cash_dividends": [DIVIDEND]}
    ask(config, providers, "alpaca", "FCF")
    providers.alpaca = {"cash_dividends": [DIVIDEND | {"rate": 0.13}]}
    ask(config, providers, "alpaca", "FCF")
    providers.alpaca = {"cash_dividends": [DIVIDEND]}  # and back: what was said before is said again, later
    ask(config, providers, "alpaca", "FCF")
    found = rows(tables)
    assert [row["amount"] for row in found] == [0.125, 0.13, 0.125]
    assert len({row["ts_event"] for row in found}) == 1
    assert [row["ts_known"] for row in rows(tables, "corporate_actions_now")] == [found[-1]["ts_known"]]


def test_an_ex_date_that_moves_is_a_version_of_the_same_action(config, tables, providers):
    providers.alpaca = {"cash_dividends": [DIVIDEND]}
    ask(config, providers, "alpaca", "FCF")
    providers.alpaca = {"cash_dividends": [DIVIDEND | {"ex_date": "2023-05-05"}]}
    ask(config, providers, "alpaca", "FCF")
    assert [row["ts_event"] for row in rows(tables)] == [day("2023-05-04"), day("2023-05-05")]
    assert [row["ts_event"] for row in rows(tables, "corporate_actions_now")] == [day("2023-05-05")]


def test_the_journal_of_answers_gives_the_same_rows(config, tables, providers):
    providers.alpaca = {"forward_splits": [SPLIT], "cash_dividends": [DIVIDEND]}
    ask(config, providers, "alpaca", "SRE", "FCF")
    providers.alpaca["cash_dividends"] = [DIVIDEND | {"rate": 0.13}]
    ask(config, providers, "alpaca", "SRE", "FCF")
    before = rows(tables)
    empty(tables)
    replay(config, [config.journal.dir / "actions"])
    assert len(before) == 3
    assert rows(tables) == before


def test_what_was_said_before_is_known_without_the_kept_state(config, tables, providers):
    providers.alpaca = {"cash_dividends": [DIVIDEND]}
    ask(config, providers, "alpaca", "FCF")
    before = rows(tables)
    for path in (config.journal.dir / "actions").glob("state*"):
        path.unlink()
    ask(config, providers, "alpaca", "FCF")
    assert rows(tables) == before


def test_yahoos_dividends_are_stored_as_paid(config, tables, providers):
    """Apple's 3.29 of May 2014, which Yahoo divides by 7 and by 4; the split of 2020 lies after what was asked for."""
    at = {text: day(text) // S + 34_200 for text in ("2014-05-08", "2014-06-09", "2020-08-31", "2023-11-10")}
    providers.charts["AAPL"] = {
        "dividends": {
            "1": {"amount": 0.1175, "date": at["2014-05-08"]}, "2": {"amount": 0.24, "date": at["2023-11-10"]},
        },
        "splits": {
            "3": {"date": at["2014-06-09"], "numerator": 7, "denominator": 1, "splitRatio": "7:1"},
            "4": {"date": at["2020-08-31"], "numerator": 4, "denominator": 1, "splitRatio": "4:1"},
        },
    }  # fmt: skip
    assert ask(config, providers, "yahoo", "AAPL") == []
    found = [(r["ts_event"], r["action_type"], r["ratio"], r["amount"]) for r in rows(tables)]
    assert sorted(found, key=lambda r: r[0]) == [
        (day("2014-05-08"), "cash_dividend", None, 3.29),
        (day("2014-06-09"), "split", 7.0, None),
        (day("2020-08-31"), "split", 4.0, None),
        (day("2023-11-10"), "cash_dividend", None, 0.24),
    ]


def test_a_later_split_makes_no_new_version_of_yahoos_dividends(config, tables, providers):
    at = {text: day(text) // S + 34_200 for text in ("2014-02-06", "2014-06-09")}
    providers.charts["AAPL"] = {"dividends": {"1": {"amount": 3.05, "date": at["2014-02-06"]}}}
    ask(config, providers, "yahoo", "AAPL")
    providers.charts["AAPL"] = {
        "dividends": {"1": {"amount": 0.435714, "date": at["2014-02-06"]}},
        "splits": {"2": {"date": at["2014-06-09"], "numerator": 7, "denominator": 1, "splitRatio": "7:1"}},
    }
    ask(config, providers, "yahoo", "AAPL")
    assert [r["amount"] for r in rows(tables) if r["action_type"] == "cash_dividend"] == [3.05]


def test_a_class_of_shares_is_spelled_as_yahoo_does(config, providers):
    assert ask(config, providers, "yahoo", "BRK.B", "VOD.L") == [
        'BRK.B: yahoo: HTTP 404: {"chart": {"result": null, "error": {"code": "Not Found", "description": '
        '"No data found, symbol may be delisted"}}}',
        'VOD.L: yahoo: HTTP 404: {"chart": {"result": null, "error": {"code": "Not Found", "description": '
        '"No data found, symbol may be delisted"}}}',
    ]
    assert [path.split("?")[0] for path in providers.asked] == ["/v8/finance/chart/BRK-B", "/v8/finance/chart/VOD.L"]


@pytest.mark.parametrize(
    ("status", "headers"), [(429, {"Retry-After": "0"}), (500, {}), (502, {}), (503, {}), (504, {})]
)
def test_a_busy_provider_is_asked_again(config, tables, providers, status, headers):
    providers.alpaca = {"cash_dividends": [DIVIDEND]}
    providers.failing = [(status, '{"message":"later"}', headers)]
    assert ask(config, providers, "alpaca", "FCF") == []
    assert len(providers.asked) == 2
    assert len(rows(tables)) == 1


@pytest.mark.parametrize(("status", "words"), [(400, "invalid symbol(s): F"), (403, "forbidden."), (422, "bad limit")])
def test_a_refusal_is_told_once_and_the_next_symbol_is_asked(config, tables, providers, status, words):
    providers.alpaca = {"cash_dividends": [DIVIDEND]}
    providers.failing = [(status, json.dumps({"message": words}), {})]
    failed = ask(config, providers, "alpaca", "SRE", "FCF")
    assert failed == [f'SRE: alpaca: HTTP {status}: {{"message": "{words}"}}']
    assert len(rows(tables)) == 1


def test_an_error_inside_http_200_is_rejected_and_told(config, tables, providers):
    providers.failing = [(200, '{"chart":{"result":null,"error":{"code":"Unauthorized"}}}', {})]
    failed = ask(config, providers, "yahoo", "AAPL")
    assert failed == ["1 answers or parts of them could not be read: see the table rejected"]
    reason = tables.sql.value("SELECT reason FROM rejected")
    assert "Unauthorized" in reason


def test_an_action_that_does_not_fit_costs_no_other(config, tables, providers):
    bad = [DIVIDEND | {"id": "d2", "ex_date": "2023-02-30"}, DIVIDEND | {"id": "d3", "rate": "much"}]
    providers.alpaca = {"cash_dividends": [*bad, DIVIDEND]}
    failed = ask(config, providers, "alpaca", "FCF")
    assert failed == ["2 answers or parts of them could not be read: see the table rejected"]
    assert [row["action_id"] for row in rows(tables)] == ["d1"]


def test_keys_reach_the_provider_and_nothing_else(config, tables, providers):
    providers.tickers["SRE"] = []
    ask(config, providers, "alpaca", "SRE")
    ask(config, providers, "polygon", "SRE")
    assert providers.asked
    assert not any(secret in path for path in providers.asked for secret in KEYS.values())
    journal = Journal.open(config.journal.dir / "actions")
    try:
        payloads, position = [], journal.begin
        while (frames := journal.read(position)) is not None and frames.count:
            payloads += [frames.payload(i) for i in range(frames.count)]
            position = frames.end
    finally:
        journal.close()
    assert len(payloads) > len(providers.asked), "the sources and every answer"
    assert not any(secret.encode() in payload for payload in payloads for secret in KEYS.values())


def test_the_command_asks_for_the_configured_stocks_and_prints_them(config, providers, capsys):
    providers.alpaca = {"forward_splits": [SPLIT], "cash_dividends": [DIVIDEND]}
    assert called(config, "--provider", "alpaca", "--from", "2023-01-01", "--to", "2023-12-31", "--json") == 0
    found = json.loads(capsys.readouterr().out)["actions"]
    assert [(row["symbol"], row["ratio"], row["amount"]) for row in found] == [("FCF", None, 0.125), ("SRE", 2.0, None)]
    assert all("BTC" not in path for path in providers.asked)
    assert called(config, "--stored", "--from", "2023-01-01", "SRE") == 0
    out = capsys.readouterr().out
    assert "2023-08-22" in out
    assert "FCF" not in out


def test_conflicts_of_providers_are_listed(config, tables, providers, capsys):
    providers.alpaca = {"cash_dividends": [
        DIVIDEND, DIVIDEND | {"id": "d2", "ex_date": "2023-08-03", "process_date": "2023-08-18"},
        DIVIDEND | {"id": "d3", "ex_date": "2023-11-02", "process_date": "2023-11-17"},
        DIVIDEND | {"id": "d4", "ex_date": "2024-02-01", "process_date": "2024-02-16"},
    ]}  # fmt: skip
    providers.dividends = [
        {"id": "p1", "ticker": "FCF", "ex_dividend_date": "2023-05-04", "cash_amount": 0.125, "currency": "USD"},
        {"id": "p2", "ticker": "FCF", "ex_dividend_date": "2023-08-04", "cash_amount": 0.125, "currency": "USD"},
        {"id": "p4", "ticker": "FCF", "ex_dividend_date": "2024-02-01", "cash_amount": 0.13, "currency": "USD"},
    ]
    providers.tickers["FCF"] = []
    ask(config, providers, "alpaca", "FCF")
    ask(config, providers, "polygon", "FCF")
    assert called(config, "--stored", "--conflicts", "--json", "--from", "2023-01-01", "FCF") == 0
    found = json.loads(capsys.readouterr().out)["conflicts"]
    told = [(c["conflict"], c["first"]["ex_date"], c["second"].get("ex_date", c["second"]["feed"])) for c in found]
    assert sorted(told) == [
        ("ex date", "2023-08-03", "2023-08-04"),
        ("missing", "2023-11-02", "polygon"),
        ("value", "2024-02-01", "2024-02-01"),
    ]


@pytest.mark.parametrize("name", ["A'; DROP TABLE bars", "", "A" * 200, "A\nB"])
def test_what_is_no_symbol_reaches_neither_provider_nor_sql(config, providers, name):
    with pytest.raises((ConfigError, SymbolError)):
        called(config, "--provider", "alpaca", name)
    assert providers.asked == []


def test_a_provider_without_its_key_is_named(config, monkeypatch):
    monkeypatch.delenv("POLYGON_API_KEY")
    with pytest.raises(ConfigError, match="set POLYGON_API_KEY in the environment"):
        called(config, "--provider", "polygon", "SRE")
