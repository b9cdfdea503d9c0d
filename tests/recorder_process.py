"""`recorder …` as a process of its own: its configuration, its log, its metrics, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

REPO = Path(__file__).resolve().parent.parent
WAIT_S = 90.0  # of any condition: seconds on an idle machine, and a crowded one must not fail a test


def until(condition: Callable[[], Any], what: str = "", timeout_s: float = WAIT_S) -> Any:
    """The first true result of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what or condition}"
        time.sleep(0.05)
    return result


def write_config(
    folder: Path, feeds: Mapping[str, Mapping[str, Any]], metrics_port: int, questdb: Mapping[str, Any], **sections: Any
) -> Path:
    """A config.toml with these feeds by name; sections as mappings."""
    document = {"questdb": questdb, "metrics": {"port": metrics_port}, **sections}
    lines = []
    for section, values in document.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    for name, values in feeds.items():
        settings = {"name": name, "schedule": "24/7", **values}
        lines += ["[[feeds]]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items()), ""]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    path.write_text("\n".join(lines))
    return path


def external(sql_url: str) -> dict[str, Any]:
    """[questdb] of a server that runs elsewhere."""
    return {"embedded": False, "ilp": f"http::addr={sql_url.removeprefix('http://')};", "sql": sql_url}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "recorder", *map(str, arguments)]


def environment(**extra: str) -> dict[str, str]:
    """Without any provider's keys and settings of the user's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECORDER_", "APCA_"))}
    return kept | {"PYTHONPATH": str(REPO)} | extra


class Recorder:
    """A running ``recorder run``.

    program  what runs it, if not ``python -m recorder``
    """

    def __init__(
        self, config: Path, *arguments: str, metrics_port: int = 0, program: Sequence[str] = (), **env: str
    ) -> None:
        self.folder, self.metrics_port = config.parent, metrics_port
        self.stderr = self.folder / f"stderr.{time.monotonic_ns()}"
        with open(self.stderr, "wb") as file:
            self.process = subprocess.Popen(
                [*(program or command()), "--config", str(config), "run", "--now", *arguments],
                stderr=file, stdout=file, env=environment(**env), start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self, number: int | None = signal.SIGTERM) -> int:
        """Send a signal (None: wait for it to end by itself); return the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def text(self) -> str:
        return self.stderr.read_text()

    def events(self, *names: str, **fields: object) -> list[dict[str, Any]]:
        """Events of the log so far, all or with these names and fields."""
        lines = self.text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [
            e
            for e in entries
            if (not names or e["event"] in names) and all(e.get(key) == value for key, value in fields.items())
        ]

    def wait_event(self, name: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]] | None:
            events = self.events(name, **fields)
            if len(events) < count:
                assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.text()[-3000:]}"
            return events if len(events) >= count else None

        result: list[dict[str, Any]] = until(found, f"{count} × {name} {fields} in {self.text()[-3000:]}")
        return result

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[tuple[str, ...], float]:
        """(name, label values …) → value, as Prometheus' own parser reads them."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }

    def metric(self, *key: str) -> float:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.text()[-3000:]}"
        try:
            return self.metrics().get(key, 0.0)
        except OSError:
            return 0.0  # not listening yet
