//! Sidecar tests: a YAML file beside a pipeline that says which rows come in and which must come out.
//!
//! A test runs through the same maintained operators as the engine, epoch by epoch, and after each epoch every pipeline
//! it ran is compared with its SQL in batch; at the end the rows are compared with those expected. Nothing of the
//! configuration takes part, so a test says the same everywhere.

mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    compute::concat_batches,
    datatypes::{Field, Schema, SchemaRef},
};
use datafusion::{catalog::TableProvider, datasource::MemTable};
use serde::Deserialize;

use self::rows::{Row, given_rows, instant};
use super::{
    Relation, Tables, batch,
    calendar::zone_named,
    cells::{cells, named, shown, texts},
    closed_between,
    epoch::{Completeness, EpochEnd},
    file::{Emit, FileError, PipelineFile},
    graph::{plan_all, upstream},
    maintained::{Content, Maintained, needed},
    pipeline::{Pipeline, RowDelta, difference},
};
use crate::tables::{self, OP_COLUMN};

/// Why a test cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not right.
    #[error("{path} is not right: {message}; CONTRIBUTING.md shows how a test is written")]
    Yaml {
        /// Which.
        path: PathBuf,
        /// What is wrong with it, and where.
        message: String,
    },
    /// A test is not right.
    #[error("{path}, test `{test}`: {message}")]
    Test {
        /// Its file.
        path: PathBuf,
        /// Its name.
        test: String,
        /// What is wrong with it.
        message: String,
    },
    /// A pipeline's file is not right.
    #[error(transparent)]
    Pipeline(#[from] Box<FileError>),
}

/// A file of tests.
#[derive(Clone, Debug)]
pub struct Sidecar {
    /// Where it was read from.
    pub path: PathBuf,
    /// The pipeline that it tests.
    pub pipeline: String,
    /// Its tests.
    pub tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SidecarFile {
    pipeline: String,
    tests: Vec<Case>,
}

/// One test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it promises.
    pub name: String,
    /// Where the log ends: the instants of `log_clock` for every account and mode of which there are rows, and what
    /// windows close by.
    #[serde(default)]
    at_time: Option<AtTime>,
    /// Parameters of the pipeline by name; settings, such as `merchant.zone`, for those it reads too.
    #[serde(default)]
    params: BTreeMap<String, String>,
    /// One epoch after the other: for each table the rows that come in.
    given: Vec<BTreeMap<String, Vec<Row>>>,
    /// The rows at the end, in any order. All name the same columns.
    expect: Vec<Row>,
}

/// One instant for all epochs, or one for each of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum AtTime {
    Always(String),
    EachEpoch(Vec<String>),
}

impl AtTime {
    fn of(&self, epoch: usize) -> Option<&str> {
        match self {
            Self::Always(at) => Some(at),
            Self::EachEpoch(all) => all.get(epoch).map(String::as_str),
        }
    }
}

