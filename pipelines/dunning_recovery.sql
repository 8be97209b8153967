/*---
name: dunning_recovery
description: "What dunning brings in, for each month in which invoices first failed and currency: recovery_rate = recovered_amount / initial_failed_amount, in major units. Invoices of the last months can still be paid."
owner: finance
mode: upsert
grain: [account, livemode, month, currency]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  month:    { description: "First day of the month in which payments first failed, in the merchant's zone", tests: [not_null] }
  currency: { description: "ISO 4217 code in lower case", tests: [not_null] }
  failed_invoices:       { description: "Invoices whose payment first failed in the month", tests: [not_negative] }
  initial_failed_amount: { description: "What could not be collected then", tests: [not_negative] }
  recovered_invoices:    { description: "Those of them that were paid, whenever", tests: [not_negative] }
  recovered_amount:      { description: "What was paid on them" }
  exhausted_invoices:    { description: "Those of them that were voided or marked uncollectible without having been paid", tests: [not_negative] }
  recovery_rate:         { description: "recovered_amount / initial_failed_amount, 1 being all of it; null where nothing failed" }
---*/
WITH failed AS (
    SELECT
        account, livemode, currency,
        CAST(date_trunc('month', local_date(initial_payment_failed_at, $zone)) AS DATE) AS month,
        COUNT(*) AS failed_invoices,
        SUM(initial_failed_amount) AS initial_failed_amount,
        COUNT(recovered_at) AS recovered_invoices,
        SUM(recovered_amount) AS recovered_amount,
        COUNT(*) FILTER (WHERE retries_exhausted) AS exhausted_invoices
    FROM recoveries
    WHERE currency IS NOT NULL
    GROUP BY
        account, livemode, currency,
        CAST(date_trunc('month', local_date(initial_payment_failed_at, $zone)) AS DATE)
),
spine AS (
    -- Every month from a currency's first failure to the month of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.currency,
        UNNEST(generate_series(b.first_month, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, currency, MIN(month) AS first_month, MAX(month) AS last_month
        FROM failed
        GROUP BY account, livemode, currency
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
)
SELECT
    s.account, s.livemode, s.month, s.currency,
    COALESCE(f.failed_invoices, 0) AS failed_invoices,
    COALESCE(f.initial_failed_amount, 0) AS initial_failed_amount,
    COALESCE(f.recovered_invoices, 0) AS recovered_invoices,
    COALESCE(f.recovered_amount, 0) AS recovered_amount,
    COALESCE(f.exhausted_invoices, 0) AS exhausted_invoices,
    COALESCE(f.recovered_amount, 0) / NULLIF(f.initial_failed_amount, 0) AS recovery_rate
FROM spine AS s
LEFT JOIN failed AS f
    ON f.account = s.account AND f.livemode = s.livemode AND f.currency = s.currency AND f.month = s.month
