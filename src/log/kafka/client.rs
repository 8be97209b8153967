//! Clients of one Kafka topic: their properties and limits, their log lines, and what their errors mean to a caller.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    config::{ClientConfig, RDKafkaLogLevel},
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use crate::log::{Error, MAX_RECORD_BYTES};

/// What the topic and the producer must let through: the largest record, and what Kafka adds to it in a batch of
/// its own.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_RECORD_BYTES + 64 * 1024;

/// An append that was not acknowledged by then has failed. Stripe's webhook call, which waits for it, gives up at
/// about the same time.
pub(super) const APPEND_LIMIT: Duration = Duration::from_secs(20);

/// A question to the brokers (metadata, end offsets) that was not answered by then has failed.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Records wait this long for others to share a request with: little against a round trip.
const LINGER_MS: &str = "1";

/// Unsent records of this process, in kilobytes; beyond it `append` waits.
const PRODUCER_QUEUE_KBYTES: &str = "65536";

/// Prefetched records of one partition, in kilobytes. librdkafka's default, 64 MB, is much for many partitions.
const CONSUMER_QUEUE_KBYTES: &str = "16384";

/// How soon a full prefetch queue is looked at again; librdkafka's default, a second, starves a fast reader.
const CONSUMER_QUEUE_BACKOFF_MS: &str = "5";

/// How long a topic may be missing from the metadata before it counts as deleted.
const TOPIC_MISSING_MS: &str = "5000";

/// Properties that the log's promises hang on, with their aliases; they cannot be set from outside.
const RESERVED: [&str; 15] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "isolation.level",
    "message.max.bytes",
    "message.timeout.ms",
    "metadata.broker.list",
    "request.required.acks",
    "topic.metadata.propagation.max.ms",
    "transactional.id",
];

/// Which topic, and how to get there.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// The topic's name.
    pub topic: String,
    /// Create the topic when it is absent; otherwise that is an error.
    pub create: bool,
    /// Used when the topic is created; a topic that exists keeps its own.
    pub partitions: u32,
    /// Used when the topic is created: copies of each partition. `None` leaves it to the brokers.
    pub replication: Option<u16>,
    /// librdkafka properties, such as `security.protocol`, `sasl.password`, `group.id`. Their values are never shown.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("create", &self.create)
            .field("partitions", &self.partitions)
            .field("replication", &self.replication)
            .field("properties", &self.properties.keys())
            .finish()
    }
}

impl Options {
    /// What every client of this topic is configured with.
    ///
    /// # Errors
    /// [`Error::Configuration`] when a reserved property is set.
    pub(super) fn client(&self) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::new();
        config.set("client.id", "tributary").set("log.connection.close", "false");
        for (name, value) in &self.properties {
            if RESERVED.contains(&name.as_str()) {
                let text = format!("the Kafka property {name} is decided by Tributary; remove it");
                return Err(Error::Configuration(text));
            }
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.brokers)
            .set("topic.metadata.propagation.max.ms", TOPIC_MISSING_MS)
            .set_log_level(RDKafkaLogLevel::Warning);
        Ok(config)
    }

    /// For appending.
    pub(super) fn producer(&self) -> Result<ClientConfig, Error> {
        let mut config = self.client()?;
        let timeout = APPEND_LIMIT.as_millis().to_string();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", timeout)
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string());
        self.preset(&mut config, "compression.type", "lz4");
        self.preset(&mut config, "linger.ms", LINGER_MS);
        self.preset(&mut config, "queue.buffering.max.kbytes", PRODUCER_QUEUE_KBYTES);
        Ok(config)
    }

    /// For reading one partition from given offsets.
    pub(super) fn consumer(&self) -> Result<ClientConfig, Error> {
        let mut config = self.client()?;
        config
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("check.crcs", "true");
        // librdkafka assigns partitions only to members of a group, though nothing is ever committed to it.
        self.preset(&mut config, "group.id", "tributary");
        self.preset(&mut config, "queued.max.messages.kbytes", CONSUMER_QUEUE_KBYTES);
        self.preset(&mut config, "fetch.queue.backoff.ms", CONSUMER_QUEUE_BACKOFF_MS);
        Ok(config)
    }

    fn preset(&self, config: &mut ClientConfig, name: &str, value: &str) {
        if !self.properties.contains_key(name) {
            config.set(name, value);
        }
    }

    /// What an error of a client means.
    pub(super) fn explain(&self, error: &KafkaError) -> Error {
        match error {
            // librdkafka's own text repeats the value, which may be a password.
            KafkaError::ClientConfig(_, _, name, _) => {
                Error::Configuration(format!("librdkafka refuses the Kafka property {name}; check its name and value"))
            }
            KafkaError::ClientCreation(text) => {
                Error::Configuration(format!("no Kafka client: {text}; check the Kafka properties"))
            }
            KafkaError::AdminOp(code) => self.explain_code(*code),
            other => match other.rdkafka_error_code() {
                Some(code) => self.explain_code(code),
                None => Error::Unavailable(format!("Kafka at {}: {other}", self.brokers)),
            },
        }
    }

    pub(super) fn explain_code(&self, code: Code) -> Error {
        let Self { topic, brokers, .. } = self;
        match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownTopicId => {
                Error::Configuration(format!("Kafka at {brokers} has no topic {topic}; create it or check its name"))
            }
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::Authentication
            | Code::SSL => Error::Configuration(format!(
                "Kafka at {brokers} refuses access to topic {topic} ({code}); check user, password, certificates, ACLs"
            )),
            Code::MessageSizeTooLarge => Error::Configuration(format!(
                "topic {topic} refuses a large record; raise its max.message.bytes to {MAX_MESSAGE_BYTES}"
            )),
            Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidConfig
            | Code::PolicyViolation => Error::Configuration(format!("Kafka cannot have the topic {topic}: {code}")),
            other => Error::Unavailable(format!("Kafka at {brokers}: {other}")),
        }
    }
}

/// Takes the clients' log lines, and remembers the last trouble with a broker: librdkafka itself goes on trying.
#[derive(Default)]
pub(super) struct Context {
    trouble: Mutex<Option<Code>>,
}

impl Context {
    /// The trouble since it was last asked for, if any.
    pub(super) fn take_trouble(&self) -> Option<Code> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(facility, "{message}");
            }
            _ => tracing::warn!(facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!("Kafka: {error}: {reason}");
        if let Some(code) = error.rdkafka_error_code() {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            // "All brokers down" follows each cause, and says less.
            if code != Code::AllBrokersDown || trouble.is_none() {
                *trouble = Some(code);
            }
        }
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Options {
        Options {
            brokers: "127.0.0.1:1".into(),
            topic: "t".into(),
            create: false,
            partitions: 1,
            replication: None,
            properties: [(name.to_owned(), value.to_owned())].into(),
        }
    }

    #[test]
    fn a_secret_is_in_no_text() {
        let options = with("sasl.password", "hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));

        let options = with("security.protocol", "hunter2");
        let error = options.producer().unwrap().create::<rdkafka::producer::BaseProducer>().err().unwrap();
        let text = options.explain(&error).to_string();
        assert!(text.contains("security.protocol") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn properties_cannot_weaken_the_promises() {
        for name in RESERVED {
            assert!(matches!(with(name, "1").producer(), Err(Error::Configuration(_))), "{name}");
        }
        let config = with("linger.ms", "50").producer().unwrap();
        assert_eq!((config.get("linger.ms"), config.get("acks")), (Some("50"), Some("all")));
    }
}
