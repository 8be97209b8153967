//! docs/sigma.md: every block of it runs, and what it says of recurring revenue is what the tables say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{
    serving::Psql,
    support::{Running, Site, assert_same_lines, micros},
};
use crate::needs;

const ZONE: &str = "America/New_York";

/// Views that show tables of the catalogue of prices and of rates.
const NEEDED: [&str; 3] = ["exchange_rates_from_usd", "sigma_products", "sigma_prices"];

/// The blocks of the page by their headings, as far as `site` has what they read.
fn runnable(site: &Site) -> Vec<(String, String)> {
    let there =
        site.query("data", "csv", "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'");
    let mut found = recipes();
    found.retain(|(heading, sql)| {
        let runs = NEEDED.iter().all(|view| !sql.contains(view) || there.lines().any(|name| name == *view));
        if !runs {
            println!("NOT RUN: {heading}: its tables are not there");
        }
        runs
    });
    found
}

/// The blocks of the page by their headings.
pub(crate) fn recipes() -> Vec<(String, String)> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sigma.md")).unwrap();
    let (mut heading, mut block, mut found) = (String::new(), None::<String>, Vec::new());
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sql") => block = Some(String::new()),
            (Some(sql), "```") => {
                found.push((heading.clone(), std::mem::take(sql)));
                block = None;
            }
            (Some(sql), line) => *sql += &format!("{line}\n"),
            (None, line) => {
                if let Some(text) = line.strip_prefix("## ") {
                    heading = text.to_owned();
                }
            }
        }
    }
    assert!(found.len() >= 6, "{found:?}");
    found
}

/// Rows of a CSV without quoted values, by column.
fn rows(csv: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = csv.lines();
    let columns: Vec<_> = lines.next().unwrap().split(',').map(str::to_owned).collect();
    lines.map(|line| columns.iter().cloned().zip(line.split(',').map(str::to_owned)).collect()).collect()
}

fn number(row: &BTreeMap<String, String>, column: &str) -> i128 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} of {row:?} is no number"))
}

/// Millionths of a major unit in a minor one.
fn minor_unit(currency: &str) -> i128 {
    match currency {
        "jpy" => 1_000_000,
        _ => 10_000,
    }
}

struct Account {
    site: Site,
    answers: BTreeMap<String, Vec<BTreeMap<String, String>>>,
}

impl Account {
    /// Simulates an account whose events come late and twice, and asks it every recipe.
    fn of(seed: u64) -> Self {
        let site = Site::new();
        site.write("tributary.toml", &format!("[merchant]\nzone = \"{ZONE}\"\n"));
        site.simulate("events.jsonl", &format!("--customers 150 --months 6 --seed {seed} --disorder 0.1"));
        // In pieces, each with some events of the one before, which change what was already written.
        let events = site.read("events.jsonl");
        let lines: Vec<&str> = events.lines().collect();
        let mut late: Vec<&str> = Vec::new();
        for piece in lines.chunks(lines.len().div_ceil(13)).chain([&[][..]]) {
            let held_back = |place: usize| {
                let often = if piece[place].contains("customer.subscription.updated") { 2 } else { 5 };
                place.is_multiple_of(often) && 2 * place > piece.len()
            };
            let (held, now): (Vec<_>, Vec<_>) =
                piece.iter().copied().enumerate().partition(|(place, _)| held_back(*place));
            let now = now.into_iter().map(|(_, line)| line).chain(late.drain(..)).collect::<Vec<_>>().join("\n");
            late.extend(held.into_iter().map(|(_, line)| line));
            site.ingest("data", &now);
            site.run("run --once --data-dir data");
        }
        let answers = runnable(&site)
            .into_iter()
            .map(|(heading, sql)| {
                let answer = rows(&site.query("data", "csv", &sql));
                assert!(!answer.is_empty(), "{heading} gives nothing");
                (heading, answer)
            })
            .collect();
        Self { site, answers }
    }

    fn ask(&self, sql: &str) -> Vec<BTreeMap<String, String>> {
        rows(&self.site.query("data", "csv", sql))
    }

    fn answer(&self, heading: &str) -> &[BTreeMap<String, String>] {
        &self.answers[heading]
    }

