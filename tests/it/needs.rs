//! What tests need of the machine beside the program: servers and programs that `make test` sees to.
//!
//! Where one is missing, a test that needs it says so and is left out, so that `cargo test` works anywhere. Where
//! `TRIBUTARY_TEST_ALL` is set, as by `make test`, it fails and says how to get what is missing.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Set where nothing may be left out.
const ALL: &str = "TRIBUTARY_TEST_ALL";

/// What was found, if it was; else the test is left out, or fails where nothing may be.
fn need<T>(found: Option<T>, missing: &str, remedy: &str) -> Option<T> {
    if found.is_none() {
        let may_be_left_out = env::var_os(ALL).is_none_or(|all| all.is_empty());
        assert!(may_be_left_out, "{missing}: {remedy}; without {ALL} the test is left out");
        left_out(&format!("{missing}: {remedy}"));
    }
    found
}

/// Says that a test, or a part of it, does not run, past the harness, which captures what is printed.
fn left_out(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("NOT RUN: {test}: {reason}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
}

/// The address of a Kafka broker.
pub(crate) fn kafka() -> Option<String> {
    need(env::var("TRIBUTARY_TEST_KAFKA").ok(), "there is no Kafka", "run under scripts/with-kafka.sh")
}

/// The address of an S3 server.
pub(crate) fn s3() -> Option<String> {
    need(env::var("TRIBUTARY_TEST_S3").ok(), "there is no S3 server", "run under scripts/with-minio.sh")
}

/// A Python with Stripe's SDK and the library of Standard Webhooks.
pub(crate) fn python() -> Option<String> {
    let remedy = "set TRIBUTARY_TEST_PYTHON=\"$(scripts/python-env.sh)\"";
    need(env::var("TRIBUTARY_TEST_PYTHON").ok(), "there is no Python with Stripe's SDK", remedy)
}

/// Whether there is `psql`.
pub(crate) fn psql() -> bool {
    need(runs(&["psql", "--version"]), "there is no psql", "scripts/setup.sh test installs it").is_some()
}

/// A file or directory of `../shared/data`, which is no part of a clone: a test that reads it is left out without it.
pub(crate) fn shared_data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.exists() {
        left_out(&format!("{} is not there", path.display()));
        return None;
    }
    Some(path)
}

/// The command with which another one gets a mount namespace of its own. A kernel that grants none, as in a container
/// without privileges, is not mended by any installation: a test that needs one is left out there, always aloud.
pub(crate) fn mount_namespace() -> Option<&'static [&'static str]> {
    let there = runs(&["unshare", "--version"]).and(runs(&["mount", "--version"]));
    need(there, "there is no unshare or mount", "scripts/setup.sh test installs them")?;
    let ways: [&[&str]; 2] = [&["unshare", "--user", "--map-root-user", "--mount"], &["unshare", "--mount"]];
    let granted = ways.into_iter().find(|way| {
        let mount = ["sh", "-c", "mount -t tmpfs -o size=1m tmpfs /tmp"];
        runs(&[way, mount.as_slice()].concat()).is_some()
    });
    if granted.is_none() {
        left_out("this machine grants no mount namespace");
    }
    granted
}

/// Something, if a command runs and succeeds.
fn runs(command: &[&str]) -> Option<()> {
    let ran = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success()).then_some(())
}
