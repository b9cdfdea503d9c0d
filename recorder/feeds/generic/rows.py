"""Messages of a declared feed → rows: paths into JSON or columns of CSV, times and numbers without a rounding."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from recorder.core.batch import Scope
from recorder.core.text_time import rfc3339_ns
from recorder.feeds.generic.declared import EVENT_TYPE, IDS, UNITS, Declared, Mapped, Path, Where, plain
from recorder.values.errors import FrameError, SymbolError
from recorder.values.messages import INF, LONG_MAX, NAN, TS_AHEAD_MAX, TS_EVENT_MIN, UNREADABLE, misfit, quoted
from recorder.values.schema import LONG_NULL, TEXT_NULL
from recorder.values.symbols import hashed_id, text_id
from recorder.values.tables import BUY, SELL

SYMBOL_CHARS_MAX = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_GROUPED = re.compile(r"\$?(\d{1,3}(?:,\d{3})+|\d+)((?:\.\d*)?)", re.ASCII)  # "$1,234.50", as spreadsheets write it
_NOTHING = frozenset({"", "--", "n/a", "N/A", "null"})
_KNOWN_IDS = {name: number for number, name in enumerate(IDS)}

# Numbers stay the text that was sent: nothing is rounded before it is known what they are.
_json = msgspec.json.Decoder(float_hook=str).decode

Message = dict[str, Any] | list[Any] | None
Row = Callable[[Any, Any, int, Counter[str]], None]


def read_json(payload: bytes) -> Any:
    """Raises FrameError."""
    try:
        return _json(payload)
    except UNREADABLE as error:
        raise FrameError(f"not JSON: {error}") from None


def read_csv(payload: bytes, columns: Iterable[str], delimiter: str) -> list[dict[str, str]]:
    """The rows of a table by column. It begins with the line that names all of ``columns``, whatever stands before it,
    and ends with the first empty line or the file. Raises FrameError."""
    try:
        text = payload.decode("utf-8-sig")
        wanted, header, rows = set(columns), None, []
        # A cell of more than csv.field_size_limit(), 128 kB, is refused by csv itself.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            if header is None:
                names = [cell.strip() for cell in cells]
                header = names if wanted <= set(names) else None
                if header is not None and len(set(header) - {""}) < len([name for name in header if name]):
                    raise FrameError(f"line {reader.line_num}: a column is named twice")
            elif not any(cell.strip() for cell in cells):
                break
            elif len(cells) < len(header):
                raise FrameError(f"line {reader.line_num} has {len(cells)} cells, its header {len(header)}")
            else:
                rows.append(dict(zip(header, (cell.strip() for cell in cells), strict=False)))
    except UnicodeDecodeError as error:
        raise FrameError(f"not UTF-8: {error}") from None
    except csv.Error as error:
        raise FrameError(f"not CSV: {error}") from None
    if header is None:
        raise FrameError(f"no line names the columns {', '.join(sorted(wanted))}")
    return rows


def at(path: Path, item: Any, message: Any) -> Any:
    """What is at a path of an item, None where nothing is; ``$`` begins at the message."""
    value = item
    for number, part in enumerate(path):
        if part == "$" and not number:
            value = message
        elif isinstance(value, dict):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return "a number past 64 bits" if value.__class__ is int and value.bit_length() > 64 else value


def fits(where: Where, item: Any, message: Any) -> bool:
    for path, wanted, prefixes in where.values:
        value = at(path, item, message)
        text = "" if isinstance(value, dict | list) else plain(value)
        if text not in wanted and not text.startswith(prefixes):
            return False
    return True


def _nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value in _NOTHING)


def number_of(value: Any, what: str) -> float | None:
    """A number as sent, a number in quotes, or a price as spreadsheets write it; None where there is none.

    Raises FrameError.
    """
    if value.__class__ is int:
        return float(value)
    if _nothing(value):
        return None
    if isinstance(value, str):
        if _NUMBER.fullmatch(value):
            return float(value)
        if found := _GROUPED.fullmatch(value):
            return float(found[1].replace(",", "") + found[2])
    raise FrameError(f"{what} is {_cut(value)}, no number")


def whole_of(value: Any, what: str) -> int | None:
    """Raises FrameError."""
    if _nothing(value):
        return None
    text = str(value).replace(",", "")
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) > LONG_MAX:
        raise FrameError(f"{what} is {_cut(value)}, no whole number")
    return int(text)


def time_of(value: Any, unit: str, zone: ZoneInfo) -> int:
    """ns of a time as declared; exact. Raises FrameError."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise FrameError(f"time is {_cut(value)}")
    text = str(value)
    if unit == "rfc3339":
        return rfc3339_ns(text)
    if unit in UNITS:
        if len(text) > 32 or not re.fullmatch(r"-?\d{1,19}(\.\d*)?", text, re.ASCII):
            raise FrameError(f"time is {_cut(value)}, no number of {unit}")
        return int(Decimal(text) * UNITS[unit])
    return _formatted(text, unit, zone)


