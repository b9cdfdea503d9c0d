"""The life of one connection, sans I/O: what to do when it opens, speaks, falls silent or closes. Reads no clock.

The shell calls the ``on_*`` methods with the time and carries out what they return. A day of reconnects is tested in a
millisecond, and twice the same.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from recorder.core.event_stream import EventParser
from recorder.values.feed import SECOND, Command, Endpoint, Fatal, Feed, Notice, Ready, Reconnect, Renew, Send

BACKOFF_FIRST_NS = SECOND // 2
BACKOFF_MAX_NS = 60 * SECOND  # a provider that is down for an hour is found again within a minute
HEALTHY_NS = 30 * SECOND  # a connection that lived this long in readiness starts the backoff over
AT_ONCE = (1001, 1012)  # close codes of a server that goes away or restarts: another one is there already
FATAL_RETRY_NS = 15 * 60 * SECOND  # a refused key may be mended by its owner while we run; asking seldom harms nobody


class State(enum.Enum):
    CLOSED = "closed"
    OPENING = "opening"
    SUBSCRIBING = "subscribing"
    READY = "ready"


class Session:
    """One connection's state machine around a feed. Times are ns of a clock that never steps.

    uniform  returns a random float in [0, 1); passed in so that tests decide
    """

    def __init__(self, feed: Feed, uniform: Callable[[], float]) -> None:
        self.feed = feed
        self.state = State.CLOSED
        self.failures = 0  # in a row, since the last healthy connection
        self.reason = ""  # why it is not ready, in words
        self.fatal = False
        self.endpoint: Endpoint = feed.endpoint()
        self.events = EventParser()  # of a stream of events: it knows where the connection before left off
        self._uniform = uniform
        self._capability = feed.capability()
        self._hold_ns = 0
        self._opened = 0
        self._asked = 0  # when the last of the messages that subscribe still waited to be sent
        self._ready = 0
        self._app_ping_due = 0
        self._old = False  # said that it is to be replaced
        self._words = ""  # the provider's, of what it refused while it was subscribed to

    def on_opening(self) -> Endpoint:
        """About to connect: the endpoint to use (asked anew each time: it may carry a fresh token)."""
        self.state, self.endpoint, self._hold_ns, self._old = State.OPENING, self.feed.endpoint(), 0, False
        return self.endpoint

    def on_open(self, now: int) -> list[Command]:
        self.state, self._opened, self._asked, self._words = State.SUBSCRIBING, now, now, ""
        self._app_ping_due = now + self.endpoint.app_ping_ns
        return self._note(self.feed.on_open(), now)

    def on_control(self, payload: bytes, now: int) -> list[Command]:
        """A frame that is not plain data."""
        return self._note(self.feed.on_control(payload), now)

    def on_wish(self, command: Command, now: int) -> list[Command]:
        """Something that the shell has found out makes this necessary."""
        return self._note([command], now)

    def on_change(self, symbols: tuple[str, ...], now: int) -> list[Command]:
        """The feed's symbols are these from now on; on an open connection carry out what is returned."""
        commands = self.feed.change(symbols)
        if self.state is not State.CLOSED:
            self.endpoint = self.feed.endpoint()  # its ping may name the symbols
        return self._note(commands, now)

    def on_timer(self, now: int, mute: bool = False, asking: bool = False) -> list[Command]:
        """Called about once a second while open: time-outs, a provider's own pings, the end of a connection's life.

        mute    no frame has come since it was opened
        asking  messages wait for their turn to be sent: what they will ask for cannot have been answered
        """
        commands: list[Command] = []
        if asking:
            self._asked = now
        if self.state is State.SUBSCRIBING and now - self._asked > self.endpoint.ready_timeout_ns:
            since = "opening" if self._asked == self._opened else "asking"
            seconds = f"{self.endpoint.ready_timeout_ns / SECOND:g} s after {since}"
            words = f": {self._words}" if self._words else ""
            commands.append(Reconnect(f"mute: no message {seconds}" if mute else f"not subscribed {seconds}{words}"))
        if self.endpoint.app_ping is not None and now >= self._app_ping_due:
            self._app_ping_due = now + self.endpoint.app_ping_ns
            commands.append(Send(self.endpoint.app_ping.decode()))  # a text frame, as all their messages
        if self._capability.life_ns and not self._old and now - self._opened > self._capability.life_ns:
            commands.append(Renew("the provider cuts connections of this age"))
        return self._note(commands, now)

    def on_closed(self, now: int, reason: str, retry_after_ns: int = 0, code: int = 0) -> int:
        """The connection is gone, or could not be opened; return how many ns to wait before the next try.

        code  of the closing handshake; 0: there was none
        Capped exponential backoff with full jitter in its upper half, none after a healthy connection whose server goes
        away; never below the provider's hold time and what it asked for (``Retry-After``). Connects per minute are
        counted over all connections of a provider: see ``core.gate``.
        """
        healthy = self.state is State.READY and now - self._ready >= HEALTHY_NS
        self.state, self.reason = State.CLOSED, self.reason if self.fatal else reason
        self.failures = 1 if healthy else self.failures + 1
        backoff = min(BACKOFF_MAX_NS, BACKOFF_FIRST_NS << min(self.failures - 1, 16))
        at_once = healthy and (code in AT_ONCE or self._old)
        jittered = 0 if at_once else round(backoff * (0.5 + 0.5 * self._uniform()))
        floor = max(self._hold_ns, self._capability.hold_ns, retry_after_ns, self.events.retry_ns)
        return max(jittered, floor, FATAL_RETRY_NS if self.fatal else 0)

    def _note(self, commands: list[Command], now: int) -> list[Command]:
        if not self._capability.overlap:
            self._old = self._old or any(isinstance(c, Renew) for c in commands)
            commands = [Reconnect(c.reason) if isinstance(c, Renew) else c for c in commands]
        for command in commands:
            match command:
                case Ready():
                    if self.state is not State.READY:  # it is said again when subscriptions have changed
                        self._ready = now
                    self.state, self.reason, self.fatal = State.READY, "", False
                case Renew():
                    self._old = True
                case Reconnect(reason, hold_ns):
                    self.reason, self._hold_ns = reason, max(self._hold_ns, hold_ns)
                case Fatal(reason):
                    self.reason, self.fatal = reason, True
                case Notice(_, fields):
                    self._words = str(fields.get("reason") or fields.get("message") or self._words)
                case Send():
                    pass
        return commands
