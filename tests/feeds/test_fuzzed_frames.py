"""Damaged frames: 20,000 of them, seeded. None raises anything but FrameError, none disturbs the good one after it."""

from __future__ import annotations

import pytest
from decoding import Recorded
from fuzzing import mutations

from recorder.values.errors import FrameError

DAMAGED = 5_000  # of each kind
RECV = 1_790_000_000 * 10**9
CASES: dict[tuple[str, str], tuple[bytes, ...]] = {
    ("coinbase", "exchange"): (
        b'{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"27fff20b","taker_order_id":"1da6ce16",'
        b'"time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512","price":"400.23","side":"sell"}',
        b'{"type":"ticker","sequence":50978628538,"product_id":"BTC-USD","price":"17165.16","best_bid":"17165.15",'
        b'"best_bid_size":"0.61540890","best_ask":"17167.76","best_ask_size":"0.18528568","side":"sell",'
        b'"time":"2022-12-01T00:00:00.122581Z","trade_id":463751434,"last_size":"0.05"}',
        b'{"type":"heartbeat","last_trade_id":278953096,"product_id":"ETH-USD","sequence":29716844241,'
        b'"time":"2022-05-20T21:22:34.751219Z"}',
        b'{"type":"l2update","product_id":"BTC-USD","time":"2019-08-14T20:42:27.265Z","changes":[["buy","1","0.1"]]}',
        b'{"type":"subscriptions","channels":[{"name":"matches","product_ids":["BTC-USD"]}]}',
    ),
    ("coinbase", "advanced"): (
        b'{"channel":"market_trades","client_id":"","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,'
        b'"events":[{"type":"update","trades":[{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.50",'
        b'"size":"0.00150000","side":"BUY","time":"2026-04-07T14:30:02.789012Z"}]}]}',
        b'{"channel":"ticker","client_id":"","timestamp":"2026-04-07T14:30:03.000000Z","sequence_num":12,"events":'
        b'[{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"68900.50",'
        b'"best_bid":"68900.00","best_bid_quantity":"1.5","best_ask":"68901.00","best_ask_quantity":"0.5"}]}]}',
        b'{"channel":"candles","client_id":"","timestamp":"2026-04-07T14:30:05.000000Z","sequence_num":3,"events":'
        b'[{"type":"update","candles":[{"start":"1775521800","high":"68950.00","low":"68850.00","open":"68900.00",'
        b'"close":"68920.50","volume":"42.15000000","product_id":"BTC-USD"}]}]}',
        b'{"channel":"heartbeats","client_id":"","timestamp":"2026-04-07T14:30:10.000000Z","sequence_num":0,'
        b'"events":[{"current_time":"2026-04-07 14:30:10.000000000+00:00","heartbeat_counter":42}]}',
    ),
    ("kraken", "v2"): (
        b'{"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,'
        b'"ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}',
        b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":99.9,"bid_qty":1.2,"ask":100.1,'
        b'"ask_qty":2.3,"timestamp":"2026-07-10T00:00:02.123456Z"}]}',
        b'{"channel":"ohlc","type":"update","data":[{"symbol":"BTC/USD","interval":1,"interval_begin":'
        b'"2023-10-04T16:25:00.000000000Z","open":106038.2,"high":106044.3,"low":106038.1,"close":106040.1,'
        b'"volume":30927.68066226,"vwap":106039.6,"trades":12}]}',
        b'{"channel":"status","type":"update","data":[{"system":"online","api_version":"v2"}]}',
    ),
    ("bitstamp", ""): (
        b'{"event":"trade","channel":"live_trades_btcusd","data":{"id":298239842,"timestamp":"1695628177",'
        b'"amount":0.0144,"amount_str":"0.01440000","price":26242,"price_str":"26242","type":0,'
        b'"microtimestamp":"1695628177123000","buy_order_id":1,"sell_order_id":2}}',
        b'{"data":{"timestamp":"1617654352","microtimestamp":"1617654352439583","bids":[["0.42476","3000.00000000"],'
        b'["0.42475","1.00000000"]],"asks":[["0.42555","4974.33747917"]]},"channel":"order_book_xlmeur","event":"data"}',
        b'{"data":{"timestamp":"1617654352","microtimestamp":"1617654352482475","bids":[["3.45348","0.00000000"]],'
        b'"asks":[]},"channel":"diff_order_book_kncusd","event":"data"}',
        b'{"event":"bts:subscription_succeeded","channel":"live_trades_xlmeur","data":{}}',
    ),
    ("okx", "all"): (
        b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
        b'"px":"42219.9","sz":"0.12060306","side":"buy","source":"0","ts":"1630048897897"}]}',
        b'{"arg":{"channel":"bbo-tbt","instId":"BTC-USDT"},"data":[{"asks":[["8476.98","415","0","13"]],"bids":'
        b'[["8476.97","256","0","12"]],"ts":"1597026383085","seqId":123456}]}',
        b'{"arg":{"channel":"candle1m","instId":"BTC-USDT"},"data":[["1597026383085","8533.02","8553.74","8527.17",'
        b'"8548.26","45247","529.5858061","5529.5858061","1"]]}',
        b'{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instType":"SPOT","instId":"BTC-USDT",'
        b'"last":"9999.99","askPx":"9999.99","askSz":"11","bidPx":"","bidSz":"","ts":"1597026383085"}]}',
        b'{"id":"1512","event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}',
    ),
    ("okx", "aggregated"): (
        b'{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
        b'"px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3","source":"0","seqId":1234}]}',
    ),
    ("bybit", "spot"): (
        b'{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,"s":"BTCUSDT",'
        b'"S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,'
        b'"seq":1783284617}]}',
        b'{"topic":"orderbook.1.BANDUSDT","type":"snapshot","ts":1749833474773,"data":{"s":"BANDUSDT","b":[["0.6131",'
        b'"17.9"]],"a":[["0.6134","35.4"]],"u":24042997,"seq":209972815373},"cts":1749833474768}',
        b'{"topic":"orderbook.1.BANDUSDT","type":"delta","ts":1749833474773,"data":{"s":"BANDUSDT","b":[],"a":[["0.6134",'
        b'"0"]],"u":24042998,"seq":209972815374}}',
        b'{"topic":"tickers.BTCUSD","type":"snapshot","data":{"symbol":"BTCUSD","bid1Price":"28560.00","bid1Size":'
        b'"340549","ask1Price":"28560.50","ask1Size":"70817"},"cs":20856433578,"ts":1680673822577}',
        b'{"success":true,"ret_msg":"","conn_id":"a38867ec-70b5-4044-a765-54b36bdd6fd9","req_id":"","op":"subscribe"}',
    ),
    ("bybit", "linear"): (
        b'{"topic":"trade.BCHUSDT","data":[{"symbol":"BCHUSDT","tick_direction":"MinusTick","price":"1053.90","size":0.14,'
        b'"timestamp":"2021-04-17T16:43:05.000Z","trade_time_ms":"1618677785116","side":"Buy","trade_id":'
        b'"01cacfe9-8d1c-5ee4-995d-d79a43f955a6"}]}',
    ),
    ("deribit", ""): (
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.100ms","data":[{"timestamp":'
        b'1765531356452,"price":92294.5,"amount":10.0,"direction":"sell","index_price":92276.75,"instrument_name":'
        b'"BTC-PERPETUAL","trade_seq":271252854,"mark_price":92287.11,"tick_direction":2,"contracts":1.0,"trade_id":'
        b'"403691824"}]}}',
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"quote.BTC-PERPETUAL","data":{"timestamp":'
        b'1765541767174,"instrument_name":"BTC-PERPETUAL","best_ask_price":92288.5,"best_bid_price":92288.0,'
        b'"best_ask_amount":99470.0,"best_bid_amount":133440.0}}}',
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.BTC-5JUN20-9250-C.100ms","data":{'
        b'"timestamp":1590969652595,"stats":{"volume":13.4},"instrument_name":"BTC-5JUN20-9250-C","mark_iv":63.21,'
        b'"greeks":{"vega":3.88497,"theta":-28.34113},"best_bid_price":0.0365,"best_ask_price":null}}}',
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"chart.trades.BTC-PERPETUAL.1","data":{"tick":'
        b'1767200040000,"open":87490.0,"high":87500.0,"low":87465.0,"close":87474.0,"volume":0.95,"cost":83970.0}}}',
        b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}',
    ),
    ("polygon", "stocks"): (
        b'[{"ev":"T","sym":"NVDA","i":"40161","x":4,"p":225.63,"s":129,"c":[14,37],"t":1786649956459,"pt":1786649956458,'
        b'"q":9059424,"z":3,"trfi":202,"trft":1786649956459,"ds":"129.0"}]',
        b'[{"ev":"Q","sym":"NVDA","i":[604],"bx":10,"ax":15,"bp":225.62,"ap":225.64,"bs":100,"as":500,"t":1786649956446,'
        b'"pt":1786649956446,"q":106078192,"z":3}]',
        b'[{"ev":"A","sym":"FCX","v":4989,"av":4332125,"op":75.98,"vw":78.0894,"o":78.1,"c":78.08,"h":78.125,"l":78.07,'
        b'"a":76.8404,"z":62,"s":1788877043000,"e":1788877044000,"dv":"4989.0","dav":"4332125.038360"}]',
        b'[{"ev":"LULD","T":"MSFT","h":492.99,"l":446.04,"i":[16],"z":3,"t":1764086430905642800,"q":5925769}]',
        b'[{"ev":"FMV","fmv":189.22,"sym":"AAPL","t":1678220098130}]',
        b'[{"ev":"status","status":"success","message":"subscribed to: T.AAPL"}]',
    ),
    ("polygon", "options"): (
        b'[{"ev":"T","sym":"O:AMC210827C00037000","x":65,"p":1.54,"s":1,"c":[233],"t":1629820676333,"q":651921857}]',
        b'[{"ev":"Q","sym":"O:SPY241220P00720000","bx":302,"ax":302,"bp":9.71,"ap":9.81,"bs":17,"as":24,'
        b'"t":1644506128351,"q":844090872}]',
    ),
    ("polygon", "crypto"): (
        b'[{"ev":"XT","pair":"BTC-USD","p":43575.6,"t":1706649628023,"s":4.522e-05,"c":[2],"i":'
        b'"1b254a48-7258-4465-8215-2610ccf9ab21","x":23,"r":1706649628068}]',
        b'[{"ev":"XQ","pair":"CHZ-USD","lp":0,"ls":0,"bp":0.0771,"bs":41650.4,"ap":0.0773,"as":142883.4,'
        b'"t":1690409119847,"x":1,"r":1690409119856}]',
        b'[{"ev":"XA","pair":"BTC-USD","v":725.09209352,"vw":9114.502,"z":0.65,"o":9111.14,"c":9134.3,"h":9134.7,'
        b'"l":9106.5,"s":1594917720000,"e":1594917780000}]',
    ),
    ("kraken", "v1"): (
        b'[993,[["354.04000000","0.28245396","1618678150.826417","s","m",""],'
        b'["353.81000000","1.71754604","1618678150.827816","b","m",""]],"trade","XMR/USD"]',
        b'[468,{"b":[["87.60000000","35.02658459","1561939258.527900"]]},"book-1000","XMR/USD"]',
        b'{"channelID":1665,"channelName":"trade","event":"subscriptionStatus","pair":"WAVES/EUR","status":"subscribed"}',
    ),
}


def option_of(provider: str, api: str) -> dict[str, str]:
    """The option that tells a provider's streams apart."""
    return {{"okx": "trades", "bybit": "market", "polygon": "cluster"}.get(provider, "api"): api}


@pytest.mark.parametrize(("provider", "api"), CASES)
def test_damaged_frames_are_refused_or_read_and_the_next_good_one_is_stored_unchanged(provider: str, api: str) -> None:
    frames = CASES[provider, api]
    good, alone = frames[0], Recorded(provider, (), **option_of(provider, api))
    expected = alone.decode(good, RECV + 1).rows("trades")
    feed = Recorded(provider, (), **option_of(provider, api)).alone()
    found = []
    for damaged in mutations(frames, DAMAGED, seed=20260801):
        before = feed.out.counts()
        try:
            feed.decode(damaged, RECV)
        except FrameError:
            assert feed.out.counts() == before, damaged
        feed.decode(good, RECV + 1)
        if len(feed.out.batches["trades"]) > 1000:
            found += [row for row in feed.rows("trades") if row["ts_recv"] == RECV + 1]
    found += [row for row in feed.rows("trades") if row["ts_recv"] == RECV + 1]
    assert len(found) == DAMAGED * len(expected)
    assert all(row == expected[i % len(expected)] for i, row in enumerate(found))


@pytest.mark.parametrize(("provider", "api"), CASES)
def test_rows_from_damaged_frames_hold_only_values_that_can_be(provider: str, api: str) -> None:
    feed = Recorded(provider, (), **option_of(provider, api)).alone()
    for damaged in mutations(CASES[provider, api], DAMAGED, seed=7):
        try:
            feed.decode(damaged, RECV)
        except FrameError:
            continue
    for row in feed.rows("trades"):
        assert 0 < row["price"] < float("inf")
        assert 0 <= row["size"] < float("inf")
        assert row["trade_id"] >= 0
        assert 946_684_800 * 10**9 <= row["ts_event"] <= RECV + 86_400 * 10**9
    for row in feed.rows("quotes"):
        assert all(0 <= row.get(name, 0) < float("inf") for name in ("bid", "bid_size", "ask", "ask_size"))
