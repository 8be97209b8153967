//! A directory to run the program in, engines that run beside the test, and what both say.

use std::{
    fmt::Debug,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::PATIENCE;

/// A working directory for the program, in which nothing is configured.
pub(super) struct Site {
    dir: TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl Site {
    pub(super) fn new() -> Self {
        Self::with([])
    }

    /// One whose commands see these variables.
    pub(super) fn with<const N: usize>(variables: [(&'static str, &'static str); N]) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), variables: variables.to_vec() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The program with arguments separated by blanks, without the settings of whoever runs the test.
    pub(super) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tributary"));
        command.args(arguments.split_whitespace()).current_dir(self.dir.path()).env_remove("RUST_LOG");
        let of_this_process = std::env::vars_os().map(|(name, _)| name);
        let settings = ["TRIBUTARY_", "AWS_"];
        for name in of_this_process.filter(|name| settings.iter().any(|s| name.to_string_lossy().starts_with(s))) {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().copied());
        command
    }

    /// Runs the program, which must succeed; what it wrote.
    pub(super) fn run(&self, arguments: &str) -> Said {
        let said = Said::of(self.command(arguments).output().unwrap());
        assert_eq!(said.code, 0, "tributary {arguments}\n{}", said.err);
        said
    }

    /// Writes the events of a simulated account to a file.
    pub(super) fn simulate(&self, file: &str, arguments: &str) {
        let out = fs::File::create(self.path(file)).unwrap();
        let status = self.command(&format!("simulate {arguments}")).stdout(out).status().unwrap();
        assert!(status.success());
    }

    /// Appends text to the log of a data directory.
    pub(super) fn ingest(&self, data: &str, text: &str) -> Said {
        let mut child = self
            .command(&format!("ingest - --data-dir {data}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = Said::of(child.wait_with_output().unwrap());
        assert_eq!(said.code, 0, "{}", said.err);
        said
    }

    /// A query's answer.
    pub(super) fn query(&self, data: &str, output: &str, sql: &str) -> String {
        let arguments = format!("query --data-dir {data} --output {output}");
        let said = Said::of(self.command(&arguments).arg(sql).output().unwrap());
        assert_eq!(said.code, 0, "{sql}\n{}", said.err);
        said.out
    }

    pub(super) fn rows(&self, data: &str, sql: &str) -> Vec<Value> {
        self.query(data, "json", sql).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The only value of a query for a number.
    pub(super) fn number(&self, data: &str, sql: &str) -> i64 {
        let csv = self.query(data, "csv", sql);
        csv.lines().nth(1).unwrap().parse().unwrap()
    }
}

/// What a process that ended has said.
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Said {
    /// What it wrote to standard error, without the line breaks of a report, which is wrapped to the terminal's width.
    pub(super) fn words(&self) -> String {
        self.err.replace(['│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(super) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// An engine, or a gateway, that runs until it is stopped, killed or dropped.
pub(super) struct Running {
    child: Child,
    err: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Running {
    /// Starts `tributary run` on free ports.
    pub(super) fn start(site: &Site, arguments: &str, variables: &[(&str, &str)]) -> Self {
        Self::spawn(site, &format!("run {arguments}"), variables)
    }

    /// Starts a command that goes on until it is told to end.
    pub(super) fn spawn(site: &Site, command: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = site
            .command(command)
            .env("TRIBUTARY_SERVE__LISTEN", "127.0.0.1:0")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let err = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&err);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                said.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, err, reader: Some(reader) }
    }

    /// What it has written to standard error so far.
    pub(super) fn said(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits for a line with `before` and returns the word that follows it.
    pub(super) fn word_after(&mut self, before: &str) -> String {
        until(&format!("a line with {before}"), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the engine ended with {status}:\n{}", self.said());
            }
            let said = self.said();
            let rest = said.lines().find_map(|line| line.split_once(before))?.1;
            Some(rest.split_whitespace().next()?.to_owned())
        })
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The id of its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended by itself.
    pub(super) fn ended(mut self) -> Said {
        let status = until("it to end by itself", || self.child.try_wait().unwrap());
        // What it said last is on its way through the pipe.
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        Said { code: status.code().unwrap_or(-1), out: String::new(), err: self.said() }
    }

    /// Asks it to end, and waits until it has.
    pub(super) fn stop(mut self) -> String {
        self.signal("TERM");
        let ended = until("the engine to end", || self.child.try_wait().unwrap());
        assert!(ended.success(), "{ended}:\n{}", self.said());
        self.said()
    }

    /// Ends it as a power cut would.
    pub(super) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "it had ended by itself: {status}\n{}", self.said());
        self.said()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until there is something, for as long as [`PATIENCE`].
pub(super) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, look).unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}"))
}

/// Looks again and again until there is something or the time is over.
pub(super) fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        match look() {
            Some(found) => return Some(found),
            None if start.elapsed() >= limit => return None,
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Millionths of a decimal number with at most six places.
pub(super) fn micros(decimal: &str) -> i128 {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits: i128 = format!("{whole}{fraction:0<6}").parse().unwrap();
    digits
}

/// Compares two texts line by line and shows the first difference alone.
pub(super) fn assert_same_lines(what: impl Debug, left: &str, right: &str) {
    let difference = left.lines().zip(right.lines()).find(|(left, right)| left != right);
    assert_eq!(difference, None, "{what:?}");
    assert_eq!(left.lines().count(), right.lines().count(), "{what:?}: lines");
}

/// Every file below a directory.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Files come and go while an engine runs.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}
