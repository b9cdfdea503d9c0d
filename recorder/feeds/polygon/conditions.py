"""Massive's integers for sale conditions → which trades may set a price and which count in volume."""

from __future__ import annotations

from collections.abc import Sequence

from recorder.core.eligibility import polygon_eligibility, polygon_unknown
from recorder.values.tables import NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

# OPRA's letters are numbered in the order of ASCII, A 201 to Z 226, a 227 to v 248 (a secondary list). Sent today:
_OPRA_REGULAR = frozenset("HIJSabcde")
# Late and out of sequence; packages of several legs, whose prices are off the market; proprietary products; extended
# hours. They trade, and set no price.
_OPRA_VOLUME = frozenset("BDFfghijklmnopqrstuv")
_OPRA_CANCELS = frozenset("ACEG")  # of prints before
_OPRA_FIRST, _OPRA_LOWER = 201, 227


def stock_flags(conditions: Sequence[int], tape: int | None) -> tuple[int, list[int]]:
    """Flags of a stock's trade, and which of its conditions nobody knows. ``tape``: 1 to 3."""
    return polygon_eligibility(conditions, tape), polygon_unknown(conditions)


def option_flags(conditions: Sequence[int], tape: int | None) -> tuple[int, list[int]]:
    """The same of an option's trade, which has no tape. The strictest condition wins."""
    flags, unknown = 0, []
    for number in conditions:
        letter = _opra(number)
        if letter and letter in _OPRA_CANCELS:
            flags |= NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
        elif letter not in _OPRA_REGULAR and number != 0:
            flags |= NOT_LAST_ELIGIBLE  # also one that nobody knows: it sets no price and adds to volume
            if letter not in _OPRA_VOLUME:
                unknown.append(number)
    return flags, unknown


def _opra(number: int) -> str:
    """OPRA's letter; empty for what is none."""
    if _OPRA_LOWER <= number < _OPRA_LOWER + 26:
        return chr(ord("a") + number - _OPRA_LOWER)
    return chr(ord("A") + number - _OPRA_FIRST) if _OPRA_FIRST <= number < _OPRA_LOWER else ""
