//! A pipeline's file: one valid `SELECT`, with its metadata as YAML in the leading block comment, so that every
//! SQL editor reads the file as it is. There is no templating: parameters are `$name` placeholders.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use chrono_tz::Tz;
use datafusion::common::ScalarValue;
use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::Deserialize;

use super::snapshot::boundary;
use crate::money::{parse_decimal, round_half_even};

const OPEN: &str = "/*---";
const CLOSE: &str = "---*/";

/// A mistake in a pipeline's file, shown with the place where it is.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct FileError {
    message: String,
    #[source_code]
    source_code: NamedSource<String>,
    #[label("{label}")]
    span: SourceSpan,
    label: String,
    #[help]
    help: Option<String>,
}

/// How a pipeline's rows reach its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Rows are only ever added.
    Append,
    /// A row replaces the one with the same grain.
    Upsert,
}

/// When a pipeline's rows reach its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emit {
    /// With every epoch that changes them.
    #[default]
    OnUpdate,
    /// Once, when the watermark has passed the end of their window.
    OnClose,
}

/// How often a query is run again that cannot be maintained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// At the first instant of every hour.
    Hourly,
    /// Of every day.
    Daily,
    /// Of every Monday.
    Weekly,
    /// Of every month.
    Monthly,
}

impl Schedule {
    /// As a file says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }
}

/// The parameter of a query that runs on a schedule: the boundary at which it does.
pub const AS_OF: &str = "as_of";

/// The type of a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterType {
    /// Text.
    Text,
    /// A whole number.
    Bigint,
    /// Money: `decimal(28,6)`.
    Decimal,
    /// True or false.
    Boolean,
}

impl ParameterType {
    /// Reads a value of this type.
    fn read(self, text: &str) -> Option<ScalarValue> {
        match self {
            Self::Text => Some(ScalarValue::from(text)),
            Self::Bigint => text.parse().ok().map(|v| ScalarValue::Int64(Some(v))),
            Self::Boolean => text.parse().ok().map(|v| ScalarValue::Boolean(Some(v))),
            Self::Decimal => {
                let micros = round_half_even(&(parse_decimal(text).ok()? * num_bigint::BigInt::from(1_000_000)));
                Some(ScalarValue::Decimal128(Some(micros.try_into().ok()?), 28, 6))
            }
        }
    }
}

/// A `$name` of a pipeline.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its type.
    pub r#type: ParameterType,
    /// Used where nothing else is given.
    pub default: String,
    /// A setting of `tributary.toml` that takes the default's place.
    #[serde(default)]
    pub setting: Option<String>,
    /// For people.
    pub description: String,
}

/// A check on the values of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnTest {
    /// No value is null.
    NotNull,
    /// No value is below 0.
    NotNegative,
    /// No value occurs twice.
    Unique,
}

impl ColumnTest {
    /// A query that counts the offending rows of `table`.
    #[must_use]
    pub fn offending_rows_sql(self, table: &str, column: &str) -> String {
        match self {
            Self::NotNull => format!("SELECT count(*) FROM \"{table}\" WHERE \"{column}\" IS NULL"),
            Self::NotNegative => format!("SELECT count(*) FROM \"{table}\" WHERE \"{column}\" < 0"),
            Self::Unique => {
                format!("SELECT count(\"{column}\") - count(DISTINCT \"{column}\") FROM \"{table}\"")
            }
        }
    }
}

/// A column of a pipeline's output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// For people.
    pub description: String,
    /// What holds for its values.
    #[serde(default)]
    pub tests: Vec<ColumnTest>,
}

/// What the leading comment says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The table's name; the file's name too.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Who answers for it.
    pub owner: String,
    /// How rows reach the table.
    pub mode: Mode,
    /// When they do.
    #[serde(default)]
    pub emit: Emit,
    /// How often it is run again, instead of being maintained.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// The columns that identify a row, `account` and `livemode` first.
    pub grain: Vec<String>,
    /// The column that places a row in time.
    pub time_column: String,
    /// Its parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, Parameter>,
    /// Its columns, `account` and `livemode` left out.
    pub columns: BTreeMap<String, Column>,
}

impl Metadata {
    /// Whether time alone can change its table: its windows close, or it runs on a schedule.
    #[must_use]
    pub fn follows_time(&self) -> bool {
        self.emit == Emit::OnClose || self.schedule.is_some()
    }
}

/// A pipeline as it stands in its file.
#[derive(Clone, Debug)]
pub struct PipelineFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// The whole text: the comment is part of the SQL.
    pub text: String,
    /// The metadata.
    pub metadata: Metadata,
}

