//! `tributary movement`: where a movement comes from.

use clap::Args;

use super::{
    Outcome, Place,
    asked::Asked,
    customer::{Written, facts, quote, rows, schema},
    query, rim,
};
use crate::{
    explain::{origin, text},
    ledger::rows::Movement,
    serve::Catalog,
    tables::read,
};

#[derive(Args)]
pub(super) struct Arguments {
    /// `movement_id` of mrr_movements
    id: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    asked: Asked,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    output: Written,
}

pub(super) async fn run(arguments: Arguments) -> miette::Result<Outcome> {
    let Arguments { id, place, asked, output } = arguments;
    let catalog = if asked.is_history() { asked.catalog(&place, None).await? } else { query::catalog(&place).await? };
    let Some(movement) = find(&catalog, &id).await? else {
        miette::bail!(
            help = "this lists them: tributary query \"select movement_id, occurred_at, customer_id from mrr_movements\"; \
                    one that was there may have gone when a late event came, which `tributary customer` shows, or be \
                    asked for with --known-at",
            "there is no movement {id}"
        );
    };
    let customer = movement.customer_id.to_string();
    let facts = facts(&catalog, &asked, &place, movement.scope.clone(), &customer).await?;
    let origin = origin::trace(&movement, &facts).map_err(rim::report)?;
    output.say(&origin, text::origin(&origin, &asked.said()).trim_end())?;
    Ok(Outcome::Done)
}

/// The movement of that id, in live data or test data: its hash covers the mode.
async fn find(catalog: &Catalog, id: &str) -> miette::Result<Option<Movement>> {
    for livemode in [true, false] {
        let sql = format!("SELECT * FROM {}.mrr_movements WHERE movement_id = {}", schema(livemode), quote(id));
        let found = read::mrr_movements(&rows(catalog, &sql).await?).map_err(rim::report)?;
        if let Some(movement) = found.into_iter().next() {
            return Ok(Some(movement));
        }
    }
    Ok(None)
}
