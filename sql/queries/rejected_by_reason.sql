-- Which frames and rows did not fit, by reason, with the latest one as an example?
DECLARE @from := dateadd('d', -1, now())
SELECT feed, reason, count() rejected, min(ts_event) first_seen, max(ts_event) last_seen, last(excerpt) example
FROM rejected
WHERE ts_event >= @from
ORDER BY rejected DESC;
