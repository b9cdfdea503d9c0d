"""Arguments by which several commands choose rows: a day, a feed, a symbol. Checked before they reach SQL."""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Sequence
from typing import Any

from recorder.values.config_check import FEED_NAME
from recorder.values.errors import ConfigError

# Of feeds, symbols and channels: what any provider's names are made of, ^GSPC and EURUSD=X too.
_NAME = re.compile(r"[\w.,:*/+ ()^=#&$@-]{1,128}")


def day(text: str) -> str:
    """``2026-11-23``, ``today`` or ``yesterday`` (UTC) as an ISO date."""
    today = datetime.datetime.now(datetime.UTC).date()
    named = {"today": today, "yesterday": today - datetime.timedelta(days=1)}
    try:
        return (named.get(text) or datetime.date.fromisoformat(text)).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write 2026-11-23, today or yesterday (UTC)") from None


def name(text: str) -> str:
    """A feed, symbol or channel as it may stand between quotes in SQL."""
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no name of a feed, symbol or channel")
    return text


def feed(text: str) -> str:
    """A name that a feed may have, to be given to rows."""
    if not FEED_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no name of a feed: 1 to 64 letters, digits, _ . or -")
    return text


def checked_name(text: str) -> str:
    """As ``name``, for what did not come through argparse. Raises ConfigError."""
    try:
        return name(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(str(error)) from None


def among(column: str, names: Sequence[str]) -> str:
    """The condition that a column is one of these names. Raises ConfigError."""
    listed = ", ".join(f"'{checked_name(each)}'" for each in names)
    return f"{column} IN ({listed})"


def add(parser: argparse.ArgumentParser) -> None:
    """``--day``, ``--feed``, ``--symbol`` and ``--channel``."""
    parser.add_argument("--day", type=day, default=day("today"), help="a UTC day: 2026-11-23, today or yesterday")
    for option in ("feed", "symbol", "channel"):
        parser.add_argument(f"--{option}", type=name, metavar="NAME", help=f"of this {option} only")


def where(args: Any, channel: bool = True) -> str:
    """The condition of the arguments that ``add`` defines, over ts_event, feed, symbol and channel."""
    parts = [f"ts_event IN '{args.day}'"]
    for option in ("feed", "symbol", "channel") if channel else ("feed", "symbol"):
        value = getattr(args, option)
        if value is not None:
            parts.append(f"{option} = '{value}'")
    return " AND ".join(parts)
