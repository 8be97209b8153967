//! A pipeline's table under two versions of its file or its parameters, over the same tables of a data directory.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::RecordBatch;
use chrono_tz::Tz;

use super::{
    Error,
    readers::{Stored, committed_sources},
    recovery::relations,
};
use crate::{
    storage::Home,
    stream::{
        batch,
        file::PipelineFile,
        graph::{plan_all, upstream},
        versions::{self, Versions},
    },
};

/// Pipelines with their parameters.
#[derive(Clone, Debug)]
pub struct Version {
    /// The files.
    pub pipelines: Vec<PipelineFile>,
    /// Parameters by pipeline.
    pub parameters: BTreeMap<String, BTreeMap<String, String>>,
}

/// What pipeline `name` says under each version of the newest checkpoint's tables; those of the pipelines it reads are
/// taken as they are. One that emits on close is compared in all its windows, open ones too; one that runs on a schedule
/// as it would run at the last boundary of `zone` that the watermark has passed. `None` before the first checkpoint.
///
/// # Errors
/// When a version is not right, reads a table that has not been made, or fails on the rows.
pub async fn diff(
    home: &Home,
    name: &str,
    settings: &BTreeMap<String, String>,
    zone: Tz,
    before: &Version,
    after: &Version,
) -> Result<Option<Versions>, Error> {
    let Some((manifest, tables)) = committed_sources(home).await? else { return Ok(None) };
    let clock = manifest.watermark.map(|watermark| (watermark.micros(), zone));
    let (old, _) = rows(name, before, settings, clock, &tables).await?;
    let (new, grain) = rows(name, after, settings, clock, &tables).await?;
    let versions = versions::compare(&old, &new, &grain);
    versions.map(Some).map_err(|source| Error::PipelineFailed { name: name.to_owned(), source })
}

async fn rows(
    name: &str,
    version: &Version,
    settings: &BTreeMap<String, String>,
    clock: Option<(i64, Tz)>,
    tables: &Stored,
) -> Result<(RecordBatch, Vec<String>), Error> {
    let files = upstream(&version.pipelines, name);
    let planned = plan_all(files, &relations()?, &version.parameters, settings).await?;
    let pipeline = planned.iter().find(|pipeline| pipeline.name() == name);
    let pipeline = pipeline.ok_or_else(|| Error::NoPipeline(name.to_owned()))?;
    let none = BTreeMap::new();
    let parameters = pipeline.file().parameters(version.parameters.get(name).unwrap_or(&none), settings)?;
    let mut sources = Stored::new();
    for source in pipeline.sources() {
        let table = tables.get(source).ok_or_else(|| Error::NotMade(source.clone()))?;
        sources.insert(source.clone(), Arc::clone(table));
    }
    let as_of = pipeline.file().boundary(clock);
    let rows = batch::run(pipeline.file(), parameters, as_of, pipeline.schema(), &sources).await;
    let rows = rows.map_err(|source| Error::PipelineFailed { name: name.to_owned(), source })?;
    Ok((rows, pipeline.file().metadata.grain.clone()))
}
