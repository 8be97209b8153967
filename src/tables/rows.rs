//! Typed rows of the ledger and the log as Arrow batches of their tables.

use arrow::array::RecordBatch;
use num_bigint::BigInt;
use num_traits::ToPrimitive;
use serde::{Deserialize, Serialize};

use super::{
    Error,
    batch::{BatchBuilder, Cell},
    get,
};
use crate::{
    ledger::{
        fx::FxRate,
        listing::{CouponRow, PriceRow, ProductRow},
        rows::{
            BillingEvent, ItemDiscount, ItemState, LateEvent, LedgerEntry, LedgerGap, MeteredUsage, Movement,
            OutlookEntry, RecognisedRevenue, ScheduledPhase,
        },
    },
    money::{Rational, exact_text, round_half_even},
    stripe::{
        ids::EventId,
        types::{CouponDuration, Scope, TiersMode},
    },
    time::EventTime,
};

/// Ten to the scale of quantity columns, `decimal(38,12)`.
pub(super) const QUANTITY_UNIT: u64 = 1_000_000_000_000;

/// A record of the log that was read as an event, for `events_archive`.
#[derive(Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ArchivedEvent<'a> {
    pub scope: &'a Scope,
    pub partition: u32,
    pub offset: u64,
    pub received_at: EventTime,
    pub event_id: &'a str,
    pub kind: &'a str,
    pub created: EventTime,
    pub body: &'a str,
}

/// A record of the log that could not be read, for `rejected_events`.
#[derive(Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct RejectedEvent {
    pub scope: Scope,
    pub received_at: EventTime,
    pub reason: String,
    pub event_id: Option<String>,
    pub kind: Option<String>,
    pub partition: u32,
    pub offset: u64,
    pub body: Option<String>,
}

/// The score of one customer, for `customer_scores`.
#[derive(Debug)]
#[allow(missing_docs, reason = "described in schemas/tables.yml")]
pub struct ScoreRow<'a> {
    pub account: &'a str,
    pub livemode: bool,
    pub customer_id: &'a str,
    /// Days since 1970.
    pub as_of: i32,
    pub model: &'a str,
    pub model_version: &'a str,
    pub probability: f64,
    pub band: &'a str,
    pub reasons: &'a [String],
}

/// `events_archive`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn events_archive(rows: &[ArchivedEvent<'_>]) -> Result<RecordBatch, Error> {
    let bytes = rows.iter().map(|row| row.body.len()).sum();
    let mut builder = BatchBuilder::new(get("events_archive")?, rows.len())?.with_text("body", rows.len(), bytes)?;
    for r in rows {
        builder.row([
            account(r.scope),
            r.scope.livemode.into(),
            i64::from(r.partition).into(),
            offset(r.offset),
            r.received_at.into(),
            r.event_id.into(),
            r.kind.into(),
            r.created.into(),
            r.body.into(),
        ])?;
    }
    builder.finish()
}

/// `rejected_events`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn rejected_events(rows: &[&RejectedEvent]) -> Result<RecordBatch, Error> {
    build("rejected_events", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            r.received_at.into(),
            r.reason.as_str().into(),
            r.event_id.as_deref().into(),
            r.kind.as_deref().into(),
            i64::from(r.partition).into(),
            offset(r.offset),
            r.body.as_deref().into(),
        ])
    })
}

/// `late_events`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn late_events(rows: &[LateEvent]) -> Result<RecordBatch, Error> {
    build("late_events", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            r.event_id.as_str().into(),
            (&*r.kind).into(),
            r.created.into(),
            r.known_at.into(),
            r.customer_id.as_ref().map(|id| id.as_str()).into(),
        ])
    })
}

/// `item_states`
///
/// # Errors
/// When a row does not fit the contract: a bug, or a quantity beyond `decimal(38,12)`.
pub fn item_states(rows: &[ItemState]) -> Result<RecordBatch, Error> {
    build("item_states", rows, |b, r| {
        let discounts = discounts_json(&r.discounts);
        let net_share = r.net_share.as_ref().map(exact_text);
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            r.valid_from.into(),
            r.known_at.into(),
            r.customer_id.as_str().into(),
            r.subscription_id.as_str().into(),
            r.subscription_item_id.as_str().into(),
            i64::from(r.revision).into(),
            i64::from(r.position).into(),
            r.price_id.as_str().into(),
            r.product_id.as_ref().map(|id| id.as_str()).into(),
            r.currency.as_ref().map(|c| c.as_str()).into(),
            (&*r.status).into(),
            Cell::Texts(r.flags.iter().map(|flag| &**flag).collect()),
            r.interval.map(|i| i.as_str()).into(),
            i64::from(r.interval_count).into(),
            r.quantity.as_ref().map_or(Ok(Cell::Null), quantity)?,
            r.list_amount.map_or(Cell::Null, |list| Cell::Decimal(list.picos())),
            net_share.as_deref().into(),
            discounts.as_str().into(),
            r.trial_end.into(),
            r.started_at.into(),
            r.order_evidence.into(),
            (&*r.provenance).into(),
            r.event_id.as_str().into(),
        ])
    })
}

