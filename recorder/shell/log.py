"""The structured log: one JSON line per change of state, on stderr and in a rotating file; secrets never get in.

``get("feed").info("feed.connected", feed="kraken")`` writes
``{"ts":"2026-08-01T12:00:00.000000001Z","level":"info","event":"feed.connected","feed":"kraken"}``; on a terminal
``2026-08-01T12:00:00.000Z info    feed.connected feed=kraken``. Not for anything that happens once per tick.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import re
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

import orjson

from recorder.values.config import LogConfig
from recorder.values.errors import ConfigError

FILE_NAME = "recorder.log"
LEVELS = ("debug", "info", "warning", "error")
TEXT_CHARS_MAX = 4096  # of one value: a stack trace fits, a provider's page of HTML is cut
DEPTH_MAX = 4  # of nested values
ITEMS_MAX = 100  # of one list or mapping: symbols of a feed may be thousands
SECRET_CHARS_MIN = 6  # a shorter text would blank out innocent words; it still never prints as a whole value
HIDDEN = "***"

_SECRET_KEY = re.compile(r"key|secret|token|passw|passphrase|credential|authorization|signature", re.I)
_ASSIGNED = re.compile(
    r"((?:key|secret|token|passw|passphrase|credential|signature)[\w.-]{0,40}[\"']?\s{0,4}[=:]\s{0,4}[\"']?)([^&;,\s\"'}]+)",
    re.I,
)
_USER_INFO = re.compile(r"(\w://)[^/\s@?#]*@")
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I)
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")
_RESERVED = frozenset({"ts", "level", "event"})

_HANDLER_NAME = "recorder"
_json_always = False
_secrets: set[str] = set()


def redact(value: str) -> None:
    """Never print this text again, nor its URL-encoded forms, wherever it turns up."""
    if value:
        _secrets.update((value, quote(value, safe=""), quote_plus(value)))


def hide(text: str) -> str:
    """The text without registered secrets, user info of URLs and values assigned to secret-looking names."""
    if text in _secrets:
        return HIDDEN
    for secret in sorted(_secrets, key=len, reverse=True):
        if len(secret) >= SECRET_CHARS_MIN and secret in text:
            text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _USER_INFO.sub(rf"\1{HIDDEN}@", text)
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return _AUTHORIZATION.sub(rf"\1 {HIDDEN}", text)


def clean(value: Any, depth: int = 0) -> Any:
    """A value as JSON may hold it: bounded, without secrets; what JSON does not know becomes text."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, Mapping) and depth < DEPTH_MAX:
        items = list(value.items())[:ITEMS_MAX]
        return {_text(str(k)): HIDDEN if _SECRET_KEY.search(str(k)) else clean(v, depth + 1) for k, v in items}
    if isinstance(value, list | tuple | set | frozenset) and depth < DEPTH_MAX:
        listed = [clean(item, depth + 1) for item in list(value)[:ITEMS_MAX]]
        return [*listed, f"… {len(value)} in all"] if len(value) > ITEMS_MAX else listed
    return _text(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _text(text: str) -> str:
    text = hide(text)  # before cutting: half a secret is one too
    text = text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no text to JSON


def iso_ns(ts: int) -> str:
    """``2026-08-01T12:00:00.000000001Z`` of ns since the epoch."""
    seconds, ns = divmod(ts, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def readable(entry: Mapping[str, Any]) -> str:
    """An entry of the log as one line for people; texts that would break the line are quoted."""
    ts = str(entry.get("ts", ""))
    head = f"{ts[:23]}Z" if len(ts) == 30 else _word(ts)
    fields = " ".join(f"{_word(str(k))}={_word(v)}" for k, v in entry.items() if k not in _RESERVED)
    line = f"{head} {_word(entry.get('level', '')):<7} {_word(entry.get('event', ''))}"
    return f"{line} {fields}" if fields else line


def _word(value: Any) -> str:
    if isinstance(value, str):
        text = value
        return text if _PLAIN.fullmatch(text) and text.isprintable() else printable(orjson.dumps(text).decode())
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(orjson.dumps(value).decode())


def printable(text: str) -> str:
    """The text without characters that a terminal would obey: they become ``\\u001b`` and the like."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


class Log:
    """Writes events. ``event`` is ``noun.verb_past``; fields are texts, numbers, lists, mappings."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"recorder.{name}")

    def debug(self, event: str, /, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, *, exception: BaseException | None = None, **fields: Any) -> None:
        """Something failed; ``exception``: an unexpected one, written with its stack."""
        if exception is not None:
            fields["error"] = repr(exception)
            fields["stack"] = "".join(traceback.format_exception(exception))[-TEXT_CHARS_MAX:]
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            extra = {"ts_ns": time.time_ns(), "fields": fields}
            self._logger.log(level, "%s", event, extra=extra)


def get(name: str) -> Log:
    return Log(name)


def _entry(record: logging.LogRecord) -> dict[str, Any]:
    level = record.levelname.lower() if record.levelno <= logging.ERROR else "error"
    head = {"ts": iso_ns(getattr(record, "ts_ns", None) or time.time_ns()), "level": level}
    if hasattr(record, "ts_ns"):
        fields = {f"{k}_" if k in _RESERVED else k: v for k, v in record.fields.items()}  # type: ignore[attr-defined]
        return {**head, "event": clean(record.getMessage()), **clean(fields)}
    # A library's own words, such as asyncio's "Task exception was never retrieved".
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + "".join(traceback.format_exception(*record.exc_info))
    return {**head, "event": "library.logged", "library": record.name, "message": clean(message)}


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(_entry(record)).decode()


class _Readable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return readable(_entry(record))


class _File(logging.handlers.RotatingFileHandler):
    """A log that cannot be written (full disk, lost mount) is said once on stderr and never stops recording."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            reason = sys.exc_info()[1]
            sys.stderr.write(
                f"recorder: the log {self.baseFilename} cannot be written: {reason}; it goes on on stderr\n"
            )


class _Stream(logging.StreamHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nobody reads stderr any more: the file still has it."""


def setup(
    config: LogConfig,
    *,
    file: bool = True,
    json: bool | None = None,
    level: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send the log to ``stream`` (stderr) and, if ``file``, to ``recorder.log`` in ``config.dir``; may be called again.

    json   JSON lines on a terminal too (elsewhere they always are); None: as the last call said
    level  instead of the configured one
    Raises ConfigError where the folder or the file cannot be had.
    """
    global _json_always
    _json_always = _json_always if json is None else json
    stream = stream or sys.stderr
    close()
    shown = _Stream(stream)
    shown.setFormatter(_JsonLines() if _json_always or not stream.isatty() else _Readable())
    handlers: list[logging.Handler] = [shown]
    if file:
        try:
            config.dir.mkdir(parents=True, exist_ok=True)
            kept = _File(log_path(config), "a", config.rotate_mb << 20, config.keep_files, "utf-8")
        except OSError as error:
            raise ConfigError(
                f"log.dir: {config.dir} cannot be written: {error.strerror}; choose another folder"
            ) from error
        kept.setFormatter(_JsonLines())
        handlers.append(kept)
    root = logging.getLogger()
    for handler in handlers:
        handler.set_name(_HANDLER_NAME)
        root.addHandler(handler)
    logging.getLogger("recorder").setLevel((level or config.level).upper())


def close() -> None:
    """Flush and take away what ``setup`` added."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if h.get_name() == _HANDLER_NAME]:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk, again
            handler.close()


def log_path(config: LogConfig) -> Path:
    return config.dir / FILE_NAME
