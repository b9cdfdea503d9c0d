"""FIX 4.4 as bytes: ``tag=value`` fields, each ended by SOH, BodyLength in front and CheckSum at the end.

FIX 4.4 specification, volumes 1 and 2. Nothing here knows what a message means.
"""

from __future__ import annotations

from zlib import adler32

import msgspec

from recorder.values.errors import FrameError

SOH = b"\x01"
BEGIN = b"8=FIX.4.4\x019="
TRAILER_BYTES = 7  # ``10=`` three digits SOH
MESSAGE_BYTES_MAX = 1 << 20  # a whole book of 10,000 entries has 600 kB

# Length field → the data field after it, whose value may hold SOH.
DATA_FIELDS = {
    b"90": b"91", b"93": b"89", b"95": b"96", b"212": b"213", b"348": b"349", b"350": b"351", b"352": b"353",
    b"354": b"355", b"356": b"357", b"358": b"359", b"360": b"361", b"362": b"363", b"364": b"365", b"445": b"446",
    b"618": b"619", b"621": b"622",
}  # fmt: skip

# MsgType (35) of the session's own messages.
HEARTBEAT, TEST_REQUEST, RESEND_REQUEST, REJECT, SEQUENCE_RESET, LOGOUT, LOGON = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"A",
)  # fmt: skip
SESSION_TYPES = frozenset({HEARTBEAT, TEST_REQUEST, RESEND_REQUEST, REJECT, SEQUENCE_RESET, LOGOUT, LOGON})
BUSINESS_REJECT = b"j"
# Of applications, as a market-data client knows them.
REQUEST, SNAPSHOT, INCREMENTAL, REFUSED, STATUS = b"V", b"W", b"X", b"Y", b"f"
NEWS, SECURITY_LIST, TRADING_SESSION = b"B", b"y", b"h"

_SUMMED_BYTES = 256  # Adler-32 is a plain sum below 65,521


class FixLogon(msgspec.Struct, frozen=True, kw_only=True):
    """How a session is opened.

    numbers  under which name its message numbers outlive a connection; "": they start over with each (141=Y)
    fields   further fields of the Logon, tag and value
    """

    sender: str
    target: str
    heartbeat_s: int = 30
    numbers: str = ""
    username: str = ""
    password: str = ""
    fields: tuple[tuple[int, str], ...] = ()

    def __repr__(self) -> str:
        return f"FixLogon({self.sender!r} → {self.target!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """As rich shows it in a traceback: without the password too."""
        return [("sender", self.sender), ("target", self.target)]


def checksum(data: bytes | memoryview) -> int:
    """Sum of all bytes modulo 256: zlib's Adler-32 of short pieces has it in its lower half, at the speed of C."""
    if len(data) <= _SUMMED_BYTES:
        return (adler32(data) & 0xFFFF) - 1 & 0xFF
    total = 0
    for at in range(0, len(data), _SUMMED_BYTES):
        total += (adler32(data[at : at + _SUMMED_BYTES]) & 0xFFFF) - 1
    return total & 0xFF


def closed(body: bytes, begin: bytes = BEGIN) -> bytes:
    """A whole message around everything from ``35=`` up to and including the SOH before the checksum."""
    text = b"%s%d\x01%s" % (begin, len(body), body)
    return b"%s10=%03d\x01" % (text, checksum(text))


def joined(*pairs: tuple[int, object]) -> bytes:
    """Fields in this order; a value that is bytes is taken as it is, others as str() writes them."""
    return b"".join(
        b"%d=%s\x01" % (tag, value if isinstance(value, bytes) else str(value).encode()) for tag, value in pairs
    )


def body_of(payload: bytes) -> bytes:
    """What a whole message holds from ``35=`` on, the checksum left out.

    Raises FrameError where BeginString, BodyLength, MsgType or CheckSum are not what they must be.
    """
    start = payload.find(SOH, 0, 16) + 1
    stop = payload.find(SOH, start, start + 12)
    length = payload[start + 2 : stop]
    end = len(payload) - TRAILER_BYTES
    if not (payload.startswith(b"8=FIX") and payload[start : start + 2] == b"9=" and length.isdigit()):
        raise FrameError("garbled: it does not begin with 8=FIX… and 9= with a number")
    if int(length) != end - stop - 1 or payload[end : end + 3] != b"10=" or payload[-1:] != SOH:
        raise FrameError(f"garbled: BodyLength 9={int(length)}, but 10= is not there")
    if payload[end - 1 : end] != SOH or payload[stop + 1 : stop + 4] != b"35=":
        raise FrameError("garbled: 35= is not the third field, or a field does not end")
    digits = payload[end + 3 : -1]
    if not digits.isdigit() or int(digits) != checksum(payload[:end]):
        raise FrameError(f"garbled: CheckSum 10={digits.decode('ascii', 'replace')} is not {checksum(payload[:end])}")
    return payload[stop + 1 : end]


def fields_of(body: bytes) -> list[tuple[bytes, bytes]]:
    """(tag, value) in order; data fields are as long as the field before them says.

    Raises FrameError for what is no field.
    """
    result: list[tuple[bytes, bytes]] = []
    at, stop = 0, len(body)
    data, length = b"", 0
    while at < stop:
        equals = body.find(b"=", at)
        tag = body[at:equals]
        if equals < 0 or not tag.isdigit():
            raise FrameError(f"no field: {body[at : at + 30]!r}")
        end = equals + 1 + length if tag == data else body.find(SOH, equals)
        if end < 0 or body[end : end + 1] != SOH:
            raise FrameError(f"field {tag.decode()} does not end where its length says")
        value = body[equals + 1 : end]
        result.append((tag, value))
        data = DATA_FIELDS.get(tag, b"")
        if data:
            if not value.isdigit() or len(value) > 7:
                raise FrameError(f"field {tag.decode()} is no length: {value[:20]!r}")
            length = int(value)
        at = end + 1
    return result
