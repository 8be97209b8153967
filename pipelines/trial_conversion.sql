/*---
name: trial_conversion
description: "The share of trials that became paying subscriptions, for each month in which trials ended: conversion = converted / ended. Subscriptions are counted, not items or customers."
owner: finance
mode: upsert
grain: [account, livemode, month]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  month:      { description: "First day of the month in which the trials ended, in the merchant's zone", tests: [not_null] }
  ended:      { description: "Trials that ended in the month", tests: [not_null, not_negative] }
  converted:  { description: "Those of them after which the subscription counts as paying", tests: [not_null, not_negative] }
  conversion: { description: "converted / ended, 1 being all of them; null where none ended" }
---*/
WITH moved AS (
    SELECT
        account, livemode,
        CAST(date_trunc('month', local_date(ended_at, $zone)) AS DATE) AS month,
        COUNT(*) AS ended,
        COUNT(*) FILTER (WHERE outcome = 'converted') AS converted
    FROM trials
    WHERE ended_at IS NOT NULL
    GROUP BY account, livemode, CAST(date_trunc('month', local_date(ended_at, $zone)) AS DATE)
),
spine AS (
    -- Every month from the first in which a trial ended to that of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode,
        UNNEST(generate_series(b.first_month, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, MIN(month) AS first_month, MAX(month) AS last_month
        FROM moved
        GROUP BY account, livemode
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
)
SELECT
    s.account, s.livemode, s.month,
    COALESCE(m.ended, 0) AS ended,
    COALESCE(m.converted, 0) AS converted,
    CAST(m.converted AS DECIMAL(28, 6)) / NULLIF(m.ended, 0) AS conversion
FROM spine AS s
LEFT JOIN moved AS m ON m.account = s.account AND m.livemode = s.livemode AND m.month = s.month
