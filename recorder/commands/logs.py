"""``recorder logs``: the last lines of the structured log, filtered, and those to come."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from recorder.values.errors import RecorderError

if TYPE_CHECKING:
    from recorder.values.config import Config

LINES_DEFAULT = 100
BLOCK_BYTES = 1 << 16  # read backwards in blocks of this, so that the end of a large log shows at once
LINE_BYTES_MAX = 1 << 20  # a longer line is damage; it is shown in parts
POLL_S = 0.2  # a person reads along; the log is written a few times a second at most

_UNITS_NS = {"s": 1_000_000_000, "m": 60_000_000_000, "h": 3_600_000_000_000, "d": 86_400_000_000_000}
_RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "logs",
        help="follow and filter the structured log",
        description="The last lines of the log that fit, oldest first. Lines that are not JSON are shown as they are.",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with the lines to come, across rotation")
    parser.add_argument(
        "-n", "--lines", type=_count, default=LINES_DEFAULT, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument("--event", metavar="PREFIX", help='events that begin so: "feed", "feed.connected"')
    parser.add_argument("--level", choices=tuple(_RANKS), help="this level and worse")
    parser.add_argument("--feed", metavar="NAME", help="of this feed")
    parser.add_argument("--since", type=_since, metavar="TIME", help="30s, 10m, 2h, 1d ago, or 2026-08-01T12:00:00Z")
    parser.add_argument("--json", action="store_true", help="the lines as they were written")
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines; write 0 or more")
    return int(text)


def _since(text: str) -> str:
    """The earliest ``ts`` to show, as the log writes it."""
    from recorder.shell.log import iso_ns

    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match:
        return iso_ns(max(0, time.time_ns() - int(match[1]) * _UNITS_NS[match[2]]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time; write 30s, 10m, 2h, 1d or 2026-08-01T12:00:00Z"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


@dataclass(frozen=True)
class Filter:
    """What to show. ``since`` is compared as text: all times of the log have the same form."""

    event: str | None = None
    level: str | None = None
    feed: str | None = None
    since: str | None = None

    def fits(self, entry: dict[str, Any]) -> bool:
        return (
            (self.event is None or str(entry.get("event", "")).startswith(self.event))
            and (self.level is None or _RANKS.get(str(entry.get("level")), 3) >= _RANKS[self.level])
            and (self.feed is None or entry.get("feed") == self.feed)
            and not self.too_old(entry)
        )

    def too_old(self, entry: dict[str, Any]) -> bool:
        return self.since is not None and str(entry.get("ts", "")) < self.since


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.log import log_path

    path = log_path(config.log)
    if not path.exists() and not args.follow:
        raise RecorderError(f"{path}: there is no log yet; `recorder run` with this configuration writes it")
    wanted = Filter(args.event, args.level, args.feed, args.since)
    show = _printer(args.json)
    tail = Tail(path)
    for line in last_lines(path, tail.start(), wanted, args.lines):
        show(line)
    while args.follow:
        sys.stdout.flush()
        for line in tail.lines():
            entry = parse(line)
            if entry is None or wanted.fits(entry):
                show(line)
        time.sleep(POLL_S)
    return 0


def parse(line: bytes) -> dict[str, Any] | None:
    """The entry, or None for a line that is none."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None


def _printer(json: bool) -> Callable[[bytes], None]:
    from recorder.shell.log import printable, readable

    def show(line: bytes) -> None:
        entry = None if json else parse(line)
        # Bad lines lose only what a terminal would obey: they may be anything.
        text = readable(entry) if entry is not None else printable(line.decode("utf-8", "backslashreplace"))
        sys.stdout.write(text + "\n")

    return show


def last_lines(path: Path, end: int, wanted: Filter, count: int) -> list[bytes]:
    """The last ``count`` lines that fit, oldest first: from ``path`` before byte ``end``, then from rotated files."""
    found: list[bytes] = []
    if count == 0:
        return found
    for file, limit in [(path, end), *((p, None) for p in rotated(path))]:
        for line in _backwards(file, limit):
            entry = parse(line)
            if entry is not None and wanted.too_old(entry):
                return found[::-1]
            if entry is None or wanted.fits(entry):
                found.append(line)
                if len(found) == count:
                    return found[::-1]
    return found[::-1]


def rotated(path: Path) -> list[Path]:
    """``recorder.log.1``, ``.2`` … that exist, newest first."""
    numbers = (p.name.removeprefix(path.name + ".") for p in path.parent.glob(f"{path.name}.*"))
    return [path.with_name(f"{path.name}.{n}") for n in sorted(int(n) for n in numbers if n.isdecimal())]


def _backwards(path: Path, end: int | None) -> Iterator[bytes]:
    """Lines of a file before byte ``end``, last first, without empty ones."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the with below; only opening may fail
    except FileNotFoundError:
        return  # rotated away meanwhile
    with file:
        position = file.seek(0, os.SEEK_END) if end is None else end
        rest = b""
        while position > 0:
            size = min(BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            lines = (file.read(size) + rest).split(b"\n")
            rest = lines[0]
            yield from (line for line in reversed(lines[1:]) if line)
            if len(rest) > LINE_BYTES_MAX:
                yield rest
                rest = b""
        if rest:
            yield rest


class Tail:
    """Follows a log across rotation; reads only whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def start(self) -> int:
        """Begin after the last whole line; return its end in bytes."""
        if not self._open():
            return 0
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - BLOCK_BYTES)
            self._file.seek(begin)
            newline = self._file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        return self._file.seek(end)

    def lines(self) -> Iterator[bytes]:
        """Those written since the last call."""
        if self._file is None and not self._open():
            return
        while True:
            assert self._file is not None
            # Asked before reading: once rotated away nothing is added any more, so what is read then is all of it.
            newer = self._newer()
            yield from self._read(self._file)
            if newer is None:
                return
            if self._rest:
                yield self._rest
            self._file.close()
            self._file, self._rest = newer, b""

    def _open(self) -> bool:
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 - kept open over calls
        except FileNotFoundError:
            return False
        return True

    def _newer(self) -> IO[bytes] | None:
        """The file that follows the one being read, if it was rotated: maybe rotated itself already."""
        assert self._file is not None
        mine = os.fstat(self._file.fileno())
        candidates = [self.path, *rotated(self.path)]
        newer: tuple[Path, int] | None = None
        for candidate in candidates:
            try:
                stat = os.stat(candidate)
            except FileNotFoundError:
                continue
            if (stat.st_dev, stat.st_ino) == (mine.st_dev, mine.st_ino):
                break
            newer = candidate, stat.st_ino
        if newer is None:
            return None
        try:
            file = open(newer[0], "rb")  # noqa: SIM115 - returned
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_ino != newer[1]:  # rotated in this very moment; the next call finds the right one
            file.close()
            return None
        return file

    def _read(self, file: IO[bytes]) -> Iterator[bytes]:
        while block := file.read(BLOCK_BYTES):
            *lines, self._rest = (self._rest + block).split(b"\n")
            yield from (line for line in lines if line)
            if len(self._rest) > LINE_BYTES_MAX:
                yield self._rest
                self._rest = b""
