"""Two tables of the same columns held against each other, cell by cell: what is stored, and what was rebuilt.

Rows travel as CSV, in slices of time. The server writes a double with the digits that give it back exactly, and null
apart from the empty text, so lines that are equal are rows that are equal: only the others are taken apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from recorder.shell.database.sql_client import SqlClient
from recorder.shell.log import iso_ns
from recorder.values.schema import Table
from recorder.values.tables import COVERAGE, REJECTED
from recorder.values.times import parse_time

SLICE_ROWS = 100_000  # of either table at a time: 50 MB of lines; more only where that many share one ts_event
EXAMPLES_MAX = 5  # of each kind
_FIELD = re.compile(rb'("(?:[^"]|"")*"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Chosen:
    """Rows of a table: ts_event from ``start`` up to before ``stop``, of one feed or symbol or of all.

    The rows of ``rejected`` without a position are left out: the database refused those, no journal gives them.
    """

    table: Table
    start: int
    stop: int
    feed: str | None = None
    symbol: str | None = None

    @property
    def condition(self) -> str:
        """What is asked of a row besides its time."""
        parts = [f"{name} = '{value}'" for name, value in (("feed", self.feed), ("symbol", self.symbol)) if value]
        parts += ["position IS NOT NULL"] * (self.table.name == REJECTED.name)
        return " AND ".join(parts) or "true"


def between(start: int, stop: int) -> str:
    return f"ts_event >= '{iso_ns(start)}' AND ts_event < '{iso_ns(stop)}'"


def received_column(table: Table) -> str:
    """The column that says when a row came in. Of rows of our own that is their ts_event."""
    names = [name for name, _, _ in table.sql_columns]
    return next((name for name in ("ts_recv", "noticed") if name in names), "ts_event")


@dataclass(frozen=True)
class Held:
    """Receive times, ns, between which the journal speaks for every row: from ``first`` up to before ``last``."""

    first: int
    last: int

    def of(self, table: Table) -> Held:
        """A minute's entries of coverage are complete when the minute is over."""
        minute = 60 * 1_000_000_000
        return Held(self.first, max(self.last - minute, 0)) if table.name == COVERAGE.name else self

    def outside(self, table: Table) -> str:
        """The condition of rows that it does not speak for."""
        name, bounds = received_column(table), self.of(table)
        return f"({name} IS NULL OR {name} < '{iso_ns(bounds.first)}' OR {name} >= '{iso_ns(bounds.last)}')"


@dataclass
class Differences:
    """What a comparison found. Counts are of rows, ``cells`` of values by column.

    doubled    rows stored more than once, beyond the first
    older      stored before the journal begins: not compared
    newer      received too lately to be compared
    remove     start of a partition → rows in it that the journal does not give, ``doubled`` among them
    slices     (start, stop, whether rows not compared have the identity of rebuilt ones) of what a swap would send
    """

    stored: int = 0
    rebuilt: int = 0
    same: int = 0
    changed: int = 0
    only_stored: int = 0
    only_rebuilt: int = 0
    doubled: int = 0
    older: int = 0
    newer: int = 0
    cells: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"changed": [], "only_stored": [], "only_rebuilt": []}
    )
    remove: Counter[int] = field(default_factory=Counter)
    slices: list[tuple[int, int, bool]] = field(default_factory=list)

    @property
    def none(self) -> bool:
        return not (self.changed or self.only_stored or self.only_rebuilt or self.doubled)


Row = list[bytes]


