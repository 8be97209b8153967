//! Stripe's webhook signatures, scheme `v1`: HMAC-SHA256 over `"{t}.{raw body}"`.
//!
//! Verification works on the bytes as received, in constant time, accepts any of several secrets and signatures (a
//! rolled secret signs twice for a while) and refuses time stamps too far on either side of the receiver's clock,
//! which the caller passes in.

use std::{fmt, time::Duration};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::time::EventTime;

/// How far a time stamp may lie from the receiver's clock, as Stripe's own libraries have it.
pub const DEFAULT_TOLERANCE: Duration = Duration::from_secs(300);

/// Bytes of a header that are looked at; Stripe's has about 200 during a roll of secrets.
pub const MAX_HEADER_BYTES: usize = 4_096;

/// Signatures of scheme `v1` that are tried; Stripe sends one for each active secret.
pub const MAX_SIGNATURES: usize = 16;

/// Why a request was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No time stamp, or more than [`MAX_HEADER_BYTES`].
    #[error("the Stripe-Signature header is not `t=<seconds>,v1=<hex>`")]
    Malformed,
    /// Only other schemes.
    #[error("the Stripe-Signature header has no v1 signature")]
    NoSignature,
    /// Another secret, or another body.
    #[error("no v1 signature matches: check the endpoint's signing secret, and that nothing rewrites the body")]
    Mismatch,
    /// Signed too long ago: perhaps a replay.
    #[error("the signature is {seconds} s old; check this machine's clock, or raise the tolerance")]
    TooOld {
        /// Its age.
        seconds: i64,
    },
    /// Signed in the future.
    #[error("the signature is {seconds} s in the future; check this machine's clock")]
    TooNew {
        /// How far ahead it is.
        seconds: i64,
    },
    /// No secret to verify with.
    #[error("no webhook secret is configured; set TRIBUTARY_WEBHOOK_SECRET")]
    NoSecret,
}

/// A signing secret (`whsec_…`, used whole as the key). It is never shown.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// From its text; surrounding white space is not part of it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().into())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn mac(&self, timestamp: &str, body: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).ok()?;
        mac.update(timestamp.as_bytes());
        mac.update(b".");
        mac.update(body);
        Some(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Verifies the `Stripe-Signature` header of a request whose raw body is `body`, received at `now`.
///
/// # Errors
/// See [`Error`]. The time is judged only after a signature matched, so that it says nothing to a stranger.
pub fn verify(header: &str, body: &[u8], secrets: &[Secret], now: EventTime, tolerance: Duration) -> Result<(), Error> {
    if header.len() > MAX_HEADER_BYTES {
        return Err(Error::Malformed);
    }
    let (mut timestamp, mut signatures) = (None, Vec::new());
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", value)) => timestamp = Some(value),
            Some(("v1", value)) if signatures.len() < MAX_SIGNATURES => signatures.push(value),
            _ => {}
        }
    }
    let timestamp = timestamp.ok_or(Error::Malformed)?;
    let signed_at: i64 = timestamp.parse().map_err(|_| Error::Malformed)?;
    if signatures.is_empty() {
        return Err(Error::NoSignature);
    }
    let mut secrets = secrets.iter().filter(|secret| !secret.is_empty()).peekable();
    if secrets.peek().is_none() {
        return Err(Error::NoSecret);
    }
    let signatures: Vec<[u8; 32]> = signatures
        .into_iter()
        .filter_map(|text| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
        })
        .collect();
    let matches = secrets
        .filter_map(|secret| secret.mac(timestamp, body))
        .any(|expected| signatures.iter().any(|signature| bool::from(signature.ct_eq(&expected))));
    if !matches {
        return Err(Error::Mismatch);
    }
    let age = now.seconds().saturating_sub(signed_at);
    let tolerance = i64::try_from(tolerance.as_secs()).unwrap_or(i64::MAX);
    if age > tolerance {
        Err(Error::TooOld { seconds: age })
    } else if age < -tolerance {
        Err(Error::TooNew { seconds: -age })
    } else {
        Ok(())
    }
}

