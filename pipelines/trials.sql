/*---
name: trials
description: "Every trial of a subscription, from when it began to how it ended. A subscription counts once, whatever number of items it has; trial_mrr is what it would be worth, in major units of the currency."
owner: finance
mode: upsert
grain: [account, livemode, subscription_id, started_at]
time_column: started_at
columns:
  subscription_id: { description: "Stripe subscription", tests: [not_null] }
  started_at:  { description: "When the trial began, or was first seen", tests: [not_null] }
  customer_id: { description: "Stripe customer", tests: [not_null] }
  currency:    { description: "ISO 4217 code in lower case", tests: [not_null] }
  trial_mrr:   { description: "The MRR that it would have been at the beginning", tests: [not_negative] }
  ended_at:    { description: "When it ended; null while it goes on" }
  outcome:     { description: "converted, canceled, payment_failure, paused or other; null while it goes on" }
---*/
WITH instants AS (
    SELECT
        account, livemode, subscription_id, event_time,
        MAX(customer_id) AS customer_id,
        MAX(currency) AS currency,
        SUM(amount_delta) AS amount,
        -- A reversal takes back one item as it was written.
        SUM(CASE WHEN reverses_entry_id IS NULL THEN 1 ELSE -1 END
            * CASE change WHEN 'change' THEN 0 WHEN 'end' THEN -1 ELSE 1 END) AS items_delta,
        SUM(CASE WHEN change <> 'end' OR cause <> 'trial_converted' THEN 0
                 WHEN reverses_entry_id IS NULL THEN 1 ELSE -1 END) AS converted,
        SUM(CASE WHEN change <> 'end' OR cause <> 'canceled' THEN 0
                 WHEN reverses_entry_id IS NULL THEN 1 ELSE -1 END) AS canceled,
        SUM(CASE WHEN change <> 'end' OR cause <> 'payment_failure' THEN 0
                 WHEN reverses_entry_id IS NULL THEN 1 ELSE -1 END) AS failed,
        SUM(CASE WHEN change <> 'end' OR cause <> 'pause' THEN 0
                 WHEN reverses_entry_id IS NULL THEN 1 ELSE -1 END) AS paused
    FROM outlook_ledger
    WHERE measure = 'trial'
    GROUP BY account, livemode, subscription_id, event_time
),
levels AS (
    SELECT *, SUM(items_delta) OVER in_time AS items, SUM(amount) OVER in_time AS trial_mrr
    FROM instants
    WINDOW in_time AS (PARTITION BY account, livemode, subscription_id ORDER BY event_time)
),
turns AS (
    SELECT
        account, livemode, subscription_id, event_time, customer_id, currency, trial_mrr, items,
        CASE
            WHEN converted > 0 THEN 'converted'
            WHEN failed > 0 THEN 'payment_failure'
            WHEN canceled > 0 THEN 'canceled'
            WHEN paused > 0 THEN 'paused'
            ELSE 'other'
        END AS ended_by
    FROM levels
    WHERE (items > 0) <> (items - items_delta > 0)
),
ends AS (
    -- Beginnings and ends take turns.
    SELECT
        *,
        LEAD(event_time) OVER in_time AS ended_at,
        LEAD(ended_by) OVER in_time AS outcome
    FROM turns
    WINDOW in_time AS (PARTITION BY account, livemode, subscription_id ORDER BY event_time)
)
SELECT
    account, livemode, subscription_id,
    event_time AS started_at,
    customer_id, currency, trial_mrr, ended_at, outcome
FROM ends
WHERE items > 0
