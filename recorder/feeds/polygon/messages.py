"""Massive's messages. Every frame is an array of them, told apart by ``ev``.

https://massive.com/docs/websocket/stocks/trades , …/quotes , …/luld , …/websocket/options/trades , …/crypto/trades
Fields stand in the order in which they are sent, where msgspec finds them fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Union

import msgspec
from msgspec import Struct

from recorder.values.errors import FrameError
from recorder.values.messages import NO_TEXT, UNREADABLE, Id, Unread, nulls_absent

Ids = tuple[int, ...] | None  # a tuple: it is looked up whole


class Message(Struct, tag_field="ev", gc=False, kw_only=True):
    """What tells messages apart."""


class Trade(Message, tag="T", gc=False, kw_only=True):
    """Of a stock, as documented and as sent in 2026; of an option, which has no id and no tape.

    {"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.125,"s":100,"c":[0,12],"t":1536036818784,"q":3681328}
    {"ev":"T","sym":"NVDA","i":"40161","x":4,"p":225.63,"s":129,"t":1786649956459,"pt":1786649956458,"q":9059424,"z":3,
     "trfi":202,"trft":1786649956459,"ds":"129.0"}
    {"ev":"T","sym":"O:AMC210827C00037000","x":65,"p":1.54,"s":1,"c":[233],"t":1629820676333,"q":651921857}
    """

    sym: str
    i: str | int | None = None  # a number in 2020
    x: int | None = None
    p: float
    s: float
    c: Ids = None
    t: int
    pt: Unread = NO_TEXT  # participant's time in ms (undocumented)
    q: Id | None = None  # grows by symbol and day, not by one
    z: int | None = None
    trfi: int | None = None  # trade reporting facility, and its time
    trft: Unread = NO_TEXT
    ds: float | None = None  # ``s`` with fractions of shares


class Quote(Message, tag="Q", gc=False, kw_only=True):
    """{"ev":"Q","sym":"MSFT","bx":4,"bp":114.125,"bs":100,"ax":7,"ap":114.128,"as":160,"c":0,"i":[604],
    "t":1536036818784,"q":50385480,"z":3}"""

    sym: str
    c: int | None = None
    i: Ids = None
    bx: int | None = None
    ax: int | None = None
    bp: float = 0.0  # 0: nobody bids
    ap: float = 0.0
    bs: float = 0.0  # shares since 2025-11-03, round lots before; the vendor's page still says round lots (unverified)
    as_: float = msgspec.field(name="as", default=0.0)
    t: int
    pt: Unread = NO_TEXT
    q: Id | None = None
    z: Unread = NO_TEXT


class Second(Message, tag="A", gc=False, kw_only=True):
    """{"ev":"A","sym":"FCX","v":4989,"av":4332125,"op":75.98,"vw":78.0894,"o":78.1,"c":78.08,"h":78.125,"l":78.07,
    "a":76.8404,"z":62,"s":1788877043000,"e":1788877044000,"dv":"4989.0","dav":"4332125.038360"}"""

    sym: str
    v: float
    av: Unread = NO_TEXT  # of the day so far
    op: Unread = NO_TEXT  # official open
    vw: float = float("nan")
    o: float
    c: float
    h: float
    l: float  # noqa: E741
    a: Unread = NO_TEXT  # VWAP of the day
    z: Unread = NO_TEXT  # mean size of a trade, rounded: no count can be told from it
    s: int  # start, ms
    e: Unread = NO_TEXT
    otc: Unread = NO_TEXT
    dv: float | None = None  # ``v`` with fractions of shares
    dav: Unread = NO_TEXT


class Minute(Second, tag="AM", gc=False, kw_only=True):
    """{"ev":"AM","sym":"GTE","v":4110,"av":9470157,"op":0.4372,"vw":0.4488,"o":0.4488,"c":0.4486,"h":0.4489,
    "l":0.4486,"a":0.4352,"z":685,"s":1610144640000,"e":1610144700000}"""


class Luld(Message, tag="LULD", gc=False, kw_only=True):
    """{"ev":"LULD","T":"MSFT","h":492.99,"l":446.04,"i":[16],"z":3,"t":1764086430905642800,"q":5925769}"""

    T: str
    h: float
    l: float  # noqa: E741
    i: Ids = None
    z: int | None = None
    t: int
    q: Unread = NO_TEXT


class FairValue(Message, tag="FMV", gc=False, kw_only=True):
    """{"ev":"FMV","fmv":189.22,"sym":"AAPL","t":1678220098130}"""

    fmv: float
    sym: str
    t: int


class CoinTrade(Message, tag="XT", gc=False, kw_only=True):
    """{"ev":"XT","pair":"BTC-USD","p":33021.9,"t":1610462007425,"s":0.01616617,"c":[2],"i":14272084,"x":3,
    "r":1610462007576}"""

    pair: str
    p: float
    t: int
    s: float
    c: tuple[int, ...] | int | None = None  # 1 sell side, 2 buy side, 0 or empty: not told
    i: str | int | None = None
    x: int | None = None
    r: Unread = NO_TEXT  # when Massive received it, ms


class CoinQuote(Message, tag="XQ", gc=False, kw_only=True):
    """{"ev":"XQ","pair":"CHZ-USD","lp":0,"ls":0,"bp":0.0771,"bs":41650.4,"ap":0.0773,"as":142883.4,"t":1690409119847,
    "x":1,"r":1690409119856}"""

    pair: str
    lp: Unread = NO_TEXT  # last price and size (undocumented)
    ls: Unread = NO_TEXT
    bp: float = 0.0
    bs: float = 0.0
    ap: float = 0.0
    as_: float = msgspec.field(name="as", default=0.0)
    t: int
    x: int | None = None  # whose best prices: several exchanges send theirs
    r: Unread = NO_TEXT


class CoinMinute(Message, tag="XA", gc=False, kw_only=True):
    """{"ev":"XA","pair":"BTC-USD","v":725.09209352,"vw":9114.502,"z":0.65,"o":9111.14,"c":9134.3,"h":9134.7,
    "l":9106.5,"s":1594917720000,"e":1594917780000}"""

    pair: str
    v: float
    vw: float = float("nan")
    z: Unread = NO_TEXT
    o: float
    c: float
    h: float
    l: float  # noqa: E741
    s: int
    e: Unread = NO_TEXT
    dv: float | None = None  # as of stocks


class CoinSecond(CoinMinute, tag="XAS", gc=False, kw_only=True):
    """A second of the same."""


class Status(Message, tag="status", gc=False, kw_only=True):
    """{"ev":"status","status":"connected","message":"Connected Successfully"}"""

    status: str = ""


RECORDED: tuple[Any, ...] = (
    Trade, Quote, Second, Minute, Luld, FairValue, CoinTrade, CoinQuote, CoinMinute, CoinSecond,
)  # fmt: skip
# Auction imbalances, launchpad values, order books: not recorded.
PASSED_OVER: tuple[Any, ...] = tuple(
    msgspec.defstruct(f"PassedOver_{tag}", (), tag_field="ev", tag=tag, gc=False) for tag in ("NOI", "LV", "XL2")
)
KINDS: Mapping[str, Any] = {cls.__struct_config__.tag: cls for cls in (*RECORDED, Status, *PASSED_OVER)}
STRICT: Mapping[Any, Any] = {
    cls: msgspec.defstruct(f"Strict{cls.__name__}", (), bases=(cls,), forbid_unknown_fields=True, gc=False)
    for cls in RECORDED
}


def _reader(*types: Any) -> Callable[[bytes], Any]:
    """Decoder of an array. Not strict: ``ds`` and ``dv`` are numbers in quotes."""
    return msgspec.json.Decoder(list[Union[types]], strict=False).decode  # type: ignore[valid-type]  # noqa: UP007


STRICT_READER = _reader(*STRICT.values(), Status, *PASSED_OVER)
LENIENT_READER = _reader(*KINDS.values())
PARTS = msgspec.json.Decoder(list[msgspec.Raw]).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode
_one = {tag: nulls_absent(msgspec.json.Decoder(cls, strict=False).decode) for tag, cls in KINDS.items()}


def explain(part: bytes) -> tuple[Any, list[str]]:
    """One message of an array, and what of it is unknown. Raises FrameError for what does not fit."""
    try:
        fields = _fields(part)
        tag = _text(fields["ev"]) if "ev" in fields else ""
    except UNREADABLE as error:
        raise FrameError(f"not a message: {error}") from None
    if tag not in KINDS:
        return None, [f"message {tag or 'without ev'}"]
    try:
        message = _one[tag](part)
    except UNREADABLE as error:
        raise FrameError(f"{tag}: {error}") from None
    known = message.__struct_encode_fields__
    names = fields.keys() - {*known, "ev"} if message.__class__ in RECORDED else ()
    return message, [f"field {tag}.{name}" for name in sorted(names)]
