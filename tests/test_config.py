from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.values.config import Config, KernelsConfig, build, credentials, load
from recorder.values.config_check import ttl
from recorder.values.errors import ConfigError
from recorder.values.feed import ProviderInfo
from recorder.values.tables import TABLES

REPO = Path(__file__).resolve().parent.parent
TRADES_QUOTES = ("trades", "quotes")
PROVIDERS = {
    info.name: info
    for info in (
        ProviderInfo(name="coinbase", channels=TRADES_QUOTES, options={"api": ("exchange", "advanced")}),
        ProviderInfo(name="binance", channels=TRADES_QUOTES, options={"market": ("spot", "usdm", "coinm")}),
        ProviderInfo(name="kraken", channels=TRADES_QUOTES),
        ProviderInfo(
            name="alpaca",
            channels=("trades", "quotes", "bars", "statuses"),
            options={"feed": ("iex", "sip"), "format": ("msgpack", "json"), "location": ("us", "eu-1")},
            credentials=("APCA_API_KEY_ID", "APCA_API_SECRET_KEY"),
        ),
    )
}
Read = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str = "", env: dict[str, str] | None = None) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load(path, env or {}, PROVIDERS)

    return read


def feed(**changes: Any) -> str:
    """A [[feeds]] entry in TOML; None leaves a key out."""
    entry = {"name": "cb", "provider": "coinbase", "symbols": ["BTC-USD"], **changes}
    return "[[feeds]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in entry.items() if v is not None)


def problems(read: Read, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, env)
    return str(caught.value).splitlines()


# What is read


def test_shipped_file_states_every_default_and_nothing_else() -> None:
    document = tomllib.loads((REPO / "config.toml").read_text())
    config = load(REPO / "config.toml", {}, PROVIDERS)
    for section in ("journal", "questdb", "batch", "kernels", "schedule", "log", "metrics"):
        written = document[section]
        fields = type(getattr(config, section)).__struct_fields__
        assert set(written) == set(fields) - {"password"}, section
        empty = build({}, {}, PROVIDERS, base=REPO, source="config.toml")
        assert getattr(config, section) == getattr(empty, section), section
    assert document["retention"] == dict.fromkeys(TABLES, "forever")


def test_shipped_file_records_three_exchanges_around_the_clock_and_alpaca_on_market_hours() -> None:
    feeds = {f.provider: f for f in load(REPO / "config.toml", {}, PROVIDERS).feeds}
    assert {name: f.schedule for name, f in feeds.items()} == {
        "coinbase": "24/7", "kraken": "24/7", "binance": "24/7", "alpaca": None,
    }  # fmt: skip
    assert feeds["alpaca"].options["feed"] == "iex"


def test_shipped_file_explains_every_key() -> None:
    for line in (REPO / "config.toml").read_text().split("# Feeds.")[0].splitlines():
        if "=" in line and not line.startswith(("#", "[")):
            assert "#" in line, line


def test_relative_paths_start_at_the_folder_of_the_file(read: Read, tmp_path: Path) -> None:
    config = read('[journal]\ndir = "data/journal"\n[log]\ndir = "/var/log/recorder"')
    assert config.journal.dir == tmp_path / "data/journal"
    assert config.questdb.dir == tmp_path / "questdb"
    assert config.log.dir == Path("/var/log/recorder")


def test_paths_of_a_file_elsewhere_start_at_the_base_that_is_given(tmp_path: Path) -> None:
    assert load(REPO / "config.toml", {}, PROVIDERS, base=tmp_path).journal.dir == tmp_path / "journal"


def test_feed_entry_becomes_a_spec_with_the_defaults_of_its_options(read: Read) -> None:
    (spec,) = read(feed(name="al", provider="alpaca", channels=["bars"], format="json", schedule="XNYS")).feeds
    assert (spec.name, spec.provider, spec.channels, spec.symbols) == ("al", "alpaca", ("bars",), ("BTC-USD",))
    assert spec.options == {"feed": "iex", "format": "json", "location": "us"}
    assert spec.schedule == "XNYS"


def test_disabled_feed_is_left_out_but_still_checked(read: Read) -> None:
    assert read(feed(enabled=False)).feeds == ()
    assert "feeds[0].symbols is []" in problems(read, feed(enabled=False, symbols=[]))[0]


