"""Blocks reach a real QuestDB once, whatever happens to it; what it refuses is isolated."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from recorder.core.batch import Output, Rows
from recorder.core.encode import Dictionary, Sealed
from recorder.shell.database.migrate import apply_schema
from recorder.shell.sink import BLOCKS_IN_FLIGHT_MAX, Sink, applied, suspension
from recorder.values.config import QuestdbConfig
from recorder.values.schema import INT_NULL, LONG_NULL, TEXT_NULL
from recorder.values.tables import STATUSES, TRADES

DEADLINE_S = 60.0
START = 1_760_000_000_000_000_000  # ns: October 2025


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


class Recorded:
    """A log that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]


class Blocks:
    """Blocks of trades with growing ids, and statuses beside them on demand."""

    def __init__(self) -> None:
        self.output = Output()
        self.scope = self.output.scope("cb", 0)
        self.position = self.ids = 0

    def block(self, count: int, **columns: object) -> Sealed:
        """``count`` trades; ``columns`` overrides whole columns of them."""
        rows = np.zeros(count, TRADES.dtype)
        number = np.arange(self.ids, self.ids + count)
        rows["ts_event"] = START + number * 1_000_001
        rows["ts_recv"] = rows["ts_event"] + 7
        rows["series"] = np.where(number % 2, self.scope.series("BTC-USD"), self.scope.series("ETH USD,x=y"))
        rows["trade_id"], rows["price"], rows["size"] = number, number / 3, 0.1
        rows["exchange"] = rows["conditions"] = rows["tape"] = rows["trade_ref"] = TEXT_NULL
        rows["side"], rows["flags"], rows["missed"] = 1 + number % 2, INT_NULL, LONG_NULL
        for name in ("vwap", "rolling_vwap", "zscore"):
            rows[name] = np.nan
        for name, value in columns.items():
            rows[name] = value
        self.ids += count
        return self.sealed(Rows(TRADES, rows, np.zeros(0, np.uint8), np.zeros(1, np.int64)))

    def statuses(self, messages: list[str]) -> Rows:
        batch = self.output.batches[STATUSES.name]
        for i, message in enumerate(messages):
            code, text = self.scope.text(f"H,{i} \\"), batch.varchar(message)
            series = self.scope.series("BTC-USD")
            batch.append(START + i, START, series, 1, code, text, TEXT_NULL, TEXT_NULL, 1.5, float("nan"), TEXT_NULL)
        return batch.seal()

    def sealed(self, *tables: Rows) -> Sealed:
        self.position += 1000
        return Sealed(self.position, tables, Dictionary.of(self.output))


def settings(ilp: str, sql: str, **changes: object) -> Any:
    return QuestdbConfig(embedded=False, ilp=ilp, sql=sql, **changes)  # type: ignore[arg-type]


@pytest.fixture
def make_sink() -> Iterator[Callable[..., tuple[Sink, Recorded]]]:
    sinks: list[Sink] = []

    def make(questdb: Any, **arguments: Any) -> tuple[Sink, Recorded]:
        log = Recorded()
        sinks.append(Sink(questdb, log=log, uniform=random.Random(1).random, **arguments))
        return sinks[-1], log

    yield make
    for sink in sinks:
        sink.close()


def submit(sink: Sink, sealed: Sealed) -> None:
    wait_until(sink.room, "room in the sink")
    sink.submit(sealed)