def slices(client: SqlClient, tables: list[str], condition: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range of time so that no table has more than SLICE_ROWS rows in a piece, one ts_event at least."""
    while start < stop:
        end = stop
        for name in tables:
            query = f"SELECT ts_event::long FROM {name} WHERE {between(start, end)} AND {condition}"
            following = client.value(f"{query} LIMIT {SLICE_ROWS}, {SLICE_ROWS + 1}")
            end = end if following is None else max(int(following), start + 1)
        yield start, end
        start = end


def compare(client: SqlClient, stored: Table, rebuilt: Table, chosen: Chosen, held: Held) -> Differences:
    """Hold ``stored`` against ``rebuilt``; memory is that of a slice. Raises DatabaseError."""
    found = Differences()
    comparing = _Comparing(chosen.table, held, found)
    columns = ", ".join(name for name, _, _ in chosen.table.sql_columns)
    for start, stop in slices(client, [stored.name, rebuilt.name], chosen.condition, chosen.start, chosen.stop):
        where = f"{between(start, stop)} AND {chosen.condition}"
        sides = [
            b"".join(client.export_csv(f"SELECT {columns} FROM {table.name} WHERE {where}")).split(b"\r\n")[1:-1]
            for table in (stored, rebuilt)
        ]
        comparing.slice(start, stop, *sides)
    return found


class _Comparing:
    def __init__(self, table: Table, held: Held, found: Differences) -> None:
        self._names = [name for name, _, _ in table.sql_columns]
        self._identity = [self._names.index(name) for name in table.dedup]
        self._received = self._names.index(received_column(table))
        bounds = held.of(table)
        self._first, self._last = (f'"{iso_ns(ts)}"'.encode() for ts in (bounds.first, bounds.last))
        self._table, self._found = table, found

    def slice(self, start: int, stop: int, stored: list[bytes], rebuilt: list[bytes]) -> None:
        found = self._found
        here, there = set(stored), set(rebuilt)
        found.stored, found.rebuilt = found.stored + len(stored), found.rebuilt + len(rebuilt)
        found.same += len(here & there)
        for line, count in Counter(stored).items() if len(here) < len(stored) else ():
            if count > 1:
                found.doubled += count - 1
                found.remove[self._partition(self._fields(line))] += count - 1
        right = {self._key(row): row for row in map(self._fields, sorted(there - here))}
        sends = kept = False
        for row in map(self._fields, sorted(here - there)):
            other = right.pop(self._key(row), None)
            received = row[self._received]
            if received < self._first or received >= self._last:
                found.older += received < self._first
                found.newer += received >= self._last
                kept |= other is not None
            elif other is None:
                found.only_stored += 1
                found.remove[self._partition(row)] += 1
                self._example("only_stored", self._shown(row))
            else:
                sends = True
                self._changed(row, other)
        for row in right.values():
            if self._first <= row[self._received] < self._last:
                sends = True
                found.only_rebuilt += 1
                self._example("only_rebuilt", self._shown(row))
        if sends:
            found.slices.append((start, stop, kept))

    def _changed(self, row: Row, other: Row) -> None:
        self._found.changed += 1
        for name, is_, becomes in zip(self._names, row, other, strict=True):
            if is_ != becomes:
                self._found.cells[name] += 1
                shown = {"column": name, "stored": text_of(is_), "rebuilt": text_of(becomes)}
                self._example("changed", {"identity": self._shown(row, self._identity)} | shown)

    def _fields(self, line: bytes) -> Row:
        """Cells as they were written: nothing for null, quotes around texts and times."""
        fields = line.split(b",")
        if len(fields) != len(self._names):
            fields = _FIELD.findall(line)[: len(self._names)]
        return fields

    def _key(self, row: Row) -> tuple[bytes, ...]:
        return tuple(row[i] for i in self._identity)

    def _partition(self, row: Row) -> int:
        return partition_start(self._table, parse_time(row[self._names.index("ts_event")].decode().strip('"'), ""))

    def _shown(self, row: Row, places: list[int] | None = None) -> dict[str, str | None]:
        chosen = range(len(row)) if places is None else places
        return {self._names[i]: text_of(row[i]) for i in chosen}

    def _example(self, kind: str, example: dict[str, Any]) -> None:
        if len(self._found.examples[kind]) < EXAMPLES_MAX:
            self._found.examples[kind].append(example)


def text_of(cell: bytes) -> str | None:
    """A cell as people read it; None is null."""
    if not cell:
        return None
    text = cell.decode("utf-8", "replace")
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def partition_start(table: Table, ts: int) -> int:
    """Where the partition begins that holds ``ts``, ns."""
    shown = iso_ns(ts)
    return parse_time(shown[:10] if table.partition == "DAY" else f"{shown[:7]}-01", "")


def partition_end(table: Table, start: int) -> int:
    """Where the partition ends that begins at ``start``, ns."""
    return partition_start(table, start + (1 if table.partition == "DAY" else 31) * 86_400 * 1_000_000_000)