impl Sidecar {
    /// Reads one file.
    ///
    /// # Errors
    /// [`Error::Yaml`] with the place of the mistake.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let SidecarFile { pipeline, tests } = serde_yaml_ng::from_str(text)
            .map_err(|error| Error::Yaml { path: path.to_owned(), message: error.to_string() })?;
        Ok(Self { path: path.to_owned(), pipeline, tests })
    }

    /// Reads every `*.yml` of a directory, in the order of their names.
    ///
    /// # Errors
    /// The first file that cannot be read or is not right.
    pub fn load_dir(dir: &Path) -> Result<Vec<Self>, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| Error::Io { path, source }
        };
        let mut paths = fs::read_dir(dir)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
            .map_err(failed(dir))?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "yml"));
        paths.sort();
        paths.iter().map(|path| Self::parse(path, &fs::read_to_string(path).map_err(failed(path))?)).collect()
    }

    /// Runs one of its tests; what was found, a line each, is empty when all is as expected.
    ///
    /// # Errors
    /// When the test, or a pipeline's file, is not right.
    pub async fn run(
        &self,
        case: &Case,
        files: &[PipelineFile],
        relations: &BTreeMap<String, Relation>,
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Error> {
        let wrong = |message: String| Error::Test { path: self.path.clone(), test: case.name.clone(), message };
        let mut given = BTreeMap::new();
        let mut set = settings.clone();
        for (name, value) in &case.params {
            if !name.contains('.') {
                given.entry(self.pipeline.clone()).or_insert_with(BTreeMap::new).insert(name.clone(), value.clone());
            } else if set.insert(name.clone(), value.clone()).is_none() {
                return Err(wrong(format!("there is no setting `{name}` that parameters can refer to")));
            }
        }
        let files = upstream(files, &self.pipeline);
        if files.is_empty() {
            return Err(wrong(format!("there is no pipeline `{}`", self.pipeline)));
        }
        let planned = plan_all(files, relations, &given, &set).await?;
        let tables: BTreeSet<String> = case.given.iter().flat_map(BTreeMap::keys).cloned().collect();
        let mut bench = Bench::new(&self.pipeline, planned, &tables, relations).map_err(&wrong)?;
        if let Some(AtTime::EachEpoch(all)) = &case.at_time
            && all.len() != case.given.len()
        {
            let (times, epochs) = (all.len(), case.given.len());
            return Err(wrong(format!(
                "at_time has {times} instants for {epochs} epochs: give one for each, or one alone"
            )));
        }
        for (number, epoch) in case.given.iter().enumerate() {
            let at_time = case.at_time.as_ref().and_then(|at_time| at_time.of(number));
            let found = bench.epoch(epoch, at_time, &given, &set).await.map_err(&wrong)?;
            if !found.is_empty() {
                let epoch = number + 1;
                return Ok(found.into_iter().map(|line| format!("epoch {epoch}: {line}")).collect());
            }
        }
        bench.compare(&self.pipeline, &case.expect).map_err(wrong)
    }
}

/// The pipelines of one test, with the relations they read.
struct Bench {
    maintained: Maintained,
    relations: BTreeMap<String, Content>,
    schemas: BTreeMap<String, (SchemaRef, Vec<String>)>,
    clocks: BTreeMap<String, SchemaRef>,
    end: EpochEnd,
    scopes: BTreeSet<(String, String)>,
}

impl Bench {
    fn new(
        name: &str,
        planned: Vec<Pipeline>,
        given: &BTreeSet<String>,
        relations: &BTreeMap<String, Relation>,
    ) -> Result<Self, String> {
        if given.contains(name) {
            return Err(format!("`{name}` is what is tested; give rows of the tables that it reads"));
        }
        let of_pipelines: BTreeMap<String, (SchemaRef, Vec<String>)> = planned
            .iter()
            .map(|p| (p.name().to_owned(), (Arc::clone(p.schema()), p.file().metadata.grain.clone())))
            .collect();
        let run = needed(planned, name, given);
        let read: BTreeSet<String> = run.iter().flat_map(|pipeline| pipeline.sources().iter().cloned()).collect();
        if let Some(table) = given.iter().find(|table| !read.contains(*table)) {
            let there: Vec<&str> = read.iter().map(String::as_str).collect();
            return Err(format!("`{name}` does not read `{table}`; it reads {}", there.join(", ")));
        }
        let mut schemas = BTreeMap::new();
        let mut clocks = BTreeMap::new();
        for table in &read {
            let known = match (relations.get(table), of_pipelines.get(table)) {
                (Some(relation), _) => {
                    if relation.small {
                        clocks.insert(table.clone(), Arc::clone(&relation.schema));
                    }
                    let contract = tables::get(table).map_err(|error| error.to_string())?;
                    (Arc::clone(&relation.schema), contract.key.clone())
                }
                (None, Some(known)) if given.contains(table) => known.clone(),
                _ => continue,
            };
            schemas.insert(table.clone(), known);
        }
        let contents = schemas
            .iter()
            .map(|(table, (schema, key))| {
                let key = key.iter().filter_map(|column| schema.index_of(column).ok()).collect();
                let content = Content::new(Arc::clone(schema), key).map_err(|error| error.to_string())?;
                Ok((table.clone(), content))
            })
            .collect::<Result<_, String>>()?;
        let small = clocks.iter().map(|(name, schema)| (name.clone(), RecordBatch::new_empty(Arc::clone(schema))));
        Ok(Self {
            maintained: Maintained::new(run).map_err(|error| error.to_string())?,
            relations: contents,
            end: EpochEnd { small: small.collect(), ..EpochEnd::default() },
            schemas,
            clocks,
            scopes: BTreeSet::new(),
        })
    }

