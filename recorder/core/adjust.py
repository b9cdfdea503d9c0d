"""Factors by which prices are adjusted for splits and dividends, as of a date. Pure; raw prices are never changed.

A price before an ex date is multiplied by 1 / ratio for each split and stock dividend after it, and by
1 - amount / previous close for each cash dividend and capital gain after it; a size is multiplied by the ratios alone.
Spin-offs, rights and mergers move no factor: what the holder got is worth what the market pays, which nobody tells.
The views corporate_actions_now, corporate_actions_applied and bars_adjusted say the same in SQL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

RATIO_TYPES = ("split", "stock_dividend")
CASH_TYPES = ("cash_dividend", "capital_gain")
# Two providers may differ in an ex date by some days and mean one action; weekly dividends are seven apart.
SAME_ACTION_NS = 4 * 86_400 * 1_000_000_000
# Providers round amounts, and Yahoo's went through later splits.
SAME_VALUE = 0.005


@dataclass(frozen=True, kw_only=True)
class Known:
    """A version of an action: a row of corporate_actions. Times in ns; None: not told."""

    ts_event: int
    ts_known: int
    feed: str
    symbol: str
    action_type: str
    action_id: str
    ratio: float | None = None
    amount: float | None = None
    currency: str | None = None
    new_symbol: str | None = None

    @property
    def effect(self) -> str:
        """``ratio`` or ``cash``: how it moves prices; ``""``: not by a factor of ours."""
        if self.action_type in RATIO_TYPES and self.ratio:
            return "ratio"
        if self.action_type in CASH_TYPES and self.amount and self.currency in (None, "USD"):
            return "cash"
        return ""


@dataclass(frozen=True)
class Steps:
    """Factors of one series over time. ``factors_at(t)`` are those of the last step at or before t.

    starts  (n,) int64, ns; the first one lies before all times
    split, cash  (n,) float64
    """

    starts: np.ndarray
    split: np.ndarray
    cash: np.ndarray

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(split factors, factors of cash) of these times, each (n,) float64."""
        places = np.searchsorted(self.starts, times, side="right") - 1
        return self.split[places], self.cash[places]


def versions(rows: Iterable[Known], as_of: int) -> list[Known]:
    """Of each action the version known at ``as_of``; of one that became known later, its first."""
    chosen: dict[tuple[str, str, str, str], Known] = {}
    for row in sorted(rows, key=lambda row: row.ts_known):
        key = (row.feed, row.symbol, row.action_type, row.action_id)
        if key not in chosen or row.ts_known <= as_of:
            chosen[key] = row
    return list(chosen.values())


def applied(rows: Iterable[Known], as_of: int, trusted: Sequence[str]) -> list[Known]:
    """The actions by which prices are adjusted as of a time: ex by then, each once although several providers tell it.

    trusted  providers, the most trusted first. Of one day and effect all actions of the first provider that has any
             count; what another dates otherwise by up to SAME_ACTION_NS is the same action.
    """
    place = {feed: number for number, feed in enumerate(trusted)}
    groups: dict[tuple[str, str], list[tuple[int, int, Known]]] = {}
    for row in versions(rows, as_of):
        if row.effect and row.ts_event <= as_of:
            groups.setdefault((row.symbol, row.effect), []).append((row.ts_event, place.get(row.feed, len(place)), row))
    result: list[Known] = []
    for group in groups.values():
        best: dict[int, int] = {}
        for day, rank, _ in group:
            best[day] = min(rank, best.get(day, rank))
        days = sorted(best)
        for i, day in enumerate(days):
            near = [best[other] for other in (*days[max(0, i - 1) : i], *days[i + 1 : i + 2]) if _near(day, other)]
            if all(rank >= best[day] for rank in near):
                result += [row for at, rank, row in group if at == day and rank == best[day]]
    return sorted(result, key=lambda row: (row.ts_event, row.symbol, row.action_id))


def _near(day: int, other: int) -> bool:
    return abs(day - other) < SAME_ACTION_NS


