/*---
name: exchange_rates_from_usd
description: Rates of exchange from US dollars for every day, a row for each currency; where Stripe Sigma has one JSON text a day.
columns:
  account:       The account under which the rates were loaded
  livemode:      The mode under which the rates were loaded
  date:          The day; one without a rate has the last one before, at most 7 days old
  sell_currency: Always usd
  buy_currency:  "ISO 4217 code in lower case, usd among them"
  rate:          Units of buy_currency for one dollar
---*/
WITH quoted AS (
    SELECT account, livemode, source, day, base, currency, rate
    FROM fx_rates
    UNION
    SELECT account, livemode, source, day, base, base AS currency, CAST(1 AS DECIMAL(38, 12)) AS rate
    FROM fx_rates
),
ranked AS (
    -- Through the source's base; of several sources the first by name.
    SELECT
        q.account, q.livemode, q.day, q.currency, q.rate / u.rate AS rate,
        ROW_NUMBER() OVER (PARTITION BY q.account, q.livemode, q.day, q.currency ORDER BY q.source) AS place
    FROM quoted AS q
    JOIN quoted AS u
        ON u.account = q.account AND u.livemode = q.livemode AND u.source = q.source AND u.day = q.day
        AND u.base = q.base AND u.currency = 'usd'
),
held AS (
    SELECT
        account, livemode, day, currency, rate,
        LEAD(day) OVER (PARTITION BY account, livemode, currency ORDER BY day) AS next_day
    FROM ranked
    WHERE place = 1
),
spread AS (
    SELECT
        account, livemode, currency, rate AS units,
        UNNEST(generate_series(
            day,
            LEAST(
                CAST(COALESCE(next_day, day + INTERVAL '8 days') - INTERVAL '1 day' AS DATE),
                CAST(day + INTERVAL '7 days' AS DATE)
            ),
            INTERVAL '1 day'
        )) AS held_on
    FROM held
)
SELECT
    account, livemode,
    CAST(held_on AS DATE) AS date,
    'usd' AS sell_currency,
    currency AS buy_currency,
    CAST(units AS DECIMAL(38, 12)) AS rate
FROM spread
