//! Reading a Delta table with whatever session a query runs in.
//!
//! A scan names its files by URL and finds their store in the session. Sessions know the stores of files; that of a
//! bucket is told to them here, where the scan is planned, so that nobody who reads a table needs to think of it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::Result,
    datasource::TableType,
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_plan::ExecutionPlan,
};
use deltalake::delta_datafusion::DeltaScanNext;

/// One snapshot of a table.
#[derive(Debug)]
pub(super) struct Scan {
    inner: DeltaScanNext,
    /// Not loaded: it knows the store.
    table: deltalake::DeltaTable,
}

impl Scan {
    pub(super) fn new(inner: DeltaScanNext, table: &deltalake::DeltaTable) -> Self {
        Self { inner, table: deltalake::DeltaTable::new(table.log_store()) }
    }
}

#[async_trait]
impl TableProvider for Scan {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn table_type(&self) -> TableType {
        self.inner.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.inner.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.table.update_datafusion_session(session)?;
        self.inner.scan(session, projection, filters, limit).await
    }
}
