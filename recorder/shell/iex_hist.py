"""IEX HIST: packet captures of what IEX publishes by multicast, as a capture whose frames are segments of IEX-TP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recorder.core.frames import BINARY
from recorder.feeds.iex import HEADER, PROTOCOLS, VERSION
from recorder.shell.capture_files import unpacked
from recorder.shell.capture_formats import Capture, Item, overridden
from recorder.shell.pcap import udp_payloads
from recorder.values.errors import CaptureError
from recorder.values.feed import FeedSpec

PACKETS_BEFORE_MAX = 100_000  # without a segment among them a capture is not of IEX
_PROTOCOL = slice(2, 4)


def iex_hist(path: Path, provider: str | None, options: dict[str, str] | None) -> Capture:
    """Raises CaptureError for a capture without segments of IEX-TP.

    A file is of one protocol; packets of others in it are counted and left out.
    """
    protocol = _first(path)
    name, own = overridden(("iex", {}), provider, options)
    spec = FeedSpec(name=f"iex-{PROTOCOLS[protocol]}", provider=name, options=own)

    def read(capture: Capture) -> Iterator[Item]:
        wanted = bytes([VERSION, 0]) + protocol.to_bytes(2, "little")
        with path.open("rb") as raw, unpacked(raw) as file:
            for ts, payload in udp_payloads(path, file, capture.skip):
                if payload[0:1] == wanted[0:1] and payload[_PROTOCOL] == wanted[_PROTOCOL]:
                    yield 0, BINARY, ts, payload
                else:
                    capture.skip("packet of another protocol")

    return Capture(str(path), [spec], read)


def _first(path: Path) -> int:
    """The protocol of the first segment."""
    with path.open("rb") as raw, unpacked(raw) as file:
        for count, (_, payload) in enumerate(udp_payloads(path, file, lambda what: None)):
            protocol = int.from_bytes(payload[_PROTOCOL], "little")
            if len(payload) >= HEADER.size and payload[0] == VERSION and protocol in PROTOCOLS:
                return protocol
            if count >= PACKETS_BEFORE_MAX:
                break
    raise CaptureError(f"{path}: a packet capture without IEX-TP (TOPS, DEEP, DEEP+), the only one that is read here")
