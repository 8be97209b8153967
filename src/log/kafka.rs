//! The log in production: one topic of Apache Kafka, through rdkafka.
//!
//! Promises: what [`append`](KafkaLog::append) returned is on all in-sync replicas (`acks=all`, idempotent); the
//! partition is chosen here, by the same hash as in the embedded log; only committed records are read; an offset the
//! topic does not have is an error, never a jump; a broker that is away is an error within bounded time. Offsets are
//! the caller's to keep: nothing is committed to a consumer group.
//!
//! One consumer a partition, opened when the partition is first read, so that a reader that alternates between
//! partitions finds each one's prefetched records where it left them.

mod client;
mod topic_id;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Timestamp},
    producer::{FutureProducer, FutureRecord, Producer, future_producer::DeliveryFuture},
    topic_partition_list::TopicPartitionListElem,
};
use tokio::time::Instant;

pub use self::client::Options;
use self::{
    client::{ANSWER_LIMIT, APPEND_LIMIT, Context, MAX_MESSAGE_BYTES},
    topic_id::Topic,
};
use super::{Error, EventLog, NewRecord, Position, Record, checked_bytes, partition_of};
use crate::time::EventTime;

/// Between two looks for room in the producer's queue, or for a topic that is being created.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// A read ends when it holds this much, whatever `max` says.
const MAX_READ_BYTES: usize = 32 * 1024 * 1024;

/// How often the open topic is compared with the one that was opened. librdkafka goes on with a topic that was
/// created anew as if it were the old one.
const IDENTITY_CHECK: Duration = Duration::from_secs(5);

/// How many of a client's events (log lines, errors) are taken off its queue with each question: more than arise
/// between two.
const EVENTS_A_QUESTION: usize = 16;

/// How long a read may block a thread before the runtime has its say, for instance that it wants to end.
const POLL_SLICE: Duration = Duration::from_millis(200);

/// A topic as a log, connected. See the module's text.
pub struct KafkaLog {
    options: Arc<Options>,
    identity: String,
    partitions: u32,
    /// For questions; never reads.
    control: Arc<Control>,
    /// When the topic was last found to be the one that was opened.
    verified: Mutex<Option<Instant>>,
    /// Replaced after a fatal error.
    producer: Mutex<FutureProducer<Context>>,
    readers: Vec<Arc<tokio::sync::Mutex<Option<Reader>>>>,
}

impl KafkaLog {
    /// Finds the topic, or creates it if `options` say so.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no broker answers within bounded time; [`Error::Configuration`] when the topic is
    /// absent, access is refused, or a property is wrong.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        let options = Arc::new(options.clone());
        let control = Arc::new(Control::new(options.clone())?);
        let mut found = describe(&control).await?;
        if found.is_none() && options.create {
            create_topic(&options).await?;
            let deadline = Instant::now() + ANSWER_LIMIT;
            // The broker that created it answers before the others know of it.
            while found.is_none() && Instant::now() < deadline {
                tokio::time::sleep(RETRY_PAUSE).await;
                found = describe(&control).await?;
            }
            // Its partitions have leaders a moment later still.
            let partitions = found.as_ref().map_or(0, |(_, partitions)| *partitions);
            while Instant::now() < deadline && ends(&control, partitions).await.is_err() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        let (identity, partitions) = found.ok_or_else(|| missing(&options))?;
        let producer = new_producer(&options)?;
        let readers = (0..partitions).map(|_| Arc::default()).collect();
        let (producer, verified) = (Mutex::new(producer), Mutex::new(Some(Instant::now())));
        Ok(Self { options, identity, partitions, control, verified, producer, readers })
    }

    /// Now and then makes sure that this is still the topic that was opened.
    async fn verify(&self) -> Result<(), Error> {
        let verified = || self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified().is_some_and(|at| at.elapsed() < IDENTITY_CHECK) {
            return Ok(());
        }
        // Others may go on meanwhile; an error makes the next one ask again.
        *verified() = Some(Instant::now());
        let result = self.identity().await;
        if result.is_err() {
            *verified() = None;
        }
        result.map(|_| ())
    }

