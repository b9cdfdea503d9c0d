"""`recorder.provider`: typed rows of what a provider answers, and clear words for what it does not have."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_process import Exchange
from msgspec.structs import replace
from provider_of_actions import KEYS as ACTION_KEYS
from provider_of_actions import Providers, serving
from recorder_process import until

import recorder
from recorder.commands.library import NotOffered, Rows, row_type
from recorder.feeds import PROVIDERS
from recorder.shell.pace import Pace
from recorder.shell.simulator.asked import AskedSimulator
from recorder.shell.simulator.bars import made
from recorder.shell.simulator.cboe import Cboe
from recorder.shell.simulator.fix import FixSimulator
from recorder.shell.simulator.yahoo import YahooPages
from recorder.values.errors import ConfigError, FrameError, RecorderError
from recorder.values.tables import TABLES

SYMBOLS = {"coinbase": ["BTC-USD", "ETH-USD"], "alpaca": ["AAPL"]}
KEYS = {"APCA_API_KEY_ID": "k", "APCA_API_SECRET_KEY": "s"}
DAY = 86_400
FIRST = 1_704_067_200  # 2024-01-01, s
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def place() -> Iterator[Exchange]:
    rules = {name: {"requests": (1 << 30, 1), "keys": {"k": "s"}} for name in SYMBOLS}
    with Exchange(list(SYMBOLS), rate=200, symbols=SYMBOLS, rules=rules) as exchange:
        yield exchange


def provider(place: Exchange, name: str, **options: str) -> Any:
    return recorder.provider(name, keys=KEYS, url=place.urls[name], rest_url=place.rest_urls[name], **options)


def test_bars_come_as_structs_and_as_tables(place: Exchange) -> None:
    async def ask() -> Rows:
        async with provider(place, "alpaca") as alpaca:
            found: Rows = await alpaca.get_bars("AAPL", "2024-01-01", datetime.date(2024, 1, 2), "1h")
            return found

    bars = asyncio.run(ask())
    truth = made(0, FIRST, FIRST + DAY, 3600)
    assert [(b.ts_event, b.symbol, b.open, b.high, b.low, b.close, b.volume) for b in bars] == [
        (t.start * 10**9, "AAPL", *map(float, t[1:6])) for t in truth
    ]
    assert bars[0].timeframe == "1h"
    table = bars.arrow()
    assert table.column("ts_event")[0].as_py() == datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    assert table.column("close").to_pylist() == [b.close for b in bars]
    frame = bars[:3].pandas()
    assert list(frame["volume"]) == [b.volume for b in bars[:3]]


def test_quotes_of_the_past_are_those_that_the_provider_has(place: Exchange) -> None:
    def sent() -> list[Any]:
        headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
        request = urllib.request.Request(f"{place.rest_urls['alpaca']}/v2/stocks/quotes?symbols=AAPL", headers=headers)
        with urllib.request.urlopen(request) as answer:
            found: list[Any] = json.load(answer)["quotes"].get("AAPL", [])
            return found

    def ns(text: str) -> int:
        return int(np.datetime64(text.removesuffix("Z"), "ns").astype(int))

    async def ask() -> tuple[list[Any], Rows]:
        async with provider(place, "alpaca") as alpaca:
            listening = asyncio.create_task(alpaca.stream_trades(["AAPL"], lambda rows: None))  # it is a market then
            quotes = await asyncio.to_thread(until, lambda: len(found := sent()) >= 20 and found)
            listening.cancel()
            found: Rows = await alpaca.get_quotes("AAPL", ns(quotes[3]["t"]), ns(quotes[15]["t"]))
            return quotes, found

    quotes, found = asyncio.run(ask())
    expected = [q for q in quotes if ns(quotes[3]["t"]) <= ns(q["t"]) <= ns(quotes[15]["t"])]
    assert [(q.ts_event, q.symbol, q.bid, q.bid_size, q.ask, q.ask_size) for q in found] == [
        (ns(q["t"]), "AAPL", q["bp"], q["bs"], q["ap"], q["as"]) for q in expected
    ]
    assert len(found) >= 13
    assert str(found.pandas()["ts_event"].dtype) == "datetime64[ns, UTC]"


def test_trades_are_streamed_until_one_has_enough_and_are_those_that_were_sent(place: Exchange) -> None:
    async def listen() -> tuple[list[Any], Rows, Any]:
        found: list[Any] = []
        enough = asyncio.Event()

        async def more(rows: Rows) -> None:
            found.extend(rows)
            if len(found) > 100:
                enough.set()

        async with provider(place, "coinbase") as coinbase:
            streaming = asyncio.create_task(coinbase.stream_trades(["BTC-USD", "ETH-USD"], more))
            await asyncio.wait_for(enough.wait(), DEADLINE_S)
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
            quote = await coinbase.get_latest_quote("ETH-USD")
            past = await coinbase.get_trades("BTC-USD", found[0].ts_event - DAY * 10**9, found[-1].ts_event)
        return found, past, quote

    found, past, quote = asyncio.run(listen())
    sent = place.trades("coinbase")
    live = [row for row in found if not row.flags & 8]
    assert live
    assert all(sent[row.symbol][row.trade_id] == (row.price, row.size) for row in live)
    ids = {row.trade_id for row in past}
    assert {row.trade_id for row in live if row.symbol == "BTC-USD"} <= ids
    assert quote.symbol == "ETH-USD"
    assert quote.bid < quote.ask


def test_a_chain_comes_whole_or_of_one_expiration() -> None:
    async def ask(url: str) -> tuple[Rows, Rows]:
        async with recorder.provider("cboe", rest_url=url) as cboe:
            whole = await cboe.get_options_chain("AAPL")
            day = datetime.datetime.fromtimestamp(whole[0].expiration // 10**9, datetime.UTC).date()
            return whole, await cboe.get_options_chain("AAPL", day)

    now = time.time_ns()  # of both answers: strikes lie around a price that moves
    with AskedSimulator(Cboe(("AAPL",), lambda: now, 3, 9)) as served:
        whole, one = asyncio.run(ask(served.url))
    assert (len(whole), len(one)) == (2 * 3 * 9, 2 * 9)
    assert {leg.underlying for leg in whole} == {"AAPL"}
    assert len({leg.ts_event for leg in whole}) == 1
    assert {leg.symbol for leg in one} == {leg.symbol for leg in whole if leg.expiration == one[0].expiration}
    assert one.polars()["strike"].to_list() == [leg.strike for leg in one]


def test_corporate_actions_of_several_symbols_are_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "wait_s", lambda pace, capability: 0.0)  # what it waits is tested in test_pace
    splits = [
        {"id": f"s{i}", "ticker": ticker, "execution_date": "2024-06-10", "split_from": 1, "split_to": to}
        for i, (ticker, to) in enumerate([("NVDA", 10), ("AVGO", 5)])
    ]

    async def ask(url: str) -> Rows:
        async with recorder.provider("polygon", keys=ACTION_KEYS, rest_url=url) as polygon:
            found: Rows = await polygon.get_corporate_actions(["NVDA", "AVGO"], "2024-01-01", "2024-12-31")
            return found

    with serving(Providers(splits=splits)) as served:
        actions = asyncio.run(ask(served.url))
    assert {(each.symbol, each.action_type, each.ratio) for each in actions} == {
        ("NVDA", "split", 10.0), ("AVGO", "split", 5.0)
    }  # fmt: skip


def test_what_does_not_fit_of_an_answer_is_told_and_costs_no_other_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "wait_s", lambda pace, capability: 0.0)
    good = {"id": "s", "ticker": "NVDA", "execution_date": "2024-06-10", "split_from": 1, "split_to": 10}
    bad = {**good, "id": "b", "split_from": 0}

    async def ask(url: str) -> Rows:
        async with recorder.provider("polygon", keys=ACTION_KEYS, rest_url=url) as polygon:
            found: Rows = await polygon.get_corporate_actions(["NVDA"], "2024-01-01", "2024-12-31")
            return found

    with serving(Providers(splits=[good, bad])) as served:
        actions = asyncio.run(ask(served.url))
    assert [each.action_id for each in actions] == ["s"]
    assert actions.rejected == actions[:1].rejected == ("ZeroDivisionError: float division by zero",)
    with serving(Providers(splits=[bad])) as served, pytest.raises(FrameError, match="division by zero"):
        asyncio.run(ask(served.url))


def test_bars_of_a_provider_of_two_interfaces_come_with_the_options_of_either() -> None:
    day = 1_764_253_800  # 2025-11-27 14:30 UTC

    async def ask(url: str, **options: str) -> Rows:
        async with recorder.provider("yahoo", rest_url=url, **options) as yahoo:
            found: Rows = await yahoo.get_bars("AAPL", day * 10**9, (day + 3600) * 10**9, "5m")
            return found

    with AskedSimulator(YahooPages(("AAPL",), lambda: (day + 7200) * 10**9)) as served:
        found = [asyncio.run(ask(served.url, **options)) for options in ({}, {"api": "rest"})]
    assert [bar.close for bar in found[0]] == [bar.close for bar in found[1]]
    assert len(found[0]) > 1


def test_what_a_provider_does_not_have_is_said_with_who_has() -> None:
    async def each() -> None:
        async with recorder.provider("kraken") as kraken:
            with pytest.raises(NotOffered, match=r"kraken has no option chains to ask for; .*cboe"):
                await kraken.get_options_chain("AAPL")
            with pytest.raises(NotOffered, match="tells no corporate actions; alpaca"):
                await kraken.get_corporate_actions(["AAPL"], "2024-01-01", "2024-02-01")
            with pytest.raises(ConfigError, match="no bars of '7m'"):
                await kraken.get_bars("BTC-USD", "2024-01-01", "2024-01-02", "7m")
            with pytest.raises(ConfigError, match="start yesterdayish: no date or time"):
                await kraken.get_bars("BTC-USD", "yesterdayish", "2024-01-02")
        async with recorder.provider("cboe") as cboe:
            with pytest.raises(NotOffered, match="has no stream of trades; alpaca"):
                await cboe.stream_trades(["AAPL"], print)
        async with recorder.provider("bitstamp") as bitstamp:
            with pytest.raises(NotOffered, match="bitstamp has no history of trades"):
                await bitstamp.get_trades("BTC-USD", "2024-01-01", "2024-01-02")

    asyncio.run(each())
    with pytest.raises(ConfigError, match="did you mean coinbase"):
        recorder.provider("coinbse")


def test_a_symbol_in_any_spelling_gives_the_rows_of_its_canonical_one(place: Exchange) -> None:
    async def ask() -> list[Rows]:
        async with provider(place, "coinbase") as coinbase:
            return [await coinbase.get_bars(name, "2024-01-01", "2024-01-02", "1h") for name in ("BTC-USD", "btc/usd")]

    canonical, spelled = asyncio.run(ask())
    assert len(canonical) == 25
    assert [replace(bar, ts_recv=0) for bar in spelled] == [replace(bar, ts_recv=0) for bar in canonical]


ALPACA: dict[str, Any] = {"keys": KEYS, "url": "ws://127.0.0.1:1", "rest_url": "http://127.0.0.1:1"}
DAYS = ("2024-01-01", "2024-01-02")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda p: p.get_bars(7, *DAYS), "symbol is 7"),
        (lambda p: p.get_bars(" ", *DAYS), "symbol is ' '"),
        (lambda p: p.get_bars("*", *DAYS), "name each of them"),
        (lambda p: p.get_bars("../account", *DAYS), "'../account' is not a ticker"),
        (lambda p: p.get_bars("AAPL?x=1", *DAYS), "is not a ticker"),
        (lambda p: p.get_bars("AAPL", *reversed(DAYS)), "start 2024-01-02 lies after end 2024-01-01"),
        (lambda p: p.get_bars("AAPL", None, DAYS[1]), "start is None; expected a day"),
        (lambda p: p.get_bars("AAPL", DAYS[0], 1.5), "end is 1.5; expected a day"),
        (lambda p: p.get_bars("AAPL", True, DAYS[1]), "start is True"),
        (lambda p: p.get_trades("AAPL", -1, 1), "outside of 1970 to 2262"),
        (lambda p: p.get_bars("AAPL", *DAYS, None), "timeframe is None"),
        (lambda p: p.get_options_chain("AAPL", "soon"), "expiration soon: no date"),
        (lambda p: p.get_latest_quote(None), "symbol is None"),
        (lambda p: p.stream_trades([], print), "empty list"),
        (lambda p: p.stream_trades(7, print), "symbols are 7"),
        (lambda p: p.stream_trades(["AAPL", 7], print), "symbol is 7"),
        (lambda p: p.stream_trades("AAPL", None), "callback is a NoneType"),
        (lambda p: p.get_corporate_actions([], *DAYS), "empty list"),
        (lambda p: p.get_corporate_actions(["A/../B"], *DAYS), "is not a ticker"),
    ],
)
def test_arguments_that_cannot_be_are_said_before_anybody_is_asked(ask: Any, words: str) -> None:
    async def said() -> None:
        async with recorder.provider("alpaca", **ALPACA) as alpaca:
            await ask(alpaca)

    with pytest.raises(RecorderError, match=re.escape(words)):
        asyncio.run(said())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fed": "sip"}, "alpaca.fed is not a key of a alpaca feed; did you mean feed?"),
        ({"feed": "spi"}, 'alpaca.feed is "spi"; did you mean sip?'),
        ({"feed": 7}, "alpaca.feed is 7"),
        ({"url": "ws://10.0.0.1"}, "unencrypted"),
        ({"url": "wss://x/?token=t"}, "holds a user, password, key or token"),
        ({"keys": {"APCA_API_KEY": "k"}}, "nobody wants 'APCA_API_KEY'; did you mean APCA_API_KEY_ID?"),
        ({"keys": {"APCA_API_KEY_ID": 7}}, "APCA_API_KEY_ID is a int; expected a text"),
    ],
)
def test_settings_that_cannot_be_are_said_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        recorder.provider("alpaca", **settings)


@pytest.mark.parametrize("name", ["alpaca", "alphavantage", "etrade", "polygon"])
def test_keys_that_are_not_there_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in PROVIDERS[name].credentials:
        monkeypatch.delenv(key, raising=False)

    async def ask() -> None:
        async with recorder.provider(name, url="ws://127.0.0.1:1", rest_url="http://127.0.0.1:1") as provider:
            if name == "alphavantage":
                await provider.get_bars("AAPL", *DAYS)
            else:
                await provider.get_latest_quote("AAPL")

    with pytest.raises(ConfigError, match=f"{name} wants a key: set {' and '.join(PROVIDERS[name].credentials)} in"):
        asyncio.run(ask())


def test_a_stream_that_is_refused_for_good_says_so(place: Exchange) -> None:
    async def listen() -> None:
        settings = {"url": place.urls["alpaca"], "rest_url": place.rest_urls["alpaca"]}
        async with recorder.provider("alpaca", keys={**KEYS, "APCA_API_SECRET_KEY": "wrong"}, **settings) as alpaca:
            await asyncio.wait_for(alpaca.stream_trades("AAPL", print), DEADLINE_S)

    with pytest.raises(RecorderError, match=r"alpaca: .*auth"):
        asyncio.run(listen())


@pytest.mark.parametrize("how", ["callback", "cancelled", "left", "quoted"])
def test_nothing_is_left_of_a_stream_that_has_ended(
    place: Exchange, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def listen() -> None:
        came = asyncio.Event()

        def more(rows: Rows) -> None:
            came.set()
            if how == "callback":
                raise ZeroDivisionError("of the caller's")

        async with provider(place, "coinbase") as coinbase:
            if how == "quoted":
                await coinbase.get_latest_quote("BTC-USD")
            else:
                streaming = asyncio.create_task(coinbase.stream_trades("BTC-USD", more))
                await asyncio.wait_for(came.wait(), DEADLINE_S)
                if how == "cancelled":
                    streaming.cancel()
                if how != "left":
                    with pytest.raises((ZeroDivisionError, asyncio.CancelledError)):
                        await streaming
            if how != "left":
                assert asyncio.all_tasks() == {asyncio.current_task()}
                assert not [*tmp_path.iterdir()]
        if how == "left":
            await asyncio.wait({streaming}, timeout=DEADLINE_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not [*tmp_path.iterdir()]

    asyncio.run(listen())


def test_all_who_ask_a_provider_keep_one_pace(place: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Pace] = []
    turn = Pace.turn

    async def noted(pace: Pace, capability: Any) -> None:
        kept.append(pace)
        await turn(pace, capability)

    monkeypatch.setattr(Pace, "turn", noted)

    async def ask() -> None:
        async with provider(place, "alpaca") as one, provider(place, "alpaca") as other:
            await asyncio.gather(*(each.get_bars("AAPL", *DAYS, "1h") for each in (one, one, other)))

    asyncio.run(ask())
    assert len(kept) >= 3
    assert len({id(pace) for pace in kept}) == 1


def test_a_fix_counterparty_is_listened_to_like_any_provider() -> None:
    async def listen() -> tuple[Any, list[Any]]:
        found: list[Any] = []
        enough = asyncio.Event()

        def more(rows: Rows) -> None:
            found.extend(rows)
            if len(found) >= 20:
                enough.set()

        async with FixSimulator(symbols=("EUR/USD",), rate=200) as venue:
            settings = {"url": venue.url, "sender": "RECORDER", "target": "FEED", "names": "EUR-USD=EUR/USD"}
            async with recorder.provider("fix", **settings) as counterparty:
                quote = await counterparty.get_latest_quote("EUR-USD")
                streaming = asyncio.create_task(counterparty.stream_trades("EUR-USD", more))
                await asyncio.wait_for(enough.wait(), DEADLINE_S)
                streaming.cancel()
                await asyncio.gather(streaming, return_exceptions=True)
        return quote, found

    quote, found = asyncio.run(listen())
    assert (quote.symbol, quote.bid < quote.ask) == ("EUR-USD", True)
    assert {row.symbol for row in found} == {"EUR-USD"}
    with pytest.raises(ConfigError, match='numbers = "keep" is for recorders'):
        asyncio.run(kept_numbers())


async def kept_numbers() -> None:
    async with recorder.provider(
        "fix", url="tcp://127.0.0.1:1", sender="A", target="B", numbers="keep"
    ) as counterparty:
        await counterparty.stream_trades("EUR-USD", print)


def test_an_answer_that_is_an_error_is_raised(place: Exchange) -> None:
    async def ask(symbol: str) -> None:
        async with provider(place, "alpaca") as alpaca:
            await alpaca.get_bars(symbol, "2024-01-01", "2024-01-02", "1h")

    place.fail_http("alpaca", 403)
    with pytest.raises(RecorderError, match="alpaca: HTTP 403"):
        asyncio.run(ask("AAPL"))


@pytest.mark.parametrize("name", ["trades", "quotes", "bars", "options_chain", "corporate_actions"])
def test_rows_have_the_columns_of_their_table(name: str) -> None:
    table = TABLES[name]
    fields = row_type(table).__struct_fields__
    expected = [
        part for column in table.columns for part in (("feed", "symbol") if column.name == "series" else (column.name,))
    ]
    assert list(fields) == expected
