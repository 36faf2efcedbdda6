//! What is shown of a key pair that has taken a certificate of others.

use std::io::{self, Write};

use super::Context;
use super::error::Failure;
use crate::printable::printable;
use crate::proto::{IgnoredCertificate, KeyPairView};

impl Context<'_> {
    /// Writes a key pair whose certificate others made; on standard error the warnings about it,
    /// and which certificates were not kept.
    pub(super) fn adopted(
        &mut self,
        view: Option<KeyPairView>,
        warnings: &[String],
        ignored: &[IgnoredCertificate],
    ) -> Result<(), Failure> {
        self.view(&view.unwrap_or_default())?;
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
}
