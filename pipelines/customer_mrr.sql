/*---
name: customer_mrr
description: "Every customer's MRR on every day, as ranges of days: … WHERE DATE '2026-06-30' BETWEEN valid_from AND valid_to. The MRR at the end of a day = Σ mrr_delta of the customer's movements up to it, in major units of the currency."
owner: finance
mode: upsert
grain: [account, livemode, customer_id, currency, valid_from]
time_column: valid_from
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days begin and end }
columns:
  customer_id: { description: "Stripe customer", tests: [not_null] }
  currency:    { description: "ISO 4217 code in lower case", tests: [not_null] }
  valid_from:  { description: "First day on which the customer ended with this MRR, in the merchant's zone", tests: [not_null] }
  valid_to:    { description: "Last such day; 9999-12-31 for the MRR of now", tests: [not_null] }
  mrr:         { description: "MRR at the end of each of these days; 0 once the customer has stopped", tests: [not_null, not_negative] }
---*/
WITH moved AS (
    SELECT
        account, livemode, customer_id, currency,
        local_date(occurred_at, $zone) AS valid_from,
        SUM(mrr_delta) AS net
    FROM mrr_movements
    GROUP BY account, livemode, customer_id, currency, local_date(occurred_at, $zone)
    HAVING SUM(mrr_delta) <> 0
)
SELECT
    account, livemode, customer_id, currency, valid_from,
    COALESCE(CAST(LEAD(valid_from) OVER by_day - INTERVAL '1 day' AS DATE), DATE '9999-12-31') AS valid_to,
    SUM(net) OVER by_day AS mrr
FROM moved
WINDOW by_day AS (PARTITION BY account, livemode, customer_id, currency ORDER BY valid_from)
