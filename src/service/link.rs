//! Adopts keys that are on the token already.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};

use super::create::{stored_precision, taken};
use super::{Adopted, CertificateNotes, Service, ServiceError, issue};
use crate::certs::{self, Certified, Profile, SerialNumber};
use crate::domain::{
    Certificate, Generation, HeldKey, KeyOrigin, KeyPair, KeyPairGeneration, KeyPairId,
    KeyPairTemplate, KeyRef, Labels, NewKeyPairSettings, ProviderKind, PublicKey, Refusal,
    SigningInput, Validity, Violations,
};
use crate::providers::{
    CryptoProvider, KeyName, KeySearch, Lane, LinkedKey, Operation, ProviderError, ProviderHandle,
    StoredKey, TokenKey,
};
use crate::store::{NewKeyPair, StoreError};
use crate::telemetry::Call;

/// A key on the token, as a caller named it.
#[derive(Clone, Debug, Default)]
pub struct LinkRequest {
    /// `id`.
    pub id: Option<String>,
    /// `privateKeyLabel`; empty for none.
    pub private_key_label: String,
    /// `privateKeyId`, hexadecimal; empty for none.
    pub private_key_id: String,
    /// `certificate`; empty for none.
    pub certificate: Bytes,
    /// `settings` of a self-signed certificate.
    pub settings: Option<NewKeyPairSettings>,
    /// `labels`, which `settings` may have instead.
    pub labels: BTreeMap<String, String>,
}

/// A key that can be adopted.
struct Found {
    key: TokenKey,
    key_ref: KeyRef,
    public_key: PublicKey,
}

/// Where the certificate comes from.
enum Source {
    /// It is there.
    Issued(Box<Certified>),
    /// The key signs it.
    SelfSigned(Box<KeyPairTemplate>),
}

impl Service {
    /// Adopts a private key on the token. What is returned is durable, and the key has signed what its public
    /// key verifies, also after it was recorded. Nothing on the token is changed.
    ///
    /// A doubtful key is kept by this. A caller that goes away before the end has the record
    /// removed again.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairExists`]; [`ServiceError::CreationUnfinished`];
    /// [`ServiceError::Provider`].
    pub async fn link(self: &Arc<Self>, request: LinkRequest) -> Result<Adopted, ServiceError> {
        let caller = CancellationToken::new();
        let gone = caller.clone();
        let _gone_when_dropped = caller.drop_guard();
        let service = Arc::clone(self);
        let work = async move { service.link_whole(request, &gone).await };
        let linked = self.tasks.spawn(work.instrument(Call::current_span()));
        let (key_pair, notes) = linked.await??;
        let view = self.shown(key_pair).await;
        view.say_shared_key();
        Ok(Adopted { view, notes })
    }

    async fn link_whole(
        &self,
        request: LinkRequest,
        gone: &CancellationToken,
    ) -> Result<(KeyPair, CertificateNotes), ServiceError> {
        let (field, search) = search(&request)?;
        if !self.registry.policy().mode.serves(ProviderKind::Hsm) {
            let refusal = "names a key on a token, and this daemon has none; set crypto.mode";
            return Err(ServiceError::invalid(field, Refusal::new(refusal)));
        }
        let handle = self.running(ProviderKind::Hsm, Operation::Inventory)?;
        let found = self.find_on_token(handle, field, search).await?;
        let (id, labels, source) = self.link_source(handle, request, &found).await?;
        let id = match id {
            Some(id) => {
                self.refuse_taken(&id).await?;
                id
            }
            None => KeyPairId::from_random(self.entropy.bits_128()?),
        };
        let rotation = match &source {
            Source::Issued(_) => None,
            Source::SelfSigned(template) => template.rotation,
        };
        let name = KeyName {
            id: id.clone(),
            generation: Generation::FIRST,
            key_ref: found.key_ref,
        };
        let certified = self
            .prove(handle, field, &name, &found.public_key, source)
            .await?;
        let key = HeldKey {
            number: name.generation,
            provider: ProviderKind::Hsm,
            origin: KeyOrigin::Linked,
            key_ref: found.key_ref,
            token_attributes: Some(found.key.token_attributes),
        };
        let current = KeyPairGeneration::new(key, certified.leaf, certified.chain);
        let notes = CertificateNotes::of(None, &current, certified.ignored);
        let create_time = stored_precision(self.clock.now());
        let key_pair = KeyPair {
            rotation,
            ..KeyPair::new(id, labels, create_time, current)
        };
        if gone.is_cancelled() {
            return Err(ServiceError::CallerGone);
        }
        let doubtful = self.doubtful_intent(found.key_ref).await?;
        self.record_linked(field, &key_pair).await?;
        let there = self.prove_recorded(handle, field, &key_pair).await;
        let linked = match gone.is_cancelled() {
            true => there.and(Err(ServiceError::CallerGone)),
            false => there,
        };
        if let Err(error) = linked {
            if let Err(failure) = self.take_back(&key_pair, doubtful).await {
                warn!(key_pair = %key_pair.id, %error, %failure, "linking failed, and its record could not be removed");
            }
            return Err(error);
        }
        info!(key_pair = %key_pair.id, key_ref = %found.key_ref, label = found.key.label, "linked a key of the token");
        notes.log(&key_pair.id);
        Ok((key_pair, notes))
    }