    /// Takes the rows of one epoch in; where what is maintained and what batch says differ.
    async fn epoch(
        &mut self,
        epoch: &BTreeMap<String, Vec<Row>>,
        at_time: Option<&str>,
        parameters: &BTreeMap<String, BTreeMap<String, String>>,
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, String> {
        let mut changed = BTreeMap::new();
        for (table, rows) in epoch {
            let delta = self.change(table, rows).map_err(|message| format!("{table}: {message}"))?;
            changed.insert(table.clone(), delta);
        }
        self.tick(at_time, &mut changed)?;
        let before = self.end.complete.clone();
        self.move_time(at_time, settings)?;
        for (table, delta) in &changed {
            if let Some(content) = self.relations.get_mut(table) {
                content.apply(delta).map_err(|error| error.to_string())?;
            }
        }
        let mut tables = Tables::new();
        for (name, content) in &self.relations {
            tables.insert(name.clone(), memory(content.batch().map_err(|error| error.to_string())?)?);
        }
        if let Err(failed) = self.maintained.advance(&mut changed, &self.end, &tables) {
            return Ok(vec![failed.to_string()]);
        }
        self.against_batch(parameters, settings, &before, tables).await
    }

    /// What rows as they are written change in a table.
    fn change(&mut self, table: &str, rows: &[Row]) -> Result<RowDelta, String> {
        let Some((schema, key)) = self.schemas.get(table) else { return Err("nothing reads it".to_owned()) };
        let text = |error: super::Error| error.to_string();
        let is_delete = |row: &Row| row.get(OP_COLUMN).is_some_and(|op| op.as_deref() == Some("-1"));
        let (deletes, puts): (Vec<Row>, Vec<Row>) = rows.iter().cloned().partition(is_delete);
        let puts = given_rows(schema, key, &puts)?;
        let deletes = given_rows(schema, key, &deletes)?;
        for batch in [&puts, &deletes] {
            let scope = |column| texts(batch.column(column)).map_err(|error| error.to_string());
            let (accounts, modes) = (scope(0)?, scope(1)?);
            self.scopes.extend(accounts.into_iter().flatten().zip(modes.into_iter().flatten()));
        }
        if key.is_empty() {
            if deletes.num_rows() > 0 {
                return Err("its rows are never removed; a correction is another row".to_owned());
            }
            return Ok(RowDelta { removed: deletes, added: puts });
        }
        let Some(content) = self.relations.get(table) else { return Err("nothing reads it".to_owned()) };
        let gone = content.with_keys_of(&deletes).map_err(text)?;
        if gone.num_rows() != deletes.num_rows() {
            return Err(format!("{OP_COLUMN}: -1 for a row that is not there"));
        }
        let replaced = content.with_keys_of(&puts).map_err(text)?;
        let removed = concat_batches(schema, [&replaced, &gone]).map_err(|error| error.to_string())?;
        Ok(RowDelta { removed, added: puts })
    }

    /// Sets the clock of the log, unless the test gives its rows itself.
    fn tick(&mut self, at_time: Option<&str>, changed: &mut BTreeMap<String, RowDelta>) -> Result<(), String> {
        for (name, schema) in &self.clocks {
            let before =
                self.end.small.get(name).cloned().unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)));
            let after = match (changed.get(name), at_time) {
                (Some(delta), _) => delta.added.clone(),
                (None, None) if before.num_rows() > 0 => continue,
                (None, None) => return Err(format!("it reads {name}: say with at_time where the log ends")),
                (None, Some(at)) => {
                    let columns = schema.fields().iter().skip(2);
                    let instants: Row = columns.map(|field| (field.name().clone(), Some(at.to_owned()))).collect();
                    let rows = self.scopes.iter().map(|(account, mode)| {
                        let mut row = instants.clone();
                        row.insert(schema.field(0).name().clone(), Some(account.clone()));
                        row.insert(schema.field(1).name().clone(), Some(mode.clone()));
                        row
                    });
                    given_rows(schema, &[], &rows.collect::<Vec<_>>())?
                }
            };
            let delta = difference(&before, &after, &[0, 1], name).map_err(|error| error.to_string())?;
            if !delta.is_empty() {
                changed.insert(name.clone(), delta);
            }
            self.end.small.insert(name.clone(), after);
        }
        Ok(())
    }

    /// Lets windows close that have ended where the log ends, and schedules run.
    fn move_time(&mut self, at_time: Option<&str>, settings: &BTreeMap<String, String>) -> Result<(), String> {
        let Some(pipeline) = self.maintained.pipelines().iter().find(|pipeline| pipeline.follows_time()) else {
            return Ok(());
        };
        let Some(at_time) = at_time else {
            return Err(format!("`{}` follows time: say with at_time where the log ends", pipeline.name()));
        };
        let at = instant(at_time)?;
        let zone = settings.get("merchant.zone").map_or("UTC", String::as_str);
        self.end.clock = Some((at, zone_named(zone)?));
        for (account, livemode) in &self.scopes {
            self.end.complete.advance(account, livemode == "true", at);
        }
        Ok(())
    }

    /// Where a pipeline's table is not what its SQL says in batch; of one that emits on close, in the rows of windows
    /// that were still open before the epoch.
    async fn against_batch(
        &self,
        parameters: &BTreeMap<String, BTreeMap<String, String>>,
        settings: &BTreeMap<String, String>,
        before: &Completeness,
        mut sources: Tables,
    ) -> Result<Vec<String>, String> {
        let none = BTreeMap::new();
        for pipeline in self.maintained.pipelines() {
            let (name, file) = (pipeline.name(), pipeline.file());
            let given = parameters.get(name).unwrap_or(&none);
            let parameters = file.parameters(given, settings).map_err(|error| error.to_string())?;
            let actual = self.table(name)?;
            if pipeline.is_snapshot() {
                // It is batch itself, and stands still between two runs.
                sources.insert(name.to_owned(), memory(actual)?);
                continue;
            }
            let expected = batch::run(file, parameters, None, pipeline.schema(), &sources)
                .await
                .map_err(|error| format!("{name} in batch: {error}"))?;
            let closing = |rows: &RecordBatch| match file.metadata.emit {
                Emit::OnUpdate => Ok(rows.clone()),
                Emit::OnClose => closed_between(rows, before, &self.end.complete).map_err(|error| error.to_string()),
            };
            let expected = closing(&expected)?;
            let columns: Vec<&str> = pipeline.schema().fields().iter().map(|field| field.name().as_str()).collect();
            let found = differences(&columns, &file.metadata.grain, &expected, &closing(&actual)?)?;
            if !found.is_empty() {
                let head =
                    format!("the maintained rows of {name} are not what its SQL says in batch, which is expected here");
                return Ok(std::iter::once(head).chain(found).collect());
            }
            sources.insert(name.to_owned(), memory(actual)?);
        }
        Ok(Vec::new())
    }

    fn table(&self, name: &str) -> Result<RecordBatch, String> {
        let content = self.maintained.table(name).ok_or_else(|| format!("there is no table of `{name}`"))?;
        content.batch().map_err(|error| error.to_string())
    }

    /// Where the rows of the pipeline are not those expected.
    fn compare(&self, name: &str, expect: &[Row]) -> Result<Vec<String>, String> {
        let actual = self.table(name)?;
        let schema = actual.schema();
        let wrong = |message: String| format!("expect: {message}");
        let columns: Vec<&str> = match expect.first() {
            None => schema.fields().iter().map(|field| field.name().as_str()).collect(),
            Some(first) => {
                if let Some(row) = expect.iter().position(|row| !row.keys().eq(first.keys())) {
                    let number = row + 1;
                    return Err(wrong(format!("row {number} names other columns than row 1; write null for no value")));
                }
                if let Some(unknown) = first.keys().find(|column| schema.index_of(column).is_err()) {
                    return Err(wrong(format!("`{name}` has no column `{unknown}`")));
                }
                schema.fields().iter().map(|f| f.name().as_str()).filter(|name| first.contains_key(*name)).collect()
            }
        };
        let fields: Vec<Field> = columns
            .iter()
            .map(|column| Ok(schema.field_with_name(column).map_err(|e| e.to_string())?.clone().with_nullable(true)))
            .collect::<Result<_, String>>()?;
        let narrow = Arc::new(Schema::new(fields));
        let expected = given_rows(&narrow, &[], expect).map_err(wrong)?;
        let grain = self.maintained.pipelines().iter().find(|p| p.name() == name).map(|p| &p.file().metadata.grain);
        let grain = grain.map_or(&[][..], Vec::as_slice);
        differences(&columns, grain, &expected, &actual)
    }
}

