//! `tributary gateway`

use std::{net::SocketAddr, sync::Arc};

use clap::Args;

use super::{Outcome, Place, rim};
use crate::{
    config::Config,
    gateway::{self, Handle, Options, WEBHOOK_PATH},
    log::{self, EventLog},
};

#[derive(Args)]
pub(super) struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let config = arguments.place.config()?;
    let log = log::open(&config.log(&arguments.place.data_dir).map_err(rim::report)?).await.map_err(rim::report)?;
    let mut stop = rim::stop_signal()?;
    let handle = start(&config, arguments.listen, log).await?;
    // The sender lives until the signal comes.
    let _ = stop.wait_for(|stop| *stop).await;
    handle.shutdown().await;
    Ok(Outcome::Done)
}

/// Starts the gateway with the secrets of the environment.
pub(super) async fn start(config: &Config, listen: SocketAddr, log: Arc<dyn EventLog>) -> miette::Result<Handle> {
    let options = Options::new(listen, config.webhook_secrets().map_err(rim::report)?);
    let admission = Arc::new(rim::admission(config)?);
    let handle = gateway::start(options, log, admission, rim::clock()).await.map_err(rim::report)?;
    eprintln!("webhooks: POST http://{}{WEBHOOK_PATH}", handle.local_addr());
    Ok(handle)
}
