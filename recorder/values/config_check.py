"""Checks of configuration values: types, secrets in the wrong place, environment overrides, feeds, retention."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, urlsplit

import msgspec

from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import FeedSpec, ProviderInfo
from recorder.values.schedule import CALENDARS, nearest_calendar
from recorder.values.tables import TABLES

ENV_PREFIX = "RECORDER_"
ENV_FEEDS = "RECORDER_FEEDS"
CREDENTIAL_BYTES_MAX = 65_536  # a PEM key fits; more is a wrong path
SYMBOL_CHARS_MAX = 128  # the longest names of crypto derivatives have about 40
SHOWN_CHARS_MAX = 80  # of a wrong value in a message

SECRET_NAME = re.compile(
    r"(^|[_-])(api)?(key|secret|password|passwd|passphrase|token|credential)s?($|[_-])|apikey|secretkey", re.I
)
_ENV_ONLY = frozenset({("questdb", "password")})
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\u3000\ufeff]")
_OCC = re.compile(r"(?=.{21}$)[A-Z0-9]{1,6} *\d{6}[CP]\d{8}")  # padded with spaces to 21 characters
FEED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FEED_KEYS = frozenset({"name", "provider", "channels", "symbols", "url", "rest_url", "schedule", "enabled"})
_TTL = re.compile(r"(\d{1,5})\s*(h|hours?|d|days?|w|weeks?|m|months?|y|years?)", re.I)
_TTL_UNITS = {"H": "HOURS", "D": "DAYS", "W": "WEEKS", "M": "MONTHS", "Y": "YEARS"}


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: every field has a default."""


def read_secret(name: str, env: Mapping[str, str]) -> str:
    """The text of variable ``name``, or of the file that ``name``_FILE names, or "". Raises ConfigError without it."""
    value, file = env.get(name, ""), env.get(f"{name}_FILE", "")
    if value and file:
        raise ConfigError(f"environment: both {name} and {name}_FILE are set; unset one of them")
    if file:
        try:
            with open(file, "rb") as opened:
                raw = opened.read(CREDENTIAL_BYTES_MAX + 1)
            value = raw.decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"environment: {name}_FILE names {file!r}, which cannot be read: {reason}") from None
        if len(raw) > CREDENTIAL_BYTES_MAX:
            raise ConfigError(f"environment: {name}_FILE names {file!r}, longer than {CREDENTIAL_BYTES_MAX} bytes")
    if not value.isprintable() and not value.startswith("-----BEGIN"):
        raise ConfigError(f"environment: {name} holds control characters; copy it again, without line breaks")
    return value


def ttl(value: object, partition: str) -> str | None:
    """``90 DAYS`` from "90 days", "90d", "12 MONTHS" …; None from "forever". Raises ValueError saying what is expected.

    The server takes whole partitions only: months and years always do, days not where a partition is a month.
    """
    if value == "forever":
        return None
    example = "90 DAYS" if partition == "DAY" else "12 MONTHS"
    match = _TTL.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError(f'expected "forever" or a text such as "{example}"')
    count, unit = int(match[1]), _TTL_UNITS[match[2][0].upper()]
    if partition == "YEAR" and unit != "YEARS":
        raise ValueError('this table keeps whole years; write YEARS, such as "20 YEARS"')
    if partition == "MONTH" and unit not in ("MONTHS", "YEARS"):
        raise ValueError(f'this table keeps whole months; write MONTHS or YEARS, such as "{example}"')
    if partition == "DAY" and unit == "HOURS" and count % 24:
        raise ValueError(f'this table keeps whole days; write a multiple of 24 HOURS, or "{example}"')
    return f"{count} {unit}"


def plain_url(url: str, schemes: Iterable[str]) -> bool:
    """Whether it is an address with a host, one of the schemes, a valid port, and nothing that could hold a secret."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    clean = not parts.query and not parts.fragment and "@" not in parts.netloc and not _UNPRINTABLE.search(url)
    return parts.scheme in schemes and bool(parts.hostname) and clean


def is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def shown(value: object) -> str:
    """A wrong value as the user wrote it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"


def expected(hint: Any) -> str:
    """A type in words: ``a whole number from 1 to 65535``."""
    meta = next((a for a in get_args(hint)[1:] if isinstance(a, msgspec.Meta)), None) if _annotated(hint) else None
    base = get_args(hint)[0] if _annotated(hint) else hint
    if get_origin(base) is Literal:
        return f"one of {', '.join(shown(v) for v in get_args(base))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path in quotes"}
    text = words.get(base, "a text in quotes")
    if meta is None:
        return text
    if meta.pattern is not None:
        return f"{text} {meta.description or f'like {meta.pattern}'}"
    low = f"above {meta.gt}" if meta.gt is not None else f"from {meta.ge}"
    return f"{text} {low} {'up ' if meta.gt is not None else ''}to {meta.le}"