fn memory(rows: RecordBatch) -> Result<Arc<dyn TableProvider>, String> {
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(|error| error.to_string())?;
    Ok(Arc::new(table))
}

fn differences(
    columns: &[&str],
    grain: &[String],
    expected: &RecordBatch,
    actual: &RecordBatch,
) -> Result<Vec<String>, String> {
    let texts = |batch| cells(batch, columns).map_err(|error| error.to_string());
    Ok(compare(columns, grain, &texts(expected)?, &texts(actual)?))
}

/// Where two sets of rows differ. Rows that agree in those columns of the grain that are looked at are one row that
/// changed.
fn compare(
    columns: &[&str],
    grain: &[String],
    expected: &[Vec<Option<String>>],
    actual: &[Vec<Option<String>>],
) -> Vec<String> {
    let mut left: Vec<&Vec<Option<String>>> = actual.iter().collect();
    let mut missing = Vec::new();
    for row in expected {
        match left.iter().position(|other| *other == row) {
            Some(position) => {
                left.swap_remove(position);
            }
            None => missing.push(row),
        }
    }
    let key: Vec<usize> = (0..columns.len()).filter(|i| grain.iter().any(|name| name == columns[*i])).collect();
    let all: Vec<usize> = (0..columns.len()).collect();
    let mut lines = Vec::new();
    for row in missing {
        let twin = left.iter().position(|other| !key.is_empty() && key.iter().all(|i| other[*i] == row[*i]));
        let Some(twin) = twin else {
            lines.push(format!("missing: {}", named(columns, row, &all)));
            continue;
        };
        let twin = left.swap_remove(twin);
        let cells = all.iter().filter(|i| row[**i] != twin[**i]);
        let cells: Vec<String> =
            cells.map(|i| format!("{} expected {}, was {}", columns[*i], shown(&row[*i]), shown(&twin[*i]))).collect();
        lines.push(format!("{}: {}", named(columns, row, &key), cells.join("; ")));
    }
    lines.extend(left.into_iter().map(|row| format!("not expected: {}", named(columns, row, &all))));
    lines.sort();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[Option<&str>]) -> Vec<Option<String>> {
        cells.iter().map(|cell| cell.map(str::to_owned)).collect()
    }

    #[test]
    fn a_difference_names_the_row_by_its_key_and_both_values() {
        let grain = ["account".to_owned(), "day".to_owned()];
        let expected = [row(&[Some("1"), Some("10")]), row(&[Some("2"), None]), row(&[Some("2"), None])];
        let actual = [row(&[Some("2"), None]), row(&[Some("1"), Some("9")]), row(&[Some("3"), Some("5")])];
        assert_eq!(
            compare(&["day", "closing"], &grain, &expected, &actual),
            [
                "day = 1: closing expected 10, was 9",
                "missing: day = 2, closing = null",
                "not expected: day = 3, closing = 5"
            ],
            "rows are counted, not only looked for"
        );
        assert_eq!(compare(&["closing"], &grain, &[row(&[Some("1")])], &[row(&[Some("2")])]).len(), 2);
    }
}
