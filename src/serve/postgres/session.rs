//! One connection, from the first byte to the last.
//!
//! pgwire's own loop races a cancel request against planning only, and goes on reading after a failed login. This one
//! races every message against the deadline and the client's cancel request, and hangs up after a refusal.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use datafusion_postgres::pgwire::{
    api::{
        ClientInfo, ClientPortalStore, METADATA_USER, NoopHandler, PgWireConnectionState, RandomPidSecretKeyGenerator,
        auth::{
            AuthSource, DefaultServerParameterProvider, LoginInfo, Password,
            sasl::{SASLAuthStartupHandler, scram::ScramAuth},
        },
        store::PortalStore,
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{PgWireBackendMessage, PgWireFrontendMessage, startup::SecretKey},
    tokio::server::{negotiate_tls, process_error, process_message},
};
use futures::{SinkExt, StreamExt};
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    queries::{Parsed, Queries},
    settings, sqlstate,
};
use crate::serve::comments::POSTGRES_VERSION;

/// Time from connecting to being logged in.
const LOGIN: Duration = Duration::from_secs(20);
/// Time a client may take to receive an error before it is given up.
const FAREWELL: Duration = Duration::from_secs(5);

/// The user and what proves its password.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) salt: Vec<u8>,
    pub(super) salted_password: Vec<u8>,
}

#[async_trait]
impl AuthSource for Credentials {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        match login.user() {
            Some(user) if user == self.user => Ok(Password::new(Some(self.salt.clone()), self.salted_password.clone())),
            user => Err(PgWireError::InvalidPassword(user.unwrap_or_default().to_owned())),
        }
    }
}

/// What the connections share.
pub(super) struct Door {
    credentials: Arc<Credentials>,
    parameters: Arc<DefaultServerParameterProvider>,
    numbers: Arc<RandomPidSecretKeyGenerator>,
    queries: Arc<Queries>,
    places: Semaphore,
    statement_timeout: Duration,
    /// Logged-in connections by the number their clients cancel them with.
    running: Mutex<HashMap<i32, Cancel>>,
}

/// What cancels the statement of a connection: the secret its client was told, and the bell to ring.
struct Cancel {
    secret: SecretKey,
    bell: Arc<Notify>,
}

impl Door {
    pub(super) fn new(
        credentials: Credentials,
        queries: Queries,
        max_connections: usize,
        statement_timeout: Duration,
    ) -> Self {
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version = POSTGRES_VERSION.to_owned();
        parameters.time_zone = "UTC".to_owned();
        parameters.is_superuser = false;
        parameters.default_transaction_read_only = true;
        Self {
            credentials: Arc::new(credentials),
            parameters: Arc::new(parameters),
            numbers: Arc::default(),
            queries: Arc::new(queries),
            places: Semaphore::new(max_connections),
            statement_timeout,
            running: Mutex::default(),
        }
    }

    fn login(&self) -> Arc<SASLAuthStartupHandler<DefaultServerParameterProvider>> {
        let credentials: Arc<dyn AuthSource> = Arc::clone(&self.credentials) as _;
        let login = SASLAuthStartupHandler::new(Arc::clone(&self.parameters))
            .with_scram(ScramAuth::new(credentials))
            .with_pid_secret_key_generator(Arc::clone(&self.numbers) as _);
        Arc::new(login)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Cancel>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self, number: i32, secret: &SecretKey) {
        if let Some(cancel) = self.running().get(&number).filter(|cancel| cancel.secret.eq_value(secret)) {
            // Wakes a statement that runs now; does nothing to a later one.
            cancel.bell.notify_waiters();
        }
    }
}

/// Keeps a logged-in connection known for cancel requests.
struct Registered<'a> {
    door: &'a Door,
    number: i32,
    bell: Arc<Notify>,
}

impl<'a> Registered<'a> {
    fn new(door: &'a Door, client: &impl ClientInfo) -> Self {
        let (number, secret) = client.pid_and_secret_key();
        let bell = Arc::new(Notify::new());
        door.running().insert(number, Cancel { secret, bell: Arc::clone(&bell) });
        Self { door, number, bell }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.door.running().remove(&self.number);
    }
}

