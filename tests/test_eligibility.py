"""Sale conditions: the published consolidated matrix, typed in as its documents print it, is the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.eligibility import (
    CODES,
    POLYGON_LETTERS,
    TABLE,
    UNKNOWN,
    combined,
    eligibility,
    option_eligibility,
    option_unknown,
    polygon_correction,
    polygon_eligibility,
    polygon_unknown,
    unknown_conditions,
)
from recorder.values.tables import CANCELLED, CORRECTED, DAY_HIGH_LOW, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

# code, Last, H/L, Vol; "-" where the tape does not have the code. CTS Pillar Output, UTDF and TDDS specifications.
CTA = """
space yes yes yes
@ yes yes yes
B no no yes
C no no yes
E yes yes yes
F yes yes yes
H no no yes
I no no yes
K yes yes yes
L cond yes yes
M no no no
N no no yes
O yes yes yes
P 1st yes yes
Q no no no
R no no yes
T no no yes
U no no yes
V no no yes
X yes yes yes
Z 1st yes yes
4 1st yes yes
5 yes yes yes
6 yes yes yes
7 no no yes
8 no no yes
9 yes yes no
"""
UTP = """
space yes yes yes
@ yes yes yes
A yes yes yes
B yes yes yes
C no no yes
D yes yes yes
E TBD TBD TBD
F yes yes yes
G 1st yes yes
H no no yes
I no no yes
K yes yes yes
L yes yes yes
M no no no
N no no yes
O yes yes yes
P 1st yes yes
Q no no no
R no no yes
S yes yes yes
T no no yes
U no no yes
V no no yes
W no no yes
X yes yes yes
Y yes yes yes
Z 1st yes yes
1 yes yes yes
4 1st yes yes
5 yes yes yes
6 yes yes yes
7 no no yes
8 TBD TBD TBD
9 yes yes no
"""
TDDS = """
@ yes yes yes
C no no yes
R no no yes
T no no yes
U no no yes
I no no yes
W no no yes
Z 1st yes yes
P 1st yes yes
"""


def matrix(text: str) -> dict[str, tuple[str, str, str]]:
    rows = [line.split() for line in text.strip().splitlines()]
    return {" " if code == "space" else code: (last, high_low, volume) for code, last, high_low, volume in rows}


MATRIX = {"A": matrix(CTA), "B": matrix(CTA), "C": matrix(UTP), "O": matrix(TDDS) | {" ": ("yes", "yes", "yes")}}
LETTERS = [chr(i) for i in range(32, 127)]


@pytest.mark.parametrize("tape", MATRIX)
def test_every_letter_of_every_tape_says_what_the_published_matrix_says(tape):
    for letter in LETTERS:
        last, high_low, volume = MATRIX[tape].get(letter, ("unknown", "unknown", "yes"))
        flags = eligibility([letter], tape)
        assert bool(flags & NOT_LAST_ELIGIBLE) == (last != "yes"), (tape, letter)
        assert bool(flags & DAY_HIGH_LOW) == (last != "yes" and high_low == "yes"), (tape, letter)
        assert bool(flags & NOT_VOLUME_ELIGIBLE) == (volume == "no"), (tape, letter)
        assert (unknown_conditions([letter], tape) == [letter]) == (last in ("unknown", "TBD")), (tape, letter)


@pytest.mark.parametrize("tape", MATRIX)
def test_high_and_low_are_kept_in_the_table_for_bars_of_whole_days(tape):
    for letter, (last, high_low, _) in MATRIX[tape].items():
        entry = combined([letter], tape)
        assert bool(entry & 4) == (high_low == "yes")
        assert bool(entry & 16) == (last == "1st")
        assert bool(entry & 32) == (last == "cond")


@pytest.mark.parametrize(
    ("conditions", "tape", "flags"),
    [
        ([], None, 0),
        (["@"], "C", 0),
        ([" ", "7"], "B", NOT_LAST_ELIGIBLE),
        (["@", "I"], "C", NOT_LAST_ELIGIBLE),
        (["@", "F", "T", "I"], "C", NOT_LAST_ELIGIBLE),
        (["B"], "A", NOT_LAST_ELIGIBLE),
        (["B"], "C", 0),
        (["W"], "C", NOT_LAST_ELIGIBLE),
        (["@", "M"], "C", NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE),
        (["9"], "A", NOT_VOLUME_ELIGIBLE),
        (["9", "T"], "A", NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE),
        (["?"], "C", NOT_LAST_ELIGIBLE),
        (["@T"], "C", NOT_LAST_ELIGIBLE),
        (["é"], "A", NOT_LAST_ELIGIBLE),
        ([""], "A", NOT_LAST_ELIGIBLE),
    ],
)
def test_the_strictest_condition_of_a_trade_wins(conditions, tape, flags):
    assert eligibility(conditions, tape) == flags


@given(st.lists(st.sampled_from(LETTERS), max_size=4), st.sampled_from([*MATRIX, "N", None]))
def test_a_trade_may_do_what_each_of_its_conditions_allows_in_any_order(conditions, tape):
    each = [eligibility([letter], tape) for letter in conditions]
    expected = 0
    for flags in each:
        expected |= flags & ~DAY_HIGH_LOW
    if expected & NOT_LAST_ELIGIBLE and all(flags & DAY_HIGH_LOW or not flags & NOT_LAST_ELIGIBLE for flags in each):
        expected |= DAY_HIGH_LOW
    assert eligibility(conditions, tape) == eligibility(conditions[::-1], tape) == expected


# id, Last, H/L, Vol of the names that Polygon publishes for its ids, by the same matrix; tapes where they differ.
POLYGON = """
0 yes yes yes
2 no no yes
5 1st yes yes
7 no no yes
10 1st yes yes
12 no no yes
13 no no yes
14 yes yes yes
15 no no no
16 no no no
17 yes yes yes
19 yes yes yes
21 no no yes
22 1st yes yes
32 1st yes yes
37 no no yes
38 yes yes no
41 yes yes yes
52 no no yes
53 no no yes
60 yes yes yes
"""


@pytest.mark.parametrize("tape", [1, 2, 3, None])
def test_polygons_numbers_say_what_their_names_mean_on_every_tape(tape):
    for number, (last, high_low, volume) in matrix(POLYGON).items():
        flags = polygon_eligibility([int(number)], tape)
        assert bool(flags & NOT_LAST_ELIGIBLE) == (last != "yes"), number
        assert bool(flags & DAY_HIGH_LOW) == (last != "yes" and high_low == "yes"), number
        assert bool(flags & NOT_VOLUME_ELIGIBLE) == (volume == "no"), number


def test_sold_last_depends_on_the_tape_and_an_unknown_number_sets_no_price():
    assert polygon_eligibility([30], 3) == 0
    assert polygon_eligibility([30], 1) == polygon_eligibility([31], 2) == NOT_LAST_ELIGIBLE | DAY_HIGH_LOW
    assert polygon_eligibility([14, 37], 3) == polygon_eligibility([37], 1) == NOT_LAST_ELIGIBLE
    assert polygon_eligibility([999, 22], 3) == NOT_LAST_ELIGIBLE
    assert polygon_unknown([0, 999, 41]) == [999]
    assert polygon_eligibility([], 1) == 0
    assert unknown_conditions([letter for letter in POLYGON_LETTERS.values() if letter], "C") == ["E"]


def test_of_polygons_corrections_a_superseded_trade_does_not_count_and_its_successor_does():
    flags = {code: polygon_correction(code) for code in (None, 0, 1, 7, 8, 10, 11, 12)}
    assert flags == {None: 0, 0: 0, 12: CORRECTED} | dict.fromkeys((1, 7, 8, 10, 11), CANCELLED)


# OPRA's letters and what each does: no price and no volume, volume only, or both as a regular sale.
OPRA = {"no no": "ACEG", "no yes": "BDFfghijklmnopqrstuvKLMNOPQRTX", "yes yes": " HIJSabcde"}


@pytest.mark.parametrize(("effect", "letters"), OPRA.items())
def test_conditions_of_options_say_what_opra_means_by_them_and_not_what_stocks_do(effect, letters):
    last, volume = effect.split()
    for letter in letters:
        flags = option_eligibility([letter])
        assert (bool(flags & NOT_LAST_ELIGIBLE), bool(flags & NOT_VOLUME_ELIGIBLE)) == (last == "no", volume == "no")
        assert flags == option_eligibility(["I", letter])
        assert option_unknown([letter]) == []
    assert option_eligibility(["z"]) == NOT_LAST_ELIGIBLE
    assert option_unknown(["S", "z", "?"]) == ["z", "?"]


def test_on_other_tapes_only_what_both_consolidated_tapes_agree_on_is_known():
    for tape in ("N", None, "X"):
        for letter in LETTERS:
            if not unknown_conditions([letter], tape):
                assert eligibility([letter], tape) == eligibility([letter], "A") == eligibility([letter], "C")
    assert unknown_conditions(["B", "L", "@"], "N") == ["B", "L"]


def test_the_table_covers_all_of_ascii_and_cannot_be_changed():
    assert TABLE.shape == (5, CODES)
    assert TABLE.dtype.name == "uint8"
    assert all(TABLE[:, 0] & UNKNOWN)
    with pytest.raises(ValueError, match="read-only"):
        TABLE[0, 0] = 0
