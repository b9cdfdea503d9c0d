"""Quotes that are counted by symbol, as Bybit's are: what is missing of them is known by number, and only that."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from feeds.decoding import received
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.commands.coverage import completeness
from recorder.core import snapshot
from recorder.core.frames import CLOSED, OPENED, SOURCE, TEXT, frames_from_list
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import FeedSpec
from recorder.values.tables import FLAGS, GAP_KINDS, GAP_STATUSES

START = 1_749_833_474_000  # ms
SPEC = FeedSpec(name="by", provider="bybit", symbols=("BTC-USDT",), channels=("quotes",), options={"market": "spot"})


class Fold:
    """A pipeline and the rows it gave: quotes by number, the newest rows of gaps, sums of coverage."""

    def __init__(self, spec: FeedSpec = SPEC) -> None:
        self.pipeline, self.spec, self.end = Pipeline(KernelsConfig(), make), spec, 0
        self.quotes: list[tuple[str, int, int]] = []
        self.gaps: dict[tuple[str, int, int], dict[str, Any]] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.frames((SOURCE, START, msgspec.json.encode(spec)))

    def frames(self, *frames: tuple[int, int, bytes]) -> None:
        """(kind, ms, payload) of each."""
        listed = frames_from_list([(kind, 0, ms * 10**6, payload) for kind, ms, payload in frames], position=self.end)
        self.end = listed.end
        self.pipeline.consume(listed)

    def seal(self) -> None:
        out, series = self.pipeline.out, self.pipeline.out.series.keys
        for block in self.pipeline.seal().tables:
            for row in block.rows:
                if block.table.name in ("trades", "quotes"):
                    assert not row["flags"] & ~sum(FLAGS.values())
                if block.table.name == "quotes":
                    self.quotes.append((series[row["series"]][1], int(row["sequence"]), int(row["ts_event"])))
                elif block.table.name == "gaps" and series[row["series"]][1] != "*":
                    symbol = series[row["series"]][1]
                    self.gaps[symbol, int(row["from_id"]), int(row["to_id"])] = {
                        "kind": (None, *GAP_KINDS)[row["kind"]], "channel": out.texts.name(int(row["channel"])),
                        "status": (None, *GAP_STATUSES)[row["status"]], "cause": out.texts.name(int(row["cause"])),
                        "missing": int(row["missing"]), "span_ns": int(row["span_ns"]),
                    }  # fmt: skip
                elif block.table.name == "coverage" and out.texts.name(int(row["channel"])) == self.spec.channels[0]:
                    for name in ("received", "verified", "unverifiable", "missing", "repaired"):
                        self.counts[name] += int(row[name])

    def restart(self) -> None:
        """As after kill -9: all of it comes from a snapshot, in bytes."""
        self.seal()
        content = snapshot.decode(self.pipeline.snapshot().encode())
        self.pipeline = Pipeline(KernelsConfig(), make)
        self.pipeline.restore(content)

    def finish(self) -> None:
        self.pipeline.write_coverage()
        self.seal()

    @property
    def missed(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for symbol, first, last in sorted(self.gaps):
            found[symbol] += range(first, last + 1)
        return found


def book(u: int, ms: int, name: str = "BTCUSDT") -> tuple[int, int, bytes]:
    data = {"s": name, "b": [["2.5", str(u)]], "a": [["3", "1"]], "u": u, "seq": 9 * u}
    message = {"topic": f"orderbook.1.{name}", "type": "snapshot", "ts": ms, "data": data, "cts": ms}
    return TEXT, ms + 1, json.dumps(message, separators=(",", ":")).encode()


@given(
    lost=st.sets(st.integers(2, 59), max_size=40),
    again=st.sets(st.integers(1, 60), max_size=20),
    cuts=st.sets(st.integers(2, 59), max_size=5),
    kills=st.sets(st.integers(2, 59), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_exactly_the_numbers_that_did_not_come_are_missing_whatever_ended_meanwhile(lost, again, cuts, kills):
    """``again``: sent once more after quiet seconds; ``cuts``: another connection; ``kills``: another recorder."""
    fold = Fold()
    fold.frames((OPENED, START, b""))
    rows = 0
    for number in range(1, 61):
        ms = START + 40 * number
        if number in cuts:
            fold.frames((CLOSED, ms - 3, b"1006"), (OPENED, ms - 2, b""))
        if number in kills:
            fold.restart()
        if number not in lost:
            fold.frames(book(number, ms), *([book(number, ms + 20)] if number in again else []))
            rows += 1 + (number in again)
    fold.finish()
    assert fold.missed.get("BTC-USDT", []) == sorted(lost)
    assert all(gap["missing"] == last - first + 1 for (_, first, last), gap in fold.gaps.items())
    assert (fold.counts["received"], fold.counts["missing"]) == (rows, len(lost))
    assert (fold.counts["verified"], fold.counts["unverifiable"]) == (rows - 1, 1)  # what was before it nobody knows


def test_a_gap_of_quotes_says_what_is_missing_and_that_nothing_can_bring_it_back():
    fold = Fold()
    fold.frames(book(7, START), book(11, START + 250))
    fold.finish()
    (gap,) = fold.gaps.values()
    cause = "numbers missing in the stream; the provider has no history of quotes"
    assert gap == {
        "kind": "sequence", "channel": "quotes", "status": "unrepairable", "cause": cause, "missing": 3,
        "span_ns": 250 * 10**6,
    }  # fmt: skip
    counts = fold.pipeline.gaps.counts["by"]
    assert (counts.opened, counts.given_up, counts.missing) == (1, 1, 3)
    assert not fold.pipeline.gaps.open


def test_numbers_that_begin_anew_miss_nothing_and_prove_nothing_of_their_first():
    fold = Fold()
    fold.frames(book(500, START), book(1, START + 100), book(2, START + 200))  # as documented: 1 after a restart
    fold.frames(book(90, START + 300), book(40, START + 1400), book(41, START + 1500))  # and the 1 was not seen
    fold.finish()
    assert fold.missed == {"BTC-USDT": list(range(3, 90))}
    assert (fold.counts["received"], fold.counts["verified"], fold.counts["unverifiable"]) == (6, 3, 3)


def test_one_that_comes_late_is_stored_misses_nothing_and_proves_nothing():
    fold = Fold()
    fold.frames(*(book(number, START + 10 * number) for number in (5, 6, 4, 7)))
    fold.finish()
    assert not fold.gaps
    assert sorted(number for _, number, _ in fold.quotes) == [4, 5, 6, 7]
    assert (fold.counts["verified"], fold.counts["unverifiable"]) == (2, 2)


def test_a_quote_that_does_not_fit_is_no_gap():
    fold = Fold()
    kind, ms, payload = book(6, START + 10)
    fold.frames(book(5, START), (kind, ms, payload.replace(b'"2.5"', b'"-2.5"')), book(7, START + 20))
    fold.finish()
    assert not fold.gaps
    assert fold.pipeline.sources[0].rejected == 1


def test_a_state_of_a_version_that_did_not_count_quotes_is_gone_on_from():
    fold = Fold()
    fold.frames(book(5, START), book(6, START + 10))
    fold.seal()
    content = snapshot.decode(fold.pipeline.snapshot().encode())
    content.rules["by"][2:] = [0, 0, 0]
    verify = np.frombuffer(content.coverage["verify"], np.int64)
    content.coverage["verify"] = np.zeros_like(verify).tobytes()
    for *_, kept in content.kept:
        kept.pop("quotes numbers"), kept.pop("quotes times")
    content.coverage["slots"] = np.zeros_like(np.frombuffer(content.coverage["slots"], np.int64)).tobytes()
    fold.pipeline = Pipeline(KernelsConfig(), make)
    fold.pipeline.restore(content)
    fold.frames(book(7, START + 20), book(8, START + 30), book(10, START + 40))
    fold.finish()
    assert fold.missed == {"BTC-USDT": [9]}
    assert (fold.counts["verified"], fold.counts["unverifiable"]) == (2, 1)


def test_where_a_connection_counts_its_messages_nothing_proves_the_first_row_after_it_was_lost_or_lost_some():
    fold = Fold(FeedSpec(name="ca", provider="coinbase", symbols=("BTC-USD",), channels=("trades",),
                         options={"api": "advanced"}))  # fmt: skip

    def trades(message: int, number: int) -> tuple[int, int, bytes]:
        ms = START + 10 * number
        time = str(np.datetime64(ms, "ms")) + "Z"
        trade = {"product_id": "BTC-USD", "price": "2.5", "size": "1", "side": "BUY", "time": time}
        two = [{**trade, "trade_id": str(2 * number + i)} for i in (1, 0)]
        envelope = {"channel": "market_trades", "client_id": "", "timestamp": time, "sequence_num": message}
        return TEXT, ms + 1, json.dumps({**envelope, "events": [{"type": "update", "trades": two}]}).encode()

    fold.frames((OPENED, START, b""), *(trades(n, n) for n in range(3)))  # six; nothing proves the first
    fold.restart()
    fold.frames((CLOSED, START + 35, b"1006"), (OPENED, START + 36, b""), *(trades(n - 4, n) for n in range(4, 7)))
    fold.frames(*(trades(n - 4, n) for n in range(8, 10)))  # message 3 did not come
    fold.finish()
    assert (fold.counts["received"], fold.counts["verified"], fold.counts["unverifiable"]) == (16, 13, 3)


def test_a_trade_that_comes_late_repairs_what_was_missing_in_the_ledger_as_in_its_gap():
    fold = Fold(FeedSpec(name="bn", provider="binance", symbols=("BTC-USDT",), channels=("trades",)))
    for number in (1, 2, 5, 4, 6, 3, 7, 9):  # 3 and 4 are late, 8 does not come
        ms = START + 10 * number
        data = {"e": "trade", "E": ms, "s": "BTCUSDT", "t": number, "p": "2", "q": "1", "T": ms, "m": True, "M": True}
        message = {"stream": "btcusdt@trade", "data": data}
        fold.frames((TEXT, ms + 100, json.dumps(message, separators=(",", ":")).encode()))
    fold.finish()
    assert (fold.counts["received"], fold.counts["missing"], fold.counts["repaired"]) == (8, 3, 2)
    assert (fold.counts["verified"], fold.counts["unverifiable"]) == (5, 1)
    assert completeness(fold.counts) == 7 / 9  # of the first nobody knows what came before it


@pytest.mark.parametrize("name", ["2025-06-13_BYBIT.ws.1.0.gz", "2025-06-13_BYBIT.ws.2.0.gz"])
def test_frames_taken_out_of_a_recording_are_the_gaps_found(shared_data: Path, name: str) -> None:
    path = shared_data / "cryptofeed" / "BYBIT" / name
    markets = re.findall(rb"/v5/public/(\w+)", gzip.decompress(path.read_bytes()))
    spec = msgspec.structs.replace(SPEC, options={"market": markets[0].decode()})
    whole, cut, rng = Fold(spec), Fold(spec), random.Random(7)
    kept: dict[str, set[int]] = defaultdict(set)
    lost: dict[str, set[int]] = defaultdict(set)
    for ts_recv, payload in received(path):
        frame = TEXT, max(ts_recv, 10**18) // 10**6 + 3000, payload  # its clock was 0.9 s behind
        whole.frames(frame)
        data = json.loads(payload).get("data")
        taken = data is not None and rng.random() < 0.2
        if data is not None:
            (lost if taken else kept)[data["s"]].add(data["u"])
        if not taken:
            cut.frames(frame)
    whole.finish()
    cut.finish()
    assert not whole.gaps
    assert whole.counts["verified"] == whole.counts["received"] - len({symbol for symbol, *_ in whole.quotes})
    expected = {  # sent again is as good as never lost; before the first and after the last no number tells
        symbol: sorted(u for u in numbers - kept[symbol] if min(kept[symbol]) < u < max(kept[symbol]))
        for symbol, numbers in lost.items()
    }
    assert sum(map(len, expected.values())) > 5
    assert sorted(cut.missed.values()) == sorted(numbers for numbers in expected.values() if numbers)
