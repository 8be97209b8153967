//! One request: bound, verify, admit, append, answer.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    Options,
    status::{Counters, Status},
};
use crate::{
    log::{self, EventLog},
    stripe::{
        Admission, AdmissionCounts,
        signature::{self, Secret},
    },
    time::Clock,
};

/// What a put-off request is told to wait. Stripe keeps its own schedule; others read it.
const RETRY_AFTER_SECONDS: &str = "5";

/// Why a request is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Signature(signature::Error),
    BodyIncomplete,
    BodySlow,
    BodyTooLarge,
    Busy,
    LogUnavailable,
}

/// The answer carries a fixed text: whoever asks learns nothing of the body or of the clock.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Signature(signature::Error::Malformed | signature::Error::NoSignature) => {
                (StatusCode::BAD_REQUEST, "no usable Stripe-Signature header\n")
            }
            Self::Signature(signature::Error::Mismatch | signature::Error::NoSecret) => {
                (StatusCode::BAD_REQUEST, "the signature does not match\n")
            }
            Self::Signature(signature::Error::TooOld { .. } | signature::Error::TooNew { .. }) => {
                (StatusCode::BAD_REQUEST, "the signature's time is outside the tolerance\n")
            }
            Self::BodyIncomplete => (StatusCode::BAD_REQUEST, "the body is incomplete\n"),
            Self::BodySlow => (StatusCode::REQUEST_TIMEOUT, "the body took too long\n"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests at once\n"),
            Self::LogUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "the event could not be stored\n"),
        };
        match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(RETRY_AFTER, RETRY_AFTER_SECONDS)], text).into_response(),
            _ => (status, text).into_response(),
        }
    }
}

/// What every request shares.
pub(super) struct Receiver {
    secrets: Vec<Secret>,
    tolerance: Duration,
    request_timeout: Duration,
    admission: Arc<Admission>,
    log: Arc<dyn EventLog>,
    free: Semaphore,
    counters: Counters,
    clock: Clock,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Receiver {
    pub(super) fn new(options: Options, log: Arc<dyn EventLog>, admission: Arc<Admission>, clock: Clock) -> Self {
        Self {
            secrets: options.secrets,
            tolerance: options.tolerance,
            request_timeout: options.request_timeout,
            admission,
            log,
            free: Semaphore::new(options.max_in_flight),
            counters: Counters::default(),
            clock,
        }
    }

    pub(super) fn status(&self) -> Status {
        self.counters.status()
    }

    async fn receive(&self, request: Request) -> Result<AdmissionCounts, Refusal> {
        let _permit = self.free.try_acquire().map_err(|_| Refusal::Busy)?;
        let deadline = Instant::now() + self.request_timeout;
        let header = signature_header(request.headers()).to_owned();
        let body = timeout_at(deadline, Bytes::from_request(request, &()))
            .await
            .map_err(|_| Refusal::BodySlow)?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Refusal::BodyTooLarge,
                _ => Refusal::BodyIncomplete,
            })?;
        signature::verify(&header, &body, &self.secrets, (self.clock)(), self.tolerance).map_err(Refusal::Signature)?;
        let mut counts = AdmissionCounts::default();
        let record = self.admission.admit(&body, &mut counts);
        // An append that is cut off may still happen: Stripe sends the event again, and its id tells.
        let reason = match timeout_at(deadline, self.log.append(vec![record])).await {
            Ok(Ok(_)) => return Ok(counts),
            Ok(Err(log::Error::TooLarge { .. })) => return Err(Refusal::BodyTooLarge),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        tracing::error!(reason, "a webhook could not be stored; Stripe will send it again");
        Err(Refusal::LogUnavailable)
    }
}

/// `POST /webhooks/stripe`
pub(super) async fn webhook(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let outcome = receiver.receive(request).await;
    let response = match &outcome {
        Ok(_) => StatusCode::OK.into_response(),
        Err(refusal) => {
            tracing::debug!(?refusal, "webhook refused");
            refusal.into_response()
        }
    };
    receiver.counters.count(outcome);
    response
}

/// `GET /status`
pub(super) async fn status(State(receiver): State<Arc<Receiver>>) -> Response {
    match serde_json::to_string(&receiver.status()) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn signature_header(headers: &HeaderMap) -> &str {
    headers.get("stripe-signature").and_then(|value| value.to_str().ok()).unwrap_or_default()
}
