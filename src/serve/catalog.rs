//! The tables as people may query them: read-only, live mode and test mode apart.
//!
//! The schema `public` shows every table's live-mode rows and `test` its test-mode rows, so that no sum mixes them.
//! Only queries are planned here, and none can name a file or an object store: only tables read those. Instants are
//! UTC. `pg_catalog` and `information_schema` describe the tables to clients, with their comments.

use std::{borrow::Cow, fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{MemorySchemaProvider, Session},
    common::TableReference,
    datasource::{TableProvider, TableType, ViewTable, provider_as_source},
    error::{DataFusionError, Result as PlanResult},
    execution::{
        SessionStateBuilder,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::GreedyMemoryPool,
        runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableProviderFilterPushDown, col, lit},
    physical_plan::ExecutionPlan,
    prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext},
    sql::{parser::Statement, sqlparser::ast},
};
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::{context::EmptyContextProvider, setup_pg_catalog};

use super::{
    Error, comments,
    views::{self, View},
};
use crate::stream::windows;

/// The database name clients see.
pub const DATABASE: &str = "tributary";
/// Schema of live-mode rows, and the one unqualified names mean.
pub const LIVE_SCHEMA: &str = "public";
/// Schema of test-mode rows.
pub const TEST_SCHEMA: &str = "test";
/// The column that tells the modes apart; every table has it.
pub const MODE_COLUMN: &str = "livemode";

/// Memory all queries together may use for sorting, grouping and joining, in bytes. Beyond it a query fails with a
/// message; nothing is spilled to disk, so that rows stay where the tables are.
pub const QUERY_MEMORY_BYTES: usize = 512 << 20;

/// A table to show, with what is said about it.
#[derive(Debug, Clone)]
pub struct UserTable {
    /// Its name, the same in both schemas.
    pub name: String,
    /// Its rows of both modes; a [`super::LiveTable`] where the newest are in memory.
    pub provider: Arc<dyn TableProvider>,
    /// What a row of it is.
    pub comment: Option<String>,
    /// Column names and what they mean.
    pub column_comments: Vec<(String, String)>,
}

impl UserTable {
    /// A table without comments.
    #[must_use]
    pub fn new(name: impl Into<String>, provider: Arc<dyn TableProvider>) -> Self {
        Self { name: name.into(), provider, comment: None, column_comments: Vec::new() }
    }
}

/// The read-only session that every query of a person runs in.
pub struct Catalog {
    context: Arc<SessionContext>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

impl Catalog {
    /// A catalog of `tables`, in which `functions` can be called.
    ///
    /// # Errors
    /// [`Error::Shape`] when a table has no `livemode`; [`Error::Query`] when two tables have one name.
    pub async fn new(tables: Vec<UserTable>, functions: Vec<ScalarUDF>) -> Result<Self, Error> {
        Self::with_views(tables, functions, &[]).await
    }

    /// A catalog of `tables` and of those of the `views` whose tables are among them.
    ///
    /// # Errors
    /// As [`Self::new`], and when a view cannot be planned.
    pub async fn with_views(
        mut tables: Vec<UserTable>,
        functions: Vec<ScalarUDF>,
        views: &[View],
    ) -> Result<Self, Error> {
        let context = read_only_context()?;
        let database = context
            .catalog(DATABASE)
            .ok_or_else(|| DataFusionError::Internal(format!("no catalog {DATABASE} in a new session")))?;
        database.register_schema(TEST_SCHEMA, Arc::new(MemorySchemaProvider::new()))?;
        for table in &tables {
            for (schema, live) in [(LIVE_SCHEMA, true), (TEST_SCHEMA, false)] {
                let rows = OneMode::of(table, live)?;
                context.register_table(TableReference::partial(schema, table.name.as_str()), Arc::new(rows))?;
            }
        }
        for function in functions {
            context.register_udf(function);
        }
        windows::register(&context)?;
        tables.extend(views::register(&context, &database, &[LIVE_SCHEMA, TEST_SCHEMA], views).await?);
        setup_pg_catalog(&context, DATABASE, EmptyContextProvider).map_err(|error| *error)?;
        comments::describe(&context, &database, &tables).await?;
        Ok(Self { context: Arc::new(context) })
    }

