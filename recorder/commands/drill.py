"""``recorder drill``: faults with ground truth against the user's own installation, in tables of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorder.values.errors import RecorderError

if TYPE_CHECKING:
    from recorder.values.config import Config

PROVIDERS = {
    "coinbase": ("BTC-USD", "ETH-USD", "SOL-USD"),
    "binance": ("BTC-USDT", "ETH-USDT", "SOL-USDT"),
    "kraken": ("BTC-USD", "ETH-USD", "SOL-USD"),
}  # whose ids tell what is missing and whose history can be asked: only there is "lost" more than an opinion

DESCRIPTION = """\
A simulated exchange with known trades is recorded by a recorder process of its own into tables of
its own (drill_trades …) in your QuestDB, with your settings and on your disks, while connections
are cut and fall silent, trades are dropped, doubled and reordered, the recorder is killed and the
database cannot be reached. Every trade that happened must then be there once. Exits 1 when one is
lost or doubled, or a fault was not recovered from. The tables are dropped at the end.
"""


def add(subparsers: Any) -> None:
    from recorder.commands.run import duration

    parser = subparsers.add_parser(
        "drill", help="faults with ground truth against your own installation: sent, stored, lost, doubled",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--provider", choices=PROVIDERS, default="coinbase", help="whose protocol (coinbase)")
    parser.add_argument("--rate", type=float, default=1000.0, metavar="N", help="mean trades per second (1000)")
    parser.add_argument("--outage", type=duration, default=10.0, metavar="TIME", help="of the database (10s)")
    parser.add_argument("--quick", action="store_true", help="an outage of two seconds: two minutes in all")
    parser.add_argument("--keep", action="store_true", help="leave the tables and the drill's folder where they are")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.commands.drilling import PREFIX, Drill
    from recorder.commands.load import drop_tables
    from recorder.shell.database import Database
    from recorder.shell.database.sql_client import connect

    if not 1 <= args.rate <= 100_000:
        raise RecorderError(f"--rate {args.rate:g}: a drill takes 1 to 100,000 trades per second")
    outage_s = 2.0 if args.quick else args.outage
    started = config.questdb.embedded and Database.from_config(config).start()
    parent = config.journal.dir.parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir=parent))  # beside the journal: on the same disk
    try:
        with connect(config) as client:
            drop_tables(client, PREFIX)
        drill = Drill(config, folder, args.provider, PROVIDERS[args.provider], args.rate, outage_s, _say(args.json))
        report = asyncio.run(_guarded(drill))
        (_print_json if args.json else _print)(report)
        return int(not report["passed"])
    finally:
        if args.keep:
            print(f"kept: tables {PREFIX}… and {folder}", file=sys.stderr)
        else:
            _clean(config, folder)
        if started:
            Database.from_config(config).stop()


def _clean(config: Config, folder: Path) -> None:
    import shutil

    from recorder.commands.drilling import PREFIX
    from recorder.commands.load import drop_tables
    from recorder.shell.database.sql_client import connect

    shutil.rmtree(folder, ignore_errors=True)
    with connect(config) as client:
        drop_tables(client, PREFIX)


async def _guarded(drill: Any) -> dict[str, Any]:
    """The drill; Ctrl-C ends it in order, so that nothing stays behind."""
    work = asyncio.ensure_future(drill.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    try:
        return dict(await work)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _say(quiet: bool) -> Any:
    return (lambda text: None) if quiet else (lambda text: print(text, flush=True))


def _print_json(report: dict[str, Any]) -> None:
    import orjson

    print(orjson.dumps(report).decode())


def _print(report: dict[str, Any]) -> None:
    """Totals; the steps were told while they happened."""
    from recorder.commands.coverage import percent

    total = report["total"]
    print(
        f"\n{'✓' if report['passed'] else '✗'} {total['sent']:,} trades happened, {total['stored']:,} stored, "
        f"{total['lost']} lost, {total['doubled']} doubled, values {'equal' if total['values_equal'] else 'DIFFERENT'}"
    )
    gaps = ", ".join(f"{count} {status}" for status, count in report["gaps"].items()) or "none"
    print(f"gaps: {gaps}; completeness {percent(report['completeness'])} by the coverage ledger")
    if not report["passed"]:
        print(f"the recorder's log: {report['log']} (with --keep it stays)", file=sys.stderr)
