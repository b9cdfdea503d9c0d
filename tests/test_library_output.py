"""Rows of `recorder.provider` as Arrow, polars and pandas: every column with its type, every value as it was."""

from __future__ import annotations

import math
from typing import Any

import pandas
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.commands.library import Rows, row_type
from recorder.values.schema import Column
from recorder.values.tables import BARS, CORPORATE_ACTIONS, OPTIONS_CHAIN, QUOTES, TRADES

GIVEN = (BARS, TRADES, QUOTES, OPTIONS_CHAIN, CORPORATE_ACTIONS)
TIME_MIN, TIME_MAX = -(1 << 62), 1 << 62  # 1823 to 2116
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "timestamp": st.integers(TIME_MIN, TIME_MAX),
    "long": st.integers(-(1 << 63) + 1, (1 << 63) - 1),
    "int": st.integers(-(1 << 31) + 1, (1 << 31) - 1),
    "double": st.floats(allow_nan=False),
}
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
ARROW = {"timestamp": pa.timestamp("ns", "UTC"), "long": pa.int64(), "int": pa.int32(), "double": pa.float64()}
POLARS = {
    "timestamp": polars.Datetime("ns", "UTC"), "long": polars.Int64(), "int": polars.Int32(),
    "double": polars.Float64(),
}  # fmt: skip
PANDAS = {"timestamp": "datetime64[ns, UTC]", "long": "Int64", "int": "Int32", "double": "float64"}


def columns(table: Any) -> list[tuple[str, str]]:
    """Names with the kinds of their types, the feed and the symbol of a series as texts."""
    found: list[tuple[str, str]] = []
    for column in table.columns:
        assert isinstance(column, Column)
        names = ("feed", "symbol") if column.name == "series" else (column.name,)
        found += [(name, column.type.kind if column.type.kind in VALUES else "text") for name in names]
    return found


@st.composite
def rows(draw: st.DrawFn, table: Any) -> Rows:
    """Any values, and null wherever it may be."""
    kinds = columns(table)
    some = st.fixed_dictionaries({
        name: VALUES.get(kind, TEXT) if name in ("ts_event", "feed", "symbol") else st.none() | VALUES.get(kind, TEXT)
        for name, kind in kinds
    })  # fmt: skip
    return Rows(table, [row_type(table)(**values) for values in draw(st.lists(some, max_size=5))])


def same(found: list[Any], rows: Rows, name: str) -> bool:
    return [None if isinstance(v, float) and math.isnan(v) else v for v in found] == [getattr(r, name) for r in rows]


@pytest.mark.parametrize("table", GIVEN, ids=lambda table: table.name)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_each_output_has_typed_columns_and_the_values_of_the_rows(table: Any, data: st.DataObject) -> None:
    given_rows = data.draw(rows(table))
    arrow, frame, pandas_frame = given_rows.arrow(), given_rows.polars(), given_rows.pandas()
    names = [name for name, _ in columns(table)]
    assert arrow.column_names == frame.columns == list(pandas_frame.columns) == names
    assert arrow.num_rows == len(frame) == len(pandas_frame) == len(given_rows)
    for name, kind in columns(table):
        assert arrow.schema.field(name).type == ARROW.get(kind, pa.string())
        assert frame.schema[name] == POLARS.get(kind, polars.String())
        series = pandas_frame[name]
        if kind in PANDAS:
            assert str(series.dtype) == PANDAS[kind]
        else:
            assert pandas.api.types.is_string_dtype(series.dtype)
        if kind == "timestamp":
            ns = [None if pandas.isna(each) else each.value for each in series]
            assert same(arrow.column(name).cast(pa.int64()).to_pylist(), given_rows, name)
            assert same(frame[name].cast(polars.Int64).to_list(), given_rows, name)
            assert same(ns, given_rows, name)
        else:
            plain = [None if each is pandas.NA else each for each in series.tolist()]
            assert same(arrow.column(name).to_pylist(), given_rows, name)
            assert same(frame[name].to_list(), given_rows, name)
            assert same(plain, given_rows, name)
