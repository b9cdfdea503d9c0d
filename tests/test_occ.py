"""OCC symbols: read and formed exactly, in every spelling that providers use."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.values.errors import SymbolError
from recorder.values.occ import Contract, contract, parse
from recorder.values.tables import CALL, PUT

roots = st.from_regex(r"[0-9]?[A-Z]{1,4}[0-9]?", fullmatch=True)
contracts = st.builds(
    Contract,
    roots,
    st.dates(date(2000, 1, 1), date(2099, 12, 31)),
    st.sampled_from([CALL, PUT]),
    st.integers(0, 99_999_999),
)


@settings(deadline=None)
@given(one=contracts)
def test_every_spelling_of_a_contract_is_read_as_that_contract(one):
    assert len(one.symbol) == 21
    for spelling in (one.symbol, one.compact, f"O:{one.compact}", one.symbol.replace(" ", "-")):
        assert parse(spelling) == one
    assert contract(one.root, one.expiration, one.option_type, one.strike) == one


# docs.alpaca.markets, massive.com and E*TRADE's pages, Cboe's delayed quotes.
@pytest.mark.parametrize(
    ("text", "root", "day", "option_type", "mills"),
    [
        ("AAPL  251219C00150000", "AAPL", date(2025, 12, 19), CALL, 150_000),
        ("AAPL--251219C00150000", "AAPL", date(2025, 12, 19), CALL, 150_000),
        ("O:SPY251219C00650000", "SPY", date(2025, 12, 19), CALL, 650_000),
        ("AAPL240315C00172500", "AAPL", date(2024, 3, 15), CALL, 172_500),
        ("SPXW240327P04925000", "SPXW", date(2024, 3, 27), PUT, 4_925_000),
        ("SPY210601P00290000", "SPY", date(2021, 6, 1), PUT, 290_000),
        ("TSLA1220819C00300000", "TSLA1", date(2022, 8, 19), CALL, 300_000),
        ("F251219P00000500", "F", date(2025, 12, 19), PUT, 500),
    ],
)
def test_published_symbols_mean_what_their_publishers_say(text, root, day, option_type, mills):
    assert parse(text) == Contract(root, day, option_type, mills)


def test_symbols_a_vendor_published_carry_the_columns_beside_them(shared_data):
    lines = (shared_data / "options" / "spx_vendor_sample_options_data.csv").read_text().splitlines()
    names = lines[0].split(",")
    for line in lines[1:]:
        row = dict(zip(names, line.split(","), strict=True))
        found = parse(row["optionroot"])
        assert (found.expiration.isoformat(), found.strike) == (row["expiration"], float(row["strike"]))
        assert (found.option_type == CALL) == (row["type"] == "call")
        assert found.underlying == row["underlying"]


def test_symbols_captured_from_alpaca_survive_both_ways(shared_data):
    found = 0
    for line in (shared_data / "alpaca" / "alpaca_py_fixtures.jsonl").read_text().splitlines():
        for text in set(_occ_like(line)):
            assert parse(text).compact == text
            found += 1
    assert found >= 2


def _occ_like(text):
    return re.findall(r"(?<![A-Z0-9])[A-Z]{1,5}[0-9]{6}[CP][0-9]{8}(?![0-9])", text)


def test_an_adjusted_root_is_read_and_its_underlying_known():
    adjusted = parse("TSLA1220819C00300000")
    assert adjusted.adjusted
    assert adjusted.underlying == "TSLA"
    assert not parse("TSLA220819C00300000").adjusted
    assert [parse(f"{root}251219C00100000").underlying for root in ("SPXW", "NDXP", "BRKB", "BRKB1")] == [
        "SPX", "NDX", "BRK.B", "BRK.B",
    ]  # fmt: skip


def test_an_expiration_is_the_close_of_its_day_and_the_open_for_morning_settlement():
    def when(text):
        return datetime.fromtimestamp(parse(text).expires_ns / 1e9, UTC).isoformat()

    assert when("AAPL251219C00150000") == "2025-12-19T21:00:00+00:00"
    assert when("AAPL250620C00150000") == "2025-06-20T20:00:00+00:00"
    assert when("SPX251219C06000000") == "2025-12-19T14:30:00+00:00"
    assert when("SPXW251219C06000000") == "2025-12-19T21:00:00+00:00"


@pytest.mark.parametrize(
    "text",
    [
        "", "AAPL", "AAPL251219X00150000", "AAPL250230C00150000", "AAPL251219C0015000", "aapl251219C00150000",
        "251219C00150000", "TOOLONG251219C00150000", "AAPL 251219C00150000", "AAPL   251219C00150000",
        "AA-PL251219C00150000", "AAPL12251219C00150000", "AAPL٢٥١٢١٩C00150000",
    ],
)  # fmt: skip
def test_what_is_no_symbol_is_refused_by_name(text):
    with pytest.raises(SymbolError, match=r"OCC symbol|expires on no day|padded"):
        parse(text)


@pytest.mark.parametrize(
    "parts",
    [
        ("AAPL", date(2025, 12, 19), CALL, 150.0001), ("AAPL", date(2025, 12, 19), CALL, -1.0),
        ("AAPL", date(2025, 12, 19), CALL, 1e5), ("AAPL", date(2025, 12, 19), CALL, float("nan")),
        ("AAPL", date(1999, 12, 19), CALL, 150.0), ("BRK.B", date(2025, 12, 19), CALL, 150.0),
    ],
)  # fmt: skip
def test_parts_that_no_symbol_can_hold_are_refused(parts):
    with pytest.raises(SymbolError):
        contract(*parts)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_contract_or_a_symbol_error(text):
    try:
        found = parse(text)
    except SymbolError:
        return
    assert parse(found.symbol) == found


def test_symbols_of_captured_polygon_answers_survive_both_ways(shared_data):
    texts = {
        text
        for path in (shared_data / "polygon").rglob("*")
        if path.is_file()
        for text in _prefixed(path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes()))
    }
    assert len(texts) >= 2, json.dumps(sorted(texts))
    for text in texts:
        assert "O:" + parse(text).compact == text


def _prefixed(data):
    return re.findall(r"O:[A-Z0-9]{1,6}[0-9]{6}[CP][0-9]{8}(?![0-9])", data.decode("utf-8", "replace"))
