"""Coinbase Exchange and Advanced Trade, as their documentation describes them.

https://docs.cdp.coinbase.com/exchange/websocket-feed/overview
https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-overview
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from recorder.core.market import QUOTE, SIDE, TRADE, TS
from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Snapshot, rfc3339

TEXT = 1
FIVE_SECONDS_NS = 5_000_000_000

# Both interfaces name the maker's side: who was hit, not who hit. Aggressor sold, aggressor bought.
_MAKER = (b"buy", b"sell")
_EXCHANGE = {"matches": TRADES, "ticker": QUOTES}
_EXCHANGE_KNOWN = ("matches", "ticker", "heartbeat", "status", "level2_batch", "ticker_batch", "full")
_ADVANCED = {"market_trades": TRADES, "ticker": QUOTES}
_ADVANCED_KNOWN = ("market_trades", "ticker", "heartbeats", "status", "level2", "ticker_batch", "candles")


_SEQUENCE = re.compile(rb'"sequence_num":\s*\d+')


def _fill(template: str, **values: str) -> str:
    for name, value in values.items():
        template = template.replace(f"<{name}>", value)
    return template


class _Key(msgspec.Struct):
    type: str = ""
    product_id: str = ""
    channel: str = ""
    events: list[dict[str, Any]] = []  # a Struct copies its defaults


_decode_key = msgspec.json.Decoder(_Key).decode


# Behind each the client is disconnected; whether the words are the message or its reason is unverified.
# https://docs.cdp.coinbase.com/exchange/websocket-feed/errors
NOTICES: dict[str, tuple[Reply, ...]] = {
    words: (f'{{"type":"error","message":"{words}"}}', Close(code, words))
    for words, code in (("ErrSlowConsume", 1000), ("ErrSlowRead", 1000), ("Message too big", 1009))
}


class Exchange(Conversation):
    """rules: none. Errors are the reasons of a failure to subscribe."""

    needs_subscription_ns = FIVE_SECONDS_NS
    notices = NOTICES
    match = (
        '{"type":"<type>","trade_id":<id>,"maker_order_id":"5d1f0a6c-2b34-4c0e-9d57-<hex>",'
        '"taker_order_id":"7e2a1b7d-3c45-4d1f-8e68-<hex>","side":"<side>","size":"<size>","price":"<price>",'
        '"product_id":"<symbol>","sequence":5<id>,"time":"<time>"}'
    )
    ticker = (
        '{"type":"ticker","sequence":6<id>,"product_id":"<symbol>","price":"<price>","open_24h":"<price>",'
        '"volume_24h":"94381.28000000","low_24h":"<price>","high_24h":"<ask>","volume_30d":"2295579.57000000",'
        '"best_bid":"<price>","best_bid_size":"<size>","best_ask":"<ask>","best_ask_size":"<ask_size>","side":"buy",'
        '"time":"<time>","trade_id":<id>,"last_size":"<size>"}'
    )

    def received(self, message: str | bytes) -> list[Reply]:
        try:
            request = json.loads(message)
            action = request["type"]
        except (ValueError, TypeError, KeyError):
            return [_error("Malformed JSON", "the message is not a JSON object with a type")]
        if action not in ("subscribe", "unsubscribe"):
            return [_error("Unknown message type", f"{action} is not a valid type")]
        if due := self.error_due():
            return [_error("Failed to subscribe", str(due))]
        asked: list[tuple[str, list[str]]] = []
        for channel in request.get("channels", []):
            name = channel["name"] if isinstance(channel, dict) else channel
            products = channel.get("product_ids") if isinstance(channel, dict) else None
            asked.append((name, products or request.get("product_ids", [])))
        if not asked:
            return [_error("Failed to subscribe", "channels field is required")]
        for name, products in asked:
            if name == "level2":
                return [_error("Failed to subscribe", "level2 channel requires authentication")]
            if name not in _EXCHANGE_KNOWN:
                return [_error("Failed to subscribe", f"{name} is not a valid channel")]
            for product in products:
                if not self.known(product):
                    return [_error("Failed to subscribe", f"{product} is not a valid product")]
        replies: list[Reply] = []
        for name, products in asked:
            channel = _EXCHANGE.get(name, name)
            fresh = [p for p in products if not self.wants(channel, p)]
            (self.add if action == "subscribe" else self.remove)(channel, products)
            if action == "subscribe" and channel == TRADES and not self.venue.playing:
                replies += [self._last_match(product) for product in fresh]
        return [self._subscriptions(), *replies]

    def _subscriptions(self) -> str:
        own = {channel: name for name, channel in _EXCHANGE.items()}
        channels = [{"name": own.get(c, c), "product_ids": sorted(names)} for c, names in self.wanted.items()]
        return json.dumps({"type": "subscriptions", "channels": channels}, separators=(",", ":"))

    def _last_match(self, product: str) -> Snapshot:
        index = self.venue.index[product]
        row = self.venue.last[TRADE, index]
        numbers = self.numbers(TRADE, index)
        text = _fill(
            self.match, type="last_match", symbol=product, time=rfc3339(int(row[TS])), hex=f"{int(numbers['id']):012x}",
            side=_MAKER[int(row[SIDE])].decode(), **numbers,
        )  # fmt: skip
        return Snapshot(text, TRADE, (index,))

    def second(self) -> list[Reply]:
        if self.venue.playing:
            return super().second()  # the recording has heartbeats of its own
        now = rfc3339(self.venue.now())
        beats = []
        for product in sorted(self.wanted.get("heartbeat", ())):
            last = self.numbers(TRADE, self.venue.index[product])["id"]
            beats.append(
                f'{{"type":"heartbeat","last_trade_id":{last},"product_id":"{product}","sequence":5{last},"time":"{now}"}}'
            )
        return [*super().second(), *beats]

    def program(self) -> Program:
        names = [name.encode() for name in self.venue.names]
        match = _fill(self.match, type="match", time="<ts:rfc6>", hex="<id:hex>").encode()
        ticker = _fill(self.ticker, time="<ts:rfc6>").encode()
        return compile_templates(
            Template(b"", match), Template(b"", ticker), names, _MAKER, self.venue.size_digits, TEXT
        )

    def key(self, payload: bytes) -> tuple[str, str] | None:
        frame = _decode_key(payload)
        if frame.type in ("match", "last_match"):
            return TRADES, frame.product_id
        if frame.type in ("snapshot", "l2update"):
            return "level2_batch", frame.product_id
        return (
            None
            if frame.type in ("subscriptions", "error")
            else (_EXCHANGE.get(frame.type, frame.type), frame.product_id)
        )


def _error(message: str, reason: str) -> str:
    return json.dumps({"type": "error", "message": message, "reason": reason}, separators=(",", ":"))


class Advanced(Conversation):
    """rules: ``items_max``, trades in one message at most (default 50). Errors are words."""

    needs_subscription_ns = FIVE_SECONDS_NS
    notices = NOTICES
    head = (
        '{"channel":"<channel>","client_id":"","timestamp":"<time>","sequence_num":<sequence>,'
        '"events":[{"type":"<type>",'
    )
    trade = (
        '{"trade_id":"<id>","product_id":"<symbol>","price":"<price>","size":"<size>","side":"<side>","time":"<time>"}'
    )
    ticker = (
        '{"type":"ticker","product_id":"<symbol>","price":"<price>","volume_24_h":"15328.12345678","low_24_h":"<price>",'
        '"high_24_h":"<ask>","low_52_w":"<price>","high_52_w":"<ask>","price_percent_chg_24_h":"1.85","best_bid":"<price>",'
        '"best_bid_quantity":"<size>","best_ask":"<ask>","best_ask_quantity":"<ask_size>"}'
    )
    _beats = 0

    def received(self, message: str | bytes) -> list[Reply]:
        try:
            request = json.loads(message)
            action, name, products = request["type"], request["channel"], request.get("product_ids", [])
        except (ValueError, TypeError, KeyError):
            return [self._failure("Malformed JSON, type and channel are required")]
        if due := self.error_due():
            return [self._failure(str(due))]
        if action not in ("subscribe", "unsubscribe") or name not in _ADVANCED_KNOWN:
            return [self._failure(f"{action} {name} is not a valid request")]
        if not all(self.known(product) for product in products):
            return [self._failure("failure to subscribe: invalid product_ids")]
        channel = _ADVANCED.get(name, name)
        fresh = [p for p in products if not self.wants(channel, p)]
        (self.add if action == "subscribe" else self.remove)(channel, products or ["*"])
        own = {value: key for key, value in _ADVANCED.items()}
        current = {own.get(c, c): sorted(names - {"*"}) for c, names in self.wanted.items()}
        replies: list[Reply] = []
        if action == "subscribe" and fresh and channel in (TRADES, QUOTES) and not self.venue.playing:
            replies.append(self._old(TRADE if channel == TRADES else QUOTE, fresh))
        text = json.dumps([{"subscriptions": current}], separators=(",", ":"))
        return [*replies, self._message("subscriptions", text)]

    def _message(self, channel: str, events: str) -> str:
        number, self.sequence = self.sequence, self.sequence + 1
        return (
            f'{{"channel":"{channel}","client_id":"","timestamp":"{rfc3339(self.venue.now())}",'
            f'"sequence_num":{number},"events":{events}}}'
        )

    def _failure(self, message: str) -> str:
        return json.dumps({"type": "error", "message": message}, separators=(",", ":"))

    def _old(self, kind: int, products: list[str]) -> Snapshot:
        items, indexes = [], []
        for product in products:
            index = self.venue.index[product]
            row = self.venue.last[kind, index]
            items.append(
                _fill(
                    self.trade if kind == TRADE else self.ticker, symbol=product, time=rfc3339(int(row[TS])),
                    side=_MAKER[int(row[SIDE])].decode().upper(), **self.numbers(kind, index),
                )
            )  # fmt: skip
            indexes.append(index)
        what, name = ("trades", "market_trades") if kind == TRADE else ("tickers", "ticker")
        return Snapshot(
            self._message(name, f'[{{"type":"snapshot","{what}":[{",".join(items)}]}}]'), kind, tuple(indexes)
        )

    def second(self) -> list[Reply]:
        replies = super().second()
        if "heartbeats" in self.wanted and not any(isinstance(reply, Close) for reply in replies):
            now = self.venue.now()
            time = rfc3339(now, 9).replace("T", " ").replace("Z", "+00:00")
            replies.append(
                self._message("heartbeats", f'[{{"current_time":"{time}","heartbeat_counter":{self._beats}}}]')
            )
            self._beats += 1
        return replies

    def program(self) -> Program:
        names = [name.encode() for name in self.venue.names]
        head = _fill(self.head, time="<ts:rfc6>", type="update")
        trade = _fill(self.trade, time="<ts:rfc6>").encode()
        return compile_templates(
            Template(
                _fill(head, channel="market_trades").encode() + b'"trades":[', trade, b"]}]}",
                items_max=int(str(self.venue.rules.get("items_max", 50))),
            ),
            Template(_fill(head, channel="ticker").encode() + b'"tickers":[', self.ticker.encode(), b"]}]}"),
            names, (b"BUY", b"SELL"), self.venue.size_digits, TEXT,
        )  # fmt: skip

    def renumbered(self, payload: bytes) -> bytes:
        number, self.sequence = self.sequence, self.sequence + 1
        return _SEQUENCE.sub(b'"sequence_num":%d' % number, payload, count=1)

    def key(self, payload: bytes) -> tuple[str, str] | None:
        frame = _decode_key(payload)
        if frame.channel in ("subscriptions", "heartbeats", ""):
            return None
        event = frame.events[0] if frame.events else {}
        first = next((v[0] for v in event.values() if isinstance(v, list) and v and isinstance(v[0], dict)), {})
        name = {"l2_data": "level2"}.get(frame.channel, frame.channel)
        return _ADVANCED.get(name, name), event.get("product_id") or first.get("product_id", "")
