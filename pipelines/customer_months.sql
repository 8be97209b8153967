/*---
name: customer_months
description: "The bridge of one customer's MRR in one currency, for each month in which it moved: closing = opening + imported + new + reactivation + expansion + contraction + churn, in major units. In months without a row nothing moved."
owner: finance
mode: upsert
grain: [account, livemode, customer_id, currency, month]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  customer_id:  { description: "Stripe customer", tests: [not_null] }
  currency:     { description: "ISO 4217 code in lower case", tests: [not_null] }
  month:        { description: "First day of the month in the merchant's zone", tests: [not_null] }
  cohort:       { description: "First day of the month in which the customer first had MRR, in any currency", tests: [not_null] }
  opening:      { description: "MRR when the month begins", tests: [not_null, not_negative] }
  imported:     { description: "MRR of what existed before the log began" }
  new:          { description: "MRR with which the customer came, if it came for the first time" }
  reactivation: { description: "MRR with which the customer came back" }
  expansion:    { description: "MRR gained while paying" }
  contraction:  { description: "MRR lost while paying on, ≤ 0" }
  churn:        { description: "MRR lost by stopping, ≤ 0" }
  closing:      { description: "MRR when the month ends", tests: [not_null, not_negative] }
---*/
WITH moved AS (
    SELECT
        account, livemode, customer_id, currency,
        CAST(date_trunc('month', local_date(occurred_at, $zone)) AS DATE) AS month,
        SUM(CASE WHEN kind = 'imported'     THEN mrr_delta ELSE 0 END) AS imported,
        SUM(CASE WHEN kind = 'new'          THEN mrr_delta ELSE 0 END) AS new,
        SUM(CASE WHEN kind = 'reactivation' THEN mrr_delta ELSE 0 END) AS reactivation,
        SUM(CASE WHEN kind = 'expansion'    THEN mrr_delta ELSE 0 END) AS expansion,
        SUM(CASE WHEN kind = 'contraction'  THEN mrr_delta ELSE 0 END) AS contraction,
        SUM(CASE WHEN kind = 'churn'        THEN mrr_delta ELSE 0 END) AS churn,
        SUM(mrr_delta) AS net
    FROM mrr_movements
    GROUP BY account, livemode, customer_id, currency, CAST(date_trunc('month', local_date(occurred_at, $zone)) AS DATE)
)
SELECT
    account, livemode, customer_id, currency, month,
    MIN(month) OVER (PARTITION BY account, livemode, customer_id) AS cohort,
    SUM(net) OVER by_month - net AS opening,
    imported, new, reactivation, expansion, contraction, churn,
    SUM(net) OVER by_month AS closing
FROM moved
WINDOW by_month AS (PARTITION BY account, livemode, customer_id, currency ORDER BY month)
