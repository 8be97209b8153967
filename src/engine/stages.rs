//! Where the engine's time goes, stage by stage: wall time, waiting for new records left out.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The time spent in each stage since the engine started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stages {
    /// Waiting for records to be read from the log and decoded, which goes on beside the other stages while there is a
    /// backlog.
    pub read: Duration,
    /// Events to entries, states and movements.
    pub ledger: Duration,
    /// Rows of the engine's own tables: made, shown, and put into files where many wait for the next checkpoint.
    pub tables: Duration,
    /// SQL pipelines, their rows shown.
    pub pipelines: Duration,
    /// Scores of customers.
    pub score: Duration,
    /// Making all of it durable.
    pub checkpoint: Duration,
}

/// Seconds of each stage, and its share of all.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read, ledger, tables, pipelines, score, checkpoint } = self;
        let all = (*read + *ledger + *tables + *pipelines + *score + *checkpoint).as_secs_f64();
        let mut comma = "";
        for (name, time) in [
            ("read", read),
            ("ledger", ledger),
            ("tables", tables),
            ("pipelines", pipelines),
            ("score", score),
            ("checkpoint", checkpoint),
        ] {
            let seconds = time.as_secs_f64();
            let percent = if all > 0.0 { seconds / all * 100.0 } else { 0.0 };
            write!(f, "{comma}{name} {seconds:.2} s ({percent:.0} %)")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// Times one stage after the other.
pub(super) struct Laps(Instant);

impl Laps {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start or the last lap.
    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_said_with_its_seconds_and_its_share() {
        let stages =
            Stages { read: Duration::from_millis(1_500), checkpoint: Duration::from_millis(500), ..Stages::default() };
        assert_eq!(
            stages.to_string(),
            "read 1.50 s (75 %), ledger 0.00 s (0 %), tables 0.00 s (0 %), \
             pipelines 0.00 s (0 %), score 0.00 s (0 %), checkpoint 0.50 s (25 %)"
        );
        assert!(Stages::default().to_string().ends_with("checkpoint 0.00 s (0 %)"));
    }

    #[test]
    fn a_checkpoint_of_a_program_with_other_stages_can_be_read() {
        let read: Stages =
            serde_json::from_str(r#"{"ledger":{"secs":2,"nanos":0},"brewing":{"secs":1,"nanos":0}}"#).unwrap();
        assert_eq!(read, Stages { ledger: Duration::from_secs(2), ..Stages::default() });
    }
}
