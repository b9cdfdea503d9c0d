"""``recorder gaps``: what is missing, and what became of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.commands.listing import choice, number, show

if TYPE_CHECKING:
    from recorder.shell.database.sql_client import SqlClient
    from recorder.values.config import Config

SHOWN_MAX = 200  # on a screen; --json has all
COLUMNS = ("ts_event", "feed", "symbol", "channel", "kind", "from_id", "to_id", "missing", "recovered", "span_ns")

DESCRIPTION = """\
Gaps of a day, the newest last. Status: open (being repaired), repaired (complete; without ids,
as quotes are: all that history has, which nothing verifies), partial and unrepairable (given up;
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
        gaps, sums = listed(client, args), totals(client, args)
    if args.json:
        import orjson

        print(orjson.dumps({"day": args.day, "gaps": gaps, "totals": sums}).decode())
    elif not gaps:
        print(f"no gaps on {args.day} (UTC){choice(args)}")
    else:
        _print(args.day, gaps, sums)
    return 0


def listed(client: SqlClient, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every gap of the day, by time."""
    names = ", ".join((*COLUMNS, "status", "cause"))
    return client.rows(f"SELECT {names} FROM gaps WHERE {filters.where(args)} ORDER BY ts_event, feed, symbol")


def totals(client: SqlClient, args: argparse.Namespace) -> list[dict[str, Any]]:
    """How many of each kind and status, and their ids."""
    return client.rows(
        "SELECT feed, kind, status, count() gaps, sum(missing) missing, sum(recovered) recovered "
        f"FROM gaps WHERE {filters.where(args)} ORDER BY feed, kind, status"
    )


def _print(day: str, gaps: list[dict[str, Any]], sums: list[dict[str, Any]]) -> None:
    right = ("gaps", "missing", "recovered", "seconds")
    shown = gaps[-SHOWN_MAX:]
    if len(shown) < len(gaps):
        print(f"the last {len(shown)} of {len(gaps)} gaps; --json has all of them")
    rows = [
        (
            gap["ts_event"][11:23], gap["feed"], gap["symbol"], gap["channel"], gap["kind"], _ids(gap),
            number(gap["missing"]), number(gap["recovered"]), f"{gap['span_ns'] / 1e9:.3f}", gap["status"] or "–",
            gap["cause"],
        )
        for gap in shown
    ]  # fmt: skip
    names = ("time", "feed", "symbol", "channel", "kind", "ids", "missing", "recovered", "seconds", "status", "cause")
    show(f"gaps of {day} (UTC)", names, rows, right)
    lines = [
        (
            each["feed"], each["kind"], each["status"] or "–", number(each["gaps"]), number(each["missing"]),
            number(each["recovered"]),
        )
        for each in sums
    ]  # fmt: skip
    show("", ("feed", "kind", "status", "gaps", "missing", "recovered"), lines, right)


def _ids(gap: dict[str, Any]) -> str:
    if gap["from_id"] is None:
        return "–"
    return str(gap["from_id"]) if gap["from_id"] == gap["to_id"] else f"{gap['from_id']}…{gap['to_id']}"
