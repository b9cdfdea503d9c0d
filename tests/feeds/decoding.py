"""A decoder and the rows it made, as plain values by column name; and a reader of cryptofeed recordings."""

from __future__ import annotations

import ast
import gzip
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, cast

import pytest

from recorder.core.batch import Output, Scope
from recorder.core.source import decoder_of
from recorder.feeds import make
from recorder.values.feed import FeedSpec, Polled
from recorder.values.schema import LONG_NULL, null_of
from recorder.values.tables import TABLES

FRAME_END = 1_790_000_000 * 10**9  # a receive time after every captured frame
RESTARTS = 100  # of the first frames of a recording, one before each
RESTART_EVERY = 997  # later frames: a recording has up to 100,000
_RECEIVED = re.compile(rb"(\d+)(?:\.(\d+))?: (.*)")


def rows_of(out: Output, table: str) -> list[dict[str, Any]]:
    """Rows of a table since the last call, see ``Recorded.rows``."""
    sealed = out.batches[table].seal()
    columns = [c for c in TABLES[table].columns if not c.computed and (table, c.name) != ("options_chain", "feed")]
    heap, offsets = sealed.varchar_heap, sealed.varchar_offsets
    result = []
    for row in sealed.rows:
        values: dict[str, Any] = {}
        for column in columns:
            value = row[column.name].item()
            kind = column.type.kind
            if value == null_of(column.type) or (isinstance(value, float) and math.isnan(value)):
                continue
            if kind == "series":
                values["symbol"] = out.series.keys[value][1]
            elif kind == "symbol":
                values[column.name] = out.texts.name(value)
            elif kind == "varchar":
                values[column.name] = bytes(heap[offsets[value] : offsets[value + 1]]).decode()
            elif kind == "label":
                values[column.name] = column.type.names[value - 1]  # type: ignore[attr-defined]
            else:
                assert value != LONG_NULL
                values[column.name] = value
        result.append(values)
    return result


Make = Callable[[Scope], Callable[[bytes, int], None]]


class Restarted:
    """A decoder that begins anew before every frame, as a restart would have it: with what snapshots hold, no more."""

    def __init__(self, name: str, connection: int, make_decoder: Make) -> None:
        self._name, self._connection, self._make = name, connection, make_decoder
        self.out, self.frames = Output(), 0
        self._begin()

    def _begin(self) -> None:
        self.scope = self.out.scope(self._name, self._connection)
        self._decode = self._make(self.scope)

    def polled(self, make_reader: Callable[[Scope], Callable[[str, bytes, int], None]], key: str) -> None:
        """The next frame is an answer to the poll ``key``."""

        def made(scope: Scope) -> Callable[[bytes, int], None]:
            read = make_reader(scope)
            return lambda payload, ts_recv: read(key, payload, ts_recv)

        self._make, self._decode = made, made(self.scope)

    def decode(self, payload: bytes, ts_recv: int, position: int) -> None:
        if 0 < self.frames <= RESTARTS or self.frames % RESTART_EVERY == RESTART_EVERY - 1:
            before = self.scope.counter
            kinds = {space: kind for (counter, kind), space in self.out.spaces.items() if counter == before}
            memories = [(kinds[space], *put) for space, *put in self.out.spellings.memories().items() if space in kinds]
            self._begin()
            self.out.counters[self.scope.counter] = self.out.counters[before]
            for kind, spelling, number in memories:
                self.out.spellings.recall(self.scope.space(kind), spelling, number)
        self.frames += 1
        self.scope.position = position
        self._decode(payload, ts_recv)


