"""Arguments that choose rows: what any provider's names are made of is taken, what could leave quotes in SQL is not."""

from __future__ import annotations

import argparse

import pytest

from recorder.commands import filters
from recorder.values.errors import ConfigError, SymbolError
from recorder.values.symbols import ticker


@pytest.mark.parametrize(
    "name", ["AAPL", "^GSPC", "EURUSD=X", "BRK.B", "AAPL  251219C00150000", "币安人生-USDT", "1000$-USD"]
)
def test_names_of_providers_are_taken_as_they_are(name: str) -> None:
    assert filters.name(name) == name
    assert filters.among("symbol", [name]) == f"symbol IN ('{name}')"


@pytest.mark.parametrize("name", ["", "A'B", 'A"B', "A\\", "A;B", "A\nB", "A\n", "A\0", "A" * 129])
def test_what_could_end_a_text_in_sql_is_no_name(name: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        filters.name(name)
    with pytest.raises(ConfigError):
        filters.among("symbol", [name])


@pytest.mark.parametrize("name", ["", "../x", "a b", "a'b", ".a", "a" * 65])
def test_rows_are_named_like_configured_feeds_only(name: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no name of a feed"):
        filters.feed(name)


@pytest.mark.parametrize("text", ["..", "../x", "A/../B", "A..B"])
def test_no_ticker_leads_out_of_a_folder(text: str) -> None:
    with pytest.raises(SymbolError):
        ticker(text)
