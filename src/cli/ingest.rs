//! `tributary ingest`

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, IsTerminal, Read},
    path::PathBuf,
    thread,
    time::SystemTime,
};

use chrono::DateTime;
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use miette::{Context, IntoDiagnostic};
use serde_json::value::RawValue;

use super::{Outcome, Place, rim};
use crate::{
    log::{self, MAX_RECORD_BYTES, NewRecord},
    stripe::{
        self,
        admission::{Admission, AdmissionCounts},
        ids::AccountId,
        own::{self, Wrapping},
    },
    threads,
    time::EventTime,
};

/// Events appended at once: one durable write is shared by all of them.
const EVENTS_A_BATCH: usize = 4_000;

/// Bytes of a batch at which it is appended, however few events it has.
const BYTES_A_BATCH: usize = 16 << 20;

/// Input that is not JSON lines is read whole, up to this size.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

#[derive(Args)]
#[command(group = ArgGroup::new("own").args(["snapshot", "catalogue"]))]
pub(super) struct Arguments {
    /// Events: JSON lines, a JSON array, or one event; `-`, the default, is standard input
    #[arg(conflicts_with = "own")]
    file: Option<PathBuf>,
    /// Objects as Stripe's API gives them instead: list responses, JSON lines, an array, or one object; `-` is standard
    /// input
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// A price file instead: YAML with `prices:` and `products:`
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// As of when a snapshot or a price file holds, such as 2026-01-31T12:00:00Z; when the file was last changed if not
    /// given
    #[arg(long, value_name = "TIME", value_parser = instant, requires = "own")]
    as_of: Option<EventTime>,
    /// Whose the objects are; the merchant's own account if not given
    #[arg(long, requires = "own")]
    account: Option<String>,
    /// Objects that do not say are of test mode
    #[arg(long, requires = "own")]
    test: bool,
    /// List the fields that redaction dropped, by path
    #[arg(long)]
    dropped: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let admission = rim::admission(&config)?;
    let log = log::open(&config.log(&arguments.place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let own = arguments.own()?;
    let stdin = PathBuf::from("-");
    let file = arguments.file.as_ref().or(arguments.snapshot.as_ref()).unwrap_or(&stdin);
    let (progress, mut source) = match &arguments.catalogue {
        Some(file) => (ProgressBar::hidden(), Source::catalogue(file)?),
        None => {
            let (input, length) = open(file)?;
            (progress(length), Source::new(input)?)
        }
    };
    let mut counts = AdmissionCounts::default();
    loop {
        let bodies = tokio::task::block_in_place(|| source.next_batch())?;
        if bodies.is_empty() {
            break;
        }
        let bodies = match &own {
            Some(wrapping) => bodies.into_iter().map(|body| wrap(wrapping, body)).collect::<Result<_, _>>()?,
            None => bodies,
        };
        let records = tokio::task::block_in_place(|| admit(&admission, &bodies, &mut counts))?;
        log.append(records).await.map_err(rim::report)?;
        progress.set_position(counts.bytes_in);
    }
    progress.finish_and_clear();
    summarise(&counts, own.as_ref(), arguments.dropped);
    Ok(Outcome::Done)
}

impl Arguments {
    /// How objects that are no events are put into the log's envelope.
    fn own(&self) -> miette::Result<Option<Wrapping>> {
        let (kind, file) = match (&self.snapshot, &self.catalogue) {
            (Some(file), _) => (own::SNAPSHOT, file),
            (None, Some(file)) => (own::FILE, file),
            (None, None) => return Ok(None),
        };
        let as_of = match self.as_of {
            Some(as_of) => as_of,
            None => changed_at(file)?,
        };
        let account = self.account.as_deref().map(AccountId::from);
        Ok(Some(Wrapping { kind, as_of, account, livemode: !self.test }))
    }
}

/// When a file was last changed: when the answer in it was written. What comes on standard input is of now.
fn changed_at(file: &PathBuf) -> miette::Result<EventTime> {
    if file.as_os_str() == "-" {
        return Ok(rim::now());
    }
    let changed = fs::metadata(file).and_then(|metadata| metadata.modified());
    let changed = changed.into_diagnostic().wrap_err_with(|| format!("cannot read {}", file.display()))?;
    let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(EventTime::from_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)))
}

fn instant(text: &str) -> Result<EventTime, String> {
    let instant = DateTime::parse_from_rfc3339(text).map_err(|error| format!("{error}; write 2026-01-31T12:00:00Z"))?;
    Ok(EventTime::from_seconds(instant.timestamp()))
}

