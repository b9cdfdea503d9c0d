"""A feed as ``[feeds.generic]`` declares it: read, checked as a whole, every problem said with what would be right.

The keys are explained in config.toml. The declaration lies in the feed's spec as JSON, and so in the journal: a replay
needs no configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from recorder.values.errors import ConfigError, nearest
from recorder.values.feed import FeedSpec

KINDS = ("websocket", "sse", "poll", "files")
FORMATS = ("json", "csv")
IDS = ("contiguous", "increasing", "opaque", "none")
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
# Fields of a row, by channel: those that must be declared, those that may be.
FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trades": (("time", "price", "size"), ("symbol", "id", "side", "exchange", "conditions")),
    "quotes": (("bid", "ask"), ("time", "symbol", "bid_size", "ask_size", "sequence")),
    "bars": (("time", "open", "high", "low", "close", "volume"), ("symbol", "vwap", "trade_count")),
}
SETTINGS = ("where", "items", "time_unit", "time_zone", "timeframe", "buy", "sell", "side_of", "size_sign")
EVENT_TYPE = "$event"  # the path of an event's type, where the kind is sse

_ANYWHERE = ("kind", "format", "headers", "headers_from_environment", "names", "ids", "session_zone", "ignore", *FIELDS)
_KEYS: Mapping[str, tuple[str, ...]] = {
    "websocket": (
        "subscribe", "unsubscribe", "acknowledged", "refused", "ping", "ping_s", "silence_s", "symbols_max",
    ),
    "sse": ("silence_s",),
    "poll": ("every_s", "per_second_max", "delimiter"),
    "files": ("folder", "pattern", "delimiter"),
}  # fmt: skip
_NUMBERS: Mapping[str, tuple[float, float, float]] = {  # key → default, least, most
    "ping_s": (30.0, 1.0, 3600.0),
    "silence_s": (60.0, 1.0, 86_400.0),
    "every_s": (60.0, 1.0, 86_400.0),
    "per_second_max": (1.0, 0.001, 100.0),
    "symbols_max": (1000.0, 1.0, 1_000_000.0),
}
_PATH = re.compile(r"[^.\s](?:[^.]*[^.\s])?(?:\.[^.\s](?:[^.]*[^.\s])?)*")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
_HEADER = re.compile(r"[!#-'*+.^_`|~0-9A-Za-z-]{1,64}")
_TIMEFRAME = re.compile(r"\d{0,4}[a-zA-Z]{1,8}")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Where:
    """Which messages or items are meant: at each path is one of its values, as text, or what begins with a prefix."""

    values: tuple[tuple[Path, frozenset[str], tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Mapped:
    """How the items of a message become rows of a channel. ``paths`` by field of FIELDS."""

    channel: str
    where: Where
    items: Path
    paths: Mapping[str, Path]
    time_unit: str  # of UNITS, "rfc3339", or a format with %
    time_zone: ZoneInfo
    timeframe: str
    sides: Mapping[str, bool]  # provider's text → whether the aggressor bought
    signed: bool  # sizes below 0 are those of sales, and not refused


@dataclass(frozen=True)
class Declared:
    """The whole declaration, with defaults for what is left out."""

    kind: str
    format: str
    tables: tuple[Mapped, ...]
    ids: str = "none"
    session_zone: str = "UTC"
    headers: Mapping[str, str] = field(default_factory=dict)
    headers_from_environment: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)  # canonical → as the provider writes it
    ignore: tuple[Where, ...] = ()
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    acknowledged: Where | None = None
    refused: Where | None = None
    ping: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    folder: str = ""
    pattern: str = "*.csv"
    delimiter: str = ","


def declared(spec: FeedSpec) -> Declared:
    """What the spec declares. Raises ConfigError with one line for each problem."""
    text = spec.options.get("generic", "")
    try:
        table = msgspec.json.decode(text) if text else None
    except msgspec.DecodeError:
        table = None
    if not isinstance(table, dict):
        raise ConfigError(
            f"feed {spec.name!r}: provider generic needs a table [feeds.generic]; config.toml explains it"
        )
    reader = _Reader(spec, table)
    result = reader.read()
    if reader.problems:
        raise ConfigError("\n".join(f"feed {spec.name!r}: generic{problem}" for problem in reader.problems))
    return result


class _Reader:
    """One declaration being checked."""

    def __init__(self, spec: FeedSpec, table: dict[str, Any]) -> None:
        self.spec, self.table, self.problems = spec, table, list[str]()
        self.kind = self.choice("", table, "kind", KINDS, "")
        csv = self.kind == "files"
        self.format = self.choice("", table, "format", FORMATS, "csv" if csv else "json")

    def problem(self, where: str, text: str) -> None:
        self.problems.append(f"{where} {text}")

    def read(self) -> Declared:
        table, kind = self.table, self.kind
        known = (*_ANYWHERE, *_KEYS.get(kind, ()))
        for key in table:
            if key not in known:
                self.problem(f".{key}", f"is not a key of kind {kind}; {nearest(key, known)}")
        if kind in ("websocket", "sse") and self.format != "json":
            self.problem(".format", f'is "{self.format}"; kind {kind} reads "json"')
        if kind == "files" and self.format != "csv":
            self.problem(".format", f'is "{self.format}"; kind files reads "csv"')
        tables = tuple(self.mapped(channel) for channel in FIELDS if channel in table)
        if not tables:
            self.problem(
                "", f"declares no table; write one or more of {', '.join(f'[feeds.generic.{t}]' for t in FIELDS)}"
            )
        self.address()
        ids = self.choice("", table, "ids", IDS, "none")
        for mapped in tables:
            if mapped.channel == "trades" and (ids != "none") != ("id" in mapped.paths):
                self.problem(".ids", f'is "{ids}"; with trades.id it is one of the others, without it "none"')
        return Declared(
            kind, self.format, tables, ids, self.zone("", table, "session_zone").key,
            self.headers("headers", str), self.headers("headers_from_environment", _VARIABLE.fullmatch),
            self.texts_by_text("names"), self.wheres("ignore"), self.texts("subscribe"), self.texts("unsubscribe"),
            self.where("", "acknowledged"), self.where("", "refused"), self.text("", table, "ping"),
            {name: self.number(name) for name in _NUMBERS}, self.text("", table, "folder"),
            self.text("", table, "pattern", "*.csv"), self.delimiter(),
        )  # fmt: skip

    def address(self) -> None:
        """Whether the feed's url and folder suit its kind."""
        kind, url = self.kind, self.spec.url or ""
        url = self.spec.rest_url or url if kind == "poll" else url
        schemes = {"websocket": ("wss://", "ws://"), "sse": ("https://", "http://"), "poll": ("https://", "http://")}
        if kind in schemes and not url.startswith(schemes[kind]):
            self.problem(".kind", f'is {kind}; it needs url = "{schemes[kind][0]}…" in [[feeds]]')
        if kind == "files" and not self.table.get("folder"):
            self.problem(".folder", "is missing: where the files appear")
        if kind == "files" and url:
            self.problem(".kind", "is files, which has a folder and no url")

    # Tables

    def mapped(self, channel: str) -> Mapped:
        table, where = self.table[channel], f".{channel}"
        if not isinstance(table, dict):
            self.problem(where, f"is {_shown(table)}; expected a table [feeds.generic.{channel}]")
            table = {}
        required, optional = FIELDS[channel]
        known = (*required, *optional, *SETTINGS)
        for key in table:
            if key not in known:
                self.problem(f"{where}.{key}", f"is not a key; {nearest(key, known)}")
        for key in required:
            if key not in table:
                self.problem(f"{where}.{key}", "is missing: the path of it in an item")
        paths = {key: self.path(f"{where}.{key}", table[key]) for key in (*required, *optional) if key in table}
        if "time" not in paths and self.kind in ("poll", "files"):
            self.problem(f"{where}.time", "is missing: what is read again must have a time of its own")
        asked_for = self.kind == "poll" and "{symbol}" in (self.spec.rest_url or self.spec.url or "")
        if "symbol" not in paths and len(self.spec.symbols) != 1 and not asked_for:
            self.problem(f"{where}.symbol", "is missing; without it the feed has exactly one symbol")
        timeframe = self.text(where, table, "timeframe")
        if (channel == "bars") != bool(timeframe) or (timeframe and not _TIMEFRAME.fullmatch(timeframe)):
            self.problem(f"{where}.timeframe", f'is {_shown(timeframe)}; bars, and nothing else, have one such as "1m"')
        items = table.get("items", "")
        return Mapped(
            channel, self.where(where, "where", table) or Where(), self.path(f"{where}.items", items) if items else (),
            paths, self.time_unit(where, table, "time" in paths), self.zone(where, table, "time_zone"), timeframe,
            self.sides(where, table, "side" in paths),
            self.choice(where, table, "size_sign", ("refused", "ignored"), "refused") == "ignored",
        )  # fmt: skip

    def time_unit(self, where: str, table: Mapping[str, Any], needed: bool) -> str:
        unit = table.get("time_unit", "")
        if not needed and not unit:
            return ""
        known = (*UNITS, "rfc3339")
        if not isinstance(unit, str) or (unit not in known and "%" not in unit):
            words = nearest(str(unit), known) if unit else f"known: {', '.join(known)}"
            self.problem(f"{where}.time_unit", f'is {_shown(unit)}; {words}, or a format such as "%m/%d/%Y"')
            return ""
        return unit

    def sides(self, where: str, table: Mapping[str, Any], needed: bool) -> dict[str, bool]:
        """Which texts say that the aggressor bought, and which that it sold."""
        buy, sell = self.text(where, table, "buy"), self.text(where, table, "sell")
        maker = self.choice(where, table, "side_of", ("taker", "maker"), "taker") == "maker"
        if needed != bool(buy and sell) or (buy and buy == sell):
            self.problem(f"{where}.side", 'needs buy = "…" and sell = "…", what it says of each, and they need it')
        return {buy: not maker, sell: maker} if buy and sell else {}

    # Values

    def path(self, where: str, value: Any) -> Path:
        """Of JSON dotted; of CSV a column's name, whatever is in it."""
        if not isinstance(value, str) or not value.strip():
            self.problem(where, f"is {_shown(value)}; expected a path in quotes")
            return ()
        if self.format == "csv":
            return (value.strip(),)
        if value == EVENT_TYPE and self.kind == "sse":
            return (value,)
        if not _PATH.fullmatch(value) or (value.startswith("$") and not value.startswith("$.")):
            expected = 'names or numbers joined by dots, "data.0.price", or "$.…" from the top of the message'
            self.problem(where, f"is {_shown(value)}; expected {expected}")
            return ()
        return tuple(int(part) if part.isdecimal() and part.isascii() else part for part in value.split("."))

    def where(self, where: str, key: str, table: Mapping[str, Any] | None = None) -> Where | None:
        value = (self.table if table is None else table).get(key)
        return None if value is None else self._where(f"{where}.{key}", value)

    def wheres(self, key: str) -> tuple[Where, ...]:
        value = self.table.get(key, [])
        if not isinstance(value, list):
            self.problem(f".{key}", f"is {_shown(value)}; expected a list of tables")
            return ()
        return tuple(self._where(f".{key}", each) for each in value)

    def _where(self, where: str, value: Any) -> Where:
        if not isinstance(value, dict) or not value:
            self.problem(where, f'is {_shown(value)}; expected paths with their values, {{ "type" = "trade" }}')
            return Where()
        found = []
        for path, wanted in value.items():
            texts = wanted if isinstance(wanted, list) else [wanted]
            if not texts or not all(isinstance(text, str | int | float) for text in texts):
                self.problem(
                    f"{where}.{path}", f"is {_shown(wanted)}; expected a text, a number, true, false or a list"
                )
                continue
            known = [plain(text) for text in texts]
            prefixes = tuple(text[:-1] for text in known if text.endswith("*"))
            found.append((self.path(f"{where}.{path}", path), frozenset(known), prefixes))
        return Where(tuple(found))

    def choice(self, where: str, table: Mapping[str, Any], key: str, known: Iterable[str], default: str) -> str:
        value = table.get(key, default)
        if value not in known:
            words = nearest(str(value), known)
            self.problem(f"{where}.{key}", f"is {_shown(value)}; {words}" if key in table else f"is missing; {words}")
            return default
        return str(value)

    def text(self, where: str, table: Mapping[str, Any], key: str, default: str = "") -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            self.problem(f"{where}.{key}", f"is {_shown(value)}; expected a text in quotes")
            return default
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            self.problem(f".{key}", f"is {_shown(value)}; expected a list of messages in quotes")
            return ()
        return tuple(value)

    def texts_by_text(self, key: str) -> dict[str, str]:
        value = self.table.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(text, str) and text for text in value.values()):
            self.problem(f".{key}", f'is {_shown(value)}; expected {{ "BTC-USD" = "btcusd" }}')
            return {}
        if len(set(value.values())) < len(value):
            self.problem(f".{key}", "gives two symbols the same name")
        return value

    def headers(self, key: str, fits: Callable[[str], object]) -> dict[str, str]:
        value = self.table.get(key, {})
        if not isinstance(value, dict) or not all(
            _HEADER.fullmatch(name) and isinstance(text, str) and text.isprintable() and fits(text)
            for name, text in value.items()
        ):
            expected = '{ "X-Api-Key" = "MY_VARIABLE" }' if "environment" in key else '{ "Accept-Language" = "en" }'
            self.problem(f".{key}", f"does not fit; expected {expected}")  # not repeated: it may hold a key
            return {}
        return value

    def number(self, key: str) -> float:
        default, least, most = _NUMBERS[key]
        value = self.table.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            self.problem(f".{key}", f"is {_shown(value)}; expected a number from {least:g} to {most:g}")
            return default
        return float(value)

    def zone(self, where: str, table: Mapping[str, Any], key: str) -> ZoneInfo:
        value = table.get(key, "UTC")
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            self.problem(f"{where}.{key}", f'is {_shown(value)}; expected a time zone such as "America/New_York"')
            return ZoneInfo("UTC")

    def delimiter(self) -> str:
        value = self.text("", self.table, "delimiter", ",")
        if len(value) != 1 or value in '"\r\n':
            self.problem(".delimiter", f'is {_shown(value)}; expected one character such as "," or ";"')
            return ","
        return value


def plain(value: Any) -> str:
    """A JSON or TOML value as the text that filters compare."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:80] + "…"
