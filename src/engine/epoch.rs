//! One epoch: records of the log become rows, and everything that reads them follows.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use arrow::array::RecordBatch;

use super::{CLOCK, Engine, Error, decode::Decoded, micros, moments, rates, reading::Read, stages::Laps, watermark};
use crate::{
    ledger::{
        Arrival,
        fx::FxRate,
        rows::{Change, Delta},
    },
    log::Record,
    stream::{epoch::EpochEnd, pipeline::RowDelta},
    stripe::types::Scope,
    tables::{self, rows},
    time::EventTime,
};

/// More records at once than this are a backlog or an import, in which nothing is late.
const MAX_RECORDS_OF_A_LIVE_EPOCH: usize = 1_000;

impl Engine {
    /// One epoch; how many records it read.
    pub(super) async fn epoch(&mut self) -> Result<usize, Error> {
        let mut laps = Laps::start();
        let Read { ends, later_ends, records, decoded, unknown } = self.read().await?;
        self.ends = later_ends;
        self.unknown.merge(&unknown);
        if records.is_empty() {
            if self.has_runs_to_see_to()? {
                self.follow(BTreeMap::new()).await?;
                self.note_status()?;
            }
            return Ok(0);
        }
        self.progress.stages.read += laps.lap();
        for record in &records {
            let offset = &mut self.offsets[record.partition as usize];
            *offset = (*offset).max(record.offset + 1);
            self.newest_append = self.newest_append.max(record.appended_at);
        }
        self.progress.lag = ends.iter().zip(&self.offsets).map(|(end, at)| end.saturating_sub(*at)).sum();
        if self.progress.lag > 0 {
            self.read_ahead();
        }
        // Partitions of a backlog are read at their own pace: nothing is late because another one was ahead.
        let all = self.options.workshop.is_some();
        let live = !all && !self.backfills && self.progress.lag == 0 && records.len() <= MAX_RECORDS_OF_A_LIVE_EPOCH;
        self.ledger.set_folding(live);
        let arrivals: Vec<Arrival<'_>> = records
            .iter()
            .zip(&decoded)
            .filter_map(|(record, decoded)| match decoded {
                Decoded::Event(event) => Some(Arrival { event, appended_at: record.appended_at }),
                Decoded::Rejected(_) => None,
            })
            .collect();
        let rates = rates::learn(&self.rates, &arrivals);
        let delta = tokio::task::block_in_place(|| {
            if all { moments::apply(&mut self.ledger, arrivals) } else { Ok(self.ledger.apply(&arrivals)?) }
        })?;
        self.progress.stages.ledger += laps.lap();
        let mut changed = self.archive(&records, &decoded).await?;
        changed.extend(self.publish_ledger(delta, &rates).await?);
        self.progress.stages.tables += laps.lap();
        self.note_completeness();
        self.follow(changed).await?;
        self.note_watermark();
        self.note_status()?;
        self.progress.records += records.len() as u64;
        self.progress.epochs += 1;
        self.watch.send_replace(self.progress);
        Ok(records.len())
    }

    /// Brings pipelines and scores up to date with what changed in the tables.
    pub(super) async fn follow(&mut self, changed: BTreeMap<String, RowDelta>) -> Result<(), Error> {
        let mut laps = Laps::start();
        let features = self.advance_pipelines(changed).await?;
        self.progress.stages.pipelines += laps.lap();
        if let Some(delta) = features {
            self.follow_features(&delta).await?;
            self.progress.stages.score += laps.lap();
        }
        Ok(())
    }

    /// Keeps every record, and returns the rows as changes of relations.
    async fn archive(&mut self, records: &[Record], decoded: &[Decoded]) -> Result<BTreeMap<String, RowDelta>, Error> {
        let mut archived = Vec::with_capacity(records.len());
        let mut rejected = Vec::new();
        for (record, decoded) in records.iter().zip(decoded) {
            match decoded {
                Decoded::Event(event) => {
                    if event.moves_clock() {
                        self.watermark.observe(record.partition, event.created, record.appended_at);
                    }
                    archived.push(rows::ArchivedEvent {
                        scope: &event.scope,
                        partition: record.partition,
                        offset: record.offset,
                        received_at: record.appended_at,
                        event_id: event.id.as_str(),
                        kind: &event.kind,
                        created: event.created,
                        body: std::str::from_utf8(&record.body)
                            .map_err(|_| Error::Internal("a record that was read is not UTF-8".to_owned()))?,
                    });
                }
                Decoded::Rejected(row) => rejected.push(row),
            }
        }
        let archived = rows::events_archive(&archived)?;
        self.progress.rejected += rejected.len() as u64;
        let rejected = rows::rejected_events(&rejected)?;
        let mut changed = BTreeMap::new();
        for (table, rows) in [("events_archive", archived), ("rejected_events", rejected)] {
            self.publish(table, rows, &mut changed).await?;
        }
        Ok(changed)
    }

