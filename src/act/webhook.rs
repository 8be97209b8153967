//! Posting a message as Standard Webhooks 1.0.0 says: three headers, HMAC-SHA256 over `id.timestamp.body`, no
//! redirects, and an answer that means delivered, gone or try again.
//!
//! URLs and secrets are secrets: neither is ever printed, logged or part of an error.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chrono::DateTime;
use hmac::{Hmac, Mac};
use reqwest::{StatusCode, header::RETRY_AFTER, redirect};
use sha2::{Digest, Sha256};
use url::Url;

use super::{Error, alert::Alert, target};
use crate::time::EventTime;

/// How long a receiver may take to answer: Standard Webhooks recommends 15 to 30 seconds.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest wait a receiver can ask for: the schedule's own longest step.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Bytes of key in a secret, by the standard.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A signing secret, `whsec_` and base64.
#[derive(Clone)]
pub struct SigningSecret(Vec<u8>);

impl SigningSecret {
    /// Reads a secret.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let encoded = text.strip_prefix("whsec_").ok_or("its secret must begin with whsec_")?;
        let key = BASE64.decode(encoded).map_err(|_| "its secret must be base64 after whsec_")?;
        if !SECRET_BYTES.contains(&key.len()) {
            return Err("its secret must hold 24 to 64 bytes (try: openssl rand -base64 32)");
        }
        Ok(Self(key))
    }

    /// The value of one `webhook-signature`.
    fn sign(&self, id: &str, timestamp_seconds: i64, body: &str) -> Option<String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(format!("{id}.{timestamp_seconds}.").as_bytes());
        mac.update(body.as_bytes());
        Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

/// A webhook as configured.
#[derive(Clone)]
pub struct Options {
    /// What rules and logs call it.
    pub name: String,
    /// Where to post; may hold a secret.
    pub url: String,
    /// Each signs: two while a secret is being replaced.
    pub secrets: Vec<SigningSecret>,
    /// Whether plain http and private addresses are meant.
    pub allow_private: bool,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// 410: the receiver wants no more of them.
    Gone,
    /// Try again.
    Failed {
        /// What happened, in words without anything secret.
        reason: String,
        /// How long the receiver asked to be left alone, at most [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
    },
}

/// A webhook that can be posted to.
#[derive(Clone)]
pub struct Endpoint {
    name: Arc<str>,
    url: Url,
    target: String,
    secrets: Vec<SigningSecret>,
    client: reqwest::Client,
}

impl Endpoint {
    /// Checks the options and prepares a client of its own, which ignores proxies of the environment: behind one
    /// the promise about private addresses could not be kept.
    ///
    /// # Errors
    /// [`Error::Webhook`]
    pub fn new(options: Options) -> Result<Self, Error> {
        let problem = |problem: String| Error::Webhook { name: options.name.clone(), problem };
        let url: Url = options.url.parse().map_err(|_| problem("its URL cannot be read".to_owned()))?;
        target::check(&url, options.allow_private).map_err(|refusal| problem(refusal.to_string()))?;
        if options.secrets.is_empty() {
            return Err(problem("it needs a secret to sign with".to_owned()));
        }
        let mut client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .https_only(url.scheme() == "https")
            .user_agent(concat!("tributary/", env!("CARGO_PKG_VERSION")));
        if !options.allow_private {
            client = client.dns_resolver(Arc::new(target::PublicOnly));
        }
        let client = client.build().map_err(|error| problem(format!("no client for it: {error}")))?;
        let target = hex::encode(&Sha256::digest(url.as_str())[..8]);
        Ok(Self { name: options.name.as_str().into(), url, target, secrets: options.secrets, client })
    }

    /// What rules and logs call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A hash of the URL: tells whether it is still the same one.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Posts `alert`, signed for `now`. Takes at most [`TIMEOUT`].
    pub async fn send(&self, alert: &Alert, now: EventTime) -> Outcome {
        let body = alert.payload.get();
        let signatures: Vec<String> =
            self.secrets.iter().filter_map(|secret| secret.sign(&alert.id, now.seconds(), body)).collect();
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &alert.id)
            .header("webhook-timestamp", now.seconds())
            .header("webhook-signature", signatures.join(" "))
            .body(body.to_owned());
        match request.send().await {
            Ok(response) if response.status().is_success() => Outcome::Delivered,
            Ok(response) if response.status() == StatusCode::GONE => Outcome::Gone,
            Ok(response) => {
                let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                Outcome::Failed {
                    reason: format!("it answered {}", response.status().as_u16()),
                    retry_after: header.and_then(|header| retry_after(header, now)),
                }
            }
            Err(error) => Outcome::Failed { reason: reason(&error).to_owned(), retry_after: None },
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads `Retry-After`: seconds, or a date.
fn retry_after(header: &str, now: EventTime) -> Option<Duration> {
    let header = header.trim();
    let wait = match header.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let then = DateTime::parse_from_rfc2822(header).ok()?.timestamp();
            Duration::from_secs(u64::try_from(then.saturating_sub(now.seconds())).unwrap_or(0))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

fn reason(error: &reqwest::Error) -> &'static str {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<target::NoPublicAddress>() {
            return "its name has no public address";
        }
        source = cause.source();
    }
    if error.is_timeout() {
        "it did not answer in time"
    } else if error.is_connect() {
        "it could not be connected to"
    } else {
        "the connection broke"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        act::{ExpansionRow, alert::Subject},
        money::Amount,
    };

    #[test]
    fn signs_like_the_published_example() {
        // From the specification's reference libraries.
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#).unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn weak_or_misspelt_secrets_are_refused_and_none_is_printed() {
        for bad in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_***"] {
            assert!(SigningSecret::parse(bad).is_err(), "{bad}");
        }
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let url = "https://example.com/MfKQ".to_owned();
        let options = Options { name: "crm".into(), url, secrets: vec![secret], allow_private: false };
        let endpoint = Endpoint::new(options.clone()).unwrap();
        assert!(!format!("{options:?} {:?} {endpoint:?}", options.secrets).contains("MfKQ"));
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let url = "https://example.com/".to_owned();
        let options = Options { name: "crm".into(), url, secrets: vec![secret], allow_private: false };
        // What the name of a public host may come to lead to.
        let mut endpoint = Endpoint::new(options).unwrap();
        endpoint.url = format!("https://localhost:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
        let row = ExpansionRow {
            account: "acct_1".into(),
            livemode: true,
            movement_id: "m1".into(),
            revision: 1,
            occurred_at: EventTime::from_seconds(1),
            customer_id: "cus_1".into(),
            currency: "eur".parse().unwrap(),
            mrr_before: Amount::ZERO,
            mrr_after: Amount::ZERO,
            mrr_delta: Amount::ZERO,
            pct_change: None,
            cause: "plan_change".into(),
        };
        let now = EventTime::from_seconds(1);
        let alert = Alert::expansion(Subject::new("rule", &row), row).unwrap();
        let reason = "its name has no public address".to_owned();
        assert_eq!(endpoint.send(&alert, now).await, Outcome::Failed { reason, retry_after: None });
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_is_bounded() {
        let now = EventTime::from_seconds(1_445_412_470);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999", now), Some(MAX_RETRY_AFTER));
        assert_eq!(retry_after("soon", now), None);
    }
}
