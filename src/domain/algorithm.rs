//! Key algorithms, key sizes, hashes and signature algorithms, and which of them go together.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::Refusal;

/// A family of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyAlgorithm {
    /// RSA with the public exponent 65537.
    Rsa,
    /// Elliptic curves of NIST: P-256, P-384, P-521.
    Ec,
    /// Edwards curve 25519 (RFC 8032).
    Ed25519,
}

impl KeyAlgorithm {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 3] = [Self::Rsa, Self::Ec, Self::Ed25519];

    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::Ec => "EC",
            Self::Ed25519 => "ED25519",
        }
    }

    /// Finds an algorithm by its name on the wire.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        find(name, &Self::ALL, Self::name)
    }

    /// Returns the kinds of key of this algorithm, the smallest first.
    pub const fn specs(self) -> &'static [KeySpec] {
        match self {
            Self::Rsa => &[
                KeySpec::Rsa(RsaSize::Bits2048),
                KeySpec::Rsa(RsaSize::Bits3072),
                KeySpec::Rsa(RsaSize::Bits4096),
            ],
            Self::Ec => &[
                KeySpec::Ec(Curve::P256),
                KeySpec::Ec(Curve::P384),
                KeySpec::Ec(Curve::P521),
            ],
            Self::Ed25519 => &[KeySpec::Ed25519],
        }
    }

    /// Returns the kind of key a request means that names no size.
    pub const fn default_spec(self) -> KeySpec {
        match self {
            Self::Rsa => KeySpec::Rsa(RsaSize::Bits2048),
            Self::Ec => KeySpec::Ec(Curve::P256),
            Self::Ed25519 => KeySpec::Ed25519,
        }
    }

    /// Finds the kind of key of a size in bits.
    pub fn spec(self, bits: i32) -> Result<KeySpec, Refusal> {
        self.specs()
            .iter()
            .copied()
            .find(|spec| spec.bits() == bits)
            .ok_or_else(|| {
                let allowed = self.specs().iter().map(|spec| spec.bits().to_string());
                Refusal::new(format!("must be {} for {}", one_of(allowed), self.name()))
            })
    }

    /// Returns the signature algorithms of a certificate of such a key, the default first.
    pub const fn signature_algorithms(self) -> &'static [SignatureAlgorithm] {
        match self {
            Self::Rsa => &[
                SignatureAlgorithm::RsaPkcs1(Hash::Sha256),
                SignatureAlgorithm::RsaPkcs1(Hash::Sha384),
                SignatureAlgorithm::RsaPkcs1(Hash::Sha512),
            ],
            Self::Ec => &[
                SignatureAlgorithm::Ecdsa(Hash::Sha256),
                SignatureAlgorithm::Ecdsa(Hash::Sha384),
                SignatureAlgorithm::Ecdsa(Hash::Sha512),
            ],
            Self::Ed25519 => &[SignatureAlgorithm::Ed25519],
        }
    }

    /// Returns the signature algorithms that such a key can sign with, those of certificates first.
    pub const fn signing_algorithms(self) -> &'static [SignatureAlgorithm] {
        match self {
            Self::Rsa => &[
                SignatureAlgorithm::RsaPkcs1(Hash::Sha256),
                SignatureAlgorithm::RsaPkcs1(Hash::Sha384),
                SignatureAlgorithm::RsaPkcs1(Hash::Sha512),
                SignatureAlgorithm::RsaPss(Hash::Sha256),
                SignatureAlgorithm::RsaPss(Hash::Sha384),
                SignatureAlgorithm::RsaPss(Hash::Sha512),
            ],
            Self::Ec | Self::Ed25519 => self.signature_algorithms(),
        }
    }

    /// Returns the signature algorithm a request means that names none.
    pub const fn default_signature_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::Rsa => SignatureAlgorithm::RsaPkcs1(Hash::Sha256),
            Self::Ec => SignatureAlgorithm::Ecdsa(Hash::Sha256),
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
        }
    }

    /// Finds the kind of key of a size in bits, among those that are not made any more too.
    pub fn known_spec(self, bits: i32) -> Option<KeySpec> {
        let weak = KeySpec::Rsa(RsaSize::Bits1024);
        match self {
            Self::Rsa if bits == weak.bits() => Some(weak),
            _ => self.spec(bits).ok(),
        }
    }

    /// Finds an algorithm that certificates of such keys can be signed with, by its name on the wire.
    pub fn signature_algorithm(self, name: &str) -> Result<SignatureAlgorithm, Refusal> {
        self.choose(self.signature_algorithms(), name)
    }

    fn choose(
        self,
        allowed: &[SignatureAlgorithm],
        name: &str,
    ) -> Result<SignatureAlgorithm, Refusal> {
        if name.starts_with("SHA1with") {
            let allowed = one_of(allowed.iter().map(|algorithm| algorithm.name().to_owned()));
            return Err(Refusal::new(format!(
                "SHA-1 is refused for anything new; must be {allowed}"
            )));
        }
        find(name, allowed, SignatureAlgorithm::name)
            .map_err(|refusal| Refusal::new(format!("{refusal} for {}", self.name())))
    }
}

