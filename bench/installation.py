"""Processes that end-to-end benches are made of: an exchange, `recorder run`, and what can be asked of the database."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil

from bench.traffic import VENUES, Venue
from recorder.shell.database import Database

REPO = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.001  # between questions of a watcher: the resolution of "queryable" as seen from outside
MEMORY_POLL_S = 0.1


class Lines:
    """A child process that speaks in lines of JSON."""

    def __init__(self, *command: str, stderr: Any = None, env: dict[str, str] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPO), **(env or {})}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment, cwd=REPO
        )

    def tell(self, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()

    def hear(self, key: str, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """The next line that has ``key``. Raises TimeoutError, or EOFError when the process has ended."""
        deadline = time.monotonic() + timeout_s
        stdout = self.process.stdout
        assert stdout is not None
        while select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            line = stdout.readline()
            if not line:
                raise EOFError(f"{self.process.args} ended with {self.process.wait()}")
            fields: dict[str, Any] = json.loads(line)
            if key in fields:
                return fields
        raise TimeoutError(f"{self.process.args}: no {key!r} within {timeout_s:g} s")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class LoadServer(Lines):
    """bench/load_server.py: ``url`` is what a feed connects to."""

    def __init__(self, venue: str) -> None:
        super().__init__(sys.executable, "-m", "bench.load_server", venue)
        self.venue: Venue = VENUES[venue]
        self.port = int(self.hear("port")["port"])
        self.url = f"ws://127.0.0.1:{self.port}/"

    def prepare(self, trades: int, rate: float | None = None) -> None:
        """Render frames whose event times pass at ``rate`` trades per second, as they do on an exchange."""
        self.tell(prepare=trades, rate=rate)
        self.hear("prepared", 120.0)

    def send(self, rate: float | None = None) -> None:
        self.tell(rate=rate)

    def sent(self) -> dict[str, Any]:
        """What was sent, once all of it is; ``log`` as an array."""
        fields = self.hear("sent", 300.0)
        path = Path(fields["log"])
        fields["log"] = np.load(path)
        path.unlink()
        return fields


class Query:
    """One connection for questions."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def __call__(self, sql: str) -> list[list[Any]]:
        try:
            self._connection.request("GET", "/exec?query=" + quote(sql))
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if response.status != 200:
            raise RuntimeError(f"{sql}: {body[:300]!r}")
        rows: list[list[Any]] = json.loads(body)["dataset"]
        return rows

    def close(self) -> None:
        self._connection.close()


class Watch:
    """A thread that asks how many rows there are until there are ``wanted``: (rows, time of the answer) each."""

    def __init__(self, ask: Callable[[], int], wanted: int, pause_s: float) -> None:
        self.seen: list[tuple[int, int]] = []
        self._ask, self._wanted, self._pause_s = ask, wanted, pause_s
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = -1
        while count < self._wanted:
            count = self._ask()
            self.seen.append((count, time.time_ns()))
            time.sleep(self._pause_s)

    def wait(self, timeout_s: float) -> int:
        """When the last row was there, ns. Raises TimeoutError saying how many are."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"{self.seen[-1:]} rows of {self._wanted} after {timeout_s:g} s")
        return self.seen[-1][1]


class Memory:
    """A thread that looks at a process' resident memory: (time ns, resident, of it not shared with files) in bytes."""

    def __init__(self, process: psutil.Process) -> None:
        self.samples: list[tuple[int, int, int]] = []
        self._process, self._stop = process, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(psutil.Error):
            while not self._stop.wait(MEMORY_POLL_S):
                info = self._process.memory_info()
                self.samples.append((time.time_ns(), info.rss, info.rss - info.shared))

    def stop(self) -> np.ndarray:
        self._stop.set()
        self._thread.join()
        return np.array(self.samples, np.int64).reshape(-1, 3)