    /// Records the key pair of a linked key.
    async fn record_linked(
        &self,
        field: &'static str,
        key_pair: &KeyPair,
    ) -> Result<(), ServiceError> {
        let recorded = self.store.complete_creation(NewKeyPair {
            key_pair: key_pair.clone(),
            sealed_key: None,
            request: None,
            intent: None,
        });
        let recorded = match recorded.await {
            Ok(()) => Ok(()),
            Err(failure) => {
                let is_ours = |now: Option<&KeyPair>| now == Some(key_pair);
                self.recorded(&key_pair.id, failure, is_ours).await
            }
        };
        recorded.map_err(|error| match error {
            StoreError::KeyTaken => ServiceError::invalid(
                field,
                Refusal::new("names a key that a key pair of keypaird has already"),
            ),
            StoreError::KeyUnfinished => ServiceError::invalid(
                field,
                Refusal::new("names a key that keypaird is making or destroying at the moment"),
            ),
            other => taken(other, &key_pair.id),
        })
    }

    /// Looks at the key once more. A deletion that was under way may have destroyed it between its
    /// signature and its record. One that comes later deletes the record first.
    async fn prove_recorded(
        &self,
        handle: &ProviderHandle,
        field: &'static str,
        key_pair: &KeyPair,
    ) -> Result<(), ServiceError> {
        let (key_ref, public_key) = (
            key_pair.current.key_ref,
            key_pair.current.public_key.clone(),
        );
        let sentence = match self.look_at_linked_key(handle, key_ref, public_key).await? {
            LinkedKey::Present => return Ok(()),
            LinkedKey::Missing => DESTROYED,
            LinkedKey::Replaced => "names a key that another one has replaced meanwhile",
            LinkedKey::Ambiguous => "names a key whose CKA_ID a second private key now has",
        };
        Err(ServiceError::invalid(field, Refusal::new(sentence)))
    }

    /// Finds the one key on the token that can be meant.
    async fn find_on_token(
        &self,
        handle: &ProviderHandle,
        field: &'static str,
        search: KeySearch,
    ) -> Result<Found, ServiceError> {
        let refuse = |sentence: String| ServiceError::invalid(field, Refusal::new(sentence));
        let key = match <[TokenKey; 1]>::try_from(find_keys(handle, search).await?) {
            Ok([key]) => key,
            Err(none) if none.is_empty() => {
                return Err(refuse("names no private key on the token".to_owned()));
            }
            Err(several) => return Err(refuse(candidates(&several))),
        };
        let Some(key_ref) = KeyRef::from_slice(&key.id) else {
            return Err(refuse(format!(
                "names a key with a CKA_ID of {} bytes, and 1 to {} are needed to find it again; set another one on the token",
                key.id.len(),
                KeyRef::LEN_MAX
            )));
        };
        // A label may be of one key, and its CKA_ID of two.
        let same = find_keys(handle, KeySearch::Id(key.id.clone())).await?;
        if same.len() > 1 {
            return Err(refuse(candidates(&same)));
        }
        if !key.can_sign {
            return Err(refuse(
                "names a key that may not sign (CKA_SIGN)".to_owned(),
            ));
        }
        let Some(public_key) = key.public_key.clone() else {
            return Err(refuse(format!(
                "names a key ({}) whose public key cannot be found on the token, or that is none of RSA 2048, 3072 and 4096, P-256, P-384, P-521 and Ed25519",
                key.kind
            )));
        };
        self.refuse_unsupported(field, ProviderKind::Hsm, &public_key)?;
        Ok(Found {
            key,
            key_ref,
            public_key,
        })
    }

