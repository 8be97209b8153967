/*---
name: mrr_outlook
description: "MRR at the end of each day beside what is decided but not yet in it, for each currency, in major units: committed_mrr = mrr − what is scheduled to be cancelled; trial_mrr = what the running trials would be worth."
owner: finance
mode: upsert
grain: [account, livemode, day, currency]
time_column: day
parameters:
  zone: { type: text, default: UTC, setting: merchant.zone, description: IANA zone in which days begin and end }
columns:
  day:           { description: "Calendar day in the merchant's zone", tests: [not_null] }
  currency:      { description: "ISO 4217 code in lower case", tests: [not_null] }
  mrr:           { description: "MRR when the day ends, as closing in mrr_daily", tests: [not_null, not_negative] }
  committed_mrr: { description: "mrr less the MRR of subscriptions that are scheduled to end; under profiles in which it leaves at the request, the same as mrr", tests: [not_null, not_negative] }
  trial_mrr:     { description: "What the trials that run when the day ends would be worth a month", tests: [not_null, not_negative] }
  trials:        { description: "Subscriptions in a trial when the day ends", tests: [not_null, not_negative] }
---*/
WITH moved AS (
    SELECT
        account, livemode, currency, day,
        SUM(mrr) AS mrr, SUM(leaving) AS leaving, SUM(trial_mrr) AS trial_mrr, SUM(trials) AS trials
    FROM (
        SELECT
            account, livemode, currency, local_date(occurred_at, $zone) AS day,
            mrr_delta AS mrr, 0 AS leaving, 0 AS trial_mrr, 0 AS trials
        FROM mrr_movements
        UNION ALL
        SELECT
            account, livemode, currency, local_date(event_time, $zone),
            0,
            CASE WHEN measure = 'cancel_scheduled' THEN amount_delta ELSE 0 END,
            CASE WHEN measure = 'trial' THEN amount_delta ELSE 0 END,
            0
        FROM outlook_ledger
        UNION ALL
        SELECT account, livemode, currency, local_date(started_at, $zone), 0, 0, 0, 1 FROM trials
        UNION ALL
        SELECT account, livemode, currency, local_date(ended_at, $zone), 0, 0, 0, -1 FROM trials
        WHERE ended_at IS NOT NULL
    ) AS changes
    GROUP BY account, livemode, currency, day
),
spine AS (
    -- Every day from a currency's first change to the day of the log's last event, quiet ones too.
    SELECT
        b.account, b.livemode, b.currency,
        UNNEST(generate_series(b.first_day, GREATEST(b.last_day, c.day), INTERVAL '1 day')) AS day
    FROM (
        SELECT account, livemode, currency, MIN(day) AS first_day, MAX(day) AS last_day
        FROM moved
        GROUP BY account, livemode, currency
    ) AS b
    JOIN (
        SELECT account, livemode, local_date(last_event_at, $zone) AS day FROM log_clock
    ) AS c ON c.account = b.account AND c.livemode = b.livemode
),
levels AS (
    SELECT
        s.account, s.livemode, s.day, s.currency,
        SUM(COALESCE(m.mrr, 0)) OVER by_day AS mrr,
        SUM(COALESCE(m.leaving, 0)) OVER by_day AS leaving,
        SUM(COALESCE(m.trial_mrr, 0)) OVER by_day AS trial_mrr,
        SUM(COALESCE(m.trials, 0)) OVER by_day AS trials
    FROM spine AS s
    LEFT JOIN moved AS m
        ON m.account = s.account AND m.livemode = s.livemode AND m.currency = s.currency AND m.day = s.day
    WINDOW by_day AS (PARTITION BY s.account, s.livemode, s.currency ORDER BY s.day)
)
SELECT
    account, livemode, day, currency,
    mrr,
    mrr - leaving AS committed_mrr,
    trial_mrr,
    trials
FROM levels
