"""What is noted of QuestDB's tables between two runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.shell.sink.acknowledged import NAME, Acknowledged, Known, why_lost

TABLES = st.dictionaries(st.text(min_size=1), st.builds(Known, st.text(), st.integers(0, 2**60)))


def unexpected(event: str, **fields: object) -> None:
    raise AssertionError(event)


@settings(deadline=None)  # files and a crowded machine
@given(runs=st.lists(TABLES))
def test_the_next_run_finds_what_the_last_one_saw_and_older_ones_of_other_tables(
    runs: list[dict[str, Known]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, expected = tmp_path_factory.mktemp("journal"), {}
    for seen in runs:
        acknowledged = Acknowledged(folder, unexpected)
        assert acknowledged.tables == expected
        acknowledged.keep(seen)
        expected |= seen
    assert Acknowledged(folder, unexpected).tables == expected


def test_tables_begin_anew_once_what_was_lost_is_sent_again(tmp_path: Path) -> None:
    acknowledged = Acknowledged(tmp_path, unexpected)
    acknowledged.keep({"trades": Known("trades~1", 9), "quotes": Known("quotes~2", 9)})
    acknowledged.forget()
    acknowledged.keep({"trades": Known("trades~3", 1)})
    assert Acknowledged(tmp_path, unexpected).tables == {"trades": Known("trades~3", 1)}


def test_what_is_secured_is_there_at_once_and_what_cannot_be_is_told(tmp_path: Path) -> None:
    acknowledged = Acknowledged(tmp_path, unexpected)
    acknowledged.keep({"trades": Known("trades~1", 8)})
    acknowledged.secure({"trades": Known("trades~1", 9)})
    assert Acknowledged(tmp_path, unexpected).tables == {"trades": Known("trades~1", 9)}
    (tmp_path / NAME).unlink()
    acknowledged.secure({"trades": Known("trades~1", 9)})  # durable already: nothing to write
    assert not (tmp_path / NAME).exists()
    (tmp_path / NAME).mkdir()
    with pytest.raises(OSError, match="directory"):
        acknowledged.secure({"trades": Known("trades~1", 10)})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"trades":["trades~1"]}', b'{"trades":[1,2]}', b"\xff"])
def test_a_file_that_cannot_be_read_is_told_and_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    told: list[str] = []
    acknowledged = Acknowledged(tmp_path, lambda event, **fields: told.append(event))
    assert (told, acknowledged.tables) == (["tables.unreadable"], {})
    acknowledged.keep({"trades": Known("trades~1", 9)})
    assert Acknowledged(tmp_path, unexpected).tables == {"trades": Known("trades~1", 9)}


def test_where_nothing_can_be_written_recording_goes_on(tmp_path: Path) -> None:
    acknowledged = Acknowledged(tmp_path, unexpected)
    (tmp_path / NAME).mkdir()  # as good as a full disk
    acknowledged.keep({"trades": Known("trades~1", 9)})
    (tmp_path / NAME).rmdir()
    acknowledged.keep({"trades": Known("trades~1", 9)})
    assert Acknowledged(tmp_path, unexpected).tables == {"trades": Known("trades~1", 9)}


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [
        (None, Known("t~1", 0), ""),
        (Known("t~1", 7), Known("t~1", 7), ""),
        (Known("t~1", 7), Known("t~1", 8), ""),
        (Known("", 7), Known("t~1", 7), ""),
        (Known("t~1", 7), Known("t~1", 6), "6 transactions of it, and had 7"),
        (Known("t~1", 7), Known("t~2", 8), "dropped and another one created"),
        (Known("t~1", 7), None, "gone"),
        (None, None, "gone"),
    ],
)
def test_fewer_transactions_or_another_directory_are_a_loss(
    before: Known | None, now: Known | None, reason: str
) -> None:
    found = why_lost(before, now)
    assert reason in found
    assert bool(found) == bool(reason)
