-- Both VWAPs of each UTC day, per symbol and feed, from bars_1d, at most a minute behind: vwap of all trades that count in
-- volume, vwap_last of those that may also set the last price, which alone is sure to lie within the day's low and high.
CREATE VIEW IF NOT EXISTS daily_vwap AS (
  SELECT ts_event, symbol, feed, vwap, volume, turnover, trade_count, vwap_last, volume_last, turnover_last FROM bars_1d
);