/// The header Stripe would send for `body` at `at`: for clients and tests.
#[must_use]
pub fn sign(body: &[u8], secret: &Secret, at: EventTime) -> String {
    let timestamp = at.seconds().to_string();
    let mac = secret.mac(&timestamp, body).unwrap_or_default();
    format!("t={timestamp},v1={}", hex::encode(mac))
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1","object":"event"}"#;

    fn at(seconds: i64) -> EventTime {
        EventTime::from_seconds(seconds)
    }

    #[test]
    fn a_secret_never_shows() {
        assert!(!format!("{:?}", Secret::new("whsec_abc")).contains("abc"));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let secret = Secret::new("whsec_test");
        let header = sign(BODY, &secret, at(1_000));
        let check = |header: &str, body: &[u8]| verify(header, body, from_ref(&secret), at(1_000), DEFAULT_TOLERANCE);
        assert_eq!(check(&header, BODY), Ok(()));
        for at in 0..BODY.len() {
            let mut body = BODY.to_vec();
            body[at] ^= 1;
            assert_eq!(check(&header, &body), Err(Error::Mismatch));
        }
        assert_eq!(check(&header.replace("t=1000", "t=1001"), BODY), Err(Error::Mismatch));
        assert_eq!(check(&header[..header.len() - 1], BODY), Err(Error::Mismatch));
    }

    #[test]
    fn a_rolled_secret_is_accepted_with_either_signature() {
        let (old, new, other) = (Secret::new("whsec_old"), Secret::new("whsec_new"), Secret::new("whsec_other"));
        let sign = |secret| sign(BODY, secret, at(1_000));
        let both = format!("{},v1={}", sign(&old), sign(&new).split_once("v1=").unwrap().1);
        let check = |header: &str, secrets: &[Secret]| verify(header, BODY, secrets, at(1_000), DEFAULT_TOLERANCE);
        assert_eq!(check(&both, from_ref(&old)), Ok(()));
        assert_eq!(check(&both, from_ref(&new)), Ok(()));
        assert_eq!(check(&sign(&new), &[old.clone(), new]), Ok(()));
        assert_eq!(check(&both, &[other]), Err(Error::Mismatch));
        assert_eq!(check(&both, &[]), Err(Error::NoSecret));
        assert_eq!(check(&both, &[Secret::new(" ")]), Err(Error::NoSecret));
        assert_eq!(check(&both.replace("v1=", "v0="), &[old]), Err(Error::NoSignature));
    }

    #[test]
    fn time_stamps_are_bounded_on_both_sides() {
        let secret = [Secret::new("whsec_test")];
        let header = sign(BODY, &secret[0], at(10_000));
        let check = |now| verify(&header, BODY, &secret, at(now), DEFAULT_TOLERANCE);
        assert_eq!(check(10_300), Ok(()));
        assert_eq!(check(9_700), Ok(()));
        assert_eq!(check(10_301), Err(Error::TooOld { seconds: 301 }));
        assert_eq!(check(9_699), Err(Error::TooNew { seconds: 301 }));
    }

    #[test]
    fn a_malformed_header_is_refused() {
        let secret = [Secret::new("whsec_test")];
        let long = format!("t=1,v1={}", "0".repeat(MAX_HEADER_BYTES));
        for header in ["", "v1=00", "t=,v1=00", "t=1.5,v1=00", "t", ",,,", long.as_str()] {
            assert_eq!(verify(header, BODY, &secret, at(1), DEFAULT_TOLERANCE), Err(Error::Malformed), "{header:.20}");
        }
        for header in ["t=1", "t=1,v1"] {
            assert_eq!(verify(header, BODY, &secret, at(1), DEFAULT_TOLERANCE), Err(Error::NoSignature));
        }
        assert_eq!(verify("t=1,v1=zz", BODY, &secret, at(1), DEFAULT_TOLERANCE), Err(Error::Mismatch));
    }
}
