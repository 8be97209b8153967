/*---
name: logo_movements
description: "Each time a customer began or stopped to pay, over all its currencies: the sum of customers_delta up to a moment is the number of customers with MRR above 0. A customer who pays in two currencies is one."
owner: finance
mode: upsert
grain: [account, livemode, customer_id, occurred_at]
time_column: occurred_at
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days and months begin and end }
columns:
  customer_id: { description: "Stripe customer", tests: [not_null] }
  occurred_at: { description: "When it happened", tests: [not_null] }
  day:         { description: "Calendar day in the merchant's zone", tests: [not_null] }
  month:       { description: "First day of that day's month", tests: [not_null] }
  cohort:      { description: "First day of the month in which the customer first paid", tests: [not_null] }
  kind:        { description: "imported, new, reactivated or from_free; voluntary, involuntary (its payments failed), paused or to_free. The free ones only under profiles in which a customer who pays nothing stays one", tests: [not_null] }
  customers_delta: { description: "1 when it began to pay, −1 when it stopped", tests: [not_null] }
  is_first:    { description: "Whether the customer paid for the first time", tests: [not_null] }
  is_lost:     { description: "Whether the customer, who paid when the month began, does so no longer when it ends; on the last row of the month", tests: [not_null] }
---*/
WITH instants AS (
    SELECT
        account, livemode, customer_id, occurred_at,
        SUM(CASE WHEN mrr_before = 0 THEN 1 WHEN mrr_after = 0 THEN -1 ELSE 0 END) AS currencies_delta,
        COUNT(*) FILTER (WHERE kind = 'imported') AS imported,
        COUNT(*) FILTER (WHERE kind = 'new') AS new,
        COUNT(*) FILTER (WHERE kind = 'reactivation') AS reactivation,
        COUNT(*) FILTER (WHERE kind = 'churn') AS churn,
        COUNT(*) FILTER (WHERE kind = 'churn' AND cause = 'payment_failure') AS failed,
        COUNT(*) FILTER (WHERE kind = 'churn' AND cause = 'pause') AS paused
    FROM mrr_movements
    GROUP BY account, livemode, customer_id, occurred_at
),
paying AS (
    SELECT *, SUM(currencies_delta) OVER (PARTITION BY account, livemode, customer_id ORDER BY occurred_at) AS currencies
    FROM instants
),
turns AS (
    SELECT
        account, livemode, customer_id, occurred_at,
        local_date(occurred_at, $zone) AS day,
        CAST(date_trunc('month', local_date(occurred_at, $zone)) AS DATE) AS month,
        CASE
            WHEN currencies > 0 AND imported > 0 THEN 'imported'
            WHEN currencies > 0 AND new > 0 THEN 'new'
            WHEN currencies > 0 AND reactivation > 0 THEN 'reactivated'
            WHEN currencies > 0 THEN 'from_free'
            WHEN churn = 0 THEN 'to_free'
            WHEN failed > 0 THEN 'involuntary'
            WHEN paused > 0 THEN 'paused'
            ELSE 'voluntary'
        END AS kind,
        CASE WHEN currencies > 0 THEN 1 ELSE -1 END AS customers_delta
    FROM paying
    WHERE (currencies > 0) <> (currencies - currencies_delta > 0)
)
SELECT
    account, livemode, customer_id, occurred_at, day, month,
    MIN(month) OVER of_customer AS cohort,
    kind, customers_delta,
    ROW_NUMBER() OVER in_time = 1 AS is_first,
    SUM(customers_delta) OVER of_month = -1 AND LEAD(month) OVER in_time IS DISTINCT FROM month AS is_lost
FROM turns
WINDOW
    of_customer AS (PARTITION BY account, livemode, customer_id),
    of_month AS (PARTITION BY account, livemode, customer_id, month),
    in_time AS (PARTITION BY account, livemode, customer_id ORDER BY occurred_at)
