//! Signs.

use std::sync::Arc;

use super::signing_keys::SigningKey;
use super::{Service, ServiceError};
use crate::certs;
use crate::domain::{
    CertificateValidity, Generation, KeyAlgorithm, KeyPairGeneration, KeySpec, PssOnly, Refusal,
    SignatureAlgorithm, SignatureEncoding, SigningInput, Violations,
};
use crate::providers::{Operation, ProviderError, ProviderErrorKind, SigningOrder};

/// A signature as a caller asked for it.
#[derive(Clone, Debug)]
pub struct SignRequest {
    /// `id`.
    pub id: String,
    /// `message` or `digest`; none when neither is given.
    pub input: Option<SigningInput>,
    /// `signatureAlgorithm`; empty for the key pair's.
    pub signature_algorithm: String,
    /// `encoding`.
    pub encoding: SignatureEncoding,
    /// `allowOutsideValidity`.
    pub allow_outside_validity: bool,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signature, in the form asked for.
    pub signature: Vec<u8>,
    /// The algorithm it was made with.
    pub signature_algorithm: SignatureAlgorithm,
    /// The SHA-256 fingerprint of the key's certificate.
    pub certificate_sha256_fingerprint: Arc<str>,
    /// The generation that signed.
    pub generation: Generation,
}

/// A request that can be carried out.
struct Checked {
    key: Arc<SigningKey>,
    algorithm: SignatureAlgorithm,
    input: SigningInput,
    encoding: SignatureEncoding,
}

impl Service {
    /// Makes a signature.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::KeyPairNotFound`];
    /// [`ServiceError::OutsideValidity`] unless the request allows it; [`ServiceError::ProviderOff`];
    /// [`ServiceError::Provider`].
    pub async fn sign(&self, request: SignRequest) -> Result<Signed, ServiceError> {
        let checked = self.check_signing(request).await?;
        let provider = Arc::clone(&checked.key.provider);
        let mut signature = provider.sign(checked.order()).await;
        if is_lost(&signature) && provider.recovers().await {
            // To sign twice does no harm.
            signature = provider.sign(checked.order()).await;
        }
        checked.finish(signature)
    }

    /// Makes many signatures. Each succeeds or fails by itself, in the order of the requests; what was wrong
    /// with one before stays its result.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] when there are too many, or none.
    pub async fn sign_batch(
        &self,
        requests: Vec<Result<SignRequest, ServiceError>>,
    ) -> Result<Vec<Result<Signed, ServiceError>>, ServiceError> {
        if !(1..=BATCH_MAX).contains(&requests.len()) {
            let refusal = format!(
                "{} requests were given; 1 to {BATCH_MAX} are allowed",
                requests.len()
            );
            return Err(ServiceError::invalid("requests", Refusal::new(refusal)));
        }
        Ok(self.sign_all(requests).await)
    }