    /// Total MRR lies at most half a minor unit for each item that counts from the exact one.
    fn mrr_by_day_is_mrr_daily(&self) {
        let mut closing: BTreeMap<(String, String), i128> = self
            .ask("SELECT day, currency, closing FROM mrr_daily")
            .iter()
            .map(|row| ((row["day"].clone(), row["currency"].clone()), micros(&row["closing"])))
            .collect();
        let changes = self.ask(
            "SELECT CAST(local_event_timestamp AS DATE) AS day, currency, subscription_item_id AS item, price_id AS price, \
             SUM(mrr_change) AS change FROM subscription_item_change_events GROUP BY 1, 2, 3, 4 ORDER BY 1",
        );
        let mut worth: BTreeMap<(&str, &str, &str), i128> = BTreeMap::new();
        let mut next = changes.iter().peekable();
        let days = self.answer("MRR by day and currency");
        let mut by_day: BTreeMap<&str, Vec<&BTreeMap<String, String>>> = BTreeMap::new();
        for row in days {
            by_day.entry(&row["day"]).or_default().push(row);
        }
        let mut inexact = 0;
        for (day, rows) in by_day {
            while let Some(row) = next.next_if(|row| row["day"].as_str() <= day) {
                *worth.entry((&row["currency"], &row["item"], &row["price"])).or_default() += number(row, "change");
            }
            for row in rows {
                let currency = row["currency"].as_str();
                let items = worth.iter().filter(|((of, ..), mrr)| *of == currency && **mrr != 0).count() as i128;
                let exact = closing.remove(&(day.to_owned(), currency.to_owned())).expect("a day of mrr_daily");
                let off = (number(row, "mrr") * minor_unit(currency) - exact).abs();
                assert!(2 * off <= items * minor_unit(currency), "{row:?}: {off} millionths off with {items} items");
                inexact += u32::from(off != 0);
            }
        }
        assert!(inexact > 0, "nothing was ever rounded in this account");
        let last = days.iter().map(|row| row["day"].as_str()).max().unwrap();
        closing.retain(|(day, _), _| day.as_str() <= last);
        assert_eq!(closing, BTreeMap::new(), "days of mrr_daily that the recipe lacks");
    }

    fn changes_by_customer_are_the_movements(&self) {
        // No customer here pays in two currencies: each currency by itself is the whole customer.
        let swaps = "SELECT count(*) FROM (SELECT customer_id FROM mrr_movements GROUP BY 1 HAVING COUNT(DISTINCT currency) > 1)";
        assert_eq!(self.site.number("data", swaps), 0);
        let moved = self
            .ask("SELECT occurred_at AS event_timestamp, customer_id, currency, kind, mrr_after FROM mrr_movements");
        let key = |row: &BTreeMap<String, String>| {
            ["event_timestamp", "customer_id", "currency", "kind"].map(|column| row[column].clone())
        };
        let ours: BTreeMap<_, _> = moved.iter().map(|row| (key(row), micros(&row["mrr_after"]))).collect();
        let recipe = self.answer("Changes of MRR by customer");
        for row in recipe {
            let exact = ours.get(&key(row)).unwrap_or_else(|| panic!("{row:?} is no movement"));
            let off = (number(row, "mrr") * minor_unit(&row["currency"]) - exact).abs();
            assert!(off <= 3 * minor_unit(&row["currency"]), "{row:?} is {off} millionths off");
        }
        let theirs: BTreeSet<_> = recipe.iter().map(key).collect();
        assert_eq!(theirs, ours.into_keys().collect(), "movements that the recipe lacks");
        let kinds: BTreeSet<_> = recipe.iter().map(|row| row["kind"].as_str()).collect();
        assert!(kinds.len() >= 4, "{kinds:?}");
    }

    fn the_bridge_is_that_of_the_movements(&self) {
        let kinds = ["new", "reactivation", "expansion", "contraction", "churn"];
        let sql = format!(
            "SELECT CAST(date_trunc('month', local_timestamp(occurred_at, '{ZONE}')) AS DATE) AS month, currency, kind, \
             SUM(mrr_delta) AS moved, COUNT(*) AS movements FROM mrr_movements GROUP BY 1, 2, 3"
        );
        let mut ours: BTreeMap<_, _> = self
            .ask(&sql)
            .iter()
            .map(|row| {
                let key = ["month", "currency", "kind"].map(|column| row[column].clone());
                (key, (micros(&row["moved"]), number(row, "movements")))
            })
            .collect();
        for row in self.answer("The bridge by month") {
            for kind in kinds {
                let key = [row["month"].clone(), row["currency"].clone(), kind.to_owned()];
                let (exact, movements) = ours.remove(&key).unwrap_or_default();
                let unit = minor_unit(&row["currency"]);
                let off = (number(row, kind) * unit - exact).abs();
                assert!(off <= 3 * movements * unit, "{kind} of {row:?} is {off} millionths off");
            }
            let net: i128 = kinds.iter().map(|kind| number(row, kind)).sum();
            assert_eq!(net, number(row, "net"), "{row:?}");
        }
        assert_eq!(ours, BTreeMap::new(), "months that the recipe lacks");
    }