    /// Hands all records to the producer, waiting for room in its queue.
    async fn send(
        &self,
        producer: &FutureProducer<Context>,
        records: &[NewRecord],
    ) -> Result<Vec<DeliveryFuture>, KafkaError> {
        let deadline = Instant::now() + APPEND_LIMIT;
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let partition = partition_of(&record.key, self.partitions).cast_signed();
            let mut next = FutureRecord::to(&self.options.topic)
                .partition(partition)
                .key(&record.key[..])
                .payload(&record.body[..]);
            loop {
                match producer.send_result(next) {
                    Ok(delivery) => break deliveries.push(delivery),
                    Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < deadline => {
                        next = back;
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    Err((error, _)) => return Err(error),
                }
            }
        }
        Ok(deliveries)
    }

    /// Replaces a producer that met a fatal error: it accepts nothing any more.
    fn explain_append(&self, error: &KafkaError) -> Error {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if producer.client().fatal_error().is_some() {
            match new_producer(&self.options) {
                Ok(fresh) => *producer = fresh,
                Err(error) => return error,
            }
        }
        self.options.explain(error)
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn identity(&self) -> Result<String, Error> {
        let (identity, _) = describe(&self.control).await?.ok_or_else(|| missing(&self.options))?;
        if identity == self.identity {
            return Ok(identity);
        }
        let topic = &self.options.topic;
        let text = format!("the topic {topic} was created anew, or given more partitions; restart to read it anew");
        Err(Error::Configuration(text))
    }

    async fn partitions(&self) -> Result<u32, Error> {
        Ok(self.partitions)
    }

    async fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Position>, Error> {
        checked_bytes(&records)?;
        self.verify().await?;
        // Held until all are delivered, for without it they never are.
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let deliveries = self.send(&producer, &records).await.map_err(|e| self.explain_append(&e))?;
        let mut positions = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            let delivery = delivery.await.map_err(|_| self.explain_append(&KafkaError::Canceled))?;
            let delivered = delivery.map_err(|(error, _)| self.explain_append(&error))?;
            positions.push(Position {
                partition: delivered.partition.cast_unsigned(),
                offset: delivered.offset.cast_unsigned(),
            });
        }
        Ok(positions)
    }

    async fn read(&self, partition: u32, from: u64, max: usize, wait: Duration) -> Result<Vec<Record>, Error> {
        let Some(reader) = self.readers.get(partition as usize) else {
            let text = format!("there is no partition {partition}: the topic had {} when opened", self.partitions);
            return Err(Error::Configuration(text));
        };
        if max == 0 {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + wait;
        loop {
            self.verify().await?;
            let mut reader = reader.clone().lock_owned().await;
            let (options, control) = (self.options.clone(), self.control.clone());
            let slice = deadline.saturating_duration_since(Instant::now()).min(POLL_SLICE);
            let records = blocking(move || {
                let reader = match &mut *reader {
                    Some(reader) => reader,
                    None => reader.insert(Reader::new(options, control, partition)?),
                };
                reader.read(from, max, slice)
            })
            .await?;
            if !records.is_empty() || Instant::now() >= deadline {
                return Ok(records);
            }
        }
    }

    async fn end_offsets(&self) -> Result<Vec<u64>, Error> {
        self.verify().await?;
        ends(&self.control, self.partitions).await
    }
}

/// Where the next records of each partition go.
async fn ends(control: &Arc<Control>, partitions: u32) -> Result<Vec<u64>, Error> {
    let control = Arc::clone(control);
    blocking(move || control.end_offsets(partitions)).await
}

/// Asks the brokers about the topic.
struct Control {
    options: Arc<Options>,
    consumer: BaseConsumer<Context>,
}

impl Control {
    fn new(options: Arc<Options>) -> Result<Self, Error> {
        let created = options.client()?.create_with_context(Context::default());
        let consumer = created.map_err(|e| options.explain(&e))?;
        Ok(Self { options, consumer })
    }

