//! Brings keys that were made elsewhere into the token.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rand;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::Decode;
use der::asn1::{OctetStringRef, UintRef};
use pkcs8::PrivateKeyInfoRef;
use tracing::{debug, info};
use zeroize::{Zeroize, Zeroizing};

use super::connection::Connection;
use super::error::Failure;
use super::generate::token_attributes;
use super::{VerifySignatures, destroy, mechanism, sign, template};
use crate::domain::{KeyAlgorithm, KeySpec, PrivateKey, PublicKey, SigningInput};
use crate::providers::{GeneratedKey, KeyName, StoredKey};

/// Puts a key pair on the token, and has it sign: tokens take what they are given, an EC key of zero too.
///
/// The private key goes in encrypted (`C_UnwrapKey`) where the token can take it so, and else as it is
/// (`C_CreateObject`). Both ways it ends as sensitive and not extractable; the token itself will always tell
/// that it was not made there.
pub(super) fn import(
    connection: &Connection,
    session: &Session,
    name: &KeyName,
    key: &PrivateKey,
) -> Result<GeneratedKey, Failure> {
    let public_key = key.public_key();
    let private = match unwrap(session, name, key) {
        Ok(private) => {
            info!(key_pair = %name.id, key_ref = %name.key_ref, "unwrapped a private key into the token");
            private
        }
        Err(failure)
            if failure.breaks_connection() || matches!(failure, Failure::OutcomeUnknown(_)) =>
        {
            return Err(failure);
        }
        Err(failure) => {
            debug!(error = %failure, "the token does not unwrap this kind of key");
            // Modules leave something of what failed.
            destroy::destroy_all(connection, session, name.key_ref)?;
            let private = create(session, name, key)?;
            info!(key_pair = %name.id, key_ref = %name.key_ref, "created a private key on the token");
            private
        }
    };
    session.create_object(&public_key_template(name, public_key)?)?;
    connection.remember_private_key(name.key_ref, private);
    prove(connection, session, name, public_key)?;
    Ok(GeneratedKey {
        public_key: public_key.clone(),
        sealed: None,
        token_attributes: Some(token_attributes(session, private)?),
    })
}

/// Sends the key encrypted under a key that ends with the call: AES key wrap with padding (RFC 5649).
fn unwrap(session: &Session, name: &KeyName, key: &PrivateKey) -> Result<ObjectHandle, Failure> {
    let mut secret = Zeroizing::new([0; 32]);
    let failed = |_| Failure::Untrustworthy("cannot be given a wrapped key");
    rand::fill(&mut *secret).map_err(failed)?;
    let kek = AesKek::new(&AES_256, &*secret).map_err(failed)?;
    let mut wrapped = vec![0; key.pkcs8().len() + WRAP_OVERHEAD];
    let wrapped = kek
        .wrap_with_padding(key.pkcs8(), &mut wrapped)
        .map_err(failed)?;
    let wrapping = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(true),
        Attribute::Value(secret.to_vec()),
    ];
    let unwrapping_key = session.create_object(&wrapping);
    wipe(wrapping);
    let unwrapping_key = unwrapping_key?;
    let unwrapped = session.unwrap_key(
        &Mechanism::AesKeyWrapPad,
        unwrapping_key,
        wrapped,
        &private_key_template(name, key.public_key().spec()),
    );
    // It ends with its session, when it cannot be destroyed: that one is not used again.
    session
        .destroy_object(unwrapping_key)
        .map_err(|error| Failure::OutcomeUnknown(Box::new(error.into())))?;
    Ok(unwrapped?)
}

/// Hands the key over as it is.
fn create(session: &Session, name: &KeyName, key: &PrivateKey) -> Result<ObjectHandle, Failure> {
    let mut template = private_key_template(name, key.public_key().spec());
    template.extend(values(key).map_err(|_| Failure::Unsupported)?);
    let created = session.create_object(&template);
    wipe(template);
    created.map_err(|error| match error {
        Error::Pkcs11(
            RvError::ActionProhibited
            | RvError::AttributeReadOnly
            | RvError::AttributeValueInvalid
            | RvError::FunctionNotSupported
            | RvError::TemplateInconsistent
            | RvError::TokenWriteProtected,
            _,
        ) => Failure::ImportForbidden(error),
        other => other.into(),
    })
}

/// Has the new key sign, and the public key verify.
fn prove(
    connection: &Connection,
    session: &Session,
    name: &KeyName,
    public_key: &PublicKey,
) -> Result<(), Failure> {
    let mut challenge = vec![0; 32];
    rand::fill(&mut challenge).map_err(|_| Failure::Untrustworthy("cannot be challenged"))?;
    let key = StoredKey {
        name: name.clone(),
        public_key: public_key.clone(),
        sealed: None,
    };
    let algorithm = public_key.spec().algorithm().default_signature_algorithm();
    let challenge = SigningInput::Message(challenge.into());
    sign::sign(
        connection,
        session,
        &key,
        algorithm,
        &challenge,
        VerifySignatures::Always,
    )?;
    Ok(())
}

