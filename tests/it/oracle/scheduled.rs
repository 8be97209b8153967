//! What queries that run on a schedule must say: the batch answer at the last boundary that time has crossed, with that
//! boundary in the place of `$as_of` and of the clock.

use chrono::{DateTime, Datelike, Days, TimeZone, Utc};
use tributary::stream::{file::Schedule, pipeline::Pipeline};

use super::{
    answers::{Answer, Batch},
    history::ZONE,
};

#[derive(Clone)]
pub(super) struct Scheduled {
    last: Answer,
    ran: Option<DateTime<Utc>>,
}

impl Scheduled {
    pub(super) fn new(pipeline: &Pipeline) -> Self {
        Self { last: Answer::new(pipeline), ran: None }
    }

    /// What it must say after an epoch.
    pub(super) async fn follow(
        &mut self,
        pipeline: &Pipeline,
        batch: &Batch,
        newest: Option<i64>,
        said: &str,
    ) -> Answer {
        let schedule = pipeline.file().metadata.schedule.unwrap();
        let boundary = newest.map(|newest| boundary(schedule, DateTime::from_timestamp_micros(newest).unwrap()));
        if boundary > self.ran {
            self.ran = boundary;
            let instant = boundary.unwrap().format("%Y-%m-%dT%H:%M:%SZ");
            let instant = format!("arrow_cast('{instant}', 'Timestamp(µs, \"UTC\")')");
            let sql = pipeline.file().text.replace("current_date", &format!("CAST({instant} AS DATE)"));
            self.last = batch.answer_to(pipeline, &sql.replace("$as_of", &instant).replace("now()", &instant)).await;
        }
        assert_eq!(pipeline.explain().last_run, self.ran.map(|ran| ran.timestamp_micros()), "{said}");
        self.last.clone()
    }
}

fn boundary(schedule: Schedule, at: DateTime<Utc>) -> DateTime<Utc> {
    let day = at.with_timezone(&ZONE).date_naive();
    let day = match schedule {
        Schedule::Hourly => {
            let seconds = at.timestamp();
            return DateTime::from_timestamp(seconds - seconds.rem_euclid(3_600), 0).unwrap();
        }
        Schedule::Daily => day,
        Schedule::Weekly => day - Days::new(day.weekday().num_days_from_monday().into()),
        Schedule::Monthly => day.with_day(1).unwrap(),
    };
    ZONE.from_local_datetime(&day.and_hms_opt(0, 0, 0).unwrap()).unwrap().to_utc()
}
