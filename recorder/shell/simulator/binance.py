"""Binance spot and futures market streams.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
"""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from recorder.shell.simulator.render import Program, Template, compile_templates
from recorder.shell.simulator.venue import QUOTES, TRADES, Close, Conversation, Reply, Venue

TEXT = 1
STREAMS_MAX = 1024  # on one connection
MESSAGES_PER_SECOND_MAX = {"binance": 5, "binance-usdm": 10, "binance-coinm": 10}  # from a client, or it is cut
_CHANNELS = {"trade": TRADES, "aggTrade": TRADES, "bookTicker": QUOTES}
_TRADE = {
    "binance": '{"e":"trade","E":<ts>,"s":"<symbol>","t":<id>,"p":"<price>","q":"<size>","T":<ts>,"m":<side>,"M":true}',
    "futures": (
        '{"e":"trade","E":<ts>,"T":<ts>,"s":"<symbol>","t":<id>,"p":"<price>","q":"<size>","X":"MARKET","m":<side>}'
    ),
}
_AGGREGATE = {
    "binance": (
        '{"e":"aggTrade","E":<ts>,"s":"<symbol>","a":<id>,"p":"<price>","q":"<size>","f":<id>,"l":<id>,"T":<ts>,'
        '"m":<side>,"M":true}'
    ),
    "futures": (
        '{"e":"aggTrade","E":<ts>,"a":<id>,"s":"<symbol>","p":"<price>","q":"<size>","f":<id>,"l":<id>,"T":<ts>,"m":<side>}'
    ),
}
_BOOK_TICKER = {
    "binance": '{"u":<id>,"s":"<symbol>","b":"<price>","B":"<size>","a":"<ask>","A":"<ask_size>"}',
    "futures": (
        '{"e":"bookTicker","u":<id>,"s":"<symbol>","b":"<price>","B":"<size>","a":"<ask>","A":"<ask_size>","T":<ts>,"E":<ts>}'
    ),
}


WORDS = {  # of errors. https://github.com/binance/binance-spot-api-docs, web-socket-streams.md
    2: "Invalid request: too many parameters",
    3: "Invalid JSON: expected value at line 1 column 1",
}


class _Envelope(msgspec.Struct):
    stream: str = ""


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class Binance(Conversation):
    """rules: none. A stream of a symbol that does not trade is acknowledged and stays silent, as in life.

    Errors are the numbers of WORDS.
    """

    notices: ClassVar[Mapping[str, tuple[Reply, ...]]] = {
        "serverShutdown": ('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',),
        "Too many requests": (Close(1008, "Too many requests"),),
        "Pong timeout": (Close(1008, "Pong timeout"),),  # its words are unverified
    }

    def __init__(self, venue: Venue, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(venue, path, headers)
        address = urlsplit(path)
        query = parse_qs(address.query)
        streams = [s for part in query.get("streams", []) for s in part.split("/") if s]
        route = address.path.rstrip("/").split("/")
        self.combined = "stream" in route or "streams" in query
        if "ws" in route:
            streams += [s for s in route[route.index("ws") + 1 :] if s]
        self._unit = "us" if "".join(query.get("timeUnit", [])).lower() == "microsecond" else "ms"
        self._aggregated = False
        self.streams: dict[str, None] = {}
        self._recent: collections.deque[int] = collections.deque(maxlen=16)
        self._change(streams, True)

    def opened(self) -> list[Reply]:
        return [Close(1008, "Too many streams")] if len(self.streams) > STREAMS_MAX else []

    def received(self, message: str | bytes) -> list[Reply]:
        now = self.venue.now()
        self._recent.append(now)
        if sum(now - ts < 1_000_000_000 for ts in self._recent) > MESSAGES_PER_SECOND_MAX[self.venue.key]:
            return self.said("Too many requests")
        try:
            request = json.loads(message)
            method, number = request["method"], request.get("id")
            params = request.get("params", [])
        except (ValueError, TypeError, KeyError, AttributeError):
            return [_error(3, "Invalid JSON: expected value at line 1 column 1", None)]
        if number is not None and not isinstance(number, (int, str)):
            return [_error(2, "Invalid request: request ID must be an unsigned integer or a string", None)]
        if due := int(self.error_due()):
            return [_error(due, WORDS[due], number)]
        if method == "LIST_SUBSCRIPTIONS":
            return [json.dumps({"result": list(self.streams), "id": number}, separators=(",", ":"))]
        if method not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            return [
                _error(
                    2,
                    f"Invalid request: unknown variant `{method}`, expected one of `SUBSCRIBE`, `UNSUBSCRIBE`",
                    number,
                )
            ]
        if not isinstance(params, list) or not all(isinstance(stream, str) for stream in params):
            return [_error(2, "Invalid request: params must be a list of strings", number)]
        self._change(params, method == "SUBSCRIBE")
        if len(self.streams) > STREAMS_MAX:
            return [Close(1008, "Too many streams")]
        return [json.dumps({"result": None, "id": number}, separators=(",", ":"))]

    def _change(self, streams: list[str], add: bool) -> None:
        for stream in streams:
            name, _, kind = stream.partition("@")
            channel = _CHANNELS.get(kind, kind)
            if add:
                self.streams[stream] = None
                self.add(channel, [name.upper()])
                self._aggregated |= kind == "aggTrade"
            elif stream in self.streams:
                del self.streams[stream]
                self.remove(channel, [name.upper()])

    def program(self) -> Program:
        market = "binance" if self.venue.key == "binance" else "futures"
        trade = (_AGGREGATE if self._aggregated else _TRADE)[market]
        templates = []
        for text, kind in (
            (trade, "aggTrade" if self._aggregated else "trade"),
            (_BOOK_TICKER[market], "bookTicker"),
        ):
            if self.combined:
                text = f'{{"stream":"<stream>@{kind}","data":{text}}}'
            templates.append(Template(b"", text.replace("<ts>", f"<ts:{self._unit}>").encode()))
        names = [name.encode() for name in self.venue.names]
        lower = {"stream": [name.lower() for name in names]}
        # m: the buyer is the maker, so the aggressor sold
        return compile_templates(
            templates[0], templates[1], names, (b"true", b"false"), self.venue.size_digits, TEXT, lower
        )

    def key(self, payload: bytes) -> tuple[str, str] | None:
        stream = _decode_envelope(payload).stream
        if not stream:
            return None
        name, _, kind = stream.partition("@")
        return _CHANNELS.get(kind, kind), name.upper()


def _error(code: int, message: str, number: int | str | None) -> str:
    return json.dumps({"error": {"code": code, "msg": message}, "id": number}, separators=(",", ":"))
