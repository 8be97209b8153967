//! A pipeline's file is run as it is, in batch, and says what the maintained table says.

use std::{collections::BTreeSet, fs, path::Path};

use tributary::tables;

use super::{
    scheduled,
    support::{Said, Site, assert_same_lines},
};

/// Pipelines that have nothing to say of an account without metered prices.
const QUIET: [&str; 1] = ["usage_run_rate"];

fn shipped() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "sql"));
    let mut files: Vec<String> = files.map(|path| path.display().to_string()).collect();
    files.sort();
    files
}

fn sorted(csv: &str) -> String {
    let mut lines: Vec<&str> = csv.lines().skip(1).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// The rows of a table of the contract in both modes, without what is computed on reading.
fn maintained(site: &Site, name: &str) -> String {
    let schema = &tables::get(name).unwrap().schema;
    let columns = schema.fields().iter().map(|field| format!("\"{}\"", field.name())).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {columns} FROM public.{name} UNION ALL SELECT {columns} FROM test.{name}");
    sorted(&site.query("data", "csv", &sql))
}

fn said(site: &Site, arguments: &str) -> Said {
    Said::of(site.command(arguments).output().unwrap())
}

#[test]
fn every_shipped_file_says_in_batch_what_its_table_says() {
    let site = Site::new();
    site.write(
        "tributary.toml",
        "[merchant]\nzone = \"Europe/Berlin\"\n[parameters.expansion_events]\nmin_amount = \"20\"\n\
         [parameters.ltv]\nmargin = \"0.8\"\n",
    );
    site.simulate("events.jsonl", "--customers 60 --months 8 --seed 52");
    let events = site.read("events.jsonl");
    site.ingest("data", &events);
    let half: Vec<&str> = events.lines().take(events.lines().count() / 2).collect();
    site.ingest("data", &half.join("\n").replace("\"livemode\":true", "\"livemode\":false"));
    site.run("run --once --data-dir data");

    let mut quiet = BTreeSet::new();
    for path in shipped() {
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        let batch = sorted(&site.run(&format!("query --data-dir data --output csv --file {path}")).out);
        assert_same_lines(&name, &batch, &maintained(&site, &name));
        let modes = [",true,", ",false,"].map(|mode| batch.lines().any(|line| line.contains(mode)));
        if modes != [true, true] {
            quiet.insert(name);
        }
    }
    assert_eq!(quiet.iter().map(String::as_str).collect::<Vec<_>>(), QUIET);
}

#[test]
fn a_file_runs_with_other_parameters_of_the_past_and_on_its_schedule_and_points_at_what_is_wrong() {
    let site = Site::new();
    site.write("pipelines/top_customers.sql", &scheduled::file("schedule: monthly", scheduled::QUERY));
    let expansions = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/expansion_events.sql"));
    let expansions = expansions.unwrap();
    // It need not be one that the engine maintains.
    site.write("mine/expansion_events.sql", &expansions);
    site.write("few.toml", "min_amount = \"100\"\n");
    site.write("unknown.toml", "max_amount = \"100\"\n");
    site.write("mine/refused/expansion_events.sql", &expansions.replace(">= $min_amount", ">= random()"));
    site.simulate("events.jsonl", "--customers 60 --months 6 --seed 53");
    site.run("ingest events.jsonl --data-dir data");
    site.run("run --once --data-dir data");

    let scheduled = site.run("query --data-dir data --output csv --file pipelines/top_customers.sql").out;
    assert!(scheduled.lines().count() > 3, "{scheduled}");
    assert_same_lines("a schedule", &sorted(&scheduled), &sorted(&site.query("data", "csv", scheduled::ALL)));

    let count = |arguments: &str| {
        let command = "query --data-dir data --output csv --file mine/expansion_events.sql";
        site.run(&format!("{command} {arguments}")).out.lines().count() as i64 - 1
    };
    let sql = |condition: &str| {
        let sql = format!("SELECT count(*) FROM mrr_movements WHERE kind = 'expansion' AND {condition}");
        site.number("data", &sql)
    };
    let all = count("");
    assert_eq!(all, sql("true"));
    let few = count("--params few.toml");
    assert_eq!(few, sql("mrr_delta >= 100"));
    assert!(0 < few && few < all, "{few} of {all}");
    let past = count("--as-of 2024-03-31");
    assert_eq!(past, sql("occurred_at < '2024-04-01'"));
    assert!(0 < past && past < all, "{past} of {all}");

    for (arguments, code, word) in [
        ("--file mine/refused/expansion_events.sql", 1, "random"),
        ("--file mine/expansion_events.sql --params unknown.toml", 1, "no parameter `max_amount`"),
        ("--file mine/nothing.sql", 1, "nothing.sql"),
        ("--params few.toml", 2, "--file"),
        ("--file mine/expansion_events.sql SELECT", 2, "cannot be used"),
        ("", 2, "--file"),
    ] {
        let said = said(&site, &format!("query --data-dir data {arguments}"));
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{arguments}: {}", said.err);
        assert!(said.words().contains(word), "{arguments}: {}", said.err);
    }
    let refused = said(&site, "query --data-dir data --file mine/refused/expansion_events.sql");
    assert!(refused.err.contains("expansion_events.sql:") && refused.err.contains("random()"), "{}", refused.err);
}
