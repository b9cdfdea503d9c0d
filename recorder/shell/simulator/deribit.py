"""Deribit's JSON-RPC over WebSocket, and its trades over HTTP. https://docs.deribit.com/articles/json-rpc-overview"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from recorder.core.market import ID, PRICE, PRICE_DIGITS, QUOTE, SIDE, SIZE, TS, decimal_text
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Venue

TEXT = 1
PAGE = 1000
CREDITS_MAX, CREDITS_PER_SECOND = 50_000, 10_000
COST, COST_OF_SUBSCRIBING = 500, 3000
LIMITED_CODE = 10028  # behind which the session is closed
EVER = (1 << 62) - 1
_SIDES = (b"sell", b"buy")  # of the taker
_CHANNEL = re.compile(r"(trades|quote|ticker|book|chart\.trades)\.([\w-]+)(?:\.(\w+))?")
_CHANNELS = {"trades": TRADES, "quote": QUOTES}
_OPTION = re.compile(r".+-\d{1,2}[A-Z]{3}\d\d-[\dd]+-[CP]")
_TRADE = (
    '{"timestamp":<time>,"price":<price>,"amount":<size>,"direction":"<side>","index_price":<price>,'
    '"instrument_name":"<symbol>","trade_seq":<id>,"mark_price":<price>,"tick_direction":2,"contracts":1.0,'
    '"trade_id":"ETH-<id>"}'
)
_QUOTE = (
    '{"timestamp":<time>,"instrument_name":"<symbol>","best_ask_price":<ask>,"best_bid_price":<price>,'
    '"best_ask_amount":<ask_size>,"best_bid_amount":<size>}'
)
_HEAD = '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"<channel>","data":'


WORDS = {  # of errors, by code. https://docs.deribit.com/articles/errors
    -32602: "Invalid params", 10028: "too_many_requests", 10040: "retry", 10041: "settlement_in_progress",
    10047: "matching_engine_queue_full", 10066: "too_many_concurrent_requests", 11050: "bad_request",
    11051: "system_maintenance", 11094: "internal_server_error", 13028: "temporarily_unavailable",
    13778: "raw_subscriptions_not_available_for_unauthorized", 13888: "timed_out",
}  # fmt: skip


class Deribit(Conversation):
    """rules: ``credits``, in the pool at first. Errors are the codes of WORDS."""

    notices: ClassVar[Mapping[str, tuple[Reply, ...]]] = {
        "test_request": ('{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}',),
        "heartbeat": ('{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"heartbeat"}}',),
        "unanswered": (Close(1000, "no answer to a test request"),),
    }

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(venue, path, headers)
        self.credits = float(str(venue.rules.get("credits", CREDITS_MAX)))
        self._refilled = venue.now()
        self.heartbeat_s = 0
        self._beat = 0  # seconds since the last heartbeat
        self._tested = False  # a test request has no answer yet

    def received(self, message: str | bytes) -> list[Reply]:
        try:
            request = json.loads(message)
            method, params, number = request["method"], request.get("params", {}), request.get("id")
            channels = params.get("channels", [])
        except (ValueError, TypeError, KeyError, AttributeError):
            return [_failed(None, -32700, "Parse error")]
        paid = self._paid(COST_OF_SUBSCRIBING if method.endswith("subscribe") else COST)
        if due := int(self.error_due()) if paid else LIMITED_CODE:
            return [_failed(number, due, WORDS[due]), *([Close(1000, WORDS[due])] if due == LIMITED_CODE else [])]
        if method == "public/set_heartbeat":
            if not isinstance(params.get("interval"), int) or params["interval"] < 10:
                return [_failed(number, -32602, "Invalid params")]
            self.heartbeat_s = params["interval"]
            return [_answered(number, "ok")]
        if method == "public/test":
            self._tested = False
            return [_answered(number, {"version": "1.2.26"})]
        if method not in ("public/subscribe", "public/unsubscribe"):
            return [_failed(number, -32601, "Method not found")]
        found = {name: _CHANNEL.fullmatch(name) for name in channels if isinstance(name, str)}
        if any(match and match[3] == "raw" for match in found.values()):
            return [_failed(number, 13778, WORDS[13778])]
        known = {name: match for name, match in found.items() if match and self.known(match[2])}
        snapshots: list[Reply] = []
        for match in known.values():
            channel = _CHANNELS.get(match[1], match[1])
            if method == "public/unsubscribe":
                self.remove(channel, [match[2]])
                continue
            self.add(channel, [match[2]])
            if match[1] == "ticker" and not self.venue.playing:
                snapshots.append(self._ticker(match[0], match[2]))
        return [_answered(number, list(known)), *snapshots]

    def _paid(self, cost: int) -> bool:
        now = self.venue.now()
        self.credits = min(CREDITS_MAX, self.credits + (now - self._refilled) * CREDITS_PER_SECOND / SECOND_NS)
        self._refilled = now
        self.credits -= cost
        return self.credits >= 0

    def _ticker(self, channel: str, name: str) -> str:
        """As it stands: of an option with Greeks, which are what tests know."""
        numbers = self.numbers(QUOTE, self.venue.index[name])
        row = self.venue.last[QUOTE, self.venue.index[name]]
        data = {
            "timestamp": int(row[TS]) // 1_000_000, "state": "open", "instrument_name": name,
            "stats": {"high": None, "low": None, "price_change": None, "volume": 13.4},
            "best_bid_price": float(numbers["price"]), "best_bid_amount": float(numbers["size"]),
            "best_ask_price": float(numbers["ask"]), "best_ask_amount": float(numbers["ask_size"]),
            "last_price": None, "open_interest": 533.2, "mark_price": float(numbers["price"]), "index_price": 9434.36,
        }  # fmt: skip
        if _OPTION.fullmatch(name):
            greeks = {"vega": 3.88497, "theta": -28.34113, "rho": 0.66242, "gamma": 0.00058, "delta": 0.62959}
            data |= {"greeks": greeks, "mark_iv": 63.21, "bid_iv": 58.39, "ask_iv": 66.9, "interest_rate": 0.0}
            data |= {"underlying_price": 9440.73, "underlying_index": "SYN.BTC-5JUN20"}
        return _HEAD.replace("<channel>", channel) + json.dumps(data, separators=(",", ":")) + "}}"

    def second(self) -> list[Reply]:
        replies = super().second()
        if not self.heartbeat_s:
            return replies
        self._beat += 1
        if self._beat < self.heartbeat_s:
            return replies
        if self._tested:
            return [*replies, *self.said("unanswered")]
        self._beat, self._tested = 0, True
        return [*replies, *self.said("test_request")]

    def program(self) -> Program:
        def template(channel: str, item: str, start: str, end: str) -> Template:
            head = _HEAD.replace("<channel>", channel) + start
            return Template(head.encode(), item.replace("<time>", "<ts:ms>").encode(), end.encode())

        names = [name.encode() for name in self.venue.names]
        return compile_templates(
            template("trades.<symbol>.100ms", _TRADE, "[", "]}}"),
            template("quote.<symbol>", _QUOTE, "", "}}"),
            names, _SIDES, self.venue.size_digits, TEXT,
        )  # fmt: skip

    def key(self, payload: bytes) -> tuple[str, str] | None:
        found = _CHANNEL.fullmatch(msgspec.json.decode(payload)["params"]["channel"])
        return (_CHANNELS.get(found[1], found[1]), found[2]) if found else None


def _answered(number: object, result: object) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result, "usDiff": 1000}, separators=(",", ":"))


def _failed(number: object, code: int, message: str) -> str:
    error = {"code": code, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": number, "error": error}, separators=(",", ":"))


LIMITED = Answer(429, _failed(None, 10028, "too_many_requests"))
_PATHS = {
    "/api/v2/public/get_last_trades_by_instrument": ("start_seq", "end_seq"),
    "/api/v2/public/get_last_trades_by_instrument_and_time": ("start_timestamp", "end_timestamp"),
}


def last_trades(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """By trade_seq or by milliseconds, oldest or newest first."""
    if asked.path not in _PATHS:
        raise Refused(Answer(404, _failed(None, -32601, "Method not found")))
    bad = Answer(400, _failed(None, -32602, "Invalid params"))
    symbol = venue.index.get(asked.query.get("instrument_name", ""))
    if symbol is None:
        raise Refused(bad)
    first, last = _PATHS[asked.path]
    by_time = first == "start_timestamp"
    high = EVER // 1_000_000
    low = whole(asked, first, None if by_time else 0, bad, 0, high)
    until = whole(asked, last, None if by_time else high, bad, 0, high)
    count = whole(asked, "count", 10, bad, 1, PAGE)
    limits = (low * 1_000_000, until * 1_000_000 + 999_999)
    places = trades.find(symbol, times=limits) if by_time else trades.find(symbol, (low, until))
    ascending = asked.query.get("sorting") == "asc"
    chosen = places[:count] if ascending else places[::-1][:count]
    items = []
    for row in trades.rows(chosen).tolist():
        item = _TRADE
        values = {
            "time": str(row[TS] // 1_000_000), "price": decimal_text(row[PRICE], PRICE_DIGITS), "id": str(row[ID]),
            "size": decimal_text(row[SIZE], venue.size_digits), "side": _SIDES[row[SIDE]].decode(),
            "symbol": venue.names[symbol],
        }  # fmt: skip
        for name, value in values.items():
            item = item.replace(f"<{name}>", value)
        items.append(item)
    more = "true" if len(places) > count else "false"
    return Answer(200, f'{{"jsonrpc":"2.0","result":{{"trades":[{",".join(items)}],"has_more":{more}}},"usDiff":764}}')
