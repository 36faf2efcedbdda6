//! Public keys as certificates have them: SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7), in all
//! the forms that one key can have. What is read is always the same for the same key, so that keys
//! are compared by value.

use der::asn1::{ObjectIdentifier, UintRef};
use der::{Decode, Sequence};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::curve_point::{curve_of_parameters, point};
use super::public_key::{EC_PUBLIC_KEY, ID_ED25519, RSA_ENCRYPTION, curve_oid};
use super::{Curve, KeyAlgorithm, KeySpec, PublicKey, Refusal};

/// Reads a SubjectPublicKeyInfo in DER. See [`PublicKey::from_spki_der`].
pub(super) fn read(der: &[u8]) -> Result<PublicKey, Refusal> {
    let spki = SubjectPublicKeyInfoOwned::from_der(der).map_err(|_| damaged())?;
    let bits = spki.subject_public_key.as_bytes().ok_or_else(damaged)?;
    match spki.algorithm.oid {
        // Parameters say nothing of the key: NULL, nothing, or what RSASSA-PSS is restricted to.
        RSA_ENCRYPTION | RSASSA_PSS => rsa(bits),
        EC_PUBLIC_KEY => {
            let parameters = spki.algorithm.parameters.as_ref();
            let named = parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
            let mut known = Curve::ALL.into_iter();
            let curve = known
                .find(|known| Some(curve_oid(*known)) == named)
                .or_else(|| parameters.and_then(curve_of_parameters))
                .ok_or_else(|| Refusal::new("is on another curve than P-256, P-384 and P-521"))?;
            let point = point(curve, bits);
            let point =
                point.ok_or_else(|| Refusal::new("is damaged, or is no point of its curve"))?;
            Ok(PublicKey::new(KeySpec::Ec(curve), point))
        }
        ID_ED25519 if bits.len() == 32 => Ok(PublicKey::new(KeySpec::Ed25519, bits)),
        ID_ED25519 => Err(damaged()),
        other => Err(Refusal::new(format!(
            "is of another kind ({other}) than RSA, EC and Ed25519"
        ))),
    }
}

/// Returns modulus and public exponent of an RSA key of any size, big-endian without leading zeros.
pub(crate) fn rsa_numbers_of(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let spki = SubjectPublicKeyInfoOwned::from_der(der).ok()?;
    if !matches!(spki.algorithm.oid, RSA_ENCRYPTION | RSASSA_PSS) {
        return None;
    }
    let key = RsaPublicKey::from_der(spki.subject_public_key.as_bytes()?).ok()?;
    Some((
        key.modulus.as_bytes().to_vec(),
        key.public_exponent.as_bytes().to_vec(),
    ))
}

fn rsa(bits: &[u8]) -> Result<PublicKey, Refusal> {
    let key = RsaPublicKey::from_der(bits).map_err(|_| damaged())?;
    let exponent_bits = significant_bits(key.public_exponent.as_bytes());
    if exponent_bits > EXPONENT_BITS_MAX {
        return Err(Refusal::new(format!(
            "is an RSA key with a public exponent of {exponent_bits} bits; FIPS 186-5 allows {EXPONENT_BITS_MAX}"
        )));
    }
    let bits = significant_bits(key.modulus.as_bytes());
    let spec = KeyAlgorithm::Rsa.known_spec(bits).ok_or_else(|| {
        Refusal::new(format!(
            "is an RSA key of {bits} bits; it must have 2048, 3072 or 4096"
        ))
    })?;
    let (modulus, exponent) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
    PublicKey::rsa(spec, modulus, exponent).ok_or_else(damaged)
}

fn damaged() -> Refusal {
    Refusal::new("is damaged")
}

/// RFC 8017 appendix A.1.1.
#[derive(Sequence)]
pub(super) struct RsaPublicKey<'a> {
    pub(super) modulus: UintRef<'a>,
    pub(super) public_exponent: UintRef<'a>,
}

/// Returns how many bits a number has, which is written without leading zero bytes.
fn significant_bits(number: &[u8]) -> i32 {
    let leading = number.first().map_or(0, |byte| byte.leading_zeros());
    let bits = u64::try_from(number.len())
        .unwrap_or(u64::MAX)
        .saturating_mul(8);
    i32::try_from(bits.saturating_sub(leading.into())).unwrap_or(i32::MAX)
}

/// FIPS 186-5 appendix A.1.1: a public exponent is less than 2^256.
const EXPONENT_BITS_MAX: i32 = 256;
/// RFC 4055 section 1.2.
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
