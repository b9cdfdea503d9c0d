"""When rows became queryable: asks ``wal_tables()`` and releases positions that QuestDB has applied."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

import msgspec

from recorder.shell.sink.acknowledged import Known, why_lost
from recorder.shell.sink.http_client import Address, HttpConnection, words
from recorder.shell.sink.sender import LATENCY_BUCKETS, Log
from recorder.shell.sink.suspension import Suspensions, TableState
from recorder.values.errors import DatabaseError

POLL_S = 0.004  # between looks while rows come out, and so the resolution of "queryable"; 90 µs of CPU here, 150 there
POLL_SLOW_S = 0.02  # doubled up to this while nothing comes out: a busy server is not to be asked 200 times a second
POLL_FAILING_S = 1.0  # while the server cannot be asked, or a table is suspended
CHECKPOINTS_MAX = 256  # 5 s of polls; beyond that neighbours are merged, which only releases a little later
REPLACED_S = 0.5  # that a table looks replaced before it is said: a server that has just started tells it bit by bit
COMPARED_POLL_S = 0.002  # between a sender's looks whether tables were compared; only on new connections
DIRECTORIES_S = 1.0  # between looks whether tables are still the same ones
_EXEC = "/exec?query="
_STATES = _EXEC + quote("select name, suspended, writerTxn, sequencerTxn, errorTag, errorMessage from wal_tables()")
_DIRECTORIES = _EXEC + quote("select table_name, directoryName from tables()")


_T = TypeVar("_T")


class _States(msgspec.Struct):
    dataset: list[tuple[str, bool, int, int, str | None, str | None]]


class _Directories(msgspec.Struct):
    dataset: list[tuple[str, str]]


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

    A table that is gone, is another one, or whose transactions are fewer than they were (a server put back, a power
    loss) took rows with it that it had answered for. Nothing is released from then on; ``replaced`` is called with
    the table and what was seen: whoever owns the sink sends everything again that is not released, by another sink.

    Every answered request is a transaction at least, so what a table must have is known to the last answer: what the
    last look said, and the requests begun and answered since (``begun``, ``stored``). A server that comes back with
    older data lacks some, and new rows add to both counts alike. Others who write there add to the server's alone: so
    whoever sends over a new connection waits by ``compare`` for a look begun after it.

    A table that was suspended and applies again is not believed either: QuestDB 9.3.4 can take a transaction for
    applied whose rows it has rolled back at the first try. Nothing is released that it had not applied before, and
    ``resumed`` is called when it goes on: everything that is not released is to be sent again, as above.

    known  tables as an earlier run knew them: these are looked at once at the start, whether rows come or not
    """

    def __init__(
        self,
        address: Address,
        applied: Callable[[int], None],
        log: Log,
        suspended: Callable[[str, str | None], object],
        replaced: Callable[[str, str], object],
        resumed: Callable[[str], object],
        known: Mapping[str, Known] | None = None,
    ) -> None:
        self.position = 0  # the last one applied
        self.suspensions = Suspensions(self._resume, log, suspended)
        self.last_error = ""
        self.lost = ""  # why nothing is released any more
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
        self._replaced, self._resumed = replaced, resumed
        self._suspected_at: float | None = None  # time.monotonic() since when a table has looked replaced
        self.known = dict(known or {})  # replaced by another dict at each change: others may read it
        self._least = {table: known.transactions for table, known in self.known.items()}  # transactions it must have
        self._unchecked = set(self.known)
        self._wanted = self._compared_to = 0  # comparisons asked for; the last of them that found everything there
        self._failed = 0  # looks that failed
        self._hurry = threading.Event()  # ends a pause
        self._directories: dict[str, str] = {}  # as last asked for
        self._directories_due = 0.0
        if self._unchecked:
            self._something.set()
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

    def begun(self, table: str) -> int:
        """To be called before rows are sent, and its result given to ``stored`` once they were answered for."""
        return self._least.get(table, 0)

    def stored(self, table: str, begun: int) -> None:
        """A request with rows was answered: the table has one transaction more than it had to have when that began."""
        with self._lock:
            self._least[table] = max(self._least.get(table, 0), begun + 1)

    def compare(self, closing: threading.Event) -> bool:
        """Wait until tables, asked for from now on, have what they had; False when ``closing`` is set before.

        From any thread. For ever once a table lost rows. Raises ConnectionError when the server cannot be asked.
        """
        with self._lock:
            if not self._least:
                return True
            self._wanted += 1
            wanted, failed = self._wanted, self._failed
        self._something.set()
        self._hurry.set()
        while self._compared_to < wanted:
            if self._failed != failed:
                raise ConnectionError(f"tables cannot be compared: {self.last_error}")
            if closing.wait(COMPARED_POLL_S):
                return False
        return True

    @property
    def compared(self) -> bool:
        """Tables were found to be as they were known; rows sent earlier would hide that some are missing."""
        return not self._unchecked

    @property
    def waiting_s(self) -> float:
        """How long the oldest answered rows have been waiting to be applied; 0 when there are none."""
        try:
            return time.monotonic() - self._waiting[0].answered_at
        except IndexError:
            return 0.0

    def close(self, timeout_s: float) -> None:
        self._closing.set()
        self._something.set()
        self._hurry.set()
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
                if self.lost or (self.suspensions.reasons and self._waiting):
                    pause_s = POLL_FAILING_S
            except Exception as error:  # also a receiver's: this thread goes on, or nothing would be released any more
                pause_s = POLL_FAILING_S
                if not self._closing.is_set():
                    self._tell_unaskable(error)
                self._failed += 1
            with self._lock:
                idle = not (self._waiting or self._fresh or self._unchecked or self._wanted != self._compared_to)
                if idle and not self._closing.is_set():
                    self._something.clear()
                    misses = 0
                    continue
            self._hurry.wait(pause_s)
            self._hurry.clear()

    def _poll(self) -> None:
        with self._lock:  # before the question: an answer given after it may not be in what the server says
            fresh, self._fresh = self._fresh, None
            if fresh is not None:
                self._waiting.append(fresh)
            wanted, least = self._wanted, dict(self._least)
        if wanted != self._compared_to:
            self._unchecked |= set(least)
            self._directories_due = 0.0
        if not self._unchecked and not any(each.tables or each.targets for each in self._waiting):
            self._release({})  # blocks without rows wait for nobody
            return
        if self.lost:
            return
        states = self._ask()
        if self._look_for_replaced(states, least):
            return
        self._compared_to = wanted
        for checkpoint in self._waiting:
            for table in checkpoint.tables:
                checkpoint.targets[table] = states[table].sequencer
            checkpoint.tables = set()
        self._merge()
        for table in self.suspensions.watch(states, self._tables(), time.monotonic()):
            self.lost = f"{table} was suspended and applies again; what was sent meanwhile is to be sent once more"
            self._resumed(table)
            return
        self._release(states)

    def _tables(self) -> set[str]:
        """Those that have to apply something."""
        return {table for each in self._waiting for table in (*each.targets, *each.tables)}

    def _ask(self) -> dict[str, TableState]:
        rows = self._select(_STATES, _States).dataset
        self._told_unaskable, self.last_error = False, ""
        return {
            name: TableState(writer, sequencer, suspended, tag or "", message or "")
            for name, suspended, writer, sequencer, tag, message in rows
        }

    def _select(self, query: str, type_: type[_T]) -> _T:
        answer = self._connection.request("GET", query)
        try:
            if answer.status != 200:
                raise msgspec.DecodeError
            return msgspec.json.decode(answer.body, type=type_)
        except msgspec.MsgspecError:
            said = answer.body[:200].decode("utf-8", "replace").strip()
            raise DatabaseError(f"{self._address}: wal_tables() gave HTTP {answer.status}: {said}") from None

    def _resume(self, table: str) -> None:
        answer = self._connection.request("GET", _EXEC + quote(f"ALTER TABLE {table} RESUME WAL"))
        if answer.status != 200:
            raise DatabaseError(answer.body[:200].decode("utf-8", "replace").strip())

    def _look_for_replaced(self, states: dict[str, TableState], least: dict[str, int]) -> bool:
        """Whether a table lost answered rows, or looks so: then nothing may be released by these states.

        least  transactions that tables had to have before they were asked for
        """
        now = time.monotonic()
        if now >= self._directories_due:
            self._directories_due = now + DIRECTORIES_S
            self._directories = dict(self._select(_DIRECTORIES, _Directories).dataset)
        known = dict(self.known)
        for table in sorted(self._tables() | self._unchecked):
            before, state = known.get(table, Known("", 0)), states.get(table)
            before = before._replace(transactions=max(before.transactions, least.get(table, 0)))
            if state is not None:
                known[table] = Known(self._directories.get(table) or before.directory, state.sequencer)
            if reason := why_lost(before, None if state is None else known[table]):
                self._suspected_at = self._suspected_at or now
                self._directories_due = 0.0
                if now - self._suspected_at >= REPLACED_S:
                    self.lost = f"{table} lost rows: {reason}"
                    self._log("sink.table_replaced", table=table, reason=reason)
                    self._replaced(table, reason)
                return True
        self._suspected_at = None
        self._unchecked.clear()
        self.known = known
        with self._lock:
            for table, now_known in known.items():
                self._least[table] = max(self._least.get(table, 0), now_known.transactions)
        return False

    def _merge(self) -> None:
        while len(self._waiting) > CHECKPOINTS_MAX:
            last = self._waiting.pop()
            before = self._waiting[-1]
            before.position = last.position
            for table, target in last.targets.items():
                before.targets[table] = max(target, before.targets.get(table, 0))

    def _release(self, states: dict[str, TableState]) -> None:
        now, released = time.monotonic(), None
        applied = {table: self.suspensions.believed(table, state.writer) for table, state in states.items()}
        while self._waiting:
            first = self._waiting[0]
            if not all(applied[table] >= target for table, target in first.targets.items()):
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
