"""SqlClient against a real server: exact values, readable errors, reconnecting."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder.shell.database import sql_client
from recorder.shell.database.sql_client import SqlClient
from recorder.values.errors import DatabaseError

REAL_SERVER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@REAL_SERVER
@given(number=st.integers(-(1 << 63) + 1, (1 << 63) - 1))
def test_every_int64_comes_back_exactly(questdb, number):
    assert questdb.sql.value(f"select {number}::long") == number


@REAL_SERVER
@given(ts=st.integers(0, 4_000_000_000_000_000_000))
def test_every_nanosecond_comes_back_exactly_with_nine_digits(questdb, ts):
    second = datetime.fromtimestamp(ts // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert questdb.sql.value(f"select cast({ts} as timestamp_ns)") == f"{second}.{ts % 1_000_000_000:09d}Z"


@REAL_SERVER
@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_double_comes_back_exactly(questdb, number):
    assert questdb.sql.value(f"select '{number!r}'::double") == number


def test_microseconds_and_dates_are_brought_to_nine_digits(questdb):
    result = questdb.sql.query(
        "select '2026-08-01T12:00:00.000001Z'::timestamp us, to_date('2026-08-01','yyyy-MM-dd') d, null::timestamp n"
    )
    assert result.columns == [("us", "TIMESTAMP"), ("d", "DATE"), ("n", "TIMESTAMP")]
    assert result.rows == [["2026-08-01T12:00:00.000001000Z", "2026-08-01T00:00:00.000000000Z", None]]


def test_null_nan_and_infinity_are_none(questdb):
    assert questdb.sql.query("select null::long a, 'NaN'::double b, 1.0/0 c, null::symbol d, '' e").rows == [
        [None, None, None, None, ""]
    ]


def test_texts_keep_quotes_backslashes_and_unicode(questdb):
    assert questdb.sql.rows("select 'a\"b\\c é 价' t, true b, array[1.0, 2.0] x") == [
        {"t": 'a"b\\c é 价', "b": True, "x": [1.0, 2.0]}
    ]


def test_statement_without_rows_has_no_columns(questdb):
    questdb.sql.execute("create table if not exists scratch (a long)")
    try:
        result = questdb.sql.query("insert into scratch values (1)")
        assert (result.columns, result.rows) == ([], [])
        assert questdb.sql.value("select count() from scratch") == 1
    finally:
        questdb.sql.execute("drop table scratch")


def test_error_has_the_servers_words_and_shows_the_place(questdb):
    with pytest.raises(DatabaseError) as caught:
        questdb.sql.query("select x\nfrom   nope\nwhere 1 = 1")
    assert (
        str(caught.value) == "table does not exist [table=nope] at line 2, character 8: select x from ▶nope where 1 = 1"
    )


def test_client_goes_on_after_an_error(questdb):
    with pytest.raises(DatabaseError):
        questdb.sql.query("selec")
    assert questdb.sql.value("select 7") == 7


def test_csv_is_streamed_and_keeps_nanoseconds(questdb):
    pieces = list(questdb.sql.export_csv("select x, cast(x as timestamp_ns) t from long_sequence(100000)"))
    lines = b"".join(pieces).splitlines()
    assert len(pieces) > 1
    assert lines[0] == b'"x","t"'
    assert lines[100000] == b'100000,"1970-01-01T00:00:00.000100000Z"'


def test_csv_error_is_raised_before_the_first_piece(questdb):
    with pytest.raises(DatabaseError, match="table does not exist"):
        next(questdb.sql.export_csv("select * from nope"))


def test_nobody_listening_is_said_with_what_to_do(free_port):
    with pytest.raises(DatabaseError, match=r"nobody listens there; start .*recorder db start"):
        SqlClient(f"http://127.0.0.1:{free_port()}").query("select 1")


def test_address_without_scheme_is_refused():
    with pytest.raises(DatabaseError, match=r'questdb.sql is "127.0.0.1:9000"'):
        SqlClient("127.0.0.1:9000")


def test_too_large_an_answer_is_refused_and_the_client_goes_on(questdb, monkeypatch):
    monkeypatch.setattr(sql_client, "RESULT_BYTES_MAX", 1000)
    with pytest.raises(DatabaseError, match="add a LIMIT"):
        questdb.sql.query("select x from long_sequence(1000)")
    assert questdb.sql.value("select 7") == 7


def test_too_long_a_statement_is_refused_before_it_is_sent(questdb):
    with pytest.raises(DatabaseError, match="at most"):
        questdb.sql.query(f"select '{'x' * sql_client.REQUEST_BYTES_MAX}'")


def test_threads_may_share_a_client(questdb):
    wrong: list[object] = []

    def ask(number: int) -> None:
        wrong.extend(got for got in (questdb.sql.value(f"select {number}") for _ in range(20)) if got != number)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Peer:
    """Serves each accepted connection as told: how many requests are answered before it is closed without a word."""

    BODY = b'{"columns":[{"name":"a","type":"LONG"}],"dataset":[[9007199254740993]],"count":1}'

    def __init__(self, port: int, answers: list[int]) -> None:
        self.url, self.requests = f"http://127.0.0.1:{port}", 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: list[int]) -> None:
        for count in answers:
            connection, _ = self._listener.accept()
            with connection:
                for _ in range(count):
                    self._read_request(connection)
                    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.BODY)
                    connection.sendall(head + self.BODY)
                if count == 0:
                    self._read_request(connection)

    def _read_request(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        self.requests += 1

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()


def test_closed_idle_connection_is_replaced_without_an_error(free_port):
    peer = Peer(free_port(), [1, 2])
    with SqlClient(peer.url) as client:
        assert [client.value("select 1") for _ in range(3)] == [9007199254740993] * 3
    peer.close()


def test_fresh_connection_without_an_answer_is_an_error_and_not_repeated(free_port):
    peer = Peer(free_port(), [0])
    with SqlClient(peer.url) as client, pytest.raises(DatabaseError, match="did not answer"):
        client.query("insert into t values (1)")
    peer.close()
    assert peer.requests == 1


def test_silent_server_is_given_up_after_the_timeout(free_port):
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        client = SqlClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2)
        with pytest.raises(DatabaseError, match=r"no answer from QuestDB within 0\.2 s"):
            client.query("select 1")
