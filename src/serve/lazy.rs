//! A table whose rows are worked out when somebody first reads it, and then kept.

use std::{fmt, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use async_trait::async_trait;
use datafusion::{
    catalog::Session,
    datasource::{MemTable, TableProvider, TableType},
    error::Result,
    logical_expr::Expr,
    physical_plan::ExecutionPlan,
};
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

/// Works out the rows of a table.
pub type Make = Box<dyn Fn() -> BoxFuture<'static, Result<RecordBatch>> + Send + Sync>;

/// See the module's text.
pub struct LazyTable {
    name: String,
    schema: SchemaRef,
    make: Make,
    rows: OnceCell<Arc<MemTable>>,
}

impl LazyTable {
    /// A table of `schema` with the rows that `make` gives; `name` is for messages.
    pub fn new(name: impl Into<String>, schema: SchemaRef, make: Make) -> Self {
        Self { name: name.into(), schema, make, rows: OnceCell::new() }
    }

    async fn rows(&self) -> Result<&Arc<MemTable>> {
        let make = || async {
            let rows = (self.make)().await?;
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), rows.columns().to_vec())?;
            Ok(Arc::new(MemTable::try_new(Arc::clone(&self.schema), vec![vec![rows]])?))
        };
        self.rows.get_or_try_init(make).await
    }
}

impl fmt::Debug for LazyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyTable").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for LazyTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.rows().await?.scan(session, projection, filters, limit).await
    }
}
