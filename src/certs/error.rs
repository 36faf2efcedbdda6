//! Why a certificate did not come about.

use super::Finding;
use crate::domain::SignatureMismatch;

/// Why a certificate did not come about.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// rcgen could not encode the certificate.
    #[error("encode the certificate")]
    Encode(#[source] rcgen::Error),
    /// A request could not be encoded.
    #[error("encode the request")]
    EncodeRequest(#[source] der::Error),
    /// An alternative name of a certificate is damaged, and cannot be written again.
    #[error("write the alternative name {0} again")]
    AlternativeName(String),
    /// A name passed validation and yet cannot be encoded.
    #[error("encode the name {0:?}")]
    Name(String),
    /// The subject of a certificate cannot be found.
    #[error("read the certificate's subject")]
    Subject,
    /// The certificate breaks rules of RFC 5280 or differs from what was asked for.
    #[error("lint the certificate: {}", list(.0))]
    Lint(Vec<Finding>),
    /// The provider's signature is not one of the new key.
    #[error("verify the certificate's signature")]
    Signature(#[from] SignatureMismatch),
}

fn list(findings: &[Finding]) -> String {
    let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
    findings.join("; ")
}
