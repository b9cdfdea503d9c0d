"""What a database should hold after any number of crashes: the whole journal, folded once, undisturbed.

The journal is read from its beginning, no snapshot is used, nothing is sent twice. Rows are brought to what SQL answers
(texts for ids, None for NULL) and compared value for value: of doubles every bit counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from recorder.core.batch import Rows
from recorder.core.frames import Frames
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.journal import Journal
from recorder.values.config import KernelsConfig
from recorder.values.schema import INT_NULL, LONG_NULL, SERIES, Label, Table
from recorder.values.tables import TABLES

SEAL_ROWS = 5_000

Row = tuple[Any, ...]
Keyed = dict[Row, Row]


def names_of(table: Table) -> list[str]:
    return [name for name, _, _ in table.sql_columns]


class Fold:
    """A pipeline and the tables as its rows make them: of rows with the same key the last one stays."""

    def __init__(self, settings: KernelsConfig | None = None) -> None:
        self.pipeline = Pipeline(settings or KernelsConfig(), make)
        self.tables: dict[str, Keyed] = {name: {} for name in TABLES}

    def consume(self, frames: Frames) -> None:
        self.pipeline.consume(frames)
        if self.pipeline.pending > SEAL_ROWS:
            self.seal()

    def finish(self) -> dict[str, Keyed]:
        self.pipeline.write_coverage()  # as a recorder does when it is stopped
        self.seal()
        return self.tables

    def seal(self) -> None:
        for rows in self.pipeline.seal().tables:
            place = [names_of(rows.table).index(name) for name in rows.table.dedup]
            for row in self._rows(rows):
                self.tables[rows.table.name][tuple(row[i] for i in place)] = row

    def _rows(self, sealed: Rows) -> Iterable[Row]:
        columns: list[list[Any]] = []
        for column in sealed.table.columns:
            values = sealed.rows[column.name].tolist()
            kind = column.type.kind
            if column.type is SERIES:
                keys = [self.pipeline.out.series.keys[i] for i in values]
                columns += [[feed for feed, _ in keys], [symbol for _, symbol in keys]]
                continue
            if isinstance(column.type, Label):
                values = [column.type.names[v - 1] if v else None for v in values]
            elif kind == "symbol":
                values = [self.pipeline.out.texts.name(v) if v >= 0 else None for v in values]
            elif kind == "varchar":
                values = [_text(sealed, v) if v >= 0 else None for v in values]
            elif kind == "double":
                values = [None if math.isnan(v) else v for v in values]
            else:
                null = INT_NULL if kind == "int" else LONG_NULL
                values = [None if v == null else v for v in values]
            columns.append(values)
        return zip(*columns, strict=True)


def _text(sealed: Rows, number: int) -> str:
    start, stop = sealed.varchar_offsets[number : number + 2].tolist()
    escaped = sealed.varchar_heap[start:stop].tobytes().decode()
    return re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL)


def frames_of(folder: Path, each: Callable[[Frames], None]) -> list[tuple[str, dict[str, Any]]]:
    """Give ``each`` every frame a journal holds; what the journal logged meanwhile is returned."""
    events: list[tuple[str, dict[str, Any]]] = []
    with Journal.open(folder, compress=False, log=lambda event, **fields: events.append((event, fields))) as journal:
        position = journal.begin
        while (frames := journal.read(position)) is not None:
            each(frames)
            position = frames.end
    return events


def undisturbed(folder: Path, settings: KernelsConfig | None = None) -> dict[str, Keyed]:
    """Table → key → row of everything in the journal of ``folder``, whose recorder has ended."""
    fold = Fold(settings)
    frames_of(folder, fold.consume)
    return fold.finish()


def stored(questdb: Any, table: Table) -> list[Row]:
    """Every row of a table, columns in declared order, times in ns."""
    kinds = [sql.split()[0] for _, sql, _ in table.sql_columns]
    chosen = ", ".join(
        f"{name}::long {name}" if kind.startswith("TIMESTAMP") else name
        for name, kind in zip(names_of(table), kinds, strict=True)
    )
    return [tuple(row) for row in questdb.sql.query(f"SELECT {chosen} FROM {table.name}").rows]


def assert_equal(questdb: Any, expected: dict[str, Keyed], *leave_out: str) -> dict[str, int]:
    """Every table holds exactly ``expected``, each key once, each value to the bit; rows compared, by table.

    leave_out  columns, as ``table.column``, that are known to differ
    """
    compared = {}
    for name, table in TABLES.items():
        names = names_of(table)
        place = [names.index(column) for column in table.dedup]
        shown = [i for i, column in enumerate(names) if f"{name}.{column}" not in leave_out]
        rows = stored(questdb, table)
        found = {tuple(row[i] for i in place): row for row in rows}
        assert len(found) == len(rows), f"{name}: {len(rows) - len(found)} rows doubled"
        want = expected[name]
        lost, more = [k for k in want if k not in found], [k for k in found if k not in want]
        told = f"lost, such as {sorted(lost, key=repr)[:3]}; never journalled {sorted(more, key=repr)[:3]}"
        assert not lost and not more, f"{name}: {len(lost)} and {len(more)} of {len(want)} {told}"  # noqa: PT018
        differ = [
            (key, names[i], found[key][i], row[i])
            for key, row in want.items()
            for i in shown
            if not _same(found[key][i], row[i])
        ]
        told = "\n".join(f"  {key}: {column} is {is_!r}, should be {be!r}" for key, column, is_, be in differ[:9])
        assert not differ, f"{name}: {len(differ)} values of {len(want)} rows differ\n{told}"
        compared[name] = len(want)
    return compared


def _same(stored_value: Any, expected: Any) -> bool:
    if isinstance(expected, float) and stored_value is not None:
        return float(stored_value) == expected
    return bool(stored_value == expected)
