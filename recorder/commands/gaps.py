"""``recorder gaps``: what is missing, and what became of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.commands.listing import choice, number, show
from recorder.values.tables import GAP_STATUSES, GAPS, prefixed

if TYPE_CHECKING:
    from recorder.shell.database.sql_client import SqlClient
    from recorder.values.config import Config

SHOWN_MAX = 200  # on a screen; --json has all
COLUMNS = ("ts_event", "feed", "symbol", "channel", "kind", "from_id", "to_id", "missing", "recovered", "span_ns")

DESCRIPTION = """\
Gaps of a day, the newest last, and the day in a line: ✗ where some are open or given up. Status:
open (being repaired, or its feed is not recorded now), repaired (complete; without ids, as quotes
are: all that history has, which nothing verifies), partial and unrepairable (given up;
the cause says why), – (a note: an outage of a whole connection, or a time without trades; what it
cost stands in gaps of its own). A gap's time is that of the first event after it, of an outage
that of the reopening.
"""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "gaps", help="what is missing, and what was repaired", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    filters.add(parser)
    parser.add_argument("--json", action="store_true", help="an object with `gaps` and `totals`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.database.sql_client import connect

    with connect(config) as client:
        table = prefixed(config.questdb.prefix)[GAPS.name].name
        gaps, sums = listed(client, args, table), totals(client, args, table)
    if args.json:
        import orjson

        print(orjson.dumps({"day": args.day, "gaps": gaps, "totals": sums}).decode())
    elif not gaps:
        print(f"no gaps on {args.day} (UTC){choice(args)}")
    else:
        _print(args.day, gaps, sums)
    return 0


def listed(client: SqlClient, args: argparse.Namespace, table: str) -> list[dict[str, Any]]:
    """Every gap of the day, by time."""
    names = ", ".join((*COLUMNS, "status", "cause"))
    return client.rows(f"SELECT {names} FROM {table} WHERE {filters.where(args)} ORDER BY ts_event, feed, symbol")


def totals(client: SqlClient, args: argparse.Namespace, table: str) -> list[dict[str, Any]]:
    """How many of each kind and status, their ids, and for how long."""
    return client.rows(
        "SELECT feed, kind, status, count() gaps, sum(missing) missing, sum(recovered) recovered, sum(span_ns) span_ns "
        f"FROM {table} WHERE {filters.where(args)} ORDER BY feed, kind, status"
    )


def _print(day: str, gaps: list[dict[str, Any]], sums: list[dict[str, Any]]) -> None:
    right = ("gaps", "missing", "recovered", "seconds")
    shown = gaps[-SHOWN_MAX:]
    if len(shown) < len(gaps):
        print(f"the last {len(shown)} of {len(gaps)} gaps; --json has all of them")
    rows = [
        (
            gap["ts_event"][11:23], gap["feed"], gap["symbol"], gap["channel"], gap["kind"], _ids(gap),
            number(gap["missing"]), _recovered(gap), f"{gap['span_ns'] / 1e9:.3f}", gap["status"] or "–",
            gap["cause"],
        )
        for gap in shown
    ]  # fmt: skip
    names = ("time", "feed", "symbol", "channel", "kind", "ids", "missing", "recovered", "seconds", "status", "cause")
    show(f"gaps of {day} (UTC)", names, rows, right)
    lines = [
        (
            each["feed"], each["kind"], each["status"] or "–", number(each["gaps"]), number(each["missing"]),
            _recovered(each),
        )
        for each in sums
    ]  # fmt: skip
    show("", ("feed", "kind", "status", "gaps", "missing", "recovered"), lines, right)
    print(f"\n{verdict(sums)}")


def verdict(sums: list[dict[str, Any]]) -> str:
    """The day in a line: ``✗ 98 gaps: 96 repaired, 2 given up; 25 of 27 ids recovered; 3 outages of 12.1 s in all``."""

    def total(name: str, chosen: Callable[[dict[str, Any]], bool]) -> int:
        return sum(each[name] or 0 for each in sums if chosen(each))

    counted = {status: total("gaps", lambda each: each["status"] == status) for status in GAP_STATUSES}  # noqa: B023
    given_up = counted["partial"] + counted["unrepairable"]
    parts = [f"{sum(counted.values()):,} gaps: {counted['repaired']:,} repaired"]
    parts += [f"{counted['open']:,} open"] if counted["open"] else []
    parts += [f"{given_up:,} given up"] if given_up else []
    sentences = [", ".join(parts) if any(counted.values()) else "no row is known to be missing"]
    if missing := total("missing", lambda each: each["status"] is not None):
        recovered = total("recovered", lambda each: each["status"] is not None and each["missing"] is not None)
        sentences.append(f"{recovered:,} of {missing:,} ids recovered")
    outages = total("gaps", lambda each: each["kind"] == "disconnect" and each["status"] is None)
    if outages:
        lasted = total("span_ns", lambda each: each["kind"] == "disconnect" and each["status"] is None)
        sentences.append(f"{outages:,} outages of connections, {lasted / 1e9:,.1f} s in all")
    return f"{'✗' if counted['open'] or given_up else '✓'} {'; '.join(sentences)}"


def _recovered(of: dict[str, Any]) -> str:
    """A note recovers nothing: what it cost stands elsewhere."""
    return number(of["recovered"] if of["status"] else None)


def _ids(gap: dict[str, Any]) -> str:
    if gap["from_id"] is None:
        return "–"
    return str(gap["from_id"]) if gap["from_id"] == gap["to_id"] else f"{gap['from_id']}…{gap['to_id']}"
