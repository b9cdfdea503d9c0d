"""The state of a pipeline at a position, as bytes and back: whoever restores it goes on as if nothing had happened.

Taken between blocks, when every row has been handed over. Arrays are copied at once; ``encode`` may run in a thread.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np

from recorder.core.batch import Output
from recorder.core.kernels import Kernels, Parameters, TradeState
from recorder.core.spellings import Memories
from recorder.values.errors import SnapshotError
from recorder.values.feed import FeedSpec

MAGIC = b"recorder state\0\0"
VERSION = 1  # of the layout below; another one is set aside and state is built again from the journal
_HEAD = len(MAGIC) + 4 + 4  # version, CRC-32 of what follows


class SourceState(msgspec.Struct):
    """A connection as its decoder left it."""

    number: int
    spec: FeedSpec
    counter: int  # its count of messages
    memories: list[tuple[str, bytes, int]] = []  # kind of spelling, spelling, number put down for it


class Content(msgspec.Struct):
    """What a snapshot holds."""

    position: int  # state is that after the frame that ends here
    minute: int  # start of the minute of reception
    texts: list[str]
    series: list[tuple[str, str]]
    zones: list[str]
    rules: dict[str, list[int]]  # feed → how its series are treated
    sources: list[SourceState]
    kept: list[tuple[str, int, dict[str, dict[str, int]]]]  # feed, connection, see Scope.kept
    kernels: dict[str, Any]
    coverage: dict[str, Any]
    gaps: dict[str, Any]
    revisable: bytes = b""  # the last trades, as Revisions.state; none in a snapshot of an older version
    revisions: bytes = b""  # what revised them, as Revisions.cases; likewise


@dataclass(frozen=True)
class Snapshot:
    """A state, copied; the sources' memories are filled in from the raw table when it is encoded."""

    content: Content
    memories: Memories
    spaces: dict[int, tuple[int, str]]  # space → source, kind of spelling

    @property
    def position(self) -> int:
        return self.content.position

    def encode(self) -> bytes:
        """As written to a file."""
        by_number = {source.number: source for source in self.content.sources}
        for space, spelling, number in self.memories.items():
            source, kind = self.spaces.get(space, (-1, ""))
            if source in by_number:
                by_number[source].memories.append((kind, spelling, number))
        body = msgspec.msgpack.encode(self.content)
        return MAGIC + VERSION.to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body


def decode(data: bytes) -> Content:
    """What ``Snapshot.encode`` wrote. Raises SnapshotError for anything else."""
    if data[: len(MAGIC)] != MAGIC or len(data) < _HEAD:
        raise SnapshotError(f"no snapshot of a recorder: {len(data)} bytes that begin with {data[:16]!r}")
    version = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
    if version != VERSION:
        raise SnapshotError(f"snapshot of version {version}; this program reads version {VERSION}")
    body = data[_HEAD:]
    if zlib.crc32(body) != int.from_bytes(data[_HEAD - 4 : _HEAD], "little"):
        raise SnapshotError(f"snapshot of {len(data)} bytes with a wrong checksum")
    try:
        return msgspec.msgpack.decode(body, type=Content)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"snapshot: {error}") from None


def kernels_state(kernels: Kernels) -> dict[str, Any]:
    """State of every series and the parameters it was made with."""
    state, n = kernels.state, kernels.state.known
    arrays = {name: getattr(state, name)[:n].tobytes() for name in TradeState.ARRAYS}
    return {"known": n, "parameters": _numbers(kernels.parameters), **arrays}


def restore_kernels(kernels: Kernels, saved: dict[str, Any]) -> None:
    """Go on from ``kernels_state``. What another configuration would have made otherwise starts anew."""
    state, n = kernels.state, int(saved["known"])
    while len(state.scalars) < n:
        state.grow()
    state.known = n
    before, now = saved["parameters"], _numbers(kernels.parameters)
    for name in TradeState.ARRAYS:
        array = getattr(state, name)
        content = np.frombuffer(saved.get(name, b""), array.dtype)  # one that is not there is of an older version
        if content.size == array[:n].size:
            array[:n] = content.reshape(array[:n].shape)
    scalars = state.scalars[:n]
    if before["zscore_window"] != now["zscore_window"]:
        state.returns[:n] = 0.0
        for name in ("returns", "mean", "m2", "m2_peak"):
            scalars[name] = 0
    if before["size_window"] != now["size_window"]:
        state.sizes[:n] = 0.0
        scalars["sizes"], scalars["size_sum"] = 0, 0.0
    if before["bucket_ns"] != now["bucket_ns"]:
        state.buckets[:n] = 0.0
        scalars["bucket"], scalars["older_pv"], scalars["older_v"] = np.iinfo(np.int64).min, 0.0, 0.0


def restore_texts(out: Output, content: Content) -> None:
    """Give texts and series the ids they had. ``out`` is fresh."""
    for name in content.texts:
        out.texts.id(name)
    for feed, symbol in content.series:
        out.series.id(feed, symbol)
    out.kept = {(feed, connection): kept for feed, connection, kept in content.kept}


def _numbers(parameters: Parameters) -> dict[str, float]:
    return {each.name: getattr(parameters, each.name) for each in fields(parameters)}
