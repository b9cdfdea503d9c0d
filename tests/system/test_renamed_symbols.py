"""A running recorder moves its subscriptions when corporate_actions say that a symbol has become another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from adjusted_rows import put
from recorder_process import external
from test_record import KEYS, Told

from recorder.commands import renames
from recorder.commands.record import Recording
from recorder.commands.run import schedules
from recorder.feeds import PROVIDERS
from recorder.shell.simulator import Simulator
from recorder.values.config import Config, build

DEADLINE_S = 60
DAY_NS = 86_400 * 10**9
OLD, NEW, OTHER = "AAPL", "TSLA", "MSFT"


def change(server: Any, ts_event: int) -> None:
    row = f"({ts_event}, {ts_event}, 'alpaca', '{OLD}', 'symbol_change', 'n {ts_event}', {ts_event}, '{NEW}')"
    put(
        server,
        "corporate_actions",
        "ts_event, ts_recv, feed, symbol, action_type, action_id, ts_known, new_symbol",
        [row],
    )


def config_of(server: Any, folder: Path, url: str) -> Config:
    feed = {"name": "al", "provider": "alpaca", "symbols": [OLD, OTHER], "channels": ["trades"], "url": url,
            "feed": "iex", "schedule": "24/7"}  # fmt: skip
    document = {"feeds": [feed], "questdb": external(server.sql_url)}
    return build(document, {}, PROVIDERS, base=folder, source="config.toml")


async def reached(condition: Any, told: Told) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, told.lines
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("written_days_ago", [30, 1])
def test_the_new_name_is_recorded_from_the_day_on_unless_the_configuration_is_younger(
    fresh_tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_days_ago: int
) -> None:
    monkeypatch.setattr(renames, "LOOK_S", 0.1)
    now = time.time_ns()

    async def run() -> None:
        told = Told()
        async with Simulator(["alpaca"], symbols=[OLD, OTHER, NEW], rate=400) as place:
            config = config_of(fresh_tables, tmp_path, place.url("alpaca"))
            recording = Recording(config, told, schedules(config, now=True), KEYS)
            sent = place.truth["alpaca"].symbols
            await recording.start()
            recording.set_feeds(config.feeds, now - written_days_ago * DAY_NS)
            await reached(lambda: recording.database_state == "ready" and sent[OLD].sent > 20, told)
            change(fresh_tables, now + 3600 * 10**9)  # to come: nothing moves yet
            before = sent[OLD].sent
            await reached(lambda: sent[OLD].sent > before + 100, told)
            assert not sent[NEW].sent
            change(fresh_tables, now - 10 * DAY_NS)
            if written_days_ago == 30:
                await reached(lambda: sent[NEW].sent > 50, told)
                before, other = sent[OLD].sent, sent[OTHER].sent
                await reached(lambda: sent[OTHER].sent > other + 50, told)
                assert sent[OLD].sent == before
                assert told.of("symbol.renamed")[0] | {"action": ""} == {
                    "feed": "al", "old": [OLD], "new": [NEW], "action": "",
                }  # fmt: skip
                recording.set_feeds(config.feeds, now - written_days_ago * DAY_NS)  # reloaded as it was
                assert recording.feeds["al"].spec.symbols == (NEW, OTHER)
            else:
                before = sent[OLD].sent
                await reached(lambda: sent[OLD].sent > before + 100, told)
                assert not sent[NEW].sent
            assert place.truth["alpaca"].connections == 1, "on the open connection"
            await recording.stop()

    asyncio.run(run())
    stored = {row["symbol"] for row in fresh_tables.sql.rows("SELECT DISTINCT symbol FROM trades")}
    assert stored == ({OLD, NEW, OTHER} if written_days_ago == 30 else {OLD, OTHER})
