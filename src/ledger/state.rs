//! The ledger's state as bytes, for checkpoints: one piece per bucket and one for the catalogue.
//!
//! A ledger that is restored from its pieces goes on exactly as if it had never stopped.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Bucket, Customers, Error, Ledger, billing::Payers, catalogue::Shelf, resting::Resting, rules::Rules};
use crate::stripe::{ids::CustomerId, types::Scope};

/// Version of the layout; another one means a rebuild.
const FORMAT: u8 = 4;

#[derive(Serialize)]
struct BucketBytes<'a> {
    format: u8,
    customers: Vec<(&'a Scope, Vec<(&'a CustomerId, &'a Resting)>)>,
    payers: &'a Payers,
}

#[derive(Deserialize)]
struct BucketState {
    customers: Vec<(Scope, Customers)>,
    payers: Payers,
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
            bucket.dirty = false;
        }
    }

    /// A bucket as bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the state cannot be written; that is a defect.
    pub fn encode_bucket(&self, bucket: u8) -> Result<Vec<u8>, Error> {
        let Bucket { customers, payers, .. } = &self.buckets.0[usize::from(bucket)];
        let customers = customers.iter().map(|(scope, customers)| {
            let mut customers: Vec<_> = customers.iter().collect();
            customers.sort_unstable_by(|a, b| a.0.cmp(b.0));
            (scope, customers)
        });
        encode(&part(bucket), &BucketBytes { format: FORMAT, customers: customers.collect(), payers })
    }

    /// Replaces a bucket by its state in a checkpoint.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if these are not the bytes of a bucket of this version.
    pub fn restore_bucket(&mut self, bucket: u8, bytes: &[u8]) -> Result<(), Error> {
        let BucketState { customers, mut payers } = decode(&part(bucket), bytes)?;
        payers.index();
        let customers = customers.into_iter().collect();
        self.buckets.0[usize::from(bucket)] = Bucket { customers, payers, dirty: false };
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