/// The event around an object. What is no object goes on to the door as it is, which says so in its place.
fn wrap(wrapping: &Wrapping, body: Vec<u8>) -> miette::Result<Vec<u8>> {
    match wrapping.wrap(&body) {
        Ok(event) => Ok(event),
        Err(error @ stripe::Error::AnEvent) => Err(rim::report(error)),
        Err(_) => Ok(body),
    }
}

/// What happened, on standard error.
fn summarise(counts: &AdmissionCounts, own: Option<&Wrapping>, dropped: bool) {
    let rejected = counts.rejected.total();
    let what = match own {
        Some(own) => format!("objects appended as of {}", own.as_of),
        None => "events appended".to_owned(),
    };
    eprintln!("{} {what}; {} fields dropped by redaction", counts.events, counts.dropped.total());
    if dropped {
        for (path, times) in counts.dropped.sorted() {
            eprintln!("  {times} × {path}");
        }
    }
    if rejected > 0 {
        eprintln!("{rejected} could not be read as events and are listed in rejected_events:");
        for (reason, times) in counts.rejected.sorted() {
            eprintln!("  {times} × {reason}");
        }
    }
}

/// Passes bodies through the door, on all cores, in order.
pub(super) fn admit(
    admission: &Admission,
    bodies: &[Vec<u8>],
    counts: &mut AdmissionCounts,
) -> miette::Result<Vec<NewRecord>> {
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = bodies
            .chunks(bodies.len().div_ceil(threads::count()).max(1))
            .map(|part| {
                scope.spawn(move || {
                    let mut counts = AdmissionCounts::default();
                    let records: Vec<_> = part.iter().map(|body| admission.admit(body, &mut counts)).collect();
                    (records, counts)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Result<Vec<_>, _>>()
    })
    .map_err(|_| miette::miette!("a thread panicked while reading events; please report it"))?;
    let mut records = Vec::with_capacity(bodies.len());
    for (part, part_counts) in parts {
        records.extend(part);
        counts.merge(&part_counts);
    }
    Ok(records)
}

fn open(file: &PathBuf) -> miette::Result<(Box<dyn BufRead>, Option<u64>)> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(BufReader::with_capacity(1 << 20, io::stdin())), None));
    }
    let opened = File::open(file).into_diagnostic().wrap_err_with(|| format!("cannot read {}", file.display()))?;
    let length = opened.metadata().ok().map(|metadata| metadata.len());
    Ok((Box::new(BufReader::with_capacity(1 << 20, opened)), length))
}

