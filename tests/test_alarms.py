"""A table that QuestDB suspends, through a whole Recording: the journal keeps what it has, and it is told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import QuestDB
from exchange_process import Exchange
from recorder_process import WAIT_S, external, write_config

from recorder.commands.record import Recording
from recorder.feeds import PROVIDERS
from recorder.shell.alarms import Alarms
from recorder.shell.sink import applied, suspension
from recorder.values.config import load
from recorder.values.schedule import Schedule


class Told:
    """A log that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level not in ("info", "warning", "error"):
            raise AttributeError(level)
        return lambda event, **fields: self.events.append(event)


async def reached(condition: Callable[[], Any], what: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


def test_another_sink_decides_anew_whether_retention_is_paused() -> None:
    """A table that is dropped while it is suspended never applies again."""
    journal = SimpleNamespace(retention_paused=False)
    alarms = Alarms(journal, lambda table, rows: None)
    alarms.table_suspended("trades", "no space")
    assert journal.retention_paused
    alarms.look_anew()
    assert not journal.retention_paused
    alarms.table_suspended("quotes", "no space")
    alarms.table_suspended("quotes", None)
    assert not journal.retention_paused


def block_partitions(questdb: QuestDB, table: str) -> list[Path]:
    """Put files where the folders of today's and tomorrow's partitions have to be."""
    name = questdb.sql.value(f"select directoryName from tables() where table_name = '{table}'")
    days = [datetime.now(UTC) + timedelta(days=ahead) for ahead in (0, 1)]
    names = [f"{day:%Y-%m-%d}{suffix}" for day in days for suffix in ("", ".0", ".1", ".2")]
    files = [questdb.database.root / "db" / name / each for each in names]
    for file in files:
        file.write_text("in the way")
    return files


def test_while_a_table_is_suspended_nothing_leaves_the_journal_and_both_ends_of_it_are_findings(
    tmp_path: Path, fresh_tables: QuestDB, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspension, "RESUME_FIRST_S", 0.3)
    monkeypatch.setattr(applied, "POLL_FAILING_S", 0.05)
    fresh_tables.make_anew()  # partitions of an emptied table have other names
    told, in_the_way = Told(), block_partitions(fresh_tables, "trades")

    async def run(url: str) -> None:
        feeds = {"cb": {"provider": "coinbase", "symbols": ["BTC-USD"], "url": url}}
        config = load(write_config(tmp_path, feeds, free_port(), external(fresh_tables.sql_url)), {}, PROVIDERS)
        recording = Recording(config, told, lambda spec: Schedule(None), {})
        await recording.start()
        try:
            await reached(lambda: recording.journal.retention_paused, "the suspension")
            assert recording.sink is not None
            assert list(recording.sink.suspended) == ["trades"]
            await reached(lambda: "sink.resume_tried" in told.events, "a try that cannot succeed")
            assert recording.journal.retention_paused
            for file in in_the_way:
                file.unlink()
            await reached(lambda: not recording.journal.retention_paused, "the end of it")
            await reached(lambda: "engine.resent" in told.events and recording.sink is not None, "its rows once more")
        finally:
            drained = await recording.stop()
        assert drained

    try:
        with Exchange(["coinbase"], symbols=["BTC-USD"], rate=500) as place:
            asyncio.run(run(place.urls["coinbase"]))
            sent = len(place.trades("coinbase")["BTC-USD"])
    finally:
        gc.unfreeze()
        for file in filter(Path.is_file, in_the_way):
            file.unlink()
    assert [event for event in told.events if event in ("sink.suspended", "sink.resumed", "engine.resent")] == [
        "sink.suspended", "sink.resumed", "engine.resent",
    ]  # fmt: skip
    assert "engine.rewound" not in told.events, "nothing that was released is in doubt"
    rows = fresh_tables.sql.query("select severity from quality_events where check_name = 'table_suspended'").rows
    assert rows == [["critical"], ["info"]]
    count, distinct = fresh_tables.sql.query("select count(), count_distinct(trade_id) from trades").rows[0]
    assert count == distinct >= sent > 100