def _annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def _typed(text: str, hint: Any) -> object:
    """The text of an environment variable as TOML would have given it: number, boolean or text."""
    base = get_args(hint)[0] if _annotated(hint) else hint
    if base is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    numeric = base in (int, float) or (get_origin(base) is Literal and isinstance(get_args(base)[0], int))
    if numeric:
        try:
            return int(text)
        except ValueError:
            try:
                return float(text) if base is float else text
            except ValueError:
                return text
    return text


class Check:
    """Collects problems while turning parsed TOML and the environment into sections."""

    def __init__(self, source: str, env: Mapping[str, str], base: Path) -> None:
        self.source, self.env, self.base = source, env, base
        self.problems: list[str] = []

    def problem(self, text: str, source: str | None = None) -> None:
        # A key may hold anything, line breaks too: one problem stays one line.
        self.problems.append(f"{source or self.source}: {''.join(c if c.isprintable() else '?' for c in text)}")

    def overrides(self, section: str, known: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Key → (variable, text) for the RECORDER_<SECTION>_<KEY> that are set.

        Variables of no section are ignored: Kubernetes sets RECORDER_PORT and RECORDER_SERVICE_HOST by itself.
        """
        prefix, names = f"{ENV_PREFIX}{section.upper()}_", set(known)
        found: dict[str, tuple[str, str]] = {}
        for variable, text in self.env.items():
            key = variable.removeprefix(prefix).lower()
            if not variable.startswith(prefix) or (section, key.removesuffix("_file")) in _ENV_ONLY:
                continue
            if key in names:
                found[key] = (variable, text)
            else:
                self.problem(
                    f"{variable} overrides nothing: [{section}] has no {key}; {nearest(key, names)}", "environment"
                )
        return found

    def secret_free(
        self, where: str, table: Mapping[str, Any], advice: str, source: str | None = None
    ) -> dict[str, Any]:
        """The table without the keys that look like secrets, each a problem; their values are never repeated."""
        clean = {}
        for key, value in table.items():
            if SECRET_NAME.search(key):
                self.problem(
                    f"{where}.{key} looks like a secret, which never belongs here; remove it and {advice}", source
                )
            else:
                clean[key] = value
        return clean

    def section(self, name: str, type_: type[Section], table: Any) -> Any:
        """An instance of ``type_``; where a value does not fit, its default, and a problem noted."""
        if not isinstance(table, dict):
            self.problem(f"{name} is {shown(table)}; expected a section [{name}]")
            table = {}
        hints = get_type_hints(type_, include_extras=True)
        known = [key for key in hints if (name, key) not in _ENV_ONLY]
        variable = f"{ENV_PREFIX}QUESTDB_PASSWORD" if name == "questdb" else "the variable its provider's page names"
        values: dict[str, Any] = {}
        for key, value in self.secret_free(
            name, table, f"set {variable} in the environment, or {variable}_FILE"
        ).items():
            if key not in known:
                self.problem(f"{name}.{key} is not a key; {nearest(key, known)}")
            else:
                self.take(values, key, hints[key], value, f"{name}.{key}")
        for key, (variable, text) in self.overrides(name, known).items():
            self.take(values, key, hints[key], _typed(text, hints[key]), variable, "environment")
        for section, key in _ENV_ONLY:
            if section == name:
                values[key] = self.env_secret(f"{ENV_PREFIX}{section}_{key}".upper())
        defaults = type_()
        for key, hint in hints.items():
            if hint is Path:
                values[key] = self.base / values.get(key, getattr(defaults, key))
        return type_(**values)

    def env_secret(self, variable: str) -> str:
        try:
            return read_secret(variable, self.env)
        except ConfigError as error:
            self.problems.append(str(error))
            return ""

    def take(
        self, values: dict[str, Any], key: str, hint: Any, value: Any, where: str, source: str | None = None
    ) -> None:
        """Convert one value into its declared type, or note what was expected."""
        try:
            if hint is not Path:
                values[key] = msgspec.convert(value, hint)
            elif isinstance(value, str) and value and "\0" not in value:
                values[key] = Path(value)
            else:
                raise msgspec.ValidationError("not a path")
        except msgspec.ValidationError:
            self.problem(f"{where} is {shown(value)}; expected {expected(hint)}", source)

    def retention(self, table: Any) -> dict[str, str]:
        """Table → TTL for those that are not kept for ever."""
        if not isinstance(table, dict):
            self.problem(f"retention is {shown(table)}; expected a section [retention]")
            table = {}
        entries: dict[str, tuple[str, object, str | None]] = {
            key: (f"retention.{key}", v, None) for key, v in table.items()
        }
        for key, (variable, text) in self.overrides("retention", TABLES).items():
            entries[key] = (variable, text, "environment")
        result = {}
        for key, (where, value, source) in entries.items():
            if key not in TABLES:
                self.problem(f"{where} is not a table; {nearest(key, TABLES)}")
                continue
            try:
                kept = ttl(value, TABLES[key].partition)
            except ValueError as error:
                self.problem(f"{where} is {shown(value)}; {error}", source)
                continue
            if kept:
                result[key] = kept
        return result

    def feeds(self, entries: Any, providers: Mapping[str, ProviderInfo]) -> tuple[FeedSpec, ...]:
        """The enabled feeds; RECORDER_FEEDS replaces the file's. Disabled ones are checked all the same."""
        prefix, source = "feeds", self.source
        if self.env.get(ENV_FEEDS):
            prefix, source = ENV_FEEDS, "environment"
            try:
                entries = msgspec.json.decode(self.env[ENV_FEEDS])
            except msgspec.DecodeError as error:
                self.problem(
                    f"{ENV_FEEDS} is not JSON: {error}; expected a list of objects, keys as in [[feeds]]", source
                )
                return ()
        if not isinstance(entries, list):
            self.problem(f"{prefix} is {shown(entries)}; expected a list: every feed under its own [[feeds]]", source)
            return ()
        result: list[FeedSpec] = []
        seen: dict[str, int] = {}
        for index, entry in enumerate(entries):
            where = f"{prefix}[{index}]"
            if not isinstance(entry, dict):
                self.problem(f"{where} is {shown(entry)}; expected name, provider, channels and symbols", source)
                continue
            spec = _FeedEntry(self, where, source).spec(entry, providers)
            name = entry.get("name")
            if isinstance(name, str) and seen.setdefault(name, index) != index:
                self.problem(
                    f"{where}.name is {shown(name)}, as is {prefix}[{seen[name]}].name; choose another", source
                )
            if spec is not None and entry.get("enabled", True):
                result.append(spec)
        return tuple(result)


def checked_feed(
    source: str, entry: dict[str, Any], providers: Mapping[str, ProviderInfo], base: Path = Path()
) -> FeedSpec:
    """One feed that does not stand in a configuration, checked as if it did. Raises ConfigError, a line a problem.

    source  who gave it, for the errors, which call it by its name
    base    the folder at which its paths begin
    """
    check = Check(source, {}, base)
    spec = _FeedEntry(check, str(entry.get("name")), source).spec(entry, providers)
    if spec is None:
        raise ConfigError("\n".join(check.problems))
    return spec


class _FeedEntry:
    """One [[feeds]] entry being checked."""

    def __init__(self, check: Check, where: str, source: str) -> None:
        self.check, self.where, self.source = check, where, source

    def problem(self, key: str, text: str) -> None:
        self.check.problem(f"{self.where}{'.' if key else ''}{key} {text}", self.source)

    def spec(self, entry: dict[str, Any], providers: Mapping[str, ProviderInfo]) -> FeedSpec | None:
        """The feed, or None after noting what does not fit."""
        before = len(self.check.problems)
        advice = "set it in the environment"
        info = providers.get(entry["provider"]) if isinstance(entry.get("provider"), str) else None
        if info is not None and info.credentials:
            advice = f"set {', '.join(info.credentials)} in the environment (or each with _FILE, naming a file)"
        entry = self.check.secret_free(self.where, entry, advice, self.source)
        name = entry.get("name")
        if not isinstance(name, str) or not FEED_NAME.fullmatch(name):
            self.problem(
                "name",
                f"is {shown(name)}; expected 1 to 64 letters, digits, _ . or -" if "name" in entry else "is missing",
            )
        if "provider" not in entry:
            self.problem("provider", f"is missing; known: {', '.join(sorted(providers))}")
        elif info is None:
            self.problem("provider", f"is {shown(entry['provider'])}; {nearest(str(entry['provider']), providers)}")
        if not isinstance(entry.get("enabled", True), bool):
            self.problem("enabled", f"is {shown(entry['enabled'])}; expected true or false")
        symbols = self.texts("symbols", entry.get("symbols"))
        for symbol in symbols:
            if (_UNPRINTABLE.search(symbol) and not _OCC.fullmatch(symbol)) or not 0 < len(symbol) <= SYMBOL_CHARS_MAX:
                self.problem(
                    "symbols", f"holds {shown(symbol)}; expected 1 to {SYMBOL_CHARS_MAX} characters without spaces"
                )
        declared = entry.get(info.table) if info is not None and info.table else None
        listens = not isinstance(declared, dict) or declared.get("kind", "websocket") == "websocket"
        schemes = info.schemes if info is not None else ("wss", "ws")
        self.url("url", entry, *(schemes if listens else ("https", "http")))
        self.url("rest_url", entry, "https", "http")
        calendar = entry.get("schedule")
        if "schedule" in entry and (not isinstance(calendar, str) or calendar not in CALENDARS):
            self.problem("schedule", f"is {shown(calendar)}; {nearest_calendar(str(calendar))}")
        if info is None:
            return None
        channels = self.channels(entry, info)
        options = self.options(entry, info)
        if len(self.check.problems) > before:
            return None
        return FeedSpec(
            name=entry["name"],
            provider=info.name,
            channels=channels,
            symbols=symbols,
            options=options,
            url=entry.get("url"),
            rest_url=entry.get("rest_url"),
            schedule=calendar,
        )

    def texts(self, key: str, value: Any) -> tuple[str, ...]:
        """A list of different texts, at least one."""
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.problem(
                key, f"is {shown(value)}; expected a list of texts, at least one" if value is not None else "is missing"
            )
            return ()
        for item in sorted({item for item in value if value.count(item) > 1}) if len(set(value)) < len(value) else ():
            self.problem(key, f"holds {shown(item)} twice; remove one")
        return tuple(value)

    def channels(self, entry: dict[str, Any], info: ProviderInfo) -> tuple[str, ...]:
        """Those asked for; by default trades and quotes, or whichever of them the provider has."""
        declared = entry.get(info.table) if info.table else None
        if "channels" not in entry and isinstance(declared, dict):
            return tuple(channel for channel in info.channels if channel in declared)
        if "channels" not in entry:
            return tuple(c for c in ("trades", "quotes") if c in info.channels) or info.channels
        channels = self.texts("channels", entry["channels"])
        for channel in channels:
            if channel not in info.channels:
                self.problem(
                    "channels",
                    f"holds {shown(channel)}, which {info.name} does not have; {nearest(channel, info.channels)}",
                )
        return channels

    def options(self, entry: dict[str, Any], info: ProviderInfo) -> dict[str, str]:
        """The provider's options, the first of the allowed values where none is given."""
        options = {key: allowed[0] for key, allowed in info.options.items() if allowed}
        for key, value in entry.items():
            if key in _FEED_KEYS:
                continue
            if key == info.table:
                options[key] = self.table(key, value)
            elif key not in info.options:
                self.problem(
                    key, f"is not a key of a {info.name} feed; {nearest(key, _FEED_KEYS | info.options.keys())}"
                )
            elif not isinstance(value, str) or (info.options[key] and value not in info.options[key]):
                self.problem(key, f"is {shown(value)}; {nearest(str(value), info.options[key])}")
            else:
                options[key] = value
        return options

    def table(self, key: str, value: Any) -> str:
        """What a feed declares, as JSON, its folder beginning at the configuration's. Its provider reads it."""
        if not isinstance(value, dict):
            self.problem(key, f"is {shown(value)}; expected a table [feeds.{key}]")
            return ""
        if isinstance(folder := value.get("folder"), str) and folder:
            value = {**value, "folder": str((self.check.base / folder).absolute())}
        return json.dumps(value, sort_keys=True, default=str)

    def url(self, key: str, entry: dict[str, Any], secure: str, plain: str) -> None:
        """An address: encrypted, or of this machine; it is journalled and logged, so nothing secret may be in it."""
        value = entry.get(key)
        if key not in entry:
            return
        try:
            parts = urlsplit(value if isinstance(value, str) else "")
            valid = bool(parts.hostname) and parts.port != 0 and not _UNPRINTABLE.search(str(value))
        except ValueError:
            valid = False
        if not isinstance(value, str) or not valid:
            self.problem(key, f"does not fit; expected {secure}://HOST[:PORT][/PATH]")  # not repeated: see below
        elif "@" in parts.netloc or any(SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query, True)):
            self.problem(key, "holds a user, password, key or token; take it out and set it in the environment")
        elif parts.scheme not in (secure, plain):
            self.problem(key, f"begins with {parts.scheme}://; expected {secure}://")
        elif parts.scheme == plain and not is_loopback(parts.hostname):
            self.problem(
                key,
                f"is {plain}://{parts.netloc}, unencrypted; write {secure}:// ({plain}:// is for this machine only)",
            )
