/*---
name: subscription_item_changes
description: What stands of the ledger, an item and instant a row, in minor units, as Stripe's own tables count.
owner: finance
mode: upsert
grain: [account, livemode, event_timestamp, event_type, subscription_item_id]
time_column: event_timestamp
columns:
  event_timestamp:      { description: When it happened, tests: [not_null] }
  event_type:           { description: "ACTIVE_START, ACTIVE_END, ACTIVE_UPGRADE or ACTIVE_DOWNGRADE", tests: [not_null] }
  subscription_item_id: { description: Stripe subscription item, tests: [not_null] }
  subscription_id:      { description: Stripe subscription, tests: [not_null] }
  customer_id:          { description: Stripe customer, tests: [not_null] }
  price_id:             { description: Stripe price, tests: [not_null] }
  product_id:           { description: Stripe product }
  currency:             { description: "ISO 4217 code in lower case: the currency the customer pays in", tests: [not_null] }
  mrr_change:           { description: "Change of MRR in minor units: the difference of the rounded MRR of the item at the price, after and before" }
  quantity_change:      { description: "Change of the units, rounded the same way" }
---*/
WITH net AS (
    -- A reversal lies at the instant of what it reverses, so what was taken back adds up to nothing here.
    SELECT
        account, livemode, subscription_item_id, price_id, currency, event_time, subscription_id, customer_id, product_id,
        SUM(mrr_delta) AS mrr,
        SUM(quantity_delta) AS quantity,
        SUM(
            CASE change WHEN 'start' THEN 1 WHEN 'imported' THEN 1 WHEN 'end' THEN -1 ELSE 0 END
            * CASE WHEN reverses_entry_id IS NULL THEN 1 ELSE -1 END
        ) AS begun
    FROM mrr_ledger
    GROUP BY
        account, livemode, subscription_item_id, price_id, currency, event_time, subscription_id, customer_id, product_id
),
running AS (
    SELECT
        account, livemode, subscription_item_id, price_id, currency, event_time, subscription_id, customer_id, product_id,
        mrr, quantity, begun,
        SUM(mrr) OVER so_far AS mrr_after,
        SUM(quantity) OVER so_far AS quantity_after
    FROM net
    WINDOW so_far AS (
        PARTITION BY account, livemode, subscription_item_id, price_id, currency
        ORDER BY event_time, product_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
)
SELECT
    account, livemode,
    event_time AS event_timestamp,
    CASE
        WHEN begun > 0 THEN 'ACTIVE_START'
        WHEN begun < 0 THEN 'ACTIVE_END'
        WHEN mrr > 0 OR (mrr = 0 AND quantity > 0) THEN 'ACTIVE_UPGRADE'
        ELSE 'ACTIVE_DOWNGRADE'
    END AS event_type,
    subscription_item_id, subscription_id, customer_id, price_id, product_id, currency,
    minor_units(mrr_after, currency) - minor_units(mrr_after - mrr, currency) AS mrr_change,
    CAST(ROUND(quantity_after) AS BIGINT) - CAST(ROUND(quantity_after - quantity) AS BIGINT) AS quantity_change
FROM running
WHERE begun <> 0 OR mrr <> 0 OR quantity <> 0