    /// Puts a question; its error means what the client noticed meanwhile, if that says more: a refused password
    /// looks like silence.
    fn ask<T>(&self, question: impl FnOnce(&BaseConsumer<Context>) -> KafkaResult<T>) -> Result<T, Error> {
        let answer = question(&self.consumer);
        // What the client noticed waits in its queue. On an error all of it is wanted.
        let patience = if answer.is_ok() { Duration::ZERO } else { RETRY_PAUSE };
        for _ in 0..EVENTS_A_QUESTION {
            let _ = self.consumer.poll(patience);
        }
        let trouble = self.consumer.context().take_trouble();
        answer.map_err(|error| match (self.options.explain(&error), trouble) {
            (Error::Unavailable(_), Some(trouble)) => self.options.explain_code(trouble),
            (explained, _) => explained,
        })
    }

    /// The identity, and the number of partitions, of the topic if there is one.
    fn describe(&self) -> Result<Option<(String, u32)>, Error> {
        let found = self.ask(|c| match topic_id::describe(c.client(), &self.options.topic, ANSWER_LIMIT) {
            Ok(topic) => Ok(Some(topic)),
            Err(Code::UnknownTopic | Code::UnknownTopicOrPartition) => Ok(None),
            Err(code) => Err(KafkaError::AdminOp(code)),
        })?;
        let Some(Topic { id, partitions }) = found else {
            return Ok(None);
        };
        let cluster = self.consumer.client().fetch_cluster_id(ANSWER_LIMIT);
        let unnamed = || Error::Unavailable(format!("Kafka at {} does not say its cluster id", self.options.brokers));
        // With more partitions keys lie elsewhere: that is another log.
        Ok(Some((format!("kafka:{}:{id}:{partitions}", cluster.ok_or_else(unnamed)?), partitions)))
    }

    /// The last stable offsets: what `read_committed` readers can reach.
    fn end_offsets(&self, partitions: u32) -> Result<Vec<u64>, Error> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            let added = asked.add_partition_offset(&self.options.topic, partition.cast_signed(), Offset::End);
            added.map_err(|e| self.options.explain(&e))?;
        }
        // One request a broker for all partitions; as a "time", librdkafka's End is Kafka's "latest".
        let answer = self.ask(|c| c.offsets_for_times(asked, ANSWER_LIMIT))?;
        let offset = |e: TopicPartitionListElem<'_>| {
            e.error().map_err(|e| self.options.explain(&e))?;
            match e.offset() {
                Offset::Offset(offset) => Ok(offset.cast_unsigned()),
                other => Err(Error::Unavailable(format!("Kafka does not say where a partition ends ({other:?})"))),
            }
        };
        answer.elements().into_iter().map(offset).collect()
    }

    /// The first offset there is, and the next record's.
    fn watermarks(&self, partition: u32) -> Result<(u64, u64), Error> {
        let (topic, partition) = (&self.options.topic, partition.cast_signed());
        let (begins, ends) = self.ask(|c| c.fetch_watermarks(topic, partition, ANSWER_LIMIT))?;
        Ok((begins.cast_unsigned(), ends.cast_unsigned()))
    }
}

/// The consumer of one partition.
struct Reader {
    control: Arc<Control>,
    consumer: BaseConsumer<Context>,
    options: Arc<Options>,
    partition: u32,
    /// The offset the consumer goes on from; `None` when it has to be told.
    next: Option<u64>,
}

impl Reader {
    fn new(options: Arc<Options>, control: Arc<Control>, partition: u32) -> Result<Self, Error> {
        let created = options.consumer()?.create_with_context(Context::default());
        let consumer = created.map_err(|e| options.explain(&e))?;
        Ok(Self { control, consumer, options, partition, next: None })
    }

