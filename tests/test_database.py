"""The embedded server: real processes, real kills, real ports."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from recorder.shell.database import startup_cache
from recorder.shell.database.files import JAR_SHA256, VERSION, fetch_jar, find_java, java_options, server_conf
from recorder.shell.database.server import JAVA_MODULE, Database
from recorder.shell.database.sql_client import SqlClient
from recorder.values.errors import DatabaseError

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture
def make(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Database]]:
    """Make servers on a root of this test; whatever still runs on it afterwards is stopped."""
    made: list[Database] = []

    def build(root: Path = tmp_path / "root", **settings: object) -> Database:
        settings = {"heap_mb": 256} | settings
        for key in ("http_port", "pg_port", "min_http_port"):
            settings.setdefault(key, free_port())
        made.append(Database(root, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for database in made:
        database.stop()


def ports(database: Database) -> dict[str, int]:
    return {key: getattr(database, key) for key in ("http_port", "pg_port", "min_http_port")}


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not reached"
        time.sleep(0.02)


def test_server_survives_its_recorders_death_and_is_found_again(make, monkeypatch, free_port):
    monkeypatch.setenv("QDB_HTTP_NET_BIND_TO", f"0.0.0.0:{free_port()}")  # meant for another server: must not leak in
    database = make(user="me", password="s3cret")
    script = (
        "import os, signal; from pathlib import Path; from recorder.shell.database import Database\n"
        f"d = Database(Path({str(database.root)!r}), user='me', password='s3cret', heap_mb=256, **{ports(database)})\n"
        "assert d.start(); print(d.status().pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    recorder = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=120, check=False
    )
    assert recorder.returncode == -signal.SIGKILL, recorder.stderr

    assert database.start() is False
    assert database.status().pid == int(recorder.stdout)
    assert database.status().ready
    with database.client() as client:
        assert client.value("select 1") == 1
    with pytest.raises(DatabaseError, match="refuses this user or password"):
        SqlClient(database.sql_url, "me", "wrong").query("select 1")
    assert "s3cret" not in "".join(path.read_text() for path in (database.root / "conf").glob("*.conf"))

    with pytest.raises(DatabaseError, match=rf"uses port {database.http_port} where questdb.http_port is"):
        make(**ports(database) | {"http_port": free_port()}).start()

    assert database.stop() is True
    assert not runs(int(recorder.stdout))
    assert database.stop() is False
    assert database.status().pid is None


def test_who_no_longer_waits_for_a_starting_server_leaves_it_to_others(make):
    database = make()
    ended: list[str] = []

    def start() -> None:
        with pytest.raises(DatabaseError, match="no longer wanted"):
            database.start()
        ended.append("in time")

    waiting = threading.Thread(target=start)
    waiting.start()
    file = database.root / "recorder.pid"
    until(lambda: file.exists() and file.read_text().endswith("\n"))
    pid = int(file.read_text())
    os.kill(pid, signal.SIGSTOP)  # so that it is not ready before anybody can give up
    database.abandon()
    waiting.join(60)
    os.kill(pid, signal.SIGCONT)
    assert ended == ["in time"]
    assert make(**ports(database)).start() is False
    assert make(**ports(database)).status().pid == pid


def test_killed_server_is_restarted_with_its_rows(make):
    database = make()
    assert database.start() is True
    assert database.restart() is False
    with database.client() as client:
        client.execute("create table kept (ts timestamp_ns, a long) timestamp(ts) partition by day wal")
        client.execute("insert into kept values (1785585600000000001, 9007199254740993)")
    pid = database.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not database.alive())

    assert database.restart() is True
    assert database.alive()
    with database.client() as client:
        until(lambda: client.query("kept").rows == [["2026-08-01T12:00:00.000000001Z", 9007199254740993]])
    database.stop()
    assert not database.alive()


def test_taken_port_is_named_with_its_configuration_key(make):
    database = make()
    with (
        socket.create_server(("127.0.0.1", database.min_http_port)),
        pytest.raises(DatabaseError) as caught,
    ):
        database.start()
    assert f"port {database.min_http_port} on 127.0.0.1 (questdb.min_http_port)" in str(caught.value)
    assert f"pid {os.getpid()}" in str(caught.value)
    assert database.status().pid is None


def test_server_that_ends_while_starting_gives_its_last_words(make):
    with pytest.raises(DatabaseError, match=r"ended while starting \(exit code 1\); its last words:(?s:.)*heap"):
        make(heap_mb=1).start()


def test_root_used_by_a_server_that_is_not_ours_is_said_to_be_locked(make, free_port):
    database = make()
    (database.root / "conf").mkdir(parents=True)
    other = server_conf(free_port(), free_port(), status_port := free_port())
    (database.root / "conf" / "server.conf").write_text(other)
    same_root = f"{database.root}/../{database.root.name}"  # another spelling, so not recognised as ours
    process = subprocess.Popen(
        [find_java(), *java_options(256), "-p", fetch_jar(), "-m", JAVA_MODULE, "-d", same_root],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: _status(status_port) == 200, 90)
        with pytest.raises(DatabaseError, match=r"is locked: another QuestDB process uses it"):
            database.start()
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)


def _status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2) as response:
            return response.status
    except OSError:
        return 0


def test_settings_are_loopback_only_quiet_and_without_telemetry(questdb):
    set_ = dict(questdb.sql.query("select property_path, value from (show parameters)").rows)
    for key in ("http.net.bind.to", "http.min.net.bind.to", "pg.net.bind.to"):
        assert set_[key].startswith("127.0.0.1:"), key
    assert set_["line.tcp.enabled"] == "false"
    assert set_["telemetry.disable.completely"] == "true"
    assert int(set_["shared.network.worker.count"]) >= 8
    assert not questdb.sql.rows("tables() where table_name like '%telemetry%'")
    listening = {
        c.laddr.ip for c in psutil.Process(questdb.database.status().pid).net_connections() if c.status == "LISTEN"
    }
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_misspelt_table_is_refused_instead_of_created(questdb):
    request = urllib.request.Request(f"{questdb.sql_url}/write", data=b"tradez price=1 1\n", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert b"creating new tables is disabled" in caught.value.read()


def test_users_own_settings_come_last_and_win(make):
    database = make()
    (database.root / "conf").mkdir(parents=True)
    (database.root / "conf" / "extra.conf").write_text("query.timeout=5s\nmetrics.enabled=false\n")
    database._write_conf()
    text = (database.root / "conf" / "server.conf").read_text()
    assert text.index("metrics.enabled=true") < text.index("metrics.enabled=false")
    assert "query.timeout=5s" in text


def jar_path(cache: Path) -> Path:
    return cache / "maven" / "org" / "questdb" / "questdb" / VERSION / f"questdb-{VERSION}.jar"


def test_jar_with_another_digest_is_refused_and_kept_for_inspection(tmp_path):
    jar = jar_path(tmp_path)
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"not the server")
    with pytest.raises(
        DatabaseError, match=rf"SHA-256 is [0-9a-f]{{64}}, expected {JAR_SHA256}: not started; delete it"
    ):
        fetch_jar(cache=tmp_path)
    assert jar.exists()


def test_mirror_that_serves_another_file_is_refused_and_the_file_removed(tmp_path, free_port):
    served = jar_path(tmp_path / "mirror")
    served.parent.mkdir(parents=True)
    served.write_bytes(b"not the server")
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "mirror" / "maven"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), handler) as mirror:
        threading.Thread(target=mirror.serve_forever).start()
        try:
            with pytest.raises(DatabaseError, match=r"not started; check questdb.maven_base"):
                fetch_jar(f"http://127.0.0.1:{mirror.server_port}", tmp_path)
        finally:
            mirror.shutdown()
    assert not jar_path(tmp_path).exists()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """No request log between test results."""


def test_unreachable_mirror_is_named(tmp_path, free_port):
    port = free_port()
    with pytest.raises(
        DatabaseError, match=rf"could not be downloaded from http://127.0.0.1:{port}: .*questdb.maven_base"
    ):
        fetch_jar(f"http://127.0.0.1:{port}", tmp_path)


def told(database: Database, option: str) -> Path:
    """What the running server's command line names with this option."""
    pid = database.status().pid
    assert pid is not None
    (word,) = (word for word in psutil.Process(pid).cmdline() if word.startswith(option))
    return Path(word.removeprefix(option))


