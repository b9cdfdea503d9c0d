"""An exchange in a process of its own that sends frames rendered beforehand, as fast as they are taken or at a pace.

    python bench/load_server.py VENUE

Prints a line of JSON for everything that happened; obeys lines of JSON on stdin, one client at a time:
    {"prepare": trades, "rate": null}   render them, event times at that pace; → {"prepared": frames}
    {"rate": null}        send what was prepared, at a pace if a number of trades per second is given;
                          → {"sent": trades, "first_ns": …, "last_ns": …, "log": path}
``log`` is an array (n, 2) int64 of (trades sent so far, time before the write), for a client that asks how long a trade
took; the clock is the machine's, time.time_ns().
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bench.traffic import VENUES, Traffic, Venue

PORTS = range(22500, 23000)
CHUNK_BYTES = 256 << 10  # of one write at full speed
TICK_NS = 1_000_000  # of a paced stream: what an exchange sends in bursts of a millisecond
RENDER_FRAMES = 50_000


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def acknowledge(venue: Venue, message: str) -> list[str]:
    """What the provider answers to a subscription."""
    request = json.loads(message)
    if venue.spec.provider == "binance":
        return [json.dumps({"result": None, "id": request["id"]})]
    if venue.spec.provider == "coinbase":
        channels = [{"name": "matches", "product_ids": list(venue.names)}]
        return [json.dumps({"type": "subscriptions", "channels": channels})]
    if request.get("method") != "subscribe":
        return ['{"method":"pong"}'] if request.get("method") == "ping" else []
    channel = request["params"]["channel"]
    return [
        json.dumps({"method": "subscribe", "success": True, "result": {"channel": channel, "symbol": name}})
        for name in request["params"]["symbol"]
    ]


class Exchange:
    """Frames go on where the last client's ended, so that ids stay contiguous."""

    def __init__(self, name: str) -> None:
        self.venue = VENUES[name]
        self.traffic = Traffic(self.venue)
        self.peer: socket.socket | None = None
        self.sent_frames = 0
        self._prepared = np.zeros((0, self.traffic.frame_bytes), np.uint8)
        self._lock = threading.Lock()  # of the socket: answers and frames do not mix

    def listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in PORTS:
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen()
            except OSError:
                continue
            return listener
        raise SystemExit(f"no free port in {PORTS}")

    def serve(self, listener: socket.socket) -> None:
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(OSError):
                self._converse(peer)
            self.peer = None
            say(gone=True)

    def _converse(self, peer: socket.socket) -> None:
        protocol = ServerProtocol()
        while data := peer.recv(1 << 16):
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
                    if "streams=" in event.path:  # Binance: the address says what is wanted
                        self._became_ready(peer, protocol)
                elif event.opcode is Opcode.TEXT:
                    for answer in acknowledge(self.venue, event.data.decode()):
                        protocol.send_text(answer.encode())
                    self._became_ready(peer, protocol)
            self._flush(peer, protocol)

    def _became_ready(self, peer: socket.socket, protocol: ServerProtocol) -> None:
        self._flush(peer, protocol)
        if self.peer is None:
            self.peer = peer
            say(subscribed=True)

    def _flush(self, peer: socket.socket, protocol: ServerProtocol) -> None:
        with self._lock:
            for data in protocol.data_to_send():
                if data:
                    peer.sendall(data)
                else:
                    peer.shutdown(socket.SHUT_WR)

    def prepare(self, trades: int, rate: float | None) -> None:
        frames = trades // self.venue.trades
        self._prepared = np.empty((frames, self.traffic.frame_bytes), np.uint8)
        ts, gap_ns = time.time_ns(), round(1e9 * self.venue.trades / rate) if rate else 1000
        for at, count in self.traffic.chunks(0, frames, RENDER_FRAMES):
            self._prepared[at : at + count] = self.traffic.render(
                self.sent_frames + at, count, ts + at * gap_ns, gap_ns
            )
        say(prepared=frames)

    def send(self, rate: float | None) -> None:
        frames, per, peer = len(self._prepared), self.venue.trades, self.peer
        assert peer is not None, "nobody has subscribed"
        log: list[tuple[int, int]] = []
        view = self._prepared.reshape(-1).data
        size, base = self.traffic.frame_bytes, self.sent_frames
        begun = time.time_ns()
        with self._lock:
            if rate is None:
                for at in range(0, len(view), CHUNK_BYTES):
                    log.append((base * per + (min(at + CHUNK_BYTES, len(view)) // size) * per, time.time_ns()))
                    peer.sendall(view[at : at + CHUNK_BYTES])
            else:
                done = 0
                while done < frames:
                    now = time.time_ns()
                    due = min(frames, int((now - begun) * rate / 1e9 / per) + 1)
                    if due > done:
                        log.append(((base + due) * per, time.time_ns()))
                        peer.sendall(view[done * size : due * size])
                        done = due
                    time.sleep(max(0, TICK_NS - time.time_ns() % TICK_NS) / 1e9)
        ended = time.time_ns()
        self.sent_frames += frames
        with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
            np.save(file, np.array(log, np.int64))
        self._prepared = self._prepared[:0]
        say(sent=frames * per, first_ns=begun, last_ns=ended, log=file.name)


def main() -> None:
    exchange = Exchange(sys.argv[1])
    listener = exchange.listen()
    threading.Thread(target=exchange.serve, args=(listener,), daemon=True).start()
    say(port=listener.getsockname()[1])
    for line in sys.stdin:
        command = json.loads(line)
        if "prepare" in command:
            exchange.prepare(command["prepare"], command.get("rate"))
        else:
            exchange.send(command["rate"])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
