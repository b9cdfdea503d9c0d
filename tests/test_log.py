from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.commands import logs
from recorder.commands.logs import Filter, Tail, last_lines, rotated
from recorder.shell import log
from recorder.values.config import Config, LogConfig
from recorder.values.errors import ConfigError, RecorderError

REPO = Path(__file__).resolve().parent.parent
DEADLINE_S = 20.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_json_always", False)
    yield
    log.close()


Written = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Set up a log in tmp_path; the function returns the entries of its file."""
    log.setup(LogConfig(dir=tmp_path, level="debug"), stream=io.StringIO())
    return lambda: [json.loads(line) for line in (tmp_path / "recorder.log").read_text().splitlines()]


# Writing


def test_event_is_one_json_line_with_time_level_and_fields(written: Written) -> None:
    before = time.time_ns()
    log.get("feed").info("feed.connected", feed="cb", attempt=2, url="wss://example.com", symbols=("A", "B"))
    after = time.time_ns()
    (entry,) = written()
    assert log.iso_ns(before) <= entry.pop("ts") <= log.iso_ns(after)
    assert entry == {
        "level": "info", "event": "feed.connected", "feed": "cb", "attempt": 2, "url": "wss://example.com",
        "symbols": ["A", "B"],
    }  # fmt: skip


def test_time_is_utc_with_nine_digits() -> None:
    assert log.iso_ns(1_785_585_600_000_000_001) == "2026-08-01T12:00:00.000000001Z"
    assert log.iso_ns(0) == "1970-01-01T00:00:00.000000000Z"


def test_terminal_gets_one_readable_line(tmp_path: Path) -> None:
    terminal = Terminal()
    log.setup(LogConfig(dir=tmp_path), file=False, stream=terminal)
    log.get("sink").warning("sink.rejected", table="trades", rows=4096, lag_s=12.4, reason="no such table", end="")
    assert terminal.getvalue()[23:] == (
        'Z warning sink.rejected table=trades rows=4096 lag_s=12.4 reason="no such table" end=""\n'
    )


def test_json_is_kept_on_a_terminal_when_asked_for(tmp_path: Path) -> None:
    terminal = Terminal()
    log.setup(LogConfig(dir=tmp_path), file=False, stream=terminal, json=True)
    log.setup(LogConfig(dir=tmp_path), file=False, stream=terminal)  # as the command does after the command line did
    log.get("x").info("a.b")
    assert json.loads(terminal.getvalue())["event"] == "a.b"


def test_levels_below_the_configured_one_are_dropped(tmp_path: Path) -> None:
    stream = io.StringIO()
    log.setup(LogConfig(dir=tmp_path, level="warning"), file=False, stream=stream)
    for write in (log.get("x").debug, log.get("x").info, log.get("x").warning, log.get("x").error):
        write("a.b")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == ["warning", "error"]


def test_second_setup_replaces_the_first(tmp_path: Path) -> None:
    first, second = io.StringIO(), io.StringIO()
    log.setup(LogConfig(dir=tmp_path), stream=first)
    log.setup(LogConfig(dir=tmp_path), stream=second)
    log.get("x").info("a.b")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == len((tmp_path / "recorder.log").read_text().splitlines()) == 1


def test_file_rotates_by_size_and_keeps_as_many_as_configured(tmp_path: Path) -> None:
    log.setup(LogConfig(dir=tmp_path, rotate_mb=1, keep_files=2), stream=io.StringIO())
    writer = log.get("x")
    for number in range(1200):
        writer.info("a.b", number=number, text="x" * 4000)  # 4.8 MB: rotated four times
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recorder.log", "recorder.log.1", "recorder.log.2"]
    assert all(p.stat().st_size <= 1 << 20 for p in tmp_path.iterdir())


def test_what_a_library_logs_is_kept_too(written: Written) -> None:
    logging.getLogger("asyncio").error("Task exception was never %s", "retrieved")
    (entry,) = written()
    del entry["ts"]
    assert entry == {
        "level": "error", "event": "library.logged", "library": "asyncio",
        "message": "Task exception was never retrieved",
    }  # fmt: skip


def test_exception_is_written_with_its_stack(written: Written) -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        log.get("x").error("engine.failed", exception=error)
    (entry,) = written()
    assert entry["error"] == "ValueError('boom')"
    assert "test_exception_is_written" in entry["stack"]


def test_field_named_like_a_part_of_the_line_does_not_replace_it(written: Written) -> None:
    log.get("x").info("a.b", event="c.d", ts=5, level="error")
    (entry,) = written()
    assert (entry["event"], entry["level"]) == ("a.b", "info")
    assert (entry["event_"], entry["ts_"], entry["level_"]) == ("c.d", 5, "error")


def test_long_values_are_cut_and_say_so(written: Written) -> None:
    log.get("x").info("a.b", text="x" * 100_000, many=list(range(5000)))
    (entry,) = written()
    assert entry["text"] == "x" * log.TEXT_CHARS_MAX + "…"
    assert entry["many"][-1] == "… 5000 in all"


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.text(max_size=8), _ANY, max_size=4), event=st.text(max_size=20))
def test_any_fields_become_one_line_that_can_be_read_back(fields: dict[str, Any], event: str) -> None:
    for terminal in (True, False):
        stream = Terminal() if terminal else io.StringIO()
        log.setup(LogConfig(), file=False, stream=stream)
        log.get("x").info(event, **fields)
        text = stream.getvalue()
        assert text.count("\n") == 1
        assert text.endswith("\n")
        if terminal:
            assert text[:-1].isprintable()
        else:
            assert json.loads(text)["level"] == "info"


def test_folder_that_cannot_be_had_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"log\.dir: .*file/log cannot be written: Not a directory"):
        log.setup(LogConfig(dir=tmp_path / "file" / "log"), stream=io.StringIO())


def test_full_disk_is_said_once_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recorder.log").symlink_to("/dev/full")
    stream = io.StringIO()
    log.setup(LogConfig(dir=tmp_path), stream=stream)
    for _ in range(3):
        log.get("x").info("a.b")
    assert len(stream.getvalue().splitlines()) == 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_closed_stderr_stops_nothing(written: Written, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        log.setup(LogConfig(dir=tmp_path), stream=stream)
        log.get("x").info("a.b")
        log.get("x").info("a.c")
        log.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
    assert [entry["event"] for entry in written()] == ["a.b", "a.c"]


# Secrets

SECRET = "s3cr3t/key+with=odd&signs"


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": SECRET},
        {"reason": f"refused: {SECRET}!"},
        {"reason": SECRET.encode()},
        {"url": "wss://h/?x=s3cr3t%2Fkey%2Bwith%3Dodd%26signs"},
        {"nested": {"deep": [{"er": f"<{SECRET}>"}]}},
        {"error": ValueError(SECRET)},
        {SECRET: 1, "nested": {SECRET: 1}},
        {"long": "x" * (log.TEXT_CHARS_MAX - 5) + SECRET},
    ],
)
def test_registered_secret_never_prints(written: Written, tmp_path: Path, fields: dict[str, Any]) -> None:
    log.redact(SECRET)
    log.get("x").info("a.b", **fields)
    logging.getLogger("lib").warning("%s", fields)
    assert written()
    text = (tmp_path / "recorder.log").read_text()
    assert "s3cr3t" not in text


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": "hunter2"},
        {"APCA_API_SECRET_KEY": "hunter2"},
        {"token": ["hunter2"]},
        {"headers": {"Authorization": "hunter2", "X-Password": "hunter2"}},
        {"url": "wss://h/x?a=1&api_key=hunter2&b=2"},
        {"url": "https://user:hunter2@h/x"},
        {"url": "http://hunter2@h/x"},
        {"ilp": "http::addr=h:9000;username=u;password=hunter2;"},
        {"sent": '{"action":"auth","key":"hunter2","secret":"hunter2"}'},
        {"header": "Authorization: Bearer hunter2hunter2"},
    ],
)
def test_what_is_named_like_a_secret_never_prints(written: Written, tmp_path: Path, fields: dict[str, Any]) -> None:
    log.get("x").info("a.b", **fields)
    assert written()
    assert "hunter2" not in (tmp_path / "recorder.log").read_text()


def test_rest_of_an_address_stays_readable() -> None:
    assert log.hide("wss://h:1/x?a=1&token=abc&b=2") == "wss://h:1/x?a=1&token=***&b=2"
    assert log.hide("http://u:p@h:9000/exec?query=select%201") == "http://***@h:9000/exec?query=select%201"


def test_short_secret_does_not_blank_out_innocent_words() -> None:
    log.redact("a")
    log.redact("")
    assert log.hide("a.b happened at last") == "a.b happened at last"
    assert log.hide("a") == "***"


# Reading: recorder logs


def entry(number: int, **changes: Any) -> bytes:
    fields = {"ts": log.iso_ns(number * 1_000_000_000), "level": "info", "event": "feed.connected", "number": number}
    return json.dumps({**fields, **changes}).encode()


def numbers(lines: list[bytes]) -> list[int]:
    return [json.loads(line)["number"] for line in lines]


def tail_of(folder: Path, wanted: Filter, count: int) -> list[bytes]:
    path = folder / "recorder.log"
    return last_lines(path, path.stat().st_size, wanted, count)


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    count=st.integers(0, 30),
    block=st.integers(1, 400),
)
def test_last_lines_are_those_at_the_end_of_all_files_together(sizes: list[int], count: int, block: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "BLOCK_BYTES", block)
        folder, number = Path(name), 0
        for age, size in reversed(list(enumerate(sizes))):
            path = folder / ("recorder.log" if age == 0 else f"recorder.log.{age}")
            path.write_bytes(b"".join(entry(number + i) + b"\n" for i in range(size)))
            number += size
        assert numbers(tail_of(folder, Filter(), count)) == list(range(number))[max(0, number - count) :]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(event="feed."), [0, 1, 3]),
        (Filter(event="feed.connected"), [0, 3]),
        (Filter(level="warning"), [1, 2]),
        (Filter(level="error"), [2]),
        (Filter(feed="cb"), [1]),
        (Filter(since="1970-01-01T00:00:02.000000000Z"), [2, 3]),
        (Filter(since="1970-01-01T00:00:09.000000000Z"), []),
        (Filter(event="feed", level="warning", feed="cb"), [1]),
    ],
)
def test_filters_keep_what_fits_all_of_them(tmp_path: Path, wanted: Filter, found: list[int]) -> None:
    lost, failed = {"level": "warning", "event": "feed.lost", "feed": "cb"}, {"level": "error", "event": "sink.failed"}
    lines = [entry(0), entry(1, **lost), entry(2, **failed), entry(3)]
    (tmp_path / "recorder.log").write_bytes(b"\n".join(lines) + b"\n")
    assert numbers(tail_of(tmp_path, wanted, 100)) == found


def test_lines_that_are_not_json_are_shown_whatever_the_filter(tmp_path: Path) -> None:
    bad = [b"Traceback (most recent call last):", b"\xff\xfe", b"[1]", b'{"half":']
    (tmp_path / "recorder.log").write_bytes(b"\n".join([entry(0), *bad, entry(1)]) + b"\n")
    assert tail_of(tmp_path, Filter(feed="cb"), 100) == bad


def rotate(folder: Path) -> None:
    """As RotatingFileHandler does with two files kept."""
    path = folder / "recorder.log"
    if (folder / "recorder.log.1").exists():
        (folder / "recorder.log.1").replace(folder / "recorder.log.2")
    path.replace(folder / "recorder.log.1")


@given(steps=st.lists(st.sampled_from(["line", "half", "rotate", "read"]), max_size=40))
def test_follower_sees_every_line_once_across_rotation(steps: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder, number, seen, unread = Path(name), 0, [], 0
        path = folder / "recorder.log"
        path.touch()
        tail = Tail(path)
        assert tail.start() == 0
        half = False
        for step in [*steps, "line", "read"]:
            if step == "rotate" and not half and unread < 2:  # files that nobody read in time are deleted, as they are
                rotate(folder)
                path.touch()
                unread += 1
            elif step == "read":
                seen += numbers(list(tail.lines()))
                unread = 0
            elif step in ("line", "half"):
                text = entry(number) + b"\n"
                with open(path, "ab") as file:
                    file.write(text[20:] if half else text[:20] if step == "half" else text)
                number += half or step == "line"
                half = not half and step == "half"
        if half:
            with open(path, "ab") as file:
                file.write((entry(number) + b"\n")[20:])
            number += 1
        seen += numbers(list(tail.lines()))
        assert seen == list(range(number))


def test_follower_starts_after_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "recorder.log"
    path.write_bytes(entry(0) + b"\n" + entry(1)[:10])
    tail = Tail(path)
    assert tail.start() == len(entry(0)) + 1
    with open(path, "ab") as file:
        file.write(entry(1)[10:] + b"\n")
    assert numbers(list(tail.lines())) == [1]


def test_rotated_files_are_ordered_by_age_not_by_name(tmp_path: Path) -> None:
    for name in ("recorder.log", "recorder.log.2", "recorder.log.10", "recorder.log.1", "recorder.log.old"):
        (tmp_path / name).touch()
    assert [p.name for p in rotated(tmp_path / "recorder.log")] == [
        "recorder.log.1",
        "recorder.log.2",
        "recorder.log.10",
    ]


def arguments(**changes: Any) -> Any:
    given = {"event": None, "level": None, "feed": None, "since": None, "lines": 100, "follow": False, "json": False}
    return SimpleNamespace(**{**given, **changes})


def test_command_prints_readable_lines_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recorder.log").write_bytes(entry(5, feed="cb") + b"\n\x1b[31mbad\n")
    config = Config(log=LogConfig(dir=tmp_path))
    assert logs.run(arguments(), config) == 0
    assert capsys.readouterr().out == (
        "1970-01-01T00:00:05.000Z info    feed.connected number=5 feed=cb\n\\u001b[31mbad\n"
    )
    logs.run(arguments(json=True, lines=2), config)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["feed"] == "cb"


def test_command_says_when_there_is_no_log_yet(tmp_path: Path) -> None:
    with pytest.raises(RecorderError, match=r"recorder\.log: there is no log yet; `recorder run`"):
        logs.run(arguments(), Config(log=LogConfig(dir=tmp_path)))


def test_following_command_shows_lines_of_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[log]\ndir = "."\nrotate_mb = 1\n')
    command = [sys.executable, "-m", "recorder", "--config", str(tmp_path / "config.toml"), "logs", "-f", "--json",
               "--event", "a."]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO) as follower:
        try:
            log.setup(LogConfig(dir=tmp_path, rotate_mb=1), stream=io.StringIO())
            for number in range(700):  # 2.8 MB: rotated twice while it reads
                log.get("x").info("a.b" if number % 100 == 0 else "c.d", number=number, text="x" * 4000)
            assert follower.stdout is not None
            got: list[int] = []
            deadline = time.monotonic() + DEADLINE_S
            while len(got) < 7 and time.monotonic() < deadline:
                got.append(json.loads(follower.stdout.readline())["number"])
            assert got == list(range(0, 700, 100))
        finally:
            follower.terminate()