@pytest.mark.parametrize("encoder", ["numba", "client"])
def test_rows_arrive_as_they_were_to_the_nanosecond(fresh_tables: Any, make_sink: Any, encoder: str) -> None:
    sink, log = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url, encoder=encoder))
    blocks = Blocks()
    messages = ['say "hi", a=b', "line\nbreak \\ back", "é€😀", ""]
    first = blocks.block(3)
    submit(sink, first)
    submit(sink, blocks.sealed(blocks.statuses(messages)))
    assert sink.drain(DEADLINE_S)
    rows = fresh_tables.sql.rows("select ts_event::long ts, ts_recv::long recv, * from trades order by ts")
    assert [(r["ts"], r["recv"]) for r in rows] == [
        (START + i * 1_000_001, START + i * 1_000_001 + 7) for i in range(3)
    ]
    assert [r["symbol"] for r in rows] == ["ETH USD,x=y", "BTC-USD", "ETH USD,x=y"]
    assert [r["side"] for r in rows] == ["sell", "buy", "sell"]
    assert [r["price"] for r in rows] == [0.0, 1 / 3, 2 / 3]
    assert {r["feed"] for r in rows} == {"cb"}
    assert all(r[name] is None for r in rows for name in ("exchange", "trade_ref", "flags", "vwap", "missed", "tape"))
    rows = fresh_tables.sql.rows("select * from statuses order by ts_event")
    assert [r["message"] for r in rows] == messages
    assert [r["code"] for r in rows] == [f"H,{i} \\" for i in range(4)]
    assert [(r["kind"], r["limit_up"], r["limit_down"]) for r in rows] == [("status", 1.5, None)] * 4
    assert (sink.rows_sent, sink.rejected_rows, sink.retries, log.events) == (7, 0, 0, [])
    assert sum(sink.answer_latency) == sink.requests


def test_a_position_is_applied_only_when_its_rows_can_be_queried(fresh_tables: Any, make_sink: Any) -> None:
    seen: list[tuple[int, int]] = []
    check = fresh_tables.database.client()

    def on_applied(position: int) -> None:
        seen.append((position, check.value("select count() from trades")))

    sink, _ = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url), on_applied=on_applied)
    blocks, rows_at = Blocks(), {}
    for _ in range(60):
        sealed = blocks.block(50)
        rows_at[sealed.position] = blocks.ids
        submit(sink, sealed)
    assert sink.drain(DEADLINE_S)
    check.close()
    positions = [position for position, _ in seen]
    assert positions == sorted(positions)
    assert positions[-1] == blocks.position == sink.applied_position == sink.answered_position
    assert all(count >= rows_at[position] for position, count in seen)
    assert sum(sink.applied_lag) >= len(positions)


def test_blocks_without_rows_are_applied_in_their_turn(fresh_tables: Any, make_sink: Any) -> None:
    applied: list[int] = []
    sink, _ = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url), on_applied=applied.append)
    blocks = Blocks()
    for sealed in (blocks.sealed(), blocks.block(10), blocks.sealed(), blocks.block(0)):
        submit(sink, sealed)
    assert sink.drain(DEADLINE_S)
    assert applied[-1] == 4000
    assert sink.rows_sent == 10


def test_a_killed_server_costs_no_row_and_doubles_none(fresh_tables: Any, make_sink: Any) -> None:
    sink, log = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url))
    blocks, back = Blocks(), threading.Event()

    def kill_and_restart() -> None:
        os.kill(fresh_tables.database.status().pid, signal.SIGKILL)
        wait_until(lambda: sink.down_s, "the sink to notice")
        fresh_tables.database.restart()
        back.set()

    killer = threading.Thread(target=kill_and_restart)
    for number in range(400):
        if number == 60:
            killer.start()
        submit(sink, blocks.block(200))
    killer.join()
    assert back.is_set()
    assert sink.drain(DEADLINE_S)
    count, distinct = fresh_tables.sql.query("select count(), count_distinct(trade_id) from trades").rows[0]
    assert (count, distinct) == (80_000, 80_000)
    assert sink.retries
    assert sink.down_s == 0
    assert len(log.named("sink.recovered")) == 1
    assert len(log.named("sink.retried")) <= 3, "one event per change of state, not one per attempt"


def test_rows_the_server_refuses_are_isolated_and_recorded(fresh_tables: Any, make_sink: Any) -> None:
    told: list[tuple[Any, ...]] = []
    sink, log = make_sink(
        settings(fresh_tables.ilp_url, fresh_tables.sql_url), on_rejected=lambda *words: told.append(words)
    )
    blocks = Blocks()
    times = START + np.arange(500) * 1_000_001
    times[[0, 250, 251, 499]] = [-5, LONG_NULL, -1, -2]
    sealed = blocks.block(500, ts_event=times, ts_recv=START + 1)
    submit(sink, sealed)
    submit(sink, blocks.block(100))
    assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from trades") == 596
    rejected = fresh_tables.sql.rows("select * from rejected")
    assert len(rejected) == len(told) == sink.rejected_rows == 4
    assert all("designated timestamp before 1970" in r["reason"] and r["feed"] == "cb" for r in rejected)
    assert sorted(int(r["excerpt"].split("trade_id=")[1].split()[0]) for r in rejected) == [0, 250, 251, 499]
    assert {r["ts_event"] for r in rejected} == {"2025-10-09T08:53:20.000000001Z"}
    assert {words[0] for words in told} == {"trades"}
    assert len(log.named("sink.rejected")) == 1
    assert sink.requests < 40
    # A replay, cut elsewhere, finds the same rows and adds none.
    again = Sealed(sealed.position + 5000, sealed.tables, sealed.dictionary)
    submit(sink, again)
    assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from rejected") == 4


