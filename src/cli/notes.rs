//! What the daemon says of a certificate that it has taken, on standard error.

use std::io::{self, Write};

use super::printable::printable;
use crate::proto::IgnoredCertificate;

/// Writes warnings, and which certificates were not kept.
pub(super) fn write(warnings: &[String], ignored: &[IgnoredCertificate]) -> io::Result<()> {
    let mut err = io::stderr().lock();
    for warning in warnings {
        writeln!(err, "warning: {}", printable(warning))?;
    }
    for certificate in ignored {
        writeln!(
            err,
            "ignored: {} ({}): {}",
            printable(&certificate.subject_dn),
            printable(&certificate.sha256_fingerprint),
            printable(&certificate.reason)
        )?;
    }
    Ok(())
}
