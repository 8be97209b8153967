/*---
name: recoveries
description: "Every invoice of which a payment failed, and what became of it; columns as in Stripe's table of the same name, amounts in major units of the currency."
owner: finance
mode: upsert
grain: [account, livemode, invoice_id]
time_column: initial_payment_failed_at
columns:
  invoice_id:  { description: "Stripe invoice", tests: [not_null] }
  customer_id: { description: "Stripe customer", tests: [not_null] }
  currency:    { description: "ISO 4217 code in lower case" }
  initial_payment_failed_at: { description: "When a payment first failed", tests: [not_null] }
  initial_failed_amount: { description: "What could not be collected then", tests: [not_negative] }
  initial_payment_decline_reason: { description: "Why it failed, as far as Stripe's events say so" }
  recovered_at:     { description: "When the invoice was paid; null while it is not" }
  recovered_amount: { description: "What was paid then" }
  recovery_method:  { description: "retry: an automatic attempt; manual: the customer, or out of band; null where it is not known" }
  retries_exhausted: { description: "Whether the invoice was voided or marked uncollectible without having been paid", tests: [not_null] }
  attempt_count:    { description: "Attempts to collect by Stripe's own schedule" }
  retry_attempt_count: { description: "Those after the first" }
---*/
WITH invoices AS (
    SELECT
        account, livemode, object_id AS invoice_id,
        MAX(customer_id) AS customer_id,
        MAX(currency) AS currency,
        MIN(occurred_at) FILTER (WHERE kind = 'payment_failed') AS failed_at,
        -- What is open of a finalised invoice never grows: the first failure's amount is the largest.
        MAX(amount) FILTER (WHERE kind = 'payment_failed') AS failed_amount,
        MAX(attempt_count) FILTER (WHERE kind = 'payment_failed') AS failed_attempt,
        MAX(failure_code) AS failure_code,
        MAX(occurred_at) FILTER (WHERE kind = 'payment_succeeded') AS paid_at,
        SUM(amount) FILTER (WHERE kind = 'payment_succeeded') AS paid_amount,
        MAX(attempt_count) FILTER (WHERE kind = 'payment_succeeded') AS paid_attempt,
        COUNT(*) FILTER (WHERE kind IN ('invoice_voided', 'invoice_uncollectible')) AS given_up
    FROM billing_events
    WHERE starts_with(object_id, 'in_')
        AND kind IN ('payment_failed', 'payment_succeeded', 'invoice_voided', 'invoice_uncollectible')
    GROUP BY account, livemode, object_id
)
SELECT
    account, livemode, invoice_id, customer_id, currency,
    failed_at AS initial_payment_failed_at,
    failed_amount AS initial_failed_amount,
    failure_code AS initial_payment_decline_reason,
    paid_at AS recovered_at,
    paid_amount AS recovered_amount,
    CASE WHEN paid_attempt > failed_attempt THEN 'retry' WHEN paid_attempt <= failed_attempt THEN 'manual' END
        AS recovery_method,
    paid_at IS NULL AND given_up > 0 AS retries_exhausted,
    GREATEST(failed_attempt, paid_attempt) AS attempt_count,
    GREATEST(failed_attempt, paid_attempt, 1) - 1 AS retry_attempt_count
FROM invoices
WHERE failed_at IS NOT NULL
