"""The tests' proxy does to connections what it says, and nothing else."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from recorder.shell.simulator.proxy import Proxy

WAIT_S = 10.0


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets and ends when its client does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(WAIT_S)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with echo() as port, Proxy(("127.0.0.1", port)) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=WAIT_S)


def receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_without_faults_every_byte_arrives_in_order_and_ends_are_passed_on(proxy: Proxy) -> None:
    payload = random.Random(1).randbytes(5_000_000)
    with connect(proxy) as client:
        sender = threading.Thread(target=lambda: (client.sendall(payload), client.shutdown(socket.SHUT_WR)))
        sender.start()
        assert receive(client, len(payload) + 1) == payload  # and then the end
        sender.join()
    assert (proxy.up.bytes, proxy.down.bytes, proxy.accepted, proxy.cuts) == (len(payload), len(payload), 1, 0)
    until(lambda: proxy.open == 0)


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_ends_open_connections_only(proxy: Proxy, reset: bool) -> None:
    with connect(proxy) as client:
        client.sendall(b"before")
        assert receive(client, 6) == b"before"
        assert proxy.cut(reset) == 1
        if reset:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b""
    with connect(proxy) as client:
        client.sendall(b"after")
        assert receive(client, 5) == b"after"
    assert proxy.cuts == 1


def test_refused_connections_reach_nobody_while_open_ones_go_on(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        client.sendall(b"y")
        assert receive(client, 1) == b"y"
        proxy.accept()
        connect(proxy).close()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_stalled_direction_holds_bytes_until_it_flows(proxy: Proxy, direction: str) -> None:
    with connect(proxy) as client:
        getattr(proxy, direction).stall()
        client.sendall(b"held")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(WAIT_S)
        getattr(proxy, direction).flow()
        assert receive(client, 4) == b"held"


def test_a_stalled_connection_can_be_cut(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.up.stall()
        client.sendall(b"held")
        until(lambda: proxy.open)
        proxy.cut()
        assert client.recv(1) == b""


def test_throttle_and_delay_take_the_time_they_should(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.down.bytes_s = 100_000
        started = time.monotonic()
        client.sendall(bytes(30_000))
        assert len(receive(client, 30_000)) == 30_000
        assert time.monotonic() - started > 0.25
        proxy.down.bytes_s, proxy.down.delay_s = None, 0.2
        started = time.monotonic()
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("reset", [False, True])
def test_truncation_forwards_so_many_bytes_once_and_closes(proxy: Proxy, reset: bool) -> None:
    with connect(proxy) as client:
        proxy.down.truncate(4, reset)
        client.sendall(b"0123456789")
        if reset:
            with pytest.raises(ConnectionResetError):
                receive(client, 10)
        else:
            assert receive(client, 10) == b"0123"
    with connect(proxy) as client:
        client.sendall(b"whole")
        assert receive(client, 5) == b"whole"
    assert (proxy.down.faults, proxy.cuts) == (1, 1)


def test_stall_after_stops_one_connection_and_leaves_others(proxy: Proxy) -> None:
    with connect(proxy) as stuck, connect(proxy) as other:
        proxy.down.stall_after(2)
        stuck.sendall(b"0123")
        assert receive(stuck, 2) == b"01"
        until(lambda: proxy.down.faults)
        other.sendall(b"whole")
        assert receive(other, 5) == b"whole"
        stuck.settimeout(0.1)
        with pytest.raises(TimeoutError):
            stuck.recv(1)


def test_a_target_that_is_away_resets_its_clients_and_can_be_replaced(proxy: Proxy) -> None:
    alive = proxy.target
    with socket.create_server(("127.0.0.1", 0)) as unused:
        proxy.target = unused.getsockname()
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    assert proxy.unreachable == 1
    proxy.target = alive
    with connect(proxy) as client:
        client.sendall(b"back")
        assert receive(client, 4) == b"back"


def test_closing_leaves_no_thread_and_no_connection() -> None:
    threads = threading.active_count()
    with echo() as port:
        with Proxy(("127.0.0.1", port)) as proxy:
            client = connect(proxy)
            until(lambda: proxy.open)
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    until(lambda: threading.active_count() <= threads)
