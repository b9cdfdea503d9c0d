"""Seeded damage to good frames: what a broken, changed or hostile provider might send. Same seed, same frames."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

FRAME_GROWTH_MAX = 4096  # bytes a mutation may add
INSERTS = (
    b"null", b"true", b"-1", b"0", b"1e400", b"-0.0", b"NaN", b'"NaN"', b'"inf"', b'"-1"', b'""', b"[]", b"{}", b"[[]]",
    b'"0001-01-01T00:00:00Z"', b'"1970-01-01T00:00:00Z"', b'"9999-12-31T23:59:59Z"', b"9223372036854775808",
    b"-9223372036854775809", b'"99999999999999999999999999"', b"1.0000000000000000000000001",
    b'"\\ud800"', b'"\\u0000"',
    b"\xff\xfe", b"\x00", b'"type":"unheard_of",', b'"channel":"unheard_of",', b'"extra":{"a":[1,{"b":null}]},',
    b"[" * 2000, b'{"a":' * 500, b"\xf0\x9f\x92\xa5", b"1e-400", b'"1_000"', b'" 1"', b'"0x10"',
)  # fmt: skip


def _mutate(rng: random.Random, frame: bytes, others: Sequence[bytes]) -> bytes:
    """One kind of damage."""
    kind = rng.randrange(9)
    at = rng.randrange(len(frame) + 1)
    if kind == 0:  # cut short
        return frame[:at]
    if kind == 1:  # a byte changed
        return frame[:at] + bytes([rng.randrange(256)]) + frame[at + 1 :]
    if kind == 2:  # bytes lost
        return frame[:at] + frame[at + rng.randrange(1, 20) :]
    if kind == 3:  # something put in
        return frame[:at] + rng.choice(INSERTS) + frame[at:]
    if kind == 4:  # a digit changed
        digits = [i for i, byte in enumerate(frame) if 48 <= byte <= 57]
        if not digits:
            return frame
        at = rng.choice(digits)
        return frame[:at] + rng.choice((b"0", b"9", b"-", b".", b"e", b"00000000000000000000")) + frame[at + 1 :]
    if kind == 5:  # a value replaced, up to the next comma
        starts = [i + 1 for i, byte in enumerate(frame) if byte == 58]
        if not starts:
            return frame
        start = rng.choice(starts)
        end = min((e for e in (frame.find(b",", start), frame.find(b"}", start)) if e >= 0), default=len(frame))
        return frame[:start] + rng.choice(INSERTS) + frame[end:]
    if kind == 6:  # two messages torn together
        other = rng.choice(others)
        return frame[:at] + other[rng.randrange(len(other) + 1) :]
    if kind == 7:  # a field renamed
        quotes = [i for i, byte in enumerate(frame) if byte == 34]
        if not quotes:
            return frame
        at = rng.choice(quotes) + 1
        return frame[:at] + b"x" + frame[at:]
    return frame[:at] + frame[rng.randrange(len(frame) + 1) :][:FRAME_GROWTH_MAX]  # a stretch repeated


def mutations(frames: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` damaged frames, one to three kinds of damage each; some come out whole after all."""
    rng = random.Random(seed)
    for _ in range(count):
        frame = rng.choice(frames)
        for _ in range(rng.choice((1, 1, 2, 3))):
            frame = _mutate(rng, frame, frames)
        yield frame
