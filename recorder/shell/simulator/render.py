"""Events of the synthetic market → WebSocket frames of a provider, by template, in one Numba call per chunk.

A template is text with fields between ``<`` and ``>``, because JSON has enough braces: ``{"p":"<price>","T":<ts:ms>}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recorder.compiled import njit
from recorder.core.market import COLUMNS, KIND, PRICE_DIGITS

SEQUENCE = COLUMNS  # a column more than the market's: number of the frame on its connection
WIDTH = COLUMNS + 1

_LITERAL, _INTEGER, _DECIMAL, _TEXT, _TIME, _SCALED, _HEX, _U64, _F64, _STAMP, _COUNT16 = range(11)
_FIELD = re.compile(rb"<(\w+)(?::(\w+))?>")
_FIELD_BYTES = 32  # no field but a text is longer
_HEADER_BYTES = 10  # of a server's WebSocket frame at most
_COLUMN = {
    "ts": 0,
    "symbol": 1,
    "id": 3,
    "price": 4,
    "size": 5,
    "side": 6,
    "ask": 7,
    "ask_size": 8,
    "sequence": SEQUENCE,
}


@dataclass(frozen=True)
class Template:
    """One kind of frame: ``prefix``, items joined by ``separator``, ``suffix``, these with fields of the first item.

    items_max  items in one frame at most
    """

    prefix: bytes
    item: bytes
    suffix: bytes = b""
    separator: bytes = b","
    items_max: int = 1


@dataclass(frozen=True)
class Program:
    """Templates of trades and quotes, compiled for some symbols."""

    ops: np.ndarray  # (n, 4) int64: operation, argument, argument, argument
    parts: np.ndarray  # (2, 4) int64: where the ops of prefix, item, suffix begin and where suffix ends, per kind
    heap: np.ndarray  # uint8, literals and texts
    offsets: np.ndarray  # int64, bounds of texts in the heap
    separators: np.ndarray  # (2, 2) int64: bounds in the heap
    items_max: np.ndarray  # (2,) int64
    frame_bytes: int  # no frame's share per item is longer
    opcode: int


def compile_templates(
    trades: Template,
    quotes: Template,
    symbols: Sequence[bytes],
    sides: tuple[bytes, bytes],
    size_digits: int,
    opcode: int,
    texts: Mapping[str, Sequence[bytes]] | None = None,
) -> Program:
    """Compile.

    Fields: <ts:s> <ts:ms> <ts:us> <ts:rfc3> <ts:rfc6> <ts:rfc9> <ts:stamp>, <symbol>, <id>, <id:hex>, <id:u64>,
    <price>, <price:f64>, <size>, <size:f64>, <size:u64>, <side> (text of seller's and buyer's aggression), <ask> …,
    <sequence>, <count:msgpack>; a name of ``texts`` is that list's text of the symbol.
    """
    heap, offsets, ops = bytearray(), [0], []
    longest = 0

    def add_texts(values: Sequence[bytes]) -> int:
        base = len(offsets)
        for value in values:
            offsets.append(len(heap))
            heap.extend(value)
        offsets.append(len(heap))
        return base

    tables = {"symbol": (1, add_texts(symbols)), "side": (6, add_texts(sides))}
    tables |= {name: (1, add_texts(values)) for name, values in (texts or {}).items()}
    longest_text = max(len(t) for group in (symbols, sides, *(texts or {}).values()) for t in group)

    def literal(text: bytes) -> tuple[int, int, int, int]:
        heap.extend(text)
        return (_LITERAL, len(heap) - len(text), len(text), 0)

    def compiled(text: bytes) -> None:
        nonlocal longest
        at, size = 0, 0
        for match in _FIELD.finditer(text):
            if match.start() > at:
                ops.append(literal(text[at : match.start()]))
            ops.append(_field(match[1].decode(), (match[2] or b"").decode(), tables, size_digits))
            at, size = match.end(), size + max(_FIELD_BYTES, longest_text)
        if at < len(text):
            ops.append(literal(text[at:]))
        longest += size + len(text)

    parts, separators = [], []
    for template in (trades, quotes):
        bounds = [len(ops)]
        for text in (template.prefix, template.item, template.suffix):
            compiled(text)
            bounds.append(len(ops))
        parts.append(bounds)
        separators.append((len(heap), len(heap) + len(template.separator)))
        heap.extend(template.separator)
    return Program(
        np.array(ops, np.int64).reshape(-1, 4),
        np.array(parts, np.int64),
        np.frombuffer(bytes(heap), np.uint8),
        np.array(offsets, np.int64),
        np.array(separators, np.int64),
        np.array([trades.items_max, quotes.items_max], np.int64),
        longest + _HEADER_BYTES + 8,
        opcode,
    )


def _field(name: str, form: str, tables: dict[str, tuple[int, int]], size_digits: int) -> tuple[int, int, int, int]:
    if name in tables:
        column, base = tables[name]
        return (_TEXT, column, base, 0)
    if name == "count":
        return (_COUNT16, 0, 0, 0)
    column = _COLUMN[name]
    digits = {"price": PRICE_DIGITS, "ask": PRICE_DIGITS, "size": size_digits, "ask_size": size_digits}.get(name, 0)
    forms: dict[str, tuple[int, int, int, int]] = {
        "": (_DECIMAL if digits else _INTEGER, column, digits, 0),
        "s": (_SCALED, column, 1_000_000_000, 0),
        "ms": (_SCALED, column, 1_000_000, 0),
        "us": (_SCALED, column, 1_000, 0),
        "rfc3": (_TIME, column, 3, 0),
        "rfc6": (_TIME, column, 6, 0),
        "rfc9": (_TIME, column, 9, 0),
        "hex": (_HEX, column, 0, 0),
        "u64": (_U64, column, 0, 0),
        "f64": (_F64, column, digits, 0),
        "stamp": (_STAMP, column, 0, 0),
    }
    return forms[form]


class Renderer:
    """Renders events for one connection and numbers its frames."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.sequence = 0  # of the next frame
        self._out = np.empty(1 << 16, np.uint8)

    def render(self, events: np.ndarray, ts: Callable[[], int] | None = None) -> tuple[bytes, int]:
        """WebSocket frames of the events, in order, and how many.

        events  (n, COLUMNS) int64
        ts      a clock: events are stamped as of now, 1 ns apart; None: TS is Unix time already
        """
        n = len(events)
        if not n:
            return b"", 0
        values = np.empty((n, WIDTH), np.int64)
        values[:, :COLUMNS] = events
        if ts is not None:
            values[:, 0] = ts() - n + np.arange(n)
        need = n * self.program.frame_bytes
        if len(self._out) < need:
            self._out = np.empty(need, np.uint8)
        p = self.program
        size, frames = _render(
            values, p.ops, p.parts, p.heap, p.offsets, p.separators, p.items_max, p.opcode, self.sequence, self._out
        )
        self.sequence += frames
        return self._out[:size].tobytes(), frames


