//! Messages to values and back. What protobuf cannot rule out, numbers that are no enum value, is refused
//! here; all other rules are the domain's.

pub(super) mod diagnosis;
pub(super) mod event;
pub(super) mod key_file;
pub(super) mod key_pair;
pub(super) mod rotation;
pub(super) mod signing;

use prost_types::Timestamp;
use time::OffsetDateTime;

use crate::domain::{Generation, Refusal, Violations};
use crate::service::ServiceError;

/// Writes a time. One before the year 1, which a `Timestamp` cannot have, becomes its beginning.
fn to_timestamp(time: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: time.unix_timestamp().max(SECONDS_MIN),
        nanos: i32::try_from(time.nanosecond()).unwrap_or_default(),
    }
}

/// Reads a time. None when it is not one of those that a `Timestamp` may have.
fn from_timestamp(timestamp: &Timestamp) -> Option<OffsetDateTime> {
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    if timestamp.seconds < SECONDS_MIN {
        return None;
    }
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

/// 0001-01-01T00:00:00Z, the first second that a `google.protobuf.Timestamp` may have. Its last one,
/// 9999-12-31T23:59:59Z, is also the last of an `OffsetDateTime`.
const SECONDS_MIN: i64 = -62_135_596_800;

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn every_time_becomes_a_timestamp_within_its_bounds() {
        for (time, seconds) in [
            (datetime!(-9999-01-01 00:00 UTC), SECONDS_MIN),
            (datetime!(0000-01-01 00:00 UTC), SECONDS_MIN),
            (datetime!(0001-01-01 00:00 UTC), SECONDS_MIN),
            (datetime!(1950-01-01 00:00 UTC), -631_152_000),
            (datetime!(9999-12-31 23:59:59 UTC), 253_402_300_799),
        ] {
            let written = to_timestamp(time);
            assert_eq!(written.seconds, seconds, "{time}");
            let read = from_timestamp(&written).unwrap();
            assert_eq!(read, time.max(datetime!(0001-01-01 00:00 UTC)));
            // JSON can write no other ones.
            assert!(written.to_string().ends_with('Z'), "{written}");
        }
    }

    #[test]
    fn a_timestamp_out_of_its_bounds_is_none() {
        for (seconds, nanos) in [
            (SECONDS_MIN - 1, 0),
            (i64::MIN, 0),
            (i64::MAX, 0),
            (253_402_300_800, 0),
            (0, -1),
            (0, 1_000_000_000),
        ] {
            assert_eq!(from_timestamp(&Timestamp { seconds, nanos }), None);
        }
    }
}
