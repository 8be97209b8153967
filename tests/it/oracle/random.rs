//! Random queries from a small grammar: a source, joined or not, filtered or not; grouped, windowed or neither; and on
//! top of that perhaps another step.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::corpus::Query;

/// `count` queries; the same for the same seed.
pub(super) fn queries(seed: u64, count: usize) -> Vec<Query> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|i| {
            let (grain, sql) = query(&mut random);
            Query { name: format!("random_{seed}_{i}"), section: "Random".to_owned(), grain, when: String::new(), sql }
        })
        .collect()
}

fn pick<'a>(random: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(random).copied().unwrap_or_default()
}

/// Columns of the source: what it can be grouped by, ordered by, and counted in.
struct Source {
    sql: String,
    groups: Vec<&'static str>,
    money: &'static str,
    float: &'static str,
    whole: &'static str,
    instant: &'static str,
}

fn source(random: &mut StdRng) -> Source {
    let payments = |sql: String| Source {
        sql,
        groups: vec!["customer", "kind", "currency"],
        money: "amount",
        float: "score",
        whole: "units",
        instant: "at",
    };
    let subscriptions = |sql: String, groups: Vec<&'static str>| Source {
        sql,
        groups,
        money: "price",
        float: "weight",
        whole: "seats",
        instant: "since",
    };
    match random.random_range(0..8) {
        0 | 1 => payments("SELECT * FROM payments".to_owned()),
        2 => subscriptions("SELECT * FROM subscriptions".to_owned(), vec!["customer", "plan"]),
        3 => {
            let side = pick(random, &["JOIN", "LEFT JOIN"]);
            subscriptions(
                format!(
                    "SELECT s.*, l.tier, l.list FROM subscriptions AS s {side} plans AS l ON l.account = s.account \
                     AND l.livemode = s.livemode AND l.plan = s.plan"
                ),
                vec!["customer", "plan", "tier"],
            )
        }
        4 => {
            let matched = pick(random, &["EXISTS", "NOT EXISTS"]);
            payments(format!(
                "SELECT * FROM payments AS p WHERE {matched} (SELECT 1 FROM subscriptions AS s WHERE s.account = p.account \
                 AND s.livemode = p.livemode AND s.customer = p.customer AND s.since <= p.at)"
            ))
        }
        5 | 6 => {
            let windows = [
                "TUMBLE(payments, at, INTERVAL '1' MONTH, 'Africa/Cairo')",
                "TUMBLE(payments, at, INTERVAL '1' DAY, 'America/Havana')",
                "HOP(payments, at, INTERVAL '1' DAY, INTERVAL '3' DAY, 'Asia/Beirut')",
            ];
            let by_day = ["customer", "currency", "window_day"];
            // A row lies in several windows of a HOP: its id alone does not identify it.
            let sql = format!("SELECT *, concat(id, '/', window_day) AS place FROM {}", pick(random, &windows));
            Source { groups: by_day.to_vec(), ..payments(format!("SELECT * EXCEPT (id, place), place AS id FROM ({sql})")) }
        }
        _ => Source {
            sql: "SELECT account, livemode, id, at, customer, amount, units, score, kind AS label FROM payments UNION ALL \
                  SELECT account, livemode, id, since, customer, price, seats, weight, plan FROM subscriptions"
                .to_owned(),
            groups: vec!["customer", "label"],
            money: "amount",
            float: "score",
            whole: "units",
            instant: "at",
        },
    }
}

fn filter(random: &mut StdRng, source: &Source) -> String {
    let Source { money, float, whole, .. } = source;
    let number = random.random_range(-20..40);
    match random.random_range(0..6) {
        0 => format!(" WHERE {money} > {number}"),
        1 => format!(" WHERE {whole} IS NOT NULL AND {float} < {number}"),
        2 => format!(" WHERE customer IN ('c0', 'c2', 'c5') OR {money} <= {number}"),
        3 => format!(" WHERE NOT ({whole} = 1)"),
        _ => String::new(),
    }
}