    /// Shows `tables`, in the place of those of their names, and no longer those that are `gone`. Queries that run go on
    /// with what they have planned.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn update(&self, tables: &[UserTable], gone: &[String]) -> Result<(), Error> {
        for (schema, live) in [(LIVE_SCHEMA, true), (TEST_SCHEMA, false)] {
            for name in gone {
                self.context.deregister_table(TableReference::partial(schema, name.as_str()))?;
            }
            for table in tables {
                let rows = Arc::new(OneMode::of(table, live)?);
                self.context.deregister_table(TableReference::partial(schema, table.name.as_str()))?;
                self.context.register_table(TableReference::partial(schema, table.name.as_str()), rows)?;
            }
        }
        Ok(())
    }

    /// Plans one query; it runs when its rows are asked for.
    ///
    /// # Errors
    /// [`Error::NotReadOnly`] for anything but a query; [`Error::Query`] when it is wrong.
    pub async fn sql(&self, sql: &str) -> Result<DataFrame, Error> {
        let state = self.context.state();
        let dialect = state.config_options().sql_parser.dialect;
        let plan = self.checked(state.statement_to_plan(state.sql_to_statement(sql, &dialect)?).await?)?;
        Ok(self.context.execute_logical_plan(plan).await?)
    }

    /// The plan of a parsed statement.
    ///
    /// # Errors
    /// As [`Self::sql`].
    pub(super) async fn plan(&self, statement: &ast::Statement) -> Result<LogicalPlan, Error> {
        let statement = Statement::Statement(Box::new(statement.clone()));
        self.checked(self.context.state().statement_to_plan(statement).await?)
    }

    /// The session, for the wire protocol. Its owner must let nothing reach it that [`Self::plan`] would refuse.
    pub(super) fn context(&self) -> &Arc<SessionContext> {
        &self.context
    }

    fn checked(&self, plan: LogicalPlan) -> Result<LogicalPlan, Error> {
        let queries_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        match queries_only.verify_plan(&plan) {
            Ok(()) => Ok(plan),
            Err(DataFusionError::Plan(refused)) => Err(Error::NotReadOnly(refused)),
            Err(error) => Err(error.into()),
        }
    }
}

fn read_only_context() -> Result<SessionContext, Error> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, LIVE_SCHEMA)
        .with_create_default_catalog_and_schema(true)
        .with_information_schema(true);
    let options = config.options_mut();
    options.execution.time_zone = Some("UTC".into());
    options.set("datafusion.sql_parser.dialect", "PostgreSQL")?;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(QUERY_MEMORY_BYTES)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    let state =
        SessionStateBuilder::new().with_default_features().with_config(config).with_runtime_env(runtime).build();
    Ok(SessionContext::new_with_state(state))
}

/// The rows of one mode of a table. A view, except that clients list it among the tables.
#[derive(Debug)]
struct OneMode(ViewTable);

impl OneMode {
    fn of(table: &UserTable, live: bool) -> Result<Self, Error> {
        if table.provider.schema().column_with_name(MODE_COLUMN).is_none() {
            return Err(Error::Shape(format!("table {} has no column {MODE_COLUMN}", table.name)));
        }
        let rows = provider_as_source(Arc::clone(&table.provider));
        let plan = LogicalPlanBuilder::scan(table.name.as_str(), rows, None)?
            .filter(col(MODE_COLUMN).eq(lit(live)))?
            .build()?;
        Ok(Self(ViewTable::new(plan, None)))
    }
}

#[async_trait]
impl TableProvider for OneMode {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.0.get_logical_plan()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> PlanResult<Vec<TableProviderFilterPushDown>> {
        self.0.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.0.scan(session, projection, filters, limit).await
    }
}
