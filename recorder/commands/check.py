"""``recorder check``: would recording work? Configuration, keys, disk, clock, calendar, database, network."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recorder.values.config import Config, credentials, wanted_credentials
from recorder.values.errors import RecorderError
from recorder.values.feed import SECOND

DISK_FREE_MIN = 2 << 30  # below this the journal of a busy day does not fit
MAP_COUNT_WANTED = 1 << 20  # QuestDB maps a file per column and partition
CONNECT_TIMEOUT_S = 5.0
CLOCK_ERROR_MAX_NS = 50_000_000  # more than this and latencies say nothing

OK, WARNING, FAILED = "ok", "warning", "failed"
_MARKS = {OK: "✓", WARNING: "!", FAILED: "✗"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. Only FAILED would keep recording from working."""

    what: str
    state: str
    words: str


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("check", help="configuration, keys, database, disk, clock, calendar: one line each")
    parser.add_argument("--offline", action="store_true", help="do not try to reach the providers")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    findings = []
    for finding in findings_of(config, network=not args.offline):
        findings.append(finding)
        if not args.json:
            print(f"{_MARKS[finding.state]} {finding.what:<14} {finding.words}", flush=True)
    if args.json:
        import orjson

        sys.stdout.write(orjson.dumps([asdict(f) for f in findings]).decode() + "\n")
    return int(any(f.state == FAILED for f in findings))


def findings_of(config: Config, network: bool) -> Iterator[Finding]:
    """Run every check in turn; one that breaks is a finding, not the end of the report."""
    checks: list[tuple[str, Callable[[Config], Iterator[Finding]]]] = [
        ("configuration", _configuration),
        ("keys", _keys),
        ("disk", _disk),
        ("clock", _clock),
        ("calendar", _calendar),
        ("system", _system),
        ("database", _database),
        ("metrics", _metrics),
    ]
    if network:
        checks.append(("network", _network))
    for what, check in checks:
        try:
            yield from check(config)
        except (RecorderError, OSError) as error:
            yield Finding(what, FAILED, str(error))


def _configuration(config: Config) -> Iterator[Finding]:
    """It was validated when it was read, but for what only a feed knows; say what it amounts to."""
    from recorder.commands.feed_runs import check_feeds

    count = sum(len(spec.symbols) for spec in config.feeds)
    if not config.feeds:
        yield Finding(
            "configuration",
            FAILED,
            f"{config.source or 'config.toml'}: no [[feeds]] is enabled; nothing would be recorded",
        )
        return
    check_feeds(config.feeds)
    names = ", ".join(spec.name for spec in config.feeds)
    feeds = "1 feed" if len(config.feeds) == 1 else f"{len(config.feeds)} feeds"
    symbols = "1 symbol" if count == 1 else f"{count} symbols"
    yield Finding("configuration", OK, f"{config.source or 'defaults'}: {feeds} ({names}), {symbols}")


def _keys(config: Config) -> Iterator[Finding]:
    from recorder.commands.logins import state
    from recorder.feeds import PROVIDERS

    for spec in config.feeds:
        info = PROVIDERS[spec.provider]
        needed = wanted_credentials(info, spec)
        if not needed:
            continue
        found = credentials(info, os.environ, spec)
        missing = [name for name in needed if name not in found and name not in info.optional]
        if missing:
            yield Finding("keys", WARNING, f"{spec.name}: {' and '.join(missing)} not set; this feed would be skipped")
        else:
            yield Finding("keys", OK, f"{spec.name}: {' and '.join(found) or 'none needed, none'} set")
        if info.login is not None and not missing:
            good, words = state(spec, found, config)
            yield Finding("login", OK if good else WARNING, f"{spec.name}: {words}")


def _disk(config: Config) -> Iterator[Finding]:
    places = {"journal": config.journal.dir, "log": config.log.dir}
    if config.questdb.embedded:
        places["questdb"] = config.questdb.dir
    for name, path in places.items():
        existing = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if not existing.is_dir():
            yield Finding("disk", FAILED, f"{name}: {existing} is not a folder; change [{name}] dir")
        elif not os.access(existing, os.W_OK):
            yield Finding("disk", FAILED, f"{name}: {path} cannot be written; change [{name}] dir or its owner")
        elif free < DISK_FREE_MIN:
            yield Finding(
                "disk",
                FAILED,
                f"{name}: {free / 1e9:.1f} GB free at {path}; at least {DISK_FREE_MIN / 1e9:.0f} GB are needed",
            )
        else:
            yield Finding("disk", OK, f"{name}: {free / 1e9:.0f} GB free at {path}")


def _clock(config: Config) -> Iterator[Finding]:
    """What the kernel knows of its own clock; asking a time server is left to the system's own service."""
    state = _kernel_clock()
    if state is None:
        yield Finding(
            "clock", WARNING, "this system does not say whether its clock is synchronised; run chrony or ntpd"
        )
        return
    synchronised, error_ns = state
    if not synchronised:
        yield Finding(
            "clock",
            WARNING,
            "not synchronised to a time server, so latencies are only as right as it is; run chrony or ntpd",
        )
    elif error_ns > CLOCK_ERROR_MAX_NS:
        yield Finding("clock", WARNING, f"synchronised, but up to {error_ns / 1e6:.0f} ms off")
    else:
        yield Finding("clock", OK, f"synchronised, at most {error_ns / 1e6:.1f} ms off")


