"""`recorder export`: what a file holds is what the database holds, whatever the format, in bounded memory."""

from __future__ import annotations

import csv
import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adjusted_rows import Published, day, put, put_actions

from recorder.commands import cli, export
from recorder.shell import tabular
from recorder.values.config import Config, QuestdbConfig
from recorder.values.errors import ConfigError, DatabaseError, RecorderError

SPLIT = day("2024-06-10")
MANY = 400_000  # rows: 60 MB of CSV
MEMORY_BYTES = 40 << 20
TEXTS = ("plain", "a,b", 'quo"ted', "two\nlines\\", "café 币", "")


@pytest.fixture(scope="module")
def server(questdb: Any) -> Any:
    questdb.clear()
    rows = [
        f"({SPLIT + at}, {SPLIT + at}, 'al', 'NVDA', {i}, {price}, {size}, {flags})"
        for i, (at, price, size, flags) in enumerate(
            [(-2, 1200.0, 1.5, 0), (-1, 1208.88, 3.0, 8), (0, 121.79, 30.0, "null"), (1, 120.5, "null", 0)], 1 << 60
        )
    ]
    put(questdb, "trades", "ts_event, ts_recv, feed, symbol, trade_id, price, size, flags", rows)
    put(questdb, "quality_events", "ts_event, check_name, feed, message",
        [f"({n + 1}, 'c{n}', null, '{text}')" for n, text in enumerate(TEXTS)])  # fmt: skip
    put_actions(questdb, "alpaca", Published("NVDA", actions=[(SPLIT, "split", 10.0, None)]))
    return questdb


def called(server: Any, *words: str) -> Namespace:
    parser = cli._parser()[1]
    export.add(parser)
    args: Namespace = parser.choices["export"].parse_args(list(words))
    settings = QuestdbConfig(embedded=False, ilp=server.ilp_url, sql=server.sql_url)
    export.run(args, Config(questdb=settings))
    return args


def test_trades_before_a_split_are_divided_and_their_sizes_multiplied(server, tmp_path):
    called(server, "trades", "-o", str(tmp_path / "t"), "--adjust", "split")
    table = pq.read_table(str(tmp_path / "t"))
    assert table.column("price").to_pylist() == pytest.approx([120.0, 120.888, 121.79, 120.5], rel=1e-15)
    assert table.column("size").to_pylist()[:3] == pytest.approx([15.0, 30.0, 30.0], rel=1e-15)
    assert table.column("size").to_pylist()[3] is None
    assert table.column("factor").to_pylist() == [0.1, 0.1, 1.0, 1.0]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_every_value_of_a_row_comes_back(server, tmp_path, form):
    called(server, "trades", "-o", str(tmp_path / "t"), "--format", form)
    read = {"parquet": pq.read_table, "arrow": lambda file: pa.ipc.open_file(file).read_all()}[form]
    found, stored = read(str(tmp_path / "t")).to_pydict(), server.sql.query("SELECT * FROM trades")
    for place, (name, type_) in enumerate(stored.columns):
        if not type_.startswith("TIMESTAMP"):
            assert found[name] == [row[place] for row in stored.rows], name
    assert [moment.value for moment in found["ts_event"]] == [SPLIT + at for at in (-2, -1, 0, 1)]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_texts_come_back_as_they_are(server, tmp_path, form):
    called(server, "quality_events", "-o", str(tmp_path / "q"), "--format", form)
    if form == "csv":
        with (tmp_path / "q").open(newline="") as file:
            told = tuple(row["message"] for row in csv.DictReader(file))
        assert told == tuple(text.replace("\\", "\\\\").replace("\n", "\\n") for text in TEXTS), "as the server does"
        return
    table = pq.read_table(str(tmp_path / "q"))
    assert tuple(text or "" for text in table.column("message").to_pylist()) == TEXTS
    assert table.column("feed").null_count == len(TEXTS)


def test_a_table_without_rows_gives_a_file_without_rows(server, tmp_path):
    called(server, "bars", "-o", str(tmp_path / "b"))
    table = pq.read_table(str(tmp_path / "b"))
    assert table.num_rows == 0
    assert table.schema.field("close").type == pa.float64()


