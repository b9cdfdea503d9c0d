-- Which symbols trade most: trades, turnover and trades a second at the busiest second?
DECLARE @from := dateadd('h', -1, now())
SELECT symbol, feed, sum(trades) trades, sum(turnover) turnover, max(trades) trades_in_a_second_max
FROM (
  SELECT ts_event, symbol, feed, count() trades, sum(price * size) turnover
  FROM trades
  WHERE ts_event >= @from AND (flags & 160) = 0
  SAMPLE BY 1s
)
ORDER BY trades DESC
LIMIT 20;
