"""The schema as SQL, and bringing a database forward to it without ever changing what is stored."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recorder
from recorder.shell.database.sql_client import SqlClient
from recorder.values.errors import DatabaseError
from recorder.values.schema import Table
from recorder.values.tables import TABLES, prefixed

APPLY_TIMEOUT_S = 60.0  # a changed column waits behind the rows that are still in the table's WAL
POLL_S = 0.02
TABLES_HEAD = (
    "-- Every table. Derived from recorder/values/tables.py by `recorder schema`; a test holds that it is equal.\n"
)
_TTL = re.compile(r"\s*(\d+)\s*(HOUR|DAY|WEEK|MONTH|YEAR)S?\s*", re.IGNORECASE)
_VIEW = re.compile(r"CREATE\s+(MATERIALIZED\s+)?VIEW\s+IF\s+NOT\s+EXISTS\s+(\w+)\b.*?\bAS\s*\((.*)\)", re.DOTALL)
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
    prefix = getattr(getattr(config, "questdb", None), "prefix", "")
    existing = {str(row["table_name"]): row for row in client.rows("tables()")}
    done: list[str] = []
    for name, table in prefixed(prefix).items():
        ttl = retention.get(name)
        if table.name in existing:
            done += _migrate(client, table, existing[table.name], ttl)
        else:
            _create(client, table, ttl)
            done.append(f"created table {table.name}")
    if prefix:
        return done  # views name the tables as they are
    return done + _apply_views(client, set(existing) | set(TABLES))


def _create(client: SqlClient, table: Table, ttl: str | None) -> None:
    _parse_ttl(table, ttl)
    try:
        client.execute(table.ddl(ttl))
    except DatabaseError as error:
        raise DatabaseError(f"table {table.name} cannot be created (retention {ttl or 'none'}): {error}") from error


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
        _wait(table, lambda: set(missing) <= set(_columns(client, table.name)), f"columns {', '.join(missing)}")
    keys = _keys(columns)
    if keys != set(table.dedup):
        client.execute(f"ALTER TABLE {table.name} DEDUP ENABLE UPSERT KEYS({', '.join(table.dedup)})")
        done.append(
            f"set dedup keys of {table.name} to {', '.join(table.dedup)} (were {', '.join(sorted(keys)) or 'none'})"
        )
        _wait(table, lambda: _keys(_columns(client, table.name)) == set(table.dedup), "dedup keys")
    return done + _set_ttl(client, table, row, ttl)


def _columns(client: SqlClient, table: str) -> dict[str, dict[str, Any]]:
    return {str(row["column"]): row for row in client.rows(f"table_columns('{table}')")}


def _keys(columns: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {name for name, column in columns.items() if column["upsertKey"]}


def _refuse_conflicts(
    table: Table, row: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str]
) -> None:
    def refuse(what: str) -> DatabaseError:
        return DatabaseError(
            f"table {table.name} {what}; nothing was changed. Rename it "
            f"(RENAME TABLE {table.name} TO {table.name}_old) and apply the schema again"
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
            f"table {table.name} needs the columns {', '.join(missing)} but {count} of its partitions are Parquet, "
            f"which this QuestDB cannot read afterwards; run ALTER TABLE {table.name} CONVERT PARTITION TO NATIVE "
            "WHERE ts_event > 0, then apply the schema again"
        )


@dataclass(frozen=True)
class Span:
    """A TTL or limit: hours and months cannot be compared exactly, 0 is none."""

    hours: int = 0
    months: int = 0

    def __bool__(self) -> bool:
        return self.hours > 0 or self.months > 0

    @property
    def hours_min(self) -> int:
        """At least this many hours, whatever the months are."""
        return self.hours + self.months * 28 * 24

    def __str__(self) -> str:
        number, unit = (self.months, "MONTHS") if self.months else (self.hours, "HOURS")
        if unit == "HOURS" and number % 24 == 0:
            number, unit = number // 24, "DAYS"
        return f"{number} {unit}" if self else "none"


def _span(number: int, unit: str) -> Span:
    """The server turns ``7 DAYS`` into ``1 WEEK``: only the length counts."""
    match unit.upper():
        case "MONTH" | "YEAR":
            return Span(months=number * {"MONTH": 1, "YEAR": 12}[unit.upper()])
        case name:
            return Span(hours=number * {"HOUR": 1, "DAY": 24, "WEEK": 168}[name])


def _parse_ttl(table: Table, ttl: str | None) -> Span:
    if ttl is None:
        return Span()
    match = _TTL.fullmatch(ttl)
    if match is None:
        raise DatabaseError(
            f'retention.{table.name} is "{ttl}"; write a number and HOURS, DAYS, WEEKS, MONTHS or YEARS'
        )
    return _span(int(match[1]), match[2])


def _set_ttl(client: SqlClient, table: Table, row: Mapping[str, Any], ttl: str | None) -> list[str]:
    now, wanted = _span(int(row["ttlValue"]), str(row["ttlUnit"])), _parse_ttl(table, ttl)
    if now == wanted:
        return []
    try:
        client.execute(f"ALTER TABLE {table.name} SET TTL {ttl or '0h'}")
    except DatabaseError as error:
        raise DatabaseError(f'retention.{table.name} = "{ttl}" is refused by QuestDB: {error}') from error
    _wait(table, lambda: _ttl(client, table) == wanted, "TTL")
    return [f"set TTL of {table.name} to {wanted} (was {now})"]


def _ttl(client: SqlClient, table: Table) -> Span:
    (row,) = client.rows(f"select ttlValue, ttlUnit from tables() where table_name = '{table.name}'")
    return _span(int(row["ttlValue"]), str(row["ttlUnit"]))


def _wait(table: Table, reached: Callable[[], bool], what: str) -> None:
    """A WAL table takes its changes in turn with its rows: wait until this one has been."""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while not reached():
        if time.monotonic() > deadline:
            raise DatabaseError(
                f"table {table.name} has not taken its new {what} within {APPLY_TIMEOUT_S:g} s; "
                f"see wal_tables(): is it suspended? ALTER TABLE {table.name} RESUME WAL"
            )
        time.sleep(POLL_S)


def _apply_views(client: SqlClient, before: set[str]) -> list[str]:
    done: list[str] = []
    defined = {str(r["view_name"]): r for view in ("views()", "materialized_views()") for r in client.rows(view)}
    for path in view_files():
        for number, statement in enumerate(statements(path.read_text(encoding="utf-8")), 1):
            try:
                done += _drop_outdated(client, statement, defined)
                client.execute(statement)
            except DatabaseError as error:
                raise DatabaseError(f"sql/views/{path.name}, statement {number}: {error}") from error
    tables = {str(row["table_name"]): row for row in client.rows("tables()")}
    done += [f"created view {name}" for name in tables if name not in before]
    return done + _limit_refreshes(client, tables)


def _drop_outdated(client: SqlClient, statement: str, defined: dict[str, dict[str, Any]]) -> list[str]:
    """Drop the view that this CREATE statement is about where it no longer does what the statement says.

    defined  views that exist, by name; one that is dropped is taken out, and those that lean on it follow in their turn
    A materialized view may hold bars of trades that are gone: it is dropped only while its refresh has no limit, which
    means that its base keeps everything; else it is left and reported.
    """
    match = _VIEW.search(statement)
    view = defined.get(match[2]) if match else None
    if match is None or view is None:
        return []
    name, materialized, base = match[2], bool(match[1]), view.get("base_table_name")
    if " ".join(str(view["view_sql"]).split()) != " ".join(match[3].split()):
        why = "is defined differently"
    elif materialized and base not in (*defined, *TABLES):
        why = f"leans on {base}"
    elif materialized and view["view_status"] == "invalid":  # a plain one is compiled anew whenever it is asked
        why = f"is invalid: {view['invalidation_reason']}"
    else:
        return []
    if materialized and view["refresh_limit"]:
        return [
            f"view {name} {why}, and was left so: it may hold what its base has dropped. Export it, then run "
            f"DROP MATERIALIZED VIEW {name} and apply the schema again"
        ]
    client.execute(f"DROP {'MATERIALIZED ' if materialized else ''}VIEW {name}")
    del defined[name]
    return [f"replaced view {name}, which {why}"]


def _limit_refreshes(client: SqlClient, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """No materialized view may refresh further back than its base keeps rows.

    Else one late row, older than the base's TTL, makes the view compute its bars again from nothing and erase them.
    """
    views = {str(row["view_name"]): row for row in client.rows("materialized_views()")}
    done: list[str] = []
    for name, row in views.items():
        bases = [str(row["base_table_name"])]
        while bases[-1] in views:
            bases.append(str(views[bases[-1]]["base_table_name"]))
        kept = [
            _span(int(t["ttlValue"]), str(t["ttlUnit"])) for t in (tables[base] for base in bases if base in tables)
        ]
        shortest = min((span for span in kept if span), key=lambda span: span.hours_min, default=None)
        now = _span(int(row["refresh_limit"] or 0), str(row["refresh_limit_unit"] or "HOUR"))
        if shortest is not None and (not now or now.hours_min > shortest.hours_min):
            client.execute(f"ALTER MATERIALIZED VIEW {name} SET REFRESH LIMIT {shortest}")
            done.append(f"set refresh limit of view {name} to {shortest} (was {now})")
    return done
