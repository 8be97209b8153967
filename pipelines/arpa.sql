/*---
name: arpa
description: "Average MRR per account at the end of each month, for each currency: MRR / customers with MRR > 0, in major units a month."
owner: finance
mode: upsert
grain: [account, livemode, month, currency]
time_column: month
columns:
  month:     { description: "First day of the month in the merchant's zone", tests: [not_null] }
  currency:  { description: "ISO 4217 code in lower case", tests: [not_null] }
  mrr:       { description: "MRR when the month ends", tests: [not_negative] }
  customers: { description: "Customers with MRR above 0 in this currency when the month ends; who pays in two currencies is in both rows", tests: [not_negative] }
  arpa:      { description: "mrr / customers; null where there are none" }
---*/
SELECT
    account, livemode, month, currency,
    closing AS mrr,
    customers,
    closing / NULLIF(customers, 0) AS arpa
FROM mrr_monthly
