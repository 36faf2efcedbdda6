//! RSASSA-PSS as others sign with it (RFC 8017 section 8.1.2): a salt of any length, and another
//! hash in the mask than for the message. aws-lc verifies one salt length for each hash, and no
//! other hash in the mask.
//!
//! Keys and signatures are public, so nothing here has to take the same time for all of them.

use num_bigint::BigUint;
use sha2::Digest as _;

use super::algorithm::one_of;
use super::{Hash, Refusal, SignatureAlgorithm, SignatureMismatch};

/// What a signature was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PssParameters {
    /// The hash of the message.
    pub hash: PssHash,
    /// The hash in the mask generation function, MGF1.
    pub mask_hash: PssHash,
    /// How many bytes the salt has; none for whatever the signature has.
    pub salt_len: Option<usize>,
}

/// A key that its certificate restricts to RSASSA-PSS: it makes no other signatures.
///
/// # Source
/// RFC 4055 sections 1.2 and 3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PssOnly {
    /// The only hash, where the certificate names one.
    pub hash: Option<Hash>,
}

impl PssOnly {
    /// Reads the parameters of a public key. keypaird signs with the same hash in MGF1 and with a
    /// salt as long as the hash, and a certificate may only ask for a shorter salt.
    ///
    /// # Errors
    /// A sentence about the key, when keypaird makes no such signatures.
    pub fn with_parameters(parameters: PssParameters) -> Result<Self, Refusal> {
        let hash = match parameters.hash {
            PssHash::Sha256 => Some(Hash::Sha256),
            PssHash::Sha384 => Some(Hash::Sha384),
            PssHash::Sha512 => Some(Hash::Sha512),
            PssHash::Sha1 | PssHash::Sha224 => None,
        };
        let salt_len = parameters.salt_len.unwrap_or_default();
        let is_ours =
            parameters.mask_hash == parameters.hash && salt_len <= parameters.hash.digest_len();
        hash.filter(|_| is_ours)
            .map(|hash| Self { hash: Some(hash) })
            .ok_or_else(|| {
                Refusal::new(format!(
                    "is restricted to RSASSA-PSS with {}, MGF1 with {} and a salt of at least {salt_len} bytes; keypaird signs with SHA256, SHA384 or SHA512, the same hash in MGF1, and a salt as long as the hash",
                    parameters.hash.name(),
                    parameters.mask_hash.name(),
                ))
            })
    }

    /// Returns what the key signs with when a request names no algorithm.
    pub const fn default_algorithm(self) -> SignatureAlgorithm {
        match self.hash {
            Some(hash) => SignatureAlgorithm::RsaPss(hash),
            None => SignatureAlgorithm::RsaPss(Hash::Sha256),
        }
    }

    /// Tells whether the key may sign with an algorithm.
    pub fn allows(self, algorithm: SignatureAlgorithm) -> bool {
        match (algorithm, self.hash) {
            (SignatureAlgorithm::RsaPss(hash), Some(only)) => hash == only,
            (SignatureAlgorithm::RsaPss(_), None) => true,
            _ => false,
        }
    }

    /// Returns an algorithm that the key may sign with.
    ///
    /// # Errors
    /// The names of those it may sign with, when this is none of them.
    pub fn check(self, algorithm: SignatureAlgorithm) -> Result<SignatureAlgorithm, Refusal> {
        if self.allows(algorithm) {
            return Ok(algorithm);
        }
        let allowed = SignatureAlgorithm::ALL
            .into_iter()
            .filter(|algorithm| self.allows(*algorithm))
            .map(|algorithm| algorithm.name().to_owned());
        Err(Refusal::new(format!(
            "must be {}, because the certificate restricts the key to RSASSA-PSS",
            one_of(allowed)
        )))
    }
}

/// The hash functions that RFC 4055 section 2.1 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PssHash {
    /// SHA-1, the default of RFC 4055.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl PssHash {
    /// Returns the name as signature algorithms begin with it: `SHA256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Returns the digest of a message.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => sha1::Sha1::digest(message).to_vec(),
            Self::Sha224 => sha2::Sha224::digest(message).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(message).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(message).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(message).to_vec(),
        }
    }

    /// Returns how many bytes a digest has.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl From<super::Hash> for PssHash {
    fn from(hash: super::Hash) -> Self {
        match hash {
            super::Hash::Sha256 => Self::Sha256,
            super::Hash::Sha384 => Self::Sha384,
            super::Hash::Sha512 => Self::Sha512,
        }
    }
}

impl PssParameters {
    /// Returns those of a scheme of one hash, and whatever salt.
    pub const fn any_salt(hash: PssHash) -> Self {
        Self {
            hash,
            mask_hash: hash,
            salt_len: None,
        }
    }

