"""Packet captures, pcap and pcapng: the UDP payloads in them, with the time each was captured.

https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html , …/draft-ietf-opsawg-pcapng-02.html
Read as streams: a day of IEX is a hundred gigabytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import zstandard

from recorder.values.errors import CaptureError

PACKET_BYTES_MAX = 1 << 18  # libpcap's own limit
BLOCK_BYTES_MAX = 1 << 24  # of pcapng, which may hold more than packets
ETHERNET = 1
IPV4, VLANS = 0x0800, (0x8100, 0x88A8)
UDP = 17
FRAGMENT = 0x3FFF  # more of it follows, or it begins elsewhere
INTERFACE, ENHANCED = 1, 6
TSRESOL, TSOFFSET = 9, 14  # options of an interface
_CLASSIC = {  # magic → byte order, ns in a unit of the fraction
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}  # fmt: skip
_SECTION = b"\x0a\x0d\x0d\x0a"
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
SECOND_NS = 1_000_000_000

Skip = Callable[[str], None]


class Interface(NamedTuple):
    link: int
    per_second: int  # units of time
    offset_s: int


def is_pcap(magic: bytes) -> bool:
    """Whether a file that begins so is a packet capture."""
    return magic in _CLASSIC or magic == _SECTION


def udp_payloads(path: Path, file: IO[bytes], skip: Skip) -> Iterator[tuple[int, bytes]]:
    """(time in ns, payload) of each UDP packet; ``skip`` is told of what is none.

    Raises CaptureError for a file that is damaged, cut short or not of Ethernet.
    """
    try:
        magic = file.read(4)
        for ts, packet in _classic(path, file, magic) if magic in _CLASSIC else _blocks(path, file):
            payload = _udp(packet, skip)
            if payload is not None:
                yield ts, payload
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, struct.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise CaptureError(f"{path}: cannot be read: {error.strerror}") from error
        raise CaptureError(f"{path}: damaged or cut short ({error}); fetch or copy it again") from error


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EOFError(f"{count - len(data)} bytes are missing at the end")
    return data


def _classic(path: Path, file: IO[bytes], magic: bytes) -> Iterator[tuple[int, bytes]]:
    order, unit_ns = _CLASSIC[magic]
    link = struct.unpack(f"{order}HHiIII", _exactly(file, 20))[5] & 0xFFFF
    _must_be_ethernet(path, link)
    record = struct.Struct(f"{order}IIII")
    while head := file.read(record.size):
        seconds, fraction, kept, _ = record.unpack(head)
        if kept > PACKET_BYTES_MAX:
            raise CaptureError(f"{path}: a packet of {kept} bytes; the file is damaged, fetch or copy it again")
        yield seconds * SECOND_NS + fraction * unit_ns, _exactly(file, kept)


def _blocks(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """pcapng; the first four bytes are read already."""
    order, interfaces, kind_bytes = "<", list[Interface](), _SECTION
    while kind_bytes:
        length_bytes = _exactly(file, 4)
        if kind_bytes == _SECTION:
            magic = _exactly(file, 4)
            if magic not in _ORDERS:
                raise CaptureError(f"{path}: a section of pcapng in no known byte order; the file is damaged")
            order, interfaces, read = _ORDERS[magic], [], 12
        else:
            read = 8
        (kind,), (length,) = struct.unpack(f"{order}I", kind_bytes), struct.unpack(f"{order}I", length_bytes)
        if not read + 4 <= length <= BLOCK_BYTES_MAX or length % 4:
            raise CaptureError(f"{path}: a block of {length} bytes; the file is damaged, fetch or copy it again")
        body = _exactly(file, length - read)[:-4]
        if kind == INTERFACE:
            interfaces.append(_interface(path, order, body))
        elif kind == ENHANCED:
            number, high, low, kept, _ = struct.unpack_from(f"{order}IIIII", body)
            if number >= len(interfaces) or kept > len(body) - 20:
                raise CaptureError(f"{path}: a packet of no interface, or longer than its block; the file is damaged")
            where = interfaces[number]
            units = (high << 32 | low) + where.offset_s * where.per_second
            yield units * SECOND_NS // where.per_second, body[20 : 20 + kept]
        kind_bytes = file.read(4)


def _interface(path: Path, order: str, body: bytes) -> Interface:
    (link,) = struct.unpack_from(f"{order}H", body)
    _must_be_ethernet(path, link)
    per_second, offset_s, at = 10**6, 0, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == TSRESOL and value:
            per_second = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == TSOFFSET and length == 8:
            (offset_s,) = struct.unpack(f"{order}q", value)
        at += 4 + (length + 3) // 4 * 4
    return Interface(link, per_second, offset_s)


def _must_be_ethernet(path: Path, link: int) -> None:
    if link != ETHERNET:
        raise CaptureError(f"{path}: packets of link type {link}; only Ethernet (1) is read")


def _udp(packet: bytes, skip: Skip) -> bytes | None:
    at = 12
    while int.from_bytes(packet[at : at + 2], "big") in VLANS:
        at += 4
    if int.from_bytes(packet[at : at + 2], "big") != IPV4 or len(packet) < at + 22:
        skip("packet that is not IPv4")
        return None
    at += 2
    end = at + int.from_bytes(packet[at + 2 : at + 4], "big")  # what follows is padding
    fragment = int.from_bytes(packet[at + 6 : at + 8], "big") & FRAGMENT
    if packet[at + 9] != UDP or fragment:
        skip("fragment" if fragment else "packet that is not UDP")
        return None
    at += (packet[at] & 15) * 4
    length = int.from_bytes(packet[at + 4 : at + 6], "big")
    if length < 8 or at + length > min(end, len(packet)):
        skip("packet cut short")
        return None
    return packet[at + 8 : at + length]
