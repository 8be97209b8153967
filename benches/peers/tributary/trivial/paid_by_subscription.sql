/*---
name: paid_by_subscription
description: What was paid for each subscription on each day, in minor units, and how many invoices
owner: benches
mode: upsert
grain: [account, livemode, subscription_id, day]
time_column: day
columns:
  subscription_id: { description: Stripe subscription }
  day: { description: UTC day }
  invoices: { description: Paid invoices }
  paid: { description: Minor units }
---*/
SELECT
    account, livemode, subscription_id, day,
    COUNT(*) AS invoices,
    SUM(amount_paid) AS paid
FROM (
    SELECT
        account, livemode,
        CAST(created AS DATE) AS day,
        regexp_match(body, '"subscription":"([^"]*)"')[1] AS subscription_id,
        CAST(regexp_match(body, '"amount_paid":([0-9]+)')[1] AS BIGINT) AS amount_paid
    FROM events_archive
    WHERE type = 'invoice.paid'
) AS invoices
GROUP BY account, livemode, subscription_id, day