def test_a_block_of_nothing_but_refused_rows_ends(fresh_tables: Any, make_sink: Any) -> None:
    fresh_tables.sql.execute("alter table trades alter column price type long")
    fresh_tables.wait_applied("trades")
    sink, _ = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url))
    blocks = Blocks()
    submit(sink, blocks.block(64))
    submit(sink, blocks.block(10, price=np.nan))
    assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from trades") == 10
    assert fresh_tables.sql.value("select count() from rejected") == sink.rejected_rows == 64
    assert "price" in fresh_tables.sql.value("select reason from rejected limit 1")
    assert sink.requests < 4 * 74


def test_a_missing_table_is_created_and_no_row_is_lost(fresh_tables: Any, make_sink: Any) -> None:
    from recorder.shell.database.migrate import apply_schema

    applied: list[int] = []

    def apply() -> None:
        applied.append(1)
        with fresh_tables.database.client() as client:
            apply_schema(client, fresh_tables.config)

    fresh_tables.sql.execute("drop table trades")
    sink, log = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url), apply_schema=apply)
    blocks = Blocks()
    submit(sink, blocks.block(25))
    assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from trades") == 25
    assert (applied, log.events, sink.rejected_rows) == ([1], [], 0)


def test_a_missing_table_that_cannot_be_created_keeps_its_rows_waiting(fresh_tables: Any, make_sink: Any) -> None:
    def apply() -> None:
        raise RuntimeError("no")

    fresh_tables.sql.execute("drop table trades")
    sink, log = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url), apply_schema=apply)
    blocks = Blocks()
    submit(sink, blocks.block(25))
    wait_until(lambda: sink.retries > 2, "retries")
    assert "table does not exist" in sink.last_error
    assert sink.rejected_rows == 0
    assert not sink.drain(0.05)
    assert len(log.named("sink.retried")) == 1
    fresh_tables.sql.execute(TRADES.ddl())
    assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from trades") == 25
    assert len(log.named("sink.recovered")) == 1


def test_waiting_blocks_are_sent_together(fresh_tables: Any, make_sink: Any, free_port: Callable[[], int]) -> None:
    """While the server is away blocks queue up; afterwards they go as few requests."""
    port = free_port()
    sink, _ = make_sink(settings(f"http::addr=127.0.0.1:{port};", fresh_tables.sql_url))
    blocks = Blocks()
    while sink.room():
        sink.submit(blocks.block(10))
    assert sink.blocks_in_flight == BLOCKS_IN_FLIGHT_MAX
    wait_until(lambda: sink.retries, "a refused connection")
    assert f"nobody listens at 127.0.0.1:{port}" in sink.last_error
    with pytest.raises(AssertionError, match="blocks in flight"):
        sink.submit(blocks.block(10))
    before = sink.requests
    with Forwarder(port, fresh_tables.http_port):
        assert_drains(sink)
    assert fresh_tables.sql.value("select count() from trades") == 10 * BLOCKS_IN_FLIGHT_MAX
    assert sum(sink.answer_latency) <= 2
    assert sink.requests > before


def assert_drains(sink: Sink) -> None:
    assert sink.drain(DEADLINE_S), sink.last_error


