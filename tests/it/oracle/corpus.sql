-- Queries that between them use what SQL has. Each begins with its name and, in brackets, the columns that together
-- with account and livemode identify a row of its answer. docs/queries.md says how each is maintained, or why it is not.

-- # Row by row

-- filtered [id]
SELECT account, livemode, id, at, amount FROM payments WHERE kind = 'refund' AND amount IS NOT NULL

-- computed [id]
SELECT account, livemode, id, CASE WHEN amount > 20 THEN 'large' WHEN amount IS NULL THEN 'unknown' ELSE 'small' END
AS size, COALESCE(kind, 'none') AS kind, CAST(amount * units AS DECIMAL(28, 6)) AS total, upper(currency) AS currency,
NULLIF(units, 0) AS units FROM payments

-- both_sides [id, side]
SELECT account, livemode, id, 'payment' AS side, at FROM payments UNION ALL
SELECT account, livemode, id, 'subscription', since FROM subscriptions WHERE seats > 1

-- wall_clock [id]
SELECT account, livemode, id, local_date(at, 'Africa/Cairo') AS day, local_timestamp(at, 'America/Havana') AS shown
FROM payments

-- unnested [id, part]
SELECT account, livemode, id, UNNEST(make_array(currency, 'all')) AS part FROM payments

-- chained [id]
SELECT account, livemode, id, size FROM computed WHERE size <> 'unknown'

-- # Aggregates

-- sums [customer]
SELECT account, livemode, customer, SUM(amount) AS amount, SUM(units) AS units, SUM(score) AS score FROM payments
GROUP BY account, livemode, customer

-- readings [plan]
SELECT account, livemode, plan, SUM(reading) AS reading FROM subscriptions GROUP BY account, livemode, plan

-- readings_that_stay [customer]
SELECT account, livemode, customer, SUM(reading) AS reading FROM payments GROUP BY account, livemode, customer

-- readings_of_both [customer]
SELECT account, livemode, customer, SUM(reading) AS reading FROM (SELECT account, livemode, customer, reading FROM payments
UNION ALL SELECT account, livemode, customer, reading FROM subscriptions) GROUP BY account, livemode, customer

-- mean_readings [plan]
SELECT account, livemode, plan, AVG(reading) AS reading FROM subscriptions GROUP BY account, livemode, plan

-- counts [kind]
SELECT account, livemode, COALESCE(kind, 'none') AS kind, COUNT(*) AS payments, COUNT(amount) AS amounts,
COUNT(units + 1) AS units FROM payments
GROUP BY account, livemode, kind

-- seats [plan]
SELECT account, livemode, plan, SUM(seats) AS seats, SUM(price) AS price, SUM(weight) AS weight, COUNT(until) AS ended
FROM subscriptions GROUP BY account, livemode, plan

-- extremes [customer]
SELECT account, livemode, customer, MIN(at) AS first, MAX(at) AS last, MIN(kind) AS kind, MAX(amount) AS most FROM payments
GROUP BY account, livemode, customer

-- extremes_that_change [plan]
SELECT account, livemode, plan, MIN(price) AS least, MAX(since) AS newest FROM subscriptions
GROUP BY account, livemode, plan

-- averages [customer]
SELECT account, livemode, customer, AVG(amount) AS amount, AVG(score) AS score, AVG(units) AS units FROM payments
GROUP BY account, livemode, customer

-- spread [plan]
SELECT account, livemode, plan, STDDEV(weight) AS deviation, STDDEV_POP(weight) AS population, VAR_SAMP(seats) AS variance,
VAR_POP(price) AS variance_pop FROM subscriptions GROUP BY account, livemode, plan

-- distinct_counts [customer]
SELECT account, livemode, customer, COUNT(DISTINCT kind) AS kinds, COUNT(DISTINCT currency) AS currencies FROM payments
GROUP BY account, livemode, customer

-- one_distinct_count [plan]
SELECT account, livemode, plan, COUNT(DISTINCT customer) AS customers FROM subscriptions GROUP BY account, livemode, plan

-- distinct_sum [currency]
SELECT account, livemode, currency, SUM(DISTINCT units) AS units FROM payments GROUP BY account, livemode, currency

