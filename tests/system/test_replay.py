# ruff: noqa: F811 (a fixture of test_gap_repair)
"""A journal replayed gives the tables that its recording gave: repaired rows, gaps, minutes and latencies included."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from conftest import QuestDB
from recorder_process import Recorder, command, environment, until
from test_gap_repair import closed, exchange, feeds_of, start  # noqa: F401
from undisturbed import assert_equal, frames_of, undisturbed

from recorder.commands.replay import replay
from recorder.core.frames import CLOCK, CLOSED, OBSERVED, OPENED, RESPONSE, TEXT, Frames
from recorder.shell.journal.segments import list_segments, read_path
from recorder.values.config import Config, QuestdbConfig

BACKFILLED = 8


def recorded_with_a_repaired_gap(start: Callable[..., Recorder], folder: Path) -> None:
    with exchange("coinbase", "kraken", rate=3000) as place:
        feeds = feeds_of(place, "again")
        recorder = start(feeds, delay_s=0.2)
        for name in feeds:
            recorder.wait_event("feed.connected", feed=name)
            until(lambda: recorder.metric("recorder_frames_total", name) > 2000, f"frames of {name}")  # noqa: B023
        for provider in place.providers:
            place.drop(provider, 5)
            until(lambda: len(place.truth(provider)["dropped"]) == 5)  # noqa: B023
            place.cut(provider)
        for name in feeds:
            recorder.wait_event("feed.connected", 2, feed=name)
            until(lambda: closed(recorder, name) > 0, f"gaps of {name} repaired")  # noqa: B023
    until(lambda: any(CLOCK in frames.kinds for frames in read_path(folder / "journal")), "a second of silence")
    assert recorder.end() == 0, recorder.text()


def test_a_journal_replayed_whole_by_segments_or_exported_gives_the_rows_of_its_recording_to_the_bit(
    start: Callable[..., Recorder], fresh_tables: QuestDB, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "journal"
    recorded_with_a_repaired_gap(start, tmp_path / "home")
    kinds: Counter[int] = Counter()

    def count(frames: Frames) -> None:
        kinds.update(frames.kinds.tolist())

    frames_of(folder, count)
    assert min(kinds[kind] for kind in (TEXT, OPENED, CLOSED, RESPONSE, OBSERVED, CLOCK)) > 0
    expected = undisturbed(folder)
    for table in ("trades", "gaps", "coverage", "latency", "feed_events"):
        assert expected[table], table
    assert_equal(fresh_tables, expected)  # what the recorder stored
    assert fresh_tables.sql.value(f"select count() from trades where flags & {BACKFILLED} != 0")

    exported = tmp_path / "out.jsonl.zst"
    done = subprocess.run(
        command("journal", "export", "--dir", folder, exported), capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    segments = [info.path for info in list_segments(folder)]
    server = QuestdbConfig(embedded=False, ilp=fresh_tables.ilp_url, sql=fresh_tables.sql_url)
    config = msgspec.structs.replace(Config(), questdb=server)
    for paths in ([folder], segments[::-1], [exported]):
        fresh_tables.clear()
        replay(config, paths)
        assert_equal(fresh_tables, expected)
