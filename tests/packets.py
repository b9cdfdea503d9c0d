"""Packet captures and IEX-TP segments, byte for byte as their specifications lay them out."""

from __future__ import annotations

import struct
from collections.abc import Iterable

TOPS, DEEP = 0x8003, 0x8004


def segment(
    messages: Iterable[bytes], first: int, *, protocol: int = TOPS, session: int = 0x48DD0000, channel: int = 1,
    offset: int = 0, sent: int = 1517065700930439360,
) -> bytes:  # fmt: skip
    """An IEX-TP segment: header of 40 bytes, then each message behind its length."""
    listed = list(messages)
    body = b"".join(struct.pack("<H", len(message)) + message for message in listed)
    head = struct.pack("<BBHIIHH", 1, 0, protocol, channel, session, len(body), len(listed))
    return head + struct.pack("<qqq", offset, first, sent) + body


def packet(
    payload: bytes, vlans: int = 0, options: int = 0, padding: int = 0, protocol: int = 17, fragment: int = 0
) -> bytes:
    """Ethernet, VLAN tags, IPv4 with so many words of options, UDP."""
    udp = struct.pack(">HHHH", 10377, 10378, 8 + len(payload), 0) + payload
    total = 20 + 4 * options + len(udp)
    ip = struct.pack(">BBHHHBBHII", 0x45 + options, 0, total, 1, fragment, 64, protocol, 0, 0x17E29B84, 0xE9D71502)
    tags = b"".join(struct.pack(">HH", 0x8100 if i else 0x88A8 if vlans > 1 else 0x8100, 5) for i in range(vlans))
    return bytes(12) + tags + struct.pack(">H", 0x0800) + ip + bytes(4 * options) + udp + bytes(padding)


def pcap(packets: Iterable[tuple[int, bytes]], order: str = "<", nanoseconds: bool = False, link: int = 1) -> bytes:
    """The classic format. Times in ns."""
    magic, unit = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    out = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)]
    for ts, data in packets:
        out.append(struct.pack(f"{order}IIII", ts // 10**9, ts % 10**9 // unit, len(data), len(data)) + data)
    return b"".join(out)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", 12 + len(body))
    return struct.pack(f"{order}I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", resolution: int | None = None, offset_s: int | None = None, link: int = 1) -> bytes:
    options = b""
    if resolution is not None:
        options += struct.pack(f"{order}HHB3x", 9, 1, resolution)
    if offset_s is not None:
        options += struct.pack(f"{order}HHq", 14, 8, offset_s)
    return block(1, struct.pack(f"{order}HHI", link, 0, 65535) + options, order)


def enhanced(units: int, data: bytes, order: str = "<", number: int = 0) -> bytes:
    head = struct.pack(f"{order}IIIII", number, units >> 32, units & 0xFFFFFFFF, len(data), len(data))
    return block(6, head + data, order)


def pcapng(packets: Iterable[tuple[int, bytes]], order: str = "<", resolution: int = 9) -> bytes:
    """One section with one interface; ``resolution``: 6 microseconds, 9 nanoseconds."""
    unit = 10 ** (9 - resolution)
    out = [section(order), interface(order, resolution), block(5, bytes(8), order)]
    return b"".join(out + [enhanced(ts // unit, data, order) for ts, data in packets])