-- distinct_mean [customer]
SELECT account, livemode, customer, AVG(DISTINCT amount) AS amount, AVG(DISTINCT units) AS units FROM payments
GROUP BY account, livemode, customer

-- middle [customer]
SELECT account, livemode, customer, MEDIAN(amount) AS amount, MEDIAN(score) AS score FROM payments
GROUP BY account, livemode, customer

-- percentiles [plan]
SELECT account, livemode, plan, PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY weight) AS p90 FROM subscriptions
GROUP BY account, livemode, plan

-- truths [customer]
SELECT account, livemode, customer, BOOL_AND(units > 0) AS all_positive, BOOL_OR(amount > 40) AS any_large FROM payments
GROUP BY account, livemode, customer

-- bits [currency]
SELECT account, livemode, currency, BIT_AND(units) AS every, BIT_OR(units) AS any, BIT_XOR(units) AS odd FROM payments
GROUP BY account, livemode, currency

-- together [plan]
SELECT account, livemode, plan, CORR(seats, weight) AS correlation, COVAR_SAMP(seats, weight) AS covariance,
REGR_SLOPE(weight, seats) AS slope FROM subscriptions GROUP BY account, livemode, plan

-- regression [plan]
SELECT account, livemode, plan, COVAR_POP(seats, weight) AS covariance, REGR_COUNT(weight, seats) AS n,
REGR_AVGX(weight, seats) AS mean_x, REGR_AVGY(weight, seats) AS mean_y, REGR_SXX(weight, seats) AS sxx,
REGR_SXY(weight, seats) AS sxy, REGR_SYY(weight, seats) AS syy, REGR_INTERCEPT(weight, seats) AS intercept,
REGR_R2(weight, seats) AS r2 FROM subscriptions GROUP BY account, livemode, plan

-- filtered_aggregates [customer]
SELECT account, livemode, customer, SUM(amount) FILTER (WHERE kind = 'refund') AS refunded,
COUNT(*) FILTER (WHERE amount IS NULL) AS unknown FROM payments GROUP BY account, livemode, customer

-- having [customer]
SELECT account, livemode, customer, SUM(amount) AS amount FROM payments GROUP BY account, livemode, customer
HAVING COUNT(*) > 3 AND SUM(amount) > 50

-- lists [customer]
SELECT account, livemode, customer, ARRAY_AGG(kind ORDER BY at, id) AS kinds FROM payments WHERE kind IS NOT NULL
GROUP BY account, livemode, customer

-- joined_text [plan]
SELECT account, livemode, plan, STRING_AGG(customer, ',' ORDER BY since, id) AS customers FROM subscriptions
GROUP BY account, livemode, plan

-- first_and_last [customer]
SELECT account, livemode, customer, FIRST_VALUE(amount ORDER BY at, id) AS first, LAST_VALUE(amount ORDER BY at, id) AS last,
NTH_VALUE(amount, 2 ORDER BY at, id) AS second FROM payments GROUP BY account, livemode, customer

-- by_month [month]
SELECT account, livemode, date_trunc('month', at) AS month, SUM(amount) AS amount FROM payments
GROUP BY account, livemode, date_trunc('month', at)

-- by_local_day [day, currency]
SELECT account, livemode, local_date(at, 'Asia/Beirut') AS day, currency, SUM(amount) AS amount, AVG(amount) AS mean
FROM payments GROUP BY account, livemode, local_date(at, 'Asia/Beirut'), currency

-- divided [customer]
SELECT account, livemode, customer, CAST(SUM(amount) / NULLIF(COUNT(amount), 0) AS DECIMAL(28, 6)) AS mean FROM payments
GROUP BY account, livemode, customer

-- nested [currency]
SELECT account, livemode, currency, COUNT(*) AS customers, AVG(amount) AS mean, MAX(amount) AS most FROM (
SELECT account, livemode, currency, customer, SUM(amount) AS amount FROM payments
GROUP BY account, livemode, currency, customer) GROUP BY account, livemode, currency

-- whole_account []
SELECT account, livemode, COUNT(DISTINCT customer) AS customers, MEDIAN(amount) AS middle FROM payments
GROUP BY account, livemode

