/*---
name: mrr_daily
description: The bridge of monthly recurring revenue for each day and currency.
owner: finance
mode: upsert
grain: [account, livemode, day, currency]
time_column: day
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days begin and end }
columns:
  day:         { description: Calendar day in the merchant's zone, tests: [not_null] }
  currency:    { description: ISO 4217 code in lower case, tests: [not_null] }
  opening:     { description: MRR when the day begins, tests: [not_null] }
  imported:    { description: MRR of what existed before the log began }
  new:         { description: MRR of customers who pay for the first time }
  reactivation: { description: MRR of customers who come back }
  expansion:   { description: MRR gained from paying customers }
  contraction: { description: "MRR lost from customers who go on paying, ≤ 0" }
  churn:       { description: "MRR lost from customers who stop, ≤ 0" }
  closing:     { description: MRR when the day ends, tests: [not_null, not_negative] }
  arr:         { description: "12 × closing" }
  drr:         { description: "closing × 12/365" }
  customers:   { description: Customers with MRR above 0 when the day ends, tests: [not_negative] }
---*/
WITH moved AS (
    SELECT
        account, livemode, currency,
        local_date(occurred_at, $zone) AS day,
        SUM(CASE WHEN kind = 'imported'     THEN mrr_delta ELSE 0 END) AS imported,
        SUM(CASE WHEN kind = 'new'          THEN mrr_delta ELSE 0 END) AS new,
        SUM(CASE WHEN kind = 'reactivation' THEN mrr_delta ELSE 0 END) AS reactivation,
        SUM(CASE WHEN kind = 'expansion'    THEN mrr_delta ELSE 0 END) AS expansion,
        SUM(CASE WHEN kind = 'contraction'  THEN mrr_delta ELSE 0 END) AS contraction,
        SUM(CASE WHEN kind = 'churn'        THEN mrr_delta ELSE 0 END) AS churn,
        SUM(mrr_delta) AS net,
        SUM(CASE WHEN mrr_before = 0 THEN 1 WHEN mrr_after = 0 THEN -1 ELSE 0 END) AS joined
    FROM mrr_movements
    GROUP BY account, livemode, currency, local_date(occurred_at, $zone)
),
spine AS (
    -- Every day from a currency's first movement to the day of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.currency,
        UNNEST(generate_series(b.first_day, GREATEST(b.last_day, c.day), INTERVAL '1 day')) AS day
    FROM (
        SELECT account, livemode, currency, MIN(day) AS first_day, MAX(day) AS last_day
        FROM moved
        GROUP BY account, livemode, currency
    ) AS b
    JOIN (
        SELECT account, livemode, local_date(last_event_at, $zone) AS day FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
bridge AS (
    SELECT
        s.account, s.livemode, s.day, s.currency,
        COALESCE(m.imported, 0) AS imported,
        COALESCE(m.new, 0) AS new,
        COALESCE(m.reactivation, 0) AS reactivation,
        COALESCE(m.expansion, 0) AS expansion,
        COALESCE(m.contraction, 0) AS contraction,
        COALESCE(m.churn, 0) AS churn,
        COALESCE(m.net, 0) AS net,
        SUM(COALESCE(m.net, 0)) OVER by_day AS closing,
        SUM(COALESCE(m.joined, 0)) OVER by_day AS customers
    FROM spine AS s
    LEFT JOIN moved AS m
        ON m.account = s.account AND m.livemode = s.livemode AND m.currency = s.currency AND m.day = s.day
    WINDOW by_day AS (PARTITION BY s.account, s.livemode, s.currency ORDER BY s.day)
)
SELECT
    account, livemode, day, currency,
    closing - net AS opening,
    imported, new, reactivation, expansion, contraction, churn,
    closing,
    closing * 12 AS arr,
    closing * 12 / 365 AS drr,
    customers
FROM bridge
