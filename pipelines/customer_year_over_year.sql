/*---
name: customer_year_over_year
description: "A customer's MRR at the end of a month beside that of twelve months before, in each month in which one of the two changed, in major units. Months that the log has not reached say what will be if nothing moves."
owner: finance
mode: upsert
grain: [account, livemode, customer_id, currency, month]
time_column: month
columns:
  customer_id:     { description: "Stripe customer", tests: [not_null] }
  currency:        { description: "ISO 4217 code in lower case", tests: [not_null] }
  month:           { description: "First day of the month in the merchant's zone", tests: [not_null] }
  mrr:             { description: "MRR when the month ends", tests: [not_null, not_negative] }
  mrr_year_before: { description: "MRR when the month twelve months before ended", tests: [not_null, not_negative] }
  net_retained:    { description: "mrr where mrr_year_before is above 0, else 0" }
  gross_retained:  { description: "The smaller of mrr and mrr_year_before" }
  net_retained_change:   { description: "net_retained less that of the customer's row before" }
  gross_retained_change: { description: "gross_retained less that of the customer's row before" }
---*/
WITH steps AS (
    -- A movement changes this month's MRR, and in twelve months the MRR of the year before.
    SELECT account, livemode, customer_id, currency, month, SUM(step) AS step, SUM(year_step) AS year_step
    FROM (
        SELECT account, livemode, customer_id, currency, month, closing - opening AS step, 0 AS year_step
        FROM customer_months
        UNION ALL
        SELECT
            account, livemode, customer_id, currency,
            CAST(month + INTERVAL '12 months' AS DATE) AS month,
            0 AS step, closing - opening AS year_step
        FROM customer_months
    ) AS moved
    GROUP BY account, livemode, customer_id, currency, month
),
levels AS (
    SELECT
        account, livemode, customer_id, currency, month,
        SUM(step) OVER by_month AS mrr,
        SUM(year_step) OVER by_month AS mrr_year_before
    FROM steps
    WINDOW by_month AS (PARTITION BY account, livemode, customer_id, currency ORDER BY month)
),
retained AS (
    SELECT
        account, livemode, customer_id, currency, month, mrr, mrr_year_before,
        CASE WHEN mrr_year_before > 0 THEN mrr ELSE 0 END AS net_retained,
        CASE WHEN mrr_year_before > 0 THEN LEAST(mrr, mrr_year_before) ELSE 0 END AS gross_retained
    FROM levels
)
SELECT
    account, livemode, customer_id, currency, month, mrr, mrr_year_before, net_retained, gross_retained,
    net_retained - COALESCE(LAG(net_retained) OVER by_month, 0) AS net_retained_change,
    gross_retained - COALESCE(LAG(gross_retained) OVER by_month, 0) AS gross_retained_change
FROM retained
WINDOW by_month AS (PARTITION BY account, livemode, customer_id, currency ORDER BY month)
