"""FIX 4.4 market data of any counterparty: MarketDataRequest, snapshots, increments.

FIX 4.4 specification, volume 3, "Market data". The session itself (logon, numbers, heartbeats) is core/fix_session.py.
Each symbol of each channel is asked for by itself, so that a refusal says what it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import FixMessages
from recorder.feeds.fix.rows import decoder
from recorder.values.errors import ConfigError, FrameError, SymbolError, nearest
from recorder.values.feed import (
    SECOND,
    Capability,
    Command,
    Endpoint,
    Fatal,
    FeedSpec,
    Key,
    Notice,
    ProviderInfo,
    Ready,
    Reconnect,
    Renew,
    Send,
    Subscriptions,
)
from recorder.values.fix import (
    BUSINESS_REJECT,
    HEARTBEAT,
    INCREMENTAL,
    NEWS,
    REFUSED,
    REJECT,
    REQUEST,
    SNAPSHOT,
    TEST_REQUEST,
    FixLogon,
    body_of,
    fields_of,
    joined,
)
from recorder.values.messages import option, sharded

INFO = ProviderInfo(
    name="fix",
    channels=("trades", "quotes"),
    options={
        "sender": (),  # SenderCompID (49), and TargetCompID (56) of the counterparty
        "target": (),
        "heartbeat": (),  # HeartBtInt (108), seconds; 30
        "numbers": ("reset", "keep"),  # each logon starts message numbers over (141=Y), or they outlive connections
        "depth": (),  # MarketDepth (264): 1 the best, 0 the whole book, n levels; 1
        "updates": ("incremental", "full"),  # MDUpdateType (265)
        "aggregated": ("unsaid", "yes", "no"),  # AggregatedBook (266)
        "by": ("symbol", "id"),  # instruments are named by Symbol (55), or by SecurityID (48)
        "id_source": (),  # SecurityIDSource (22) of those; 8: an exchange's own
        "names": (),  # "EUR-USD=EUR/USD, GBP-USD=4002": canonical = the counterparty's
    },
    credentials=("FIX_USERNAME", "FIX_PASSWORD"),
    optional=("FIX_USERNAME", "FIX_PASSWORD"),
    schemes=("tcp+tls", "tcp"),
)

# Bilateral, all of them: nothing is documented for counterparties in general.
SYMBOLS_PER_CONNECTION_MAX = 1000
SENDS_PER_SECOND_MAX = 50.0
CONNECTS_PER_MINUTE_MAX = 6.0
HOLD_NS = 2 * SECOND  # a counterparty may still hold the session that has just ended
REFUSED_HOLD_NS = 60 * SECOND
HEARTBEAT_S_MAX = 3600
DEPTH_MAX = 100_000

PREFIXES = {"quotes": "q", "trades": "t"}  # of MDReqID
ENTRY_TYPES = {"quotes": ("0", "1"), "trades": ("2",)}
TEST_PREFIX = b"asked"
CLOSING = "about to be closed"  # in the headline of Binance's News (B)

REFUSALS = {  # MDReqRejReason (281)
    "0": "unknown symbol", "1": "duplicate MDReqID", "2": "insufficient bandwidth", "3": "insufficient permissions",
    "4": "unsupported SubscriptionRequestType", "5": "unsupported MarketDepth", "6": "unsupported MDUpdateType",
    "7": "unsupported AggregatedBook", "8": "unsupported MDEntryType", "9": "unsupported TradingSessionID",
    "A": "unsupported Scope", "B": "unsupported OpenCloseSettleFlag", "C": "unsupported MDImplicitDelete",
}  # fmt: skip
NOT_FOR_US = ("3", "6")  # BusinessRejectReason (380): unsupported type, not authorised
INSTRUMENT = ("48", "55")  # tags of a request that differ from one to the next: SecurityID, Symbol


class Fix:
    """One session with a counterparty. A CompID pair has one connection."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an option or a channel that cannot be, SymbolError for a name."""
        self.spec = spec
        self._credentials = credentials or {}
        for channel in spec.channels:
            if channel not in PREFIXES:
                raise ConfigError(f"feed {spec.name!r}: channel {channel!r}; {nearest(channel, PREFIXES)}")
        self._channels = tuple(dict.fromkeys(spec.channels))
        self._heartbeat_s = self._number("heartbeat", 30, 0, HEARTBEAT_S_MAX)
        self._depth = self._number("depth", 1, 0, DEPTH_MAX)
        self._full = option(INFO, spec, "updates") == "full"
        self._keep = option(INFO, spec, "numbers") == "keep"
        self._by_id = option(INFO, spec, "by") == "id"
        self._aggregated = {"unsaid": None, "yes": "Y", "no": "N"}[option(INFO, spec, "aggregated")]
        self._id_source = spec.options.get("id_source") or "8"
        self._spelled = _names(spec)  # canonical → the counterparty's
        self._symbols = {name: symbol for symbol, name in self._spelled.items()}
        self.names = self._named(spec.symbols)
        self._requests = 0
        self._asked: dict[tuple[str, str], str] = {}  # (channel, name) → MDReqID
        self._pending: dict[str, tuple[str, str]] = {}  # MDReqID without an answer
        self._ready = False

    def _number(self, name: str, default: int, low: int, high: int) -> int:
        text = self.spec.options.get(name) or str(default)
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ConfigError(f"feed {self.spec.name!r}: {name} is {text!r}; expected a number from {low} to {high}")
        return int(text)

    def _named(self, symbols: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_checked(self._spelled.get(symbol, symbol)) for symbol in symbols))

    def capability(self) -> Capability:
        return Capability(
            channels=INFO.channels,
            loss_detector="sequence",
            scope="connection",
            loss_size_known=True,
            trade_ids="opaque",
            connections_max=1,
            symbols_per_connection_max=SYMBOLS_PER_CONNECTION_MAX,
            subscribe_items_max=1,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            hold_ns=HOLD_NS,
            history="what the counterparty sends again when asked (ResendRequest); most fill the gap instead",
            transport="fix",
        )

    def shards(self) -> list[FeedSpec]:
        for name in ("sender", "target"):
            text = self.spec.options.get(name, "")
            if not text or not text.isascii() or not text.isprintable() or len(text) > 64:
                raise ConfigError(f"feed {self.spec.name!r}: {name} is {text!r}; expected the CompID agreed upon")
        if not self.spec.url:
            raise ConfigError(f'feed {self.spec.name!r}: url is missing; expected "tcp+tls://HOST:PORT"')
        return sharded(self.spec, self.capability())

    def endpoint(self) -> Endpoint:
        options, questions = self.spec.options, len(self._channels) * len(self.names)
        return Endpoint(
            url=self.spec.url or "",
            ready_timeout_ns=30 * SECOND + round(questions / SENDS_PER_SECOND_MAX * SECOND),
            fix=FixLogon(
                sender=options.get("sender", ""),
                target=options.get("target", ""),
                heartbeat_s=self._heartbeat_s,
                numbers=self.spec.name if self._keep else "",
                username=self._credentials.get("FIX_USERNAME", ""),
                password=self._credentials.get("FIX_PASSWORD", ""),
            ),
        )

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        return decoder(out, self._symbols, self._by_id, self._depth == 1)

    def templates(self, out: Scope) -> FixMessages:
        return FixMessages(self._by_id, self._depth == 1)

    # Subscriptions.

    @property
    def waiting(self) -> bool:
        """Answers are due, and may come as snapshots."""
        return bool(self._pending)

    def on_open(self) -> list[Command]:
        self._requests, self._ready = 0, False
        self._asked.clear()
        self._pending.clear()
        return self._ask((channel, name) for channel in self._channels for name in self.names) or [Ready()]

    def _ask(self, wanted: Iterable[tuple[str, str]]) -> list[Command]:
        """Subscribe to these, and ask to be told when all was read: who has no snapshot to send says nothing else."""
        commands: list[Command] = []
        for channel, name in wanted:
            self._requests += 1
            number = f"{PREFIXES[channel]}{self._requests}"
            self._asked[channel, name] = number
            self._pending[number] = (channel, name)
            commands.append(Send(self._request(number, "1", channel, name)))
        if commands:
            commands.append(Send(joined((35, TEST_REQUEST), (112, TEST_PREFIX + b"%d" % self._requests))))
        return commands

    def _request(self, number: str, kind: str, channel: str, name: str) -> bytes:
        """A MarketDataRequest; ``kind`` 1 subscribes, 2 unsubscribes."""
        pairs: list[tuple[int, object]] = [(35, REQUEST), (262, number), (263, kind), (264, self._depth)]
        pairs.append((265, 0 if self._full else 1))
        if self._aggregated is not None:
            pairs.append((266, self._aggregated))
        types = ENTRY_TYPES[channel]
        pairs += [(267, len(types)), *((269, each) for each in types), (146, 1)]
        # Symbol is required of an instrument: [N/A] where only its SecurityID says which it is.
        pairs += [(55, "[N/A]"), (48, name), (22, self._id_source)] if self._by_id else [(55, name)]
        return joined(*pairs)

    def _cancel(self, key: tuple[str, str]) -> list[Command]:
        number = self._asked.pop(key, None)
        if number is None:
            return []
        self._pending.pop(number, None)
        return [Send(self._request(number, "2", *key))]

    def subscriptions(self) -> Subscriptions:
        def keys(pairs: Iterable[tuple[str, str]]) -> frozenset[Key]:
            return frozenset((channel, self._symbols.get(name, name)) for channel, name in pairs)

        answered = (key for key, number in self._asked.items() if number not in self._pending)
        desired = ((channel, name) for channel in self._channels for name in self.names)
        return Subscriptions(keys(desired), keys(self._asked), keys(answered))

    def resubscribe(self, keys: Iterable[Key]) -> list[Command]:
        pairs = [(channel, self._spelled.get(symbol, symbol)) for channel, symbol in keys]
        return [*(command for pair in pairs for command in self._cancel(pair)), *self._ask(pairs)]

    def lost(self) -> list[Command]:
        """Messages did not come: books of increments begin anew; a trade needs none before it."""
        return [] if self._full else self.resubscribe([k for k in self.subscriptions().requested if k[0] == "quotes"])

    def change(self, symbols: tuple[str, ...]) -> list[Command]:
        names = self._named(symbols)
        gone = [(channel, name) for channel in self._channels for name in self.names if name not in names]
        fresh = [(channel, name) for channel in self._channels for name in names if name not in self.names]
        self.names, self.spec = names, msgspec.structs.replace(self.spec, symbols=symbols)
        self._ready = False
        commands = [command for key in gone for command in self._cancel(key)]
        return [*commands, *self._ask(fresh), *self._settled()]

    # Answers.

    def on_control(self, payload: bytes) -> list[Command]:
        try:
            fields = dict(reversed(fields_of(body_of(payload))))
        except FrameError:
            return []
        kind, number = fields[b"35"], _text(fields, b"262")
        if kind in (SNAPSHOT, INCREMENTAL):
            self._pending.pop(number, None)
        elif kind == HEARTBEAT:
            told = fields.get(b"112", b"")
            if told.startswith(TEST_PREFIX) and told[len(TEST_PREFIX) :].isdigit() and len(told) < 16:
                last = int(told[len(TEST_PREFIX) :])
                for each in [each for each in self._pending if int(each[1:]) <= last]:
                    del self._pending[each]
        elif kind == REFUSED:
            return self._refused(number, _text(fields, b"281"), _text(fields, b"58"))
        elif kind in (REJECT, BUSINESS_REJECT):
            return self._rejected(kind, fields)
        elif kind == NEWS:
            words = _text(fields, b"148")
            return [Renew(f"news: {words}")] if CLOSING in words else [Notice("notice.received", {"message": words})]
        return self._settled()

    def _refused(self, number: str, reason: str, text: str) -> list[Command]:
        words = f"{REFUSALS.get(reason, reason or 'no reason given')}{': ' if text else ''}{text}"
        key = next((key for key, asked in self._asked.items() if asked == number), None)
        if key is None:
            return [Notice("error.received", {"reason": words, "request": number[:40]})]
        del self._asked[key]
        self._pending.pop(number, None)
        symbol = self._symbols.get(key[1], key[1])
        notice = Notice("symbol.refused", {"symbol": symbol, "channel": key[0], "reason": words})
        if self._asked:
            return [notice, *self._settled()]
        if reason == "3":
            return [notice, Fatal(f"the counterparty refused everything asked for: {words}")]
        return [notice, Reconnect(f"the counterparty refused everything asked for: {words}", REFUSED_HOLD_NS)]

    def _rejected(self, kind: bytes, fields: dict[bytes, bytes]) -> list[Command]:
        """Something of ours did not please. A BusinessMessageReject may say which MarketDataRequest (379). A Reject
        does not, but they all look alike, except for the instrument."""
        code = b"373" if kind == REJECT else b"380"
        reason = {"reason": _text(fields, code), "tag": _text(fields, b"371"), "message": _text(fields, b"58")}
        words = ", ".join(f"{name} {value}" for name, value in reason.items() if value)
        useless = reason["tag"] not in INSTRUMENT if kind == REJECT else reason["reason"] in NOT_FOR_US
        if kind == BUSINESS_REJECT and not useless and _text(fields, b"379") in self._pending:
            return self._refused(_text(fields, b"379"), "", words)
        if fields.get(b"372") == REQUEST and useless and not self._ready:
            return [Fatal(f"the counterparty rejects our MarketDataRequest: {words}")]
        return [Notice("error.received", {"of": _text(fields, b"372"), "reason": words})]

    def _settled(self) -> list[Command]:
        """Ready once, when nothing asked for is without an answer."""
        if self._ready or self._pending:
            return []
        self._ready = True
        return [Ready(tuple(dict.fromkeys(self._symbols.get(name, name) for _, name in self._asked)))]


def _text(fields: dict[bytes, bytes], tag: bytes) -> str:
    return fields.get(tag, b"").decode("utf-8", "replace")[:300]


def _checked(name: str) -> str:
    if not 0 < len(name) <= 64 or not name.isprintable():
        raise SymbolError(f"{name[:64]!r} is no instrument; write it as the counterparty does, or map it in `names`")
    return name


def _names(spec: FeedSpec) -> dict[str, str]:
    """The option ``names``. Raises ConfigError."""
    result: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in spec.options.get("names", "").split(","))):
        symbol, name = (text.strip() for text in part.partition("=")[::2])
        if not symbol or not name or symbol in result or name in result.values():
            raise ConfigError(f'feed {spec.name!r}: names holds {part!r}; expected "CANONICAL=NAME, …", each once')
        result[symbol] = _checked(name)
    return result
