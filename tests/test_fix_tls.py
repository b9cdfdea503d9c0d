"""FIX over TLS, and addresses that are refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from recorder.core.fix_session import Numbers
from recorder.shell.fix import connect
from recorder.shell.simulator.fix import Acceptor, FixSimulator
from recorder.values.errors import ConfigError, ConnectError
from recorder.values.feed import Endpoint
from recorder.values.fix import FixLogon


class Quiet:
    """A receiver that keeps what it is told."""

    waiting = False

    def __init__(self) -> None:
        self.frames, self.closed = 0, ""

    def on_open(self) -> None: ...
    def on_control(self, payload: bytes) -> None: ...
    def on_sent(self, payload: bytes) -> None: ...
    def on_lost(self, reason: str) -> None: ...

    def on_frames(self, *arguments: Any) -> None:
        self.frames += arguments[4]

    def on_close(self, code: int, reason: str, error: Exception | None) -> None:
        self.closed = reason


def endpoint(url: str) -> Endpoint:
    return Endpoint(url=url, fix=FixLogon(sender="RECORDER", target="FEED"))


@pytest.mark.parametrize("trusted", [True, False])
def test_a_trusted_certificate_is_logged_on_to_and_no_other(free_port: Callable[[], int], trusted: bool) -> None:
    authority, place, receiver = trustme.CA(), FixSimulator(), Quiet()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    if trusted:
        authority.configure_trust(ours)

    async def run() -> None:
        port = free_port()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Acceptor(place), "127.0.0.1", port, ssl=theirs)
        try:
            client = await connect(endpoint(f"tcp+tls://127.0.0.1:{port}"), receiver, Numbers(), ssl=ours)
            assert client.is_open
            client.close(reason="done")
            async with asyncio.timeout(30):
                while not receiver.closed:
                    await asyncio.sleep(0.01)
        finally:
            server.close()

    if trusted:
        asyncio.run(run())
        assert receiver.frames == 2  # Logon and Logout
        assert receiver.closed == "done"
    else:
        with pytest.raises(ConnectError, match="TLS failed"):
            asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://fix.example.com:9000", "not encrypted"),
        ("wss://127.0.0.1:1", "no address"),
        ("tcp://127.0.0.1", "no a"),
    ],
)
def test_an_address_that_cannot_be_is_refused_before_anything_is_sent(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        asyncio.run(connect(endpoint(url), Quiet(), Numbers()))
