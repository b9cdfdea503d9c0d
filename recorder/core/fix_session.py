"""A FIX 4.4 session as the one who connects, sans I/O: logon, numbers in and out, gaps, heartbeats, logout.

FIX 4.4 volume 2, "FIX session protocol"; where it leaves something open, what QuickFIX does. Every call is given
the time: ``now`` of a clock that never steps, ``wall`` in ns since the epoch for SendingTime. What is to be done is
returned as values. What was sent is never sent again: a market-data request of the past would be answered with
data of the past, so a ResendRequest is answered by one gap fill.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

from recorder.core.fix_actions import Action, Deliver, Drop, LoggedOn, Lost, Transmit
from recorder.core.text_time import fix_ns, fix_text
from recorder.values.errors import FrameError
from recorder.values.feed import SECOND
from recorder.values.fix import (
    BUSINESS_REJECT,
    HEARTBEAT,
    LOGON,
    LOGOUT,
    REJECT,
    RESEND_REQUEST,
    SEQUENCE_RESET,
    SESSION_TYPES,
    SOH,
    TEST_REQUEST,
    FixLogon,
    body_of,
    closed,
    fields_of,
    joined,
)

TEST_AFTER, DEAD_AFTER = 1.2, 2.4  # heartbeat intervals of silence, as QuickFIX has it
SENDING_TIME_NS = 120 * SECOND  # SendingTime may be this far from our clock
LOGON_TIMEOUT_NS = 10 * SECOND  # for the answer to our Logon
LOGOUT_TIMEOUT_NS = 2 * SECOND  # for the answer to a Logout
RESEND_TIMEOUT_NS = 60 * SECOND  # for what was asked for again: then a new session is better than waiting
QUEUE_MAX = 100_000  # messages held back behind a gap: some 20 s of a busy feed
QUEUE_BYTES_MAX = 64 << 20

_KIND = re.compile(rb"[A-Za-z0-9]{1,8}")
_EXPECTING = re.compile(r"expecting (\d{1,18})")
_HEADER = (b"49", b"56", b"34", b"52")

# SessionRejectReason (373).
MISSING, EMPTY, OUT_OF_RANGE, COMP_ID, SENDING_TIME, BAD_KIND = 1, 4, 5, 9, 10, 11
_WORDS = {
    MISSING: "Required tag missing",
    EMPTY: "Tag specified without a value",
    OUT_OF_RANGE: "Value is incorrect (out of range) for this tag",
    COMP_ID: "CompID problem",
    SENDING_TIME: "SendingTime accuracy problem",
    BAD_KIND: "Invalid MsgType",
}
UNSUPPORTED = 3  # BusinessRejectReason (380)


class State(enum.Enum):
    CLOSED = "closed"
    LOGON_SENT = "logon sent"
    OPEN = "open"
    LOGOUT_SENT = "logout sent"


class Numbers:
    """MsgSeqNum of the next message out, and the one due in."""

    def __init__(self) -> None:
        self.out, self.due = 1, 1


class FixSession:
    """One session over one connection after the other.

    supported  MsgTypes of the application; others are answered with BusinessMessageReject. None: all are
    """

    def __init__(self, logon: FixLogon, numbers: Numbers, supported: frozenset[bytes] | None = None) -> None:
        self.logon, self.numbers = logon, numbers
        self.state = State.CLOSED
        self.heartbeat_ns = logon.heartbeat_s * SECOND
        self._supported = supported
        self._us, self._peer = logon.sender.encode(), logon.target.encode()
        self._heard = self._spoke = self._left = 0
        self._reason = ""  # why we logged out
        self._tests = 0  # TestRequests sent since anything came
        self._queue: dict[int, bytes] = {}  # behind a gap
        self._queued_bytes = 0
        self._asked_to = 0  # last number that was asked for again; 0: nothing is
        self._asked = 0  # when

    # What happens.

    def on_connected(self, now: int, wall: int) -> list[Action]:
        """The way is open: log on."""
        self.state = State.LOGON_SENT
        self._heard = self._spoke = now
        self._tests = self._asked_to = self._queued_bytes = 0
        self._queue.clear()
        if not self.logon.numbers:
            self.numbers.out = self.numbers.due = 1
        body = joined((98, 0), (108, self.logon.heartbeat_s))
        if not self.logon.numbers:
            body += joined((141, "Y"))
        for tag, value in ((553, self.logon.username), (554, self.logon.password)):
            body += joined((tag, value)) if value else b""
        body += joined(*self.logon.fields)
        secret = bool(self.logon.username or self.logon.password or self.logon.fields)
        return [Transmit(self._numbered(LOGON, body, now, wall), secret)]

    def received(self, count: int, now: int, wall: int) -> list[Action]:
        """So many plain messages of the application came, in sequence."""
        self._heard, self._tests = now, 0
        self.numbers.due += count
        return self._drain(now, wall) if self._asked_to else []

    def on_message(self, payload: bytes, now: int, wall: int) -> list[Action]:
        """Any message. One that is garbled is ignored: the next good one will show the gap."""
        try:
            body = body_of(payload)
            fields = fields_of(body)
        except FrameError:
            return []
        self._heard, self._tests = now, 0
        header: dict[bytes, bytes] = {}
        for tag, value in fields:
            header.setdefault(tag, value)
        kind = header[b"35"]
        if self.state is State.CLOSED:
            return []
        begin = payload[2 : payload.find(SOH)]
        if begin != b"FIX.4.4":
            return self._leave(f"BeginString is {begin.decode('ascii', 'replace')}", "Incorrect BeginString", now, wall)
        if self.state is State.LOGON_SENT and kind != LOGON:
            return self._not_logged_on(kind, header)
        actions = self._fault(kind, header, fields, now, wall)
        return self._by_number(kind, header, payload, now, wall) if actions is None else actions

    def on_timer(self, now: int, wall: int) -> list[Action]:
        """Called once or twice a second: heartbeats, TestRequests, a counterparty that is gone."""
        if self.state is State.LOGOUT_SENT:
            unanswered = now - self._left >= LOGOUT_TIMEOUT_NS
            return self._dropped(f"{self._reason}; our Logout was not answered") if unanswered else []
        if self.state is State.LOGON_SENT and now - self._spoke >= LOGON_TIMEOUT_NS:
            return self._dropped("our Logon was not answered")
        if self.state is not State.OPEN:
            return []
        if self._asked_to and now - self._asked >= RESEND_TIMEOUT_NS:
            return self._leave("a ResendRequest was not answered", "ResendRequest was not answered", now, wall)
        silent = now - self._heard
        if not self.heartbeat_ns:
            return []
        if silent >= DEAD_AFTER * self.heartbeat_ns:
            return self._dropped(f"nothing received for {silent / SECOND:.1f} s, not even an answer to a TestRequest")
        if silent >= TEST_AFTER * (self._tests + 1) * self.heartbeat_ns:
            self._tests += 1
            return [self._send(TEST_REQUEST, joined((112, "TEST")), now, wall)]
        if now - self._spoke >= self.heartbeat_ns and not self._tests:
            return [self._send(HEARTBEAT, b"", now, wall)]
        return []

    def application(self, body: bytes, now: int, wall: int) -> bytes:
        """A message of ours: fields from ``35=`` on without a header. Returns it whole, with the next number."""
        kind, rest = body[3:].split(SOH, 1)
        return self._numbered(kind, rest, now, wall)

    def leave(self, text: str, now: int, wall: int) -> list[Action]:
        """Log out, if logged on."""
        if self.state is State.OPEN:
            return self._leave(text, text, now, wall)
        return [] if self.state is State.LOGOUT_SENT else self._dropped(text)

    # Messages by kind and number.

    def _not_logged_on(self, kind: bytes, header: dict[bytes, bytes]) -> list[Action]:
        text = header.get(b"58", b"").decode("utf-8", "replace")[:300]
        if kind not in (LOGOUT, REJECT):
            name = kind.decode("ascii", "replace")[:8]
            return self._dropped(f"the first message is of type {name}, not a Logon")
        expecting = _EXPECTING.search(text)
        if expecting and self.logon.numbers:  # QuickFIX's words; no field says it
            self.numbers.out = int(expecting[1])
            return self._dropped(f"{text}: going on from that number")
        return self._dropped(f"the Logon was refused: {text or 'without a word'}", refused=True)

    def _fault(
        self, kind: bytes, header: dict[bytes, bytes], fields: Iterable[tuple[bytes, bytes]], now: int, wall: int
    ) -> list[Action] | None:
        """What is wrong with a message before its number is looked at; None: nothing."""
        strict = kind in SESSION_TYPES
        empty = next((tag for tag, value in fields if not value), None) if strict else None
        missing = next((tag for tag in _HEADER if tag not in header), None)
        if empty is not None or missing is not None:
            if self.state is State.LOGON_SENT:
                return self._dropped("the answer to the Logon lacks a field")
            if missing == b"34":
                return self._leave("a message without MsgSeqNum", "Received message without MsgSeqNum", now, wall)
            return self._reject(header, EMPTY if empty is not None else MISSING, now, wall, empty or missing)
        if not header[b"34"].isdigit() or len(header[b"34"]) > 18:
            return self._leave("MsgSeqNum is no number", "MsgSeqNum is no number", now, wall)
        if header[b"49"] != self._peer or header[b"56"] != self._us:
            return self._reject_and_leave(header, COMP_ID, now, wall)
        try:
            away = abs(fix_ns(header[b"52"]) - wall)
        except FrameError:
            away = SENDING_TIME_NS + 1
        if away > SENDING_TIME_NS:
            return self._reject_and_leave(header, SENDING_TIME, now, wall)
        return None

    def _by_number(self, kind: bytes, header: dict[bytes, bytes], payload: bytes, now: int, wall: int) -> list[Action]:
        number, due = int(header[b"34"]), self.numbers.due
        if kind == LOGON and (self.state is State.LOGON_SENT or header.get(b"141") == b"Y"):
            return self._logon(header, number, now, wall)
        if kind == LOGOUT:
            return self._logged_out(header, number, now, wall)
        if kind == SEQUENCE_RESET and header.get(b"123", b"N") != b"Y":
            return self._sequence_reset(header, now, wall)
        if kind == RESEND_REQUEST:
            actions = self._resend(header, number, now, wall)
            return actions + self._gap(number, now, wall) if number > due else actions
        if number > due:
            self._queue[number] = payload
            self._queued_bytes += len(payload)
            if len(self._queue) > QUEUE_MAX or self._queued_bytes > QUEUE_BYTES_MAX:
                return self._leave("too much came behind a gap", "Too many messages behind a gap", now, wall)
            return self._gap(number, now, wall)
        if number < due:
            return self._too_low(header, number, now, wall)
        return self._take(kind, header, payload, now, wall) + self._drain(now, wall)

    def _take(self, kind: bytes, header: dict[bytes, bytes], payload: bytes, now: int, wall: int) -> list[Action]:
        """The message that was due."""
        if not _KIND.fullmatch(kind):
            return self._reject(header, BAD_KIND, now, wall)
        if kind == SEQUENCE_RESET:
            return self._sequence_reset(header, now, wall)
        if kind == TEST_REQUEST and b"112" not in header:
            return self._reject(header, MISSING, now, wall, b"112")
        self.numbers.due += 1
        if kind == TEST_REQUEST:
            return [self._send(HEARTBEAT, joined((112, header[b"112"])), now, wall)]
        if kind == HEARTBEAT:
            return [Deliver(payload)] if b"112" in header else []
        if kind in (LOGON, LOGOUT, RESEND_REQUEST):
            return []
        if kind not in (REJECT, BUSINESS_REJECT) and self._supported is not None and kind not in self._supported:
            refused = joined((45, header[b"34"]), (58, "Unsupported Message Type"), (372, kind), (380, UNSUPPORTED))
            return [self._send(BUSINESS_REJECT, refused, now, wall)]
        return [Deliver(payload)]

    def _logon(self, header: dict[bytes, bytes], number: int, now: int, wall: int) -> list[Action]:
        """An answer to ours; or, in an open session, the counterparty starts the numbers over."""
        actions: list[Action] = []
        starts_over = header.get(b"141") == b"Y"
        answer = self.state is State.LOGON_SENT
        if answer:
            self.state = State.OPEN
            stated = header.get(b"108", b"")
            if stated.isdigit() and len(stated) < 6:
                self.heartbeat_ns = int(stated) * SECOND
            actions.append(LoggedOn())
        if starts_over:
            self._queue.clear()
            self._asked_to = self._queued_bytes = 0
            self.numbers.due = number
            if not answer:
                self.numbers.out = 1
                body = joined((98, 0), (108, header.get(b"108", b"0")), (141, "Y"))
                actions.append(self._send(LOGON, body, now, wall))
            elif self.logon.numbers:
                self.numbers.out = 2  # our Logon was number one of the numbers started over
        if number > self.numbers.due:
            # Nothing was built up yet on this connection that what came before could change.
            return actions + [each for each in self._gap(number, now, wall) if not (answer and isinstance(each, Lost))]
        if number < self.numbers.due:
            return actions + self._too_low(header, number, now, wall)
        self.numbers.due += 1
        return actions

    def _logged_out(self, header: dict[bytes, bytes], number: int, now: int, wall: int) -> list[Action]:
        text = header.get(b"58", b"").decode("utf-8", "replace")[:300]
        if number == self.numbers.due:
            self.numbers.due += 1
        if self.state is State.LOGOUT_SENT:
            return self._dropped(self._reason)
        answer = self._send(LOGOUT, b"", now, wall)
        return [
            answer,
            *self._dropped(f"the counterparty logged out{': ' if text else ''}{text}"),
        ]

    def _sequence_reset(self, header: dict[bytes, bytes], now: int, wall: int) -> list[Action]:
        """A gap fill that was due, or a reset, which has no number of its own worth looking at."""
        stated, gap_fill = header.get(b"36", b""), header.get(b"123", b"N") == b"Y"
        if not stated:
            return self._reject(header, MISSING, now, wall, b"36")
        new = int(stated) if stated.isdigit() and len(stated) <= 18 else 0
        if new < self.numbers.due or (gap_fill and new == self.numbers.due):
            return self._reject(header, OUT_OF_RANGE, now, wall, advance=gap_fill)
        self.numbers.due = new
        return self._drain(now, wall)

    def _resend(self, header: dict[bytes, bytes], number: int, now: int, wall: int) -> list[Action]:
        """Nothing is sent twice: all that was asked for is filled."""
        bounds = [header.get(tag, b"") for tag in (b"7", b"16")]
        for tag, bound in zip((b"7", b"16"), bounds, strict=True):
            if not bound.isdigit() or len(bound) > 18:
                return self._reject(header, MISSING if not bound else OUT_OF_RANGE, now, wall, tag)
        if number == self.numbers.due:
            self.numbers.due += 1
        first, last = max(1, int(bounds[0])), int(bounds[1])
        new = self.numbers.out if last == 0 else min(last + 1, self.numbers.out)
        if new <= first:
            return self._drain(now, wall)
        text = fix_text(wall)
        body = self._headed(SEQUENCE_RESET, first, text) + joined((43, "Y"), (122, text), (36, new), (123, "Y"))
        self._spoke = now
        return [Transmit(closed(body)), *self._drain(now, wall)]

    # Gaps.

    def _gap(self, number: int, now: int, wall: int) -> list[Action]:
        """Number ``number`` came, an earlier one was due: ask for what lies between, unless it is on its way."""
        if self._asked_to:
            return []
        self._asked_to, self._asked = number - 1, now
        request = self._send(RESEND_REQUEST, joined((7, self.numbers.due), (16, 0)), now, wall)
        return [request, Lost(self.numbers.due, number - 1)]

    def _drain(self, now: int, wall: int) -> list[Action]:
        """Take what was held back and is due by now."""
        actions: list[Action] = []
        while self._queue and (payload := self._queue.pop(self.numbers.due, None)) is not None:
            self._queued_bytes -= len(payload)
            header = dict(reversed(fields_of(body_of(payload))))
            actions += self._take(header[b"35"], header, payload, now, wall)
        if self.numbers.due > self._asked_to:
            self._asked_to = 0
        if self._queue and min(self._queue) < self.numbers.due:  # skipped by a gap fill or a reset
            for number in [n for n in self._queue if n < self.numbers.due]:
                self._queued_bytes -= len(self._queue.pop(number))
        return actions

    def _too_low(self, header: dict[bytes, bytes], number: int, now: int, wall: int) -> list[Action]:
        if header.get(b"43") != b"Y":
            text = f"MsgSeqNum too low, expecting {self.numbers.due} but received {number}"
            return [self._send(LOGOUT, joined((58, text)), now, wall), *self._dropped(text)]
        if b"122" not in header:
            return self._reject(header, MISSING, now, wall, b"122")
        try:
            later = fix_ns(header[b"122"]) > fix_ns(header[b"52"])
        except FrameError:
            later = True
        return self._reject_and_leave(header, SENDING_TIME, now, wall) if later else []

    # Refusing and leaving.

    def _reject(
        self, header: dict[bytes, bytes], reason: int, now: int, wall: int, tag: bytes | None = None,
        advance: bool = True,
    ) -> list[Action]:  # fmt: skip
        number = header.get(b"34", b"0")
        if advance and number.isdigit() and int(number) == self.numbers.due:
            self.numbers.due += 1
        pairs: list[tuple[int, object]] = [(45, number), (58, _WORDS[reason])]
        if tag is not None:
            pairs.append((371, tag))
        return [self._send(REJECT, joined(*pairs, (372, header[b"35"]), (373, reason)), now, wall)]

    def _reject_and_leave(self, header: dict[bytes, bytes], reason: int, now: int, wall: int) -> list[Action]:
        if self.state is State.LOGON_SENT:
            return self._dropped(f"the answer to the Logon has a {_WORDS[reason]}")
        return [*self._reject(header, reason, now, wall), *self._leave(_WORDS[reason], "", now, wall)]

    def _leave(self, reason: str, text: str, now: int, wall: int) -> list[Action]:
        """Say Logout and wait for the answer; before a Logon was answered there is nobody to say it to."""
        if self.state is State.LOGON_SENT:
            return self._dropped(reason)
        if self.state is State.LOGOUT_SENT:
            return []
        self.state, self._left, self._reason = State.LOGOUT_SENT, now, reason
        return [self._send(LOGOUT, joined((58, text)) if text else b"", now, wall)]

    def _dropped(self, reason: str, refused: bool = False) -> list[Action]:
        self.state = State.CLOSED
        return [Drop(reason, refused)]

    # Sending.

    def _send(self, kind: bytes, body: bytes, now: int, wall: int) -> Transmit:
        return Transmit(self._numbered(kind, body, now, wall))

    def _numbered(self, kind: bytes, body: bytes, now: int, wall: int) -> bytes:
        self._spoke = now
        number = self.numbers.out
        self.numbers.out = number + 1
        return closed(self._headed(kind, number, fix_text(wall)) + body)

    def _headed(self, kind: bytes, number: int, text: bytes) -> bytes:
        return joined((35, kind), (49, self._us), (56, self._peer), (34, number), (52, text))
