"""What a JSON message says does not depend on how it is spelled: every documented message of the crypto venues, written
in other ways that mean the same, gives the same rows, none refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from decoding import Recorded


class Case(NamedTuple):
    name: str
    provider: str
    options: dict[str, str]
    channels: tuple[str, ...]
    symbol: str
    table: str
    message: str
    tables: bool = True  # a row comes of it


MESSAGES = (
    Case("binance trade", "binance", {}, ("trades",), "BNB-BTC", "trades",
         '{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100.5",'
         '"T":1672515782136,"m":true,"M":true}}'),
    Case("binance trade in microseconds", "binance", {}, ("trades",), "BNB-BTC", "trades",
         '{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136123,"s":"BNBBTC","t":12345,"p":"0.001",'
         '"q":"100.5","T":1672515782136123,"m":false,"M":true}}'),
    Case("binance aggTrade", "binance", {"market": "usdm"}, ("trades",), "BTC-USDT-PERP", "trades",
         '{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1672515782136,"s":"BTCUSDT","a":12345,"p":"0.001",'
         '"q":"100.5","f":100,"l":105,"T":1672515782136,"m":true,"M":true}}'),
    Case("binance bookTicker", "binance", {}, ("quotes",), "BNB-USDT", "quotes",
         '{"stream":"bnbusdt@bookTicker","data":{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000",'
         '"a":"25.36520000","A":"40.66000000"}}'),
    Case("binance kline", "binance", {}, ("bars",), "BTC-USDT", "bars",
         '{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1638747660000,"s":"BTCUSDT","k":{"t":1638747600000,'
         '"T":1638747659999,"s":"BTCUSDT","i":"1m","f":100,"L":200,"o":"0.0010","c":"0.0020","h":"0.0025","l":"0.0010",'
         '"v":"1000.5","n":100,"x":true,"q":"1.0000","V":"500.5","Q":"0.500","B":"0"}}}'),
    Case("coinbase match", "coinbase", {}, ("trades",), "BTC-USD", "trades",
         '{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"ac928c66-ca53","taker_order_id":"132fb6ae-456b",'
         '"time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}'),
    Case("coinbase ticker", "coinbase", {}, ("quotes",), "BTC-USD", "quotes",
         '{"type":"ticker","sequence":50978628538,"product_id":"BTC-USD","price":"17165.16","open_24h":"16437.94",'
         '"volume_24h":"42492.05","low_24h":"16423.37","high_24h":"17259.37","volume_30d":"1093827.95",'
         '"best_bid":"17165.15","best_bid_size":"0.61540890","best_ask":"17167.76","best_ask_size":"0.18528568",'
         '"side":"sell","time":"2022-12-01T00:00:00.122581Z","trade_id":463751434,"last_size":"0.05"}'),
    Case("coinbase advanced trade", "coinbase", {"api": "advanced"}, ("trades",), "BTC-USD", "trades",
         '{"channel":"market_trades","client_id":"x","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,'
         '"events":[{"type":"update","trades":[{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.50",'
         '"size":"0.00150000","side":"BUY","time":"2026-04-07T14:30:02.789012Z"}]}]}'),
    Case("coinbase advanced ticker", "coinbase", {"api": "advanced"}, ("quotes",), "BTC-USD", "quotes",
         '{"channel":"ticker","client_id":"x","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,"events":'
         '[{"type":"update","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"68900.50","best_bid":"68900.00",'
         '"best_bid_quantity":"1.50000000","best_ask":"68901.00","best_ask_quantity":"0.50000000"}]}]}'),
    Case("coinbase advanced candle", "coinbase", {"api": "advanced"}, ("bars",), "BTC-USD", "bars",
         '{"channel":"candles","client_id":"x","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,"events":'
         '[{"type":"update","candles":[{"start":"1775521800","high":"68950.00","low":"68850.00","open":"68900.00",'
         '"close":"68920.50","volume":"42.15000000","product_id":"BTC-USD"}]}]}'),
    Case("kraken trade", "kraken", {}, ("trades",), "POL-USD", "trades",
         '{"channel":"trade","type":"update","data":[{"symbol":"POL/USD","side":"sell","price":0.5117,"qty":40.5,'
         '"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}'),
    Case("kraken ticker", "kraken", {}, ("quotes",), "BTC-USD", "quotes",
         '{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":105944.25,"bid_qty":2.5,"ask":105944.35,'
         '"ask_qty":3.25,"last":105899.45,"volume":163.28908096,"vwap":105904.39279,"low":104711.05,"high":106613.15,'
         '"change":250.05,"change_pct":0.24,"timestamp":"2022-12-25T09:30:59.123456Z"}]}'),
    Case("kraken ohlc", "kraken", {}, ("bars",), "BTC-USD", "bars",
         '{"channel":"ohlc","type":"update","timestamp":"2023-10-04T16:25:59.1Z","data":[{"symbol":"BTC/USD",'
         '"interval":1,"interval_begin":"2023-10-04T16:25:00.000000000Z","open":106038.25,"high":106044.35,'
         '"low":106038.15,"close":106040.15,"volume":30927.68066226,"vwap":106039.65,"trades":12}]}'),
    Case("bybit trade", "bybit", {"market": "linear"}, ("trades",), "BTC-USDT-PERP", "trades",
         '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT",'
         '"S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,'
         '"seq":1783284617}]}'),
    Case("bybit spot trade", "bybit", {}, ("trades",), "BTC-USDT", "trades",
         '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT",'
         '"S":"Sell","v":"0.001","p":"16578.50","i":"2290000000007764263","BT":false,"RPI":false,"seq":178328461}]}'),
    Case("bybit book", "bybit", {}, ("quotes",), "BAND-USDT", "quotes",
         '{"topic":"orderbook.1.BANDUSDT","type":"snapshot","ts":1672304484978,"cts":1672304484976,"data":'
         '{"s":"BANDUSDT","b":[["0.6131","17.9"]],"a":[["0.6134","35.4"]],"u":24042997,"seq":209972815373}}'),
    Case("bybit kline", "bybit", {}, ("bars",), "BTC-USDT", "bars",
         '{"topic":"kline.1.BTCUSDT","type":"snapshot","ts":1672324988882,"data":[{"start":1672324800000,'
         '"end":1672324859999,"interval":"1","open":"16649.5","close":"16677.5","high":"16677.5","low":"16608.5",'
         '"volume":"2.081","turnover":"34666.4005","confirm":true,"timestamp":1672324988882}]}'),
    Case("bybit option ticker", "bybit", {"market": "option"}, ("options",), "BTC-6JAN23-17500-C", "options_chain",
         '{"topic":"tickers.BTC-6JAN23-17500-C","ts":1672917511074,"type":"snapshot","data":{"symbol":'
         '"BTC-6JAN23-17500-C","bidPrice":"0.5","bidSize":"0.5","bidIv":"0.5","askPrice":"10.5","askSize":"5.1",'
         '"askIv":"0.514","lastPrice":"10.5","markPriceIv":"0.4896","underlyingPrice":"16815.1","openInterest":"49.85",'
         '"volume24h":"26.55","delta":"0.047831","gamma":"0.00021453","vega":"0.81351067","theta":"-19.9115368"}}'),
    Case("bybit ticker", "bybit", {"market": "inverse"}, ("quotes",), "BTC-USD-PERP", "quotes",
         '{"topic":"tickers.BTCUSD","type":"snapshot","cs":24987956059,"ts":1673853746003,"data":{"symbol":"BTCUSD",'
         '"bid1Price":"28560.50","bid1Size":"340549.5","ask1Price":"28560.75","ask1Size":"70817.5"}}'),
    Case("okx trades-all", "okx", {}, ("trades",), "BTC-USDT", "trades",
         '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
         '"px":"42219.9","sz":"0.12060306","side":"buy","source":"0","ts":"1630048897897"}]}'),
    Case("okx trades", "okx", {"trades": "aggregated"}, ("trades",), "BTC-USDT", "trades",
         '{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
         '"px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3","source":"0","seqId":1234}]}'),
    Case("okx bbo-tbt", "okx", {}, ("quotes",), "BTC-USDT", "quotes",
         '{"arg":{"channel":"bbo-tbt","instId":"BTC-USDT"},"data":[{"asks":[["8476.98","415.5","0","13"]],"bids":'
         '[["8476.97","256.5","0","12"]],"ts":"1597026383085","seqId":123456}]}'),
    Case("okx tickers", "okx", {}, ("quotes",), "BTC-USDT", "quotes",
         '{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instType":"SPOT","instId":"BTC-USDT",'
         '"last":"30236.5","lastSz":"0.0002","askPx":"30228.7","askSz":"1.55896972","bidPx":"30228.6",'
         '"bidSz":"0.23393","ts":"1652459224956"}]}'),
    Case("okx candle", "okx", {}, ("bars",), "BTC-USDT", "bars",
         '{"arg":{"channel":"candle1m","instId":"BTC-USDT"},"data":[["1597026383085","8533.02","8553.74","8527.17",'
         '"8548.26","45247.5","529.5858061","5529.5858061","1"]]}'),
    Case("okx opt-summary", "okx", {}, ("options",), "BTC-USD-250328-92000-C", "options_chain",
         '{"arg":{"channel":"opt-summary","instFamily":"BTC-USD"},"data":[{"instType":"OPTION",'
         '"instId":"BTC-USD-250328-92000-C","uly":"BTC-USD","delta":"0.5","deltaBS":"0.5312","gammaBS":"0.0000134",'
         '"thetaBS":"-0.0015","vegaBS":"0.0038","markVol":"0.53","fwdPx":"92150.50","ts":"1711612800000"}]}'),
    Case("deribit trade", "deribit", {}, ("trades",), "BTC-USD-PERP", "trades",
         '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.100ms","data":[{'
         '"timestamp":1765531356452,"price":92294.5,"amount":10.5,"direction":"sell","index_price":92276.75,'
         '"instrument_name":"BTC-PERPETUAL","trade_seq":271252854,"mark_price":92287.11,"tick_direction":2,'
         '"contracts":1.5,"trade_id":"403691824"}]}}'),
    Case("deribit quote", "deribit", {}, ("quotes",), "BTC-USD-PERP", "quotes",
         '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"quote.BTC-PERPETUAL","data":{'
         '"timestamp":1765541767174,"instrument_name":"BTC-PERPETUAL","best_ask_price":92288.5,'
         '"best_bid_price":92288.25,"best_ask_amount":99470.5,"best_bid_amount":133440.5}}}'),
    Case("deribit chart", "deribit", {}, ("bars",), "BTC-USD-PERP", "bars",
         '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"chart.trades.BTC-PERPETUAL.1","data":{'
         '"tick":1767200040000,"open":87490.5,"high":87500.5,"low":87465.5,"close":87474.5,"volume":0.95978896,'
         '"cost":83970.5}}}'),
    Case("deribit option ticker", "deribit", {}, ("options",), "BTC-5JUN20-9250-C", "options_chain",
         '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.BTC-5JUN20-9250-C.100ms","data":{'
         '"timestamp":1590969652595,"underlying_price":9440.73,"stats":{"volume":13.4},"open_interest":533.25,'
         '"mark_iv":63.21,"last_price":0.038,"instrument_name":"BTC-5JUN20-9250-C","greeks":{"vega":3.88497,'
         '"theta":-28.34113,"rho":0.66242,"gamma":0.00058,"delta":0.62959},"best_bid_price":0.0365,'
         '"best_bid_amount":15.4,"best_ask_price":0.045,"best_ask_amount":4.8}}}'),
    Case("bitstamp trade", "bitstamp", {}, ("trades",), "BTC-USD", "trades",
         '{"event":"trade","channel":"live_trades_btcusd","data":{"id":298239842,"timestamp":"1695628177",'
         '"amount":0.0144,"amount_str":"0.01440000","price":26242.5,"price_str":"26242.5","type":0,'
         '"microtimestamp":"1695628177123000","buy_order_id":1,"sell_order_id":2}}'),
    Case("bitstamp book", "bitstamp", {}, ("quotes",), "BTC-USD", "quotes",
         '{"event":"data","channel":"order_book_btcusd","data":{"timestamp":"1617654352",'
         '"microtimestamp":"1617654352439583","bids":[["26241.5","3000.5"],["26240.5","1.5"]],'
         '"asks":[["26242.5","4974.33747917"]]}}'),
)  # fmt: skip


def everywhere(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Every object in it changed."""
    if isinstance(value, dict):
        return change({name: everywhere(each, change) for name, each in value.items()})
    return [everywhere(each, change) for each in value] if isinstance(value, list) else value


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def escaped(text: str) -> str:
    """The first character of each text that begins with a letter is written as an escape."""
    return re.sub(r'"([A-Za-z])', lambda match: f'"\\u{ord(match[1]):04x}', text)