    /// Decides where the certificate comes from, and checks the identifier and the labels.
    async fn link_source(
        &self,
        handle: &ProviderHandle,
        request: LinkRequest,
        found: &Found,
    ) -> Result<(Option<KeyPairId>, Labels, Source), ServiceError> {
        let LinkRequest {
            id,
            certificate,
            settings,
            labels,
            ..
        } = request;
        let labels = one_of(labels, settings.as_ref())?;
        let now = self.clock.now();
        if let Some(settings) = settings.filter(|_| certificate.is_empty()) {
            let spec = found.public_key.spec();
            let settings = NewKeyPairSettings { labels, ..settings };
            let template = self
                .check_settings(settings.for_key(spec, id))
                .map_err(ServiceError::Invalid)?;
            if template.first.spec != spec {
                let refusal = format!("is not that of the key, which is {spec}; leave it out");
                return Err(ServiceError::invalid("keyAlgorithm", Refusal::new(refusal)));
            }
            let (id, labels) = (template.id.clone(), template.labels.clone());
            return Ok((id, labels, Source::SelfSigned(Box::new(template))));
        }
        let mut violations = Violations::new();
        let id = id.and_then(|id| violations.check("id", KeyPairId::parse(&id)));
        let labels = Labels::check(labels, &mut violations);
        violations.into_result().map_err(ServiceError::Invalid)?;
        let on_token = match certificate.is_empty() {
            false => None,
            true => Some(certificates_of(handle, found.key.id.clone()).await?),
        };
        let public_key = found.public_key.clone();
        let certify = move || {
            let certificates = match on_token {
                None => certs::read_certificates(&certificate)?,
                Some(none) if none.is_empty() => {
                    return Err(Refusal::new(
                        "is required: give the key's certificate, or settings of a self-signed one; the token has none beside the key",
                    ));
                }
                Some(certificates) => certificates,
            };
            certs::certify(&public_key, certificates, now)
        };
        let refused = |refusal| ServiceError::invalid("certificate", refusal);
        let certified = self.file_work(move || certify().map_err(refused)).await?;
        Ok((id, labels, Source::Issued(Box::new(certified))))
    }

    /// Has the key sign, which shows that it is ours to use and the one of the public key.
    ///
    /// This is done where keys are destroyed, one after the other: a key that a deletion took meanwhile
    /// is looked for first, since to sign with one that is missing makes the connection suspect.
    async fn prove(
        &self,
        handle: &ProviderHandle,
        field: &'static str,
        name: &KeyName,
        public_key: &PublicKey,
        source: Source,
    ) -> Result<Certified, ServiceError> {
        let key = StoredKey {
            name: name.clone(),
            public_key: public_key.clone(),
            sealed: None,
        };
        let challenge = Bytes::copy_from_slice(&self.entropy.bits_128()?);
        let serial_number = SerialNumber::from_random(self.entropy.bits_128()?);
        let now = stored_precision(self.clock.now());
        let job = move |provider: &dyn CryptoProvider| {
            let look = issue::on_token(Operation::Inventory, |token| {
                token.look_at_linked_key(key.name.key_ref, &key.public_key)
            });
            if look(provider)? == LinkedKey::Missing {
                return Err(ServiceError::invalid(field, Refusal::new(DESTROYED)));
            }
            match source {
                Source::Issued(certified) => {
                    let algorithm = key.public_key.spec().algorithm();
                    let algorithm = algorithm.default_signature_algorithm();
                    let challenge = SigningInput::Message(challenge);
                    let signature = provider.sign(&key, algorithm, &challenge)?;
                    key.public_key
                    .verify(algorithm, &challenge, &signature)
                    .map_err(|_| {
                        let sentence = "is not the certificate of this key: a signature of the key does not verify with it";
                        ServiceError::invalid("certificate", Refusal::new(sentence))
                    })?;
                    Ok::<_, ServiceError>(*certified)
                }
                Source::SelfSigned(template) => {
                    let profile = Profile {
                        validity: Validity::days_from(now, template.first.valid_days),
                        subject: template.subject,
                        names: template.names,
                        serial_number,
                        public_key: key.public_key.clone(),
                        signature_algorithm: template.first.signature_algorithm,
                    };
                    Ok(Certified {
                        leaf: issue::self_signed(provider, &key, profile)?,
                        chain: Vec::new(),
                        ignored: Vec::new(),
                    })
                }
            }
        };
        handle.run(Lane::Manage, Operation::Sign, job).await
    }
}

