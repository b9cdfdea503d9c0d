"""Recordings of cryptofeed: the text logs that it wrote until 2025, and the JSON lines (format 2) that it writes since.

https://github.com/bmoscon/cryptofeed (sample_data; cryptofeed/capture.py for format 2)
"""

from __future__ import annotations

import ast
import base64
import binascii
import heapq
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from recorder.core.frames import BINARY, OPENED, SENT, TEXT
from recorder.shell.capture_files import lines_of, wrong_line
from recorder.shell.capture_formats import TS_MAX, Capture, Item, overridden, spec_of
from recorder.shell.capture_hosts import HOSTS, VENUES
from recorder.values.errors import CaptureError
from recorder.values.feed import FeedSpec

STAMP_DIGITS_MAX = 10  # of whole seconds

Known = tuple[str, dict[str, str]]


def is_seconds(text: bytes) -> bool:
    """Unix seconds in decimals that int64 ns can hold."""
    whole, dot, part = text.partition(b".")
    return (
        whole.isdigit()
        and len(whole) <= STAMP_DIGITS_MAX
        and (not dot or (part.isdigit() and len(part) <= 9))
        and _seconds(text) < TS_MAX
    )


def _seconds(text: bytes) -> int:
    """Unix seconds in decimals as ns, exactly: no float in between."""
    whole, _, part = text.partition(b".")
    return int(whole) * 1_000_000_000 + int(part.ljust(9, b"0"))


def _host(address: str) -> str:
    """Empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _known(address: str) -> Known | None:
    """Provider and options of an address."""
    host = _host(address)
    return HOSTS.get(host + urlsplit(address).path.rstrip("/")) or HOSTS.get(host) if host else None


def _spec(path: Path, address: str, provider: str | None, options: dict[str, str] | None) -> FeedSpec:
    """The feed that was recorded from an address. Raises CaptureError when it is not known and no provider is given."""
    known, host = _known(address), _host(address)
    if known is None and provider is None:
        named = {name.partition("/")[0] for name in HOSTS}
        hosts = ", ".join(sorted(h for h in named if not h.startswith(("api.", "www.", "fapi", "dapi"))))
        raise CaptureError(
            f"{path}: recorded from {host or 'an address it does not name'!r}, which is no provider known here; "
            f"known: {hosts}; name the provider to read it all the same"
        )
    spec = spec_of(*overridden(known, provider, options))
    venue = VENUES.get(host)
    if venue is None or (known is not None and spec.provider != known[0]):
        return spec
    return msgspec.structs.replace(spec, name=f"{spec.name}-{venue[0]}", url=venue[1])


# Text logs


def cryptofeed(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    address = ""
    for _, line in lines_of(path, peek=True):
        if line[:1].isdigit() or not line:
            continue
        head, _, rest = line.partition(b" ")
        if rest.startswith(b"<-"):
            address = head.decode("utf-8", "replace")
            break
        if rest.startswith(b"-> ") and not address:
            address = head.decode("utf-8", "replace")
    spec = _spec(path, address, provider, options)
    own = None if provider is not None else _known(address)
    return Capture(str(path), [spec], lambda capture: _read_log(path, capture, own))


def _read_log(path: Path, capture: Capture, own: Known | None) -> Iterator[Item]:
    """own  provider and options of the only address whose messages are this recording's; None: all are"""
    ours = True
    for number, line in lines_of(path):
        head, _, rest = line.partition(b" ")
        if head.endswith(b":") and is_seconds(head[:-1]):
            if not ours:
                capture.skip("frame of another address")
            elif rest.startswith((b"b'", b'b"')):
                if (payload := _literal(rest)) is None:
                    capture.pass_over(wrong_line(path, number, "a Python bytes literal after the time", rest))
                else:
                    yield 0, BINARY, _seconds(head[:-1]), payload
            else:
                yield 0, TEXT, _seconds(head[:-1]), rest
        elif not line.strip():
            capture.skip("blank")
        elif head == b"configuration:":
            capture.skip("configuration")
        else:
            arrow, _, tail = rest.partition(b" ")
            stamp, colon, text = tail.partition(b": ")
            if not is_seconds(stamp) or arrow not in (b"<->", b"<-", b"->") or (arrow != b"<->" and not colon):
                shape = "a cryptofeed line (T: TEXT, ADDRESS <-> T, ADDRESS <- T: TEXT …)"
                capture.pass_over(wrong_line(path, number, shape, line))
                continue
            if arrow == b"->":
                capture.http += 1
                continue
            address = head.decode("utf-8", "replace")
            if own is not None and _host(address):
                ours = _known(address) == own
            if not ours:
                shape = "messages of one provider (split the file: they do not say which connection they came by)"
                capture.pass_over(wrong_line(path, number, shape, line))
            elif arrow == b"<-":
                yield 0, SENT, _seconds(stamp), text
            else:
                yield 0, OPENED, _seconds(stamp), head