    /// Makes signatures together, as [`Service::sign_batch`] does.
    pub async fn sign_all(
        &self,
        requests: Vec<Result<SignRequest, ServiceError>>,
    ) -> Vec<Result<Signed, ServiceError>> {
        let count = requests.len();
        let mut results: Vec<Option<Result<Signed, ServiceError>>> = Vec::with_capacity(count);
        let mut good = Vec::with_capacity(count);
        for (index, request) in requests.into_iter().enumerate() {
            let checked = match request {
                Ok(request) => self.check_signing(request).await,
                Err(error) => Err(error),
            };
            match checked {
                Ok(checked) => {
                    good.push((index, checked));
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        for handle in self.registry.iter() {
            let (ours, others) = good
                .into_iter()
                .partition::<Vec<_>, _>(|(_, checked)| Arc::ptr_eq(&checked.key.provider, handle));
            good = others;
            let orders = ours.iter().map(|(_, checked)| checked.order()).collect();
            let mut signatures = handle.sign_all(orders).await;
            if signatures.iter().any(is_lost) && handle.recovers().await {
                let lost: Vec<_> = (0..signatures.len())
                    .filter(|index| is_lost(&signatures[*index]))
                    .collect();
                let orders = lost.iter().map(|index| ours[*index].1.order()).collect();
                for (index, signature) in lost.into_iter().zip(handle.sign_all(orders).await) {
                    signatures[index] = signature;
                }
            }
            let mut signatures = signatures.into_iter();
            let missing = || {
                let failed = ProviderErrorKind::Failed;
                let error = ProviderError::new(handle.kind(), Operation::Sign, failed);
                Err(error.because("a signature is missing"))
            };
            for (index, checked) in ours {
                let signature = signatures.next().unwrap_or_else(missing);
                results[index] = Some(checked.finish(signature));
            }
        }
        // Each has one: of a provider that runs, or from before.
        let results = results.into_iter();
        results
            .map(|result| result.unwrap_or(Err(ServiceError::Panicked)))
            .collect()
    }

    /// Finds the key, and checks all of a request at once.
    async fn check_signing(&self, request: SignRequest) -> Result<Checked, ServiceError> {
        let key = self.signing_key(&request.id).await?;
        let (algorithm, input) =
            check_against(key.signing, request.input, &request.signature_algorithm)?;
        let status = key.validity.at(self.clock.now());
        if status != CertificateValidity::Valid && !request.allow_outside_validity {
            return Err(ServiceError::OutsideValidity {
                id: request.id,
                status,
            });
        }
        key.provider.availability()?;
        Ok(Checked {
            key,
            algorithm,
            input,
            encoding: request.encoding,
        })
    }
}

/// Tells whether a signature failed because its provider was lost.
fn is_lost(signature: &Result<Vec<u8>, ProviderError>) -> bool {
    let error = signature.as_ref().err();
    error.is_some_and(|error| error.kind == ProviderErrorKind::Unavailable)
}

/// How a key signs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signing {
    /// The kind of key.
    pub(super) spec: KeySpec,
    /// The signature algorithm used when a request names none.
    pub(super) default: SignatureAlgorithm,
    /// What its certificate restricts it to, if it does.
    pub(super) pss_only: Option<PssOnly>,
}

impl Signing {
    /// Reads it off a generation.
    pub(super) fn of(generation: &KeyPairGeneration) -> Self {
        let spec = generation.public_key.spec();
        let recorded = generation.signing_algorithm;
        let is_rsa = spec.algorithm() == KeyAlgorithm::Rsa;
        let pss_only = is_rsa.then(|| certs::pss_only(&generation.certificate));
        let pss_only = pss_only.flatten();
        Self {
            spec,
            // Recorded before restrictions were read.
            default: match pss_only {
                Some(only) if !only.allows(recorded) => only.default_algorithm(),
                _ => recorded,
            },
            pss_only,
        }
    }

    fn choose(self, algorithm: &str) -> Result<SignatureAlgorithm, Refusal> {
        let algorithm = match algorithm {
            "" => self.default,
            name => self.spec.signing_algorithm(name)?,
        };
        match self.pss_only {
            Some(only) => only.check(algorithm),
            None => Ok(algorithm),
        }
    }
}

/// Checks what is signed, or was, and how, against the key.
pub(super) fn check_against(
    signing: Signing,
    input: Option<SigningInput>,
    algorithm: &str,
) -> Result<(SignatureAlgorithm, SigningInput), ServiceError> {
    let mut violations = Violations::new();
    let algorithm = violations.check("signatureAlgorithm", signing.choose(algorithm));
    match (&input, algorithm) {
        (None, _) => violations.add(
            "message",
            Refusal::new("is required: give a message, or a digest"),
        ),
        (Some(input), Some(algorithm)) => input.check(algorithm, &mut violations),
        (Some(_), None) => {}
    }
    match (algorithm, input) {
        (Some(algorithm), Some(input)) if violations.is_empty() => Ok((algorithm, input)),
        _ => Err(ServiceError::Invalid(violations)),
    }
}

impl Checked {
    fn order(&self) -> SigningOrder {
        SigningOrder {
            key: Arc::clone(&self.key.stored),
            algorithm: self.algorithm,
            input: self.input.clone(),
        }
    }

    fn finish(self, signature: Result<Vec<u8>, ProviderError>) -> Result<Signed, ServiceError> {
        let Self {
            key,
            algorithm,
            encoding,
            ..
        } = self;
        let signature = signature.map_err(|error| match error.kind {
            // A token may lack a mechanism, such as CKM_RSA_PKCS_PSS.
            ProviderErrorKind::Unsupported => ServiceError::invalid(
                "signatureAlgorithm",
                Refusal::new(format!(
                    "{algorithm} cannot be done by {}; choose another one",
                    error.provider
                )),
            ),
            _ => error.into(),
        })?;
        let signature = encoding
            .from_der(key.stored.public_key.spec(), signature)
            .ok_or(ServiceError::SignatureForm)?;
        Ok(Signed {
            signature,
            signature_algorithm: algorithm,
            certificate_sha256_fingerprint: Arc::clone(&key.fingerprint),
            generation: key.stored.name.generation,
        })
    }
}

/// How many signatures one call asks for at most.
const BATCH_MAX: usize = 1000;
