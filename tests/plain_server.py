"""A plain HTTP server for tests whose provider is a function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HELD_S = 60.0  # the longest that a request without an answer is held

Reply = tuple[int, dict[str, str], bytes]  # status, headers, body


@contextmanager
def serving(answer: Callable[[str, Mapping[str, str]], Reply | None]) -> Iterator[str]:
    """The address at which GETs are answered by ``answer(path with query, headers)``; None: not until this is left."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = answer(self.path, self.headers)  # type: ignore[arg-type]  # a Message: its names have no case
            if reply is None:
                over.wait(HELD_S)
                self.close_connection = True
                return
            status, headers, body = reply
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