def test_memory_does_not_grow_with_the_rows(server, tmp_path):
    server.sql.execute(
        "INSERT INTO quotes (ts_event, ts_recv, feed, symbol, sequence, bid, bid_size, ask, ask_size) SELECT "
        "(x * 1000000)::timestamp_ns, (x * 1000000)::timestamp_ns, 'al', 'NVDA', x, 100 + rnd_double(), 1.0, "
        "101 + rnd_double(), 2.0 "
        f"FROM long_sequence({MANY})"
    )
    server.wait_applied("quotes")
    tracked = pa.default_memory_pool()
    pa.set_memory_pool(pool := pa.system_memory_pool())
    try:
        called(server, "quotes", "-o", str(tmp_path / "q"), "--adjust", "split")
        assert pq.read_metadata(str(tmp_path / "q")).num_rows == MANY
        assert pool.max_memory() < MEMORY_BYTES
    finally:
        pa.set_memory_pool(tracked)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trades", "--adjust", "all"], "--adjust all needs the close before each ex date, which trades lacks"),
        (["gaps", "--adjust", "split"], "gaps cannot be adjusted; bars, trades, quotes can"),
        (["trades", "--as-of", "2024-06-09"], "--as-of says as of when to adjust: add --adjust"),
        (["latency", "--symbol", "NVDA"], "latency has no column symbol"),
        (["trades", "--from", "yesterdayish"], "--from yesterdayish: no date or time"),
        (["trades", "--from", "2024-01-02", "--to", "2024-01-02"], "--from 2024-01-02 is not before --to"),
        (["nothing_here"], "nothing_here"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_no_file(server, tmp_path, words, reason):
    with pytest.raises((ConfigError, DatabaseError)) as error:
        called(server, *words, "-o", str(tmp_path / "f"))
    assert reason in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["trades; DROP TABLE trades"], ["trades", "--symbol", "A' OR '1'='1"], ["a-b"]])
def test_what_is_no_name_never_becomes_sql(server, tmp_path, words):
    with pytest.raises(SystemExit):
        called(server, *words, "-o", str(tmp_path / "f"))


def test_a_file_that_cannot_be_written_whole_leaves_the_one_before(server, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("before")

    def broken() -> Any:
        yield b"a,b\n1,2\n"
        raise DatabaseError("gone")

    with pytest.raises(DatabaseError):
        tabular.write_bytes(file, broken())
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    with pytest.raises(RecorderError, match="cannot be written"):
        tabular.write_bytes(tmp_path / "no" / "such", iter(()))


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
@pytest.mark.parametrize("name", ["", ".", "folder"])
def test_a_folder_is_not_written_over(server, tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecorderError, match="is a folder; name a file in it"):
        called(server, "trades", "--format", form, "-o", name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_pipe_stays_a_pipe_and_has_the_rows(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert tabular.write_bytes(pipe, [b"a\n1\n"]) == 1
        assert os.read(reading, 100) == b"a\n1\n"
    finally:
        os.close(reading)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert pipe.is_fifo()


def test_a_dash_is_standard_output(server, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    called(server, "trades", "--format", "csv", "-o", "-")
    assert capfd.readouterr().out.startswith('"ts_event","ts_recv"')
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_words():
    with pytest.raises(RecorderError, match="/dev/full: cannot be written: No space left on device"):
        tabular.write_bytes(Path("/dev/full"), [b"a\n"])
    assert Path("/dev/full").is_char_device()


def test_numbers_are_kept_to_the_last_bit(server, tmp_path):
    values = [0.1, 1 / 3, 2**53 + 2.0, 5e-324, 1.7976931348623157e308, math.pi, -0.07]
    put(server, "latency", "ts_event, feed, stage, count", [f"({n + 1}, 'f', 's', {n})" for n in range(3)])
    rows = [f"({n + 1}, {n + 1}, 'x', 'Y', '1d', {value!r})" for n, value in enumerate(values)]
    put(server, "bars", "ts_event, ts_recv, feed, symbol, timeframe, close", rows)
    called(server, "bars", "-o", str(tmp_path / "b"), "--symbol", "Y")
    assert pq.read_table(str(tmp_path / "b")).column("close").to_pylist() == values
