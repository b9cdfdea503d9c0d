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
    sum(trade_count) trade_count,
    max(day_high) day_high,
    min(day_low) day_low,
    sum(volume_last) volume_last,
    sum(turnover_last) turnover_last,
    CASE WHEN sum(volume_last) > 0.0 THEN greatest(min(low), least(max(high), sum(turnover_last) / sum(volume_last))) END
      vwap_last
  FROM bars_1m
  SAMPLE BY 1h
) PARTITION BY MONTH;
