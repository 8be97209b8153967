//! The tables as readers see them, with what is computed on reading; also without a running engine.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arrow::{
    array::{AsArray, BooleanArray},
    datatypes::{DataType, Date32Type},
};
use chrono_tz::Tz;
use datafusion::{
    catalog::TableProvider,
    common::{Result as PlanResult, exec_err},
    datasource::{ViewTable, provider_as_source},
    logical_expr::{
        ColumnarValue, Expr, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    prelude::col,
};

use super::{Error, store::user_table};
use crate::{
    serve::UserTable,
    sink::delta,
    stream::{calendar, checkpoint},
    tables,
};

/// The column that says whether the watermark has passed the end of a row's day.
const IS_FINAL: &str = "is_final";

/// Adds `is_final` where the contract has it.
pub(super) fn with_is_final(
    tables: Vec<UserTable>,
    zone: Tz,
    watermark: &Arc<AtomicI64>,
) -> Result<Vec<UserTable>, Error> {
    tables
        .into_iter()
        .map(|mut table| {
            if tables::get(&table.name).is_ok_and(|contract| contract.has_is_final) {
                table.provider = final_view(&table.name, table.provider, zone, Arc::clone(watermark))?;
                let comment = "Whether the watermark has passed the end of the day".to_owned();
                table.column_comments.push((IS_FINAL.to_owned(), comment));
            }
            Ok(table)
        })
        .collect()
}

/// Every table of a data directory as of its last checkpoint, for a process that does not own it.
///
/// # Errors
/// When the checkpoints or a table cannot be read.
pub async fn committed_tables(data_dir: &Path, zone: Tz) -> Result<Vec<UserTable>, Error> {
    let manifest = checkpoint::peek(&data_dir.join(super::CHECKPOINT_DIR)).await?;
    let root = data_dir.join(super::TABLE_DIR);
    let mut found = Vec::new();
    let names = manifest.as_ref().map(|manifest| manifest.tables.keys().cloned().collect::<Vec<_>>());
    for name in names.unwrap_or_default() {
        if let Some(provider) = delta::read(&root, &name).await? {
            let contract = tables::get(&name);
            let comment = contract.as_ref().map_or("", |table| table.description.as_str());
            let schema = contract.as_ref().map_or_else(|_| provider.schema(), |table| Arc::clone(&table.schema));
            found.push(user_table(&name, comment, &schema, provider));
        }
    }
    let watermark = manifest.and_then(|manifest| manifest.watermark).map_or(i64::MIN, |at| at.micros());
    with_is_final(found, zone, &Arc::new(AtomicI64::new(watermark)))
}

fn final_view(
    name: &str,
    provider: Arc<dyn TableProvider>,
    zone: Tz,
    watermark: Arc<AtomicI64>,
) -> Result<Arc<dyn TableProvider>, Error> {
    let is_final = ScalarUDF::from(IsFinal {
        signature: Signature::exact(vec![DataType::Date32], Volatility::Volatile),
        zone,
        watermark: Watermark(watermark),
    });
    let mut columns: Vec<Expr> =
        provider.schema().fields().iter().map(|field| Expr::Column(field.name().as_str().into())).collect();
    columns.push(is_final.call(vec![col("day")]).alias(IS_FINAL));
    let plan = LogicalPlanBuilder::scan(name, provider_as_source(provider), None)?.project(columns)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Shared with the engine that moves it.
#[derive(Debug)]
struct Watermark(Arc<AtomicI64>);

impl PartialEq for Watermark {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Watermark {}

impl std::hash::Hash for Watermark {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        std::ptr::hash(Arc::as_ptr(&self.0), state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IsFinal {
    signature: Signature,
    zone: Tz,
    watermark: Watermark,
}

impl ScalarUDFImpl for IsFinal {
    fn name(&self) -> &str {
        IS_FINAL
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let Some(days) = args.args.first() else { return exec_err!("{IS_FINAL} takes a day") };
        let days = days.to_array(args.number_rows)?;
        let watermark = self.watermark.0.load(Ordering::Relaxed);
        let ended = |day: i32| calendar::first_instant(day + 1, self.zone).is_some_and(|end| end <= watermark);
        let finals: BooleanArray = days.as_primitive::<Date32Type>().iter().map(|day| day.map(ended)).collect();
        Ok(ColumnarValue::Array(Arc::new(finals)))
    }
}