    /// Adds rows to an appended table, and says so in `changed`.
    async fn publish(
        &mut self,
        table: &str,
        rows: RecordBatch,
        changed: &mut BTreeMap<String, RowDelta>,
    ) -> Result<(), Error> {
        if rows.num_rows() > 0 {
            self.store.append(table, rows.clone()).await?;
            let removed = RecordBatch::new_empty(rows.schema());
            changed.insert(table.to_owned(), RowDelta { removed, added: rows });
        }
        Ok(())
    }

    /// Publishes what the ledger said, and returns it as changes of relations.
    async fn publish_ledger(
        &mut self,
        delta: Delta,
        rates: &[Change<FxRate>],
    ) -> Result<BTreeMap<String, RowDelta>, Error> {
        self.progress.duplicates += delta.duplicates;
        self.progress.late += delta.late.len() as u64;
        let mut changed = BTreeMap::new();
        for (table, rows) in [
            ("item_states", rows::item_states(&delta.item_states)?),
            ("mrr_ledger", rows::mrr_ledger(&delta.entries)?),
            ("outlook_ledger", rows::outlook_ledger(&delta.outlook)?),
            ("billing_events", rows::billing_events(&delta.billing_events)?),
            ("ledger_gaps", rows::ledger_gaps(&delta.gaps)?),
            ("late_events", rows::late_events(&delta.late)?),
            ("metered_usage", rows::metered_usage(&delta.metered_usage)?),
            ("recognised_revenue", rows::recognised_revenue(&delta.recognised)?),
        ] {
            self.publish(table, rows, &mut changed).await?;
        }
        let movements = keyed(&delta.movements, |rows| rows::mrr_movements(rows.iter().copied()))?;
        let scheduled = keyed(&delta.scheduled, |rows| rows::scheduled_mrr(rows.iter().copied()))?;
        let products = keyed(&delta.products, rows::products)?;
        let prices = keyed(&delta.prices, rows::prices)?;
        let coupons = keyed(&delta.coupons, rows::coupons)?;
        let rates = keyed(rates, rows::fx_rates)?;
        let clock: Vec<(Scope, EventTime, EventTime)> = self.ledger.clock().collect();
        let clock = rows::log_clock(&clock)?;
        let clock_change = RowDelta { removed: self.log_clock.clone(), added: clock.clone() };
        for (table, delta) in [
            ("mrr_movements", movements),
            ("scheduled_mrr", scheduled),
            ("products", products),
            ("prices", prices),
            ("coupons", coupons),
            (rates::FX_RATES, rates),
            (CLOCK, clock_change),
        ] {
            if !delta.is_empty() && delta.removed != delta.added {
                self.store.change(table, &delta)?;
                changed.insert(table.to_owned(), delta);
            }
        }
        self.log_clock = clock;
        Ok(changed)
    }

    /// How the newest epoch ended.
    pub(super) fn end(&self) -> EpochEnd {
        let small = BTreeMap::from([(CLOCK.to_owned(), self.log_clock.clone())]);
        let clock = self.watermark.at(&self.offsets, &self.ends, 0).map(|at| (at.micros(), self.options.zone));
        EpochEnd { small, complete: self.complete.clone(), clock }
    }

    /// The watermark by what has been read; it never goes back. Readers see it once the rows that it is about are there.
    fn newest_watermark(&self) -> i64 {
        let newest = self.watermark.at(&self.offsets, &self.ends, micros(self.options.allowed_lateness));
        newest.map_or(i64::MIN, EventTime::micros).max(self.watermark_now.load(Ordering::Relaxed))
    }

    pub(super) fn note_watermark(&self) {
        self.watermark_now.fetch_max(self.newest_watermark(), Ordering::Relaxed);
    }

    /// Up to when the log of every account and mode is complete, as `is_final` will say it.
    pub(super) fn note_completeness(&mut self) {
        let (watermark, lateness) = (self.newest_watermark(), micros(self.options.allowed_lateness));
        for (scope, _, last) in self.ledger.clock() {
            let complete = watermark::complete(watermark, last.micros(), lateness);
            self.complete.advance(scope.account.as_str(), scope.livemode, complete);
        }
    }
}

/// Changes of a keyed table as rows.
fn keyed<T>(
    changes: &[Change<T>],
    rows: impl Fn(&[&T]) -> Result<RecordBatch, tables::Error>,
) -> Result<RowDelta, Error> {
    let before: Vec<&T> = changes.iter().filter_map(|change| change.before.as_ref()).collect();
    let after: Vec<&T> = changes.iter().filter_map(|change| change.after.as_ref()).collect();
    Ok(RowDelta { removed: rows(&before)?, added: rows(&after)? })
}