/// `mrr_ledger`
///
/// # Errors
/// When a row does not fit the contract: a bug, or a quantity beyond `decimal(38,12)`.
pub fn mrr_ledger(rows: &[LedgerEntry]) -> Result<RecordBatch, Error> {
    build("mrr_ledger", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            (&*r.entry_id).into(),
            r.event_time.into(),
            r.known_at.into(),
            r.reverses_entry_id.as_deref().into(),
            r.customer_id.as_str().into(),
            r.subscription_id.as_str().into(),
            r.subscription_item_id.as_str().into(),
            r.price_id.as_str().into(),
            r.product_id.as_ref().map(|id| id.as_str()).into(),
            r.currency.as_str().into(),
            (&*r.change).into(),
            r.cause.as_str().into(),
            r.list_delta.into(),
            r.discount_delta.into(),
            r.mrr_delta.into(),
            quantity(&r.quantity_delta)?,
            event_ids(&r.event_ids),
            r.interval.as_str().into(),
            i64::from(r.interval_count).into(),
            Cell::Texts(r.causes.iter().map(|cause| cause.as_str()).collect()),
        ])
    })
}

/// `outlook_ledger`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn outlook_ledger(rows: &[OutlookEntry]) -> Result<RecordBatch, Error> {
    build("outlook_ledger", rows, |b, OutlookEntry { measure, entry: r }| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            measure.as_str().into(),
            (&*r.entry_id).into(),
            r.event_time.into(),
            r.known_at.into(),
            r.reverses_entry_id.as_deref().into(),
            r.customer_id.as_str().into(),
            r.subscription_id.as_str().into(),
            r.subscription_item_id.as_str().into(),
            r.price_id.as_str().into(),
            r.product_id.as_ref().map(|id| id.as_str()).into(),
            r.currency.as_str().into(),
            (&*r.change).into(),
            r.cause.as_str().into(),
            r.mrr_delta.into(),
            event_ids(&r.event_ids),
        ])
    })
}

/// `mrr_movements`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn mrr_movements<'a>(rows: impl IntoIterator<Item = &'a Movement>) -> Result<RecordBatch, Error> {
    let mut builder = BatchBuilder::new(get("mrr_movements")?, 0)?;
    for r in rows {
        builder.row([
            account(&r.scope),
            r.scope.livemode.into(),
            (&*r.movement_id).into(),
            r.revision.into(),
            r.occurred_at.into(),
            r.customer_id.as_str().into(),
            r.currency.as_str().into(),
            r.kind.as_str().into(),
            r.cause.as_str().into(),
            Cell::Texts(r.causes.iter().map(|cause| cause.as_str()).collect()),
            r.mrr_before.into(),
            r.mrr_after.into(),
            r.mrr_delta.into(),
            event_ids(&r.event_ids),
        ])?;
    }
    builder.finish()
}

/// `billing_events`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn billing_events(rows: &[BillingEvent]) -> Result<RecordBatch, Error> {
    build("billing_events", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            r.event_id.as_str().into(),
            r.occurred_at.into(),
            r.known_at.into(),
            r.customer_id.as_str().into(),
            (&*r.kind).into(),
            (&*r.object_id).into(),
            r.currency.as_ref().map(|c| c.as_str()).into(),
            r.amount.into(),
            r.attempt_count.into(),
            r.failure_code.as_deref().into(),
        ])
    })
}

/// `ledger_gaps`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn ledger_gaps(rows: &[LedgerGap]) -> Result<RecordBatch, Error> {
    build("ledger_gaps", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            r.occurred_at.into(),
            r.known_at.into(),
            r.customer_id.as_ref().map(|id| id.as_str()).into(),
            (&*r.object_id).into(),
            (&*r.reason).into(),
            r.event_id.as_str().into(),
        ])
    })
}

/// `products`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn products(rows: &[&ProductRow]) -> Result<RecordBatch, Error> {
    build("products", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            r.product_id.as_str().into(),
            r.name.as_deref().into(),
            r.active.into(),
            r.provenance.as_str().into(),
            r.known_at.into(),
        ])
    })
}

