//! The states that blobs keep, as bytes: buckets of the ledger in files of some, rows of pipelines as Arrow.

use std::io::Cursor;

use arrow::{
    array::RecordBatch,
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use bytes::Bytes;

use super::Error;

/// What the names of the ledger's files begin with.
const LEDGER: &str = "ledger-";

/// The name of a file of the ledger.
pub(super) fn ledger_file(number: usize) -> String {
    format!("{LEDGER}{number:02}")
}

/// Whether a state is a file of the ledger.
pub(super) fn is_ledger_file(name: &str) -> bool {
    name.starts_with(LEDGER)
}

/// The names of a pipeline's state: that of its class, and the rows that it holds until their windows close.
pub(super) fn pipeline_state(name: &str) -> [String; 2] {
    [format!("pipeline-{name}"), format!("held-{name}")]
}

/// Whether a state is one of a pipeline.
pub(super) fn is_of_pipeline(name: &str) -> bool {
    name.starts_with("pipeline-") || name.starts_with("held-")
}

/// Buckets as a file.
pub(super) fn to_file<B: AsRef<[u8]>>(buckets: &[(u8, B)]) -> Result<Bytes, Error> {
    let buckets: Vec<(u8, &[u8])> = buckets.iter().map(|(bucket, bytes)| (*bucket, bytes.as_ref())).collect();
    Ok(postcard::to_stdvec(&buckets).map_err(|error| Error::Internal(error.to_string()))?.into())
}

/// The buckets of a file.
pub(super) fn from_file(file: &[u8]) -> Result<Vec<(u8, &[u8])>, Error> {
    postcard::from_bytes(file).map_err(|error| Error::Internal(format!("a file of the ledger: {error}")))
}

/// A batch as an IPC stream.
pub(super) fn to_ipc(batch: &RecordBatch) -> Result<Bytes, Error> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// The batches of an IPC stream.
pub(super) fn from_ipc(bytes: Bytes) -> Result<Vec<RecordBatch>, Error> {
    Ok(StreamReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?)
}
