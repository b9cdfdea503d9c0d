"""Rows being collected: packed into preallocated buffers that numpy and Numba view."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recorder.core.fix_tops import Connection, Tops
from recorder.core.spellings import NOTHING, Spellings
from recorder.values.errors import FrameError
from recorder.values.schema import LONG_NULL, TEXT_NULL, Table
from recorder.values.tables import (
    BARS,
    CORPORATE_ACTIONS,
    FEED_EVENTS,
    FOLLOWS,
    GAP_NOTE,
    GAP_SEQUENCE,
    GAPS,
    NAMED,
    NEWS,
    OPTIONS_CHAIN,
    QUOTES,
    REJECTED,
    STATUSES,
    TABLES,
    TRADES,
    VALUATIONS,
)

BATCH_ROWS_INITIAL = 8192  # one burst of 20 ms at 400 k rows/s before the first growth
TEXTS_MAX = 1 << 22  # distinct symbols, exchanges and conditions of a life: 4 M option contracts fit
TEXT_BYTES_MAX = 4096  # of one SYMBOL text; longer ones are a provider's fault or an attack
VARCHAR_BYTES_MAX = 16384
EXCERPT_BYTES = 256  # of a rejected frame
RESTART_NS = 1_000_000_000  # as in core/kernels.py: what is late is not newer at all


class Texts:
    """Texts by id, append only: ids in rows, bytes for the encoder.

    ``heap[offsets[i]:offsets[i + 1]]`` is text i in UTF-8, escaped as ``escape`` says. Both arrays are replaced, never
    rewritten, when they grow: a snapshot stays valid for every id it knew.
    """

    def __init__(self, escape: Callable[[str], bytes], unique: bool = True) -> None:
        self.ids: dict[str, int] = {}
        self.count = 0
        self.heap = np.zeros(4096, np.uint8)
        self.offsets = np.zeros(256, np.int64)
        self._escape = escape
        self._unique = unique
        self._names: list[str] = []

    def id(self, text: str | None) -> int:
        """Id of a text, a new one if need be; None is TEXT_NULL. Raises FrameError past the bounds."""
        if text is None:
            return TEXT_NULL
        known = self.ids.get(text)
        return known if known is not None else self._add(text)

    def add(self, text: str) -> int:
        """Store without looking for an equal one (VARCHAR of a batch)."""
        return self._add(text)

    def name(self, id_: int) -> str:
        return self._names[id_]

    def names(self) -> list[str]:
        """Every text in the order of ids: a copy."""
        return self._names.copy()

    def _add(self, text: str) -> int:
        encoded = self._escape(text)
        if len(encoded) > (TEXT_BYTES_MAX if self._unique else VARCHAR_BYTES_MAX):
            raise FrameError(f"text of {len(encoded)} bytes where at most {TEXT_BYTES_MAX} make sense: {text[:60]!r}…")
        if self.count >= TEXTS_MAX:
            raise FrameError(
                f"more than {TEXTS_MAX} distinct texts; the provider sends unbounded names, e.g. {text[:60]!r}"
            )
        number, start = self.count, int(self.offsets[self.count])
        if number + 2 > len(self.offsets):
            self.offsets = np.concatenate([self.offsets, np.zeros(len(self.offsets), np.int64)])
        while start + len(encoded) > len(self.heap):
            self.heap = np.concatenate([self.heap, np.zeros(len(self.heap), np.uint8)])
        self.heap[start : start + len(encoded)] = np.frombuffer(encoded, np.uint8)
        self.offsets[number + 1] = start + len(encoded)
        self.count += 1
        if self._unique:
            self.ids[text] = number
            self._names.append(text)
        return number

    def clear(self) -> None:
        """Forget everything; arrays handed out before stay as they were."""
        self.ids, self._names, self.count = {}, [], 0
        self.heap, self.offsets = np.zeros(4096, np.uint8), np.zeros(256, np.int64)


_SYMBOL_ESCAPES = str.maketrans({"\\": "\\\\", ",": "\\,", " ": "\\ ", "=": "\\=", "\n": "\\\n", "\r": "\\\r"})


def escape_symbol(text: str) -> bytes:
    """UTF-8 of a SYMBOL value with ILP's escapes."""
    return text.translate(_SYMBOL_ESCAPES).encode("utf-8", "replace")


