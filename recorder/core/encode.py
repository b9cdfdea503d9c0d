"""Rows to ILP: the bytes QuestDB's ``POST /write`` takes, protocol version 2 (binary doubles).

One compiled function writes every table: a table's declaration becomes a plan of numbers (``Plan``), and columns are
read from the raw bytes of the rows. Texts are copied from heaps in which they are escaped already. The official client
writes the same bytes (``encode_client.encode_with_client``, the oracle of tests/test_encode.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from recorder.compiled import njit
from recorder.core.batch import Output, Rows, escape_symbol
from recorder.core.unaligned import load64, load_i32, load_i64, store16, store64
from recorder.values.schema import INT_NULL, LONG_NULL, TEXT_NULL, Label, Table
from recorder.values.tables import TABLES

BUFFER_BYTES_INITIAL = 1 << 16  # a request of about 200 trades; doubled when a block does not fit
BUFFER_BYTES_KEPT_MAX = 64 << 20  # a larger buffer, grown for one exceptional block, is given back after it
SLACK_BYTES = 64  # the compiled code stores eight bytes at a time and may run over the end of a value
INTEGER_BYTES_MAX = 21  # sign, 19 digits, unit
DOUBLE_BYTES = 10  # "=", type byte, eight bytes

# Kinds of a plan's columns: symbols first, then fields, as the protocol wants them.
_SERIES, _SYMBOL, _LABEL, _DOUBLE, _LONG, _INT, _TIMESTAMP, _VARCHAR = range(8)
_KINDS = {
    "series": _SERIES,
    "symbol": _SYMBOL,
    "label": _LABEL,
    "double": _DOUBLE,
    "long": _LONG,
    "int": _INT,
    "timestamp": _TIMESTAMP,
    "varchar": _VARCHAR,
}
_BAD_TEXT = 1  # the compiled function met an id that its dictionary does not hold

_NAN_ABOVE = np.uint64(0x7FF0000000000000)
_MAGNITUDE = np.uint64(0x7FFFFFFFFFFFFFFF)
_PAIRS = np.frombuffer("".join(f"{i:02d}" for i in range(100)).encode(), np.uint8).copy().view(np.uint16)


@dataclass(frozen=True)
class Dictionary:
    """The texts and series that rows name by id, as they stood when the rows were sealed.

    heap[offsets[i]:offsets[i + 1]] is text i, escaped for ILP; a series is ``,feed=…,symbol=…`` as a whole. ``origin``
    is what the snapshot was taken of: later snapshots of the same origin know every id of earlier ones.
    """

    text_heap: np.ndarray
    text_offsets: np.ndarray
    series_heap: np.ndarray
    series_offsets: np.ndarray
    origin: object = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, output: Output) -> Dictionary:
        """Snapshot without a copy: the arrays are appended to or replaced, what is in them is never rewritten."""
        texts, prefixes = output.texts, output.series.prefixes
        return cls(
            texts.heap, texts.offsets[: texts.count + 1], prefixes.heap, prefixes.offsets[: prefixes.count + 1], output
        )  # fmt: skip


@dataclass(frozen=True)
class Sealed:
    """A block: sealed batches with the position they reach. ``tables`` may hold empty rows, or nothing at all."""

    position: int
    tables: tuple[Rows, ...]
    dictionary: Dictionary


@dataclass(frozen=True)
class Plan:
    """A table as numbers. ``columns`` is (n, 4) int64: kind, offset in the row, where its name starts, its length.

    ``names`` holds the table's name, then ``,name=`` of every column (``,name==\\x10`` of a double), padded. A label's
    names are whole ``,name=text``: its name start is an index into ``labels``, the bounds within ``names``.
    """

    columns: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    table_bytes: int
    ts_offset: int
    row_bytes_max: int  # of everything but texts


@cache
def plan_of(table: Table) -> Plan:
    """The plan of a table's declaration; ``ts_event`` is the designated timestamp and goes last."""
    offsets = {name: int(table.dtype.fields[name][1]) for name in table.dtype.names}  # type: ignore[index,union-attr]
    names = bytearray(table.name.encode())
    columns: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    row_bytes = len(names) + INTEGER_BYTES_MAX + 2
    for column in sorted(table.columns, key=lambda c: _KINDS[c.type.kind] > _LABEL):
        kind = _KINDS[column.type.kind]
        if column.name == "ts_event":
            continue
        start = len(names)
        if isinstance(column.type, Label):
            first = len(labels)
            labels.append(len(names))
            for text in column.type.names:
                names += b"," + column.name.encode() + b"=" + escape_symbol(text)
                labels.append(len(names))
            columns.append((kind, offsets[column.name], first, len(column.type.names)))
        else:
            if kind != _SERIES:
                suffix = {_DOUBLE: b"==\x10", _VARCHAR: b'="'}.get(kind, b"=")
                names += b"," + column.name.encode() + suffix
            columns.append((kind, offsets[column.name], start, len(names) - start))
        row_bytes += len(names) - start + max(INTEGER_BYTES_MAX, DOUBLE_BYTES)
    names += bytes(SLACK_BYTES)
    return Plan(
        np.array(columns, np.int64).reshape(-1, 4),
        np.frombuffer(bytes(names), np.uint8).copy(),
        np.array(labels or [0], np.int64),
        len(table.name),
        offsets["ts_event"],
        row_bytes,
    )


