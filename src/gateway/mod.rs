//! The webhook gateway: takes Stripe's events in, and answers 200 once the log has them.
//!
//! A request is verified on its raw bytes, redacted and keyed by the same admission that every event passes, and
//! appended; only then is it answered. Whatever goes wrong before that is an answer that makes Stripe send the event
//! again (503), or one that says it never will be taken (400, 413). Nothing of a body is ever logged or sent back.
//!
//! It reads no more of an event than admission does, and waits for nothing behind the log. Speaking TLS and keeping
//! strangers out is left to what stands before it.

mod connections;
mod receive;
mod status;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};

pub use status::{Refusals, Status};

use crate::{
    log::{EventLog, MAX_RECORD_BYTES},
    stripe::{
        Admission,
        signature::{self, Secret},
    },
    time::{Clock, EventTime},
};

/// Where Stripe posts.
pub const WEBHOOK_PATH: &str = "/webhooks/stripe";

/// The largest body by default: Stripe's largest events are a few hundred kilobytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Requests in work at once by default, so that strangers make it hold 128 MiB at most. Beyond it: 503.
pub const MAX_IN_FLIGHT: usize = 128;

/// How long a request may take in all by default: less than Stripe waits, so that it hears 503 rather than nothing.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than a request may take a shutdown waits.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What can go wrong with starting the gateway.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anybody could write to the log.
    #[error(
        "the webhook gateway needs the signing secret of the endpoint: set TRIBUTARY_WEBHOOK_SECRET to the `whsec_…` \
         that Stripe's dashboard shows for it"
    )]
    NoSecret,
    /// A limit makes no sense.
    #[error("{0}")]
    Limit(String),
    /// The address cannot be used.
    #[error("the webhook gateway cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// How to run a gateway.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Any of them may have signed a request: two while one is being rolled.
    pub secrets: Vec<Secret>,
    /// How far a signature's time may lie from the clock.
    pub tolerance: Duration,
    /// Larger bodies are refused, at most [`MAX_RECORD_BYTES`].
    pub max_body_bytes: usize,
    /// More requests at once are put off, at least 1.
    pub max_in_flight: usize,
    /// How long a request may take in all.
    pub request_timeout: Duration,
}

impl Options {
    /// The usual limits.
    #[must_use]
    pub fn new(listen: SocketAddr, secrets: Vec<Secret>) -> Self {
        Self {
            listen,
            secrets,
            tolerance: signature::DEFAULT_TOLERANCE,
            max_body_bytes: MAX_BODY_BYTES,
            max_in_flight: MAX_IN_FLIGHT,
            request_timeout: REQUEST_TIMEOUT,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let probe = signature::verify("t=0,v1=0", b"", &self.secrets, EventTime::default(), Duration::ZERO);
        if probe == Err(signature::Error::NoSecret) {
            return Err(Error::NoSecret);
        }
        if !(1..=MAX_RECORD_BYTES).contains(&self.max_body_bytes) {
            return Err(Error::Limit(format!("max_body_bytes must be between 1 and {MAX_RECORD_BYTES}")));
        }
        if !(1..=Semaphore::MAX_PERMITS).contains(&self.max_in_flight) {
            return Err(Error::Limit("max_in_flight must be at least 1".to_owned()));
        }
        Ok(())
    }
}

/// A running gateway. Dropping it stops it without waiting for requests.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
    receiver: Arc<receive::Receiver>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    grace: Duration,
}

/// Listens; requests are answered from when it returns.
///
/// # Errors
/// [`Error`]
pub async fn start(
    options: Options,
    log: Arc<dyn EventLog>,
    admission: Arc<Admission>,
    clock: Clock,
) -> Result<Handle, Error> {
    options.check()?;
    let listen = |source| Error::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
    let local_addr = listener.local_addr().map_err(listen)?;
    let (max_body_bytes, grace) = (options.max_body_bytes, options.request_timeout + SHUTDOWN_GRACE);
    let receiver = Arc::new(receive::Receiver::new(options, log, admission, clock));
    let router = Router::new()
        .route(WEBHOOK_PATH, post(receive::webhook))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/status", get(receive::status))
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .with_state(Arc::clone(&receiver));
    let (stop, mut stopped) = watch::channel(false);
    let serve = axum::serve(connections::Connections::new(listener, connections::MAX_SILENCE), router)
        .with_graceful_shutdown(async move {
            // An error means that the handle is gone: that is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
    let server = tokio::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(%error, "the webhook gateway has stopped");
        }
    });
    tracing::info!(%local_addr, path = WEBHOOK_PATH, "waiting for Stripe's webhooks");
    Ok(Handle { local_addr, receiver, stop, server, grace })
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it has done; `GET /status` answers the same.
    #[must_use]
    pub fn status(&self) -> Status {
        self.receiver.status()
    }

    /// Takes no more requests, and waits for those in work.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let mut server = self.server;
        if timeout(self.grace, &mut server).await.is_err() {
            tracing::warn!("requests to the webhook gateway were cut off; Stripe will send them again");
            server.abort();
        }
    }
}
