"""Feeds to be fuzzed: the frames that get damaged, and good ones whose rows must come out whatever lies around them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from recorder.core.frames import BINARY, TEXT
from recorder.values.feed import FeedSpec

START = 1_790_000_000  # s; receive times are after all times in the frames


@dataclass(frozen=True)
class Case:
    """A feed, the frames that get damaged, and a good trade with a number of its own, on a symbol of its own."""

    spec: FeedSpec
    templates: tuple[bytes, ...]
    good: Callable[[int], bytes]
    symbol: str
    kind: int = TEXT


def rfc3339(number: int) -> str:
    return f"2026-09-{1 + number // 86_400:02d}T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.5Z"


def objects(*messages: dict[str, object]) -> tuple[bytes, ...]:
    return tuple(json.dumps(message, separators=(",", ":")).encode() for message in messages)


def binance(market: str, base: str) -> Case:
    perpetual = market == "usdm"

    def enveloped(stream: str, **data: object) -> dict[str, object]:
        return {"stream": stream, "data": data}

    def good(number: int) -> bytes:
        ts = START * 1000 + number
        data = {"e": "trade", "E": ts, "s": f"{base}USDT", "t": number, "p": "1.5", "q": "2", "T": ts}
        return msgspec.json.encode(enveloped(f"{base.lower()}usdt@trade", **data, m=number % 2 == 0, M=True))

    bar = {
        "t": 1638747600000, "T": 1638747659999, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "0.0010",
        "c": "0.0020", "h": "0.0025", "l": "0.0010", "v": "1000", "n": 100, "x": True, "q": "1.5", "V": "500",
        "Q": "0.500", "B": "123456",
    }  # fmt: skip
    quote = {"u": 2710246762461, "s": "BTCUSDT", "b": "28145.10", "B": "3.868", "a": "28145.20", "A": "6.887"}
    symbol, trade = {"s": "BTCUSDT"}, {"p": "0.001", "q": "100"}
    stamp, taken = {"T": 1672515782136}, {"m": True}
    spot = objects(  # in the order of the wire
        enveloped("btcusdt@trade", e="trade", E=1672515782136, **symbol, t=12345, **trade, **stamp, **taken, M=True),
        enveloped(
            "btcusdt@aggTrade", e="aggTrade", E=1672515782136, **symbol, a=5, **trade, f=1, l=2, **stamp, **taken
        ),
        enveloped("btcusdt@bookTicker", **quote),
    )
    futures = objects(
        enveloped(
            "btcusdt@trade", e="trade", E=1672515782136, **stamp, **symbol, t=12345, **trade, X="MARKET", **taken
        ),
        enveloped(
            "btcusdt@aggTrade", e="aggTrade", E=1672515782136, a=5, **symbol, **trade, f=1, l=2, **stamp, **taken
        ),
        enveloped("btcusdt@bookTicker", e="bookTicker", **quote, T=1680652700430, E=1680652700435),
    )
    templates = (futures if perpetual else spot) + objects(
        enveloped("btcusdt@kline_1m", e="kline", E=1638747660000, s="BTCUSDT", k=bar),
        enveloped("btcusdt@depth@100ms", e="depthUpdate", E=1, s="BTCUSDT", U=157, u=160, b=[["1", "2"]], a=[]),
        {"result": None, "id": 1},
    )
    spec = FeedSpec(name=f"binance-{market}", provider="binance", options={"market": market})
    return Case(spec, templates, good, f"{base}-USDT-PERP" if perpetual else f"{base}-USDT")


def coinbase_exchange() -> Case:
    match = {
        "type": "match", "trade_id": 10, "sequence": 50, "maker_order_id": "a", "taker_order_id": "b",
        "time": "2014-11-07T08:19:27.028459Z", "product_id": "BTC-USD", "size": "5.23512", "price": "400.23",
        "side": "sell",
    }  # fmt: skip

    def good(number: int) -> bytes:
        return objects({**match, "product_id": "ZRX-EUR", "trade_id": number, "time": rfc3339(number)})[0]

    templates = objects(
        match,
        {**match, "type": "last_match"},
        {
            "type": "ticker", "sequence": 5, "product_id": "BTC-USD", "price": "17165.16", "best_bid": "17165.15",
            "best_bid_size": "0.6", "best_ask": "17167.76", "best_ask_size": "0.1", "side": "sell",
            "time": "2022-12-01T00:00:00.122581Z", "trade_id": 463751434, "last_size": "0.05",
        },
        {
            "type": "heartbeat", "last_trade_id": 278953096, "product_id": "BTC-USD", "sequence": 29716844241,
            "time": "2022-05-20T21:22:34.751219Z",
        },
        {"type": "l2update", "product_id": "BTC-USD", "time": "2019-08-14T20:42:27.265Z", "changes": []},
        {"type": "subscriptions", "channels": [{"name": "matches", "product_ids": ["BTC-USD"]}]},
    )  # fmt: skip
    return Case(FeedSpec(name="coinbase", provider="coinbase"), templates, good, "ZRX-EUR")


def coinbase_advanced() -> Case:
    trade = {
        "trade_id": "995098700", "product_id": "BTC-USD", "price": "68900.50", "size": "0.00150000", "side": "BUY",
        "time": "2026-04-07T14:30:02.789012Z",
    }  # fmt: skip

    def frame(channel: str, **event: object) -> dict[str, object]:
        stamp = "2026-04-07T14:30:02.789012Z"
        return {"channel": channel, "client_id": "", "timestamp": stamp, "sequence_num": 5, "events": [event]}

    def good(number: int) -> bytes:
        item = {**trade, "product_id": "ZRX-EUR", "trade_id": str(number), "time": rfc3339(number)}
        return objects(frame("market_trades", type="update", trades=[item]))[0]

    candle = {
        "start": "1775521800", "high": "68950.00", "low": "68850.00", "open": "68900.00", "close": "68920.50",
        "volume": "42.15000000", "product_id": "BTC-USD",
    }  # fmt: skip
    ticker = {
        "type": "ticker", "product_id": "BTC-USD", "price": "68900.50", "best_bid": "68900.00",
        "best_bid_quantity": "1.5", "best_ask": "68901.00", "best_ask_quantity": "0.5",
    }  # fmt: skip
    templates = objects(
        frame("market_trades", type="update", trades=[trade, {**trade, "trade_id": "995098701"}]),
        frame("ticker", type="snapshot", tickers=[ticker]),
        frame("candles", type="update", candles=[candle]),
        frame("heartbeats", current_time="2026-04-07 14:30:10.000000000+00:00", heartbeat_counter=42),
    )
    spec = FeedSpec(name="coinbase-advanced", provider="coinbase", options={"api": "advanced"})
    return Case(spec, templates, good, "ZRX-EUR")


def kraken() -> Case:
    trade = {
        "symbol": "MATIC/USD", "side": "sell", "price": 0.5117, "qty": 40.0, "ord_type": "market", "trade_id": 4665906,
        "timestamp": "2023-09-25T07:49:37.708706Z",
    }  # fmt: skip
    ticker = {
        "symbol": "BTC/USD", "bid": 99.9, "bid_qty": 1.2, "ask": 100.1, "ask_qty": 2.3,
        "timestamp": "2026-07-10T00:00:02.123456Z",
    }  # fmt: skip
    bar = {
        "symbol": "BTC/USD", "interval": 1, "interval_begin": "2023-10-04T16:25:00.000000000Z", "open": 106038.2,
        "high": 106044.3, "low": 106038.1, "close": 106040.1, "volume": 30927.68, "vwap": 106039.6, "trades": 12,
    }  # fmt: skip

    def good(number: int) -> bytes:
        item = {**trade, "symbol": "ZRX/EUR", "trade_id": number, "timestamp": rfc3339(number)}
        return objects({"channel": "trade", "type": "update", "data": [item]})[0]

    templates = objects(
        {"channel": "trade", "type": "snapshot", "data": [trade, {**trade, "trade_id": 4665907}]},
        {"channel": "ticker", "type": "update", "data": [ticker]},
        {"channel": "ohlc", "type": "update", "data": [bar]},
        {"channel": "status", "type": "update", "data": [{"system": "online", "api_version": "v2"}]},
        {"channel": "heartbeat"},
    )
    version1 = b'[993,[["354.04000000","0.28245396","1618678150.826417","s","m",""]],"trade","XMR/USD"]'
    return Case(FeedSpec(name="kraken", provider="kraken"), (*templates, version1), good, "ZRX-EUR")


def bitstamp() -> Case:
    trade = {
        "id": 298239842, "timestamp": "1695628177", "amount": 0.0144, "amount_str": "0.01440000", "price": 26242,
        "price_str": "26242", "type": 0, "microtimestamp": "1695628177123000", "buy_order_id": 1, "sell_order_id": 2,
    }  # fmt: skip
    book = {
        "timestamp": "1617654352", "microtimestamp": "1617654352439583", "bids": [["0.42476", "3000.00000000"]],
        "asks": [["0.42555", "4974.33747917"]],
    }  # fmt: skip

    def good(number: int) -> bytes:
        item = {**trade, "id": number, "microtimestamp": str(START * 10**6 + number)}
        return objects({"event": "trade", "channel": "live_trades_zrxeur", "data": item})[0]

    templates = objects(
        {"event": "trade", "channel": "live_trades_btcusd", "data": trade},
        {"data": book, "channel": "order_book_xlmeur", "event": "data"},
        {"data": book, "channel": "diff_order_book_xlmeur", "event": "data"},
        {"event": "bts:subscription_succeeded", "channel": "live_trades_btcusd", "data": {}},
        {"event": "bts:heartbeat", "channel": "", "data": {"status": "success"}},
    )
    return Case(FeedSpec(name="bitstamp", provider="bitstamp"), templates, good, "ZRX-EUR")


def okx() -> Case:
    def frame(channel: str, name: str, *data: object) -> dict[str, object]:
        return {"arg": {"channel": channel, "instId": name}, "data": data}

    trade = {
        "instId": "BTC-USDT", "tradeId": "130639474", "px": "42219.9", "sz": "0.12060306", "side": "buy",
        "source": "0", "ts": "1630048897897",
    }  # fmt: skip
    best = {
        "asks": [["8476.98", "415", "0", "13"]], "bids": [["8476.97", "256", "0", "12"]], "ts": "1597026383085",
        "seqId": 123456,
    }  # fmt: skip
    candle = ["1597026383085", "8533.02", "8553.74", "8527.17", "8548.26", "45247", "529.58", "5529.58", "1"]

    def good(number: int) -> bytes:
        item = {**trade, "instId": "ZRX-EUR", "tradeId": str(number), "ts": str(START * 1000 + number)}
        return objects(frame("trades-all", "ZRX-EUR", item))[0]

    templates = objects(
        frame("trades-all", "BTC-USDT", trade),
        frame("bbo-tbt", "BTC-USDT", best),
        frame("candle1m", "BTC-USDT", candle),
        {"id": "1512", "event": "subscribe", "arg": {"channel": "trades", "instId": "BTC-USDT"}, "connId": "a4d3ae55"},
    )
    return Case(FeedSpec(name="okx", provider="okx"), (*templates, b"pong"), good, "ZRX-EUR")


def bybit() -> Case:
    trade = {
        "T": 1672304486865, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "L": "PlusTick",
        "i": "20f43950-d8dd-5b31-9112-a178eb6023af", "BT": False, "seq": 1783284617,
    }  # fmt: skip
    book = {"s": "BTCUSDT", "b": [["0.6131", "17.9"]], "a": [["0.6134", "35.4"]], "u": 24042997, "seq": 209972815373}
    candle = {
        "start": 1672324800000, "end": 1672325099999, "interval": "5", "open": "2", "close": "2", "high": "3",
        "low": "1", "volume": "2.081", "turnover": "34666.4005", "confirm": True, "timestamp": 1672324988882,
    }  # fmt: skip

    def frame(topic: str, data: object, type_: str = "snapshot") -> dict[str, object]:
        return {"topic": topic, "type": type_, "ts": 1672304486868, "data": data}

    def good(number: int) -> bytes:
        item = {**trade, "s": "ZRXEUR", "i": str(number), "T": START * 1000 + number}
        return objects(frame("publicTrade.ZRXEUR", [item]))[0]

    templates = objects(
        frame("publicTrade.BTCUSDT", [trade, {**trade, "i": "5", "BT": True}]),
        {**frame("orderbook.1.BTCUSDT", book), "cts": 1672304486865},
        frame("orderbook.1.BTCUSDT", book, "delta"),
        frame("tickers.BTCUSDT", {"symbol": "BTCUSDT", "bid1Price": "1", "bid1Size": "2", "ask1Price": ""}),
        frame("kline.5.BTCUSDT", [candle]),
        {"success": True, "ret_msg": "", "conn_id": "a38867ec", "req_id": "1", "op": "subscribe"},
    )
    return Case(FeedSpec(name="bybit", provider="bybit"), templates, good, "ZRX-EUR")


def deribit() -> Case:
    trade = {
        "timestamp": 1765531356452, "price": 92294.5, "amount": 10.0, "direction": "sell", "index_price": 92276.75,
        "instrument_name": "BTC-PERPETUAL", "trade_seq": 271252854, "mark_price": 92287.11, "tick_direction": 2,
        "contracts": 1.0, "trade_id": "403691824",
    }  # fmt: skip
    quote = {
        "timestamp": 1765541767174, "instrument_name": "BTC-PERPETUAL", "best_ask_price": 92288.5,
        "best_bid_price": 92288.0, "best_ask_amount": 99470.0, "best_bid_amount": 133440.0,
    }  # fmt: skip
    ticker = {
        **quote, "instrument_name": "BTC-5JUN20-9250-C", "mark_iv": 63.21, "last_price": None, "open_interest": 533,
        "stats": {"volume": 13.4}, "greeks": {"vega": 3.88, "theta": -28.3, "rho": 0.6, "gamma": 0.0, "delta": 0.6},
    }  # fmt: skip
    bar = {"tick": 1767200040000, "open": 2, "high": 3, "low": 1, "close": 2, "volume": 0.95, "cost": 83970.0}

    def notified(channel: str, data: object) -> dict[str, object]:
        return {"jsonrpc": "2.0", "method": "subscription", "params": {"channel": channel, "data": data}}

    def good(number: int) -> bytes:
        item = {**trade, "instrument_name": "ZRX_USDC-PERPETUAL", "trade_seq": number, "timestamp": START * 1000}
        return objects(notified("trades.ZRX_USDC-PERPETUAL.100ms", [item]))[0]

    templates = objects(
        notified("trades.BTC-PERPETUAL.100ms", [trade, {**trade, "trade_seq": 271252855}]),
        notified("quote.BTC-PERPETUAL", quote),
        notified("ticker.BTC-5JUN20-9250-C.100ms", ticker),
        notified("chart.trades.BTC-PERPETUAL.1", bar),
        {"jsonrpc": "2.0", "id": 10, "result": ["trades.BTC-PERPETUAL.100ms"]},
        {"jsonrpc": "2.0", "method": "heartbeat", "params": {"type": "test_request"}},
    )
    return Case(FeedSpec(name="deribit", provider="deribit"), templates, good, "ZRX-USDC-PERP")


ALPACA: tuple[dict[str, object], ...] = (
    {"T": "t", "S": "AAPL", "i": 96921, "x": "D", "p": 126.55, "s": 1, "t": 0, "c": ["@", "I"], "z": "C"},
    {"T": "q", "S": "AMD", "bx": "U", "bp": 87.6, "bs": 1, "ax": "Q", "ap": 88, "as": 4, "t": 0, "c": ["R"], "z": "C"},
    {"T": "b", "S": "SPY", "o": 388.9, "h": 389.1, "l": 388.9, "c": 389.1, "v": 49378, "n": 461, "vw": 389.06, "t": 0},
    {
        "T": "c", "S": "EEM", "x": "M", "oi": 52983525033527, "op": 39.1582, "os": 440000, "oc": [" ", "7"],
        "ci": 52983525034326, "cp": 39.1809, "cs": 440000, "cc": [" ", "7"], "z": "B", "t": 0,
    },
    {"T": "x", "S": "GOOGL", "i": 465, "x": "D", "p": 105.31, "s": 300, "a": "C", "z": "C", "t": 0},
    {"T": "l", "S": "IONM", "u": 3.24, "d": 2.65, "i": "B", "t": 0, "z": "C"},
    {"T": "s", "S": "AAPL", "sc": "H", "sm": "Trading Halt", "rc": "T12", "rm": "For information", "t": 0, "z": "C"},
    {"T": "success", "msg": "connected"},
)  # fmt: skip


def alpaca(format_: str) -> Case:
    def packed(number: int, *messages: dict[str, object]) -> bytes:
        """``t`` as the format has it: text, or MessagePack's own timestamp in four bytes."""
        stamp = msgspec.msgpack.Ext(-1, (START - 10**6 + number).to_bytes(4, "big"))
        timed = [
            {k: (rfc3339(number) if format_ == "json" else stamp) if k == "t" else v for k, v in m.items()}
            for m in messages
        ]
        return msgspec.json.encode(timed) if format_ == "json" else msgspec.msgpack.encode(timed)

    def good(number: int) -> bytes:
        return packed(number, {**ALPACA[0], "S": "ZRX", "i": number})

    templates = (*(packed(5, message) for message in ALPACA), packed(5, *ALPACA))
    spec = FeedSpec(name=f"alpaca-{format_}", provider="alpaca", options={"feed": "sip", "format": format_})
    return Case(spec, templates, good, "ZRX", TEXT if format_ == "json" else BINARY)


