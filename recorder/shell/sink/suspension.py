"""Suspended tables: one episode each, from the first sight of it until the server applies rows again.

QuestDB suspends a table when it cannot apply a transaction; requests are answered as before and the rows wait in the
server's write-ahead log. The policy: ``ALTER TABLE … RESUME WAL``, later and later. That repeats the transaction which
failed and skips none; ``FROM TXN``, which skips, is left to a human being. QuestDB 9.3.4 was seen to lose rows all the
same and to say that they were applied, 3 times in 66 with a file where a partition's folder had to be: so what a table
applied after an episode is not believed, see ``AppliedPoller``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from recorder.shell.sink.sender import Log

RESUME_FIRST_S = 5.0  # what passes by itself, such as memory being short, has mostly passed by then
RESUME_MAX_S = 300.0  # a try costs the server one transaction; disks are cleared by people, within minutes at best
LASTING_TRIES = 4  # after so many, 75 s, a cause that is not known to pass is told to be lasting
_PASSING = ("DISK FULL", "OUT OF MMAP AREAS", "OUT OF MEMORY", "FAILED MEMORY ALLOCATION", "TOO MANY OPEN FILES")


class TableState(NamedTuple):
    """A row of ``wal_tables()``."""

    writer: int  # the last transaction that can be queried
    sequencer: int  # the last one that was answered
    suspended: bool
    tag: str  # the server's name of the cause, empty where it has none
    message: str

    @property
    def reason(self) -> str:
        return ": ".join(part for part in (self.tag, self.message) if part) or "no reason given"


@dataclass
class _Episode:
    reason: str
    since: float
    writer: int  # as it was when the table was suspended
    next_try: float
    tries: int = 0
    told_lasting: bool = False


class Suspensions:
    """Watches tables and resumes them. Used by one thread; ``reasons`` may be read by others.

    resume   runs ALTER TABLE … RESUME WAL for a table; raises what it likes
    changed  called with a table and why it is suspended, and with None when that is over
    """

    def __init__(self, resume: Callable[[str], None], log: Log, changed: Callable[[str, str | None], object]) -> None:
        self._resume, self._log, self._changed = resume, log, changed
        self._episodes: dict[str, _Episode] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """Suspended tables with the server's words."""
        return {table: episode.reason for table, episode in list(self._episodes.items())}

    def believed(self, table: str, writer: int) -> int:
        """Up to which transaction a table has all rows, when the server says ``writer``."""
        episode = self._episodes.get(table)
        return writer if episode is None else min(writer, episode.writer)

    def watch(self, states: Mapping[str, TableState], tables: Iterable[str], now_s: float) -> list[str]:
        """Begin and end episodes by what the server says of ``tables``, and try what is due; whose episodes ended."""
        ended = []
        for table in sorted({*tables, *self._episodes}):
            state, episode = states.get(table), self._episodes.get(table)
            if episode is None:
                if state is not None and state.suspended:
                    self._begin(table, state, now_s)
            elif state is None or self._is_over(episode, state):
                del self._episodes[table]
                self._log("sink.resumed", table=table, suspended_s=round(now_s - episode.since, 1), tries=episode.tries)
                self._changed(table, None)
                ended.append(table)
            elif state.suspended and now_s >= episode.next_try:
                episode.reason = state.reason
                self._try(table, state, episode, now_s)
        return ended

    @staticmethod
    def _is_over(episode: _Episode, state: TableState) -> bool:
        """Resumed and further than before: right after RESUME the table looks well, until it fails again."""
        return not state.suspended and (state.writer > episode.writer or state.writer >= state.sequencer)

    def _begin(self, table: str, state: TableState, now_s: float) -> None:
        self._episodes[table] = _Episode(state.reason, now_s, state.writer, now_s + RESUME_FIRST_S)
        self._log(
            "sink.suspended", table=table, reason=state.reason, transactions_waiting=state.sequencer - state.writer,
            action=f"ALTER TABLE {table} RESUME WAL", retry_s=RESUME_FIRST_S,
        )  # fmt: skip
        self._changed(table, state.reason)

    def _try(self, table: str, state: TableState, episode: _Episode, now_s: float) -> None:
        episode.tries += 1
        retry_s = min(RESUME_MAX_S, RESUME_FIRST_S * 2**episode.tries)
        episode.next_try = now_s + retry_s
        error = ""
        try:
            self._resume(table)
        except Exception as failure:  # whatever it is, the next try comes
            error = str(failure) or type(failure).__name__
        self._log(
            "sink.resume_tried", table=table, attempt=episode.tries, reason=state.reason, retry_s=retry_s,
            **({"error": error} if error else {}),
        )  # fmt: skip
        if episode.tries >= LASTING_TRIES and state.tag not in _PASSING and not episode.told_lasting:
            episode.told_lasting = True
            self._log("sink.suspension_lasts", table=table, reason=state.reason, hint=_what_to_do(table, state))


def _what_to_do(table: str, state: TableState) -> str:
    bad = state.writer + 1
    return (
        f"transaction {bad} of {table} cannot be applied; see wal_transactions('{table}') and the server's log. "
        f"Restart QuestDB first. If it is damaged: ALTER TABLE {table} RESUME WAL FROM TXN {bad + 1} drops that "
        "transaction's rows from the database; they are in the journal, which is kept meanwhile: recorder "
        "replay brings them back"
    )
