//! Statements: which are allowed, how they run, how many rows they return.
//!
//! datafusion-postgres asks its hooks in turn. [`Guard`] comes first and decides by the kind of statement; a query is
//! planned and verified by the [`Catalog`] here, so no statement reaches the session by another way. What no hook knows
//! is refused.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::{
    common::{DFSchema, ParamValues},
    logical_expr::{EmptyRelation, LogicalPlan},
    prelude::SessionContext,
    sql::sqlparser::ast::{DiscardObject, FetchDirection, Reset, Statement, Value},
};
use datafusion_postgres::{
    DfSessionService, Parser, QueryHook,
    arrow_pg::datatypes::df::encode_dataframe,
    hooks::{HookClient, cursor::CursorStatementHook, transactions::TransactionStatementHook},
    pgwire::{
        api::{
            ClientInfo, ClientPortalStore,
            portal::{Format, Portal},
            query::{ExtendedQueryHandler, SimpleQueryHandler},
            results::{Response, Tag},
            store::PortalStore,
        },
        error::{PgWireError, PgWireResult},
        messages::{PgWireBackendMessage, response::TransactionStatus},
        types::format::FormatOptions,
    },
};
use futures::{Sink, StreamExt, stream};

use super::{
    settings,
    sqlstate::{self, LIMIT_EXCEEDED, NOT_SUPPORTED, READ_ONLY},
};
use crate::serve::Catalog;

/// What psql's `\d+` asks of a table and no query engine here can plan: its storage options, of which there are none.
const STORAGE_OPTIONS: &str = "pg_catalog.array_to_string(c.reloptions || \
    array(select 'toast.' || x from pg_catalog.unnest(tc.reloptions) x), ', ')";

/// A prepared statement: its text and, unless it is empty, what it was parsed and planned to.
pub(super) type Parsed = <DfSessionService as ExtendedQueryHandler>::Statement;

/// Runs the statements of all connections.
pub(super) struct Queries {
    service: DfSessionService,
    row_limit: usize,
}

impl Queries {
    pub(super) fn new(catalog: Arc<Catalog>, row_limit: usize) -> Self {
        let context = Arc::clone(catalog.context());
        let hooks: Vec<Arc<dyn QueryHook>> = vec![
            Arc::new(Guard { catalog: Arc::clone(&catalog), row_limit }),
            Arc::new(CursorStatementHook),
            Arc::new(TransactionStatementHook),
            Arc::new(Run { catalog }),
        ];
        Self { service: DfSessionService::new_with_hooks(context, hooks), row_limit }
    }

    /// `response`, ended with an error where it has more rows than allowed.
    fn bounded(&self, mut response: Response) -> Response {
        if let Response::Query(query) = &mut response {
            let limit = self.row_limit;
            let rows = std::mem::replace(&mut query.data_rows, Box::pin(stream::empty()));
            query.data_rows = Box::pin(rows.enumerate().map(
                move |(index, row)| {
                    if index < limit { row } else { Err(too_many(limit)) }
                },
            ));
        }
        response
    }
}

fn too_many(limit: usize) -> PgWireError {
    sqlstate::user(LIMIT_EXCEEDED, format!("the result has more than {limit} rows: aggregate, filter or add a LIMIT"))
}

#[async_trait]
impl SimpleQueryHandler for Queries {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let query = query.replace(STORAGE_OPTIONS, "''");
        let responses = SimpleQueryHandler::do_query(&self.service, client, &query).await;
        let responses = responses.map_err(|error| read_only_at_least(&query, error))?;
        Ok(responses.into_iter().map(|response| self.bounded(response)).collect())
    }
}

#[async_trait]
impl ExtendedQueryHandler for Queries {
    type Statement = Parsed;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        self.service.query_parser()
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Self::Statement>,
        max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: std::fmt::Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let response = ExtendedQueryHandler::do_query(&self.service, client, portal, max_rows).await?;
        Ok(self.bounded(response))
    }
}

/// A statement that does not even parse is still told that writing is not possible, if that is what it tried.
fn read_only_at_least(query: &str, error: PgWireError) -> PgWireError {
    const WRITING: [&str; 12] = [
        "ALTER", "ATTACH", "CALL", "COPY", "CREATE", "DELETE", "DROP", "GRANT", "INSERT", "MERGE", "TRUNCATE", "UPDATE",
    ];
    let word = query.split_whitespace().next().unwrap_or_default().to_uppercase();
    let described = matches!(&error, PgWireError::UserError(_));
    if !described && WRITING.contains(&word.as_str()) { refused(&word) } else { error }
}

fn refused(word: &str) -> PgWireError {
    sqlstate::user(READ_ONLY, format!("cannot execute {word} in a read-only session"))
}

/// What the guard makes of a statement.
enum Kind {
    /// Planned and verified by the catalog.
    Query,
    /// Answered from the session's settings.
    Session,
    /// Answered by a hook that touches no data.
    Harmless,
    /// Everything else.
    Refused,
}

fn kind(statement: &Statement) -> Kind {
    match statement {
        Statement::Query(_)
        | Statement::Explain { .. }
        | Statement::ExplainTable { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. } => Kind::Query,
        Statement::Set(_)
        | Statement::Reset(_)
        | Statement::ShowVariable { .. }
        | Statement::Discard { .. }
        | Statement::Deallocate { .. }
        | Statement::Savepoint { .. }
        | Statement::ReleaseSavepoint { .. }
        | Statement::Rollback { savepoint: Some(_), .. } => Kind::Session,
        Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Declare { .. }
        | Statement::Fetch { .. }
        | Statement::Close { .. } => Kind::Harmless,
        _ => Kind::Refused,
    }
}

