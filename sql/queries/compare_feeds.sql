-- Do two feeds of the same symbol agree: per minute the VWAP of each, their distance in basis points and both
-- volumes?
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @other := 'kraken', @from := dateadd('h', -1, now())
SELECT
  a.ts_event, a.vwap vwap, b.vwap other_vwap, (a.vwap / b.vwap - 1) * 10000 apart_bp,
  a.volume volume, b.volume other_volume
FROM (SELECT ts_event, vwap, volume FROM bars_1m_live WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from) a
JOIN (SELECT ts_event, vwap, volume FROM bars_1m_live WHERE symbol = @symbol AND feed = @other AND ts_event >= @from) b
  ON (ts_event)
ORDER BY a.ts_event;
