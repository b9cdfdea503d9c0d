-- One-hour bars, from bars_1m: the same rules for what counts, at most a minute behind.
CREATE MATERIALIZED VIEW IF NOT EXISTS bars_1h
REFRESH IMMEDIATE AS (
  SELECT
    ts_event, symbol, feed,
    first_not_null(open) open,
    max(high) high,
    min(low) low,
    last_not_null(close) close,
    sum(volume) volume,
    sum(turnover) turnover,
    sum(turnover) / sum(volume) vwap,
    sum(trade_count) trade_count
  FROM bars_1m
  SAMPLE BY 1h
) PARTITION BY MONTH;
