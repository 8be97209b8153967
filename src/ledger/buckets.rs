//! Where customers rest and payments are looked up: 256 buckets by a hash, so that a checkpoint writes only what changed.

use std::{
    collections::{BTreeMap, HashMap},
    iter::Peekable,
};

use super::{
    BUCKETS, Error,
    billing::{Parked, Payers, payment_ids, payment_key},
    catalogue::Needs,
    customer::CustomerState,
    hash::QuickHash,
    replay::Context,
    resting::{Resting, Scratch},
    visits::{Brought, Whom},
};
use crate::stripe::{
    ids::CustomerId,
    types::{Event, Scope},
};

/// The customers and payments whose keys fall here.
#[derive(Default)]
pub(crate) struct Bucket {
    pub(crate) customers: BTreeMap<Scope, Customers>,
    pub(crate) payers: Payers,
    pub(crate) dirty: bool,
    /// The customers that changed since the last checkpoint.
    pub(crate) changed: Vec<(Scope, CustomerId)>,
}

/// The customers of one account and mode.
pub(crate) type Customers = HashMap<CustomerId, Resting, QuickHash>;

/// All buckets.
pub(crate) struct Buckets(pub(crate) Vec<Bucket>);

impl Default for Buckets {
    fn default() -> Self {
        Self(std::iter::repeat_with(Bucket::default).take(BUCKETS).collect())
    }
}

impl Buckets {
    pub(crate) fn of_key(&mut self, key: u64) -> &mut Bucket {
        &mut self.0[usize::from((key >> 56) as u8)]
    }

    /// Whose a payment is, where that is known.
    pub(crate) fn payer(&self, key: u64) -> Option<&CustomerId> {
        self.0[usize::from((key >> 56) as u8)].payers.get(key)
    }

    /// Notes whose a payment is; gives back what waited for that.
    pub(crate) fn note_payer(&mut self, event: &Event, customer: &CustomerId) -> Vec<Parked> {
        let mut waited = Vec::new();
        for id in payment_ids(&event.object) {
            let key = payment_key(&event.scope, id);
            let bucket = self.of_key(key);
            if bucket.payers.note(key, event.created, customer) {
                bucket.dirty = true;
                waited.extend(bucket.payers.unpark(key));
            }
        }
        waited
    }

    /// Everybody whose history rests on one of `needs`, by id. It looks at every customer, which is why it is only done
    /// for what was known and turns out otherwise: a fact of Stripe's that a file had wrong.
    pub(crate) fn users(&self, scope: &Scope, needs: &Needs) -> Result<Vec<CustomerId>, Error> {
        let mut users = Vec::new();
        for (id, customer) in self.0.iter().filter_map(|bucket| bucket.customers.get(scope)).flatten() {
            if customer.open()?.touch_users(needs) {
                users.push(id.clone());
            }
        }
        // Rows are written in the same order in every process.
        users.sort_unstable();
        Ok(users)
    }
}

impl Bucket {
    /// Takes in what is brought, up to the first that does more than repeat what is known. True if nothing is left.
    pub(crate) fn repeat<'a>(
        &mut self,
        whom: &Whom<'_>,
        brought: &mut Peekable<impl Iterator<Item = Brought<'a>>>,
        folding: bool,
        scratch: &mut Scratch,
    ) -> Result<bool, Error> {
        let Some(customers) = self.customers.get_mut(whom.scope) else { return Ok(false) };
        let Some(resting) = customers.get_mut(&*whom.customer) else { return Ok(false) };
        let mut changed = false;
        while let Some(next) = brought.peek()
            && resting.repeat(*next, folding, scratch)?
        {
            changed = true;
            brought.next();
        }
        if changed {
            self.dirty = true;
            if !std::mem::replace(&mut resting.unsaved, true) {
                self.changed.extend(changed_one(customers, whom));
            }
        }
        Ok(brought.peek().is_none())
    }

    /// A customer's state, with what was repeated while it was at rest.
    pub(crate) fn open(&self, whom: &Whom<'_>, cx: &mut Context<'_>) -> Result<CustomerState, Error> {
        let resting = self.customers.get(whom.scope).and_then(|customers| customers.get(&*whom.customer));
        let Some(resting) = resting else { return Ok(CustomerState::default()) };
        let mut state = resting.open()?;
        for repeat in resting.repeats() {
            state.repeat(repeat?, cx)?;
        }
        Ok(state)
    }

    pub(crate) fn rest(&mut self, whom: Whom<'_>, state: &CustomerState, scratch: &mut Scratch) -> Result<(), Error> {
        self.dirty = true;
        let mut resting = Resting::of(state, scratch)?;
        resting.unsaved = true;
        let customers = match self.customers.get_mut(whom.scope) {
            Some(customers) => customers,
            None => self.customers.entry(whom.scope.clone()).or_default(),
        };
        let was_unsaved = match customers.get_mut(&*whom.customer) {
            Some(held) => std::mem::replace(held, resting).unsaved,
            None => customers.insert(whom.customer.as_ref().clone(), resting).is_some(),
        };
        if !was_unsaved {
            self.changed.extend(changed_one(customers, &whom));
        }
        Ok(())
    }
}

/// Whom to note as changed: by the id that is held already, so that an event's own copy of it can go.
fn changed_one(customers: &Customers, whom: &Whom<'_>) -> Option<(Scope, CustomerId)> {
    let (id, _) = customers.get_key_value(&*whom.customer)?;
    Some((whom.scope.clone(), id.clone()))
}
