//! What the port wants to know of certificates of TLS, which others have verified.

use time::OffsetDateTime;

use super::alternative_names::{AlternativeName, alternative_names};
use super::read::{dn, parse_der};
use crate::domain::SubjectAlternativeName;

/// Returns the DNS names that a certificate is for, wildcards as they are written. The common name
/// is none of them (RFC 6125, section 6.4.4).
pub fn dns_names(certificate_der: &[u8]) -> Vec<String> {
    let Ok(parsed) = parse_der(certificate_der) else {
        return Vec::new();
    };
    let names = alternative_names(&parsed);
    let dns = names.iter().filter_map(AlternativeName::writable);
    let dns = dns.filter_map(|name| match name {
        SubjectAlternativeName::Dns(name) => Some(name),
        _ => None,
    });
    dns.collect()
}

/// Returns when a certificate expires. None when it cannot be read.
pub fn not_after(certificate_der: &[u8]) -> Option<OffsetDateTime> {
    let parsed = parse_der(certificate_der).ok()?;
    let not_after = parsed.tbs_certificate().validity().not_after;
    let seconds = i64::try_from(not_after.to_unix_duration().as_secs()).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// Returns the subject of a certificate, as those of key pairs are shown. None when it is damaged.
pub fn subject(certificate_der: &[u8]) -> Option<String> {
    let parsed = parse_der(certificate_der).ok()?;
    Some(dn(parsed.tbs_certificate().subject()))
}
