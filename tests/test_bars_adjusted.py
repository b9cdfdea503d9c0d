"""Adjusted bars, by the view and by the export, against the series that others have published."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adjusted_rows import Published, day, put_actions, put_bars, quandl, yahoo

from recorder.commands import cli, export
from recorder.values.config import Config, QuestdbConfig
from recorder.values.tables import SPLIT_ADJUSTED

YAHOO = {
    "CALM": ("CALM-1d-no-bad-divs", "1d"), "EWG": ("EWG-1d-no-bad-divs", "1d"),
    "IBE.MC": ("IBE-MC-1d-no-bad-divs", "1d"), "EA": ("EA-15m-no-bad-divs", "15m"),
}  # fmt: skip
QUANDL = ("AAPL", "MSFT")
SAMPLE = "quandl_wiki_sample_AAPL_BRKA_MSFT_ZEN_2014.zip"
# As the data's README states them; of MSFT, which it does not name, as expected.json counted it.
TOLERANCE = dict.fromkeys(YAHOO, 3e-7) | {"AAPL": 4e-5, "MSFT": 1.59e-4}
LEAN_TOLERANCE = 9e-4
EXACT = 1e-12  # between our own two ways


@pytest.fixture(scope="module")
def published(questdb: Any, shared_data: Any) -> dict[str, Published]:
    """Every series stored as bars and actions, in one database."""
    questdb.clear()
    folder = shared_data / "corporate_actions"
    found = {}
    for symbol, (name, timeframe) in YAHOO.items():
        found[symbol] = yahoo(folder / "yfinance" / f"{name}.csv.gz", symbol)
        put_bars(questdb, "yh", timeframe, found[symbol])
        put_actions(questdb, "yahoo", found[symbol])
    for symbol in QUANDL:
        found[symbol] = quandl(folder / SAMPLE, symbol)
        put_bars(questdb, "wiki", "1d", found[symbol])
        put_actions(questdb, "polygon", found[symbol])
    return found


def worst(expected: dict[int, float], closes: dict[int, float]) -> float:
    """The largest relative difference, once both are made equal on the last day: later actions moved all of it."""
    assert closes.keys() == expected.keys()
    last = max(closes)
    scale = expected[last] / closes[last]
    return max(abs(closes[ts] * scale / expected[ts] - 1) for ts in closes)


def viewed(server: Any, symbol: str, column: str = "close") -> dict[int, float]:
    rows = server.sql.query(f"SELECT ts_event::long, {column} FROM bars_adjusted WHERE symbol = '{symbol}'").rows
    return {ts: value for ts, value in rows}


def exported(server: Any, file: Path, *options: str) -> pa.Table:
    """What ``recorder export bars`` writes, by the command's own arguments."""
    parser = cli._parser()[1]
    export.add(parser)
    args: Namespace = parser.choices["export"].parse_args(["bars", "-o", str(file), *options])
    settings = QuestdbConfig(embedded=False, ilp=server.ilp_url, sql=server.sql_url)
    assert export.run(args, Config(questdb=settings)) == 0
    return {"parquet": pq.read_table, "arrow": lambda f: pa.ipc.open_file(f).read_all()}[args.format](str(file))


def column(table: pa.Table, name: str) -> dict[int, float]:
    times = table.column("ts_event").cast(pa.int64()).to_pylist()
    return dict(zip(times, table.column(name).to_pylist(), strict=True))


@pytest.mark.parametrize("symbol", [*YAHOO, *QUANDL])
def test_the_view_gives_the_published_adjusted_closes(questdb, published, symbol):
    assert worst(published[symbol].adjusted, viewed(questdb, symbol)) <= TOLERANCE[symbol]


@pytest.mark.parametrize("symbol", [*YAHOO, *QUANDL])
def test_the_export_gives_the_published_adjusted_closes(questdb, published, symbol, tmp_path):
    table = exported(questdb, tmp_path / "bars.parquet", "--symbol", symbol, "--adjust", "all")
    assert worst(published[symbol].adjusted, column(table, "close")) <= TOLERANCE[symbol]


@pytest.mark.parametrize("symbol", [*YAHOO, *QUANDL])
def test_export_and_view_agree_in_every_price_and_size(questdb, published, symbol, tmp_path):
    table = exported(questdb, tmp_path / "a", "--symbol", symbol, "--adjust", "all", "--format", "arrow")
    for name in ("open", "high", "low", "close", "volume", "factor"):
        assert column(table, name) == pytest.approx(viewed(questdb, symbol, name), rel=EXACT)


def test_sizes_follow_splits_alone(questdb, published):
    volumes = viewed(questdb, "AAPL", "volume")
    assert volumes == pytest.approx(published["AAPL"].volumes, rel=1e-9)


