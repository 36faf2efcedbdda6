//! Messages to values and back. What protobuf cannot rule out, numbers that are no enum value, is refused
//! here; all other rules are the domain's.

pub(super) mod event;
pub(super) mod key_file;
pub(super) mod key_pair;
pub(super) mod rotation;
pub(super) mod signing;

use prost_types::Timestamp;
use time::OffsetDateTime;

use crate::domain::{Generation, Refusal, Violations};
use crate::service::ServiceError;

fn to_timestamp(time: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or_default(),
    }
}

fn from_timestamp(timestamp: &Timestamp) -> Option<OffsetDateTime> {
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    OffsetDateTime::from_unix_timestamp(timestamp.seconds)
        .ok()?
        .replace_nanosecond(nanos)
        .ok()
}

fn number(generation: Generation) -> i32 {
    i32::try_from(generation.number()).unwrap_or(i32::MAX)
}

pub(super) fn malformed(field: &'static str, sentence: &'static str) -> ServiceError {
    ServiceError::Malformed(Violations::one(field, Refusal::new(sentence)))
}
