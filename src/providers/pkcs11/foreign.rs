//! Looks for keys that other programs have put on the token.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::{Decode, Encode};

use super::error::Failure;
use super::generate::{ec_point, significant_bits};
use super::mechanism;
use crate::domain::{Certificate, Curve, KeyAlgorithm, KeySpec, PublicKey, TokenAttributes};
use crate::providers::{KeySearch, TokenKey};

/// Finds private keys by label or `CKA_ID`.
pub(super) fn find_keys(session: &Session, search: &KeySearch) -> Result<Vec<TokenKey>, Failure> {
    let wanted = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        match search {
            KeySearch::Label(label) => Attribute::Label(label.clone().into_bytes()),
            KeySearch::Id(id) => Attribute::Id(id.clone()),
        },
    ];
    let found = session.find_objects(&wanted)?;
    Ok(found
        .into_iter()
        .map(|handle| look_at(session, handle))
        .collect())
}

/// Returns the certificates with a `CKA_ID`.
pub(super) fn certificates(session: &Session, id: &[u8]) -> Result<Vec<Certificate>, Failure> {
    let wanted = [
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::Id(id.to_vec()),
    ];
    let found = session.find_objects(&wanted)?;
    let read = found.into_iter().filter_map(|handle| {
        match stated(session, handle, AttributeType::Value)? {
            Attribute::Value(der) => Some(Certificate::from_der(der)),
            _ => None,
        }
    });
    Ok(read.collect())
}

fn look_at(session: &Session, handle: ObjectHandle) -> TokenKey {
    let says = |kind: AttributeType, wanted: &Attribute| {
        stated(session, handle, kind).is_some_and(|found| found == *wanted)
    };
    let id = match stated(session, handle, AttributeType::Id) {
        Some(Attribute::Id(id)) => id,
        _ => Vec::new(),
    };
    let label = match stated(session, handle, AttributeType::Label) {
        Some(Attribute::Label(label)) => String::from_utf8_lossy(&label).into_owned(),
        _ => String::new(),
    };
    let key_type = match stated(session, handle, AttributeType::KeyType) {
        Some(Attribute::KeyType(key_type)) => Some(key_type),
        _ => None,
    };
    let public_key = public_key(session, handle, key_type, &id);
    TokenKey {
        kind: match (&public_key, key_type) {
            (Some(key), _) => key.spec().to_string(),
            (None, Some(key_type)) => key_type.to_string(),
            (None, None) => "of an unknown kind".to_owned(),
        },
        public_key,
        can_sign: says(AttributeType::Sign, &Attribute::Sign(true)),
        token_attributes: TokenAttributes {
            sensitive: says(AttributeType::Sensitive, &Attribute::Sensitive(true)),
            always_sensitive: says(
                AttributeType::AlwaysSensitive,
                &Attribute::AlwaysSensitive(true),
            ),
            never_extractable: says(
                AttributeType::NeverExtractable,
                &Attribute::NeverExtractable(true),
            ),
            local: says(AttributeType::Local, &Attribute::Local(true)),
        },
        id,
        label,
    }
}

/// Finds the public half: in the public key object, in an RSA private key itself, or in the certificate.
fn public_key(
    session: &Session,
    private: ObjectHandle,
    key_type: Option<KeyType>,
    id: &[u8],
) -> Option<PublicKey> {
    let wanted = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Id(id.to_vec()),
    ];
    let public = match id {
        [] => Vec::new(),
        _ => session.find_objects(&wanted).unwrap_or_default(),
    };
    let known = match key_type? {
        KeyType::RSA => public
            .iter()
            .chain([&private])
            .find_map(|handle| rsa(session, *handle)),
        KeyType::EC => public.iter().find_map(|handle| ec(session, *handle)),
        KeyType::EC_EDWARDS => public.iter().find_map(|handle| ed25519(session, *handle)),
        _ => return None,
    };
    known.or_else(|| {
        let certificates = certificates(session, id).ok()?;
        let mut keys = certificates
            .iter()
            .map(|certificate| certified_key(certificate.der()));
        keys.find_map(|key| key)
    })
}