fn progress(length: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Where bodies come from.
enum Source {
    /// One event a line.
    Lines(Box<dyn BufRead>),
    /// An array or a single event, read whole; what is left of it.
    Document(std::vec::IntoIter<Vec<u8>>),
}

impl Source {
    /// The objects of a price file.
    fn catalogue(file: &PathBuf) -> miette::Result<Self> {
        let mut yaml = String::new();
        open(file)?.0.read_to_string(&mut yaml).into_diagnostic()?;
        let objects = own::file::catalogue(&yaml).map_err(rim::report);
        let objects = objects.wrap_err_with(|| format!("{} is no price file", file.display()))?;
        Ok(Self::Document(objects.into_iter().map(String::into_bytes).collect::<Vec<_>>().into_iter()))
    }

    fn new(mut input: Box<dyn BufRead>) -> miette::Result<Self> {
        let mut first = Vec::new();
        while first.iter().all(u8::is_ascii_whitespace) {
            first.clear();
            if read_line(&mut input, &mut first)? == 0 {
                return Ok(Self::Document(Vec::new().into_iter()));
            }
        }
        let start = first.trim_ascii_start();
        let is_line = start.starts_with(b"{")
            && serde_json::from_slice::<&RawValue>(start).is_ok()
            && !serde_json::from_slice::<List<'_>>(start).is_ok_and(|list| list.object == "list");
        if is_line || !(start.starts_with(b"[") || start.starts_with(b"{")) {
            return Ok(Self::Lines(Box::new(io::Cursor::new(first).chain(input))));
        }
        let mut document = first;
        input.take(MAX_DOCUMENT_BYTES).read_to_end(&mut document).into_diagnostic()?;
        if document.len() as u64 >= MAX_DOCUMENT_BYTES {
            miette::bail!(help = "give it as JSON lines, one event a line", "the JSON document is larger than 1 GiB");
        }
        // What is no document may be lines of which the first is broken.
        Ok(match split(&document) {
            Ok(bodies) => Self::Document(bodies.into_iter()),
            Err(_) => Self::Lines(Box::new(io::Cursor::new(document))),
        })
    }

    fn next_batch(&mut self) -> miette::Result<Vec<Vec<u8>>> {
        let mut bodies = Vec::new();
        let mut bytes = 0;
        while bodies.len() < EVENTS_A_BATCH && bytes < BYTES_A_BATCH {
            let body = match self {
                Self::Document(rest) => rest.next(),
                Self::Lines(input) => {
                    let mut line = Vec::new();
                    (read_line(input, &mut line)? > 0).then_some(line)
                }
            };
            let Some(body) = body else { break };
            let body = body.trim_ascii();
            if !body.is_empty() {
                bytes += body.len();
                bodies.push(body.to_vec());
            }
        }
        Ok(bodies)
    }
}

/// Reads a line; of one that is too long for the log only so much is kept that the door sees that it is.
fn read_line(input: &mut Box<dyn BufRead>, line: &mut Vec<u8>) -> miette::Result<usize> {
    let limit = MAX_RECORD_BYTES as u64 + 1;
    let read = input.take(limit).read_until(b'\n', line).into_diagnostic()?;
    if read as u64 == limit && !line.ends_with(b"\n") {
        loop {
            let (skip, ended) = {
                let buffer = input.fill_buf().into_diagnostic()?;
                match buffer.iter().position(|byte| *byte == b'\n') {
                    Some(at) => (at + 1, true),
                    None => (buffer.len(), buffer.is_empty()),
                }
            };
            input.consume(skip);
            if ended {
                break;
            }
        }
    }
    Ok(read)
}

/// What Stripe's API answers with.
#[derive(serde::Deserialize)]
struct List<'a> {
    object: &'a str,
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

/// The events of an array, of a list `{"object":"list","data":[…]}`, or of several documents one after another.
fn split(document: &[u8]) -> miette::Result<Vec<Vec<u8>>> {
    let bytes = |values: Vec<&RawValue>| values.into_iter().map(|value| value.get().as_bytes().to_vec()).collect();
    let mut bodies = Vec::new();
    for value in serde_json::Deserializer::from_slice(document).into_iter::<&RawValue>() {
        let text = value.into_diagnostic().wrap_err("the input is not JSON")?.get();
        let part: Vec<Vec<u8>> = if text.starts_with('[') {
            bytes(serde_json::from_str(text).into_diagnostic()?)
        } else {
            match serde_json::from_str::<List<'_>>(text) {
                Ok(list) if list.object == "list" => bytes(list.data),
                _ => vec![text.as_bytes().to_vec()],
            }
        };
        bodies.extend(part);
    }
    Ok(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(text: &str) -> Vec<String> {
        let mut source = Source::new(Box::new(io::Cursor::new(text.to_owned().into_bytes()))).unwrap();
        let mut all = Vec::new();
        loop {
            let batch = source.next_batch().unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(batch.into_iter().map(|body| String::from_utf8(body).unwrap()));
        }
    }

    #[test]
    fn lines_arrays_lists_and_single_documents_give_the_same_events() {
        let expected = vec![r#"{"id":1}"#, r#"{"id":2}"#];
        for text in [
            "{\"id\":1}\n\n{\"id\":2}\n",
            "\n{\"id\":1}\r\n{\"id\":2}",
            "[{\"id\":1},\n{\"id\":2}]",
            "{\"object\":\"list\",\"data\":[{\"id\":1},{\"id\":2}]}",
            "{\"object\":\"list\",\n\"data\":[{\"id\":1},{\"id\":2}]}",
        ] {
            assert_eq!(bodies(text), expected, "{text}");
        }
        assert_eq!(bodies("{\n \"id\": 1\n}\n{\n \"id\": 2\n}").len(), 2);
        assert!(bodies(" \n ").is_empty());
    }

    #[test]
    fn a_line_that_is_no_json_is_handed_on_and_costs_no_other() {
        assert_eq!(bodies("{\"id\":1}\nnonsense\n{\"id\":2}").len(), 3);
        assert_eq!(bodies("{\"id\":\n{\"id\":1}\n{\"id\":2}").len(), 3);
    }

    #[test]
    fn a_line_beyond_the_limit_is_cut_just_above_it() {
        let text = format!("{{\"id\":1}}\n{}\n{{\"id\":2}}\n", "x".repeat(MAX_RECORD_BYTES + 100));
        let bodies = bodies(&text);
        assert_eq!(bodies.iter().map(String::len).collect::<Vec<_>>(), [8, MAX_RECORD_BYTES + 1, 8]);
    }
}
