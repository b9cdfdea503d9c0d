"""QuickFIX's acceptance scenarios, run against our session: those that hold for whoever connects.

They are written for who is connected to: `I` goes in, `E` must come out, `i` and `e` are the connection. Between logon
and logout both sides obey the same rules, so the runner lets our session log on first and answers with the scenario's
Logon. Its application echoes orders (D) and definitions (d), as QuickFIX's own does. Times, lengths and checksums are
not compared.
"""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

import pytest

from recorder.core.fix_actions import Action, Deliver, Drop, Transmit
from recorder.core.fix_session import FixSession, Numbers
from recorder.core.text_time import fix_text
from recorder.values.feed import SECOND
from recorder.values.fix import FixLogon, body_of, checksum, fields_of

SOH = b"\x01"
WALL = 1_767_623_400 * SECOND
STEP_NS = SECOND // 10
PATIENCE_NS = 60 * SECOND  # of virtual time, until something expected happens
NOT_COMPARED = {b"9", b"10", b"52", b"60", b"122"}

APPLIES = (
    "10_MsgSeqNumEqual", "10_MsgSeqNumGreater", "10_MsgSeqNumLess", "11a_NewSeqNoGreater", "11b_NewSeqNoEqual",
    "11c_NewSeqNoLess", "13b_UnsolicitedLogoutMessage", "14d_TagSpecifiedWithoutValue",
    "15_HeaderAndBodyFieldsOrderedDifferently", "1a_ValidLogonMsgSeqNumTooHigh", "1a_ValidLogonWithCorrectMsgSeqNum",
    "1c_InvalidSenderCompID", "1c_InvalidTargetCompID", "1d_InvalidLogonBadSendingTime",
    "1d_InvalidLogonLengthInvalid", "1d_InvalidLogonWrongBeginString", "1e_NotLogonMessage",
    "21_RepeatingGroupSpecifierWithValueOfZero", "2a_MsgSeqNumCorrect", "2b_MsgSeqNumTooHigh", "2c_MsgSeqNumTooLow",
    "2d_GarbledMessage", "2e_PossDupAlreadyReceived", "2e_PossDupNotReceived", "2f_PossDupOrigSendingTimeTooHigh",
    "2g_PossDupNoOrigSendingTime", "2i_BeginStringValueUnexpected", "2k_CompIDDoesNotMatchProfile",
    "2o_SendingTimeValueOutOfRange", "2q_MsgTypeNotValid", "2r_UnregisteredMsgType", "2t_FirstThreeFieldsOutOfOrder",
    "3b_InvalidChecksum", "3c_GarbledMessage", "4a_NoDataSentDuringHeartBtInt", "4b_ReceivedTestRequest",
    "6_SendTestRequest", "7_ReceiveRejectMessage", "8_OnlyAdminMessages", "SessionReset",
)  # fmt: skip

_NO_DICTIONARY = "asks for checks against a data dictionary; counterparties add tags, and a recorder keeps what it gets"
_NO_RESEND = (
    "asks for orders to be sent again; requests for market data never are, they would be answered with the past"
)
_ACCEPTOR = "a second logon of one identity: for who is connected to"
DOES_NOT_APPLY = {
    "14a_BadField": _NO_DICTIONARY,
    "14b_RequiredFieldMissing": _NO_DICTIONARY,
    "14c_TagNotDefinedForMsgType": _NO_DICTIONARY,
    "14e_IncorrectEnumValue": _NO_DICTIONARY,
    "14f_IncorrectDataFormat": _NO_DICTIONARY,
    "14g_HeaderBodyTrailerFieldsOutOfOrder": _NO_DICTIONARY,
    "14h_RepeatedTag": _NO_DICTIONARY,
    "14i_RepeatingGroupCountNotEqual": _NO_DICTIONARY,
    "RejectResentMessage": _NO_DICTIONARY,
    "ReverseRoute": _NO_DICTIONARY,
    "ReverseRouteWithEmptyRoutingTags": _NO_DICTIONARY,
    "19a_PossResendMessageThatHAsAlreadyBeenSent": "the application tells orders by ClOrdID; a recorder has none",
    "19b_PossResendMessageThatHasNotBeenSent": "the application tells orders by ClOrdID; a recorder has none",
    "20_SimultaneousResendRequest": _NO_RESEND,
    "8_AdminAndApplicationMessages": _NO_RESEND,
    "8_OnlyApplicationMessages": _NO_RESEND,
    "1b_DuplicateIdentity": _ACCEPTOR,
    "AlreadyLoggedOn": _ACCEPTOR,
    "2m_BodyLengthValueNotCorrect": "expects a message swallowed by a length that is too long to stay lost; ours finds "
    "it again by its beginning, see test_fix_frames",
}


@pytest.fixture(scope="module")
def scenarios(shared_data: Path) -> Path:
    return shared_data / "fix" / "quickfix_acceptance" / "server" / "fix44"


