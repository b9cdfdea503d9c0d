"""``recorder rebuild``: the journal decoded again into a shadow table, every cell that differs, a swap on request."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.values.errors import ConfigError, DatabaseError, nearest

if TYPE_CHECKING:
    from recorder.commands.rebuilding import Folded
    from recorder.shell.database.shadow import Chosen, Differences
    from recorder.shell.database.sql_client import SqlClient
    from recorder.shell.database.swap import Swap
    from recorder.values.config import Config

DESCRIPTION = """\
The whole journal is decoded again, by this version and this configuration. Rows of one table and
one range of ts_event go into a shadow table (rebuilt_trades …) and are held against what is stored,
cell by cell: null equals null, of doubles every bit counts. Exits 1 when anything differs. Rows
received before the oldest frame held, and beside a running recorder those of the last ten seconds,
are not compared. --swap sends the rebuilt rows that differ or are missing; --remove also takes out
the rows that the journal does not give, among them those of a replayed file or of another recorder.
"""
VIEWS_TIMEOUT_S = 60.0  # for bars to follow; rows are queryable before
LABELS = {"same": "equal", "changed": "changed", "only_rebuilt": "only rebuilt", "only_stored": "only stored"}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "rebuild", help="decode the journal again, show cell by cell where a table differs, repair it",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--table", required=True, metavar="NAME", help="trades, quotes, gaps …: any of the recorder's")
    parser.add_argument("--from", dest="start", required=True, metavar="TIME", help="ts_event then or later (UTC)")
    parser.add_argument("--to", dest="stop", required=True, metavar="TIME", help="ts_event before")
    for option in ("feed", "symbol"):
        parser.add_argument(f"--{option}", type=filters.name, metavar="NAME", help=f"of this {option} only")
    parser.add_argument("--swap", action="store_true", help="make what is stored equal to what was rebuilt; asks first")
    parser.add_argument("--remove", action="store_true", help="with --swap: take out rows that are only stored")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--keep", action="store_true", help="leave the shadow tables where they are")
    parser.add_argument("--json", action="store_true", help="the report as an object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    chosen = _chosen(args)
    from recorder.commands.load import drop_tables
    from recorder.commands.rebuilding import alone, fold, shadow_config
    from recorder.shell.database import Database
    from recorder.shell.database.sql_client import connect

    prefix = shadow_config(config).questdb.prefix
    with alone(config.journal.dir):
        started = config.questdb.embedded and Database.from_config(config).start()
        try:
            with connect(config) as client:
                chosen = _require(client, config, chosen)
                drop_tables(client, prefix)
                try:
                    return _compare(args, config, client, chosen, fold(config, chosen))
                finally:
                    if not args.keep:
                        drop_tables(client, prefix)
        finally:
            if started:
                Database.from_config(config).stop()


def _chosen(args: argparse.Namespace) -> Chosen:
    """Raises ConfigError for a table, a range or a filter that does not fit."""
    from recorder.shell.database.shadow import Chosen
    from recorder.values.tables import TABLES
    from recorder.values.times import parse_time

    if args.table not in TABLES:
        raise ConfigError(f"--table {args.table} is not a table of the recorder; {nearest(args.table, TABLES)}")
    table = TABLES[args.table]
    start, stop = parse_time(args.start, "--from"), parse_time(args.stop, "--to")
    if start >= stop:
        raise ConfigError(f"--from {args.start} is not before --to {args.stop}")
    for option in ("feed", "symbol"):
        if getattr(args, option) is not None and option not in (name for name, _, _ in table.sql_columns):
            raise ConfigError(f"--{option}: the table {table.name} has no column {option}")
    if (args.remove or args.yes) and not args.swap:
        raise ConfigError(f"--{'remove' if args.remove else 'yes'} belongs to --swap")
    if args.swap and not args.yes and (args.json or not sys.stdin.isatty()):
        raise ConfigError("--swap asks before it changes anything, which takes a terminal and no --json; or add --yes")
    return Chosen(table, start, stop, args.feed, args.symbol)


def _require(client: SqlClient, config: Config, chosen: Chosen) -> Chosen:
    """What can be compared. The table must be there, also what an interrupted swap has put aside.

    Raises DatabaseError.
    """
    from recorder.shell.database.shadow import partition_start
    from recorder.shell.database.swap import put_back
    from recorder.shell.log import iso_ns
    from recorder.values.tables import prefixed

    stored = prefixed(config.questdb.prefix)[chosen.table.name]
    columns = {row["column"] for row in client.rows("SHOW COLUMNS FROM " + stored.name)}
    missing = [column for column, _, _ in chosen.table.sql_columns if column not in columns]
    if missing:
        raise DatabaseError(
            f"table {stored.name} lacks the columns {', '.join(missing)}; run `recorder schema --apply` first"
        )
    if rows := put_back(client, stored):
        print(f"{rows:,} rows that an interrupted --remove had put aside are back in {stored.name}", file=sys.stderr)
    limited = client.value(f"SELECT ttlValue FROM tables() WHERE table_name = '{stored.name}'")
    oldest = client.value(f"SELECT ts_event::long FROM {stored.name} LIMIT 1") if limited else None
    if oldest is None or (start := partition_start(stored, int(oldest))) <= chosen.start:
        return chosen
    print(f"{stored.name} has a TTL and begins at {iso_ns(start)}: nothing older is compared", file=sys.stderr)
    return dataclasses.replace(chosen, start=start, stop=max(chosen.stop, start))


def _compare(args: argparse.Namespace, config: Config, client: SqlClient, chosen: Chosen, folded: Folded) -> int:
    from recorder.commands.rebuilding import shadow_config
    from recorder.shell.database.shadow import compare
    from recorder.shell.database.swap import Swap
    from recorder.values.tables import prefixed

    stored = prefixed(config.questdb.prefix)[chosen.table.name]
    rebuilt = prefixed(shadow_config(config).questdb.prefix)[chosen.table.name]
    found = compare(client, stored, rebuilt, chosen, folded.held)
    report = {**_head(chosen, folded), **_facts(found)}
    if not args.json:
        _print_head(chosen, folded)
        _print_found(found)
    if args.swap and not found.none:
        swapped = _swap(args, config, Swap(client, stored, rebuilt, chosen, folded.held), found, folded)
        if swapped is not None:
            found = swapped
            report["after"] = _facts(found)
            if not args.json:
                print("after the swap")
                _print_found(found)
    if args.json:
        _print_json(report)
    return int(not found.none)


def _swap(
    args: argparse.Namespace, config: Config, swap: Swap, found: Differences, folded: Folded
) -> Differences | None:
    """Ask, change what is stored, and compare again; None when the answer was no. Raises RecorderError."""
    from recorder.commands.load import migrate_to, refresh_views
    from recorder.commands.rebuilding import refuse_swap, stopped
    from recorder.shell.database.shadow import compare

    refuse_swap(swap.chosen, folded)
    removing = args.remove and bool(found.remove)
    if removing:
        swap.refuse_removal()
    if not args.json:
        _print_plan(swap.stored.name, found, removing)
    if not args.yes and input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing was changed")
        return None

    def again() -> Differences:
        return compare(swap.client, swap.stored, swap.rebuilt, swap.chosen, swap.held)

    if removing:
        with stopped(config.journal.dir):
            swap.send(found)
            swap.remove(again())
            migrate_to(config)  # what leaned on a dropped partition is made anew
    else:
        swap.send(found)
    refresh_views(config, VIEWS_TIMEOUT_S)
    return again()


def _head(chosen: Chosen, folded: Folded) -> dict[str, Any]:
    from recorder.shell.log import iso_ns

    return {
        "table": chosen.table.name,
        "from": iso_ns(chosen.start),
        "to": iso_ns(chosen.stop),
        "feed": chosen.feed,
        "symbol": chosen.symbol,
        "journal": {
            "positions": [folded.begin, folded.end],
            "received": [iso_ns(folded.held.first), iso_ns(folded.last_recv)],
            "frames": folded.frames,
            "running": folded.running,
            "not_loaded": folded.unloaded and not folded.running,
            "left_out": folded.damages,
        },
    }


def _facts(found: Differences) -> dict[str, Any]:
    facts = dataclasses.asdict(found)
    del facts["slices"], facts["remove"]
    return {"equal": found.none, **facts, "cells": dict(found.cells.most_common())}


def _print_json(value: object) -> None:
    import orjson

    sys.stdout.write(orjson.dumps(value).decode() + "\n")


def _print_head(chosen: Chosen, folded: Folded) -> None:
    from recorder.shell.log import iso_ns

    first, last = iso_ns(folded.held.first), iso_ns(folded.last_recv)
    print(f"journal: {folded.frames:,} frames, received {first} to {last}, from position {folded.begin} on")
    if folded.begin:
        print("  its beginning has been retired: what is computed from earlier rows (vwap, rolling_vwap, zscore,\n"
              "  missed, flags) may differ in the first rows of each symbol and session")  # fmt: skip
    if folded.running:
        print("  a recorder is writing to it: what it received in the last ten seconds is not compared")
    elif folded.unloaded:
        print("  its last frames have not been loaded by a recorder yet: `recorder run` does that")
    for damage in folded.damages:
        print(f"  left out: {damage}")
    words = [f"{name} {value}" for name, value in (("feed", chosen.feed), ("symbol", chosen.symbol)) if value]
    print(f"{chosen.table.name} from {iso_ns(chosen.start)} to {iso_ns(chosen.stop)}", *words, sep=", ")


def _print_found(found: Differences) -> None:
    for name, label in LABELS.items():
        print(f"  {getattr(found, name):>12,}  {label}")
    for count, label in (
        (found.doubled, "stored more than once"),
        (found.older, "stored, received before the oldest frame held: not in the journal, not compared"),
        (found.newer, "stored, received in the last ten seconds: not compared"),
    ):
        if count:
            print(f"  {count:>12,}  {label}")
    if found.cells:
        print("cells that differ: " + ", ".join(f"{name} {count:,}" for name, count in found.cells.most_common()))
    for each in found.examples["changed"]:
        print(f"  {_words(each['identity'])}: {each['column']} is {_shown(each['stored'])} in the table, "
              f"{_shown(each['rebuilt'])} rebuilt")  # fmt: skip
    for name in ("only_rebuilt", "only_stored"):
        for row in found.examples[name]:
            print(f"{LABELS[name]}: {_words(row)}")
    print("equal" if found.none else "different")


def _print_plan(name: str, found: Differences, removing: bool) -> None:
    replaced, added, extra = found.changed, found.only_rebuilt, found.only_stored + found.doubled
    print(f"--swap sends rebuilt rows to {name}: {replaced:,} replace stored ones, {added:,} are added")
    if removing:
        print(
            f"--remove takes out {extra:,} rows, which the journal does not give. Partitions of {name} to be copied "
            f"without\nthem, dropped and put back: {len(found.remove):,}. Views over it are made anew; no recorder may "
            "start meanwhile"
        )
    elif extra:
        print(f"{extra:,} rows that are only stored stay: --remove takes them out")


def _words(row: dict[str, str | None]) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if value is not None)


def _shown(value: str | None) -> str:
    return "null" if value is None else value or '""'
