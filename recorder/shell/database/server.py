"""The embedded QuestDB: fetched, verified, configured, started as a process of its own, found again, stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from recorder.shell.database import startup_cache
from recorder.shell.database.files import LOG_CONF, LOOPBACK, fetch_jar, find_java, java_options, server_conf
from recorder.shell.database.sql_client import SqlClient
from recorder.values.errors import DatabaseError

JAVA_MODULE = "io.questdb/io.questdb.ServerMain"
START_TIMEOUT_S = 90.0  # 2 s on an idle machine, 15 s on a loaded one, more when much WAL has to be recovered
STOP_TIMEOUT_S = 30.0  # a clean stop takes under 1 s, and 4 to 7 when it leaves a start-up cache
KILL_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 2.0
POLL_S = 0.05
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 64 << 10


@dataclass(frozen=True)
class Status:
    """What is known of the server; ``pid`` is None when none runs on this root."""

    root: Path
    pid: int | None
    ready: bool
    http_port: int
    pg_port: int
    min_http_port: int
    rss_bytes: int = 0
    uptime_s: float = 0.0


class Database:
    """The server on one data root. Methods may be called from any thread; ``start`` and ``stop`` wait for each other,
    also between processes.

    root       data folder, created when missing
    heap_mb    the JVM's heap; the server maps files outside of it
    user, password   Basic authentication of the HTTP interface, PGWire likewise; None: open to this machine
    maven_base a mirror to fetch the server from instead of Maven Central
    """

    def __init__(
        self,
        root: Path,
        *,
        http_port: int = 9000,
        pg_port: int = 8812,
        min_http_port: int = 9003,
        heap_mb: int = 512,
        user: str | None = None,
        password: str | None = None,
        maven_base: str | None = None,
    ) -> None:
        self.root = Path(root).resolve()
        self.http_port, self.pg_port, self.min_http_port = http_port, pg_port, min_http_port
        self.heap_mb, self.maven_base = heap_mb, maven_base or None
        self._user, self._password = user or None, password or None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._lock = threading.RLock()
        self._abandoned = threading.Event()

    @classmethod
    def from_config(cls, config: Any) -> Database:
        q = config.questdb
        return cls(
            q.dir,
            http_port=q.http_port,
            pg_port=q.pg_port,
            min_http_port=q.min_http_port,
            heap_mb=q.heap_mb,
            user=q.user,
            password=q.password,
            maven_base=q.maven_base,
        )

    @property
    def sql_url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def ilp(self) -> str:
        return f"http::addr={LOOPBACK}:{self.http_port};"

    def client(self) -> SqlClient:
        return SqlClient(self.sql_url, self._user, self._password)

    def start(self) -> bool:
        """Return once the server answers queries: True when it was started, False when one was running on this root.

        Raises DatabaseError: no Java runtime or jar, a port taken, the root in use, the server's own last words, or
        ``abandon`` was called.
        """
        with self._lock, self._exclusive():
            pid = self._find()
            if pid is not None:
                self._check_ports(pid)
                self._pid = pid
                self._wait_ready(pid)
                return False
            java, jar = find_java(), fetch_jar(self.maven_base)
            self.check_ports_free()
            self._write_conf()
            command = self._launch(java, jar)
            assert self._pid is not None
            try:
                self._wait_ready(self._pid)
            except BaseException:
                if not self._is_ours(self._pid):
                    startup_cache.drop(command)
                if not self._abandoned.is_set():
                    self._terminate(self._pid)
                raise
            return True

    def abandon(self) -> None:
        """Nobody waits for the server any more, now or later; one that is starting goes on doing so."""
        self._abandoned.set()

    def stop(self) -> bool:
        """Stop the server on this root, whoever started it; False when none runs."""
        if not self.root.is_dir():
            return False
        with self._lock, self._exclusive():
            pid = self._pid = self._find()
            if pid is None:
                return False
            command = _command(pid)
            self._terminate(pid)
            startup_cache.keep(command)
            self._pid_path.unlink(missing_ok=True)
            self._pid, self._process = None, None
            return True

    def alive(self) -> bool:
        """Whether the server's process runs; cheap, asks nothing over the network."""
        with self._lock:
            if self._pid is None:
                self._pid = self._find()
            return self._pid is not None and self._is_ours(self._pid)

    def restart(self) -> bool:
        """Start again if the process has died; True when it was started anew."""
        return False if self.alive() else self.start()

    def status(self) -> Status:
        pid = self._find()
        ports = self._conf_ports() if pid is not None else {}
        http_port = ports.get("http", self.http_port)
        min_http_port = ports.get("http.min", self.min_http_port)
        pg_port = ports.get("pg", self.pg_port)
        if pid is None:
            return Status(self.root, None, False, http_port, pg_port, min_http_port)
        rss_bytes, uptime_s = 0, 0.0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            rss_bytes, uptime_s = process.memory_info().rss, max(0.0, time.time() - process.create_time())
        return Status(self.root, pid, _healthy(min_http_port), http_port, pg_port, min_http_port, rss_bytes, uptime_s)

    # Files of the root.

    @property
    def _pid_path(self) -> Path:
        return self.root / "recorder.pid"

    @property
    def _conf_path(self) -> Path:
        return self.root / "conf" / "server.conf"

    @property
    def _stdout_path(self) -> Path:
        return self.root / "log" / "stdout.log"

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One start or stop at a time on this root, over all processes."""
        import filelock

        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"questdb.dir {self.root} cannot be made: {error.strerror}; name another folder"
            ) from error
        lock = filelock.FileLock(self.root / "recorder.lock", timeout=START_TIMEOUT_S + STOP_TIMEOUT_S)
        try:
            with lock:
                yield
        except filelock.Timeout as error:
            raise DatabaseError(
                f"{self.root}: another recorder has been starting or stopping this QuestDB for {lock.timeout:g} s"
            ) from error

    def _write_conf(self) -> None:
        for folder in ("conf", "log"):
            (self.root / folder).mkdir(exist_ok=True)
        extra = self.root / "conf" / "extra.conf"
        lines = server_conf(self.http_port, self.pg_port, self.min_http_port, authenticated=self._user is not None)
        if extra.exists():
            lines += f"# from {extra.name}\n{extra.read_text(encoding='utf-8')}"
        _write_if_changed(self._conf_path, lines)
        _write_if_changed(self.root / "conf" / "log.conf", LOG_CONF)

    def _conf_ports(self) -> dict[str, int]:
        """Ports of the running server: its configuration is only rewritten when none runs."""
        result: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for line in self._conf_path.read_text(encoding="utf-8").splitlines():
                key, _, value = line.partition("=")
                port = value.rpartition(":")[2]
                if key.endswith(".net.bind.to") and port.isdigit():
                    result[key.removesuffix(".net.bind.to")] = int(port)
        return result

    # The process.

    def _find(self) -> int | None:
        """Pid of the server on this root, also of one left behind by a killed recorder."""
        try:
            pid = int(self._pid_path.read_text())
            if self._is_ours(pid):
                return pid
        except (OSError, ValueError):
            pass
        return next((p for p in psutil.pids() if self._is_ours(p)), None)

    def _is_ours(self, pid: int) -> bool:
        """A pid is used again after a while: what counts is that it is a QuestDB on this root."""
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        try:
            process = psutil.Process(pid)
            try:
                command = process.cmdline()
            except psutil.ZombieProcess:  # its other threads may still hold ports and files for a moment
                return pid == self._pid and process.num_threads() > 1
        except (psutil.Error, OSError, ValueError):
            return False
        if not command:  # its memory is gone: it is ending, and may hold ports and files until it has ended
            return pid == self._pid
        return JAVA_MODULE in command and str(self.root) in command

    def _check_ports(self, pid: int) -> None:
        ports = self._conf_ports()
        for name, key, port in self._ports():
            if ports.get(name, port) != port:
                raise DatabaseError(
                    f"the QuestDB on {self.root} (pid {pid}) uses port {ports[name]} where questdb.{key} is {port}; "
                    "run `recorder db stop` first, or set it back"
                )

    def _ports(self) -> tuple[tuple[str, str, int], ...]:
        return (
            ("http", "http_port", self.http_port),
            ("http.min", "min_http_port", self.min_http_port),
            ("pg", "pg_port", self.pg_port),
        )

    def check_ports_free(self) -> None:
        """Raises DatabaseError naming a port that cannot be had, and who holds it."""
        for _, key, port in self._ports():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: ignore TIME_WAIT
                try:
                    probe.bind((LOOPBACK, port))
                    probe.listen(1)
                except OSError as error:
                    raise DatabaseError(
                        f"port {port} on {LOOPBACK} (questdb.{key}) cannot be used: {error.strerror}{_holder(port)}; "
                        f"stop that program or set another questdb.{key}"
                    ) from error

    def _launch(self, java: Path, jar: Path) -> list[str]:
        """The command line of the process that was started."""
        # The environment wins over server.conf, so whatever QDB_* the user has set for another server must not leak in.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QDB_")}
        environment["QDB_LOG_LOG_DIR"] = str(self.root / "log")
        if self._user is not None:  # by environment, so that no secret is written to disk
            environment |= {"QDB_HTTP_USER": self._user, "QDB_HTTP_PASSWORD": self._password or ""}
            environment |= {"QDB_PG_USER": self._user, "QDB_PG_PASSWORD": self._password or ""}
        options = java_options(self.heap_mb)
        options += startup_cache.option(java, jar, options, str(self.root))
        command = [str(java), *options, "-p", str(jar), "-m", JAVA_MODULE, "-d", str(self.root)]
        if self._stdout_path.exists():
            self._stdout_path.replace(self._stdout_path.with_suffix(".log.1"))
        with open(self._stdout_path, "wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.root,
                start_new_session=True,  # Ctrl-C in the terminal is for the recorder, which drains first
            )
        self._pid = self._process.pid
        self._pid_path.write_text(f"{self._pid}\n")
        return command

    def _wait_ready(self, pid: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if not self._is_ours(pid):
                raise self._startup_error()
            if _healthy(self.min_http_port):
                with self.client() as client:
                    client.query("select 1")
                return
            if self._abandoned.wait(POLL_S):
                raise DatabaseError(f"QuestDB (pid {pid}) on {self.root} was starting when it was no longer wanted")
        raise DatabaseError(
            f"QuestDB (pid {pid}) on {self.root} was not ready within {START_TIMEOUT_S:g} s; "
            f"its last words:\n{self._tail()}"
        )

    def _startup_error(self) -> DatabaseError:
        code = self._process.returncode if self._process is not None else None
        tail = self._tail()
        if "could not bind socket" in tail:
            keys = ", ".join(f"questdb.{key} = {port}" for _, key, port in self._ports())
            return DatabaseError(f"QuestDB found a port taken ({keys}); its last words:\n{tail}")
        if "cannot lock table name registry" in tail:
            return DatabaseError(
                f"{self.root} is locked: another QuestDB process uses it; stop that one or set another questdb.dir"
            )
        return DatabaseError(f"QuestDB on {self.root} ended while starting (exit code {code}); its last words:\n{tail}")

    def _tail(self) -> str:
        logs = sorted((self.root / "log").glob("questdb.log.*"), key=lambda path: path.stat().st_mtime)
        lines: list[str] = []
        for path in [*logs[-1:], self._stdout_path]:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
                told = (line for line in text.splitlines() if line.strip() and not startup_cache.OF_JAVA.search(line))
                lines += list(told)[-LOG_TAIL_LINES:]
        return "\n".join(lines) or f"(nothing in {self.root / 'log'})"

    def _terminate(self, pid: int) -> None:
        for signal_, wait_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)):
            if not self._is_ours(pid):
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_)
            deadline = time.monotonic() + wait_s
            while time.monotonic() < deadline:
                if not self._is_ours(pid):
                    return
                time.sleep(POLL_S)
        raise DatabaseError(f"QuestDB (pid {pid}) on {self.root} does not end, not even by SIGKILL; is its disk stuck?")


def _command(pid: int) -> list[str]:
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).cmdline()
    return []


def _healthy(min_http_port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, min_http_port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/status")
        response = connection.getresponse()
        return response.status == 200 and b"Healthy" in response.read(4096)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _holder(port: int) -> str:
    """``, held by java (pid 123)`` where the system tells."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f", held by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
