"""Rows that the recorder makes of itself (latencies, findings), as frames of the journal: there is no other way in.

Payload: JSON ``{"table": name, "rows": [[value, …], …]}``, values in the order of ``Table.packed``. A SYMBOL, VARCHAR
or label is its text or null, a series is ``[feed, symbol]``, a null number is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from recorder.core.batch import Batch, Output
from recorder.values.errors import FrameError
from recorder.values.schema import Column, Label, Table, null_of
from recorder.values.tables import TABLES

NO_SOURCE = 0xFFFF  # in the header of frames that no connection received


class _Payload(msgspec.Struct):
    table: str
    rows: list[list[Any]]


def encode(table: Table, rows: Iterable[Sequence[Any]]) -> bytes:
    """The payload of an OBSERVED frame. Every row has a value for each of ``table.packed``."""
    return msgspec.json.encode(_Payload(table.name, [list(row) for row in rows]))


def store(out: Output, payload: bytes) -> None:
    """Append the rows of an OBSERVED frame. Raises FrameError for what is none: the caller rolls back."""
    try:
        content = msgspec.json.decode(payload, type=_Payload)
    except msgspec.MsgspecError as error:
        raise FrameError(f"observed rows: {error}") from None
    table = TABLES.get(content.table)
    if table is None:
        raise FrameError(f"observed rows of the table {content.table[:40]!r}, which this version does not have")
    batch = out.batches[table.name]
    for row in content.rows:
        if len(row) != len(table.packed):
            raise FrameError(f"observed row of {table.name} with {len(row)} values; expected {len(table.packed)}")
        batch.append(*[_packed(out, batch, column, value) for column, value in zip(table.packed, row, strict=True)])


def _packed(out: Output, batch: Batch, column: Column, value: Any) -> Any:
    kind = column.type.kind
    if kind == "series":
        return out.series.id(*value)
    if value is None:
        return null_of(column.type)
    if kind == "symbol":
        return out.texts.id(value)
    if kind == "varchar":
        return batch.varchar(value)
    if isinstance(column.type, Label):
        return column.type.names.index(value) + 1
    return value