@lru_cache(4096)  # files hold few different days, and strptime takes microseconds
def _formatted(text: str, format_: str, zone: ZoneInfo) -> int:
    try:
        moment = datetime.strptime(text, format_)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    except (ValueError, OverflowError):
        raise FrameError(f"time is {_cut(text)}, not of the form {format_}") from None


def _cut(value: Any) -> str:
    return repr(value)[:60]


class Rows:
    """What stores the items of a feed's messages.

    symbols  canonical; those not among them are passed over, unless ``*`` is
    """

    def __init__(self, declared: Declared, channels: Sequence[str], symbols: Sequence[str], scope: Scope) -> None:
        self._declared, self._scope = declared, scope
        self._only = symbols[0] if len(symbols) == 1 else None
        self._wanted = None if "*" in symbols or not symbols else frozenset(symbols)
        self._canonical = {theirs: ours for ours, theirs in declared.names.items()}
        # A file or an answer may reach back as far as it likes, a stream is of now.
        self._earliest = 0 if declared.kind in ("poll", "files") else TS_EVENT_MIN
        makers = {"trades": self._trades, "quotes": self._quotes, "bars": self._bars}
        self._tables = [(table, makers[table.channel](table)) for table in declared.tables if table.channel in channels]

    def store(self, message: Any, ts_recv: int, event: str = "") -> None:
        """Items that fit become rows; of a message with several, those that do not are rejected one by one."""
        taken, seen = False, Counter[str]()
        for table, row in self._tables:
            items = at(table.items, message, message)
            for place, item in enumerate(items if isinstance(items, list) and _is_list(items) else [items], 1):
                if item is None or not self._meant(table.where, item, message, event):
                    continue
                taken = True
                try:
                    row(item, message, ts_recv, seen)
                except (FrameError, SymbolError) as error:
                    if item is message:
                        raise FrameError(str(error)) from None
                    if self._declared.kind == "files":  # taken whole or left
                        raise FrameError(f"row {place}: {error}") from None
                    self._scope.reject(str(error), msgspec.json.encode(item), ts_recv)
        if not taken and not any(self._meant(where, message, message, event) for where in self._declared.ignore):
            self._scope.unknown("message that no table takes")

    def _meant(self, where: Where, item: Any, message: Any, event: str) -> bool:
        if event:
            item = {**item, EVENT_TYPE: event} if isinstance(item, dict) else item
        return fits(where, item, message)

    def _place(self, table: Mapped) -> Callable[[Any, Any], int | None]:
        """Item → series; None for a symbol that is not recorded. Raises FrameError."""
        path, known = table.paths.get("symbol"), dict[str, int | None]()
        only, scope = self._only, self._scope

        def series(item: Any, message: Any) -> int | None:
            name = only if path is None else at(path, item, message)
            if name.__class__ is not str or not 0 < len(name) <= SYMBOL_CHARS_MAX or not name.isprintable():
                raise FrameError(f"symbol is {_cut(name)}")
            if name not in known:
                symbol = self._canonical.get(name, name)
                recorded = self._wanted is None or symbol in self._wanted
                known[name] = scope.series(symbol) if recorded else None
            return known[name]

        return series

    def _time(self, table: Mapped) -> Callable[[Any, Any, int], int]:
        path, unit, zone, earliest = table.paths.get("time"), table.time_unit, table.time_zone, self._earliest

        def time(item: Any, message: Any, ts_recv: int) -> int:
            if path is None:
                return ts_recv
            ts = time_of(at(path, item, message), unit, zone)
            if not earliest <= ts <= ts_recv + TS_AHEAD_MAX:
                raise FrameError(misfit(table.channel, ts, ts_recv))
            return ts

        return time

    def _trades(self, table: Mapped) -> Row:
        paths, place, time, scope = table.paths, self._place(table), self._time(table), self._scope
        append, varchar, text = scope.trades.append, scope.trades.varchar, scope.text
        ids = _KNOWN_IDS[self._declared.ids]

        def row(item: Any, message: Any, ts_recv: int, seen: Counter[str]) -> None:
            series = place(item, message)
            if series is None:
                return
            ts = time(item, message, ts_recv)
            price, size = (number_of(at(paths[name], item, message), name) for name in ("price", "size"))
            if table.signed and size is not None:
                size = abs(size)
            if price is None or size is None or not (0.0 < price < INF and 0.0 <= size < INF):
                raise FrameError(f"trade of {size} at {price}")
            exchange, conditions = (_text(paths, name, item, message) for name in ("exchange", "conditions"))
            side = 0
            if "side" in paths:
                bought = table.sides.get(plain(at(paths["side"], item, message)))
                side = 0 if bought is None else BUY if bought else SELL
            if ids == _KNOWN_IDS["none"]:
                same = f"{series} {exchange} {ts} {price!r} {size!r} {side}"  # two alike in one message are two
                seen[same] += 1
                number, ref = hashed_id(f"{ts} {exchange} {price!r} {size!r} {side} {seen[same]}"), None
            elif ids == _KNOWN_IDS["opaque"]:
                number, ref = text_id(_required(paths, "id", item, message))
            else:
                found = whole_of(at(paths["id"], item, message), "id")
                if found is None:
                    raise FrameError("id is missing")
                number, ref = found, None
            append(
                ts, ts_recv, series, text(exchange), number, varchar(ref), price, size, side, text(conditions),
                TEXT_NULL, 0,
            )  # fmt: skip

        return row

    def _quotes(self, table: Mapped) -> Row:
        paths, place, time, append = table.paths, self._place(table), self._time(table), self._scope.quotes.append

        def row(item: Any, message: Any, ts_recv: int, seen: Counter[str]) -> None:
            series = place(item, message)
            if series is None:
                return
            ts = time(item, message, ts_recv)
            bid, bid_size, ask, ask_size = (
                number_of(at(paths[name], item, message), name) if name in paths else None
                for name in ("bid", "bid_size", "ask", "ask_size")
            )
            values = quoted("quote", max(ts, TS_EVENT_MIN), ts_recv, bid or 0.0, bid_size, ask or 0.0, ask_size)
            sequence = whole_of(at(paths["sequence"], item, message), "sequence") if "sequence" in paths else None
            append(
                ts, ts_recv, series, LONG_NULL if sequence is None else sequence, *values, TEXT_NULL, TEXT_NULL,
                TEXT_NULL, 0,
            )  # fmt: skip

        return row

    def _bars(self, table: Mapped) -> Row:
        paths, place, time, append = table.paths, self._place(table), self._time(table), self._scope.bars.append
        timeframe = self._scope.text(table.timeframe)

        def row(item: Any, message: Any, ts_recv: int, seen: Counter[str]) -> None:
            series = place(item, message)
            if series is None:
                return
            ts = time(item, message, ts_recv)
            numbers = [
                number_of(at(paths[name], item, message), name) for name in ("open", "high", "low", "close", "volume")
            ]
            if not all(value is not None and 0.0 <= value < INF for value in numbers):
                raise FrameError(f"bar of {numbers}")
            vwap = number_of(at(paths["vwap"], item, message), "vwap") if "vwap" in paths else None
            count = whole_of(at(paths["trade_count"], item, message), "trade_count") if "trade_count" in paths else None
            append(
                ts, ts_recv, series, timeframe, *numbers, vwap if vwap is not None and 0.0 < vwap < INF else NAN,
                LONG_NULL if count is None else count, 0,
            )  # fmt: skip

        return row


def _is_list(items: list[Any]) -> bool:
    """Whether a list is one of items, and not an item itself, such as [price, size, time]."""
    return not items or isinstance(items[0], dict | list)


def _text(paths: Any, name: str, item: Any, message: Any) -> str | None:
    """A text, or texts joined by commas; None where there is none."""
    value = at(paths[name], item, message) if name in paths else None
    if isinstance(value, list):
        value = ",".join(plain(each) for each in value)
    return None if _nothing(value) or isinstance(value, dict) else plain(value)


def _required(paths: Any, name: str, item: Any, message: Any) -> str:
    text = _text(paths, name, item, message)
    if text is None:
        raise FrameError(f"{name} is missing")
    return text
