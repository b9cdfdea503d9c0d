"""Alpaca market data: US stocks, crypto and news, as JSON or MessagePack, and US options as MessagePack.

https://docs.alpaca.markets/docs/streaming-market-data
https://docs.alpaca.markets/docs/real-time-stock-pricing-data
https://docs.alpaca.markets/docs/real-time-crypto-pricing-data
https://docs.alpaca.markets/docs/real-time-option-data
"""

from recorder.feeds.alpaca.session import INFO, Alpaca

__all__ = ["INFO", "Alpaca"]