class Forwarder:
    """Listens on a port and passes bytes to another."""

    def __init__(self, port: int, to: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._to, self._sockets = to, [self._listener]

    def __enter__(self) -> Forwarder:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


class Scripted:
    """A server that gives the same answer to every request, or none at all."""

    def __init__(self, port: int, answer: bytes | None) -> None:
        self.answer, self.requests = answer, 0
        self.answers: dict[bytes, bytes] = {}  # to requests with these bytes in them
        self.url = f"http::addr=127.0.0.1:{port};request_timeout=300;"
        self.sql = f"http://127.0.0.1:{port}"
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            while request := client.recv(1 << 20):
                self.requests += 1
                answer = next((text for mark, text in self.answers.items() if mark in request), self.answer)
                if answer is not None:
                    client.sendall(answer)
        except OSError:
            return


@pytest.fixture
def scripted(free_port: Callable[[], int]) -> Iterator[Callable[[bytes | None], Scripted]]:
    servers: list[Scripted] = []

    def make(answer: bytes | None) -> Scripted:
        servers.append(Scripted(free_port(), answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def test_a_server_that_never_answers_is_given_up_and_asked_again(scripted: Any, make_sink: Any) -> None:
    server = scripted(None)
    sink, log = make_sink(settings(server.url, server.sql))
    blocks = Blocks()
    while sink.room():
        sink.submit(blocks.block(100))
    wait_until(lambda: sink.retries >= 3, "three attempts")
    assert "no answer from 127.0.0.1" in sink.last_error
    assert (sink.answered_position, sink.blocks_in_flight) == (0, BLOCKS_IN_FLIGHT_MAX)
    assert len(log.named("sink.retried")) == 1
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("401 Unauthorized", "Unauthorized", "refuses the user or password"),
        ("403 Forbidden", "", "forbids"),
        ("404 Not Found", "<html>", "is questdb.ilp the address of QuestDB's HTTP port?"),
        ("421 Misdirected", '{"code":"not accepting writes","message":"read only"}', "read-only (HTTP 421): read only"),
        ("429 Too many", "", "too many connections"),
        ("500 Oops", '{"code":"internal error","message":"disk full","line":1}', "HTTP 500: disk full"),
        ("400 Bad", "<html>a proxy's page", "HTTP 400: <html>a proxy's page"),
        ("200 OK", "hello from a captive portal", "HTTP 200: hello from a captive portal"),
    ],
)
def test_answers_that_say_nothing_about_the_rows_are_told_once_and_tried_again(
    scripted: Any, make_sink: Any, status: str, body: str, words: str
) -> None:
    server = scripted(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    sink, log = make_sink(settings(server.url, server.sql))
    sink.submit(Blocks().block(10))
    wait_until(lambda: sink.retries >= 2, "retries")
    assert words in sink.last_error
    assert (sink.answered_position, sink.rejected_rows) == (0, 0)
    assert [fields["reason"] for fields in log.named("sink.retried")] == [sink.last_error]


def test_a_closed_idle_connection_is_not_a_failure(fresh_tables: Any, make_sink: Any, free_port: Any) -> None:
    port = free_port()
    with Forwarder(port, fresh_tables.http_port) as between:
        sink, log = make_sink(settings(f"http::addr=127.0.0.1:{port};", fresh_tables.sql_url))
        blocks = Blocks()
        submit(sink, blocks.block(5))
        assert sink.drain(DEADLINE_S)
        for each in between._sockets[1:]:
            with contextlib.suppress(OSError):  # the end of its other side may have ended it
                each.shutdown(socket.SHUT_RDWR)
        submit(sink, blocks.block(5))
        assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from trades") == 10
    assert (sink.retries, log.events) == (0, [])


def test_a_suspended_table_is_told_and_releases_nothing(scripted: Any, make_sink: Any, free_port: Any) -> None:
    states = '{"dataset":[["trades",%s,5,7,"DISK FULL","No space left"]]}'

    def http(body: str) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    server, ilp = scripted(http(states % "true")), scripted(b"HTTP/1.1 204 OK\r\n\r\n")
    server.answers[b"directoryName"] = http('{"dataset":[["trades","trades~1"]]}')
    sink, log = make_sink(settings(ilp.url, server.sql))
    sink.submit(Blocks().block(5))
    wait_until(lambda: sink.suspended, "the suspension to be seen")
    assert sink.suspended == {"trades": "DISK FULL: No space left"}
    assert sink.answered_position == 1000
    assert sink.applied_position == 0
    server.answer = http((states % "false").replace("5,7", "7,7"))
    wait_until(lambda: sink.lost, "the end of the episode")
    assert not sink.suspended
    assert sink.applied_position == 0
    assert [event for event, _ in log.events] == ["sink.suspended", "sink.resumed"]


def test_answers_that_the_server_has_no_transactions_of_are_a_loss_that_is_seen_at_the_next_look(
    scripted: Any, make_sink: Any
) -> None:
    """As of a server that lost a transaction before anybody had looked for it."""

    def http(body: str) -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    server, ilp = scripted(http('{"dataset":[["trades",false,5,5,"",""]]}')), scripted(b"HTTP/1.1 204 OK\r\n\r\n")
    server.answers[b"directoryName"] = http('{"dataset":[["trades","trades~1"]]}')
    told: list[tuple[str, str]] = []
    sink, _ = make_sink(settings(ilp.url, server.sql), on_replaced=lambda *words: told.append(words))
    blocks = Blocks()
    sink.submit(blocks.block(5))
    wait_until(lambda: sink.applied_position == 1000, "the release")
    sink.submit(blocks.block(5))
    wait_until(lambda: told, "the loss to be seen")
    assert told == [("trades", "the server knows 5 transactions of it, and had 6")]
    assert (sink.answered_position, sink.applied_position, sink.known["trades"].transactions) == (2000, 1000, 5)


SUFFIXES = ("", *(f".{number}" for number in range(1, 41)))  # of a partition's folder: transactions of this table


def test_what_a_suspended_table_was_sent_is_not_believed_and_can_be_sent_once_more(
    fresh_tables: Any, make_sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QuestDB 9.3.4 resumes, and now and then takes the transaction that failed for applied without its rows."""
    monkeypatch.setattr(suspension, "RESUME_FIRST_S", 0.3)
    monkeypatch.setattr(applied, "POLL_FAILING_S", 0.05)
    told: list[tuple[str, str | None]] = []
    resumed: list[str] = []
    questdb = settings(fresh_tables.ilp_url, fresh_tables.sql_url)
    sink, log = make_sink(questdb, on_suspended=lambda *words: told.append(words), on_resumed=resumed.append)
    blocks = Blocks()
    submit(sink, blocks.block(100))
    assert sink.drain(DEADLINE_S)
    name = fresh_tables.sql.value("select directoryName from tables() where table_name = 'trades'")
    folder = fresh_tables.database.root / "db" / name
    day = START + 86_400_000_000_000
    in_the_way = [folder / f"{np.datetime64(day, 'ns').astype('datetime64[D]')}{suffix}" for suffix in SUFFIXES]
    for file in in_the_way:  # where the partition's folder has to be
        file.write_text("in the way")
    sent = [blocks.block(100, ts_event=day + np.arange(100)), blocks.block(100)]
    for block in sent:
        submit(sink, block)
    wait_until(lambda: told, "the suspension to be seen")
    wait_until(lambda: log.named("sink.resume_tried"), "a try")
    for file in in_the_way:
        file.unlink()
    wait_until(lambda: resumed, "the end of the episode")
    assert sink.answered_position == 3000
    assert sink.applied_position == 1000, "released again only by a sink that sends what was not"
    assert not sink.suspended
    assert "trades was suspended" in sink.lost
    assert [name for name, _ in log.events if name != "sink.resume_tried"] == ["sink.suspended", "sink.resumed"]
    assert [fields["attempt"] for fields in log.named("sink.resume_tried")] == list(
        range(1, 1 + log.named("sink.resumed")[0]["tries"])
    )
    assert resumed == ["trades"]
    assert [(table, reason is None) for table, reason in told] == [("trades", False), ("trades", True)]
    known = sink.known
    sink.close()
    sink, log = make_sink(questdb, known=known)
    for block in sent:
        submit(sink, block)
    assert sink.drain(DEADLINE_S)
    assert (sink.lost, log.events) == ("", [])
    counted = "select count(), count_distinct(trade_id) from trades"
    assert fresh_tables.sql.query(counted).rows == [[300, 300]]
    assert fresh_tables.sql.query(counted + " where ts_event >= '2025-10-10'").rows == [[100, 100]]


def test_what_a_table_applies_in_an_episode_is_not_believed() -> None:
    log = Recorded()
    watch = suspension.Suspensions(lambda _: None, log, lambda *_: None)
    state = suspension.TableState(5, 9, True, "", "mkdir")
    assert watch.believed("trades", 5) == 5
    assert watch.watch({"trades": state}, ["trades"], 0.0) == []
    assert watch.watch({"trades": state._replace(writer=7)}, ["trades"], 1.0) == [], "one applied, the next one failed"
    assert (watch.believed("trades", 7), watch.believed("quotes", 7)) == (5, 7)
    assert watch.watch({"trades": state._replace(writer=8, suspended=False)}, ["trades"], 2.0) == ["trades"]
    assert watch.watch({"trades": state._replace(writer=8, suspended=False)}, ["trades"], 3.0) == []


def test_a_cause_that_does_not_pass_is_told_once_with_what_to_do() -> None:
    log = Recorded()
    watch = suspension.Suspensions(lambda _: None, log, lambda *_: None)
    state = suspension.TableState(5, 9, True, "", "could not create directories")
    for now in range(0, 400):
        watch.watch({"trades": state}, ["trades"], float(now))
    (told,) = log.named("sink.suspension_lasts")
    assert "RESUME WAL FROM TXN 7 " in told["hint"]
    assert log.events.index(("sink.suspension_lasts", told)) == 1 + suspension.LASTING_TRIES


def test_tries_come_later_and_later_up_to_a_bound_and_each_is_told() -> None:
    resumed: list[float] = []
    log, now = Recorded(), 0.0
    watch = suspension.Suspensions(lambda _: resumed.append(now), log, lambda *_: None)
    state = suspension.TableState(5, 9, True, "DISK FULL", "No space left")
    for now in np.arange(0, 2000, 0.5).tolist():
        watch.watch({"trades": state}, ["trades"], now)
    assert resumed[:8] == [5.0, 15.0, 35.0, 75.0, 155.0, 315.0, 615.0, 915.0]
    assert [fields["attempt"] for fields in log.named("sink.resume_tried")] == list(range(1, len(resumed) + 1))
    assert not log.named("sink.suspension_lasts"), "a full disk is a cause that passes"
    watch.watch({"trades": state._replace(suspended=False)}, ["trades"], now)
    assert watch.reasons, "resumed, but no transaction got through yet"
    watch.watch({"trades": state._replace(suspended=False, writer=6)}, ["trades"], now)
    assert not watch.reasons
    assert len(log.named("sink.suspended")) == len(log.named("sink.resumed")) == 1


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_released_once_a_table_lost_answered_rows(fresh_tables: Any, make_sink: Any, again: bool) -> None:
    told: list[tuple[str, str]] = []
    questdb = settings(fresh_tables.ilp_url, fresh_tables.sql_url)
    sink, log = make_sink(questdb, on_replaced=lambda *words: told.append(words))
    blocks = Blocks()
    for _ in range(3):
        submit(sink, blocks.block(10))
        assert sink.drain(DEADLINE_S)
    fresh_tables.sql.execute("DROP TABLE trades")
    if again:
        apply_schema(fresh_tables.sql, fresh_tables.config)
    submit(sink, blocks.block(10))  # the kept connection's request is answered, and its rows go nowhere
    wait_until(lambda: told, "the loss to be seen")
    assert sink.answered_position == 4000
    assert sink.applied_position == 3000
    assert not sink.drain(0.2)
    assert [table for table, _ in told] == ["trades"]
    assert len(log.named("sink.table_replaced")) == 1
    if not again:
        apply_schema(fresh_tables.sql, fresh_tables.config)
    assert fresh_tables.sql.value("select count() from trades") == 0


@pytest.mark.parametrize("loss", ["dropped", "created again", "put back"])
def test_a_table_that_lost_rows_before_the_start_is_told_before_any_row_comes(
    fresh_tables: Any, make_sink: Any, loss: str
) -> None:
    questdb = settings(fresh_tables.ilp_url, fresh_tables.sql_url)
    sink, _ = make_sink(questdb)
    blocks = Blocks()
    submit(sink, blocks.block(10))
    assert sink.drain(DEADLINE_S)
    known = sink.known
    assert set(known) == {"trades"}
    sink.close()
    if loss == "put back":  # as if one transaction more had been seen
        known["trades"] = known["trades"]._replace(transactions=known["trades"].transactions + 1)
    else:
        fresh_tables.sql.execute("DROP TABLE trades")
    if loss == "created again":
        apply_schema(fresh_tables.sql, fresh_tables.config)
    told: list[str] = []
    sink, log = make_sink(questdb, known=known, on_replaced=lambda table, reason: told.append(table))
    assert not sink.room(), "transactions of new rows would hide that others are missing"
    wait_until(lambda: told, "the loss to be seen")
    assert (told, sink.room()) == (["trades"], False)
    assert len(log.named("sink.table_replaced")) == 1
    if loss == "dropped":
        apply_schema(fresh_tables.sql, fresh_tables.config)


def test_a_table_that_is_rewritten_in_place_is_not_taken_for_another_one(fresh_tables: Any, make_sink: Any) -> None:
    """Rows inserted from a second table, partitions dropped, the table emptied, columns and settings changed."""
    questdb, sql = settings(fresh_tables.ilp_url, fresh_tables.sql_url), fresh_tables.sql
    blocks, known, transactions = Blocks(), {}, [0]
    sql.execute(TRADES.ddl().replace("trades", "trades_shadow", 1))
    for change in (
        "INSERT INTO trades_shadow SELECT * FROM trades",
        "INSERT INTO trades SELECT * FROM trades_shadow",
        "ALTER TABLE trades DROP PARTITION LIST '2025-10-09'",
        "ALTER TABLE trades ADD COLUMN more DOUBLE",
        "ALTER TABLE trades DROP COLUMN more",
        "ALTER TABLE trades SET TTL 5 WEEKS",
        "TRUNCATE TABLE trades",
    ):
        sink, log = make_sink(questdb, known=known)
        submit(sink, blocks.block(10))
        assert sink.drain(DEADLINE_S)
        assert log.events == [], change
        sql.execute(change)
        fresh_tables.wait_applied("trades", "trades_shadow")
        submit(sink, blocks.block(10))
        assert sink.drain(DEADLINE_S)
        assert log.events == [], change
        known = sink.known
        transactions.append(known["trades"].transactions)
        assert transactions[-1] >= transactions[-2] + 2, change
        sink.close()
    sql.execute("DROP TABLE trades_shadow")
    sql.execute("DROP TABLE trades")
    apply_schema(sql, fresh_tables.config)


def test_a_database_that_cannot_be_asked_is_told_once(scripted: Any, make_sink: Any) -> None:
    server = scripted(b"HTTP/1.1 204 OK\r\n\r\n")
    sink, log = make_sink(settings(server.url, server.sql))
    sink.submit(Blocks().block(5))
    wait_until(lambda: log.events, "an event")
    assert sink.answered_position == 1000
    assert not sink.drain(0.1)
    assert [event for event, _ in log.events] == ["sink.release_stalled"]
    assert "HTTP 204" in sink.last_error


def test_a_receiver_that_fails_does_not_end_the_releases(fresh_tables: Any, make_sink: Any) -> None:
    applied: list[int] = []

    def on_applied(position: int) -> None:
        applied.append(position)
        if len(applied) == 1:
            raise RuntimeError("the loop is closed")

    sink, log = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url), on_applied=on_applied)
    blocks = Blocks()
    submit(sink, blocks.block(5))
    wait_until(lambda: applied == [1000], "the first release")
    submit(sink, blocks.block(5))
    wait_until(lambda: applied == [1000, 2000], "the second release")
    assert [event for event, _ in log.events] == ["sink.release_stalled"]


def test_a_block_that_cannot_be_encoded_loses_only_the_row_that_is_wrong(fresh_tables: Any, make_sink: Any) -> None:
    sink, _ = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url))
    sealed = Blocks().block(20)
    sealed.tables[0].rows["series"][7] = 4000
    submit(sink, sealed)
    assert sink.drain(DEADLINE_S)
    assert fresh_tables.sql.value("select count() from trades") == 19
    assert "row 0 names a text" in fresh_tables.sql.value("select reason from rejected")


def test_close_in_the_middle_of_load_ends_every_thread(fresh_tables: Any, make_sink: Any) -> None:
    sink, _ = make_sink(settings(fresh_tables.ilp_url, fresh_tables.sql_url))
    blocks = Blocks()
    for _ in range(3):
        submit(sink, blocks.block(20_000))
    sink.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sink-")]
    assert sink.applied_position <= sink.answered_position <= blocks.position
