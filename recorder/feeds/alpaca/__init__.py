"""Alpaca market data: US stocks and crypto, as JSON or MessagePack.

https://docs.alpaca.markets/docs/streaming-market-data
https://docs.alpaca.markets/docs/real-time-stock-pricing-data
https://docs.alpaca.markets/docs/real-time-crypto-pricing-data
"""

from recorder.feeds.alpaca.session import INFO, Alpaca

__all__ = ["INFO", "Alpaca"]
