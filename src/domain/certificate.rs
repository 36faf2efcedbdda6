//! An X.509 certificate as bytes, its validity, its fingerprints.

use std::fmt;

use der::pem::{LineEnding, encode_string};
use serde::{Deserialize, Serialize};
use sha1::Digest as _;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// A certificate in DER.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate(#[serde(with = "serde_bytes")] Box<[u8]>);

impl Certificate {
    /// Takes the DER form of a certificate.
    pub fn from_der(der: impl Into<Box<[u8]>>) -> Self {
        Self(der.into())
    }

    /// Returns the DER form.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Returns the PEM form (RFC 7468 section 5) with a final line feed.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.0)
    }

    /// Returns the SHA-1 fingerprint: 40 upper-case hexadecimal digits over the DER form.
    pub fn sha1_fingerprint(&self) -> String {
        hex_upper(&sha1::Sha1::digest(&self.0))
    }

    /// Returns the SHA-256 fingerprint: 64 upper-case hexadecimal digits over the DER form.
    pub fn sha256_fingerprint(&self) -> String {
        hex_upper(&sha2::Sha256::digest(&self.0))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.sha256_fingerprint())
    }
}

/// Writes DER in PEM. `label` is one of our constants, and never refused.
pub(super) fn pem(label: &'static str, der: &[u8]) -> String {
    encode_string(label, LineEnding::LF, der).unwrap_or_default()
}

fn hex_upper(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    digits.concat()
}

/// When a certificate may be relied on: from `not_before` through `not_after`, whole seconds in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// notBefore.
    pub not_before: OffsetDateTime,
    /// notAfter, the last valid second.
    pub not_after: OffsetDateTime,
}

/// The last second that can be written, which as a notAfter stands for "no end".
///
/// # Source
/// RFC 5280 section 4.1.2.5: "no well-defined expiration date".
pub const END_OF_TIME: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

impl Validity {
    /// Returns the validity that begins now, cut to whole seconds, and ends `days` later. It has no
    /// end when that is past [`END_OF_TIME`].
    pub fn days_from(now: OffsetDateTime, days: u16) -> Self {
        let not_before = now.replace_nanosecond(0).unwrap_or(now);
        let not_after = not_before.saturating_add(Duration::days(days.into()));
        Self {
            not_before,
            not_after: not_after.min(END_OF_TIME),
        }
    }

    /// Returns the first moment at which the certificate is expired: it is valid to the end of its
    /// last second. None when it never expires, because its notAfter is [`END_OF_TIME`].
    pub fn end(&self) -> Option<OffsetDateTime> {
        let ends = self.not_after < END_OF_TIME;
        ends.then(|| self.not_after.saturating_add(Duration::SECOND))
    }

    /// Tells what a certificate of this validity is at a time. A fraction of a second does not count.
    pub fn at(&self, now: OffsetDateTime) -> CertificateValidity {
        if now < self.not_before {
            CertificateValidity::NotYetValid
        } else if now.unix_timestamp() > self.not_after.unix_timestamp() {
            CertificateValidity::Expired
        } else {
            CertificateValidity::Valid
        }
    }
}

/// Whether a certificate can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateValidity {
    /// Within its validity.
    Valid,
    /// Past its notAfter.
    Expired,
    /// Before its notBefore.
    NotYetValid,
    /// Revoked by its issuer. A self-signed certificate never is.
    Revoked,
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn fingerprints_are_upper_case_hexadecimal_without_separators() {
        let certificate = Certificate::from_der(*b"abc");
        // FIPS 180-4 example vectors.
        assert_eq!(
            certificate.sha1_fingerprint(),
            "A9993E364706816ABA3E25717850C26C9CD0D89D"
        );
        assert_eq!(
            certificate.sha256_fingerprint(),
            "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
        );
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let validity = Validity::days_from(datetime!(2026-11-23 23:01:19.75 UTC), 1);
        assert_eq!(validity.not_before, datetime!(2026-11-23 23:01:19 UTC));
        assert_eq!(validity.not_after, datetime!(2026-11-24 23:01:19 UTC));
        for (now, expected) in [
            (
                datetime!(2026-11-23 23:01:18.999 UTC),
                CertificateValidity::NotYetValid,
            ),
            (
                datetime!(2026-11-23 23:01:19 UTC),
                CertificateValidity::Valid,
            ),
            (
                datetime!(2026-11-24 23:01:19.999 UTC),
                CertificateValidity::Valid,
            ),
            (
                datetime!(2026-11-24 23:01:20 UTC),
                CertificateValidity::Expired,
            ),
        ] {
            assert_eq!(validity.at(now), expected, "{now}");
        }
    }

    #[test]
    fn a_validity_past_the_end_of_time_has_no_end() {
        let last = Validity::days_from(END_OF_TIME - Duration::DAY, 1);
        assert_eq!((last.not_after, last.end()), (END_OF_TIME, None));
        let past = Validity::days_from(datetime!(9950-01-01 00:00 UTC), 36_500);
        assert_eq!((past.not_after, past.end()), (END_OF_TIME, None));
        assert_eq!(past.at(END_OF_TIME), CertificateValidity::Valid);
        let before = Validity {
            not_after: END_OF_TIME - Duration::SECOND,
            ..past
        };
        assert_eq!(before.end(), Some(END_OF_TIME));
        assert_eq!(before.at(END_OF_TIME), CertificateValidity::Expired);
    }

    #[test]
    fn the_longest_validity_is_36500_days_exactly() {
        let validity = Validity::days_from(datetime!(2026-11-23 00:00:00 UTC), 36_500);
        assert_eq!(validity.not_after, datetime!(2126-10-30 00:00:00 UTC));
    }
}
