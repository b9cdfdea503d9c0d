"""Addresses that recordings name → the provider and its options, and other venues that speak a provider's language."""

from __future__ import annotations

# Host of the recorded address → provider and options. REST hosts stand for recordings that hold HTTP answers only.
HOSTS: dict[str, tuple[str, dict[str, str]]] = {
    "stream.binance.com": ("binance", {"market": "spot"}),
    "data-stream.binance.vision": ("binance", {"market": "spot"}),
    "www.binance.com": ("binance", {"market": "spot"}),
    "api.binance.com": ("binance", {"market": "spot"}),
    "stream.binance.us": ("binance", {"market": "spot"}),
    "api.binance.us": ("binance", {"market": "spot"}),
    "fstream.binance.com": ("binance", {"market": "usdm"}),
    "fapi.binance.com": ("binance", {"market": "usdm"}),
    "dstream.binance.com": ("binance", {"market": "coinm"}),
    "dapi.binance.com": ("binance", {"market": "coinm"}),
    "ws-feed.pro.coinbase.com": ("coinbase", {"api": "exchange"}),
    "ws-feed.exchange.coinbase.com": ("coinbase", {"api": "exchange"}),
    "api.pro.coinbase.com": ("coinbase", {"api": "exchange"}),
    "api.exchange.coinbase.com": ("coinbase", {"api": "exchange"}),
    "advanced-trade-ws.coinbase.com": ("coinbase", {"api": "advanced"}),
    "api.coinbase.com": ("coinbase", {"api": "advanced"}),
    "ws.kraken.com": ("kraken", {"api": "v1"}),  # version 2 is served by the same host under a path
    "ws.kraken.com/v2": ("kraken", {}),
    "api.kraken.com": ("kraken", {}),
    "www.deribit.com": ("deribit", {}),
    "test.deribit.com": ("deribit", {}),
    "ws.bitstamp.net": ("bitstamp", {}),
    "www.bitstamp.net": ("bitstamp", {}),
    "stream.bybit.com": ("bybit", {"market": "linear"}),  # before version 5: USDT contracts; others under their paths
    "stream.bybit.com/realtime": ("bybit", {"market": "inverse"}),
    "stream.bybit.com/v5/public/spot": ("bybit", {"market": "spot"}),
    "stream.bybit.com/v5/public/inverse": ("bybit", {"market": "inverse"}),
    "stream.bybit.com/v5/public/option": ("bybit", {"market": "option"}),
    "stream.bybit.com/spot/public/v3": ("bybit", {"market": "spot"}),
    "stream.bybit.com/spot/quote/ws/v1": ("bybit", {"market": "spot"}),
    "stream.bybit.com/spot/quote/ws/v2": ("bybit", {"market": "spot"}),
    "stream.bybit.com/contract/inverse/public/v3": ("bybit", {"market": "inverse"}),
    "stream.bybit.com/option/usdc/public/v3": ("bybit", {"market": "option"}),
    "api.bybit.com": ("bybit", {"market": "linear"}),
    "ws.okx.com": ("okx", {"trades": "aggregated"}),  # single trades are served by the same host under a path
    "ws.okx.com/ws/v5/business": ("okx", {}),
    "ws.okex.com": ("okx", {"trades": "aggregated"}),  # its name until 2022
    "real.okex.com": ("okx", {"trades": "aggregated"}),  # version 3
    "www.okex.com": ("okx", {"trades": "aggregated"}),
    "www.okx.com": ("okx", {"trades": "aggregated"}),
    "real.okcoin.com": ("okx", {"trades": "aggregated"}),
    "www.okcoin.com": ("okx", {"trades": "aggregated"}),
}
HOSTS |= {
    f"{host}.{company}/{cluster}": ("polygon", {"cluster": cluster})
    for host in ("socket", "delayed")
    for company in ("massive.com", "polygon.io")
    for cluster in ("stocks", "options", "crypto")
}
HOSTS |= {
    f"stream.data.{sandbox}alpaca.markets/{version}/{feed}": ("alpaca", {"feed": feed})
    for sandbox in ("", "sandbox.")
    for version, feeds in {
        "v2": ("iex", "sip", "delayed_sip", "test"),
        "v1beta1": ("boats", "overnight", "opra", "indicative", "news"),
    }.items()
    for feed in feeds
}
HOSTS |= {
    f"stream.data.{sandbox}alpaca.markets/v1beta3/crypto/{location}": ("alpaca", {"feed": "crypto"} | more)
    for sandbox in ("", "sandbox.")
    for location, more in {"us": {}, **{name: {"location": name} for name in ("us-1", "us-2", "eu-1", "bs-1")}}.items()
}
HOSTS["streamer.finance.yahoo.com"] = ("yahoo", {})

# Hosts of other venues that speak a provider's language → the end of the feed's name and its address: their trades and
# ids are not those of the provider's own exchange, and rows of both under one name would be wrong.
VENUES: dict[str, tuple[str, str]] = {
    "stream.binance.us": ("us", "wss://stream.binance.us:9443"),
    "api.binance.us": ("us", "wss://stream.binance.us:9443"),
    "real.okcoin.com": ("okcoin", "wss://real.okcoin.com:8443/ws/v5/public"),
    "www.okcoin.com": ("okcoin", "wss://real.okcoin.com:8443/ws/v5/public"),
    "test.deribit.com": ("test", "wss://test.deribit.com/ws/api/v2"),
}
