"""Alpaca's messages and their decoders. JSON and MessagePack hold the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union

import msgspec
from msgspec.msgpack import Ext

from recorder.values.errors import FrameError
from recorder.values.schema import LONG_NULL

Time = str | Ext  # RFC 3339 in JSON; MessagePack's timestamp extension, which msgspec would round to microseconds
Texts = tuple[str, ...] | str | None  # a tuple: it is looked up whole; one text of options, which have one condition
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Message(msgspec.Struct, tag_field="T", gc=False, kw_only=True):
    """What any message may hold. Fields stand in the order of the wire, where msgspec finds them fastest."""

    r: Any = None  # when the server received it; internal, undocumented


class Trade(Message, tag="t", gc=False, kw_only=True):
    """{"T":"t","S":"AAPL","i":96921,"x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z","c":["@","I"],"z":"C"}
    {"T":"t","S":"AVAX/USD","p":47.299,"s":29.205707815,"t":"2024-03-12T10:27:48.858228144Z","i":3447222699101865076,
     "tks":"S"}"""

    S: str
    i: int | None = None
    x: str | None = None
    p: float
    s: float
    c: Texts = None
    t: Time
    z: str | None = None
    tks: str | None = None  # taker's side, crypto only


class Quote(Message, tag="q", gc=False, kw_only=True):
    """{"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,"t":"2021-02-22T15:51:45.335689322Z",
    "c":["R"],"z":"C"}"""

    S: str
    x: str | None = None  # of crypto, whose both sides are of one exchange (of their Go client, undocumented)
    bx: str | None = None
    bp: float  # 0: nobody bids
    bs: float
    ax: str | None = None
    ap: float
    as_: float = msgspec.field(name="as")
    t: Time
    c: Texts = None
    z: str | None = None


class Bar(Message, tag="b", gc=False, kw_only=True):
    """{"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,"vw":389.062639,
    "t":"2021-02-22T19:15:00Z"}"""

    S: str
    o: float
    h: float
    l: float  # noqa: E741
    c: float
    v: float
    n: Count = LONG_NULL
    vw: float = float("nan")
    t: Time  # its start
    x: Any = None  # exchange, of crypto (of their Go client, undocumented): there is one to a connection


class UpdatedBar(Bar, tag="u", gc=False, kw_only=True):
    """A minute bar again, with trades that came late."""


class DailyBar(Bar, tag="d", gc=False, kw_only=True):
    """The day so far, every minute."""


class Correction(Message, tag="c", gc=False, kw_only=True):
    """{"T":"c","S":"EEM","x":"M","oi":52983525033527,"op":39.1582,"os":440000,"oc":[" ","7"],"ci":52983525034326,
    "cp":39.1809,"cs":440000,"cc":[" ","7"],"z":"B","t":"2023-04-06T14:25:06.542305024Z"}"""

    S: str
    x: str | None = None
    oi: int
    op: float
    os: float
    oc: Texts = None
    ci: int
    cp: float
    cs: float
    cc: Texts = None
    z: str | None = None
    t: Time


class Cancel(Message, tag="x", gc=False, kw_only=True):
    """{"T":"x","S":"GOOGL","i":465,"x":"D","p":105.31,"s":300,"a":"C","z":"C","t":"2023-04-06T13:15:42.83540958Z"}"""

    S: str
    i: int
    x: str | None = None
    p: float
    s: float
    a: str | None = None  # C cancel, E error
    z: str | None = None
    t: Time


class Status(Message, tag="s", gc=False, kw_only=True):
    """{"T":"s","S":"AAPL","sc":"H","sm":"Trading Halt","rc":"T12","rm":"Trading Halted; …","t":"2021-02-22T19:15:00Z",
    "z":"C"}"""

    S: str
    sc: str
    sm: str | None = None
    rc: str | None = None
    rm: str | None = None
    t: Time
    z: str | None = None


class Luld(Message, tag="l", gc=False, kw_only=True):
    """{"T":"l","S":"IONM","u":3.24,"d":2.65,"i":"B","t":"2023-04-06T13:34:45.565004401Z","z":"C"}"""

    S: str
    u: float
    d: float
    i: str | None = None
    t: Time
    z: str | None = None


class News(Message, tag="n", gc=False, kw_only=True):
    """{"T":"n","id":24918784,"headline":"Corsair Reports …","summary":"","author":"Benzinga Newsdesk",
    "created_at":"2022-01-05T22:00:37Z","updated_at":"2022-01-05T22:00:38Z","url":null,"content":"<p>…</p>",
    "symbols":["CRSR"],"source":"benzinga"}"""

    id: Count
    headline: str
    summary: str | None = None
    author: str | None = None
    created_at: Time
    updated_at: Time
    url: str | None = None
    content: str | None = None  # HTML, often of many kilobytes: it stays in the journal
    symbols: tuple[str, ...] | None = None  # none: it concerns no security
    source: str | None = None


class Success(Message, tag="success", gc=False, kw_only=True):
    """{"T":"success","msg":"connected"}"""

    msg: str = ""


RECORDED: tuple[Any, ...] = (Trade, Quote, Bar, UpdatedBar, DailyBar, Correction, Cancel, Status, Luld, News)
# Order imbalance, order book: not recorded. Answers: read by on_control.
PASSED_OVER: tuple[Any, ...] = tuple(
    msgspec.defstruct(f"PassedOver_{tag}", (), tag_field="T", tag=tag, gc=False)
    for tag in ("i", "o", "error", "subscription")
)
KINDS: Mapping[str, Any] = {cls.__struct_config__.tag: cls for cls in (*RECORDED, Success, *PASSED_OVER)}
STRICT: Mapping[Any, Any] = {
    cls: msgspec.defstruct(f"Strict{cls.__name__}", (), bases=(cls,), forbid_unknown_fields=True, gc=False)
    for cls in RECORDED
}


def _readers(type_: Any) -> tuple[Callable[[bytes], Any], Callable[[bytes], Any]]:
    """Decoders of JSON and of MessagePack."""
    return msgspec.json.Decoder(type_).decode, msgspec.msgpack.Decoder(type_).decode


def _array_of(*types: Any) -> Any:
    return list[Union[types]]  # type: ignore[valid-type]  # noqa: UP007


STRICT_READERS = _readers(_array_of(*STRICT.values(), Success, *PASSED_OVER))
LENIENT = _readers(_array_of(*KINDS.values()))
RAW = _readers(list[msgspec.Raw])
_fields = _readers(dict[str, msgspec.Raw])
_text = _readers(str)
CONTROL = _readers(list[dict[str, Any]])
_one = {tag: _readers(cls) for tag, cls in KINDS.items()}

# ValueError: text that is not UTF-8; IndexError: an empty frame
MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError, IndexError)


def explain(part: bytes, packed: bool) -> tuple[Any, list[str]]:
    """One message of an array, and what of it is unknown. Raises FrameError for what does not fit."""
    try:
        fields = _fields[packed](part)
        tag = _text[packed](fields["T"]) if "T" in fields else ""
    except MALFORMED as error:
        raise FrameError(f"not a message: {error}") from None
    if tag not in KINDS:
        return None, [f"message {tag or 'without T'}"]
    try:
        message = _one[tag][packed](part)
    except MALFORMED as error:
        raise FrameError(f"{tag}: {error}") from None
    known = message.__struct_encode_fields__
    names = fields.keys() - {*known, "T"} if message.__class__ in RECORDED else ()
    return message, [f"field {tag}.{name}" for name in sorted(names)]
