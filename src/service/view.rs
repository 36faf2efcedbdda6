//! What callers are shown of a key pair.

use crate::domain::{
    CertificateValidity, Clock, KeyPair, KeyPairGeneration, KeyPairTemplate, Lifecycle,
    ProviderKind, ProviderPolicy, Validity, is_unprintable, printable,
};

/// A key pair as it is shown: what is stored, and what is true of it at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairView {
    /// What is stored, without what is no longer published. A pending generation says when it will begin to sign.
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
        mut key_pair: KeyPair,
        policy: ProviderPolicy,
        clock: &dyn Clock,
        exportable: bool,
    ) -> Self {
        let now = clock.now();
        // What is no longer published is not shown, although nobody has removed it yet.
        let expired =
            |one: &KeyPairGeneration| one.validity.at(now) == CertificateValidity::Expired;
        key_pair.previous.retain(|one| !expired(one));
        key_pair.pending = key_pair.pending.filter(|one| !expired(one));
        let activation_time = Lifecycle::of(&key_pair).activation_time();
        if let Some(pending) = &mut key_pair.pending {
            pending.activate_time = activation_time;
        }
        show(&mut key_pair.current);
        Self {
            status: key_pair.current.validity.at(now),
            crypto_provider: policy.shown(key_pair.provider()),
            exportable,
            key_pair,
        }
    }
}

/// Escapes what steers a terminal in the names of a certificate: stores of former versions have
/// them as they were.
fn show(generation: &mut KeyPairGeneration) {
    let names = [&mut generation.subject_dn, &mut generation.issuer_dn];
    let others = &mut generation.subject_alternative_names;
    for name in names.into_iter().chain(others) {
        if name.chars().any(is_unprintable) {
            *name = printable(name);
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
