//! Dates before 1970, which RFC 5280 section 4.1.2.5 allows and x509-cert does not read.

use std::borrow::Cow;

use time::{Date, Month, OffsetDateTime, Time};

use crate::domain::Validity;
use crate::domain::ber::{CONTEXT_0, Element, Elements, SEQUENCE};

/// Returns a certificate whose dates before 1970 are written as its beginning, with as many
/// characters, so that x509-cert reads the rest. [`validity`] tells the dates.
pub(super) fn from_1970_on(der: &[u8]) -> Cow<'_, [u8]> {
    let mut changed = Cow::Borrowed(der);
    for date in dates(der).into_iter().flatten() {
        if time_of(date).is_some_and(|time| time < OffsetDateTime::UNIX_EPOCH) {
            // The element is a part of the certificate, whose place its address tells.
            let end = date.contents.as_ptr_range().end.addr() - der.as_ptr().addr();
            let start = end - date.contents.len();
            let epoch: &[u8] = match date.tag {
                UTC_TIME => b"700101000000Z",
                _ => b"19700101000000Z",
            };
            changed.to_mut()[start..end].copy_from_slice(epoch);
        }
    }
    changed
}

/// Returns the validity that a certificate states.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let [not_before, not_after] = dates(der)?;
    Some(Validity {
        not_before: time_of(not_before)?,
        not_after: time_of(not_after)?,
    })
}

/// Finds the two dates: behind version, serial number, signature algorithm and issuer.
fn dates(der: &[u8]) -> Option<[Element<'_>; 2]> {
    let certificate = Elements::of(der).take(SEQUENCE)?;
    let mut parts = certificate.parts().take(SEQUENCE)?.parts();
    if parts.next()?.tag == CONTEXT_0 {
        parts.next()?;
    }
    parts.take(SEQUENCE)?;
    parts.take(SEQUENCE)?;
    let mut dates = parts.take(SEQUENCE)?.parts();
    Some([dates.next()?, dates.next()?])
}

/// Reads a date in the form that DER has: with seconds, in UTC.
fn time_of(date: Element<'_>) -> Option<OffsetDateTime> {
    let text = std::str::from_utf8(date.contents).ok()?;
    let digits = text.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (date.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = digits.split_at(2);
            let year: i32 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = digits.split_at(4);
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |index: usize| rest[2 * index..2 * index + 2].parse::<u8>().ok();
    let month = Month::try_from(part(0)?).ok()?;
    let day = Date::from_calendar_date(year, month, part(1)?).ok()?;
    let time = Time::from_hms(part(2)?, part(3)?, part(4)?).ok()?;
    Some(day.with_time(time).assume_utc())
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn dates_have_two_or_four_digits_of_the_year() {
        let time = |tag, text: &'static str| {
            time_of(Element {
                tag,
                contents: text.as_bytes(),
                whole: &[],
            })
        };
        for (tag, text, expected) in [
            (
                UTC_TIME,
                "500101000000Z",
                Some(datetime!(1950-01-01 0:00 UTC)),
            ),
            (
                UTC_TIME,
                "491231235959Z",
                Some(datetime!(2049-12-31 23:59:59 UTC)),
            ),
            (
                UTC_TIME,
                "700101000000Z",
                Some(datetime!(1970-01-01 0:00 UTC)),
            ),
            (
                GENERALIZED_TIME,
                "00010101000000Z",
                Some(datetime!(0001-01-01 0:00 UTC)),
            ),
            (
                GENERALIZED_TIME,
                "99991231235959Z",
                Some(datetime!(9999-12-31 23:59:59 UTC)),
            ),
            (UTC_TIME, "700132000000Z", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000000+0100", None),
            (GENERALIZED_TIME, "700101000000Z", None),
        ] {
            assert_eq!(time(tag, text), expected, "{text}");
        }
    }
}
