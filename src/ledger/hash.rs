//! Stable hashes: identifiers of rows, fingerprints of snapshots and the choice of a bucket.
//!
//! Everything here gives the same value in every process and release, because it is stored. Row identifiers are
//! SHA-256; fingerprints and buckets are 64-bit and only ever compared within one entity, customer or bucket.

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use sha2::{Digest, Sha256};

/// A row identifier: 128 bits of SHA-256 over length-prefixed parts, in hexadecimal.
pub(crate) fn row_id(parts: &[&[u8]]) -> Arc<str> {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    let mut text = [0_u8; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(sha.finalize()) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
    std::str::from_utf8(&text).unwrap_or_default().into()
}

const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0_u8; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// A 64-bit fingerprint, eight bytes at a time: multiply, then fold the high half down.
#[derive(Clone)]
pub(crate) struct Fingerprint(u64);

const SEED: u64 = 0x51_7c_c1_b7_27_22_0a_95;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Fingerprint {
    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        Self(SEED)
    }

    /// Text, told apart from its neighbours by its length.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64);
        self.write(text.as_bytes());
        self
    }

    /// A number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let mixed = (self.0 ^ number).wrapping_mul(FACTOR);
        self.0 = mixed ^ (mixed >> 29);
        self
    }

    /// A number that may be absent.
    pub(crate) fn optional(&mut self, number: Option<i64>) -> &mut Self {
        match number {
            Some(number) => self.number(1).number(number as u64),
            None => self.number(0),
        }
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.number(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.number(u64::from_le_bytes(word));
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 32)
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

/// For maps by Stripe's ids, which nobody outside Stripe chooses.
pub(crate) type QuickHash = BuildHasherDefault<Fingerprint>;

/// A 64-bit hash of some texts.
pub(crate) fn short(parts: &[&str]) -> u64 {
    let mut print = Fingerprint::new();
    for part in parts {
        print.text(part);
    }
    print.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_stored_never_change() {
        assert_eq!(&*row_id(&[b"a", b"bc"]), "9a8acca1b6c6c0befd3fbc756aed625d");
        assert_ne!(row_id(&[b"ab", b"c"]), row_id(&[b"a", b"bc"]));
        assert_eq!(short(&["cus_1"]), 0x0401_981d_f676_6c1b);
        assert_ne!(short(&["ab", "c"]), short(&["a", "bc"]));
    }
}
