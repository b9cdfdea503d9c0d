"""kill -9 of a process that writes a journal: every frame whose append returned is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

from recorder.core.frames import SOURCE
from recorder.shell.journal import Journal

KILLS = 12
SEGMENT_BYTES = 1 << 18  # a roll every few milliseconds, so that kills fall into rolling, naming, sealing, compressing
_REPORT = struct.Struct("<qq")  # frames appended so far in the journal's life, position past the last

WRITER = """
import os, random, struct, sys
from pathlib import Path
import numpy as np
from recorder.core.frames import TEXT
from recorder.shell.journal import Journal
from recorder.values.feed import FeedSpec

folder, number, seed, segment_bytes = Path(sys.argv[1]), *map(int, sys.argv[2:])
rng = random.Random(seed)
journal = Journal.open(folder, segment_bytes=segment_bytes, fsync_ms=5, rotate_s=1, keep_gb=1000)
source = journal.source(FeedSpec(name="cb", provider="coinbase"))
report = struct.Struct("<qq")
while True:
    payloads = [b"%d " % (number + i) + b"x" * rng.randrange(400) for i in range(rng.randrange(1, 60))]
    count = len(payloads)
    if rng.random() < 0.2:
        for payload in payloads:
            end = journal.append(source, TEXT, number, payload)
    else:
        chunk = np.frombuffer(b"".join(payloads), np.uint8)
        lengths = np.array([len(payload) for payload in payloads], np.int64)
        starts = np.cumsum(lengths) - lengths
        end = journal.append_frames(source, number, chunk, starts, lengths, np.ones(count, np.uint8), count)
    number += count
    if rng.random() < 0.05:
        journal.release(end - rng.randrange(1 << 18))
    os.write(1, report.pack(number, end))
"""


class Events(list):
    """A log callback that keeps what it is told."""

    def __call__(self, event: str, **fields: object) -> None:
        self.append((event, fields))


def numbers_in(journal: Journal, position: int) -> tuple[list[int], int]:
    """(the numbers frames carry from ``position`` on, position past the last)"""
    found: list[int] = []
    while (frames := journal.read(position)) is not None:
        found += [int(frames.payload(i).split(b" ", 1)[0]) for i in np.flatnonzero(frames.kinds != SOURCE)]
        position = frames.end
    return found, position


def test_every_frame_whose_append_returned_survives_kill_9_at_random_moments(tmp_path: Path):
    rng = random.Random(20260801)
    held, position = 0, 0
    for kill in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(held), str(kill), str(SEGMENT_BYTES)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert writer.stdout is not None
        output = b""
        enough = rng.randrange(1, 1500) * _REPORT.size  # reports to wait for before the kill
        while len(output) < enough:
            part = os.read(writer.stdout.fileno(), 1 << 16)
            assert part, "the writer ended by itself"
            output += part
        writer.send_signal(signal.SIGKILL)
        output += writer.stdout.read()
        writer.wait()
        writer.stdout.close()
        whole = len(output) // _REPORT.size * _REPORT.size
        reported, end = _REPORT.unpack(output[whole - _REPORT.size : whole])
        events = Events()
        with Journal.open(tmp_path, compress=False, log=events) as journal:
            assert journal.end >= end > position
            found, position = numbers_in(journal, 0)
            assert position == journal.end
        assert found == list(range(len(found))), "a frame is missing, doubled or out of order"
        assert len(found) >= reported
        assert not [fields for event, fields in events if event == "journal.corrupt"]
        held = len(found)
