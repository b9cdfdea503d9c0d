"""A small HTTP/1.1 client for one server: prepared heads, one kept socket, every wait bounded.

``http.client`` parses each answer's headers as an e-mail, 100 µs with the GIL held; two hundred requests a second from
several threads would cost the event loop several percent of its core. What QuestDB answers takes a tenth of that.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from recorder.values.errors import ConfigError, nearest

CONNECT_TIMEOUT_S = 5.0  # a server on the same continent answers a SYN within one
REQUEST_TIMEOUT_S = 10.0  # the official client's default; the server answers a block in milliseconds
THROUGHPUT_MIN = 102_400  # bytes a second a slow line must carry: large blocks get this much longer (client's default)
ANSWER_BYTES_MAX = 1 << 20  # error texts and wal_tables() are a few kB
HEAD_BYTES_MAX = 1 << 16
JOINED_BYTES_MAX = 1 << 14  # bodies up to this are sent with their head, in one system call
RECEIVE_BYTES = 1 << 16
_CONF_KEYS = ("addr", "username", "password", "token", "tls_roots", "request_timeout", "protocol_version")


@dataclass(frozen=True)
class Address:
    """Where a server is and how to ask it. ``repr`` shows no secret."""

    host: str
    port: int
    secure: bool = False
    authorization: str = ""
    tls_roots: str | None = None  # a file of CA certificates; None: those of the system
    request_timeout_s: float = REQUEST_TIMEOUT_S
    path: str = ""

    def __repr__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.name}{self.path}"

    @property
    def name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def basic(user: str | None, password: str | None) -> str:
    """The Authorization of a user; empty without one."""
    if not user:
        return ""
    return "Basic " + base64.b64encode(f"{user}:{password or ''}".encode()).decode()


def parse_conf(conf: str, user: str | None = None, password: str | None = None) -> Address:
    """Read ``http::addr=host:port;key=value;``, the official client's way to name a server.

    ``user`` and ``password`` count where the text has none. Raises ConfigError; its text repeats no secret.
    """
    scheme, separator, rest = conf.partition("::")
    if not separator or scheme not in ("http", "https"):
        raise ConfigError(
            f'questdb.ilp starts with "{scheme[:20]}"; ILP goes over HTTP here: http::addr=host:port; or https::addr=…'
        )
    values: dict[str, str] = {}
    for item in re.findall(r"((?:[^;]|;;)+)", rest):
        key, separator, value = item.partition("=")
        if not separator or key not in _CONF_KEYS:
            raise ConfigError(f'questdb.ilp: "{key[:20]}" is not known; {nearest(key, _CONF_KEYS)}')
        values[key] = value.replace(";;", ";")
    if values.get("protocol_version", "2") not in ("2", "auto"):
        raise ConfigError(f"questdb.ilp: protocol_version={values['protocol_version']}; only 2 is spoken here")
    if not values.get("addr"):
        raise ConfigError("questdb.ilp names no server; write http::addr=host:port;")
    host, port = _host_port(values["addr"], "questdb.ilp", 9000)
    authorization = f"Bearer {values['token']}" if "token" in values else basic(user, password)
    if "username" in values:
        authorization = basic(values["username"], values.get("password"))
    timeout = values.get("request_timeout", str(int(REQUEST_TIMEOUT_S * 1000)))
    if not timeout.isdecimal() or not int(timeout):
        raise ConfigError(f'questdb.ilp: request_timeout is "{timeout}"; it must be a number of milliseconds above 0')
    return Address(host, port, scheme == "https", authorization, values.get("tls_roots"), int(timeout) / 1000)


def parse_url(url: str, user: str | None = None, password: str | None = None) -> Address:
    """Read ``http://host:port``. Raises ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("questdb.sql does not name a server; write http://host:port or https://host:port")
    default = 443 if parts.scheme == "https" else 9000
    host, port = _host_port(parts.netloc.rpartition("@")[2], "questdb.sql", default)
    return Address(host, port, parts.scheme == "https", basic(user, password), path=parts.path.rstrip("/"))


def _host_port(text: str, where: str, default: int) -> tuple[str, int]:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+))(?::(\d{1,5}))?", text)
    if not found or not 0 < int(found[3] or default) < 65536:
        raise ConfigError(f'{where}: "{text[:80]}" is no address; write host:port')
    return found[1] or found[2], int(found[3] or default)


class BadAnswer(ConnectionError):
    """What came back is not HTTP, or more than anyone should send."""


