//! The PostgreSQL door: a password, queries, nothing else.
//!
//! SCRAM-SHA-256 is the only way in and the server keeps no password, only its salted hash. Every statement is checked
//! to be a query before it is planned, has a deadline, can be cancelled (`Ctrl-C` in psql) and returns a bounded number
//! of rows. Refusals carry the SQLSTATE a PostgreSQL client expects: 28P01 wrong password, 53300 too many connections,
//! 25006 read-only, 57014 cancelled or timed out, 54000 too many rows. There is no TLS yet, so the door opens on
//! loopback addresses alone.

mod queries;
mod session;
mod settings;
mod sqlstate;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use datafusion_postgres::pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, gen_salted_password};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{Catalog, Error, Secret};
use session::{Credentials, Door};

/// Connections allowed by default: a BI tool's pool and a few people; each holds little memory while idle.
pub const MAX_CONNECTIONS: usize = 64;
/// Time a statement may take by default.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows a statement may return by default. A driver that does not fetch in portions makes the server hold a whole
/// result, about 0.2 KB a row.
pub const ROW_LIMIT: usize = 1_000_000;

/// Connections that may be shaking hands beyond `max_connections`, so that a full server can still refuse politely and
/// take a cancel request. At the bound new ones wait in the system's backlog.
const HANDSHAKES: usize = 32;
/// Time running statements get to finish at [`Handle::shutdown`].
const DRAIN: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept a connection (usually: no file descriptors left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The one user there is.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// 16 fresh random bytes: the salt of the password's hash.
    pub salt: [u8; 16],
    /// Connections at a time; more are refused with 53300.
    pub max_connections: usize,
    /// Time a statement may take, sending its rows included; a client can ask for less with `SET statement_timeout`.
    pub statement_timeout: Duration,
    /// Rows a statement may return.
    pub row_limit: usize,
}

impl Options {
    /// Usual limits.
    #[must_use]
    pub fn new(listen: SocketAddr, user: impl Into<String>, password: Secret, salt: [u8; 16]) -> Self {
        Self {
            listen,
            user: user.into(),
            password,
            salt,
            max_connections: MAX_CONNECTIONS,
            statement_timeout: STATEMENT_TIMEOUT,
            row_limit: ROW_LIMIT,
        }
    }
}

/// A door that is open. Dropping it closes the door as [`Handle::shutdown`] does, without waiting.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Handle {
    /// Where clients connect.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes no more connections, ends the idle ones at once and the others after their statement, 10 seconds at most.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.accepting.await {
            tracing::error!(%error, "the PostgreSQL server ended abnormally");
        }
    }
}

/// Opens the door to `catalog`.
///
/// # Errors
/// [`Error::ListenWithoutTls`] for an address that is not loopback, [`Error::Listen`] when it cannot be bound,
/// [`Error::EmptyPassword`].
pub async fn start(options: Options, catalog: Arc<Catalog>) -> Result<Handle, Error> {
    if !options.listen.ip().is_loopback() {
        return Err(Error::ListenWithoutTls(options.listen));
    }
    if options.password.expose().is_empty() {
        return Err(Error::EmptyPassword);
    }
    let failed = |source| Error::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    let credentials = Credentials {
        salted_password: gen_salted_password(options.password.expose(), &options.salt, SCRAM_ITERATIONS),
        user: options.user,
        salt: options.salt.to_vec(),
    };
    let door = Arc::new(Door::new(
        credentials,
        queries::Queries::new(catalog, options.row_limit),
        options.max_connections,
        options.statement_timeout,
    ));
    let (stop, stopping) = watch::channel(false);
    let sockets = Arc::new(Semaphore::new(options.max_connections + HANDSHAKES));
    let accepting = tokio::spawn(accept(listener, door, sockets, stopping));
    Ok(Handle { local_addr, stop, accepting })
}

async fn accept(listener: TcpListener, door: Arc<Door>, sockets: Arc<Semaphore>, mut stopping: watch::Receiver<bool>) {
    let mut sessions = JoinSet::new();
    loop {
        let accepted = async {
            let socket = Arc::clone(&sockets).acquire_owned().await;
            (socket, listener.accept().await)
        };
        tokio::select! {
            () = session::stopped(&mut stopping) => break,
            Some(ended) = sessions.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a PostgreSQL session ended abnormally");
                }
            }
            (socket, connection) = accepted => match connection {
                Ok((connection, _)) => {
                    let (door, stopping) = (Arc::clone(&door), stopping.clone());
                    sessions.spawn(async move {
                        let _socket = socket;
                        if let Err(error) = session::run(connection, door, stopping).await {
                            tracing::debug!(%error, "a PostgreSQL connection broke");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a PostgreSQL connection; trying again");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
    drop(listener);
    let drained = timeout(DRAIN, async { while sessions.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(sessions = sessions.len(), "PostgreSQL statements cut off by the shutdown");
        sessions.shutdown().await;
    }
}