def test_server_that_ends_in_order_leaves_a_cache_that_later_ones_start_from(make, tmp_path, monkeypatch):
    monkeypatch.setattr(startup_cache, "folder", lambda: tmp_path / "java")
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    first.start()
    pid = first.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not first.alive())
    first.start()
    unfinished = told(first, "-XX:AOTCacheOutput=")
    first.stop()
    (cache,) = (tmp_path / "java").iterdir()
    assert (cache.suffix, unfinished.exists()) == (".aot", False)
    second.start()
    assert told(second, "-XX:AOTCache=") == cache
    assert str(cache) in {each.path for each in psutil.Process(second.status().pid).memory_maps()}
    second.stop()
    cache.write_bytes(cache.read_bytes()[: 1 << 20])
    assert second.start(), "a damaged cache must not keep a server from starting"
    with second.client() as client:
        assert client.rows("select 1 one") == [{"one": 1}]


@pytest.fixture
def option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What a server that is started with these options is told of its cache; its jar is tmp_path/questdb.jar."""
    java, jar = tmp_path / "bin" / "java", tmp_path / "questdb.jar"
    (tmp_path / "lib").mkdir()
    for file in (tmp_path / "lib" / "modules", jar):
        file.write_bytes(b"1")
    monkeypatch.setattr(startup_cache, "folder", lambda: tmp_path / "java")
    return lambda *options: startup_cache.option(java, jar, list(options), "root")


def file_of(option: list[str]) -> Path:
    return Path(option[0].partition("=")[2])


def test_cache_of_a_server_that_does_not_start_is_not_used_again(option, tmp_path):
    making = option("-Xmx1m")
    file_of(making).write_bytes(b"cache")
    startup_cache.keep(making)
    using = option("-Xmx1m")
    assert file_of(using).read_bytes() == b"cache"
    assert option("-Xmx2m") == using
    assert option("-Xmx2m", "-XX:+UseG1GC") not in (using, making)
    startup_cache.drop(using)
    assert option("-Xmx1m") == making
    (tmp_path / "questdb.jar").write_bytes(b"22")
    assert option("-Xmx1m") not in (using, making)


def test_server_that_had_no_time_to_make_a_cache_is_not_asked_again(option, tmp_path):
    making = option()
    unfinished = file_of(making)
    for path in (unfinished, unfinished.with_name(unfinished.name + ".config")):
        path.write_bytes(b"half")
    startup_cache.keep(making)
    assert option() == []
    assert sum(path.stat().st_size for path in (tmp_path / "java").iterdir()) == 0


def test_caches_are_no_more_than_a_few(option, tmp_path):
    names: list[str] = []
    for number in range(9):
        made = option(f"-Dnumber={number}")
        file_of(made).touch()
        startup_cache.keep(made)
        kept = file_of(option(f"-Dnumber={number}"))
        os.utime(kept, (number, number))
        names.append(kept.name)
    assert sorted(each.name for each in (tmp_path / "java").iterdir()) == sorted(names[-startup_cache.KEPT_MAX :])