@njit(nogil=True, cache=True, inline="always")
def _put(out, at, source, start, length):
    """Copy ``length`` bytes; both sides may be touched up to eight bytes further."""
    for k in range(0, length, 8):
        store64(out, at + k, load64(source, start + k))
    return at + length


@njit(nogil=True, cache=True)
def _put_text(out, at, heap, start, length):
    """Copy ``length`` bytes of a heap that may end right behind them."""
    if start + length + 8 <= heap.size:
        return _put(out, at, heap, start, length)
    for k in range(length):
        out[at + k] = heap[start + k]
    return at + length


@njit(nogil=True, cache=True)
def _put_integer(out, at, value, pairs):
    """Write ``value`` in decimal, two digits a step from the right."""
    left = np.uint64(value)
    if value < 0:
        out[at] = 45  # -
        at += 1
        left = np.uint64(0) - left
    digits = 1
    bound = np.uint64(10)
    while digits < 19 and left >= bound:
        bound *= np.uint64(10)
        digits += 1
    to = at + digits
    while left >= np.uint64(100):
        rest = left // np.uint64(100)
        to -= 2
        store16(out, to, pairs[left - rest * np.uint64(100)])
        left = rest
    if left >= np.uint64(10):
        store16(out, to - 2, pairs[left])
    else:
        out[to - 1] = np.uint8(np.uint64(48) + left)
    return at + digits


@njit(nogil=True, cache=True)
def _encode(
    rows, row_size, first, count, columns, names, labels, table_bytes, ts_offset, row_bytes_max,
    text_heap, text_offsets, series_heap, series_offsets, varchar_heap, varchar_offsets, pairs, out, at,
):  # fmt: skip
    """Write rows ``first`` to ``count`` as ILP lines into ``out`` from ``at`` on.

    rows    (count * row_size,) uint8, the rows as they lie in memory
    out     (bytes,) uint8; a row is begun only when it fits with ``row_bytes_max`` to spare
    Returns (next row, next byte, 0); next row < count: ``out`` is full, call again from there with a larger one.
    The third is _BAD_TEXT when a row names a text that is in no heap: our own bug, nothing of that row was written.
    A row with neither symbol nor field has no line in this protocol and is left out, as the client does.
    """
    limit = out.size - row_bytes_max
    for row in range(first, count):
        begin = at
        base = row * row_size
        if at > limit:
            return row, begin, 0
        at = _put(out, at, names, 0, table_bytes)
        separator = np.uint8(32)  # the first field follows a space, the others a comma
        for c in range(columns.shape[0]):
            kind, where, name, name_bytes = columns[c, 0], base + columns[c, 1], columns[c, 2], columns[c, 3]
            if kind == _LABEL:
                code = np.int64(np.int8(rows[where]))
                if code > 0:
                    if code > name_bytes:
                        return row, begin, _BAD_TEXT
                    start = labels[name + code - 1]
                    at = _put(out, at, names, start, labels[name + code] - start)
            elif kind == _SERIES or kind == _SYMBOL or kind == _VARCHAR:  # noqa: SIM109 - a tuple costs compiled code 4 %
                text = np.int64(load_i32(rows, where))
                if text < 0:
                    continue
                heap, bounds = series_heap, series_offsets
                if kind == _SYMBOL:
                    heap, bounds = text_heap, text_offsets
                elif kind == _VARCHAR:
                    heap, bounds = varchar_heap, varchar_offsets
                if text + 1 >= bounds.size or bounds[text + 1] < bounds[text] or bounds[text + 1] > heap.size:
                    return row, begin, _BAD_TEXT
                start, length = bounds[text], bounds[text + 1] - bounds[text]
                if at + length > limit:
                    return row, begin, 0
                if name_bytes:
                    mark = at
                    at = _put(out, at, names, name, name_bytes)
                    if kind == _VARCHAR:
                        out[mark] = separator
                        separator = np.uint8(44)
                at = _put_text(out, at, heap, start, length)
                if kind == _VARCHAR:
                    out[at] = 34  # "
                    at += 1
            elif kind == _DOUBLE:
                bits = load64(rows, where)
                if bits & _MAGNITUDE <= _NAN_ABOVE:
                    mark = at
                    at = _put(out, at, names, name, name_bytes)
                    out[mark] = separator
                    separator = np.uint8(44)
                    store64(out, at, bits)
                    at += 8
            else:
                if kind == _INT:
                    value = np.int64(load_i32(rows, where))
                    null = value == INT_NULL
                else:
                    value = load_i64(rows, where)
                    null = value == LONG_NULL
                if not null:
                    mark = at
                    at = _put(out, at, names, name, name_bytes)
                    out[mark] = separator
                    separator = np.uint8(44)
                    at = _put_integer(out, at, value, pairs)
                    out[at] = np.uint8(110) if kind == _TIMESTAMP else np.uint8(105)  # n, i
                    at += 1
        if at == begin + table_bytes:
            at = begin
            continue
        out[at] = 32
        # The server reads the null of a LONG as "now"; before 1970 it refuses, and the row is isolated as it should be.
        at = _put_integer(out, at + 1, max(load_i64(rows, base + ts_offset), -1), pairs)
        out[at] = 110  # n
        out[at + 1] = 10
        at += 2
    return count, at, 0


