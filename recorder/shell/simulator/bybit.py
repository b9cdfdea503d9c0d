"""Bybit's public WebSocket, version 5, and the last trades of its HTTP interface.

https://bybit-exchange.github.io/docs/v5/ws/connect , …/market/recent-trade
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from recorder.core.market import ID, PRICE, PRICE_DIGITS, QUOTE, SIDE, SIZE, TS, decimal_text
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Snapshot, Venue

TEXT = 1
ARGS_MAX_OF_SPOT = 10  # in one request
ARGS_CHARS_MAX = 21_000  # that a connection may ask for elsewhere
IDLE_NS = 600 * SECOND_NS  # without a ping
CONN_ID = "a38867ec-70b5-4044-a765-54b36bdd6fd9"
_SIDES = (b"Sell", b"Buy")  # of the taker
_CHANNELS = {"publicTrade": TRADES, "orderbook.1": QUOTES}
_TRADE = (
    '{"T":<ts:ms>,"s":"<symbol>","S":"<side>","v":"<size>","p":"<price>","L":"PlusTick","i":"<name>","BT":false,'
    '"seq":<id>}'
)
_BOOK = (
    '{"topic":"orderbook.1.<symbol>","type":"snapshot","ts":<ts:ms>,"data":{"s":"<symbol>","b":[["<price>","<size>"]],'
    '"a":[["<ask>","<ask_size>"]],"u":<id>,"seq":<id>},"cts":<ts:ms>}'
)


class Bybit(Conversation):
    """rules: ``idle_s``, how long a connection may go without a ping (default 600). Errors are words of ret_msg."""

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(venue, path, headers)
        self._heard_ns = self.opened_ns
        self._idle_ns = int(float(str(venue.rules.get("idle_s", IDLE_NS // SECOND_NS))) * SECOND_NS)
        self._chars = 0

    def received(self, message: str | bytes) -> list[Reply]:
        self._heard_ns = self.venue.now()
        try:
            request = json.loads(message)
            op, args = request["op"], [str(arg) for arg in request.get("args", [])]
        except (ValueError, TypeError, KeyError, AttributeError):
            return [_answer(False, "error:request format", {}, "")]
        number = {"req_id": request["req_id"]} if "req_id" in request else {}
        if op == "ping":
            return [_answer(True, "pong", number, op)]
        if due := self.error_due():
            return [_answer(False, str(due), number, op)]
        if op not in ("subscribe", "unsubscribe"):
            return [_answer(False, f"error:op {op} not found", number, op)]
        refused = self._refused(op, args)
        if refused:
            return [_answer(False, refused, number, op)]
        replies: list[Reply] = [_answer(True, "subscribe" if self.venue.key == "bybit" else "", number, op)]
        for arg in args:
            channel, name = _split(arg)
            ours = _CHANNELS.get(channel, channel)
            if op == "unsubscribe":
                self.remove(ours, [name])
                continue
            self.add(ours, [name])
            if ours == QUOTES and not self.venue.playing:
                replies.append(self._book(self.venue.index[name]))
        return replies

    def _refused(self, op: str, args: list[str]) -> str:
        """Why a request is refused whole; the words of an error are unverified."""
        if self.venue.key == "bybit" and len(args) > ARGS_MAX_OF_SPOT:
            return "args size >10"
        for arg in args:
            channel, name = _split(arg)
            known = channel in _CHANNELS or channel.startswith(("kline.", "tickers", "orderbook."))
            if not (known or self.venue.playing) or not self.known(name):
                return f"error:handler not found,topic:{arg}"
            if op == "subscribe" and self.wants(_CHANNELS.get(channel, channel), name):
                return f"error:already subscribed,topic:{arg}"
        if op == "subscribe":
            self._chars += sum(map(len, args))
            if self.venue.key != "bybit" and self._chars > ARGS_CHARS_MAX:
                return "error:args too long"
        return ""

    def _book(self, index: int) -> Snapshot:
        """The best prices as they stand."""
        item = _BOOK
        values = self.numbers(QUOTE, index) | {
            "symbol": self.venue.names[index],
            "ts:ms": str(int(self.venue.last[QUOTE, index][TS]) // 1_000_000),
        }
        for name, value in values.items():
            item = item.replace(f"<{name}>", value)
        return Snapshot(item, QUOTE, (index,))

    def second(self) -> list[Reply]:
        """Closes a connection that has not said anything for ten minutes."""
        silent = self.venue.now() - self._heard_ns > self._idle_ns
        return [Close(1000, "no ping")] if silent else super().second()

    def program(self) -> Program:
        head = '{"topic":"publicTrade.<symbol>","type":"snapshot","ts":<ts:ms>,"data":['
        return compile_templates(
            Template(head.encode(), _TRADE.replace("<name>", _named(self.venue, "<id>")).encode(), b"]}"),
            Template(b"", _BOOK.encode()),
            [name.encode() for name in self.venue.names],
            _SIDES,
            self.venue.size_digits,
            TEXT,
        )

    def key(self, payload: bytes) -> tuple[str, str] | None:
        topic = msgspec.json.decode(payload).get("topic")
        if topic is None:
            return None
        channel, name = _split(topic)
        return _CHANNELS.get(channel, channel), name


def _split(topic: str) -> tuple[str, str]:
    """Channel and instrument: ``orderbook.1.BTCUSDT`` is of ``orderbook.1``."""
    channel, _, name = topic.rpartition(".")
    return channel, name


def _named(venue: Venue, number: str) -> str:
    """An id as the market writes it: a number on spot, a UUID elsewhere."""
    return number if venue.key == "bybit" else f"20f43950-d8dd-5b31-9112-{number}"


def _answer(success: bool, words: str, number: dict[str, Any], op: str) -> str:
    answer = {"success": success, "ret_msg": words, "conn_id": CONN_ID, **number, "op": op}
    return json.dumps(answer, separators=(",", ":"))


LIMITED = Answer(403, "403, access too frequent")  # of an address; for ten minutes
OVERLOADED = Answer(200, {"retCode": 10006, "retMsg": "Too many visits!", "result": {}, "retExtInfo": {}})  # endpoint


def bybit_headers(spent: int, most: int, end_ns: int) -> dict[str, str]:
    left = {"X-Bapi-Limit": str(most), "X-Bapi-Limit-Status": str(max(0, most - spent))}
    return {**left, "X-Bapi-Limit-Reset-Timestamp": str(end_ns // 1_000_000)}


def recent_trades(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """recent-trade: the last ones, newest first; errors are HTTP 200."""

    def refused(code: int, words: str) -> Refused:
        return Refused(Answer(200, {"retCode": code, "retMsg": words, "result": {}, "retExtInfo": {}}))

    if asked.path != "/v5/market/recent-trade":
        raise Refused(Answer(404, {"retCode": 404, "retMsg": "Not Found", "result": {}}))
    category = asked.query.get("category", "")
    if category not in ("spot", "linear", "inverse"):
        raise refused(10001, "params error: Category is invalid")
    name = asked.query.get("symbol", "")
    if name not in venue.index:
        raise refused(10001, "Not supported symbols")
    most = 60 if category == "spot" else 1000
    limit = whole(asked, "limit", most if category == "spot" else 500, refused(10001, "params error").answer, 1, most)
    rows = trades.rows(trades.find(venue.index[name])[-limit:][::-1]).tolist()
    items = ",".join(
        f'{{"execId":"{_named(venue, str(row[ID]))}","symbol":"{name}",'
        f'"price":"{decimal_text(row[PRICE], PRICE_DIGITS)}","size":"{decimal_text(row[SIZE], venue.size_digits)}",'
        f'"side":"{_SIDES[row[SIDE]].decode()}","time":"{row[TS] // 1_000_000}","isBlockTrade":false}}'
        for row in rows
    )
    return Answer(
        200, f'{{"retCode":0,"retMsg":"OK","result":{{"category":"{category}","list":[{items}]}},"retExtInfo":{{}}}}'
    )
