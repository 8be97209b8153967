/*---
name: list_mrr_by_day
description: By how much recurring revenue before discounts moved on each day, of the prices a unit costs the same of
owner: benches
mode: upsert
grain: [account, livemode, day, currency]
time_column: day
parameters:
  per_unit: { type: text, default: "", description: The prices that count }
columns:
  day: { description: UTC day }
  currency: { description: ISO 4217 code in lower case }
  list_delta: { description: "Change, in major units a month" }
---*/
SELECT
    account, livemode, CAST(event_time AS DATE) AS day, currency,
    SUM(list_delta) AS list_delta
FROM mrr_ledger
WHERE array_has(string_to_array($per_unit, ','), price_id)
GROUP BY account, livemode, CAST(event_time AS DATE), currency