-- rolled_up [currency, kind]
SELECT account, livemode, currency, kind, SUM(amount) AS amount FROM payments
GROUP BY account, livemode, ROLLUP (currency, kind)

-- collected_in_no_order [customer]
SELECT account, livemode, customer, ARRAY_AGG(kind) AS kinds FROM payments GROUP BY account, livemode, customer

-- roughly_distinct [currency]
SELECT account, livemode, currency, APPROX_DISTINCT(customer) AS customers FROM payments
GROUP BY account, livemode, currency

-- roughly_in_the_middle [plan]
SELECT account, livemode, plan, APPROX_MEDIAN(weight) AS middle FROM subscriptions GROUP BY account, livemode, plan

-- roughly_a_percentile [plan]
SELECT account, livemode, plan, APPROX_PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY weight) AS p90 FROM subscriptions
GROUP BY account, livemode, plan

-- accounts_mixed [customer]
SELECT 'all' AS account, livemode, customer, AVG(amount) AS mean FROM payments GROUP BY livemode, customer

-- # DISTINCT, UNION and their kin

-- customers [customer]
SELECT DISTINCT account, livemode, customer FROM payments

-- newest_of_each [customer]
SELECT DISTINCT ON (account, livemode, customer) account, livemode, customer, plan, since FROM subscriptions
ORDER BY account, livemode, customer, since DESC, id

-- everyone [customer]
SELECT account, livemode, customer FROM payments UNION SELECT account, livemode, customer FROM subscriptions

-- in_both [customer]
SELECT account, livemode, customer FROM payments INTERSECT SELECT account, livemode, customer FROM subscriptions

-- never_paid [customer]
SELECT account, livemode, customer FROM subscriptions EXCEPT SELECT account, livemode, customer FROM payments

-- # Joins

-- paid_subscriptions [payment, subscription]
SELECT p.account, p.livemode, p.id AS payment, s.id AS subscription, p.amount, s.price FROM payments AS p
JOIN subscriptions AS s ON s.account = p.account AND s.livemode = p.livemode AND s.customer = p.customer

-- with_their_plan [id]
SELECT s.account, s.livemode, s.id, s.seats, l.tier, CAST(l.list * s.seats AS DECIMAL(28, 6)) AS list
FROM subscriptions AS s LEFT JOIN plans AS l ON l.account = s.account AND l.livemode = s.livemode AND l.plan = s.plan

-- all_plans [plan, id]
SELECT l.account, l.livemode, l.plan, COALESCE(s.id, '') AS id FROM subscriptions AS s
RIGHT JOIN plans AS l ON l.account = s.account AND l.livemode = s.livemode AND l.plan = s.plan

-- either [customer]
SELECT COALESCE(a.account, b.account) AS account, COALESCE(a.livemode, b.livemode) AS livemode,
COALESCE(a.customer, b.customer) AS customer, a.paid, b.seats
FROM (SELECT account, livemode, customer, SUM(amount) AS paid FROM payments GROUP BY account, livemode, customer) AS a
FULL JOIN (SELECT account, livemode, customer, SUM(seats) AS seats FROM subscriptions
GROUP BY account, livemode, customer) AS b
ON a.account = b.account AND a.livemode = b.livemode AND a.customer = b.customer

-- using [id]
SELECT account, livemode, id, tier FROM subscriptions JOIN plans USING (account, livemode, plan)

-- null_safe [id]
SELECT p.account, p.livemode, p.id, COUNT(q.id) AS same FROM payments AS p JOIN payments AS q ON q.account = p.account
AND q.livemode = p.livemode AND q.kind IS NOT DISTINCT FROM p.kind GROUP BY p.account, p.livemode, p.id

-- pairs [id, other]
SELECT a.account, a.livemode, a.id, b.id AS other FROM subscriptions AS a JOIN subscriptions AS b
ON b.account = a.account AND b.livemode = a.livemode AND b.plan = a.plan AND a.since < b.since

