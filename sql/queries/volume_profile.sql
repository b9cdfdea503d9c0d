-- At which prices did the volume trade? Steps of @step from the lowest up, with the part that buyers took.
DECLARE @symbol := 'BTC-USD', @feed := 'coinbase', @step := 10.0, @from := date_trunc('day', now())
SELECT
  floor(price / @step) * @step price_from, sum(size) volume, count() trades,
  sum(CASE WHEN side = 'buy' THEN size ELSE 0.0 END) / sum(size) bought
FROM trades
WHERE symbol = @symbol AND feed = @feed AND ts_event >= @from AND (flags & 160) = 0
ORDER BY price_from;