fn aggregate(random: &mut StdRng, source: &Source) -> String {
    let Source { money, float, whole, instant, .. } = source;
    let column = *[money, float, whole].choose(random).unwrap();
    let filter = if random.random_bool(0.2) { format!(" FILTER (WHERE {whole} > 0)") } else { String::new() };
    let call = match random.random_range(0..16) {
        0..4 => format!("SUM({column})"),
        4 => "COUNT(*)".to_owned(),
        5 => format!("COUNT({column})"),
        6 => format!("MIN({column})"),
        7 => format!("MAX({instant})"),
        8 | 9 => format!("AVG({column})"),
        10 => format!("COUNT(DISTINCT {whole})"),
        11 => format!("STDDEV({float})"),
        12 => format!("MEDIAN({column})"),
        13 => format!("FIRST_VALUE({money} ORDER BY {instant}, id)"),
        14 => format!("BOOL_OR({whole} > 1)"),
        _ => format!("VAR_POP({float})"),
    };
    call + &filter
}

fn over(random: &mut StdRng, source: &Source, by: &[&str]) -> String {
    let Source { money, float, instant, .. } = source;
    let by = by.join(", ");
    let ordered = format!("OVER (PARTITION BY {by} ORDER BY {instant}, id)");
    match random.random_range(0..7) {
        0 => format!("ROW_NUMBER() {ordered}"),
        1 => format!("LAG({money}) {ordered}"),
        2 => format!("SUM({money}) {ordered}"),
        3 => format!("RANK() OVER (PARTITION BY {by} ORDER BY {money} DESC NULLS LAST)"),
        4 => format!(
            "AVG({float}) OVER (PARTITION BY {by} ORDER BY {instant}, id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"
        ),
        5 => format!("MAX({money}) OVER (PARTITION BY {by})"),
        _ => format!(
            "SUM({money}) OVER (PARTITION BY {by} ORDER BY {instant} RANGE BETWEEN INTERVAL '20 days' PRECEDING AND CURRENT ROW)"
        ),
    }
}

/// A column that identifies a row, which must not be null.
fn shown(column: &str) -> String {
    match column {
        "kind" | "label" | "tier" => format!("COALESCE({column}, 'none') AS {column}"),
        column => column.to_owned(),
    }
}

fn query(random: &mut StdRng) -> (Vec<String>, String) {
    let source = source(random);
    let filter = filter(random, &source);
    let mut by = vec!["account", "livemode"];
    for column in &source.groups {
        if random.random_bool(0.5) {
            by.push(column);
        }
    }
    let grain = |columns: &[&str]| columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>();
    let from = format!("FROM ({}) AS t{filter}", source.sql);
    match random.random_range(0..10) {
        0 => (grain(&["id"]), format!("SELECT account, livemode, id, customer, {} {from}", source.money)),
        1 => (
            grain(&by[2..]),
            format!("SELECT DISTINCT {} {from}", by.iter().map(|c| shown(c)).collect::<Vec<_>>().join(", ")),
        ),
        2..4 => {
            let (one, other) = (over(random, &source, &by), over(random, &source, &by));
            (grain(&["id"]), format!("SELECT account, livemode, id, {one} AS a, {other} AS b {from}"))
        }
        step => {
            let (keys, named) = (by.join(", "), by.iter().map(|c| shown(c)).collect::<Vec<_>>().join(", "));
            let (a, b) = (aggregate(random, &source), aggregate(random, &source));
            let having = if random.random_bool(0.2) { " HAVING COUNT(*) > 1" } else { "" };
            let grouped = format!("SELECT {named}, {a} AS a, {b} AS b {from} GROUP BY {keys}{having}");
            match step {
                4 if by.len() > 2 => {
                    let outer = by[..by.len() - 1].join(", ");
                    let sql =
                        format!("SELECT {outer}, COUNT(*) AS n, MAX(a) AS most FROM ({grouped}) AS g GROUP BY {outer}");
                    (grain(&by[2..by.len() - 1]), sql)
                }
                5 if by.len() > 2 => {
                    let sql = format!(
                        "SELECT {keys}, a, b, RANK() OVER (PARTITION BY account, livemode ORDER BY a NULLS LAST) AS place \
                         FROM ({grouped}) AS g"
                    );
                    (grain(&by[2..]), sql)
                }
                _ => (grain(&by[2..]), grouped),
            }
        }
    }
}
