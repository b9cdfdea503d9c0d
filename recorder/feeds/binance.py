"""Binance: spot, USD-M and COIN-M futures, public market streams.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
https://developers.binance.com/docs/derivatives/coin-margined-futures/websocket-market-streams
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, cast
from urllib.parse import urlsplit

import msgspec

from recorder.core.batch import Scope
from recorder.core.templates import Message, Row, Templates
from recorder.values import feed as values
from recorder.values.errors import ConfigError, FrameError, SymbolError, nearest
from recorder.values.feed import HOUR, MINUTE, SECOND, Capability, Command, Endpoint, FeedSpec
from recorder.values.schema import TEXT_NULL
from recorder.values.symbols import BinanceMarket, binance_canonical, binance_name
from recorder.values.tables import BUY, NOT_LAST_ELIGIBLE, NOT_VOLUME_ELIGIBLE, QUOTES, SELL, TRADES

INFO = values.ProviderInfo(
    name="binance",
    channels=("trades", "quotes", "bars"),
    options={
        "market": ("spot", "usdm", "coinm"),
        # auto: single trades on spot, aggregated ones on futures, whose documentation knows no other
        "trades": ("auto", "trade", "agg"),
    },
    hosts=("stream.binance.com", "data-stream.binance.vision", "fstream.binance.com", "dstream.binance.com"),
)
MARKET_OF_HOST: Mapping[str, BinanceMarket] = {  # for captures, whose frames do not say
    "stream.binance.com": "spot",
    "data-stream.binance.vision": "spot",
    "fstream.binance.com": "usdm",
    "dstream.binance.com": "coinm",
}

_BASE = {
    "spot": "wss://stream.binance.com:9443",
    "usdm": "wss://fstream.binance.com",
    "coinm": "wss://dstream.binance.com",
}
# Since 2026-04-23 USD-M streams are served on two paths: /public has bookTicker and depth, /market the rest; on the
# wrong one a subscription is acknowledged and stays silent (…/Important-WebSocket-Change-Notice beside the above).
# @trade is documented nowhere; other clients find it on /public (unverified).
_USDM_PUBLIC = frozenset({"trade", "bookTicker"})

_STREAMS_MAX = {"spot": 1024, "usdm": 200, "coinm": 200}  # of one connection, as documented
SUBSCRIBE_STREAMS_MAX = 200  # in one message: 5 to 10 kB; all messages of a spot connection fit into its ready timeout
SENDS_PER_SECOND_MAX = 4.0  # spot allows 5 inbound messages, pings and pongs counted; futures 10
CONNECTS_PER_MINUTE_MAX = 60.0  # 300 in 5 minutes and IP
CONNECTIONS_MAX = (
    32  # of one recorder: 32 × 1024 streams is every pair there is, at a tenth of the connects of 5 minutes
)
LIFE_NS = 23 * HOUR + 50 * MINUTE  # the provider cuts at 24 h
REFUSED_HOLD_NS = 10 * SECOND  # all subscriptions refused: the same would be refused again at once
DATA_MARKS_MAX = 8  # first letters of streams asked of every frame; others cost a look by on_control

YEAR_2000_NS = 946_684_800 * SECOND
AHEAD_NS_MAX = 24 * HOUR  # past the receive time: clocks differ by seconds, a day is nonsense
MICROSECONDS_FROM = 100_000_000_000_000  # in ms the year 5138, in µs 1973: timeUnit=MICROSECOND is told by magnitude
QUOTATION_MARK = ord('"')
_INF = float("inf")
_NAN = float("nan")

Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Event(msgspec.Struct, tag_field="e", gc=False, kw_only=True):
    """What all events share. Fields stand in the order of the wire, where msgspec finds them fastest."""

    E: int = 0
    ps: str = ""  # pair of a COIN-M contract
    st: int = 0


class Trade(Event, tag="trade", gc=False, kw_only=True):
    """One fill; on futures an undocumented stream, with X.

    {"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782136,"m":true,"M":true}
    {"e":"trade","E":1680652700455,"T":1680652700452,"s":"BTCUSDT","t":3535186032,"p":"28145.10","q":"0.002",
     "X":"MARKET","m":true}
    """

    s: str
    t: Id
    p: float
    q: float
    T: int
    X: str = "MARKET"
    m: bool  # the buyer is the maker, so the seller was the aggressor
    M: bool = True  # says nothing
    b: int = 0  # order ids, sent until 2023
    a: int = 0


class AggTrade(Event, tag="aggTrade", gc=False, kw_only=True):
    """Fills of one taker order at one price (on futures: within 100 ms); without those of insurance fund and ADL.

    {"e":"aggTrade","E":1672515782136,"s":"BNBBTC","a":12345,"p":"0.001","q":"100","f":100,"l":105,
     "T":1672515782136,"m":true,"M":true}
    """

    s: str
    t: Id = msgspec.field(name="a")
    p: float
    q: float
    nq: str = ""  # quantity without retail price improvement orders
    f: int = 0
    l: int = 0  # noqa: E741
    T: int
    m: bool
    M: bool = True
    X: str = "MARKET"


class BookTicker(Event, tag="bookTicker", gc=False, kw_only=True):
    """Best bid and offer; on spot neither event nor time.

    {"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}
    {"e":"bookTicker","u":2710246762461,"s":"BTCUSDT","b":"28145.10","B":"3.868","a":"28145.20","A":"6.887",
     "T":1680652700430,"E":1680652700435}
    """

    u: Id
    s: str
    b: float
    B: float
    a: float
    A: float
    T: int = 0


class Bar(msgspec.Struct, gc=False):
    """``k`` of a kline: t start, T end, i interval, x closed, q volume in the quote asset, n trades."""

    t: int
    i: str
    o: float
    c: float
    h: float
    l: float  # noqa: E741
    v: float
    n: Id
    x: bool
    q: float = _NAN
    T: int = 0
    s: str = ""
    f: int = 0
    L: int = 0
    V: str = ""
    Q: str = ""
    B: str = ""


class Kline(Event, tag="kline", gc=False, kw_only=True):
    """A bar being built, pushed every 250 ms to 2 s; final once k.x is true.

    {"e":"kline","E":1638747660000,"s":"BTCUSDT","k":{"t":1638747600000,"T":1638747659999,"s":"BTCUSDT","i":"1m","f":100,
     "L":200,"o":"0.0010","c":"0.0020","h":"0.0025","l":"0.0010","v":"1000","n":100,"x":true,"q":"1.0000","V":"500",
     "Q":"0.500","B":"123456"}}
    """

    s: str
    k: Bar


def _strict(base: type, *fields: tuple[str, type]) -> Any:
    """The same struct, which refuses a field it does not know."""
    return msgspec.defstruct(f"Strict{base.__name__}", fields, bases=(base,), forbid_unknown_fields=True, gc=False)


StrictTrade, StrictAggTrade, StrictBookTicker = _strict(Trade), _strict(AggTrade), _strict(BookTicker)
StrictKline = _strict(Kline, ("k", _strict(Bar)))
# Events of streams that exist, that captures hold, and that have no table: skipped as fast as JSON can be.
_PASSED_OVER: tuple[Any, ...] = tuple(
    msgspec.defstruct(f"PassedOver_{event}", (), tag_field="e", tag=event, gc=False)
    for event in (
        "depthUpdate", "markPriceUpdate", "24hrTicker", "24hrMiniTicker", "1hTicker", "4hTicker", "1dTicker",
        "avgPrice", "forceOrder", "blockTrade", "continuous_kline", "indexPrice_kline", "markPrice_kline",
        "indexPriceUpdate", "compositeIndex", "contractInfo", "assetIndexUpdate", "serverShutdown",
    )
)  # fmt: skip
_RECORDED: tuple[Any, ...] = (Trade, AggTrade, BookTicker, Kline)
_KINDS: Mapping[str, Any] = {
    cls.__struct_config__.tag: cls for cls in (Trade, AggTrade, BookTicker, Kline, *_PASSED_OVER)
}


def _reader(strict: bool, *types: Any) -> Callable[[bytes], Any]:
    """Decoder of {"stream":"btcusdt@trade","data":{…}} with data of one of these types."""
    fields = [("stream", str), ("data", Union[types])]  # noqa: UP007
    envelope = msgspec.defstruct("Envelope", fields, forbid_unknown_fields=strict, gc=False)
    return msgspec.json.Decoder(envelope, strict=False).decode


_strict_event = _reader(True, StrictTrade, StrictAggTrade, StrictBookTicker, StrictKline, *_PASSED_OVER)
_strict_quote = _reader(True, StrictBookTicker)
_lenient_event = _reader(False, *_KINDS.values())
_lenient_quote = _reader(False, BookTicker)
_event: Mapping[str, Callable[[bytes], Any]] = {
    tag: msgspec.json.Decoder(cls, strict=False).decode for tag, cls in _KINDS.items()
}
_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Store = Callable[[Any, int], None]
# ValueError: text that is not UTF-8; IndexError: a frame of less than three bytes
_MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError, IndexError)


# The commonest messages as they are on the wire, read without the structs above. Orders of fields: of the documentation
# and of recordings, which differ.
_SIDE, _QUOTE = "<side:true=sell,false=buy>", '"b":"<bid>","B":"<bid_size>","a":"<ask>","A":"<ask_size>"'
_SPOT = (
    Row(
        TRADES,
        '{"e":"trade","E":<whole>,"s":"<series>","t":<trade_id>,"p":"<price>","q":"<size>","T":<ts_event:ms>,'
        f'"m":{_SIDE},"M":<bool>}}',
    ),
    Row(QUOTES, f'{{"u":<sequence>,"s":"<series>",{_QUOTE}}}'),
    Row(
        TRADES,
        '{"e":"aggTrade","E":<whole>,"s":"<series>","a":<trade_id>,"p":"<price>","q":"<size>","f":<whole>,"l":<whole>,'
        f'"T":<ts_event:ms>,"m":{_SIDE},"M":<bool>}}',
    ),
    Row(  # until 2023
        TRADES,
        '{"e":"trade","E":<whole>,"s":"<series>","t":<trade_id>,"p":"<price>","q":"<size>","b":<whole>,"a":<whole>,'
        f'"T":<ts_event:ms>,"m":{_SIDE},"M":<bool>}}',
    ),
)
_FUTURES = (
    Row(
        QUOTES,
        f'{{"e":"bookTicker","u":<sequence>,"s":"<series>",{_QUOTE},"T":<ts_event:ms>,"E":<whole>}}',
    ),
    Row(
        QUOTES,  # COIN-M
        f'{{"u":<sequence>,"e":"bookTicker","s":"<series>","ps":"<text>",{_QUOTE},"T":<ts_event:ms>,"E":<whole>}}',
    ),
    Row(
        TRADES,
        '{"e":"aggTrade","E":<whole>,"a":<trade_id>,"s":"<series>","p":"<price>","q":"<size>","f":<whole>,"l":<whole>,'
        f'"T":<ts_event:ms>,"m":{_SIDE}}}',
    ),
    Row(
        TRADES,
        '{"e":"aggTrade","E":<whole>,"s":"<series>","a":<trade_id>,"p":"<price>","q":"<size>","nq":"<text>",'
        f'"f":<whole>,"l":<whole>,"T":<ts_event:ms>,"m":{_SIDE}}}',
    ),
    Row(
        TRADES,
        '{"e":"trade","E":<whole>,"T":<ts_event:ms>,"s":"<series>","t":<trade_id>,"p":"<price>","q":"<size>",'
        f'"X":"MARKET","m":{_SIDE}}}',
    ),
    Row(  # of 2019
        TRADES,
        '{"e":"trade","E":<whole>,"T":<ts_event:ms>,"s":"<series>","t":<trade_id>,"p":"<price>","q":"<size>",'
        f'"m":{_SIDE}}}',
    ),
)
_ENVELOPE = '{"stream":"<text>","data":<row>}'
_TEMPLATES = {"spot": Templates((Message(_ENVELOPE, *_SPOT),))}
_TEMPLATES["usdm"] = _TEMPLATES["coinm"] = Templates((Message(_ENVELOPE, *_FUTURES),))


class Binance:
    """One connection to Binance. Spec as ``shards`` gave it: on USD-M all its channels are served on one path."""

    def __init__(self, spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for an unknown market or channel, SymbolError for what is no symbol."""
        self.spec = spec
        market, trades = _option(spec, "market"), _option(spec, "trades")
        self.market = cast(BinanceMarket, market)
        aggregated = trades == "agg" or (trades == "auto" and market != "spot")
        kinds = {"trades": "aggTrade" if aggregated else "trade", "quotes": "bookTicker", "bars": "kline_1m"}
        for channel in spec.channels:
            if channel not in kinds:
                raise ConfigError(f"feed {spec.name!r}: channel {channel!r}; {nearest(channel, kinds)}")
        self._kinds = {channel: kinds[channel] for channel in spec.channels}
        self.names = tuple(dict.fromkeys(binance_name(symbol, self.market) for symbol in spec.symbols))
        self._waiting: dict[int, tuple[str, ...]] = {}  # id of a SUBSCRIBE not answered yet → its streams
        self._refused: dict[str, str] = {}  # stream → why

    def capability(self) -> Capability:
        return Capability(
            channels=INFO.channels,
            loss_detector="trade_id",
            scope="symbol",
            loss_size_known=True,
            trade_ids="contiguous",
            connections_max=CONNECTIONS_MAX,
            symbols_per_connection_max=_STREAMS_MAX[self.market] // max(1, len(self._kinds)),
            subscribe_items_max=SUBSCRIBE_STREAMS_MAX,
            sends_per_second_max=SENDS_PER_SECOND_MAX,
            connects_per_minute_max=CONNECTS_PER_MINUTE_MAX,
            life_ns=LIFE_NS,
            history="aggregated trades without limit by id; bars without limit by time",
        )

    def shards(self) -> list[FeedSpec]:
        """By path first (USD-M), then so many symbols a connection as its limit of streams holds."""
        groups: dict[str, list[str]] = {}
        for channel, kind in self._kinds.items():
            groups.setdefault(self._path(kind), []).append(channel)
        result: list[FeedSpec] = []
        for channels in groups.values():
            step = _STREAMS_MAX[self.market] // len(channels)
            for first in range(0, max(1, len(self.names)), step):
                shard = {
                    "channels": tuple(channels),
                    "symbols": tuple(binance_canonical(n, self.market) for n in self.names[first : first + step]),
                    "connection": self.spec.connection + len(result),
                }
                result.append(msgspec.structs.replace(self.spec, **shard))
        most = self.capability().connections_max
        if len(result) > most:
            raise ConfigError(
                f"feed {self.spec.name!r} asks binance for {len(self.names)} symbols, which take {len(result)} "
                f"connections of {_STREAMS_MAX[self.market]} streams; at most {most} are opened: "
                "split it or record fewer"
            )
        return result

    def endpoint(self) -> Endpoint:
        """The combined endpoint, so that every frame names its stream; subscriptions follow as messages."""
        path = self._path(next(iter(self._kinds.values()), "bookTicker"))
        url = self.spec.url or _BASE[self.market]
        if urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + path
        return Endpoint(url=url, data_marks=self._data_marks())

    def on_open(self) -> list[Command]:
        """SUBSCRIBE to everything, in messages of SUBSCRIBE_STREAMS_MAX; the shell keeps their pace."""
        streams = [f"{name.lower()}@{kind}" for name in self.names for kind in self._kinds.values()]
        self._waiting, self._refused = {}, {}
        commands: list[Command] = []
        for number, first in enumerate(range(0, len(streams), SUBSCRIBE_STREAMS_MAX), start=1):
            part = streams[first : first + SUBSCRIBE_STREAMS_MAX]
            self._waiting[number] = tuple(part)
            request = msgspec.json.encode({"method": "SUBSCRIBE", "params": part, "id": number})
            commands.append(values.Send(request.decode()))
        return commands or [values.Ready()]

    def on_control(self, payload: bytes) -> list[Command]:
        """Acknowledgements, errors, the announced shutdown; data that had no mark is passed over.

        {"result":null,"id":1}
        {"error":{"code":2,"msg":"Invalid request: too many parameters"},"id":1}, documented without the inner object
        {"e":"serverShutdown","E":1770123456789}, as a stream "!serverShutdown"
        """
        if payload.startswith(b'{"stream":"') and payload[11:12] != b"!":
            return []
        try:
            message = msgspec.json.decode(payload)
        except _MALFORMED:
            message = None
        if not isinstance(message, dict):
            return []  # decode sees it too and keeps it among the rejected
        if message.get("e") == "serverShutdown" or message.get("stream") == "!serverShutdown":
            return [values.Reconnect("the provider announced a shutdown")]
        number = message.get("id")
        streams = self._waiting.pop(number, ()) if isinstance(number, int) else ()
        fault = message.get("error", message if "code" in message and "msg" in message else None)
        if fault is None:
            return self._answered() if streams else []
        code, words = (fault.get("code"), fault.get("msg")) if isinstance(fault, dict) else (None, fault)
        words = str(words)[:200]
        self._refused.update(dict.fromkeys(streams, f"{code}: {words}"))
        notice = values.Notice("subscription.refused", {"code": code, "message": words, "streams": len(streams)})
        return [notice, *(self._answered() if streams else [])]

    def _answered(self) -> list[Command]:
        """Ready once no subscription is open, with those symbols of which no stream was refused."""
        if self._waiting:
            return []
        kinds = self._kinds.values()
        accepted = [n for n in self.names if not any(f"{n.lower()}@{kind}" in self._refused for kind in kinds)]
        if self._refused and not accepted:
            return [
                values.Reconnect(f"all subscriptions refused, {next(iter(self._refused.values()))}", REFUSED_HOLD_NS)
            ]
        return [values.Ready(tuple(binance_canonical(name, self.market) for name in accepted))]

    def decoder(self, out: Scope) -> Callable[[bytes, int], None]:
        """decode(payload, ts_recv) for combined and raw frames of the spec's market.

        Strict about fields until the first unknown one was counted, then lenient: a provider that adds a field costs
        one slow frame, not every one.
        """
        series = _Series(out, self.market)
        rows: dict[type, Store] = dict.fromkeys(_PASSED_OVER, lambda message, ts_recv: None)
        rows[Trade] = rows[AggTrade] = rows[StrictTrade] = rows[StrictAggTrade] = _trade_rows(out, series)
        rows[BookTicker] = rows[StrictBookTicker] = _quote_rows(out, series)
        rows[Kline] = rows[StrictKline] = _bar_rows(out, series, self.market)
        read_event, read_quote = _strict_event, _strict_quote

        def decode(payload: bytes, ts_recv: int) -> None:
            try:
                # Only spot's bookTicker names no event, and alone ends in a text: to look at a byte takes 20 ns, to
                # search for "e" takes 100. Frames for which this guesses wrong get a second look.
                message = (read_quote if payload[-3] == QUOTATION_MARK else read_event)(payload).data
            except _MALFORMED:
                second_look(payload, ts_recv)
            else:
                rows[message.__class__](message, ts_recv)

        def second_look(payload: bytes, ts_recv: int) -> None:
            nonlocal read_event, read_quote
            message, unknown = _explain(payload)
            for what in unknown:
                out.unknown(what)
            if message is not None:
                if unknown:
                    read_event, read_quote = _lenient_event, _lenient_quote
                rows[message.__class__](message, ts_recv)

        return decode

    def templates(self, out: Scope) -> Templates:
        """Single and aggregated trades and best prices, by the order of fields of the spec's market."""
        return _TEMPLATES[self.market]

    def _path(self, kind: str) -> str:
        if self.market != "usdm":
            return "/stream"
        return "/public/stream" if kind in _USDM_PUBLIC else "/market/stream"

    def _data_marks(self) -> tuple[tuple[int, bytes], ...]:
        """The first letters of our streams, commonest first: "!serverShutdown" comes as a stream too and is no data."""
        counts: dict[bytes, int] = {}
        for name in self.names:
            letter = name[:1].lower().encode()
            counts[letter] = counts.get(letter, 0) + 1
        letters = sorted(counts, key=lambda letter: (-counts[letter], letter))[:DATA_MARKS_MAX]
        return tuple((0, b'{"stream":"' + letter) for letter in letters)


def _option(spec: FeedSpec, name: str) -> str:
    value = spec.options.get(name, INFO.options[name][0])
    if value not in INFO.options[name]:
        raise ConfigError(f"feed {spec.name!r}: {name} is {value!r}; {nearest(value, INFO.options[name])}")
    return value


def _explain(payload: bytes) -> tuple[Any, list[str]]:
    """Read a frame that the strict decoders refused: raw, in another order, control, with new fields, or of a new kind.

    Returns the message to store, or None, and what of the frame is unknown. Raises FrameError for what does not fit.
    """
    try:
        frame = _fields_of(payload)
        combined = "stream" in frame and "data" in frame
        data = bytes(frame["data"]) if combined else payload
        fields = _fields_of(data) if combined else frame
        tag = msgspec.json.decode(fields["e"]) if "e" in fields else None
    except _MALFORMED as error:
        raise FrameError(f"not a Binance message: {error}") from None
    if tag is None and fields.keys() >= {"u", "s", "b", "a"}:
        tag = "bookTicker"
    if tag is None:
        # Answers to requests; partial and REST books, which do not even name their symbol.
        known = fields.keys() & {"id", "error", "lastUpdateId"}
        return None, [] if known else [f"message with {','.join(sorted(fields))}"]
    if not isinstance(tag, str) or tag not in _KINDS:
        return None, [f"message {tag}"]
    try:
        message = _event[tag](data)
    except _MALFORMED as error:
        raise FrameError(f"{tag}: {error}") from None
    if _KINDS[tag] in _PASSED_OVER:
        return None, []
    unknown = [f"field {tag}.{name}" for name in fields.keys() - {*message.__struct_encode_fields__, "e"}]
    if isinstance(message, Kline):
        unknown += [f"field kline.k.{name}" for name in _fields_of(fields["k"]).keys() - set(Bar.__struct_fields__)]
    if combined:
        unknown += [f"field envelope.{name}" for name in frame.keys() - {"stream", "data"}]
    return message, sorted(unknown)


class _Series(dict[str, int]):
    """Binance's name → series id, found when a name is first seen. Raises FrameError for what is no name."""

    def __init__(self, scope: Scope, market: BinanceMarket) -> None:
        self._scope, self._market = scope, market

    def __missing__(self, name: str) -> int:
        try:
            plain = binance_name(name, self._market) == name
        except SymbolError:
            plain = False
        if not plain:
            raise FrameError(f"symbol {name[:80]!r} is not a Binance name")
        number = self[name] = self._scope.series(binance_canonical(name, self._market))
        self._scope.teach("series", name, number)
        return number


def _time(ts: int, ts_recv: int) -> int:
    """Milli- or microseconds → ns. Raises FrameError for no plausible time."""
    result = ts * 1_000_000 if ts < MICROSECONDS_FROM else ts * 1_000
    if not YEAR_2000_NS <= result <= ts_recv + AHEAD_NS_MAX:
        raise FrameError(f"time {ts} is neither milli- nor microseconds between the year 2000 and a day from now")
    return result


def _trade_rows(scope: Scope, series: _Series) -> Store:
    append, text = scope.trades.append, scope.text

    def row(message: Trade, ts_recv: int) -> None:
        ts = message.T * 1_000_000  # and not _time(): a call costs 60 ns, a twentieth of the frame
        if not YEAR_2000_NS <= ts <= ts_recv + AHEAD_NS_MAX:
            ts = _time(message.T, ts_recv)
        flags, conditions = 0, TEXT_NULL
        if message.X != "MARKET":
            # A liquidation taken over by the insurance fund, or ADL, at the bankruptcy price: nobody traded there. The
            # provider leaves both out of aggTrade; they set no price and, at such a price, may not weigh in a VWAP.
            flags, conditions = NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE, text(message.X)
        price, size = message.p, message.q
        if not (0.0 < price < _INF and 0.0 <= size < _INF) and not (flags and price == 0.0 and 0.0 <= size < _INF):
            raise FrameError(f"trade of {size} at {price}")  # at 0 only where X says that nothing was traded
        append(
            ts, ts_recv, series[message.s], TEXT_NULL, message.t, TEXT_NULL, price, size, SELL if message.m else BUY,
            conditions, TEXT_NULL, flags,
        )  # fmt: skip

    return row


def _quote_rows(scope: Scope, series: _Series) -> Store:
    append = scope.quotes.append

    def row(message: BookTicker, ts_recv: int) -> None:
        ts = _time(message.T, ts_recv) if message.T else ts_recv
        bid, bid_size, ask, ask_size = message.b, message.B, message.a, message.A
        if not (0.0 < bid < _INF and 0.0 <= bid_size < _INF and 0.0 < ask < _INF and 0.0 <= ask_size < _INF):
            if not all(0.0 <= value < _INF for value in (bid, bid_size, ask, ask_size)):
                raise FrameError(f"quote of {bid_size} at {bid} and {ask_size} at {ask}")
            if not bid:  # an empty side is sent as zeros
                bid = bid_size = _NAN
            if not ask:
                ask = ask_size = _NAN
        append(
            ts, ts_recv, series[message.s], message.u, bid, bid_size, ask, ask_size, TEXT_NULL, TEXT_NULL, TEXT_NULL, 0
        )

    return row


def _bar_rows(scope: Scope, series: _Series, market: BinanceMarket) -> Store:
    append, text = scope.bars.append, scope.text

    def row(message: Kline, ts_recv: int) -> None:
        bar = message.k
        if not bar.x:
            return
        ts = _time(bar.t, ts_recv)
        if not all(0.0 <= value < _INF for value in (bar.o, bar.h, bar.l, bar.c, bar.v)) or bar.q < 0.0:
            raise FrameError(f"bar {bar.o}, {bar.h}, {bar.l}, {bar.c} of {bar.v}")
        # COIN-M counts v in contracts and q in coins: their quotient is no price.
        vwap = bar.q / bar.v if bar.v > 0.0 and market != "coinm" else _NAN
        append(
            ts, ts_recv, series[message.s], text(bar.i), bar.o, bar.h, bar.l, bar.c, bar.v,
            vwap if vwap < _INF else _NAN, bar.n, 0,
        )  # fmt: skip

    return row
