"""Recordings of further kinds: cryptofeed's JSON lines, folders, markets told by their messages, other venues."""

from __future__ import annotations

import ast
import base64
import gzip
import json
import random
from pathlib import Path

import pytest
import zstandard
from recorded import read
from test_captures import COINBASE, KRAKEN

from recorder.core.frames import BINARY, TEXT
from recorder.feeds import make
from recorder.shell.captures import name_for, open_capture
from recorder.values.errors import CaptureError
from recorder.values.feed import FeedSpec

OKEX = "cryptofeed/OKEX/2021-04-17_OKEX.ws.56.0.gz"
MARKETS = {"spot": "spot", "usdm": "usdm", "cm": "coinm"}


def as_records(lines: list[bytes], conn: str) -> list[bytes]:
    """A text log of cryptofeed as the records of its format 2, the fields of each in an order of its own."""
    rng, records = random.Random(1), []

    def record(stamp: bytes, **fields: str) -> None:
        pairs = [*({"conn": conn} | fields).items()]
        rng.shuffle(pairs)
        text = ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs)
        records.append(f'{{{text},"ts":{stamp.decode()}}}'.encode())

    def payload(text: bytes) -> dict[str, str]:
        if text.startswith((b"b'", b'b"')):
            return {"b64": base64.b64encode(ast.literal_eval(text.decode())).decode()}
        return {"data": text.decode()}

    for line in lines:
        head, _, rest = line.partition(b" ")
        arrow, _, tail = rest.partition(b" ")
        stamp, _, text = tail.partition(b": ")
        if head[:1].isdigit():
            record(head[:-1], t="recv", **payload(rest))
        elif arrow == b"<->":
            record(stamp, t="connect", addr=head.decode())
        elif arrow == b"<-":
            record(stamp, t="send", addr=head.decode(), **payload(text))
        elif arrow == b"->":
            record(stamp, t="http", url=head.decode(), **payload(text))
    return records


def header(exchange: str, version: int = 2) -> bytes:
    return json.dumps({"t": "header", "format": version, "exchange": exchange, "config": {"trades": ["A"]}}).encode()


@pytest.mark.parametrize("name", [COINBASE, OKEX, "cryptofeed/BINANCE/2021-04-05_BINANCE-b38f7c.0.gz"])
def test_json_lines_of_cryptofeed_read_like_its_text_log(shared_data: Path, tmp_path: Path, name: str) -> None:
    log = open_capture(shared_data / name)
    records = as_records(gzip.decompress((shared_data / name).read_bytes()).splitlines(), "X.ws.1")
    path = tmp_path / "X.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"\n".join([header("X"), *records])))
    capture = open_capture(path)
    assert capture.specs == log.specs
    assert list(capture) == list(log)
    assert (capture.frames, capture.http) == (log.frames, log.http)
    assert any(kind == (BINARY if name == OKEX else TEXT) for _, kind, _, _ in capture)


def test_connections_in_one_file_are_merged_by_time_and_stay_apart(shared_data: Path, tmp_path: Path) -> None:
    expected, lines = [], [header("KRAKEN")]
    for index, number in enumerate((48, 49, 50)):
        name = KRAKEN.format(number)
        expected += [(index, *item[1:]) for item in open_capture(shared_data / name)]
        lines += as_records(gzip.decompress((shared_data / name).read_bytes()).splitlines(), f"KRAKEN.ws.{number}")
    (path := tmp_path / "KRAKEN.jsonl").write_bytes(b"\n".join(lines))
    capture = open_capture(path)
    assert [(spec.name, spec.connection) for spec in capture.specs] == [("kraken-v1", n) for n in range(3)]
    items = list(capture)
    assert [item[2] for item in items] == sorted(item[2] for item in items)
    assert sorted(items) == sorted(expected)


def test_markets_in_one_file_are_feeds_of_their_own(tmp_path: Path) -> None:
    lines = [header("BYBIT")]
    for conn, market in (("B.ws.2", "linear"), ("B.ws.3", "spot")):
        address = f"wss://stream.bybit.com/v5/public/{market}"
        lines.append(json.dumps({"conn": conn, "ts": 1786310818.25, "t": "connect", "addr": address}).encode())
        lines.append(json.dumps({"conn": conn, "ts": 1786310819.5, "t": "recv", "data": "{}"}).encode())
    (path := tmp_path / "BYBIT.jsonl").write_bytes(b"\n".join(lines))
    capture = open_capture(path)
    assert [(spec.name, spec.options["market"]) for spec in capture.specs] == [
        ("bybit-linear", "linear"),
        ("bybit", "spot"),
    ]
    assert [(index, ts) for index, kind, ts, _ in capture if kind == TEXT] == [
        (0, 1786310819500000000),
        (1, 1786310819500000000),
    ]