/// Serves one connection until it ends.
pub(super) async fn run(socket: TcpStream, door: Arc<Door>, mut stopping: watch::Receiver<bool>) -> io::Result<()> {
    let login_deadline = Instant::now() + LOGIN;
    let Ok(negotiated) = timeout_at(login_deadline, negotiate_tls::<Parsed>(socket, None)).await else {
        return Ok(());
    };
    let Some(mut socket) = negotiated? else {
        return Ok(());
    };
    let login = door.login();
    let (nobody, queries) = (Arc::new(NoopHandler), &door.queries);
    let mut place = None;
    let mut registered: Option<Registered<'_>> = None;
    loop {
        let received = tokio::select! {
            biased;
            () = stopped(&mut stopping) => {
                let goodbye = sqlstate::fatal("57P01", "terminating connection: the server is shutting down");
                return refuse(&mut socket, goodbye).await;
            }
            () = sleep_until(login_deadline), if registered.is_none() => return Ok(()),
            received = socket.next() => received,
        };
        let message = match received {
            None | Some(Ok(PgWireFrontendMessage::Terminate(_))) => return Ok(()),
            Some(Ok(PgWireFrontendMessage::CancelRequest(request))) => {
                door.cancel(request.pid, &request.secret_key);
                return Ok(());
            }
            Some(Ok(message)) => message,
            Some(Err(error)) => return refuse(&mut socket, sqlstate::fatal("08P01", error.to_string())).await,
        };
        if place.is_none() {
            let Ok(free) = door.places.try_acquire() else {
                let full = "too many connections: close idle ones, or raise the server's max_connections";
                return refuse(&mut socket, sqlstate::fatal("53300", full)).await;
            };
            place = Some(free);
        }
        let extended = message.is_extended_query();
        let bell = registered.as_ref().map(|registered| Arc::clone(&registered.bell)).unwrap_or_default();
        let allowed = if registered.is_some() { limit(&socket, door.statement_timeout) } else { LOGIN };
        let deadline = Instant::now() + allowed;
        let outcome = {
            let cancelled = bell.notified();
            let (login, simple, by_parts) = (Arc::clone(&login), Arc::clone(queries), Arc::clone(queries));
            let (no_copy, no_cancel) = (Arc::clone(&nobody), Arc::clone(&nobody));
            tokio::select! {
                biased;
                () = cancelled => Err(PgWireError::QueryCanceled),
                () = sleep_until(deadline) => Err(timed_out(allowed)),
                done = process_message(message, &mut socket, login, simple, by_parts, no_copy, no_cancel) => done,
            }
        };
        match outcome {
            Ok(()) if registered.is_some() => {}
            Ok(()) => {
                if matches!(socket.state(), PgWireConnectionState::ReadyForQuery) {
                    registered = Some(Registered::new(&door, &socket));
                }
            }
            Err(error) if registered.is_none() => {
                let mut refusal = sqlstate::describe(error);
                refusal.severity = "FATAL".to_owned();
                tracing::warn!(
                    address = %socket.socket_addr(),
                    known_user = socket.metadata().get(METADATA_USER) == Some(&door.credentials.user),
                    sqlstate = refusal.code,
                    "PostgreSQL login refused"
                );
                return refuse(&mut socket, refusal).await;
            }
            Err(error) => {
                let info = sqlstate::describe(error);
                let fatal = info.is_fatal();
                // What a cut-off statement left open must not go on later.
                socket.portal_store().clear_portals();
                let sent = process_error(&mut socket, PgWireError::UserError(Box::new(info)), extended);
                match timeout(FAREWELL, sent).await {
                    Ok(sent) => sent?,
                    Err(_) => return Ok(()),
                }
                if fatal {
                    return Ok(());
                }
            }
        }
    }
}

/// Resolves when the server shuts down, or its handle was dropped.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _handle_dropped = stopping.wait_for(|stop| *stop).await.is_err();
}

/// The time the client's statement may take: the server's limit, or less where the client asked for less.
fn limit(client: &impl ClientInfo, most: Duration) -> Duration {
    settings::statement_timeout(client).map_or(most, |asked| asked.min(most))
}

fn timed_out(allowed: Duration) -> PgWireError {
    let message = format!("canceling statement due to statement timeout: it may take {} ms", allowed.as_millis());
    sqlstate::user("57014", message)
}

/// Says why and hangs up.
async fn refuse<S>(socket: &mut S, refusal: ErrorInfo) -> io::Result<()>
where
    S: futures::Sink<PgWireBackendMessage, Error = io::Error> + Unpin,
{
    let farewell = async {
        socket.send(PgWireBackendMessage::ErrorResponse(refusal.into())).await?;
        socket.close().await
    };
    timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
}
