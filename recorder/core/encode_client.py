"""The same rows through the official client: the choice ``encoder = "client"``, and the encoder's oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from recorder.core.batch import Rows
from recorder.core.encode import Dictionary
from recorder.values.schema import INT_NULL, LONG_NULL, Column, Label

CLIENT_BUFFER_BYTES_INITIAL = 1 << 16


def unescape(escaped: bytes) -> str:
    """The text whose ILP form is ``escaped``: a backslash means the character behind it."""
    result = bytearray()
    characters = iter(escaped)
    for byte in characters:
        result.append(next(characters, byte) if byte == 0x5C else byte)
    return result.decode("utf-8", "replace")


def split_series(prefix: bytes) -> tuple[str, str]:
    """(feed, symbol) of ``,feed=…,symbol=…``."""
    at = len(b",feed=")
    while prefix[at : at + 1] not in (b",", b""):
        at += 2 if prefix[at] == 0x5C else 1
    return unescape(prefix[len(b",feed=") : at]), unescape(prefix[at + len(b",symbol=") :])


def _text(heap: np.ndarray, offsets: np.ndarray, id_: int) -> bytes:
    return heap[offsets[id_] : offsets[id_ + 1]].tobytes()


def _value(column: Column, raw: Any, rows: Rows, dictionary: Dictionary) -> Any:
    """A column's value as Python has it; None for null."""
    kind = column.type.kind
    if kind == "double":
        return None if math.isnan(raw) else float(raw)
    number = int(raw)
    if kind in ("long", "timestamp"):
        return None if number == LONG_NULL else number
    if kind == "int":
        return None if number == INT_NULL else number
    if isinstance(column.type, Label):
        return column.type.names[number - 1] if number > 0 else None
    if number < 0:
        return None
    if kind == "varchar":
        return unescape(_text(rows.varchar_heap, rows.varchar_offsets, number))
    return unescape(_text(dictionary.text_heap, dictionary.text_offsets, number))


def values_of(rows: Rows, dictionary: Dictionary) -> Iterator[dict[str, Any]]:
    """Each row as {SQL column: value}, None for null, series as feed and symbol, times as int ns."""
    for raw in rows.rows:
        values: dict[str, Any] = {}
        for column in rows.table.columns:
            if column.type.kind == "series":
                known = int(raw[column.name]) >= 0
                prefix = (
                    _text(dictionary.series_heap, dictionary.series_offsets, int(raw[column.name])) if known else b""
                )
                values["feed"], values["symbol"] = split_series(prefix) if known else (None, None)
            else:
                values[column.name] = _value(column, raw[column.name], rows, dictionary)
        yield values


def describe_row(values: dict[str, Any]) -> str:
    """A row in one readable line, without its nulls, for logs and the table ``rejected``."""
    return " ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def feed_of(values: dict[str, Any]) -> str:
    return str(values.get("feed") or "")


def encode_with_client(rows: Rows, dictionary: Dictionary) -> bytes:
    """ILP lines of ``rows`` as the official client writes them.

    Raises what the client raises, ValueError for a timestamp before 1970 among them: it does not send such rows.
    """
    from questdb import TimestampNanos  # 0.25 s to import, and only who asks for it pays
    from questdb.ingress import Buffer

    kinds = {c.name: c.type.kind for c in rows.table.columns}
    symbols = {"feed", "symbol"} if "series" in kinds else set()
    symbols |= {name for name, kind in kinds.items() if kind in ("symbol", "label")}
    times = {name for name, kind in kinds.items() if kind == "timestamp"}
    buffer = Buffer(protocol_version=2, init_buf_size=CLIENT_BUFFER_BYTES_INITIAL)
    for values in values_of(rows, dictionary):
        at = TimestampNanos(values.pop("ts_event"))
        for name in times:
            if values.get(name) is not None:
                values[name] = TimestampNanos(values[name])
        named = {name: value for name, value in values.items() if name in symbols}
        fields = {name: value for name, value in values.items() if name not in symbols}
        buffer.row(rows.table.name, symbols=named, columns=fields, at=at)
    return bytes(buffer)