    fn subscribers_and_their_churn_are_those_of_the_tables(&self) {
        let customers: BTreeMap<String, i128> = self
            .ask("SELECT day, SUM(customers) AS customers FROM mrr_daily GROUP BY day ORDER BY day")
            .iter()
            .map(|row| (row["day"].clone(), number(row, "customers")))
            .collect();
        for row in self.answer("Active subscribers by day") {
            assert_eq!(number(row, "active_subscribers"), customers[&row["day"]], "{row:?}");
        }
        let days: Vec<&String> = customers.keys().collect();
        let churned: BTreeMap<String, i128> = self
            .ask(&format!(
                "SELECT local_date(occurred_at, '{ZONE}') AS day, COUNT(*) AS churned FROM mrr_movements \
                 WHERE kind = 'churn' GROUP BY 1"
            ))
            .iter()
            .map(|row| (row["day"].clone(), number(row, "churned")))
            .collect();
        let mut rates = 0;
        for row in self.answer("Subscriber churn rate") {
            let today = days.binary_search(&&row["day"]).unwrap();
            let before = today.checked_sub(30).map_or(0, |day| customers[days[day]]);
            assert_eq!(number(row, "active_30_days_ago"), before, "{row:?}");
            let departed: i128 =
                days[(today + 1).saturating_sub(30)..=today].iter().filter_map(|day| churned.get(*day)).sum();
            assert_eq!(number(row, "departed"), departed, "{row:?}");
            let base = before + number(row, "joined");
            // Rounded to six places, half away from zero.
            assert_eq!(micros(&row["churn_rate"]), (2_000_000 * departed + base) / (2 * base), "{row:?}");
            rates += i128::from(departed > 0);
        }
        assert!(rates > 10, "hardly anybody left");
    }

    fn prices_add_up(&self) {
        let mut totals: BTreeMap<&str, i128> = BTreeMap::new();
        for row in self.answer("MRR by price and product") {
            *totals.entry(&row["currency"]).or_default() += number(row, "mrr");
        }
        let mut last: BTreeMap<&str, (&str, i128)> = BTreeMap::new();
        for row in self.answer("MRR by day and currency") {
            last.insert(&row["currency"], (&row["day"], number(row, "mrr")));
        }
        assert_eq!(totals, last.into_iter().map(|(currency, (_, mrr))| (currency, mrr)).collect());
        let exact = self.ask(
            "SELECT price_id, currency, SUM(mrr_delta) AS mrr, COUNT(DISTINCT subscription_item_id) AS items \
             FROM mrr_ledger GROUP BY 1, 2 HAVING SUM(mrr_delta) <> 0",
        );
        let recipe: BTreeMap<_, _> = self
            .answer("MRR by price and product")
            .iter()
            .map(|row| (row["price_id"].as_str(), number(row, "mrr")))
            .collect();
        for row in &exact {
            let unit = minor_unit(&row["currency"]);
            let off = (recipe[row["price_id"].as_str()] * unit - micros(&row["mrr"])).abs();
            assert!(2 * off <= number(row, "items") * unit, "{row:?} is {off} millionths off");
        }
    }
}

#[test]
fn every_recipe_of_stripes_gives_what_the_tables_say() {
    let account = Account::of(7);
    account.mrr_by_day_is_mrr_daily();
    account.changes_by_customer_are_the_movements();
    account.the_bridge_is_that_of_the_movements();
    account.subscribers_and_their_churn_are_those_of_the_tables();
    account.prices_add_up();
    let doubles = "SELECT count(*) FROM (SELECT 1 AS one FROM subscription_item_change_events \
                   GROUP BY account, event_timestamp, event_type, subscription_item_id HAVING count(*) > 1)";
    assert_eq!(account.site.number("data", doubles), 0, "Stripe's key is a key");
    let reversed = "SELECT count(*) FROM mrr_ledger WHERE reverses_entry_id IS NOT NULL";
    assert!(account.site.number("data", reversed) > 0, "nothing came late in this account");
}

#[test]
fn psql_answers_every_recipe_as_the_query_command_does() {
    if !needs::psql() {
        return;
    }
    let account = Account::of(8);
    let mut engine = Running::start(&account.site, "--data-dir data", &[]);
    let psql = Psql::of(&mut engine, &account.site, "data");
    // The two write instants in their own ways.
    let plain = |line: &str| line.replace(".000000+00", "").replace(['T', 'Z'], " ").replace(" |", "|");
    for (heading, sql) in runnable(&account.site) {
        let csv = account.site.query("data", "csv", &sql);
        let queried: Vec<String> = csv.lines().skip(1).map(|line| plain(&line.replace(',', "|"))).collect();
        let answered: Vec<String> = psql.answer(&sql).lines().map(plain).collect();
        assert_same_lines(&heading, &answered.join("\n"), &queried.join("\n"));
    }
    assert!(psql.answer("\\d subscription_item_change_events").contains("local_event_timestamp"));
}
