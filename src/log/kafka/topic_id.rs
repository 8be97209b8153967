//! The id that Kafka gives a topic when it is created: a topic that was deleted and created anew has another one.
//!
//! librdkafka tells it (`rd_kafka_DescribeTopics`), rdkafka 0.39 does not, so this file asks the C library itself. It is
//! the one place with unsafe code; nothing of it is visible outside but [`describe`].
#![allow(unsafe_code, reason = "rdkafka has no safe call that tells a topic's id")]

use std::{
    ffi::{CStr, CString},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    bindings::{self as c, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS},
    client::Client,
    error::RDKafkaErrorCode as Code,
};

/// How long past its own limit librdkafka is waited for: it answers by then, if only that nobody else did.
const GRACE: Duration = Duration::from_secs(2);

/// What makes a topic the one it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Topic {
    /// Of this incarnation, 22 letters.
    pub(super) id: String,
    /// How many there are now.
    pub(super) partitions: u32,
}

/// Asks the brokers about a topic; blocks up to `limit`.
pub(super) fn describe<C: ClientContext>(client: &Client<C>, topic: &str, limit: Duration) -> Result<Topic, Code> {
    let name = CString::new(topic).map_err(|_| Code::InvalidTopic)?;
    let rk = client.native_ptr();
    // SAFETY: `rk` lives as long as `client`, which is borrowed. Each pointer made here is owned by a guard, which
    // destroys it once, in the reverse order of creation; what an event holds is read before the event's guard ends.
    // `names` and `name` outlive the collection, which copies them.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = Owned::new(
            c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1),
            c::rd_kafka_TopicCollection_destroy,
        )?;
        let options = Owned::new(
            c::rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            c::rd_kafka_AdminOptions_destroy,
        )?;
        let mut text = [0; 256];
        let set = c::rd_kafka_AdminOptions_set_request_timeout(options.0, millis(limit), text.as_mut_ptr(), text.len());
        checked(set)?;
        let queue = Owned::new(c::rd_kafka_queue_new(rk), c::rd_kafka_queue_destroy)?;
        c::rd_kafka_DescribeTopics(rk, topics.0, options.0, queue.0);
        let event = Owned::new(c::rd_kafka_queue_poll(queue.0, millis(limit + GRACE)), c::rd_kafka_event_destroy)?;
        checked(c::rd_kafka_event_error(event.0))?;

        let result = c::rd_kafka_event_DescribeTopics_result(event.0);
        let mut count = 0;
        let described = match result.is_null() {
            true => return Err(Code::BadMessage),
            false => c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count),
        };
        if described.is_null() || count != 1 {
            return Err(Code::BadMessage);
        }
        let described = *described;
        checked(c::rd_kafka_error_code(c::rd_kafka_TopicDescription_error(described)))?;
        c::rd_kafka_TopicDescription_partitions(described, &raw mut count);
        let id = c::rd_kafka_Uuid_base64str(c::rd_kafka_TopicDescription_topic_id(described));
        if id.is_null() {
            return Err(Code::BadMessage);
        }
        // As Kafka's own tools write it.
        let id = CStr::from_ptr(id).to_string_lossy().replace('+', "-").replace('/', "_");
        Ok(Topic { id, partitions: u32::try_from(count).unwrap_or(u32::MAX) })
    }
}

/// A C object and what destroys it.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    /// Takes an object; null, librdkafka's way to say that it has none, is an error.
    fn new(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, Code> {
        if object.is_null() { Err(Code::OperationTimedOut) } else { Ok(Self(object, destroy)) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object came from the library, belongs to this guard alone, and is destroyed once.
        unsafe { (self.1)(self.0) }
    }
}

fn checked(error: c::rd_kafka_resp_err_t) -> Result<(), Code> {
    match error {
        c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(error.into()),
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