def test_embedded_server_is_addressed_by_its_port(read: Read) -> None:
    questdb = read("[questdb]\nhttp_port = 29000").questdb
    assert (questdb.ilp, questdb.sql) == ("http::addr=127.0.0.1:29000;", "http://127.0.0.1:29000")


def test_server_elsewhere_keeps_the_addresses_written(read: Read) -> None:
    text = '[questdb]\nembedded = false\nilp = "https::addr=db:9000;tls_verify=on;"\nsql = "https://db:9000"'
    assert read(text).questdb.ilp == "https::addr=db:9000;tls_verify=on;"
    assert read(text).questdb.sql == "https://db:9000"


def test_padded_option_symbol_may_hold_spaces(read: Read) -> None:
    occ = "AAPL  260116C00150000"
    assert read(feed(symbols=[occ])).feeds[0].symbols == (occ,)


# What the environment overrides


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("RECORDER_BATCH_WINDOW_MS", "20", "batch", "window_ms", 20),
        ("RECORDER_KERNELS_OUTLIER_SIGMA", "7", "kernels", "outlier_sigma", 7.0),
        ("RECORDER_QUESTDB_EMBEDDED", "true", "questdb", "embedded", True),
        ("RECORDER_METRICS_ENABLED", "0", "metrics", "enabled", False),
        ("RECORDER_SCHEDULE_CALENDAR", "24/7", "schedule", "calendar", "24/7"),
        ("RECORDER_LOG_LEVEL", "debug", "log", "level", "debug"),
    ],
)
def test_environment_overrides_the_file_with_its_own_type(
    read: Read, variable: str, text: str, section: str, key: str, value: object
) -> None:
    found = getattr(getattr(read("[batch]\nwindow_ms = 7", {variable: text}), section), key)
    assert found == value
    assert type(found) is type(value)


def test_path_from_the_environment_starts_at_the_folder_of_the_file_too(read: Read, tmp_path: Path) -> None:
    assert read("", {"RECORDER_JOURNAL_DIR": "j"}).journal.dir == tmp_path / "j"


def test_retention_of_a_table_can_be_overridden(read: Read) -> None:
    config = read('[retention]\ntrades = "1 YEAR"', {"RECORDER_RETENTION_QUOTES": "30d"})
    assert config.retention == {"trades": "1 YEARS", "quotes": "30 DAYS"}


def test_feeds_from_the_environment_replace_those_of_the_file(read: Read) -> None:
    env = {"RECORDER_FEEDS": '[{"name": "k", "provider": "kraken", "symbols": ["BTC-USD"]}]'}
    assert [f.name for f in read(feed(), env).feeds] == ["k"]
    assert problems(read, "", {"RECORDER_FEEDS": "cb"})[0].startswith("environment: RECORDER_FEEDS is not JSON")
    assert "RECORDER_FEEDS[0].symbols is missing" in problems(read, "", {"RECORDER_FEEDS": '[{"name": "k"}]'})[1]


def test_variables_of_no_section_are_ignored(read: Read) -> None:
    assert read("", {"RECORDER_PORT": "tcp://10.0.0.1:80", "RECORDER_SERVICE_HOST": "10.0.0.1"}).batch.window_ms == 5


