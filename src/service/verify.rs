//! Verifies signatures.

use super::sign::check_against;
use super::{Service, ServiceError};
use crate::domain::{
    CertificateValidity, Generation, GenerationState, PublicKey, Refusal, SignatureAlgorithm,
    SignatureEncoding, SigningInput,
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
    /// `pssSaltLength`; none for any.
    pub pss_salt_length: Option<i32>,
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
                generation.signing,
                request.input.clone(),
                &request.signature_algorithm,
            );
            let checked = checked.and_then(|(algorithm, input)| {
                let salt = salt(algorithm, request.pss_salt_length)?;
                Ok((generation.clone(), algorithm, salt, input))
            });
            match checked {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        if let (true, Some(refused)) = (candidates.is_empty(), refused) {
            return Err(refused);
        }
        let large = request.input.is_some_and(|input| input.is_large());
        let (encoding, signature) = (request.encoding, request.signature);
        let check = move || {
            candidates
                .into_iter()
                .find_map(|(key, algorithm, salt, input)| {
                    let signature = encoding.to_der(key.public_key.spec(), &signature)?;
                    salt.verify(&key.public_key, algorithm, &input, &signature)?;
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

/// Which salts of RSASSA-PSS are accepted.
#[derive(Clone, Copy, Debug)]
enum Salt {
    /// None: it is another scheme, or the salt is as long as the hash.
    AsHash,
    /// One of a length.
    Of(usize),
    /// Any.
    Any,
}

impl Salt {
    fn verify(
        self,
        key: &PublicKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
        signature: &[u8],
    ) -> Option<()> {
        let usual = || key.verify(algorithm, input, signature).ok();
        let with = |salt_len| {
            let hash = algorithm.hash()?;
            key.verify_pss(hash, salt_len, input, signature).ok()
        };
        match self {
            Self::AsHash => usual(),
            Self::Of(len) => with(Some(len)),
            // What we make ourselves is verified by aws-lc.
            Self::Any => usual().or_else(|| with(None)),
        }
    }
}

/// Understands `pssSaltLength`.
fn salt(algorithm: SignatureAlgorithm, asked: Option<i32>) -> Result<Salt, ServiceError> {
    let refused = |sentence: &str| {
        let refusal = Refusal::new(sentence.to_owned());
        Err(ServiceError::invalid("pssSaltLength", refusal))
    };
    let SignatureAlgorithm::RsaPss(hash) = algorithm else {
        return match asked {
            None => Ok(Salt::AsHash),
            Some(_) => refused(&format!(
                "is for RSASSA-PSS only, such as SHA256withRSAandMGF1, and the algorithm is {algorithm}; leave it out"
            )),
        };
    };
    match asked.map(usize::try_from) {
        None => Ok(Salt::Any),
        Some(Ok(len)) if len == hash.digest_len() => Ok(Salt::AsHash),
        Some(Ok(len)) => Ok(Salt::Of(len)),
        Some(Err(_)) => refused("must be 0 or more; leave it out for any length"),
    }
}
