"""Kraken WebSocket v2. https://docs.kraken.com/api/docs/websocket-v2/trade"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from recorder.core.market import QUOTE, SIDE, TRADE, TS
from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.venue import QUOTES, TRADES, Conversation, Reply, Snapshot, rfc3339

TEXT = 1
_SIDES = (b"sell", b"buy")  # of the taker
_CHANNELS = {"trade": TRADES, "ticker": QUOTES}
_KNOWN = ("trade", "ticker", "book", "ohlc", "level3", "instrument")
_TRADE = (
    '{"symbol":"<symbol>","side":"<side>","price":<price>,"qty":<size>,"ord_type":"market","trade_id":<id>,'
    '"timestamp":"<time>"}'
)
_TICKER = (
    '{"symbol":"<symbol>","bid":<price>,"bid_qty":<size>,"ask":<ask>,"ask_qty":<ask_size>,"last":<price>,'
    '"volume":163.28908096,"vwap":<price>,"low":<price>,"high":<ask>,"change":250.00,"change_pct":0.24,'
    '"timestamp":"<time>"}'
)


def _status(system: str) -> str:
    return (
        f'{{"channel":"status","type":"update","data":[{{"version":"2.0.10","system":"{system}","api_version":"v2",'
        '"connection_id":12393906104898154338}]}'
    )


class Kraken(Conversation):
    """rules: ``items_max``, trades in one message at most (default 50). Errors are words; each is said of every symbol
    that was asked for."""

    notices: ClassVar[Mapping[str, tuple[Reply, ...]]] = {
        **{system: (_status(system),) for system in ("online", "maintenance", "cancel_only", "post_only")},
        "Exceeded msg rate": ('{"Error":"Exceeded msg rate"}',),
    }

    def opened(self) -> list[Reply]:
        return self.said("online")

    def received(self, message: str | bytes) -> list[Reply]:
        time_in = rfc3339(self.venue.now())
        try:
            request = json.loads(message)
            method = request["method"]
            params = request.get("params", {})
            number = {"req_id": request["req_id"]} if "req_id" in request else {}
        except (ValueError, TypeError, KeyError, AttributeError):
            return [_answer(time_in, error="JSON Parse Error", method="unknown", success=False)]
        if method == "ping":
            return [_answer(time_in, method="pong", **number)]
        channel, symbols = params.get("channel"), params.get("symbol", [])
        if method not in ("subscribe", "unsubscribe"):
            return [_answer(time_in, error=f"Unsupported method {method}", method=method, success=False, **number)]
        if channel not in _KNOWN:
            return [
                _answer(
                    time_in,
                    error=f"Unsupported field: '{channel}' for the channel",
                    method=method,
                    success=False,
                    **number,
                )
            ]
        if not symbols:
            return [_answer(time_in, error="Symbol(s) missing", method=method, success=False, **number)]
        if due := self.error_due():
            return [
                _answer(time_in, error=str(due), method=method, success=False, symbol=symbol, **number)
                for symbol in symbols
            ]
        replies: list[Reply] = []
        old: list[int] = []
        snapshot = params.get("snapshot", channel != "trade")
        for symbol in symbols:
            if not self.known(symbol):
                text = f"Currency pair not supported {symbol}"
                replies.append(_answer(time_in, error=text, method=method, success=False, symbol=symbol, **number))
                continue
            result: dict[str, Any] = {"channel": channel}
            if method == "subscribe":
                self.add(_CHANNELS.get(channel, channel), [symbol])
                result |= {"event_trigger": params["event_trigger"]} if "event_trigger" in params else {}
                result |= {"snapshot": snapshot}
                old += [] if self.venue.playing else [self.venue.index[symbol]]
            else:
                self.remove(_CHANNELS.get(channel, channel), [symbol])
            replies.append(_answer(time_in, method=method, result=result | {"symbol": symbol}, success=True, **number))
        if snapshot and channel in _CHANNELS:
            replies += [self._old(TRADE if channel == "trade" else QUOTE, index) for index in old]
        return replies

    def _old(self, kind: int, index: int) -> Snapshot:
        row = self.venue.last[kind, index]
        item = _TRADE if kind == TRADE else _TICKER
        values = self.numbers(kind, index) | {
            "symbol": self.venue.names[index],
            "side": _SIDES[int(row[SIDE])].decode(),
            "time": rfc3339(int(row[TS])),
        }
        for name, value in values.items():
            item = item.replace(f"<{name}>", value)
        channel = "trade" if kind == TRADE else "ticker"
        return Snapshot(f'{{"channel":"{channel}","type":"snapshot","data":[{item}]}}', kind, (index,))

    def second(self) -> list[Reply]:
        return [*super().second(), *(['{"channel":"heartbeat"}'] if self.wanted else [])]

    def program(self) -> Program:
        def template(channel: bytes, item: str, items_max: int) -> Template:
            prefix = b'{"channel":"' + channel + b'","type":"update","data":['
            return Template(prefix, item.replace("<time>", "<ts:rfc6>").encode(), b"]}", items_max=items_max)

        return compile_templates(
            template(b"trade", _TRADE, int(str(self.venue.rules.get("items_max", 50)))),
            template(b"ticker", _TICKER, 1),
            [name.encode() for name in self.venue.names],
            _SIDES,
            self.venue.size_digits,
            TEXT,
        )

    def key(self, payload: bytes) -> tuple[str, str] | None:
        frame = msgspec.json.decode(payload)
        if isinstance(frame, list):  # version 1, as in older recordings: [channel id, data, "trade", "XBT/USD"]
            name = str(frame[-2]).partition("-")[0]
            return _CHANNELS.get(name, name), str(frame[-1])
        if "data" not in frame or frame.get("channel") == "status" or not frame["data"]:
            return None
        channel = frame["channel"]
        return _CHANNELS.get(channel, channel), frame["data"][0].get("symbol", "")


def _answer(time_in: str, **fields: Any) -> str:
    return json.dumps(fields | {"time_in": time_in, "time_out": time_in}, separators=(",", ":"))
