"""The journal decoded again: the rows that were chosen go into shadow tables, beside those they are held against."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from recorder.commands.load import Load, make_sink, migrate_to
from recorder.core.batch import Output
from recorder.core.encode import Sealed
from recorder.core.frames import SOURCE, Frames
from recorder.core.pipeline import Pipeline
from recorder.feeds import make
from recorder.shell import log as logs
from recorder.shell.database.shadow import Chosen, Held
from recorder.shell.journal import reading, recovery
from recorder.shell.log import iso_ns
from recorder.values.config import Config
from recorder.values.errors import JournalLocked, RecorderError
from recorder.values.tables import GAPS
from recorder.values.times import LAST_NS

PREFIX = "rebuilt_"
APPLY_TIMEOUT_S = 600.0  # for the last rows to become queryable; a day of ticks takes seconds
LATELY_NS = 10 * 1_000_000_000  # of a running recorder's reception left out: rows held back, or on their way
WARM_UP_NS = 26 * 3600 * 1_000_000_000  # every provider's session begins anew once a day; the longest has 25 hours


@dataclass
class Folded:
    """What was read of the journal. ``end`` is just past the last frame that was decoded.

    begin      the oldest position held; above 0 the beginning has been retired, and state was built from there on
    held       the receive times for which the journal speaks
    unloaded   whether frames follow that no recorder has brought into the database yet
    damages    what of it could not be read, decoded or stored, in words
    """

    begin: int
    end: int = 0
    frames: int = 0
    held: Held = field(default_factory=lambda: Held(0, 0))
    last_recv: int = 0
    running: bool = False
    unloaded: bool = False
    damages: list[str] = field(default_factory=list)


def shadow_config(config: Config) -> Config:
    """The same with tables of other names, which keep every row."""
    questdb = msgspec.structs.replace(config.questdb, prefix=PREFIX + config.questdb.prefix)
    return msgspec.structs.replace(config, questdb=questdb, retention={})


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """No second rebuild of this journal meanwhile: it would drop this one's tables. Raises JournalLocked."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RecorderError(
            f"{directory}: cannot be read: {error.strerror}; it should be the journal's folder"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise JournalLocked(f"{directory}: another `recorder rebuild` is reading it; wait until it has ended") from None
    finally:
        os.close(fd)


@contextmanager
def stopped(directory: Path) -> Iterator[None]:
    """No recorder on this journal meanwhile. Raises JournalLocked when one runs."""
    fd = recovery.lock(directory)
    try:
        yield
    finally:
        os.close(fd)


def refuse_swap(chosen: Chosen, folded: Folded) -> None:
    """Raises RecorderError where what was rebuilt may be worse than what is stored."""
    if folded.damages:
        raise RecorderError(
            f"--swap: part of the journal is left out ({folded.damages[0]}), so what was rebuilt lacks rows and what "
            "follows from them; nothing was changed"
        )
    if folded.begin and chosen.start < folded.held.first + WARM_UP_NS:
        raise RecorderError(
            "--swap: the journal's beginning has been retired, so columns computed from earlier rows are not right "
            f"until sessions have begun anew; nothing was changed. Use --from {iso_ns(folded.held.first + WARM_UP_NS)} "
            "or later"
        )
    if folded.running and chosen.table.name == GAPS.name:
        raise RecorderError(
            "--swap: a recorder is repairing gaps, and their rows change with that; nothing was changed. Stop it first"
        )


