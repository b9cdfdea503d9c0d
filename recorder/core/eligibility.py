"""Which trades may set a price and which count in volume, by sale condition and tape.

The consolidated matrix of the CTS (tapes A, B), UTDF (C) and TDDS (OTC) specifications. Letters depend on the tape:
`B` is an average price on A and B and an ordinary bunched trade on C; `W` is an average price on C and O alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recorder.values.tables import NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

# Bits of a table entry.
OPEN, LAST, HIGH_LOW, VOLUME = 1, 2, 4, 8  # may set, and adds to: combined by AND, so the strictest condition wins
FIRST_ONLY = 16  # sets last only as the first qualifying trade of the day: combined by OR, as are the next two
NEEDS_PARTICIPANT = 32  # sets last only for the participant of the current last, or the listing market
UNKNOWN = 64  # not in the matrix: the tick is kept, sets no price, adds to volume

_ALLOWED = OPEN | LAST | HIGH_LOW | VOLUME
_PRICE = OPEN | LAST | HIGH_LOW
CODES = 128  # conditions are single ASCII characters

# Tapes as rows of TABLE. 0 is any other: overnight (N), none; there only what CTA and UTP agree on is known.
OTHER, TAPE_A, TAPE_B, TAPE_C, TAPE_O = range(5)
TAPES = {"A": TAPE_A, "B": TAPE_B, "C": TAPE_C, "O": TAPE_O}

# What the columns Last, H/L, Vol of the matrix say, as table entries.
_REGULAR = _ALLOWED  # yes, yes, yes
_FIRST = _ALLOWED | FIRST_ONLY  # 1st, yes, yes
_VOLUME_ONLY = VOLUME  # no, no, yes
_NOTHING = 0  # no, no, no: a market centre's own open or close repeats volume that was printed before
_PRICE_ONLY = _PRICE  # yes, yes, no: a corrected consolidated close has no volume
_TO_BE_DEFINED = VOLUME | UNKNOWN  # the specification reserves the letter and says no more

# Space fills the categories of the four-character field that say nothing; `@` is UTP's regular sale, and is sent by
# some in place of the space on A and B.
_BOTH = (
    dict.fromkeys(" @FKOX56", _REGULAR)
    | dict.fromkeys("PZ4", _FIRST)
    | dict.fromkeys("CHRTUV7N", _VOLUME_ONLY)
    | dict.fromkeys("I", _VOLUME_ONLY)
    | dict.fromkeys("MQ", _NOTHING)
    | {"9": _PRICE_ONLY}
)
_CTA = _BOTH | {"B": _VOLUME_ONLY, "E": _REGULAR, "8": _VOLUME_ONLY, "L": _ALLOWED | NEEDS_PARTICIPANT}
_UTP = (
    _BOTH
    | dict.fromkeys("ABDSY1", _REGULAR)
    # L sets last until 16:00:10 New York only; after that the consolidated close is long printed, by one of 6, M or 9.
    | {"L": _REGULAR, "G": _FIRST, "W": _VOLUME_ONLY, "E": _TO_BE_DEFINED, "8": _TO_BE_DEFINED}
)
_TDDS = {"@": _REGULAR, " ": _REGULAR} | dict.fromkeys("CRTUIW", _VOLUME_ONLY) | dict.fromkeys("ZP", _FIRST)


def _table() -> np.ndarray:
    """(5, CODES) uint8, rows as TAPES, columns the character's code."""
    table = np.full((5, CODES), VOLUME | UNKNOWN, np.uint8)
    for row, rules in ((OTHER, _BOTH), (TAPE_A, _CTA), (TAPE_B, _CTA), (TAPE_C, _UTP), (TAPE_O, _TDDS)):
        for code, entry in rules.items():
            table[row, ord(code)] = entry
    table.flags.writeable = False
    return table


TABLE = _table()


def combined(conditions: Sequence[str], tape: str | None) -> int:
    """The entry of TABLE that all conditions of a trade give together; without any, a regular sale."""
    row = TABLE[TAPES.get(tape or "", OTHER)]
    allowed, conditional = _ALLOWED, 0
    for code in conditions:
        entry = int(row[ord(code)]) if len(code) == 1 and ord(code) < CODES else VOLUME | UNKNOWN
        allowed &= entry
        conditional |= entry & ~_ALLOWED
    return allowed | conditional


def eligibility(conditions: Sequence[str], tape: str | None) -> int:
    """Bits NOT_LAST_ELIGIBLE and NOT_VOLUME_ELIGIBLE of a trade's flags.

    conditions  single letters in any order, as sent
    tape        A, B, C, O, N or None
    A price that counts only under a condition on other trades (first of the day, same participant as the current last)
    does not count: those prints are late, and whoever takes their price as the last one runs backwards in time.
    Meant to be asked once per distinct (conditions, tape); callers keep the answer.
    """
    entry = combined(conditions, tape)
    flags = 0
    if not entry & LAST or entry & (FIRST_ONLY | NEEDS_PARTICIPANT | UNKNOWN):
        flags |= NOT_LAST_ELIGIBLE
    if not entry & VOLUME:
        flags |= NOT_VOLUME_ELIGIBLE
    return flags


def unknown_conditions(conditions: Sequence[str], tape: str | None) -> list[str]:
    """Those conditions that the matrix of this tape does not have, to be counted and looked up."""
    return [code for code in conditions if combined((code,), tape) & UNKNOWN]
