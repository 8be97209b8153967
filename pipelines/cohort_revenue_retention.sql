/*---
name: cohort_revenue_retention
description: "What is left of the MRR of the customers who first paid in one month: retention = MRR of the cohort at a month's end / its MRR at the end of its first month, in major units of one currency."
owner: finance
mode: upsert
grain: [account, livemode, cohort, currency, month]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  cohort:       { description: "First day of the month in which its customers first had MRR, in any currency", tests: [not_null] }
  currency:     { description: "ISO 4217 code in lower case", tests: [not_null] }
  month:        { description: "First day of the month in the merchant's zone; the last month is as far as the log goes", tests: [not_null] }
  months_since: { description: "Months since the cohort's first one", tests: [not_negative] }
  mrr:          { description: "MRR of the cohort when the month ends", tests: [not_null, not_negative] }
  start_mrr:    { description: "MRR of the cohort when its first month ended", tests: [not_negative] }
  retention:    { description: "mrr / start_mrr, 1 being all of it; above 1 where those who stayed grew; null where start_mrr is 0" }
---*/
WITH moved AS (
    SELECT account, livemode, cohort, currency, month, SUM(closing - opening) AS net
    FROM customer_months
    GROUP BY account, livemode, cohort, currency, month
),
spine AS (
    -- Every month from the cohort's first to that of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.cohort, b.currency,
        UNNEST(generate_series(b.cohort, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, cohort, currency, MAX(month) AS last_month
        FROM moved
        GROUP BY account, livemode, cohort, currency
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
sums AS (
    SELECT
        s.account, s.livemode, s.cohort, s.currency, s.month,
        CAST(ROW_NUMBER() OVER by_month AS BIGINT) - 1 AS months_since,
        SUM(COALESCE(m.net, 0)) OVER by_month AS mrr,
        SUM(CASE WHEN s.month = s.cohort THEN COALESCE(m.net, 0) ELSE 0 END) OVER by_month AS start_mrr
    FROM spine AS s
    LEFT JOIN moved AS m
        ON m.account = s.account AND m.livemode = s.livemode AND m.cohort = s.cohort AND m.currency = s.currency
        AND m.month = s.month
    WINDOW by_month AS (PARTITION BY s.account, s.livemode, s.cohort, s.currency ORDER BY s.month)
)
SELECT
    account, livemode, cohort, currency, month, months_since, mrr, start_mrr,
    mrr / NULLIF(start_mrr, 0) AS retention
FROM sums
