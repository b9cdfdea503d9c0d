-- Closed minutes whose bar from trades is not the bar that the provider sent: a trade is missing, or counts otherwise
-- there. Volumes may differ by @tolerance of themselves, for rounding.
DECLARE @from := dateadd('d', -1, now()), @tolerance := 1e-9
SELECT
  b.ts_event, b.feed, b.symbol, b.open, p.open provider_open, b.high, p.high provider_high, b.low, p.low provider_low,
  b.close, p.close provider_close, b.volume, p.volume provider_volume
FROM (bars WHERE timeframe = '1m' AND ts_event >= @from) p
JOIN (bars_1m WHERE ts_event >= @from) b ON (ts_event, symbol, feed)
WHERE b.ts_event < date_trunc('minute', dateadd('m', -1, now()))
  AND (
    b.open <> p.open OR b.high <> p.high OR b.low <> p.low OR b.close <> p.close
    OR abs(b.volume - p.volume) > @tolerance * p.volume
  )
ORDER BY b.ts_event DESC
LIMIT 1000;