def test_misspelt_variable_of_a_section_is_named(read: Read) -> None:
    (text,) = problems(read, "", {"RECORDER_BATCH_WINDOW": "5"})
    assert "RECORDER_BATCH_WINDOW overrides nothing" in text
    assert "did you mean window_ms?" in text


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[journl]", "config.toml: [journl] is not a section; did you mean journal?"),
        ("[journal]\nsegmentmb = 1", "config.toml: journal.segmentmb is not a key; did you mean segment_mb? known: "),
        ("journal = 5", "config.toml: journal is 5; expected a section [journal]"),
        ('[journal]\nsegment_mb = "64"', 'journal.segment_mb is "64"; expected a whole number from 1 to 4096'),
        ("[journal]\nsegment_mb = 1.5", "journal.segment_mb is 1.5; expected a whole number from 1 to 4096"),
        ("[journal]\nsegment_mb = true", "journal.segment_mb is true; expected a whole number"),
        ("[journal]\nkeep_gb = nan", "journal.keep_gb is NaN; expected a number from 0 to 1000000"),
        ("[journal]\nkeep_gb = inf", "journal.keep_gb is Infinity; expected a number from 0"),
        ("[journal]\ndir = 5", "journal.dir is 5; expected a path in quotes"),
        ("[journal]\nretain_below_gb = 0.1", "pause_below_gb is 0.5; expected at most journal.retain_below_gb, 0.1"),
        ("[journal]\npause_below_gb = -1", "journal.pause_below_gb is -1; expected a number from 0"),
        ('[journal]\nretain_below_gb = "2"', 'journal.retain_below_gb is "2"; expected a number'),
        ("[questdb]\nembedded = 1", "questdb.embedded is 1; expected true or false"),
        ('[questdb]\nprefix = "a;drop"', 'questdb.prefix is "a;drop"; expected a text in quotes of small letters'),
        ('[questdb]\nprefix = "a\\n"', "questdb.prefix is"),
        ('[questdb]\nencoder = "rust"', 'questdb.encoder is "rust"; expected one of "numba", "client"'),
        ("[questdb]\nhttp_port = 0", "questdb.http_port is 0; expected a whole number from 1 to 65535"),
        ("[questdb]\npg_port = 65536", "questdb.pg_port is 65536; expected a whole number from 1 to 65535"),
        ("[questdb]\npg_port = 9000", "questdb.pg_port is 9000, as is questdb.http_port; each needs its own port"),
        ("[metrics]\nport = 8812", "metrics.port is 8812, as is questdb.pg_port"),
        ("[kernels]\nzscore_window = 1", "kernels.zscore_window is 1; expected a whole number from 2 to 100000"),
        ("[kernels]\nzscore_window = 10", "kernels.min_samples is 20; expected at most kernels.zscore_window, 10"),
        ("[kernels]\noutlier_sigma = 0", "kernels.outlier_sigma is 0; expected a number above 0 up to 1000"),
        ('[schedule]\ncalendar = "xnys"', 'schedule.calendar is "xnys"; did you mean XNYS? known: 24/7 and the MICs'),
        ('[schedule]\nsession = "pre"', 'schedule.session is "pre"; expected one of "extended", "regular"'),
        ('[retention]\ntrads = "1d"', "retention.trads is not a table; did you mean trades?"),
        ('[retention]\ntrades = "36 HOURS"', 'retention.trades is "36 HOURS"; this table keeps whole days'),
        ('[retention]\nbars = "90 DAYS"', 'retention.bars is "90 DAYS"; this table keeps whole months'),
        ("[retention]\nbars = 90", 'retention.bars is 90; expected "forever" or a text such as "12 MONTHS"'),
        ("feeds = 1", "feeds is 1; expected a list"),
        ("feeds = [1]", "feeds[0] is 1; expected name, provider, channels and symbols"),
        (feed(name="a b"), 'feeds[0].name is "a b"; expected 1 to 64 letters'),
        (feed(name=None), "feeds[0].name is missing"),
        (feed() + feed(), 'feeds[1].name is "cb", as is feeds[0].name; choose another'),
        (feed() + feed(name="b", provider="binanse"), 'feeds[1].provider is "binanse"; did you mean binance? known: '),
        (feed(provider=None), "feeds[0].provider is missing; known: alpaca, binance, coinbase, kraken"),
        (feed(provider=3), "feeds[0].provider is 3; known: alpaca"),
        (feed(simbols=["A"]), "feeds[0].simbols is not a key of a coinbase feed; did you mean symbols?"),
        (feed(api="advancd"), 'feeds[0].api is "advancd"; did you mean advanced? known: advanced, exchange'),
        (feed(market="spot"), "feeds[0].market is not a key of a coinbase feed"),
        (feed(channels=["bars"]), 'feeds[0].channels holds "bars", which coinbase does not have'),
        (feed(channels=[]), "feeds[0].channels is []; expected a list of texts, at least one"),
        (feed(symbols=None), "feeds[0].symbols is missing"),
        (feed(symbols="BTC-USD"), 'feeds[0].symbols is "BTC-USD"; expected a list of texts'),
        (feed(symbols=["A", "A"]), 'feeds[0].symbols holds "A" twice; remove one'),
        (feed(symbols=["A B"]), 'feeds[0].symbols holds "A B"; expected 1 to 128 characters without spaces'),
        (feed(symbols=["A\nB"]), 'feeds[0].symbols holds "A\\nB"'),
        (feed(symbols=[""]), 'feeds[0].symbols holds ""'),
        (feed(symbols=["A" * 129]), "feeds[0].symbols holds"),
        (feed(enabled="no"), 'feeds[0].enabled is "no"; expected true or false'),
        (feed(schedule="xlon"), 'feeds[0].schedule is "xlon"; did you mean XLON?'),
        (feed(url="https://example.com"), "feeds[0].url begins with https://; expected wss://"),
        (feed(url="ws://example.com/x"), "feeds[0].url is ws://example.com, unencrypted; write wss://"),
        (feed(url="wss://"), "feeds[0].url does not fit; expected wss://HOST[:PORT][/PATH]"),
        (feed(url="wss://h:99999/"), "feeds[0].url does not fit"),
        (feed(rest_url="http://example.com"), "feeds[0].rest_url is http://example.com, unencrypted; write https://"),
    ],
)  # fmt: skip
def test_refusal_names_key_value_and_what_is_expected(read: Read, text: str, message: str) -> None:
    found = problems(read, text)
    assert len(found) == 1
    assert message in found[0]
    assert found[0].startswith("config.toml: ")


