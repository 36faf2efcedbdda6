//! What a caller should know of a certificate that was taken from elsewhere.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{info, warn};

use super::KeyPairView;
use crate::certs::{self, IgnoredCertificate};
use crate::domain::{KeyPairGeneration, KeyPairId};

/// A key pair whose certificate came from elsewhere, and what is to be said of that.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The key pair.
    pub view: KeyPairView,
    /// What its caller should know.
    pub notes: CertificateNotes,
}

/// What a caller should know of a certificate that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNotes {
    /// Sentences about the certificate.
    pub warnings: Vec<String>,
    /// Certificates that came with it, and are not kept.
    pub ignored: Vec<IgnoredCertificate>,
}

impl CertificateNotes {
    /// Looks at the certificate of a generation, which may have replaced another one.
    pub(super) fn of(
        before: Option<&KeyPairGeneration>,
        after: &KeyPairGeneration,
        ignored: Vec<IgnoredCertificate>,
    ) -> Self {
        let warnings = [
            not_for_signatures(after),
            before.and_then(|before| ends_earlier(before, after)),
            signs_otherwise(after),
        ];
        Self {
            warnings: warnings.into_iter().flatten().collect(),
            ignored,
        }
    }

    /// Writes them into the log.
    pub(super) fn log(&self, id: &KeyPairId) {
        for warning in &self.warnings {
            warn!(key_pair = %id, "{warning}");
        }
        for certificate in &self.ignored {
            info!(
                key_pair = %id,
                subject = certificate.subject_dn,
                certificate = certificate.sha256_fingerprint,
                reason = certificate.reason,
                "ignored a certificate that was given with another"
            );
        }
    }
}

fn not_for_signatures(after: &KeyPairGeneration) -> Option<String> {
    let sentence = "the key usage of the certificate lacks digitalSignature, so others may refuse the signatures of this key pair; ask the CA for a certificate with it";
    certs::is_not_for_signatures(&after.certificate).then(|| sentence.to_owned())
}

fn ends_earlier(before: &KeyPairGeneration, after: &KeyPairGeneration) -> Option<String> {
    let (was, is) = (before.validity.not_after, after.validity.not_after);
    let shown = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
    (is < was).then(|| {
        format!(
            "the certificate expires at {}, before the one that it replaces, which would have at {}",
            shown(is),
            shown(was)
        )
    })
}

fn signs_otherwise(after: &KeyPairGeneration) -> Option<String> {
    let (certificate, key) = (
        &after.certificate_signature_algorithm,
        after.signing_algorithm.name(),
    );
    (certificate != key).then(|| {
        format!("the certificate is signed with {certificate}, and the key pair signs with {key}")
    })
}
