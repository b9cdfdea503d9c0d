"""Symbols that become others: what a feed's configured symbols are called now. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Rename:
    """From ``ts_event`` on, ns, ``old`` is called ``new``."""

    ts_event: int
    old: str
    new: str


def renamed(symbols: tuple[str, ...], renames: Iterable[Rename], written: int, now: int) -> tuple[str, ...]:
    """What the symbols that somebody wrote down at ``written`` are called at ``now``, ns both; each once, in order.

    A rename before ``written`` was known to who wrote: the name is then that of another company (META was one before
    Facebook took it), and stays.
    """
    due = sorted(rename for rename in set(renames) if written < rename.ts_event <= now)
    names = {symbol: symbol for symbol in symbols}  # as configured → now
    at = 0
    while at < len(due):
        day = due[at].ts_event
        same = {rename.old: rename.new for rename in due[at:] if rename.ts_event == day}
        names = {symbol: same.get(name, name) for symbol, name in names.items()}  # at once: two may swap their names
        at += sum(rename.ts_event == day for rename in due[at:])
    return tuple(dict.fromkeys(names.values()))
