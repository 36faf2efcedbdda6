//! Verifies signatures.

use super::sign::check_against;
use super::{Service, ServiceError};
use crate::domain::{Generation, SignatureEncoding, SigningInput};

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

/// What a generation of a key pair is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationState {
    /// The one that signs.
    Current,
}

impl Service {
    /// Checks a signature with the public keys of a key pair. None when it is of none of them.
    ///
    /// The provider is not asked. The certificate may be expired: what was signed in time stays signed.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with all that is wrong; [`ServiceError::KeyPairNotFound`];
    /// [`ServiceError::ProviderOff`].
    pub async fn verify(&self, request: VerifyRequest) -> Result<Option<Verified>, ServiceError> {
        let key = self.signing_key(&request.id).await?;
        let (algorithm, input) = check_against(
            &key,
            request.input,
            &request.signature_algorithm,
            request.encoding,
        )?;
        let verified = Verified {
            generation: key.stored.name.generation,
            state: GenerationState::Current,
            certificate_sha256_fingerprint: key.fingerprint.to_string(),
        };
        let large = input.len() > AT_ONCE_LEN_MAX;
        let check = move || {
            let public_key = &key.stored.public_key;
            let signature = request
                .encoding
                .to_der(public_key.spec(), &request.signature)?;
            public_key.verify(algorithm, &input, &signature).ok()?;
            Some(verified)
        };
        match large {
            true => Ok(tokio::task::spawn_blocking(check).await?),
            false => Ok(check()),
        }
    }
}

/// The longest message that is hashed while others wait.
const AT_ONCE_LEN_MAX: usize = 64 * 1024;
