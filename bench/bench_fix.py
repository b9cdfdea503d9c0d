"""FIX: messages found and checked in a stream, and message → rows, beside splitting the same bytes into fields.

ns a message = time × 1e9 / FRAMES. Compare within one run: ``decoders`` is what the same frames cost without compiled
code, ``fields`` what it costs to split them in Python.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from recorder.core.fix_frames import FRAMES_MAX, scan
from recorder.core.frames import SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec
from recorder.values.fix import body_of, closed, joined

NOW = 1_780_000_000_000_000_000
ROUNDS = 20
FRAMES = 500
FIRST = 1_000_000  # MsgSeqNum
HEAD = joined((35, "X"), (49, "FEED"), (56, "REC"), (34, 1234567), (52, "20260105-14:30:00.123"))


def entry(kind: str, i: int) -> bytes:
    action = 0 if kind == "2" else 1
    fields = joined((279, action), (269, kind), (55, "EUR/USD"), (270, f"1.0{i:04}"), (271, 100 + i))
    return fields + joined((272, "20260105"), (273, "14:30:00.123456")) + (joined((278, i)) if kind == "2" else b"")


def message(kinds: str, i: int = 1) -> bytes:
    entries = [entry(kind, i + k) for k, kind in enumerate(kinds)]
    return closed(HEAD + joined((268, len(entries))) + b"".join(entries))


MESSAGES = {"trade": "2", "quote": "01", "20 trades": "2" * 20}


def numbered(kind: str, number: int) -> bytes:
    """A whole message with this MsgSeqNum."""
    whole = message(MESSAGES[kind], number)
    return closed(body_of(whole).replace(b"34=1234567", b"34=%d" % number))


@pytest.mark.benchmark(group="fix, message to rows")
@pytest.mark.parametrize("how", ["compiled", "decoders"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_consume(benchmark, kind, how):
    pipeline = Pipeline(KernelsConfig(), make, templates=how == "compiled")
    pipeline.warm()
    declared = (SOURCE, 0, 0, msgspec.json.encode(FeedSpec(name="f", provider="fix")))
    frames = [(TEXT, 0, NOW, numbered(kind, FIRST + i)) for i in range(FRAMES + 1)]
    pipeline.consume(frames_from_list([declared, frames[0]]))  # from which compiled code learns
    others, source = frames_from_list(frames[1:]), pipeline.sources[0]

    def again() -> None:
        for batch in pipeline.out.batches.values():
            batch.rollback(0)
        source.scope.opened()
        source.scope.sequence(FIRST, NOW)
        source.scope.tops().last = FIRST

    benchmark.pedantic(lambda: pipeline.consume(others), setup=again, rounds=ROUNDS, warmup_rounds=2)
    benchmark.extra_info["ns_per_message"] = benchmark.stats.stats.min * 1e9 / FRAMES
    rows = pipeline.out.batches["quotes" if kind == "quote" else "trades"]
    assert len(rows) == FRAMES * (1 if kind == "quote" else len(MESSAGES[kind]))
    assert bool(source.matched()) == (how == "compiled")
    assert not source.rejected


@pytest.mark.benchmark(group="fix, message to rows")
@pytest.mark.parametrize("kind", MESSAGES)
def test_fields_alone(benchmark, kind):
    frames = [message(MESSAGES[kind], i) for i in range(FRAMES)]

    def run():
        for frame in frames:
            [part.split(b"=", 1) for part in frame.split(b"\x01")]

    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=2)
    benchmark.extra_info["ns_per_message"] = benchmark.stats.stats.min * 1e9 / FRAMES


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
