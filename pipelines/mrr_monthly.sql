/*---
name: mrr_monthly
description: "The bridge of monthly recurring revenue for each calendar month and currency: closing = opening + imported + new + reactivation + expansion + contraction + churn, in major units of the currency."
owner: finance
mode: upsert
grain: [account, livemode, month, currency]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  month:        { description: "First day of the month in the merchant's zone; the last month is as far as the log goes", tests: [not_null] }
  currency:     { description: "ISO 4217 code in lower case", tests: [not_null] }
  opening:      { description: "MRR when the month begins", tests: [not_null] }
  imported:     { description: "MRR of what existed before the log began" }
  new:          { description: "MRR of customers who pay for the first time" }
  reactivation: { description: "MRR of customers who come back" }
  expansion:    { description: "MRR gained from paying customers" }
  contraction:  { description: "MRR lost from customers who go on paying, ≤ 0" }
  churn:        { description: "MRR lost from customers who stop, ≤ 0" }
  closing:      { description: "MRR when the month ends", tests: [not_null, not_negative] }
  arr:          { description: "Annual run rate: 12 × closing" }
  customers:    { description: "Customers with MRR above 0 in this currency when the month ends", tests: [not_negative] }
  churned_revenue: { description: "−(contraction + churn), ≥ 0" }
  gross_churn:  { description: "−(contraction + churn) / opening, 1 being all of it; null where opening is 0" }
  net_churn:    { description: "−(contraction + churn + expansion + reactivation) / opening; below 0 where more was won than lost; null where opening is 0" }
---*/
WITH moved AS (
    SELECT
        account, livemode, currency,
        CAST(date_trunc('month', local_date(occurred_at, $zone)) AS DATE) AS month,
        SUM(CASE WHEN kind = 'imported'     THEN mrr_delta ELSE 0 END) AS imported,
        SUM(CASE WHEN kind = 'new'          THEN mrr_delta ELSE 0 END) AS new,
        SUM(CASE WHEN kind = 'reactivation' THEN mrr_delta ELSE 0 END) AS reactivation,
        SUM(CASE WHEN kind = 'expansion'    THEN mrr_delta ELSE 0 END) AS expansion,
        SUM(CASE WHEN kind = 'contraction'  THEN mrr_delta ELSE 0 END) AS contraction,
        SUM(CASE WHEN kind = 'churn'        THEN mrr_delta ELSE 0 END) AS churn,
        SUM(mrr_delta) AS net,
        SUM(CASE WHEN mrr_before = 0 THEN 1 WHEN mrr_after = 0 THEN -1 ELSE 0 END) AS joined
    FROM mrr_movements
    GROUP BY account, livemode, currency, CAST(date_trunc('month', local_date(occurred_at, $zone)) AS DATE)
),
spine AS (
    -- Every month from a currency's first movement to the month of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.currency,
        UNNEST(generate_series(b.first_month, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, currency, MIN(month) AS first_month, MAX(month) AS last_month
        FROM moved
        GROUP BY account, livemode, currency
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
bridge AS (
    SELECT
        s.account, s.livemode, s.month, s.currency,
        COALESCE(m.imported, 0) AS imported,
        COALESCE(m.new, 0) AS new,
        COALESCE(m.reactivation, 0) AS reactivation,
        COALESCE(m.expansion, 0) AS expansion,
        COALESCE(m.contraction, 0) AS contraction,
        COALESCE(m.churn, 0) AS churn,
        SUM(COALESCE(m.net, 0)) OVER by_month - COALESCE(m.net, 0) AS opening,
        SUM(COALESCE(m.net, 0)) OVER by_month AS closing,
        SUM(COALESCE(m.joined, 0)) OVER by_month AS customers
    FROM spine AS s
    LEFT JOIN moved AS m
        ON m.account = s.account AND m.livemode = s.livemode AND m.currency = s.currency AND m.month = s.month
    WINDOW by_month AS (PARTITION BY s.account, s.livemode, s.currency ORDER BY s.month)
)
SELECT
    account, livemode, month, currency,
    opening,
    imported, new, reactivation, expansion, contraction, churn,
    closing,
    closing * 12 AS arr,
    customers,
    -(contraction + churn) AS churned_revenue,
    -(contraction + churn) / NULLIF(opening, 0) AS gross_churn,
    -(contraction + churn + expansion + reactivation) / NULLIF(opening, 0) AS net_churn
FROM bridge
