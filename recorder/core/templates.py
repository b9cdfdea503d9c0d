"""Templates: a feed's commonest messages, written as they look, and compiled to what ``matching`` interprets.

A template is the message itself with fields between ``<`` and ``>`` where it varies:

    Message('{"stream":"<text>","data":<row>}', Row(TRADES, '{"s":"<series>","t":<trade_id>,"p":"<price>", …}'))

``<row>`` stands for one row, ``<rows>`` for one or more between commas; the first of the alternatives that fits counts.
Inside a row a field is a column of its table, read as the column's type asks:

    <price>                      a decimal number, in quotes or not
    <trade_id>                   a whole number
    <ts_event:ms>                milliseconds; <ts_event:rfc3339>; absent: the receive time
    <side:true=sell,false=buy>   a text and the label it means
    <series> <exchange>          a text that the decoder taught the scope (``Scope.teach``) under this name
    <conditions+tape+flags:["…"],"z":"…">  several columns by one such stretch of the message: an array of texts and
                                 the fields behind it
and where nothing is stored ``<text>``, ``<number>``, ``<whole>``, ``<bool>``. ``<counter>`` is the connection's count
of messages, which must be the next one.

Columns that a template does not name are null, ``flags`` 0; prices must be above 0, other numbers from 0 up, times
between the year 2000 and a day past the receipt. A decoder must read every frame that matches just so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from recorder.core import matching as m
from recorder.core.batch import Output, Scope
from recorder.core.fix_rows import new_scratch
from recorder.core.frames import COLUMNS, Frames
from recorder.core.spellings import VALUES_MAX, Spellings
from recorder.values.schema import Label, Table, null_of
from recorder.values.tables import (
    BACKFILLED,
    BARS,
    BUY,
    CANCELLED,
    CORRECTED,
    NOT_LAST_ELIGIBLE,
    NOT_VOLUME_ELIGIBLE,
    QUOTES,
    SELL,
    TRADES,
)

MATCHED_TABLES = (TRADES, QUOTES, BARS)
ABOVE_ZERO = frozenset({"price", "bid", "ask", "vwap"})
SOURCES = 1 << 16  # ids of a journal's sources are two bytes
PATIENCE_MAX = 64  # frames given to decoders without another try, once as many in a row have not matched

_FIELD = re.compile(r"<([a-z_+]+)(?::([^>]*))?>")
_PAIR = re.compile(r'"(\w+)":(?:"([^"<]*)"|("?)<([a-z_+]+)(?::([^>]*))?>\3)')
_UNREAD = {"text": m.TEXT, "number": m.NUMBER, "whole": m.WHOLE}


class Row:
    """One row of a table, as a message or as an element of one; ``constants`` are columns equal in all of them.

    remembered  a column whose value in the last such row is kept under its series: ``Scope.remembered``
    """

    def __init__(self, table: Table, text: str, remembered: str | None = None, **constants: int) -> None:
        self.table, self.text, self.remembered, self.constants = table, text, remembered, constants


class Message:
    """A whole frame: what stands around its row or rows."""

    def __init__(self, text: str, *rows: Row) -> None:
        self.text, self.rows = text, rows


@dataclass(frozen=True)
class Templates:
    """The messages of a feed that are read without its decoder. ``packed``: in MessagePack, the same names in order."""

    messages: tuple[Message, ...]
    packed: bool = False


@dataclass(frozen=True)
class FixMessages:
    """FIX market data, read by compiled code of its own (core/fix_rows.py) that no template could say.

    by_id   instruments are told by SecurityID (48), not by Symbol (55)
    single  one level of the book was asked for
    """

    by_id: bool
    single: bool


@dataclass
class _Program:
    """Operations and literals being written down."""

    scope: Scope
    ops: list[list[int]] = field(default_factory=list)
    heap: bytearray = field(default_factory=bytearray)

    def op(self, op: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, to: int = m.NONE) -> int:
        """Append an operation; return its place."""
        self.ops.append([op, a, b, c, d, to, 0, 0])
        return len(self.ops) - 1

    def keep(self, text: bytes) -> int:
        """Place of a text in the heap, zeros behind it to a multiple of eight."""
        start = len(self.heap)
        self.heap += text + bytes(-len(text) % 8)
        return start

    def literal(self, text: bytes) -> None:
        if self.ops and self.ops[-1][m.OP] == m.LITERAL:  # jumps lead behind other operations only
            last = self.ops.pop()
            text = bytes(self.heap[last[m.A] : last[m.A] + last[m.B]]) + text
        self.op(m.LITERAL, self.keep(text), len(text))

    def compile(self, templates: Templates | FixMessages) -> None:
        if isinstance(templates, FixMessages):
            self._fix(templates)
            return
        following: int | None = None
        for message in templates.messages:
            if following is not None:
                self.ops[following][m.TO] = len(self.ops)
            following = self.op(m.MESSAGE)
            self._message(message, templates.packed)

    def _message(self, message: Message, packed: bool) -> None:
        head, name, tail = re.split(r"<(rows?)>", message.text)
        if packed:
            self.op(m.COUNT)
        else:
            self._text(head, None)
        start, ends, either = len(self.ops), [], m.NONE
        for row in message.rows:
            if either != m.NONE:
                self.ops[either][m.TO] = len(self.ops)
            either = self.op(m.EITHER)
            place = self._row(row)
            if packed:
                self._packed(row, place)
            else:
                self._text(row.text, row, place)
            ends.append(self.op(m.ROW_END, MATCHED_TABLES.index(row.table)))
        self.ops[either][m.TO] = m.NONE
        for end in ends:
            self.ops[end][m.TO] = len(self.ops)
        if packed:
            self.op(m.MORE_COUNTED, to=start)
        else:
            if name == "rows":
                self.op(m.MORE, to=start)
            self._text(tail, None)
        self.op(m.DONE)

    def _fix(self, messages: FixMessages) -> None:
        """Where things are, as ``fix_rows.read`` has it."""
        scope = self.scope
        spaces = [scope.space(name) for name in ("series", "exchange", "conditions")]
        self.ops.append([m.FIX, scope.counter, scope.tops().place, *spaces, messages.by_id, messages.single])
        for table in (TRADES, QUOTES):
            places = [table.dtype.itemsize, *(_offset(table, column.name) for column in table.packed), 0]
            self.ops += [m.DATA, *places[:7]], [m.DATA, *places[7:14]]
        withdrawn = CANCELLED | NOT_LAST_ELIGIBLE | NOT_VOLUME_ELIGIBLE
        self.ops.append([m.DATA, BACKFILLED, CORRECTED, withdrawn, BUY, SELL, 0, 0])

    def _row(self, row: Row) -> list[int]:
        """The operation that begins a row, to be put behind its first literal."""
        table = row.table
        image = np.zeros(1, table.dtype)
        for column in table.laid_out:
            image[column.name] = row.constants.get(column.name, 0 if column.name == "flags" else null_of(column.type))
        given = -1 if "<ts_event" in row.text else _offset(table, "ts_event")
        place = self.keep(image.tobytes())
        return [
            m.ROW, MATCHED_TABLES.index(table), place, table.dtype.itemsize, _offset(table, "ts_recv"), given, 0, 0
        ]  # fmt: skip

    def _text(self, text: str, row: Row | None, begin: list[int] | None = None) -> None:
        """JSON: literals and fields in turn."""
        at = 0
        for match in _FIELD.finditer(text):
            if match.start() > at:
                self.literal(text[at : match.start()].encode())
            if begin is not None:
                self.ops.append(begin)
                begin = None
            self._field(match[1], match[2] or "", row, text[match.end() : match.end() + 1])
            at = match.end()
        if at < len(text):
            self.literal(text[at:].encode())

    def _field(self, name: str, form: str, row: Row | None, closing: str) -> None:
        if name in _UNREAD:
            self.op(_UNREAD[name], m.NONE)
        elif name == "bool":
            self._choice([(b"true", 0), (b"false", 0)], m.NONE)
        elif name == "counter":
            self.op(m.COUNTER, self.scope.counter)
        else:
            assert row is not None, f"<{name}> outside a row"
            column = {c.name: c for c in row.table.packed}[name.split("+")[0]]
            offset = _offset(row.table, column.name)
            if column.type.kind == "double":
                self.op(m.DECIMAL, offset, int(column.name in ABOVE_ZERO))
            elif column.type.kind == "long":
                self.op(m.WHOLE, offset, int(column.name == row.remembered))
            elif column.type.kind == "timestamp":
                self.op({"ms": m.MILLISECONDS, "rfc3339": m.RFC3339}[form], offset)
            elif isinstance(column.type, Label):
                self._choice([(text.encode(), code) for text, code in _choices(form, column.type)], offset)
            elif form:
                self._spelled(m.SPAN, name, row.table, 4 * _keys(form))
            else:
                self._spelled(m.SPELLED, name, row.table, ord(closing))

    def _spelled(self, op: int, name: str, table: Table, to: int) -> None:
        """A text that stands for the ids of one or several columns."""
        offsets = [_offset(table, column) for column in name.split("+")]
        offsets += [m.NONE] * (VALUES_MAX - len(offsets))
        self.op(op, self.scope.space(name), offsets[0], offsets[1], offsets[2], to)

    def _choice(self, choices: list[tuple[bytes, int]], offset: int) -> None:
        places = [self.op(m.CHOICE, self.keep(text), len(text), code, offset) for text, code in choices]
        self.op(m.FAIL)
        for place in places:
            self.ops[place][m.TO] = len(self.ops)

    def _packed(self, row: Row, begin: list[int]) -> None:
        """The same map in MessagePack."""
        pairs = list(_PAIR.finditer(row.text))
        spans = [_keys(pair[5] or "") for pair in pairs]
        count = len(pairs) + sum(spans)
        self.literal(bytes([0x80 | count]) if count < 16 else b"\xde" + count.to_bytes(2, "big"))
        started = False
        for pair, span in zip(pairs, spans, strict=True):
            key, value, _, name, form = pair.groups()
            self.literal(_packed_text(key))
            if name is None:
                self.literal(_packed_text(value))
                continue
            if not started:
                self.ops.append(begin)
                started = True
            self._packed_field(name, form or "", row.table, span)

    def _packed_field(self, name: str, form: str, table: Table, span: int) -> None:
        if name in _UNREAD or name == "bool":
            self.op(m.PACKED_ANY)
            return
        column = {c.name: c for c in table.packed}[name.split("+")[0]]
        offset = _offset(table, column.name)
        if column.type.kind == "double":
            self.op(m.PACKED_NUMBER, offset, int(column.name in ABOVE_ZERO))
        elif column.type.kind == "long":
            self.op(m.PACKED_WHOLE, offset)
        elif column.type.kind == "timestamp":
            self.op(m.PACKED_TIME, offset)
        elif isinstance(column.type, Label):
            self._choice([(_packed_text(text), code) for text, code in _choices(form, column.type)], offset)
        elif form:
            self._spelled(m.PACKED_SPAN, name, table, 1 + 2 * span)
        else:
            self._spelled(m.PACKED_SPELLED, name, table, m.NONE)


def _offset(table: Table, column: str) -> int:
    return int(table.dtype.fields[column][1])  # type: ignore[index]


def _choices(form: str, label: Label) -> list[tuple[str, int]]:
    """``true=sell,false=buy`` → texts and codes of the label."""
    pairs = [choice.split("=") for choice in form.split(",")]
    return [(text, label.names.index(name) + 1) for text, name in pairs]


def _keys(form: str) -> int:
    """How many further fields a span shows."""
    return len(re.findall(r'"\w+":', form))


def _packed_text(text: str) -> bytes:
    encoded = text.encode()
    return bytes([0xA0 | len(encoded)]) + encoded


class Matcher:
    """All templates of a pipeline's sources, and the batches they write into."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._programs = np.full((SOURCES, 2), -1, np.int64)
        self._ops = np.zeros((0, m.WIDTH), np.int64)
        self._heap = np.zeros(0, np.uint8)
        self._state = np.zeros(m.STATE, np.int64)
        self._scratch = new_scratch()
        self._batches = [out.batches[table.name] for table in MATCHED_TABLES]
        self._patience = 1
        self._frames: Frames | None = None  # those being matched, and their bytes
        self._data = np.zeros(0, np.uint8)

    def release(self) -> None:
        """Let go of the frames: their bytes may lie in a segment that is about to be closed."""
        self._frames, self._data = None, np.zeros(0, np.uint8)

    def withdraw(self, source: int) -> None:
        """Leave every frame of this source to its decoder, and count from 0 on."""
        self._programs[source] = m.NONE, 0

    def declare(self, source: int, scope: Scope, templates: Templates | FixMessages) -> None:
        """From now on frames of this source are matched with these templates."""
        self.withdraw(source)
        program = _Program(scope)
        program.compile(templates)
        base, shift = len(self._ops), len(self._heap)
        self._programs[source, m.PC] = base
        ops = np.array(program.ops, np.int64)
        for op in ops:
            if op[m.OP] in (m.MESSAGE, m.EITHER, m.ROW_END, m.MORE, m.MORE_COUNTED, m.CHOICE) and op[m.TO] >= 0:
                op[m.TO] += base
            if op[m.OP] in (m.LITERAL, m.CHOICE):
                op[m.A] += shift
            elif op[m.OP] == m.ROW:
                op[m.B] += shift
        self._ops = np.concatenate([self._ops, ops])
        self._heap = np.concatenate([self._heap, np.frombuffer(bytes(program.heap), np.uint8)])

    def matched(self, source: int) -> int:
        """Frames of this source that became rows here since it was declared."""
        return int(self._programs[source, m.COUNTED])

    def match(self, frames: Frames, first: int) -> tuple[int, int]:
        """Turn frames from ``first`` on into rows; (i, j): frames before i are done, i to j - 1 are for their decoders.

        Frames after one that does not match are given up with it while none matches, up to a number that doubles each
        time nothing could be done here: where nothing ever matches, trying costs little.
        """
        begun, spellings = first, self._out.spellings
        if frames is not self._frames:
            self._frames, self._data = frames, frames.data[:]
            self._data.flags.writeable = False  # one type for compiled code, whatever the frames lie in
        while True:
            before = [batch.place() for batch in self._batches]
            self._state[m.ADDRESS :] = [place[i] for i in range(3) for place in before]
            first, last, why = m.match(
                self._data, frames.table, first, self._patience, self._programs, self._ops, self._heap,
                spellings.slots, spellings.heap, spellings.entries, self._state, self._out.counters,
                self._out.tops.table, self._scratch,
            )  # fmt: skip
            for batch, place, used in zip(self._batches, before, self._state[m.USED : m.ROOM].tolist(), strict=True):
                if used != place[1]:
                    batch.written(used)
            if why < m.FULL:
                break
            self._batches[why - m.FULL].grow()
        self._patience = min(2 * self._patience, PATIENCE_MAX) if first == begun else 1
        return first, last

    def warm(self) -> None:
        """Compile, or load from the cache."""
        Spellings().teach(1, b"AAPL", (0,))
        self.match(Frames(np.zeros(8, np.uint8), np.zeros((COLUMNS, 0), np.int64), 0), 0)
        self._patience = 1
