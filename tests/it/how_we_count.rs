//! docs/how-we-count.md says what the program does: the profiles setting by setting, the statuses, the causes, what was
//! known of a late event when, and that every worked case and every property is a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tributary::{
    ledger::{
        Arrival, Ledger, Profile, Rules, review,
        rows::{Cause, LedgerEntry},
    },
    stripe::types::SubscriptionStatus,
    time::EventTime,
};

use crate::ledger::book::{DAY, Script, at, item, monthly, subscription};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The rows of the first table under a heading, its first line left out.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(here("docs/how-we-count.md")).unwrap();
    let lines =
        page.lines().skip_while(|line| *line != format!("## {heading}")).skip_while(|line| !line.starts_with('|'));
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(rows.len() > 2, "there is no table under {heading}");
    rows.into_iter().skip(2).collect()
}

fn word(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or(cell)
}

/// A setting as the page writes it; fractions as they are.
fn written(value: &Value) -> String {
    match value {
        Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
        Value::Array(fraction) => format!("{}/{}", fraction[0], fraction[1]),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn reduced(text: &str) -> String {
    let Some((numerator, denominator)) = text.split_once('/') else { return text.to_owned() };
    let (numerator, denominator): (u64, u64) = (numerator.parse().unwrap(), denominator.parse().unwrap());
    let (mut a, mut b) = (numerator, denominator);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    format!("{}/{}", numerator / a, denominator / a)
}

#[test]
fn the_table_of_profiles_is_what_the_profiles_are() {
    let rows = table("The profiles side by side");
    let page = fs::read_to_string(here("docs/how-we-count.md")).unwrap();
    let documented: BTreeSet<&str> = rows.iter().map(|row| word(&row[0])).collect();
    assert_eq!(documented.len(), rows.len(), "a setting has one row");
    for (column, profile) in [Profile::Stripe, Profile::Chartmogul, Profile::Profitwell].into_iter().enumerate() {
        let Value::Object(mut settings) = serde_json::to_value(Rules::of(profile)).unwrap() else { unreachable!() };
        settings.remove("profile");
        let names: BTreeSet<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(documented, names, "the settings of the program and those of the page");
        for row in &rows {
            let (name, said) = (word(&row[0]), reduced(word(&row[column + 1])));
            assert_eq!(said, reduced(&written(&settings[name])), "{name} under {profile:?}");
        }
    }
    for name in documented {
        let group = name.strip_prefix("subtract").unwrap_or(name);
        assert!(
            page.contains(&format!("**`{name}`")) || page.contains(&format!("`{group}`")),
            "{name} is not explained"
        );
    }
}

#[test]
fn the_table_of_statuses_holds_for_every_profile() {
    let rows = table("What counts");
    assert_eq!(rows.len(), 8, "Stripe has eight statuses");
    for profile in [Profile::Stripe, Profile::Chartmogul, Profile::Profitwell] {
        for row in &rows {
            let status = SubscriptionStatus::from(word(&row[0]));
            assert!(!matches!(status, SubscriptionStatus::Other(_)), "{row:?}");
            let counts = if Rules::of(profile).counts_status(&status) { "yes" } else { "no" };
            assert_eq!(row[1], counts, "{row:?} under {profile:?}");
        }
    }
}

#[test]
fn the_causes_are_listed_in_the_order_in_which_they_lead() {
    let page = fs::read_to_string(here("docs/how-we-count.md")).unwrap();
    let mut ordered = CAUSES;
    ordered.sort();
    assert_eq!(ordered, CAUSES, "the program's own order");
    let mut rest = page.split_once("the leading one is the first of:").unwrap().1;
    for cause in CAUSES.map(Cause::as_str) {
        let at = rest.find(&format!("`{cause}`")).unwrap_or_else(|| panic!("{cause} is not where it should be"));
        rest = &rest[at..];
    }
}

const CAUSES: [Cause; 16] = [
    Cause::PaymentFailure,
    Cause::Canceled,
    Cause::Uncanceled,
    Cause::Pause,
    Cause::Resume,
    Cause::TrialStarted,
    Cause::TrialConverted,
    Cause::CurrencyChange,
    Cause::AddedSubscription,
    Cause::RemovedSubscription,
    Cause::PlanChange,
    Cause::IntervalChange,
    Cause::PriceChange,
    Cause::QuantityChange,
    Cause::DiscountStart,
    Cause::DiscountEnd,
];

/// The names of all tests in Rust files below a directory, with their files.
fn tests(dir: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    is_test = true;
                } else if let Some(rest) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))
                    && std::mem::take(&mut is_test)
                {
                    let name = rest.split(['(', '<']).next().unwrap();
                    found.insert(name.to_owned(), path.clone());
                }
            }
        }
    }
}