fn private_key_template(name: &KeyName, spec: KeySpec) -> Vec<Attribute> {
    let mut template = template::private_key(name);
    template.extend([
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(key_type(spec.algorithm())),
    ]);
    template
}

/// Returns the attributes of the public key object. `CKA_EC_POINT` is in an OCTET STRING, as the specification
/// wants it.
fn public_key_template(name: &KeyName, key: &PublicKey) -> Result<Vec<Attribute>, Failure> {
    let mut template = template::public_key(name, key.spec());
    template.extend([
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type(key.spec().algorithm())),
    ]);
    match key.rsa_numbers() {
        Some((modulus, public_exponent)) => {
            // What is said of a key to be made is not said of one there is.
            template.retain(|attribute| {
                !matches!(
                    attribute,
                    Attribute::ModulusBits(_) | Attribute::PublicExponent(_)
                )
            });
            template.extend([
                Attribute::Modulus(modulus),
                Attribute::PublicExponent(public_exponent),
            ]);
        }
        None => {
            let point =
                OctetStringRef::new(key.bits()).and_then(|point| der::Encode::to_der(&point));
            template.push(Attribute::EcPoint(point.map_err(Failure::Certificate)?));
        }
    }
    Ok(template)
}

/// Takes the private key apart into the attributes that PKCS#11 has for it.
fn values(key: &PrivateKey) -> der::Result<Vec<Attribute>> {
    let info = PrivateKeyInfoRef::from_der(key.pkcs8())
        .map_err(|_| der::Error::from(der::ErrorKind::Failed))?;
    let inner = info.private_key.as_bytes();
    Ok(match key.public_key().spec() {
        KeySpec::Rsa(_) => {
            let key = RsaPrivateKey::from_der(inner)?;
            let bytes = |number: UintRef<'_>| number.as_bytes().to_vec();
            vec![
                Attribute::Modulus(bytes(key.modulus)),
                Attribute::PublicExponent(bytes(key.public_exponent)),
                Attribute::PrivateExponent(bytes(key.private_exponent)),
                Attribute::Prime1(bytes(key.prime1)),
                Attribute::Prime2(bytes(key.prime2)),
                Attribute::Exponent1(bytes(key.exponent1)),
                Attribute::Exponent2(bytes(key.exponent2)),
                Attribute::Coefficient(bytes(key.coefficient)),
            ]
        }
        KeySpec::Ec(curve) => vec![
            Attribute::EcParams(mechanism::ec_params(curve).to_vec()),
            Attribute::Value(ec_private_key(inner)?),
        ],
        KeySpec::Ed25519 => vec![
            Attribute::EcParams(mechanism::ED25519_PARAMS.to_vec()),
            // RFC 8410 section 7.
            Attribute::Value(<&OctetStringRef>::from_der(inner)?.as_bytes().to_vec()),
        ],
    })
}

/// Returns the private key of an `ECPrivateKey` (RFC 5915 section 3), as long as a field element.
fn ec_private_key(der: &[u8]) -> der::Result<Vec<u8>> {
    use der::Reader;
    let sequence = der::AnyRef::from_der(der)?;
    let mut parts = der::SliceReader::new(sequence.value())?;
    let _version = parts.tlv_bytes()?;
    Ok(<&OctetStringRef>::from_der(parts.tlv_bytes()?)?
        .as_bytes()
        .to_vec())
}

/// RFC 8017 appendix A.1.2.
#[derive(der::Sequence)]
struct RsaPrivateKey<'a> {
    version: u8,
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
    private_exponent: UintRef<'a>,
    prime1: UintRef<'a>,
    prime2: UintRef<'a>,
    exponent1: UintRef<'a>,
    exponent2: UintRef<'a>,
    coefficient: UintRef<'a>,
}

const fn key_type(algorithm: KeyAlgorithm) -> KeyType {
    match algorithm {
        KeyAlgorithm::Rsa => KeyType::RSA,
        KeyAlgorithm::Ec => KeyType::EC,
        KeyAlgorithm::Ed25519 => KeyType::EC_EDWARDS,
    }
}

/// Overwrites the parts of a key. What the module copied of them is out of our reach.
fn wipe(template: Vec<Attribute>) {
    for attribute in template {
        if let Attribute::Value(mut bytes)
        | Attribute::PrivateExponent(mut bytes)
        | Attribute::Prime1(mut bytes)
        | Attribute::Prime2(mut bytes)
        | Attribute::Exponent1(mut bytes)
        | Attribute::Exponent2(mut bytes)
        | Attribute::Coefficient(mut bytes) = attribute
        {
            bytes.zeroize();
        }
    }
}

/// What RFC 5649 adds: a block, and up to a block of padding.
const WRAP_OVERHEAD: usize = 16;
