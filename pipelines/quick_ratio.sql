/*---
name: quick_ratio
description: "How much MRR was won for each unit lost, for each month and currency: (new + reactivation + expansion) / −(contraction + churn). Above 4 is held to be healthy growth; below 1 the book shrinks."
owner: finance
mode: upsert
grain: [account, livemode, month, currency]
time_column: month
columns:
  month:       { description: "First day of the month in the merchant's zone", tests: [not_null] }
  currency:    { description: "ISO 4217 code in lower case", tests: [not_null] }
  won:         { description: "new + reactivation + expansion, in major units; what was imported was not won in the month" }
  lost:        { description: "−(contraction + churn), in major units, ≥ 0" }
  quick_ratio: { description: "won / lost; null where nothing was lost" }
---*/
SELECT
    account, livemode, month, currency,
    new + reactivation + expansion AS won,
    churned_revenue AS lost,
    (new + reactivation + expansion) / NULLIF(churned_revenue, 0) AS quick_ratio
FROM mrr_monthly