def test_all_problems_are_reported_at_once(read: Read) -> None:
    text = "[journal]\nfsync_ms = 0\n[log]\nlevle = 1\n" + feed(symbols=[], api="x")
    found = problems(read, text, {"RECORDER_BATCH_WINDOW_MS": "five"})
    keys = ("journal.fsync_ms", "RECORDER_BATCH_WINDOW_MS", "log.levle", "feeds[0].symbols", "feeds[0].api")
    assert len(found) == len(keys)
    for key in keys:
        assert any(f" {key} " in line for line in found), key


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "[::1]"])
def test_unencrypted_address_of_this_machine_is_allowed(read: Read, host: str) -> None:
    assert read(feed(url=f"ws://{host}:20001/feed", rest_url=f"http://{host}:20002")).feeds[0].url is not None


@pytest.mark.parametrize("host", ["localhost.example.com", "127.0.0.1.example.com", "0.0.0.0", "10.0.0.1", "[::2]"])
def test_unencrypted_address_of_another_machine_is_refused(read: Read, host: str) -> None:
    assert "unencrypted" in problems(read, feed(url=f"ws://{host}:20001/feed"))[0]


@pytest.mark.parametrize("what", ["[journal\n", 'x = "\udcff"', "a = 1\na = 2\n"])
def test_file_that_is_not_toml_says_where(tmp_path: Path, what: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(what.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"^mine\.toml: cannot be read: .*(line|position).*; the file is /"):
        load(path, {}, PROVIDERS)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", {}, PROVIDERS)


# Secrets

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f'[questdb]\npassword = "{SECRET}"',
        f'[questdb]\ntoken = "{SECRET}"',
        f'[metrics]\napi_key = "{SECRET}"',
        f'[journal]\nsecret = "{SECRET}"',
        feed(key=SECRET),
        feed(provider="alpaca", APCA_API_SECRET_KEY=SECRET),
        feed(url=f"wss://user:{SECRET}@example.com/"),
        feed(url=f"wss://example.com/?token={SECRET}"),
        feed(rest_url=f"https://example.com/?apiKey={SECRET}"),
        f'[questdb]\nilp = "http::addr=h:9000;username=u;password={SECRET};"',
        f'[questdb]\nsql = "http://u:{SECRET}@h:9000"',
    ],
)
def test_secret_in_the_file_is_refused_without_repeating_it(read: Read, text: str) -> None:
    found = problems(read, text)
    assert len(found) == 1
    assert SECRET not in found[0]


def test_refusal_of_a_secret_says_where_it_belongs(read: Read) -> None:
    assert "RECORDER_QUESTDB_PASSWORD in the environment" in problems(read, '[questdb]\npassword = "x"')[0]
    (text,) = problems(read, feed(provider="alpaca", key="x"))
    assert "set APCA_API_KEY_ID, APCA_API_SECRET_KEY in the environment" in text


def test_database_password_comes_from_the_environment_and_is_never_printed(read: Read, tmp_path: Path) -> None:
    assert read("", {"RECORDER_QUESTDB_PASSWORD": SECRET}).questdb.password == SECRET
    (tmp_path / "pw").write_text(SECRET + "\n")
    config = read("", {"RECORDER_QUESTDB_PASSWORD_FILE": str(tmp_path / "pw")})
    assert config.questdb.password == SECRET
    assert SECRET not in repr(config)
    assert SECRET not in str(config.questdb.__rich_repr__())


