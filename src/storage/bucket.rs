//! A prefix of an S3 bucket, on Amazon's service or on a server that speaks its protocol.
//!
//! Credentials come from the usual `AWS_…` variables, or from the role of the machine, and from nowhere else. Before
//! anything is done with it a bucket is asked for an object, so that a wrong name or key is told of at once and in words.

use std::{sync::Arc, time::Duration};

use object_store::{
    ObjectStoreExt, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut},
    path::Path,
};
use url::Url;

use super::{Error, Location};

/// How long requests are tried again while a server is away: a restart of it passes unnoticed, and what lasts longer
/// stops the engine while its messages are still of today.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for the first request, which a person waits for.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// More than come about in these times: the time decides.
const MAX_RETRIES: usize = 1_000;

/// What the first request asks for; it is there when an engine has run.
const PROBE: &str = "engine/gen/00000000000000000001.json";

/// How S3 says that the bucket, and not the object, is missing.
const NO_BUCKET: &str = "NoSuchBucket";

/// Which bucket, and how to reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// `s3://bucket/prefix`
    pub url: String,
    /// The server's address, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The bucket's region, if `AWS_REGION` does not say it.
    pub region: Option<String>,
    /// Whether the bucket is named in the path (`server/bucket/…`), and not in the host (`bucket.server/…`).
    pub path_style: bool,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: bool,
}

impl Options {
    /// The location; it answers.
    pub(super) async fn open(&self) -> Result<Location, Error> {
        let url = self.url()?;
        Path::from_url_path(url.path()).map_err(|error| setting("url", error.to_string()))?;
        let probe = Location { root: Arc::new(self.build(PROBE_TIMEOUT)?), url: url.clone() };
        match probe.store().get(&Path::from(PROBE)).await {
            Err(error) if !is_absent(&error) => Err(failed(url.to_string(), error)),
            _ => Ok(Location { root: Arc::new(self.build(RETRY_TIMEOUT)?), url }),
        }
    }

    /// The URL, with a slash at its end.
    fn url(&self) -> Result<Url, Error> {
        let example = || setting("url", "it names no bucket, as in s3://bucket/prefix".to_owned());
        let mut url = Url::parse(&self.url).map_err(|_| example())?;
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if url.scheme() != "s3" || url.host_str().is_none_or(str::is_empty) || url.fragment().is_some() {
            return Err(example());
        }
        if !plain || url.port().is_some() {
            let problem = "it holds more than bucket and prefix; credentials come from AWS_… variables";
            return Err(setting("url", problem.to_owned()));
        }
        let path = url.path().trim_matches('/').to_owned();
        url.set_path(&if path.is_empty() { "/".to_owned() } else { format!("/{path}/") });
        Ok(url)
    }

    fn build(&self, patience: Duration) -> Result<AmazonS3, Error> {
        let url = self.url()?;
        let bucket = url.host_str().unwrap_or_default();
        let retry = RetryConfig { max_retries: MAX_RETRIES, retry_timeout: patience, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(!self.path_style)
            // What checkpoints and tables rest on, whatever the environment says.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry);
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(self.endpoint(endpoint)?);
        }
        if self.allow_http {
            builder = builder.with_allow_http(true);
        }
        builder.build().map_err(|error| setting("url", error.to_string()))
    }

    fn endpoint(&self, endpoint: &str) -> Result<String, Error> {
        let problem = |problem: &str| Err(setting("endpoint", problem.to_owned()));
        let Ok(url) = Url::parse(endpoint) else { return problem("it is no address, such as https://s3.example.com") };
        if !url.username().is_empty() || url.password().is_some() {
            return problem("credentials do not stand in it; they come from AWS_… variables");
        }
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return problem("it is plain http; use https, or set storage.allow_http = true"),
            _ => return problem("it is no address, such as https://s3.example.com"),
        }
        Ok(endpoint.trim_end_matches('/').to_owned())
    }
}

/// Whether the bucket is there and only the object is not.
fn is_absent(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { source, .. } if !source.to_string().contains(NO_BUCKET))
}

fn setting(setting: &'static str, problem: String) -> Error {
    Error::Setting { setting, problem }
}

fn failed(url: String, error: object_store::Error) -> Error {
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Error::Denied { url }
        }
        object_store::Error::NotFound { .. } => Error::NoBucket { url },
        error => Error::Unreachable { url, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> Options {
        Options { url: url.to_owned(), endpoint: None, region: None, path_style: true, allow_http: false }
    }

    #[test]
    fn a_url_names_bucket_and_prefix_and_nothing_else() {
        for (given, meant) in [
            ("s3://bucket", "s3://bucket/"),
            ("s3://bucket/a/b", "s3://bucket/a/b/"),
            ("s3://bucket/a/", "s3://bucket/a/"),
        ] {
            assert_eq!(options(given).url().unwrap().as_str(), meant);
        }
        for wrong in ["bucket", "http://bucket/a", "s3://", "s3:///a", "s3://bucket/a#b"] {
            let error = options(wrong).url().unwrap_err().to_string();
            assert!(error.contains("s3://bucket/prefix"), "{wrong}: {error}");
        }
        for secret in ["s3://key:hidden@bucket/a", "s3://bucket/a?secret=hidden"] {
            let error = options(secret).url().unwrap_err().to_string();
            assert!(error.contains("AWS_") && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn an_endpoint_is_an_address_without_credentials_and_with_tls_unless_allowed() {
        let endpoint = |text: &str, allow_http| {
            Options { allow_http, ..options("s3://bucket") }.endpoint(text).map_err(|error| error.to_string())
        };
        assert_eq!(endpoint("https://s3.example.com/", false).unwrap(), "https://s3.example.com");
        assert_eq!(endpoint("http://127.0.0.1:9000", true).unwrap(), "http://127.0.0.1:9000");
        assert!(endpoint("http://127.0.0.1:9000", false).unwrap_err().contains("allow_http"));
        assert!(endpoint("localhost", true).unwrap_err().contains("no address"));
        let error = endpoint("https://key:hidden@s3.example.com", true).unwrap_err();
        assert!(error.contains("AWS_") && !error.contains("hidden"), "{error}");
    }
}
