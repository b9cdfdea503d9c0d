"""What is stored made equal to what was rebuilt: rows sent again, and partitions put together anew where some must go.

QuestDB has no DELETE. So a partition is copied without the rows that should not be there, counted, dropped, and its
copy inserted. The copy bears a name of its own from before the drop until all of it is back: whoever finds a table of
that name inserts it again (``put_back``), which after an interruption at any point gives the same rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from recorder.shell.database.shadow import Chosen, Differences, Held, between, partition_end, slices
from recorder.shell.database.sql_client import SqlClient
from recorder.values.errors import DatabaseError
from recorder.values.schema import Table
from recorder.values.times import LAST_NS

APPLY_TIMEOUT_S = 600.0  # rows sent wait behind those of a recorder
POLL_S = 0.02


@dataclass(frozen=True)
class Swap:
    """The tables ``stored`` and ``rebuilt``, which rows of them, and for which of those the journal speaks."""

    client: SqlClient
    stored: Table
    rebuilt: Table
    chosen: Chosen
    held: Held

    def send(self, found: Differences) -> None:
        """Send the rebuilt rows of the slices in which some differ or are missing; the others are there already.

        A stored row that is not compared stays as it is, also where a rebuilt one has its identity.
        """
        outside = self.held.outside(self.chosen.table)
        for start, stop, kept in found.slices:
            where = f"{between(start, stop)} AND {self.chosen.condition}"
            if kept:
                _insert(self.client, self.stored, self.rebuilt, f"{where} AND {outside}")
                _wait(self.client, self.rebuilt.name)
            _insert(self.client, self.rebuilt, self.stored, f"{where} AND NOT {outside}")
        _wait(self.client, self.stored.name)

    def refuse_removal(self) -> None:
        """Raises DatabaseError where partitions cannot be put together anew without losing something else."""
        name = self.stored.name
        limited = self.client.value(
            f"SELECT view_name FROM materialized_views() WHERE base_table_name = '{name}' AND refresh_limit > 0"
        )
        if limited:
            raise DatabaseError(
                f"--remove: the view {limited} may hold bars of rows that {name} has dropped by its TTL, and would be "
                "computed again without them; export it and drop it first"
            )
        parquet = self.client.rows(f"SELECT name FROM table_partitions('{name}') WHERE isParquet")
        if parquet:
            raise DatabaseError(
                f"--remove: {len(parquet)} partitions of {name} are Parquet, such as {parquet[0]['name']}; convert "
                f"them first: ALTER TABLE {name} CONVERT PARTITION TO NATIVE WHERE ts_event > 0"
            )

    def remove(self, found: Differences) -> None:
        """Take out what the journal does not give; rebuilt rows must have been sent before.

        Raises DatabaseError, with nothing changed in a partition, when its copy has not the number of rows it should
        have, or somebody writes to the table meanwhile.
        """
        for start, count in sorted(found.remove.items()):
            self._remove(start, partition_end(self.stored, start), count)

    def _remove(self, start: int, stop: int, count: int) -> None:
        client, name = self.client, self.stored.name
        staging = replace(self.stored, name=f"rebuilt_staging_{name}")
        client.execute(f"DROP TABLE IF EXISTS {staging.name}")
        client.execute(staging.ddl())
        before, rows = self._transaction(), _count(client, name, start, stop)
        self._stage(staging, start, stop)
        staged = _count(client, staging.name, 0, LAST_NS)
        if staged != rows - count or self._transaction() != before:
            client.execute(f"DROP TABLE {staging.name}")
            raise DatabaseError(
                f"--remove: {name} changed while its partition of {rows:,} rows was copied without {count:,} of them "
                f"(the copy has {staged:,}); nothing was removed from it. Stop whoever writes to it and try again"
            )
        client.execute(f"RENAME TABLE {staging.name} TO {_copy_of(self.stored)}")
        client.execute(f"ALTER TABLE {name} DROP PARTITION WHERE {between(start, stop)}")
        put_back(client, self.stored)

    def _stage(self, staging: Table, start: int, stop: int) -> None:
        """Rows of the partition as they should be. The later of two with the same identity stays."""
        chosen, outside = self.chosen, self.held.outside(self.chosen.table)
        first, last = max(start, chosen.start), min(stop, chosen.stop)
        for source, a, b, condition in (
            (self.rebuilt, first, last, f"{chosen.condition} AND NOT {outside}"),
            (self.stored, first, last, f"{chosen.condition} AND {outside}"),
            (self.stored, first, last, f"NOT ({chosen.condition})"),
            (self.stored, start, first, "true"),
            (self.stored, last, stop, "true"),
        ):
            _copy(self.client, source, staging, a, b, condition)
        _wait(self.client, staging.name)

    def _transaction(self) -> int:
        return int(self.client.value(f"SELECT sequencerTxn FROM wal_tables() WHERE name = '{self.stored.name}'"))


def put_back(client: SqlClient, stored: Table) -> int:
    """Insert a partition's copy, if there is one, and drop the copy; how many rows it has."""
    copy = replace(stored, name=_copy_of(stored))
    if not client.value(f"SELECT count() FROM tables() WHERE table_name = '{copy.name}'"):
        return 0
    _wait(client, copy.name)
    rows = _count(client, copy.name, 0, LAST_NS)
    _copy(client, copy, stored, 0, LAST_NS, "true")
    _wait(client, stored.name)
    client.execute(f"DROP TABLE {copy.name}")
    return rows


def _copy_of(stored: Table) -> str:
    return f"rebuilt_partition_of_{stored.name}"


def _copy(client: SqlClient, source: Table, target: Table, start: int, stop: int, condition: str) -> None:
    for first, last in slices(client, [source.name], condition, start, stop):
        _insert(client, source, target, f"{between(first, last)} AND {condition}")


def _insert(client: SqlClient, source: Table, target: Table, where: str) -> None:
    """One transaction, of at most a slice."""
    names = ", ".join(name for name, _, _ in target.sql_columns)
    client.execute(f"INSERT ATOMIC INTO {target.name} ({names}) SELECT {names} FROM {source.name} WHERE {where}")


def _count(client: SqlClient, name: str, start: int, stop: int) -> int:
    return int(client.value(f"SELECT count() FROM {name} WHERE {between(start, stop)}"))


def _wait(client: SqlClient, name: str) -> None:
    """Until what was sent can be queried. Raises DatabaseError."""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while True:
        (row,) = client.rows(f"SELECT * FROM wal_tables() WHERE name = '{name}'")
        if row["writerTxn"] == row["sequencerTxn"]:
            return
        if row["suspended"] or time.monotonic() > deadline:
            raise DatabaseError(
                f"rows sent to {name} are not applied: {row['errorMessage'] or 'the database is slow'}; "
                "see `recorder db status`"
            )
        time.sleep(POLL_S)
