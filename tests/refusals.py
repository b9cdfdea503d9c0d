"""What each streaming provider documents that it may refuse, say or do to a connection; what its user is to be told of
it, in which words; and what the recorder is to do. ``test_refusals`` holds it.

Of Alpaca's stream of events see feeds/test_alpaca_events.py, of FIX test_fix_refusals.py. Yahoo's streamer is not
documented and refuses nothing that anybody has seen; that it is cut is in test_yahoo_streamer.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from recorder.shell.simulator import Simulator

CONTRACTS = ("AAPL  240315C00172500", "AAPL  240315P00172500")


class Provider(NamedTuple):
    simulated: str  # name of the simulator's
    options: dict[str, str]
    symbols: tuple[str, ...]
    channels: tuple[str, ...] = ("trades", "quotes")
    path: str = ""  # of its stream, where that is not the simulator's own choice


STOCKS, COINS, TETHER = ("AAPL", "SPY"), ("BTC-USD", "ETH-USD"), ("BTC-USDT", "ETH-USDT")
PROVIDERS = {
    "polygon": Provider("polygon", {}, STOCKS),
    "polygon options": Provider("polygon", {"cluster": "options"}, CONTRACTS),
    "polygon crypto": Provider("polygon", {"cluster": "crypto"}, COINS),
    "alpaca": Provider("alpaca", {"format": "json"}, STOCKS),
    "alpaca crypto": Provider("alpaca", {"feed": "crypto"}, COINS),
    "alpaca options": Provider("alpaca", {"feed": "opra"}, CONTRACTS),
    "alpaca news": Provider("alpaca", {"feed": "news"}, STOCKS, ("news",), "/v1beta1/news"),
    "bybit": Provider("bybit", {}, TETHER),
    "okx": Provider("okx", {}, TETHER, ("trades",)),
    "deribit": Provider("deribit", {}, ("BTC-USD-PERP", "ETH-USD-PERP")),
    "bitstamp": Provider("bitstamp", {}, COINS),
    "binance": Provider("binance", {}, TETHER),
    "kraken": Provider("kraken", {}, COINS),
    "coinbase": Provider("coinbase", {"api": "exchange"}, COINS),
    "coinbase advanced": Provider("coinbase-advanced", {"api": "advanced"}, COINS),
}

# What the simulator is told to do: rules from the start, or a call.
Does = dict[str, Any] | Callable[[Simulator, str], None]


def error(*codes: int | str) -> Does:
    """Answer the first requests of the connection with these; 0: as it should."""
    return lambda place, key: place.fail(key, *codes, coming=True)


def http(status: int, retry_after: str | None = None) -> Does:
    """Answer the upgrade with this status."""
    return lambda place, key: place.refuse(key, 1, status, retry_after)


def says(what: str) -> Does:
    """Say this, unasked, and close the connection where the provider then does."""
    return lambda place, key: place.say(key, what)


def closes(code: int) -> Does:
    return lambda place, key: place.cut(key, code)


@dataclass(frozen=True)
class Then:
    """What becomes of the connection.

    wait_s   it is given up or closed, and another is tried no sooner
    exactly  and no later
    back     that one delivers
    fatal    it needs its user first
    renewed  another takes over without a hole
    """

    wait_s: float | None = None
    exactly: bool = False
    back: bool = True
    fatal: bool = False
    renewed: bool = False


GOES_ON, RENEWED, AT_ONCE = Then(), Then(renewed=True), Then(0.0, exactly=True)
STOPS = Then(900.0, back=False, fatal=True)  # a quarter of an hour: its owner may have mended it


def again(seconds: float = 0.0) -> Then:
    """Another connection is tried, after so long, and delivers."""
    return Then(seconds)


def held(seconds: float) -> Then:
    """Another is tried, after so long, and will meet the same."""
    return Then(seconds, back=False)


class Row(NamedTuple):
    provider: str
    documented: str
    does: Does
    told: tuple[tuple[str, str], ...]  # lines of the log in this order: event, and words of the provider in it
    then: Then
    besides: str = ""  # a symbol that is asked for as well and does not trade there
    only: str = ""  # a symbol that is asked for alone and does not trade there
    without: str = ""  # a symbol that trades there and is refused
    patience_s: float = 20.0  # how long it may take to be subscribed

    def __str__(self) -> str:
        return f"{self.provider}: {self.documented}"


CONNECTED, DOWN, GONE, REFUSED = "feed.connected", "feed.unreachable", "feed.disconnected", "feed.refused"
UP = (CONNECTED, "")

# fmt: off
# While it is opened, authenticated and subscribed.
OPENING = [
    Row("polygon", "auth_failed: key", {"keys": {}}, ((REFUSED, "authentication failed"),), STOPS),
    Row("polygon", "auth_failed: plan", {"not_in_plan": ("stocks",)}, ((REFUSED, "Your plan doesn't include"),), STOPS),
    Row("polygon crypto", "auth_failed", error("auth_failed"), ((REFUSED, "authentication failed"),), STOPS),
    Row("polygon", "auth_timeout", error("auth_timeout"),
        ((DOWN, "No authentication request received."), UP), again(2)),
    Row("polygon", "max_connections", {"connections_max": 0}, ((GONE, "Maximum number of websocket conn"),), held(60)),
    Row("polygon", "error", error(0, "error"),
        (("error.received", "not authorized"), (DOWN, "after opening: not authorized"), UP), again(), patience_s=0.3),
    Row("polygon", "topics unknown are passed over", {"topics_not_in_plan": "Q"},
        (("subscription.incomplete", "Q.AAPL"), UP), GOES_ON),
    Row("polygon", "acknowledgements behind data", {"behind_data": True}, (UP,), GOES_ON),
    Row("polygon options", "contracts of quotes", {"contracts_max": 1},
        (("symbol.refused", "more than 1 contracts"), UP), GOES_ON),
    Row("polygon options", "auth_failed: key", {"keys": {}}, ((REFUSED, "authentication failed"),), STOPS),

    Row("alpaca", "400 auth", error(400), ((REFUSED, "400: invalid syntax"),), STOPS),
    Row("alpaca", "400 of a symbol", error(0, 400, 0, 400),
        (("symbol.refused", "400: invalid syntax"), ("subscription.incomplete", "SPY"), UP), GOES_ON, without="SPY"),
    Row("alpaca", "400 of every symbol", error(0, 400, 400, 400),
        (("symbol.refused", "400: invalid syntax"), (REFUSED, "400: invalid syntax")), STOPS),
    Row("alpaca", "401", error(0, 401), ((DOWN, "401: not authenticated"), UP), again(2)),
    Row("alpaca", "402", {"keys": {}}, ((REFUSED, "402: auth failed"),), STOPS),
    Row("alpaca", "403", {"let_in": True}, (UP,), GOES_ON),
    Row("alpaca", "404", error(404), ((DOWN, "404: auth timeout"), UP), again(2)),
    Row("alpaca", "405", {"symbols_max": 1}, ((REFUSED, "405: symbol limit exceeded"),), STOPS),
    Row("alpaca", "406", error(406), ((DOWN, "406: connection limit exceeded"), UP), again(10)),
    Row("alpaca", "408", error(408), ((REFUSED, "408: v2 not enabled"),), STOPS),
    Row("alpaca", "409", {"not_in_plan": ("iex",)}, ((REFUSED, "409: insufficient subscription"),), STOPS),
    Row("alpaca", "410", error(0, 410), ((REFUSED, "410: invalid subscribe action for this feed"),), STOPS),
    Row("alpaca", "411", error(411), ((REFUSED, "411: insufficient scope"),), STOPS),
    Row("alpaca", "412", error(412), ((REFUSED, "412: option messages are only available in MsgPack"),), STOPS),
    Row("alpaca", "500", error(0, 500), ((DOWN, "500: internal error"), UP), again(2)),
    Row("alpaca", "HTTP 403", http(403), ((DOWN, "HTTP 403"), UP), again(2)),
    Row("alpaca crypto", "402", {"keys": {}}, ((REFUSED, "402: auth failed"),), STOPS),
    Row("alpaca crypto", "406", error(406), ((DOWN, "406: connection limit exceeded"), UP), again(10)),
    Row("alpaca options", "402", {"keys": {}}, ((REFUSED, "402: auth failed"),), STOPS),
    Row("alpaca options", "405", {"symbols_max": 1}, ((REFUSED, "405: symbol limit exceeded"),), STOPS),
    Row("alpaca options", "409", {"not_in_plan": ("opra",)}, ((REFUSED, "409: insufficient subscription"),), STOPS),
    Row("alpaca options", "413", error(0, 413), ((REFUSED, "413: star subscription is not allowed"),), STOPS),
    Row("alpaca news", "402", {"keys": {}}, ((REFUSED, "402: auth failed"),), STOPS),
    Row("alpaca news", "409", {"not_in_plan": ("news",)}, ((REFUSED, "409: insufficient subscription"),), STOPS),

    Row("bybit", "a wrong topic", {}, (("symbol.refused", "handler not found"), UP), GOES_ON, besides="FOO-USDT"),
    Row("bybit", "nothing but wrong topics", {},
        (("symbol.refused", "handler not found"), (DOWN, "refused everything")), held(60), only="FOO-USDT"),
    Row("bybit", "args size", error("args size >10"), (UP,), GOES_ON),
    Row("bybit", "HTTP 403, an address that asked too often", http(403), ((DOWN, "HTTP 403"), UP), again()),

    Row("okx", "60012", error("60012"), (UP,), GOES_ON),
    Row("okx", "60013", error("60013"), (UP,), GOES_ON),
    Row("okx", "60014", {"requests_max": 0}, ((DOWN, "60014 Requests too frequent"),), held(60)),
    Row("okx", "60018", {}, (("symbol.refused", "60018 Wrong URL or channel"), UP), GOES_ON, besides="FOO-USDT"),
    Row("okx", "60018 of everything", {},
        (("symbol.refused", "60018"), (DOWN, "refused everything")), held(60), only="FOO-USDT"),
    Row("okx", "64003", error("64003", 0, "64003"),
        (("symbol.refused", "64003 Your trading fee tier"), UP), GOES_ON, without="ETH-USDT"),

    Row("deribit", "a channel left out", {}, (("symbol.refused", "left out"), UP), GOES_ON, besides="FOO-USD-PERP"),
    Row("deribit", "everything left out", {}, ((REFUSED, "knows none of the symbols"),), STOPS, only="FOO-USD-PERP"),
    Row("deribit", "-32602", error(0, -32602, 0, -32602, 0, -32602),
        (("symbol.refused", "Invalid params (-32602)"), UP), GOES_ON),
    Row("deribit", "11050", error(0, 11050), (UP,), GOES_ON),
    Row("deribit", "13778", error(0, 13778, 0, 13778, 0, 13778), (("symbol.refused", "(13778)"), UP), GOES_ON),
    Row("deribit", "set_heartbeat refused", error(-32602),
        (("error.received", "Invalid params (-32602)"), UP), GOES_ON),
    Row("deribit", "10028", {"credits": 0}, ((DOWN, "too_many_requests (10028)"),), held(10)),
    Row("deribit", "10040", error(0, 10040), ((DOWN, "retry (10040)"), UP), again()),
    Row("deribit", "10041", error(0, 10041), ((DOWN, "settlement_in_progress (10041)"), UP), again()),
    Row("deribit", "10047", error(0, 10047), ((DOWN, "matching_engine_queue_full (10047)"), UP), again()),
    Row("deribit", "10066", error(0, 10066), ((DOWN, "too_many_concurrent_requests (10066)"), UP), again()),
    Row("deribit", "11051", error(0, 11051), ((DOWN, "system_maintenance (11051)"), UP), again()),
    Row("deribit", "11094", error(0, 11094), ((DOWN, "internal_server_error (11094)"), UP), again()),
    Row("deribit", "13028", error(0, 13028), ((DOWN, "temporarily_unavailable (13028)"), UP), again()),
    Row("deribit", "13888", error(0, 13888), ((DOWN, "timed_out (13888)"), UP), again()),

    Row("bitstamp", "bts:error", {}, (("symbol.refused", "Bad subscription string."), UP), GOES_ON, besides="FOO-USD"),
    Row("bitstamp", "bts:error of everything", {}, ((REFUSED, "Bad subscription string."),), STOPS, only="FOO-USD"),
    Row("bitstamp", "rate limit", error(4), ((DOWN, "Rate limit exceeded."), UP), again(60)),

    Row("binance", "2", error(2), (("subscription.refused", "too many parameters"), (DOWN, "refused"), UP), again(10)),
    Row("binance", "3", error(3), (("subscription.refused", "Invalid JSON"), (DOWN, "refused"), UP), again(10)),
    Row("binance", "a symbol that does not trade is acknowledged", {}, (UP,), GOES_ON, besides="FOO-USDT"),
    Row("binance", "HTTP 429 with Retry-After", http(429, "7"), ((DOWN, "HTTP 429"), UP), again(7)),
    Row("binance", "HTTP 429", http(429), ((DOWN, "HTTP 429"), UP), again(60)),
    Row("binance", "HTTP 418, a ban", http(418, "30"), ((DOWN, "HTTP 418"), UP), again(300)),
    Row("binance", "HTTP 503", http(503), ((DOWN, "HTTP 503"), UP), again()),

    Row("kraken", "a pair not supported", {},
        (("symbol.refused", "Currency pair not supported"), UP), GOES_ON, besides="FOO-USD"),
    Row("kraken", "no pair supported", {}, ((REFUSED, "Currency pair not supported"),), STOPS, only="FOO-USD"),
    Row("kraken", "EService:Unavailable", error("EService:Unavailable"), ((DOWN, "EService:Unavailable"), UP), again()),
    Row("kraken", "EService:Busy", error("EService:Busy"), ((DOWN, "EService:Busy"), UP), again()),
    Row("kraken", "Exceeded msg rate", error("Exceeded msg rate"), ((DOWN, "Exceeded msg rate"), UP), again(60)),

    Row("coinbase", "a wrong product", {},
        (("symbol.refused", "FOO-USD is not a valid product"), UP), GOES_ON, besides="FOO-USD"),
    Row("coinbase", "wrong products only", {}, ((REFUSED, "FOO-USD is not a valid product"),), STOPS, only="FOO-USD"),
    Row("coinbase", "authentication", error("level2 channel requires authentication"),
        ((REFUSED, "requires auth"),), STOPS),
    Row("coinbase", "rate limit", error("rate limit exceeded"), ((DOWN, "rate limit exceeded"), UP), again(30)),
    Row("coinbase", "HTTP 429", http(429), ((DOWN, "HTTP 429"), UP), again(60)),
    Row("coinbase advanced", "a wrong product", {},
        (UP, ("symbol.refused", "invalid product_ids")), GOES_ON, besides="FOO-USD"),
    Row("coinbase advanced", "wrong products only", {}, ((DOWN, "invalid product_ids"),), held(30), only="FOO-USD"),
    Row("coinbase advanced", "rate limit", error("rate limit exceeded"),
        ((DOWN, "rate limit exceeded"), UP), again(30)),
]

# To a connection that delivers.
LIVE = [
    Row("polygon", "max_connections", says("max_connections"), ((GONE, "Maximum number of websocket"), UP), again(60)),
    Row("polygon", "slow_consumer", says("slow_consumer"),
        (("reader.slow", "Not consuming data fast enough."), (GONE, "slow_consumer"), UP), again(2)),
    Row("polygon", "force_disconnect", says("force_disconnect"), ((GONE, "force_disconnect"), UP), again(2)),
    Row("polygon", "error", says("error"), (("error.received", "not authorized"),), GOES_ON),
    Row("alpaca", "407", says("407"), (("reader.slow", "slow client"),), GOES_ON),
    Row("alpaca options", "407", says("407"), (("reader.slow", "slow client"),), GOES_ON),
    Row("alpaca", "500", says("500"), ((GONE, "500: internal error"), UP), again(2)),
    Row("alpaca", "406", says("406"), ((GONE, "406: connection limit exceeded"), UP), again(10)),
    Row("alpaca", "any close", closes(1000), ((GONE, "1000 closed on command"), UP), again(2)),
    Row("bybit", "closed without a ping", closes(1000), ((GONE, "1000 closed on command"), UP), again()),
    Row("okx", "notice 64008", says("64008"), (("feed.renewed", "service upgrade"),), RENEWED),
    Row("okx", "channel-conn-count-error", says("channel-conn-count-error"),
        ((GONE, "too many connections ask for trades-all"), UP), again(60)),
    Row("okx", "4004", says("4004"), ((GONE, "4004 No data received in 30s"), UP), again()),
    Row("okx", "4004 behind a notice", says("60005"),
        (("notice.received", "60005"), (GONE, "4004 No data received in 30s"), UP), again()),
    Row("deribit", "heartbeat", says("heartbeat"), (), GOES_ON),
    Row("deribit", "test_request", says("test_request"), (), GOES_ON),
    Row("deribit", "test_request unanswered", says("unanswered"), ((GONE, "no answer to a test request"), UP), again()),
    Row("bitstamp", "bts:request_reconnect", says("bts:request_reconnect"),
        ((GONE, "Bitstamp asks for it"), UP), AT_ONCE),
    Row("binance", "serverShutdown", says("serverShutdown"), (("feed.renewed", "announced a shutdown"),), RENEWED),
    Row("binance", "1008 too many requests", says("Too many requests"),
        ((GONE, "1008 Too many requests"), UP), again()),
    Row("binance", "no pong", says("Pong timeout"), ((GONE, "1008 Pong timeout"), UP), again()),
    Row("binance", "1001", closes(1001), ((GONE, "1001"), UP), AT_ONCE),
    Row("kraken", "maintenance", says("maintenance"), (("status.changed", "maintenance"),), GOES_ON),
    Row("kraken", "cancel_only", says("cancel_only"), (("status.changed", "cancel_only"),), GOES_ON),
    Row("kraken", "post_only", says("post_only"), (("status.changed", "post_only"),), GOES_ON),
    Row("kraken", "Exceeded msg rate", says("Exceeded msg rate"), ((GONE, "Exceeded msg rate"), UP), again(60)),
    Row("coinbase", "ErrSlowConsume", says("ErrSlowConsume"),
        (("reader.slow", "ErrSlowConsume"), (GONE, "ErrSlowConsume"), UP), again()),
    Row("coinbase", "ErrSlowRead", says("ErrSlowRead"), ((GONE, "ErrSlowRead"), UP), again(30)),
    Row("coinbase", "Message too big", says("Message too big"),
        (("error.received", "Message too big"), (GONE, "1009 Message too big"), UP), again()),
    Row("coinbase", "no subscription in 5 s", closes(1008), ((GONE, "1008"), UP), again()),
    Row("coinbase advanced", "ErrSlowConsume", says("ErrSlowConsume"),
        (("reader.slow", "ErrSlowConsume"), (GONE, "ErrSlowConsume"), UP), again()),
]
# fmt: on
