"""Alpaca market data streams: stocks, crypto, options, news; JSON and MessagePack.

https://docs.alpaca.markets/docs/streaming-market-data
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Venue

TEXT, BINARY = 1, 2
AUTH_TIMEOUT_NS = 10_000_000_000
ERRORS = {
    400: "invalid syntax", 401: "not authenticated", 402: "auth failed",
    403: "already authenticated", 404: "auth timeout",
    405: "symbol limit exceeded", 406: "connection limit exceeded", 407: "slow client", 408: "v2 not enabled",
    409: "insufficient subscription", 410: "invalid subscribe action for this feed", 411: "insufficient scope",
    412: "option messages are only available in MsgPack format",
    413: "star subscription is not allowed for option quotes", 500: "internal error",
}  # fmt: skip
_CHANNELS = {
    "stocks": ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds", "imbalances"),
    "crypto": ("trades", "quotes", "bars", "updatedBars", "dailyBars", "orderbooks"),
    "options": ("trades", "quotes"),
    "news": ("news",),
}
_BY_TYPE = {
    "t": TRADES, "c": TRADES, "x": TRADES, "q": QUOTES, "b": "bars", "u": "updatedBars", "d": "dailyBars",
    "s": "statuses", "l": "lulds", "i": "imbalances", "o": "orderbooks", "n": "news",
}  # fmt: skip
_SYMBOL = re.compile(r"[A-Z0-9./]{1,32}|\*")


class Alpaca(Conversation):
    """One connection.

    rules  ``keys`` {key: secret}, without it any key will do; ``connections_max`` (1); ``symbols_max`` (no limit);
           ``not_in_plan``, feeds such as "sip" that answer 409; ``items_max``, messages in one frame at most (50);
           ``let_in``, whether the upgrade authenticates already, as with keys in its headers
    Errors are the numbers of ERRORS.
    """

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(venue, path, headers)
        self.binary = "msgpack" in headers.get("Content-Type", "")
        route = path.partition("?")[0].rstrip("/")
        self.feed = route.rsplit("/", 1)[-1]
        kinds = {"opra": "options", "indicative": "options", "news": "news"}
        self.kind = "crypto" if "/crypto/" in route else kinds.get(self.feed, "stocks")
        self._authenticated = False

    def opened(self) -> list[Reply]:
        replies: list[Reply] = [self._pack([{"T": "success", "msg": "connected"}])]
        key, secret = self.headers.get("APCA-API-KEY-ID"), self.headers.get("APCA-API-SECRET-KEY")
        if self.venue.rules.get("let_in"):
            key, secret = "let", "in"
        if key is not None:
            replies += self._auth(key, secret)
        return replies

    def closed(self) -> None:
        if self._authenticated:
            self.venue.live -= 1
            self._authenticated = False

    def second(self) -> list[Reply]:
        if not self._authenticated and self.venue.now() - self.opened_ns > AUTH_TIMEOUT_NS:
            return self.said("404")
        return []

    def said(self, what: str) -> list[Reply]:
        """An error that nothing was asked for; who has not authenticated in time is sent away."""
        return [self._error(int(what)), *([Close(1000, "auth timeout")] if what == "404" else [])]

    def received(self, message: str | bytes) -> list[Reply]:
        if due := self.error_due():
            return self.said(str(due))
        decode: Any = msgspec.msgpack.decode if isinstance(message, bytes) else msgspec.json.decode
        try:
            request = decode(message)
            action = request["action"]
        except (msgspec.DecodeError, TypeError, KeyError):
            return [self._error(400)]
        if action == "auth":
            return self._auth(request.get("key"), request.get("secret"))
        if action not in ("subscribe", "unsubscribe"):
            return [self._error(400)]
        return self._subscribe(request, action == "subscribe")

    def _auth(self, key: object, secret: object) -> list[Reply]:
        rules: dict[str, Any] = self.venue.rules
        if self._authenticated:
            return [self._error(403)]
        if self.kind == "options" and not self.binary:
            return [self._error(412)]
        keys = rules.get("keys")
        if not key or not secret or (keys is not None and keys.get(key) != secret):
            return [self._error(402)]
        if self.feed in rules.get("not_in_plan", ()):
            return [self._error(409)]
        if self.venue.live >= rules.get("connections_max", 1):
            return [self._error(406)]
        self.venue.live += 1
        self._authenticated = True
        return [self._pack([{"T": "success", "msg": "authenticated"}])]

    def _subscribe(self, request: dict[str, Any], add: bool) -> list[Reply]:
        if not self._authenticated:
            return [self._error(401)]
        lists = {channel: names for channel, names in request.items() if channel != "action"}
        for channel, names in lists.items():
            if channel not in _CHANNELS[self.kind]:
                return [self._error(410)]
            if not isinstance(names, list) or not all(isinstance(n, str) and _SYMBOL.fullmatch(n) for n in names):
                return [self._error(400)]
            if self.kind == "options" and channel == QUOTES and "*" in names and add:
                return [self._error(413)]
        limit: Any = self.venue.rules.get("symbols_max")
        if add and limit is not None:
            current = {channel: names | set(lists.get(channel, ())) for channel, names in self.wanted.items()}
            current |= {channel: set(names) for channel, names in lists.items() if channel not in current}
            if any(len(names) > limit for names in current.values()):
                return [self._error(405)]
        for channel, names in lists.items():
            (self.add if add else self.remove)(channel, names)
        answer: dict[str, Any] = {"T": "subscription"}
        answer |= {channel: sorted(self.wanted.get(channel, ())) for channel in _CHANNELS[self.kind]}
        if self.kind == "stocks":
            answer |= {"corrections": answer["trades"], "cancelErrors": answer["trades"]}
        return [self._pack([answer])]

    def _error(self, code: int) -> str | bytes:
        return self._pack([{"T": "error", "code": code, "msg": ERRORS[code]}])

    def _pack(self, message: object) -> str | bytes:
        return msgspec.msgpack.encode(message) if self.binary else msgspec.json.encode(message).decode()

    def program(self) -> Program:
        trade, quote = self._fields()
        items_max = int(str(self.venue.rules.get("items_max", 50)))
        names = [name.encode() for name in self.venue.names]
        sides = (b"S", b"B")
        if self.binary:
            names = [msgspec.msgpack.encode(name) for name in self.venue.names]
            sides = (b"\xa1S", b"\xa1B")
            trades, quotes = (
                Template(b"<count:msgpack>", _packed(f), separator=b"", items_max=items_max) for f in (trade, quote)
            )
        else:
            trades, quotes = (Template(b"[", _json(f), b"]", items_max=items_max) for f in (trade, quote))
        opcode = BINARY if self.binary else TEXT
        return compile_templates(trades, quotes, names, sides, self.venue.size_digits, opcode)

    def _fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Trade and quote: values, or the name of a field in a tuple."""
        ts, whole = ("ts",), ("size",)
        quote: dict[str, Any] = {"T": "q", "S": ("symbol",)}
        bid, ask = {"bp": ("price",), "bs": whole}, {"ap": ("ask",), "as": ("ask_size",)}
        if self.kind == "stocks":
            trade = {
                "T": "t", "S": ("symbol",), "i": ("id",), "x": "V", "p": ("price",), "s": whole, "c": ["@"],
                "z": "C", "t": ts,
            }  # fmt: skip
            return trade, quote | {"bx": "V"} | bid | {"ax": "V"} | ask | {"c": ["R"], "z": "C", "t": ts}
        if self.kind == "crypto":
            trade = {"T": "t", "S": ("symbol",), "p": ("price",), "s": whole, "t": ts, "i": ("id",), "tks": ("side",)}
            return trade, quote | bid | ask | {"t": ts}
        trade = {"T": "t", "S": ("symbol",), "t": ts, "p": ("price",), "s": whole, "x": "N", "c": "S"}
        return trade, quote | {"t": ts, "bx": "C"} | bid | {"ax": "C"} | ask | {"c": "A"}

    def key(self, payload: bytes) -> tuple[str, str] | None:
        text = payload[:1] in (b"[", b"{")
        messages: Any = (msgspec.json.decode if text else msgspec.msgpack.decode)(payload)
        first = messages[0] if isinstance(messages, list) and messages else {}
        channel = _BY_TYPE.get(first.get("T", ""))
        return None if channel is None else (channel, first.get("S", ""))


_QUOTED = {"symbol": '"<symbol>"', "side": '"<side>"', "ts": '"<ts:rfc9>"'}
_PACKED = {"symbol": b"<symbol>", "side": b"<side>", "ts": b"<ts:stamp>", "id": b"<id:u64>"}


def _json(fields: dict[str, Any]) -> bytes:
    parts = []
    for key, value in fields.items():
        text = (
            _QUOTED.get(value[0], f"<{value[0]}>") if isinstance(value, tuple) else msgspec.json.encode(value).decode()
        )
        parts.append(f'"{key}":{text}')
    return ("{" + ",".join(parts) + "}").encode()


def _packed(fields: dict[str, Any]) -> bytes:
    parts = [bytes([0x80 | len(fields)])]
    for key, value in fields.items():
        parts.append(msgspec.msgpack.encode(key))
        if isinstance(value, tuple):
            parts.append(_PACKED.get(value[0], f"<{value[0]}:f64>".encode()))
        else:
            parts.append(msgspec.msgpack.encode(value))
    return b"".join(parts)
