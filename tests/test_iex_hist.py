"""Packet captures of IEX: whatever their format the same segments come out, and `recorder replay` stores them."""

from __future__ import annotations

import gzip
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from conftest import QuestDB
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import DEEP, TOPS, block, enhanced, interface, packet, pcap, pcapng, section, segment
from recorder_process import REPO, command, environment, external, write_config

from recorder.core.frames import BINARY
from recorder.shell.captures import open_capture
from recorder.values.errors import CaptureError

QUOTE = bytes.fromhex("5100c048e39c37b30d15415453472020202055490000ecb003000000000044b303000000000005ed0000")
TRADE = bytes.fromhex("54c0f8f29d8ae8ad0d155a49455854202020640000000e2700000000000012d60e0000000000")
STATUS = bytes.fromhex("4848f13dda36a7b30d154a484d55202020204e412020")
AT = 1517065700930439000  # a multiple of a microsecond
SEGMENTS = [
    (AT, segment([QUOTE, STATUS], 1)), (AT + 5_000, segment([], 3)), (AT + 2 * 10**9, segment([TRADE] * 3, 3)),
    (AT + 3 * 10**9, segment([QUOTE], 9)),
]  # fmt: skip
FORMATS: dict[str, Callable[[list[tuple[int, bytes]]], bytes]] = {
    "pcap-us-little": lambda packets: pcap(packets),
    "pcap-us-big": lambda packets: pcap(packets, ">"),
    "pcap-ns-little": lambda packets: pcap(packets, nanoseconds=True),
    "pcap-ns-big": lambda packets: pcap(packets, ">", nanoseconds=True),
    "pcapng-ns-little": lambda packets: pcapng(packets),
    "pcapng-ns-big": lambda packets: pcapng(packets, ">"),
    "pcapng-us": lambda packets: pcapng(packets, resolution=6),
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data, "gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress,
}  # fmt: skip


def wrapped(segments: list[tuple[int, bytes]] = SEGMENTS, **fields: Any) -> list[tuple[int, bytes]]:
    return [(ts, packet(data, **fields)) for ts, data in segments]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def frames(path: Path) -> list[tuple[int, bytes]]:
    capture = open_capture(path)
    [spec] = capture.specs
    assert spec.provider == "iex"
    found = list(capture)
    assert all((index, kind) == (0, BINARY) for index, kind, _, _ in found)
    assert capture.frames == len(found)
    return [(ts, payload) for _, _, ts, payload in found]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_the_segments_of_every_format_are_the_same(tmp_path: Path, form: str, packing: str) -> None:
    path = written(tmp_path / "x", PACKINGS[packing](FORMATS[form](wrapped())))
    assert frames(path) == SEGMENTS


@pytest.mark.parametrize(
    "fields", [{"vlans": 1}, {"vlans": 2}, {"options": 3}, {"padding": 18}, {"vlans": 1, "padding": 4}]
)
def test_tags_options_and_padding_are_no_part_of_a_segment(tmp_path: Path, fields: dict[str, int]) -> None:
    assert frames(written(tmp_path / "x", pcap(wrapped(**fields)))) == SEGMENTS


@pytest.mark.parametrize(
    ("resolution", "units", "ns"),
    [
        (None, 1517065700930439, 1517065700930439000), (3, 1517065700930, 1517065700930000000),
        (0x80 | 10, 1517065700 * 1024 + 512, 1517065700500000000), (9, 5, 5),
    ],
)  # fmt: skip
def test_times_are_exact_in_whatever_unit_an_interface_has(
    tmp_path: Path, resolution: int | None, units: int, ns: int
) -> None:
    data = section() + interface(resolution=resolution) + enhanced(units, packet(SEGMENTS[0][1]))
    assert frames(written(tmp_path / "x", data))[0][0] == ns


def test_each_section_and_interface_has_its_own_order_and_clock(tmp_path: Path) -> None:
    one, two = packet(SEGMENTS[0][1]), packet(SEGMENTS[2][1])
    data = section() + interface(resolution=6) + interface(resolution=9, offset_s=1_500_000_000)
    data += enhanced(1517065700930439, one) + enhanced(17065700930439001, two, number=1) + block(11, b"unknown")
    data += section(">") + interface(">") + enhanced(1517065800000000, one, ">")
    assert [ts for ts, _ in frames(written(tmp_path / "x", data))] == [
        1517065700930439000, 1517065700930439001, 1517065800000000000,
    ]  # fmt: skip


