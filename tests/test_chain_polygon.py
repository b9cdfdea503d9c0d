"""`recorder chain` asks a simulated Massive: two pages, one snapshot; the key is sent and written nowhere."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from recorder.commands import chain
from recorder.shell.simulator import Simulator
from recorder.shell.simulator.polygon_pages import CHAIN_MAX
from recorder.values.config import Config, JournalConfig, QuestdbConfig
from recorder.values.feed import FeedSpec

KEY = "a-key-of-these-tests"
SYMBOLS = tuple(f"AAPL  251219C00{strike:03d}000" for strike in range(100, 100 + CHAIN_MAX + 10))
DEADLINE_S = 60


def test_a_chain_of_several_pages_is_one_snapshot_and_the_key_stays_secret(
    questdb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    questdb.sql.execute("TRUNCATE TABLE options_chain")
    questdb.wait_applied()
    parser = argparse.ArgumentParser()
    chain.add(parser.add_subparsers())
    args = parser.parse_args(["chain", "AAPL", "--provider", "polygon", "--json"])

    async def body() -> int:
        rules = {"polygon": {"keys": {KEY: ""}}}
        async with (
            Simulator(["polygon"], symbols=SYMBOLS, total=0, rules=rules) as sim,
            asyncio.timeout(DEADLINE_S),
        ):
            feed = FeedSpec(
                name="massive", provider="polygon", channels=("options",), symbols=("AAPL",),
                rest_url=sim.rest_url("polygon"),
            )  # fmt: skip
            config = Config(
                journal=JournalConfig(dir=tmp_path / "journal"), feeds=(feed,),
                questdb=QuestdbConfig(embedded=False, ilp=questdb.ilp_url, sql=questdb.sql_url),
            )  # fmt: skip
            return await asyncio.to_thread(args.run, args, config)

    assert asyncio.run(body()) == 0
    legs = json.loads(capsys.readouterr().out)
    assert len(legs) == len(SYMBOLS) == questdb.sql.value("select count() from options_chain where feed = 'massive'")
    assert {(leg["underlying_price"], leg["greeks_source"], leg["iv"]) for leg in legs} == {
        (159.9606, "provider", 0.357),
    }  # fmt: skip
    assert len({leg["ts_event"] for leg in legs}) == 1
    assert sorted(leg["symbol"] for leg in legs) == sorted(SYMBOLS)
    written = [path for path in (tmp_path / "journal").rglob("*") if path.is_file()]
    assert written
    assert not any(KEY.encode() in path.read_bytes() for path in written)