def test_another_version_of_the_format_is_refused_by_its_number(tmp_path: Path) -> None:
    (path := tmp_path / "X.jsonl").write_bytes(header("X", 3))
    with pytest.raises(CaptureError, match="format 3; this recorder reads 2"):
        open_capture(path)


@pytest.mark.parametrize("day", sorted({"20230405", "20240808", "20240809"}))
def test_the_market_of_hftbacktest_lines_is_told_by_their_messages(shared_data: Path, tmp_path: Path, day: str) -> None:
    """Whatever the file is called, and wherever it begins."""
    for source in sorted((shared_data / "hftbacktest").glob(f"*_{day}.gz")):
        market = MARKETS.get(source.name.partition("_")[0])
        if market is None:
            continue
        lines = gzip.decompress(source.read_bytes()).splitlines()
        for start in (0, 1, 2, 3, 57, len(lines) // 2):
            (path := tmp_path / f"btcusdt_{day}").write_bytes(b"\n".join(lines[start : start + 300]))
            [spec] = open_capture(path).specs
            assert spec.options == {"market": market}, (source.name, start)


def test_a_wrong_file_name_does_not_make_spot_of_futures(shared_data: Path, tmp_path: Path) -> None:
    lines = gzip.decompress((shared_data / "hftbacktest/usdm_btcusdt_20230404.gz").read_bytes()).splitlines()[:300]
    (path := tmp_path / "spot_btcusdt").write_bytes(b"\n".join(lines))
    assert open_capture(path).specs[0].options == {"market": "usdm"}


def test_lines_of_another_provider_are_read_as_its_own_when_it_is_named(shared_data: Path) -> None:
    path = shared_data / "hftbacktest/hyperliquid_btcusd_20250126.gz"
    facts = json.loads((shared_data / "expected.json").read_text())["files"]["hftbacktest/" + path.name]
    with pytest.raises(CaptureError, match=r"l2Book.*name the provider"):
        open_capture(path)
    capture = open_capture(path, provider="bybit", options={"market": "linear"})
    assert capture.specs[0].provider == "bybit"
    assert len(list(capture)) == facts["recv_messages"]
    assert capture.skipped == {}


def test_lines_without_an_envelope_are_frames_too(tmp_path: Path) -> None:
    trade = '{"e":"trade","E":1,"s":"BTCUSDT","t":7,"p":"1","q":"1","T":1680652800000,"m":true,"M":true}'
    (path := tmp_path / "raw").write_text(f'1680652800004107 {trade}\n1680652800004108 {{"lastUpdateId":1}}')
    capture = open_capture(path)
    assert capture.specs[0].options == {"market": "spot"}
    assert [payload.decode() for _, _, _, payload in capture] == [trade]
    assert capture.skipped == {"rest": 1}


@pytest.mark.parametrize(
    ("address", "name", "provider", "options"),
    [
        ("wss://stream.binance.com:443/ws/btcusdt@trade", "binance", "binance", {"market": "spot"}),
        ("wss://data-stream.binance.vision/stream?streams=a@trade", "binance", "binance", {"market": "spot"}),
        ("wss://fstream.binance.com/market/stream?streams=a", "binance-usdm", "binance", {"market": "usdm"}),
        ("wss://stream.binance.us:9443/stream?streams=crvusdt@trade", "binance-us", "binance", {"market": "spot"}),
        ("https://api.binance.us/api/v3/depth", "binance-us", "binance", {"market": "spot"}),
        ("wss://real.okcoin.com:8443/ws/v5/public", "okx-aggregated-okcoin", "okx", {"trades": "aggregated"}),
        ("wss://test.deribit.com/ws/api/v2", "deribit-test", "deribit", {}),
        ("wss://www.deribit.com/ws/api/v2/", "deribit", "deribit", {}),
        ("wss://ws.kraken.com/v2/", "kraken", "kraken", {}),
        ("wss://ws.kraken.com/", "kraken-v1", "kraken", {"api": "v1"}),
        ("wss://ws.okx.com:8443/ws/v5/public", "okx-aggregated", "okx", {"trades": "aggregated"}),
        ("wss://stream.bybit.com/spot/public/v3", "bybit", "bybit", {"market": "spot"}),
        ("https://api.bybit.com/v2/public/symbols", "bybit-linear", "bybit", {"market": "linear"}),
        ("wss://advanced-trade-ws.coinbase.com", "coinbase-advanced", "coinbase", {"api": "advanced"}),
    ],
)
def test_an_address_names_provider_market_and_venue(
    tmp_path: Path, address: str, name: str, provider: str, options: dict[str, str]
) -> None:
    (path := tmp_path / "a.log").write_text(
        f"{address} -> 1.0: {{}}\n" if address.startswith("https") else f"{address} <-> 1.0\n1.5: []\n"
    )
    [spec] = open_capture(path).specs
    assert (spec.name, spec.provider, spec.options) == (name, provider, options)
    make(spec)


def test_another_venue_of_a_provider_does_not_join_the_providers_own_feed() -> None:
    """Binance.US numbers its trades itself: under one name its rows would be doubles and gaps of Binance's."""
    us = FeedSpec(name="binance-us", provider="binance", options={"market": "spot"}, url="wss://stream.binance.us:9443")
    own = FeedSpec(name="bn", provider="binance")
    simulated = FeedSpec(name="sim", provider="binance", url="ws://127.0.0.1:20000/binance")
    configured = FeedSpec(name="bus", provider="binance", url="wss://stream.binance.us:443")
    plain = FeedSpec(name="binance", provider="binance", options={"market": "spot"})
    assert name_for(us, [own, simulated]) == "binance-us"
    assert name_for(us, [own, configured]) == "bus"
    assert name_for(plain, [configured, own]) == "bn"
    assert name_for(plain, [configured, simulated]) == "sim"


def test_messages_of_another_provider_in_one_log_are_left_out_and_told(tmp_path: Path) -> None:
    """Two logs written one behind the other."""
    own, other = "wss://ws.bitstamp.net", "wss://fstream.binance.com/stream"
    (path := tmp_path / "both.log").write_text(
        f"{own} <-> 1.0\n1.5: 1\n{other} <-> 2.0\n{other} <- 2.1: x\n2.5: 2\n2.6: 3\n{own} <-> 3.0\n3.5: 4\n"
    )
    capture = open_capture(path)
    items, told = read(capture)
    assert [payload for _, kind, _, payload in items if kind == TEXT] == [b"1", b"4"]
    assert capture.skipped == {"frame of another address": 2}
    assert "both.log:3: expected messages of one provider" in told
    assert "2 lines" in told


def test_a_folder_of_recordings_is_read_as_one(shared_data: Path) -> None:
    facts = json.loads((shared_data / "expected.json").read_text())["files"]
    for folder in ("cryptofeed/KRAKEN", "cryptofeed/BINANCE_FUTURES"):
        capture = open_capture(shared_data / folder)
        times = [ts for _, _, ts, _ in capture]
        own = [fact for name, fact in facts.items() if name.startswith(f"{folder}/")]
        assert times == sorted(times)
        assert capture.frames == sum(fact["recv_messages"] for fact in own)
        assert capture.http == sum(fact["lines"].get("http", 0) for fact in own)
        assert len(capture.specs) == len(own)


def test_files_of_a_folder_that_are_no_recordings_are_told_at_its_end(shared_data: Path, tmp_path: Path) -> None:
    facts = json.loads((shared_data / "expected.json").read_text())["files"]
    for name in ("spot_btcusdt_20230405.gz", "hyperliquid_btcusd_20250126.gz"):
        (tmp_path / name).symlink_to(shared_data / "hftbacktest" / name)
    items, told = read(open_capture(tmp_path))
    assert len(items) == facts["hftbacktest/spot_btcusdt_20230405.gz"]["recv_messages"]
    assert "hyperliquid_btcusd_20250126" in told
    assert "name the provider" in told
    with pytest.raises(CaptureError, match="none of its 16 files"):
        open_capture(shared_data / "lean/equity/usa/map_files")
