-- One-minute bars, from bars_1s: the same rules for what counts, at most a minute behind. It may follow bars_1s at
-- once, because that changes once a minute.
CREATE MATERIALIZED VIEW IF NOT EXISTS bars_1m
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
  FROM bars_1s
  SAMPLE BY 1m
) PARTITION BY DAY;
