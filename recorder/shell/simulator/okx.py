"""OKX WebSocket version 5, and trades of its HTTP interface.

https://www.okx.com/docs-v5/en/#overview-websocket , …-order-book-trading-market-data-get-trades-history
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from recorder.core.market import ID, PRICE, PRICE_DIGITS, QUOTE, SIDE, SIZE, TRADE, TS, decimal_text
from recorder.shell.simulator.past import Past
from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.rest import SECOND_NS, Answer, Asked, Refused, whole
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Snapshot, Venue

TEXT = 1
REQUESTS_MAX = 480  # subscribing and unsubscribing, of one connection in an hour
IDLE_NS = 30 * SECOND_NS  # without a message in either direction
PAGE = 100
EVER = (1 << 63) - 1
CONN_ID = "a4d3ae55"
_SIDES = (b"sell", b"buy")  # of the taker
_PUBLIC = {"trades": TRADES, "bbo-tbt": QUOTES, "books": "books", "books5": "books5", "tickers": "tickers"}
_BUSINESS = {"trades-all": TRADES}
_LOGIN = ("books-l2-tbt", "books50-l2-tbt")
_TRADE = {
    "trades-all": '{"instId":"<symbol>","tradeId":"<id>","px":"<price>","sz":"<size>","side":"<side>","source":"0",'
    '"ts":"<ts:ms>"}',
    "trades": '{"instId":"<symbol>","tradeId":"<id>","px":"<price>","sz":"<size>","side":"<side>","ts":"<ts:ms>",'
    '"count":"1","source":"0","seqId":<id>}',
}
_BEST = (
    '{"arg":{"channel":"bbo-tbt","instId":"<symbol>"},"data":[{"asks":[["<ask>","<ask_size>","0","1"]],'
    '"bids":[["<price>","<size>","0","1"]],"ts":"<ts:ms>","seqId":<id>}]}'
)


WORDS = {  # of errors, by code
    "60012": "Invalid request", "60013": "Invalid args", "60014": "Requests too frequent",
    "64003": "Your trading fee tier doesn't meet the requirement",
}  # fmt: skip
NOTICES: dict[str, tuple[Reply, ...]] = {
    "64008": (
        json.dumps({
            "event": "notice", "code": "64008", "connId": CONN_ID,
            "msg": "The connection will soon be closed for a service upgrade. Please reconnect.",
        }),
    ),
    "channel-conn-count-error": (
        json.dumps(
            {"event": "channel-conn-count-error", "channel": "trades-all", "connCount": "31", "connId": CONN_ID}
        ),
    ),
    "4004": (Close(4004, "No data received in 30s"),),
    "60005": (  # before a close for silence (unverified)
        json.dumps({"event": "notice", "code": "60005", "msg": "No data received in 30s", "connId": CONN_ID}),
        Close(4004, "No data received in 30s"),
    ),
}  # fmt: skip


class Okx(Conversation):
    """rules: ``requests_max``, subscribe and unsubscribe messages that a connection may send (default 480).

    Errors are the codes of WORDS.
    """

    notices = NOTICES

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(venue, path, headers)
        self._business = path.rstrip("/").endswith("/business")
        self._heard_ns = self.opened_ns
        self._requests = 0

    def received(self, message: str | bytes) -> list[Reply]:
        self._heard_ns = self.venue.now()
        if message == "ping":
            return ["pong"]
        try:
            request = json.loads(message)
            op, args = request["op"], request["args"]
            number = {"id": request["id"]} if "id" in request else {}
            wanted = [
                (str(arg["channel"]), str(arg["instFamily" if "instFamily" in arg else "instId"])) for arg in args
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            return [_error("60012", f"Invalid request: {json.dumps(str(message)[:100])}")]
        if due := str(self.error_due() or ""):
            return [_error(due, WORDS[due], **number)]
        if op not in ("subscribe", "unsubscribe"):
            return [_error("60012", f"Invalid request: {json.dumps(op)}", **number)]
        self._requests += 1
        if self._requests > int(str(self.venue.rules.get("requests_max", REQUESTS_MAX))):
            return [_error("60014", WORDS["60014"], **number)]
        replies: list[Reply] = []
        for channel, name in wanted:
            replies += self._one(op, channel, name, number)
        return replies

    def _one(self, op: str, channel: str, name: str, number: dict[str, Any]) -> list[Reply]:
        """The answer to one channel of one instrument."""
        if channel in _LOGIN:
            return [_error("64003", WORDS["64003"], **number)]
        served = _BUSINESS if self._business else _PUBLIC
        bars = self._business and channel.startswith("candle")
        if not (channel in served or bars or self.venue.playing) or not self.known(name):
            words = f"Wrong URL or channel:{channel},instId:{name} doesn't exist. Please use the correct URL, channel "
            return [_error("60018", words + "and parameters referring to API document.", **number)]
        ours = served.get(channel, channel)
        arg = {"channel": channel, "instFamily" if channel == "opt-summary" else "instId": name}
        ack = json.dumps({**number, "event": op, "arg": arg, "connId": CONN_ID}, separators=(",", ":"))
        if op == "unsubscribe":
            self.remove(ours, [name])
            return [ack]
        self.add(ours, [name])
        # ``trades`` was recorded to begin with the last trade; that trades-all does not is unverified.
        if self.venue.playing or channel not in ("trades", "bbo-tbt"):
            return [ack]
        return [ack, self._old(channel, self.venue.index[name])]

    def _old(self, channel: str, index: int) -> Snapshot:
        """What came last before the subscription; nothing in it says so."""
        kind = QUOTE if channel == "bbo-tbt" else TRADE
        row = self.venue.last[kind, index]
        item = _BEST if kind == QUOTE else f'{{"arg":{{"channel":"{channel}","instId":"<symbol>"}},"data":['
        item += "" if kind == QUOTE else _TRADE[channel] + "]}"
        values = self.numbers(kind, index) | {
            "symbol": self.venue.names[index],
            "side": _SIDES[int(row[SIDE])].decode(),
            "ts:ms": str(int(row[TS]) // 1_000_000),
        }
        for name, value in values.items():
            item = item.replace(f"<{name}>", value)
        return Snapshot(item, kind, (index,))

    def second(self) -> list[Reply]:
        """Closes a connection on which nothing was said for half a minute."""
        names = [self.venue.index[n] for some in self.wanted.values() for n in some if n in self.venue.index]
        pushed = int(self.venue.last[:, names, TS].max()) if names else 0
        return self.said("4004") if self._silent(pushed) else super().second()

    def _silent(self, pushed_ns: int) -> bool:
        return self.venue.now() - max(self._heard_ns, pushed_ns) > IDLE_NS

    def program(self) -> Program:
        channel = "trades-all" if self._business else "trades"
        prefix = f'{{"arg":{{"channel":"{channel}","instId":"<symbol>"}},"data":['
        return compile_templates(
            Template(prefix.encode(), _TRADE[channel].encode(), b"]}"),
            Template(b"", _BEST.encode()),
            [name.encode() for name in self.venue.names],
            _SIDES,
            self.venue.size_digits,
            TEXT,
        )

    def key(self, payload: bytes) -> tuple[str, str] | None:
        if payload == b"pong":
            return None
        frame = msgspec.json.decode(payload)
        if "data" not in frame:
            return None
        channel = frame["arg"]["channel"]
        return (_PUBLIC | _BUSINESS).get(channel, channel), frame["arg"].get(
            "instId", frame["arg"].get("instFamily", "")
        )


def _error(code: str, words: str, **number: Any) -> str:
    return json.dumps({**number, "event": "error", "code": code, "msg": words, "connId": CONN_ID})


def okx_page(venue: Venue, trades: Past, quotes: Past, asked: Asked) -> Answer:
    """history-trades: newest first, older than an id (type 1) or a time in ms (type 2); errors are HTTP 200."""

    def refused(code: str, words: str) -> Refused:
        return Refused(Answer(200, {"code": code, "msg": words, "data": []}))

    if asked.path != "/api/v5/market/history-trades":
        raise Refused(Answer(404, {"code": "404", "msg": "Not Found", "data": []}))
    name = asked.query.get("instId", "")
    if not name:
        raise refused("50014", "Parameter instId can not be empty")
    if name not in venue.index:
        raise refused("51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")

    def number(parameter: str, default: int, low: int, high: int) -> int:
        return whole(asked, parameter, default, refused("51000", f"Parameter {parameter} error").answer, low, high)

    kind, limit, after = number("type", 1, 1, 2), number("limit", PAGE, 1, PAGE), number("after", EVER, 0, EVER)
    ranges = {"ids": (0, after - 1)} if kind == 1 else {"times": (0, min(after, EVER // 1_000_000) * 1_000_000 - 1)}
    rows = trades.rows(trades.find(venue.index[name], **ranges)[-limit:][::-1]).tolist()
    items = ",".join(
        f'{{"instId":"{name}","side":"{_SIDES[row[SIDE]].decode()}",'
        f'"sz":"{decimal_text(row[SIZE], venue.size_digits)}",'
        f'"px":"{decimal_text(row[PRICE], PRICE_DIGITS)}","source":"0","tradeId":"{row[ID]}",'
        f'"ts":"{row[TS] // 1_000_000}"}}'
        for row in rows
    )
    return Answer(200, f'{{"code":"0","msg":"","data":[{items}]}}')
