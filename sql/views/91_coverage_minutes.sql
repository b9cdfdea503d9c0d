-- The ledger of coverage, a row for each minute, feed, symbol and channel: what was noticed about it at any time, added up.
CREATE VIEW IF NOT EXISTS coverage_minutes AS (
  SELECT
    ts_event, feed, symbol, channel, sum(received) received, sum(verified) verified, sum(unverifiable) unverifiable,
    sum(missing) missing, sum(repaired) repaired, sum(duplicate) duplicate, sum(late) late, sum(rejected) rejected,
    last(cause) cause
  FROM coverage
);
