//! The attributes of the objects we make, written in full: what a template leaves out, each token fills in
//! by its own taste.

use cryptoki::object::{Attribute, CertificateType, ObjectClass};
use cryptoki::types::Ulong;

use super::mechanism;
use crate::domain::{KeySpec, RsaSize};
use crate::providers::KeyName;

/// Returns `CKA_LABEL`: the id of the key pair, and from the second generation on its number too.
pub(super) fn label(name: &KeyName) -> Vec<u8> {
    let label = match name.generation.number() {
        1 => name.id.to_string(),
        number => format!("{}#{number}", name.id),
    };
    label.into_bytes()
}

/// Returns what all our objects have in common.
fn named(name: &KeyName) -> [Attribute; 3] {
    [
        Attribute::Token(true),
        Attribute::Id(name.key_ref.as_bytes().to_vec()),
        Attribute::Label(label(name)),
    ]
}

/// A public key, which everybody may see and verify with.
pub(super) fn public_key(name: &KeyName, spec: KeySpec) -> Vec<Attribute> {
    let mut template = named(name).to_vec();
    template.extend([
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ]);
    match spec {
        KeySpec::Rsa(size) => template.extend([
            Attribute::ModulusBits(Ulong::new(match size {
                RsaSize::Bits1024 => 1024,
                RsaSize::Bits2048 => 2048,
                RsaSize::Bits3072 => 3072,
                RsaSize::Bits4096 => 4096,
            })),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ]),
        KeySpec::Ec(curve) => {
            template.push(Attribute::EcParams(mechanism::ec_params(curve).to_vec()));
        }
        KeySpec::Ed25519 => {
            template.push(Attribute::EcParams(mechanism::ED25519_PARAMS.to_vec()));
        }
    }
    template
}

/// A private key that never leaves the token and does nothing but sign.
pub(super) fn private_key(name: &KeyName) -> Vec<Attribute> {
    let mut template = named(name).to_vec();
    template.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]);
    template
}

/// A certificate. Subject, issuer and serial number are in DER, as they stand in the certificate.
pub(super) fn certificate(name: &KeyName, parts: CertificateParts) -> Vec<Attribute> {
    let mut template = named(name).to_vec();
    template.extend([
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Private(false),
        Attribute::Subject(parts.subject),
        Attribute::Issuer(parts.issuer),
        Attribute::SerialNumber(parts.serial_number),
        Attribute::Value(parts.certificate),
    ]);
    template
}

/// What a certificate object shows of its certificate, all in DER.
pub(super) struct CertificateParts {
    pub(super) subject: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) serial_number: Vec<u8>,
    pub(super) certificate: Vec<u8>,
}
