//! The queries of `corpus.sql`, how they are planned, and what docs/queries.md says of them.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use miette::Diagnostic;
use tributary::stream::{Relation, file::PipelineFile, pipeline::Pipeline};

use super::{answers::Batch, history};

/// A query under its name.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) name: String,
    /// What it stands under in the document.
    pub(super) section: String,
    /// The columns that identify a row, after account and mode.
    pub(super) grain: Vec<String>,
    /// When its rows are emitted, or when it is run, as the metadata says it; mostly nothing.
    pub(super) when: String,
    pub(super) sql: String,
}

/// Those that are maintained, and why the others are not.
pub(super) struct Planned {
    pub(super) pipelines: Vec<Pipeline>,
    /// By name: reason and hint.
    refused: BTreeMap<String, (String, String)>,
}

pub(super) fn queries() -> Vec<Query> {
    let (mut queries, mut section) = (Vec::<Query>::new(), String::new());
    for line in include_str!("corpus.sql").lines() {
        if let Some(title) = line.strip_prefix("-- # ") {
            title.clone_into(&mut section);
        } else if let Some((name, grain, when)) =
            line.strip_prefix("-- ").filter(|_| !section.is_empty()).and_then(headed)
        {
            let grain = grain.split(", ").filter(|column| !column.is_empty()).map(str::to_owned).collect();
            let (name, section, when) = (name.to_owned(), section.clone(), when.trim().to_owned());
            queries.push(Query { name, section, grain, when, sql: String::new() });
        } else if let Some(query) = queries.last_mut().filter(|_| !line.is_empty()) {
            query.sql += line;
            query.sql.push('\n');
        }
    }
    assert!(queries.len() >= 60, "the corpus has {} queries", queries.len());
    queries
}

/// The parts of `name [grain] when`.
fn headed(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once(" [")?;
    let (grain, when) = rest.split_once(']')?;
    Some((name, grain, when))
}

/// Plans every query over the relations and the answers of those before it.
pub(super) async fn plan(queries: &[Query]) -> Planned {
    let mut relations = history::relations();
    let batch = Batch::over(&history::Relations::default().tables());
    let mut planned = Planned { pipelines: Vec::new(), refused: BTreeMap::new() };
    for query in queries {
        let columns = batch.columns(&query.sql).await;
        let file = file(query, columns.as_deref().unwrap_or_default());
        match Pipeline::plan(file, Vec::new(), &relations).await {
            Ok(pipeline) => {
                let schema = pipeline.schema().clone();
                batch.register(&query.name, arrow::array::RecordBatch::new_empty(schema.clone()));
                relations.insert(query.name.clone(), Relation { schema, appended: false, small: false });
                planned.pipelines.push(pipeline);
            }
            Err(error) => {
                let hint = error.help().map(|help| help.to_string()).unwrap_or_default();
                planned.refused.insert(query.name.clone(), (error.to_string(), hint));
            }
        }
    }
    planned
}

fn file(query: &Query, columns: &[String]) -> PipelineFile {
    let described = columns.iter().filter(|column| !["account", "livemode"].contains(&column.as_str()));
    let described: Vec<String> = described.map(|column| format!("\"{column}\": {{ description: c }}")).collect();
    let grain = ["account", "livemode"].into_iter().chain(query.grain.iter().map(String::as_str)).collect::<Vec<_>>();
    let text = format!(
        "/*---\nname: {name}\ndescription: d\nowner: o\nmode: upsert\n{when}\ngrain: [{grain}]\ntime_column: account\n\
         columns: {{ {columns} }}\n---*/\n{sql}",
        name = query.name,
        when = query.when,
        grain = grain.join(", "),
        columns = described.join(", "),
        sql = query.sql,
    );
    PipelineFile::parse(Path::new(&format!("{}.sql", query.name)), text).unwrap()
}

/// What docs/queries.md has to say.
pub(super) fn document(queries: &[Query], planned: &Planned) -> String {
    let by_name: BTreeMap<&str, &Pipeline> = planned.pipelines.iter().map(|p| (p.name(), p)).collect();
    let mut text = format!(
        "# What SQL is maintained\n\n\
         A pipeline is any query below or of the shapes they show. {} queries are held equal to batch SQL after every \
         epoch, with late, doubled and disordered facts, and across restarts and crashes; {} are refused. \
         [ARCHITECTURE.md](../ARCHITECTURE.md#query-classes) says what the classes are. This page is written by the test \
         that runs the queries (`tests/it/oracle.rs`).\n",
        planned.pipelines.len(),
        planned.refused.len()
    );
    let mut section = "";
    for query in queries {
        if section != query.section {
            section = &query.section;
            writeln!(text, "\n## {section}").unwrap();
        }
        let when = if query.when.is_empty() { String::new() } else { format!("`{}`\n\n", query.when) };
        writeln!(text, "\n### {}\n\n{when}```sql\n{}```\n", query.name, query.sql).unwrap();
        match (by_name.get(query.name.as_str()), planned.refused.get(&query.name)) {
            (Some(pipeline), _) => {
                let explained = pipeline.explain();
                let on_close = explained.on_close.is_some();
                let released = if on_close { " A row is emitted once, when its window closes." } else { "" };
                writeln!(text, "*{}*: an epoch recomputes {}.{released}", explained.class, explained.recomputes)
                    .unwrap();
            }
            (_, Some((reason, hint))) => {
                let reason = reason.replace(&format!("`{}` cannot be maintained: ", query.name), "");
                let hint = if hint.is_empty() { String::new() } else { format!(" Instead: {hint}.") };
                writeln!(text, "**Refused**: {reason}.{hint}").unwrap();
            }
            (None, None) => unreachable!("every query is planned or refused"),
        }
    }
    text
}

/// Compares docs/queries.md with what it has to say, or writes it where `UPDATE_DOCS` is set.
pub(super) fn hold_document(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/queries.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(text.lines()).find(|(found, said)| found != said);
    assert!(found == text, "docs/queries.md is out of date at {differs:?}: UPDATE_DOCS=1 cargo test --test it oracle");
}
