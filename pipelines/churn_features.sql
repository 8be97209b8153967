/*---
name: churn_features
description: What was known of a customer on each day of activity; the input of the churn model.
owner: data-science
mode: upsert
grain: [account, livemode, customer_id, as_of]
time_column: as_of
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days begin and end }
columns:
  customer_id: { description: Stripe customer, tests: [not_null] }
  as_of:       { description: "Day of activity; windows end with it", tests: [not_null] }
  paying:      { description: "Currencies in which the customer pays at the day's end; 0 means churned", tests: [not_negative] }
  tenure_days: { description: Days since the customer's first activity, tests: [not_negative] }
  payments_succeeded_30d: { description: Payments that succeeded in the 30 days to as_of }
  payments_succeeded_90d: { description: Payments that succeeded in the 90 days to as_of }
  payments_failed_30d: { description: Payments that failed in the 30 days to as_of }
  payments_failed_90d: { description: Payments that failed in the 90 days to as_of }
  expansions_30d: { description: Expansions in the 30 days to as_of }
  expansions_90d: { description: Expansions in the 90 days to as_of }
  contractions_30d: { description: Contractions in the 30 days to as_of }
  contractions_90d: { description: Contractions in the 90 days to as_of }
  refunds_90d: { description: Refunds in the 90 days to as_of }
  disputes_90d: { description: Disputes in the 90 days to as_of }
  reactivations: { description: Reactivations so far }
---*/
WITH activity AS (
    SELECT account, livemode, customer_id, occurred_at, kind,
           CASE WHEN mrr_before = 0 THEN 1 WHEN mrr_after = 0 THEN -1 ELSE 0 END AS joined
    FROM mrr_movements
    UNION ALL
    SELECT account, livemode, customer_id, occurred_at, kind, 0 AS joined
    FROM billing_events
),
daily AS (
    -- One pane for each customer and day; the windows below are sums of panes.
    SELECT
        account, livemode, customer_id,
        local_date(occurred_at, $zone) AS as_of,
        SUM(joined) AS joined,
        COUNT(*) FILTER (WHERE kind = 'payment_succeeded') AS succeeded,
        COUNT(*) FILTER (WHERE kind = 'payment_failed') AS failed,
        COUNT(*) FILTER (WHERE kind = 'expansion') AS expansions,
        COUNT(*) FILTER (WHERE kind = 'contraction') AS contractions,
        COUNT(*) FILTER (WHERE kind = 'refund') AS refunds,
        COUNT(*) FILTER (WHERE kind = 'dispute') AS disputes,
        COUNT(*) FILTER (WHERE kind = 'reactivation') AS reactivations
    FROM activity
    GROUP BY account, livemode, customer_id, local_date(occurred_at, $zone)
)
SELECT
    account, livemode, customer_id, as_of,
    SUM(joined) OVER so_far AS paying,
    CAST(as_of AS INT) - CAST(MIN(as_of) OVER so_far AS INT) AS tenure_days,
    SUM(succeeded) OVER month AS payments_succeeded_30d,
    SUM(succeeded) OVER quarter AS payments_succeeded_90d,
    SUM(failed) OVER month AS payments_failed_30d,
    SUM(failed) OVER quarter AS payments_failed_90d,
    SUM(expansions) OVER month AS expansions_30d,
    SUM(expansions) OVER quarter AS expansions_90d,
    SUM(contractions) OVER month AS contractions_30d,
    SUM(contractions) OVER quarter AS contractions_90d,
    SUM(refunds) OVER quarter AS refunds_90d,
    SUM(disputes) OVER quarter AS disputes_90d,
    SUM(reactivations) OVER so_far AS reactivations
FROM daily
-- Days as numbers: their frames are found in half the time that dates and intervals take.
WINDOW
    so_far AS (PARTITION BY account, livemode, customer_id ORDER BY CAST(as_of AS INT) ROWS UNBOUNDED PRECEDING),
    month AS (PARTITION BY account, livemode, customer_id ORDER BY CAST(as_of AS INT) RANGE BETWEEN 29 PRECEDING AND CURRENT ROW),
    quarter AS (PARTITION BY account, livemode, customer_id ORDER BY CAST(as_of AS INT) RANGE BETWEEN 89 PRECEDING AND CURRENT ROW)