class Installation:
    """A folder with a configuration, and the recorder that runs there with a database of its own.

    embedded  False: whoever asks starts and stops ``database``, the recorder only uses it
    """

    def __init__(self, folder: Path, server: LoadServer, ports: list[int], embedded: bool = True) -> None:
        self.folder, self.server = folder, server
        self.http_port, pg_port, min_http_port, metrics_port = ports
        spec = server.venue.spec
        address = f"127.0.0.1:{self.http_port}"
        questdb = (
            f'dir = "questdb"\nhttp_port = {self.http_port}\npg_port = {pg_port}\nmin_http_port = {min_http_port}\n'
            if embedded
            else f'embedded = false\nilp = "http::addr={address};"\nsql = "http://{address}"\n'
        )
        options = "".join(f'{name} = "{value}"\n' for name, value in spec.options.items())
        (folder / "config.toml").write_text(
            f'[journal]\ndir = "journal"\nkeep_gb = 4\n[questdb]\n{questdb}[metrics]\nport = {metrics_port}\n'
            f'[[feeds]]\nname = "{spec.name}"\nprovider = "{spec.provider}"\nchannels = ["trades"]\n'
            f'symbols = {json.dumps(spec.symbols)}\nurl = "{server.url}"\nschedule = "24/7"\n{options}'
        )
        self.database = Database(
            folder / "questdb", http_port=self.http_port, pg_port=pg_port, min_http_port=min_http_port
        )
        self._recorder: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, env: dict[str, str] | None = None) -> psutil.Process:
        """`recorder run --now`, or another program that does; returns at once."""
        arguments = [sys.executable, *(command or ("-m", "recorder"))]
        with open(self.folder / "recorder.err", "wb") as stderr:
            self._recorder = subprocess.Popen(
                [*arguments, "--config", str(self.folder / "config.toml"), "run", "--now"],
                stdout=subprocess.DEVNULL, stderr=stderr, cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(REPO), **(env or {})},
            )  # fmt: skip
        return psutil.Process(self._recorder.pid)

    def wait_ready(self) -> None:
        """Subscribed, and tables can be queried."""
        self.server.hear("subscribed")
        self.until(lambda: self.count() == 0)

    def until(self, condition: Callable[[], bool], pause_s: float = 0.02) -> None:
        """Wait, for START_TIMEOUT_S at most. Raises TimeoutError with the recorder's last words."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                if condition():
                    return
            assert self._recorder is not None
            if self._recorder.poll() is not None:
                break
            time.sleep(pause_s)
        raise TimeoutError(f"not ready; the recorder said: {(self.folder / 'recorder.err').read_text()[-2000:]}")

    def query(self, sql: str) -> list[list[Any]]:
        query = Query(self.http_port)
        try:
            return query(sql)
        finally:
            query.close()

    def count(self) -> int:
        return int(self.query("select count() from trades")[0][0])

    def watch(self, wanted: int, pause_s: float = POLL_S) -> Watch:
        query = Query(self.http_port)
        return Watch(lambda: int(query("select count() from trades")[0][0]), wanted, pause_s)

    def stop(self) -> None:
        """End the recorder as a user would; raises subprocess.TimeoutExpired when it does not."""
        if self._recorder is not None:
            self._recorder.send_signal(signal.SIGTERM)
            try:
                self._recorder.wait(STOP_TIMEOUT_S)
            finally:
                self._recorder.kill()
                self._recorder.wait()
                self._recorder = None

    def close(self) -> None:
        try:
            self.stop()
        finally:
            self.database.stop()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def quantiles(writes: np.ndarray, waits: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """p50, p99, and the p99 of the middle one of the seconds, ms: what a machine did meanwhile for others spoils some
    of the seconds, what a recorder does wrong all of them.

    writes   (n,) when, ns
    waits    (n,) ns
    weights  (n,) trades that waited so long
    """

    def quantile(q: float, chosen: np.ndarray) -> float:
        order = np.argsort(waits[chosen])
        cumulative = np.cumsum(weights[chosen][order])
        return float(waits[chosen][order[np.searchsorted(cumulative, q * cumulative[-1])]]) / 1e6

    whole = np.ones(len(waits), np.bool_)
    seconds = (writes - writes[0]) // 10**9
    tails = [quantile(0.99, seconds == second) for second in np.unique(seconds).tolist()]
    return quantile(0.5, whole), quantile(0.99, whole), float(np.median(tails))


def latencies(sent: np.ndarray, seen: list[tuple[int, int]], first: int) -> tuple[float, float, float]:
    """``quantiles`` from the write of a trade to the first answer that counts it.

    sent   (n, 2) trades sent so far (ascending), time before the write
    seen   (trades counted, time of the answer)
    first  trades sent before this stretch
    """
    answers = np.array(seen, np.int64)
    counted = np.maximum.accumulate(answers[:, 0])
    writes, waits, weights = [], [], []
    before = first
    # Trades of one write become visible in pieces: each piece has its own wait.
    bounds = np.unique(np.concatenate([sent[:, 0], counted[counted > first]]))
    for upto in bounds[bounds > first].tolist():
        if upto > sent[-1, 0] or upto > counted[-1]:
            break
        write = sent[np.searchsorted(sent[:, 0], upto), 1]
        answer = answers[np.searchsorted(counted, upto), 1]
        writes.append(int(write))
        waits.append(int(answer - write))
        weights.append(upto - before)
        before = upto
    return quantiles(np.array(writes), np.array(waits), np.array(weights))
