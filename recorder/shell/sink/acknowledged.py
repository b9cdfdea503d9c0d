"""What QuestDB had of each table when the recorder last looked, in a file beside the journal.

A table that is dropped, or data that is put back, while no recorder runs takes rows with it that it had answered for:
the next start finds fewer transactions than are noted here, or the table kept elsewhere. Transactions only ever grow in
number: also INSERT … SELECT, dropped partitions, TRUNCATE and changed columns add theirs, so that none of those is
taken for a loss.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from recorder.shell.journal.segments import replace_file

NAME = "tables"


class Known(NamedTuple):
    """A table as the server said it is."""

    directory: str  # where the server keeps it: another one for another table of the same name; empty: not asked yet
    transactions: int  # the highest number that its sequencer gave


def why_lost(before: Known | None, now: Known | None) -> str:
    """How a table has lost rows that it had; empty while it has not. None: not known yet, and not there any more."""
    if now is None:
        return "the table is gone"
    if before is None:
        return ""
    if before.directory and now.directory and now.directory != before.directory:
        return "the table was dropped and another one created"
    if now.transactions < before.transactions:
        return f"the server knows {now.transactions} transactions of it, and had {before.transactions}"
    return ""


class Acknowledged:
    """The file. ``tables`` is what it holds.

    It is written about once a second. Before a position is given up it is made durable: a power loss that takes rows
    from QuestDB and not from the journal leaves them noted here. From any thread.
    """

    def __init__(self, directory: Path, log: Callable[..., None]) -> None:
        self._path = directory / NAME
        self.tables: dict[str, Known] = {}
        self._durable: dict[str, Known] = {}
        self._lock = threading.Lock()
        try:
            self.tables = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Known])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            log("tables.unreadable", file=str(self._path), reason=str(error), action="not compared with QuestDB")

    def keep(self, seen: Mapping[str, Known]) -> None:
        """Note ``seen`` beside what is known of other tables; on a full disk, which others tell, what was stays."""
        with self._lock, suppress(OSError):
            tables = self.tables | dict(seen)
            if tables != self.tables:
                self._write(tables, durable=False)

    def secure(self, seen: Mapping[str, Known]) -> None:
        """As ``keep``, and through a power loss. Raises OSError."""
        with self._lock:
            tables = self.tables | dict(seen)
            if tables != self._durable:
                self._write(tables, durable=True)
                self._durable = tables

    def forget(self) -> None:
        """What was lost is being sent again: tables begin anew."""
        with self._lock:
            self.tables = {}

    def _write(self, tables: dict[str, Known], durable: bool) -> None:
        replace_file(self._path, msgspec.json.encode(tables), durable)
        self.tables = tables
