# ruff: noqa: F811 (fixtures of test_run)
"""QuestDB fails in every way while `recorder run` records: every row is stored once, and nothing is left open."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import QuestDB
from recorder_process import Recorder, command, environment, external, until
from test_run import (  # noqa: F401
    assert_stored_once,
    exchange,
    feed,
    own_server,
    start,
    stored_trades,
    wait_frames,
)

from recorder.shell.database import Database
from recorder.shell.simulator.proxy import Proxy

OUTAGE_FRAMES = 30_000
FRAME_BYTES = 100  # a match or a ticker is longer
WORKERS_MAX = 4  # of the event loop's pool and the snapshot's, which may begin after the first look
QUEUE_BYTES = 64 << 20  # how far memory may grow over an outage: the journal's mapped pages, blocks in flight, noise


@pytest.fixture
def proxy(questdb: QuestDB) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", questdb.http_port)) as between:
        yield between


def through(proxy: Proxy) -> dict[str, Any]:
    """[questdb] behind the proxy; a request that hangs is given up within half a second."""
    address = f"127.0.0.1:{proxy.port}"
    return {
        "embedded": False, "ilp": f"http::addr={address};request_timeout=500;", "sql": f"http://{address}",
    }  # fmt: skip


def rows(recorder: Recorder) -> float:
    return recorder.metric("recorder_rows_queryable_total")


def more_rows(recorder: Recorder, count: int, what: str) -> None:
    before = rows(recorder)
    until(lambda: rows(recorder) > before + count, what)


def private_bytes(recorder: Recorder) -> int:
    """Memory of a running recorder; mapped files, such as the journal, left out."""
    memory = psutil.Process(recorder.process.pid).memory_info()
    return int(memory.rss - memory.shared)


def resources(recorder: Recorder) -> tuple[int, int]:
    """(threads, sockets) of a running recorder, less those of tables: one each from the first row on."""
    tables = sum(name == "recorder_sink_table_rows_total" for name, *_ in recorder.metrics())
    process = psutil.Process(recorder.process.pid)
    return process.num_threads() - tables, len(process.net_connections()) - tables


def within(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Nothing of nine faults is left open; threads that look at the disk and write states come and go."""
    return now[0] <= before[0] + WORKERS_MAX and now[1] <= before[1]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_database_behind_a_broken_network_gets_every_row_once(
    start: Callable[..., Recorder], questdb: QuestDB, proxy: Proxy, seed: int
) -> None:
    chance = random.Random(seed)

    def stall() -> None:
        proxy.up.stall()
        time.sleep(0.7)  # longer than a request waits
        proxy.up.flow()

    def slow() -> None:
        proxy.up.bytes_s, proxy.down.delay_s = 20_000, 0.05
        time.sleep(0.7)
        proxy.up.bytes_s, proxy.down.delay_s = None, 0.0

    def refuse() -> None:
        proxy.refuse()
        proxy.cut()
        time.sleep(0.7)
        proxy.accept()

    faults = [
        lambda: proxy.cut(reset=False), lambda: proxy.cut(reset=True), stall, slow, refuse,
        lambda: proxy.up.truncate(chance.randrange(1, 4000)),  # in the middle of a request
        lambda: proxy.down.truncate(chance.randrange(1, 60)),  # in the middle of an answer
        lambda: proxy.down.truncate(chance.randrange(1, 60), reset=True),
        lambda: proxy.down.stall_after(chance.randrange(0, 60)),
    ]  # fmt: skip
    with exchange("coinbase", "binance", seed=seed) as place:
        names = {f"net{seed}-{name}": name for name in place.providers}
        recorder = start({name: feed(place, provider) for name, provider in names.items()}, questdb=through(proxy))
        more_rows(recorder, 500, "the first rows")
        until(lambda: recorder.metric("recorder_backlog_bytes") == 0)
        before, memory = resources(recorder), private_bytes(recorder)
        for fault in chance.sample(faults, len(faults)):
            fault()
            more_rows(recorder, 100, "rows after a fault")
        assert proxy.cuts >= 3
        assert recorder.metric("recorder_sink_retries_total") > 0
        assert not recorder.events("feed.disconnected")
        until(lambda: within(resources(recorder), before), f"threads and sockets as before, {before}")
        assert private_bytes(recorder) - memory < QUEUE_BYTES
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        for name, provider in names.items():
            assert_stored_once(questdb, name, place, provider, at_least=500)


