"""Captures: every recording of our providers reads as exactly the frames counted independently of this project."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import market_of_gaps as market
import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from undisturbed import Fold, Keyed, frames_of, names_of

from recorder.core import history, observations
from recorder.core.frames import BINARY, CLOCK, CLOSED, OBSERVED, OPENED, RESPONSE, SENT, SOURCE, TEXT, Frames
from recorder.core.history import HISTORY_CONNECTION, Page
from recorder.core.observations import NO_SOURCE
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell.captures import merge, name_for, open_capture, to_frames, to_lines
from recorder.shell.journal import Journal, lines, reading
from recorder.shell.journal.segments import list_segments, segment_info
from recorder.values.config import KernelsConfig
from recorder.values.errors import CaptureError
from recorder.values.feed import FeedSpec, HistoryRequest
from recorder.values.tables import BACKFILLED, TABLES

COINBASE = "cryptofeed/COINBASE/2021-04-17_COINBASE.ws.28.0.gz"
KRAKEN = "cryptofeed/KRAKEN/2021-04-17_KRAKEN.ws.{}.0.gz"
OURS = (
    "cryptofeed/BINANCE",
    "cryptofeed/BITSTAMP/",
    "cryptofeed/BYBIT/",
    "cryptofeed/COINBASE/",
    "cryptofeed/DERIBIT/",
    "cryptofeed/KRAKEN/",
    "cryptofeed/OKEX/",
    "cryptofeed/OKX/",
    "hftbacktest/spot",
    "hftbacktest/usdm",
    "hftbacktest/cm",
)

LOG = (
    'configuration: {"trades":["BTC-USD"]}\n'
    "\n"
    "wss://ws-feed.pro.coinbase.com <-> 1618677816.8434298\n"
    'wss://ws-feed.pro.coinbase.com <- 1618677817.0: {"type":"subscribe"}\n'
    '1618677817.061845: {"type":"subscriptions","note":"a: b <- c"}\n'
    'https://api.pro.coinbase.com/products -> 1618677817.1: [{"id":"BTC-USD"}]\n'
    "1618677818: b'\\x00\\xff'\n"
)


def expected(shared_data: Path) -> dict[str, dict]:
    files = json.loads((shared_data / "expected.json").read_text())["files"]
    return {name: facts for name, facts in files.items() if name.startswith(OURS)}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_recording_of_our_providers_gives_the_frames_counted_elsewhere(shared_data: Path) -> None:
    facts = expected(shared_data)
    assert len(facts) == 35
    for name, fact in facts.items():
        capture = open_capture(shared_data / name)
        times, size = [], 0
        for index, kind, ts, payload in capture:
            assert index == 0
            if kind in (TEXT, BINARY):
                times.append(ts)
                size += len(payload)
        rest = capture.skipped.get("rest", 0)
        lines = fact["lines"]
        assert capture.frames + rest == fact["recv_messages"], name
        assert rest == fact["messages_by_type"].get("rest_depth_snapshot", 0), name
        assert capture.http == lines.get("http", 0), name
        assert capture.skipped.get("blank", 0) == lines.get("blank", 0), name
        assert capture.skipped.get("configuration", 0) == lines.get("config", 0), name
        if not rest and "binary_frames" not in fact:  # whose bytes were counted as Python writes them
            assert size == fact["recv_payload_bytes"], name
        if times:
            assert (times[0], times[-1]) == (fact["first_recv_ns"], fact["last_recv_ns"]), name


def test_a_recording_of_options_is_read_as_what_such_a_feed_has(tmp_path: Path) -> None:
    path = write(tmp_path / "o", "wss://stream.bybit.com/v5/public/option <-> 1618677816.8434298\n1618677817: {}\n")
    [spec] = open_capture(path).specs
    assert (spec.name, spec.channels) == ("bybit-option", ("trades", "options"))
    assert make(spec).capability().channels == spec.channels


@pytest.mark.parametrize(
    ("name", "feed", "provider", "options"),
    [
        ("cryptofeed/BINANCE/2021-04-05_BINANCE-b38f7c.0.gz", "binance", "binance", {"market": "spot"}),
        ("cryptofeed/BINANCE/2021-04-17_BINANCE.http.0.0.gz", "binance", "binance", {"market": "spot"}),
        (
            "cryptofeed/BINANCE_FUTURES/2021-07-22_BINANCE_FUTURES.ws.1.0.gz",
            "binance-usdm",
            "binance",
            {"market": "usdm"},
        ),
        (
            "cryptofeed/BINANCE_DELIVERY/2021-07-22_BINANCE_DELIVERY.ws.1.0.gz",
            "binance-coinm",
            "binance",
            {"market": "coinm"},
        ),
        (COINBASE, "coinbase", "coinbase", {"api": "exchange"}),
        (KRAKEN.format(48), "kraken-v1", "kraken", {"api": "v1"}),
        ("cryptofeed/BITSTAMP/2021-04-05_BITSTAMP-b88f8b.0.gz", "bitstamp", "bitstamp", {}),
        ("cryptofeed/DERIBIT/2021-07-22_DERIBIT.ws.1.0.gz", "deribit", "deribit", {}),
        ("cryptofeed/OKEX/2021-04-17_OKEX.0.gz", "okx-aggregated", "okx", {"trades": "aggregated"}),
        ("cryptofeed/OKEX/2021-04-17_OKEX.ws.56.0.gz", "okx-aggregated", "okx", {"trades": "aggregated"}),
        ("cryptofeed/OKX/2022-05-13_OKX.ws.1.0.gz", "okx-aggregated", "okx", {"trades": "aggregated"}),
        ("cryptofeed/BYBIT/2021-04-17_BYBIT.ws.25.0.gz", "bybit-linear", "bybit", {"market": "linear"}),
        ("cryptofeed/BYBIT/2021-04-17_BYBIT.ws.26.0.gz", "bybit-inverse", "bybit", {"market": "inverse"}),
        ("hftbacktest/spot_btcusdt_20230405.gz", "binance", "binance", {"market": "spot"}),
        ("hftbacktest/usdm_btcusdt_20230404.gz", "binance-usdm", "binance", {"market": "usdm"}),
        ("hftbacktest/cm_btcusd_perp_20240809.gz", "binance-coinm", "binance", {"market": "coinm"}),
    ],
)
def test_provider_and_options_are_recognised(
    shared_data: Path, name: str, feed: str, provider: str, options: dict[str, str]
) -> None:
    [spec] = open_capture(shared_data / name).specs
    assert (spec.name, spec.provider, spec.options) == (feed, provider, options)


def test_a_cryptofeed_log_gives_opened_sent_and_received_and_counts_the_rest(tmp_path: Path) -> None:
    capture = open_capture(write(tmp_path / "a.log", LOG))
    assert list(capture) == [
        (0, OPENED, 1618677816843429800, b"wss://ws-feed.pro.coinbase.com"),
        (0, SENT, 1618677817000000000, b'{"type":"subscribe"}'),
        (0, TEXT, 1618677817061845000, b'{"type":"subscriptions","note":"a: b <- c"}'),
        (0, BINARY, 1618677818000000000, b"\x00\xff"),
    ]
    assert (capture.frames, capture.http, capture.skipped) == (2, 1, {"configuration": 1, "blank": 1})


def test_iterating_twice_gives_the_same_and_counts_once(tmp_path: Path) -> None:
    capture = open_capture(write(tmp_path / "a.log", LOG))
    assert list(capture) == list(capture)
    assert capture.frames == 2


@given(st.decimals(min_value=0, max_value=4_000_000_000, places=7))
def test_times_of_seven_decimals_are_exact_in_ns(tmp_path_factory: pytest.TempPathFactory, seconds: Decimal) -> None:
    path = tmp_path_factory.mktemp("t") / "a.log"
    capture = open_capture(write(path, f"wss://ws.kraken.com <-> 1.0\n{seconds:f}: {{}}\n"))
    assert list(capture)[1][2] == int(seconds * 10**9)


def test_gzip_and_zstd_in_several_frames_read_like_plain_text(tmp_path: Path) -> None:
    plain = list(open_capture(write(tmp_path / "a", LOG)))
    pack, half = zstandard.ZstdCompressor().compress, len(LOG) // 2
    assert list(open_capture(write(tmp_path / "b", gzip.compress(LOG.encode())))) == plain
    assert list(open_capture(write(tmp_path / "c", pack(LOG[:half].encode()) + pack(LOG[half:].encode())))) == plain


def test_binary_frames_come_out_as_the_bytes_received(shared_data: Path) -> None:
    capture = open_capture(shared_data / "cryptofeed/HUOBI/2021-04-17_HUOBI.ws.44.0.gz", provider="huobi")
    payloads = [payload for _, kind, _, payload in capture if kind == BINARY]
    assert len(payloads) == 362
    assert all(json.loads(gzip.decompress(payload)) for payload in payloads)


def test_own_lines_carry_a_whole_recording_there_and_back(tmp_path: Path) -> None:
    capture = open_capture(write(tmp_path / "a.log", LOG))
    again = open_capture(write(tmp_path / "a.jsonl", b"".join(to_lines(capture))))
    assert again.specs == capture.specs
    assert list(again) == list(capture)


def test_own_lines_without_a_declaration_name_a_feed_by_its_provider(tmp_path: Path) -> None:
    lines = [
        {"ts_recv": 5, "feed": "kraken", "payload": "{}"},
        {"ts_recv": 6, "feed": "binance-usdm", "payload": base64.b64encode(b"\xff").decode(), "kind": "binary"},
        {"ts_recv": 7, "feed": "kraken", "kind": "closed", "payload": "1006"},
    ]
    capture = open_capture(write(tmp_path / "a.jsonl", "\n".join(json.dumps(line) for line in lines)))
    assert [(spec.name, spec.options) for spec in capture.specs] == [
        ("kraken", {}),
        ("binance-usdm", {"market": "usdm"}),
    ]
    assert list(capture) == [(0, TEXT, 5, b"{}"), (1, BINARY, 6, b"\xff"), (0, CLOSED, 7, b"1006")]


@pytest.mark.parametrize(
    ("address", "name", "provider", "options"),
    [
        ("wss://stream.data.alpaca.markets/v2/iex", "alpaca", "alpaca", {"feed": "iex"}),
        ("wss://stream.data.sandbox.alpaca.markets/v2/sip", "alpaca-sip", "alpaca", {"feed": "sip"}),
        ("wss://stream.data.alpaca.markets/v1beta1/opra", "alpaca-opra", "alpaca", {"feed": "opra"}),
        ("wss://stream.data.alpaca.markets/v1beta3/crypto/us", "alpaca-crypto", "alpaca", {"feed": "crypto"}),
        ("wss://stream.data.alpaca.markets/v1beta3/crypto/eu-1", "alpaca-crypto-eu-1", "alpaca",
         {"feed": "crypto", "location": "eu-1"}),
        ("wss://stream.data.alpaca.markets/v1beta1/news", "alpaca-news", "alpaca", {"feed": "news"}),
        ("wss://socket.polygon.io/options", "polygon-options", "polygon", {"cluster": "options"}),
        ("wss://streamer.finance.yahoo.com/?version=2", "yahoo", "yahoo", {}),
    ],
)  # fmt: skip
def test_logs_of_stocks_and_options_name_their_feed_by_the_address(
    tmp_path: Path, address: str, name: str, provider: str, options: dict[str, str]
) -> None:
    path = tmp_path / "a.log"
    path.write_text(f"{address} <-> 1.0\n{address} <- 1.1: {{}}\n1.5: []\n")
    [spec] = open_capture(path).specs
    assert (spec.name, spec.provider, spec.options) == (name, provider, options)
    make(spec)


@pytest.mark.parametrize(
    ("feed", "provider"),
    [("polygon", "polygon"), ("polygon-crypto", "polygon"), ("alpaca-sip", "alpaca"), ("yahoo", "yahoo")],
)
def test_json_lines_of_a_feed_that_is_named_as_ours_are_need_no_declaration(
    tmp_path: Path, feed: str, provider: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"ts_recv":1790000000000000000,"feed":"{feed}","payload":"[]"}}\n')
    [spec] = open_capture(path).specs
    assert (spec.name, spec.provider) == (feed, provider)
    make(spec)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "once upon a time\n", ["a.txt:1", "expected", "once upon a time"]),
        ("a.log", "wss://ws.kraken.com <-> 1.0\n1.5: {}\nhello there\n", ["a.log:3", "expected", "hello there"]),
        ("a.log", "wss://ws.kraken.com <-> 1.0\n1.5: b'\\x'\n", ["a.log:2", "bytes literal"]),
        ("a.log", "wss://example.org <-> 1.0\n1.5: {}\n", ["example.org", "ws.kraken.com", "name the provider"]),
        ("spot_a", '1680652800004107 {"stream":1}\n1680652800004 {"stream":1}\n', ["spot_a:2", "16 digits", "19"]),
        ("btc", '1680652800004107 {"stream":1}\n', ["spot_", "usdm_", "cm_"]),
        ("a.jsonl", '{"feed":"x","ts_recv":1,"payload":"{}"}\n', ["a.jsonl:1", '"x"', "provider"]),
        ("a.jsonl", '{"feed":"kraken","ts_recv":1,"payload":"{}"}\n{"feed":3}\n', ["a.jsonl:2", "feed"]),
        ("a.jsonl", '{"feed":"kraken","ts_recv":0,"payload":"{}"}\n', ["a.jsonl:1", "ts_recv"]),
        ("a.jsonl", '{"feed":"kraken","ts_recv":1,"kind":"binary","payload":"?"}\n', ["a.jsonl:1", "base64"]),
        ("a.gz", gzip.compress(LOG.encode())[:-20], ["a.gz", "damaged"]),
        ("empty", "", ["empty"]),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(CaptureError) as caught:
        list(open_capture(path))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no such file"):
        open_capture(tmp_path / "nothing")


def test_the_recorded_provider_can_be_overridden(tmp_path: Path) -> None:
    path = write(tmp_path / "a.log", LOG)
    [spec] = open_capture(path, options={"api": "advanced"}).specs
    assert (spec.name, spec.options) == ("coinbase-advanced", {"api": "advanced"})
    [spec] = open_capture(path, provider="kraken").specs
    assert (spec.name, spec.options) == ("kraken", {})


@pytest.mark.parametrize("day", ["20230405", "20240808", "20240809"])
def test_recordings_of_a_day_merge_by_receive_time(shared_data: Path, day: str) -> None:
    facts = json.loads((shared_data / "expected.json").read_text())["checks"]["merged_replay"][day]
    whole = merge(open_capture(shared_data / "hftbacktest" / name) for name in facts["files"])
    times = [ts for _, _, ts, _ in whole]
    assert times == sorted(times)
    assert whole.frames + whole.skipped.get("rest", 0) == facts["messages"]
    assert len({(spec.name, spec.connection) for spec in whole.specs}) == len(facts["files"])


def test_recordings_of_one_feed_merge_into_its_connections(shared_data: Path) -> None:
    whole = merge(open_capture(shared_data / KRAKEN.format(n)) for n in (48, 49, 50))
    assert [(spec.name, spec.connection) for spec in whole.specs] == [
        ("kraken-v1", 0),
        ("kraken-v1", 1),
        ("kraken-v1", 2),
    ]
    list(whole)
    assert whole.frames == 49 + 60 + 4321


def test_frames_for_the_pipeline_start_with_the_sources_and_lose_nothing(shared_data: Path) -> None:
    whole = merge([open_capture(shared_data / COINBASE), open_capture(shared_data / KRAKEN.format(50))])
    items, position, sources = [], 0, []
    for frames in to_frames(whole, bytes_max=100_000):
        for i in range(frames.count):
            if frames.kinds[i] == SOURCE:
                sources.append((int(frames.sources[i]), msgspec.json.decode(frames.payload(i), type=FeedSpec)))
                assert not items
            else:
                items.append((int(frames.sources[i]), int(frames.kinds[i]), int(frames.ts_recv[i]), frames.payload(i)))
            assert frames.ends[i] > position
            position = int(frames.ends[i])
        assert frames.end == position
    assert items == list(whole)
    assert sources == list(enumerate(whole.specs))


def test_a_replayed_feed_takes_the_name_of_the_configured_one() -> None:
    configured = [
        FeedSpec(name="fut", provider="binance", options={"market": "usdm"}),
        FeedSpec(name="bn", provider="binance"),
        FeedSpec(name="adv", provider="coinbase", options={"api": "advanced"}),
    ]
    spot = FeedSpec(name="binance", provider="binance", options={"market": "spot"})
    usdm = FeedSpec(name="binance-usdm", provider="binance", options={"market": "usdm"})
    exchange = FeedSpec(name="coinbase", provider="coinbase", options={"api": "exchange"})
    assert [name_for(spec, configured) for spec in (spot, usdm, exchange)] == ["bn", "fut", "coinbase"]


@pytest.mark.parametrize("compress", [False, True])
def test_a_journal_reads_as_the_frames_appended_whole_or_by_segment(tmp_path: Path, compress: bool) -> None:
    specs = [FeedSpec(name="cb", provider="coinbase"), FeedSpec(name="kr", provider="kraken", connection=1)]
    items = [(i % 2, (TEXT, BINARY, OPENED, CLOSED, SENT)[i % 5], 10 + i, b"x" * i) for i in range(200)]
    with Journal.open(tmp_path / "journal", compress=compress) as journal:
        ids = [journal.source(spec) for spec in specs]
        for index, kind, ts, payload in items:
            journal.append(ids[index], kind, ts, payload)
    capture = open_capture(tmp_path / "journal")
    assert capture.specs == specs
    assert list(capture) == items
    segments = [path for path in (tmp_path / "journal").iterdir() if segment_info(path) is not None]
    assert len(segments) == 1
    assert list(open_capture(segments[0])) == items


def journalled(folder: Path) -> None:
    """Segments of 4 kB that hold a gap repaired from history, rows of the recorder's own, clocks, nonsense, minutes."""
    now = market.START
    live, minute = FeedSpec(name="f", provider="test"), 60 * 10**9
    with Journal.open(folder, segment_bytes=4096, compress=False, now=lambda: now) as journal:
        source = journal.source(live)
        answers = journal.source(msgspec.structs.replace(live, connection=HISTORY_CONNECTION))
        journal.append(source, OPENED, now, b"")
        for number in range(1, 300):
            now = market.trade(number).ts + market.LAG + number // 100 * minute
            if not 50 <= number < 60:
                payload = b"?" if number % 70 == 0 else msgspec.json.encode([market.trade(number)])
                journal.append(source, TEXT, now, payload)
            if number == 150:
                gap = ("f", "A", "trades", 1, market.trade(60).ts, 50)
                request = HistoryRequest("A", "trades", market.trade(40).ts, market.trade(70).ts, from_id=50, to_id=59)
                body = msgspec.json.encode([market.trade(n) for n in range(50, 60)])
                page = Page(gap=gap, request=request, last=True)
                journal.append(answers, RESPONSE, now, history.encode(page, body))
                journal.append(NO_SOURCE, CLOCK, now := now + minute, b"")
            if number % 100 == 0:
                row = (now, "f", "total", 3, 10, 20, None, 40, -5, 60)
                journal.append(NO_SOURCE, OBSERVED, now, observations.encode(TABLES["latency"], [row]))
        journal.append(NO_SOURCE, CLOCK, now + 3 * minute, b"")


