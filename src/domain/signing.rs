//! What is signed, and the forms a signature comes in.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use der::asn1::UintRef;
use der::{Decode, Encode, Sequence};
use serde::{Deserialize, Serialize};

use super::{Curve, Hash, KeySpec, Refusal, SignatureAlgorithm, Violations};

/// What is to be signed, or was: a message, or its digest. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SigningInput {
    /// The message itself. It is hashed on our side.
    Message(Bytes),
    /// What the hash of the signature algorithm makes of the message.
    Digest(Bytes),
}

impl SigningInput {
    /// Notes what does not fit the signature algorithm, on the fields `message` and `digest`.
    pub fn check(&self, algorithm: SignatureAlgorithm, violations: &mut Violations) {
        match (self, algorithm.hash()) {
            (Self::Message(message), _) if message.len() > MESSAGE_LEN_MAX => violations.add(
                "message",
                Refusal::new(format!(
                    "must have at most {MESSAGE_LEN_MAX} bytes, and has {}; give its digest instead",
                    message.len()
                )),
            ),
            (Self::Digest(digest), Some(hash)) if digest.len() != hash.digest_len() => violations
                .add(
                    "digest",
                    Refusal::new(format!(
                        "must be {} bytes, a {} digest, for {algorithm}, and has {}",
                        hash.digest_len(),
                        hash.name(),
                        digest.len()
                    )),
                ),
            (Self::Digest(_), None) => violations.add(
                "digest",
                Refusal::new(format!("is not possible for {algorithm}; give the message")),
            ),
            (Self::Message(_) | Self::Digest(_), _) => {}
        }
    }

    /// Returns how many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Message(bytes) | Self::Digest(bytes) => bytes.len(),
        }
    }

    /// Tells whether to hash it takes so long that others should not wait behind it: some tens of microseconds.
    pub fn is_large(&self) -> bool {
        self.len() > LARGE_LEN
    }

    /// Tells whether it is the empty message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the message; none when only the digest is known.
    pub fn message(&self) -> Option<&[u8]> {
        match self {
            Self::Message(message) => Some(message),
            Self::Digest(_) => None,
        }
    }

    /// Returns what an algorithm makes a signature over: the digest, or for Ed25519 the message.
    pub fn hashed(&self, algorithm: SignatureAlgorithm) -> Cow<'_, Self> {
        match (self, algorithm.hash()) {
            (Self::Message(message), Some(hash)) => {
                Cow::Owned(Self::Digest(hash.digest(message).into()))
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// Returns the digest, computed if need be.
    pub fn digest(&self, hash: Hash) -> Cow<'_, [u8]> {
        match self {
            Self::Message(message) => hash.digest(message).into(),
            Self::Digest(digest) => (&**digest).into(),
        }
    }
}

/// The longest message that is hashed while others wait.
pub const LARGE_LEN: usize = 64 * 1024;

impl fmt::Debug for SigningInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match self {
            Self::Message(_) => "Message",
            Self::Digest(_) => "Digest",
        };
        write!(f, "{form}({} bytes)", self.len())
    }
}

/// The form of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureEncoding {
    /// As X.509 has it: for ECDSA, `Ecdsa-Sig-Value` in DER (RFC 3279 section 2.2.3).
    #[default]
    Der,
    /// As JWS has it: for ECDSA, r and s side by side, each as long as the field (IEEE P1363).
    P1363,
}

impl SignatureEncoding {
    /// Brings a signature of a key into this form. None when it is no ECDSA signature of the curve in DER.
    pub fn from_der(self, spec: KeySpec, signature: Vec<u8>) -> Option<Vec<u8>> {
        match (self, spec) {
            (Self::P1363, KeySpec::Ec(curve)) => ecdsa_p1363(curve, &signature),
            _ => Some(signature),
        }
    }

    /// Brings a signature of this form into DER. None when it cannot be one of the key.
    pub fn to_der(self, spec: KeySpec, signature: &[u8]) -> Option<Cow<'_, [u8]>> {
        match (self, spec) {
            (Self::P1363, KeySpec::Ec(curve)) => ecdsa_der(curve, signature).map(Cow::Owned),
            _ => Some(signature.into()),
        }
    }
}

