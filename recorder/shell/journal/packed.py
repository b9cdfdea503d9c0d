"""Compressed segments: zstd frames of 1 MiB of segment each, so that damage costs one of them and not the rest.

Before each zstd frame stands a skippable frame that says where in the segment its bytes belong. Any zstd tool unpacks
the file to the raw segment.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import zstandard

from recorder.values.errors import JournalCorrupt

BLOCK_BYTES = 1 << 20  # about 5 ms of compression: what the sync thread does between two looks at the clock
LEVEL = 1  # on recorded Binance messages faster than level 3 (449 against 335 MB/s) and smaller (7.9:1 against 7.3:1)
UNPACKED_BYTES_MAX = 8 << 30  # segment_mb goes to 4096; bounds what a damaged file may make us allocate
_MAGIC = 0x184D2A50  # of a skippable zstd frame
_PLACE = struct.Struct("<IIQQIII")  # magic, 28, offset, total, raw bytes, compressed bytes, crc32 of those four
_PLACE_BYTES = _PLACE.size - 8
DAMAGED = 0xFF  # fills what could not be unpacked: no record starts like this, so reading reports damage there


def pack(source: Path, target: Path) -> Generator[None, None, None]:
    """Compress ``source`` into ``target`` in steps of one block, sync it, and read it back against the source.

    Raises JournalCorrupt when what was written does not read back, OSError when it cannot be written; ``target`` may
    then be left behind unfinished.
    """
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    total = source.stat().st_size
    offset = 0
    with source.open("rb") as raw, target.open("wb") as out:
        while block := raw.read(BLOCK_BYTES):
            packed = compressor.compress(block)
            fields = (offset, total, len(block), len(packed))
            check = zlib.crc32(struct.pack("<QQII", *fields))
            out.write(_PLACE.pack(_MAGIC, _PLACE_BYTES, *fields, check))
            out.write(packed)
            offset += len(block)
            yield
        out.flush()
        os.fsync(out.fileno())
    done = 0
    with source.open("rb") as raw:
        for place, unpacked, _ in _placed(target.read_bytes()):
            if unpacked is None or place != done or unpacked != raw.read(len(unpacked)):
                break
            done += len(unpacked)
            yield
    if done != total:
        raise JournalCorrupt(
            f"{target}: does not read back equal to {source.name} at byte {done}; the raw segment is kept"
        )


def unpack(path: Path) -> tuple[np.ndarray, str]:
    """(raw segment as uint8, what is damaged or ""). Damaged blocks are filled with DAMAGED.

    Raises JournalCorrupt when no block can be read.
    """
    data = path.read_bytes()
    result: np.ndarray | None = None
    good = 0
    for place, block, total in _placed(data):
        if result is None:
            result = np.full(total, DAMAGED, np.uint8)
        if block is not None and total == len(result) and place + len(block) <= total:
            result[place : place + len(block)] = np.frombuffer(block, np.uint8)
            good += len(block)
    if result is None or not good:
        raise JournalCorrupt(f"{path}: no block of this compressed segment can be read; restore it from a copy")
    missing = len(result) - good
    return result, f"{missing} bytes in blocks that do not unpack" if missing else ""


def _place(data: bytes, at: int) -> tuple[int, int, int, int] | None:
    """(offset, total, raw bytes, compressed bytes) of the place at ``at``, None if there is none that is whole."""
    if at + _PLACE.size > len(data):
        return None
    magic, size, offset, total, raw, packed, check = _PLACE.unpack_from(data, at)
    if magic != _MAGIC or size != _PLACE_BYTES or check != zlib.crc32(data[at + 8 : at + _PLACE.size - 4]):
        return None
    if total > UNPACKED_BYTES_MAX or raw > BLOCK_BYTES or offset + raw > total:
        return None
    return offset, total, raw, packed


def _placed(data: bytes) -> Iterator[tuple[int, bytes | None, int]]:
    """(offset, block or None if damaged, total) for every place that can be found."""
    decompressor = zstandard.ZstdDecompressor()
    mark = struct.pack("<II", _MAGIC, _PLACE_BYTES)
    at = 0
    while at >= 0:
        place = _place(data, at)
        if place is None:
            at = data.find(mark, at + 1)
            continue
        offset, total, raw, packed = place
        at += _PLACE.size
        body = data[at : at + packed]
        block: bytes | None = None
        try:
            if zstandard.frame_content_size(body) == raw:
                block = decompressor.decompress(body)
        except zstandard.ZstdError:
            block = None
        if block is not None and len(block) != raw:
            block = None
        yield offset, block, total
        at = at + packed if at + packed < len(data) else -1