def scientific(text: str) -> str:
    """Numbers with a point, in quotes or not, written with an exponent."""

    def written(match: re.Match[str]) -> str:
        sign, digits, exponent = Decimal(match[2]).as_tuple()
        ones = "".join(map(str, digits))
        return f"{match[1]}{'-' if sign else ''}{ones[0]}.{ones[1:] or 0}e{len(ones) - 1 + int(exponent):+d}{match[3]}"

    return re.sub(r'([:\["]+)(-?\d+\.\d+)(["\],}])', written, text)


NEW = {"first_seen": [1, {"b": None}, "x"], "huge": 10**30}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "spaces": lambda text: json.dumps(json.loads(text)),
    "lines": lambda text: f" \r\n\t{json.dumps(json.loads(text), indent=2)}\n ",
    "fields backwards": lambda text: compact(everywhere(json.loads(text), lambda d: dict(reversed(d.items())))),
    "fields sorted": lambda text: json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")),
    "fields nobody knows, behind": lambda text: compact(everywhere(json.loads(text), lambda d: {**d, **NEW})),
    "fields nobody knows, before": lambda text: compact(everywhere(json.loads(text), lambda d: {**NEW, **d})),
    "a field nobody knows, null": lambda text: compact(everywhere(json.loads(text), lambda d: {**d, "news": None})),
    "escapes": escaped,
    "numbers in quotes": lambda text: re.sub(r"([:\[])(-?\d[\d.]*)(?=[,}\]])", r'\1"\2"', text),
    "numbers without quotes": lambda text: re.sub(r'([:\[,])"(-?\d[\d]*(?:\.\d+)?)"(?=[,}\]])', r"\1\2", text),
    "exponents": scientific,
}


def made(case: Case, text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    feed = Recorded(case.provider, (case.symbol,), case.channels, **case.options).decode(text.encode())
    return feed.rows(case.table), feed.rows("rejected")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case.name)
def test_what_a_message_says_does_not_depend_on_its_spelling(case: Case, spelling: str) -> None:
    plain, other = case.message, SPELLINGS[spelling](case.message)
    rows, refused = made(case, plain)
    assert len(rows) == 1
    assert rows[0].get("symbol") == case.symbol
    assert not refused
    assert made(case, other) == (rows, [])
