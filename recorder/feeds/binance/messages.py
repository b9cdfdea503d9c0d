"""Binance's messages, their decoders and templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union

import msgspec

from recorder.core.templates import Message, Row, Templates
from recorder.values.errors import FrameError
from recorder.values.tables import QUOTES, TRADES

NAN = float("nan")

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
    nq: str | float = ""  # quantity without retail price improvement orders
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
    q: float = NAN
    T: int = 0
    s: str = ""
    f: int = 0
    L: int = 0
    V: str | float = ""
    Q: str | float = ""
    B: str | float = ""


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
PASSED_OVER: tuple[Any, ...] = tuple(
    msgspec.defstruct(f"PassedOver_{event}", (), tag_field="e", tag=event, gc=False)
    for event in (
        "depthUpdate", "markPriceUpdate", "24hrTicker", "24hrMiniTicker", "1hTicker", "4hTicker", "1dTicker",
        "avgPrice", "forceOrder", "blockTrade", "continuous_kline", "indexPrice_kline", "markPrice_kline",
        "indexPriceUpdate", "compositeIndex", "contractInfo", "assetIndexUpdate", "serverShutdown",
    )
)  # fmt: skip
KINDS: Mapping[str, Any] = {
    cls.__struct_config__.tag: cls for cls in (Trade, AggTrade, BookTicker, Kline, *PASSED_OVER)
}


def _reader(strict: bool, *types: Any) -> Callable[[bytes], Any]:
    """Decoder of {"stream":"btcusdt@trade","data":{…}} with data of one of these types."""
    fields = [("stream", str), ("data", Union[types])]  # noqa: UP007
    envelope = msgspec.defstruct("Envelope", fields, forbid_unknown_fields=strict, gc=False)
    return msgspec.json.Decoder(envelope, strict=False).decode


STRICT_EVENT = _reader(True, StrictTrade, StrictAggTrade, StrictBookTicker, StrictKline, *PASSED_OVER)
STRICT_QUOTE = _reader(True, StrictBookTicker)
LENIENT_EVENT = _reader(False, *KINDS.values())
LENIENT_QUOTE = _reader(False, BookTicker)
_event: Mapping[str, Callable[[bytes], Any]] = {
    tag: msgspec.json.Decoder(cls, strict=False).decode for tag, cls in KINDS.items()
}
_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

# ValueError: text that is not UTF-8; IndexError: a frame of less than three bytes
MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError, IndexError)


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
TEMPLATES = {"spot": Templates((Message(_ENVELOPE, *_SPOT),))}
TEMPLATES["usdm"] = TEMPLATES["coinm"] = Templates((Message(_ENVELOPE, *_FUTURES),))


def explain(payload: bytes) -> tuple[Any, list[str]]:
    """Read a frame that the strict decoders refused: raw, in another order, control, with new fields, or of a new kind.

    Returns the message to store, or None, and what of the frame is unknown. Raises FrameError for what does not fit.
    """
    try:
        frame = _fields_of(payload)
        combined = "stream" in frame and "data" in frame
        data = bytes(frame["data"]) if combined else payload
        fields = _fields_of(data) if combined else frame
        tag = msgspec.json.decode(fields["e"]) if "e" in fields else None
    except MALFORMED as error:
        raise FrameError(f"not a Binance message: {error}") from None
    if tag is None and fields.keys() >= {"u", "s", "b", "a"}:
        tag = "bookTicker"
    if tag is None:
        # Answers to requests; partial and REST books, which do not even name their symbol.
        known = fields.keys() & {"id", "error", "lastUpdateId"}
        return None, [] if known else [f"message with {','.join(sorted(fields))}"]
    if not isinstance(tag, str) or tag not in KINDS:
        return None, [f"message {tag}"]
    try:
        message = _event[tag](data)
    except MALFORMED as error:
        raise FrameError(f"{tag}: {error}") from None
    if KINDS[tag] in PASSED_OVER:
        return None, []
    unknown = [f"field {tag}.{name}" for name in fields.keys() - {*message.__struct_encode_fields__, "e"}]
    if isinstance(message, Kline):
        unknown += [f"field kline.k.{name}" for name in _fields_of(fields["k"]).keys() - set(Bar.__struct_fields__)]
    if combined:
        unknown += [f"field envelope.{name}" for name in frame.keys() - {"stream", "data"}]
    return message, sorted(unknown)
