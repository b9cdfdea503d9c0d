"""A declared feed as the recorder runs it: how it is opened, asked or looked into, and what reads its frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import msgspec

from recorder.core.batch import Scope
from recorder.core.event_stream import read_event
from recorder.feeds.generic.declared import FIELDS, Declared, declared
from recorder.feeds.generic.rows import Rows, fits, read_csv, read_json
from recorder.values.errors import ConfigError, FrameError, nearest
from recorder.values.feed import (
    SECOND,
    Capability,
    Command,
    Endpoint,
    Fatal,
    FeedSpec,
    HttpRequest,
    HttpResponse,
    Key,
    Notice,
    Poll,
    ProviderInfo,
    Ready,
    Reconnect,
    Send,
    Subscriptions,
)
from recorder.values.messages import chunks, sharded

INFO = ProviderInfo(name="generic", channels=tuple(FIELDS), table="generic")

CONNECTIONS_MAX = 8  # of a source nobody has told us of; more symbols than these carry are refused
SENDS_PER_SECOND_MAX = 5.0
CONNECTS_PER_MINUTE_MAX = 12.0
FILES_REMEMBERED = 4096  # by their content; a file a day for eleven years
SYMBOLS_A_MESSAGE_MAX = 100  # in a subscribe message that names several


class Generic:
    """One connection to what ``[feeds.generic]`` declares."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError with every problem of the declaration."""
        self.declared: Declared = declared(spec)
        self._there = {table.channel for table in self.declared.tables}
        for channel in spec.channels:
            if channel not in self._there:
                raise ConfigError(f"feed {spec.name!r} declares no {channel!r}; {nearest(channel, self._there)}")
        self.spec = spec
        self._keys = credentials or {}
        self._pending = 0  # subscriptions without an answer
        self._ready = False

    def capability(self) -> Capability:
        d = self.declared
        contiguous = d.ids == "contiguous"
        listed = d.kind in ("websocket", "sse")
        return Capability(
            channels=tuple(self._there),
            transport=d.kind,  # type: ignore[arg-type]  # one of KINDS, which all are transports
            loss_detector="trade_id" if contiguous else "none",
            scope="symbol" if contiguous else "none",
            loss_size_known=contiguous,
            trade_ids="opaque" if d.ids == "none" else d.ids,  # type: ignore[arg-type]
            connections_max=CONNECTIONS_MAX if listed else 1,
            symbols_per_connection_max=int(d.numbers["symbols_max"]) if d.kind == "websocket" else 1 << 20,
            subscribe_items_max=SYMBOLS_A_MESSAGE_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            session_zone=d.session_zone,
            rest_per_second_max=d.numbers["per_second_max"],
        )

    def shards(self) -> list[FeedSpec]:
        return sharded(self.spec, self.capability())

    # Listening

    def endpoint(self) -> Endpoint:
        ping = self.declared.ping
        return Endpoint(
            url=self._address(self.spec.symbols),
            headers=(*self.declared.headers.items(), *self._secret_headers()),
            silence_ns=self._ns("silence_s"),
            app_ping=ping.encode() if ping else None,
            app_ping_ns=self._ns("ping_s") if ping else 0,
        )

    def on_open(self) -> list[Command]:
        self._pending, self._ready = 0, False
        return self._ask(self.declared.subscribe, self.spec.symbols)

    def on_control(self, payload: bytes) -> list[Command]:
        d = self.declared
        if self._ready or (d.acknowledged is None and d.refused is None):
            return []
        try:
            message = read_json(payload)
        except FrameError:
            return []  # decode says what is wrong with it
        if d.refused is not None and fits(d.refused, message, message):
            words = payload[:300].decode("utf-8", "replace")
            return [Notice("subscription.refused", {"reason": words}), *self._answered(words)]
        return self._answered() if d.acknowledged is not None and fits(d.acknowledged, message, message) else []

    def _answered(self, refusal: str = "") -> list[Command]:
        """Ready when every subscribe has its answer."""
        self._pending = max(0, self._pending - 1)
        if self._pending:
            return []
        if refusal and len(self.declared.subscribe) == 1:
            return [Fatal(f"the subscription was refused: {refusal}")]
        self._ready = True
        return [Ready(self.spec.symbols)]

    def _ask(self, messages: Iterable[str], symbols: tuple[str, ...]) -> list[Command]:
        sends = [Send(text) for message in messages for text in self._filled(message, symbols)]
        if self.declared.acknowledged is None or not sends:
            self._ready = True
            return [*sends, Ready(self.spec.symbols)]
        self._ready, self._pending = False, self._pending + len(sends)
        return list(sends)

    def _filled(self, message: str, symbols: tuple[str, ...]) -> list[str]:
        """A message for each symbol where it names one, for some at once where it names several."""
        names = [self._name(symbol) for symbol in symbols]
        if "{symbols}" in message:
            parts = chunks(names, SYMBOLS_A_MESSAGE_MAX)
            return [message.replace("{symbols}", msgspec.json.encode(part).decode()) for part in parts]
        if "{symbol}" in message:
            return [message.replace("{symbol}", msgspec.json.encode(name).decode()[1:-1]) for name in names]
        return [message]

    def subscriptions(self) -> Subscriptions:
        keys = frozenset((channel, symbol) for channel in self.spec.channels for symbol in self.spec.symbols)
        return Subscriptions(keys, keys, keys if self._ready else frozenset())

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        symbols = tuple(dict.fromkeys(symbol for _, symbol in keys))
        gone = [Send(text) for message in self.declared.unsubscribe for text in self._filled(message, symbols)]
        return [*gone, *self._ask(self.declared.subscribe, symbols)] if self.declared.subscribe else []

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        before, d = self.spec.symbols, self.declared
        self.spec = msgspec.structs.replace(self.spec, symbols=symbols)
        if not d.subscribe or (len(before) > len(set(before) & set(symbols)) and not d.unsubscribe):
            return [Reconnect("its symbols have changed")]
        gone = tuple(symbol for symbol in before if symbol not in symbols)
        fresh = tuple(symbol for symbol in symbols if symbol not in before)
        sends = [Send(text) for message in d.unsubscribe if gone for text in self._filled(message, gone)]
        return [*sends, *(self._ask(d.subscribe, fresh) if fresh else [Ready(symbols)])]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        rows = Rows(self.declared, self.spec.channels, self.spec.symbols, out)
        if self.declared.kind != "sse":
            return lambda payload, ts_recv: rows.store(read_json(payload), ts_recv)

        def decode(payload: bytes, ts_recv: int) -> None:
            event = read_event(payload)
            if event.data:  # a keepalive of some servers is an event without any
                rows.store(read_json(event.data), ts_recv, event.type)

        return decode

    # Asking

    def polls(self) -> tuple[Poll, ...]:
        url, every_ns = self._url, self._ns("every_s")
        each = [(symbol,) for symbol in self.spec.symbols] if "{symbol}" in url else [self.spec.symbols]
        return tuple(
            Poll(key=symbols[0] if "{symbol}" in url else "all", every_ns=every_ns, ask=partial(self._asked, symbols))
            for symbols in each
        )

    def _asked(self, symbols: tuple[str, ...]) -> Generator[HttpRequest, HttpResponse, None]:
        response = yield HttpRequest(
            self._address(symbols), tuple(self.declared.headers.items()), tuple(self._secret_headers())
        )
        self.items(response.body)  # an answer that cannot be read is told as an error of its poll

    def poll_decoder(self, out: Scope) -> Callable[[str, bytes, int], None]:
        """Also of files, of which the key is the name."""
        d, everyone = self.declared, self.spec.symbols
        by_symbol = "{symbol}" in self._url
        readers: dict[str, Rows] = {}
        read = out.kept("files")

        def decode(key: str, body: bytes, ts_recv: int) -> None:
            digest = sha256(body).hexdigest()
            if d.kind == "files" and digest in read:
                return  # the same file once more, under whatever name
            name = key if by_symbol and key in everyone else ""
            if name not in readers:
                readers[name] = Rows(d, self.spec.channels, (name,) if name else everyone, out)
            readers[name].store(self.items(body), ts_recv)
            if d.kind == "files":
                while len(read) >= FILES_REMEMBERED:
                    del read[next(iter(read))]
                read[digest] = 1

        return decode

    def folder(self) -> tuple[str, str]:
        return self.declared.folder, self.declared.pattern

    def items(self, body: bytes) -> Any:
        """An answer or a file as what paths lead into. Raises FrameError."""
        if self.declared.format == "json":
            return read_json(body)
        tables = [table for table in self.declared.tables if table.channel in self.spec.channels]
        paths = [path for table in tables for path in (*table.paths.values(), *(p for p, _, _ in table.where.values))]
        columns = {str(path[0]) for path in paths}
        return read_csv(body, columns, self.declared.delimiter)

    # What all of them share

    @property
    def _url(self) -> str:
        asked = self.spec.rest_url if self.declared.kind == "poll" else None
        return asked or self.spec.url or ""

    def _name(self, symbol: str) -> str:
        return self.declared.names.get(symbol, symbol)

    def _address(self, symbols: Iterable[str]) -> str:
        names = [quote(self._name(symbol), safe="") for symbol in symbols]
        return self._url.replace("{symbols}", ",".join(names)).replace("{symbol}", names[0] if names else "")

    def _secret_headers(self) -> Iterable[tuple[str, str]]:
        for header, variable in self.declared.headers_from_environment.items():
            yield header, self._keys.get(variable, "")

    def _ns(self, name: str) -> int:
        return round(self.declared.numbers[name] * SECOND)
