-- Option chains by expiration, each contract as it was seen last, expired ones too: how they are quoted, traded and priced.
-- at_the_money is the mean volatility of contracts with a delta of 0.4 to 0.6, put_call the ratio of volumes.
CREATE VIEW IF NOT EXISTS options_by_expiration AS (
  SELECT
    feed, underlying, expiration, max(ts_event) ts_event, last(underlying_price) underlying_price, count() contracts,
    sum(CASE WHEN bid > 0 AND ask > 0 THEN 1 ELSE 0 END) quoted, sum(volume) volume, sum(open_interest) open_interest,
    sum(CASE WHEN option_type = 'put' THEN volume ELSE 0.0 END)
      / nullif(sum(CASE WHEN option_type = 'call' THEN volume ELSE 0.0 END), 0.0) put_call,
    avg(CASE WHEN abs(delta) >= 0.4 AND abs(delta) <= 0.6 THEN iv END) at_the_money, max(age_ns) oldest_ns
  FROM (SELECT * FROM options_chain LATEST ON ts_event PARTITION BY symbol, feed)
  GROUP BY feed, underlying, expiration
);
