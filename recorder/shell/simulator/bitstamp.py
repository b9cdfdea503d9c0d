"""Bitstamp's WebSocket, version 2, and its transactions. https://www.bitstamp.net/websocket/v2/ , …/api/"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from recorder.core.market import ID, PRICE, PRICE_DIGITS, SIDE, SIZE, TS, decimal_text
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused
from recorder.shell.simulator.venue import QUOTES, TRADES, Conversation, Reply, Venue

TEXT = 1
_TYPES = (b"1", b"0")  # aggressor sold, bought
_CHANNELS = {"live_trades": TRADES, "order_book": QUOTES}
_KNOWN = (*_CHANNELS, "live_orders", "detail_order_book", "diff_order_book")
_CHANNEL = re.compile(rf"({'|'.join(_KNOWN)})_(\w+)")
_TRADE = (
    b'{"data":{"id":<id>,"timestamp":"<ts:s>","amount":<size>,"amount_str":"<size>","price":<price>,'
    b'"price_str":"<price>","type":<side>,"microtimestamp":"<ts:us>","buy_order_id":1346843556691968,'
    b'"sell_order_id":1346844176056322},"channel":"live_trades_<symbol>","event":"trade"}'
)
_BOOK = (
    b'{"data":{"timestamp":"<ts:s>","microtimestamp":"<ts:us>","bids":[["<price>","<size>"],["0.01","1.00000000"]],'
    b'"asks":[["<ask>","<ask_size>"],["99999999.00","1.00000000"]]},"channel":"order_book_<symbol>","event":"data"}'
)
SPANS_S = {"minute": 60, "hour": 3600, "day": 86_400}


class Bitstamp(Conversation):
    """rules: none. Errors are words; a number is the code of a rate limit."""

    notices: ClassVar[Mapping[str, tuple[Reply, ...]]] = {
        "bts:request_reconnect": ('{"event":"bts:request_reconnect","channel":"","data":""}',)
    }

    def received(self, message: str | bytes) -> list[Reply]:
        try:
            request = json.loads(message)
            event, data = request["event"], request.get("data", {})
            name = data.get("channel", "")
        except (ValueError, TypeError, KeyError, AttributeError):
            return [_said("bts:error", "", {"code": None, "message": "Incorrect JSON format."})]
        if event == "bts:heartbeat":
            return [_said("bts:heartbeat", "", {"status": "success"})]
        if event not in ("bts:subscribe", "bts:unsubscribe"):
            return [_said("bts:error", "", {"code": None, "message": "Bad subscription string."})]
        found = _CHANNEL.fullmatch(name) if isinstance(name, str) else None
        if due := self.error_due():
            code, words = (due, "Rate limit exceeded.") if isinstance(due, int) else (None, due)
            return [_said("bts:error", name, {"code": code, "message": words})]
        if found is None or not self.known(found[2]):
            return [_said("bts:error", name, {"code": None, "message": "Bad subscription string."})]
        channel = _CHANNELS.get(found[1], found[1])
        if event == "bts:unsubscribe":
            self.remove(channel, [found[2]])
            return [_said("bts:unsubscription_succeeded", name, {})]
        self.add(channel, [found[2]])
        return [_said("bts:subscription_succeeded", name, {})]

    def program(self) -> Program:
        names = [name.encode() for name in self.venue.names]
        return compile_templates(
            Template(b"", _TRADE), Template(b"", _BOOK), names, _TYPES, self.venue.size_digits, TEXT
        )

    def key(self, payload: bytes) -> tuple[str, str] | None:
        frame = msgspec.json.decode(payload)
        found = _CHANNEL.fullmatch(frame["channel"])
        if found is None or frame["event"].startswith("bts:"):
            return None
        return _CHANNELS.get(found[1], found[1]), found[2]


def _said(event: str, channel: str, data: dict[str, object]) -> str:
    return json.dumps({"event": event, "channel": channel, "data": data}, separators=(",", ":"))


_TRANSACTIONS = re.compile(r"/api/v2/transactions/(\w+)/")


def transactions(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """Newest first, of the last minute, hour or day; times are whole seconds."""
    found = _TRANSACTIONS.fullmatch(asked.path)
    if found is None or found[1] not in venue.index:
        raise Refused(Answer(404, {"status": "error", "reason": "Not found", "code": "API0004"}))
    span = SPANS_S.get(asked.query.get("time", "hour"))
    if span is None:
        raise Refused(Answer(400, {"status": "error", "reason": "Invalid time parameter", "code": "API0005"}))
    now = venue.now()
    rows = trades.rows(trades.find(venue.index[found[1]], times=(now - span * SECOND_NS, now))[::-1]).tolist()
    return Answer(
        200,
        [
            {
                "date": str(row[TS] // SECOND_NS), "tid": str(row[ID]), "type": "0" if row[SIDE] else "1",
                "amount": decimal_text(row[SIZE], venue.size_digits), "price": decimal_text(row[PRICE], PRICE_DIGITS),
            }
            for row in rows
        ],
    )  # fmt: skip
