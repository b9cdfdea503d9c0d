"""The small HTTP client: addresses, answers in every framing, broken servers, TLS."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trustme

from recorder.shell.sink.http_client import (
    ANSWER_BYTES_MAX,
    Address,
    Answer,
    BadAnswer,
    HttpConnection,
    parse_conf,
    parse_url,
    words,
)  # fmt: skip
from recorder.values.errors import ConfigError


def test_an_address_is_read_as_the_official_client_reads_it() -> None:
    address = parse_conf("https::addr=db.example:9443;username=u;password=a;;b;request_timeout=2500;")
    assert (address.host, address.port, address.secure, address.request_timeout_s) == ("db.example", 9443, True, 2.5)
    assert address.authorization == "Basic " + base64.b64encode(b"u:a;b").decode()
    assert parse_conf("http::addr=[::1]:9000").name == "[::1]:9000"
    assert parse_conf("http::addr=localhost;").port == 9000
    assert parse_conf("http::addr=h;token=t;").authorization == "Bearer t"
    assert parse_conf("http::addr=h;", "u", "p").authorization == "Basic " + base64.b64encode(b"u:p").decode()
    assert parse_url("http://h:9001/qdb/").path == "/qdb"


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ("tcp::addr=h:9009;", "ILP goes over HTTP here"),
        ("h:9000", "ILP goes over HTTP here"),
        ("http::adr=h;", "did you mean addr"),
        ("http::username=u;", "names no server"),
        ("http::addr=h:99999;", "is no address"),
        ("http::addr=h;protocol_version=1;", "only 2 is spoken"),
        ("http::addr=h;request_timeout=soon;", "number of milliseconds"),
    ],
)
def test_an_address_that_does_not_fit_says_why(conf: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_conf(conf)


def test_no_secret_is_shown() -> None:
    address = parse_conf("http::addr=h;username=u;password=hunter2;")
    assert "hunter2" not in repr(address)
    assert address.authorization not in repr(address)


@contextmanager
def answering(port: int, *answers: bytes, context: ssl.SSLContext | None = None) -> Iterator[list[bytes]]:
    """A server that gives each connection the next answer, a byte at a time, and then closes it."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        for answer in answers:
            try:
                client, _ = listener.accept()
                with context.wrap_socket(client, server_side=True) if context else client:
                    received = client_read(client if context is None else None) if context is None else b""
                    seen.append(received)
                    for byte in answer:
                        client.send(bytes([byte]))
            except OSError:
                continue

    def client_read(client: socket.socket | None) -> bytes:
        assert client is not None
        data = b""
        while b"\r\n\r\n" not in data:
            piece = client.recv(1 << 16)
            if not piece:
                break
            data += piece
        return data

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        listener.close()


def local(port: int, timeout_s: float = 5.0) -> Address:
    return Address("127.0.0.1", port, authorization="Basic x", request_timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"HTTP/1.1 204 OK\r\nServer: x\r\n\r\n", Answer(204)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Answer(200, b"abc")),
        (b"HTTP/1.1 400 Bad\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nab\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
         Answer(400, b"ab0123456789")),
        (b"HTTP/1.0 500 Oops\r\n\r\nuntil the end", Answer(500, b"until the end")),
    ],
)  # fmt: skip
def test_an_answer_is_read_in_every_framing_byte_by_byte(
    free_port: Callable[[], int], raw: bytes, expected: Answer
) -> None:
    port = free_port()
    with answering(port, raw) as seen:
        connection = HttpConnection(local(port))
        assert connection.request("POST", "/write", b"t a=1i 1n\n") == expected
        connection.close()
    assert seen[0].startswith(b"POST /write HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Basic x\r\n" % port)
    assert b"Content-Length: 10\r\n" in seen[0]


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (ANSWER_BYTES_MAX + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
    ],
)
def test_what_is_not_an_answer_is_an_error(free_port: Callable[[], int], raw: bytes) -> None:
    port = free_port()
    with answering(port, raw), pytest.raises(BadAnswer):
        HttpConnection(local(port)).request("GET", "/exec")


def test_a_server_that_closes_without_a_word_is_a_reset(free_port: Callable[[], int]) -> None:
    port = free_port()
    with answering(port, b""), pytest.raises(ConnectionError):
        HttpConnection(local(port)).request("GET", "/exec")


def test_a_kept_connection_closed_by_the_server_is_replaced(free_port: Callable[[], int]) -> None:
    port = free_port()
    with answering(port, b"HTTP/1.1 204 OK\r\n\r\n", b"HTTP/1.1 204 OK\r\n\r\n") as seen:
        connection = HttpConnection(local(port))
        assert [connection.request("GET", "/").status for _ in range(2)] == [204, 204]
        connection.close()
    assert len(seen) == 2


def test_silence_is_a_timeout_in_words(free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        address = local(port, 0.1)
        with pytest.raises(TimeoutError) as caught:
            HttpConnection(address).request("GET", "/")
    assert words(caught.value, address) == f"no answer from 127.0.0.1:{port} in time"


def test_tls_is_verified(free_port: Callable[[], int], tmp_path) -> None:  # type: ignore[no-untyped-def]
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port))

    def serve() -> None:
        for _ in range(2):
            client, _address = listener.accept()
            try:
                with context.wrap_socket(client, server_side=True) as secure:
                    secure.recv(1 << 16)
                    secure.sendall(b"HTTP/1.1 204 OK\r\n\r\n")
            except OSError:
                client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        address = parse_conf(f"https::addr=127.0.0.1:{port};")
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            HttpConnection(address).request("GET", "/")
        assert "is not trusted" in words(caught.value, address)
        trusting = HttpConnection(parse_conf(f"https::addr=127.0.0.1:{port};tls_roots={roots};"))
        assert trusting.request("GET", "/").status == 204
        trusting.close()
        thread.join(5)
