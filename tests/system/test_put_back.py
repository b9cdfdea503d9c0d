# ruff: noqa: F811 (fixtures of test_run and test_sink)
"""QuestDB comes back with older data while a recorder runs: it is noticed before new rows hide what is missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import QuestDB
from recorder_process import Recorder, external, until
from test_outages import bring_back, more_rows, rows
from test_run import assert_stored_once, exchange, feed, own_server, start  # noqa: F401
from test_sink import DEADLINE_S, Blocks, make_sink, settings, submit, wait_until  # noqa: F401

from recorder.shell.database import Database
from recorder.shell.database.migrate import apply_schema
from recorder.shell.simulator.proxy import Proxy
from recorder.values.config import Config


@contextmanager
def held_still(server: Database) -> Iterator[None]:
    """Its connections stay open, and nothing of it moves."""
    pid = server.status().pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def copied(server: Database, older: Path) -> None:
    """The data of a server that is held still, beside it: as a kill at this moment would leave them."""
    subprocess.run(["cp", "-a", "--sparse=always", server.root / "db", older], check=True)


def put_back(server: Database, older: Path) -> None:
    """Kill the server and start it again with what was copied."""
    pid = server.status().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    server.stop()
    shutil.rmtree(server.root / "db")
    older.rename(server.root / "db")
    server.start()


def test_data_put_back_under_a_live_sink_is_noticed_before_anything_is_sent(
    own_server: Database, make_sink: Any, tmp_path: Path
) -> None:
    """It lacks what nobody has looked for: from the copy on rows are answered for, and nobody can ask for transactions.

    Enough blocks to bring transactions past those known wait to be sent.
    """
    own_server.start()
    with Proxy(("127.0.0.1", own_server.http_port)) as asked, own_server.client() as client:
        questdb = settings(own_server.ilp, f"http://127.0.0.1:{asked.port}")
        apply_schema(client, msgspec.structs.replace(Config(), questdb=questdb))
        told: list[str] = []
        sink, _ = make_sink(questdb, on_replaced=lambda table, reason: told.append(table))
        blocks = Blocks()
        for _ in range(3):
            submit(sink, blocks.block(10))
            assert sink.drain(DEADLINE_S)
        with held_still(own_server):
            copied(own_server, tmp_path / "older")
            asked.refuse()
            asked.cut()
        for _ in range(2):
            submit(sink, blocks.block(10))
        wait_until(lambda: sink.answered_position == 5000, "answers")
        assert (sink.applied_position, sink.known["trades"].transactions) == (3000, 3)
        put_back(own_server, tmp_path / "older")
        for number in range(5, 5 + sink.blocks_in_flight_max):
            more = Blocks()  # blocks of one origin would go as one transaction
            more.position, more.ids = number * 1000, number * 10
            sink.submit(more.block(10))
        wait_until(lambda: sink.last_error, "the server to be asked in vain")
        asked.accept()
        wait_until(lambda: told, "the loss to be seen")
        assert told == ["trades"]
        assert (sink.answered_position, sink.room()) == (5000, False)
        assert client.value("select count() from trades") == 30
    sink.close()
    own_server.stop()


@pytest.mark.timeout(600)  # two starts of a server and a replay, on a crowded machine
def test_what_data_put_back_under_a_running_recorder_lost_is_sent_again_or_can_be_brought_back(
    start: Callable[..., Recorder], own_server: Database, tmp_path: Path
) -> None:
    own_server.start()
    with own_server.client() as client:
        client.execute("DROP TABLE IF EXISTS trades")
    with exchange("coinbase", rate=200) as place:
        recorder = start({"live": feed(place, "coinbase")}, questdb=external(own_server.sql_url))
        more_rows(recorder, 500, "the first rows")
        with held_still(own_server):
            copied(own_server, tmp_path / "older")
        # What was answered before is told as queryable after, and is in the copy: a
        # frame makes one row at most, and the recorder notes less than 1000 of itself meanwhile.
        received = recorder.metric("recorder_frames_total", "live")
        until(lambda: rows(recorder) > received + 1000, "rows that the copy lacks")
        put_back(own_server, tmp_path / "older")
        (told,) = recorder.wait_event("engine.rewound")
        more_rows(recorder, 500, "rows after it")
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        bring_back(recorder, told)
        with own_server.client() as client:
            assert_stored_once(QuestDB(own_server, client, None), "live", place, "coinbase", at_least=1000)
    own_server.stop()
