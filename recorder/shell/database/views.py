"""Materialised views brought up to the last row, for whoever looks next: after a replay, when recording stops."""

from __future__ import annotations

import time

from recorder.shell.database.sql_client import SqlClient
from recorder.values.errors import DatabaseError

POLL_S = 0.02


def refresh(client: SqlClient, timeout_s: float) -> bool:
    """Refresh the views that follow a timer and wait until every view has what its base has.

    False when it took longer, or the server refused, as it may while a timer has just begun the same: the timer brings
    them up to date, and no row waits for it. Views that are not valid are left alone: ``schema`` reports them.
    """
    try:
        return _refresh(client, timeout_s)
    except DatabaseError:
        return False


def _refresh(client: SqlClient, timeout_s: float) -> bool:
    states = client.rows("SELECT view_name, refresh_type FROM materialized_views() WHERE view_status <> 'invalid'")
    for row in states:
        if row["refresh_type"] == "timer":
            client.execute(f"REFRESH MATERIALIZED VIEW {row['view_name']} INCREMENTAL")
    deadline = time.monotonic() + timeout_s
    while _behind(client):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _behind(client: SqlClient) -> bool:
    """Whether a valid view misses a transaction of its base, or has one of its own that is not applied yet."""
    late = client.value(
        "SELECT count() FROM materialized_views() v JOIN wal_tables() w ON w.name = v.view_name "
        "WHERE v.view_status <> 'invalid' "
        "AND (v.refresh_base_table_txn < v.base_table_txn OR w.writerTxn < w.sequencerTxn)"
    )
    return bool(late)
