"""Providers that are asked over HTTP, simulated: a server on this machine, with their errors on command."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from recorder.shell.simulator.rest import Answer, Asked

STALL_S = 3600.0  # the longest that an answer is held back


class Pages(Protocol):
    """One provider: answers what it is asked, as the provider would."""

    def answer(self, asked: Asked) -> Answer: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news: recorders are killed in tests."""


def _text(body: object) -> str:
    return body if isinstance(body, str) else json.dumps(body)


class AskedSimulator:
    """Serve ``pages`` at ``url`` until the ``with`` block ends.

    asked    every request so far: path and parameters
    failing  answers to give to the next requests instead; an answer with status 0 is a connection cut
    """

    def __init__(self, pages: Pages, host: str = "127.0.0.1") -> None:
        self.asked: list[Asked] = []
        self.failing: list[Answer] = []
        self._stalled, self._lock = threading.Event(), threading.Lock()
        self._stalled.set()
        simulator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer = simulator._answer(pages, self.path, dict(self.headers.items()))
                simulator._stalled.wait(STALL_S)
                if not answer.status:
                    self.close_connection = True
                    return
                body = answer.body if isinstance(answer.body, bytes) else _text(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Requests are in ``asked``."""

        self._server = _Server((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://{host}:{self._server.server_port}"

    def _answer(self, pages: Pages, path: str, headers: Mapping[str, str]) -> Answer:
        address = urlsplit(path)
        query = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        asked = Asked(unquote(address.path), query, {name.lower(): value for name, value in headers.items()})
        with self._lock:
            self.asked.append(asked)
            return self.failing.pop(0) if self.failing else pages.answer(asked)

    def stall(self) -> None:
        """Take requests and answer none, until ``resume``."""
        self._stalled.clear()

    def resume(self) -> None:
        self._stalled.set()

    def __enter__(self) -> AskedSimulator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