/// Tells whether a private key says that it is of another type than a public key.
pub(super) fn is_of_another_type(
    session: &Session,
    private: ObjectHandle,
    public_key: &PublicKey,
) -> bool {
    let expected = match public_key.spec() {
        KeySpec::Rsa(_) => KeyType::RSA,
        KeySpec::Ec(_) => KeyType::EC,
        KeySpec::Ed25519 => KeyType::EC_EDWARDS,
    };
    let stated = stated(session, private, AttributeType::KeyType);
    matches!(stated, Some(Attribute::KeyType(key_type)) if key_type != expected)
}

/// Tells whether a public key object is a public key.
pub(super) fn is_public_key(
    session: &Session,
    handle: ObjectHandle,
    public_key: &PublicKey,
) -> bool {
    let stated = match public_key.spec() {
        KeySpec::Rsa(_) => rsa(session, handle),
        KeySpec::Ec(_) => ec(session, handle),
        KeySpec::Ed25519 => ed25519(session, handle),
    };
    stated.as_ref() == Some(public_key)
}

/// Tells whether a certificate object is one of a public key.
pub(super) fn is_certificate_of(
    session: &Session,
    handle: ObjectHandle,
    public_key: &PublicKey,
) -> bool {
    match stated(session, handle, AttributeType::Value) {
        Some(Attribute::Value(der)) => certified_key(&der).as_ref() == Some(public_key),
        _ => false,
    }
}

/// Returns the public key of a certificate.
fn certified_key(certificate: &[u8]) -> Option<PublicKey> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let spki = parsed.tbs_certificate().subject_public_key_info().to_der();
    PublicKey::from_spki_der(&spki.ok()?).ok()
}

fn rsa(session: &Session, handle: ObjectHandle) -> Option<PublicKey> {
    let Attribute::Modulus(modulus) = stated(session, handle, AttributeType::Modulus)? else {
        return None;
    };
    let exponent = stated(session, handle, AttributeType::PublicExponent)?;
    let Attribute::PublicExponent(exponent) = exponent else {
        return None;
    };
    rsa_key(&modulus, &exponent)
}

/// Makes an RSA key of a size that keypaird keeps, as it is told in bits.
fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Option<PublicKey> {
    let bits = i32::try_from(significant_bits(modulus)).ok()?;
    let spec = KeyAlgorithm::Rsa.known_spec(bits)?;
    PublicKey::rsa(spec, modulus, exponent)
}

fn ec(session: &Session, handle: ObjectHandle) -> Option<PublicKey> {
    let parameters = stated(session, handle, AttributeType::EcParams)?;
    let Attribute::EcParams(parameters) = parameters else {
        return None;
    };
    let curve = [Curve::P256, Curve::P384, Curve::P521]
        .into_iter()
        .find(|curve| mechanism::ec_params(*curve) == parameters)?;
    let point = point(session, handle, 1 + 2 * curve.field_len())?;
    Some(PublicKey::new(KeySpec::Ec(curve), point))
}

fn ed25519(session: &Session, handle: ObjectHandle) -> Option<PublicKey> {
    let point = point(session, handle, 32)?;
    Some(PublicKey::new(KeySpec::Ed25519, point))
}

fn point(session: &Session, handle: ObjectHandle, len: usize) -> Option<Vec<u8>> {
    match stated(session, handle, AttributeType::EcPoint)? {
        Attribute::EcPoint(point) => ec_point(&point, len).map(<[u8]>::to_vec),
        _ => None,
    }
}

/// Returns what an object states of itself. Each attribute is asked for by itself: one that a token does not
/// have, or does not tell, must not hide the others.
fn stated(session: &Session, handle: ObjectHandle, kind: AttributeType) -> Option<Attribute> {
    session.get_attributes(handle, &[kind]).ok()?.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_rsa_key_is_counted_in_bits() {
        let spec = |first: u8, zeros: usize| {
            let modulus = [vec![0; zeros], vec![first], vec![1; 255]].concat();
            rsa_key(&modulus, &[1, 0, 1]).map(|key| key.spec().bits())
        };
        for zeros in [0, 1] {
            assert_eq!(spec(0x80, zeros), Some(2048));
            assert_eq!(spec(0xff, zeros), Some(2048));
            // 2,047 and 2,041 bits.
            assert_eq!(spec(0x7f, zeros), None);
            assert_eq!(spec(0x01, zeros), None);
        }
    }
}
