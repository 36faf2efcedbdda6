//! What callers are shown of a key pair.

use tracing::info;

use crate::domain::{
    CertificateValidity, Clock, KeyPair, KeyPairGeneration, KeyPairId, KeyPairTemplate, Lifecycle,
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
    /// The other key pairs that have a key of it, the first hundred of them in the order of their
    /// making. Empty where that was not looked up: in events, and in lists that do not ask for it.
    pub also_key_pair_ids: Vec<KeyPairId>,
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
            also_key_pair_ids: Vec::new(),
            key_pair,
        }
    }
}

impl KeyPairView {
    /// Logs that other key pairs have the key of this one.
    pub(super) fn say_shared_key(&self) {
        if !self.also_key_pair_ids.is_empty() {
            let others: Vec<_> = self
                .also_key_pair_ids
                .iter()
                .map(KeyPairId::as_str)
                .collect();
            info!(
                key_pair = %self.key_pair.id,
                others = others.join(" "),
                "other key pairs have the same key"
            );
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
