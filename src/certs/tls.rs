//! What the port wants to know of certificates of TLS, which others have verified.

use std::time::{Duration, SystemTime};

use x509_cert::ext::pkix::name::GeneralName;

use super::read::{general_names, parse_der};

/// Returns the DNS names that a certificate is for, wildcards as they are written. The common name
/// is none of them (RFC 6125, section 6.4.4).
pub fn dns_names(certificate_der: &[u8]) -> Vec<String> {
    let parsed = parse_der(certificate_der);
    let names = parsed.map(|parsed| general_names(&parsed));
    let names = names.unwrap_or_default().into_iter();
    let dns = names.filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        _ => None,
    });
    dns.collect()
}

/// Returns when a certificate expires. None when it cannot be read.
pub fn not_after(certificate_der: &[u8]) -> Option<SystemTime> {
    let parsed = parse_der(certificate_der).ok()?;
    let since: Duration = parsed
        .tbs_certificate()
        .validity()
        .not_after
        .to_unix_duration();
    SystemTime::UNIX_EPOCH.checked_add(since)
}