fn is_cursor(statement: &Statement) -> bool {
    matches!(statement, Statement::Declare { .. } | Statement::Fetch { .. } | Statement::Close { .. })
}

/// Lets queries and session statements pass, nothing else.
struct Guard {
    catalog: Arc<Catalog>,
    row_limit: usize,
}

impl Guard {
    async fn check(&self, statement: &Statement) -> PgWireResult<Kind> {
        match statement {
            // The cursor hook would plan these on its own.
            Statement::Declare { stmts } => {
                for query in stmts.iter().filter_map(|declared| declared.for_query.as_ref()) {
                    self.catalog.plan(&Statement::Query(query.clone())).await.map_err(sqlstate::of)?;
                }
            }
            Statement::Fetch { direction, .. } if !self.fetches_a_portion(direction) => {
                return Err(too_many(self.row_limit));
            }
            _ => {}
        }
        match kind(statement) {
            Kind::Refused => {
                let text = statement.to_string();
                Err(refused(text.split_whitespace().next().unwrap_or_default()))
            }
            kind => Ok(kind),
        }
    }

    /// Whether the rows of one `FETCH`, which are gathered in memory, are few enough.
    fn fetches_a_portion(&self, direction: &FetchDirection) -> bool {
        match direction {
            FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => match &limit.value {
                Value::Number(rows, _) => rows.parse().is_ok_and(|rows: usize| rows <= self.row_limit),
                _ => false,
            },
            FetchDirection::All | FetchDirection::ForwardAll => false,
            _ => true,
        }
    }
}

async fn session_statement(client: &mut dyn HookClient, statement: &Statement) -> PgWireResult<Response> {
    match statement {
        Statement::Set(set) => settings::set(client, set).await,
        Statement::ShowVariable { variable } => {
            let words: Vec<String> = variable.iter().map(|word| word.value.clone()).collect();
            settings::show(client, &words)
        }
        Statement::Reset(reset) => {
            settings::reset(client, &reset.reset);
            Ok(Response::Execution(Tag::new("RESET")))
        }
        Statement::Discard { object_type } => {
            if matches!(object_type, DiscardObject::ALL) {
                settings::reset(client, &Reset::ALL);
                client.portal_store().clear_portals();
            }
            Ok(Response::Execution(Tag::new(&format!("DISCARD {object_type}"))))
        }
        Statement::Deallocate { name, .. } => {
            client.portal_store().rm_statement(&name.value);
            Ok(Response::Execution(Tag::new("DEALLOCATE")))
        }
        // There is nothing to go back to; drivers nest transactions all the same.
        Statement::Savepoint { .. } => Ok(Response::Execution(Tag::new("SAVEPOINT"))),
        Statement::ReleaseSavepoint { .. } => Ok(Response::Execution(Tag::new("RELEASE"))),
        Statement::Rollback { .. } if client.transaction_status() == TransactionStatus::Error => {
            Err(sqlstate::user(NOT_SUPPORTED, "a failed transaction can be rolled back as a whole only"))
        }
        Statement::Rollback { .. } => Ok(Response::Execution(Tag::new("ROLLBACK"))),
        other => Err(refused(&other.to_string())),
    }
}

#[async_trait]
impl QueryHook for Guard {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        _: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match self.check(statement).await {
            Ok(Kind::Session) => Some(session_statement(client, statement).await),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        _: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        match self.check(statement).await {
            Ok(Kind::Query) => Some(self.catalog.plan(statement).await.map_err(sqlstate::of)),
            Ok(Kind::Session) => Some(session_plan(statement)),
            // Their rows would arrive undescribed, which crashes some drivers.
            Ok(Kind::Harmless) if is_cursor(statement) => Some(Err(sqlstate::user(
                NOT_SUPPORTED,
                "cursors are for the simple query protocol: fetch the statement's own rows in portions instead",
            ))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        }
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        match kind(statement) {
            Kind::Session => Some(session_statement(client, statement).await),
            _ => None,
        }
    }
}

/// A plan that only says which columns a session statement answers with.
fn session_plan(statement: &Statement) -> PgWireResult<LogicalPlan> {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    let columns = match statement {
        Statement::ShowVariable { variable } => {
            let name = variable.iter().map(|word| word.value.to_lowercase()).collect::<Vec<_>>().join("_");
            vec![Field::new(name, DataType::Utf8, false)]
        }
        _ => Vec::new(),
    };
    let schema = DFSchema::try_from(Schema::new(columns)).map_err(|error| sqlstate::of(error.into()))?;
    Ok(LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: Arc::new(schema) }))
}

/// Runs what the guard let pass, after the other hooks had their turn. Answers every simple query, so that none is
/// planned by anyone else.
struct Run {
    catalog: Arc<Catalog>,
}

#[async_trait]
impl QueryHook for Run {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        let formats = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        let rows = async {
            let plan = self.catalog.plan(statement).await.map_err(sqlstate::of)?;
            let rows = context.execute_logical_plan(plan).await.map_err(|error| sqlstate::of(error.into()))?;
            encode_dataframe(rows, &Format::UnifiedText, Some(formats)).await
        };
        Some(rows.await.map(Response::Query))
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        _: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        Some(self.catalog.plan(statement).await.map_err(sqlstate::of))
    }

    /// The service runs the plan, which [`Self::handle_extended_parse_query`] or the guard verified.
    async fn handle_extended_query(
        &self,
        _: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        None
    }
}
