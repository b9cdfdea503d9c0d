"""FIX: messages found and checked in a stream, and message → rows, beside splitting the same bytes into fields."""

from __future__ import annotations

import numpy as np
import pytest

from recorder.core.batch import Output
from recorder.core.fix_frames import FRAMES_MAX, scan
from recorder.feeds import make
from recorder.values.feed import FeedSpec
from recorder.values.fix import closed, joined

NOW = 1_780_000_000_000_000_000
ROUNDS = 20
FRAMES = 500
HEAD = joined((35, "X"), (49, "FEED"), (56, "REC"), (34, 1234567), (52, "20260105-14:30:00.123"))


def entry(kind: str, i: int) -> bytes:
    action = 0 if kind == "2" else 1
    fields = joined((279, action), (269, kind), (55, "EUR/USD"), (270, f"1.0{i:04}"), (271, 100 + i))
    return fields + joined((272, "20260105"), (273, "14:30:00.123456")) + (joined((278, i)) if kind == "2" else b"")


def message(kinds: str, i: int = 1) -> bytes:
    entries = [entry(kind, i + k) for k, kind in enumerate(kinds)]
    return closed(HEAD + joined((268, len(entries))) + b"".join(entries))


MESSAGES = {"trade": "2", "quote": "01", "20 trades": "2" * 20}


@pytest.mark.benchmark(group="fix, message to rows")
@pytest.mark.parametrize("kind", MESSAGES)
def test_decode(benchmark, kind):
    """ns a message = time × 1e9 / FRAMES."""
    out = Output()
    decode = make(FeedSpec(name="f", provider="fix")).decoder(out.scope("f", 0))
    frames = [message(MESSAGES[kind], i) for i in range(FRAMES)]

    def run():
        for frame in frames:
            decode(frame, NOW)
        for batch in out.batches.values():
            batch.rollback(0)

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)
    benchmark.extra_info["ns_per_message"] = benchmark.stats.stats.min * 1e9 / FRAMES


@pytest.mark.benchmark(group="fix, message to rows")
@pytest.mark.parametrize("kind", MESSAGES)
def test_fields_alone(benchmark, kind):
    frames = [message(MESSAGES[kind], i) for i in range(FRAMES)]

    def run():
        for frame in frames:
            [part.split(b"=", 1) for part in frame.split(b"\x01")]

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.benchmark(group="fix, messages in a stream")
def test_scan(benchmark):
    """Found, length and checksum checked, header looked at: in compiled code."""
    frames = [message("2").replace(b"34=1234567", b"34=%d" % (1000000 + i)) for i in range(2000)]
    data = np.frombuffer(b"".join(closed(f[f.find(b"35=") : -7]) for f in frames), np.uint8)
    peer, us = np.frombuffer(b"FEED", np.uint8), np.frombuffer(b"REC", np.uint8)
    starts, lengths = np.zeros(FRAMES_MAX, np.int64), np.zeros(FRAMES_MAX, np.int64)

    def run():
        count, *_ = scan(data, 0, len(data), 1000000, peer, us, True, starts, lengths)
        assert count == len(frames)

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)
    benchmark.extra_info["ns_per_message"] = benchmark.stats.stats.min * 1e9 / len(frames)
