"""Each simulated provider talks as the real one does: greeting, acknowledgements, heartbeats, documented errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
import websockets
from simulator_client import (
    AUTH,
    KEYS,
    ask,
    bitstamp_trades,
    collect,
    get,
    heard,
    run,
)
from websockets.asyncio.client import ClientConnection

from recorder.shell.simulator import Simulator
from recorder.shell.simulator.deribit import Deribit
from recorder.shell.simulator.venue import Close
from recorder.shell.simulator.venues import make_venue

# Coinbase


def test_coinbase_exchange_acknowledges_then_sends_the_last_match_of_what_is_new() -> None:
    async def test() -> None:
        async with Simulator(["coinbase"], total=0) as sim, websockets.connect(sim.url("coinbase")) as ws:
            request = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["matches"]}
            ack, last = await ask(ws, request, 2)
            assert ack == {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}]}
            assert (last["type"], last["product_id"], last["trade_id"]) == ("last_match", "BTC-USD", 999_999)
            again = await ask(ws, request | {"channels": [{"name": "heartbeat", "product_ids": ["ETH-USD"]}]})
            assert again["channels"] == [
                {"name": "matches", "product_ids": ["BTC-USD"]},
                {"name": "heartbeat", "product_ids": ["ETH-USD"]},
            ]
            [beat] = await heard(ws, lambda message: message["type"] == "heartbeat")
            assert (beat["product_id"], beat["last_trade_id"]) == ("ETH-USD", 999_999)
            gone = await ask(ws, request | {"type": "unsubscribe"})
            assert gone["channels"] == [{"name": "heartbeat", "product_ids": ["ETH-USD"]}]

    run(test)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"type": "subscribe", "product_ids": ["FOO-USD"], "channels": ["matches"]}, "FOO-USD is not a valid product"),
        ({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["trades"]}, "trades is not a valid channel"),
        ({"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["level2"]}, "requires authentication"),
        ({"type": "hello"}, "hello is not a valid type"),
        ([1], "not a JSON object"),
    ],
)
def test_coinbase_exchange_refuses_wrong_requests_in_its_own_form(request_: Any, reason: str) -> None:
    async def test() -> None:
        async with Simulator(["coinbase"], total=0) as sim, websockets.connect(sim.url("coinbase")) as ws:
            answer = await ask(ws, request_)
            assert answer["type"] == "error"
            assert reason in answer["reason"]

    run(test)


@pytest.mark.parametrize("provider", ["coinbase", "coinbase-advanced"])
def test_coinbase_cuts_a_client_that_does_not_subscribe_in_time(provider: str) -> None:
    now = [0]

    def wall() -> int:
        now[0] += 6_000_000_000
        return now[0]

    async def test() -> None:
        async with Simulator([provider], total=0, wall=wall) as sim, websockets.connect(sim.url(provider)) as ws:
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1008

    run(test)


def test_coinbase_advanced_numbers_every_message_of_a_connection() -> None:
    async def test() -> None:
        async with Simulator(["coinbase-advanced"], rate=2000, total=300) as sim:
            async with websockets.connect(sim.url("coinbase-advanced")) as ws:
                for channel in ("market_trades", "ticker", "heartbeats"):
                    await ws.send(json.dumps({"type": "subscribe", "product_ids": ["BTC-USD"], "channel": channel}))
                messages = await heard(ws, lambda message: message["channel"] == "heartbeats")
                await sim.finished()
                messages += await heard(ws, lambda message: message["channel"] == "heartbeats")
            assert [message["sequence_num"] for message in messages] == list(range(len(messages)))
            channels = {message["channel"] for message in messages}
            assert channels == {"subscriptions", "market_trades", "ticker", "heartbeats"}
            assert messages[0]["events"][0]["type"] == "snapshot"

    run(test)


# Binance


def test_binance_takes_streams_from_the_address_and_from_messages() -> None:
    async def test() -> None:
        async with (
            Simulator(["binance"], total=0) as sim,
            websockets.connect(sim.url("binance") + "?streams=btcusdt@trade/ethusdt@bookTicker") as ws,
        ):
            assert await ask(ws, {"method": "SUBSCRIBE", "params": ["solusdt@trade"], "id": 7}) == {
                "result": None,
                "id": 7,
            }
            listed = await ask(ws, {"method": "LIST_SUBSCRIPTIONS", "id": "x"})
            assert listed == {"result": ["btcusdt@trade", "ethusdt@bookTicker", "solusdt@trade"], "id": "x"}
            await ask(ws, {"method": "UNSUBSCRIBE", "params": ["btcusdt@trade"], "id": 8})
            listed = await ask(ws, {"method": "LIST_SUBSCRIPTIONS", "id": 9})
            assert listed["result"] == ["ethusdt@bookTicker", "solusdt@trade"]

    run(test)


def test_binance_sends_raw_streams_bare_and_in_microseconds_when_asked() -> None:
    async def test() -> None:
        async with Simulator(
            ["binance"], rate=5000, total=100, quotes=0, wall=lambda: 1_700_000_000_123_456_000
        ) as sim:
            url = f"ws://127.0.0.1:{sim.port}/binance/ws/btcusdt@trade?timeUnit=MICROSECOND"
            async with websockets.connect(url) as ws:
                trade = json.loads(await ws.recv())
                assert (trade["e"], trade["s"], trade["t"]) == ("trade", "BTCUSDT", 1_000_000)
                assert trade["T"] // 1000 == 1_700_000_000_123

    run(test)


@pytest.mark.parametrize(
    ("request_", "code"),
    [("nonsense", 3), ({"method": "HELLO", "id": 1}, 2), ({"method": "SUBSCRIBE", "params": [1], "id": 1}, 2)],
)
def test_binance_refuses_wrong_requests_in_its_own_form(request_: Any, code: int) -> None:
    async def test() -> None:
        async with Simulator(["binance"], total=0) as sim, websockets.connect(sim.url("binance")) as ws:
            answer = await ask(ws, request_)
            assert answer["error"]["code"] == code

    run(test)


def test_binance_cuts_a_client_that_talks_too_much() -> None:
    async def test() -> None:
        async with Simulator(["binance"], total=0) as sim, websockets.connect(sim.url("binance")) as ws:
            for number in range(6):
                await ws.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                await heard(ws, lambda _: False)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1008

    run(test)


# Kraken


def test_kraken_greets_acknowledges_each_symbol_and_refuses_unknown_ones() -> None:
    async def test() -> None:
        async with Simulator(["kraken"], total=0) as sim, websockets.connect(sim.url("kraken")) as ws:
            status = json.loads(await ws.recv())
            assert (status["channel"], status["data"][0]["system"]) == ("status", "online")
            params = {"channel": "trade", "symbol": ["BTC/USD", "FOO/USD", "ETH/USD"], "snapshot": True}
            request = {"method": "subscribe", "params": params, "req_id": 5}
            *acks, first, second = await ask(ws, request, 5)
            assert [ack["success"] for ack in acks] == [True, False, True]
            assert {ack["req_id"] for ack in acks} == {5}
            assert acks[1]["error"] == "Currency pair not supported FOO/USD"
            assert [m["type"] for m in (first, second)] == ["snapshot", "snapshot"]
            pong = await ask(ws, {"method": "ping", "req_id": 6})
            assert (pong["method"], pong["req_id"]) == ("pong", 6)
            [beat] = await heard(ws, lambda _: True)
            assert beat == {"channel": "heartbeat"}

    run(test)


# Bitstamp


def test_bitstamp_acknowledges_answers_heartbeats_and_refuses_in_its_own_form() -> None:
    def request(action: str, channel: object) -> dict[str, Any]:
        return {"event": f"bts:{action}", "data": {"channel": channel}}

    async def test() -> None:
        async with Simulator(["bitstamp"], total=0) as sim, websockets.connect(sim.url("bitstamp")) as ws:
            for action, done in (("subscribe", "subscription"), ("unsubscribe", "unsubscription")):
                answer = await ask(ws, request(action, "live_trades_btcusd"))
                assert answer == {"event": f"bts:{done}_succeeded", "channel": "live_trades_btcusd", "data": {}}
            beat = await ask(ws, {"event": "bts:heartbeat"})
            assert beat == {"event": "bts:heartbeat", "channel": "", "data": {"status": "success"}}
            for wrong in (request("subscribe", "live_trades_foousd"), request("subscribe", 5), {"event": "bts:hello"}):
                refused = await ask(ws, wrong)
                assert (refused["event"], refused["data"]["message"]) == ("bts:error", "Bad subscription string.")
            assert (await ask(ws, [1]))["data"]["message"] == "Incorrect JSON format."
            sim.fail("bitstamp", 4)
            assert (await ask(ws, request("subscribe", "order_book_btcusd")))["data"]["code"] == 4

    run(test)


def test_bitstamps_transactions_have_whole_seconds_so_they_are_no_rows_of_the_stream() -> None:
    now = 1_700_000_000_123_456_000

    async def test() -> None:
        async with Simulator(
            ["bitstamp"], rate=20_000, total=50, quotes=0, symbols=["BTC-USD"], wall=lambda: now
        ) as sim:
            async with websockets.connect(sim.url("bitstamp")) as ws:
                await ask(ws, {"event": "bts:subscribe", "data": {"channel": "live_trades_btcusd"}})
                live = await collect(ws, bitstamp_trades, 50)
            base = f"{sim.rest_url('bitstamp')}/api/v2/transactions/btcusd/"
            _, past = await get(f"{base}?time=minute")
            assert [int(trade["tid"]) for trade in past] == [trade["id"] for trade in live][::-1]
            assert {trade["date"] for trade in past} == {"1700000000"}
            assert all(len(trade["microtimestamp"]) == 16 for trade in live)
            assert (await get(f"{base}?time=week"))[0] == 400
            assert (await get(base.replace("btcusd", "foousd")))[0] == 404

    run(test)


# Deribit


def rpc(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


def test_deribit_answers_in_json_rpc_and_leaves_out_what_it_does_not_know() -> None:
    channels = ["trades.BTC-PERPETUAL.100ms", "trades.FOO-PERPETUAL.100ms", "quote.BTC-PERPETUAL"]

    async def test() -> None:
        async with Simulator(["deribit"], total=0) as sim, websockets.connect(sim.url("deribit")) as ws:
            assert (await ask(ws, rpc("public/set_heartbeat", interval=10)))["result"] == "ok"
            answer = await ask(ws, rpc("public/subscribe", channels=channels))
            assert (answer["id"], answer["result"]) == (7, [channels[0], channels[2]])
            assert (await ask(ws, rpc("public/unsubscribe", channels=channels[:1])))["result"] == channels[:1]
            for wrong, code in (
                (rpc("public/hello"), -32601),
                (rpc("public/set_heartbeat", interval=5), -32602),
                (rpc("public/subscribe", channels=["trades.BTC-PERPETUAL.raw"]), 13778),
                ([1], -32700),
            ):
                assert (await ask(ws, wrong))["error"]["code"] == code

    run(test)


def test_deribit_closes_the_session_of_a_client_without_credits() -> None:
    async def test() -> None:
        rules = {"deribit": {"credits": 6000}}
        async with (
            Simulator(["deribit"], total=0, rules=rules, wall=lambda: 10**18) as sim,
            websockets.connect(sim.url("deribit")) as ws,
        ):
            request = rpc("public/subscribe", channels=["quote.BTC-PERPETUAL"])
            for _ in range(2):
                assert "result" in await ask(ws, request)
            assert (await ask(ws, request))["error"] == {"code": 10028, "message": "too_many_requests"}
            with pytest.raises(websockets.ConnectionClosed):
                await ws.recv()

    run(test)


def test_deribit_closes_a_client_that_leaves_a_test_request_unanswered() -> None:
    talk = Deribit(make_venue("deribit", ["BTC-USD-PERP"], lambda: 10**18, {}), "", {})
    talk.received(json.dumps(rpc("public/set_heartbeat", interval=10)))
    for answered in (True, False):
        said = [reply for _ in range(10) for reply in talk.second()]
        assert [json.loads(str(reply))["params"] for reply in said] == [{"type": "test_request"}]
        if answered:
            talk.received(json.dumps(rpc("public/test")))
    assert isinstance([reply for _ in range(10) for reply in talk.second()][-1], Close)


# Alpaca


async def alpaca(ws: ClientConnection, *requests: Any) -> list[Any]:
    """Answers to requests, after the greeting."""
    assert json.loads(await ws.recv()) == [{"T": "success", "msg": "connected"}]
    return [(await ask(ws, request))[0] for request in requests]


ALPACA_ERRORS = [
    (400, "/v2/iex", {}, [{"action": "nonsense"}]),
    (400, "/v2/iex", {}, [AUTH, {"action": "subscribe", "trades": ["a b"]}]),
    (401, "/v2/iex", {}, [{"action": "subscribe", "trades": ["AAPL"]}]),
    (402, "/v2/iex", {}, [AUTH | {"secret": "wrong"}]),
    (403, "/v2/iex", {}, [AUTH, AUTH]),
    (405, "/v2/iex", {"symbols_max": 1}, [AUTH, {"action": "subscribe", "trades": ["AAPL", "SPY"]}]),
    (406, "/v2/iex", {"connections_max": 0}, [AUTH]),
    (409, "/v2/sip", {"not_in_plan": ("sip",)}, [AUTH]),
    (410, "/v1beta3/crypto/us", {}, [AUTH, {"action": "subscribe", "lulds": ["*"]}]),
    (412, "/v1beta1/opra", {}, [AUTH]),
]


@pytest.mark.parametrize(("code", "path", "rules", "requests"), ALPACA_ERRORS)
def test_alpaca_answers_with_its_documented_errors(
    code: int, path: str, rules: dict[str, object], requests: list[Any]
) -> None:
    async def test() -> None:
        async with (
            Simulator(["alpaca"], total=0, rules={"alpaca": KEYS | rules}) as sim,
            websockets.connect(f"ws://127.0.0.1:{sim.port}/alpaca{path}") as ws,
        ):
            *fine, last = await alpaca(ws, *requests)
            assert all(answer["T"] == "success" for answer in fine)
            assert (last["T"], last["code"]) == ("error", code)

    run(test)


def test_alpaca_refuses_a_star_of_option_quotes_in_messagepack() -> None:
    async def test() -> None:
        async with Simulator(["alpaca"], total=0) as sim:
            headers = {"Content-Type": "application/msgpack"}
            url = f"ws://127.0.0.1:{sim.port}/alpaca/v1beta1/opra"
            async with websockets.connect(url, additional_headers=headers) as ws:
                assert msgspec.msgpack.decode(await ws.recv()) == [{"T": "success", "msg": "connected"}]
                await ws.send(msgspec.msgpack.encode(AUTH))
                assert msgspec.msgpack.decode(await ws.recv())[0]["msg"] == "authenticated"
                await ws.send(msgspec.msgpack.encode({"action": "subscribe", "quotes": ["*"]}))
                assert msgspec.msgpack.decode(await ws.recv())[0]["code"] == 413

    run(test)


def test_alpaca_gives_the_slot_of_a_closed_connection_to_the_next() -> None:
    async def test() -> None:
        async with (
            Simulator(["alpaca"], total=0, rules={"alpaca": KEYS}) as sim,
            websockets.connect(sim.url("alpaca")) as first,
            websockets.connect(sim.url("alpaca")) as second,
        ):
            assert (await alpaca(first, AUTH))[0]["msg"] == "authenticated"
            assert (await alpaca(second, AUTH))[0]["code"] == 406
            await first.close()
            while sim.clients("alpaca") > 1:
                await asyncio.sleep(0.01)
            assert (await ask(second, AUTH))[0]["msg"] == "authenticated"

    run(test)


def test_alpaca_authenticates_by_headers() -> None:
    async def test() -> None:
        headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
        async with (
            Simulator(["alpaca"], total=0, rules={"alpaca": KEYS}) as sim,
            websockets.connect(sim.url("alpaca"), additional_headers=headers) as ws,
        ):
            messages = await heard(ws, lambda message: message[0]["msg"] == "authenticated")
            assert [message[0]["msg"] for message in messages] == ["connected", "authenticated"]
            [answer] = await ask(ws, {"action": "subscribe", "trades": ["AAPL"], "bars": ["*"]})
            assert answer["T"] == "subscription"
            assert (answer["trades"], answer["bars"], answer["corrections"]) == (["AAPL"], ["*"], ["AAPL"])

    run(test)


def test_alpaca_messagepack_holds_the_same_trades_to_the_nanosecond() -> None:
    now = 1_700_000_000_123_456_789

    class Trade(msgspec.Struct):
        T: str
        t: msgspec.msgpack.Ext | None = None
        i: int = 0
        p: float = 0
        S: str = ""

    async def test() -> None:
        async with Simulator(["alpaca"], rate=20_000, total=500, quotes=0, wall=lambda: now, symbols=["AAPL"]) as sim:
            headers = {"Content-Type": "application/msgpack"}
            async with websockets.connect(sim.url("alpaca"), additional_headers=headers) as ws:
                await ws.send(msgspec.msgpack.encode(AUTH))
                await ws.send(msgspec.msgpack.encode({"action": "subscribe", "trades": ["*"]}))
                trades: list[Trade] = []
                while len(trades) < 500:
                    batch = msgspec.msgpack.decode(await ws.recv(), type=list[Trade])
                    trades += [trade for trade in batch if trade.T == "t"]
        assert [trade.i for trade in trades] == list(range(1_000_000, 1_000_500))
        for trade in trades:
            assert trade.t is not None
            assert trade.t.code == -1
            packed = int.from_bytes(trade.t.data, "big")
            ns = (packed & (1 << 34) - 1) * 10**9 + (packed >> 34)
            assert now - 500 <= ns < now
            assert (trade.S, trade.p > 0) == ("AAPL", True)

    run(test)
