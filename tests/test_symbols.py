"""Names of instruments: canonical and as providers spell them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.values.errors import SymbolError
from recorder.values.symbols import (
    BINANCE_QUOTE_ASSETS,
    binance_canonical,
    binance_name,
    canonical_pair,
    hashed_id,
    pair_with,
    text_id,
    ticker,
)

BINANCE = [
    ("spot", "BTCUSDT", "BTC-USDT"),
    ("spot", "BTCFDUSD", "BTC-FDUSD"),
    ("spot", "ETHBTC", "ETH-BTC"),
    ("spot", "WBTCBTC", "WBTC-BTC"),
    ("spot", "RENBTCETH", "RENBTC-ETH"),
    ("spot", "USDTTRY", "USDT-TRY"),
    ("spot", "ADAEUR", "ADA-EUR"),
    ("spot", "BTCAEUR", "BTC-AEUR"),
    ("spot", "BNBIDR", "BNB-IDR"),
    ("spot", "BTCTUSD", "BTC-TUSD"),
    ("spot", "GNTBTC", "GNT-BTC"),
    ("spot", "1000SATSUSDT", "1000SATS-USDT"),
    ("usdm", "BTCUSDT", "BTC-USDT-PERP"),
    ("usdm", "ETHBTC", "ETH-BTC-PERP"),
    ("usdm", "币安人生USDT", "币安人生-USDT-PERP"),
    ("usdm", "BTCUSDT_230630", "BTCUSDT_230630"),
    ("usdm", "BTCBUSD_210129", "BTCBUSD_210129"),
    ("coinm", "BTCUSD_PERP", "BTC-USD-PERP"),
    ("coinm", "DOTUSD_PERP", "DOT-USD-PERP"),
    ("coinm", "BTCUSD_211231", "BTCUSD_211231"),
]


@pytest.mark.parametrize(("market", "name", "symbol"), BINANCE)
def test_binance_names_and_canonical_symbols_map_both_ways(market, name, symbol):
    assert binance_canonical(name, market) == symbol
    assert binance_name(symbol, market) == name
    assert binance_name(name.lower(), market) == name


def test_a_name_without_a_known_quote_asset_stays_as_the_provider_writes_it():
    assert binance_canonical("BTCQQQ", "spot") == "BTCQQQ"
    assert binance_canonical("USDT", "spot") == "USDT"
    assert binance_name("BTCQQQ", "spot") == "BTCQQQ"


@given(
    base=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=10),
    quote=st.sampled_from(sorted(BINANCE_QUOTE_ASSETS)),
    market=st.sampled_from(["spot", "usdm"]),
)
def test_every_binance_name_survives_the_way_there_and_back(base, quote, market):
    assert binance_name(binance_canonical(base + quote, market), market) == base + quote


@given(base=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=10))
def test_every_coin_margined_perpetual_survives_the_way_there_and_back(base):
    assert binance_name(binance_canonical(f"{base}USD_PERP", "coinm"), "coinm") == f"{base}USD_PERP"


def test_a_perpetual_is_refused_on_a_spot_feed_with_the_name_to_write():
    with pytest.raises(SymbolError, match=r"BTC-USDT-PERP.*records for example BTC-USDT"):
        binance_name("BTC-USDT-PERP", "spot")


@pytest.mark.parametrize("text", ["", " ", "BTC USDT", "a" * 65, "BTC@trade", "BTC\nUSDT", '"'])
def test_what_no_provider_could_send_is_refused_by_name(text):
    with pytest.raises(SymbolError, match="write for example"):
        binance_name(text, "spot")
    with pytest.raises(SymbolError, match="write for example"):
        ticker(text)


@pytest.mark.parametrize(
    ("pair", "symbol"),
    [
        ("BTC/USD", "BTC-USD"),
        ("XBT/USD", "BTC-USD"),
        ("XDG/USD", "DOGE-USD"),
        ("eth_usdc", "ETH-USDC"),
        ("BTC-USD", "BTC-USD"),
    ],
)
def test_pairs_are_read_in_every_spelling(pair, symbol):
    assert canonical_pair(pair) == symbol
    assert pair_with("/", pair) == symbol.replace("-", "/")


@pytest.mark.parametrize("pair", ["BTCUSD", "", "/", "BTC/", "/USD", "A/B/C"])
def test_a_text_that_is_no_pair_is_refused(pair):
    with pytest.raises(SymbolError, match="BASE-QUOTE"):
        canonical_pair(pair)


def test_tickers_are_upper_case_and_keep_their_class():
    assert [ticker(t) for t in ("aapl", " BRK.B ", "*")] == ["AAPL", "BRK.B", "*"]


def test_hashed_ids_fit_a_database_long_and_are_the_same_in_every_process():
    text = "20f43950-d8dd-5b31-9112-a178eb6023af"
    code = f"from recorder.values.symbols import hashed_id; print(hashed_id({text!r}))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{hashed_id(text)}\n".encode()}


@given(st.text(), st.text())
def test_different_ids_hash_differently_and_never_negatively(a, b):
    assert 0 <= hashed_id(a) < 1 << 63
    assert (hashed_id(a) == hashed_id(b)) == (a == b)


@given(st.integers(0, 10**18 - 1))
def test_a_numeric_id_is_itself(number):
    assert text_id(str(number)) == (number, None)


@pytest.mark.parametrize("text", ["", "007", "1" * 19, "-1", "٣", "20f43950-d8dd", "1e5", "+1"])
def test_an_id_that_is_no_plain_number_is_hashed_and_kept(text):
    assert text_id(text) == (hashed_id(text), text)
