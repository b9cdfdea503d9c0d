"""The pipeline is a fold: rows do not depend on how frames were cut or where batches were sealed."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.core.frames import CLOCK, CLOSED, OPENED, SOURCE, TEXT, frames_from_list
from recorder.core.observations import NO_SOURCE
from recorder.core.pipeline import Pipeline
from recorder.core.snapshot import decode as decode_snapshot
from recorder.feeds import make
from recorder.values.config import KernelsConfig
from recorder.values.feed import MINUTE, SECOND, FeedSpec
from recorder.values.tables import COVERAGE, GAP_SEQUENCE, GAP_TRADE_ID, TABLES

START = 1_700_000_000_000  # ms
NOW = START * 1_000_000
STEP = 700  # ms between trades: the session goes on over minutes
SPECS = [
    FeedSpec(name="spot", provider="binance", symbols=("BTC-USDT", "ETH-USDT")),
    FeedSpec(name="futures", provider="binance", symbols=("BTC-USDT-PERP",), options={"market": "usdm"}),
    FeedSpec(name="cb", provider="coinbase", symbols=("BTC-USD",)),
    FeedSpec(name="adv", provider="coinbase", symbols=("BTC-USD",), options={"api": "advanced"}),
    FeedSpec(name="us", provider="alpaca", symbols=("AAPL", "MSFT")),
]


def spot(i, symbol="BTCUSDT"):
    data = {
        "e": "trade", "E": START + STEP * i, "s": symbol, "t": i, "p": f"{60_000 + i % 7}.{i % 100:02d}", "q": "0.5",
        "T": START + STEP * i, "m": bool(i % 3), "M": True,
    }  # fmt: skip
    return msgspec.json.encode({"stream": f"{symbol.lower()}@trade", "data": data})


def book_ticker(i):
    data = {
        "e": "bookTicker", "u": i, "s": "BTCUSDT", "b": "1.5", "B": "2", "a": "1.75", "A": "3",
        "T": START + STEP * i, "E": START + STEP * i,
    }  # fmt: skip
    return msgspec.json.encode({"stream": "btcusdt@bookTicker", "data": data})


def match(i):
    return (
        b'{"type":"match","trade_id":%d,"sequence":%d,"maker_order_id":"a","taker_order_id":"b",'
        b'"time":"2023-11-14T22:13:%02d.%06dZ","product_id":"BTC-USD","size":"0.25","price":"60000.%02d","side":"buy"}'
    ) % (i, 10 * i, 20 + i // 100, i * 1000 % 1_000_000, i % 100)


def heartbeat(i):
    return (
        b'{"type":"heartbeat","last_trade_id":%d,"product_id":"BTC-USD","sequence":%d,"time":"2023-11-14T22:13:%02d.5Z"}'
    ) % (i, 10 * i, 20 + i // 100)


def advanced(i):
    return (
        b'{"channel":"heartbeats","client_id":"","timestamp":"2023-11-14T22:13:20.1Z","sequence_num":%d,"events":'
        b'[{"current_time":"2023-11-14 22:13:20.1 +0000 UTC m=+1.1","heartbeat_counter":3}]}'
    ) % i


def stock(i, symbol="AAPL"):
    trade = {
        "T": "t", "S": symbol, "i": i, "x": "VQ"[i % 2], "p": 150.0 + i % 5, "s": 100, "c": ["@", "I"],
        "t": f"2023-11-14T22:13:20.{i:09d}Z", "z": "C",
    }  # fmt: skip
    return msgspec.json.encode([trade])


def halt(symbol, code):
    status = {
        "T": "s", "S": symbol, "sc": code, "sm": "in words", "rc": "M", "rm": "", "t": "2023-11-14T22:13:20Z", "z": "C",
    }  # fmt: skip
    return msgspec.json.encode([status])


def session(n=200):
    """A recording of three connections, with gaps, repeats, nonsense and a reconnect in it."""
    frames = [(SOURCE, number, 0, msgspec.json.encode(spec)) for number, spec in enumerate(SPECS)]
    for i in range(n):
        ts = (START + STEP * i) * 1_000_000 + 500_000
        if i == 90:
            frames += [(CLOSED, 0, ts, b"1006"), (OPENED, 0, ts, b"")]
            frames += [(TEXT, 0, ts, spot(j)) for j in range(60, 90)]
        if i % 37 == 5:
            frames.append((TEXT, i % 3, ts, b'{"stream":"btcusdt@trade","data":{"e":"trade"'))
        if i not in (50, 51, 120):
            frames.append((TEXT, 0, ts, spot(i)))
        frames.append((TEXT, 0, ts, spot(i, "ETHUSDT")))
        if i not in (77, 78):
            frames.append((TEXT, 2, ts, match(i + 1)))
        frames.append((TEXT, 3, ts, advanced(i + (i > 60))))
        frames += [(TEXT, 4, ts, stock(i)), (TEXT, 4, ts, stock(i, "MSFT"))]
        if i % 60 == 20:
            frames.append((TEXT, 4, ts, halt("AAPL", "HT"[i % 120 > 60])))
        if i % 5 == 3:
            frames.append((TEXT, 2, ts, heartbeat(i + 1)))
        if i == 130:
            frames.append((CLOCK, NO_SOURCE, ts + 100 * SECOND, b""))
        if i % 2:
            frames.append((TEXT, 1, ts, book_ticker(i)))
    return frames


FRAMES = session()


def rows_from(pieces, seal_every=0, restart_every=0):
    """Every table's rows, as bytes in the order of ts_event, of frames handed over in ``pieces``.

    restart_every  after so many pieces a new pipeline goes on from a snapshot of the one before
    """
    pipeline = Pipeline(KernelsConfig(zscore_window=32), make)
    collected = {name: [] for name in TABLES}
    position = 0

    def seal():
        sealed = pipeline.seal()
        names, series = pipeline.out.texts.name, pipeline.out.series.keys
        for table in sealed.tables:
            collected[table.table.name] += [readable(row, table, names, series) for row in table.rows]

    for number, piece in enumerate(pieces):
        frames = frames_from_list(piece, position=position)
        position = frames.end
        pipeline.consume(frames)
        if seal_every and number % seal_every == 0:
            seal()
        if restart_every and number % restart_every == restart_every - 1:
            seal()
            saved = pipeline.snapshot().encode()
            pipeline = Pipeline(KernelsConfig(zscore_window=32), make)
            pipeline.restore(decode_snapshot(saved))
    seal()
    pipeline.write_coverage()
    seal()
    return {name: sorted(rows) for name, rows in collected.items()}, pipeline


def test_rows_held_back_come_with_the_next_block_and_none_is_released_before_it_is_handed_over():
    pipeline = Pipeline(KernelsConfig(zscore_window=32), make)
    stored, positions = [], []
    spot_only = [FRAMES[0], *(frame for frame in FRAMES if frame[0] == TEXT and frame[1] == 0)]
    for piece in [spot_only[:100], spot_only[100:101], spot_only[101:250], [], []]:
        if piece:
            frames = frames_from_list(piece, position=pipeline.position)
            pipeline.consume(frames)
        sealed = pipeline.seal(hold=True)
        assert sealed.position < pipeline.position if pipeline.pending else sealed.position == pipeline.position
        positions.append(sealed.position)
        blocks = [table.rows for table in sealed.tables if table.table.name == "trades"]
        stored += [block["ts_event"] for block in blocks]
    assert pipeline.pending == 0
    assert sum(len(times) for times in stored) == pipeline.rows["trades"]
    assert positions == sorted(positions)
    assert stored[0][-1] < stored[1][0]


def readable(row, table, names, series):
    """A row with its ids replaced by what they stand for, and floats by their exact bits."""
    values = []
    for column in table.table.laid_out:
        value = row[column.name]
        if column.type.kind == "series":
            value = series[value]
        elif column.type.kind == "symbol":
            value = names(int(value)) if value >= 0 else ""
        elif column.type.kind == "varchar":
            start, end = table.varchar_offsets[value : value + 2] if value >= 0 else (0, 0)
            value = table.varchar_heap[start:end].tobytes()
        elif column.type.kind == "double":
            value = int(np.float64(value).view(np.int64))
        else:
            value = int(value)
        values.append(value)
    return tuple(values)


WHOLE, _ = rows_from([FRAMES])


def cut(frames, places):
    edges = [0, *sorted(places), len(frames)]
    return [frames[a:b] for a, b in itertools.pairwise(edges) if a < b]


@given(places=st.sets(st.integers(1, len(FRAMES) - 1), max_size=40), seal_every=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_rows_do_not_depend_on_how_the_stream_was_cut_nor_on_where_batches_were_sealed(places, seal_every):
    rows, _ = rows_from(cut(FRAMES, places), seal_every)
    assert rows == WHOLE


@given(
    places=st.sets(st.integers(1, len(FRAMES) - 1), min_size=5, max_size=40),
    restart_every=st.integers(1, 8),
    seal_every=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_rows_do_not_depend_on_restarts_from_snapshots(places, restart_every, seal_every):
    rows, _ = rows_from(cut(FRAMES, places), seal_every, restart_every)
    assert rows == WHOLE


def test_every_trade_is_stored_once_and_repeats_are_counted():
    rows, pipeline = rows_from([FRAMES])
    assert len(rows["trades"]) == (200 - 3) + 200 + (200 - 2) + 2 * 200
    assert pipeline.duplicates == 30


def test_missing_ids_are_gaps_with_their_extent():
    gaps = [(g[2], g[4], g[5], g[6], g[7]) for g in WHOLE["gaps"] if g[4] in (GAP_TRADE_ID, GAP_SEQUENCE)]
    assert sorted(gaps) == [
        (("adv", "*"), 2, 61, 61, 1),
        (("cb", "BTC-USD"), 1, 78, 79, 2),
        (("spot", "BTC-USDT"), 1, 50, 51, 2),
        (("spot", "BTC-USDT"), 1, 120, 120, 1),
    ]


def test_the_ledger_accounts_for_every_row_once():
    """Entries of a minute add up to what the tables hold, whatever minute they were noticed in."""
    rows, pipeline = rows_from([FRAMES])
    entries = [dict(zip([c.name for c in COVERAGE.laid_out], row, strict=True)) for row in rows["coverage"]]
    for channel in ("trades", "quotes"):
        stored, counted = Counter(), Counter()
        for row in rows[channel]:
            stored[row[2], row[0] - row[0] % MINUTE] += 1
        for entry in entries:
            if entry["channel"] == channel:
                counted[entry["series"], entry["ts_event"]] += entry["received"] - entry["duplicate"]
                parts = entry["verified"] + entry["unverifiable"] + entry["repaired"] + entry["duplicate"]
                assert parts == entry["received"]
        assert counted == stored
    total = Counter()
    for entry in entries:
        total.update({name: entry[name] for name in ("missing", "duplicate", "rejected")})
    assert total == {"missing": 6, "duplicate": pipeline.duplicates, "rejected": len(rows["rejected"])}
    by_id = sum(entry["verified"] for entry in entries if entry["series"] == ("spot", "BTC-USDT"))
    assert by_id == 200 - 3 - 1  # of the first nobody knows what came before
    assert not any(entry["verified"] for entry in entries if entry["series"][0] == "us")


@given(
    places=st.sets(st.integers(1, len(FRAMES) - 1), max_size=9), jump_s=st.sampled_from([-7200, 3600, 86_400 * 3650])
)
@settings(max_examples=6, deadline=None)
def test_a_clock_that_was_wrong_for_a_while_neither_holds_the_ledger_back_nor_counts_twice(places, jump_s):
    """For a stretch of frames, and set right again: twice over, in the same minutes."""
    wrong = [
        (kind, source, ts + jump_s * SECOND * (20 < number % 400 < 220 and ts > 0), payload)
        for number, (kind, source, ts, payload) in enumerate(FRAMES)
    ]
    rows, _ = rows_from(cut(wrong, places), restart_every=3)
    entries = [dict(zip([c.name for c in COVERAGE.laid_out], row, strict=True)) for row in rows["coverage"]]
    key = [tuple(entry[name] for name in ("ts_event", "series", "channel", "noticed")) for entry in entries]
    latest = dict(zip(key, entries, strict=True))  # what a table keeps
    assert sum(entry["received"] - entry["duplicate"] for entry in latest.values()) == sum(
        len(rows[name]) for name in ("trades", "quotes")
    )
    own = [ts // MINUTE for kind, _, ts, _ in wrong[-30:] if kind == TEXT]
    assert {entry["noticed"] // MINUTE for entry in entries} >= set(own)


def test_a_bad_frame_is_kept_in_rejected_with_its_position_and_disturbs_nothing():
    rows, pipeline = rows_from([FRAMES])
    bad = sum(payload.endswith(b'"trade"') for _, _, _, payload in FRAMES)
    assert sum(source.rejected for source in pipeline.sources.values()) == bad == len(rows["rejected"])
    assert len({row[2] for row in rows["rejected"]}) == bad


def test_a_source_that_was_never_declared_is_passed_over():
    rows, pipeline = rows_from([[*FRAMES[: len(SPECS)], (TEXT, 77, NOW, spot(1)), (TEXT, 0, NOW, spot(1))]])
    assert len(rows["trades"]) == 1
    assert 77 not in pipeline.sources


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"0" * 5000, b'{"stream":1}', b"[" * 3000]
)
def test_nonsense_is_rejected_or_unknown_and_never_stops_the_next_frame(payload):
    rows, pipeline = rows_from(
        [[*FRAMES[: len(SPECS)], *((TEXT, n, NOW, payload) for n in range(3)), (TEXT, 0, NOW, spot(5))]]
    )
    assert len(rows["trades"]) == 1
    assert len(rows["rejected"]) + sum(pipeline.out.unknown.values()) >= 1


def test_a_source_declared_anew_as_one_nobody_knows_is_passed_over_at_once():
    unknown = msgspec.json.encode(FeedSpec(name="new", provider="from-the-future"))
    rows, pipeline = rows_from(
        [[*FRAMES[: len(SPECS)], (TEXT, 0, NOW, spot(1)), (SOURCE, 0, NOW, unknown), (TEXT, 0, NOW, spot(2))]]
    )
    assert len(rows["trades"]) == 1
    assert 0 not in pipeline.sources