def test_catching_up_after_an_outage_is_complete_in_flat_memory(
    start: Callable[..., Recorder], questdb: QuestDB, proxy: Proxy
) -> None:
    with exchange("coinbase", rate=5000) as place:
        batch = {"rows_max": 1000}  # so many are decoded while they have nowhere to go
        recorder = start({"outage": feed(place, "coinbase")}, questdb=through(proxy), batch=batch)
        more_rows(recorder, 10_000, "the first rows")
        memory = [private_bytes(recorder)]
        proxy.refuse()
        proxy.cut()
        until(lambda: recorder.metric("recorder_database_ready") == 0, "the outage to be noticed")
        queryable, received = rows(recorder), recorder.metric("recorder_frames_total", "outage")
        while recorder.metric("recorder_frames_total", "outage") < received + OUTAGE_FRAMES:
            memory.append(private_bytes(recorder))
        assert rows(recorder) == queryable, "nothing gets through"
        behind = recorder.metric("recorder_backlog_bytes")
        assert behind > OUTAGE_FRAMES / 2 * FRAME_BYTES, "frames are only journalled"
        proxy.accept()
        while recorder.metric("recorder_backlog_bytes") > behind / 100:
            memory.append(private_bytes(recorder))
        until(lambda: rows(recorder) >= queryable + OUTAGE_FRAMES, "what was received meanwhile to be queryable")
        assert max(memory) - memory[0] < QUEUE_BYTES
        assert recorder.metric("recorder_database_ready") == 1
        assert not recorder.events("feed.disconnected")
        assert recorder.events("sink.recovered")
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        assert_stored_once(questdb, "outage", place, "coinbase", at_least=OUTAGE_FRAMES)


def test_rows_of_a_dropped_table_that_were_not_released_are_sent_again(
    start: Callable[..., Recorder], questdb: QuestDB, tmp_path: Path
) -> None:
    with exchange("coinbase") as place:
        recorder = start({"dropped": feed(place, "coinbase")})
        more_rows(recorder, 500, "the first rows")
        questdb.sql.execute("DROP TABLE trades")
        (told,) = recorder.wait_event("engine.rewound")
        more_rows(recorder, 500, "rows after it")
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        assert len(recorder.events("sink.table_replaced", table="trades")) == 1
        assert str(tmp_path / "home" / "journal") in told["action"]
        found = questdb.sql.rows("select severity, message from quality_events where check_name = 'table_replaced'")
        assert [row["severity"] for row in found] == ["critical"]
        assert len(stored_trades(questdb, "dropped")) > 100
        bring_back(recorder, told)  # what was released before
        assert_stored_once(questdb, "dropped", place, "coinbase", at_least=300)


def run_recorder(*arguments: object) -> None:
    done = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr


def bring_back(recorder: Recorder, told: dict[str, Any]) -> None:
    """Run the command that the event names."""
    arguments = told["action"].split(": ")[1].split()[1:]
    run_recorder("--config", recorder.folder / "config.toml", *arguments)


