-- How wide is the spread, minute by minute, in price and in basis points of the mid? Only quotes with both sides
-- count.
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @from := dateadd('h', -1, now())
SELECT
  ts_event, avg(ask - bid) spread_avg, max(ask - bid) spread_max,
  avg((ask - bid) / (ask + bid) * 20000) spread_avg_bp, count() quotes
FROM quotes
WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from AND bid > 0 AND ask > 0
SAMPLE BY 1m;
