"""``recorder chain``: one snapshot of a symbol's option chain, asked for, stored, and printed."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.commands.listing import show
from recorder.values.chains import CHANNEL

if TYPE_CHECKING:
    from recorder.values.config import Config
    from recorder.values.feed import FeedSpec

FOLDER = "chains"  # of the journal of answers, beside the recorder's own
DEFAULT_PROVIDER = "cboe"  # the one that needs no account
SECOND_NS = 1_000_000_000
_COLUMNS = (
    "ts_event", "ts_recv", "feed", "symbol", "underlying", "expiration", "strike", "option_type", "bid", "bid_size",
    "ask", "ask_size", "last", "volume", "open_interest", "iv", "delta", "gamma", "theta", "vega", "rho",
    "greeks_source", "iv_status", "underlying_price", "age_ns",
)  # fmt: skip
_SIDE = ("bid", "ask", "iv", "delta", "volume", "open")  # of a contract on a screen

DESCRIPTION = """\
Ask a provider once for the option chain of a symbol, store it in the table options_chain and print it. All
legs have one snapshot time; `age_ns` is how much older a leg's quote or last trade is. Where the provider
sends no Greeks they are computed (greeks_source), or iv_status says why they cannot be. Without --provider:
the first configured feed that is asked for chains, else cboe, which needs no account and is 15 minutes late.
"""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "chain", help="a symbol's option chain with Greeks: ask once, store, print",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("symbol", metavar="SYMBOL", help="the underlying: AAPL, BRK.B, SPX")
    parser.add_argument("--expiration", type=filters.day, metavar="DAY", help="of this day only; else the nearest")
    parser.add_argument("--provider", metavar="NAME", help="ask this one")
    parser.add_argument("--json", action="store_true", help="an array of all legs, of every expiration asked for")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell import log as logs
    from recorder.shell.database.sql_client import connect
    from recorder.values.errors import RecorderError
    from recorder.values.symbols import ticker

    symbol = ticker(filters.checked_name(args.symbol))
    began = time.time_ns()
    spec = asked_of(config, symbol, args.provider)
    rejected = asyncio.run(fetch(config, spec, logs.get("recorder")))
    with connect(config) as client:
        legs = stored(client, spec.name, symbol, began, args.expiration)
    if not legs:
        of = f" that expires on {args.expiration}" if args.expiration else ""
        unread = f"; what could not be read is in the table rejected ({rejected:,} rows)" if rejected else ""
        raise RecorderError(f"{spec.provider} sent no contract of {symbol}{of}{unread}")
    if args.json:
        import orjson

        sys.stdout.write("[\n" + ",\n".join(orjson.dumps(leg).decode() for leg in legs) + "\n]\n")
    else:
        _print(symbol, spec, legs)
    return 0


def asked_of(config: Config, symbol: str, provider: str | None) -> FeedSpec:
    """What to ask, named as the configured feed of the provider so that its rows join. Raises ConfigError."""
    import os

    from recorder.feeds import PROVIDERS
    from recorder.values.config import credentials
    from recorder.values.errors import ConfigError, nearest
    from recorder.values.feed import FeedSpec

    known = {name: how for name in PROVIDERS if (how := asking_options(name)) is not None}
    configured = [feed for feed in config.feeds if provider in (None, feed.provider) and feed.provider in known]
    configured = [feed for feed in configured if provider or CHANNEL in feed.channels]
    name = provider or (configured[0].provider if configured else DEFAULT_PROVIDER)
    if name not in known:
        raise ConfigError(f"--provider {name}: it is not asked for option chains; {nearest(name, known)}")
    missing = [key for key in PROVIDERS[name].credentials if key not in credentials(PROVIDERS[name], os.environ)]
    if missing:
        raise ConfigError(f"{name} wants a key: set {' and '.join(missing)} in the environment")
    at = configured[0] if configured else FeedSpec(name=name, provider=name)
    options = (at.options if CHANNEL in at.channels else {}) | known[name]
    return FeedSpec(
        name=at.name, provider=name, channels=(CHANNEL,), symbols=(symbol,), options=options, url=at.url,
        rest_url=at.rest_url,
    )  # fmt: skip


def asking_options(provider: str) -> dict[str, str] | None:
    """The options with which a provider is asked for chains, of every expiration; None of one that cannot be."""
    from recorder.feeds import PROVIDERS, make
    from recorder.values.errors import RecorderError
    from recorder.values.feed import FeedSpec

    info = PROVIDERS[provider]
    for options in ({}, *({"api": api} for api in info.options.get("api", ()))):
        try:
            feed = make(FeedSpec(name=provider, provider=provider, channels=(CHANNEL,), options=options))
        except RecorderError:
            continue
        if feed.capability().transport == "poll":
            return options | ({"expirations": "all"} if "expirations" in info.options else {})
    return None


async def fetch(config: Config, spec: FeedSpec, log: Any) -> int:
    """Ask once and store; how many rows could not be read.

    Raises Unanswered, ConfigError, FrameError, Limited, LoginNeeded, DatabaseError, JournalLocked.
    """
    import os

    from recorder.commands.asking import asking
    from recorder.commands.logins import session_of
    from recorder.feeds import PROVIDERS, make
    from recorder.shell.history_client import HistoryClient
    from recorder.shell.pace import shared
    from recorder.shell.poller import BODY_BYTES_MAX, TIMEOUT_S
    from recorder.shell.questions import Questions
    from recorder.values.config import credentials

    keys = credentials(PROVIDERS[spec.provider], os.environ)
    feed: Any = make(spec, keys)
    client, signer = HistoryClient(BODY_BYTES_MAX, TIMEOUT_S), session_of(spec, keys, config.login.dir)
    pace = shared(config.journal.dir, spec.provider)
    questions = Questions(spec.provider, feed.capability(), log, pace, client, signer)
    try:
        async with asking(config, FOLDER, log) as asked:
            for poll in feed.polls():
                await asked.poll(spec, poll, questions)
            await asked.stored()
            return asked.rejected
    finally:
        questions.close()


def stored(client: Any, feed: str, symbol: str, since: int, expiration: str | None) -> list[dict[str, Any]]:
    """The legs of the chain received last, since ``since`` (ns), by expiration, strike, and call before put."""
    where = f"{filters.among('feed', [feed])} AND {filters.among('underlying', [symbol])} AND ts_recv >= {since}"
    (last,) = client.rows(f"SELECT max(ts_event::long) ts FROM options_chain WHERE {where}") or [{"ts": None}]
    if last["ts"] is None:
        return []
    day = f" AND expiration IN '{expiration}'" if expiration else ""
    rows: list[dict[str, Any]] = client.rows(
        f"SELECT {', '.join(_COLUMNS)} FROM options_chain WHERE {where} AND ts_event = {last['ts']}{day} "
        "ORDER BY expiration, strike, option_type"
    )
    return rows


def _print(symbol: str, spec: FeedSpec, legs: Sequence[Mapping[str, Any]]) -> None:
    """The nearest expiration as calls, strike and puts; the others by their days."""
    days: dict[str, list[Mapping[str, Any]]] = {}
    for leg in legs:
        days.setdefault(str(leg["expiration"])[:10], []).append(leg)
    day, *others = days
    first = legs[0]
    price = first["underlying_price"]
    ages = [leg["age_ns"] / SECOND_NS for leg in legs if leg["age_ns"] is not None]
    print(
        f"{symbol} {'' if price is None else f'{price:,.2f} '}as of {str(first['ts_event'])[:19]} UTC from "
        f"{spec.provider}: {len(legs):,} contracts, {len(days)} expirations"
        + (f", quotes or last trades {min(ages):,.0f} to {max(ages):,.0f} s older" if ages else "")
    )
    names = [*(f"call {name}" for name in _SIDE), "strike", *(f"put {name}" for name in _SIDE)]
    # An adjusted contract has the strike of another one: a row for each root.
    pairs: dict[tuple[float, str], dict[str, Mapping[str, Any]]] = {}
    for leg in days[day]:
        pairs.setdefault((leg["strike"], leg["symbol"][:6].strip()), {})[leg["option_type"]] = leg
    rows = [
        (*_side(pair.get("call")), _strike(strike, root, symbol), *_side(pair.get("put")))
        for (strike, root), pair in sorted(pairs.items())
    ]
    show(f"\nexpires {day}", names, rows, right=names)
    if others:
        print(f"\nother expirations: {', '.join(others)}; one of them: --expiration {others[0]}")
    sources = {leg["greeks_source"] for leg in legs if leg["greeks_source"]}
    unknown = sum(leg["greeks_source"] is None for leg in legs)
    print(f"Greeks: {', '.join(sorted(sources)) or 'none'}" + (f"; {unknown:,} contracts without" if unknown else ""))


def _side(leg: Mapping[str, Any] | None) -> tuple[str, ...]:
    if leg is None:
        return ("",) * len(_SIDE)
    formats = (("bid", ",.2f"), ("ask", ",.2f"), ("iv", ".1%"), ("delta", "+.3f"), ("volume", ",.0f"))
    cells = [format(leg[name], how) if leg[name] is not None else "–" for name, how in formats]
    interest = leg["open_interest"]
    return (*cells, "–" if interest is None else f"{interest:,.0f}")


def _strike(strike: float, root: str, symbol: str) -> str:
    text = f"{strike:,.2f}".rstrip("0").rstrip(".")
    return text if root == symbol else f"{text} {root}"
