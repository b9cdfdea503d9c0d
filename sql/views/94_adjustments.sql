-- By how much the prices of each series of bars change on each ex date, as logarithms: `split` of 1 / ratio, `cash` of
-- 1 - amount / close before; those that are still to come after the day, and `…_all` that of every day together. The
-- close is that of the daily bars of the same feed and symbol, else of the bars themselves.
CREATE VIEW IF NOT EXISTS adjustments AS (
  WITH series AS (SELECT DISTINCT feed, symbol, timeframe FROM bars WHERE (flags & 8192) = 0),
  raw AS (SELECT ts_event, feed, symbol, timeframe, close FROM bars WHERE (flags & 8192) = 0),
  daily AS (SELECT ts_event, feed, symbol, close FROM bars WHERE timeframe = '1d' AND (flags & 8192) = 0),
  due AS (
    SELECT s.feed, s.symbol, s.timeframe, a.ts_event, a.effect, a.ratio, a.amount
    FROM corporate_actions_applied a JOIN series s ON (symbol)
  ),
  own AS (
    SELECT d.feed, d.symbol, d.timeframe, d.ts_event, d.effect, d.ratio, d.amount, b.close own_close
    FROM ((due ORDER BY ts_event) TIMESTAMP(ts_event)) d LT JOIN raw b ON (feed, symbol, timeframe)
  ),
  closes AS (
    SELECT
      o.feed, o.symbol, o.timeframe, o.ts_event, o.effect, o.ratio, o.amount, coalesce(b.close, o.own_close) close
    FROM ((own ORDER BY ts_event) TIMESTAMP(ts_event)) o LT JOIN daily b ON (feed, symbol)
  ),
  days AS (
    SELECT
      feed, symbol, timeframe, ts_event,
      sum(CASE WHEN effect = 'ratio' THEN -ln(ratio) ELSE 0.0 END) split_day,
      sum(CASE WHEN effect = 'cash' AND amount < close THEN ln(1 - amount / close) ELSE 0.0 END) cash_day
    FROM closes GROUP BY feed, symbol, timeframe, ts_event
  )
  SELECT
    feed, symbol, timeframe, ts_event, split_day, cash_day,
    sum(split_day) OVER (PARTITION BY feed, symbol, timeframe ORDER BY ts_event DESC
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - split_day split,
    sum(cash_day) OVER (PARTITION BY feed, symbol, timeframe ORDER BY ts_event DESC
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - cash_day cash,
    sum(split_day) OVER (PARTITION BY feed, symbol, timeframe) split_all,
    sum(cash_day) OVER (PARTITION BY feed, symbol, timeframe) cash_all
  FROM days
);
