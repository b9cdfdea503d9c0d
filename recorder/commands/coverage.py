"""``recorder coverage``: how complete a day is, with the evidence."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.commands.listing import choice, number, show
from recorder.values.tables import BACKFILLED, COVERAGE, prefixed

if TYPE_CHECKING:
    from recorder.shell.database.sql_client import SqlClient
    from recorder.values.config import Config
    from recorder.values.schema import Table

SELDOM = ("repaired", "duplicate", "late", "rejected")  # columns that are left out where there is nothing in them
HOLES_SHOWN_MAX = 20  # of a day, on a screen; --json has all
STORED = ("trades", "quotes", "bars")  # channels that are tables: what was counted is held against what is stored
COUNTS = ("received", "verified", "unverifiable", "missing", "repaired", "duplicate", "late", "rejected")

DESCRIPTION = """\
How complete a day is, by feed, symbol and channel. completeness = (verified + repaired) / expected;
expected is what was verified, what nobody can verify, and what was missing (or repaired, where the
size of a loss is not known). What cannot be verified never counts as verified: repaired counts as far
as it was known to be missing, so of trades without ids and of quotes not. All this is of what was
received and of repairs, not of the past that `recorder backfill` asks for. stored is counted in the
table itself, backfills included; where it cannot come of what was received, the line says so. Below stand
the minutes in which something is missing, and last the day in a line.
"""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "coverage", help="how complete a day is, with the evidence", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    filters.add(parser)
    parser.add_argument("--json", action="store_true", help="an object with `channels` and `holes`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.database.sql_client import connect

    with connect(config) as client:
        tables = prefixed(config.questdb.prefix)
        channels, missing = by_channel(client, args, tables), holes(client, args, tables[COVERAGE.name].name)
    if args.json:
        import orjson

        print(orjson.dumps({"day": args.day, "channels": channels, "holes": missing}).decode())
        return 0
    if not channels:
        print(f"nothing was recorded on {args.day} (UTC){choice(args)}")
        return 0
    _print_channels(args.day, channels)
    _print_holes(missing)
    if said := verdict(channels):
        print(f"\n{said}")
    return 0


def by_channel(client: SqlClient, args: argparse.Namespace, tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """A line for each feed, symbol and channel of the day; ``tables`` by the names they have without a prefix."""
    sums = ", ".join(f"sum({name}) {name}" for name in COUNTS)
    query = f"SELECT feed, symbol, channel, count_distinct(ts_event) minutes, {sums} FROM {tables[COVERAGE.name].name}"
    rows = client.rows(f"{query} WHERE {filters.where(args)} ORDER BY feed, symbol, channel")
    stored = {name: _stored(client, args, name, tables[name].name) for name in STORED}
    for row in rows:
        row["completeness"] = completeness(row)
        table = stored.get(row["channel"])
        found, fresh = (None, 0) if table is None else table.get((row["feed"], row["symbol"]), (0, 0))
        row["stored"] = found
        row["agrees"] = found is None or fresh <= row["received"] - row["duplicate"] <= found
    return rows


def _stored(
    client: SqlClient, args: argparse.Namespace, channel: str, table: str
) -> dict[tuple[str, str], tuple[int, int]]:
    """Rows of a channel's table that day by (feed, symbol): all there are, and those that are not of the past."""
    if args.channel not in (None, channel):
        return {}
    fresh = f"sum(CASE WHEN flags & {BACKFILLED} = 0 THEN 1 ELSE 0 END) fresh"
    query = f"SELECT feed, symbol, count() stored, {fresh} FROM {table} WHERE {filters.where(args, channel=False)}"
    return {(row["feed"], row["symbol"]): (row["stored"], row["fresh"]) for row in client.rows(query)}


def holes(client: SqlClient, args: argparse.Namespace, table: str) -> list[dict[str, Any]]:
    """Minutes of the day in which something is missing or was, the worst first."""
    return client.rows(
        "SELECT * FROM (SELECT ts_event, feed, symbol, channel, sum(missing) missing, sum(repaired) repaired, "
        f"last(cause) cause FROM {table} WHERE {filters.where(args)} AND cause IS NOT NULL) "
        "ORDER BY missing - repaired DESC, ts_event"
    )


def completeness(counts: Mapping[str, int]) -> float | None:
    """The share of what was expected that is known to be stored; None where nothing was expected."""
    expected = counts["verified"] + counts["unverifiable"] + max(counts["missing"], counts["repaired"])
    return (counts["verified"] + min(counts["missing"], counts["repaired"])) / expected if expected else None


def _unproven(row: Mapping[str, Any]) -> bool:
    return bool(row["unverifiable"]) and not row["verified"] and not row["repaired"] and not row["missing"]


def _share(row: Mapping[str, Any]) -> str:
    return "unproven" if _unproven(row) else "–" if row["completeness"] is None else percent(row["completeness"])


def verdict(rows: list[dict[str, Any]]) -> str:
    """The day in a line: ``trades: 99.8037% complete, 2 missing (6 series); quotes: unproven (6 series)``."""
    sentences = []
    for channel in dict.fromkeys(row["channel"] for row in rows if row["symbol"] != "*"):
        own = [row for row in rows if row["channel"] == channel and row["symbol"] != "*"]
        for proven in (True, False):
            part = [row for row in own if _unproven(row) != proven]
            if not part:
                continue
            total = {name: sum(row[name] for row in part) for name in COUNTS}
            left = sum(max(0, row["missing"] - row["repaired"]) for row in part)
            said = f"{_share(total | {'completeness': completeness(total)})} complete, {left:,} missing"
            series = f"{len(part):,} series" if len(part) > 1 else f"{part[0]['symbol']} of {part[0]['feed']}"
            sentences.append(f"{channel}: {said if proven else 'unproven'} ({series})")
    return "; ".join(sentences)


def percent(share: float) -> str:
    """``99.9999%``, cut off and not rounded: 100 % is all of it."""
    return f"{math.floor(share * 1e6) / 1e6:.4%}"


def _print_channels(day: str, rows: list[dict[str, Any]]) -> None:
    counts = [name for name in COUNTS if name not in SELDOM or any(row[name] for row in rows)]
    shown = ("completeness", "minutes", *counts, "stored")
    lines = []
    for row in rows:
        cells = [number(row[name]) for name in shown[1:]]
        cells[-1] += "" if row["agrees"] else " (differs)"
        lines.append((row["feed"], row["symbol"], row["channel"], _share(row), *cells))
    show(f"coverage of {day} (UTC)", ("feed", "symbol", "channel", *shown), lines, shown)
    if any(_unproven(row) for row in rows):
        print("unproven: the provider sends no ids that could prove completeness; that is no loss")
    if any(not row["agrees"] for row in rows):
        print("(differs): more or fewer rows are stored than were received: rows of a minute not over yet, or of "
              "another recorder; `recorder rebuild` compares them one by one")  # fmt: skip


def _print_holes(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("\nno minute in which anything is known to be missing")
        return
    lines = [
        (
            row["ts_event"][11:16], row["feed"], row["symbol"], row["channel"],
            number(row["missing"]) if row["missing"] else "unknown", number(row["repaired"]), row["cause"],
        )
        for row in rows[:HOLES_SHOWN_MAX]
    ]  # fmt: skip
    show("", ("minute", "feed", "symbol", "channel", "missing", "repaired", "cause"), lines, ("missing", "repaired"))
    if len(rows) > HOLES_SHOWN_MAX:
        print(f"and {len(rows) - HOLES_SHOWN_MAX} more; --json has all of them")
