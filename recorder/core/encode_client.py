"""The same rows through the official client: the choice ``encoder = "client"``, and the encoder's oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

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


def _reader(column: Column, rows: Rows, dictionary: Dictionary) -> Callable[[Any], Any]:
    """A function from what a row holds to the value as Python has it; None for null."""
    kind = column.type.kind
    if kind == "double":
        return lambda raw: None if raw != raw else raw
    if kind in ("long", "timestamp"):
        return lambda raw: None if raw == LONG_NULL else raw
    if kind == "int":
        return lambda raw: None if raw == INT_NULL else raw
    if isinstance(column.type, Label):
        names = (None, *column.type.names)
        return lambda raw: names[raw] if raw > 0 else None
    read: Callable[[bytes], Any] = unescape
    if kind == "varchar":
        heap, offsets = rows.varchar_heap, rows.varchar_offsets
    elif kind == "series":
        heap, offsets, read = dictionary.series_heap, dictionary.series_offsets, split_series
    else:
        heap, offsets = dictionary.text_heap, dictionary.text_offsets
    known: dict[int, Any] = {}  # each text of this block is read once

    def text(raw: int) -> Any:
        if raw < 0:
            return None
        if raw not in known:
            known[raw] = read(heap[offsets[raw] : offsets[raw + 1]].tobytes())
        return known[raw]

    return text


def values_of(rows: Rows, dictionary: Dictionary) -> Iterator[dict[str, Any]]:
    """Each row as {SQL column: value}, None for null, series as feed and symbol, times as int ns."""
    names = rows.rows.dtype.names or ()
    columns = [(c.name, names.index(c.name), _reader(c, rows, dictionary)) for c in rows.table.columns]
    for raw in rows.rows.tolist():
        values: dict[str, Any] = {}
        for name, index, read in columns:
            value = read(raw[index])
            if name == "series":
                values["feed"], values["symbol"] = value or (None, None)
            else:
                values[name] = value
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
