-- Which were the largest trades by turnover, and how large against the average of their symbol and feed?
DECLARE @from := dateadd('d', -1, now())
SELECT ts_event, symbol, feed, side, price, size, price * size turnover, size / avg_size times_average
FROM (
  SELECT *, avg(size) OVER (PARTITION BY symbol, feed) avg_size
  FROM trades
  WHERE ts_event >= @from AND (flags & 160) = 0
)
ORDER BY turnover DESC
LIMIT 20;