/// A kind of key: algorithm and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeySpec {
    /// RSA of a modulus size.
    Rsa(RsaSize),
    /// An elliptic curve key.
    Ec(Curve),
    /// An Ed25519 key.
    Ed25519,
}

impl KeySpec {
    /// Returns the family.
    pub const fn algorithm(self) -> KeyAlgorithm {
        match self {
            Self::Rsa(_) => KeyAlgorithm::Rsa,
            Self::Ec(_) => KeyAlgorithm::Ec,
            Self::Ed25519 => KeyAlgorithm::Ed25519,
        }
    }

    /// Returns the algorithm that a new key of this kind signs with when none is asked for. Of the
    /// NIST curves it is the one that JWS ties to the curve (RFC 7518 section 3.4).
    pub const fn default_signing_algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::Rsa(_) => SignatureAlgorithm::RsaPkcs1(Hash::Sha256),
            Self::Ec(Curve::P256) => SignatureAlgorithm::Ecdsa(Hash::Sha256),
            Self::Ec(Curve::P384) => SignatureAlgorithm::Ecdsa(Hash::Sha384),
            Self::Ec(Curve::P521) => SignatureAlgorithm::Ecdsa(Hash::Sha512),
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
        }
    }

    /// Tells whether such keys are too weak for anything new.
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::Rsa(RsaSize::Bits1024))
    }

    /// Finds an algorithm that such keys can sign with, by its name on the wire.
    ///
    /// Those are left out whose signatures of such keys cannot be verified here: with weak keys, aws-lc does no more
    /// than old systems need.
    pub fn signing_algorithm(self, name: &str) -> Result<SignatureAlgorithm, Refusal> {
        let algorithm = self.algorithm();
        let algorithm = algorithm.choose(algorithm.signing_algorithms(), name)?;
        match algorithm {
            SignatureAlgorithm::RsaPkcs1(Hash::Sha256 | Hash::Sha512) => Ok(algorithm),
            _ if self.is_weak() => Err(Refusal::new(format!(
                "must be SHA256withRSA or SHA512withRSA for an RSA key of {} bits",
                self.bits()
            ))),
            _ => Ok(algorithm),
        }
    }

    /// Returns the size in bits: of the modulus for RSA, of the field for curves.
    pub const fn bits(self) -> i32 {
        match self {
            Self::Rsa(RsaSize::Bits1024) => 1024,
            Self::Rsa(RsaSize::Bits2048) => 2048,
            Self::Rsa(RsaSize::Bits3072) => 3072,
            Self::Rsa(RsaSize::Bits4096) => 4096,
            Self::Ec(Curve::P256) => 256,
            Self::Ec(Curve::P384) => 384,
            Self::Ec(Curve::P521) => 521,
            Self::Ed25519 => 255,
        }
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("ED25519"),
            _ => write!(f, "{}-{}", self.algorithm().name(), self.bits()),
        }
    }
}

/// Modulus sizes of RSA keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RsaSize {
    /// 1024 bits: too weak to be generated, and only imported where an operator permits it.
    Bits1024,
    /// 2048 bits.
    Bits2048,
    /// 3072 bits.
    Bits3072,
    /// 4096 bits.
    Bits4096,
}

/// The NIST curves (FIPS 186-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Curve {
    /// P-256, secp256r1, prime256v1.
    P256,
    /// P-384, secp384r1.
    P384,
    /// P-521, secp521r1.
    P521,
}

impl Curve {
    /// All of them, the smallest first.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Returns how many octets a field element and a scalar have: 32, 48, 66.
    pub const fn field_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// The hash functions of signatures (FIPS 180-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Returns the name: `SHA-256`, `SHA-384` or `SHA-512`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }

    /// Returns the length of a digest in bytes: 32, 48 or 64.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Returns the digest of a message.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => sha2::Sha256::digest(message).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(message).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(message).to_vec(),
        }
    }
}

/// How a signature is made: scheme and hash. With a [`KeySpec`] that fits, it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SignatureAlgorithm {
    /// RSASSA-PKCS1-v1_5 (RFC 8017 section 8.2).
    RsaPkcs1(Hash),
    /// RSASSA-PSS (RFC 8017 section 8.1): the salt is as long as the hash, which is that of MGF1 too.
    RsaPss(Hash),
    /// ECDSA (FIPS 186-5), whatever the curve.
    Ecdsa(Hash),
    /// Ed25519 (RFC 8032), over the message itself.
    Ed25519,
}

