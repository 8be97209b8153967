//! State is within what ARCHITECTURE.md says of it, and grows with what happened, not with the time that has passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use tributary::{
    ledger::{Arrival, Ledger, Rules},
    simulate::{ApiVersion, Options, simulate},
    stripe::{
        Admission, AdmissionCounts, Redactor,
        admission::{LogRecord, read_record},
        counts::UnknownCounts,
        types::{Event, Object},
    },
};

use super::support::Site;

/// The formulas of the table under "State", by pipeline.
fn formulas() -> BTreeMap<String, String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let lines = page.lines().skip_while(|line| *line != "## State").skip_while(|line| !line.starts_with('|')).skip(2);
    let mut formulas = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let (names, formula) = line.trim_matches('|').split_once('|').unwrap();
        for name in names.split(',') {
            let name = name.trim().trim_matches('`').to_owned();
            assert_eq!(formulas.insert(name, formula.trim().to_owned()), None, "{line}");
        }
    }
    formulas
}

/// Sums of products of numbers and of what the table names.
fn evaluated(formula: &str, units: &BTreeMap<&str, i64>) -> i64 {
    let factor = |word: &str| {
        let word = word.trim();
        word.parse().unwrap_or_else(|_| *units.get(word).unwrap_or_else(|| panic!("{word} in {formula}")))
    };
    formula.split('+').map(|product| product.split('×').map(factor).product::<i64>()).sum()
}

/// How much has happened by the end of a month.
fn units(site: &Site, months: i64) -> BTreeMap<&'static str, i64> {
    let counted = [
        ("movements", "SELECT count(*) FROM mrr_movements"),
        ("billing events", "SELECT count(*) FROM billing_events"),
        ("currencies", "SELECT count(DISTINCT currency) FROM mrr_movements"),
        ("ledger entries", "SELECT count(*) FROM mrr_ledger"),
        ("outlook entries", "SELECT count(*) FROM outlook_ledger"),
        ("invoices", "SELECT count(DISTINCT object_id) FROM billing_events WHERE starts_with(object_id, 'in_')"),
        ("usage lines", "SELECT count(*) FROM metered_usage"),
        ("item states", "SELECT count(*) FROM item_states"),
    ];
    let mut units: BTreeMap<_, _> = counted.map(|(name, sql)| (name, site.number("data", sql))).into();
    units.extend([("months", months), ("days", 31 * months)]);
    units
}

/// Bytes of a pipeline's state that are not of a group.
const FRAME_BYTES: i64 = 4_096;

/// The most that a group takes.
const GROUP_BYTES: i64 = 512;

/// By how much a group, or a customer, may take more a year later.
const TOLERANCE: f64 = 1.1;

#[test]
fn what_a_pipeline_keeps_is_what_its_formula_says_a_year_later_too() {
    let formulas = formulas();
    let shipped = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")).unwrap();
    let mut shipped: Vec<_> = shipped.map(|entry| entry.unwrap().path()).collect();
    shipped.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    let mut shipped: Vec<_> = shipped.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    shipped.sort_unstable();
    assert_eq!(formulas.keys().collect::<Vec<_>>(), shipped);

    let site = Site::new();
    site.simulate("events.jsonl", "--customers 300 --months 18 --seed 41");
    let events = site.read("events.jsonl");
    let created = |line: &str| serde_json::from_str::<Value>(line).unwrap()["created"].as_i64().unwrap();
    // The account begins with 2024.
    let july = 1_719_792_000;
    let (first, rest): (Vec<&str>, Vec<&str>) = events.lines().partition(|line| created(line) < july);
    let mut bytes_a_group = BTreeMap::new();
    for (months, lines) in [(6, first), (18, rest)] {
        site.ingest("data", &lines.join("\n"));
        site.run("run --once --data-dir data");
        let units = units(&site, months);
        println!("after {months} months: {units:?}");
        let status = site.rows("data", "SELECT pipeline, groups, state_bytes FROM pipeline_status ORDER BY pipeline");
        assert_eq!(status.len(), formulas.len());
        for row in status {
            let (name, groups) = (row["pipeline"].as_str().unwrap(), row["groups"].as_i64().unwrap());
            let (bytes, most) = (row["state_bytes"].as_i64().unwrap(), evaluated(&formulas[name], &units));
            println!("{name}: {groups} groups, at most {most} ({}); {bytes} bytes", formulas[name]);
            assert!(groups <= most && (groups > 0) == (most > 0), "{name}: {groups} groups, not {most}");
            assert!(bytes <= GROUP_BYTES * groups + FRAME_BYTES, "{name}: {bytes} bytes of {groups} groups");
            // Of few groups the frame is what counts.
            if groups >= 100 {
                let each = bytes as f64 / groups as f64;
                let before = *bytes_a_group.entry(name.to_owned()).or_insert(each);
                assert!(each <= before * TOLERANCE, "{name}: {each} bytes a group, {before} before");
            }
        }
    }
    assert!(bytes_a_group.len() > 5, "{bytes_a_group:?}");
}

