"""Tables as values: DDL, row layout and the plan for the encoder are derived from one declaration."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

LONG_NULL = -(1 << 63)  # QuestDB's NULL of LONG and of timestamps
INT_NULL = -(1 << 31)
TEXT_NULL = -1  # id of "no text" in SYMBOL and VARCHAR columns of a row


@dataclass(frozen=True)
class Type:
    """A column type: its SQL name, how a row holds it (numpy, struct), and how the encoder writes it."""

    sql: str
    dtype: str
    pack: str
    kind: str


TIMESTAMP = Type("TIMESTAMP_NS", "<i8", "q", "timestamp")
DOUBLE = Type("DOUBLE", "<f8", "d", "double")
LONG = Type("LONG", "<i8", "q", "long")
INT = Type("INT", "<i4", "i", "int")
VARCHAR = Type("VARCHAR", "<i4", "i", "varchar")  # index into the batch's own texts
SERIES = Type("", "<i4", "i", "series")  # one id for (feed, symbol): stored as the two SYMBOL columns


def symbol(capacity: int) -> Type:
    """A repeating text: an id in the row, a SYMBOL in the database."""
    return Type(f"SYMBOL CAPACITY {capacity}", "<i4", "i", "symbol")


@dataclass(frozen=True)
class Label(Type):
    """A closed set of texts, a small integer in the row: 0 is null, then the names in order from 1."""

    names: tuple[str, ...] = ()


def label(*names: str) -> Label:
    return Label("SYMBOL CAPACITY 16", "i1", "b", "label", names)


@dataclass(frozen=True)
class Column:
    """One column. ``computed`` columns are filled by kernels, the others by a feed, in declared order."""

    name: str
    type: Type
    doc: str
    computed: bool = False


def series() -> Column:
    return Column("series", SERIES, "configured feed and canonical symbol")


@dataclass(frozen=True)
class Table:
    """A table of the database and the layout of its rows in memory.

    Rows hold the packed columns first, in declared order, then the computed ones; ``pack_format`` is the struct
    format of the packed part, ``dtype`` the whole row.
    """

    name: str
    doc: str
    partition: str
    dedup: tuple[str, ...]
    columns: tuple[Column, ...] = field(repr=False)

    @cached_property
    def packed(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if not c.computed)

    @cached_property
    def laid_out(self) -> tuple[Column, ...]:
        """Columns in the order a row holds them."""
        return self.packed + tuple(c for c in self.columns if c.computed)

    @cached_property
    def dtype(self) -> np.dtype:
        return np.dtype([(c.name, c.type.dtype) for c in self.laid_out])

    @cached_property
    def pack_format(self) -> str:
        return "<" + "".join(c.type.pack for c in self.packed)

    @cached_property
    def computed_format(self) -> bytes:
        """The bytes of the computed columns of a fresh row: NaN, null ids, null numbers."""
        computed = [c for c in self.columns if c.computed]
        return struct.pack("<" + "".join(c.type.pack for c in computed), *(null_of(c.type) for c in computed))

    @cached_property
    def sql_columns(self) -> tuple[tuple[str, str, str], ...]:
        """(name, SQL type, doc) as the database sees them: ``series`` becomes feed and symbol."""
        result: list[tuple[str, str, str]] = []
        for column in self.columns:
            if column.type is SERIES:
                result.append(("feed", "SYMBOL CAPACITY 64", "the configured feed the row came through"))
                result.append(("symbol", "SYMBOL CAPACITY 16384", "canonical symbol"))
            else:
                result.append((column.name, column.type.sql, column.doc))
        return tuple(result)

    def ddl(self, ttl: str | None = None) -> str:
        """CREATE TABLE, idempotent. ``ttl`` such as ``30 DAYS``, a multiple of the partition; None: kept for ever."""
        lines = ",\n".join(f"  {name} {sql}" for name, sql, _ in self.sql_columns)
        keep = f" TTL {ttl}" if ttl else ""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} (\n{lines}\n) TIMESTAMP(ts_event) PARTITION BY {self.partition}"
            f"{keep} WAL\nDEDUP UPSERT KEYS({', '.join(self.dedup)});"
        )


def null_of(type_: Type) -> float | int:
    """The value that means NULL in a row."""
    return {
        "double": float("nan"),
        "long": LONG_NULL,
        "timestamp": LONG_NULL,
        "int": INT_NULL,
        "label": 0,
    }.get(type_.kind, TEXT_NULL)