def test_every_scenario_is_run_or_has_its_reason(scenarios: Path) -> None:
    assert sorted([*APPLIES, *DOES_NOT_APPLY]) == sorted(path.stem for path in scenarios.glob("*.def"))


@pytest.mark.parametrize("name", APPLIES)
def test_our_session_does_what_the_scenario_expects(scenarios: Path, name: str) -> None:
    Runner((scenarios / f"{name}.def").read_bytes()).run()


def test_our_session_does_what_the_only_scenario_of_who_connects_expects(shared_data: Path) -> None:
    folder = shared_data / "fix" / "quickfix_acceptance" / "client"
    assert [path.name for path in folder.iterdir()] == ["Normal.def"]
    text = (folder / "Normal.def").read_bytes()
    runner = Runner(text.replace(b"FIX.4.2", b"FIX.4.4"), sender="TW", target="ISLD")
    kinds = {b"eCONNECT": b"iCONNECT"}  # there it is expected, here it is done; R goes in, as I does
    runner.steps = [kinds.get(step, b"I" + step[1:] if step[:1] == b"R" else step) for step in runner.steps]
    runner.run()
    assert runner.dropped


class Runner:
    """One scenario. Time is virtual: it goes on while something is expected that has not come."""

    def __init__(self, text: bytes, sender: str = "ISLD", target: str = "TW44") -> None:
        self.steps = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(b"#")]
        self.now = 0
        self.out: deque[bytes] = deque()
        self.dropped = False
        seconds = re.search(rb"35=A\x01.*?108=(\d+)", text)
        # Numbers that outlive connections: 141=Y is not part of these Logons.
        logon = FixLogon(sender=sender, target=target, heartbeat_s=int(seconds[1]) if seconds else 30, numbers="x")
        self.numbers, self.logon = Numbers(), logon

    @property
    def wall(self) -> int:
        return WALL + self.now

    def run(self) -> None:
        for number, step in enumerate(self.steps):
            self.where = f"step {number}: {step!r}"
            kind, rest = step[:1], step[1:]
            if kind == b"i":
                self.connect()
            elif kind == b"I":
                self.act(self.session.on_message(self.filled(rest), self.now, self.wall))
            elif kind == b"E":
                self.expect(rest)
            elif kind == b"e":
                self.until(lambda: self.dropped)
                assert not self.out, (self.where, self.out)

    def connect(self) -> None:
        self.dropped, self.out = False, deque()
        self.session = FixSession(self.logon, self.numbers, frozenset((b"D", b"d")))
        self.numbers.out = self.numbers.due = 1  # each connection of a scenario is another session
        self.act(self.session.on_connected(self.now, self.wall))
        self.own = self.out.popleft()  # our Logon, which the scenario expects after its own
        assert b"\x0135=A\x01" in self.own

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Transmit):
                assert body_of(action.payload)
                self.out.append(action.payload)
            elif isinstance(action, Deliver):
                self.echo(action.payload)
            elif isinstance(action, Drop):
                self.dropped = True

    def echo(self, payload: bytes) -> None:
        fields = fields_of(body_of(payload))
        if dict(fields)[b"35"] in (b"D", b"d"):
            header = {b"35", b"34", b"49", b"52", b"56", b"43", b"122"}
            body = b"35=%s\x01" % dict(fields)[b"35"]
            body += b"".join(b"%s=%s\x01" % field for field in fields if field[0] not in header)
            self.out.append(self.session.application(body, self.now, self.wall))

    def until(self, condition: object) -> None:
        deadline = self.now + PATIENCE_NS
        while not condition():  # type: ignore[operator]
            assert self.now < deadline, f"did not happen: {self.where}"
            self.now += STEP_NS
            self.act(self.session.on_timer(self.now, self.wall))

    def expect(self, line: bytes) -> None:
        if b"\x0135=A\x01" in line and self.own:
            found, self.own = self.own, b""
        else:
            self.until(lambda: self.out)
            found = self.out.popleft()
        assert compared(found) == compared(line), self.where

    def filled(self, line: bytes) -> bytes:
        """With the time, and with length and checksum where the scenario leaves them out."""
        line = re.sub(rb"<TIME([+-]\d+)?>", lambda m: fix_text(self.wall + int(m[1] or 0) * SECOND), line)
        if b"\x019=" not in line:
            begin, body = line.split(SOH, 1)
            body, trailer = (body, b"") if b"\x0110=" not in body else body.split(b"\x0110=", 1)
            body += b"" if body.endswith(SOH) else SOH
            line = begin + SOH + b"9=%d\x01" % len(body) + body + (b"10=" + trailer if trailer else b"")
        if b"\x0110=" not in line:
            line += b"10=%03d\x01" % checksum(line)
        return line


def compared(message: bytes) -> dict[bytes, bytes]:
    pairs = (part.split(b"=", 1) for part in message.split(SOH) if part)
    return {tag: value for tag, value in pairs if tag not in NOT_COMPARED}
