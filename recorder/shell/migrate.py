"""The schema as SQL, and bringing a database forward to it without ever changing what is stored."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import recorder
from recorder.shell.sql_client import SqlClient
from recorder.values.errors import DatabaseError
from recorder.values.schema import Table
from recorder.values.tables import TABLES

APPLY_TIMEOUT_S = 60.0  # a changed column waits behind the rows that are still in the table's WAL
POLL_S = 0.02
TABLES_HEAD = (
    "-- Every table. Derived from recorder/values/tables.py by `recorder schema`; a test holds that it is equal.\n"
)
_TTL = re.compile(r"\s*(\d+)\s*(HOUR|DAY|WEEK|MONTH|YEAR)S?\s*", re.IGNORECASE)
_STATEMENT_END = re.compile(r";[ \t]*(?:\n|\Z)")


def sql_folder() -> Path:
    """Where sql/ is: beside the package in a source tree, inside it in an installed wheel."""
    package = Path(recorder.__file__).resolve().parent
    for folder in (package / "sql", package.parent / "sql"):
        if (folder / "views").is_dir() or (folder / "tables.sql").is_file():
            return folder
    raise DatabaseError(f"the folder sql/ is neither in {package} nor beside it; install recorder again")


def tables_sql(retention: Mapping[str, str | None] | None = None) -> str:
    """CREATE statements of every table, with the TTLs of ``retention``; without: the text of sql/tables.sql."""
    keep = retention or {}
    return TABLES_HEAD + "".join(f"\n-- {t.name}: {t.doc}\n{t.ddl(keep.get(t.name))}\n" for t in TABLES.values())


def view_files() -> list[Path]:
    """sql/views/*.sql in the order they are applied."""
    return sorted((sql_folder() / "views").glob("*.sql"))


def statements(text: str) -> Iterator[str]:
    """Split at every ``;`` that ends a line; what is only comment and space is left out."""
    for piece in _STATEMENT_END.split(text):
        if any(line.strip() and not line.strip().startswith("--") for line in piece.splitlines()):
            yield piece.strip()


def apply_schema(client: SqlClient, config: Any = None) -> list[str]:
    """Create what is missing, add missing columns, set dedup keys and TTLs; return what was done, a line each.

    config  its ``retention`` gives the TTLs (None or absent: kept for ever); None: no table has a TTL
    An empty result means that the database was as it should be. Raises DatabaseError, before this table is touched,
    where a table of that name has another type, timestamp or layout: nothing is ever converted or dropped.
    """
    retention: Mapping[str, str | None] = getattr(config, "retention", None) or {}
    existing = {str(row["table_name"]): row for row in client.rows("tables()")}
    done: list[str] = []
    for table in TABLES.values():
        ttl = retention.get(table.name)
        if table.name in existing:
            done += _migrate(client, table, existing[table.name], ttl)
        else:
            client.execute(_with_ttl_hint(table, ttl))
            done.append(f"created table {table.name}")
    return done + _apply_views(client, set(existing) | set(TABLES))


def _with_ttl_hint(table: Table, ttl: str | None) -> str:
    if ttl is not None:
        _parse_ttl(table, ttl)
    return table.ddl(ttl)


def _migrate(client: SqlClient, table: Table, row: Mapping[str, Any], ttl: str | None) -> list[str]:
    columns = _columns(client, table.name)
    wanted = {name: sql for name, sql, _ in table.sql_columns}
    _refuse_conflicts(table, row, columns, wanted)
    done: list[str] = []
    missing = [name for name in wanted if name not in columns]
    if missing:
        _refuse_parquet(client, table, missing)
        for name in missing:  # one a statement: a WAL table refuses several at once
            client.execute(f"ALTER TABLE {table.name} ADD COLUMN IF NOT EXISTS {name} {wanted[name]}")
            done.append(f"added column {table.name}.{name} {wanted[name]}")
        _wait(client, table, lambda now: all(name in now for name in missing), f"columns {', '.join(missing)}")
    keys = {name for name, column in columns.items() if column["upsertKey"]}
    if keys != set(table.dedup):
        client.execute(f"ALTER TABLE {table.name} DEDUP ENABLE UPSERT KEYS({', '.join(table.dedup)})")
        done.append(
            f"set dedup keys of {table.name} to {', '.join(table.dedup)} (were {', '.join(sorted(keys)) or 'none'})"
        )
        _wait(
            client, table, lambda now: {n for n, c in now.items() if c["upsertKey"]} == set(table.dedup), "dedup keys"
        )
    return done + _set_ttl(client, table, row, ttl)


def _columns(client: SqlClient, table: str) -> dict[str, dict[str, Any]]:
    return {str(row["column"]): row for row in client.rows(f"table_columns('{table}')")}


def _refuse_conflicts(
    table: Table, row: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]
) -> None:
    def refuse(what: str) -> DatabaseError:
        return DatabaseError(
            f"table {table.name} {what}; nothing was changed. Rename it (RENAME TABLE {table.name} TO {table.name}_old) "
            "and apply the schema again"
        )

    if row["table_type"] != "T":
        raise refuse("exists as a view")
    if row["designatedTimestamp"] != "ts_event":
        raise refuse(f'has the designated timestamp "{row["designatedTimestamp"]}" where ts_event is needed')
    if not row["walEnabled"]:
        raise refuse("is not a WAL table")
    for name, sql in wanted.items():
        type_ = sql.split()[0]
        if name in columns and columns[name]["type"] != type_:
            raise refuse(f"has a column {name} of type {columns[name]['type']} where {type_} is needed")


def _refuse_parquet(client: SqlClient, table: Table, missing: Iterable[str]) -> None:
    """Reading a column added after a conversion to Parquet ends the whole server process (QuestDB 9.3.4)."""
    count = client.value(f"select count() from table_partitions('{table.name}') where isParquet")
    if count:
        raise DatabaseError(
            f"table {table.name} needs the columns {', '.join(missing)} but {count} of its partitions are Parquet, which "
            f"this QuestDB cannot read afterwards; run ALTER TABLE {table.name} CONVERT PARTITION TO NATIVE "
            "WHERE ts_event > 0, then apply the schema again"
        )


def _parse_ttl(table: Table, ttl: str) -> tuple[int, str]:
    match = _TTL.fullmatch(ttl)
    if match is None:
        raise DatabaseError(
            f'retention.{table.name} is "{ttl}"; write a number and HOURS, DAYS, WEEKS, MONTHS or YEARS'
        )
    return int(match[1]), match[2].upper()


def _set_ttl(client: SqlClient, table: Table, row: Mapping[str, Any], ttl: str | None) -> list[str]:
    now = (int(row["ttlValue"]), str(row["ttlUnit"]).upper())
    wanted = _parse_ttl(table, ttl) if ttl is not None else (0, now[1])
    if now == wanted:
        return []
    client.execute(f"ALTER TABLE {table.name} SET TTL {ttl if ttl is not None else '0h'}")
    return [f"set TTL of {table.name} to {ttl or 'none'} (was {f'{now[0]} {now[1]}S' if now[0] else 'none'})"]


def _wait(client: SqlClient, table: Table, reached: Any, what: str) -> None:
    """A WAL table takes its changes in turn with its rows: wait until this one has been."""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while not reached(_columns(client, table.name)):
        if time.monotonic() > deadline:
            raise DatabaseError(
                f"table {table.name} has not taken its new {what} within {APPLY_TIMEOUT_S:g} s; "
                f"see wal_tables(): is it suspended? ALTER TABLE {table.name} RESUME WAL"
            )
        time.sleep(POLL_S)


def _apply_views(client: SqlClient, before: set[str]) -> list[str]:
    for path in view_files():
        for number, statement in enumerate(statements(path.read_text(encoding="utf-8")), 1):
            try:
                client.execute(statement)
            except DatabaseError as error:
                raise DatabaseError(f"sql/views/{path.name}, statement {number}: {error}") from error
    after = [str(row["table_name"]) for row in client.rows("tables()")]
    return [f"created view {name}" for name in after if name not in before]
