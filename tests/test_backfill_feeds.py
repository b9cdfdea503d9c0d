"""Which configured feed `recorder backfill` asks: one whose provider remembers what is wanted."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from recorder.commands import backfill
from recorder.feeds import PROVIDERS, make
from recorder.values.config import Config
from recorder.values.feed import FeedSpec

NEWS = FeedSpec(name="news", provider="alpaca", channels=("news",), symbols=("*",), options={"feed": "news"})
CONTRACTS = FeedSpec(
    name="contracts", provider="alpaca", symbols=("AAPL271217C00150000",), options={"feed": "opra"}
)  # fmt: skip
CHAINS = FeedSpec(
    name="chains", provider="alpaca", channels=("options",), symbols=("SPY",), rest_url="https://own.example"
)  # fmt: skip
STOCKS = FeedSpec(name="stocks", provider="alpaca", symbols=("SPY",), options={"feed": "sip"})
CHARTS = FeedSpec(
    name="charts", provider="yahoo", channels=("bars", "options"), symbols=("SPY",), options={"api": "rest"}
)
PRICES = FeedSpec(name="prices", provider="yahoo", symbols=("SPY",))


def asked(feeds: tuple[FeedSpec, ...], *words: str) -> FeedSpec:
    parser = argparse.ArgumentParser()
    backfill.add(parser.add_subparsers())
    args = parser.parse_args(["backfill", *words, "--from", "2026-11-27"])
    return backfill.spec_of(args, Config(feeds=feeds))


@pytest.mark.parametrize(
    ("feeds", "words", "options", "rest_url"),
    [
        ((CHARTS,), ("yahoo", "AAPL"), {"api": "rest"}, None),
        ((CHARTS,), ("charts",), {"api": "rest"}, None),
        ((PRICES, CHARTS), ("yahoo", "AAPL"), {}, None),
        ((), ("yahoo", "AAPL", "--option", "api=rest"), {"api": "rest"}, None),
        ((NEWS, CONTRACTS, STOCKS), ("alpaca", "AAPL", "--channel", "trades"), {"feed": "sip"}, None),
        ((NEWS,), ("alpaca", "AAPL", "--channel", "quotes"), {}, None),
        ((CHAINS, STOCKS), ("alpaca", "AAPL"), {}, "https://own.example"),
        ((CHAINS,), ("chains",), {}, "https://own.example"),
    ],
)
def test_it_is_the_first_that_has_it(
    feeds: tuple[FeedSpec, ...], words: tuple[str, ...], options: dict[str, str], rest_url: str | None
) -> None:
    spec = asked(feeds, *words)
    channel = words[words.index("--channel") + 1] if "--channel" in words else "bars"
    feed: Any = make(spec)
    assert channel in feed.capability().history_channels
    assert (spec.options, spec.rest_url) == (options, rest_url)
    assert spec.symbols == (("SPY",) if len(words) == 1 else ("AAPL",))


@pytest.mark.parametrize("provider", [name for name in PROVIDERS if name not in ("generic", "fix")])
def test_a_provider_without_such_a_history_is_asked_by_the_feed_there_is(provider: str) -> None:
    spec = asked((), provider, "AAPL", "--channel", "quotes")
    assert (spec.provider, spec.name, spec.symbols) == (provider, f"{provider}-history", ("AAPL",))
    assert spec.channels == PROVIDERS[provider].channels[:1]
