"""A watched folder: every complete file once into the journal, bad ones left with a word, nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_connection import Told, payloads, reached
from test_overlap import folded

from recorder.core import polled
from recorder.core.frames import POLLED
from recorder.feeds import make
from recorder.shell import folder as folders
from recorder.shell.folder import Folder
from recorder.shell.journal import Journal
from recorder.values.errors import JournalFull
from recorder.values.feed import FeedSpec

HEAD = "Symbol,Date,Open,High,Low,Close,Volume\n"
GOOD = HEAD + "AAPL,2024-06-10,196.9,197.3,192.15,193.12,97262077\n"
BAD = HEAD + "AAPL,2024-06-11,196.9,197.3,192.15,oops,1\n"
BARS = {
    "symbol": "Symbol", "time": "Date", "time_unit": "%Y-%m-%d", "timeframe": "1d", "open": "Open", "high": "High",
    "low": "Low", "close": "Close", "volume": "Volume",
}  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "LOOK_S", 0.01)
    monkeypatch.setattr(folders, "SETTLED_S", 0.1)


def spec_of(folder: Path) -> FeedSpec:
    table = {"kind": "files", "folder": str(folder), "bars": BARS}
    options = {"generic": json.dumps(table)}
    return FeedSpec(name="drop", provider="generic", channels=("bars",), symbols=("AAPL",), options=options)


def watched(
    folder: Path, journal: Any, until: Callable[[Folder], object], then: Callable[[Folder], object] | None = None
) -> tuple[Told, Folder]:
    """Watch until one condition is met, and then until another."""
    told = Told()
    watching = Folder(spec_of(folder), journal, lambda: None, told, make)

    async def run() -> None:
        task = asyncio.create_task(watching.run())
        try:
            await reached(lambda: until(watching))
            if then is not None:
                await reached(lambda: then(watching))
        finally:
            await watching.stop()
            await task

    asyncio.run(run())
    return told, watching


def names(journal: Journal) -> list[str]:
    return [polled.decode(payload)[0].key for payload in payloads(journal, POLLED)]


def test_a_file_is_journalled_as_it_is_becomes_rows_and_goes_to_where_the_recorded_ones_are(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "notes.txt").write_text(GOOD)
    (tmp_path / ".b.csv").write_text(GOOD)
    told, watching = watched(tmp_path, journal, lambda f: f.ready and (tmp_path / "recorded" / "a.csv").exists())
    assert [polled.decode(payload) for payload in payloads(journal, POLLED)] == [
        (polled.Answer(key="a.csv"), GOOD.encode())
    ]
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [".b.csv", "notes.txt"]
    rows = folded(journal)
    assert rows["bars"][["open", "close"]].tolist() == [(196.9, 193.12)]
    assert "rejected" not in rows
    assert told.events[:2] == ["feed.connected", "file.recorded"]
    assert watching.frames == 1


def test_a_file_that_is_still_written_is_waited_for(journal: Journal, tmp_path: Path) -> None:
    path, turns = tmp_path / "a.csv", 0

    def write(_: Folder) -> bool:
        nonlocal turns
        turns += 1
        with open(path, "a") as file:
            file.write(GOOD if turns == 1 else GOOD.removeprefix(HEAD).replace("AAPL", f"X{turns}"))
        return turns == 100

    watched(tmp_path, journal, write, lambda f: f.frames == 1)
    (payload,) = payloads(journal, POLLED)
    assert payload.count(b"\n") == 1 + 101


def test_a_bad_file_is_told_once_left_and_read_when_it_has_been_mended(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(BAD)
    (tmp_path / "empty.csv").write_text(HEAD)
    (tmp_path / "good.csv").write_text(GOOD)
    looks = 0

    def looked_again(f: Folder) -> bool:
        nonlocal looks
        looks += 1
        return looks > 50

    told, _ = watched(tmp_path, journal, lambda f: f.frames == 1 and len(f.problems) == 2, looked_again)
    assert names(journal) == ["good.csv"]
    refused = {fields["file"]: fields["reason"] for _, event, fields in told.lines if event == "file.refused"}
    assert "row 1: close is 'oops'" in refused["bad.csv"]
    assert "no row" in refused["empty.csv"]
    assert told.events.count("file.refused") == 2
    assert (tmp_path / "bad.csv").read_text() == BAD

    def mend(f: Folder) -> bool:
        if (tmp_path / "bad.csv").exists() and (tmp_path / "bad.csv").read_text() == BAD:
            (tmp_path / "bad.csv").write_text(BAD.replace("oops", "193"))
        return f.frames == 1

    watched(tmp_path, journal, lambda f: len(f.problems) == 2, mend)
    assert names(journal) == ["good.csv", "bad.csv"]


def test_two_files_of_one_name_are_two_and_the_same_content_gives_its_rows_once(
    journal: Journal, tmp_path: Path
) -> None:
    other = GOOD.replace("2024-06-10", "2024-06-11")
    for text in (GOOD, other, GOOD):
        (tmp_path / "a.csv").write_text(text)
        watched(tmp_path, journal, lambda f: f.frames == 1 and not (tmp_path / "a.csv").exists())
    assert sorted(path.name for path in (tmp_path / "recorded").iterdir()) == ["a (2).csv", "a (3).csv", "a.csv"]
    assert len(payloads(journal, POLLED)) == 3
    assert len(folded(journal)["bars"]) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_folder_that_may_only_be_read_is_read_once(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    tmp_path.chmod(0o555)
    looks = 0

    def looked_again(_: Folder) -> bool:
        nonlocal looks
        looks += 1
        return looks > 50

    told, _ = watched(tmp_path, journal, lambda f: f.frames == 1, looked_again)
    assert names(journal) == ["a.csv"]
    assert "it stays where it is" in told.lines[-1][2]["kept"]


def test_a_file_that_cannot_be_moved_is_read_once(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "recorded").write_text("a file where the folder should be")
    looks = 0

    def looked_again(_: Folder) -> bool:
        nonlocal looks
        looks += 1
        return looks > 50

    told, _ = watched(tmp_path, journal, lambda f: f.frames == 1, looked_again)
    assert names(journal) == ["a.csv"]
    assert "it stays where it is" in told.lines[-1][2]["kept"]


def test_a_folder_that_is_not_there_is_told_once_and_found_when_it_comes(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    looks = 0

    def come(f: Folder) -> bool:
        nonlocal looks
        looks += 1
        if looks == 30:
            folder.mkdir()
            (folder / "a.csv").write_text(GOOD)
        return f.frames == 1 and f.ready

    told, _ = watched(folder, journal, lambda f: "cannot be looked into" in f.reason, come)
    assert told.events == ["feed.unreachable", "feed.connected", "file.recorded"]


def test_while_the_disk_is_full_files_wait(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)

    class Full:
        room = False

        def __getattr__(self, name: str) -> Any:
            return getattr(journal, name)

        def append(self, *frame: Any) -> int:
            if not self.room:
                self.asked = True
                raise JournalFull("no room")
            return journal.append(*frame)

    full = Full()

    def make_room(f: Folder) -> bool:
        full.room = True
        return f.frames == 1

    told, _ = watched(tmp_path, full, lambda f: hasattr(full, "asked") or "asked" in vars(full), make_room)
    assert names(journal) == ["a.csv"]
    assert "file.refused" not in told.events


def test_a_file_too_large_for_the_journal_is_left(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "FILE_BYTES_MAX", 100)
    (tmp_path / "a.csv").write_text(GOOD * 3)
    _, watching = watched(tmp_path, journal, lambda f: f.problems)
    assert "at most 100 fit the journal; split it" in watching.problems["a.csv"]