def _literal(text: bytes) -> bytes | None:
    """The bytes that a Python literal stands for; None where it is none."""
    try:
        value = ast.literal_eval(text.decode("ascii"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, bytes) else None


# JSON lines


class Record(msgspec.Struct):
    """{"t":"recv","conn":"KRAKEN.ws.1","ts":1618678132.91,"data":"…"}, "b64" where the frame was binary; "connect" and
    "send" have "addr", "http" has "url"; the first line is {"t":"header","format":2,"exchange":"KRAKEN",…}"""

    t: str
    conn: str = ""
    ts: msgspec.Raw = msgspec.Raw(b"")
    addr: str = ""
    url: str = ""
    data: str | None = None
    b64: str | None = None
    format: int = 0


FORMAT = 2
_decode = msgspec.json.Decoder(Record).decode


def is_format_2(line: bytes) -> bool:
    try:
        header = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return header.t == "header"


def cryptofeed_2(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    """Each WebSocket connection is a connection of its feed; a file in which none is named holds HTTP answers only."""
    connections: dict[str, str] = {}  # conn → address
    asked = ""
    for _, line in lines_of(path, peek=True):
        if b'"connect"' not in line and b'"http"' not in line and b'"header"' not in line:
            continue
        try:
            record = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if record.t == "header" and record.format != FORMAT:
            raise CaptureError(f"{path}: cryptofeed's format {record.format}; this recorder reads {FORMAT}")
        if record.t == "connect":
            connections.setdefault(record.conn, record.addr)
        elif record.t == "http":
            asked = asked or record.url
    specs: list[FeedSpec] = []
    used: dict[str, int] = {}
    for address in connections.values() if connections else [asked]:
        spec = _spec(path, address, provider, options)
        number = used[spec.name] = used.get(spec.name, -1) + 1
        specs.append(msgspec.structs.replace(spec, connection=number))
    return Capture(str(path), specs, lambda capture: _read_records(path, capture, list(connections)))


def _read_records(path: Path, capture: Capture, connections: list[str]) -> Iterator[Item]:
    """The connections merged by time: the file has them one after the other, or as they were written out."""
    streams = [_records(path, capture, conn, index) for index, conn in enumerate(connections or [""])]
    yield from streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda item: item[2])


def _records(path: Path, capture: Capture, conn: str, index: int) -> Iterator[Item]:
    """Of one connection; the first also counts what is nobody's."""
    mark = conn.encode()
    wrong = partial(wrong_line, path, expected='{"t":"recv","conn":…,"ts":…,"data":…}')
    for number, line in lines_of(path):
        if index and mark not in line:
            continue
        try:
            record = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            if not index:
                capture.skip("blank") if not line.strip() else capture.pass_over(wrong(number=number, line=line))
            continue
        if record.conn != conn or record.t in ("header", "http"):
            if not index and record.t == "http":
                capture.http += 1
            elif not index and record.t == "header":
                capture.skip("header")
            continue
        stamp, payload = bytes(record.ts), _payload(record)
        if payload is None or not is_seconds(stamp):
            capture.pass_over(wrong(number=number, line=line))
        elif record.t == "recv":
            yield index, TEXT if record.b64 is None else BINARY, _seconds(stamp), payload
        else:
            yield index, SENT if record.t == "send" else OPENED, _seconds(stamp), payload


def _payload(record: Record) -> bytes | None:
    """None where the record is none of those known, or holds no bytes."""
    if record.t == "connect":
        return record.addr.encode()
    if record.t not in ("recv", "send"):
        return None
    if record.b64 is not None:
        try:
            return base64.b64decode(record.b64, validate=True)
        except (binascii.Error, ValueError):
            return None
    return None if record.data is None else record.data.encode()