def escape_varchar(text: str) -> bytes:
    """UTF-8 of a quoted ILP string, without the quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\\n").replace("\r", "\\\r")
    return escaped.encode("utf-8", "replace")  # translate() took ten times as long


class Series:
    """Dense ids for (feed, symbol), the key of kernel state. The encoder writes a series as its two SYMBOL columns."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], int] = {}
        self.keys: list[tuple[str, str]] = []
        self.prefixes = Texts(lambda text: text.encode(), unique=True)  # ",feed=…,symbol=…", escaped already

    def id(self, feed: str, symbol: str) -> int:
        key = (feed, symbol)
        known = self._ids.get(key)
        if known is None:
            prefix = b",feed=" + escape_symbol(feed) + b",symbol=" + escape_symbol(symbol)
            known = self.prefixes.id(prefix.decode())
            self._ids[key] = known
            self.keys.append(key)
        return known

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Rows:
    """Rows of one table, sealed: ``rows`` is (n,) of ``table.dtype``; texts as the encoder needs them."""

    table: Table
    rows: np.ndarray
    varchar_heap: np.ndarray
    varchar_offsets: np.ndarray


class Batch:
    """Rows of one table being collected. ``append(*values)`` takes the packed columns in declared order."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.texts = Texts(escape_varchar, unique=False)
        self._size = table.dtype.itemsize
        self._struct = struct.Struct(table.pack_format)
        self._fresh = table.computed_format
        self._bind()

    def _bind(self) -> None:
        # Generated, like a dataclass' __init__: with named arguments and cells instead of *values and attributes a row
        # costs 240 ns instead of 360 (bench_batch.py).
        names = ", ".join(f"c{i}" for i in range(len(self.table.packed)))
        source = (
            f"def make(pack_into, size, error, grow):\n"
            f"    buffer, offset = grow(None, 0), 0\n"
            f"    def append({names}):\n"
            f"        nonlocal buffer, offset\n"
            f"        try:\n"
            f"            pack_into(buffer, offset, {names})\n"
            f"        except error:\n"
            f"            if offset + size <= len(buffer):\n"
            f"                raise\n"
            f"            buffer = grow(buffer, offset)\n"
            f"            pack_into(buffer, offset, {names})\n"
            f"        offset += size\n"
            f"    def seek(to):\n"
            f"        nonlocal offset\n"
            f"        offset = to\n"
            f"    def enlarge():\n"
            f"        nonlocal buffer\n"
            f"        buffer = grow(buffer, offset)\n"
            f"    def state():\n"
            f"        return buffer, offset\n"
            f"    return append, seek, state, enlarge\n"
        )
        scope: dict[str, Any] = {}
        exec(source, scope)
        self.append, self._seek, self._state, self.grow = scope["make"](
            self._struct.pack_into, self._size, struct.error, self._grow
        )

    def _grow(self, buffer: bytearray | None, used: int) -> bytearray:
        """A buffer twice as large, the computed columns of its free slots null until kernels fill them in."""
        grown = bytearray(2 * len(buffer) if buffer else BATCH_ROWS_INITIAL * self._size)
        self._address = np.frombuffer(grown, np.uint8).ctypes.data
        if buffer:
            grown[:used] = buffer[:used]
        if self._fresh:
            rows = np.frombuffer(grown, np.uint8).reshape(-1, self._size)
            rows[used // self._size :, self._struct.size :] = np.frombuffer(self._fresh, np.uint8)
        return grown

    def __len__(self) -> int:
        return self._state()[1] // self._size

    def place(self) -> tuple[int, int, int]:
        """Where compiled code may write rows: the buffer's address, the rows in it, and how many it has room for.

        Valid until the next call of any other method; ``grow()`` doubles the room, ``written`` says how far it came.
        """
        buffer, used = self._state()
        return self._address, used // self._size, len(buffer) // self._size

    def written(self, count: int) -> None:
        """Rows up to ``count`` are there: compiled code has filled their packed columns, the computed ones are null."""
        self._seek(count * self._size)

    def rollback(self, count: int) -> None:
        """Forget the rows past ``count``: their frame turned out not to fit."""
        self._seek(count * self._size)

    def varchar(self, text: str | None) -> int:
        return TEXT_NULL if text is None else self.texts.add(text)

    def seal(self) -> Rows:
        """Copy the rows out and start over in the same buffer."""
        buffer, used = self._state()
        rows = np.frombuffer(buffer, self.table.dtype, used // self._size).copy()
        result = Rows(self.table, rows, self.texts.heap, self.texts.offsets)
        self._seek(0)
        if self.texts.count:
            self.texts.clear()
        return result


class Output:
    """Where decoders put what they read. One per pipeline; ``scope()`` gives a feed its own view of it.

    Batches: ``trades, quotes, bars, statuses, options_chain, gaps …``; each has ``append`` in declared column order.
    """

    def __init__(self) -> None:
        self.texts = Texts(escape_symbol)
        self.series = Series()
        self.spellings = Spellings()
        self.tops = Tops()
        self.counters = np.full(16, NOTHING, np.int64)  # by scope: the connection's count of messages, see sequence()
        self._scopes = 0
        self.spaces: dict[tuple[int, str], int] = {}
        self.batches = {name: Batch(table) for name, table in TABLES.items()}
        self.unknown: dict[tuple[str, str], int] = {}  # (feed, what) → how often
        self.kept: dict[tuple[str, int], dict[str, dict[str, int]]] = {}  # (feed, connection) → see Scope.kept
        # Told when a connection has lost frames, while rows of the frames before the loss are all that was collected.
        self.interrupted: Callable[[str, int, int, str], None] = lambda feed, connection, kind, cause: None
        # Told of rows that did not come: series, channel, ts_event, ts_recv, first and last number, how long, ns.
        self.missed: Callable[[int, str, int, int, int, int, int], None] = lambda *what: None

    def counts(self) -> list[int]:
        return [len(batch) for batch in self.batches.values()]

    def rollback(self, counts: Iterable[int]) -> None:
        for batch, count in zip(self.batches.values(), counts, strict=True):
            batch.rollback(count)

    def gap(
        self, series: int, channel: str, kind: int, ts_event: int, ts_recv: int, cause: str,
        *, from_id: int = LONG_NULL, to_id: int = LONG_NULL, missing: int = LONG_NULL, span_ns: int = 0,
        status: int = GAP_NOTE, recovered: int = 0,
    ) -> None:  # fmt: skip
        """Append a row of GAPS; ``kind`` and ``status`` are codes of its labels."""
        text = self.texts.id
        self.batches[GAPS.name].append(
            ts_event, ts_recv, series, text(channel), kind, from_id, to_id, missing, span_ns, text(cause), status,
            recovered,
        )  # fmt: skip

    def scope(self, feed: str, connection: int) -> Scope:
        if self._scopes == len(self.counters):
            self.counters = np.concatenate([self.counters, np.full(len(self.counters), NOTHING, np.int64)])
        self._scopes += 1
        return Scope(self, feed, connection, self._scopes - 1)

    def space(self, scope: int, name: str) -> int:
        """The number of a scope's spellings of one kind."""
        return self.spaces.setdefault((scope, name), len(self.spaces) + 1)