/// `prices`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn prices(rows: &[&PriceRow]) -> Result<RecordBatch, Error> {
    build("prices", rows, |b, r| {
        let price = &r.price;
        let (tiers, options) = (r.tiers_json(), r.options_json());
        let tiered = price.tiers_mode.is_some() || price.tiers.is_some();
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            price.id.as_str().into(),
            price.product.as_ref().map(|id| id.as_str()).into(),
            price.nickname.as_deref().into(),
            price.active.into(),
            price.currency.as_ref().map(|c| c.as_str()).into(),
            exact(price.unit_amount.as_ref()),
            if tiered { "tiered" } else { "per_unit" }.into(),
            price.interval.map(|i| i.as_str()).into(),
            i64::from(price.interval_count).into(),
            if price.metered { "metered" } else { "licensed" }.into(),
            price
                .tiers_mode
                .map(|mode| match mode {
                    TiersMode::Graduated => "graduated",
                    TiersMode::Volume => "volume",
                })
                .into(),
            tiers.as_deref().into(),
            price.transform_quantity.and_then(|packages| i64::try_from(packages.divide_by).ok()).into(),
            price.transform_quantity.map(|packages| if packages.round_up { "up" } else { "down" }).into(),
            price.tax_inclusive.map(|inclusive| if inclusive { "inclusive" } else { "exclusive" }).into(),
            options.as_deref().into(),
            r.provenance.as_str().into(),
            r.known_at.into(),
        ])
    })
}

/// `coupons`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn coupons(rows: &[&CouponRow]) -> Result<RecordBatch, Error> {
    build("coupons", rows, |b, r| {
        let coupon = &r.coupon;
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            coupon.id.as_str().into(),
            exact(coupon.percent_off.as_ref()),
            exact(coupon.amount_off.as_ref()),
            coupon.currency.as_ref().map(|c| c.as_str()).into(),
            match &coupon.duration {
                CouponDuration::Forever => "forever",
                CouponDuration::Repeating => "repeating",
                CouponDuration::Once => "once",
                CouponDuration::Other(word) => word.as_str(),
            }
            .into(),
            coupon.duration_in_months.map(i64::from).into(),
            Cell::Texts(coupon.applies_to.iter().map(|id| id.as_str()).collect()),
            r.provenance.as_str().into(),
            r.known_at.into(),
        ])
    })
}

/// `fx_rates`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn fx_rates(rows: &[&FxRate]) -> Result<RecordBatch, Error> {
    build("fx_rates", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            Cell::Date(r.day),
            r.currency.as_str().into(),
            Cell::Decimal(r.rate),
            r.base.as_str().into(),
            (&*r.source).into(),
            r.known_at.into(),
        ])
    })
}

/// `metered_usage`
///
/// # Errors
/// When a row does not fit the contract: a bug, or a quantity beyond `decimal(38,12)`.
pub fn metered_usage(rows: &[MeteredUsage]) -> Result<RecordBatch, Error> {
    build("metered_usage", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            (&*r.invoice_id).into(),
            (&*r.line_id).into(),
            r.known_at.into(),
            r.customer_id.as_str().into(),
            r.subscription_id.as_ref().map(|id| id.as_str()).into(),
            r.subscription_item_id.as_ref().map(|id| id.as_str()).into(),
            r.price_id.as_str().into(),
            r.product_id.as_ref().map(|id| id.as_str()).into(),
            r.currency.as_str().into(),
            r.period_start.into(),
            r.period_end.into(),
            r.quantity.as_ref().map_or(Ok(Cell::Null), quantity)?,
            r.amount.into(),
            r.monthly.into(),
            r.finalized_at.into(),
            r.event_id.as_str().into(),
        ])
    })
}

/// `scheduled_mrr`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn scheduled_mrr<'a>(rows: impl IntoIterator<Item = &'a ScheduledPhase>) -> Result<RecordBatch, Error> {
    let mut builder = BatchBuilder::new(get("scheduled_mrr")?, 0)?;
    for r in rows {
        builder.row([
            account(&r.scope),
            r.scope.livemode.into(),
            (&*r.schedule_id).into(),
            r.phase_start.into(),
            r.customer_id.as_str().into(),
            r.subscription_id.as_ref().map(|id| id.as_str()).into(),
            r.starts_at.into(),
            r.ends_at.map_or(Cell::Null, Cell::from),
            r.currency.as_str().into(),
            r.mrr.into(),
            (&*r.status).into(),
            r.known_at.into(),
            r.event_id.as_str().into(),
        ])?;
    }
    builder.finish()
}