    /// Blocks up to `wait` for the first record; then takes what is there.
    fn read(&mut self, from: u64, max: usize, wait: Duration) -> Result<Vec<Record>, Error> {
        if self.next != Some(from) {
            self.seek(from)?;
        }
        let deadline = Instant::now() + wait;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < max && bytes < MAX_READ_BYTES {
            let patience = match records.is_empty() {
                true => deadline.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            match self.consumer.poll(patience) {
                Some(Ok(message)) => {
                    let record = record_of(&message);
                    // What was on its way when the position was changed.
                    if record.offset < from {
                        continue;
                    }
                    bytes += record.key.len() + record.body.len();
                    self.next = Some(record.offset + 1);
                    records.push(record);
                }
                // librdkafka connects again by itself.
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => {
                    self.next = None;
                    // What came before the error is good; the next read meets it again.
                    if records.is_empty() {
                        return Err(self.explain(from, &error));
                    }
                    break;
                }
                None if records.is_empty() && Instant::now() < deadline => {}
                None => break,
            }
        }
        if records.is_empty() && self.consumer.context().take_trouble().is_some() {
            // Either it has passed, or this says what it is.
            self.control.describe()?;
        }
        Ok(records)
    }

    fn seek(&mut self, from: u64) -> Result<(), Error> {
        let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.options.topic, self.partition.cast_signed(), offset)
            .and_then(|()| self.consumer.assign(&assignment))
            .map_err(|e| self.options.explain(&e))?;
        self.next = Some(from);
        Ok(())
    }

    fn explain(&self, offset: u64, error: &KafkaError) -> Error {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => match self.control.watermarks(self.partition) {
                Ok((begins, ends)) => Error::Gone { partition: self.partition, offset, begins, ends },
                Err(error) => error,
            },
            _ => self.options.explain(error),
        }
    }
}

fn record_of(message: &BorrowedMessage<'_>) -> Record {
    let millis = match message.timestamp() {
        Timestamp::LogAppendTime(millis) | Timestamp::CreateTime(millis) => millis,
        Timestamp::NotAvailable => 0,
    };
    Record {
        partition: message.partition().cast_unsigned(),
        offset: message.offset().cast_unsigned(),
        appended_at: EventTime::from_millis(millis),
        key: Bytes::copy_from_slice(message.key().unwrap_or_default()),
        body: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}

fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut)
    )
}

fn new_producer(options: &Options) -> Result<FutureProducer<Context>, Error> {
    options.producer()?.create_with_context(Context::default()).map_err(|e| options.explain(&e))
}

/// Creates the topic; that somebody else was faster is fine.
async fn create_topic(options: &Options) -> Result<(), Error> {
    let explained = |e: KafkaError| options.explain(&e);
    let admin: AdminClient<DefaultClientContext> = options.client()?.create().map_err(explained)?;
    let replication = TopicReplication::Fixed(options.replication.map_or(-1, i32::from));
    let max_bytes = MAX_MESSAGE_BYTES.to_string();
    let topic = NewTopic::new(&options.topic, i32::try_from(options.partitions).unwrap_or(i32::MAX), replication)
        .set("max.message.bytes", &max_bytes)
        // The broker's clock, so that a producer's wrong one cannot move the watermark.
        .set("message.timestamp.type", "LogAppendTime")
        // Only who runs the brokers knows when an event is old enough to go.
        .set("retention.ms", "-1");
    let limits = AdminOptions::new().operation_timeout(Some(ANSWER_LIMIT)).request_timeout(Some(ANSWER_LIMIT));
    for result in admin.create_topics(&[topic], &limits).await.map_err(explained)? {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(options.explain_code(code)),
        }
    }
    Ok(())
}

async fn describe(control: &Arc<Control>) -> Result<Option<(String, u32)>, Error> {
    let control = control.clone();
    blocking(move || control.describe()).await
}

fn missing(options: &Options) -> Error {
    options.explain_code(Code::UnknownTopicOrPartition)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|e| Err(Error::Unavailable(format!("its task has ended: {e}"))))
}
