"""Alpaca's options, which speak MessagePack only, and its news: rows, sessions, errors, and both over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np
import pytest
from conftest import QuestDB
from decoding import FRAME_END, Recorded
from fuzzing import mutations
from recorder_process import Recorder, external, until, write_config
from test_alpaca import KEYS, packed, timestamp
from test_connection import Told, connected, feed_of, impatient, reached
from test_overlap import folded

from recorder.core.market import ASK, ASK_SIZE, KIND, PRICE, QUOTE, SIZE, SYMBOL, TRADE, TS
from recorder.core.text_time import rfc3339_ns
from recorder.feeds import make
from recorder.shell.journal import Journal
from recorder.shell.simulator import Simulator
from recorder.values.errors import ConfigError, FrameError, SymbolError
from recorder.values.feed import FeedSpec, Historian, HistoryRequest, Notice, Ready, Reconnect
from recorder.values.tables import BACKFILLED, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE

__all__ = ["impatient"]

CONTRACTS = ("AAPL  240315C00172500", "SPXW  240327P04925000")
# As documented, https://docs.alpaca.markets/docs/real-time-option-data
DOCUMENTED = (
    b'[{"T":"t","S":"AAPL240315C00172500","t":"2024-03-11T13:35:35.13312256Z","p":2.84,"s":1,"x":"N","c":"S"},'
    b'{"T":"q","S":"SPXW240327P04925000","t":"2024-03-12T11:59:38.897261568Z","bx":"C","bp":9.46,"bs":53,"ax":"C",'
    b'"ap":9.66,"as":38,"c":"A"}]'
)
ARTICLE = {
    "T": "n", "id": 24918784, "headline": "Corsair Reports Purchase Of Majority Ownership", "summary": "",
    "author": "Benzinga Newsdesk", "created_at": "2022-01-05T22:00:37Z", "updated_at": "2022-01-05T22:00:38.5Z",
    "url": None, "content": "<p>Corsair</p>", "symbols": ["CRSR", "BTCUSD", "CRSR"], "source": "benzinga",
}  # fmt: skip


def options(**more: Any) -> Recorded:
    return Recorded("alpaca", CONTRACTS, feed="opra", **more)


def news() -> Recorded:
    feed = make(FeedSpec(name="f", provider="alpaca", symbols=("*",), channels=("news",), options={"feed": "news"}))
    recorded = Recorded("alpaca", ("*",))
    recorded.feed, recorded._decode = feed, feed.decoder(recorded.scope)
    return recorded


def spec_of(url: str | None = None, **fields: Any) -> FeedSpec:
    return FeedSpec(
        **{
            "name": "f", "provider": "alpaca", "symbols": CONTRACTS, "channels": ("trades", "quotes"), "url": url,
            "options": {"feed": "opra", "format": "msgpack"}, **fields,
        }
    )  # fmt: skip


def test_documented_messages_of_options_become_rows_under_their_occ_symbols() -> None:
    feed = options().decode(packed(DOCUMENTED))
    (trade,), (quote,) = feed.rows("trades"), feed.rows("quotes")
    assert trade.pop("trade_id") >= 0
    assert trade == {
        "ts_event": rfc3339_ns("2024-03-11T13:35:35.13312256Z"), "ts_recv": FRAME_END, "symbol": CONTRACTS[0],
        "exchange": "N", "price": 2.84, "size": 1.0, "conditions": "S", "flags": 0,
    }  # fmt: skip
    assert quote == {
        "ts_event": rfc3339_ns("2024-03-12T11:59:38.897261568Z"), "ts_recv": FRAME_END, "symbol": CONTRACTS[1],
        "bid": 9.46, "bid_size": 53.0, "ask": 9.66, "ask_size": 38.0, "bid_exchange": "C", "ask_exchange": "C",
        "conditions": "A", "flags": 0,
    }  # fmt: skip
    assert feed.unknown == {}
    assert feed.rows("rejected") == []


def test_trades_of_options_have_no_id_and_those_that_are_alike_stay_as_many_in_every_replay() -> None:
    frame = packed(DOCUMENTED)
    runs = []
    for _ in range(2):
        feed = options().decode(frame).decode(frame)
        runs.append([row["trade_id"] for row in feed.rows("trades")])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 2


PAST = {"t": "2024-03-11T13:35:35.13312256Z", "p": 2.84, "s": 1, "x": "N", "c": "S"}  # the documented trade, of history


def past(*trades: dict[str, Any], token: str | None = None) -> bytes:
    return msgspec.json.encode({"trades": {"AAPL240315C00172500": list(trades)}, "next_page_token": token})


def test_trades_of_history_are_the_streams_as_often_as_there_are_alike_and_however_often_they_are_asked_for() -> None:
    other = {**PAST, "p": 2.85}
    streamed = options().decode(packed(msgspec.json.encode([{"T": "t", "S": "AAPL240315C00172500", **each}
        for each in (PAST, PAST, other)])))  # fmt: skip
    sent = [(row["ts_event"], row["exchange"], row["trade_id"]) for row in streamed.rows("trades")]
    assert len(set(sent)) == 3
    ts = rfc3339_ns(str(PAST["t"]))
    request = HistoryRequest(CONTRACTS[0], "trades", ts, ts + 1)
    recorded = options()
    decode = cast(Historian, recorded.feed).history_decoder(recorded.scope)
    for pages in ([past(PAST, PAST, other)], [past(PAST, token="a"), past(token="b"), past(PAST, other)], [past(PAST)]):
        for body in pages:
            decode(request, body, FRAME_END)
    found = recorded.rows("trades")
    assert [(row["ts_event"], row["exchange"], row["trade_id"]) for row in found] == [*sent, *sent, sent[0]]
    assert {(row["flags"], row["conditions"]) for row in found} == {(BACKFILLED, "S")}


def test_trades_and_bars_of_options_are_remembered_and_of_the_indicative_feed_nothing() -> None:
    def asked(channel: str, **more: str) -> tuple[str, dict[str, list[str]]]:
        feed = cast(Historian, make(spec_of(), KEYS))
        assert feed.capability().history_channels == ("trades", "bars")
        pages = feed.history(HistoryRequest(CONTRACTS[0], channel, 10**18, 10**18 + 10**9, **more))  # type: ignore[arg-type]
        address = urlsplit(next(pages).url)
        return address.path, parse_qs(address.query)

    common = {
        "symbols": ["AAPL240315C00172500"], "start": ["2001-09-09T01:46:40.000000000Z"],
        "end": ["2001-09-09T01:46:41.000000000Z"], "limit": ["10000"], "sort": ["asc"],
    }  # fmt: skip
    assert asked("trades") == ("/v1beta1/options/trades", common)
    assert asked("bars", timeframe="1h") == ("/v1beta1/options/bars", {**common, "timeframe": ["1Hour"]})
    indicative = make(spec_of(options={"feed": "indicative", "format": "msgpack"}), KEYS)
    assert indicative.capability().history_channels == ()


@pytest.mark.parametrize(
    ("condition", "flags"),
    [(" ", 0), ("I", 0), ("S", 0), ("a", 0), ("A", NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE), ("B", NOT_LAST_ELIGIBLE),
     ("G", NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE), ("f", NOT_LAST_ELIGIBLE), ("t", NOT_LAST_ELIGIBLE),
     ("T", NOT_LAST_ELIGIBLE), ("z", NOT_LAST_ELIGIBLE)],
)  # fmt: skip
def test_opras_condition_decides_what_a_trade_counts_in(condition: str, flags: int) -> None:
    feed = options().decode(packed(DOCUMENTED.replace(b'"c":"S"', f'"c":"{condition}"'.encode())))
    assert [row["flags"] for row in feed.rows("trades")] == [flags]
    assert feed.unknown == ({"condition z of options": 1} if condition == "z" else {})


def test_what_is_no_contract_is_rejected_and_stops_nothing() -> None:
    bad = DOCUMENTED.replace(b"AAPL240315C00172500", b"AAPL240315X00172500")
    feed = options().decode(packed(bad))
    assert len(feed.rows("rejected")) == 1
    assert len(feed.rows("quotes")) == 1


@pytest.mark.parametrize("make_feed", [options, news])
def test_damaged_frames_raise_nothing_but_a_frame_error(make_feed: Any) -> None:
    good = packed(DOCUMENTED) if make_feed is options else packed(msgspec.json.encode([ARTICLE]))
    table = "trades" if make_feed is options else "news"
    feed, alone = make_feed().alone(), make_feed().decode(good).rows(table)
    for damaged in mutations((good, msgspec.json.encode([ARTICLE])), 2000, seed=5):
        before = feed.out.counts()
        try:
            feed.decode(damaged)
        except FrameError:
            assert feed.out.counts() == before
        feed.rows(table)
        feed.scope.kept("alike").clear()
        assert feed.decode(good).rows(table) == alone
        feed.scope.kept("alike").clear()


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_an_article_is_a_row_for_each_symbol_and_its_edition_another(form: str) -> None:
    def frame(article: dict[str, Any]) -> bytes:
        if form == "json":
            return msgspec.json.encode([article])
        times = {key: timestamp(rfc3339_ns(article[key])) for key in ("created_at", "updated_at")}
        return msgspec.msgpack.encode([article | times])

    feed = news().decode(frame(ARTICLE)).decode(frame(ARTICLE | {"symbols": [], "updated_at": "2022-01-06T00:00:00Z"}))
    rows = feed.rows("news")
    assert [(row["symbol"], row["ts_event"]) for row in rows] == [
        ("CRSR", rfc3339_ns("2022-01-05T22:00:38.5Z")), ("BTCUSD", rfc3339_ns("2022-01-05T22:00:38.5Z")),
        ("*", rfc3339_ns("2022-01-06T00:00:00Z")),
    ]  # fmt: skip
    assert {k: v for k, v in rows[0].items() if k not in ("ts_event", "ts_recv", "symbol")} == {
        "feed": "f", "news_id": 24918784, "created": rfc3339_ns("2022-01-05T22:00:37Z"),
        "headline": ARTICLE["headline"], "source": "benzinga", "author": "Benzinga Newsdesk", "content_chars": 14,
    }  # fmt: skip
    assert feed.unknown == {}


def test_a_long_article_is_cut_and_not_lost() -> None:
    long = ARTICLE | {"headline": "ü" * 10_000, "content": "x" * 3_000_000}
    (row, _) = news().decode(msgspec.json.encode([long])).rows("news")
    assert row["headline"] == "ü" * 4000
    assert row["content_chars"] == 3_000_000


def test_each_feed_has_its_address_and_its_own_spelling() -> None:
    for feed in ("opra", "indicative"):
        made = make(spec_of(options={"feed": feed}), KEYS)
        assert made.endpoint().url == f"wss://stream.data.alpaca.markets/v1beta1/{feed}"
        assert made.names == ("AAPL240315C00172500", "SPXW240327P04925000")
    articles = make(spec_of(options={"feed": "news"}, channels=("news",), symbols=("*",)), KEYS)
    assert articles.endpoint().url == "wss://stream.data.alpaca.markets/v1beta1/news"
    articles.on_control(b'[{"T":"success","msg":"connected"}]')
    (asked,) = articles.on_control(b'[{"T":"success","msg":"authenticated"}]')
    assert msgspec.msgpack.decode(asked.payload) == {"action": "subscribe", "news": ["*"]}  # type: ignore[union-attr]
    assert articles.on_control(b'[{"T":"subscription","news":["*"]}]') == [Ready(("*",))]


def test_what_options_cannot_be_asked_for_is_refused_before_it_is() -> None:
    with pytest.raises(ConfigError, match="MessagePack only"):
        make(spec_of(options={"feed": "opra", "format": "json"}))
    with pytest.raises(ConfigError, match="name the contracts"):
        make(spec_of(symbols=("*",)))
    with pytest.raises(ConfigError, match="no channel 'bars'"):
        make(spec_of(channels=("bars",)))
    with pytest.raises(SymbolError):
        make(spec_of(symbols=("AAPL",)))
    assert make(spec_of(symbols=("*",), channels=("trades",))).names == ("*",)


def conversation(rules: dict[str, Any], **fields: Any) -> tuple[list[str], str]:
    """The events of one connection until it is down or ready, and why."""
    told = Told()

    async def run(journal: Any) -> None:
        async with Simulator(["alpaca"], symbols=CONTRACTS, rate=200, rules={"alpaca": rules}) as place:
            feed = feed_of(spec_of(place.url("alpaca"), **fields), KEYS)
            async with connected(feed, journal, told):
                await reached(lambda: told.events)

    class Nowhere:
        """A journal that keeps nothing."""

        def __getattr__(self, _: str) -> Any:
            return lambda *_: 0

    asyncio.run(run(Nowhere()))
    return told.events, str(told.lines[-1][2])


@pytest.mark.parametrize(
    ("rules", "event", "words"),
    [
        ({}, "feed.connected", "symbols"),
        ({"keys": {"PKTEST": "another"}}, "feed.refused", "402"),
        ({"not_in_plan": ("opra",)}, "feed.refused", "409"),
        ({"symbols_max": 1}, "subscription.refused", "405"),
        ({"connections_max": 0}, "feed.unreachable", "406"),
    ],
)
def test_the_providers_errors_are_told_as_what_they_are(rules: dict[str, Any], event: str, words: str) -> None:
    events, last = conversation(rules)
    assert event in events
    if event != "subscription.refused":
        assert words in last


@pytest.mark.parametrize(
    ("code", "kind"), [(405, Notice), (410, Notice), (413, Notice), (406, Reconnect), (407, Notice), (500, Reconnect)]
)
def test_each_documented_error_in_messagepack_is_understood(code: int, kind: type) -> None:
    feed = make(spec_of(), KEYS)
    feed.on_open()
    feed.on_control(msgspec.msgpack.encode([{"T": "success", "msg": "connected"}]))
    feed.on_control(msgspec.msgpack.encode([{"T": "success", "msg": "authenticated"}]))
    error = msgspec.msgpack.encode([{"T": "error", "code": code, "msg": "as documented"}])
    first = feed.on_control(error)[0]
    assert isinstance(first, kind)
    assert str(code) in repr(first)


def test_what_happened_in_options_is_stored_to_the_digit(journal: Journal, happened: list[np.ndarray]) -> None:
    rows: dict[str, Any] = {}

    async def run() -> None:
        async with Simulator(["alpaca"], symbols=CONTRACTS, rate=3000, total=600) as place:
            feed = feed_of(spec_of(place.url("alpaca")), KEYS)
            async with connected(feed, journal, Told()) as connection:
                await reached(lambda: connection.ready)
                await place.finished()
                await reached(lambda: rows.update(folded(journal)) or len(rows["trades"]) >= 600)

    asyncio.run(run())
    events, names = np.concatenate(happened), rows["symbols"].tolist()
    assert sorted((names[r["series"]], r["ts_event"], r["price"], r["size"]) for r in rows["trades"]) == sorted(
        (CONTRACTS[e[SYMBOL]], e[TS], e[PRICE] / 100, e[SIZE]) for e in events[events[:, KIND] == TRADE].tolist()
    )
    columns = ("bid", "bid_size", "ask", "ask_size")
    found = {(names[r["series"]], r["ts_event"], *(r[c].item() for c in columns)) for r in rows["quotes"]}
    sent = {
        (CONTRACTS[e[SYMBOL]], e[TS], e[PRICE] / 100, e[SIZE], e[ASK] / 100, e[ASK_SIZE])
        for e in events[events[:, KIND] == QUOTE].tolist()
    }
    assert found <= sent
    assert len(found) > 100
    assert "rejected" not in rows


def test_articles_reach_the_database(tmp_path: Any, fresh_tables: QuestDB, free_port: Any) -> None:
    async def run() -> None:
        async with Simulator(["alpaca"], symbols=CONTRACTS, total=0) as place:
            port, url = free_port(), place.url("alpaca").replace("/opra", "/news")
            feeds = {
                "news": {
                    "provider": "alpaca", "feed": "news", "format": "json", "channels": ["news"], "symbols": ["*"],
                    "url": url,
                }
            }  # fmt: skip
            config = write_config(tmp_path, feeds, port, external(fresh_tables.sql_url))
            with Recorder(config, metrics_port=port, **KEYS) as recorder:
                await asyncio.to_thread(recorder.wait_event, "feed.connected")
                place.garbage("alpaca", msgspec.json.encode([ARTICLE]).decode())
                await asyncio.to_thread(
                    until, lambda: recorder.metric("recorder_rows_queryable_total") >= 2, "the article"
                )
                assert await asyncio.to_thread(recorder.end) == 0, recorder.text()

    asyncio.run(run())
    fresh_tables.wait_applied()
    query = "SELECT symbol, headline, news_id, url FROM news ORDER BY symbol"
    assert [tuple(row) for row in fresh_tables.sql.query(query).rows] == [
        (symbol, ARTICLE["headline"], ARTICLE["id"], None) for symbol in ("BTCUSD", "CRSR")
    ]