class Encoder:
    """Encodes block after block of any table into one buffer, grown when needed. One per thread."""

    def __init__(self) -> None:
        self._out = np.empty(BUFFER_BYTES_INITIAL, np.uint8)

    def encode(self, rows: Rows, dictionary: Dictionary) -> memoryview:
        """ILP lines of ``rows``, one a row, in their order. The view is valid until the next call.

        Raises ValueError for a row naming a text that is neither in ``dictionary`` nor in ``rows``.
        """
        plan = plan_of(rows.table)
        assert rows.rows.dtype == rows.table.dtype
        if len(self._out) > BUFFER_BYTES_KEPT_MAX:
            self._out = np.empty(BUFFER_BYTES_INITIAL, np.uint8)
        count = len(rows.rows)
        # One type of array, one compiled function: read-only and strided arrays would each get their own.
        data = np.require(rows.rows, requirements=["C", "W"]).view(np.uint8)
        row, at = 0, 0
        while True:
            row, at, fault = _encode(
                data, rows.table.dtype.itemsize, row, count, plan.columns, plan.names, plan.labels, plan.table_bytes,
                plan.ts_offset, plan.row_bytes_max + SLACK_BYTES, dictionary.text_heap, dictionary.text_offsets,
                dictionary.series_heap, dictionary.series_offsets, rows.varchar_heap, rows.varchar_offsets, _PAIRS,
                self._out, at,
            )  # fmt: skip
            if fault:
                raise ValueError(f"{rows.table.name}: row {row} names a text or label that is in no dictionary")
            if row == count:
                return self._out[:at].data
            grown = np.empty(2 * len(self._out), np.uint8)
            grown[:at] = self._out[:at]
            self._out = grown


def encode(rows: Rows, dictionary: Dictionary) -> memoryview:
    """ILP lines of ``rows`` in a buffer of their own; see Encoder for one that is reused."""
    return Encoder().encode(rows, dictionary)


def sort_rows(rows: Rows) -> Rows:
    """Rows in the order of ts_event, equal ones as they came; the same object when they are in order already."""
    ts = np.ascontiguousarray(rows.rows["ts_event"])
    if len(ts) < 2 or bool((ts[1:] >= ts[:-1]).all()):
        return rows
    return replace(rows, rows=rows.rows[np.argsort(ts, kind="stable")])


def merge_rows(parts: list[Rows]) -> Rows:
    """Rows of several blocks of one table, one after the other, as if sealed together."""
    if len(parts) == 1:
        return parts[0]
    table = parts[0].table
    varchars = [c.name for c in table.columns if c.type.kind == "varchar"]
    rows = np.concatenate([p.rows for p in parts])
    heaps: list[np.ndarray] = []
    offsets: list[np.ndarray] = [np.zeros(1, np.int64)]
    texts, bytes_used, row = 0, 0, 0
    for part in parts:
        here = rows[row : row + len(part.rows)]
        row += len(part.rows)
        used = 1 + max((int(part.rows[name].max()) for name in varchars if len(part.rows)), default=TEXT_NULL)
        if used:
            for name in varchars:
                here[name][here[name] >= 0] += texts
            size = int(part.varchar_offsets[used])
            heaps.append(part.varchar_heap[:size])
            offsets.append(part.varchar_offsets[1 : used + 1] + bytes_used)
            texts, bytes_used = texts + used, bytes_used + size
    heap = np.concatenate(heaps) if heaps else np.zeros(0, np.uint8)
    return Rows(table, rows, heap, np.concatenate(offsets))


def warm() -> None:
    """Compile the encoder, or load it from the cache: afterwards no call compiles anything."""
    output = Output()
    dictionary = Dictionary.of(output)
    for table in TABLES.values():
        rows = np.zeros(1, table.dtype)
        for column in table.columns:
            if column.type.kind in ("series", "symbol", "varchar"):
                rows[column.name] = TEXT_NULL
        encode(Rows(table, rows, np.zeros(8, np.uint8), np.zeros(2, np.int64)), dictionary)
