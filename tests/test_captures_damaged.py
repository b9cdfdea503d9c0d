"""Damaged recordings: all that can be read comes out, in order, and what cannot is told with its place at the end."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import read
from undisturbed import Fold, names_of

from recorder.core.frames import FRAME_BYTES_MAX, TEXT
from recorder.shell.capture_files import LINE_BYTES_MAX
from recorder.shell.captures import merge, open_capture, to_frames
from recorder.values.errors import CaptureError
from recorder.values.tables import TABLES

OPENED_AT = 1_618_677_816
COINBASE = "wss://ws-feed.exchange.coinbase.com"
SEED = 20261201
NONSENSE = (
    b"1e400", b"[]", b"null", b"\x00" * 50, b"\xff\xfe", b"1618677817.06", b": {}", b"99999999999.0: {}",
    b"9999999999.999999999: {}", b'9999999999999999999 {"stream":"a"}', b'9999999999999999 {"stream":"a"}',
    b"wss://[::bad <-> 1.0", b"wss://ws.kraken.com <-> x", b"1618677817.0: b'\\x'", b"1618677817.0: b'" + b"(" * 3000,
    b'{"feed":3}', b'{"t":"recv"}', b'{"ts_recv":99999999999999999999,"feed":"coinbase","payload":""}',
    b'{"ts_recv":9223372036854775808,"feed":"coinbase","payload":""}', b"configuration:{", b'{"feed":"coinbase"',
)  # fmt: skip


def match(number: int) -> bytes:
    return (
        b'{"type":"match","trade_id":%d,"maker_order_id":"a","taker_order_id":"b","side":"sell","size":"0.5",'
        b'"price":"%d.25","product_id":"BTC-USD","sequence":%d,"time":"2021-04-17T16:43:37.%06dZ"}'
        % (number, 60_000 + number, number, number)
    )


def log_line(number: int) -> bytes:
    return b"%d.%06d: %s" % (OPENED_AT + 1, number, match(number))


def own_line(number: int) -> bytes:
    ts = (OPENED_AT + 1) * 10**9 + number * 1000
    return json.dumps({"ts_recv": ts, "feed": "coinbase", "payload": match(number).decode()}).encode()


def record_line(number: int) -> bytes:
    ts = f"{OPENED_AT + 1}.{number:06d}"
    return b'{"t":"recv","conn":"COINBASE.ws.1","ts":%s,"data":%s}' % (
        ts.encode(),
        json.dumps(match(number).decode()).encode(),
    )


HEADS = {
    log_line: [f"{COINBASE} <-> {OPENED_AT}.5".encode()],
    own_line: [],
    record_line: [
        b'{"t":"header","format":2,"exchange":"COINBASE","config":{}}',
        f'{{"t":"connect","conn":"COINBASE.ws.1","ts":{OPENED_AT}.5,"addr":"{COINBASE}"}}'.encode(),
    ],
}
LINES = list(HEADS)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.__name__)
@settings(max_examples=60, deadline=None)
@given(
    wrong=st.dictionaries(st.integers(0, 29), st.one_of(st.sampled_from(NONSENSE), st.binary(max_size=40)), max_size=8),
    crlf=st.booleans(),
    ended=st.booleans(),
)
def test_lines_that_do_not_fit_are_passed_over_and_all_others_come_out_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    line: Callable[[int], bytes],
    wrong: dict[int, bytes],
    crlf: bool,
    ended: bool,
) -> None:
    """Each piece of nonsense stands before a good line; what happens to look like one of another kind is no trade.

    It is not the very first line, by which a recording is known: a damaged head has a test of its own.
    """
    end = b"\r\n" if crlf else b"\n"
    lines = list(HEADS[line])
    for number in range(30):
        if number in wrong and lines:
            lines.append(wrong[number].replace(b"\n", b""))
        lines.append(line(number))
    path = tmp_path_factory.mktemp("damaged") / "recording"
    path.write_bytes(end.join(lines) + (end if ended else b""))
    items, told = read(open_capture(path))
    assert [payload for _, kind, _, payload in items if kind == TEXT and payload.startswith(b'{"type"')] == [
        match(number) for number in range(30)
    ]
    if told:
        assert f"{path.name}:" in told, told
        assert wrong


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.__name__)
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress], ids=["gzip", "zstd"])
def test_a_packed_recording_that_was_cut_gives_what_is_before_the_cut(
    tmp_path: Path, line: Callable[[int], bytes], pack: Callable[[bytes], bytes]
) -> None:
    rng = random.Random(SEED)
    noise = [rng.randbytes(60).hex().encode() for _ in range(3000)]  # so that there is much to cut
    body = b"\n".join([*HEADS[line], *(line(n).replace(b'"a"', b'"%s"' % noise[n]) for n in range(3000))])
    if line is not log_line:
        body = b"\n".join(HEADS[line] + [line(n).replace(b'\\"a\\"', b'\\"%s\\"' % noise[n]) for n in range(3000)])
    packed = pack(body)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(packed)
    cut.write_bytes(packed[: len(packed) * 2 // 3])
    expected, _ = read(open_capture(whole))
    items, told = read(open_capture(cut))
    assert len(expected) >= 3000
    assert 1000 < len(items) < len(expected)
    assert items[:-1] == expected[: len(items) - 1]  # the last line may itself be cut
    assert "damaged or cut short" in told
    stream, frames = to_frames(open_capture(cut), bytes_max=1 << 16), 0
    with contextlib.suppress(CaptureError):
        for batch in stream:
            frames += int((batch.kinds == TEXT).sum())
    assert frames == sum(kind == TEXT for _, kind, _, _ in items)


def test_what_is_told_names_the_first_place_and_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\n".join([*HEADS[log_line], b"hello there", log_line(1), b"and again", log_line(2)]))
    items, told = read(open_capture(path))
    assert len(items) == 3
    assert "a.log:2: expected" in told
    assert "hello there" in told
    assert "2 lines do not fit" in told


def test_a_frame_or_line_longer_than_any_is_passed_over(tmp_path: Path) -> None:
    """In bounded memory: the longest line read is 64 MB."""
    long = [log_line(1)[:20] + b"x" * size for size in (FRAME_BYTES_MAX + 1, LINE_BYTES_MAX + 10)]
    path = tmp_path / "a.log"
    path.write_bytes(b"\n".join([b"\xef\xbb\xbf" + HEADS[log_line][0], long[0], log_line(1), long[1], log_line(2)]))
    items, told = read(open_capture(path))
    assert [payload for _, kind, _, payload in items if kind == TEXT] == [match(1), match(2)]
    assert f"a frame of {FRAME_BYTES_MAX + 2:,} bytes" in told
    assert "2 lines do not fit" in told


@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b"", mtime=0), zstandard.ZstdCompressor().compress(b"")],
    ids=["nothing", "gzip of nothing", "zstd of nothing"],
)
def test_an_empty_recording_is_called_empty(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "a").write_bytes(content)
    with pytest.raises(CaptureError, match="is empty"):
        open_capture(path)


def test_a_damaged_head_does_not_hide_what_a_recording_is(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\n".join([b"bsocket", b"\xff\x00", *HEADS[log_line], log_line(1)]))
    items, told = read(open_capture(path))
    assert len(items) == 2
    assert "2 lines do not fit" in told


def test_recordings_merged_tell_of_each_that_is_damaged_and_lose_nothing_of_the_others(tmp_path: Path) -> None:
    parts = []
    for name, bad in (("a", []), ("b", [b"rubbish"]), ("c", [b"more rubbish"])):
        path = tmp_path / f"{name}.log"
        path.write_bytes(b"\n".join([*HEADS[log_line], *bad, *map(log_line, range(20))]))
        parts.append(open_capture(path))
    items, told = read(merge(parts))
    assert sum(kind == TEXT for _, kind, _, _ in items) == 60
    assert "b.log:2" in told
    assert "c.log:2" in told


def trades(path: Path) -> dict[tuple[str, int], tuple[float, float, str]]:
    """(symbol, id) → price, size, side as the pipeline makes them."""
    fold, names = Fold(), names_of(TABLES["trades"])
    try:
        for frames in to_frames(open_capture(path)):
            fold.consume(frames)
    except CaptureError:
        pass
    rows = [dict(zip(names, row, strict=True)) for row in fold.finish()["trades"].values()]
    return {(row["symbol"], row["trade_id"]): (row["price"], row["size"], row["side"]) for row in rows}


@pytest.mark.parametrize("number", range(6))
def test_trades_of_a_recording_whose_bytes_were_damaged_are_those_of_its_whole_lines(
    shared_data: Path, tmp_path: Path, number: int
) -> None:
    """Bytes overwritten, taken out and put in: a trade whose line was not touched is stored with its values."""
    rng = random.Random(SEED + number)
    lines = gzip.decompress((shared_data / "hftbacktest/usdm_btcusdt_20230405.gz").read_bytes()).splitlines()[:1500]
    whole = tmp_path / "usdm_whole"
    touched, kept = [], []
    for line in lines:
        if rng.random() < 0.05:
            raw = bytearray(line)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(raw))
                raw[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3)).replace(b"\n", b"?")
            touched.append(bytes(raw))
        else:
            touched.append(line)
            kept.append(line)
    whole.write_bytes(b"\n".join(kept))
    (damaged := tmp_path / "usdm_damaged").write_bytes(b"\n".join(touched))
    expected, found = trades(whole), trades(damaged)
    assert len(expected) > 200
    differ = {key for key, value in expected.items() if found.get(key) != value}
    # A damaged line may bear the id of a whole one, and comes first then: one of a thousand at most.
    assert len(differ) <= len(expected) // 500, differ
