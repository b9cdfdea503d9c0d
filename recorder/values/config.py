"""Configuration as values: ``config.toml`` and RECORDER_* variables in, a checked Config out, every problem at once.

The meaning of each key is written down once, in ``config.toml``; its defaults are those below.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from recorder.values.config_check import Check, Section, plain_url, read_secret, shown
from recorder.values.dividends import parse_dividends
from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import FeedSpec, ProviderInfo
from recorder.values.schedule import CALENDARS, SessionKind, nearest_calendar

Port = Annotated[int, Meta(ge=1, le=65535)]


class JournalConfig(Section, frozen=True, kw_only=True):
    dir: Path = Path("journal")
    segment_mb: Annotated[int, Meta(ge=1, le=4096)] = 64
    fsync_ms: Annotated[int, Meta(ge=1, le=60_000)] = 50
    keep_days: Annotated[float, Meta(ge=0, le=3650)] = 7.0
    keep_gb: Annotated[float, Meta(ge=0, le=1_000_000)] = 20.0
    retain_below_gb: Annotated[float, Meta(ge=0, le=1_000_000)] = 2.0
    pause_below_gb: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.5


class QuestdbConfig(Section, frozen=True, kw_only=True):
    embedded: bool = True
    dir: Path = Path("questdb")
    http_port: Port = 9000
    pg_port: Port = 8812
    min_http_port: Port = 9003
    heap_mb: Annotated[int, Meta(ge=128, le=65_536)] = 512
    maven_base: str = ""
    ilp: str = "http::addr=127.0.0.1:9000;"
    sql: str = "http://127.0.0.1:9000"
    user: str = ""
    password: str = ""  # from the environment only; never printed
    encoder: Literal["numba", "client"] = "numba"
    prefix: Annotated[
        str,
        Meta(
            pattern=r"\A([a-z][a-z0-9_]{0,30})?\Z", description="of small letters, digits and _, at most 31, or empty"
        ),
    ] = ""

    def __repr__(self) -> str:
        return f"QuestdbConfig(embedded={self.embedded}, dir={str(self.dir)!r}, sql={self.sql!r}, user={self.user!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As rich shows it in a traceback: without the password too."""
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "password"]


class BatchConfig(Section, frozen=True, kw_only=True):
    window_ms: Annotated[int, Meta(ge=1, le=10_000)] = 5
    rows_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 50_000
    blocks_in_flight_max: Annotated[int, Meta(ge=1, le=256)] = 8


class KernelsConfig(Section, frozen=True, kw_only=True):
    zscore_window: Annotated[int, Meta(ge=2, le=100_000)] = 200
    min_samples: Annotated[int, Meta(ge=2, le=100_000)] = 20
    outlier_sigma: Annotated[float, Meta(gt=0, le=1000)] = 6.0
    size_window: Annotated[int, Meta(ge=2, le=100_000)] = 200
    size_multiple: Annotated[float, Meta(gt=1, le=1_000_000)] = 20.0
    rolling_vwap_s: Annotated[int, Meta(ge=1, le=86_400)] = 300
    time_gap_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    risk_free_rate: Annotated[float, Meta(ge=-0.5, le=1)] = 0.04
    dividends: str = ""


class ScheduleConfig(Section, frozen=True, kw_only=True):
    calendar: str = "XNYS"
    session: SessionKind = "extended"
    lead_s: Annotated[int, Meta(ge=0, le=14_400)] = 60
    drain_s: Annotated[int, Meta(ge=0, le=14_400)] = 60


class LogConfig(Section, frozen=True, kw_only=True):
    dir: Path = Path("log")
    level: Literal["debug", "info", "warning", "error"] = "info"
    rotate_mb: Annotated[int, Meta(ge=1, le=4096)] = 64
    keep_files: Annotated[int, Meta(ge=1, le=1000)] = 5


class MetricsConfig(Section, frozen=True, kw_only=True):
    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 9184


class WatchConfig(Section, frozen=True, kw_only=True):
    enabled: bool = True
    false_alarms_per_year: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0


class RepairConfig(Section, frozen=True, kw_only=True):
    enabled: bool = True
    delay_s: Annotated[float, Meta(ge=0, le=86_400)] = 5.0
    attempts: Annotated[int, Meta(ge=1, le=1000)] = 8
    quotes_s_max: Annotated[float, Meta(ge=0, le=86_400)] = 900.0


class LoginConfig(Section, frozen=True, kw_only=True):
    dir: Path = Path("login")


class Config(Struct, frozen=True, kw_only=True):
    """Everything a command may ask. ``feeds`` holds the enabled ones; paths are absolute after ``load``."""

    journal: JournalConfig = JournalConfig()
    questdb: QuestdbConfig = QuestdbConfig()
    batch: BatchConfig = BatchConfig()
    kernels: KernelsConfig = KernelsConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    retention: dict[str, str] = msgspec.field(default_factory=dict)  # table → "90 DAYS"; absent: kept for ever
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = MetricsConfig()
    watch: WatchConfig = WatchConfig()
    repair: RepairConfig = RepairConfig()
    login: LoginConfig = LoginConfig()
    feeds: tuple[FeedSpec, ...] = ()
    source: str = ""  # the file it was read from, for messages
    written: int = 0  # when that file was changed last, ns; 0: there is none


