/*---
name: expansion_events
description: Movements by which a paying customer's MRR grew.
owner: customer-success
mode: upsert
grain: [account, livemode, movement_id]
time_column: occurred_at
parameters:
  min_amount: { type: decimal, default: "0", description: Smallest growth of MRR in major units of the row's currency }
columns:
  movement_id: { description: The movement, tests: [not_null] }
  revision:    { description: One more each time the movement changes }
  occurred_at: { description: When it happened, tests: [not_null] }
  customer_id: { description: Stripe customer, tests: [not_null] }
  currency:    { description: ISO 4217 code in lower case, tests: [not_null] }
  mrr_before:  { description: MRR before, tests: [not_negative] }
  mrr_after:   { description: MRR after }
  mrr_delta:   { description: mrr_after − mrr_before, tests: [not_negative] }
  pct_change:  { description: "100 × mrr_delta / mrr_before; null where nothing was paid in this currency" }
  cause:       { description: The leading cause }
---*/
SELECT
    account, livemode, movement_id, revision, occurred_at, customer_id, currency,
    mrr_before, mrr_after, mrr_delta,
    100 * mrr_delta / NULLIF(mrr_before, 0) AS pct_change,
    cause
FROM mrr_movements
WHERE kind = 'expansion' AND mrr_delta >= $min_amount
