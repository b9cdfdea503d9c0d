"""`recorder journal`: segments listed and verified while they are written, and frames as JSON lines, there and back."""

from __future__ import annotations

import gzip
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.commands import cli
from recorder.core.frames import KIND_MAX, SOURCE, TEXT, frames_from_list
from recorder.core.observations import NO_SOURCE
from recorder.shell.captures import open_capture
from recorder.shell.journal import Journal, lines, list_segments, reading
from recorder.values.feed import FeedSpec

SECOND = 1_000_000_000
START = 1_785_585_600 * SECOND  # 2026-08-01T12:00:00Z
CB, KR = FeedSpec(name="cb", provider="coinbase"), FeedSpec(name="kr", provider="kraken", connection=1)
Entry = tuple[FeedSpec | None, int, int, bytes]


def entries(directory: Path) -> list[Entry]:
    """(spec, kind, ts_recv, payload) of every frame but declarations, read by the journal itself."""
    found: list[Entry] = []
    specs: dict[int, FeedSpec] = {}
    with Journal.open(directory, compress=False) as journal:
        specs = journal.specs
        position = 0
        while (frames := journal.read(position)) is not None:
            for i in np.flatnonzero(frames.kinds != SOURCE):
                spec = specs.get(int(frames.sources[i]))
                found.append((spec, int(frames.kinds[i]), int(frames.ts_recv[i]), frames.payload(int(i))))
            position = frames.end
    return found