@dataclass(frozen=True)
class Answer:
    """``headers`` have lower-case names; of several with one name the last, but of Set-Cookie all, a line each."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict, compare=False)


def words(error: Exception, address: Address) -> str:
    """Why a server could not be asked, for a log line."""
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens at {address.name}"
    if isinstance(error, TimeoutError):
        return f"no answer from {address.name} in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {address.name} is not trusted: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return f"the host name of {address.name} has no address: {error.strerror}"
    return f"{address.name}: {str(error) or type(error).__name__}"


class HttpConnection:
    """One kept connection. Used by one thread at a time; ``abort`` may come from another.

    answer_bytes_max  of a body; more is a BadAnswer
    opened            called whenever a connection was made, before anything is sent over it
    """

    def __init__(
        self,
        address: Address,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        opened: Callable[[], None] | None = None,
    ) -> None:
        self.address, self._answer_bytes_max, self._opened = address, answer_bytes_max, opened
        self._socket: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._authorization = f"Authorization: {address.authorization}\r\n" if address.authorization else ""
        self._aborted = False

    def request(self, method: str, target: str, body: memoryview | bytes = b"", headers: str = "") -> Answer:
        """Send and wait for the whole answer; ``target`` is the path and query, already quoted.

        headers  further ones, each ended by CR LF

        Raises OSError: refused, reset, timed out, not HTTP. A kept connection that the server has closed meanwhile is
        replaced at once and the request repeated, so it must be one that may be.
        """
        head = (
            f"{method} {self.address.path}{target} HTTP/1.1\r\nHost: {self.address.name}\r\n"
            f"{self._authorization}{headers}Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        timeout_s = self.address.request_timeout_s + len(body) / THROUGHPUT_MIN
        kept = self._socket is not None
        while True:
            try:
                return self._round_trip(head, body, timeout_s)
            except OSError as error:
                self.close()
                if not kept or self._aborted or isinstance(error, (TimeoutError, BadAnswer)):
                    raise
                kept = False

    def close(self) -> None:
        kept, self._socket = self._socket, None
        if kept is not None:
            kept.close()

    def abort(self) -> None:
        """End a request under way in another thread: it raises OSError there, as every later one does."""
        self._aborted = True
        kept = self._socket
        if kept is not None:
            try:
                # A TLS socket's own would pull its state from under the reader.
                socket.socket.shutdown(kept, socket.SHUT_RDWR)
            except OSError:
                return  # closed meanwhile, which is what was wanted

    def _connect(self) -> socket.socket:
        address = self.address
        raw = socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.secure:
                if self._context is None:
                    self._context = ssl.create_default_context(cafile=address.tls_roots)
                return self._context.wrap_socket(raw, server_hostname=address.host)
        except BaseException:
            raw.close()
            raise
        return raw

    def _round_trip(self, head: bytes, body: memoryview | bytes, timeout_s: float) -> Answer:
        if self._socket is None:
            self._socket = self._connect()
            if self._opened is not None:
                self._opened()
        if self._aborted:
            raise ConnectionAbortedError("closed here")
        kept = self._socket
        deadline = time.monotonic() + timeout_s
        kept.settimeout(timeout_s)
        if len(body) <= JOINED_BYTES_MAX:
            kept.sendall(b"".join((head, body)))
        else:
            kept.sendall(head)
            kept.sendall(body)
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            self._receive(data, deadline, HEAD_BYTES_MAX)
        lines = data[:end].decode("latin-1").split("\r\n")
        if not re.match(r"HTTP/1\.[01] \d{3}", lines[0]):
            raise BadAnswer(f"not HTTP: {lines[0][:40]!r}")
        status = int(lines[0][9:12])
        fields = [line.partition(":") for line in lines[1:]]
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        if "set-cookie" in headers:
            cookies = [value.strip() for name, _, value in fields if name.strip().lower() == "set-cookie"]
            headers["set-cookie"] = "\n".join(cookies)
        del data[: end + 4]
        answer = Answer(status, self._body(status, headers, data, deadline), headers)
        if data or "close" in headers.get("connection", "").lower():
            self.close()
        return answer

    def _body(self, status: int, headers: dict[str, str], data: bytearray, deadline: float) -> bytes:
        """Take the answer's body out of ``data`` and what follows it on the socket."""
        if status == 204:
            return b""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunks(data, deadline)
        if "content-length" in headers:
            text = headers["content-length"]
            if not text.isdecimal() or int(text) > self._answer_bytes_max:
                raise BadAnswer(f"an answer of {text[:20]} bytes")
            return self._take(int(text), data, deadline)
        body = bytearray(data)
        data.clear()
        try:
            while True:
                self._receive(body, deadline, self._answer_bytes_max)
        except (BadAnswer, TimeoutError):
            raise
        except ConnectionError:
            self.close()  # its end was the end of the answer
        return bytes(body)

    def _chunks(self, data: bytearray, deadline: float) -> bytes:
        body = bytearray()
        while True:
            while (end := data.find(b"\r\n")) < 0:
                self._receive(data, deadline, self._answer_bytes_max)
            size_text = bytes(data[:end]).partition(b";")[0].strip()
            if (
                not re.fullmatch(rb"[0-9A-Fa-f]{1,6}", size_text)
                or len(body) + int(size_text, 16) > self._answer_bytes_max
            ):
                raise BadAnswer(f"a chunk of {size_text[:20]!r} bytes")
            del data[: end + 2]
            size = int(size_text, 16)
            body += self._take(size + 2, data, deadline)[:size]
            if size == 0:
                return bytes(body)

    def _take(self, count: int, data: bytearray, deadline: float) -> bytes:
        while len(data) < count:
            self._receive(data, deadline, self._answer_bytes_max + HEAD_BYTES_MAX)
        taken = bytes(data[:count])
        del data[:count]
        return taken

    def _receive(self, data: bytearray, deadline: float, bytes_max: int) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if len(data) > bytes_max:
            raise BadAnswer(f"more than {bytes_max} bytes where less was expected")
        assert self._socket is not None
        self._socket.settimeout(left)
        piece = self._socket.recv(RECEIVE_BYTES)
        if not piece:
            raise ConnectionResetError("closed by the server before it answered")
        data += piece
