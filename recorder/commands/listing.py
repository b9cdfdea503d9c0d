"""Tables on a screen, for commands that list rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

PIPED_WIDTH = 1 << 12  # into a file or another program, no line is broken


def show(title: str, names: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str]) -> None:
    """Print rows of text under their names; the columns of ``right`` are flush right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # a provider's words are no markup
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False).print(title, table, sep="\n")


def number(value: int | None) -> str:
    """``1,234``, or a dash for what is not known."""
    return "–" if value is None else f"{value:,}"


def choice(args: argparse.Namespace) -> str:
    """The end of a sentence that says that there is nothing: whether more than a day was asked for."""
    return " by that choice" if any((args.feed, args.symbol, args.channel)) else ""
