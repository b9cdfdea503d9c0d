-- Who is pushing, minute by minute: bought minus sold volume over both, -1 only sellers to 1 only buyers?
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @from := dateadd('h', -1, now())
SELECT
  ts_event, sum(CASE WHEN side = 'buy' THEN size ELSE 0.0 END) bought,
  sum(CASE WHEN side = 'sell' THEN size ELSE 0.0 END) sold,
  (sum(CASE WHEN side = 'buy' THEN size ELSE 0.0 END) - sum(CASE WHEN side = 'sell' THEN size ELSE 0.0 END))
    / sum(size) imbalance
FROM trades
WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from AND side IN ('buy', 'sell') AND (flags & 160) = 0
SAMPLE BY 1m;
