"""Rows of the database as Parquet, Arrow or CSV files, a batch at a time: memory does not grow with the rows.

pyarrow is imported here only, by who asks for Parquet, Arrow or changed columns; it is the extra ``export``.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorder.values.errors import RecorderError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BLOCK_BYTES = 1 << 20  # of CSV from the server, one batch: some 10,000 rows
ROW_GROUP_ROWS = 1 << 17  # of a Parquet file: collected before they are written, some 20 MB
FORMATS = ("parquet", "arrow", "csv")
STDOUT = "-"  # as a path
# Anything else is text. Symbols too: an Arrow file has one dictionary for all its batches, which streaming cannot know.
_TYPES = {"DOUBLE": "float64", "FLOAT": "float32", "LONG": "int64", "INT": "int32", "SHORT": "int16", "BYTE": "int8",
          "BOOLEAN": "bool_"}  # fmt: skip


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file that is read from front to back."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._left = iter(pieces), b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        taken = min(len(into), len(self._left))
        into[:taken], self._left = self._left[:taken], self._left[taken:]
        return taken


def read(pieces: Iterable[bytes], columns: Iterable[tuple[str, str]]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """CSV of the server, with a header line, as typed batches, and what they are.

    columns  (name, QuestDB type); times become timestamps of ns in UTC. Raises RecorderError without pyarrow.
    """
    pa, csv = _pyarrow(), _pyarrow("pyarrow.csv")
    types = {}
    for name, kind in columns:
        kind = kind.partition("(")[0]
        types[name] = pa.timestamp("ns", "UTC") if kind.startswith("TIMESTAMP") else _arrow_type(pa, kind)
    stream = io.BufferedReader(_Stream(pieces), BLOCK_BYTES)
    reader = csv.open_csv(
        pa.PythonFile(stream, "r"),
        read_options=csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=["", "null"]
        ),
    )
    return reader.schema, map(_unescaped, reader)


def _unescaped(part: pa.RecordBatch) -> pa.RecordBatch:
    """The server writes line breaks, tabs and backslashes of a text as JSON does, its quotes as CSV does."""
    pa, compute = _pyarrow(), _pyarrow("pyarrow.compute")
    for place, field in enumerate(part.schema):
        if field.type != pa.string() or not compute.any(compute.match_substring(part.column(place), "\\")).as_py():
            continue
        texts = [
            json.loads('"' + text.replace('"', '\\"') + '"') if text and "\\" in text else text
            for text in part.column(place).to_pylist()
        ]
        part = part.set_column(place, field, pa.array(texts, pa.string()))
    return part


def _arrow_type(pa: Any, kind: str) -> Any:
    return getattr(pa, _TYPES.get(kind, "string"))()


def write(path: Path, form: str, parts: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Batches into a file that is there only when it is whole; how many rows.

    form  one of FORMATS
    """
    pa, rows = _pyarrow(), 0
    with _whole(path) as file, _writer(form, file, schema) as writer:
        waiting: list[Any] = []
        for part in parts:
            rows += part.num_rows
            waiting.append(part)
            if sum(each.num_rows for each in waiting) >= ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema))
    return rows


def write_bytes(path: Path, pieces: Iterable[bytes]) -> int:
    """CSV as the server writes it, a line break in a text as ``\\n``; how many lines besides the header."""
    lines = 0
    with _whole(path) as file:
        for piece in pieces:
            lines += piece.count(b"\n")
            file.write(piece)
    return max(0, lines - 1)


def multiplied(part: pa.RecordBatch, name: str, by: np.ndarray) -> pa.RecordBatch:
    """``part`` with a column of numbers multiplied; null stays null.

    by  (rows,) float64
    """
    pa = _pyarrow()
    place = part.schema.get_field_index(name)
    values = part.column(place).to_numpy(zero_copy_only=False) * by
    return part.set_column(place, part.schema.field(place), pa.array(values, from_pandas=True))


class _whole:
    """A file beside ``path`` that takes its place if nothing is raised, and is removed otherwise.

    What is no file, a pipe or a terminal, is written to as it is; ``-`` is standard output. Raises RecorderError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if str(path) == "." or path.is_dir():
            raise RecorderError(f"{path}: is a folder; name a file in it")
        self._scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._beside = str(path) != STDOUT and (path.is_file() or not path.exists())

    def __enter__(self) -> Any:
        try:
            if str(self._path) == STDOUT:
                self._file: Any = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
            else:
                self._file = (self._scratch if self._beside else self._path).open("wb")
        except OSError as error:
            raise self._refused(error) from None
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None and self._beside:
                self._scratch.replace(self._path)
        except OSError as unwritten:
            error = unwritten
        if error is not None and self._beside:
            with suppress(OSError):
                self._scratch.unlink()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise self._refused(error) from None
        if error is not None and kind is None:
            raise error

    def _refused(self, error: OSError) -> RecorderError:
        return RecorderError(f"{self._path}: cannot be written: {error.strerror or error}")


def _writer(form: str, file: Any, schema: Any) -> Any:
    pa = _pyarrow()
    if form == "parquet":
        return _pyarrow("pyarrow.parquet").ParquetWriter(file, schema, compression="zstd")
    if form == "arrow":
        return pa.ipc.new_file(file, schema)
    return _pyarrow("pyarrow.csv").CSVWriter(file, schema)


def _pyarrow(name: str = "pyarrow") -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise RecorderError("this needs pyarrow: pip install 'recorder[export]'; plain --format csv does not") from None
