//! All pipelines together: each is planned over the engine's relations and the outputs of the pipelines it reads.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{
    execution::context::SessionContext,
    sql::parser::{DFParser, Statement},
};

use super::{
    class::Relation,
    file::{FileError, Mode, PipelineFile},
    pipeline::Pipeline,
    windows,
};
use crate::tables::{self, Source};

/// Plans every file, and returns the pipelines in an order in which each comes after those it reads.
///
/// `given` holds parameters by pipeline, `settings` the values that parameters with a `setting` take.
///
/// # Errors
/// The first file that is not right, or that takes part in a circle.
pub async fn plan_all(
    files: Vec<PipelineFile>,
    relations: &BTreeMap<String, Relation>,
    given: &BTreeMap<String, BTreeMap<String, String>>,
    settings: &BTreeMap<String, String>,
) -> Result<Vec<Pipeline>, Box<FileError>> {
    let mut relations = relations.clone();
    let names: BTreeSet<String> = files.iter().map(|file| file.metadata.name.clone()).collect();
    let is_other = |name: &str| tables::get(name).is_ok_and(|table| table.source != Source::Pipeline);
    let is_taken = |name: &str| relations.contains_key(name) || is_other(name);
    if let Some(file) = files.iter().find(|file| is_taken(&file.metadata.name)) {
        let message = format!("`{}` is a table of the engine", file.metadata.name);
        return Err(file.error(message, "name:", "this name", Some("choose another name")));
    }
    let mut waiting: Vec<(PipelineFile, BTreeSet<String>)> = Vec::new();
    for file in files {
        let reads = tables_in(&file).intersection(&names).cloned().collect();
        waiting.push((file, reads));
    }
    let none = BTreeMap::new();
    let mut planned: Vec<Pipeline> = Vec::new();
    while !waiting.is_empty() {
        let ready = waiting.iter().position(|(_, reads)| reads.iter().all(|name| relations.contains_key(name)));
        let Some(ready) = ready else {
            let (file, reads) = &waiting[0];
            let circle = reads.iter().next().cloned().unwrap_or_default();
            let message = format!("`{}` reads itself by way of `{circle}`", file.metadata.name);
            return Err(file.error(message, &circle, "here", Some("pipelines cannot read in a circle")));
        };
        let (file, _) = waiting.remove(ready);
        let parameters = file.parameters(given.get(&file.metadata.name).unwrap_or(&none), settings)?;
        let appended = file.metadata.mode == Mode::Append;
        let pipeline = Pipeline::plan(file, parameters, &relations).await?;
        let relation = Relation { schema: pipeline.schema().clone(), appended, small: false };
        relations.insert(pipeline.name().to_owned(), relation);
        planned.push(pipeline);
    }
    Ok(planned)
}

/// Of all files, that of `name` and those it reads, directly or not; none when there is no such pipeline.
#[must_use]
pub fn upstream(files: &[PipelineFile], name: &str) -> Vec<PipelineFile> {
    let mut wanted = vec![name.to_owned()];
    let mut found: Vec<PipelineFile> = Vec::new();
    while let Some(name) = wanted.pop() {
        if found.iter().any(|file| file.metadata.name == name) {
            continue;
        }
        if let Some(file) = files.iter().find(|file| file.metadata.name == name) {
            wanted.extend(tables_in(file));
            found.push(file.clone());
        }
    }
    found
}

/// The names of the tables a file reads; none for SQL that does not parse, which planning will point out.
fn tables_in(file: &PipelineFile) -> BTreeSet<String> {
    let Ok(mut statements) = DFParser::parse_sql(&file.text) else { return BTreeSet::new() };
    let Some(statement) = statements.pop_front() else { return BTreeSet::new() };
    let mut named: BTreeSet<String> = SessionContext::new()
        .state()
        .resolve_table_references(&statement)
        .map(|tables| tables.iter().map(|table| table.table().to_owned()).collect())
        .unwrap_or_default();
    if let Statement::Statement(statement) = &statement {
        named.extend(windows::tables_in(statement));
    }
    named
}