/// `recognised_revenue`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn recognised_revenue(rows: &[RecognisedRevenue]) -> Result<RecordBatch, Error> {
    build("recognised_revenue", rows, |b, r| {
        b.row([
            account(&r.scope),
            r.scope.livemode.into(),
            (&*r.invoice_id).into(),
            (&*r.line_id).into(),
            r.source.into(),
            (&*r.source_id).into(),
            Cell::Date(r.month.to_epoch_days()),
            r.customer_id.as_str().into(),
            r.subscription_id.as_ref().map(|id| id.as_str()).into(),
            r.price_id.as_ref().map(|id| id.as_str()).into(),
            r.product_id.as_ref().map(|id| id.as_str()).into(),
            r.currency.as_str().into(),
            r.booked.billed.into(),
            r.booked.taken_back.into(),
            r.booked.recognised.into(),
            r.booked.contra.into(),
            r.booked.deferred.into(),
            r.known_at.into(),
            r.event_id.as_str().into(),
        ])
    })
}

/// `log_clock`: scope, first and last event.
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn log_clock(rows: &[(Scope, EventTime, EventTime)]) -> Result<RecordBatch, Error> {
    build("log_clock", rows, |b, (scope, first, last)| {
        b.row([account(scope), scope.livemode.into(), (*first).into(), (*last).into()])
    })
}

/// `customer_scores`
///
/// # Errors
/// When a row does not fit the contract: a bug.
pub fn customer_scores(rows: &[ScoreRow<'_>]) -> Result<RecordBatch, Error> {
    build("customer_scores", rows, |b, r| {
        b.row([
            r.account.into(),
            r.livemode.into(),
            r.customer_id.into(),
            Cell::Date(r.as_of),
            r.model.into(),
            r.model_version.into(),
            r.probability.into(),
            r.band.into(),
            Cell::Texts(r.reasons.iter().map(String::as_str).collect()),
        ])
    })
}

fn build<'a, T>(
    table: &str,
    rows: &'a [T],
    mut row: impl FnMut(&mut BatchBuilder, &'a T) -> Result<(), Error>,
) -> Result<RecordBatch, Error> {
    let mut builder = BatchBuilder::new(get(table)?, rows.len())?;
    rows.iter().try_for_each(|r| row(&mut builder, r))?;
    builder.finish()
}

fn account(scope: &Scope) -> Cell<'_> {
    Cell::Text(scope.account.as_str())
}

/// Offsets stay below 2^48 in the embedded log and below 2^63 in Kafka.
fn offset(offset: u64) -> Cell<'static> {
    Cell::Bigint(i64::try_from(offset).unwrap_or(i64::MAX))
}

fn event_ids(ids: &[EventId]) -> Cell<'_> {
    Cell::Texts(ids.iter().map(|id| id.as_str()).collect())
}

fn quantity(value: &Rational) -> Result<Cell<'static>, Error> {
    round_half_even(&(value * BigInt::from(QUANTITY_UNIT)))
        .to_i128()
        .map(Cell::Decimal)
        .ok_or_else(|| Error::Type("a quantity is beyond decimal(38,12)".to_owned()))
}

/// A value of Stripe's with twelve places; nothing where it is beyond `decimal(38,12)`, which no real one is.
fn exact(value: Option<&Rational>) -> Cell<'static> {
    let scaled = value.and_then(|value| round_half_even(&(value * BigInt::from(QUANTITY_UNIT))).to_i128());
    scaled.filter(|scaled| scaled.unsigned_abs() < 10_u128.pow(38)).map_or(Cell::Null, Cell::Decimal)
}

/// A discount in `item_states.discounts`.
#[derive(Serialize, Deserialize)]
pub(super) struct DiscountJson {
    level: String,
    id: String,
    coupon: Option<String>,
    duration: Option<String>,
    percent_off: Option<String>,
    amount_off: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    applies_to: Vec<String>,
    start: Option<String>,
    end: Option<String>,
}

fn discounts_json(discounts: &[ItemDiscount]) -> String {
    let discounts: Vec<DiscountJson> = discounts
        .iter()
        .map(|d| {
            let terms = d.terms.as_ref();
            DiscountJson {
                level: d.level.to_string(),
                id: d.id.to_string(),
                coupon: terms.map(|t| t.coupon.to_string()),
                duration: terms.map(|t| t.duration.to_string()),
                percent_off: terms.and_then(|t| t.percent_off.as_ref()).map(exact_text),
                amount_off: terms.and_then(|t| t.amount_off).map(|amount| amount.to_string()),
                applies_to: terms.map(|t| t.applies_to.iter().map(ToString::to_string).collect()).unwrap_or_default(),
                start: terms.and_then(|t| t.start).map(|time| time.to_string()),
                end: terms.and_then(|t| t.end).map(|time| time.to_string()),
            }
        })
        .collect();
    serde_json::to_string(&discounts).unwrap_or_else(|_| "[]".to_owned())
}