/// What a subscription, and an invoice, add to the ledger's state.
const SUBSCRIPTION_BYTES: usize = 2_000;
const INVOICE_BYTES: usize = 200;

#[test]
fn the_ledgers_state_is_of_its_subscriptions_and_their_payments_and_not_of_their_past() {
    let options = Options {
        customers: 300,
        months: 18,
        seed: 42,
        disorder: 0.0,
        api_version: ApiVersion::Basil,
        start: chrono::NaiveDate::from_ymd_opt(2024, 1, 1).unwrap(),
        account: None,
    };
    let admission = Admission::new(Redactor::builtin().unwrap(), "acct_own".into());
    let (mut counts, mut unknown) = (AdmissionCounts::default(), UnknownCounts::default());
    let mut events: Vec<Event> = Vec::new();
    simulate(&options, &mut |line| {
        let record = admission.admit(line, &mut counts);
        let Ok(LogRecord::Event(event)) = read_record(&record.body, &"acct_own".into(), &mut unknown) else {
            panic!("{}", String::from_utf8_lossy(line));
        };
        events.push(*event);
        Ok(())
    })
    .unwrap();

    let mut ledger = Ledger::new(Rules::default());
    let (mut subscriptions, mut invoices) = (BTreeSet::new(), BTreeSet::new());
    let mut shares = Vec::new();
    let begin = events[0].created;
    let mut begun = 0;
    for month in 1..=18 {
        let end = begin.plus_days(month * 365 / 12);
        let until = begun + events[begun..].iter().take_while(|event| event.created < end).count();
        for batch in events[begun..until].chunks(500) {
            let arrivals: Vec<_> = batch.iter().map(|event| Arrival { event, appended_at: event.created }).collect();
            assert!(ledger.apply(&arrivals).unwrap().late.is_empty());
            for event in batch {
                match &event.object {
                    Object::Subscription(subscription) => {
                        subscriptions.insert(subscription.id.clone());
                    }
                    Object::Invoice(invoice) => {
                        invoices.insert(invoice.id.clone());
                    }
                    _ => {}
                }
            }
        }
        begun = until;
        let bytes: usize = (0..=u8::MAX).map(|bucket| ledger.encode_bucket(bucket, true).unwrap().len()).sum();
        let most = SUBSCRIPTION_BYTES * subscriptions.len() + INVOICE_BYTES * invoices.len();
        let share = bytes as f64 / most as f64;
        println!(
            "after {month} months: {bytes} bytes, {share:.3} of the bound; {} subscriptions, {} invoices",
            subscriptions.len(),
            invoices.len()
        );
        shares.push(share);
    }
    assert!(begun > events.len() * 9 / 10 && shares.iter().all(|share| *share <= 1.0), "{shares:?}");
    assert!(shares[17] <= shares[5] * TOLERANCE, "{shares:?}");
}
