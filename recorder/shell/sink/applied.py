"""When rows became queryable: asks ``wal_tables()`` and releases positions that QuestDB has applied."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

from recorder.shell.sink.http_client import Address, HttpConnection, words
from recorder.shell.sink.sender import LATENCY_BUCKETS, Log
from recorder.values.errors import DatabaseError

POLL_S = 0.004  # between looks while rows come out, and so the resolution of "queryable"; 90 µs of CPU here, 150 there
POLL_SLOW_S = 0.02  # doubled up to this while nothing comes out: a busy server is not to be asked 200 times a second
POLL_FAILING_S = 1.0  # while the server cannot be asked, or a table is suspended
CHECKPOINTS_MAX = 256  # 5 s of polls; beyond that neighbours are merged, which only releases a little later
_QUERY = "/exec?query=" + quote("select name, suspended, writerTxn, sequencerTxn, errorMessage from wal_tables()")


class _States(msgspec.Struct):
    dataset: list[tuple[str, bool, int, int, str | None]]


@dataclass
class _Checkpoint:
    """A position and the transactions that must be applied before it is released."""

    position: int
    answered_at: float
    tables: set[str] = field(default_factory=set)
    targets: dict[str, int] = field(default_factory=dict)


class AppliedPoller:
    """A thread that turns answered positions into applied ones, in order.

    After a block was answered its transactions are at or below the sequencer's number seen in a later ``wal_tables()``;
    once the writer has reached that number they can be queried.
    """

    def __init__(self, address: Address, applied: Callable[[int], None], log: Log) -> None:
        self.position = 0  # the last one applied
        self.suspended: dict[str, str] = {}  # table → the server's words
        self.last_error = ""
        self.lag_s = 0.0  # from answer to applied, of the last release
        self.lag = [0] * LATENCY_BUCKETS  # bucket i: less than 2**i ns
        self._address, self._applied, self._log = address, applied, log
        self._connection = HttpConnection(address)
        self._lock = threading.Lock()
        self._fresh: _Checkpoint | None = None  # answered since the last poll
        self._waiting: deque[_Checkpoint] = deque()
        self._something = threading.Event()
        self._closing = threading.Event()
        self._told_unaskable = False
        self._told_replaced: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="sink-applied", daemon=True)
        self._thread.start()

    def answered(self, position: int, tables: Iterable[str]) -> None:
        """Every row up to ``position`` was answered; ``tables`` are those that got rows since the last call."""
        with self._lock:
            if self._fresh is None:
                self._fresh = _Checkpoint(position, time.monotonic())
            self._fresh.position = position
            self._fresh.tables.update(tables)
        self._something.set()

    def close(self, timeout_s: float) -> None:
        self._closing.set()
        self._something.set()
        self._connection.abort()
        self._thread.join(timeout_s)
        self._connection.close()

    def _run(self) -> None:
        misses = 0
        while not self._closing.is_set():
            self._something.wait()
            try:
                before = self.position
                self._poll()
                misses = 0 if self.position != before else misses + 1
                pause_s = min(POLL_S * 2 ** min(max(misses - 1, 0), 8), POLL_SLOW_S)
                if self.suspended and self._waiting:
                    pause_s = POLL_FAILING_S
            except Exception as error:  # also a receiver's: this thread goes on, or nothing would be released any more
                pause_s = POLL_FAILING_S
                if not self._closing.is_set():
                    self._tell_unaskable(error)
            with self._lock:
                if not self._waiting and self._fresh is None and not self._closing.is_set():
                    self._something.clear()
                    misses = 0
                    continue
            self._closing.wait(pause_s)

    def _poll(self) -> None:
        with self._lock:  # before the question: an answer given after it may not be in what the server says
            fresh, self._fresh = self._fresh, None
            if fresh is not None:
                self._waiting.append(fresh)
        if not any(checkpoint.tables or checkpoint.targets for checkpoint in self._waiting):
            self._release({})  # blocks without rows wait for nobody
            return
        states = self._ask()
        for checkpoint in self._waiting:
            for table in checkpoint.tables:
                # A table that is not there any more, or not WAL, has nothing left to apply.
                checkpoint.targets[table] = states[table][1] if table in states else 0
            checkpoint.tables = set()
        self._merge()
        self._watch(states)
        self._release(states)

    def _ask(self) -> dict[str, tuple[int, int, str | None]]:
        """table → (writer's transaction, sequencer's, why it is suspended or None)."""
        answer = self._connection.request("GET", _QUERY)
        try:
            if answer.status != 200:
                raise msgspec.DecodeError
            rows = msgspec.json.decode(answer.body, type=_States).dataset
        except msgspec.MsgspecError:
            said = answer.body[:200].decode("utf-8", "replace").strip()
            raise DatabaseError(f"{self._address}: wal_tables() gave HTTP {answer.status}: {said}") from None
        self._told_unaskable, self.last_error = False, ""
        return {
            name: (writer, sequencer, (error or "no reason given") if suspended else None)
            for name, suspended, writer, sequencer, error in rows
        }

    def _merge(self) -> None:
        while len(self._waiting) > CHECKPOINTS_MAX:
            last = self._waiting.pop()
            before = self._waiting[-1]
            before.position = last.position
            for table, target in last.targets.items():
                before.targets[table] = max(target, before.targets.get(table, 0))

    def _watch(self, states: dict[str, tuple[int, int, str | None]]) -> None:
        """One event when a table of ours is suspended, one when it goes on."""
        ours = {table for checkpoint in self._waiting for table in checkpoint.targets} | self.suspended.keys()
        for table in sorted(ours):
            reason = states[table][2] if table in states else None
            if reason is not None and table not in self.suspended:
                self.suspended[table] = reason
                self._log("sink.suspended", table=table, reason=reason, hint=f"ALTER TABLE {table} RESUME WAL")
            elif reason is None and self.suspended.pop(table, None) is not None:
                self._log("sink.resumed", table=table)

    def _is_applied(self, table: str, target: int, states: dict[str, tuple[int, int, str | None]]) -> bool:
        writer, sequencer, reason = states.get(table, (0, 0, None))
        if sequencer < target:  # its count began again: someone dropped the table, and the rows with it
            if table not in self._told_replaced:
                self._told_replaced.add(table)
                self._log("sink.table_replaced", table=table, hint="rows stored before were dropped with it")
            return True
        return reason is None and writer >= target

    def _release(self, states: dict[str, tuple[int, int, str | None]]) -> None:
        now, released = time.monotonic(), None
        while self._waiting:
            first = self._waiting[0]
            if not all(self._is_applied(table, target, states) for table, target in first.targets.items()):
                break
            released = self._waiting.popleft().position
            self.lag_s = now - first.answered_at
            self.lag[int(self.lag_s * 1e9).bit_length()] += 1
        if released is not None:
            self.position = released
            self._applied(released)

    def _tell_unaskable(self, error: Exception) -> None:
        self.last_error = words(error, self._address) if isinstance(error, OSError) else str(error)
        if not self._told_unaskable and not isinstance(error, OSError):  # silence is told by the senders
            self._told_unaskable = True
            self._log("sink.release_stalled", reason=self.last_error)
