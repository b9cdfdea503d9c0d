"""Who is asked for a provider's past, and by which names."""

from __future__ import annotations

from typing import Any

import pytest

from recorder.commands.past import canonical, historian
from recorder.feeds import PROVIDERS
from recorder.values.errors import ConfigError, SymbolError
from recorder.values.feed import FeedSpec, HistoryRequest

SPELLED = [
    ("alpaca", {}, " brk.b ", "BRK.B"),
    ("alpaca", {"feed": "crypto"}, "btc/usd", "BTC-USD"),
    ("binance", {"market": "spot"}, "btcusdt", "BTC-USDT"),
    ("binance", {"market": "usdm"}, "BTCUSDT", "BTC-USDT-PERP"),
    ("bitstamp", {}, "btcusd", "BTC-USD"),
    ("bybit", {"market": "linear"}, "btcusdt", "BTC-USDT-PERP"),
    ("coinbase", {"api": "exchange"}, "btc-usd", "BTC-USD"),
    ("deribit", {}, "btc-perpetual", "BTC-USD-PERP"),
    ("kraken", {}, "XBT/USD", "BTC-USD"),
    ("okx", {}, "btc-usdt-swap", "BTC-USDT-PERP"),
    ("polygon", {"cluster": "crypto"}, "X:BTC-USD", "BTC-USD"),
    ("polygon", {"cluster": "options"}, "O:AAPL251219C00150000", "AAPL  251219C00150000"),
    ("yahoo", {"api": "stream"}, "brk-b", "BRK.B"),
]


def spec_of(provider: str, options: dict[str, str]) -> FeedSpec:
    return FeedSpec(name=provider, provider=provider, channels=PROVIDERS[provider].channels[:1], options=options)


@pytest.mark.parametrize(("provider", "options", "given", "rows_carry"), SPELLED)
def test_symbols_are_those_that_rows_carry_however_they_are_written(
    provider: str, options: dict[str, str], given: str, rows_carry: str
) -> None:
    assert canonical(spec_of(provider, options), (given, rows_carry), {}) == (rows_carry,)


def test_nobody_is_asked_for_the_past_of_everything() -> None:
    with pytest.raises(SymbolError, match="name each of them"):
        canonical(spec_of("alpaca", {}), ("*",), {})


@pytest.mark.parametrize("api", ["stream", "rest"])
def test_a_feed_whose_options_go_with_the_channel_only_is_asked_all_the_same(api: str) -> None:
    spec, feed = historian(spec_of("yahoo", {"api": api}), "bars", {})
    assert spec.options == {"api": api}
    request = next(feed.history(HistoryRequest("AAPL", "bars", 0, 86_400 * 10**9, timeframe="1d")))
    assert "/v8/finance/chart/AAPL" in request.url


@pytest.mark.parametrize(
    ("provider", "options", "words"),
    [("yahoo", {"api": "nothing"}, 'api is "nothing"|nothing'), ("polygon", {"cluster": "bonds"}, "bonds")],
)
def test_options_that_go_with_nothing_are_refused(provider: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        historian(spec_of(provider, options), "bars", {})