def test_credentials_come_from_variables_or_files_and_absent_ones_are_left_out(tmp_path: Path) -> None:
    info = PROVIDERS["alpaca"]
    (tmp_path / "secret").write_text("  s3cret\n")
    env = {"APCA_API_KEY_ID": "id", "APCA_API_SECRET_KEY_FILE": str(tmp_path / "secret")}
    assert credentials(info, env) == {"APCA_API_KEY_ID": "id", "APCA_API_SECRET_KEY": "s3cret"}
    assert credentials(info, {"APCA_API_KEY_ID": "id", "APCA_API_SECRET_KEY": ""}) == {"APCA_API_KEY_ID": "id"}
    assert credentials(PROVIDERS["kraken"], env) == {}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"APCA_API_KEY_ID": SECRET, "APCA_API_KEY_ID_FILE": "/x"}, "both APCA_API_KEY_ID and APCA_API_KEY_ID_FILE"),
        ({"APCA_API_KEY_ID_FILE": "/nowhere/key"}, "'/nowhere/key', which cannot be read: No such file"),
        ({"APCA_API_KEY_ID_FILE": "/dev/zero"}, "longer than 65536 bytes"),
        ({"APCA_API_KEY_ID": f"{SECRET}\r\nHost: x"}, "holds control characters"),
    ],
)
def test_unusable_credentials_are_refused_without_repeating_them(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        credentials(PROVIDERS["alpaca"], env)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


# Retention: the server's rule is that a TTL is a whole multiple of the partition.


@pytest.mark.parametrize(
    ("text", "partition", "sql"),
    [
        ("90 DAYS", "DAY", "90 DAYS"),
        ("90d", "DAY", "90 DAYS"),
        ("1 week", "DAY", "1 WEEKS"),
        ("48 hours", "DAY", "48 HOURS"),
        ("3 Months", "MONTH", "3 MONTHS"),
        ("2y", "MONTH", "2 YEARS"),
        ("forever", "MONTH", None),
    ],
)
def test_retention_is_written_as_the_server_wants_it(text: str, partition: str, sql: str | None) -> None:
    assert ttl(text, partition) == sql


@pytest.mark.parametrize(
    ("text", "partition"),
    [("36 HOURS", "DAY"), ("90 DAYS", "MONTH"), ("4 WEEKS", "MONTH"), ("0 DAYS", "DAY"), ("-1 DAYS", "DAY"),
     ("DAYS", "DAY"), ("1.5 DAYS", "DAY"), ("1 DAYS; DROP TABLE trades", "DAY"), ("", "DAY"), ("for ever", "DAY")],
)  # fmt: skip
def test_retention_that_the_server_would_refuse_is_refused_here(text: str, partition: str) -> None:
    with pytest.raises(ValueError, match=r"expected|whole"):
        ttl(text, partition)


# Anything at all

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    ["dir", "http_port", "calendar", "trades", "name", "provider", "symbols", "url", "api", "schedule"]
)
_FEED = st.dictionaries(_KEYS | st.text(max_size=6), _VALUES | st.sampled_from(["coinbase", "24/7"]), max_size=6)
_SECTION_NAMES = st.sampled_from(["journal", "questdb", "batch", "kernels", "schedule", "retention", "log", "metrics"])
_DOCUMENTS = st.dictionaries(
    _SECTION_NAMES | st.text(max_size=6), _VALUES | st.dictionaries(_KEYS | st.text(max_size=6), _VALUES, max_size=4)
)


@given(document=_DOCUMENTS, feeds=st.lists(_FEED, max_size=3) | _VALUES)
def test_any_document_is_read_or_refused_in_words(document: dict[str, Any], feeds: Any) -> None:
    text = "config.toml: "
    try:
        config = build({**document, "feeds": feeds}, {}, PROVIDERS, base=Path("/base"), source="config.toml")
    except ConfigError as error:
        text = str(error)
    else:
        assert config.journal.dir.is_absolute()
    assert all(line.startswith("config.toml: ") for line in text.splitlines())


@given(window=st.integers(-10, 200_000), least=st.integers(-10, 200_000))
def test_accepted_windows_always_hold_the_samples_they_need(window: int, least: int) -> None:
    document = {"kernels": {"zscore_window": window, "min_samples": least, "size_window": window}}
    try:
        kernels: KernelsConfig = build(document, {}, {}, base=Path("/"), source="c").kernels
    except ConfigError:
        assert not 2 <= least <= window <= 100_000
    else:
        assert 2 <= kernels.min_samples <= min(kernels.zscore_window, kernels.size_window) <= 100_000
