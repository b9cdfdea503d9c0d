"""Alpaca market data: US stocks, crypto and news, as JSON or MessagePack, and US options as MessagePack; option chains.

https://docs.alpaca.markets/docs/streaming-market-data
https://docs.alpaca.markets/docs/real-time-stock-pricing-data
https://docs.alpaca.markets/docs/real-time-crypto-pricing-data
https://docs.alpaca.markets/docs/real-time-option-data
"""

from __future__ import annotations

from collections.abc import Mapping

from recorder.feeds.alpaca.chain import Chains
from recorder.feeds.alpaca.session import INFO, Alpaca, key_headers
from recorder.values.chains import CHANNEL
from recorder.values.feed import FeedSpec

__all__ = ["INFO", "Alpaca", "Chains", "alpaca"]


def alpaca(spec: FeedSpec, credentials: Mapping[str, str] | None = None) -> Alpaca | Chains:
    """What streams, or, for the channel ``options`` alone, what asks. Raises ConfigError, SymbolError."""
    if spec.channels == (CHANNEL,):
        return Chains(INFO, spec, key_headers(credentials or {}))
    return Alpaca(spec, credentials)
