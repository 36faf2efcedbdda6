//! What callers are shown of a key pair.

use crate::domain::{
    CertificateValidity, Clock, KeyPair, KeyPairTemplate, ProviderKind, ProviderPolicy, Validity,
};

/// A key pair as it is shown: what is stored, and what is true of it at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairView {
    /// What is stored.
    pub key_pair: KeyPair,
    /// What its certificate is now.
    pub status: CertificateValidity,
    /// Its provider, where that is shown.
    pub crypto_provider: Option<ProviderKind>,
    /// Whether its private key may be exported.
    pub exportable: bool,
}

impl KeyPairView {
    pub(super) fn new(
        key_pair: KeyPair,
        policy: ProviderPolicy,
        clock: &dyn Clock,
        exportable: bool,
    ) -> Self {
        Self {
            status: key_pair.current.validity.at(clock.now()),
            crypto_provider: policy.shown(key_pair.provider),
            exportable,
            key_pair,
        }
    }
}

/// What is known of a key pair before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairPreview {
    /// What was asked for, with the defaults filled in.
    pub template: KeyPairTemplate,
    /// The validity its certificate would have if it were made now.
    pub validity: Validity,
    /// Its provider, where that is shown.
    pub crypto_provider: Option<ProviderKind>,
}