class Recorded:
    """One feed's decoder; ``rows(table)`` are dictionaries without nulls and without the computed columns.

    Each frame goes through a second one, too, that is restarted before every frame: its rows have to be the same.
    """

    def __init__(
        self,
        provider: str,
        symbols: tuple[str, ...] = ("BTC-USD",),
        channels: tuple[str, ...] = ("trades", "quotes"),
        **options: str,
    ) -> None:
        self.feed = make(FeedSpec(name="f", provider=provider, symbols=symbols, channels=channels, options=options))
        self.out = Output()
        self.scope = self.out.scope("f", 0)
        self._decode = decoder_of(self.feed, self.scope)
        self._read: Callable[[str, bytes, int], None] | None = None
        spec = self.feed.spec
        self._beside(lambda scope: decoder_of(make(spec), scope))

    _restarted: Restarted | None = None

    def _beside(self, make_decoder: Make) -> None:
        self._restarted = Restarted(self.scope.feed, self.scope.connection, make_decoder)

    def alone(self) -> Self:
        """Without the second decoder, for frames that are damaged at will: who has met an unknown field reads with less
        care, and passes over a name that is no UTF-8 where another refuses the frame."""
        self._restarted = None
        return self

    def decode(self, payload: bytes, ts_recv: int = FRAME_END) -> Recorded:
        self.scope.position += 1
        try:
            self._decode(payload, ts_recv)
        except Exception as error:
            if self._restarted is not None:
                with pytest.raises(type(error)):
                    self._restarted.decode(payload, ts_recv, self.scope.position)
            raise
        if self._restarted is not None:
            self._restarted.decode(payload, ts_recv, self.scope.position)
        return self

    def poll(self, key: str, body: bytes, ts_recv: int = FRAME_END) -> Recorded:
        """An answer to a poll."""
        if self._read is None:
            self._read = cast(Polled, self.feed).poll_decoder(self.scope)
        read, self._decode = self._read, lambda payload, ts_recv: read(key, payload, ts_recv)
        if self._restarted is not None:
            self._restarted.polled(lambda scope: cast(Polled, make(self.feed.spec)).poll_decoder(scope), key)
        return self.decode(body, ts_recv)

    def rows(self, table: str) -> list[dict[str, Any]]:
        found = rows_of(self.out, table)
        if self._restarted is not None and self._restarted.frames:  # else rows came by a decoder of the test's own
            assert rows_of(self._restarted.out, table) == found, "a restart between two frames changes rows"
        return found

    @property
    def unknown(self) -> dict[str, int]:
        return {what: count for (_, what), count in self.out.unknown.items()}


def received(path: Path) -> Iterator[tuple[int, bytes]]:
    """(ts_recv, payload) of a cryptofeed recording. Binary frames stand there as Python writes bytes."""
    with gzip.open(path) as lines:
        for line in lines:
            match = _RECEIVED.fullmatch(line.rstrip(b"\r\n"))
            if match:
                payload = (
                    ast.literal_eval(match[3].decode("ascii")) if match[3].startswith((b"b'", b'b"')) else match[3]
                )
                yield int(match[1]) * 10**9 + int(((match[2] or b"") + b"0" * 9)[:9]), payload


def facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one symbol's live trades, as expected.json has them. Sums are of the shortest decimals of the floats."""
    sizes = [Decimal(repr(row["size"])) for row in rows]
    worth = sum((Decimal(repr(row["price"])) * size for row, size in zip(rows, sizes, strict=True)), Decimal())
    return {
        "n": len(rows),
        "sum_size": sum(sizes, Decimal()),
        "vwap": worth / sum(sizes, Decimal()) if rows else None,
        "min_price": min((Decimal(repr(row["price"])) for row in rows), default=None),
        "max_price": max((Decimal(repr(row["price"])) for row in rows), default=None),
        "first_exchange_ns": min((row["ts_event"] for row in rows), default=None),
        "last_exchange_ns": max((row["ts_event"] for row in rows), default=None),
        "first_recv_ns": min((row["ts_recv"] for row in rows), default=None),
        "last_recv_ns": max((row["ts_recv"] for row in rows), default=None),
    }


def same_facts(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare with an entry of expected.json: everything exactly, the VWAP to its fifteen digits."""
    assert found["n"] == expected["n"]
    assert found["sum_size"] == Decimal(expected["sum_size"])
    if not found["n"]:
        return
    assert abs(found["vwap"] / Decimal(expected["vwap"]) - 1) < Decimal("1e-14")
    for name in ("min_price", "max_price"):
        assert found[name] == Decimal(expected[name]), name
    for name in ("first_exchange_ns", "last_exchange_ns", "first_recv_ns", "last_recv_ns"):
        assert found[name] == expected[name], name
