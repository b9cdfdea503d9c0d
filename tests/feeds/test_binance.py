"""Binance: frames → rows, and the session, against documented messages and recordings."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.core.batch import Output
from recorder.feeds.binance import INFO, MARKET_OF_HOST, Binance
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import FeedSpec, Notice, Ready, Reconnect, Renew, Send
from recorder.values.schema import LONG_NULL
from recorder.values.tables import BUY, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, SELL

NOW = 1_780_000_000_000_000_000
TRADE = (
    b'{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100",'
    b'"T":1672515782136,"m":true,"M":true}}'
)
QUOTE = (
    b'{"stream":"bnbusdt@bookTicker","data":{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000",'
    b'"a":"25.36520000","A":"40.66000000"}}'
)
AGG = (
    b'{"stream":"bnbbtc@aggTrade","data":{"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001","q":"100",'
    b'"f":100,"l":105,"T":1672515782136,"m":false,"M":true}}'
)
KLINE = (
    b'{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1638747660000,"s":"BTCUSDT","k":{"t":1638747600000,'
    b'"T":1638747659999,"s":"BTCUSDT","i":"1m","f":100,"L":200,"o":"0.0010","c":"0.0020","h":"0.0025","l":"0.0010",'
    b'"v":"1000","n":100,"x":true,"q":"1.5","V":"500","Q":"0.500","B":"123456"}}}'
)
INSURANCE = (
    b'{"stream":"ethusdt@trade","data":{"e":"trade","E":1596034530241,"T":1596034530235,"s":"ETHUSDT","t":73701056,'
    b'"p":"2366.55","q":"0.070","X":"INSURANCE_FUND","m":true}}'
)


def spec(market="spot", channels=("trades", "quotes"), symbols=("BTC-USDT",), **options):
    return FeedSpec(
        name="bn", provider="binance", channels=channels, symbols=symbols, options={"market": market, **options}
    )


def decoded(frames, market="spot", ts_recv=NOW):
    """Decode frames; rows by table as dictionaries, the output, and what was refused."""
    out = Output()
    decode = Binance(spec(market)).decoder(out.scope("bn", 0))
    refused = []
    for frame in frames:
        payload, ts = frame if isinstance(frame, tuple) else (frame, ts_recv)
        try:
            decode(payload, ts)
        except FrameError as error:
            refused.append(str(error))
    rows = {name: batch.seal().rows for name, batch in out.batches.items()}
    return rows, out, refused


def the_only(rows, table):
    assert len(rows[table]) == 1
    return dict(zip(rows[table].dtype.names, rows[table][0].tolist(), strict=True))


def test_a_trade_carries_its_own_time_and_the_aggressors_side():
    rows, out, _ = decoded([TRADE])
    row = the_only(rows, "trades")
    assert (row["ts_event"], row["ts_recv"]) == (1672515782136000000, NOW)
    assert (row["trade_id"], row["price"], row["size"]) == (12345, 0.001, 100.0)
    assert row["side"] == SELL, "the buyer was the maker, so the seller took"
    assert (row["exchange"], row["conditions"], row["tape"], row["trade_ref"], row["flags"]) == (-1, -1, -1, -1, 0)
    assert out.series.keys == [("bn", "BNB-BTC")]


def test_an_aggregated_trade_is_stored_under_its_own_id():
    row = the_only(decoded([AGG])[0], "trades")
    assert (row["trade_id"], row["side"], row["ts_event"]) == (12345, BUY, 1672515782136000000)


def test_a_spot_quote_has_no_time_of_its_own_and_takes_the_receive_time():
    row = the_only(decoded([QUOTE])[0], "quotes")
    assert (row["ts_event"], row["sequence"]) == (NOW, 400900217)
    assert [row[n] for n in ("bid", "bid_size", "ask", "ask_size")] == [25.3519, 31.21, 25.3652, 40.66]


def test_a_futures_quote_takes_the_transaction_time():
    frame = (
        b'{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":185130926750,"s":"BTCUSDT","b":"33134.42",'
        b'"B":"0.170","a":"33139.39","A":"0.380","T":1612137603568,"E":1612137603571}}'
    )
    rows, out, _ = decoded([frame], "usdm")
    assert the_only(rows, "quotes")["ts_event"] == 1612137603568000000
    assert out.series.keys == [("bn", "BTC-USDT-PERP")]


def test_an_empty_side_of_a_quote_is_null_and_not_zero():
    row = the_only(decoded([QUOTE.replace(b"25.35190000", b"0.00000000").replace(b"31.21", b"0.00")])[0], "quotes")
    assert math.isnan(row["bid"])
    assert math.isnan(row["bid_size"])
    assert row["ask"] == 25.3652


def test_only_closed_bars_are_stored():
    rows, out, _ = decoded([KLINE.replace(b'"x":true', b'"x":false'), KLINE])
    row = the_only(rows, "bars")
    assert row["ts_event"] == 1638747600000000000
    assert [row[n] for n in ("open", "high", "low", "close", "volume")] == [0.001, 0.0025, 0.001, 0.002, 1000.0]
    assert (row["vwap"], row["trade_count"], out.texts.name(row["timeframe"])) == (0.0015, 100, "1m")
    assert out.unknown == {}


def test_coin_margined_bars_have_no_vwap_because_their_volume_counts_contracts():
    rows, _, _ = decoded([KLINE.replace(b"BTCUSDT", b"BTCUSD_PERP")], "coinm")
    assert math.isnan(the_only(rows, "bars")["vwap"])


def test_an_insurance_fund_trade_is_kept_but_sets_no_price_and_weighs_in_no_vwap():
    rows, out, _ = decoded([INSURANCE, INSURANCE.replace(b"INSURANCE_FUND", b"MARKET")], "usdm")
    first, second = rows["trades"]
    assert first["flags"] == NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
    assert out.texts.name(int(first["conditions"])) == "INSURANCE_FUND"
    assert (second["flags"], second["conditions"]) == (0, -1)


def test_microseconds_are_told_from_milliseconds_by_magnitude():
    row = the_only(decoded([TRADE.replace(b'"T":1672515782136', b'"T":1672515782136789')])[0], "trades")
    assert row["ts_event"] == 1672515782136789000


def test_raw_frames_and_other_key_orders_give_the_same_rows():
    for frame in (TRADE, QUOTE, AGG, KLINE):
        combined = json.loads(frame)
        raw = json.dumps(combined["data"]).encode()
        turned = json.dumps({"data": combined["data"], "stream": combined["stream"]}).encode()
        expected = {k: v.tobytes() for k, v in decoded([frame])[0].items()}
        assert {k: v.tobytes() for k, v in decoded([raw])[0].items()} == expected
        assert {k: v.tobytes() for k, v in decoded([turned])[0].items()} == expected


def test_streams_that_are_not_recorded_are_passed_over_without_counting_them_as_unknown():
    frames = [
        b'{"stream":"bnbbtc@depth@100ms","data":{"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,'
        b'"b":[["0.0024","10"]],"a":[["0.0026","100"]]}}',
        b'{"stream":"bnbbtc@depth20","data":{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[]}}',
        b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":1,"s":"BTCUSDT","p":"1","T":0}}',
        b'{"stream":"b@miniTicker","data":{"e":"24hrMiniTicker","E":1,"s":"BNBBTC","c":"0.0025","q":"18"}}',
        b'{"stream":"btcusdt@forceOrder","data":{"e":"forceOrder","E":1584059031426,"o":{"s":"BTCUSDT"}}}',
        b'{"lastUpdateId":10166139,"bids":[],"asks":[]}',
        b'{"result":null,"id":1}',
        b'{"error":{"code":2,"msg":"Invalid request"},"id":1}',
        b'{"e":"serverShutdown","E":1770123456789}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ]
    rows, out, refused = decoded(frames)
    assert sum(map(len, rows.values())) == 0
    assert (out.unknown, refused) == ({}, [])


def test_a_new_kind_of_message_is_counted_and_does_not_stop_the_others():
    rows, out, refused = decoded([b'{"stream":"x@dream","data":{"e":"dream","E":1}}', b'{"hello":1}', TRADE])
    assert out.unknown == {("bn", "message dream"): 1, ("bn", "message with hello"): 1}
    assert (len(rows["trades"]), refused) == (1, [])


def test_a_new_field_is_counted_once_and_its_messages_are_stored():
    newer = TRADE.replace(b'"M":true', b'"M":true,"zz":[1,{"a":2}]')
    rows, out, refused = decoded([newer, TRADE, newer, QUOTE.replace(b'"u":', b'"yy":1,"u":')])
    assert (len(rows["trades"]), len(rows["quotes"]), refused) == (3, 1, [])
    assert out.unknown == {("bn", "field trade.zz"): 1}
    _, out, _ = decoded(
        [KLINE.replace(b'"x":true', b'"x":true,"new":0'), QUOTE.replace(b'{"stream"', b'{"v":1,"stream"')]
    )
    assert set(out.unknown) == {("bn", "field kline.k.new")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"p":"0.001"', b'"p":"-0.001"'),
        (b'"p":"0.001"', b'"p":"nan"'),
        (b'"p":"0.001"', b'"p":"inf"'),
        (b'"p":"0.001"', b'"p":"0"'),
        (b'"q":"100"', b'"q":"-1"'),
        (b'"q":"100"', b'"q":"1e400"'),
        (b'"q":"100"', b'"q":[]'),
        (b'"T":1672515782136', b'"T":0'),
        (b'"T":1672515782136', b'"T":1672515782'),
        (b'"T":1672515782136', b'"T":99999999999999999999999'),
        (b'"T":1672515782136', b'"T":2524608000000'),
        (b'"t":12345', b'"t":-1'),
        (b'"t":12345', b'"t":9223372036854775808'),
        (b'"s":"BNBBTC"', b'"s":"bnb btc"'),
        (b'"s":"BNBBTC"', b'"s":""'),
        (b'"s":"BNBBTC",', b""),
        (b"}}", b"}"),
        (b'"BNBBTC"', b'"\xff"'),
    ],
)
def test_what_does_not_fit_is_refused_in_words_and_leaves_no_row(old, new):
    assert old in TRADE
    rows, _, refused = decoded([TRADE.replace(old, new), TRADE])
    assert len(refused) == 1
    assert len(rows["trades"]) == 1


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"1", b"null", b"\x00\xff", b'{"stream":1,"data":2}', b"[" * 9999]
)
def test_what_is_no_message_is_refused(payload):
    _, _, refused = decoded([payload])
    assert len(refused) == 1


@given(st.decimals(min_value=0, max_value=10**12, places=8).map(str) | st.floats(1e-300, 1e300).map(repr))
def test_prices_sent_as_text_are_what_float_reads(text):
    frame = TRADE.replace(b'"p":"0.001"', b'"p":"1"').replace(b'"q":"100"', f'"q":"{text}"'.encode())
    assert the_only(decoded([frame])[0], "trades")["size"] == float(text)


def test_seeded_mutations_of_frames_never_raise_anything_but_a_frame_error():
    rng, frames = random.Random(7), [TRADE, QUOTE, AGG, KLINE, INSURANCE, b'{"result":null,"id":1}']
    out = Output()
    feed = Binance(spec())
    decode = feed.decoder(out.scope("bn", 0))
    refused = 0
    for _ in range(20_000):
        frame = bytearray(rng.choice(frames))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(frame) + 1)
            match rng.randrange(4):
                case 0:
                    frame[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del frame[at : at + rng.randrange(8)]
                case 2:
                    frame[at:at] = rng.choice(
                        [b'"', b"}", b"[", b"-", b"1e999", b"null", b"\xff", b"\\u0000", b"9" * 20]
                    )
                case _:
                    frame = frame[:at] + rng.choice(frames)[rng.randrange(20) :]
        try:
            decode(bytes(frame), NOW)
        except FrameError:
            refused += 1
        feed.on_control(bytes(frame))
    decode(TRADE, NOW)
    rows = out.batches["trades"].seal().rows
    assert refused > 5_000
    assert rows[-1]["trade_id"] == 12345
    assert ((rows["price"] >= 0) & (rows["size"] >= 0) & (rows["trade_id"] >= 0)).all()
    assert ((rows["ts_event"] > 946684800 * 10**9) & (rows["ts_event"] <= NOW + 86400 * 10**9)).all()


# The session.


def test_it_subscribes_in_chunks_and_is_ready_when_every_one_was_answered():
    symbols = tuple(f"A{i}-USDT" for i in range(300))
    feed = Binance(spec(symbols=symbols))
    sends = feed.on_open()
    requests = [json.loads(send.payload) for send in sends if isinstance(send, Send)]
    assert [len(r["params"]) for r in requests] == [200, 200, 200]
    assert [r["id"] for r in requests] == [1, 2, 3]
    assert {r["method"] for r in requests} == {"SUBSCRIBE"}
    assert [s for r in requests for s in r["params"]][:3] == ["a0usdt@trade", "a0usdt@bookTicker", "a1usdt@trade"]
    assert feed.on_control(b'{"result":null,"id":3}') == []
    assert feed.on_control(b'{"result":null,"id":1}') == []
    assert feed.on_control(b'{"result":null,"id":1}') == []
    assert feed.on_control(b'{"result":null,"id":2}') == [Ready(symbols)]
    assert feed.on_control(b'{"result":null,"id":2}') == []


@pytest.mark.parametrize(
    "error",
    [
        b'{"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":1}',
        b'{"code":2,"msg":"Invalid request: too many parameters","id":1}',
    ],
)
def test_a_refused_subscription_is_noticed_and_the_others_go_on(error):
    symbols = tuple(f"A{i}-USDT" for i in range(150))
    feed = Binance(spec(symbols=symbols))
    feed.on_open()
    (notice,) = feed.on_control(error)
    assert notice == Notice(
        "subscription.refused", {"code": 2, "message": "Invalid request: too many parameters", "streams": 200}
    )
    assert feed.on_control(b'{"result":null,"id":2}') == [Ready(symbols[100:])]


def test_when_everything_is_refused_it_connects_again_after_a_while():
    feed = Binance(spec())
    feed.on_open()
    notice, reconnect = feed.on_control(b'{"error":{"code":3,"msg":"Invalid JSON"},"id":1}')
    assert isinstance(notice, Notice)
    assert isinstance(reconnect, Reconnect)
    assert reconnect.hold_ns >= 5_000_000_000


def test_an_announced_shutdown_makes_it_replace_the_connection():
    feed = Binance(spec())
    for frame in (
        b'{"e":"serverShutdown","E":1770123456789}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
    ):
        (command,) = feed.on_control(frame)
        assert isinstance(command, Renew)
        assert not any(frame.startswith(mark, at) for at, mark in feed.endpoint().data_marks)


def test_data_frames_have_a_mark_and_are_no_control():
    feed = Binance(spec(symbols=("BTC-USDT", "BNB-BTC")))
    for frame in (TRADE, QUOTE, AGG, KLINE):
        assert any(frame.startswith(mark, at) for at, mark in feed.endpoint().data_marks)
        assert feed.on_control(frame) == []


@pytest.mark.parametrize(
    ("market", "channels", "options", "expected"),
    [
        ("spot", ("trades", "quotes", "bars"), {}, [("wss://stream.binance.com:9443/stream", 3)]),
        ("coinm", ("trades", "quotes"), {}, [("wss://dstream.binance.com/stream", 2)]),
        (
            "usdm",
            ("trades", "quotes", "bars"),
            {},
            [("wss://fstream.binance.com/market/stream", 2), ("wss://fstream.binance.com/public/stream", 1)],
        ),
        ("usdm", ("trades", "quotes"), {"trades": "trade"}, [("wss://fstream.binance.com/public/stream", 2)]),
    ],
)
def test_each_market_has_its_endpoints_and_usdm_is_split_by_path(market, channels, options, expected):
    shards = Binance(spec(market, channels, **options)).shards()
    feeds = [Binance(shard) for shard in shards]
    assert [(feed.endpoint().url, len(json.loads(feed.on_open()[0].payload)["params"])) for feed in feeds] == expected
    assert [shard.connection for shard in shards] == list(range(len(expected)))


@pytest.mark.parametrize(("market", "limit"), [("spot", 1024), ("usdm", 200), ("coinm", 200)])
def test_symbols_are_spread_so_that_no_connection_has_more_streams_than_it_may(market, limit):
    suffix = {"spot": "-USDT", "usdm": "-USDT-PERP", "coinm": "-USD-PERP"}[market]
    symbols = tuple(f"A{i}{suffix}" for i in range(1500))
    seen: Counter[str] = Counter()
    for shard in Binance(spec(market, ("trades", "quotes", "bars"), symbols)).shards():
        streams = [s for send in Binance(shard).on_open() for s in json.loads(send.payload)["params"]]
        assert len(streams) <= limit
        seen.update(streams)
    assert len(seen) == 4500
    assert set(seen.values()) == {1}


def test_an_own_url_gets_the_path_unless_it_has_one():
    base = spec("usdm", ("quotes",))
    for url, expected in (
        ("ws://127.0.0.1:2000", "ws://127.0.0.1:2000/public/stream"),
        ("ws://127.0.0.1:2000/", "ws://127.0.0.1:2000/public/stream"),
        ("ws://h?timeUnit=MICROSECOND", "ws://h/public/stream?timeUnit=MICROSECOND"),
        ("ws://h/x", "ws://h/x"),
    ):
        replaced = FeedSpec(name="bn", provider="binance", channels=("quotes",), options=base.options, url=url)
        assert Binance(replaced).endpoint().url == expected


def test_wrong_options_channels_and_symbols_name_themselves():
    with pytest.raises(ConfigError, match="did you mean spot"):
        Binance(spec("spott"))
    with pytest.raises(ConfigError, match="did you mean trades"):
        Binance(spec(channels=("trade",)))
    with pytest.raises(SymbolError, match="perpetual"):
        Binance(spec(symbols=("BTC-USDT-PERP",)))


def test_it_tells_what_the_provider_can_do():
    capability = Binance(spec()).capability()
    assert capability.trade_ids == "contiguous"
    assert capability.life_ns == (23 * 3600 + 50 * 60) * 10**9
    assert capability.symbols_per_connection_max == 512
    assert set(MARKET_OF_HOST) == set(INFO.hosts)


# Recordings.


def trades_by_symbol(rows, out):
    result = {}
    for number in set(rows["series"].tolist()):
        part = rows[rows["series"] == number]
        result[out.series.keys[number][1]] = part
    return result


def check(part, expected, places):
    prices = [Decimal(repr(p)) for p in part["price"].tolist()]
    sizes = [Decimal(repr(s)) for s in part["size"].tolist()]
    assert len(part) == expected["n"]
    assert sum(sizes) == Decimal(expected["sum_size"])
    assert float(sum(p * s for p, s in zip(prices, sizes, strict=True)) / sum(sizes)) == pytest.approx(
        float(expected["vwap"]), rel=1e-14
    )
    assert (min(prices), max(prices)) == (Decimal(expected["min_price"]), Decimal(expected["max_price"]))
    assert int(part["ts_event"][0]) == expected["first_exchange_ns"]
    assert int(part["ts_event"][-1]) == expected["last_exchange_ns"]
    assert int(part["ts_recv"][0]) == expected["first_recv_ns"]
    assert int(part["ts_recv"][-1]) == expected["last_recv_ns"]


def hftbacktest_lines(path):
    for line in gzip.decompress(path.read_bytes()).splitlines():
        local, payload = line.split(b" ", 1)
        yield payload, int(local) * (1000 if len(local) == 16 else 1)


@pytest.mark.parametrize(
    ("name", "market"),
    [
        ("spot_btcusdt_20230405", "spot"),
        ("spot_btcusdt_20240808", "spot"),
        ("spot_btcusdt_20240809", "spot"),
        ("usdm_btcusdt_20230404", "usdm"),
        ("usdm_btcusdt_20230405", "usdm"),
        ("usdm_btcusdt_20240808", "usdm"),
        ("cm_btcusd_perp_20240808", "coinm"),
        ("cm_btcusd_perp_20240809", "coinm"),
    ],
)
def test_recorded_frames_give_exactly_the_trades_and_quotes_counted_from_them(shared_data, name, market):
    facts = json.loads((shared_data / "expected.json").read_text())
    facts = facts.get("files", facts)[f"hftbacktest/{name}.gz"]
    rows, out, refused = decoded(hftbacktest_lines(shared_data / "hftbacktest" / f"{name}.gz"), market)
    assert (refused, out.unknown) == ([], {})
    ((provider_name, expected),) = facts["trades_by_symbol"].items()
    parts = trades_by_symbol(rows["trades"], out)
    assert set(parts) == {
        {"BTCUSDT": "BTC-USDT", "BTCUSD_PERP": "BTC-USD-PERP"}[provider_name] + ("-PERP" if market == "usdm" else "")
    }
    check(next(iter(parts.values())), expected, 8)
    assert len(rows["quotes"]) == facts["messages_by_type"]["bookTicker"]
    not_market = expected.get("not_market_trades_counted_in_the_above", [])
    flagged = rows["trades"][(rows["trades"]["flags"] & NOT_LAST_ELIGIBLE) != 0]
    assert [[out.texts.name(r["conditions"]), r["price"], r["size"], r["ts_event"]] for r in flagged] == [
        [x, float(price), float(size), ts] for x, price, size, ts in not_market
    ]


def cryptofeed_frames(path):
    for line in gzip.decompress(path.read_bytes()).decode().split("\n"):
        stamp, separator, payload = line.partition(": ")
        if separator and stamp.replace(".", "", 1).isdigit():
            whole, _, fraction = stamp.partition(".")
            yield payload.encode(), int(whole) * 10**9 + int(fraction.ljust(9, "0"))


@pytest.mark.parametrize(
    ("name", "market"),
    [
        ("BINANCE/2021-04-05_BINANCE-b38f7c.0", "spot"),
        ("BINANCE/2021-04-17_BINANCE.ws.1.0", "spot"),
        ("BINANCE_FUTURES/2021-04-05_BINANCE_FUTURES-1125a2.0", "usdm"),
        ("BINANCE_FUTURES/2021-07-22_BINANCE_FUTURES.ws.1.0", "usdm"),
        ("BINANCE_DELIVERY/2021-07-22_BINANCE_DELIVERY.ws.1.0", "coinm"),
    ],
)
def test_recorded_logs_give_exactly_the_trades_counted_from_them(shared_data, name, market):
    from recorder.values.symbols import binance_canonical

    facts = json.loads((shared_data / "expected.json").read_text())
    facts = facts.get("files", facts)[f"cryptofeed/{name}.gz"]
    rows, out, refused = decoded(cryptofeed_frames(shared_data / "cryptofeed" / f"{name}.gz"), market)
    assert (refused, out.unknown) == ([], {})
    parts = trades_by_symbol(rows["trades"], out)
    assert set(parts) == {binance_canonical(s, market) for s in facts["trades_by_symbol"]}
    for provider_name, expected in facts["trades_by_symbol"].items():
        check(parts[binance_canonical(provider_name, market)], expected, 8)
    assert len(rows["quotes"]) == facts["messages_by_type"]["bookTicker"]
    assert len(rows["bars"]) <= facts["messages_by_type"].get("kline_1m", 0)


def test_another_projects_reading_of_the_same_messages_agrees(shared_data):
    lines = gzip.decompress((shared_data / "tardis-node" / "mapper_cases.jsonl.gz").read_bytes()).splitlines()
    cases = [json.loads(line) for line in lines]
    agreed = 0
    for case in cases:
        market = {"binance": "spot", "binance-futures": "usdm"}.get(case["exchange"])
        if market is None:
            continue
        rows, out, _ = decoded([json.dumps(case["message"]).encode()], market)
        assert out.unknown == {} or "openInterest" in case["message"]["stream"] or case["message"].get("generated")
        for expected in case["expected"]:
            if expected["type"] == "trade":
                row = the_only(rows, "trades")
                assert (str(row["trade_id"]), row["price"], row["size"]) == (
                    expected["id"],
                    expected["price"],
                    expected["amount"],
                )
                assert row["side"] == {"sell": SELL, "buy": BUY}[expected["side"]]
                agreed += 1
            elif expected["type"] == "book_ticker":
                row = the_only(rows, "quotes")
                assert (row["bid"], row["bid_size"], row["ask"], row["ask_size"]) == tuple(
                    float(expected[k]) for k in ("bidPrice", "bidAmount", "askPrice", "askAmount")
                )
                agreed += 1
    assert agreed == 6


def test_published_messages_of_the_futures_api_are_known_whole(shared_data):
    folder = shared_data / "nautilus" / "binance" / "futures" / "market_data_json"
    stored: Counter[str] = Counter()
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        if data.get("T") in (123456785, None) and "T" in data:
            data["T"] = 1672515782136  # the documentation's own placeholder is a day in 1970
        rows, out, refused = decoded([json.dumps(data).encode()], "usdm")
        assert (refused, out.unknown) == ([], {}), path.name
        stored.update({name: len(part) for name, part in rows.items()})
    assert (stored["trades"], stored["quotes"], stored["bars"]) == (2, 1, 1)


def test_a_trade_count_beyond_a_database_long_is_refused():
    _, _, refused = decoded([KLINE.replace(b'"n":100', b'"n":9223372036854775808')])
    assert len(refused) == 1
    assert LONG_NULL == -(1 << 63)
