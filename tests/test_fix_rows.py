"""FIX market data read by compiled code: rows, gaps, rejects, counters and state are the decoder's, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from feeds.fuzzing import mutations
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from test_templates import Listed, framed, small_changes

from recorder.core import fix_rows
from recorder.core.batch import BATCH_ROWS_INITIAL
from recorder.core.frames import CLOSED, OPENED, SOURCE, TEXT, Frames
from recorder.core.pipeline import Pipeline
from recorder.core.snapshot import decode
from recorder.core.text_time import fix_date_ns, fix_ns, fix_time_ns
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.errors import FrameError
from recorder.values.feed import FeedSpec
from recorder.values.fix import body_of, closed, joined

SECOND = 10**9
YEAR_2000_NS = 946_684_800 * SECOND
SENT = 1_767_623_400  # 2026-01-05 14:30:00 UTC, in seconds
NUMBERS = ("1.5", "100", "0.00001", "189.1", "2.0")
ODD_NUMBERS = (
    "0",
    "007",
    ".5",
    "5.",
    "",
    "1e5",
    "-1",
    "12345678901234567890",
    "0.1000000000000000055511151",
    "1_0",
    "x",
)
TIMES = ("14:30:00", "14:29:59.9", "14:30:00.123456789", "23:59:59.999", "00:00:00.001")
ODD_TIMES = ("23:59:60", "24:00:00", "14:30", "14:30:00.", "14:30:00.1234567890", "14-30-00", "", "\0" * 8)
DATES = ("20260105", "20260104", "20240229")
ODD_DATES = ("20260230", "19991231", "2026010", "20260105 ", "00010101", "")
STAMPS = ("20260105-14:30:00.123", "20260105-14:30:00", "20260105-00:00:00.5", "20260105-23:59:59.999999")
ODD_STAMPS = (
    "20260105 14:30:00",
    "20260105-14:30",
    "",
    "19700101-00:00:00",
    "29990101-00:00:00",
    "2026-01-05T14:30:00Z",
)


def raw(text: str) -> bytes:
    return text.replace("|", "\x01").encode()


class Messages:
    """A counterparty's messages: most of them plain, ``odd`` of 1,000 choices not.

    rng  what is chosen; hypothesis', where it shall find the shortest that differ
    """

    def __init__(self, rng: random.Random, odd: int) -> None:
        self.rng, self.odd, self.number = rng, odd, 1

    def oddly(self) -> bool:
        return self.odd > 0 and self.rng.randrange(1000) < self.odd

    def one(self, plain: Sequence[Any], odd: Sequence[Any]) -> Any:
        return self.rng.choice(odd if self.oddly() else plain)

    def entry(self, first: int) -> list[tuple[int, Any]]:
        rng, fresh = self.rng, f"new{self.number}"
        kind = self.one("012222", ("4", "B", "J", "", "22"))
        name = self.one(("A", "B/C", None if first == 269 else "A"), ("é", "", "N" * 70, "a\tb", None, fresh))
        fields: list[tuple[int, Any]] = [] if name is None else [(self.one((55,), (48,)), name)]
        if self.oddly():
            fields.append((rng.choice((48, 55)), "A"))
        if not self.oddly():
            fields.append((270, self.one(NUMBERS, ODD_NUMBERS)))
        if not self.oddly():
            fields.append((271, self.one((*NUMBERS, "0"), ODD_NUMBERS)))
        if rng.randrange(2):
            fields.append((273, self.one(TIMES, ODD_TIMES)))
            if rng.randrange(2):
                fields.append((272, self.one(DATES, ODD_DATES)))
        elif not rng.randrange(4):
            fields.append((60, self.one(STAMPS, ODD_STAMPS)))
        if kind == "2":
            if not self.oddly():
                own = self.one((str(rng.randrange(10**9)), "0"), ("abc", "007", "1" * 19, "", "é"))
                fields.append((self.one((278, 1003), (1003,)), own))
            if rng.randrange(2):
                fields.append((2446, self.one("12", ("3", "", "11"))))
                fields.append((277, self.one(("F", "A B"), ("", "é", fresh))))
            if not rng.randrange(4):
                fields.append((275, self.one(("XNYS", "Q"), ("", "V" * 130))))
        elif not rng.randrange(4):
            fields.append((278, self.one(("k1", "k2", "3"), ("", "é", "k" * 64, "k" * 65))))
            fields.append((276, self.one(("A", "A B"), ("", fresh))))
        if not rng.randrange(8):
            tag = self.one((83, 290, 15, 58, 20_001), (95, 1_000_000, 268, 43, 34, 52))
            fields.append((tag, self.one(("1", "a=b", ""), ("é",))))
        if self.oddly() and fields:
            fields.append(rng.choice(fields))
        if not rng.randrange(4):
            rng.shuffle(fields)
        action = (279, self.one("0001", ("2", "2", "2", "9", "", "00")))
        fields = [(269, kind), *fields] if first == 269 else [action, (269, kind), *fields]
        return fields if not self.oddly() else fields[1:] + fields[:1]

    def market(self) -> bytes:
        rng, snapshot = self.rng, not self.rng.randrange(6)
        first = 269 if snapshot else 279
        number = self.one((self.number,), (f"00{self.number}", "x", "", self.number + 1))
        head: list[tuple[int, Any]] = [(35, "W" if snapshot else "X"), (49, "FEED"), (56, "REC"), (34, number)]
        head.append((52, self.one(STAMPS[:2], (*STAMPS, *ODD_STAMPS))))
        if self.oddly():
            head += rng.choice(([(43, "Y")], [(43, "N")], [(43, "Y"), (122, STAMPS[1])], [(60, STAMPS[0])], [(95, 1)]))
        if rng.randrange(2):
            head.append((262, self.one(("q1", "t1"), ("", "x"))))
        if snapshot or not rng.randrange(4):
            head.append((55, self.one(("A", "B/C"), ("", "é", "N" * 70, "other"))))
        entries = [self.entry(first) for _ in range(self.one((1, 2, 3), (0, 7)))]
        head.append((268, self.one((len(entries),), (0, 99, "x", "", f"0{len(entries)}"))))
        return joined(*head, *(field for entry in entries for field in entry))

    def session(self) -> bytes:
        head, again = f"49=FEED|56=REC|34={self.number}|52={STAMPS[0]}|", f"43=Y|122={STAMPS[1]}|"
        return raw(self.rng.choice((
            f"35=0|{head}", f"35=A|{head}98=0|108=30|141=Y|", f"35=A|{head}98=0|108=30|", f"35=f|{head}55=A|326=17|",
            f"35=4|{head}36={self.number + 3}|", f"35=4|{head}123=Y|36={self.number + 2}|{again}",
            f"35=X|{head}{again}268=0|",
        )))  # fmt: skip

    def next(self) -> bytes:
        self.number = max(1, self.number + 1 + self.one((0,), (1, 5, -3)))
        whole = closed(self.session() if self.oddly() else self.market())
        return whole if not self.oddly() else whole.replace(b"10=", b"10=9")


def declared(**options: str) -> Listed:
    spec = FeedSpec(name="f", provider="fix", symbols=("A",), options=options)
    return [(SOURCE, 0, 0, msgspec.json.encode(spec)), (OPENED, 0, SENT * SECOND, b"")]


def listed(messages: Messages, count: int, **options: str) -> Listed:
    result = declared(**options)
    for i in range(count):
        if messages.oddly():
            result += [(CLOSED, 0, SENT * SECOND + i, b""), (OPENED, 0, SENT * SECOND + i, b"")]
        result.append((TEXT, 0, SENT * SECOND + i, messages.next()))
    return result


def run(pieces: Sequence[Frames], templates: bool, restart: int = 0) -> tuple[Pipeline, Any]:
    """The pipeline, and everything that it says and knows; begun anew from a snapshot every so many pieces."""
    pipeline, tables = Pipeline(KernelsConfig(), make, templates), []
    for number, frames in enumerate(pieces, start=1):
        pipeline.consume(frames)
        for table in pipeline.seal().tables:
            varchars = table.varchar_offsets.tobytes(), table.varchar_heap.tobytes()
            tables.append((table.table.name, table.rows.tobytes(), *varchars))
        if restart and number % restart == 0:
            content = decode(pipeline.snapshot().encode())
            pipeline = Pipeline(KernelsConfig(), make, templates)
            pipeline.restore(content)
    return pipeline, (tables, None if restart else pipeline.out.unknown, pipeline.snapshot().content)


def same(pieces: Sequence[Frames], restart: int = 0) -> Pipeline:
    pipeline, found = run(pieces, True)
    _, expected = run(pieces, False)
    for one, other in zip(found, expected, strict=True):
        assert one == other
    if restart:
        _, cut = run(pieces, True, restart)
        assert cut[0] == expected[0]
        assert cut[2].kept == expected[2].kept
    return pipeline


OPTIONS: tuple[dict[str, str], ...] = ({}, {"by": "id"}, {"depth": "0"}, {"updates": "full"})


@pytest.mark.parametrize(("options", "share"), list(zip(OPTIONS, (0.9, 0.9, 0.2, 0.9), strict=True)))
def test_plain_messages_need_no_decoder_and_give_its_rows(options: dict[str, str], share: float) -> None:
    count = 1000
    pipeline = same(framed(listed(Messages(random.Random(5), 0), count, **options), 100), restart=4)
    assert pipeline.sources[0].matched() > share * count
    assert pipeline.rows["trades"] > count / 2
    assert pipeline.rows["quotes"] > count / 4
    assert not pipeline.sources[0].rejected


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("odd", [3, 30])
def test_odd_messages_give_the_decoders_rows(options: dict[str, str], odd: int) -> None:
    pipeline = same(framed(listed(Messages(random.Random(odd), odd), 1000, **options), 50), restart=7)
    assert pipeline.sources[0].matched() > (20 if options.get("depth") else 150)


@given(st.randoms(use_true_random=False), st.integers(0, 300), st.integers(1, 9), st.sampled_from(OPTIONS))
@settings(max_examples=30, phases=(Phase.explicit, Phase.generate))  # to shrink pipelines takes minutes
def test_any_sequence_of_messages_gives_the_decoders_rows(
    rng: random.Random, odd: int, size: int, options: dict[str, str]
) -> None:
    plain, others = Messages(random.Random(1), 0), Messages(rng, odd)
    taught = listed(plain, 6, **options)
    others.number = plain.number
    same(framed(taught + listed(others, 12)[2:], size), restart=2)


def test_damage_under_right_lengths_and_checksums_gives_the_decoders_rows() -> None:
    messages, rng, frames = Messages(random.Random(8), 0), random.Random(9), declared()
    for i in range(3000):
        payload = messages.next()
        if not rng.randrange(4):
            payload = closed(b"35=" + next(mutations([body_of(payload)], 1, seed=i))[3:])
        frames.append((TEXT, 0, SENT * SECOND + i, payload))
    pipeline = same(framed(frames, 500))
    assert pipeline.sources[0].matched() > 500
    assert pipeline.sources[0].rejected > 100


@pytest.mark.parametrize("number", [0, 1, 2])
def test_messages_one_byte_beside_a_plain_one_give_the_decoders_rows(number: int) -> None:
    """Each as the next in order."""
    body = raw((
        f"35=X|49=F|56=R|34=5|52={STAMPS[0]}|268=1|279=0|269=2|55=A|270=1.05|271=10|273=14:30:01.5|278=71|2446=1|277=F|",
        f"35=X|49=F|56=R|34=5|52={STAMPS[0]}|262=q|268=2|279=1|269=0|55=A|270=1|271=7|279=2|269=1|278=k|276=A|",
        f"35=W|49=F|56=R|34=5|52={STAMPS[1]}|262=q|55=A|268=2|269=0|270=1.5|271=7|272=20260105|273=14:30:01|269=1|270=2|271=0|",
    )[number])  # fmt: skip
    reset = closed(raw(f"35=4|49=F|56=R|34=1|52={STAMPS[0]}|36=5|"))
    frames = listed(Messages(random.Random(5), 0), 20)
    for changed in (body, *small_changes(body)):
        for payload in (reset, closed(b"35=" + changed[3:])):
            frames.append((TEXT, 0, (SENT + 1000) * SECOND, payload))
    pipeline = same(framed(frames, 2000))
    assert pipeline.sources[0].matched() > 100


def test_messages_that_others_wrote_give_the_decoders_rows(shared_data: Path) -> None:
    folder = shared_data / "fix"
    payloads = [path.read_bytes().rstrip(b"\r\n") for path in sorted(folder.glob("fixantenna/fixdatafix44/*.fix"))]
    for name in ("binance_spot_fix_doc_messages.txt", "quoted_venue_messages.txt"):
        payloads += [raw(line) for line in (folder / name).read_text().splitlines() if line.startswith("8=")]
    for options in OPTIONS:
        frames, number = declared(**options), 1
        for payload in payloads * 2:
            number += 1
            fields = [
                part for part in payload[payload.find(b"35=") : -7].split(b"\x01") if part[:3] not in (b"43=", b"34=")
            ]
            body = b"\x01".join([*fields[:1], b"34=%d" % number, *fields[1:]])
            frames += [(TEXT, 0, (SENT + 10**9) * SECOND, each) for each in (payload, closed(body))]
        same(framed(frames, 30))


def test_more_rows_than_there_is_room_for_make_it_grow() -> None:
    messages = Messages(random.Random(3), 0)
    frames = listed(messages, 2)
    entry = "279=0|269=2|55=A|270=1|271=1|278=1|"
    number, each = messages.number, 500
    for i in range(1, 2 * BATCH_ROWS_INITIAL // each):
        body = f"35=X|49=F|56=R|34={number + i}|52={STAMPS[0]}|268={each}|" + entry * each
        frames.append((TEXT, 0, SENT * SECOND, closed(raw(body))))
    pipeline = same(framed(frames, 1000))
    assert pipeline.sources[0].matched() >= 2 * BATCH_ROWS_INITIAL // each - 3


def test_a_message_of_many_books_and_levels_gives_the_decoders_rows() -> None:
    names = [f"S{i}" for i in range(70)]
    entries = [f"279=0|269={i % 2}|55={name}|270={1 + i}|271=1|" for i in range(5) for name in names]
    frames = declared()
    for number, count in enumerate((350, 350, 64, 65, 63, 256, 257), start=1):
        book = entries if number < 5 else entries[:20] * 20
        book = book[:count]
        head = f"35=X|49=F|56=R|34={number}|52={STAMPS[0]}|268={len(book)}|"
        frames.append((TEXT, 0, SENT * SECOND, closed(raw(head + "".join(book)))))
    assert same(framed(frames, 1)).sources[0].matched() == 3


def of(read: Any, text: bytes) -> int:
    data = np.frombuffer(text + b"\x0110=000\x01", np.uint8)
    return int(read(data, 0, len(text), fix_rows.new_scratch()[fix_rows.MEMO]))


@given(st.sampled_from((*TIMES, *ODD_TIMES)) | st.from_regex(r"[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?"))
@settings(max_examples=200)
def test_a_time_of_day_is_the_decoders_or_left_to_it(text: str) -> None:
    check(of(fix_rows.time_of_day, text.encode()), lambda: fix_time_ns(text.encode()), 0 if ":60" not in text else None)


@given(
    st.sampled_from((*DATES, *ODD_DATES))
    | st.dates().map(lambda day: f"{day:%Y%m%d}")
    | st.from_regex(r"20\d{6}", fullmatch=True)
)
@example("21000229")
@example("22611231")
@settings(max_examples=200)
def test_a_date_is_the_decoders_or_left_to_it(text: str) -> None:
    check(of(fix_rows.day_of, text.encode()), lambda: fix_date_ns(text.encode()), YEAR_2000_NS)
    check(of(fix_rows.stamp, text.encode() + b"-00:00:01"), lambda: fix_ns(text.encode() + b"-00:00:01"), YEAR_2000_NS)


def check(found: int, expected: Callable[[], int], least: int | None) -> None:
    """What was read is what the decoder reads; left to it is only what it refuses, and what is below ``least``."""
    try:
        ns = expected()
    except FrameError:
        assert found == -1
    else:
        assert found == ns or (found == -1 and (least is None or ns < least))