def fold(config: Config, chosen: Chosen) -> Folded:
    """Decode everything that the journal holds and the database should; store what is chosen in shadow tables.

    Beside a running recorder that is everything released: what came later may not be in the database yet.
    Raises RecorderError when the journal is empty or the database does not take the rows.
    """
    directory = config.journal.dir
    running = recovery.holder(directory) is not None
    released = recovery.read_released(directory, _unreadable)
    infos = reading.segments(directory)
    if not infos:
        raise RecorderError(f"{directory}: the journal holds no frame; nothing can be decoded again")
    folded = Folded(infos[0].base, running=running)
    until = released if running else LAST_NS
    shadow = shadow_config(config)
    migrate_to(shadow)
    sink = make_sink(shadow, logs.get("recorder"))
    pipeline = Pipeline(config.kernels, make)
    choice = _Choice(chosen, pipeline.out)
    load = Load(shadow, pipeline, sink, choice.of)
    begins = {info.base for info in infos[1:]}
    total = (infos[-1].base + infos[-1].size if until == LAST_NS else until) - folded.begin
    try:
        for frames in reading.read(directory, damaged=lambda damage: folded.damages.append(str(damage))):
            count = int(np.searchsorted(frames.ends, until, side="right"))
            folded.unloaded |= count > 0 and int(frames.ends[count - 1]) > released
            if not folded.frames:  # the oldest segments may have been retired since they were listed
                folded.begin = max(info.base for info in infos if info.base < int(frames.ends[0]))
            if count:
                _take(folded, frames.part(0, count), load)
                begins.discard(folded.end)
                _progress(f"decoding the journal again: {min((folded.end - folded.begin) / max(total, 1), 1):.0%}")
            if count < frames.count:
                break
        load.finish(APPLY_TIMEOUT_S)
    finally:
        _progress("")
        sink.close()
    holes = [at for at in sorted(begins) if folded.begin < at <= folded.end]
    folded.damages += [f"no segment leads up to position {at}" for at in holes]
    folded.damages += [what for where, what in pipeline.out.unknown if where == "journal"]  # feeds nobody can decode
    if sink.rejected_rows:
        folded.damages.append(f"{sink.rejected_rows:,} rows that the database refuses, see the log")
    if not folded.frames:
        raise RecorderError(f"{directory}: no frame is released yet; nothing that could be compared is in the database")
    folded.held = Held(folded.held.first, folded.last_recv - LATELY_NS if running else LAST_NS)
    return folded


def _take(folded: Folded, frames: Frames, load: Load) -> None:
    received = frames.ts_recv[frames.kinds != SOURCE]  # declarations are made again in each segment, whenever that is
    if len(received):
        if not folded.frames:
            folded.held = Held(int(received[0]), LAST_NS)
        folded.last_recv = max(folded.last_recv, int(received.max()))
        folded.frames += len(received)
    load.frames(frames)
    folded.end = frames.end


class _Choice:
    """Blocks reduced to the rows that are chosen."""

    def __init__(self, chosen: Chosen, out: Output) -> None:
        self._chosen, self._out = chosen, out
        self._series = np.zeros(0, bool)  # by id, whether it is chosen

    def of(self, sealed: Sealed) -> Sealed:
        tables = tuple(
            replace(rows, rows=rows.rows[self._mask(rows.rows)])
            for rows in sealed.tables
            if rows.table.name == self._chosen.table.name
        )
        return replace(sealed, tables=tables)

    def _mask(self, rows: np.ndarray) -> np.ndarray:
        chosen, names = self._chosen, rows.dtype.names or ()
        mask: np.ndarray = (rows["ts_event"] >= chosen.start) & (rows["ts_event"] < chosen.stop)
        if chosen.feed is None and chosen.symbol is None:
            return mask
        if "series" in names:
            return mask & self._known_series()[rows["series"]]
        for name, value in (("feed", chosen.feed), ("symbol", chosen.symbol)):
            if value is not None:
                mask &= rows[name] == self._out.texts.ids.get(value, -2)  # -1 is null
        return mask

    def _known_series(self) -> np.ndarray:
        keys, feed, symbol = self._out.series.keys, self._chosen.feed, self._chosen.symbol
        fresh = [feed in (None, f) and symbol in (None, s) for f, s in keys[len(self._series) :]]
        if fresh:
            self._series = np.concatenate([self._series, np.array(fresh, bool)])
        return self._series


def _progress(text: str) -> None:
    """One line on a terminal, rewritten; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _unreadable(event: str, **fields: object) -> None:
    raise RecorderError(f"{fields.get('file')}: the released position cannot be read: {fields.get('reason')}")
