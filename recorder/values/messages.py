"""Typed provider messages: read strictly while they are what we know, leniently from the first unknown field on.

A strict decoder (``forbid_unknown_fields``) notices what a provider adds; a lenient one of the same shape goes on and
loses no frame. What a frame holds beside one bad element is kept.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from recorder.values.errors import ConfigError, FrameError, nearest
from recorder.values.feed import SECOND, Capability, FeedSpec, ProviderInfo

_T = TypeVar("_T")

LONG_MAX = (1 << 63) - 1
Id = Annotated[int, msgspec.Meta(ge=0, le=LONG_MAX)]  # a provider's id or counter that a LONG column can hold
Unread = msgspec.Raw  # a field we know and do not store: its text is passed over, not converted
NO_TEXT = msgspec.Raw(b"null")
Name = str | int  # an id that is sent in quotes, or without them: see ``text_id``
Sent = str | float  # a number of which the text may be empty, or in quotes or without them: see ``decimal``

TS_EVENT_MIN = 946_684_800 * SECOND  # 2000-01-01: no provider here is older; 0001 and 1970 are their nulls
TS_AHEAD_MAX = 86_400 * SECOND  # a clock may be wrong by seconds, never by more than a day
INF = math.inf
NAN = math.nan

# What msgspec raises for a frame that is not JSON, not UTF-8, too deep, or not of the declared types.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_UNKNOWN_FIELD = re.compile(r"unknown field `(.*?)`(?: - at `\$(.*)`)?", re.DOTALL)
_INDEX = re.compile(r"\[[^\]]*\]")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANY = msgspec.json.Decoder()


def lenient(type_: Any, _made: dict[Any, Any] | None = None) -> Any:
    """The same type with every struct in it forgiving unknown fields; structs are subclasses of the given ones."""
    made = {} if _made is None else _made
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        if type_ not in made:
            hints = {name: lenient(hint, made) for name, hint in get_type_hints(type_, include_extras=True).items()}
            fields: list[Any] = []
            for field in msgspec.structs.fields(type_):
                if field.default is not msgspec.NODEFAULT:
                    fields.append((field.name, hints[field.name], field.default))
                elif field.default_factory is not msgspec.NODEFAULT:
                    fields.append((field.name, hints[field.name], msgspec.field(default_factory=field.default_factory)))
                else:
                    fields.append((field.name, hints[field.name]))
            config = type_.__struct_config__
            made[type_] = msgspec.defstruct(
                type_.__name__, fields, bases=(type_,), module=type_.__module__, forbid_unknown_fields=False,
                kw_only=True, gc=False, tag_field=config.tag_field, tag=config.tag,
            )  # fmt: skip
        return made[type_]
    origin, args = get_origin(type_), get_args(type_)
    if origin is Union or origin is types.UnionType:
        return Union[tuple(lenient(arg, made) for arg in args)]  # noqa: UP007 (built from a list)
    if origin in (list, dict, tuple):
        return origin[tuple(lenient(arg, made) for arg in args)]
    return type_


@cache
def element_reader(type_: Any) -> Callable[[Any], Any]:
    """Lenient decoder of one struct, made once a type: making it takes as long as fifty bad frames."""
    decode: Callable[[Any], Any] = msgspec.json.Decoder(lenient(type_), strict=False).decode
    return decode


def nulls_absent(decode: Callable[[Any], _T]) -> Callable[[Any], _T]:
    """The same decoder, for which a field that is null and may not be is one that is not there."""

    def read(raw: Any) -> _T:
        try:
            return decode(raw)
        except msgspec.ValidationError:
            if b"null" not in bytes(raw):
                raise
            try:
                without = msgspec.json.encode(_without_nulls(_ANY.decode(raw)))
            except (OverflowError, ValueError):  # a number that nothing here can hold
                without = raw
        return decode(without)

    return read


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


class Reader:
    """The decoder of one connection's messages: ``read(payload)``, and ``again`` for what it refused.

    type_    a tagged struct or a union of them
    tag      the field that names the message
    unknown  counts what we do not know
    control  other field → its known values: frames without the tag that are answers to what we sent (None: any value)
    """

    def __init__(
        self, type_: Any, tag: str, unknown: Callable[[str], None], control: Mapping[str, frozenset[str] | None]
    ) -> None:
        self.read: Callable[[bytes], Any] = msgspec.json.Decoder(type_, strict=False).decode
        self._lenient = msgspec.json.Decoder(lenient(type_), strict=False).decode
        members = get_args(type_) or (type_,)
        self._known = frozenset(str(member.__struct_config__.tag) for member in members)
        self._tag, self._unknown, self._control = tag, unknown, control

    def again(self, payload: bytes, error: Exception, mend: Callable[[str], Any] | None = None) -> Any:
        """The message that the strict decoder refused, or None when there is nothing to store (unknown ones: counted).

        mend  tag → the message without the elements that do not fit
        Raises FrameError when the frame does not fit at all.
        """
        try:
            fields = _OBJECT.decode(payload)
        except UNREADABLE:
            raise FrameError(f"not a message: {error}") from None
        name = text_of(fields.get(self._tag))
        if name is None:
            return self._answer(fields)
        if name not in self._known:
            self._unknown(f"message {name}")
            return None
        found = _UNKNOWN_FIELD.search(str(error))
        if found:
            path = _INDEX.sub("", found[2] or "")
            self._unknown(f"field {name}{path}.{found[1]}")
            self.read = self._lenient
        try:
            return self._lenient(payload)
        except UNREADABLE as refused:
            if mend is not None:
                return mend(name)
            raise FrameError(f"{name}: {refused}") from None

    def _answer(self, fields: dict[str, Any]) -> None:
        """A frame without the tag: fine if it answers something, a fault otherwise."""
        for key, values in self._control.items():
            if key in fields:
                value = text_of(fields[key])
                if values is not None and value not in values:
                    self._unknown(f"message {key} {value}")
                return
        raise FrameError(f"a message without {self._tag!r} that is no known answer either")


class Patient:
    """A decoder that is strict until its first unknown field has been counted, and forgives them from then on.

    type_    a struct, or a list of one; ``what`` names it among the unknown
    Calling it raises what msgspec raises for what does not fit.
    """

    def __init__(self, type_: Any, what: str, unknown: Callable[[str], None]) -> None:
        self._read: Callable[[Any], Any] = msgspec.json.Decoder(type_, strict=False).decode
        self._lenient: Callable[[Any], Any] = msgspec.json.Decoder(lenient(type_), strict=False).decode
        self._what, self._unknown = what, unknown

    def __call__(self, raw: Any) -> Any:
        try:
            return self._read(raw)
        except msgspec.ValidationError as error:
            found = _UNKNOWN_FIELD.search(str(error))
            if not found:
                raise
            path = _INDEX.sub("", found[2] or "")
            self._unknown(f"field {self._what}{path}.{found[1]}")
            self._read = self._lenient
            return self._lenient(raw)


def text_of(raw: Any) -> str | None:
    """The text in a raw JSON value; None if it is absent or no text that can be read."""
    if raw is None:
        return None
    try:
        value = _ANY.decode(raw)
    except UNREADABLE:
        return None
    return value if isinstance(value, str) else None


def fields_of(payload: bytes) -> dict[str, Any]:
    """A control message as plain values; empty if it is no JSON object. Never raises."""
    try:
        message = _ANY.decode(payload)
    except UNREADABLE:
        return {}
    return message if isinstance(message, dict) else {}


class Elements:
    """What fits of an array in an envelope that names its kind; the rest is rejected by itself.

    scope  is told ``unknown`` fields and what it is to ``reject``
    """

    def __init__(self, scope: Any) -> None:
        self._scope = scope
        self._readers: dict[str, Patient] = {}

    def read(self, raw: msgspec.Raw, name: str, type_: Any, ts_recv: int) -> list[Any]:
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = Patient(list[type_], name, self._scope.unknown)
        try:
            items: list[Any] = reader(raw)
        except UNREADABLE:
            items = fitting(raw, element_reader(type_), lambda why, part: self._scope.reject(why, part, ts_recv))
        return items


def elements(raw: Any) -> list[msgspec.Raw]:
    """Of a raw JSON array. Raises FrameError, with its first words, if it is another thing."""
    try:
        return _LIST.decode(raw)
    except UNREADABLE as error:
        raise FrameError(f"{bytes(raw)[:200].decode('utf-8', 'replace')!r} is no array: {error}") from None


def fitting(raw: Any, decode: Callable[[Any], Any], refuse: Callable[[str, bytes], None]) -> list[Any]:
    """Elements of a raw JSON array that fit; every other one goes to ``refuse(reason, its bytes)``.

    A field that is null and may not be is read as absent.
    Raises FrameError if it is not an array.
    """
    result, read = [], nulls_absent(decode)
    for element in elements(raw):
        try:
            result.append(read(element))
        except UNREADABLE as error:
            refuse(str(error), bytes(element))
    return result


def misfit(what: str, ts_event: int, ts_recv: int, **numbers: float) -> str:
    """Why a row was refused: the first of its values that cannot be, in words."""
    if ts_event < TS_EVENT_MIN:
        return f"{what}: time {ts_event} ns is before the year 2000"
    if ts_event > ts_recv + TS_AHEAD_MAX:
        return f"{what}: time {ts_event} ns is more than a day after its receipt"
    for name, number in numbers.items():
        if not 0.0 <= number < INF:
            return f"{what}: {name} {number} is not a number from 0 up"
    named = ", ".join(f"{name} {number}" for name, number in numbers.items())
    return f"{what}: not above 0: {named}"


def candle(ts_event: int, ts_recv: int, prices: tuple[float, float, float, float], volume: float) -> None:
    """Raises FrameError for a candle that cannot be. ``prices``: open, high, low, close."""
    fits = all(0.0 < price < INF for price in prices) and 0.0 <= volume < INF
    if not (fits and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX):
        named = dict(zip(("open", "high", "low", "close"), prices, strict=True))
        raise FrameError(misfit("candle", ts_event, ts_recv, **named, volume=volume))


def decimal(text: Sent, what: str) -> float:
    """A decimal number; 0 for an empty text. Raises FrameError, which says of ``what``."""
    if not isinstance(text, str):
        return text
    if not text:
        return 0.0
    try:
        return msgspec.convert(text, float, strict=False)
    except msgspec.ValidationError as error:
        raise FrameError(f"{what}: {error}") from None


def known(text: Sent, what: str) -> float:
    """A finite decimal number; NaN where nothing, or nothing finite, was sent. Raises FrameError as ``decimal``."""
    value = NAN if text == "" else decimal(text, what)
    return value if -INF < value < INF else NAN


def quoted(
    what: str, ts_event: int, ts_recv: int, bid: float, bid_size: float | None, ask: float, ask_size: float | None
) -> tuple[float, float, float, float]:
    """(bid, bid_size, ask, ask_size) as a row holds them: null is a side that is not there (0) or a size not sent.

    Raises FrameError for what cannot be a price, a size or a time.
    """
    bought, sold = bid_size or 0.0, ask_size or 0.0
    if not (
        0.0 <= bid < INF
        and 0.0 <= ask < INF
        and 0.0 <= bought < INF
        and 0.0 <= sold < INF
        and TS_EVENT_MIN <= ts_event <= ts_recv + TS_AHEAD_MAX
    ):
        raise FrameError(misfit(what, ts_event, ts_recv, bid=bid, ask=ask, bid_size=bought, ask_size=sold))
    return (
        bid or NAN,
        NAN if bid_size is None or not bid else bid_size,
        ask or NAN,
        NAN if ask_size is None or not ask else ask_size,
    )


def sharded(spec: FeedSpec, capability: Capability) -> list[FeedSpec]:
    """Spread the symbols evenly over as few connections as the provider's limit allows, in their order.

    Raises ConfigError when they do not fit.
    """
    most = capability.symbols_per_connection_max
    count = max(1, -(-len(spec.symbols) // most))
    if count > capability.connections_max:
        raise ConfigError(
            f"feed {spec.name!r} asks {spec.provider} for {len(spec.symbols)} symbols; {capability.connections_max} "
            f"connections of {most} symbols carry {capability.connections_max * most}; split it or record fewer"
        )
    if count == 1:
        return [spec]
    shares = [spec.symbols[len(spec.symbols) * i // count : len(spec.symbols) * (i + 1) // count] for i in range(count)]
    return [
        msgspec.structs.replace(spec, symbols=share, connection=spec.connection + i) for i, share in enumerate(shares)
    ]


def option(info: ProviderInfo, spec: FeedSpec, name: str) -> str:
    """What the feed says of an option of its provider, or its default. Raises ConfigError."""
    allowed = info.options[name]
    value = spec.options.get(name, allowed[0])
    if value not in allowed:
        raise ConfigError(f"feed {spec.name!r}: {name} is {value!r}; {nearest(value, allowed)}")
    return value


def chunks(items: Iterable[_T], size: int) -> list[list[_T]]:
    """Lists of at most ``size``, in order."""
    every = list(items)
    return [every[i : i + size] for i in range(0, len(every), size)]