/// Turns r and s, side by side, into DER (`Ecdsa-Sig-Value`, RFC 3279 section 2.2.3).
pub fn ecdsa_der(curve: Curve, p1363: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = p1363.split_at_checked(curve.field_len())?;
    if s.len() != curve.field_len() {
        return None;
    }
    let signature = EcdsaSignature {
        r: UintRef::new(r).ok()?,
        s: UintRef::new(s).ok()?,
    };
    signature.to_der().ok()
}

fn ecdsa_p1363(curve: Curve, der: &[u8]) -> Option<Vec<u8>> {
    let signature = EcdsaSignature::from_der(der).ok()?;
    let mut p1363 = Vec::with_capacity(2 * curve.field_len());
    for number in [signature.r.as_bytes(), signature.s.as_bytes()] {
        let zeros = curve.field_len().checked_sub(number.len())?;
        p1363.resize(p1363.len() + zeros, 0);
        p1363.extend_from_slice(number);
    }
    Some(p1363)
}

#[derive(Sequence)]
struct EcdsaSignature<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// The longest message that is signed.
const MESSAGE_LEN_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r_and_s_become_der() {
        let mut raw = [0; 64];
        raw[31] = 1;
        raw[32] = 0x80;
        let der = ecdsa_der(Curve::P256, &raw).unwrap();
        assert_eq!(der[..7], [0x30, 38, 0x02, 1, 1, 0x02, 33]);
        assert_eq!(der[7..9], [0, 0x80]);
        // Two integers of 67 bytes need the long form of the length.
        let der = ecdsa_der(Curve::P521, &[0xff; 132]).unwrap();
        assert_eq!(der[..5], [0x30, 0x81, 138, 0x02, 67]);
        for len in [0, 63, 65, 128] {
            assert_eq!(ecdsa_der(Curve::P256, &vec![1; len]), None);
        }
    }

    #[test]
    fn integers_that_are_too_long_for_the_curve_are_refused() {
        let der = ecdsa_der(Curve::P384, &[0xff; 96]).unwrap();
        assert_eq!(ecdsa_p1363(Curve::P256, &der), None);
        assert_eq!(ecdsa_p1363(Curve::P256, b"no DER"), None);
    }

    proptest! {
        #[test]
        fn signatures_survive_the_way_there_and_back(raw: Vec<u8>, leading_zeros in 0_usize..40) {
            for curve in [Curve::P256, Curve::P384, Curve::P521] {
                let mut raw = raw.clone();
                raw.resize(2 * curve.field_len(), 7);
                raw[..leading_zeros.min(curve.field_len())].fill(0);
                let spec = KeySpec::Ec(curve);
                let der = SignatureEncoding::P1363.to_der(spec, &raw).unwrap().into_owned();
                prop_assert_eq!(SignatureEncoding::P1363.from_der(spec, der), Some(raw));
            }
        }
    }

    #[test]
    fn inputs_must_fit_the_algorithm() {
        let check = |input: SigningInput, algorithm| {
            let mut violations = Violations::new();
            input.check(algorithm, &mut violations);
            let said: Vec<_> = violations
                .iter()
                .map(|violation| format!("{}: {}", violation.field, violation.refusal))
                .collect();
            said.join("; ")
        };
        let message = |len| SigningInput::Message(vec![0; len].into());
        let digest = |len| SigningInput::Digest(vec![0; len].into());
        let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha384);
        for fits in [message(0), message(1024 * 1024), digest(48)] {
            assert_eq!(check(fits, ecdsa), "");
        }
        assert_eq!(
            check(message(1024 * 1024 + 1), ecdsa),
            "message: must have at most 1048576 bytes, and has 1048577; give its digest instead"
        );
        for len in [0, 47, 49, 64] {
            assert_eq!(
                check(digest(len), ecdsa),
                format!(
                    "digest: must be 48 bytes, a SHA-384 digest, for SHA384withECDSA, and has {len}"
                )
            );
        }
        assert_eq!(
            check(digest(64), SignatureAlgorithm::Ed25519),
            "digest: is not possible for Ed25519; give the message"
        );
    }
}
