"""One table's way into QuestDB: a thread that merges, encodes, posts, retries for ever and isolates refused rows."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from recorder.core.batch import Rows
from recorder.core.encode import Dictionary, Encoder, merge_rows, sort_rows
from recorder.core.encode_client import encode_with_client
from recorder.shell.sink.http_client import Address, Answer, HttpConnection, words
from recorder.values.schema import Table

MERGED_ROWS_MAX = 1 << 17  # waiting blocks go as one request up to this: the server's cost per row stops falling there
RETRY_FIRST_S = 0.05  # a server that restarts refuses for seconds; the first tries cost nothing
RETRY_MAX_S = 5.0  # and a long outage is noticed to be over within this
REASON_CHARACTERS_MAX = 1024
LATENCY_BUCKETS = 64  # bucket i: answers that took less than 2**i ns

# Answers by what they mean; every other one is tried again, for the rows are safe in the journal.
STORED = 204
TOO_LARGE = 413
_MEANINGS = {
    401: "QuestDB refuses the user or password (HTTP 401); set RECORDER_QUESTDB_USER and RECORDER_QUESTDB_PASSWORD",
    403: "QuestDB forbids this user to write (HTTP 403)",
    404: "HTTP 404: is questdb.ilp the address of QuestDB's HTTP port?",
    421: "QuestDB is read-only (HTTP 421)",
    429: "QuestDB has too many connections (HTTP 429)",
}


Log = Callable[..., None]  # log(event, **fields), from any thread


class Closing(Exception):
    """The sink is being closed; what was not answered stays in the journal."""


@dataclass(frozen=True)
class Job:
    """One table's rows of one block."""

    position: int
    rows: Rows
    dictionary: Dictionary
    done: Callable[[], None]
    refused: Callable[[list[Refused]], None]  # called before ``done``


@dataclass(frozen=True)
class Refused:
    """A row that the server refused although it was sent alone. ``index`` is its place in ``job.rows`` as sent."""

    rows: Rows
    index: int
    dictionary: Dictionary
    position: int
    reason: str


class Health:
    """Whether the server takes rows, over all tables; one log event when that changes. Safe from every thread."""

    def __init__(self, log: Log) -> None:
        self.down_since: float | None = None  # time.monotonic() of the first failure since rows last went through
        self.last_error = ""
        self._log, self._lock = log, threading.Lock()
        self._failing: dict[str, int] = {}  # table → HTTP status, 0 where there was none

    def fail(self, table: str, status: int, reason: str) -> None:
        with self._lock:
            told = status in self._failing.values()
            self._failing[table] = status
            self.last_error = reason
            if self.down_since is None:
                self.down_since = time.monotonic()
        if not told:
            self._log("sink.retried", table=table, reason=reason)

    def recover(self, table: str) -> None:
        if table not in self._failing:  # asked at every answer, so without the lock; only this table's thread adds it
            return
        with self._lock:
            del self._failing[table]
            if self._failing or self.down_since is None:
                return
            down_s, self.down_since = time.monotonic() - self.down_since, None
        self._log("sink.recovered", down_s=round(down_s, 3))


class _Error(msgspec.Struct):
    """QuestDB's words on a refused request: {"code":"invalid","message":"…","line":2,"errorId":"…"}"""

    code: str = ""
    message: str = ""
    line: int = 0


def _error_of(answer: Answer) -> _Error:
    try:
        return msgspec.json.decode(answer.body, type=_Error)
    except msgspec.MsgspecError:
        return _Error(message=answer.body[:REASON_CHARACTERS_MAX].decode("utf-8", "replace").strip())


class Comparer(Protocol):
    """What knows which transactions tables must have, see AppliedPoller."""

    def begun(self, table: str) -> int: ...
    def stored(self, table: str, begun: int) -> None: ...
    def compare(self, closing: threading.Event) -> bool: ...


