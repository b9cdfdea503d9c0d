"""Binance: spot, USD-M and COIN-M futures, public market streams.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
https://developers.binance.com/docs/derivatives/coin-margined-futures/websocket-market-streams
"""

from recorder.feeds.binance.session import INFO, MARKET_OF_HOST, Binance

__all__ = ["INFO", "MARKET_OF_HOST", "Binance"]
