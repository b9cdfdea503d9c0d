-- The latest trade per symbol and feed that sets the price: no cancellation, nothing that is not_last_eligible.
CREATE VIEW IF NOT EXISTS latest_trades AS (
  SELECT ts_event, ts_recv, symbol, feed, exchange, trade_id, price, size, side, vwap, rolling_vwap, zscore, flags
  FROM trades
  WHERE (flags & 96) = 0
  LATEST ON ts_event PARTITION BY symbol, feed
);