impl SignatureAlgorithm {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::RsaPkcs1(Hash::Sha256),
        Self::RsaPkcs1(Hash::Sha384),
        Self::RsaPkcs1(Hash::Sha512),
        Self::RsaPss(Hash::Sha256),
        Self::RsaPss(Hash::Sha384),
        Self::RsaPss(Hash::Sha512),
        Self::Ecdsa(Hash::Sha256),
        Self::Ecdsa(Hash::Sha384),
        Self::Ecdsa(Hash::Sha512),
        Self::Ed25519,
    ];

    /// Returns the name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaPkcs1(Hash::Sha256) => "SHA256withRSA",
            Self::RsaPkcs1(Hash::Sha384) => "SHA384withRSA",
            Self::RsaPkcs1(Hash::Sha512) => "SHA512withRSA",
            Self::RsaPss(Hash::Sha256) => "SHA256withRSAandMGF1",
            Self::RsaPss(Hash::Sha384) => "SHA384withRSAandMGF1",
            Self::RsaPss(Hash::Sha512) => "SHA512withRSAandMGF1",
            Self::Ecdsa(Hash::Sha256) => "SHA256withECDSA",
            Self::Ecdsa(Hash::Sha384) => "SHA384withECDSA",
            Self::Ecdsa(Hash::Sha512) => "SHA512withECDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// Finds a signature algorithm by its name on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Returns the hash of which the digest is signed; none for Ed25519, which signs the message.
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => Some(hash),
            Self::Ed25519 => None,
        }
    }

    /// Returns the family of keys it works with.
    pub const fn key_algorithm(self) -> KeyAlgorithm {
        match self {
            Self::RsaPkcs1(_) | Self::RsaPss(_) => KeyAlgorithm::Rsa,
            Self::Ecdsa(_) => KeyAlgorithm::Ec,
            Self::Ed25519 => KeyAlgorithm::Ed25519,
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Finds a value by name, or says what names there are.
fn find<T: Copy>(name: &str, all: &[T], name_of: fn(T) -> &'static str) -> Result<T, Refusal> {
    all.iter()
        .copied()
        .find(|value| name_of(*value) == name)
        .ok_or_else(|| {
            let names = one_of(all.iter().map(|value| name_of(*value).to_owned()));
            Refusal::new(format!("must be {names}"))
        })
}

/// Joins the members of a list as a sentence does: `a`, `a or b`, `a, b or c`.
pub(super) fn one_of(members: impl Iterator<Item = String>) -> String {
    let mut members: Vec<String> = members.collect();
    match members.pop() {
        Some(last) if members.is_empty() => last,
        Some(last) => format!("{} or {last}", members.join(", ")),
        None => String::from("nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(KeyAlgorithm::parse(algorithm.name()), Ok(algorithm));
            for spec in algorithm.specs() {
                assert_eq!(algorithm.spec(spec.bits()), Ok(*spec));
                assert_eq!(spec.algorithm(), algorithm);
            }
            for signature in algorithm.signature_algorithms() {
                assert_eq!(
                    algorithm.signature_algorithm(signature.name()),
                    Ok(*signature)
                );
            }
            for signature in algorithm.signing_algorithms() {
                assert_eq!(
                    algorithm.default_spec().signing_algorithm(signature.name()),
                    Ok(*signature)
                );
                assert_eq!(signature.key_algorithm(), algorithm);
                assert_eq!(
                    SignatureAlgorithm::parse(signature.name()),
                    Some(*signature)
                );
            }
        }
    }

    #[test]
    fn refusals_say_what_is_allowed() {
        let message = |refused: Result<_, Refusal>| refused.unwrap_err().to_string();
        assert_eq!(
            KeyAlgorithm::parse("rsa").unwrap_err().to_string(),
            "must be RSA, EC or ED25519"
        );
        assert_eq!(
            KeyAlgorithm::Rsa.spec(1024).unwrap_err().to_string(),
            "must be 2048, 3072 or 4096 for RSA"
        );
        assert_eq!(
            KeyAlgorithm::Ed25519.spec(256).unwrap_err().to_string(),
            "must be 255 for ED25519"
        );
        assert_eq!(
            message(KeyAlgorithm::Ec.signature_algorithm("SHA256withRSA")),
            "must be SHA256withECDSA, SHA384withECDSA or SHA512withECDSA for EC"
        );
        assert_eq!(
            message(KeyAlgorithm::Rsa.signature_algorithm("SHA1withRSA")),
            "SHA-1 is refused for anything new; must be SHA256withRSA, SHA384withRSA or SHA512withRSA"
        );
    }
}
