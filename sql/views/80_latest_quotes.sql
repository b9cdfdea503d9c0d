-- The latest quote per symbol and feed, with mid and spread; both are null while one side is missing.
CREATE VIEW IF NOT EXISTS latest_quotes AS (
  SELECT
    ts_event, ts_recv, symbol, feed, bid, bid_size, ask, ask_size,
    (bid + ask) / 2 mid, ask - bid spread, bid_exchange, ask_exchange, flags
  FROM quotes
  LATEST ON ts_event PARTITION BY symbol, feed
);
