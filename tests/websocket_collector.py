"""A receiver that keeps what it gets, for the tests of the WebSocket client."""

from __future__ import annotations


class Collector:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.opened = 0
        self.messages: list[tuple[bool, bytes]] = []
        self.fast = 0
        self.stamps: list[int] = []
        self.controls: list[bytes] = []
        self.closed: list[tuple[int, str, Exception | None]] = []

    def on_open(self):
        self.opened += 1

    def on_frames(self, chunk, starts, lengths, opcodes, count, control_indices, ts_recv):
        self.fast += count
        self.stamps.append(ts_recv)
        first = len(self.messages)
        for i in range(count):
            self.messages.append((opcodes[i] == 2, chunk[starts[i] : starts[i] + lengths[i]].tobytes()))
        self.controls += [self.messages[first + i][1] for i in control_indices]

    def on_message(self, payload, binary, ts_recv):
        assert type(payload) is bytes
        self.stamps.append(ts_recv)
        self.messages.append((binary, payload))

    def on_close(self, code, reason, error):
        self.closed.append((code, reason, error))

    @property
    def end(self):
        assert len(self.closed) == 1
        return self.closed[0]
