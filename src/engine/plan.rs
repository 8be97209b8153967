//! What the files of pipelines, as they are now, mean for a data directory: what is new, changed or gone, which pipelines
//! are rebuilt, and how many rows that reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{catalog::TableProvider, prelude::SessionContext};

use super::{Error, FAILED, LEDGER_FINGERPRINT, PAUSED, Version, readers::committed_sources, recovery::relations};
use crate::{
    storage::Home,
    stream::{graph::plan_all, pipeline::Pipeline},
    tables::type_word,
};

/// Why a pipeline is where it is in a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Its table is as the file says.
    Same,
    /// There is no table yet.
    New,
    /// The SQL, a parameter, or the program is another one.
    Changed,
    /// It reads a pipeline that is rebuilt.
    Downstream(String),
    /// It had failed.
    Failed,
    /// It is paused, and stays so.
    Paused,
    /// There is no file any more; its table is not shown.
    Removed,
}

impl Standing {
    /// Whether the pipeline is rebuilt.
    #[must_use]
    pub fn rebuilds(&self) -> bool {
        matches!(self, Self::New | Self::Changed | Self::Downstream(_) | Self::Failed)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::New => f.write_str("new"),
            Self::Changed => f.write_str("changed"),
            Self::Downstream(of) => write!(f, "reads {of}"),
            Self::Failed => f.write_str("failed"),
            Self::Paused => f.write_str("paused"),
            Self::Removed => f.write_str("removed"),
        }
    }
}

/// What becomes of one pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The pipeline.
    pub name: String,
    /// What there is to it.
    pub standing: Standing,
    /// How it is maintained; nothing for one that is gone.
    pub class: Option<&'static str>,
    /// How its columns differ from those of its table, such as `+cause text`. When they do, the table is made anew.
    pub columns: Vec<String>,
    /// The rows that its rebuild reads.
    pub reads: usize,
}

/// What `version` means for a data directory, pipelines that others read first. Before the first checkpoint everything is
/// new.
///
/// # Errors
/// When a file is not right, or tables cannot be read.
pub async fn plan(home: &Home, version: &Version, settings: &BTreeMap<String, String>) -> Result<Vec<Step>, Error> {
    let planned = plan_all(version.pipelines.clone(), &relations()?, &version.parameters, settings).await?;
    let committed = committed_sources(home).await?;
    let (fingerprints, tables) = committed.map(|(m, tables)| (m.fingerprints, tables)).unwrap_or_default();
    let mut steps = Vec::new();
    let mut rebuilt: BTreeSet<String> = BTreeSet::new();
    for pipeline in &planned {
        let name = pipeline.name().to_owned();
        let table = tables.get(&name).map(|table| table.schema());
        let columns = table.map_or_else(Vec::new, |table| columns(&table, pipeline.schema()));
        let standing = standing(pipeline, fingerprints.get(&name).map(String::as_str), &rebuilt, !columns.is_empty());
        let mut reads = 0;
        if standing.rebuilds() {
            rebuilt.insert(name.clone());
            for table in pipeline.sources().iter().filter_map(|source| tables.get(source)) {
                reads += count(table).await?;
            }
        }
        steps.push(Step { name, standing, class: Some(pipeline.explain().class), columns, reads });
    }
    let gone = fingerprints
        .keys()
        .filter(|name| *name != LEDGER_FINGERPRINT && !planned.iter().any(|pipeline| pipeline.name() == name.as_str()));
    steps.extend(gone.map(|name| Step {
        name: name.clone(),
        standing: Standing::Removed,
        class: None,
        columns: Vec::new(),
        reads: 0,
    }));
    Ok(steps)
}

fn standing(pipeline: &Pipeline, known: Option<&str>, rebuilt: &BTreeSet<String>, other_columns: bool) -> Standing {
    match known {
        None => Standing::New,
        Some(PAUSED) if !other_columns => Standing::Paused,
        Some(FAILED) => Standing::Failed,
        Some(known) if known != pipeline.fingerprint() => Standing::Changed,
        Some(_) => match pipeline.sources().iter().find(|source| rebuilt.contains(*source)) {
            Some(source) => Standing::Downstream(source.clone()),
            None => Standing::Same,
        },
    }
}

/// How the columns of a pipeline differ from those of its table.
fn columns(table: &SchemaRef, pipeline: &SchemaRef) -> Vec<String> {
    let described = |schema: &SchemaRef| -> BTreeMap<String, String> {
        schema.fields().iter().map(|field| (field.name().clone(), type_word(field.data_type()))).collect()
    };
    let (old, new) = (described(table), described(pipeline));
    let gone = old.iter().filter(|(name, word)| new.get(*name) != Some(*word)).map(|(n, word)| format!("-{n} {word}"));
    let come = new.iter().filter(|(name, word)| old.get(*name) != Some(*word)).map(|(n, word)| format!("+{n} {word}"));
    gone.chain(come).collect()
}

async fn count(table: &Arc<dyn TableProvider>) -> Result<usize, Error> {
    Ok(SessionContext::new().read_table(Arc::clone(table))?.count().await?)
}
