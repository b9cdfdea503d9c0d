"""``recorder backfill``: bars, trades and quotes of a provider's past into the tables."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from typing import TYPE_CHECKING, Any

from recorder.commands import filters

if TYPE_CHECKING:
    from recorder.commands.backfilling import Progress, Report
    from recorder.values.config import Config
    from recorder.values.feed import FeedSpec

CHANNELS = ("bars", "trades", "quotes")
AT_ONCE, AT_ONCE_MAX = 4, 32  # requests under way; a provider's pace bounds them all the same
SYMBOLS_MAX = 5000
_OPTION = re.compile(r"([a-z_]{1,32})=([\w.-]{1,64})")

DESCRIPTION = """\
Ask a provider for its past and store it: --channel bars of a --timeframe (1m, 1h, 1d …), trades or quotes,
of the UTC days --from to --to, both included. The rows are those of the feed PROVIDER-history unless --feed
names another, so that nothing recorded live is replaced. Every answer is journalled; what was answered
completely is not asked for again, so the same command goes on where it was interrupted, and asking twice
stores nothing twice. Options of the provider are given as in config.toml: --option market=usdm.
"""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "backfill", help="bars, trades and quotes of a provider's past into the tables",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "provider", metavar="PROVIDER", help="such as alpaca or binance, or the name of a configured feed"
    )
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help="such as AAPL or BTC-USD; else those of the feed")
    parser.add_argument("--channel", choices=CHANNELS, default="bars", help="what to fetch; default bars")
    parser.add_argument("--timeframe", default="1m", metavar="LENGTH", help="of bars: 1m, 5m, 1h, 1d …; default 1m")
    parser.add_argument("--from", dest="start", type=filters.day, required=True, metavar="DAY", help="first UTC day")
    parser.add_argument("--to", dest="stop", type=filters.day, metavar="DAY", help="last UTC day; today")
    parser.add_argument("--feed", type=filters.feed, metavar="NAME", help="feed of the rows; PROVIDER-history")
    parser.add_argument(
        "--option", type=_option, action="append", default=[], metavar="KEY=VALUE", help="of the provider"
    )
    parser.add_argument("--at-once", type=_at_once, default=AT_ONCE, metavar="N", help=f"requests under way; {AT_ONCE}")
    parser.add_argument("--again", action="store_true", help="ask also for what was answered before")
    parser.add_argument("--json", action="store_true", help="what was done as an object")
    parser.set_defaults(run=run)


def _option(text: str) -> tuple[str, str]:
    found = _OPTION.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no option; write KEY=VALUE, for example market=usdm")
    return found[1], found[2]


def _at_once(text: str) -> int:
    if not re.fullmatch(r"\d{1,2}", text) or not 1 <= int(text) <= AT_ONCE_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {AT_ONCE_MAX}")
    return int(text)


def spec_of(args: argparse.Namespace, config: Config) -> FeedSpec:
    """What to ask: a configured feed's provider, options and addresses, or a provider's own.

    Of several feeds of the provider the first whose history has what is wanted; where none has, the first of all, whose
    refusal says why. Raises ConfigError.
    """
    import msgspec

    from recorder.feeds import PROVIDERS
    from recorder.values.errors import ConfigError, nearest
    from recorder.values.feed import FeedSpec

    known = [feed for feed in config.feeds if feed.name == args.provider]
    if not known and args.provider not in PROVIDERS:
        names = [*PROVIDERS, *(feed.name for feed in config.feeds)]
        raise ConfigError(f"{args.provider!r} is no provider and no configured feed; {nearest(args.provider, names)}")
    symbols = tuple(args.symbols) or (known[0].symbols if known else ())
    if not 0 < len(symbols) <= SYMBOLS_MAX:
        raise ConfigError(
            f"{len(symbols)} symbols; name 1 to {SYMBOLS_MAX}: recorder backfill {args.provider} SYMBOL …"
        )
    of_provider = [feed for feed in config.feeds if feed.provider == args.provider]
    specs = [
        msgspec.structs.replace(
            feed,
            name=args.feed or f"{args.provider}-history",
            symbols=symbols,
            options={**feed.options, **dict(args.option)},
            channels=PROVIDERS[feed.provider].channels[:1],
            connection=0,
            schedule=None,
        )
        for feed in known or [*of_provider, FeedSpec(name=args.provider, provider=args.provider)]
    ]
    return next((spec for each in specs if (spec := _remembering(each, args.channel))), specs[0])


def _remembering(spec: FeedSpec, channel: str) -> FeedSpec | None:
    """The feed with a channel that goes with its options, if its history has what is wanted."""
    from recorder.commands.past import historian
    from recorder.values.errors import ConfigError, SymbolError

    try:
        own, feed = historian(spec, channel, {})
    except (ConfigError, SymbolError):
        return None
    return own if channel in feed.capability().history_channels else None


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.commands.backfilling import Wanted, backfill
    from recorder.shell import log as logs
    from recorder.values.times import parse_time

    stop = args.stop or filters.day("today")
    wanted = Wanted(
        args.channel,
        args.timeframe if args.channel == "bars" else "",
        parse_time(args.start, "--from"),
        parse_time(stop, "--to") + 86_400 * 10**9 - 1,
    )
    spec, log = spec_of(args, config), logs.get("recorder")
    with _shown(args) as progress:
        report = asyncio.run(backfill(config, spec, wanted, log, progress, args.at_once, args.again))
    if args.json:
        import orjson

        print(orjson.dumps(report).decode())
    else:
        _print(report)
    for failure in report.failures:
        print(f"recorder: {failure}", file=sys.stderr)
    return 1 if report.failures or report.rejected else 0


class _Quiet:
    def __enter__(self) -> Progress:
        return lambda done, total, rows: None

    def __exit__(self, *_: object) -> None:
        pass


class _Bar:
    """A bar on a terminal: pieces of the range, and rows so far."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=Console(stderr=True),
        )  # fmt: skip
        self._progress.start()
        task = self._progress.add_task("asking")

        def show(done: int, total: int, rows: int) -> None:
            self._progress.update(task, completed=done, total=total, description=f"{rows:,} rows")

        return show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _shown(args: argparse.Namespace) -> _Quiet | _Bar:
    return _Bar() if sys.stderr.isatty() and not args.json else _Quiet()


def _print(report: Report) -> None:
    rows = ", ".join(f"{count:,} {table}" for table, count in report.rows.items()) or "no rows"
    rate = f" ({sum(report.rows.values()) / report.seconds:,.0f}/s)" if report.seconds else ""
    before = f", {report.skipped} of {report.pieces} pieces were answered before" if report.skipped else ""
    asked = f"{report.requests} requests{before}"
    print(f"{rows} as feed {report.feed} in {report.seconds:.1f} s{rate}, {asked}; all queryable")
    if report.rejected:
        print(f"{report.rejected} answers or rows did not fit: select * from rejected where feed = '{report.feed}'")
