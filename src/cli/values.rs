//! Values of options: read without regard to case, known to completions, and judged by the daemon
//! alone.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};
use prost_types::Timestamp;
use time::OffsetDateTime;

use crate::proto::CryptoProvider;

/// Reads a name in letters of either case. What is none of the names that this client knows is left
/// to the daemon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names(&'static [&'static str]);

/// Key algorithms.
pub(super) const KEY_ALGORITHMS: Names = Names(&["RSA", "EC", "ED25519"]);
/// Algorithms of certificates.
pub(super) const CERTIFICATE_ALGORITHMS: Names = Names(SIGNATURE_ALGORITHM_NAMES.split_at(7).0);
/// Algorithms of signatures.
pub(super) const SIGNATURE_ALGORITHMS: Names = Names(SIGNATURE_ALGORITHM_NAMES);
/// The order of a list.
pub(super) const ORDERS: Names = Names(&[
    "create_time",
    "id",
    "expires",
    "subject_dn",
    "create_time desc",
    "id desc",
    "expires desc",
    "subject_dn desc",
]);

const SIGNATURE_ALGORITHM_NAMES: &[&str] = &[
    "SHA256withRSA",
    "SHA384withRSA",
    "SHA512withRSA",
    "SHA256withECDSA",
    "SHA384withECDSA",
    "SHA512withECDSA",
    "Ed25519",
    "SHA256withRSAandMGF1",
    "SHA384withRSAandMGF1",
    "SHA512withRSAandMGF1",
];

impl TypedValueParser for Names {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, Error> {
        let given = StringValueParser::new().parse_ref(command, arg, value)?;
        let mut known = self.0.iter();
        let known = known.find(|name| name.eq_ignore_ascii_case(&given));
        Ok(known.map_or(given, |name| (*name).to_owned()))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            self.0.iter().map(|name| PossibleValue::new(*name)),
        ))
    }
}

/// A provider.
#[derive(Clone, Copy, Debug)]
pub(super) struct Provider;

impl TypedValueParser for Provider {
    type Value = CryptoProvider;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<CryptoProvider, Error> {
        let names = Names(&["LOCAL", "HSM"]);
        let parser = names.try_map(|name| match &*name {
            "LOCAL" => Ok(CryptoProvider::Local),
            "HSM" => Ok(CryptoProvider::Hsm),
            _ => Err("must be LOCAL or HSM"),
        });
        parser.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(
            ["LOCAL", "HSM"].into_iter().map(PossibleValue::new),
        ))
    }
}

/// Reads a number of days: `30`, `30d`, `4w` or `1y`, which is 365 days. The daemon says how many
/// there may be.
pub(super) fn parse_days(text: &str) -> Result<i32, String> {
    let text = text.trim();
    let (number, days) = match text.char_indices().next_back() {
        Some((at, 'd' | 'D')) => (&text[..at], 1),
        Some((at, 'w' | 'W')) => (&text[..at], 7),
        Some((at, 'y' | 'Y')) => (&text[..at], 365),
        _ => (text, 1),
    };
    let number: Option<i32> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(days))
        .ok_or_else(|| "must be a number of days such as 30, 30d, 4w or 1y (365 days)".to_owned())
}

/// Reads a span of time from now on: that of [`parse_days`], or one such as `12h`. The result is in
/// seconds.
pub(super) fn parse_span(text: &str) -> Result<i64, String> {
    let days = parse_days(text).ok().filter(|days| *days >= 0);
    let seconds = match days {
        Some(days) => Some(i64::from(days) * 86_400),
        None => humantime::parse_duration(text)
            .ok()
            .and_then(|span| i64::try_from(span.as_secs()).ok()),
    };
    seconds
        .filter(|seconds| *seconds <= SPAN_MAX)
        .ok_or_else(|| "must be a time such as 30d, 4w, 1y or 12h".to_owned())
}

/// Returns a time so many seconds after another, and the last one there is when that is later.
pub(super) fn after(now: Timestamp, seconds: i64) -> Timestamp {
    let last = OffsetDateTime::new_utc(time::Date::MAX, time::Time::MIDNIGHT).unix_timestamp();
    Timestamp {
        seconds: now.seconds.saturating_add(seconds).min(last),
        nanos: 0,
    }
}

/// A thousand years.
const SPAN_MAX: i64 = 1000 * 365 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_with_their_unit() {
        for (text, expected) in [
            ("365", Some(365)),
            ("30d", Some(30)),
            ("4W", Some(28)),
            ("1y", Some(365)),
            ("2Y", Some(730)),
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("", None),
            ("d", None),
            ("1.5y", None),
            ("1m", None),
            ("ü", None),
            ("9999999y", None),
        ] {
            assert_eq!(parse_days(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn spans_are_read_in_days_and_in_hours() {
        for (text, expected) in [
            ("30d", Some(30 * 86_400)),
            ("1y", Some(365 * 86_400)),
            ("12h", Some(43_200)),
            ("0d", Some(0)),
            ("-1d", None),
            ("soon", None),
            ("9999y", None),
        ] {
            assert_eq!(parse_span(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn names_are_read_in_letters_of_either_case() {
        let command = Command::new("x");
        let read =
            |names: Names, text: &str| names.parse_ref(&command, None, OsStr::new(text)).unwrap();
        assert_eq!(read(KEY_ALGORITHMS, "ec"), "EC");
        assert_eq!(
            read(SIGNATURE_ALGORITHMS, "sha256WITHrsaANDmgf1"),
            "SHA256withRSAandMGF1"
        );
        assert_eq!(read(ORDERS, "Expires DESC"), "expires desc");
        // What this client does not know yet.
        assert_eq!(read(KEY_ALGORITHMS, "ML-DSA"), "ML-DSA");
        assert_eq!(CERTIFICATE_ALGORITHMS.0.last(), Some(&"Ed25519"));
    }
}