def _kernel_clock() -> tuple[bool, int] | None:
    """(synchronised, largest error in ns) from adjtimex(2); None where there is no such call."""
    import ctypes

    class Timex(ctypes.Structure):
        _fields_ = [
            ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_long * 32),
        ]  # fmt: skip

    unsynchronised = 0x40  # STA_UNSYNC
    try:
        timex = Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else (not timex.status & unsynchronised, timex.maxerror * 1000)


def _calendar(config: Config) -> Iterator[Finding]:
    from recorder.commands.run import schedules
    from recorder.values.schedule import Open

    now = time.time_ns()
    schedule_for = schedules(config, now=False)
    seen = set()
    for spec in config.feeds:
        name = spec.schedule or config.schedule.calendar
        if name in seen:
            continue
        seen.add(name)
        state = schedule_for(spec).state(now)
        if isinstance(state, Open):
            until = "always" if state.until_ns is None else f"until {_when(state.until_ns)}"
            yield Finding("calendar", OK, f"{name}: open {until}")
        elif state.next_open_ns is None:
            yield Finding("calendar", FAILED, f"{name}: no later session is known; update exchange-calendars")
        else:
            yield Finding("calendar", OK, f"{name}: closed, recording starts {_when(state.next_open_ns)}")


def _when(ns: int) -> str:
    return time.strftime("%a %Y-%m-%d %H:%M %Z", time.localtime(ns // SECOND))


def _system(config: Config) -> Iterator[Finding]:
    limit = Path("/proc/sys/vm/max_map_count")
    if config.questdb.embedded and limit.exists():
        count = int(limit.read_text())
        if count < MAP_COUNT_WANTED:
            words = f"vm.max_map_count is {count}, too few for QuestDB with many partitions"
            yield Finding("system", WARNING, f"{words}; sysctl -w vm.max_map_count={MAP_COUNT_WANTED}")


def _database(config: Config) -> Iterator[Finding]:
    from recorder.shell.database import Database
    from recorder.shell.database.files import fetch_jar, find_java
    from recorder.shell.database.sql_client import connect

    if config.questdb.embedded:
        database = Database.from_config(config)
        if database.status().pid is None:
            find_java()
            fetch_jar(config.questdb.maven_base or None)
            database.check_ports_free()
            yield Finding("database", OK, f"embedded QuestDB is ready to be started at {config.questdb.dir}")
            return
    with connect(config) as client:
        suspended = [row["name"] for row in client.rows("wal_tables()") if row["suspended"]]
    if suspended:
        yield Finding(
            "database", FAILED, f"suspended: {', '.join(suspended)}; free disk space, then ALTER TABLE … RESUME WAL"
        )
    else:
        yield Finding("database", OK, f"QuestDB answers at {config.questdb.sql}")


def _metrics(config: Config) -> Iterator[Finding]:
    """The port that `run` opens: free, or held by a recorder that is running already."""
    if not config.metrics.enabled:
        return
    host, port = config.metrics.host, config.metrics.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if _is_recorder(host, port):
                yield Finding("metrics", OK, f"a recorder is running and answers at http://{host}:{port}/metrics")
            else:
                words = f"port {port} on {host} cannot be opened ({error.strerror}); choose another [metrics] port"
                yield Finding("metrics", FAILED, words)
            return
    yield Finding("metrics", OK, f"will be at http://{host}:{port}/metrics")


def _is_recorder(host: str, port: int) -> bool:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return b'"problems":' in connection.getresponse().read(1 << 16)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _network(config: Config) -> Iterator[Finding]:
    """Resolve, connect and verify TLS for each feed's address; nothing is sent."""
    from recorder.feeds import PROVIDERS, make

    seen = set()
    for spec in config.feeds:
        try:
            info = PROVIDERS[spec.provider]
            feed = make(spec, dict.fromkeys(info.credentials, "-"))
        except RecorderError:
            continue  # said under "configuration"
        if feed.capability().transport == "files":
            continue
        url = urlsplit(_address(feed))
        secure = url.scheme in ("wss", "https", "tcp+tls")
        host, port = url.hostname or "", url.port or (443 if secure else 80)
        if (host, port) in seen:
            continue
        seen.add((host, port))
        try:
            with socket.create_connection((host, port), CONNECT_TIMEOUT_S) as raw:
                version = "plain"
                if secure:
                    with ssl.create_default_context().wrap_socket(raw, server_hostname=host) as tls:
                        version = tls.version() or "TLS"
            yield Finding("network", OK, f"{spec.name}: {host}:{port} answers ({version})")
        except OSError as error:
            words = f"{spec.name}: {host}:{port} cannot be reached: {error}; is there a network, a proxy, a firewall?"
            yield Finding("network", FAILED, words)


def _address(feed: Any) -> str:
    """Where it connects to, or asks first."""
    if feed.capability().transport != "poll":
        url: str = feed.endpoint().url
        return url
    first = next((request for poll in feed.polls() for request in poll.ask()), None)
    return first.url if first is not None else ""
