//! Identifiers that look like Stripe's: unique in an account, without order in time, the same for the same seed.

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PAIRS: u64 = 62 * 62;
/// Unique tails are permutations of 47 bits, which eight letters out of 62 can hold.
const BITS: u64 = (1 << 47) - 1;
const CAPACITY: usize = 31;

/// One identifier, prefix included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    bytes: [u8; CAPACITY],
    len: u8,
}

impl Id {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// Makes identifiers.
pub(super) struct Ids {
    pairs: Vec<[u8; 2]>,
    next: u64,
    salt: u64,
    account: [u8; 10],
}

impl Ids {
    pub(super) fn new(seed: u64) -> Self {
        let pairs = (0..PAIRS).map(|pair| [ALPHABET[(pair / 62) as usize], ALPHABET[(pair % 62) as usize]]).collect();
        let mut ids = Self { pairs, next: 0, salt: scatter(seed), account: *b"B7WZ01zgkW" };
        let mut letters = [0_u8; 14];
        ids.letters(&mut letters);
        ids.account.copy_from_slice(&letters[..10]);
        ids
    }

    /// The account's own identifier, as it shows in links.
    pub(super) fn account(&self) -> String {
        format!("acct_1Pg{}", std::str::from_utf8(&self.account).unwrap_or_default())
    }

    /// `prefix` and 24 characters, the middle ten being the account's: events, prices, invoices, charges.
    pub(super) fn long(&mut self, prefix: &str) -> Id {
        let mut letters = [0_u8; 14];
        self.letters(&mut letters);
        let mut id = begin(prefix);
        let account = self.account;
        extend(&mut id, if matches!(prefix, "ch_" | "pi_" | "re_" | "txn_") { b"3" } else { b"1" });
        extend(&mut id, &letters[..5]);
        extend(&mut id, &account);
        extend(&mut id, &letters[6..]);
        id
    }

    /// `prefix` and 14 characters: customers, subscription items, products, requests.
    pub(super) fn short(&mut self, prefix: &str) -> Id {
        let mut letters = [0_u8; 14];
        self.letters(&mut letters);
        let mut id = begin(prefix);
        extend(&mut id, &letters);
        id
    }

    /// Six scattered letters and eight unique ones.
    fn letters(&mut self, letters: &mut [u8; 14]) {
        self.next += 1;
        let mut head = scatter(self.next ^ self.salt);
        let mut tail = (self.next ^ self.salt).wrapping_mul(0x5851_F42D_4C95_7F2D) & BITS;
        tail = (tail ^ (tail >> 24)).wrapping_mul(0x27D4_EB2F_1656_67C5) & BITS;
        tail ^= tail >> 23;
        for pair in letters[..6].chunks_exact_mut(2) {
            pair.copy_from_slice(&self.pairs[(head % PAIRS) as usize]);
            head /= PAIRS;
        }
        for pair in letters[6..].chunks_exact_mut(2) {
            pair.copy_from_slice(&self.pairs[(tail % PAIRS) as usize]);
            tail /= PAIRS;
        }
    }
}

fn begin(prefix: &str) -> Id {
    let mut id = Id { bytes: [0; CAPACITY], len: 0 };
    extend(&mut id, prefix.as_bytes());
    id
}

fn extend(id: &mut Id, text: &[u8]) {
    let start = usize::from(id.len);
    id.bytes[start..start + text.len()].copy_from_slice(text);
    id.len += text.len() as u8;
}

/// A permutation of 64 bits without visible order (the finaliser of SplitMix64).
pub(super) fn scatter(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique_of_stripes_length_and_without_order() {
        let mut ids = Ids::new(7);
        let made: Vec<Id> = (0..200_000).map(|_| ids.long("evt_")).collect();
        assert!(made.iter().all(|id| id.as_str().len() == 28));
        let distinct: HashSet<&str> = made.iter().map(Id::as_str).collect();
        assert_eq!(distinct.len(), made.len());
        let ascending = made.windows(2).filter(|pair| pair[0].as_str() < pair[1].as_str()).count();
        assert!((90_000..110_000).contains(&ascending), "{ascending} of 200,000 neighbours ascend");
        assert_eq!(ids.short("cus_").as_str().len(), 18);
    }
}