    /// Checks a signature over a digest with a key of 1024 to 8192 bits, by its numbers,
    /// big-endian.
    pub fn verify(
        &self,
        modulus: &[u8],
        public_exponent: &[u8],
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureMismatch> {
        let (n, e) = (
            BigUint::from_bytes_be(modulus),
            BigUint::from_bytes_be(public_exponent),
        );
        let bits = n.bits();
        let fits = (1024..=8192).contains(&bits) && e.bits() <= EXPONENT_BITS_MAX && n.bit(0);
        let key_len = usize::try_from(bits.div_ceil(8)).map_err(|_| SignatureMismatch)?;
        let s = BigUint::from_bytes_be(signature);
        if !fits || signature.len() != key_len || s >= n {
            return Err(SignatureMismatch);
        }
        let bits = usize::try_from(bits - 1).map_err(|_| SignatureMismatch)?;
        let digits = s.modpow(&e, &n).to_bytes_be();
        let zeros = bits.div_ceil(8).checked_sub(digits.len());
        let encoded = [vec![0; zeros.ok_or(SignatureMismatch)?], digits].concat();
        self.is_encoding_of(digest, encoded, bits)
            .filter(|right| *right)
            .map(|_| ())
            .ok_or(SignatureMismatch)
    }

    /// EMSA-PSS-VERIFY, RFC 8017 section 9.1.2. None when the parts have impossible lengths.
    fn is_encoding_of(&self, digest: &[u8], mut encoded: Vec<u8>, bits: usize) -> Option<bool> {
        let hash_len = self.hash.digest_len();
        if digest.len() != hash_len || encoded.pop()? != 0xbc {
            return Some(false);
        }
        let mut block = encoded;
        let hash = block.split_off(block.len().checked_sub(hash_len)?);
        // The bits beyond the modulus are zero, in what is masked too.
        let unused = (block.len() + hash_len + 1) * 8 - bits;
        let used = 0xff_u8.checked_shr(u32::try_from(unused).ok()?)?;
        if block.first()? & !used != 0 {
            return Some(false);
        }
        let mask = self.mask(&hash, block.len());
        for (byte, mask) in block.iter_mut().zip(mask) {
            *byte ^= mask;
        }
        *block.first_mut()? &= used;
        let one = block.iter().position(|byte| *byte != 0)?;
        let salt = block.get(one + 1..)?;
        if block.get(one) != Some(&1) || self.salt_len.is_some_and(|len| len != salt.len()) {
            return Some(false);
        }
        let message = [&[0; 8], digest, salt].concat();
        Some(self.hash.digest(&message) == hash)
    }

    /// MGF1, RFC 8017 appendix B.2.1.
    fn mask(&self, seed: &[u8], len: usize) -> Vec<u8> {
        let mut mask = Vec::with_capacity(len + self.mask_hash.digest_len());
        for counter in 0_u32.. {
            if mask.len() >= len {
                break;
            }
            let input = [seed, &counter.to_be_bytes()].concat();
            mask.extend(self.mask_hash.digest(&input));
        }
        mask.truncate(len);
        mask
    }
}

/// As for keys of our own: FIPS 186-5 appendix A.1.1.
const EXPONENT_BITS_MAX: u64 = 256;

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        KeyPair, RSA_PSS_SHA256, RSA_PSS_SHA512, RsaKeyPair, RsaPssSaltLength, RsaSignatureEncoding,
    };

    use super::*;
    use crate::domain::{KeySpec, PublicKey, RsaSize};

    const MAX: RsaPssSaltLength = RsaPssSaltLength::Max;
    const NONE: RsaPssSaltLength = RsaPssSaltLength::Custom(0);
    const ODD: RsaPssSaltLength = RsaPssSaltLength::Custom(17);

    #[test]
    fn a_signature_with_any_salt_verifies_and_a_changed_one_does_not() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let spec = KeySpec::Rsa(RsaSize::Bits2048);
        let key = PublicKey::new(spec, pair.public_key().as_ref());
        let (n, e) = key.rsa_numbers().unwrap();
        let random = SystemRandom::new();
        let rows: [(PssHash, usize, &'static RsaSignatureEncoding); 8] = [
            (PssHash::Sha256, 32, &RSA_PSS_SHA256),
            (
                PssHash::Sha256,
                0,
                &const { RSA_PSS_SHA256.with_pss_salt_length(NONE) },
            ),
            (
                PssHash::Sha256,
                17,
                &const { RSA_PSS_SHA256.with_pss_salt_length(ODD) },
            ),
            (
                PssHash::Sha256,
                222,
                &const { RSA_PSS_SHA256.with_pss_salt_length(MAX) },
            ),
            (PssHash::Sha512, 64, &RSA_PSS_SHA512),
            (
                PssHash::Sha512,
                0,
                &const { RSA_PSS_SHA512.with_pss_salt_length(NONE) },
            ),
            (
                PssHash::Sha512,
                17,
                &const { RSA_PSS_SHA512.with_pss_salt_length(ODD) },
            ),
            (
                PssHash::Sha512,
                190,
                &const { RSA_PSS_SHA512.with_pss_salt_length(MAX) },
            ),
        ];
        for (hash, salt, encoding) in rows {
            let mut signature = vec![0; 256];
            pair.sign(encoding, &random, b"message", &mut signature)
                .unwrap();
            let any = PssParameters::any_salt(hash);
            let digest = hash.digest(b"message");
            let verify = |parameters: PssParameters, signature: &[u8]| {
                parameters.verify(&n, &e, &digest, signature).is_ok()
            };
            assert!(verify(any, &signature), "{hash:?} {salt}");
            for (len, expected) in [(salt, true), (salt + 1, false)] {
                let salt_len = Some(len);
                assert_eq!(
                    verify(PssParameters { salt_len, ..any }, &signature),
                    expected
                );
            }
            let mask_hash = PssHash::Sha1;
            assert!(!verify(PssParameters { mask_hash, ..any }, &signature));
            assert!(
                any.verify(&n, &e, &hash.digest(b"other"), &signature)
                    .is_err()
            );
            for index in [0, 1, 100, 255] {
                let mut changed = signature.clone();
                changed[index] ^= 1;
                assert!(!verify(any, &changed));
            }
            assert!(!verify(any, &signature[1..]));
            assert!(!verify(any, &[&[0], &*signature].concat()));
        }
    }
}
