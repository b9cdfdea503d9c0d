-- VWAP of each UTC day, per symbol and feed, from bars_1d: trades that count in volume only, at most a minute behind.
CREATE VIEW IF NOT EXISTS daily_vwap AS (
  SELECT ts_event, symbol, feed, vwap, volume, turnover, trade_count FROM bars_1d
);
