-- How volatile is each symbol: root of the summed squared log returns of one-minute closes, in per cent, and
-- annualised?
-- @minutes is the year's: 525600 for markets that never close, 98280 for US equities.
DECLARE @from := dateadd('h', -1, now()), @minutes := 525600
SELECT
  symbol, feed, count() returns, sqrt(sum(r * r)) * 100 volatility_pct,
  sqrt(sum(r * r) / count() * @minutes) * 100 annualised_pct
FROM (
  SELECT symbol, feed, ln(close / lag(close) OVER (PARTITION BY symbol, feed ORDER BY ts_event)) r
  FROM bars_1m_live
  WHERE ts_event >= @from AND close > 0
)
WHERE r IS NOT NULL
ORDER BY volatility_pct DESC;
