-- Bars as their prices compare with those of today: divided by every split, and reduced by every dividend, that came
-- after them. Sizes are multiplied by the splits alone. `bars` keeps the raw prices;
-- bars that come adjusted for splits already (flag 8192) are left out.
CREATE VIEW IF NOT EXISTS bars_adjusted AS (
  WITH factors AS (
    SELECT
      b.ts_event, b.feed, b.symbol, b.timeframe, b.open, b.high, b.low, b.close, b.volume, b.vwap, b.trade_count, b.flags,
      exp(coalesce(s.split, t.split, 0)) split_factor,
      exp(coalesce(s.split + s.cash, t.split + t.cash, 0)) factor
    FROM bars b
    ASOF JOIN ((adjustments ORDER BY ts_event) TIMESTAMP(ts_event)) s ON (feed, symbol, timeframe)
    LEFT JOIN (
      SELECT feed, symbol, timeframe, max(split_all) split, max(cash_all) cash FROM adjustments
      GROUP BY feed, symbol, timeframe
    ) t ON (feed, symbol, timeframe)
    WHERE (b.flags & 8192) = 0
  )
  SELECT
    ts_event, feed, symbol, timeframe, open * factor open, high * factor high, low * factor low, close * factor close,
    volume / split_factor volume, vwap * factor vwap, trade_count, split_factor, factor, flags
  FROM factors
);
