-- Where does the time go from the exchange into a query, by feed and stage? Stages add up to the total; the least
-- `exchange` is the offset of the provider's clock (below 0: ahead of ours) plus the shortest way here. Mean, least and
-- most are exact, p50 is the mean of the seconds' medians by rows, p99 that of the worst second.
DECLARE @from := dateadd('h', -1, now())
SELECT
  feed, stage, sum(count) rows, sum(sum) / 1e6 / sum(count) ms_mean, sum(p50 * 1.0 * count) / 1e6 / sum(count) ms_p50,
  max(p99) / 1e6 ms_p99, min(min) / 1e6 ms_min, max(max) / 1e6 ms_max
FROM latency
WHERE ts_event >= @from
ORDER BY feed, CASE stage WHEN 'exchange' THEN 1 WHEN 'journalled' THEN 2 WHEN 'decoded' THEN 3 WHEN 'sent' THEN 4
  WHEN 'answered' THEN 5 WHEN 'applied' THEN 6 ELSE 7 END;