fn all_tests() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    tests(&here("tests/it"), &mut found);
    tests(&here("src"), &mut found);
    found
}

#[test]
fn every_worked_case_is_a_test_and_every_test_of_one_is_on_the_page() {
    let found = all_tests();
    let rows = table("Worked cases");
    let named: BTreeSet<String> = rows.iter().map(|row| word(&row[2]).to_owned()).collect();
    let missing: Vec<_> = named.iter().filter(|name| !found.contains_key(*name)).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:?}");
    let cases = found.iter().filter(|(_, file)| file.ends_with("ledger/cases.rs")).map(|(name, _)| name);
    let unlisted: Vec<_> = cases.filter(|name| !named.contains(*name)).collect();
    assert!(unlisted.is_empty(), "these worked cases are not on the page: {unlisted:?}");
}

/// The tests that a cell names.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_property_is_a_test_and_every_property_test_of_the_ledger_is_on_the_page() {
    let found = all_tests();
    let rows = table("Properties");
    let mut on_the_page = BTreeSet::new();
    for row in &rows {
        assert!(named(&row[1]).next().is_some(), "no test proves that {}", row[0]);
        for test in named(&row[1]) {
            assert!(found.contains_key(test), "{}: there is no test {test}", row[0]);
            on_the_page.insert(test);
        }
    }
    // A test between the braces of `proptest!` is indented.
    let is_property = |name: &str, file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        text.contains("proptest!") && text.contains(&format!("\n    fn {name}("))
    };
    let of_ledger = found.iter().filter(|(_, file)| file.starts_with(here("tests/it/ledger")));
    let properties = of_ledger.filter(|(name, file)| is_property(name, file)).map(|(name, _)| name.as_str());
    let unlisted: Vec<_> = properties.filter(|name| !on_the_page.contains(name)).collect();
    assert!(unlisted.is_empty(), "these properties are not on the page: {unlisted:?}");
}

/// The dollars a month that the ledger's rows make at the end of 2 March.
fn dollars(rows: &[LedgerEntry]) -> String {
    let end = at(61 * DAY);
    let rows: Vec<LedgerEntry> = rows.iter().filter(|row| row.event_time < end).cloned().collect();
    let movements = review::movements(&rows, &Rules::default()).unwrap();
    let after = movements.last().map(|movement| movement.mrr_after.to_string()).unwrap_or_default();
    format!("${}", after.trim_end_matches('0').trim_end_matches('.'))
}

#[test]
fn what_the_page_says_of_anas_late_event_is_what_the_ledger_says() {
    let seats = |seats| {
        let mut ana = subscription("sub_ana", "cus_ana", &monthly("p", 2_900));
        ana.items = vec![item("si_ana", &monthly("p", 2_900), seats)];
        ana
    };
    let mut script = Script::default();
    // Day 60 of the year is 2 March.
    script.created(10 * DAY, &seats(1)).updated(60 * DAY + 3_600, &seats(2));
    let mut ledger = Ledger::new(Rules::default());
    let mut rows: Vec<LedgerEntry> = Vec::new();
    for (event, arrives) in script.events.iter().zip([10 * DAY + 1, 63 * DAY]) {
        let delta = ledger.apply(&[Arrival { event, appended_at: at(arrives) }]).unwrap();
        rows.extend(delta.entries);
    }
    let known_at =
        |moment: EventTime| -> Vec<LedgerEntry> { rows.iter().filter(|row| row.known_at <= moment).cloned().collect() };
    let on_3_march = known_at(at(62 * DAY - 1));
    // All that was known by then is of days before 3 March, so that the last two questions have one answer.
    let answers = [dollars(&rows), dollars(&on_3_march), dollars(&on_3_march)];
    let page: Vec<String> =
        table("Late events, and asking what was known").into_iter().map(|row| row[1].clone()).collect();
    assert_eq!(page, answers);
}