def polygon() -> Case:
    def frame(*messages: dict[str, object]) -> bytes:
        return msgspec.json.encode(messages)

    trade = {"ev": "T", "sym": "ZRX", "i": "5", "x": 4, "p": 225.63, "s": 129, "c": [14], "t": START * 1000}
    trade |= {"pt": START * 1000, "q": 9059424, "z": 3, "ds": "129.0"}
    quote = {"ev": "Q", "sym": "NVDA", "i": [604], "bx": 10, "ax": 15, "bp": 225.62, "ap": 225.64, "bs": 100, "as": 500}
    quote |= {"t": START * 1000, "pt": START * 1000, "q": 106078192, "z": 3}
    bar = {"ev": "AM", "sym": "GTE", "v": 4110, "av": 9470157, "op": 0.4372, "vw": 0.4488, "o": 0.4488, "c": 0.4486}
    bar |= {"h": 0.4489, "l": 0.4486, "a": 0.4352, "z": 685, "s": 1610144640000, "e": 1610144700000}
    band = {"ev": "LULD", "T": "MSFT", "h": 492.99, "l": 446.04, "i": [16], "z": 3, "t": 1764086430905642800, "q": 5}
    acknowledged = {"ev": "status", "status": "success", "message": "subscribed to: T.NVDA"}
    nvidia: dict[str, object] = {**trade, "sym": "NVDA"}
    value = {"ev": "FMV", "fmv": 189.22, "sym": "AAPL", "t": 1678220098130}
    templates = tuple(frame(message) for message in (nvidia, quote, bar, band, value, acknowledged))

    def good(number: int) -> bytes:
        return frame({**trade, "i": str(number), "t": START * 1000 + number})

    return Case(FeedSpec(name="polygon", provider="polygon"), (*templates, frame(nvidia, quote, bar)), good, "ZRX")


CASES = (
    binance("spot", "ZRX"),
    binance("usdm", "ZRX"),
    coinbase_exchange(),
    coinbase_advanced(),
    kraken(),
    bitstamp(),
    okx(),
    bybit(),
    deribit(),
    alpaca("json"),
    alpaca("msgpack"),
    polygon(),
)
