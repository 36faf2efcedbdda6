//! Has a CA certify key pairs: makes the request, and takes the answer.

use std::sync::Arc;

use bytes::Bytes;
use tracing::info;

use super::{CertificateNotes, KeyPairView, Service, ServiceError};
use crate::certs::{self, CertError, Certified, CsrProfile};
use crate::domain::{
    Clock, EventKind, KeyPair, PublicKey, Refusal, SubjectAlternativeName, SubjectSettings,
    Violations,
};
use crate::providers::SigningOrder;

/// A certificate signing request as a caller asked for it.
#[derive(Clone, Debug, Default)]
pub struct CsrRequest {
    /// `id`.
    pub id: String,
    /// `subject`; that of the certificate when absent.
    pub subject: Option<SubjectSettings>,
    /// `subjectAlternativeNames`; those of the certificate when empty.
    pub subject_alternative_names: Vec<String>,
}

/// A key pair that a CA has certified.
#[derive(Clone, Debug)]
pub struct CaCertified {
    /// The key pair with its new certificate.
    pub view: KeyPairView,
    /// Whether its rotation settings ended with that.
    pub rotation_ended: bool,
    /// What the caller should know of the certificate.
    pub notes: CertificateNotes,
}

impl Service {
    /// Returns a PKCS#10 request in PEM, signed by the key pair's key.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairNotFound`]; [`ServiceError::ProviderOff`];
    /// [`ServiceError::Provider`].
    pub async fn generate_csr(&self, request: CsrRequest) -> Result<String, ServiceError> {
        let mut violations = Violations::new();
        let subject = request
            .subject
            .and_then(|subject| subject.check("subject.", &mut violations));
        let names = match &*request.subject_alternative_names {
            [] => None,
            names => Some(SubjectAlternativeName::parse_all(names, &mut violations)),
        };
        violations.into_result().map_err(ServiceError::Invalid)?;
        let (key_pair, key) = self.find_with_key(&request.id).await?;
        let handle = self.provider_of(&key_pair)?;
        handle.availability()?;
        let profile = CsrProfile {
            certificate: key_pair.current.certificate.clone(),
            public_key: key_pair.current.public_key.clone(),
            subject,
            names,
        };
        let linted = profile.build().map_err(|error| match error {
            CertError::AlternativeName(name) => ServiceError::invalid(
                "subjectAlternativeNames",
                Refusal::new(format!(
                    "are required, because {name} of the certificate is damaged and cannot be carried over; say which names to ask for instead (keypairctl csr --san)"
                )),
            ),
            other => other.into(),
        })?;
        let signature = handle
            .sign(SigningOrder {
                key: Arc::new(key),
                algorithm: linted.signature_algorithm(),
                input: linted.to_be_signed(),
            })
            .await?;
        Ok(linted.complete(&signature)?)
    }

    /// Puts the certificate of a CA in the place of the current one. What is returned is durable; the token's
    /// copy follows, at once or when the token is back.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`]; [`ServiceError::KeyPairNotFound`]; [`ServiceError::EtagMismatch`];
    /// [`ServiceError::ProviderOff`].
    pub async fn import_csr_response(
        self: &Arc<Self>,
        id: &str,
        file_data: Bytes,
        etag: &str,
    ) -> Result<CaCertified, ServiceError> {
        // Once, however often the change is tried: it is work, and the answer fits one key alone.
        let public_key = self.changeable(id, etag).await?.current.public_key;
        let certified = self.read_answer(public_key.clone(), file_data).await?;
        let certified = Arc::new((public_key, certified));
        let (becomes, rotation_ended, notes) = self
            .change_found(id, etag, |service, was| {
                let certified = Arc::clone(&certified);
                async move {
                    let becomes = recertified(&was, &certified)
                        .map_err(|refusal| ServiceError::invalid("fileData", refusal))?;
                    let rotation_ended = was.rotation.is_some();
                    let change = service.change(Some(EventKind::CertificateUpdated));
                    service.replace(&was, &becomes, change).await?;
                    info!(
                        key_pair = %becomes.id,
                        issuer = becomes.current.issuer_dn,
                        certificate = becomes.current.certificate.sha256_fingerprint(),
                        rotation_ended,
                        "replaced the certificate of a key pair"
                    );
                    let ignored = certified.1.ignored.clone();
                    let notes = CertificateNotes::of(Some(&was.current), &becomes.current, ignored);
                    notes.log(&becomes.id);
                    Ok::<_, ServiceError>((becomes, rotation_ended, notes))
                }
            })
            .await?;
        Ok(CaCertified {
            view: self.shown(becomes).await,
            rotation_ended,
            notes,
        })
    }

    /// Reads the answer of a CA, and verifies it for a public key.
    async fn read_answer(
        &self,
        public_key: PublicKey,
        file_data: Bytes,
    ) -> Result<Certified, ServiceError> {
        if file_data.is_empty() {
            return Err(ServiceError::invalid(
                "fileData",
                Refusal::new("is required"),
            ));
        }
        let clock = Arc::clone(&self.clock);
        let read = move || certified_by_answer(&public_key, &file_data, &*clock);
        self.file_work(move || read().map_err(|refusal| ServiceError::invalid("fileData", refusal)))
            .await
    }
}

fn certified_by_answer(
    public_key: &PublicKey,
    file_data: &[u8],
    clock: &dyn Clock,
) -> Result<Certified, Refusal> {
    let certificates = certs::read_certificates(file_data)?;
    certs::certify_by_ca(public_key, certificates, clock.now())
}

/// Puts a certificate in the place of a key pair's own, which must be of the same key.
fn recertified(was: &KeyPair, certified: &(PublicKey, Certified)) -> Result<KeyPair, Refusal> {
    let (public_key, certified) = certified;
    if *public_key != was.current.public_key {
        // It was rotated meanwhile.
        return Err(Refusal::new(
            "has no certificate of this key pair's public key",
        ));
    }
    let Certified { leaf, chain, .. } = certified.clone();
    let algorithm = was.current.signing_algorithm;
    if leaf.pss_only.is_some_and(|only| !only.allows(algorithm)) {
        return Err(Refusal::new(format!(
            "has a certificate that restricts the key to RSASSA-PSS, and the key pair signs with {algorithm}; ask the CA to take the public key as it is in the request"
        )));
    }
    Ok(KeyPair {
        revision: was.revision + 1,
        // What comes from a CA is renewed by that CA.
        rotation: None,
        current: was.current.clone().recertified(leaf, chain),
        ..was.clone()
    })
}
