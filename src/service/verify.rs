//! Verifies signatures.

use super::sign::check_against;
use super::{Service, ServiceError};
use crate::domain::{
    CertificateValidity, Generation, GenerationState, SignatureEncoding, SigningInput,
};

/// A signature that a caller wants to have checked.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// `id`.
    pub id: String,
    /// `message` or `digest`; none when neither is given.
    pub input: Option<SigningInput>,
    /// `signature`.
    pub signature: Vec<u8>,
    /// `signatureAlgorithm`; empty for the key pair's.
    pub signature_algorithm: String,
    /// `encoding`.
    pub encoding: SignatureEncoding,
}

/// Which of the keys of a key pair made a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The number of the generation.
    pub generation: Generation,
    /// What the generation is now.
    pub state: GenerationState,
    /// The SHA-256 fingerprint of its certificate.
    pub certificate_sha256_fingerprint: String,
}

impl Service {
    /// Checks a signature with the public keys of a key pair: with that of the generation that signs, of the one that
    /// will, and of those that did and are not expired. None when it is of none of them.
    ///
    /// The provider is not asked. The current certificate may be expired: what was signed in time stays signed.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::KeyPairNotFound`];
    /// [`ServiceError::ProviderOff`].
    pub async fn verify(&self, request: VerifyRequest) -> Result<Option<Verified>, ServiceError> {
        let key = self.signing_key(&request.id).await?;
        let now = self.clock.now();
        let published = key.published.iter().filter(|one| {
            one.state == GenerationState::Current
                || one.validity.at(now) != CertificateValidity::Expired
        });
        // What the request says may fit one generation and not another, when their keys are of different kinds.
        let (mut candidates, mut refused) = (Vec::new(), None);
        for generation in published {
            let checked = check_against(
                generation.public_key.spec(),
                generation.algorithm,
                request.input.clone(),
                &request.signature_algorithm,
                request.encoding,
            );
            match checked {
                Ok((algorithm, input)) => candidates.push((generation.clone(), algorithm, input)),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if let (true, Some(refused)) = (candidates.is_empty(), refused) {
            return Err(refused);
        }
        let large = request.input.is_some_and(|input| input.is_large());
        let (encoding, signature) = (request.encoding, request.signature);
        let check = move || {
            candidates.into_iter().find_map(|(key, algorithm, input)| {
                let signature = encoding.to_der(key.public_key.spec(), &signature)?;
                key.public_key.verify(algorithm, &input, &signature).ok()?;
                Some(Verified {
                    generation: key.number,
                    state: key.state,
                    certificate_sha256_fingerprint: key.fingerprint.to_string(),
                })
            })
        };
        match large {
            true => Ok(tokio::task::spawn_blocking(check).await?),
            false => Ok(check()),
        }
    }
}
