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
    sum(trade_count) trade_count,
    max(day_high) day_high,
    min(day_low) day_low,
    sum(volume_last) volume_last,
    sum(turnover_last) turnover_last,
    CASE WHEN sum(volume_last) > 0.0 THEN greatest(min(low), least(max(high), sum(turnover_last) / sum(volume_last))) END
      vwap_last
  FROM bars_1s
  SAMPLE BY 1m
) PARTITION BY DAY;
