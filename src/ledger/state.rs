//! The ledger's state as bytes, for checkpoints: of every bucket one piece with everything and then pieces with what
//! changed, and one for the catalogue.
//!
//! A ledger that is restored from its pieces goes on exactly as if it had never stopped.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Error, Ledger,
    billing::{Payers, PayersChanges},
    buckets::{Bucket, Customers},
    catalogue::Shelf,
    resting::Resting,
    rules::Rules,
};
use crate::stripe::{ids::CustomerId, types::Scope};

/// Version of the layout; another one means a rebuild.
const FORMAT: u8 = 8;

#[derive(Serialize)]
struct BucketBytes<'a> {
    format: u8,
    customers: Vec<(&'a Scope, Vec<(&'a CustomerId, &'a Resting)>)>,
    payers: PayersBytes<'a>,
}

#[derive(Serialize)]
enum PayersBytes<'a> {
    Whole(&'a Payers),
    Changes(PayersChanges<'a>),
}

#[derive(Deserialize)]
struct BucketState {
    customers: Vec<(Scope, Customers)>,
    payers: PayersState,
}

#[derive(Deserialize)]
enum PayersState {
    Whole(Payers),
    Changes(PayersChanges<'static>),
}

#[derive(Serialize)]
struct CatalogueBytes<'a> {
    format: u8,
    rules: &'a Rules,
    shelves: &'a BTreeMap<Scope, Shelf>,
}

#[derive(Deserialize)]
struct CatalogueState {
    rules: Rules,
    shelves: BTreeMap<Scope, Shelf>,
}

impl Ledger {
    /// The buckets that changed since [`Ledger::clear_dirty`].
    #[must_use]
    pub fn dirty_buckets(&self) -> Vec<u8> {
        (0..=u8::MAX).filter(|bucket| self.buckets.0[usize::from(*bucket)].dirty).collect()
    }

    /// Whether the catalogue changed since [`Ledger::clear_dirty`].
    #[must_use]
    pub fn catalogue_dirty(&self) -> bool {
        self.catalogue_dirty
    }

    /// Notes that everything so far is in a checkpoint.
    pub fn clear_dirty(&mut self) {
        self.catalogue_dirty = false;
        for bucket in &mut self.buckets.0 {
            bucket.saved();
        }
    }

    /// A bucket as bytes: everything, or what changed since [`Ledger::clear_dirty`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the state cannot be written; that is a defect.
    pub fn encode_bucket(&self, bucket: u8, whole: bool) -> Result<Vec<u8>, Error> {
        let Bucket { customers, payers, changed, .. } = &self.buckets.0[usize::from(bucket)];
        let mut of_scopes: BTreeMap<&Scope, Vec<(&CustomerId, &Resting)>> = BTreeMap::new();
        if whole {
            of_scopes.extend(customers.iter().map(|(scope, customers)| (scope, customers.iter().collect())));
        } else {
            for (scope, customer) in changed {
                let resting = customers.get(scope).and_then(|customers| customers.get_key_value(customer));
                of_scopes.entry(scope).or_default().extend(resting);
            }
        }
        of_scopes.values_mut().for_each(|customers| customers.sort_unstable_by(|a, b| a.0.cmp(b.0)));
        let payers = if whole { PayersBytes::Whole(payers) } else { PayersBytes::Changes(payers.changes()) };
        encode(&part(bucket), &BucketBytes { format: FORMAT, customers: of_scopes.into_iter().collect(), payers })
    }

    /// Replaces a bucket by its state in a checkpoint, or puts back what changed since.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if these are not the bytes of a bucket of this version.
    pub fn restore_bucket(&mut self, bucket: u8, bytes: &[u8]) -> Result<(), Error> {
        let BucketState { customers, payers } = decode(&part(bucket), bytes)?;
        let bucket = &mut self.buckets.0[usize::from(bucket)];
        match payers {
            PayersState::Whole(mut payers) => {
                payers.index();
                *bucket = Bucket { payers, ..Bucket::default() };
            }
            PayersState::Changes(changes) => bucket.payers.change(changes),
        }
        for (scope, customers) in customers {
            bucket.customers.entry(scope).or_default().extend(customers);
        }
        bucket.saved();
        Ok(())
    }

    /// The catalogue as bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the state cannot be written; that is a defect.
    pub fn encode_catalogue(&self) -> Result<Vec<u8>, Error> {
        encode("catalogue", &CatalogueBytes { format: FORMAT, rules: &self.rules, shelves: &self.shelves })
    }

    /// Replaces the catalogue by its state in a checkpoint.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if these are not the bytes of a catalogue of this version, [`Error::OtherRules`] if the
    /// checkpoint was written under other rules.
    pub fn restore_catalogue(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let CatalogueState { rules, shelves } = decode("catalogue", bytes)?;
        if rules != self.rules {
            return Err(Error::OtherRules);
        }
        self.shelves = shelves;
        self.memo.clear();
        self.catalogue_dirty = false;
        Ok(())
    }
}

impl Bucket {
    /// Everything so far is in a checkpoint.
    fn saved(&mut self) {
        self.dirty = false;
        self.payers.saved();
        for (scope, customer) in self.changed.drain(..) {
            if let Some(resting) = self.customers.get_mut(&scope).and_then(|customers| customers.get_mut(&customer)) {
                resting.unsaved = false;
            }
        }
    }
}

fn part(bucket: u8) -> String {
    format!("bucket {bucket}")
}

fn encode<T: Serialize>(part: &str, state: &T) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(state).map_err(|error| corrupt(part, &error))
}

fn decode<T: DeserializeOwned>(part: &str, bytes: &[u8]) -> Result<T, Error> {
    match bytes.split_first() {
        Some((&FORMAT, state)) => postcard::from_bytes(state).map_err(|error| corrupt(part, &error)),
        Some((other, _)) => Err(corrupt(part, &format!("format {other}, expected {FORMAT}"))),
        None => Err(corrupt(part, &"empty")),
    }
}

pub(super) fn corrupt(part: &str, detail: &dyn fmt::Display) -> Error {
    Error::Corrupt { part: part.to_owned(), detail: detail.to_string() }
}
