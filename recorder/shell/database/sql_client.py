"""SQL over QuestDB's HTTP interface: one keep-alive connection, exact integers and nanoseconds."""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from recorder.values.errors import DatabaseError

TIMEOUT_S = 65.0  # the server gives up a query after 60 s (query.timeout): its words shall come first
CROWDED_WAITS_S = (0.1, 0.3, 1.0)  # before asking again when it has too many connections: others end
CONNECT_TIMEOUT_S = 5.0
RESULT_BYTES_MAX = 256 << 20  # an answer is held in memory as a whole; larger ones belong in export_csv
REQUEST_BYTES_MAX = 60 << 10  # of a statement, encoded into an address: the server's header buffer is 64,448 bytes
EXCERPT_BEFORE, EXCERPT_AFTER = 40, 60  # characters of the statement shown around an error
CHUNK_BYTES = 1 << 16
FRACTION_DIGITS = {"TIMESTAMP_NS": 9, "TIMESTAMP": 6, "DATE": 3}  # as the server writes them
_NO_ANSWER = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


@dataclass(frozen=True)
class Result:
    """An answer: ``columns`` as (name, QuestDB type), ``rows`` in that order.

    Integers are exact, NULL, NaN and infinities are None (the server stores NULL for them), timestamps are ISO 8601
    text with nine digits, ``2026-08-01T12:00:00.000000000Z``. A statement that returns no rows has no columns.
    """

    columns: list[tuple[str, str]]
    rows: list[list[Any]]

    def dicts(self) -> list[dict[str, Any]]:
        names = [name for name, _ in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


class SqlClient:
    """One HTTP connection to one server; safe to share between threads, which then wait for each other.

    Errors are DatabaseError: the server's words and the place in the statement, or why it could not be asked.
    """

    def __init__(
        self, base_url: str, user: str | None = None, password: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise DatabaseError(f'questdb.sql is "{base_url}"; it must look like http://127.0.0.1:9000')
        self.base_url = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/')}"
        self._host, self._secure = url.hostname, url.scheme == "https"
        self._port = url.port or (443 if self._secure else 9000)
        self._path = url.path.rstrip("/")
        self._headers = {"Accept": "application/json"}
        if user:
            token = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> SqlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def query(self, sql: str) -> Result:
        """Run one statement and return its whole answer (at most RESULT_BYTES_MAX)."""
        answer = self._exec(sql)
        columns = [(c["name"], _type_of(c)) for c in answer.get("columns", ())]
        return _with_nine_digits(Result(columns, answer.get("dataset", [])))

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Run one statement and return its rows by column name."""
        return self.query(sql).dicts()

    def value(self, sql: str) -> Any:
        """The first column of the first row, None when there is no row."""
        rows = self.query(sql).rows
        return rows[0][0] if rows else None

    def execute(self, sql: str) -> None:
        """Run a statement whose answer does not matter."""
        self._exec(sql)

    def export_csv(self, sql: str) -> Iterator[bytes]:
        """Stream the answer as CSV with a header line, in pieces, over a connection of its own.

        An error of the statement is raised before the first piece.
        """
        connection = self._connect()
        try:
            try:
                response = self._ask(connection, "/exp", sql)
                for wait_s in CROWDED_WAITS_S:
                    if response.status != 429:
                        break
                    connection.close()
                    time.sleep(wait_s)
                    connection = self._connect()
                    response = self._ask(connection, "/exp", sql)
                if response.status != 200:
                    self._raise(sql, response.status, response.read(RESULT_BYTES_MAX))
                while piece := response.read(CHUNK_BYTES):
                    yield piece
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
        finally:
            connection.close()

    def _exec(self, sql: str) -> dict[str, Any]:
        if (size := len(urlencode({"query": sql}))) > REQUEST_BYTES_MAX:
            raise DatabaseError(f"statement of {size} bytes, as encoded; at most {REQUEST_BYTES_MAX} fit a request")
        with self._lock:
            status, body = self._round_trip(sql)
            for wait_s in CROWDED_WAITS_S:
                if status != 429:
                    break
                self._drop()
                time.sleep(wait_s)
                status, body = self._round_trip(sql)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if status != 200 or not isinstance(answer, dict) or "error" in answer:
            self._raise(sql, status, body)
        assert isinstance(answer, dict)
        return answer

    def _round_trip(self, sql: str) -> tuple[int, bytes]:
        """Send, and once more on a new connection if the kept one turns out to be closed.

        A server closes idle connections, so silence on a used one says nothing about the statement; on a fresh one it
        does. A write that did get through is then repeated: the tables' dedup keys make that harmless.
        """
        for used in (self._connection is not None, False):
            try:
                connection = self._connection = self._connection or self._connect()
                response = self._ask(connection, "/exec", sql)
                body = response.read(RESULT_BYTES_MAX + 1)
                if len(body) > RESULT_BYTES_MAX:
                    raise DatabaseError(
                        f"{self.base_url}: the answer is larger than {RESULT_BYTES_MAX >> 20} MiB; "
                        "add a LIMIT or a time range, or take it as CSV"
                    )
                return response.status, body
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if not (used and isinstance(error, _NO_ANSWER)):
                    raise self._unreachable(error) from error
            except BaseException:  # interrupted half way: the rest of that answer must not be taken for the next one
                self._drop()
                raise
        raise AssertionError("the second attempt returns or raises")

    def _ask(self, connection: http.client.HTTPConnection, path: str, sql: str) -> http.client.HTTPResponse:
        connection.request("GET", f"{self._path}{path}?{urlencode({'query': sql})}", headers=self._headers)
        return connection.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except TimeoutError as error:
            raise DatabaseError(f"{self.base_url}: cannot be reached within {CONNECT_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise self._unreachable(error) from error
        connection.sock.settimeout(self._timeout_s)
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unreachable(self, error: Exception) -> DatabaseError:
        if isinstance(error, TimeoutError):
            return DatabaseError(f"{self.base_url}: no answer from QuestDB within {self._timeout_s:g} s")
        if isinstance(error, ConnectionRefusedError):
            return DatabaseError(
                f"{self.base_url}: nobody listens there; start the embedded QuestDB with `recorder db start`, "
                "or set questdb.sql to where it runs"
            )
        return DatabaseError(f"{self.base_url}: QuestDB did not answer: {str(error) or type(error).__name__}")

    def _raise(self, sql: str, status: int, body: bytes) -> None:
        if status == 401:
            raise DatabaseError(f"{self.base_url}: QuestDB refuses this user or password (HTTP 401)")
        if status == 429:
            raise DatabaseError(f"{self.base_url}: QuestDB has too many connections already (HTTP 429); try again")
        try:
            answer = orjson.loads(body)
            words, position = str(answer["error"]), int(answer.get("position", -1))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            text = body[:200].decode("utf-8", "replace").strip() or "no words"
            raise DatabaseError(f"{self.base_url}: HTTP {status} from what should be QuestDB: {text}") from None
        raise DatabaseError(f"{words}{_excerpt(sql, position)}")


def _excerpt(sql: str, position: int) -> str:
    """Say where: `` at line 2, character 14: select x from ▶nope``."""
    if not 0 <= position <= len(sql):
        return f" in: {' '.join(sql.split())[: EXCERPT_BEFORE + EXCERPT_AFTER]}"
    line = sql.count("\n", 0, position) + 1
    column = position - (sql.rfind("\n", 0, position) + 1) + 1
    before = " ".join(sql[max(0, position - EXCERPT_BEFORE) : position].split())
    after = " ".join(sql[position : position + EXCERPT_AFTER].split())
    space = " " if position and sql[position - 1].isspace() else ""
    return f" at line {line}, character {column}: {before}{space}▶{after}"


def _type_of(column: dict[str, Any]) -> str:
    if column["type"] == "ARRAY":
        return f"{column['elemType']}{'[]' * column['dim']}"
    return str(column["type"])


def _with_nine_digits(result: Result) -> Result:
    """Bring every timestamp to nine fraction digits, so that texts compare as times do."""
    for index, (_, type_) in enumerate(result.columns):
        digits = FRACTION_DIGITS.get(type_, 9)
        if digits < 9:
            padding = "0" * (9 - digits) + "Z"
            for row in result.rows:
                if row[index] is not None:
                    row[index] = row[index][:-1] + padding
    return result


def connect(config: Any, timeout_s: float = TIMEOUT_S) -> SqlClient:
    """A client of the server that the configuration names (recorder.values.config.Config)."""
    questdb = config.questdb
    base_url = f"http://127.0.0.1:{questdb.http_port}" if questdb.embedded else questdb.sql
    return SqlClient(base_url, questdb.user, questdb.password, timeout_s)