@njit(nogil=True, cache=True)
def _digits(out, at, value, least):
    """Write a number of 0 or more with at least so many digits."""
    count = 1
    rest = value // 10
    while rest:
        count += 1
        rest //= 10
    count = max(count, least)
    for k in range(count - 1, -1, -1):
        out[at + k] = 48 + value % 10
        value //= 10
    return at + count


@njit(nogil=True, cache=True)
def _big_endian(out, at, value, size):
    for k in range(size - 1, -1, -1):
        out[at + k] = value & 255
        value >>= 8
    return at + size


@njit(nogil=True, cache=True)
def _time(out, at, ns, digits):
    """RFC 3339 in UTC; the civil date by Hinnant's algorithm, http://howardhinnant.github.io/date_algorithms.html"""
    seconds = ns // 1_000_000_000
    days = seconds // 86_400
    rest = seconds - days * 86_400
    shifted = days + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    at = _digits(out, at, year, 4)
    out[at] = 45
    at = _digits(out, at + 1, month, 2)
    out[at] = 45
    at = _digits(out, at + 1, day, 2)
    out[at] = 84
    at = _digits(out, at + 1, rest // 3600, 2)
    out[at] = 58
    at = _digits(out, at + 1, rest // 60 % 60, 2)
    out[at] = 58
    at = _digits(out, at + 1, rest % 60, 2)
    out[at] = 46
    part = ns - seconds * 1_000_000_000
    for _ in range(9 - digits):
        part //= 10
    at = _digits(out, at + 1, part, digits)
    out[at] = 90
    return at + 1


@njit(nogil=True, cache=True)
def _copy(out, at, heap, start, stop):
    for k in range(start, stop):
        out[at] = heap[k]
        at += 1
    return at


@njit(nogil=True, cache=True)
def _number(out, at, op, value, argument):
    """A field that is one number."""
    if op == _INTEGER:
        if value < 0:
            out[at] = 45
            return _digits(out, at + 1, -value, 1)
        return _digits(out, at, value, 1)
    if op == _DECIMAL:
        scale = 10**argument
        at = _digits(out, at, value // scale, 1)
        out[at] = 46
        return _digits(out, at + 1, value % scale, argument)
    if op == _SCALED:
        return _digits(out, at, value // argument, 1)
    if op == _TIME:
        return _time(out, at, value, argument)
    if op == _HEX:
        for k in range(11, -1, -1):
            digit = value & 15
            out[at + k] = 48 + digit if digit < 10 else 87 + digit
            value >>= 4
        return at + 12
    if op == _U64:
        out[at] = 0xCF
        return _big_endian(out, at + 1, value, 8)
    if op == _F64:
        out[at] = 0xCB
        bits = np.array([value / 10.0**argument]).view(np.int64)[0]
        return _big_endian(out, at + 1, bits, 8)
    seconds = value // 1_000_000_000  # MessagePack timestamp 64: 30 bits of ns, 34 bits of seconds
    out[at] = 0xD7
    out[at + 1] = 0xFF
    return _big_endian(out, at + 2, ((value - seconds * 1_000_000_000) << 34) | seconds, 8)


@njit(nogil=True, cache=True)
def _run(out, at, ops, first, last, row, heap, offsets, count):
    """Carry out ops ``first`` to ``last - 1`` for one event."""
    for i in range(first, last):
        op = ops[i, 0]
        if op == _LITERAL:
            at = _copy(out, at, heap, ops[i, 1], ops[i, 1] + ops[i, 2])
        elif op == _TEXT:
            text = ops[i, 2] + row[ops[i, 1]]
            at = _copy(out, at, heap, offsets[text], offsets[text + 1])
        elif op == _COUNT16:
            out[at] = 0xDC
            at = _big_endian(out, at + 1, count, 2)
        else:
            at = _number(out, at, op, row[ops[i, 1]], ops[i, 2])
    return at


@njit(nogil=True, cache=True)
def _render(values, ops, parts, heap, offsets, separators, items_max, opcode, sequence, out):
    """Write frames; neighbouring events of one kind share a frame up to ``items_max``. Returns (bytes, frames)."""
    at = 0
    frames = 0
    i = 0
    n = len(values)
    while i < n:
        kind = values[i, KIND]
        j = i + 1
        while j < n and values[j, KIND] == kind and j - i < items_max[kind]:
            j += 1
        values[i, SEQUENCE] = sequence + frames
        start = at + 4  # room for the header of a frame below 64 kB; a shorter or longer one moves the payload
        at = _run(out, start, ops, parts[kind, 0], parts[kind, 1], values[i], heap, offsets, j - i)
        for k in range(i, j):
            if k > i:
                at = _copy(out, at, heap, separators[kind, 0], separators[kind, 1])
            at = _run(out, at, ops, parts[kind, 1], parts[kind, 2], values[k], heap, offsets, j - i)
        at = _run(out, at, ops, parts[kind, 2], parts[kind, 3], values[i], heap, offsets, j - i)
        length = at - start
        out[start - 4] = 0x80 | opcode
        if length < 126:
            out[start - 3] = length
            for k in range(length):
                out[start - 2 + k] = out[start + k]
            at -= 2
        elif length < 65_536:
            out[start - 3] = 126
            _big_endian(out, start - 2, length, 2)
        else:
            for k in range(length - 1, -1, -1):
                out[start + 6 + k] = out[start + k]
            out[start - 3] = 127
            _big_endian(out, start - 2, length, 8)
            at += 6
        frames += 1
        i = j
    return at, frames


def warm(program: Program) -> None:
    """Compile, or load from the cache, what rendering needs: seconds that no client should wait for."""
    Renderer(program).render(np.ones((1, COLUMNS), np.int64), None)
