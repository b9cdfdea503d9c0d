"""The backfill itself: a range cut into pieces, each asked for once, by several requests at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from recorder.commands.asking import Asking, asking
from recorder.commands.past import canonical, historian
from recorder.feeds import PROVIDERS
from recorder.shell.log import iso_ns
from recorder.shell.pace import shared
from recorder.shell.questions import Questions, Unanswered
from recorder.values.config import Config, credentials
from recorder.values.errors import ConfigError, RecorderError, SymbolError
from recorder.values.feed import HOUR, Capability, FeedSpec, HistoryRequest
from recorder.values.timeframes import LENGTHS

FOLDER = "backfill"  # of the journal of answers, beside the recorder's own
PIECE_BARS = 10_000  # a few pages of most providers, one of Alpaca's
PIECE_NS = HOUR  # of trades and quotes: an interruption costs no more than that to ask for again
PIECES_MAX = 1_000_000  # 100 symbols of hourly pieces of a year
LATE_NS = 2 * 10**9  # what has just happened may be missing from a history that is written behind
OF_THE_SYMBOL = (400, 404, 422)  # statuses that say nothing of what else could be asked
LOOK_S = 0.2  # between two looks for the progress bar

Progress = Callable[[int, int, int], None]  # (pieces done, pieces, rows so far)


@dataclass(frozen=True)
class Wanted:
    """Times in ns, both inclusive; ``timeframe`` of bars."""

    channel: str
    timeframe: str
    start: int
    end: int


@dataclass
class Report:
    """Rows by table; ``skipped`` of the pieces were answered before."""

    feed: str
    pieces: int = 0
    skipped: int = 0
    requests: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def pieces(symbols: tuple[str, ...], wanted: Wanted, capability: Capability, now: int) -> list[HistoryRequest]:
    """Questions that together ask for all of it and for nothing that has not happened. Raises ConfigError.

    Their edges are whole multiples of a length, so that a longer range has the same pieces. Where a history goes
    backwards from now only, a symbol is one piece.
    """
    step = PIECE_BARS * LENGTHS[wanted.timeframe] if wanted.timeframe in LENGTHS else PIECE_NS
    end = min(wanted.end, now - LATE_NS)
    start, window = wanted.start, capability.history_window_ns
    if wanted.channel != "bars":
        start = max(start, now - window) if window else start
        step = end + 1 if capability.history_from_now else step
    if start > end:
        why = f"is too early: its history of {wanted.channel} reaches {window // LENGTHS['1d']} days back"
        if wanted.start > end:
            why = "lies after --to" if wanted.start > wanted.end else "has not come yet"
        raise ConfigError(f"--from {iso_ns(wanted.start)[:10]} {why}; there is nothing to ask for")
    count = len(symbols) * (end // step - start // step + 1)
    if count > PIECES_MAX:
        raise ConfigError(f"{count:,} requests at least; ask for fewer days or symbols at a time")
    return [
        HistoryRequest(
            symbol, wanted.channel, max(start, first * step), min(end, (first + 1) * step - 1),
            timeframe=wanted.timeframe,
        )
        for first in range(start // step, end // step + 1)
        for symbol in symbols
    ]  # fmt: skip


def _asked_of(spec: FeedSpec, wanted: Wanted) -> tuple[FeedSpec, Any]:
    """The provider, and what it is asked as rows carry it; what it cannot be asked for is said before anything is done.

    Raises ConfigError.
    """
    keys = credentials(PROVIDERS[spec.provider], os.environ)
    try:
        spec, feed = historian(spec, wanted.channel, keys)
        if not hasattr(feed, "history"):
            raise ConfigError(f"{spec.provider} has no history that could be asked for")
        spec = msgspec.structs.replace(spec, symbols=canonical(spec, spec.symbols, keys))
        for symbol in spec.symbols:
            feed.history(HistoryRequest(symbol, wanted.channel, wanted.start, wanted.end, timeframe=wanted.timeframe))
    except SymbolError as error:
        raise ConfigError(str(error)) from error
    return spec, feed


async def backfill(
    config: Config, spec: FeedSpec, wanted: Wanted, log: Any, progress: Progress, at_once: int, again: bool
) -> Report:
    """Ask, journal and store. Raises ConfigError, DatabaseError, JournalLocked."""
    spec, feed = _asked_of(spec, wanted)
    capability: Capability = feed.capability()
    asked = pieces(spec.symbols, wanted, capability, time.time_ns())
    report, begun = Report(spec.name, len(asked)), time.monotonic()
    async with asking(config, FOLDER, log) as answers:
        known = set() if again else answers.complete(spec)
        todo = [request for request in asked if request not in known]
        report.skipped = len(asked) - len(todo)
        pace = shared(config.journal.dir, spec.provider)
        questions = [Questions(spec.provider, capability, log, pace) for _ in range(at_once)]
        watching = asyncio.create_task(_watch(answers, todo, len(asked), progress))
        try:
            left, refused = iter(todo), set[str]()
            await asyncio.gather(*(_work(answers, spec, feed, left, refused, each, report) for each in questions))
            await answers.stored()
        finally:
            watching.cancel()
            for each in questions:
                each.close()
        report.requests = sum(each.requests for each in questions)
        report.rows, report.rejected = answers.rows, answers.rejected
    report.seconds = round(time.monotonic() - begun, 3)
    return report


async def _work(
    answers: Asking, spec: FeedSpec, feed: Any, left: Any, refused: set[str], questions: Questions, report: Report
) -> None:
    """Ask for one piece after the other until none is left: for no more of a symbol that was refused, and for none
    at all once the provider says no for good."""
    for request in left:
        symbol = request.symbol
        if symbol in refused:
            continue
        try:
            await answers.ask(spec, feed, request, questions)
        except RecorderError as error:
            if symbol not in refused:
                again = "; the same command asks again for what is missing" if isinstance(error, Unanswered) else ""
                report.failures.append(f"{symbol}: {error}{again}")
            refused.add(symbol)
            if isinstance(error, Unanswered) and error.status not in OF_THE_SYMBOL:
                for _ in left:  # what one is refused the others are
                    pass


async def _watch(answers: Asking, todo: list[HistoryRequest], total: int, progress: Progress) -> None:
    while True:
        rows = sum(answers.rows.values())
        progress(total - len(todo) + answers.finished, total, rows)
        await asyncio.sleep(LOOK_S)