FRAMES_LOST = "frames lost on the connection"  # the cause of a gap
UNKNOWN_NAMES_MAX = 256  # distinct unknown message or field names counted per pipeline; the rest count as "other"


class Scope:
    """A feed's view of the output: its own series ids, gaps, events and counters.

    counter  place in ``out.counters`` of the connection's count of messages
    """

    def __init__(self, out: Output, feed: str, connection: int, counter: int = 0) -> None:
        self.out, self.feed, self.connection = out, feed, connection
        self.trades = out.batches[TRADES.name]
        self.quotes = out.batches[QUOTES.name]
        self.bars = out.batches[BARS.name]
        self.statuses = out.batches[STATUSES.name]
        self.options = out.batches[OPTIONS_CHAIN.name]
        self.actions = out.batches[CORPORATE_ACTIONS.name]
        self.valuations = out.batches[VALUATIONS.name]
        self.news = out.batches[NEWS.name]
        self.text = out.texts.id
        self.feed_id = out.texts.id(feed)
        self.position = 0  # of the frame being decoded: just past it
        self.item = 0  # of the next reject at this position
        self._rejected_at = -1
        self.counter = counter
        self._series = self.kept("series")

    @property
    def symbols(self) -> Iterable[str]:
        """Canonical symbols that this connection has delivered."""
        return self._series.keys()

    def series(self, symbol: str) -> int:
        """Series id of a canonical symbol of this feed."""
        known = self._series.get(symbol)
        if known is None:
            known = self._series[symbol] = self.out.series.id(self.feed, symbol)
        return known

    def unknown(self, what: str) -> None:
        """Count a message or field this decoder does not know. The frame is in the journal."""
        key = (self.feed, what[:80])
        if key not in self.out.unknown and len(self.out.unknown) >= UNKNOWN_NAMES_MAX:
            key = (self.feed, "other")
        self.out.unknown[key] = self.out.unknown.get(key, 0) + 1

    def reject(self, reason: str, excerpt: bytes, ts_recv: int) -> None:
        """Keep what did not fit, in words, beside the rows that did."""
        if self.position != self._rejected_at:
            self._rejected_at, self.item = self.position, 0
        batch = self.out.batches[REJECTED.name]
        text = excerpt[:EXCERPT_BYTES].decode("utf-8", "backslashreplace")
        batch.append(ts_recv, self.feed_id, self.position, self.item, batch.varchar(reason[:1024]), batch.varchar(text))
        self.item += 1

    def named(self, symbol: str, trade_id: int, ts_event: int, ts_recv: int) -> None:
        """The provider named its newest trade: those up to it that have not come are missing."""
        self.trades.append(
            ts_event, ts_recv, self.series(symbol), TEXT_NULL, trade_id, TEXT_NULL, 0.0, 0.0, 0, TEXT_NULL, TEXT_NULL,
            NAMED,
        )  # fmt: skip

    @property
    def newest(self) -> int:
        """The last number that ``sequence`` was told; NOTHING, which is below all, before the first."""
        return int(self.out.counters[self.counter])

    def sequence(self, number: int, ts_recv: int, channel: str = "connection", newest: int | None = None) -> None:
        """Check a per-connection counter that grows by one a frame; a jump is a gap of the whole connection.

        newest  the last number in a frame that has several, one below ``number`` in a frame that has none
        To be called before rows of the frame are appended.
        """
        counters = self.out.counters
        last = int(counters[self.counter])
        counters[self.counter] = number if newest is None else newest
        if last == NOTHING or number <= last + 1:
            return
        self.out.gap(
            self.series("*"), channel, GAP_SEQUENCE, ts_recv, ts_recv, FRAMES_LOST,
            from_id=last + 1, to_id=number - 1, missing=number - last - 1,
        )  # fmt: skip
        self.out.interrupted(self.feed, self.connection, GAP_SEQUENCE, FRAMES_LOST)

    def counted(self, channel: str) -> Callable[[str, int, int, int], int]:
        """Return follows(symbol, number, ts_event, ts_recv), which checks a number that grows by one with each row of a
        symbol, over all connections; a jump is a gap. To be called before the row is appended.

        Its result is FOLLOWS, a flag of the row, where the numbers tell that nothing is missing before it, or how much
        is: not of the first, of one that is late, or where they begin anew (with 1, or lower but RESTART_NS newer).
        """
        numbers, times, missed = self.kept(f"{channel} numbers"), self.kept(f"{channel} times"), self.out.missed

        def follows(symbol: str, number: int, ts_event: int, ts_recv: int) -> int:
            last, since = numbers.get(symbol), times.get(symbol, ts_event)
            anew = last is None or (number < last and (number == 1 or ts_event > since + RESTART_NS))
            if last is not None and number < last and not anew:
                return 0
            numbers[symbol], times[symbol] = number, max(since, ts_event)
            if last is None or anew:
                return 0
            if number > last + 1:
                span_ns = max(0, ts_event - since)
                missed(self.series(symbol), channel, ts_event, ts_recv, last + 1, number - 1, span_ns)
            return FOLLOWS

        return follows

    def opened(self) -> None:
        """A new connection: its counters start over."""
        self.out.counters[self.counter] = NOTHING

    def kept(self, name: str) -> dict[str, int]:
        """What a decoder must know of frames before: the only place for it, as snapshots hold it and nothing else."""
        return self.out.kept.setdefault((self.feed, self.connection), {}).setdefault(name, {})

    def tops(self) -> Connection:
        """Numbers and single-level books of a FIX connection: kept, and known to compiled code."""
        return self.out.tops.connection(self.feed, self.connection, self.kept)

    # What templates (core/templates.py) look up: a feed teaches it what its decoder has read.

    def space(self, name: str) -> int:
        """The number of this connection's spellings of one kind, named as in its templates."""
        return self.out.space(self.counter, name)

    def teach(self, name: str, spelling: str | bytes, *values: int) -> None:
        """Let frames with this spelling match templates: it stands for these ids.

        spelling  a text, or the bytes of a frame. A text that JSON would have to escape is left to the decoder.
        """
        if isinstance(spelling, str):
            if "\\" in spelling or '"' in spelling or not spelling.isprintable():
                return
            spelling = spelling.encode()
        self.out.spellings.teach(self.space(name), spelling, values)

    def forget(self, name: str, spelling: str) -> None:
        """Leave frames with this spelling to the decoder until it is taught again."""
        self.out.spellings.forget(self.space(name), spelling.encode("utf-8", "replace"))

    def forget_all(self, name: str) -> None:
        """Leave all frames that need a spelling of this kind to the decoder until it is taught again."""
        self.out.spellings.clear(self.space(name))

    def remember(self, name: str, spelling: str, number: int) -> bool:
        """Put a number of 0 or more down for a spelling, as ``Row.remembered`` does; False if none is taught."""
        return self.out.spellings.remember(self.space(name), spelling.encode("utf-8", "replace"), number)

    def remembered(self, name: str, spelling: str) -> int | None:
        """The number put down last for this spelling."""
        return self.out.spellings.remembered(self.space(name), spelling.encode("utf-8", "replace"))

    def event(self, ts: int, event: str, reason: str | None) -> None:
        batch = self.out.batches[FEED_EVENTS.name]
        counts = (LONG_NULL,) * 4
        batch.append(ts, self.feed_id, self.connection, self.text(event), batch.varchar(reason), *counts)
