//! A GROUP BY at work: its groups as state, and what follows it computed again where groups changed.

use std::collections::BTreeMap;

use arrow::{array::RecordBatch, datatypes::Schema};
use datafusion::execution::context::SessionContext;

use super::{
    Error,
    class::Grouping,
    groups::{Groups, Slot},
    kept::Bytes,
    leaf::Cell,
    pipeline::{MAX_GROUPS_OF_A_PARTITION, RowDelta},
    query::{Linear, Query, Views, shares},
    remembered::Remembered,
};

pub(super) struct Aggregate {
    input: Linear,
    suffix: Query,
    views: Views,
    grouping: Grouping,
    pub(super) groups: Groups,
    /// The answer, where it is computed as a whole.
    last: Option<RecordBatch>,
    /// Of partitions, where it is not.
    remembered: Remembered,
}

impl Aggregate {
    pub(super) async fn new(context: &SessionContext, mut grouping: Grouping) -> Result<Self, Error> {
        let (views, small) = (std::mem::take(&mut grouping.views), std::mem::take(&mut grouping.small));
        let suffix = Query::new(context, &grouping.suffix).await?;
        let types = grouping.partition.iter().map(|i| grouping.input.schema().field(*i).data_type().clone());
        let remembered = Remembered::new(suffix.plan.schema(), grouping.shown.take(), types)?;
        Ok(Self {
            input: Linear::new(context, &grouping.input).await?,
            suffix,
            views: Views::new(context, views, small).await?,
            groups: Groups::new(&grouping)?,
            grouping,
            last: None,
            remembered,
        })
    }

    /// What the answer was for all that changes, and what it is now.
    pub(super) async fn advance(
        &mut self,
        cells: &BTreeMap<String, Cell>,
        deltas: &BTreeMap<String, RowDelta>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<(RecordBatch, RecordBatch), Error> {
        let removed = self.input.of(cells, deltas, |delta| &delta.removed).await?;
        let added = self.input.of(cells, deltas, |delta| &delta.added).await?;
        let shown = self.views.look(cells, small).await?;
        let same = self.views.have_shown(&shown);
        let all = self.grouping.partition.is_empty() || !same;
        if removed.num_rows() == 0 && added.num_rows() == 0 && same {
            let nothing = RecordBatch::new_empty(self.suffix.plan.schema());
            return Ok((nothing.clone(), nothing));
        }

        let removed_slots = self.groups.locate(&removed)?;
        let added_slots = self.groups.locate(&added)?;
        let by_parts = !self.grouping.partition.is_empty();
        let parts = if by_parts { self.groups.partitions([&removed, &added])? } else { Vec::new() };
        let touched = (!all).then_some(&*parts);
        let before = match self.last.take() {
            Some(rows) => rows,
            None => self.remembered.said(touched, async |unknown| self.answer(unknown).await).await?,
        };
        self.groups.update(&added, &added_slots, 1)?;
        self.groups.update(&removed, &removed_slots, -1)?;
        self.groups.bury(&added_slots)?;
        self.groups.bury(&removed_slots)?;
        let together = if by_parts { self.groups.largest(&parts) } else { self.groups.len() };
        if together > MAX_GROUPS_OF_A_PARTITION {
            return Err(Error::Limit(format!(
                "what follows the GROUP BY needs {together} groups at once: at most {MAX_GROUPS_OF_A_PARTITION} are \
                 re-read on a change; partition its windows and joins by a group key, or group more coarsely"
            )));
        }
        self.views.show(shown);
        let after = self.answer(touched).await?;
        self.remembered.remember(touched, &after)?;
        if !by_parts {
            self.last = Some(after.clone());
        }
        Ok((before, after))
    }

    /// The suffix over all groups, or over those of some partitions: of many, on all cores.
    async fn answer(&self, partitions: Option<&[Bytes]>) -> Result<RecordBatch, Error> {
        let slots: Vec<Vec<Slot>> = match partitions {
            None => vec![self.groups.all()],
            Some(partitions) => shares(partitions).map(|partitions| self.groups.members(partitions)).collect(),
        };
        let groups = slots.iter().map(|slots| self.groups.read(slots)).collect::<Result<Vec<_>, _>>()?;
        let groups = groups.into_iter().filter(|rows| rows.num_rows() > 0);
        self.suffix.run_over(groups.map(|rows| vec![(self.grouping.groups.clone(), rows)]).collect()).await
    }

    pub(super) async fn load(
        &mut self,
        saved: &[RecordBatch],
        cells: &BTreeMap<String, Cell>,
        small: &BTreeMap<String, RecordBatch>,
    ) -> Result<(), Error> {
        self.groups.load(saved)?;
        let shown = self.views.look(cells, small).await?;
        self.views.show(shown);
        if self.grouping.partition.is_empty() {
            self.last = Some(self.answer(None).await?);
        }
        Ok(())
    }

    /// Whether rows of its answer that agree in some columns of its table are always computed again together.
    pub(super) fn keeps_together(&self, columns: &[usize], table: &Schema) -> bool {
        self.grouping.partition.is_empty() || self.remembered.is_within(columns, table)
    }

    /// The columns of the GROUP BY.
    pub(super) fn key_names(&self) -> &[String] {
        &self.grouping.key_names
    }

    /// For people.
    pub(super) fn recomputes(&self) -> String {
        let Grouping { partition, key_names, .. } = &self.grouping;
        let mut text = if partition.is_empty() {
            format!("what follows the GROUP BY, over all groups (at most {MAX_GROUPS_OF_A_PARTITION})")
        } else {
            let by: Vec<_> = partition.iter().map(|i| key_names[*i].as_str()).collect();
            format!("what follows the GROUP BY, for the changed ({})", by.join(", "))
        };
        if !self.views.small().is_empty() {
            text += &format!("; everything when what it sees of {} changes", self.views.small().join(", "));
        }
        text
    }
}
