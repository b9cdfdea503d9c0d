"""``recorder export``: rows of a table or view into a file, bars adjusted for splits and dividends as of a date."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorder.commands import filters
from recorder.values.tables import SPLIT_ADJUSTED

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from recorder.core.adjust import Known, Steps
    from recorder.shell.database.sql_client import SqlClient
    from recorder.values.config import Config

DAY_NS = 86_400 * 1_000_000_000
NOT_APPLIED = ("spin_off", "rights", "merger", "unit_split", "reorganization")
NOT_APPLIED_SHOWN = 10
RAW = f"(flags & {SPLIT_ADJUSTED}) = 0"  # of bars: those whose provider has not adjusted them
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,126}")
# Of what can be adjusted: its prices, its sizes, and what tells its series apart.
_PRICES = {
    "bars": ("open", "high", "low", "close", "vwap"),
    "trades": ("price", "vwap", "rolling_vwap"),
    "quotes": ("bid", "ask"),
}
_SIZES = {"bars": ("volume",), "trades": ("size",), "quotes": ("bid_size", "ask_size")}

DESCRIPTION = """\
Rows of a table or view into a file, in bounded memory. --adjust split divides prices (and multiplies sizes)
by the splits and stock dividends that came after them, --adjust all reduces prices by cash dividends too
(bars only: it takes the close before each ex date). As of a date means: actions that were ex by then, in the
version that was known then; what became known later counts as it was first told. Raw rows never change.
Bars that their provider has adjusted for splits already (Yahoo's) are left out of --adjust.
"""


def add(subparsers: Any) -> None:
    from recorder.shell.tabular import FORMATS

    parser = subparsers.add_parser(
        "export", help="rows as Parquet, Arrow or CSV, adjusted as of a date", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("table", metavar="TABLE", type=_table, help="a table or view, such as bars")
    parser.add_argument("--from", dest="start", metavar="TIME", help="first ts_event, such as 2026-08-01")
    parser.add_argument("--to", dest="stop", metavar="TIME", help="ts_event to stop before")
    parser.add_argument("--symbol", action="append", type=filters.name, metavar="NAME", help="repeatable")
    parser.add_argument("--feed", action="append", type=filters.name, metavar="NAME", help="repeatable")
    parser.add_argument("--adjust", choices=("split", "all"), help="prices comparable with those of --as-of")
    parser.add_argument("--as-of", type=filters.day, metavar="DAY", help="for --adjust; today unless told otherwise")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="parquet unless told otherwise")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE",
                        help="replaced once it is whole; - is standard output")  # fmt: skip
    parser.set_defaults(run=run)


def _table(text: str) -> str:
    if not _TABLE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no name of a table or view")
    return text


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell import tabular
    from recorder.shell.database.sql_client import connect
    from recorder.values.errors import ConfigError
    from recorder.values.times import parse_time

    if args.start and args.stop and parse_time(args.start, "--from") >= parse_time(args.stop, "--to"):
        raise ConfigError(f"--from {args.start} is not before --to {args.stop}: no row lies between")
    began = time.monotonic()
    with connect(config) as client:
        columns = _columns(client, args)
        query = f"SELECT * FROM {args.table}{_where(args)}"
        if args.format == "csv" and args.adjust is None:
            rows = tabular.write_bytes(args.output, client.export_csv(query))
        else:
            rows = _typed(client, args, columns, query)
    print(f"{rows:,} rows of {args.table} → {args.output} in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


def _columns(client: SqlClient, args: argparse.Namespace) -> list[tuple[str, str]]:
    """(name, type) of what is exported. Raises ConfigError for what cannot be asked of it, DatabaseError."""
    from recorder.values.errors import ConfigError

    found = [(name, type_) for name, type_ in client.query(f"SELECT * FROM {args.table} LIMIT 0").columns]
    names = {name for name, _ in found}
    for option, column in (("start", "ts_event"), ("stop", "ts_event"), ("symbol", "symbol"), ("feed", "feed")):
        if getattr(args, option) and column not in names:
            raise ConfigError(f"{args.table} has no column {column}: it cannot be limited by it")
    if args.as_of and not args.adjust:
        raise ConfigError("--as-of says as of when to adjust: add --adjust split or --adjust all")
    if args.adjust and args.table not in _PRICES:
        raise ConfigError(f"--adjust: {args.table} cannot be adjusted; {', '.join(_PRICES)} can")
    if args.adjust == "all" and args.table != "bars":
        raise ConfigError(f"--adjust all needs the close before each ex date, which {args.table} lacks: --adjust split")
    return found


def _where(args: argparse.Namespace) -> str:
    from recorder.values.times import parse_time

    parts = []
    if args.start:
        parts.append(f"ts_event >= {parse_time(args.start, '--from')}")
    if args.stop:
        parts.append(f"ts_event < {parse_time(args.stop, '--to')}")
    if args.adjust and args.table == "bars":
        parts.append(RAW)
    parts += [filters.among(name, getattr(args, name)) for name in ("symbol", "feed") if getattr(args, name)]
    return f" WHERE {' AND '.join(parts)}" if parts else ""


def _typed(client: SqlClient, args: argparse.Namespace, columns: list[tuple[str, str]], query: str) -> int:
    from recorder.shell import tabular

    schema, parts = tabular.read(client.export_csv(query), columns)
    if args.adjust:
        schema, parts = with_factor(schema), adjusted(parts, args.table, Factors(client, args))
    return tabular.write(args.output, args.format, parts, schema)


class Factors:
    """Steps of each series that is exported, made when its first row comes."""

    def __init__(self, client: SqlClient, args: argparse.Namespace) -> None:
        """Reads the actions of the symbols, and says on stderr which of them move no price."""
        from recorder.commands.actions import known
        from recorder.core.adjust import applied, versions
        from recorder.feeds import ACTIONS
        from recorder.values.times import parse_time

        as_of = parse_time(args.as_of, "--as-of") + DAY_NS - 1 if args.as_of else time.time_ns()
        start = parse_time(args.start, "--from") if args.start else 0
        where = f"ts_event > {start}"
        if args.symbol:
            where += f" AND {filters.among('symbol', args.symbol)}"
        rows = known(client, where)
        self._client, self._cash = client, args.adjust == "all"
        self._actions: dict[str, list[Known]] = {}
        for action in applied(rows, as_of, ACTIONS):
            self._actions.setdefault(action.symbol, []).append(action)
        left = [r for r in versions(rows, as_of) if r.action_type in NOT_APPLIED and r.ts_event <= as_of]
        for row in left[:NOT_APPLIED_SHOWN]:
            print(f"recorder: not applied: {row.action_type} of {row.symbol} ({row.feed})", file=sys.stderr)
        if len(left) > NOT_APPLIED_SHOWN:
            print(f"recorder: nor {len(left) - NOT_APPLIED_SHOWN} more of such actions", file=sys.stderr)
        self._steps: dict[tuple[str, ...], Steps] = {}

    def at(self, series: tuple[str, ...], times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(split factors, price factors) of a series at these times.

        series  feed, symbol, and of bars the timeframe
        """
        from recorder.core.adjust import steps

        found = self._steps.get(series)
        if found is None:
            actions = self._actions.get(series[1], [])
            chosen = actions if self._cash else [action for action in actions if action.effect == "ratio"]
            found = self._steps[series] = steps(chosen, lambda ts_event: self._close_before(series, ts_event))
        split, cash = found.at(times)
        return split, split * cash

    def _close_before(self, series: tuple[str, ...], ts_event: int) -> float | None:
        """The last daily close before an ex date, of the same feed and symbol; else that of the series itself."""
        feed, symbol, timeframe = (filters.checked_name(name) for name in series)
        for each in dict.fromkeys(("1d", timeframe)):
            close = self._client.value(
                f"SELECT close FROM bars WHERE feed = '{feed}' AND symbol = '{symbol}' AND timeframe = '{each}' "
                f"AND ts_event < {ts_event} AND {RAW} LIMIT -1"
            )
            if close is not None:
                return float(close)
        return None


def with_factor(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return schema.append(pa.field("factor", pa.float64()))


def adjusted(parts: Iterable[pa.RecordBatch], table: str, factors: Factors) -> Iterator[pa.RecordBatch]:
    """Prices and sizes of the batches adjusted, and a column ``factor``: by what the prices were multiplied."""
    import numpy as np
    import pyarrow as pa

    from recorder.shell.tabular import multiplied

    keys = ("feed", "symbol", "timeframe") if table == "bars" else ("feed", "symbol")
    for part in parts:
        times = part.column("ts_event").cast(pa.int64()).to_numpy()
        split, price = np.ones(len(times)), np.ones(len(times))
        for series, places in _series(part, keys):
            split[places], price[places] = factors.at(series, times[places])
        for name in _PRICES[table]:
            part = multiplied(part, name, price)
        for name in _SIZES[table]:
            part = multiplied(part, name, 1.0 / split)
        yield part.append_column("factor", pa.array(price))


def _series(part: pa.RecordBatch, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(series, places of its rows) of a batch."""
    import numpy as np

    encoded = [part.column(name).dictionary_encode() for name in keys]
    codes = np.stack([each.indices.to_numpy(zero_copy_only=False) for each in encoded], axis=1)
    for combination in np.unique(codes, axis=0):
        names = tuple(str(each.dictionary[int(code)].as_py()) for each, code in zip(encoded, combination, strict=True))
        yield names, np.flatnonzero((codes == combination).all(axis=1))
