/*---
name: customers_daily
description: "The customers with MRR above 0 on each day, over all currencies, and Stripe's churn rate of 30 days: logo_churn_30d = churned in 30 days / (customers 30 days ago + those who came in the 30 days). closing = opening + imported + new + reactivated + from_free − voluntary − involuntary − paused − to_free."
owner: finance
mode: upsert
grain: [account, livemode, day]
time_column: day
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days begin and end }
  pauses: { type: boolean, default: "false", setting: revenue.pause_is_logo_churn, description: Whether a customer whose last subscription is paused has churned; for Stripe it has not }
columns:
  day:         { description: "Calendar day in the merchant's zone", tests: [not_null] }
  opening:     { description: "Customers when the day begins", tests: [not_null, not_negative] }
  imported:    { description: "Customers who paid before the log began" }
  new:         { description: "Customers who pay for the first time" }
  reactivated: { description: "Customers who came back" }
  from_free:   { description: "Customers who had only free subscriptions, under profiles in which these count" }
  voluntary:   { description: "Customers who cancelled" }
  involuntary: { description: "Customers who left because their payments failed" }
  paused:      { description: "Customers who left by a pause" }
  to_free:     { description: "Customers who kept only free subscriptions, under profiles in which these count" }
  closing:     { description: "Customers when the day ends", tests: [not_null, not_negative] }
  churned_30d: { description: "Churns in the 30 days to this one: voluntary and involuntary, with paused if pauses is set; who left twice counts twice" }
  arrived_30d: { description: "Customers who came in these 30 days: imported, new, reactivated, from_free" }
  logo_churn_30d: { description: "churned_30d / (customers when the 30 days began + arrived_30d), 1 being all; null where there were none" }
---*/
WITH moved AS (
    SELECT
        account, livemode, day,
        SUM(customers_delta) AS net,
        COUNT(*) FILTER (WHERE kind = 'imported') AS imported,
        COUNT(*) FILTER (WHERE kind = 'new') AS new,
        COUNT(*) FILTER (WHERE kind = 'reactivated') AS reactivated,
        COUNT(*) FILTER (WHERE kind = 'from_free') AS from_free,
        COUNT(*) FILTER (WHERE kind = 'voluntary') AS voluntary,
        COUNT(*) FILTER (WHERE kind = 'involuntary') AS involuntary,
        COUNT(*) FILTER (WHERE kind = 'paused') AS paused,
        COUNT(*) FILTER (WHERE kind = 'to_free') AS to_free
    FROM logo_movements
    GROUP BY account, livemode, day
),
spine AS (
    -- Every day from the first movement to the day of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode,
        UNNEST(generate_series(b.first_day, GREATEST(b.last_day, c.day), INTERVAL '1 day')) AS day
    FROM (
        SELECT account, livemode, MIN(day) AS first_day, MAX(day) AS last_day
        FROM moved
        GROUP BY account, livemode
    ) AS b
    JOIN (
        SELECT account, livemode, local_date(last_event_at, $zone) AS day FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
days AS (
    SELECT
        s.account, s.livemode, s.day,
        COALESCE(m.net, 0) AS net,
        COALESCE(m.imported, 0) AS imported,
        COALESCE(m.new, 0) AS new,
        COALESCE(m.reactivated, 0) AS reactivated,
        COALESCE(m.from_free, 0) AS from_free,
        COALESCE(m.voluntary, 0) AS voluntary,
        COALESCE(m.involuntary, 0) AS involuntary,
        COALESCE(m.paused, 0) AS paused,
        COALESCE(m.to_free, 0) AS to_free
    FROM spine AS s
    LEFT JOIN moved AS m ON m.account = s.account AND m.livemode = s.livemode AND m.day = s.day
),
sums AS (
    SELECT
        *,
        SUM(net) OVER so_far AS closing,
        SUM(voluntary + involuntary + CASE WHEN $pauses THEN paused ELSE 0 END) OVER days_30 AS churned_30d,
        SUM(imported + new + reactivated + from_free) OVER days_30 AS arrived_30d,
        SUM(net) OVER days_30 AS net_30d
    FROM days
    WINDOW
        so_far AS (PARTITION BY account, livemode ORDER BY day),
        days_30 AS (PARTITION BY account, livemode ORDER BY day ROWS BETWEEN 29 PRECEDING AND CURRENT ROW)
)
SELECT
    account, livemode, day,
    closing - net AS opening,
    imported, new, reactivated, from_free, voluntary, involuntary, paused, to_free,
    closing,
    churned_30d,
    arrived_30d,
    CAST(churned_30d AS DECIMAL(28, 6)) / NULLIF(closing - net_30d + arrived_30d, 0) AS logo_churn_30d
FROM sums
