//! Generates keys in the token.

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;

use super::connection::Connection;
use super::error::Failure;
use super::{mechanism, template};
use crate::domain::{KeySpec, PublicKey, TokenAttributes};
use crate::providers::{GeneratedKey, KeyName};

/// Generates a key pair (`C_GenerateKeyPair`), and reads back what the token made of it.
pub(super) fn generate(
    connection: &Connection,
    session: &Session,
    name: &KeyName,
    spec: KeySpec,
) -> Result<GeneratedKey, Failure> {
    let (public, private) = session.generate_key_pair(
        &mechanism::generate(spec.algorithm()),
        &template::public_key(name, spec),
        &template::private_key(name),
    )?;
    let token_attributes = token_attributes(session, private)?;
    let public_key = read_public_key(session, public, spec)?;
    connection.remember_private_key(name.key_ref, private);
    Ok(GeneratedKey {
        public_key,
        sealed: None,
        token_attributes: Some(token_attributes),
    })
}

/// Reads what the token states of a private key, and insists that it cannot leave.
pub(super) fn token_attributes(
    session: &Session,
    private: ObjectHandle,
) -> Result<TokenAttributes, Failure> {
    let stated = session.get_attributes(
        private,
        &[
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::AlwaysSensitive,
            AttributeType::NeverExtractable,
            AttributeType::Local,
        ],
    )?;
    // What a token does not state is left out of the answer, so each is looked for by its type.
    let says = |wanted: &Attribute| stated.contains(wanted);
    if !says(&Attribute::Sensitive(true)) || !says(&Attribute::Extractable(false)) {
        return Err(Failure::Untrustworthy(
            "made a private key that is not sensitive or is extractable, against its template",
        ));
    }
    Ok(TokenAttributes {
        sensitive: true,
        always_sensitive: says(&Attribute::AlwaysSensitive(true)),
        never_extractable: says(&Attribute::NeverExtractable(true)),
        local: says(&Attribute::Local(true)),
    })
}

/// Reads a public key that was just made.
pub(super) fn read_public_key(
    session: &Session,
    public: ObjectHandle,
    spec: KeySpec,
) -> Result<PublicKey, Failure> {
    let unreadable = Failure::Untrustworthy("made a public key of another kind than it was told");
    let stated = session.get_attributes(
        public,
        &match spec {
            KeySpec::Rsa(_) => vec![AttributeType::Modulus, AttributeType::PublicExponent],
            KeySpec::Ec(_) | KeySpec::Ed25519 => vec![AttributeType::EcPoint],
        },
    )?;
    let key = match (spec, &*stated) {
        (
            KeySpec::Rsa(_),
            [
                Attribute::Modulus(modulus),
                Attribute::PublicExponent(exponent),
            ],
        ) => {
            let bits = usize::try_from(spec.bits()).unwrap_or_default();
            (significant_bits(modulus) == bits)
                .then(|| PublicKey::rsa(spec, modulus, exponent))
                .flatten()
        }
        (KeySpec::Ec(curve), [Attribute::EcPoint(point)]) => {
            ec_point(point, 1 + 2 * curve.field_len()).map(|point| PublicKey::new(spec, point))
        }
        (KeySpec::Ed25519, [Attribute::EcPoint(point)]) => {
            ec_point(point, 32).map(|point| PublicKey::new(spec, point))
        }
        _ => None,
    };
    key.ok_or(unreadable)
}

/// Takes the point out of `CKA_EC_POINT`: some tokens give it in an OCTET STRING, as the specification
/// wants, and some bare.
pub(super) fn ec_point(attribute: &[u8], len: usize) -> Option<&[u8]> {
    if attribute.len() == len {
        return Some(attribute);
    }
    let header = if len < 128 { 2 } else { 3 };
    let (head, point) = attribute.split_at_checked(header)?;
    (head.first() == Some(&0x04) && point.len() == len).then_some(point)
}

pub(super) fn significant_bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let rest = number.get(zeros..).unwrap_or_default();
    let leading = rest.first().map_or(0, |byte| byte.leading_zeros());
    rest.len() * 8 - usize::try_from(leading).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ec_points_are_read_bare_or_wrapped() {
        let bare = [4; 65];
        let wrapped: Vec<u8> = [0x04, 65].into_iter().chain(bare).collect();
        assert_eq!(ec_point(&bare, 65), Some(&bare[..]));
        assert_eq!(ec_point(&wrapped, 65), Some(&bare[..]));

        let bare = [4; 133];
        let wrapped: Vec<u8> = [0x04, 0x81, 133].into_iter().chain(bare).collect();
        assert_eq!(ec_point(&wrapped, 133), Some(&bare[..]));

        for bad in [&[][..], &[4], &[4; 64], &[4; 66], &[5; 67]] {
            assert_eq!(ec_point(bad, 65), None);
        }
    }

    #[test]
    fn the_size_of_a_modulus_is_counted_without_leading_zeros() {
        assert_eq!(significant_bits(&[]), 0);
        assert_eq!(significant_bits(&[0, 0]), 0);
        assert_eq!(significant_bits(&[0, 0x80, 0]), 16);
        assert_eq!(significant_bits(&[0x01, 0]), 9);
    }
}