def test_other_packets_are_counted_and_left_out(tmp_path: Path) -> None:
    good, arp = wrapped(), bytes(12) + b"\x08\x06" + bytes(28)
    others = [
        (AT, arp), (AT, packet(b"", protocol=6)), (AT, packet(SEGMENTS[0][1], fragment=0x2000)), (AT, b""),
        (AT, packet(b"something else")), (AT, packet(segment([QUOTE], 1, protocol=DEEP))),
        (AT, packet(SEGMENTS[0][1])[:60]),
    ]  # fmt: skip
    capture = open_capture(written(tmp_path / "x", pcap([good[0], *others, *good[1:]])))
    assert [payload for _, _, _, payload in capture] == [data for _, data in SEGMENTS]
    assert capture.skipped == {
        "packet that is not IPv4": 2, "packet that is not UDP": 1, "fragment": 1, "packet of another protocol": 2,
        "packet cut short": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "name"), [(0x8002, "iex-tops"), (TOPS, "iex-tops"), (DEEP, "iex-deep"), (0x8005, "iex-deep-plus")]
)
def test_the_protocol_names_the_feed(tmp_path: Path, protocol: int, name: str) -> None:
    path = written(tmp_path / "x", pcap(wrapped([(AT, segment([QUOTE], 1, protocol=protocol))])))
    assert [spec.name for spec in open_capture(path).specs] == [name]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pcap([]), "without IEX-TP"), (pcap([(AT, packet(b"x" * 80))]), "without IEX-TP"),
        (pcap(wrapped(), link=113), "link type 113"), (section() + interface(link=276), "link type 276"),
        (pcap(wrapped())[:-1], "cut short"), (gzip.compress(pcapng(wrapped()))[:-30], "cut short"),
        (section() + struct.pack("<II", 6, 7) + bytes(20), "block of 7 bytes"),
        (section() + enhanced(1, b"x" * 80), "no interface"), (b"\x0a\x0d\x0d\x0a\x1c\0\0\0abcd", "byte order"),
        (pcap([])[:24] + struct.pack("<IIII", 1, 1, 1 << 30, 1 << 30), "damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_its_name(tmp_path: Path, data: bytes, words: str) -> None:
    path = written(tmp_path / "broken.pcap", data)
    with pytest.raises(CaptureError, match=words) as caught:
        list(open_capture(path))
    assert "broken.pcap" in str(caught.value)


@given(at=st.integers(0, 10_000), change=st.binary(min_size=1, max_size=6), form=st.sampled_from(sorted(FORMATS)))
@settings(deadline=None, max_examples=200)
def test_damage_raises_nothing_but_a_capture_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: bytes, form: str
) -> None:
    whole = FORMATS[form](wrapped())
    at %= len(whole)
    path = written(tmp_path_factory.getbasetemp() / "damaged.pcap", whole[:at] + change + whole[at + len(change) :])
    try:
        list(open_capture(path))
    except CaptureError:
        return


def test_replay_brings_a_day_into_the_database_with_its_gaps(
    tmp_path: Path, free_port: Callable[[], int], questdb: QuestDB
) -> None:
    path = written(tmp_path / "20180127_IEXTP1_TOPS1.6.pcap.gz", gzip.compress(pcapng(wrapped())))
    config = write_config(tmp_path, {}, free_port(), questdb=external(questdb.sql_url))
    done = subprocess.run(
        command("--config", config, "replay", path), env=environment(), cwd=REPO, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 frames")
    assert not {"rejected", "unknown", "skipped"} & set(done.stdout.split())

    def rows(table: str, columns: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM {table} WHERE feed = 'iex-tops' ORDER BY ts_event, symbol"
        return [tuple(row) for row in questdb.sql.query(query).rows]

    assert rows("trades", "symbol, trade_id, price, size, conditions") == [
        ("ZIEXT", 972306, 0.9998, 100.0, "intermarket_sweep,extended_hours")
    ]
    assert rows("quotes", "symbol, sequence, bid, bid_size, ask, ask_size") == [
        ("ATSG", 1, 24.19, 18773.0, 24.25, 60677.0), ("ATSG", 9, 24.19, 18773.0, 24.25, 60677.0),
    ]  # fmt: skip
    assert rows("statuses", "symbol, kind, code, reason") == [("JHMU", "status", "H", "NA")]
    assert rows("gaps", "symbol, kind, from_id, to_id, missing") == [("*", "sequence", 6, 8, 3)]