impl PipelineFile {
    /// Reads one file.
    ///
    /// # Errors
    /// A [`FileError`] that points at the mistake.
    pub fn parse(path: &Path, text: String) -> Result<Self, Box<FileError>> {
        let fail = |message: String, at: usize, len: usize, label: &str, help: Option<&str>| {
            Box::new(FileError {
                message,
                source_code: NamedSource::new(path.display().to_string(), text.clone()).with_language("SQL"),
                span: (at, len).into(),
                label: label.to_owned(),
                help: help.map(str::to_owned),
            })
        };
        let begin = text.len() - text.trim_start().len();
        if !text[begin..].starts_with(OPEN) {
            return Err(fail(
                "the file does not begin with its metadata".to_owned(),
                begin,
                0,
                "expected `/*---` here",
                Some("begin the file with /*--- name: …, grain: [...] … ---*/ ; see pipelines/mrr_daily.sql"),
            ));
        }
        let yaml_at = begin + OPEN.len();
        let Some(yaml_len) = text[yaml_at..].find(CLOSE) else {
            return Err(fail(
                "the metadata has no end".to_owned(),
                begin,
                OPEN.len(),
                "this comment is never closed by `---*/`",
                None,
            ));
        };
        let yaml = &text[yaml_at..yaml_at + yaml_len];
        let metadata: Metadata = serde_yaml_ng::from_str(yaml).map_err(|error| {
            let at = error.location().map_or(0, |l| l.index().min(yaml.len().saturating_sub(1)));
            fail(format!("the metadata is not right: {error}"), yaml_at + at, 1, "here", None)
        })?;
        let locate = |word: &str| text.find(word).map_or((yaml_at, 1), |at| (at, word.len()));
        if path.file_stem().and_then(|s| s.to_str()) != Some(metadata.name.as_str()) {
            let (at, len) = locate(&metadata.name);
            return Err(fail(
                format!("the pipeline `{}` is in a file of another name", metadata.name),
                at,
                len,
                "must be the file's name",
                Some("a pipeline `x` lives in `x.sql`"),
            ));
        }
        if metadata.grain.get(..2).is_none_or(|scope| scope != ["account", "livemode"]) {
            let (at, len) = locate("grain:");
            return Err(fail(
                "the grain does not begin with account, livemode".to_owned(),
                at,
                len,
                "this grain",
                Some("accounts and modes are never mixed: write grain: [account, livemode, …]"),
            ));
        }
        if metadata.schedule.is_some() && (metadata.emit != Emit::OnUpdate || metadata.mode != Mode::Upsert) {
            let (at, len) = locate("schedule:");
            return Err(fail(
                "what runs on a schedule replaces its rows with every run".to_owned(),
                at,
                len,
                "this schedule",
                Some("write mode: upsert, and leave emit out"),
            ));
        }
        if metadata.parameters.contains_key(AS_OF) {
            let (at, len) = locate("as_of:");
            return Err(fail(
                "`as_of` is no name for a parameter".to_owned(),
                at,
                len,
                "this parameter",
                Some("$as_of is the boundary of the schedule at which a query runs"),
            ));
        }
        for (name, parameter) in &metadata.parameters {
            if parameter.r#type.read(&parameter.default).is_none() {
                let (at, len) = locate(&format!("{name}:"));
                return Err(fail(
                    format!("the default of `{name}` is not a {:?}", parameter.r#type).to_lowercase(),
                    at,
                    len,
                    "this parameter",
                    None,
                ));
            }
        }
        Ok(Self { path: path.to_owned(), metadata, text })
    }

