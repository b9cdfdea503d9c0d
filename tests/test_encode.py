"""The encoder writes what the official client writes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from questdb import TimestampNanos
from questdb.ingress import Buffer

from recorder.core.batch import Output, Rows
from recorder.core.encode import BUFFER_BYTES_INITIAL, Dictionary, Encoder, encode, merge_rows, sort_rows, warm
from recorder.core.encode_client import describe_row, encode_with_client, split_series, unescape, values_of
from recorder.values.schema import INT_NULL, LONG_NULL, Label, Table, null_of
from recorder.values.tables import TABLES, TRADES

TEXTS = st.text(
    st.one_of(st.sampled_from(list(',= "\\\n\r\t;:/é€😀\x00')), st.characters(exclude_categories=["Cs"])), max_size=24
)
DOUBLES = st.one_of(
    st.floats(), st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, math.inf, -math.inf])
)
TIMES = st.one_of(
    st.just(0), st.integers(0, (1 << 63) - 1), st.integers(1_600_000_000_000_000_000, 1_800_000_000_000_000_000)
)


def longs(bits: int) -> st.SearchStrategy[int]:
    low, high = -(1 << bits - 1) + 1, (1 << bits - 1) - 1
    return st.one_of(st.integers(low, high), st.sampled_from([low, high, 0, -1, 9, 10, 99, 100, -100]))


def values(table: Table) -> st.SearchStrategy[dict[str, Any]]:
    """One row as Python values, None for null."""
    columns: dict[str, st.SearchStrategy[Any]] = {}
    for column in table.columns:
        kind = column.type.kind
        if column.name == "ts_event":
            columns[column.name] = TIMES
            continue
        some = {
            "timestamp": TIMES,
            "double": DOUBLES,
            "long": longs(64),
            "int": longs(32),
            "series": st.tuples(TEXTS, TEXTS),
        }.get(kind, TEXTS)
        if isinstance(column.type, Label):
            some = st.sampled_from(column.type.names)
        columns[column.name] = st.none() | some
    return st.fixed_dictionaries(columns)


def rows_of(table: Table, wanted: list[dict[str, Any]], output: Output) -> Rows:
    """Pack Python values as a feed and the kernels would."""
    batch = output.batches[table.name]
    for row in wanted:
        packed = []
        for column in table.packed:
            value, kind = row[column.name], column.type.kind
            if value is None:
                value = null_of(column.type)
            elif kind == "series":
                value = output.series.id(*value)
            elif kind == "symbol":
                value = output.texts.id(value)
            elif kind == "varchar":
                value = batch.varchar(value)
            elif isinstance(column.type, Label):
                value = 1 + column.type.names.index(value)
            packed.append(value)
        batch.append(*packed)
    sealed = batch.seal()
    for column in table.columns:
        if column.computed:
            names = column.type.names if isinstance(column.type, Label) else ()
            sealed.rows[column.name] = [
                null_of(column.type)
                if (value := row[column.name]) is None
                else 1 + names.index(value)
                if names
                else value
                for row in wanted
            ]
    return sealed


def client_lines(table: Table, wanted: list[dict[str, Any]]) -> bytes:
    """The same rows straight from their values through the official client."""
    buffer = Buffer(protocol_version=2)
    for row in wanted:
        symbols, fields = {}, {}
        for column in table.columns:
            value, kind = row[column.name], column.type.kind
            if column.name == "ts_event" or value is None:
                continue
            if kind == "series":
                symbols["feed"], symbols["symbol"] = value
            elif kind in ("symbol", "label"):
                symbols[column.name] = value
            elif kind == "timestamp":
                fields[column.name] = TimestampNanos(value)
            elif kind != "double" or not math.isnan(value):
                fields[column.name] = value
        buffer.row(table.name, symbols=symbols, columns=fields, at=TimestampNanos(row["ts_event"]))
    return bytes(buffer)


@pytest.mark.parametrize("name", TABLES)
def test_bytes_equal_those_of_the_official_client(name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(wanted=st.lists(values(TABLES[name]), max_size=6))
    def equal(wanted: list[dict[str, Any]]) -> None:
        output = Output()
        rows = rows_of(TABLES[name], wanted, output)
        expected = client_lines(TABLES[name], wanted)
        assert bytes(encode(rows, Dictionary.of(output))) == expected
        assert encode_with_client(rows, Dictionary.of(output)) == expected

    equal()


def trade(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {column.name: None for column in TRADES.columns}
    row.update(ts_event=1_700_000_000_000_000_001, series=("cb", "BTC-USD"), price=1.5)
    return row | changes


def test_a_trade_reads_as_written_in_the_protocol() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade(side="sell", trade_id=-7, trade_ref='a "b"', flags=3, ts_recv=2)], output)
    assert bytes(encode(rows, Dictionary.of(output))) == (
        b'trades,feed=cb,symbol=BTC-USD,side=sell ts_recv=2n,trade_id=-7i,trade_ref="a \\"b\\"",'
        b"price==\x10\x00\x00\x00\x00\x00\x00\xf8?,flags=3i 1700000000000000001n\n"
    )


def test_nulls_leave_no_trace() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade()], output)
    assert rows.rows["trade_id"][0] == LONG_NULL
    assert rows.rows["flags"][0] == INT_NULL
    line = bytes(encode(rows, Dictionary.of(output)))
    assert line == b"trades,feed=cb,symbol=BTC-USD price==\x10\x00\x00\x00\x00\x00\x00\xf8? 1700000000000000001n\n"


def test_a_row_without_any_field_still_has_its_symbols_and_time() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade(price=None), trade(price=None, series=None)], output)
    assert bytes(encode(rows, Dictionary.of(output))) == b"trades,feed=cb,symbol=BTC-USD 1700000000000000001n\n"


@pytest.mark.parametrize("ts_event", [LONG_NULL, -1, -1_000])
def test_a_time_that_is_null_or_before_1970_is_written_so_that_the_server_refuses_it(ts_event: int) -> None:
    # The server reads the null of a LONG as "now" and would store the row at a time of its own.
    output = Output()
    rows = rows_of(TRADES, [trade(ts_event=ts_event)], output)
    assert bytes(encode(rows, Dictionary.of(output))).endswith(b" -1n\n")


def test_the_buffer_grows_and_is_used_again() -> None:
    output, encoder = Output(), Encoder()
    wanted = [trade(trade_ref="x" * 8000, ts_event=i) for i in range(3 * BUFFER_BYTES_INITIAL // 8000)]
    rows = rows_of(TRADES, wanted, output)
    dictionary = Dictionary.of(output)
    first = bytes(encoder.encode(rows, dictionary))
    assert len(first) > 2 * BUFFER_BYTES_INITIAL
    assert first == client_lines(TRADES, wanted)
    assert bytes(encoder.encode(rows, dictionary)) == first


def test_an_id_that_no_dictionary_holds_is_an_error_and_nothing_else() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade()], output)
    for column, value in (("series", 5000), ("exchange", 1), ("trade_ref", 1 << 30), ("side", 3)):
        bad = rows.rows.copy()
        bad[column] = value
        with pytest.raises(ValueError, match="row 0 names a text or label"):
            encode(Rows(TRADES, bad, rows.varchar_heap, rows.varchar_offsets), Dictionary.of(output))


def test_a_dictionary_stays_valid_while_its_output_goes_on() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade(exchange="N Y")], output)
    dictionary = Dictionary.of(output)
    before = bytes(encode(rows, dictionary))
    for i in range(5000):
        output.texts.id(f"text {i}")
        output.series.id("cb", f"S{i}")
    assert bytes(encode(rows, dictionary)) == before
    assert bytes(encode(rows, Dictionary.of(output))) == before


def test_read_only_and_strided_rows_are_encoded_alike() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade(ts_event=i) for i in range(6)], output)
    dictionary = Dictionary.of(output)
    frozen = rows.rows.copy()
    frozen.flags.writeable = False
    whole = bytes(encode(rows, dictionary))
    assert bytes(encode(Rows(TRADES, frozen, rows.varchar_heap, rows.varchar_offsets), dictionary)) == whole
    every_other = bytes(encode(Rows(TRADES, rows.rows[::2], rows.varchar_heap, rows.varchar_offsets), dictionary))
    assert every_other == b"".join(whole.splitlines(keepends=True)[::2])


@given(times=st.lists(st.integers(0, 5), max_size=12))
def test_rows_are_sorted_by_time_and_equal_times_keep_their_order(times: list[int]) -> None:
    rows = np.zeros(len(times), TRADES.dtype)
    rows["ts_event"], rows["trade_id"] = times, range(len(times))
    done = sort_rows(Rows(TRADES, rows, np.zeros(1, np.uint8), np.zeros(2, np.int64)))
    assert [(r["ts_event"], r["trade_id"]) for r in done.rows] == sorted(zip(times, range(len(times)), strict=True))
    assert (done.rows is rows) == (times == sorted(times))


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(st.lists(values(TRADES), max_size=3), min_size=1, max_size=4))
def test_merged_blocks_are_written_as_the_blocks_one_after_the_other(parts: list[list[dict[str, Any]]]) -> None:
    output = Output()
    blocks = [rows_of(TRADES, part, output) for part in parts]
    dictionary = Dictionary.of(output)
    apart = b"".join(bytes(encode(block, dictionary)) for block in blocks)
    assert bytes(encode(merge_rows(blocks), dictionary)) == apart


@given(feed=TEXTS, symbol=TEXTS)
def test_a_series_is_read_back_from_its_prefix(feed: str, symbol: str) -> None:
    output = Output()
    output.series.id(feed, symbol)
    dictionary = Dictionary.of(output)
    start, stop = dictionary.series_offsets[:2]
    assert split_series(dictionary.series_heap[start:stop].tobytes()) == (feed, symbol)


def test_unescaping_takes_the_character_behind_each_backslash() -> None:
    assert unescape(rb"a\,b\\\ c") == "a,b\\ c"


def test_a_row_is_described_without_its_nulls() -> None:
    output = Output()
    rows = rows_of(TRADES, [trade(side="buy")], output)
    (row,) = values_of(rows, Dictionary.of(output))
    assert describe_row(row) == "ts_event=1700000000000000001 feed=cb symbol=BTC-USD price=1.5 side=buy"


def test_nothing_is_compiled_after_warming() -> None:
    from recorder.core.encode import _encode

    warm()
    compiled = len(_encode.signatures)
    output = Output()
    for table in TABLES.values():
        batch = rows_of(table, [], output)
        encode(batch, Dictionary.of(output))
    encode(merge_rows([rows_of(TRADES, [trade()], output)] * 2), Dictionary.of(output))
    assert len(_encode.signatures) == compiled == 1
