/*---
name: usage_run_rate
description: The last closed period of each metered item brought to a month, from when to when it was the last one.
owner: finance
mode: upsert
grain: [account, livemode, subscription_item_id, valid_from]
time_column: valid_from
columns:
  subscription_item_id: { description: Stripe subscription item, tests: [not_null] }
  valid_from:      { description: End of the period of use, tests: [not_null] }
  valid_to:        { description: "End of the next period of use, or when the item ended" }
  customer_id:     { description: Stripe customer, tests: [not_null] }
  subscription_id: { description: Stripe subscription }
  price_id:        { description: Stripe price }
  product_id:      { description: Stripe product }
  currency:        { description: ISO 4217 code in lower case }
  period_start:    { description: Start of the period of use }
  amount:          { description: "What the period was worth, net of discounts and inclusive tax" }
  run_rate:        { description: "The same for a month, by the price's own interval" }
---*/
WITH marks AS (
    SELECT account, livemode, subscription_item_id, period_end AS instant,
           customer_id, subscription_id, price_id, product_id, currency, period_start, amount, monthly,
           CAST(NULL AS BIGINT) AS ended_as, CAST(NULL AS BIGINT) AS going_as
    FROM metered_usage
    WHERE subscription_item_id IS NOT NULL
    UNION ALL
    -- When a metered item ends, its last period is no longer its run rate; of an instant's states the last one holds.
    SELECT account, livemode, subscription_item_id, valid_from AS instant,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           CASE WHEN ended THEN revision END,
           CASE WHEN ended THEN NULL ELSE revision END
    FROM (
        SELECT *,
            (status IN ('canceled', 'incomplete_expired') OR array_has(flags, 'removed') OR array_has(flags, 'deleted'))
            AND NOT array_has(flags, 'withdrawn') AS ended
        FROM item_states
        WHERE array_has(flags, 'metered') AND provenance <> 'reconstructed'
    ) AS states
),
periods AS (
    -- A price with tiers has a line for each tier of one period.
    SELECT
        account, livemode, subscription_item_id, instant,
        COUNT(monthly) AS lines,
        MAX(customer_id) AS customer_id, MAX(subscription_id) AS subscription_id, MAX(price_id) AS price_id,
        MAX(product_id) AS product_id, MAX(currency) AS currency, MIN(period_start) AS period_start,
        SUM(amount) AS amount, SUM(monthly) AS run_rate,
        MAX(ended_as) AS ended_as, MAX(going_as) AS going_as
    FROM marks
    GROUP BY account, livemode, subscription_item_id, instant
),
ranked AS (
    SELECT
        *,
        ended_as IS NOT NULL AND (going_as IS NULL OR going_as < ended_as) AS ended
    FROM periods
),
spans AS (
    SELECT
        *,
        MIN(CASE WHEN lines > 0 OR ended THEN instant END) OVER (
            PARTITION BY account, livemode, subscription_item_id ORDER BY instant
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ) AS valid_to
    FROM ranked
)
SELECT
    account, livemode, subscription_item_id, instant AS valid_from, valid_to,
    customer_id, subscription_id, price_id, product_id, currency, period_start, amount, run_rate
FROM spans
WHERE lines > 0 AND NOT ended
