"""Massive's integers for sale conditions → which trades may set a price and which count in volume."""

from __future__ import annotations

from collections.abc import Sequence

from recorder.core.eligibility import option_eligibility, option_unknown, polygon_eligibility, polygon_unknown

# OPRA's letters are numbered in the order of ASCII, A 201 to Z 226, a 227 to z 252 (a secondary list).
_OPRA_FIRST, _OPRA_LOWER = 201, 227


def stock_flags(conditions: Sequence[int], tape: int | None) -> tuple[int, list[int]]:
    """Flags of a stock's trade, and which of its conditions nobody knows. ``tape``: 1 to 3."""
    return polygon_eligibility(conditions, tape), polygon_unknown(conditions)


def option_flags(conditions: Sequence[int], tape: int | None) -> tuple[int, list[int]]:
    """The same of an option's trade, which has no tape. The strictest condition wins."""
    letters = {number: _opra(number) for number in conditions}
    unknown = [number for number, letter in letters.items() if option_unknown([letter])]
    return option_eligibility(list(letters.values())), unknown


def _opra(number: int) -> str:
    """OPRA's letter; a space for none (0), empty for what is not known."""
    if _OPRA_LOWER <= number < _OPRA_LOWER + 26:
        return chr(ord("a") + number - _OPRA_LOWER)
    if _OPRA_FIRST <= number < _OPRA_LOWER:
        return chr(ord("A") + number - _OPRA_FIRST)
    return "" if number else " "
