-- Which trades were out of the ordinary: by their log return (flag outlier, 1) or by their size (size_spike, 2)?
DECLARE @from := dateadd('h', -1, now())
SELECT
  ts_event, feed, symbol, price, size, zscore, rolling_vwap,
  (flags & 1) <> 0 outlier, (flags & 2) <> 0 size_spike, conditions
FROM trades
WHERE ts_event >= @from AND (flags & 3) <> 0
ORDER BY ts_event DESC
LIMIT 100;
