"""Blocks into QuestDB: at most so many in flight, each table over its own thread, positions given back in order."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from zlib import crc32

from recorder.core.batch import Batch, Output, Rows
from recorder.core.encode import Dictionary, Sealed, warm
from recorder.core.encode_client import describe_row, feed_of, values_of
from recorder.shell.sink.acknowledged import Known
from recorder.shell.sink.applied import AppliedPoller
from recorder.shell.sink.http_client import parse_conf, parse_url
from recorder.shell.sink.sender import Closing, Health, Job, Log, Refused, TableSender
from recorder.values.config import QuestdbConfig
from recorder.values.schema import LONG_NULL
from recorder.values.tables import REJECTED, prefixed

BLOCKS_IN_FLIGHT_MAX = 8  # 40 ms of 5 ms windows; of 50,000 rows each 50 MB
CLOSE_TIMEOUT_S = 5.0  # per thread; an aborted request ends at once
DRAIN_POLL_S = 0.01
REFUSED_LOG_S = 60.0  # between two events about refused rows of one table; each row is in `rejected`
EXCERPT_CHARACTERS = 512  # of a refused row in words: a trade with every column has 300

OnRejected = Callable[[str, str, str, int, int], None]  # table, excerpt, the server's words, position, item


@dataclass
class _Block:
    position: int
    pending: int
    tables: set[str] = field(default_factory=set)


def _silent(event: str, **fields: object) -> None:
    """For those who watch the attributes instead."""


def _ignore(*told: str | None) -> None:
    """For those who send no rows again, such as a replay: ``lost`` says that they are not queryable."""


class Sink:
    """Takes sealed blocks and stores their rows; reports how far they were answered and applied.

    questdb       the configuration's section: ilp, sql, user, password, encoder ("numba", or "client" for the official)
    log           log(event, **fields), called from the sink's threads once per change of state
    on_answered   called with a position when every row up to it was acknowledged (from a sender's thread)
    on_applied    called with a position when every row up to it can be queried (from the poller's thread)
    on_rejected   called for each row the server refused, after it was isolated (from a sender's thread)
    on_suspended  called with a table and why it is suspended, with None when it applies again (the poller's thread)
    on_replaced   called once with a table that lost answered rows, and how that was seen (from the poller's thread):
                  nothing is released any more; send what was not, by another sink
    on_resumed    called once with a table that was suspended and applies again, likewise: rows may have been lost
    apply_schema  called once when a table or column is missing, before the rows are sent again
    known         tables as an earlier run's ``known`` said: one that lost rows since then is replaced as well
    Raises ConfigError for an address that cannot be used. No method but ``drain`` and ``close`` waits.
    """

    def __init__(
        self,
        questdb: QuestdbConfig,
        *,
        blocks_in_flight_max: int = BLOCKS_IN_FLIGHT_MAX,
        log: Log = _silent,
        on_answered: Callable[[int], None] | None = None,
        on_applied: Callable[[int], None] | None = None,
        on_rejected: OnRejected | None = None,
        on_suspended: Callable[[str, str | None], object] | None = None,
        on_replaced: Callable[[str, str], object] | None = None,
        on_resumed: Callable[[str], object] | None = None,
        apply_schema: Callable[[], object] | None = None,
        known: Mapping[str, Known] | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._address = parse_conf(questdb.ilp, questdb.user, questdb.password)
        sql_address = parse_url(questdb.sql, questdb.user, questdb.password)
        self._encoder, self._apply_schema, self._uniform, self._log = questdb.encoder, apply_schema, uniform, log
        self._on_answered, self._on_applied, self._on_rejected = on_answered, on_applied, on_rejected
        self._tables = prefixed(questdb.prefix)
        self.blocks_in_flight_max = blocks_in_flight_max
        self.submitted_position = 0
        self.answered_position = 0
        self.held = False  # set it to take no more blocks: they wait in the journal
        self.rejected_unrecorded = 0  # refused rows of `rejected` itself: in the log only
        self._health = Health(log)
        self._lock = threading.RLock()
        self._blocks: deque[_Block] = deque()  # submitted and not answered, oldest first
        self._senders: dict[str, TableSender] = {}
        self._told_refused: dict[str, float] = {}  # table → time.monotonic() of the last event about refused rows
        self._output = Output()  # of the rows this sink writes itself
        self._closed = False
        if questdb.encoder == "numba":
            warm()
        own = {table.name for table in self._tables.values()}
        self._poller = AppliedPoller(
            sql_address, self._applied, log, on_suspended or _ignore, on_replaced or _ignore,
            on_resumed or _ignore,
            {name: table for name, table in (known or {}).items() if name in own},
        )  # fmt: skip

    def room(self) -> bool:
        """Whether one more block may be submitted."""
        return not self.held and self._poller.compared and len(self._blocks) < self.blocks_in_flight_max

    def submit(self, sealed: Sealed) -> None:
        """Take a block; its rows are sent in the background. Positions must not decrease."""
        tables = [replace(rows, table=self._tables[rows.table.name]) for rows in sealed.tables if len(rows.rows)]
        block = _Block(sealed.position, len(tables), {rows.table.name for rows in tables})
        with self._lock:
            assert not self._closed, "submit after close"
            assert len(self._blocks) < self.blocks_in_flight_max, (
                f"more than {self.blocks_in_flight_max} blocks in flight"
            )
            assert sealed.position >= self.submitted_position, "positions of blocks must not decrease"
            self.submitted_position = sealed.position
            self._blocks.append(block)
            for rows in tables:
                self._send(block, rows, sealed.dictionary)
            if not tables:
                self._advance()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything submitted can be queried; False when it cannot within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.applied_position < self.submitted_position or self._blocks:
            if time.monotonic() >= deadline:
                return False
            time.sleep(DRAIN_POLL_S)
        return True

    def close(self) -> None:
        """Stop all threads, also in the middle of requests; what was not applied stays in the journal."""
        with self._lock:
            self._closed = True
        for sender in list(self._senders.values()):
            sender.close(CLOSE_TIMEOUT_S)
        self._poller.close(CLOSE_TIMEOUT_S)

    # State and metrics, for /health and /metrics.

    @property
    def blocks_in_flight(self) -> int:
        return len(self._blocks)

    @property
    def applied_position(self) -> int:
        return self._poller.position

    @property
    def down_s(self) -> float:
        """How long rows have not been getting through; 0 while they do."""
        since = self._health.down_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def last_error(self) -> str:
        return self._health.last_error or self._poller.last_error

    @property
    def lost(self) -> str:
        """Why nothing is released any more; empty while it is."""
        return self._poller.lost

    @property
    def suspended(self) -> dict[str, str]:
        """Suspended tables with the server's words."""
        return self._poller.suspensions.reasons

    @property
    def known(self) -> dict[str, Known]:
        """Tables as the server said they are when rows were last looked for."""
        return self._poller.known

    @property
    def rows_by_table(self) -> dict[str, int]:
        return {name: sender.rows for name, sender in list(self._senders.items())}

    @property
    def rows_sent(self) -> int:
        """Rows that QuestDB answered for."""
        return sum(sender.rows for sender in list(self._senders.values()))

    @property
    def rejected_rows(self) -> int:
        return sum(sender.rejected for sender in list(self._senders.values()))

    @property
    def bytes_sent(self) -> int:
        return sum(sender.bytes for sender in list(self._senders.values()))

    @property
    def requests(self) -> int:
        return sum(sender.requests for sender in list(self._senders.values()))

    @property
    def retries(self) -> int:
        return sum(sender.retries for sender in list(self._senders.values()))

    @property
    def answer_latency(self) -> list[int]:
        """Answers by duration: element i counts those below 2**i ns that are in no smaller one."""
        return [sum(counts) for counts in zip(*(s.latency for s in list(self._senders.values())), strict=True)]

    @property
    def applied_lag(self) -> list[int]:
        """Releases by the time from the answer to being applied, as ``answer_latency``."""
        return list(self._poller.lag)

    @property
    def visibility_lag_s(self) -> float:
        """From the answer to being applied: of what still waits, else of the last release."""
        return self._poller.waiting_s or self._poller.lag_s

    # Inside.

    def _send(self, block: _Block, rows: Rows, dictionary: Dictionary) -> None:
        """Hand rows to their table's thread, started at its first rows."""
        name = rows.table.name
        sender = self._senders.get(name)
        if sender is None:
            sender = self._senders[name] = TableSender(
                rows.table, self._address, self._encoder, self._health, self._apply_schema, self._uniform,
                self._poller,
            )  # fmt: skip
        sender.put(
            Job(
                block.position,
                rows,
                dictionary,
                lambda: self._done(block),
                lambda refused: self._record(block, refused),
            )
        )

    def _done(self, block: _Block) -> None:
        with self._lock:
            block.pending -= 1
            self._advance()

    def _advance(self) -> None:
        """Answered positions, in the order of submission; the lock is held."""
        tables: set[str] = set()
        position = None
        while self._blocks and not self._blocks[0].pending:
            block = self._blocks.popleft()
            position = block.position
            tables |= block.tables
        if position is None:
            return
        self.answered_position = position
        self._poller.answered(position, tables)
        if self._on_answered is not None:
            self._on_answered(position)

    def _applied(self, position: int) -> None:
        if self._on_applied is not None:
            self._on_applied(position)

    def _record(self, block: _Block, refused: list[Refused]) -> None:
        """Refused rows of one request become rows of ``rejected``; ``block`` is answered only when those are stored."""
        table, first = refused[0].rows.table, refused[0]
        now = time.monotonic()
        if now - self._told_refused.get(table.name, -REFUSED_LOG_S) >= REFUSED_LOG_S:
            self._told_refused[table.name] = now
            self._log("sink.rejected", table=table.name, rows=len(refused), reason=first.reason)
        rejected = self._tables[REJECTED.name]
        batch = Batch(rejected)
        with self._lock:
            for row in refused:
                ts, feed, excerpt = _told(row)
                item = crc32(excerpt.encode()) >> 1  # the same in every replay, wherever blocks end
                if self._on_rejected is not None:
                    self._on_rejected(table.name, excerpt, row.reason, row.position, item)
                reason, shown = (
                    batch.varchar(f"{table.name}: {row.reason}"),
                    batch.varchar(excerpt[:EXCERPT_CHARACTERS]),
                )
                batch.append(ts, self._output.texts.id(feed), LONG_NULL, item, reason, shown)
            if table is rejected:  # no second level: the frame is in the journal, and the callback was told
                self.rejected_unrecorded += len(refused)
                return
            if self._closed:
                raise Closing
            block.pending += 1
            block.tables.add(rejected.name)
            self._send(block, batch.seal(), Dictionary.of(self._output))


def _told(refused: Refused) -> tuple[int, str, str]:
    """(time, feed, the row in words) of a refused row; the time is the receive time where the row has one."""
    rows = replace(refused.rows, rows=refused.rows.rows[refused.index : refused.index + 1])
    try:
        values = next(values_of(rows, refused.dictionary))
    except (IndexError, ValueError):  # it names a text that nobody has: what is there is shown as it is
        values = {"row": str(rows.rows[0])}
    ts = next((values[name] for name in ("ts_recv", "ts_event") if (values.get(name) or -1) >= 0), 0)
    return ts, feed_of(values), describe_row(values)