-- in_force [id]
SELECT account, livemode, id, price FROM (SELECT p.account, p.livemode, p.id, s.price, ROW_NUMBER() OVER (
PARTITION BY p.account, p.livemode, p.customer, p.id ORDER BY s.since DESC, s.id) AS place FROM payments AS p
JOIN subscriptions AS s ON s.account = p.account AND s.livemode = p.livemode AND s.customer = p.customer
AND s.since <= p.at) WHERE place = 1

-- three_tables [payment, subscription]
SELECT p.account, p.livemode, p.id AS payment, s.id AS subscription, l.tier FROM payments AS p
JOIN subscriptions AS s ON s.account = p.account AND s.livemode = p.livemode AND s.customer = p.customer
JOIN plans AS l ON l.account = s.account AND l.livemode = s.livemode AND l.plan = s.plan

-- pairs_and_the_plan_they_share [id, other]
SELECT a.account, a.livemode, a.id, b.id AS other, l.tier FROM subscriptions AS a JOIN subscriptions AS b
ON b.account = a.account AND b.livemode = a.livemode AND a.id < b.id LEFT JOIN plans AS l
ON l.account = a.account AND l.livemode = a.livemode AND l.plan = a.plan AND l.plan = b.plan

-- revenue_by_tier [tier]
SELECT s.account, s.livemode, COALESCE(l.tier, 'none') AS tier, SUM(s.price) AS price, COUNT(DISTINCT s.customer) AS customers
FROM subscriptions AS s JOIN plans AS l ON l.account = s.account AND l.livemode = s.livemode AND l.plan = s.plan
GROUP BY s.account, s.livemode, l.tier

-- other_names [customer]
SELECT a.account, a.livemode, a.customer, a.paid, b.n FROM
(SELECT account, livemode, customer, SUM(amount) AS paid FROM payments GROUP BY account, livemode, customer) AS a
JOIN (SELECT account AS merchant, livemode AS live, customer AS who, COUNT(*) AS n FROM subscriptions
GROUP BY account, livemode, customer) AS b ON b.merchant = a.account AND b.live = a.livemode AND b.who = a.customer

-- with_constants [id]
SELECT p.account, p.livemode, p.id, r.title FROM payments AS p JOIN (VALUES ('usd', 'US dollar'), ('eur', 'Euro'))
AS r(code, title) ON r.code = p.currency

-- only_by_customer [payment, subscription]
SELECT p.account, p.livemode, p.id AS payment, s.id AS subscription FROM payments AS p
JOIN subscriptions AS s ON s.customer = p.customer

-- everything_with_everything [payment, plan]
SELECT p.account, p.livemode, p.id AS payment, l.plan FROM payments AS p CROSS JOIN plans AS l

-- # OVER

-- numbered [id]
SELECT account, livemode, id, ROW_NUMBER() OVER (PARTITION BY account, livemode, customer ORDER BY at, id) AS place
FROM payments

-- ranked [id]
SELECT account, livemode, id, RANK() OVER w AS place, DENSE_RANK() OVER w AS dense, PERCENT_RANK() OVER w AS share,
CUME_DIST() OVER w AS below FROM subscriptions
WINDOW w AS (PARTITION BY account, livemode, plan ORDER BY seats DESC NULLS LAST)

-- quarters [id]
SELECT account, livemode, id, NTILE(4) OVER (PARTITION BY account, livemode, currency ORDER BY amount, id) AS part
FROM payments

-- neighbours [id]
SELECT account, livemode, id, LAG(amount) OVER w AS before, LEAD(amount, 2, 0) OVER w AS after FROM payments
WINDOW w AS (PARTITION BY account, livemode, customer ORDER BY at, id)

-- ends [id]
SELECT account, livemode, id, FIRST_VALUE(plan) OVER w AS first, LAST_VALUE(plan) OVER w AS last,
NTH_VALUE(plan, 2) OVER w AS second FROM subscriptions WINDOW w AS (PARTITION BY account, livemode, customer
ORDER BY since, id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)

-- running [id]
SELECT account, livemode, id, SUM(amount) OVER (PARTITION BY account, livemode, customer ORDER BY at, id) AS so_far,
COUNT(*) OVER (PARTITION BY account, livemode, customer ORDER BY at) AS n FROM payments