def steps(actions: Iterable[Known], close_before: Callable[[int], float | None]) -> Steps:
    """Factors of one series from the actions of its symbol, as ``applied`` gives them.

    close_before  of an ex date in ns: the last close before it, None where there is none (nothing is before it then)
    """
    split: dict[int, float] = {}
    cash: dict[int, float] = {}
    for action in actions:
        ratio = payout = 1.0
        if action.effect == "ratio":
            assert action.ratio is not None
            ratio = action.ratio
        elif action.effect == "cash":
            assert action.amount is not None
            close = close_before(action.ts_event)
            if close is not None and action.amount < close:  # no company pays more than it is worth: a vendor's fault
                payout = 1.0 - action.amount / close
        split[action.ts_event] = split.get(action.ts_event, 1.0) / ratio
        cash[action.ts_event] = cash.get(action.ts_event, 1.0) * payout
    days = sorted(split)
    starts = np.array([np.iinfo(np.int64).min, *days], np.int64)
    return Steps(starts, _after([split[day] for day in days]), _after([cash[day] for day in days]))


def _after(factors: list[float]) -> np.ndarray:
    """(n + 1,): the product of all factors, then of those after the first, … at last 1."""
    result = np.ones(len(factors) + 1)
    for i in range(len(factors) - 1, -1, -1):
        result[i] = result[i + 1] * factors[i]
    return result


@dataclass(frozen=True)
class Conflict:
    """Two providers that do not say the same of what should be one action. ``second`` is None: it does not have it."""

    symbol: str
    effect: str
    what: str
    first: Known
    second: Known | None = None
    missing_in: str = ""


def conflicts(rows: Iterable[Known], as_of: int) -> list[Conflict]:
    """Where providers differ in what they say now: another ex date, another value, or an action that one lacks.

    An action is missing in a provider only between the first and the last day of which that one has anything.
    """
    groups: dict[tuple[str, str], dict[str, list[Known]]] = {}
    for row in sorted(versions(rows, as_of), key=lambda row: (row.ts_event, row.action_type, row.action_id)):
        if row.effect:
            groups.setdefault((row.symbol, row.effect), {}).setdefault(row.feed, []).append(row)
    found: list[Conflict] = []
    for (symbol, effect), by_feed in sorted(groups.items()):
        feeds = sorted(by_feed)
        for i, one in enumerate(feeds):
            for other in feeds[i + 1 :]:
                found += _between(symbol, effect, by_feed[one], by_feed[other], other)
                found += _lacking(symbol, effect, by_feed[other], by_feed[one], one)
    return found


def _between(symbol: str, effect: str, ours: list[Known], theirs: list[Known], feed: str) -> list[Conflict]:
    """What ``theirs`` say otherwise than ``ours``, or do not have."""
    found = _lacking(symbol, effect, ours, theirs, feed)
    for day in sorted({row.ts_event for row in ours}):
        first = next(row for row in ours if row.ts_event == day)
        second = min(theirs, key=lambda row: abs(row.ts_event - day))
        if not _near(day, second.ts_event):
            continue
        if second.ts_event != day and not any(row.ts_event == second.ts_event for row in ours):
            found.append(Conflict(symbol, effect, "ex date", first, second))
        if not math.isclose(_value(ours, day), _value(theirs, second.ts_event), rel_tol=SAME_VALUE):
            found.append(Conflict(symbol, effect, "value", first, second))
    return found


def _lacking(symbol: str, effect: str, ours: list[Known], theirs: list[Known], feed: str) -> list[Conflict]:
    """What of ours lies within the days that they have, and they do not have."""
    first, last = min(row.ts_event for row in theirs), max(row.ts_event for row in theirs)
    return [
        Conflict(symbol, effect, "missing", row, missing_in=feed)
        for row in sorted(ours, key=lambda row: row.ts_event)
        if first <= row.ts_event <= last and not any(_near(row.ts_event, other.ts_event) for other in theirs)
    ]


def _value(rows: list[Known], day: int) -> float:
    """What a day's actions come to: the sum of cash, or the product of ratios."""
    of_day = [row for row in rows if row.ts_event == day]
    if of_day[0].effect == "cash":
        return math.fsum(row.amount or 0.0 for row in of_day)
    return math.prod(row.ratio or 1.0 for row in of_day)
