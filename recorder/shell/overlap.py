"""Replacing a connection without a hole: the new one delivers before the old one is closed.

In the journal they do not interleave: what the new one receives is held in memory until the old one's last frame is
journalled, then it follows from its opening on. So their common source, its counters and its decoder never see two
connections at once; ``OPENED`` is then older than the ``CLOSED`` before it, which says that nothing was missed between
them. What both delivered is told by the kernels (ids, numbered quotes) and by the tables' keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from recorder.shell.link import FrameJournal, Link
from recorder.values.errors import RecorderError
from recorder.values.feed import FeedSpec

OVERLAP_S = 1.0  # both deliver for at least this long: more than two connections of one provider are ever apart
TAKEOVER_S = 30.0  # for the new one to be subscribed and to deliver; else the old one stays
LOOK_S = 0.05  # how often it is looked at whether it does
HELD_BYTES_MAX = 64 << 20  # a minute of a busy connection; more ends the overlap at once


class HeldJournal:
    """A journal that keeps frames until ``release``, in the order they came; then it passes them on."""

    def __init__(self, journal: FrameJournal) -> None:
        self.bytes = 0
        self._journal = journal
        self._held: list[Callable[[], object]] = []

    def source(self, spec: FeedSpec) -> int:
        return self._journal.source(spec)

    def append(self, source: int, kind: int, ts_recv: int, payload: bytes) -> int:
        self.bytes += len(payload)
        self._held.append(lambda: self._journal.append(source, kind, ts_recv, payload))
        return 0

    def append_frames(
        self, source: int, ts_recv: int, chunk: np.ndarray, starts: np.ndarray, lengths: np.ndarray,
        opcodes: np.ndarray, count: int,
    ) -> int:  # fmt: skip
        first, stop = int(starts[0]), int(starts[count - 1] + lengths[count - 1])
        kept, places = chunk[first:stop].copy(), starts[:count] - first
        sizes, kinds = lengths[:count].copy(), opcodes[:count].copy()
        self.bytes += len(kept)
        self._held.append(lambda: self._journal.append_frames(source, ts_recv, kept, places, sizes, kinds, count))
        return 0

    def release(self) -> None:
        """Journal what was held. Raises JournalFull: what is left then is lost with the link."""
        held, self._held = self._held, []
        for write in held:
            write()


async def replace(old: Link, new: Link, stopping: asyncio.Event, reason: str) -> str:
    """Open ``new`` beside ``old`` and let it take over; "" once it has, or why it could not: then ``old`` stays.

    new  its journal is a HeldJournal; afterwards it writes to old's
    Also when ``old`` ends by itself meanwhile, ``new`` takes over.
    """
    held = new.journal
    assert isinstance(held, HeldJournal)
    problem = "stopped"
    try:
        if await new.open(stopping):
            problem = await _delivering(old, new, held, stopping)
    except RecorderError as error:
        problem = str(error)
    if problem:
        await new.close("not needed")
        return problem
    if not old.ended.done():
        old.given_up = f"replaced by a new connection: {reason}"
        await old.close("")
    new.journal = old.journal
    held.release()
    return ""


async def _delivering(old: Link, new: Link, held: HeldJournal, stopping: asyncio.Event) -> str:
    """Wait until ``new`` delivers what ``old`` does; "" or why it does not."""
    loop = asyncio.get_running_loop()
    deadline, ready_since, before = loop.time() + TAKEOVER_S, 0.0, 0
    while True:
        now = loop.time()
        if stopping.is_set():
            return "stopped"
        if new.ended.done():
            return new.ended.result()
        if old.ended.done():
            return ""
        if new.ready:
            if not ready_since:
                ready_since, before = now, old.data_frames
            complete = set(old.ready_symbols) <= set(new.ready_symbols)
            as_well = new.data_frames > 0 or old.data_frames == before
            if complete and as_well and (now - ready_since >= OVERLAP_S or held.bytes > HELD_BYTES_MAX):
                return ""
        if held.bytes > HELD_BYTES_MAX:
            return f"more than {HELD_BYTES_MAX >> 20} MiB came before it was subscribed"
        if now > deadline:
            return f"not delivering {TAKEOVER_S:g} s after opening"
        await asyncio.wait([old.ended, new.ended], timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