def made(directory: Path, frames: int = 200, segment_bytes: int = 4096) -> list[bytes]:
    """A journal of text frames a second apart; their payloads."""
    payloads = [b'{"n":%d}' % i + b"." * (i % 90) for i in range(frames)]
    now = START
    with Journal.open(directory, segment_bytes=segment_bytes, compress=False, now=lambda: now) as journal:
        source = journal.source(CB)
        for i, payload in enumerate(payloads):
            now = START + i * SECOND
            journal.append(source, TEXT, now, payload)
    return payloads


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(["journal", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


kinds = st.integers(1, KIND_MAX).filter(lambda kind: kind != SOURCE)
payloads = st.one_of(st.binary(max_size=80), st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
frames = st.tuples(
    st.sampled_from([CB, KR, None]), kinds, st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 10), payloads
)


@settings(max_examples=15, deadline=None)
@given(listed=st.lists(frames, min_size=1, max_size=60), suffix=st.sampled_from(["", ".gz", ".zst"]))
def test_import_of_an_export_gives_the_same_frames(
    tmp_path_factory: pytest.TempPathFactory, listed: list[Entry], suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    with Journal.open(folder / "a", segment_bytes=4096, compress=False) as journal:
        for spec, kind, ts_recv, payload in listed:
            journal.append(NO_SOURCE if spec is None else journal.source(spec), kind, ts_recv, payload)
    before = entries(folder / "a")
    assert before == listed
    out = folder / f"out.jsonl{suffix}"
    with lines.created(out) as file:
        for line in lines.to_lines(reading.read(folder / "a"), lambda end, ts: True):
            file.write(line)
    assert lines.import_lines(out, folder / "b", 4096) == len(listed)
    assert entries(folder / "b") == before
    again = folder / "again.jsonl"
    with lines.created(again) as file:
        file.writelines(lines.to_lines(reading.read(folder / "b"), lambda end, ts: True))
    assert lines.import_lines(again, folder / "c", 4096) == len(listed)
    assert entries(folder / "c") == before


def test_a_line_is_plain_to_read_and_binary_stands_in_base64() -> None:
    spec = json.dumps({"name": "kr", "provider": "kraken", "connection": 1}).encode()
    stream = frames_from_list([(SOURCE, 3, 5, spec), (TEXT, 3, 6, '{"p":"1.5 €"}'.encode()), (2, 3, 7, b"\xff\x00")])
    head, source, text, binary = (json.loads(line) for line in lines.to_lines([stream], lambda end, ts: True))
    assert head == {"format": "recorder journal", "version": 1}
    assert (source["kind"], json.loads(source["payload"])["name"]) == ("source", "kr")
    ends = stream.ends.tolist()
    assert text == {
        "position": ends[1], "ts_recv": 6, "kind": "text", "source": 3, "feed": "kr/1", "payload": '{"p":"1.5 €"}'
    }  # fmt: skip
    assert binary == {
        "position": ends[2], "ts_recv": 7, "kind": "binary", "source": 3, "feed": "kr/1", "base64": "/wA="
    }  # fmt: skip


def test_a_range_of_time_or_positions_is_exported_with_its_declarations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payloads = made(tmp_path / "journal", 20_000, 1 << 16)
    assert len(list_segments(tmp_path / "journal")) > 10
    code, _, _ = run(
        capsys, "export", "--dir", tmp_path / "journal", "--from", "2026-08-01T13:00:00Z", "--to",
        "2026-08-01T13:02:00.000000001Z", tmp_path / "out.jsonl.zst",
    )  # fmt: skip
    assert code == 0
    with zstandard.open(tmp_path / "out.jsonl.zst", "rb") as file:
        raw = file.read()
    found = [json.loads(line) for line in raw.splitlines()]
    texts = [line for line in found[1:] if line["kind"] == "text"]
    assert [line["payload"].encode() for line in texts] == payloads[3600:3721]
    assert [line["kind"] for line in found[1:3]] == ["source", "text"]
    first, last = texts[10]["position"], texts[20]["position"]
    run(capsys, "export", "--dir", tmp_path / "journal", "--from", first, "--to", last, tmp_path / "out.jsonl.gz")
    found = [json.loads(line) for line in gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).splitlines()]
    assert [line["position"] for line in found[2:]] == [line["position"] for line in texts[11:21]]


def test_an_exported_file_is_a_capture_for_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "journal")
    run(capsys, "export", "--dir", tmp_path / "journal", tmp_path / "out.jsonl")
    exported, journal = open_capture(tmp_path / "out.jsonl"), open_capture(tmp_path / "journal")
    assert exported.specs == journal.specs == [CB]
    assert list(exported) == list(journal)


def test_list_says_what_every_segment_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payloads = made(tmp_path)
    with Journal.open(tmp_path, segment_bytes=4096, keep_days=3650, compress=False) as journal:
        journal.release(journal.end // 2)
    code, out, _ = run(capsys, "list", "--dir", tmp_path, "--json")
    listed = json.loads(out)
    segments = listed["segments"]
    assert code == 0
    assert listed["total"]["frames"] == len(payloads) + len(segments)  # each declares its source
    assert [each["positions"][0] for each in segments[1:]] == [each["positions"][1] for each in segments[:-1]]
    assert segments[0]["ts_recv"][0] == START
    assert segments[-1]["ts_recv"][1] == START + 199 * SECOND
    states = [each["released"] for each in segments]
    assert (states[0], states[-1], states.count("in part released")) == ("released", "not released", 1)
    assert listed["total"]["bytes"] == segments[-1]["positions"][1]
    code, out, _ = run(capsys, "list", "--dir", tmp_path)
    assert len(out.splitlines()) == len(segments) + 2
    assert "2026-08-01T12:00:00" in out.splitlines()[1]


def test_verify_names_the_place_of_every_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, 400)
    assert run(capsys, "verify", "--dir", tmp_path)[0] == 0
    paths = [info.path for info in list_segments(tmp_path)]
    data = bytearray(paths[1].read_bytes())
    place = data.index(b'{"n":')
    record = place - 20
    length = int.from_bytes(data[record : record + 4], "little") + 20
    data[place] ^= 1
    paths[1].write_bytes(data)
    paths[3].unlink()
    code, out, _ = run(capsys, "verify", "--dir", tmp_path, "--json")
    assert code == 1
    flipped, hole = json.loads(out)["damaged"]
    assert (flipped["file"], flipped["offset"], flipped["bytes"]) == (paths[1].name, record, length)
    assert (hole["file"], hole["offset"]) == (paths[4].name, 0)
    assert "no segment holds" in hole["reason"]
    assert f"{length} bytes at offset {record}" in run(capsys, "verify", "--dir", tmp_path)[1]


def test_a_damaged_compressed_segment_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recorder.shell.journal import packed

    made(tmp_path, 3000, 1 << 20)
    (info,) = list_segments(tmp_path)
    target = info.path.with_name(info.path.name + ".zst")
    for _ in packed.pack(info.path, target):
        pass
    info.path.unlink()
    assert run(capsys, "verify", "--dir", tmp_path)[0] == 0
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 4
    target.write_bytes(data)
    assert run(capsys, "verify", "--dir", tmp_path)[0] == 1


def test_reading_beside_a_recorder_that_writes_sees_whole_frames_only(tmp_path: Path) -> None:
    """Segments grow, are named, cut, packed and retired meanwhile; nothing of that is damage."""
    ended = threading.Event()

    def write() -> None:
        try:
            with Journal.open(tmp_path, segment_bytes=1 << 17, fsync_ms=1, keep_gb=0.001) as journal:
                source = journal.source(CB)
                for number in range(20_000):
                    position = journal.append(source, TEXT, START + number, b"%d " % number + b"x" * (number % 700))
                    if number % 100 == 0:
                        journal.release(position - (1 << 18))
                        time.sleep(0.005)  # a busy feed, and time for the others on this machine
        finally:
            ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    damages: list[object] = []
    read = 0
    try:
        while not ended.is_set():
            stretch = [
                int(frames.payload(int(i)).split(b" ")[0])
                for frames in reading.read(tmp_path, damaged=damages.append)
                for i in np.flatnonzero(frames.kinds == TEXT)
            ]
            assert stretch == sorted(set(stretch))
            assert not damages
            read = max(read, len(stretch))
    finally:
        writer.join(60)
    assert read > 1000


def test_verify_of_a_running_recorder_is_intact_and_shows_the_active_segment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.open(tmp_path, segment_bytes=1 << 16) as journal:
        source = journal.source(CB)
        for i in range(2000):
            journal.append(source, TEXT, START + i, b"%d" % i)
        assert run(capsys, "verify", "--dir", tmp_path)[0] == 0
        listed = json.loads(run(capsys, "list", "--dir", tmp_path, "--json")[1])
        assert [each["active"] for each in listed["segments"]].count(True) == 1
        assert listed["segments"][-1]["active"]
        assert listed["segments"][-1]["positions"][1] == journal.end
    assert not json.loads(run(capsys, "list", "--dir", tmp_path, "--json")[1])["segments"][-1]["active"]


def test_looking_whether_a_recorder_runs_never_keeps_one_from_starting(tmp_path: Path) -> None:
    from recorder.shell.journal import recovery

    Journal.open(tmp_path).close()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            recovery.holder(tmp_path)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(15):
            Journal.open(tmp_path).close()
    finally:
        stop.set()
        looker.join()


HEAD = '{"format":"recorder journal","version":1}\n'
SPEC = '{"ts_recv":1,"kind":"source","source":0,"payload":"{\\"name\\":\\"cb\\",\\"provider\\":\\"coinbase\\"}"}\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ('{"feed":"cb"}\n', [":1:", "first line of an export"]),
        ('{"format":"recorder journal","version":2}\n', [":1:", "version 2"]),
        (HEAD + "nonsense\n", [":2:", "a frame"]),
        (HEAD + SPEC + '{"ts_recv":1,"kind":"smell","source":0,"payload":""}\n', [":3:", "'smell' is none of text"]),
        (HEAD + SPEC + '{"ts_recv":1,"kind":99,"source":0,"payload":""}\n', [":3:", "kind 99"]),
        (HEAD + SPEC + '{"ts_recv":1,"kind":"text","source":0}\n', [":3:", "either payload or base64"]),
        (HEAD + SPEC + '{"ts_recv":1,"kind":"text","source":0,"base64":"*"}\n', [":3:", "base64"]),
        (HEAD + SPEC + '{"ts_recv":1.5,"kind":"text","source":0,"payload":""}\n', [":3:", "ts_recv"]),
        (HEAD + SPEC + '{"ts_recv":1,"kind":"text","source":70000,"payload":""}\n', [":3:", "source 70000"]),
        (HEAD + '{"ts_recv":1,"kind":"source","source":0,"payload":"{}"}\n', [":2:", "spec of a feed"]),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(text)
    code, _, err = run(capsys, "import", file, "--into", tmp_path / "new")
    assert code == 1
    assert str(file) in err
    for word in words:
        assert word in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_folder_that_is_in_use_or_not_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(HEAD + SPEC)
    with Journal.open(tmp_path / "journal"):
        code, _, err = run(capsys, "import", file, "--into", tmp_path / "journal")
        assert (code, "a recorder runs on it" in err) == (1, True)
    code, _, err = run(capsys, "import", file, "--into", tmp_path)
    assert (code, "is not empty" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "yesterday"], "--from yesterday: no date or time"),
        (["--from", "2026-08-02", "--to", "2026-08-01"], "is not before"),
        (["--to", "1969-12-31"], "1970"),
    ],
)
def test_a_range_that_cannot_be_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    made(tmp_path / "journal", 3)
    code, _, err = run(capsys, "export", "--dir", tmp_path / "journal", *arguments, tmp_path / "out.jsonl")
    assert code == 2
    assert words in err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "journal", 3)
    (tmp_path / "out.jsonl").write_text("kept")
    code, _, err = run(capsys, "export", "--dir", tmp_path / "journal", tmp_path / "out.jsonl")
    assert (code, "exists already" in err) == (1, True)
    assert (tmp_path / "out.jsonl").read_text() == "kept"
