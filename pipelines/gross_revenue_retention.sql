/*---
name: gross_revenue_retention
description: "Gross revenue retention for each month and currency: GRR = Σ min(opening, closing) / opening MRR, both over the customers who had MRR when the month began, in major units of one currency; never above 1. With a trailing twelve months beside it."
owner: finance
mode: upsert
grain: [account, livemode, month, currency]
time_column: month
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which months begin and end }
columns:
  month:        { description: "First day of the month in the merchant's zone; the last month is as far as the log goes", tests: [not_null] }
  currency:     { description: "ISO 4217 code in lower case; a customer who changes the currency leaves one row and is no opening customer of the other", tests: [not_null] }
  opening:      { description: "MRR when the month begins", tests: [not_null, not_negative] }
  retained:     { description: "For the customers who had MRR when the month began: the smaller of that and their MRR at its end", tests: [not_null, not_negative] }
  grr:          { description: "retained / opening, 1 being all of it; null where opening is 0" }
  opening_12m:  { description: "MRR when the twelve months that end with this one began; null before there were twelve" }
  retained_12m: { description: "For the customers who had MRR then: the smaller of that and their MRR at the end of this month" }
  grr_12m:      { description: "retained_12m / opening_12m; null where opening_12m is 0 or null" }
---*/
WITH moved AS (
    -- Of the customers only those who moved count: the others retain what they opened with.
    SELECT
        account, livemode, currency, month,
        SUM(net) AS net, SUM(kept) AS kept, SUM(kept_12m) AS kept_12m, COUNT(net) AS movers
    FROM (
        SELECT
            account, livemode, currency, month,
            closing - opening AS net,
            CASE WHEN opening > 0 THEN LEAST(opening, closing) - opening ELSE 0 END AS kept,
            0 AS kept_12m
        FROM customer_months
        UNION ALL
        SELECT account, livemode, currency, month, CAST(NULL AS DECIMAL(28, 6)) AS net, 0 AS kept, gross_retained_change AS kept_12m
        FROM customer_year_over_year
    ) AS changes
    GROUP BY account, livemode, currency, month
),
spine AS (
    -- Every month from a currency's first movement to the month of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.currency,
        UNNEST(generate_series(b.first_month, GREATEST(b.last_month, c.month), INTERVAL '1 month')) AS month
    FROM (
        SELECT account, livemode, currency, MIN(month) AS first_month, MAX(month) AS last_month
        FROM moved
        WHERE movers > 0
        GROUP BY account, livemode, currency
    ) AS b
    JOIN (
        SELECT account, livemode, CAST(date_trunc('month', local_date(last_event_at, $zone)) AS DATE) AS month
        FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
sums AS (
    SELECT
        s.account, s.livemode, s.month, s.currency,
        SUM(COALESCE(m.net, 0)) OVER by_month AS closing,
        SUM(COALESCE(m.net, 0)) OVER by_month - COALESCE(m.net, 0) AS opening,
        COALESCE(m.kept, 0) AS kept,
        SUM(COALESCE(m.kept_12m, 0)) OVER by_month AS retained_12m
    FROM spine AS s
    LEFT JOIN moved AS m
        ON m.account = s.account AND m.livemode = s.livemode AND m.currency = s.currency AND m.month = s.month
    WINDOW by_month AS (PARTITION BY s.account, s.livemode, s.currency ORDER BY s.month)
),
years AS (
    SELECT
        account, livemode, month, currency, opening, opening + kept AS retained, retained_12m,
        LAG(closing, 12) OVER (PARTITION BY account, livemode, currency ORDER BY month) AS opening_12m
    FROM sums
)
SELECT
    account, livemode, month, currency,
    opening,
    retained,
    retained / NULLIF(opening, 0) AS grr,
    opening_12m,
    CASE WHEN opening_12m IS NOT NULL THEN retained_12m END AS retained_12m,
    retained_12m / NULLIF(opening_12m, 0) AS grr_12m
FROM years
