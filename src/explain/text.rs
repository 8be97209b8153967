//! Stories for people.

use std::fmt::Write;

use super::{
    arithmetic::Arithmetic,
    origin::Origin,
    story::{Entry, Moved, State, Story},
};

/// A customer's story, `asked` being what of the history it is.
#[must_use]
pub fn story(story: &Story, asked: &str) -> String {
    let mut out = String::new();
    let mode = if story.livemode { "live" } else { "test" };
    line(&mut out, format_args!("customer {} · account {} · {mode} · {asked}", story.customer_id, story.account));
    for moment in &story.moments {
        line(&mut out, format_args!("\n{}", moment.time));
        for event in &moment.events {
            let late =
                if event.too_late { "  too late: archived, not applied; `tributary rebuild` applies it" } else { "" };
            line(&mut out, format_args!("  event     {}  {}{late}", event.kind, event.event_id));
        }
        for state in &moment.states {
            line(&mut out, format_args!("  item      {}", state_text(state)));
            note(&mut out, &state.arithmetic);
        }
        for entry in &moment.entries {
            line(&mut out, format_args!("  entry     {}", entry_text(entry)));
            if let Some(reversed) = &entry.reversed {
                let instead = match reversed.replaced_by.as_slice() {
                    [] => "nothing is in its place".to_owned(),
                    ids => format!("now {}", ids.join(", ")),
                };
                line(
                    &mut out,
                    format_args!(
                        "            taken back when a late event came, known {}, by {}: {instead}",
                        reversed.known_at, reversed.entry_id
                    ),
                );
            }
        }
        for movement in &moment.movements {
            line(&mut out, format_args!("  movement  {}", movement_text(movement)));
        }
        for gap in &moment.gaps {
            line(&mut out, format_args!("  gap       {} {}  {}", gap.reason, gap.object_id, gap.event_id));
        }
    }
    let worth: Vec<String> = story.mrr.iter().map(|(currency, mrr)| format!("{mrr} {currency}")).collect();
    let worth = if worth.is_empty() { "nothing".to_owned() } else { worth.join(", ") };
    line(&mut out, format_args!("\nMRR at the end: {worth}"));
    out
}

/// A movement with what it is made of.
#[must_use]
pub fn origin(origin: &Origin, asked: &str) -> String {
    let mut out = String::new();
    let Moved { movement_id, customer_id, occurred_at, revision, .. } = &origin.movement;
    let mode = if origin.livemode { "live" } else { "test" };
    line(
        &mut out,
        format_args!("movement {movement_id} · revision {revision} · account {} · {mode} · {asked}", origin.account),
    );
    line(&mut out, format_args!("customer {customer_id} at {occurred_at}: {}", movement_text(&origin.movement)));
    for step in &origin.entries {
        line(&mut out, format_args!("\n  entry     {}", entry_text(&step.entry)));
        if let Some(before) = &step.before {
            line(&mut out, format_args!("  before    {}  since {}", state_text(before), before.valid_from));
            note(&mut out, &before.arithmetic);
        }
        if let Some(after) = &step.after {
            line(&mut out, format_args!("  after     {}", state_text(after)));
            note(&mut out, &after.arithmetic);
        }
    }
    out.push('\n');
    for event in &origin.events {
        line(&mut out, format_args!("  event     {}  {}  {}", event.created, event.kind, event.event_id));
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn state_text(state: &State) -> String {
    let Arithmetic { sum, counts, out, .. } = &state.arithmetic;
    let mut text = format!("{}  {}  {}", state.subscription_item_id, state.price_id, state.status);
    let words: Vec<&str> = state.flags.iter().map(String::as_str).filter(|word| *word != "trial").collect();
    if !words.is_empty() {
        let _ = write!(text, " ({})", words.join(", "));
    }
    if let Some(sum) = sum {
        let _ = write!(text, "  {sum} {}", state.currency.as_deref().unwrap_or_default());
    }
    if let Some(out) = out {
        let _ = write!(text, "  counts {counts}: {out}");
    }
    if state.provenance != "event" {
        let _ = write!(text, "  [{}]", state.provenance);
    }
    if let Some(evidence) = &state.order_evidence {
        let _ = write!(text, "  [order within the second: {evidence}]");
    }
    if state.superseded {
        text.push_str("  [no longer holds]");
    }
    text
}

fn note(out: &mut String, arithmetic: &Arithmetic) {
    for discount in &arithmetic.left_out {
        line(out, format_args!("            {discount}"));
    }
}

fn entry_text(entry: &Entry) -> String {
    format!(
        "{} {}  {} {}  {}  {}  {}",
        signed(&entry.mrr_delta),
        entry.currency,
        entry.subscription_item_id,
        entry.price_id,
        entry.change,
        entry.causes.join(", "),
        entry.entry_id
    )
}

fn movement_text(movement: &Moved) -> String {
    let Moved { kind, mrr_before, mrr_after, mrr_delta, currency, causes, movement_id, .. } = movement;
    format!(
        "{kind}  {mrr_before} → {mrr_after} {currency} ({})  {}  {movement_id}",
        signed(mrr_delta),
        causes.join(", ")
    )
}

fn signed(amount: &str) -> String {
    if amount.starts_with('-') { amount.replacen('-', "−", 1) } else { format!("+{amount}") }
}
