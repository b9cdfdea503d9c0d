"""What every registered feed must do, whoever wrote it."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import msgspec
import pytest
from fuzzing import mutations

from recorder.core.batch import Output
from recorder.feeds import PROVIDERS, make
from recorder.values.errors import ConfigError, FrameError, RecorderError
from recorder.values.feed import (
    Capability,
    Endpoint,
    Fatal,
    Feed,
    FeedSpec,
    HttpResponse,
    Notice,
    Ready,
    Reconnect,
    Send,
)
from recorder.values.tables import TABLES

TRADE = {"symbol": "s", "time": "t", "time_unit": "ms", "price": "p", "size": "q", "id": "i", "where": {"type": "t"}}
# What feeds declare of which the provider itself knows nothing: their table, and their address.
DECLARED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "generic": [
        (
            {
                "kind": "websocket", "ids": "increasing", "subscribe": ['{"type":"subscribe","symbol":"{symbol}"}'],
                "acknowledged": {"type": "subscribed"}, "refused": {"type": "error"}, "trades": TRADE,
            },
            "wss://feed.example/ws",
        ),
        ({"kind": "sse", "ids": "opaque", "trades": {**TRADE, "items": "data"}}, "https://feed.example/{symbols}"),
        ({"kind": "poll", "ids": "increasing", "trades": TRADE}, "https://feed.example/trades?symbol={symbol}"),
    ]
}  # fmt: skip
COMMANDS = (Send, Ready, Notice, Reconnect, Fatal)
RECV = 1_790_000_000 * 10**9
ANYTHING = (
    b"", b" ", b"null", b"1", b'"text"', b"[]", b"{}", b"[[]]", b"[{}]", b'{"a":1}', b"\x00\xff", b"\x90", b"\x80",
    b'{"type":5}', b'{"type":null}', b'{"type":"error"}', b'{"channel":"subscriptions"}', b'{"channel":[]}',
    b'{"type":"subscriptions","channels":5}', b'{"type":"subscriptions","channels":[5,{"product_ids":[null]}]}',
    b'{"channel":"subscriptions","events":[5,{"subscriptions":{"a":5}}]}', b'{"channel":"status","data":[5]}',
    b'{"method":"subscribe"}', b'{"method":"subscribe","result":5,"symbol":5}', b'{"error":null}', b'{"Error":[]}',
    b'{"event":"subscriptionStatus","subscription":5,"pair":{}}', b'{"result":null,"id":1}', b'{"id":[],"error":5}',
    b'[{"T":"error"}]', b'[{"T":"error","code":"x","msg":5}]', b'[{"T":"success"}]',
    b'[{"T":"subscription","trades":5}]',
    b'{"stream":5,"data":5}', b'{"arg":5,"data":[]}', b'{"arg":{"channel":"trades"},"data":[[]]}', b"pong",
    b'{"event":"error","code":5,"msg":[]}', b'{"event":"subscribe","arg":5}', b'{"event":"subscribe","arg":{}}',
    b'{"e":"trade"}', b"[" * 5000, b'{"a":' * 5000, b"\xef\xbb\xbf{}",
)  # fmt: skip


def variants() -> list[tuple[str, dict[str, str]]]:
    """Every provider as it is by default, and with every other value of each option."""
    result: list[tuple[str, dict[str, str]]] = []
    for name, info in PROVIDERS.items():
        if info.table:
            result += [(name, {info.table: json.dumps(table), "url": url}) for table, url in DECLARED[name]]
            continue
        result.append((name, {}))
        result += [(name, {option: value}) for option, values in info.options.items() for value in values[1:]]
    return result


STOCKS = ("alpaca", "alpaca_events", "alphavantage", "cboe", "etrade")


def channels_for(name: str, options: dict[str, str]) -> tuple[str, ...]:
    """The first channel that it has with these options."""
    if options.get("api") == "rest" and name == "yahoo":
        return ("bars",)
    if options.get("feed") == "news":
        return ("news",)
    return ("trades",) if "trades" in PROVIDERS[name].channels else PROVIDERS[name].channels[:1]


def symbols_for(name: str, options: dict[str, str], count: int) -> tuple[str, ...]:
    """So many symbols that the provider could have."""
    if name == "alpaca" and options.get("feed") in ("opra", "indicative"):
        return tuple(f"AAPL  251219C{i:08d}" for i in range(1, count + 1))
    if name == "polygon" and options.get("cluster") == "options":
        return tuple(f"AB251219C{i:08d}" for i in range(count))
    if name == "bybit" and options.get("market") == "option":
        return tuple(f"BTC-27DEC24-{i + 1}-C" for i in range(count))
    stocks = name in STOCKS and options.get("feed") != "crypto"
    suffix = "" if stocks else "-USDT" if name == "binance" else "-USD"
    return tuple(f"A{'BCDEFGHIJK'[i % 10]}{i}{suffix}" for i in range(count))


def spec_of(name: str, options: dict[str, str], **fields: Any) -> FeedSpec:
    symbols, own = symbols_for(name, options, 2), {key: value for key, value in options.items() if key != "url"}
    url = options.get("url")
    if name == "fix":  # without a home of its own
        own, url = {"sender": "REC", "target": "FEED", **own}, "tcp+tls://fix.example.com:9000"
    return FeedSpec(**{"name": "f", "provider": name, "symbols": symbols, "options": own, "url": url, **fields})


def feed_of(name: str, options: dict[str, str], **fields: Any) -> Feed:
    credentials = {variable: "not-a-real-value" for variable in PROVIDERS[name].credentials}
    return make(spec_of(name, options, **{"channels": channels_for(name, options), **fields}), credentials)


def by_transport(*transports: str) -> pytest.MarkDecorator:
    cases = [case for case in variants() if feed_of(*case).capability().transport in transports]
    return pytest.mark.parametrize(
        ("name", "options"), cases, ids=lambda v: v if isinstance(v, str) else "-".join(v.values())[:40]
    )


every = by_transport("websocket", "sse", "fix")
polled = by_transport("poll")


@pytest.mark.parametrize("name", list(PROVIDERS))
def test_its_info_is_complete(name: str) -> None:
    info = PROVIDERS[name]
    assert info.name == name
    assert info.hosts or info.table or name == "fix"  # anybody's
    assert info.channels
    assert set(info.channels) <= {*TABLES, "options"}  # whose rows are in options_chain
    assert all(values or name == "fix" for values in info.options.values())  # of which many may be any text


@every
def test_its_capability_and_endpoint_are_bounded(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    capability, endpoint = feed.capability(), feed.endpoint()
    assert isinstance(capability, Capability)
    assert isinstance(endpoint, Endpoint)
    assert set(capability.channels) <= set(PROVIDERS[name].channels)
    assert min(capability.connections_max, capability.symbols_per_connection_max, capability.subscribe_items_max) > 0
    assert min(capability.sends_per_second_max, capability.connects_per_minute_max) > 0
    schemes = {"sse": "https", "fix": "tcp+tls"}
    assert endpoint.url.startswith(schemes.get(capability.transport, "wss") + "://")
    assert min(endpoint.open_timeout_ns, endpoint.ready_timeout_ns, endpoint.silence_ns) > 0
    assert all(isinstance(offset, int) and isinstance(mark, bytes) for offset, mark in endpoint.data_marks)


@every
def test_an_address_of_ones_own_is_used(name: str, options: dict[str, str]) -> None:
    scheme = "ws" if feed_of(name, options).capability().transport == "websocket" else "http"
    assert (
        feed_of(name, options, url=f"{scheme}://127.0.0.1:20001/x")
        .endpoint()
        .url.startswith(f"{scheme}://127.0.0.1:20001")
    )


@every
def test_its_shards_hold_every_symbol_once_within_the_limits(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    assert len(feed.shards()) == 1
    most = feed.capability().symbols_per_connection_max
    count = min(2, feed.capability().connections_max) * most
    symbols = symbols_for(name, options, count)
    shards = feed_of(name, options, symbols=symbols).shards()
    named = [symbol for shard in shards for symbol in shard.symbols]  # each as the user or as the feed spells it
    assert len(named) == len(set(named)) == len(symbols)
    assert len({shard.connection for shard in shards}) == len(shards) <= feed.capability().connections_max
    for shard in shards:
        assert len(shard.symbols) <= most
        assert msgspec.json.decode(msgspec.json.encode(shard), type=FeedSpec) == shard
        assert b"not-a-real-value" not in msgspec.json.encode(shard)


@every
def test_more_symbols_than_its_connections_carry_are_refused(name: str, options: dict[str, str]) -> None:
    capability = feed_of(name, options).capability()
    count = capability.connections_max * capability.symbols_per_connection_max + 1
    if count > 100_000:
        return  # as good as unlimited
    with pytest.raises(ConfigError, match="symbols"):
        feed_of(name, options, symbols=symbols_for(name, options, count)).shards()


@every
def test_opening_twice_asks_for_the_same(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    first = feed.on_open()
    assert all(isinstance(command, COMMANDS) for command in first)
    for payload in ANYTHING:
        feed.on_control(payload)
    assert feed.on_open() == first


@every
def test_secrets_are_sent_only_in_commands_marked_so(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    commands = feed.on_open()
    for payload in ANYTHING:
        commands += feed.on_control(payload)
    for command in commands:
        if not (isinstance(command, Send) and command.secret):
            assert "not-a-real-value" not in repr(command)


@every
def test_no_control_message_makes_it_raise(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    feed.on_open()
    rng = random.Random(5)
    for payload in (
        *ANYTHING,
        *mutations(ANYTHING, 1000, seed=3),
        *(rng.randbytes(rng.randrange(60)) for _ in range(200)),
    ):
        assert all(isinstance(command, COMMANDS) for command in feed.on_control(payload)), payload


@every
def test_no_frame_makes_its_decoder_raise_anything_but_a_frame_error(name: str, options: dict[str, str]) -> None:
    feed = feed_of(name, options)
    out = Output()
    decode = feed.decoder(out.scope("f", 0))
    for payload in (*ANYTHING, *mutations(ANYTHING, 1000, seed=4)):
        before = out.counts()
        try:
            decode(payload, RECV)
        except FrameError:
            assert out.counts() == before, payload


@every
def test_decoding_needs_no_credentials_and_no_symbols(name: str, options: dict[str, str]) -> None:
    feed = make(spec_of(name, options, symbols=(), channels=channels_for(name, options)))
    assert callable(feed.decoder(Output().scope("f", 0)))


@polled
def test_its_polls_are_bounded_and_hold_no_secret(name: str, options: dict[str, str]) -> None:
    feed: Any = feed_of(name, options)
    capability, polls = feed.capability(), feed.polls()
    assert min(capability.connections_max, capability.symbols_per_connection_max, capability.rest_per_second_max) > 0
    assert bool(capability.rest_quota) == bool(capability.rest_quota_ns)
    assert set(capability.channels) <= set(PROVIDERS[name].channels)
    assert len({poll.key for poll in polls}) == len(polls) > 0
    assert min(poll.every_ns for poll in polls) > 0
    for poll in polls:
        first = next(poll.ask())
        assert first.url.startswith("https://")
        assert "not-a-real-value" not in repr((poll.key, first))


@polled
def test_it_asks_an_address_of_ones_own(name: str, options: dict[str, str]) -> None:
    own = "http://127.0.0.1:20001"
    feed: Any = feed_of(name, options, rest_url=own)
    assert all(next(poll.ask()).url.startswith(own) for poll in feed.polls())


@polled
def test_no_answer_makes_it_raise_anything_but_an_error_of_its_own(name: str, options: dict[str, str]) -> None:
    feed: Any = feed_of(name, options)
    out = Output()
    decode = feed.poll_decoder(out.scope("f", 0))
    for payload in (*ANYTHING, *mutations(ANYTHING, 1000, seed=4)):
        for poll in feed.polls():
            with contextlib.suppress(FrameError):
                decode(poll.key, payload, RECV)
            pages = poll.ask()
            next(pages)
            with contextlib.suppress(StopIteration, RecorderError):
                pages.send(HttpResponse(200, {}, payload))


@polled
def test_polls_are_decoded_without_credentials_and_symbols(name: str, options: dict[str, str]) -> None:
    feed: Any = make(spec_of(name, options, symbols=(), channels=channels_for(name, options)))
    assert callable(feed.poll_decoder(Output().scope("f", 0)))


def test_an_unknown_provider_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"binanse.*did you mean binance"):
        make(FeedSpec(name="f", provider="binanse"))
    assert issubclass(ConfigError, RecorderError)
    with pytest.raises(KeyError):
        PROVIDERS["binanse"]