def test_the_path_is_that_of_leans_factor_files(questdb, published, shared_data):
    """Another vendor's factors over the same raw closes: `date,price_factor,split_factor`, valid up to that date."""
    text = (shared_data / "lean/equity/usa/factor_files/aapl.csv").read_text()
    lines = [line.split(",") for line in text.split()]
    factors = [(day(date), float(price) * float(split)) for date, price, split, _ in lines]
    raw = {ts: close for ts, _, _, _, close, _ in published["AAPL"].bars}
    expected = {ts: close * next(f for until, f in factors if ts <= until) for ts, close in raw.items()}
    assert worst(expected, viewed(questdb, "AAPL")) <= LEAN_TOLERANCE


def test_adjusting_for_splits_alone_leaves_dividends_in(questdb, published, tmp_path):
    table = exported(questdb, tmp_path / "a", "--symbol", "AAPL", "--adjust", "split")
    closes, raw = column(table, "close"), {ts: close for ts, _, _, _, close, _ in published["AAPL"].bars}
    for ts, close in raw.items():
        assert closes[ts] == pytest.approx(close / 7 if ts < day("2014-06-09") else close, rel=EXACT)


def test_as_of_a_date_later_actions_move_nothing(questdb, published, tmp_path):
    before = exported(questdb, tmp_path / "a", "--symbol", "AAPL", "--adjust", "split", "--as-of", "2014-06-08")
    on = exported(questdb, tmp_path / "b", "--symbol", "AAPL", "--adjust", "split", "--as-of", "2014-06-09")
    assert set(column(before, "factor").values()) == {1.0}
    assert set(column(on, "factor").values()) == {1.0, 1 / 7}


def test_raw_prices_stay_as_they_were(questdb, published, tmp_path):
    table = exported(questdb, tmp_path / "a", "--symbol", "AAPL")
    for name, place in (("open", 1), ("high", 2), ("low", 3), ("close", 4), ("volume", 5)):
        assert column(table, name) == {bar[0]: bar[place] for bar in published["AAPL"].bars}
    assert table.schema.field("ts_event").type == pa.timestamp("ns", "UTC")
    assert "factor" not in table.column_names


def test_bars_that_come_adjusted_are_not_adjusted_again(questdb, published, tmp_path):
    """Yahoo's, flagged: they are no prices that were paid, neither to be adjusted nor to measure a dividend by."""
    found = Published("AAPL", bars=[(ts, 1.0, 1.0, 1.0, 1.0, 1.0) for ts, *_ in published["AAPL"].bars])
    before = viewed(questdb, "AAPL")
    put_bars(questdb, "wiki2", "1d", found, flags=SPLIT_ADJUSTED)
    assert viewed(questdb, "AAPL") == before
    table = exported(questdb, tmp_path / "a", "--symbol", "AAPL", "--adjust", "all")
    assert column(table, "close") == pytest.approx(before, rel=EXACT)


def test_a_range_of_time_is_exported_alone(questdb, published, tmp_path):
    options = ("--symbol", "AAPL", "--from", "2014-06-02", "--to", "2014-06-14", "--adjust", "all")
    part = exported(questdb, tmp_path / "a", *options)
    whole = viewed(questdb, "AAPL")
    closes = column(part, "close")
    assert len(closes) == 10
    assert closes == pytest.approx({ts: whole[ts] for ts in closes}, rel=EXACT)


def test_plain_csv_is_what_the_server_says(questdb, published, tmp_path):
    parser = cli._parser()[1]
    export.add(parser)
    file = tmp_path / "bars.csv"
    args = parser.choices["export"].parse_args(["bars", "-o", str(file), "--format", "csv", "--symbol", "MSFT"])
    export.run(args, Config(questdb=QuestdbConfig(embedded=False, ilp=questdb.ilp_url, sql=questdb.sql_url)))
    rows = list(csv.DictReader(file.open()))
    assert [float(row["close"]) for row in rows] == [bar[4] for bar in published["MSFT"].bars]
    assert not list(tmp_path.glob(".*")), "nothing is left of the file being written"


def test_the_figures_that_were_counted_for_these_files_are_ours(questdb, published, shared_data):
    counted = json.loads((shared_data / "expected.json").read_text())

    def find(tree: Any, name: str) -> Any:
        if isinstance(tree, dict):
            return tree.get(name) or next((f for f in (find(v, name) for v in tree.values()) if f), None)
        return None

    for symbol in QUANDL:
        figures = find(counted, f"corporate_actions/{SAMPLE}")[symbol]["rebuilt_adj_close_against_published"]
        found = worst(published[symbol].adjusted, viewed(questdb, symbol))
        assert found == pytest.approx(figures["max_relative_difference"], rel=0.01)
