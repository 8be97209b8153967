//! However many threads work and wherever the work was interrupted, the tables are the same.

use super::{
    crash::{Numbers, copy, held_back},
    same::{NOT_IN_EVERY_ACCOUNT, assert_same_tables},
    support::{Said, Site},
};

/// Runs an engine to the end of the log, on so many threads.
fn run(site: &Site, data: &str, threads: &str) {
    let mut command = site.command(&format!("run --once --data-dir {data}"));
    command.envs([("TRIBUTARY_ENGINE__THREADS", threads), ("RUST_LOG", "tributary::cli=debug")]);
    let said = Said::of(command.output().unwrap());
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains(&format!("\"work is divided\",\"threads\":{threads}")), "{}", said.err);
}

#[test]
fn straight_through_or_with_checkpoints_on_two_threads_and_restored_on_three_the_tables_are_the_same() {
    let site = Site::new();
    site.simulate("events.jsonl", "--customers 120 --months 6 --seed 39 --disorder 0.1");
    let events = site.read("events.jsonl");
    let lines = held_back(events.lines(), 400, &mut Numbers(3));
    let (first, rest) = lines.split_at(lines.len() * 2 / 3);
    for piece in first.chunks(first.len().div_ceil(4)) {
        site.ingest("pieces", &piece.join("\n"));
        run(&site, "pieces", "2");
    }
    for piece in rest.chunks(rest.len().div_ceil(3)) {
        site.ingest("pieces", &piece.join("\n"));
        run(&site, "pieces", "3");
    }
    copy(&site.path("pieces/log"), &site.path("straight/log"));
    run(&site, "straight", "1");
    assert!(site.number("pieces", "SELECT count(reverses_entry_id) FROM mrr_ledger") > 0, "nothing was corrected");
    assert_eq!(site.number("pieces", "SELECT count(*) FROM late_events"), 0);
    assert_same_tables((&site, "pieces"), (&site, "straight"), &NOT_IN_EVERY_ACCOUNT);
}
