//! The rim: wraps objects as events, and hands lines to the caller in order of `created`, or as disorderly as
//! webhooks arrive.

use std::{cmp::Reverse, collections::BinaryHeap, io};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    ApiVersion,
    ids::Ids,
    json::{Text, put, undo},
    truth::DAY,
};

/// How late a webhook can arrive: Stripe retries for three days.
const LATEST_SECONDS: i64 = 3 * DAY;

/// Takes one event: a JSON line without its newline.
pub type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Writes an object as JSON.
pub(super) type Write<'w> = &'w dyn Fn(&mut Vec<u8>);

/// Who made something happen, as `request` tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Stripe's own automation: no request id.
    Stripe,
    /// A call of the merchant's.
    Merchant,
}

pub(super) struct Outbox<'a> {
    version: ApiVersion,
    /// `"account":…,` or nothing.
    account: String,
    line: Vec<u8>,
    before: Vec<u8>,
    undone: Vec<u8>,
    disorder: f64,
    rng: StdRng,
    /// Delayed lines by time of arrival: at most the share `disorder` of three days' events.
    delayed: BinaryHeap<Reverse<(i64, u64, Vec<u8>)>>,
    sent: u64,
    pub(super) events: u64,
    sink: &'a mut Sink<'a>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(
        version: ApiVersion,
        account: Option<&str>,
        disorder: f64,
        seed: u64,
        sink: &'a mut Sink<'a>,
    ) -> Self {
        let account = account.map_or_else(String::new, |id| format!(r#""account":{},"#, serde_json::Value::from(id)));
        Self {
            version,
            account,
            line: Vec::with_capacity(16 << 10),
            before: Vec::with_capacity(16 << 10),
            undone: Vec::with_capacity(4 << 10),
            disorder,
            rng: StdRng::seed_from_u64(seed ^ 0xD150_4DE4),
            delayed: BinaryHeap::new(),
            sent: 0,
            events: 0,
            sink,
        }
    }

    /// Sends an event with the object `after` writes; with `before`, the difference becomes `previous_attributes`.
    pub(super) fn event(
        &mut self,
        ids: &mut Ids,
        kind: &str,
        created: i64,
        by: By,
        after: Write<'_>,
        before: Option<Write<'_>>,
    ) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        put!(&mut line;
            r#"{"id":"#, ids.long("evt_"), r#","object":"event","#, self.account.as_str(), r#""api_version":"#,
            Text(self.version.as_str()), r#","created":"#, created, r#","data":{"object":"#,
        );
        let start = line.len();
        after(&mut line);
        let object = start..line.len();
        if let Some(before) = before {
            self.before.clear();
            before(&mut self.before);
            put!(&mut line; r#","previous_attributes":"#);
            self.undone.clear();
            undo(&self.before, &line[object], &mut self.undone);
            line.extend_from_slice(&self.undone);
        }
        let pending = self.rng.random_range(1..4_i64);
        put!(&mut line; r#"},"livemode":true,"pending_webhooks":"#);
        let digit = line.len();
        put!(&mut line; pending, r#","request":{"id":"#);
        match by {
            By::Stripe => put!(&mut line; r#"null,"idempotency_key":null}"#),
            By::Merchant => {
                put!(&mut line; ids.short("req_"), r#","idempotency_key":""#);
                uuid(self.rng.random(), &mut line);
                put!(&mut line; "\"}");
            }
        }
        put!(&mut line; r#","type":"#, Text(kind), "}");
        self.events += 1;
        let sent = self.send(created, &line, digit);
        self.line = line;
        sent
    }

    fn send(&mut self, created: i64, line: &[u8], digit: usize) -> io::Result<()> {
        if self.disorder <= 0.0 {
            return (self.sink)(line);
        }
        self.deliver_until(created)?;
        if self.rng.random_bool(self.disorder) {
            let mut copy = line.to_vec();
            copy[digit] -= 1;
            self.delay(created, copy);
        }
        if self.rng.random_bool(self.disorder) {
            self.delay(created, line.to_vec());
            return Ok(());
        }
        (self.sink)(line)
    }

    fn delay(&mut self, created: i64, line: Vec<u8>) {
        let arrival = created + self.rng.random_range(1..=LATEST_SECONDS);
        self.sent += 1;
        self.delayed.push(Reverse((arrival, self.sent, line)));
    }

    fn deliver_until(&mut self, now: i64) -> io::Result<()> {
        while let Some(Reverse((arrival, _, _))) = self.delayed.peek()
            && *arrival <= now
        {
            if let Some(Reverse((_, _, line))) = self.delayed.pop() {
                (self.sink)(&line)?;
            }
        }
        Ok(())
    }

    /// Delivers what is still delayed.
    pub(super) fn finish(&mut self) -> io::Result<u64> {
        self.deliver_until(i64::MAX)?;
        Ok(self.events)
    }
}

/// A version 4 UUID's text.
pub(super) fn uuid(bits: u128, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for at in 0..32 {
        if matches!(at, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        let nibble = (bits >> (4 * at)) as usize & 15;
        out.push(match at {
            12 => b'4',
            16 => HEX[8 + (nibble & 3)],
            _ => HEX[nibble],
        });
    }
}