/// Reads by what the key shall be found, and which field says so.
fn search(request: &LinkRequest) -> Result<(&'static str, KeySearch), ServiceError> {
    let LinkRequest {
        private_key_label: label,
        private_key_id: id,
        ..
    } = request;
    match (&**label, &**id) {
        ("", "") => Err(ServiceError::invalid(
            "privateKeyId",
            Refusal::new("is required, or else the label of the private key"),
        )),
        (label, "") => Ok(("privateKeyLabel", KeySearch::Label(label.to_owned()))),
        ("", id) => match decode_hex(id) {
            Some(id) => Ok(("privateKeyId", KeySearch::Id(id))),
            None => Err(ServiceError::invalid(
                "privateKeyId",
                Refusal::of(
                    id,
                    "is not a CKA_ID in hexadecimal digits, two for each byte",
                ),
            )),
        },
        _ => Err(ServiceError::invalid(
            "privateKeyId",
            Refusal::new("is one of two names of the key; give either it or privateKeyLabel"),
        )),
    }
}

/// Returns the labels, which may be given beside the settings or in them.
fn one_of(
    labels: BTreeMap<String, String>,
    settings: Option<&NewKeyPairSettings>,
) -> Result<BTreeMap<String, String>, ServiceError> {
    let in_settings = settings.map(|settings| &settings.labels);
    match in_settings.filter(|others| !others.is_empty()) {
        Some(others) if labels.is_empty() => Ok(others.clone()),
        Some(others) if *others != labels => Err(ServiceError::invalid(
            "labels",
            Refusal::new("differ from settings.labels; give the labels in one of the two places"),
        )),
        _ => Ok(labels),
    }
}

/// Reads bytes from hexadecimal digits, two for each, which may have colons in between.
pub(super) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Lists the keys among which a caller has to choose.
fn candidates(keys: &[TokenKey]) -> String {
    let shown: Vec<_> = keys
        .iter()
        .take(CANDIDATES_MAX)
        .map(|key| {
            let id: Vec<_> = key.id.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{:?} {} ({})", key.label, id.concat(), key.kind)
        })
        .collect();
    format!(
        "names {} private keys: {}; choose one by privateKeyId, or make their CKA_IDs differ",
        keys.len(),
        shown.join(", ")
    )
}

async fn find_keys(
    handle: &ProviderHandle,
    search: KeySearch,
) -> Result<Vec<TokenKey>, ProviderError> {
    let operation = Operation::Inventory;
    let find = issue::on_token(operation, move |token| token.find_keys(&search));
    let mut found = handle.run(Lane::Manage, operation, find).await?;
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

async fn certificates_of(
    handle: &ProviderHandle,
    id: Vec<u8>,
) -> Result<Vec<Certificate>, ProviderError> {
    let operation = Operation::Inventory;
    let find = issue::on_token(operation, move |token| token.certificates_of(&id));
    handle.run(Lane::Manage, operation, find).await
}

const DESTROYED: &str = "names a key that was destroyed meanwhile";
const CANDIDATES_MAX: usize = 8;
