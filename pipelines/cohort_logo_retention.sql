/*---
name: cohort_logo_retention
description: "How many of the customers who first paid in one month still pay: retention = those of the cohort with MRR above 0 at a month's end / all of the cohort, over all currencies."
owner: finance
mode: upsert
grain: [account, livemode, cohort, month]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  cohort:       { description: "First day of the month in which its customers first paid", tests: [not_null] }
  month:        { description: "First day of the month in the merchant's zone; the last month is as far as the log goes", tests: [not_null] }
  months_since: { description: "Months since the cohort's first one", tests: [not_negative] }
  customers:    { description: "Customers of the cohort with MRR above 0 when the month ends", tests: [not_null, not_negative] }
  size:         { description: "All customers of the cohort", tests: [not_negative] }
  retention:    { description: "customers / size, 1 being all of them" }
---*/
WITH moved AS (
    SELECT
        account, livemode, cohort, month,
        SUM(customers_delta) AS net,
        COUNT(*) FILTER (WHERE is_first) AS began
    FROM logo_movements
    GROUP BY account, livemode, cohort, month
),
spine AS (
    -- Every month from the cohort's first to that of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.cohort,
        UNNEST(generate_series(b.cohort, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, cohort, MAX(month) AS last_month
        FROM moved
        GROUP BY account, livemode, cohort
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
sums AS (
    SELECT
        s.account, s.livemode, s.cohort, s.month,
        CAST(ROW_NUMBER() OVER by_month AS BIGINT) - 1 AS months_since,
        SUM(COALESCE(m.net, 0)) OVER by_month AS customers,
        SUM(COALESCE(m.began, 0)) OVER by_month AS size
    FROM spine AS s
    LEFT JOIN moved AS m
        ON m.account = s.account AND m.livemode = s.livemode AND m.cohort = s.cohort AND m.month = s.month
    WINDOW by_month AS (PARTITION BY s.account, s.livemode, s.cohort ORDER BY s.month)
)
SELECT
    account, livemode, cohort, month, months_since, customers, size,
    CAST(customers AS DECIMAL(28, 6)) / NULLIF(size, 0) AS retention
FROM sums