class TableSender:
    """Sends one table's jobs in order over one connection. Counters are written by its thread alone."""

    def __init__(
        self,
        table: Table,
        address: Address,
        encoder: str,
        health: Health,
        apply_schema: Callable[[], object] | None,
        uniform: Callable[[], float],
        poller: Comparer,
    ) -> None:
        self.table = table
        self.rows = self.bytes = self.requests = self.retries = self.rejected = 0
        self.latency = [0] * LATENCY_BUCKETS
        self._connection = HttpConnection(address, opened=self._compare)
        self._encoder = Encoder() if encoder == "numba" else None
        self._health, self._apply_schema, self._uniform = health, apply_schema, uniform
        self._poller = poller
        self._waiting: deque[Job] = deque()  # bounded by the blocks in flight, which the sink counts
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._schema_applied = False
        self._thread = threading.Thread(target=self._run, name=f"sink-{table.name}", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        with self._wake:
            self._waiting.append(job)
            self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Stop, also in the middle of a request."""
        self._closing.set()
        with self._wake:
            self._wake.notify()
        self._connection.abort()
        self._thread.join(timeout_s)
        self._connection.close()

    def _compare(self) -> None:
        """A new connection may lead to a server whose data was put back: rows sent now would hide what it lacks.

        Raises ConnectionError, as if it were none, when the server cannot be asked; Closing.
        """
        if not self._poller.compare(self._closing):
            raise Closing

    def _run(self) -> None:
        try:
            while True:
                jobs = self._take()
                while not self._try_deliver(jobs):
                    self._closing.wait(RETRY_MAX_S)
                for job in jobs:
                    job.done()
        except Closing:
            return

    def _try_deliver(self, jobs: list[Job]) -> bool:
        try:
            self._deliver(jobs)
        except Closing:
            raise
        except Exception as error:
            # Our own bug: tell it, keep the thread, and let nothing be released that is not stored.
            self._health.fail(self.table.name, -1, f"{type(error).__name__}: {error}")
            return False
        return True

    def _take(self) -> list[Job]:
        """Wait for jobs; as many as one request may hold. Only snapshots of one origin share their ids."""
        with self._wake:
            while not self._waiting:
                if self._closing.is_set():
                    raise Closing
                self._wake.wait()
            jobs = [self._waiting.popleft()]
            count = len(jobs[0].rows.rows)
            while self._waiting and self._waiting[0].dictionary.origin is jobs[0].dictionary.origin:
                count += len(self._waiting[0].rows.rows)
                if count > MERGED_ROWS_MAX:
                    break
                jobs.append(self._waiting.popleft())
            return jobs

    def _deliver(self, jobs: list[Job]) -> None:
        """Store every row the server takes. A refused request is cut at the line it names until the bad row is alone.

        Each bad row costs at most six requests or so; a block of nothing but bad rows about two a row.
        """
        rows = sort_rows(merge_rows([job.rows for job in jobs]))
        dictionary, position = jobs[-1].dictionary, jobs[-1].position
        refused: list[Refused] = []
        parts = [(0, len(rows.rows))]  # what is left to send, next one last
        while parts:
            start, stop = parts.pop()
            answer = self._post(replace(rows, rows=rows.rows[start:stop]), dictionary)
            if answer.status == STORED:
                self.rows += stop - start
                continue
            error = _error_of(answer)
            if stop - start == 1:
                self.rejected += 1
                refused.append(Refused(rows, start, dictionary, position, error.message[:REASON_CHARACTERS_MAX]))
                continue
            bad = start + error.line - 1
            middle = (start + stop) // 2
            if start <= bad < stop and answer.status != TOO_LARGE:
                # The row is sent alone before it is given up: a line number alone shall not cost a row.
                middle = (bad + 1 + stop) // 2
                cuts = [start, bad, bad + 1, middle, stop]
            else:
                cuts = [start, middle, stop]
            parts += [(a, b) for a, b in zip(cuts[-2::-1], cuts[:0:-1], strict=True) if a < b]
        if refused:
            jobs[0].refused(refused)  # the oldest block waits for them, and all later ones behind it

    def _encode(self, rows: Rows, dictionary: Dictionary) -> memoryview | bytes:
        if self._encoder is None:
            return encode_with_client(rows, dictionary)
        return self._encoder.encode(rows, dictionary)

    def _post(self, rows: Rows, dictionary: Dictionary) -> Answer:
        """Post until the server has stored the rows or refused them as such. Raises Closing."""
        try:
            body = self._encode(rows, dictionary)
        except Exception as error:  # a row that cannot be written is isolated like one the server refuses
            return Answer(400, msgspec.json.encode(_Error("invalid", f"{type(error).__name__}: {error}")))
        attempt = 0
        while True:
            status, reason = 0, ""
            try:
                if self._closing.is_set():
                    raise Closing
                self.requests += 1
                begun = self._poller.begun(self.table.name)
                started = time.perf_counter_ns()
                answer = self._connection.request("POST", "/write", body)
                status = answer.status
                if status == STORED:
                    self._poller.stored(self.table.name, begun)
                    self.latency[(time.perf_counter_ns() - started).bit_length()] += 1
                    self.bytes += len(body)
                    self._schema_applied = False
                if status == STORED or self._refuses_rows(answer):
                    self._health.recover(self.table.name)
                    return answer
                reason = self._reason(answer)
            except OSError as error:
                reason = words(error, self._connection.address)
            if self._closing.is_set():
                raise Closing
            self.retries += 1
            if status == 400 and "creating new" in reason and self._repair_schema():
                continue
            self._health.fail(self.table.name, status, reason)
            self._connection.close()  # whatever was wrong: tables are compared before anything is sent again
            delay_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(attempt, 16)) * (0.5 + 0.5 * self._uniform())
            attempt += 1
            self._closing.wait(delay_s)

    @staticmethod
    def _refuses_rows(answer: Answer) -> bool:
        """The server means the rows, not itself nor its schema; anybody else's 400 says nothing about them."""
        if answer.status == TOO_LARGE:
            return True
        if answer.status != 400:
            return False
        error = _error_of(answer)
        return error.code == "invalid" and "creating new" not in error.message

    @staticmethod
    def _reason(answer: Answer) -> str:
        said = _error_of(answer).message[:REASON_CHARACTERS_MAX]
        meaning = _MEANINGS.get(answer.status, f"HTTP {answer.status}")
        return f"{meaning}: {said}" if said else meaning

    def _repair_schema(self) -> bool:
        """A table or column is gone: create it, once until rows go through again."""
        if self._schema_applied or self._apply_schema is None:
            return False
        self._schema_applied = True
        try:
            self._apply_schema()
        except Exception as error:  # whatever went wrong, the rows wait in the journal and the reason is told
            self._health.fail(self.table.name, 400, f"the schema could not be applied: {error}")
            return False
        self._connection.close()  # a connection that knew a dropped table acknowledges rows into nowhere
        return True
