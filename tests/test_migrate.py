"""The schema: derived text, applied to a real server, brought forward, refused where it conflicts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.shell.database import migrate
from recorder.shell.database.migrate import apply_schema, sql_folder, statements, tables_sql
from recorder.values.errors import DatabaseError
from recorder.values.tables import TABLES

REPO = Path(__file__).resolve().parent.parent


def retention(**ttl: str) -> SimpleNamespace:
    return SimpleNamespace(retention=ttl)


def ttl_of(questdb, table: str) -> tuple[int, str]:
    (row,) = questdb.sql.rows(f"select ttlValue, ttlUnit from tables() where table_name = '{table}'")
    return row["ttlValue"], row["ttlUnit"]


def test_committed_tables_sql_is_what_the_declarations_say():
    assert (REPO / "sql" / "tables.sql").read_text(encoding="utf-8") == tables_sql()


def test_every_statement_of_tables_sql_names_a_declared_table():
    assert [s.split("IF NOT EXISTS ")[1].split()[0] for s in statements(tables_sql())] == list(TABLES)


def test_statements_split_only_at_a_semicolon_that_ends_a_line():
    text = "-- materialized; hourly\nselect ';' a;  \n\n-- only a comment;\n\nselect 2\n  -- why\n  from t;\nselect 3"
    assert [s.splitlines()[-1] for s in statements(text)] == ["select ';' a", "  from t", "select 3"]


@given(st.lists(st.text("abc;' ", min_size=1).map(lambda t: f"select {t}x"), max_size=5))
def test_what_was_joined_by_semicolons_at_line_ends_is_split_again(parts):
    assert list(statements("".join(f"{part};\n" for part in parts))) == parts


def test_applying_twice_does_nothing_the_second_time(fresh_tables):
    assert apply_schema(fresh_tables.sql, fresh_tables.config) == []


def test_columns_types_and_dedup_keys_are_as_declared(fresh_tables):
    for table in TABLES.values():
        rows = fresh_tables.sql.rows(f"table_columns('{table.name}')")
        assert [(r["column"], r["type"]) for r in rows] == [(n, s.split()[0]) for n, s, _ in table.sql_columns]
        assert {r["column"] for r in rows if r["upsertKey"]} == set(table.dedup)
        assert [r["column"] for r in rows if r["designated"]] == ["ts_event"]


def test_missing_column_is_added_and_the_rows_are_kept(fresh_tables):
    sql = fresh_tables.sql
    sql.execute("ALTER TABLE trades DROP COLUMN zscore")
    sql.execute(
        "INSERT INTO trades (ts_event, symbol, feed, trade_id, price) VALUES (1785585600000000001, 'A', 'f', 7, 1.5)"
    )
    fresh_tables.wait_applied()
    done = apply_schema(sql, fresh_tables.config)
    assert done[0] == "added column trades.zscore DOUBLE"
    # Dropping a column of their base has invalidated the bars.
    assert [line.split(",")[0] for line in done[1:]] == [f"replaced view bars_{t}" for t in ("1s", "1m", "1h", "1d")]
    assert sql.query("select ts_event, trade_id, zscore from trades").rows == [
        ["2026-08-01T12:00:00.000000001Z", 7, None]
    ]
    assert apply_schema(sql, fresh_tables.config) == []


def test_dropped_dedup_key_is_restored(fresh_tables):
    fresh_tables.sql.execute("ALTER TABLE trades DEDUP ENABLE UPSERT KEYS(ts_event, symbol)")
    fresh_tables.wait_applied()
    assert apply_schema(fresh_tables.sql) == [
        "set dedup keys of trades to ts_event, symbol, feed, exchange, trade_id (were symbol, ts_event)"
    ]
    assert apply_schema(fresh_tables.sql) == []


def test_columns_of_the_users_own_are_left_alone(fresh_tables):
    fresh_tables.sql.execute("ALTER TABLE bars ADD COLUMN note VARCHAR")
    fresh_tables.wait_applied()
    assert apply_schema(fresh_tables.sql) == []
    assert fresh_tables.sql.query("select note from bars").rows == []


@pytest.mark.parametrize(
    ("ddl", "what"),
    [
        (
            "CREATE TABLE gaps (ts_event TIMESTAMP_NS, missing VARCHAR) TIMESTAMP(ts_event) PARTITION BY MONTH WAL",
            "has a column missing of type VARCHAR where LONG is needed",
        ),
        (
            "CREATE TABLE gaps (ts_event TIMESTAMP) TIMESTAMP(ts_event) PARTITION BY MONTH WAL",
            "has a column ts_event of type TIMESTAMP where TIMESTAMP_NS is needed",
        ),
        (
            "CREATE TABLE gaps (ts TIMESTAMP_NS) TIMESTAMP(ts) PARTITION BY MONTH WAL",
            'has the designated timestamp "ts"',
        ),
        ("CREATE TABLE gaps (ts_event TIMESTAMP_NS) TIMESTAMP(ts_event) PARTITION BY MONTH BYPASS WAL", "is not a WAL"),
    ],
)
def test_conflicting_table_is_refused_and_left_as_it_was(fresh_tables, ddl, what):
    sql = fresh_tables.sql
    sql.execute("DROP TABLE gaps")
    sql.execute(ddl)
    before = sql.query("table_columns('gaps')")
    with pytest.raises(DatabaseError) as caught:
        apply_schema(sql)
    assert str(caught.value).startswith(f"table gaps {what}")
    assert sql.query("table_columns('gaps')") == before


def test_column_is_not_added_beside_parquet_partitions(fresh_tables):
    sql = fresh_tables.sql
    sql.execute("ALTER TABLE quotes DROP COLUMN flags")
    for day in (1, 2):
        sql.execute(
            f"INSERT INTO quotes (ts_event, symbol, feed, bid) VALUES ('2026-08-0{day}T12:00:00Z', 'A', 'f', 1.5)"
        )
    sql.execute("ALTER TABLE quotes CONVERT PARTITION TO PARQUET WHERE ts_event < '2026-08-02'")
    fresh_tables.wait_applied()
    with pytest.raises(DatabaseError, match=r"needs the columns flags but 1 of its partitions are Parquet"):
        apply_schema(sql)
    sql.execute("ALTER TABLE quotes CONVERT PARTITION TO NATIVE WHERE ts_event > 0")  # as the error advises
    fresh_tables.wait_applied()
    assert apply_schema(sql) == ["added column quotes.flags INT"]
    assert sql.query("select flags from quotes").rows == [[None], [None]]


def test_retention_becomes_ttl_and_follows_the_configuration(fresh_tables):
    sql = fresh_tables.sql
    assert apply_schema(sql, retention(quotes="30 DAYS")) == ["set TTL of quotes to 30 DAYS (was none)"]
    assert ttl_of(fresh_tables, "quotes") == (30, "DAY")
    assert apply_schema(sql, retention(quotes="30 days")) == []
    assert apply_schema(sql, retention(quotes="2 WEEKS")) == ["set TTL of quotes to 14 DAYS (was 30 DAYS)"]
    assert apply_schema(sql, retention()) == ["set TTL of quotes to none (was 14 DAYS)"]


def test_new_table_is_created_with_its_ttl(fresh_tables):
    fresh_tables.sql.execute("DROP TABLE quotes")
    assert apply_schema(fresh_tables.sql, retention(quotes="7 DAYS")) == ["created table quotes"]
    assert ttl_of(fresh_tables, "quotes") == (1, "WEEK")
    assert apply_schema(fresh_tables.sql, retention(quotes="7 DAYS")) == []


def test_ttl_that_is_no_duration_names_its_key(fresh_tables):
    with pytest.raises(DatabaseError, match=r'retention\.trades is "soon"; write a number'):
        apply_schema(fresh_tables.sql, retention(trades="soon"))


@pytest.fixture
def own_views(tmp_path, monkeypatch) -> Path:
    """An empty folder in place of sql/views."""
    (tmp_path / "views").mkdir()
    monkeypatch.setattr(migrate, "sql_folder", lambda: tmp_path)
    return tmp_path / "views"


def test_views_are_created_in_name_order_and_once(questdb, own_views):
    (own_views / "20_second.sql").write_text("CREATE VIEW IF NOT EXISTS second_v AS (SELECT count() n FROM first_v);\n")
    (own_views / "10_first.sql").write_text(
        "-- materialized\nCREATE MATERIALIZED VIEW IF NOT EXISTS first_v AS (\n"
        "  SELECT ts_event, symbol, last(price) price FROM trades SAMPLE BY 1m\n) PARTITION BY DAY;\n"
    )
    questdb.make_anew()
    try:
        assert {r["table_name"] for r in questdb.sql.rows("tables()")} == {*TABLES, "first_v", "second_v"}
        assert apply_schema(questdb.sql) == []
    finally:
        shutil.rmtree(own_views)
        questdb.make_anew()
    assert {r["table_name"] for r in questdb.sql.rows("tables()")} == set(TABLES)


def test_view_never_refreshes_further_back_than_its_base_keeps_rows(questdb, own_views):
    sampled = "SAMPLE BY {} ) PARTITION BY DAY;\n"
    (own_views / "10.sql").write_text(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS bars_a AS ( SELECT ts_event, symbol, last(price) price FROM trades "
        + sampled.format("1m")
    )
    (own_views / "20.sql").write_text(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS bars_b AS ( SELECT ts_event, symbol, last(price) price FROM bars_a "
        + sampled.format("1h")
    )
    questdb.make_anew()
    try:
        for ttl in ("30 DAYS", "2 WEEKS", "1 MONTH"):
            apply_schema(questdb.sql, retention(trades=ttl))
            assert apply_schema(questdb.sql, retention(trades=ttl)) == []
            limits = questdb.sql.query(
                "select view_name, refresh_limit, refresh_limit_unit from materialized_views() order by 1"
            )
            shortest = [30, "DAY"] if ttl == "30 DAYS" else [2, "WEEK"]
            assert limits.rows == [["bars_a", *shortest], ["bars_b", *shortest]]
    finally:
        shutil.rmtree(own_views)
        questdb.make_anew()


SAMPLED = (
    "CREATE MATERIALIZED VIEW IF NOT EXISTS {} AS (SELECT ts_event, symbol, {}(price) price FROM {} SAMPLE BY {});\n"
)


def test_changed_views_are_replaced_with_those_that_lean_on_them(questdb, own_views):
    sql = questdb.sql
    (own_views / "20.sql").write_text(SAMPLED.format("b", "last", "a", "1h"))
    (own_views / "30.sql").write_text("CREATE VIEW IF NOT EXISTS c AS (SELECT * FROM b);\n")
    for function in ("last", "first"):
        (own_views / "10.sql").write_text(SAMPLED.format("a", function, "trades", "1m"))
        if function == "last":
            questdb.make_anew()
    try:
        assert apply_schema(sql) == [
            "replaced view a, which is defined differently",
            "replaced view b, which leans on a",
        ]
        assert apply_schema(sql) == []
        (own_views / "30.sql").write_text("CREATE VIEW IF NOT EXISTS c AS (SELECT symbol FROM b);\n")
        assert apply_schema(sql) == ["replaced view c, which is defined differently"]
        assert sql.query("c").columns == [("symbol", "SYMBOL")]
        apply_schema(sql, retention(trades="30 DAYS"))
        (own_views / "10.sql").write_text(SAMPLED.format("a", "max", "trades", "1m"))
        (left,) = apply_schema(sql, retention(trades="30 DAYS"))
        assert left.startswith("view a is defined differently, and was left so: it may hold what its base has dropped")
        assert "first(price)" in sql.value("select view_sql from materialized_views() where view_name = 'a'")
    finally:
        shutil.rmtree(own_views)
        questdb.make_anew()


def test_wrong_view_names_its_file(fresh_tables, own_views):
    (own_views / "bad.sql").write_text(
        "CREATE VIEW IF NOT EXISTS ok AS (SELECT 1);\nCREATE VIEW nope AS (SELECT x FROM n);\n"
    )
    with pytest.raises(DatabaseError, match=r"sql/views/bad\.sql, statement 2: table does not exist"):
        apply_schema(fresh_tables.sql)


def test_sql_folder_is_found_beside_the_package_and_inside_an_installed_one(tmp_path):
    assert sql_folder() == REPO / "sql"
    shutil.copytree(REPO / "recorder", tmp_path / "recorder", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "sql", tmp_path / "recorder" / "sql")
    found = subprocess.run(
        [sys.executable, "-c", "from recorder.shell.database.migrate import sql_folder; print(sql_folder())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(tmp_path / "recorder" / "sql")
