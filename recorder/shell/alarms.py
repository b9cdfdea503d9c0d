"""What goes wrong with the recorder's own means, as findings of ``quality_events`` beside the log's lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from recorder.values.schema import Table
from recorder.values.tables import QUALITY_EVENTS

Severity = Literal["info", "warning", "critical"]
Observe = Callable[[Table, Iterable[Sequence[Any]]], None]


class Retention(Protocol):
    """What is needed of the journal."""

    retention_paused: bool


class Alarms:
    """Called on the event loop's thread.

    observe  as Recording.observe
    """

    def __init__(self, journal: Retention, observe: Observe) -> None:
        self._journal, self._observe = journal, observe
        self._suspended: set[str] = set()

    def finding(
        self, check: str, severity: Severity, message: str, value: float | None = None, threshold: float | None = None
    ) -> None:
        row = (time.time_ns(), None, None, check, severity, value, threshold, message)
        self._observe(QUALITY_EVENTS, [row])

    def table_suspended(self, table: str, reason: str | None) -> None:
        """A table was suspended for ``reason``, None: applies again. Meanwhile the journal keeps all it has."""
        if reason is not None:
            self._suspended.add(table)
            self.finding("table_suspended", "critical", f"{table} is suspended, its rows wait: {reason}")
        else:
            self._suspended.discard(table)
            self.finding("table_suspended", "info", f"{table} applies rows again")
        self._journal.retention_paused = bool(self._suspended)

    def look_anew(self) -> None:
        """Another sink tells from now on which tables are suspended."""
        self._suspended.clear()
        self._journal.retention_paused = False