def folded(stream: Iterable[Frames]) -> dict[str, Keyed]:
    fold = Fold()
    fold.pipeline = Pipeline(KernelsConfig(time_gap_s=0), market.StandIn)  # type: ignore[arg-type]
    for frames in stream:
        fold.consume(frames)
    return fold.finish()


def test_a_journal_gives_the_rows_of_its_recording_whole_by_segments_or_exported(tmp_path: Path) -> None:
    journalled(tmp_path / "journal")
    stream: list[Frames] = []
    frames_of(tmp_path / "journal", stream.append)
    expected = folded(stream)
    assert len(expected["trades"]) == 299 - 4
    flags = names_of(TABLES["trades"]).index("flags")
    assert sum((row[flags] or 0) & BACKFILLED > 0 for row in expected["trades"].values()) == 10
    assert [row for row in expected["gaps"].values() if "repaired" in row]
    assert (len(expected["latency"]), len(expected["rejected"])) == (2, 4)
    assert expected["coverage"]
    with lines.created(tmp_path / "out.jsonl") as file:
        file.writelines(lines.to_lines(reading.read(tmp_path / "journal"), lambda end, ts: True))
    segments = [info.path for info in list_segments(tmp_path / "journal")]
    assert len(segments) > 3
    whole = open_capture(tmp_path / "journal")
    assert folded(to_frames(whole)) == expected
    assert folded(to_frames(open_capture(tmp_path / "out.jsonl"))) == expected
    assert folded(to_frames(merge(map(open_capture, segments[::-1])))) == expected
    other = open_capture(write(tmp_path / "a.log", LOG))
    kinds = [item[1] for item in merge([whole, other]) if item[1] not in (TEXT, BINARY)]
    assert (kinds.count(RESPONSE), kinds.count(CLOCK), kinds.count(OBSERVED)) == (1, 2, 2)


def test_a_folder_without_a_journal_and_binary_nonsense_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, write(tmp_path / "nonsense", bytes(range(128, 256)) * 100)):
        with pytest.raises(CaptureError, match=path.name):
            list(open_capture(path))
