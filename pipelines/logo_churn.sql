/*---
name: logo_churn
description: "The share of customers lost in each month, over all currencies, with both denominators that are in use: lost / opening, and churned / (opening + arrived). logo_churn is the one of the revenue profile. 1 is all of them; null where the denominator is 0."
owner: finance
mode: upsert
grain: [account, livemode, month]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
  denominator: { type: text, default: opening_and_new, setting: revenue.logo_churn_denominator, description: "opening: logo_churn is lost / opening; else churned / (opening + arrived)" }
  pauses: { type: boolean, default: "false", setting: revenue.pause_is_logo_churn, description: Whether a customer whose last subscription is paused has churned; for Stripe it has not }
columns:
  month:       { description: "First day of the month in the merchant's zone; the last month is as far as the log goes", tests: [not_null] }
  opening:     { description: "Customers with MRR above 0 when the month begins", tests: [not_null, not_negative] }
  arrived:     { description: "Customers who came: imported, new, reactivated, from_free", tests: [not_negative] }
  voluntary:   { description: "Times that a customer cancelled" }
  involuntary: { description: "Times that a customer left because its payments failed" }
  paused:      { description: "Times that a customer left by a pause" }
  to_free:     { description: "Times that a customer kept only free subscriptions, under profiles in which these count" }
  closing:     { description: "Customers when the month ends: opening + arrived − voluntary − involuntary − paused − to_free", tests: [not_null, not_negative] }
  churned:     { description: "voluntary + involuntary, with paused if pauses is set" }
  lost:        { description: "Of the customers of the opening those who have churned and not come back when the month ends" }
  churn_of_opening: { description: "lost / opening, as ChartMogul counts" }
  churn_of_opening_and_new: { description: "churned / (opening + arrived), as Stripe counts over 30 days" }
  logo_churn:  { description: "Of the two the one of the revenue profile" }
  voluntary_churn:   { description: "The part of logo_churn that cancelled; with those who paused if pauses is set" }
  involuntary_churn: { description: "The part of logo_churn whose payments failed" }
---*/
WITH moved AS (
    SELECT
        account, livemode, month,
        SUM(customers_delta) AS net,
        COUNT(*) FILTER (WHERE customers_delta > 0) AS arrived,
        COUNT(*) FILTER (WHERE kind = 'voluntary') AS voluntary,
        COUNT(*) FILTER (WHERE kind = 'involuntary') AS involuntary,
        COUNT(*) FILTER (WHERE kind = 'paused') AS paused,
        COUNT(*) FILTER (WHERE kind = 'to_free') AS to_free,
        COUNT(*) FILTER (WHERE is_lost AND (kind = 'voluntary' OR (kind = 'paused' AND $pauses))) AS lost_voluntary,
        COUNT(*) FILTER (WHERE is_lost AND kind = 'involuntary') AS lost_involuntary
    FROM logo_movements
    GROUP BY account, livemode, month
),
spine AS (
    -- Every month from the first movement to the month of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode,
        UNNEST(generate_series(b.first_month, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, MIN(month) AS first_month, MAX(month) AS last_month
        FROM moved
        GROUP BY account, livemode
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
months AS (
    SELECT
        s.account, s.livemode, s.month,
        SUM(COALESCE(m.net, 0)) OVER by_month AS closing,
        SUM(COALESCE(m.net, 0)) OVER by_month - COALESCE(m.net, 0) AS opening,
        COALESCE(m.arrived, 0) AS arrived,
        COALESCE(m.voluntary, 0) AS voluntary,
        COALESCE(m.involuntary, 0) AS involuntary,
        COALESCE(m.paused, 0) AS paused,
        COALESCE(m.to_free, 0) AS to_free,
        COALESCE(m.voluntary, 0) + CASE WHEN $pauses THEN COALESCE(m.paused, 0) ELSE 0 END AS churned_voluntary,
        COALESCE(m.lost_voluntary, 0) AS lost_voluntary,
        COALESCE(m.lost_involuntary, 0) AS lost_involuntary
    FROM spine AS s
    LEFT JOIN moved AS m ON m.account = s.account AND m.livemode = s.livemode AND m.month = s.month
    WINDOW by_month AS (PARTITION BY s.account, s.livemode ORDER BY s.month)
),
parts AS (
    SELECT
        *,
        CASE WHEN $denominator = 'opening' THEN lost_voluntary ELSE churned_voluntary END AS part_voluntary,
        CASE WHEN $denominator = 'opening' THEN lost_involuntary ELSE involuntary END AS part_involuntary,
        NULLIF(CASE WHEN $denominator = 'opening' THEN opening ELSE opening + arrived END, 0) AS whole
    FROM months
)
SELECT
    account, livemode, month,
    opening, arrived, voluntary, involuntary, paused, to_free, closing,
    churned_voluntary + involuntary AS churned,
    lost_voluntary + lost_involuntary AS lost,
    CAST(lost_voluntary + lost_involuntary AS DECIMAL(28, 6)) / NULLIF(opening, 0) AS churn_of_opening,
    CAST(churned_voluntary + involuntary AS DECIMAL(28, 6)) / NULLIF(opening + arrived, 0)
        AS churn_of_opening_and_new,
    CAST(part_voluntary + part_involuntary AS DECIMAL(28, 6)) / whole AS logo_churn,
    CAST(part_voluntary AS DECIMAL(28, 6)) / whole AS voluntary_churn,
    CAST(part_involuntary AS DECIMAL(28, 6)) / whole AS involuntary_churn
FROM parts
