//! A bucket for the program, on a real S3 server.

use std::process::Command;

use super::support::{Site, until};
use crate::needs;

/// The key of the server that `scripts/minio.sh` starts.
pub(super) const KEY: &str = "tributary";
pub(super) const SECRET: &str = "tributary-secret";

/// A report without its frame, blanks and line ends, which depend on the terminal's width.
pub(super) fn squeezed(report: &str) -> String {
    report.replace('│', "").split_whitespace().collect()
}

/// A prefix that nobody else uses.
pub(super) struct Bucket {
    pub(super) endpoint: String,
    pub(super) url: String,
}

impl Bucket {
    /// `None` where tests are to run without a server.
    pub(super) fn new() -> Option<Self> {
        needs::s3().map(Self::at)
    }

    fn at(endpoint: String) -> Self {
        Self { endpoint, url: format!("s3://tributary/test-{:016x}/here", rand::random::<u64>()) }
    }

    /// The section of `tributary.toml`.
    pub(super) fn config(&self) -> String {
        format!("[storage]\nurl = \"{}\"\nendpoint = \"{}\"\nallow_http = true\n\n", self.url, self.endpoint)
    }

    /// A site whose tables are in the bucket.
    pub(super) fn site(&self, config: &str) -> Site {
        let site = Site::with([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]);
        site.write("tributary.toml", &(self.config() + config));
        site
    }
}

/// A server of a test's own, which can be ended and started again; it goes with its data when it is dropped.
pub(super) struct Server {
    state: tempfile::TempDir,
    pub(super) bucket: Bucket,
}

impl Server {
    /// `None` where tests are to run without one.
    pub(super) fn start() -> Option<Self> {
        // Where the shared one runs, another one can.
        Bucket::new()?;
        let state = tempfile::tempdir().unwrap();
        let address = script(state.path(), "start");
        Some(Self { state, bucket: Bucket::at(address) })
    }

    /// Ends it as a power cut would.
    pub(super) fn kill(&self) {
        let pid = std::fs::read_to_string(self.state.path().join("minio/pid")).unwrap();
        let killed = Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
        assert!(killed.success());
        until("the server to be gone", || {
            let there = Command::new("kill").args(["-0", pid.trim()]).output().unwrap().status.success();
            (!there).then_some(())
        });
    }

    /// Starts it again at the same address.
    pub(super) fn restart(&self) {
        assert_eq!(script(self.state.path(), "start"), self.bucket.endpoint);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        script(self.state.path(), "stop");
    }
}

fn script(state: &std::path::Path, command: &str) -> String {
    let minio = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/minio.sh");
    let output = Command::new(minio)
        .arg(command)
        .env("TRIBUTARY_MINIO_DIR", state.join("minio"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "minio.sh {command}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
