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
from proxy import Proxy
from recorder_process import Recorder, until
from test_run import assert_stored_once, exchange, feed, start, stored_trades, wait_frames  # noqa: F401

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


def resources(recorder: Recorder) -> tuple[int, int, int]:
    """(threads, sockets, private bytes) of a running recorder; mapped files, such as the journal, left out."""
    process = psutil.Process(recorder.process.pid)
    memory = process.memory_info()
    return process.num_threads(), len(process.net_connections()), memory.rss - memory.shared


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
        before = resources(recorder)
        for fault in chance.sample(faults, len(faults)):
            fault()
            more_rows(recorder, 100, "rows after a fault")
        assert proxy.cuts >= 3
        assert recorder.metric("recorder_sink_retries_total") > 0
        assert not recorder.events("feed.disconnected")
        until(lambda: resources(recorder)[:2] <= before[:2], "threads and sockets as before")
        assert resources(recorder)[2] - before[2] < QUEUE_BYTES
        assert recorder.end() == 0, recorder.text()
        assert recorder.events("recorder.stopped", drained=True)
        for name, provider in names.items():
            assert_stored_once(questdb, name, place, provider, at_least=500)


def test_catching_up_after_an_outage_is_complete_in_flat_memory(
    start: Callable[..., Recorder], questdb: QuestDB, proxy: Proxy
) -> None:
    with exchange("coinbase", rate=5000) as place:
        recorder = start({"outage": feed(place, "coinbase")}, questdb=through(proxy))
        more_rows(recorder, 10_000, "the first rows")
        before = resources(recorder)
        proxy.refuse()
        proxy.cut()
        queryable, received = rows(recorder), recorder.metric("recorder_frames_total", "outage")
        wait_frames(recorder, "outage", more_than=received + 30_000)
        assert rows(recorder) - queryable < 5_000, "nothing gets through"
        assert recorder.metric("recorder_database_ready") == 0
        during = resources(recorder)
        proxy.accept()
        until(lambda: rows(recorder) >= received + 30_000, "what was received meanwhile to be queryable")
        assert during[2] - before[2] < QUEUE_BYTES
        assert not recorder.events("feed.disconnected")
        assert (
            sum(told["down_s"] > 1 for told in recorder.events("sink.recovered")) == 1
        )  # a busy machine adds short ones
        assert recorder.end() == 0, recorder.text()
        assert_stored_once(questdb, "outage", place, "coinbase", at_least=30_000)


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
        # What was released before is brought back by the command that the event names.
        assert len(stored_trades(questdb, "dropped")) > 100
        arguments = told["action"].split(": ")[1].split()[1:]
        config = tmp_path / "home" / "config.toml"
        run_recorder("--config", config, *arguments)
        assert_stored_once(questdb, "dropped", place, "coinbase", at_least=300)


def run_recorder(*arguments: object) -> None:
    from recorder_process import command, environment

    done = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr


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