def test_a_table_dropped_while_no_recorder_ran_is_noticed_by_the_next_start(
    start: Callable[..., Recorder], questdb: QuestDB
) -> None:
    with exchange("coinbase") as place:
        recorder = start({"away": feed(place, "coinbase")})
        more_rows(recorder, 500, "the first rows")
        assert recorder.end() == 0, recorder.text()
        questdb.sql.execute("DROP TABLE trades")
        recorder = start({"away": feed(place, "coinbase")})
        (told,) = recorder.wait_event("engine.rewound")
        assert told["table"] == "trades"
        more_rows(recorder, 500, "rows after it")
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        bring_back(recorder, told)
        assert_stored_once(questdb, "away", place, "coinbase", at_least=300)
        recorder = start({"away": feed(place, "coinbase")})
        more_rows(recorder, 500, "rows of a third run")
        assert recorder.end() == 0, recorder.text()
        assert not recorder.events("engine.rewound"), "told once"
        assert_stored_once(questdb, "away", place, "coinbase", at_least=600)


def test_data_put_back_between_two_runs_is_noticed_and_what_it_lost_can_be_brought_back(
    start: Callable[..., Recorder], own_server: Database, tmp_path: Path
) -> None:
    own_server.start()
    data, older = own_server.root / "db", tmp_path / "older"
    with exchange("coinbase") as place:
        feeds, questdb = {"back": feed(place, "coinbase")}, external(own_server.sql_url)
        recorder = start(feeds, questdb=questdb)
        more_rows(recorder, 500, "the first rows")
        own_server.stop()
        shutil.copytree(data, older)
        own_server.start()
        more_rows(recorder, 500, "rows that are going to be lost")
        assert recorder.end() == 0, recorder.text()
        own_server.stop()
        shutil.rmtree(data)
        older.rename(data)
        own_server.start()
        recorder = start(feeds, questdb=questdb)
        (told,) = recorder.wait_event("engine.rewound")
        more_rows(recorder, 500, "rows after it")
        assert recorder.end() == 0, recorder.text()
        bring_back(recorder, told)
        with own_server.client() as client:
            assert_stored_once(QuestDB(own_server, client, None), "back", place, "coinbase", at_least=500)
            found = client.rows("select severity from quality_events where check_name = 'table_replaced'")
            assert [row["severity"] for row in found] == ["critical"]
    own_server.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_filling_disk_pauses_feeds_and_they_go_on_by_themselves(
    start: Callable[..., Recorder], questdb: QuestDB, small_disk: Path
) -> None:
    journal = {
        "dir": str(small_disk / "journal"), "segment_mb": 1, "retain_below_gb": 0.03, "pause_below_gb": 0.01,
    }  # fmt: skip
    ballast = small_disk / "ballast"

    def fill(left: int) -> None:
        """Leave so many bytes."""
        disk = os.statvfs(small_disk)
        with ballast.open("ab") as file:
            file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))

    with exchange("coinbase", rate=3000) as place:
        recorder = start({"full": feed(place, "coinbase")}, journal=journal)
        recorder.wait_event("journal.compressed", count=3)
        fill(25_000_000)
        recorder.wait_event("disk.ran_low")
        retired = recorder.wait_event("journal.retired")
        assert retired[0]["reason"] == "the disk is filling"
        assert recorder.metric("recorder_paused") == 0
        fill(5_000_000)
        (alarm,) = recorder.wait_event("disk.ran_full")
        assert alarm["level"] == "error"
        recorder.wait_event("feed.closed", reason="disk full")
        assert recorder.metric("recorder_paused") == 1
        status, body = recorder.get("/health")
        assert (status, "feeds are paused" in body) == (503, True)
        until(lambda: recorder.metric("recorder_backlog_bytes") == 0, "what came before to be loaded")
        frames = recorder.metric("recorder_frames_total", "full")
        ballast.unlink()
        recorder.wait_event("disk.recovered", check="disk_full")
        wait_frames(recorder, "full", more_than=frames + 1000)
        assert recorder.metric("recorder_paused") == 0
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        assert not recorder.events("journal.paused"), "feeds were paused before the journal had to"
        assert_stored_once(questdb, "full", place, "coinbase", at_least=2000)
        found = questdb.sql.rows("select severity from quality_events where check_name = 'disk_full' order by ts_event")
        assert [row["severity"] for row in found] == ["critical", "info"]
