"""``recorder actions``: corporate actions of providers into the tables, and what they say."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.commands.listing import show

if TYPE_CHECKING:
    from pathlib import Path

    from recorder.core.adjust import Conflict, Known
    from recorder.shell.database.sql_client import SqlClient
    from recorder.values.config import Config
    from recorder.values.feed import FeedSpec

FOLDER = "actions"  # of the journal of answers, beside the recorder's own
DAY_NS = 86_400 * 1_000_000_000
NOON_NS = 13 * 3600 * 1_000_000_000  # after a midnight between UTC-10 and UTC+13 it is the same day in UTC
BACK_DAYS, AHEAD_DAYS = 365, 120  # asked for unless told otherwise: a year, and what is announced
SYMBOLS_MAX = 5000  # at a provider's pace that is an hour
SHOWN_MAX = 200  # on a screen; --json has all
_TICKER = re.compile(r"[A-Z]{1,6}([./][A-Z]{1,4})?")  # of the configured symbols those that can have such actions
_COLUMNS = (
    "ts_event", "feed", "symbol", "action_type", "action_id", "ratio", "amount", "currency", "new_symbol", "ts_known",
    "details",
)  # fmt: skip

DESCRIPTION = """\
Ask every provider that can be asked (Alpaca and Polygon with their keys, Yahoo without) for the corporate
actions of some symbols, store them in the table corporate_actions and print what they say now. Without
SYMBOL: those of the configured feeds. An action that a provider changes is stored as another version;
what it said before stays, with the time at which it became known.
"""


def add(subparsers: Any) -> None:
    from recorder.feeds import ACTIONS

    parser = subparsers.add_parser(
        "actions", help="splits, dividends, symbol changes: ask providers, store, list conflicts",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help="such as AAPL or BRK.B")
    parser.add_argument("--from", dest="start", type=filters.day, metavar="DAY", help="ex dates from; a year ago")
    parser.add_argument("--to", dest="stop", type=filters.day, metavar="DAY", help="ex dates to; in four months")
    parser.add_argument("--provider", choices=ACTIONS, action="append", help="ask this one only; repeatable")
    parser.add_argument("--per-minute", type=_positive, metavar="N", help="requests that your plan allows")
    parser.add_argument("--stored", action="store_true", help="ask nobody, print what is stored")
    parser.add_argument("--conflicts", action="store_true", help="where providers differ, instead of the actions")
    parser.add_argument("--json", action="store_true", help="an object with `actions` or `conflicts`")
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return float(text)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell import log as logs
    from recorder.shell.database.sql_client import connect
    from recorder.values.feed import HistoryRequest
    from recorder.values.times import parse_time

    now = parse_time(filters.day("today"), "today")
    start = parse_time(args.start, "--from") if args.start else now - BACK_DAYS * DAY_NS
    stop = parse_time(args.stop, "--to") if args.stop else now + AHEAD_DAYS * DAY_NS
    symbols = wanted(args.symbols, config)
    failures: list[str] = []
    if not args.stored:
        specs = asked_of(config, args.provider)
        # ts_event is a midnight somewhere on Earth: a day's is up to half a day off UTC's.
        requests = [HistoryRequest(symbol, FOLDER, max(0, start - DAY_NS // 2), stop + DAY_NS) for symbol in symbols]
        failures = asyncio.run(fetch(config, specs, requests, logs.get("recorder"), args.per_minute))
    with connect(config) as client:
        if args.conflicts:
            print_conflicts(args, differing(client, symbols, start, stop))
        else:
            print_actions(args, stored(client, symbols, start, stop))
    for failure in failures:
        print(f"recorder: {failure}", file=sys.stderr)
    return 1 if failures else 0


def wanted(given: Sequence[str], config: Config) -> list[str]:
    """Canonical symbols: the given ones, else those of the configured feeds that look like tickers.

    Raises ConfigError, SymbolError.
    """
    from recorder.values.errors import ConfigError
    from recorder.values.symbols import ticker

    names = [ticker(filters.checked_name(name)) for name in given]
    if not given:
        names = [s for feed in config.feeds for s in feed.symbols if _TICKER.fullmatch(s)]
    names = list(dict.fromkeys(names))
    if not names:
        raise ConfigError("no feed records a stock; name the symbols: recorder actions AAPL MSFT")
    if len(names) > SYMBOLS_MAX:
        raise ConfigError(f"{len(names)} symbols; ask for at most {SYMBOLS_MAX} at a time")
    return names


def asked_of(config: Config, chosen: Sequence[str] | None) -> list[FeedSpec]:
    """The providers to ask: the chosen ones, else all whose keys are there. Raises ConfigError without any.

    A configured feed of the provider says where its HTTP interface is, if it says so.
    """
    import os

    from recorder.feeds import ACTIONS, actions_info
    from recorder.values.config import credentials
    from recorder.values.errors import ConfigError
    from recorder.values.feed import FeedSpec

    specs = []
    for provider in chosen or ACTIONS:
        info = actions_info(provider)
        missing = [name for name in info.credentials if name not in credentials(info, os.environ)]
        if missing and chosen:
            raise ConfigError(f"{provider} wants a key: set {' and '.join(missing)} in the environment")
        if missing:
            continue
        at = next((feed for feed in config.feeds if feed.provider == provider), None)
        url, rest_url = (None, None) if at is None else (at.url, at.rest_url)
        specs.append(FeedSpec(name=provider, provider=provider, channels=(FOLDER,), url=url, rest_url=rest_url))
    return specs


async def fetch(
    config: Config, specs: Iterable[FeedSpec], requests: Sequence[Any], log: Any, per_minute: float | None = None
) -> list[str]:
    """Ask all at once, each at its own pace, and store; what failed, in words. Raises DatabaseError, JournalLocked."""
    from recorder.commands.asking import asking

    async with asking(config, FOLDER, log) as asked:
        failed = await asyncio.gather(
            *(_fetch_from(asked, config.journal.dir, spec, requests, log, per_minute) for spec in specs)
        )
        await asked.stored()
        failures = [words for each in failed for words in each]
        if asked.rejected:
            failures.append(f"{asked.rejected} answers or parts of them could not be read: see the table rejected")
        return failures


async def _fetch_from(
    asked: Any, journal: Path, spec: FeedSpec, requests: Sequence[Any], log: Any, per_minute: float | None
) -> list[str]:
    import os

    import msgspec

    from recorder.feeds import actions_info, make
    from recorder.shell.pace import shared
    from recorder.shell.questions import Questions, Unanswered
    from recorder.values.config import credentials

    feed: Any = make(spec, credentials(actions_info(spec.provider), os.environ))
    capability = feed.capability()
    if per_minute:
        capability = msgspec.structs.replace(capability, rest_per_second_max=per_minute / 60)
    questions, failures = Questions(spec.provider, capability, log, shared(journal, spec.provider)), []
    try:
        for request in requests:
            try:
                await asked.ask(spec, feed, request, questions)
            except Unanswered as error:
                failures.append(f"{request.symbol}: {error}")
    finally:
        questions.close()
    return failures


def _where(symbols: Sequence[str], start: int, stop: int) -> str:
    return f"{filters.among('symbol', symbols)} AND ts_event >= {start} AND ts_event < {stop + DAY_NS}"


def stored(client: SqlClient, symbols: Sequence[str], start: int, stop: int) -> list[dict[str, Any]]:
    """What is said now of the actions of a time, by ex date."""
    names = ", ".join(_COLUMNS)
    query = f"SELECT {names} FROM corporate_actions_now WHERE {_where(symbols, start, stop)}"
    return client.rows(f"{query} ORDER BY ts_event, symbol, action_type, feed")


def known(client: SqlClient, where: str) -> list[Known]:
    """Every version of the actions that fit, for ``core.adjust``."""
    from recorder.core.adjust import Known

    rows = client.rows(
        "SELECT ts_event::long ts_event, ts_known::long ts_known, feed, symbol, action_type, action_id, ratio, amount, "
        f"currency, new_symbol FROM corporate_actions WHERE {where}"
    )
    return [Known(**row) for row in rows]


def differing(client: SqlClient, symbols: Sequence[str], start: int, stop: int) -> list[Conflict]:
    from recorder.core.adjust import conflicts

    return conflicts(known(client, _where(symbols, start, stop)), (1 << 63) - 1)


def print_actions(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    if args.json:
        import orjson

        print(orjson.dumps({"actions": rows}).decode())
        return
    if not rows:
        print("no corporate actions are stored for these symbols and days")
        return
    if len(rows) > SHOWN_MAX:
        print(f"the last {SHOWN_MAX} of {len(rows)} actions; --json has all of them")
    show("", ("ex date", "symbol", "provider", "action", "ratio", "amount", "becomes", "known since"), [
        (
            _day(row["ts_event"]), row["symbol"], row["feed"], row["action_type"], _number(row["ratio"]),
            f"{_number(row['amount'])} {row['currency'] or ''}".strip(), row["new_symbol"] or "–",
            row["ts_known"][:16].replace("T", " "),
        )
        for row in rows[-SHOWN_MAX:]
    ], ("ratio", "amount"))  # fmt: skip


def print_conflicts(args: argparse.Namespace, found: Sequence[Conflict]) -> None:
    if args.json:
        import orjson

        listed = [
            {
                "symbol": c.symbol, "effect": c.effect, "conflict": c.what, "first": _side(c.first),
                "second": _side(c.second) if c.second else {"feed": c.missing_in},
            }
            for c in found
        ]  # fmt: skip
        print(orjson.dumps({"conflicts": listed}).decode())
        return
    if not found:
        print("the providers agree, or only one tells these actions")
        return
    show("", ("symbol", "conflict", "one says", "another says"), [
        (c.symbol, c.what, _words(c.first), _words(c.second) if c.second else f"{c.missing_in}: nothing")
        for c in found
    ], ())  # fmt: skip


def _side(row: Known) -> Mapping[str, Any]:
    return {
        "feed": row.feed, "ex_date": _day_of(row.ts_event), "action_type": row.action_type, "action_id": row.action_id,
        "ratio": row.ratio, "amount": row.amount,
    }  # fmt: skip


def _words(row: Known) -> str:
    value = f"ratio {_number(row.ratio)}" if row.ratio else f"{_number(row.amount)} {row.currency or ''}".strip()
    return f"{row.feed}: {row.action_type} {value} on {_day_of(row.ts_event)}"


def _day(ts_event: str) -> str:
    """As ``_day_of``, of a time as SQL gives it."""
    from recorder.values.times import parse_time

    return _day_of(parse_time(ts_event, "ts_event"))


def _day_of(ts_event: int) -> str:
    """The day that begins at this midnight, wherever that was."""
    import datetime

    return f"{datetime.datetime.fromtimestamp((ts_event + NOON_NS) // 1_000_000_000, datetime.UTC):%Y-%m-%d}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.10g}"
