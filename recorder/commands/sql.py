"""`recorder sql [QUERY]`: ask the database; without a query a console with history, or statements from a pipe."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorder.values.errors import DatabaseError

if TYPE_CHECKING:
    from recorder.shell.database.sql_client import Result, SqlClient
    from recorder.values.config import Config

TERMINAL_ROWS_MAX = 1000  # nobody reads more on a screen; a pipe, --json and --csv get every row
PIPED_WIDTH = 1 << 16  # a table that is not on a screen is never folded
HISTORY_LINES_MAX = 5000
STDIN_BYTES_MAX = 16 << 20  # statements from a pipe
NUMERIC = frozenset({"BYTE", "SHORT", "INT", "LONG", "FLOAT", "DOUBLE", "DECIMAL"})
CONSOLE_HELP = """\
End a statement with ; to run it.
\\d         list tables and views        \\d NAME    columns of one
\\q         leave (also Ctrl-D)          \\?         this help"""
TABLES_QUERY = (
    "select table_name name, case when table_type = 'T' then 'table' when table_type = 'M' then 'materialized view' "
    "else 'view' end kind, partitionBy partition_by, table_row_count row_count from tables() order by name"
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "sql",
        help="ask the database; without a query a console with history",
        description="Run one statement and print its rows. Without QUERY: a console, or statements from a pipe, "
        "each ended by ; at the end of a line.",
    )
    parser.add_argument("query", nargs="?", metavar="QUERY", help="one statement of QuestDB's SQL")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="an array of objects, one per row; times with nine digits")
    form.add_argument("--csv", action="store_true", help="CSV with a header line, streamed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config) -> int:
    from recorder.shell.database.sql_client import connect

    form = "json" if args.json else "csv" if args.csv else "table"
    with connect(config) as client:
        if args.query is None and sys.stdin.isatty():
            return Console(client, form).loop()
        for statement in _asked(args.query):
            show(client, statement, form)
    return 0


def _asked(query: str | None) -> Iterator[str]:
    from recorder.shell.database.migrate import statements

    if query is not None:
        yield query
        return
    text = sys.stdin.read(STDIN_BYTES_MAX)
    if sys.stdin.read(1):
        raise DatabaseError(f"more than {STDIN_BYTES_MAX >> 20} MiB of statements on standard input; split them")
    yield from statements(text)


def show(client: SqlClient, statement: str, form: str) -> None:
    """Run one statement and print its answer: ``form`` is table, json or csv."""
    if form == "csv":
        sys.stdout.flush()
        for piece in client.export_csv(statement):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    elif form == "json":
        sys.stdout.write(as_json(client.query(statement)))
    else:
        began = time.perf_counter()
        result = client.query(statement)
        print_table(result, time.perf_counter() - began)


def as_json(result: Result) -> str:
    """A JSON array with one object a line: valid as a whole, and a line is still something to grep for."""
    import orjson

    lines = [orjson.dumps(row).decode() for row in result.dicts()]
    return "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"


def print_table(result: Result, took_s: float) -> None:
    """Rows as a table; as one block per row where the screen is too narrow for a table."""
    from rich import box
    from rich.console import Console as Screen
    from rich.table import Table
    from rich.text import Text

    on_screen = sys.stdout.isatty()
    screen = Screen(width=None if on_screen else PIPED_WIDTH, highlight=False)
    if not result.columns:
        print("done")
        return
    rows = result.rows[:TERMINAL_ROWS_MAX] if on_screen else result.rows
    names = [name for name, _ in result.columns]
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]
    if sum(widths) + 2 * len(widths) > screen.width and cells:
        _print_blocks(names, cells)
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
        for name, type_ in result.columns:
            justify: Any = "right" if type_.partition("(")[0] in NUMERIC else "left"
            table.add_column(Text(name), justify=justify, no_wrap=True)
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        screen.print(table)
    more = f"; the first {len(rows)} shown, use --csv or --json for all" if len(rows) < len(result.rows) else ""
    count = len(result.rows)
    print(f"({count} row{'' if count == 1 else 's'}, {took_s * 1e3:.1f} ms{more})", file=sys.stderr)


def _print_blocks(names: list[str], cells: list[list[str]]) -> None:
    width = max(len(name) for name in names)
    for number, row in enumerate(cells, 1):
        print(f"─── row {number}")
        for name, cell in zip(names, row, strict=True):
            print(f"{name:<{width}}  {cell}")


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"  # what a person reads; JSON and CSV keep every digit
    return " ".join(value.split("\n")) if isinstance(value, str) else str(value)


class Console:
    """Reads statements until ``;`` and shows their answers; an error is shown and the next statement awaited."""

    def __init__(self, client: SqlClient, form: str = "table", history: Path | None = None) -> None:
        self._client, self._form = client, form
        self._history = history

    def loop(self) -> int:
        with self._readline():
            print(f"QuestDB at {self._client.base_url}; end statements with ;  \\? for help, \\q to leave")
            lines: list[str] = []
            while True:
                try:
                    line = input("  ...> " if lines else "sql> ")
                except EOFError:
                    print()
                    return 0
                except KeyboardInterrupt:  # Ctrl-C forgets what was typed
                    print()
                    lines = []
                    continue
                if not lines and line.strip().startswith("\\"):
                    if not self._command(line.strip()):
                        return 0
                    continue
                if lines or line.strip():
                    lines.append(line)
                if lines and lines[-1].rstrip().endswith(";"):
                    self._run("\n".join(lines).rstrip().removesuffix(";"))
                    lines = []

    def _command(self, text: str) -> bool:
        """Obey a backslash command; False to leave."""
        name, _, argument = text.rstrip(";").partition(" ")
        if name == "\\q":
            return False
        if name == "\\d" and argument.strip():
            table = argument.strip().replace("'", "''")
            self._run(
                f"select \"column\", type, designated, upsertKey dedup_key from table_columns('{table}')", "table"
            )
        elif name == "\\d":
            self._run(TABLES_QUERY, "table")
        else:
            print(CONSOLE_HELP)
        return True

    def _run(self, statement: str, form: str | None = None) -> None:
        try:
            show(self._client, statement, form or self._form)
        except DatabaseError as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            self._client.close()  # the rest of that answer is not wanted; the next statement connects again
            print("interrupted", file=sys.stderr)

    @contextlib.contextmanager
    def _readline(self) -> Iterator[None]:
        """Line editing and a history that outlives the console, where this Python has readline."""
        try:
            import readline
        except ImportError:
            yield
            return
        import platformdirs

        path = self._history or platformdirs.user_state_path("recorder") / "sql_history"
        with contextlib.suppress(OSError):
            readline.read_history_file(path)
        readline.set_history_length(HISTORY_LINES_MAX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(path)