    /// Reads every `*.sql` of a directory, in the order of their names.
    ///
    /// # Errors
    /// The first file that cannot be read or is not right.
    pub fn load_dir(dir: &Path) -> Result<Vec<Self>, LoadError> {
        let mut paths = fs::read_dir(dir)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
            .map_err(|source| LoadError::Io { path: dir.to_owned(), source })?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "sql"));
        if paths.is_empty() {
            return Err(LoadError::Empty { path: dir.to_owned() });
        }
        paths.sort();
        paths
            .into_iter()
            .map(|path| {
                let text = fs::read_to_string(&path).map_err(|source| LoadError::Io { path: path.clone(), source })?;
                Ok(Self::parse(&path, text)?)
            })
            .collect()
    }

    /// The last boundary of its schedule, if it has one, when the log's clock stands at an instant.
    #[must_use]
    pub fn boundary(&self, clock: Option<(i64, Tz)>) -> Option<i64> {
        let (micros, zone) = clock?;
        boundary(self.metadata.schedule?, micros, zone)
    }

    /// The values of all parameters: what `given` says, else the setting, else the default.
    ///
    /// # Errors
    /// A [`FileError`] for a value that is not of the parameter's type, or a name that is no parameter.
    pub fn parameters(
        &self,
        given: &BTreeMap<String, String>,
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, ScalarValue)>, Box<FileError>> {
        if let Some(unknown) = given.keys().find(|name| !self.metadata.parameters.contains_key(*name)) {
            return Err(self.error(
                format!("`{}` has no parameter `{unknown}`", self.metadata.name),
                "parameters:",
                "these are its parameters",
                Some("remove it from tributary.toml, or declare it in the file"),
            ));
        }
        self.metadata
            .parameters
            .iter()
            .map(|(name, parameter)| {
                let setting = parameter.setting.as_ref().and_then(|setting| settings.get(setting));
                let text = given.get(name).or(setting).unwrap_or(&parameter.default);
                let value = parameter.r#type.read(text).ok_or_else(|| {
                    self.error(
                        format!("`{text}` is not a value for `{name}`"),
                        &format!("{name}:"),
                        "declared here",
                        Some("correct the value in tributary.toml"),
                    )
                })?;
                Ok((name.clone(), value))
            })
            .collect()
    }

    /// An error that points at the first place where `needle` stands in the SQL (or, failing that, the metadata).
    #[must_use]
    pub fn error(&self, message: String, needle: &str, label: &str, help: Option<&str>) -> Box<FileError> {
        let sql_at = self.text.find(CLOSE).map_or(0, |at| at + CLOSE.len());
        let lower = self.text.to_lowercase();
        let needle_lower = needle.to_lowercase();
        let at = lower[sql_at..].find(&needle_lower).map(|at| at + sql_at).or_else(|| lower.find(&needle_lower));
        let span = match at {
            Some(at) if lower.len() == self.text.len() => (at, needle.len()),
            _ => (sql_at, 0),
        };
        Box::new(FileError {
            message,
            source_code: NamedSource::new(self.path.display().to_string(), self.text.clone()).with_language("SQL"),
            span: span.into(),
            label: label.to_owned(),
            help: help.map(str::to_owned),
        })
    }

    /// An error at a line and column of the SQL, both from 1.
    #[must_use]
    pub fn error_at(&self, message: String, line: u64, column: u64, help: Option<&str>) -> Box<FileError> {
        let line_start: usize =
            self.text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
        let offset = line_start
            + self.text[line_start..]
                .chars()
                .take(column.saturating_sub(1) as usize)
                .map(char::len_utf8)
                .sum::<usize>();
        Box::new(FileError {
            message,
            source_code: NamedSource::new(self.path.display().to_string(), self.text.clone()).with_language("SQL"),
            span: (offset.min(self.text.len()), 0).into(),
            label: "here".to_owned(),
            help: help.map(str::to_owned),
        })
    }
}

/// Why a directory of pipelines could not be loaded.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum LoadError {
    /// The directory or a file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are none.
    #[error("there is no pipeline (*.sql) in {path}; name another directory with pipelines.dir")]
    Empty {
        /// Where.
        path: PathBuf,
    },
    /// A file is not right.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] Box<FileError>),
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "/*---\nname: x\ndescription: d\nowner: o\nmode: upsert\ngrain: [account, livemode, id]\n\
        time_column: t\nparameters:\n  p: { type: decimal, default: \"1.5\", description: d }\n\
        columns:\n  id: { description: i, tests: [not_null] }\n---*/\nSELECT 1";

    fn parse(text: &str) -> Result<PipelineFile, Box<FileError>> {
        PipelineFile::parse(Path::new("x.sql"), text.to_owned())
    }

    #[test]
    fn a_parameter_takes_what_is_given_then_the_setting_then_the_default() {
        let text = GOOD.replace("default: \"1.5\",", "default: \"1.5\", setting: s.t,");
        let file = parse(&text).unwrap();
        let some = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        let value = |given, settings| file.parameters(&given, &settings).unwrap()[0].1.to_string();
        assert_eq!(value(some("p", "3"), some("s.t", "2")), value(some("p", "3.0"), BTreeMap::new()));
        assert_eq!(value(BTreeMap::new(), some("s.t", "2")), value(some("p", "2.0"), BTreeMap::new()));
        assert_eq!(value(BTreeMap::new(), BTreeMap::new()), value(some("p", "1.500"), BTreeMap::new()));
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        for (text, message) in [
            ("SELECT 1".to_owned(), "does not begin with its metadata"),
            (GOOD.replace("---*/", "*/"), "has no end"),
            (GOOD.replace("name: x", "name: y"), "file of another name"),
            (GOOD.replace("[account, livemode, id]", "[id]"), "grain does not begin"),
            (GOOD.replace("\"1.5\"", "\"1,5\""), "not a decimal"),
            (GOOD.replace("owner: o", "owners: o"), "metadata is not right"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
