"""`recorder chain`: asked once of a simulated Cboe over a real socket, journalled, stored in QuestDB, printed."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recorder.commands import chain
from recorder.commands.replay import replay
from recorder.core.greeks import implied
from recorder.shell.questions import Unanswered
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.cboe import Cboe
from recorder.shell.simulator.rest import Answer
from recorder.values.config import Config, JournalConfig, KernelsConfig, QuestdbConfig
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import FeedSpec

EXPIRATIONS, STRIKES = 3, 9
CONTRACTS = 2 * EXPIRATIONS * STRIKES


@pytest.fixture
def cboe() -> Iterator[AskedSimulator]:
    with AskedSimulator(Cboe(("AAPL", "SPX"), time.time_ns, EXPIRATIONS, STRIKES)) as served:
        yield served


@pytest.fixture
def config(questdb: Any, cboe: AskedSimulator, tmp_path: Path) -> Config:
    questdb.sql.execute("TRUNCATE TABLE options_chain")
    questdb.wait_applied()
    settings = QuestdbConfig(embedded=False, ilp=questdb.ilp_url, sql=questdb.sql_url)
    feed = FeedSpec(name="delayed", provider="cboe", channels=("options",), symbols=("MSFT",), rest_url=cboe.url)
    kernels = KernelsConfig(risk_free_rate=0.04, dividends="AAPL 0.01")
    return Config(journal=JournalConfig(dir=tmp_path / "journal"), questdb=settings, kernels=kernels, feeds=(feed,))


def called(config: Config, *words: str) -> int:
    parser = argparse.ArgumentParser()
    chain.add(parser.add_subparsers())
    args = parser.parse_args(["chain", *words])
    code: int = args.run(args, config)
    return code


def test_a_chain_is_one_snapshot_with_the_age_of_each_leg(config, questdb, capsys):
    assert called(config, "AAPL", "--json") == 0
    legs = json.loads(capsys.readouterr().out)
    assert len(legs) == CONTRACTS == questdb.sql.value("select count() from options_chain where feed = 'delayed'")
    assert len({leg["ts_event"] for leg in legs}) == len({leg["underlying_price"] for leg in legs}) == 1
    assert all(leg["age_ns"] >= 900 * 10**9 for leg in legs)
    assert [leg["strike"] for leg in legs] == sorted([leg["strike"] for leg in legs][: 2 * STRIKES]) * EXPIRATIONS


def test_what_cboe_did_not_compute_is_computed_in_the_fold_and_again_by_a_replay(config, questdb, capsys):
    assert called(config, "AAPL", "--json") == 0
    legs = json.loads(capsys.readouterr().out)
    (ours,) = [leg for leg in legs if leg["greeks_source"] == "computed"]
    assert ours["iv_status"] == "converged"
    assert sum(leg["greeks_source"] == "provider" for leg in legs) == CONTRACTS - 1
    (row,) = questdb.sql.rows(
        "select ts_event::long a, expiration::long b, (bid + ask) / 2 mid, strike, underlying_price, option_type "
        "from options_chain where greeks_source = 'computed'"
    )
    years = (row["b"] - row["a"]) / (365 * 86_400e9)
    args = (row["mid"], row["underlying_price"], row["strike"], years, 0.04, 0.01, np.empty((0, 2)))
    assert ours["iv"] == implied(True, 1.0 if row["option_type"] == "call" else -1.0, *args)[0]
    stored = questdb.sql.rows("options_chain")
    questdb.sql.execute("TRUNCATE TABLE options_chain")
    questdb.wait_applied()
    replay(config, [config.journal.dir / chain.FOLDER])
    questdb.wait_applied()
    assert questdb.sql.rows("options_chain") == stored


def test_a_chain_is_printed_with_calls_and_puts_beside_their_strike(config, questdb, capsys):
    assert called(config, "aapl") == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "54 contracts, 3 expirations" in lines[0]
    assert "from cboe" in lines[0]
    names = next(line for line in lines if "strike" in line).split("  ")
    assert [name.strip() for name in names if name.strip()][6] == "strike"
    assert "Greeks: computed, provider" in out
    day = out.split("other expirations: ")[1][:10]
    assert called(config, "AAPL", "--expiration", day) == 0
    assert f"expires {day}" in capsys.readouterr().out
    rows = questdb.sql.rows("select * from options_by_expiration order by expiration")
    assert [row["contracts"] for row in rows] == [2 * STRIKES] * EXPIRATIONS
    for row in rows:
        assert row["quoted"] <= row["contracts"]
        assert row["at_the_money"] == pytest.approx(0.3, abs=0.02)
        assert row["put_call"] == pytest.approx(1.0)  # the simulated ones are traded as often


def test_an_index_is_european_and_asked_for_by_its_own_name(config, cboe, capsys):
    assert called(config, "SPX", "--json") == 0
    assert cboe.asked[-1].path.endswith("/_SPX.json")
    legs = json.loads(capsys.readouterr().out)
    assert {leg["underlying"] for leg in legs} == {"SPX"}


def test_a_snapshot_asked_for_twice_is_stored_once(config, questdb, capsys):
    with AskedSimulator(Cboe(("AAPL",), lambda: 1_790_000_000 * 10**9)) as still:
        feed = FeedSpec(name="delayed", provider="cboe", channels=("options",), symbols=("AAPL",), rest_url=still.url)
        again = Config(journal=config.journal, questdb=config.questdb, feeds=(feed,))
        assert called(again, "AAPL") == called(again, "AAPL") == 0
    assert questdb.sql.value("select count() from options_chain") == CONTRACTS


def test_what_cannot_be_asked_or_is_not_answered_says_why(config, cboe):
    with pytest.raises(FrameError, match="Cboe has no options of ZZZZ"):
        called(config, "ZZZZ")
    cboe.failing = [Answer(401, "not for you")]
    with pytest.raises(Unanswered, match=r"cboe: HTTP 401: not for you"):
        called(config, "AAPL")
    with pytest.raises(ConfigError, match=r"kraken: it is not asked for option chains; .*known: .*cboe"):
        called(config, "AAPL", "--provider", "kraken")
    with pytest.raises((ConfigError, SymbolError)):
        called(config, "AAPL'; drop table trades")
    with pytest.raises(SystemExit):
        called(config, "AAPL", "--expiration", "friday")


def test_an_expiration_without_contracts_says_so(config):
    with pytest.raises(Exception, match="cboe sent no contract of AAPL that expires on 2031-01-01"):
        called(config, "AAPL", "--expiration", "2031-01-01")
