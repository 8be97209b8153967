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

/// The buckets of a file; one may be there again with what changed.
pub(super) fn from_file(file: &[u8]) -> Result<Vec<(u8, &[u8])>, Error> {
    postcard::from_bytes(file).map_err(|error| Error::Internal(format!("a file of the ledger: {error}")))
}

/// Batches of one schema as an IPC stream.
pub(super) fn to_ipc(batches: &[RecordBatch]) -> Result<Bytes, Error> {
    let Some(first) = batches.first() else { return Err(Error::Internal("a state has no rows".to_owned())) };
    let mut writer = StreamWriter::try_new(Vec::new(), &first.schema())?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    Ok(writer.into_inner()?.into())
}

/// The batches of an IPC stream.
pub(super) fn from_ipc(bytes: Bytes) -> Result<Vec<RecordBatch>, Error> {
    Ok(StreamReader::try_new(Cursor::new(bytes), None)?.collect::<Result<_, _>>()?)
}

/// What changed of a state, in one blob instead of some.
pub(super) fn merged(name: &str, changes: Vec<Bytes>) -> Result<Bytes, Error> {
    if is_ledger_file(name) {
        let mut buckets = Vec::new();
        for file in &changes {
            buckets.extend(from_file(file)?);
        }
        return to_file(&buckets);
    }
    let mut batches = Vec::new();
    for bytes in changes {
        batches.extend(from_ipc(bytes)?);
    }
    to_ipc(&batches)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn changes_in_one_blob_are_the_same_changes_in_the_same_order() {
        let files = [to_file(&[(1, "a"), (2, "b")]).unwrap(), to_file(&[(1, "c")]).unwrap()];
        let file = merged(&ledger_file(0), files.to_vec()).unwrap();
        assert_eq!(from_file(&file).unwrap(), [(1, &b"a"[..]), (2, &b"b"[..]), (1, &b"c"[..])]);
        // As ledgers were written before.
        let owned = vec![(1_u8, b"a".to_vec()), (2, b"b".to_vec())];
        assert_eq!(postcard::to_stdvec(&owned).unwrap(), files[0]);

        let rows =
            |values: Vec<i64>| RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values)) as _)]).unwrap();
        let parts = [vec![rows(vec![1, 2])], vec![rows(vec![]), rows(vec![3])]];
        let parts = parts.iter().map(|batches| to_ipc(batches).unwrap()).collect();
        let again = from_ipc(merged(&pipeline_state("p")[0], parts).unwrap()).unwrap();
        let values = again.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec());
        assert_eq!(values.collect::<Vec<_>>(), [1, 2, 3]);
    }
}
