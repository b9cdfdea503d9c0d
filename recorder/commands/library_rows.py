"""Rows as those who use providers from Python get them: typed structs, or a whole table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, overload

import msgspec

from recorder.values.errors import RecorderError
from recorder.values.schema import Table

_TYPES = {"double": float, "long": int, "int": int, "timestamp": int}


@cache
def row_type(table: Table) -> type[msgspec.Struct]:
    """A struct with the table's columns: times int ns, numbers, texts; None for null."""
    fields: list[Any] = []
    for column in table.columns:
        if column.name == "series":
            fields += [("feed", str), ("symbol", str)]
        else:
            kind = _TYPES.get(column.type.kind, str)
            fields.append((column.name, kind if column.name == "ts_event" else kind | None))
    name = "".join(part.capitalize() for part in table.name.split("_"))
    return msgspec.defstruct(name, fields, frozen=True, gc=False, module=__name__)


class Rows(Sequence[Any]):
    """Rows of a table, as structs (see ``row_type``) or as a whole.

    rejected  why parts of the answers are not among them: what does not fit costs no other row
    """

    def __init__(self, table: Table, rows: Sequence[Any], rejected: Sequence[str] = ()) -> None:
        self.table, self._rows, self.rejected = table, list(rows), tuple(rejected)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Any:
        return Rows(self.table, self._rows[index], self.rejected) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self.table.name}>"

    def arrow(self) -> Any:
        """A pyarrow.Table; times are timestamps with nanoseconds, UTC. Raises RecorderError without pyarrow."""
        pa = _library("pyarrow", "'recorder[export]'")
        kinds = {"double": pa.float64(), "long": pa.int64(), "int": pa.int32(), "timestamp": pa.timestamp("ns", "UTC")}
        types = {column.name: kinds.get(column.type.kind, pa.string()) for column in self.table.columns}
        names = row_type(self.table).__struct_fields__
        columns = [pa.array([getattr(row, name) for row in self._rows], types.get(name, pa.string())) for name in names]
        return pa.table(columns, names=list(names))

    def pandas(self) -> Any:
        """A pandas.DataFrame, by way of ``arrow``; whole numbers stay such beside nulls (Int64, Int32).

        Raises RecorderError without pandas and pyarrow.
        """
        pa, pandas = _library("pyarrow", "'recorder[export]'"), _library("pandas", "pandas")
        whole = {pa.int64(): pandas.Int64Dtype(), pa.int32(): pandas.Int32Dtype()}
        return self.arrow().to_pandas(types_mapper=whole.get)

    def polars(self) -> Any:
        """A polars.DataFrame, by way of ``arrow``. Raises RecorderError without polars and pyarrow."""
        return _library("polars", "polars").from_arrow(self.arrow())


def _library(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise RecorderError(f"this needs {name}: pip install {package}") from None
