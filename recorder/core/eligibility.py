"""Which trades may set a price and which count in volume, by sale condition and tape.

The consolidated matrix of the CTS (tapes A, B), UTDF (C) and TDDS (OTC) specifications. Letters depend on the tape:
`B` is an average price on A and B and an ordinary bunched trade on C; `W` is an average price on C and O alone.
Options have OPRA's letters, which mean other things again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recorder.values.tables import CANCELLED, CORRECTED, DAY_HIGH_LOW, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

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


# Polygon's integers for stocks → the letter that says the same, "" where the number says nothing of price or volume
# (indicators of short sales, financial status, a trade-through exemption). Ids of a list that its own interface
# publishes (/v3/reference/conditions); this copy comes from public client code and is not verified against it.
POLYGON_LETTERS: dict[int, str] = {
    0: "@", 1: "A", 2: "W", 3: "E", 4: "B", 5: "G", 7: "C", 8: "6", 9: "X", 10: "4", 11: "D", 12: "T", 13: "U", 14: "F",
    15: "M", 16: "Q", 17: "O", 18: "5", 19: "6", 20: "N", 21: "H", 22: "P", 23: "K", 24: "K", 25: "O", 27: "1",
    28: "5", 29: "R", 30: "L", 31: "L", 32: "Z", 33: "Z", 34: "S", 36: "Y", 37: "I", 38: "9", 41: "", 52: "V", 53: "7",
    # 6 is CAP election, for which CTA once used I: an odd lot today
    **dict.fromkeys((6, 35, 55, 57, 58, 59, 60, *range(62, 72)), ""),
}  # fmt: skip
# `correction` of Polygon's trades from history: superseded, in error or cancelled, or a record of that; and the print
# that replaces one. Absent or 0: a trade like others. Not verified.
_POLYGON_WITHDRAWN, _POLYGON_REPLACES = frozenset({1, 7, 8, 10, 11}), 12

# OPRA's letters of options' trades.
_OPRA_REGULAR = frozenset(" HIJSabcde")
# They trade, and set no price: late and out of sequence; packages of several legs, whose prices are off the market;
# proprietary products; extended hours; and letters of older recordings, whose effect is not published.
_OPRA_VOLUME = frozenset("BDFfghijklmnopqrstuv" + "KLMNOPQRTX")
_OPRA_CANCELS = frozenset("ACEG")  # of prints before, which they do not name


def combined(conditions: Sequence[str], tape: str | None) -> int:
    """The entry of TABLE that all conditions of a trade give together; without any, a regular sale."""
    return _strictest([_of_letter(code, tape) for code in conditions])


def eligibility(conditions: Sequence[str], tape: str | None) -> int:
    """Bits NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE and DAY_HIGH_LOW of a trade's flags.

    conditions  single letters in any order, as sent
    tape        A, B, C, O, N or None
    A price that counts only under a condition on other trades (first of the day, same participant as the current last)
    does not count: those prints are late, and whoever takes their price as the last one runs backwards in time. They
    may set the high and the low of their day.
    Meant to be asked once per distinct (conditions, tape); callers keep the answer.
    """
    return _flags(combined(conditions, tape))


def unknown_conditions(conditions: Sequence[str], tape: str | None) -> list[str]:
    """Those conditions that the matrix of this tape does not have, to be counted and looked up."""
    return [code for code in conditions if combined((code,), tape) & UNKNOWN]


def polygon_eligibility(conditions: Sequence[int], tape: int | None) -> int:
    """As ``eligibility``, of Polygon's integers for stocks; tape 1, 2, 3 (A, B, C) or None.

    The provider has resolved what a letter meant on its tape: only 30 and 31, sold last, depend on the tape.
    """
    return _flags(_strictest([_of_id(number, tape) for number in conditions]))


def polygon_unknown(conditions: Sequence[int]) -> list[int]:
    """Those of Polygon's integers that are not in our copy of its list."""
    return [number for number in conditions if number not in POLYGON_LETTERS]


def polygon_correction(correction: int | None) -> int:
    """Flags that Polygon's ``correction`` of a trade adds: CANCELLED, CORRECTED or none."""
    if correction in _POLYGON_WITHDRAWN:
        return CANCELLED
    return CORRECTED if correction == _POLYGON_REPLACES else 0


def option_eligibility(letters: Sequence[str]) -> int:
    """As ``eligibility``, of OPRA's letters. The strictest wins; one that nobody knows adds to volume alone."""
    flags = 0
    for letter in letters:
        if letter in _OPRA_CANCELS:
            flags |= NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
        elif letter not in _OPRA_REGULAR:
            flags |= NOT_LAST_ELIGIBLE
    return flags


def option_unknown(letters: Sequence[str]) -> list[str]:
    """Those that are none of OPRA's letters."""
    return [letter for letter in letters if letter not in _OPRA_REGULAR | _OPRA_VOLUME | _OPRA_CANCELS]


def _of_letter(code: str, tape: str | None) -> int:
    row = TABLE[TAPES.get(tape or "", OTHER)]
    return int(row[ord(code)]) if len(code) == 1 and ord(code) < CODES else VOLUME | UNKNOWN


def _of_id(number: int, tape: int | None) -> int:
    letter = POLYGON_LETTERS.get(number)
    if letter == "":
        return _REGULAR
    if letter is None:
        return VOLUME | UNKNOWN
    if letter == "L":
        return int(TABLE[TAPE_C if tape == TAPE_C else TAPE_A, ord(letter)])
    return int(TABLE[TAPE_A if letter == "E" else TAPE_C, ord(letter)])  # E: automatic execution is CTA's alone


def _strictest(entries: Sequence[int]) -> int:
    allowed, conditional = _ALLOWED, 0
    for entry in entries:
        allowed &= entry
        conditional |= entry & ~_ALLOWED
    return allowed | conditional


def _flags(entry: int) -> int:
    flags = 0
    if not entry & LAST or entry & (FIRST_ONLY | NEEDS_PARTICIPANT | UNKNOWN):
        flags |= NOT_LAST_ELIGIBLE
        if entry & HIGH_LOW and not entry & UNKNOWN:
            flags |= DAY_HIGH_LOW
    if not entry & VOLUME:
        flags |= NOT_VOLUME_ELIGIBLE
    return flags