-- moving [id]
SELECT account, livemode, id, AVG(score) OVER (PARTITION BY account, livemode, customer ORDER BY at, id
ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS mean, MAX(amount) OVER (PARTITION BY account, livemode, customer
ORDER BY at, id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS most FROM payments

-- last_thirty_days [id]
SELECT account, livemode, id, SUM(amount) OVER (PARTITION BY account, livemode, customer ORDER BY at
RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW) AS amount FROM payments

-- peers [id]
SELECT account, livemode, id, COUNT(*) OVER (PARTITION BY account, livemode, plan ORDER BY seats
GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS n FROM subscriptions

-- shares [id]
SELECT account, livemode, id, price, SUM(price) OVER (PARTITION BY account, livemode, plan) AS total FROM subscriptions

-- latest_only [customer]
SELECT account, livemode, customer, plan FROM subscriptions
QUALIFY ROW_NUMBER() OVER (PARTITION BY account, livemode, customer ORDER BY since DESC, id) = 1

-- two_partitions [id]
SELECT account, livemode, id, COUNT(*) OVER (PARTITION BY account, livemode, customer) AS of_customer,
COUNT(*) OVER (PARTITION BY account, livemode, customer, plan) AS of_plan FROM subscriptions

-- over_groups [customer]
SELECT account, livemode, customer, amount, RANK() OVER (PARTITION BY account, livemode ORDER BY amount DESC) AS place
FROM (SELECT account, livemode, customer, SUM(amount) AS amount FROM payments GROUP BY account, livemode, customer)

-- sessions [customer, session]
SELECT account, livemode, customer, session, MIN(at) AS began, COUNT(*) AS payments FROM (
SELECT account, livemode, customer, at, SUM(CASE WHEN at - before <= INTERVAL '2 days' THEN 0 ELSE 1 END) OVER (
PARTITION BY account, livemode, customer ORDER BY at, id) AS session FROM (
SELECT account, livemode, customer, id, at, LAG(at) OVER (PARTITION BY account, livemode, customer ORDER BY at, id) AS before
FROM payments)) GROUP BY account, livemode, customer, session

-- numbered_in_no_order [id]
SELECT account, livemode, id, ROW_NUMBER() OVER (PARTITION BY account, livemode, customer) AS place FROM payments

-- over_everything [id]
SELECT account, livemode, id, SUM(amount) OVER (ORDER BY at, id) AS so_far FROM payments

-- # Subqueries

-- subscribed [id]
SELECT account, livemode, id FROM payments AS p WHERE EXISTS (SELECT 1 FROM subscriptions AS s
WHERE s.account = p.account AND s.livemode = p.livemode AND s.customer = p.customer AND s.since <= p.at)

-- not_subscribed [id]
SELECT account, livemode, id FROM payments AS p WHERE NOT EXISTS (SELECT 1 FROM subscriptions AS s
WHERE s.account = p.account AND s.livemode = p.livemode AND s.customer = p.customer)

-- of_a_plan_with_a_price [id]
SELECT account, livemode, id FROM subscriptions AS s WHERE plan IN (SELECT plan FROM plans AS l
WHERE l.account = s.account AND l.livemode = s.livemode AND l.list > 20)

-- with_a_count [id]
SELECT account, livemode, id, (SELECT COUNT(*) FROM payments AS p WHERE p.account = s.account
AND p.livemode = s.livemode AND p.customer = s.customer) AS payments FROM subscriptions AS s

-- above_their_mean [id]
WITH m AS (SELECT account, livemode, customer, AVG(score) AS mean FROM payments GROUP BY account, livemode, customer)
SELECT p.account, p.livemode, p.id, p.score FROM payments AS p JOIN m ON m.account = p.account
AND m.livemode = p.livemode AND m.customer = p.customer WHERE p.score > m.mean

-- ratio_of_two_groups [customer]
WITH g AS (SELECT account, livemode, customer, kind, COUNT(DISTINCT currency) AS n FROM payments
GROUP BY account, livemode, customer, kind)
SELECT a.account, a.livemode, a.customer, a.n AS refunds, b.n AS charges FROM g AS a JOIN g AS b
ON b.account = a.account AND b.livemode = a.livemode AND b.customer = a.customer
WHERE a.kind = 'refund' AND b.kind = 'charge'

-- above_the_mean [id]
SELECT account, livemode, id FROM payments WHERE score > (SELECT AVG(score) FROM payments)

-- not_in [id]
SELECT account, livemode, id FROM subscriptions WHERE plan NOT IN (SELECT plan FROM plans WHERE list > 20)

-- counting [n]
WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3)
SELECT p.account, p.livemode, r.n, COUNT(DISTINCT p.id) AS payments FROM payments AS p JOIN r ON r.n = p.units
GROUP BY p.account, p.livemode, r.n

-- # The log's own clock

-- until_now [customer, day]
SELECT account, livemode, customer, day, COUNT(*) OVER (PARTITION BY account, livemode, customer ORDER BY day) AS n FROM (
SELECT p.account, p.livemode, p.customer, UNNEST(generate_series(local_date(c.last_event_at, 'UTC') - INTERVAL '2 days',
local_date(c.last_event_at, 'UTC'), INTERVAL '1 day')) AS day
FROM (SELECT DISTINCT account, livemode, customer FROM payments) AS p
JOIN log_clock AS c ON c.account = p.account AND c.livemode = p.livemode)

-- age [id]
SELECT s.account, s.livemode, s.id, local_date(c.last_event_at, 'UTC') - local_date(s.since, 'UTC') AS days,
COUNT(*) OVER (PARTITION BY s.account, s.livemode, s.customer) AS n
FROM subscriptions AS s JOIN log_clock AS c ON c.account = s.account AND c.livemode = s.livemode

-- # Order, limits, chance

-- in_order [id]
SELECT account, livemode, id, at FROM payments ORDER BY at, id

-- first_ten [id]
SELECT account, livemode, id FROM payments ORDER BY at, id LIMIT 10

-- three_of_the_groups [currency]
SELECT account, livemode, currency, SUM(amount) AS amount FROM payments GROUP BY account, livemode, currency LIMIT 3

-- any_plan [customer]
SELECT DISTINCT ON (account, livemode, customer) account, livemode, customer, plan FROM subscriptions

-- by_todays_date [id]
SELECT account, livemode, id, now() AS read_at FROM payments

-- by_chance [id]
SELECT account, livemode, id FROM payments WHERE random() < 0.5

-- converted [id]
SELECT account, livemode, id, to_currency(amount, currency, 'eur', local_date(at, 'UTC')) AS eur FROM payments

-- # Windows

-- monthly [window_start]
SELECT account, livemode, window_start, window_end, SUM(amount) AS amount, COUNT(*) AS payments
FROM TUMBLE(payments, at, INTERVAL '1' MONTH) GROUP BY account, livemode, window_start, window_end

-- daily_in_cairo [window_day, currency]
SELECT account, livemode, window_day, window_start, window_end, currency, SUM(amount) AS amount
FROM TUMBLE(payments, at, INTERVAL '1' DAY, 'Africa/Cairo')
GROUP BY account, livemode, window_day, window_start, window_end, currency

-- daily_in_beirut [window_day]
SELECT account, livemode, window_day, COUNT(*) AS payments FROM TUMBLE(payments, at, INTERVAL '1' DAY, 'Asia/Beirut')
GROUP BY account, livemode, window_day

-- daily_in_havana [window_day]
SELECT account, livemode, window_day, AVG(score) AS mean, MEDIAN(amount) AS middle
FROM TUMBLE(payments, at, INTERVAL '1' DAY, 'America/Havana') GROUP BY account, livemode, window_day

-- weekly [window_day]
SELECT account, livemode, window_day, COUNT(DISTINCT customer) AS customers
FROM TUMBLE(payments, at, INTERVAL '1' WEEK, 'Europe/Berlin') GROUP BY account, livemode, window_day

-- quarterly [window_day, plan]
SELECT account, livemode, window_day, plan, SUM(price) AS price, MAX(price) AS most
FROM TUMBLE(subscriptions, since, INTERVAL '1' QUARTER, 'America/New_York') GROUP BY account, livemode, window_day, plan

-- yearly [window_day]
SELECT account, livemode, window_day, SUM(units) AS units FROM TUMBLE(payments, at, INTERVAL '1' YEAR, 'Asia/Tokyo')
GROUP BY account, livemode, window_day

-- six_hours [window_start]
SELECT account, livemode, window_start, window_end, window_day, MIN(amount) AS least
FROM TUMBLE(payments, at, INTERVAL '6' HOUR, 'Asia/Kathmandu') GROUP BY account, livemode, window_start, window_end, window_day

-- three_days_by_one [window_day]
SELECT account, livemode, window_day, window_start, window_end, SUM(amount) AS amount
FROM HOP(payments, at, INTERVAL '1' DAY, INTERVAL '3' DAY, 'Africa/Cairo')
GROUP BY account, livemode, window_day, window_start, window_end

-- customers_of_a_quarter_by_month [window_day]
SELECT account, livemode, window_day, COUNT(DISTINCT customer) AS customers
FROM HOP(payments, at, INTERVAL '1' MONTH, INTERVAL '3' MONTH, 'Europe/Berlin') GROUP BY account, livemode, window_day

-- readings_of_a_quarter_by_month [window_day]
SELECT account, livemode, window_day, SUM(reading) AS reading
FROM HOP(payments, at, INTERVAL '1' MONTH, INTERVAL '3' MONTH, 'Europe/Berlin') GROUP BY account, livemode, window_day

-- readings_by_month [window_day]
SELECT account, livemode, window_day, SUM(reading) AS reading
FROM TUMBLE(subscriptions, since, INTERVAL '1' MONTH, 'Europe/Berlin') GROUP BY account, livemode, window_day

-- rows_in_their_window [id]
SELECT account, livemode, id, window_start, window_end, window_day
FROM TUMBLE(subscriptions, since, INTERVAL '1' DAY, 'America/Havana') AS w

-- windows_of_a_query [window_day]
WITH refunds AS (SELECT account, livemode, at, amount FROM payments WHERE kind = 'refund')
SELECT account, livemode, window_day, SUM(amount) AS amount FROM TUMBLE(refunds, at, INTERVAL '1' MONTH)
GROUP BY account, livemode, window_day

-- windows_of_a_subquery [window_day]
SELECT account, livemode, window_day, COUNT(*) AS ended FROM TUMBLE((SELECT account, livemode, until FROM subscriptions),
until, INTERVAL '1' MONTH, 'Europe/Berlin') GROUP BY account, livemode, window_day

-- joined_by_window [window_day, customer]
SELECT a.account, a.livemode, a.window_day, a.customer, a.paid, b.started
FROM (SELECT account, livemode, window_day, customer, AVG(amount) AS paid
FROM TUMBLE(payments, at, INTERVAL '1' MONTH, 'Europe/Berlin') GROUP BY account, livemode, window_day, customer) AS a
JOIN (SELECT account, livemode, window_day, customer, COUNT(*) AS started
FROM TUMBLE(subscriptions, since, INTERVAL '1' MONTH, 'Europe/Berlin') GROUP BY account, livemode, window_day, customer) AS b
ON b.account = a.account AND b.livemode = a.livemode AND b.window_day = a.window_day AND b.customer = a.customer

-- rolling_ninety_days [day, customer]
SELECT account, livemode, customer, day, SUM(amount) OVER (PARTITION BY account, livemode, customer ORDER BY day
RANGE BETWEEN INTERVAL '89 days' PRECEDING AND CURRENT ROW) AS amount FROM (
SELECT account, livemode, customer, window_day AS day, SUM(amount) AS amount
FROM TUMBLE(payments, at, INTERVAL '1' DAY, 'Europe/Berlin') GROUP BY account, livemode, customer, window_day)

-- too_many_hops [window_day]
SELECT account, livemode, window_day, SUM(amount) AS amount FROM HOP(payments, at, INTERVAL '1' DAY, INTERVAL '90' DAY)
GROUP BY account, livemode, window_day

-- hops_that_do_not_fit [window_day]
SELECT account, livemode, window_day, SUM(amount) AS amount FROM HOP(payments, at, INTERVAL '2' DAY, INTERVAL '3' DAY)
GROUP BY account, livemode, window_day

-- months_and_days [window_day]
SELECT account, livemode, window_day, SUM(amount) AS amount FROM TUMBLE(payments, at, INTERVAL '1 month 2 days')
GROUP BY account, livemode, window_day

-- nowhere [window_day]
SELECT account, livemode, window_day, SUM(amount) AS amount FROM TUMBLE(payments, at, INTERVAL '1' DAY, 'Europe/Atlantis')
GROUP BY account, livemode, window_day

-- # Emitted on close

-- closed_days [window_end, id] emit: on_close
SELECT account, livemode, window_end, id, amount FROM TUMBLE(payments, at, INTERVAL '1' DAY, 'America/Havana')
WHERE kind = 'refund'

-- closed_months [window_end, customer] emit: on_close
SELECT account, livemode, window_end, customer, SUM(amount) AS amount, COUNT(*) AS payments
FROM TUMBLE(payments, at, INTERVAL '1' MONTH, 'Africa/Cairo')
GROUP BY account, livemode, window_end, customer

-- closed_weeks [window_end] emit: on_close
SELECT account, livemode, window_end, COUNT(DISTINCT customer) AS customers
FROM HOP(payments, at, INTERVAL '1' DAY, INTERVAL '7' DAY, 'Asia/Beirut')
GROUP BY account, livemode, window_end

-- closed_balances [window_end, currency] emit: on_close
SELECT account, livemode, window_end, currency, SUM(SUM(amount)) OVER (PARTITION BY account, livemode, currency
ORDER BY window_end) AS balance FROM TUMBLE(payments, at, INTERVAL '1' MONTH, 'Africa/Cairo')
GROUP BY account, livemode, window_end, currency

-- closed_plans [window_end, plan] emit: on_close
SELECT account, livemode, window_end, plan, COUNT(*) AS begun, SUM(price) AS price
FROM TUMBLE(subscriptions, since, INTERVAL '1' MONTH, 'Africa/Cairo') GROUP BY account, livemode, window_end, plan

-- read_when_closed [customer]
SELECT account, livemode, customer, MAX(amount) AS best_month FROM closed_months GROUP BY account, livemode, customer

-- never_closed [customer] emit: on_close
SELECT account, livemode, customer, SUM(amount) AS amount FROM payments GROUP BY account, livemode, customer

-- closed_without_a_key [customer] emit: on_close
SELECT account, livemode, customer, MAX(window_end) AS window_end
FROM TUMBLE(payments, at, INTERVAL '1' MONTH, 'Africa/Cairo') GROUP BY account, livemode, customer

-- # Run on a schedule

-- best_customers [customer] schedule: monthly
SELECT account, livemode, customer, SUM(amount) AS amount FROM payments WHERE at < $as_of AND amount IS NOT NULL
GROUP BY account, livemode, customer ORDER BY amount DESC, account, livemode, customer LIMIT 5

-- pairs_of_customers [customer, other] schedule: weekly
SELECT s.account, s.livemode, s.customer, p.customer AS other, COUNT(*) AS n FROM subscriptions AS s
JOIN payments AS p ON p.currency = 'usd' AND p.units = s.seats GROUP BY s.account, s.livemode, s.customer, p.customer

-- recent_payments [id] schedule: daily
SELECT account, livemode, id, at, amount FROM payments WHERE at >= now() - INTERVAL '30 days' AND at < now()

-- shares_of_all [id] schedule: hourly
SELECT account, livemode, id, units * 100 / (SELECT SUM(units) FROM payments WHERE units > 0) AS share, current_date AS day
FROM payments WHERE units IS NOT NULL

-- read_when_run [currency]
SELECT account, livemode, COUNT(*) AS n, 'all' AS currency FROM recent_payments GROUP BY account, livemode

-- without_a_schedule [id]
SELECT account, livemode, id FROM payments WHERE at >= $as_of

-- nearly_on_a_schedule [customer] schedule: daily
SELECT account, livemode, customer, APPROX_MEDIAN(amount) AS middle FROM payments GROUP BY account, livemode, customer

-- by_chance_on_a_schedule [id] schedule: daily
SELECT account, livemode, id FROM payments WHERE random() < 0.5

-- any_five_on_a_schedule [id] schedule: daily
SELECT account, livemode, id FROM payments LIMIT 5