SECTIONS: dict[str, type[Section]] = {
    "journal": JournalConfig,
    "questdb": QuestdbConfig,
    "batch": BatchConfig,
    "kernels": KernelsConfig,
    "schedule": ScheduleConfig,
    "log": LogConfig,
    "metrics": MetricsConfig,
    "watch": WatchConfig,
    "repair": RepairConfig,
    "login": LoginConfig,
}


def load(
    path: Path, env: Mapping[str, str], providers: Mapping[str, ProviderInfo], *, base: Path | None = None
) -> Config:
    """Read, override from ``env``, check, and resolve relative paths against ``base`` (default: the file's folder).

    Raises ConfigError with one line for each problem found.
    """
    try:
        written, document = path.stat().st_mtime_ns, tomllib.loads(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path.name}: cannot be read: {reason}; the file is {path.absolute()}") from error
    config = build(document, env, providers, base=base or path.absolute().parent, source=path.name)
    return msgspec.structs.replace(config, written=written)


def build(
    document: Mapping[str, Any],
    env: Mapping[str, str],
    providers: Mapping[str, ProviderInfo],
    *,
    base: Path,
    source: str,
) -> Config:
    """The part of ``load`` that follows the parsing of TOML; same errors."""
    check = Check(source, env, base)
    known = {*SECTIONS, "retention", "feeds"}
    for name in document:
        if name not in known:
            check.problem(f"[{name}] is not a section; {nearest(name, known)}")
    sections = {name: check.section(name, type_, document.get(name, {})) for name, type_ in SECTIONS.items()}
    retention = check.retention(document.get("retention", {}))
    feeds = check.feeds(document.get("feeds", []), providers)
    config = Config(**sections, retention=retention, feeds=feeds, source=source)
    _between(check, config)
    if check.problems:
        raise ConfigError("\n".join(check.problems))
    return _derived(config)


def _derived(config: Config) -> Config:
    """The embedded server's addresses follow from its port."""
    if not config.questdb.embedded:
        return config
    address = f"127.0.0.1:{config.questdb.http_port}"
    questdb = msgspec.structs.replace(config.questdb, ilp=f"http::addr={address};", sql=f"http://{address}")
    return msgspec.structs.replace(config, questdb=questdb)


def wanted_credentials(info: ProviderInfo, spec: FeedSpec | None) -> tuple[str, ...]:
    """Names of the variables that the feed needs: its provider's, and those that its own table names."""
    try:
        declared = msgspec.json.decode(spec.options.get(info.table, "{}")) if spec is not None else {}
        named = tuple(declared["headers_from_environment"].values())
    except (msgspec.DecodeError, TypeError, KeyError, AttributeError):
        named = ()
    return (*info.credentials, *(name for name in named if isinstance(name, str)))


def credentials(info: ProviderInfo, env: Mapping[str, str], spec: FeedSpec | None = None) -> dict[str, str]:
    """The provider's credentials that are set, by name: ``NAME`` itself or the text of the file ``NAME_FILE`` names.

    spec  of a feed that may want others as well
    An absent or empty one is left out. Raises ConfigError (without the value) for both set, an unreadable file or
    characters no key has.
    """
    found = {name: read_secret(name, env) for name in wanted_credentials(info, spec)}
    return {name: value for name, value in found.items() if value}


def _between(check: Check, config: Config) -> None:
    """What one value means for another."""
    q, k, j = config.questdb, config.kernels, config.journal
    if j.pause_below_gb > j.retain_below_gb:
        check.problem(
            f"journal.pause_below_gb is {j.pause_below_gb:g}; expected at most journal.retain_below_gb, "
            f"{j.retain_below_gb:g}: segments are removed before feeds are paused"
        )
    if config.schedule.calendar not in CALENDARS:
        check.problem(
            f"schedule.calendar is {shown(config.schedule.calendar)}; {nearest_calendar(config.schedule.calendar)}"
        )
    for name, window in (("zscore_window", k.zscore_window), ("size_window", k.size_window)):
        if k.min_samples > window:
            check.problem(f"kernels.min_samples is {k.min_samples}; expected at most kernels.{name}, {window}")
    try:
        parse_dividends(k.dividends)
    except ConfigError as error:
        check.problem(f"kernels.dividends: {error}")
    used: dict[int, str] = {}
    ports = (
        [("http_port", q.http_port), ("pg_port", q.pg_port), ("min_http_port", q.min_http_port)] if q.embedded else []
    )
    named = [(f"questdb.{name}", port) for name, port in ports]
    if config.metrics.enabled:
        named.append(("metrics.port", config.metrics.port))
    for name, port in named:
        if port in used:
            check.problem(f"{name} is {port}, as is {used[port]}; each needs its own port")
        used.setdefault(port, name)
    # None of these texts is repeated in a message: what does not fit may be a password.
    if re.search(r"(password|token|username)\s*=", q.ilp) or not re.fullmatch(r"https?::addr=[^;\s]+;?.*", q.ilp):
        check.problem(
            'questdb.ilp does not fit; expected "http::addr=HOST:PORT;" or "https::…", no user, password or token'
        )
    if not plain_url(q.sql, ("http", "https")):
        check.problem(
            'questdb.sql does not fit; expected "http://HOST:PORT" or "https://…", no user, password or query'
        )
    if q.maven_base and not plain_url(q.maven_base, ("http", "https")):
        check.problem('questdb.maven_base does not fit; expected "https://HOST/PATH", no user, password or query')
