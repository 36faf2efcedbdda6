//! Certificate signing requests: PKCS#10 (RFC 2986).
//!
//! They are written here and not by rcgen, which cannot take a name over byte for byte: it knows
//! one part of a kind, and one part in a set.

use bytes::Bytes;
use const_oid::db::rfc5912::ID_EXTENSION_REQ;
use der::asn1::{Any, BitStringRef, ObjectIdentifier, OctetString, SetOfVec};
use der::{AnyRef, Decode, Encode, Reader, Sequence, SliceReader, Tag, ValueOrd};
use rustls_pki_types::{AlgorithmIdentifier, alg_id};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{KeyUsage, KeyUsages};
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};
use x509_cert::request::CertReq;

use super::alternative_names::{SUBJECT_ALT_NAME, alternative_names};
use super::{CertError, Finding, read};
use crate::domain::{
    Certificate, DnField, Hash, PublicKey, SignatureAlgorithm, SigningInput, Subject,
    SubjectAlternativeName,
};

/// All that stands in a request.
#[derive(Clone, Debug)]
pub struct CsrProfile {
    /// The key's certificate, from which the request takes what is not said otherwise, byte for
    /// byte.
    pub certificate: Certificate,
    /// Another subject.
    pub subject: Option<Subject>,
    /// Other subject alternative names.
    pub names: Option<Vec<SubjectAlternativeName>>,
    /// The public key.
    pub public_key: PublicKey,
}

/// A request that was built, found in order, and lacks only its signature.
#[derive(Debug)]
pub struct LintedCsr {
    public_key: PublicKey,
    /// The SubjectPublicKeyInfo in DER.
    spki: Vec<u8>,
    algorithm: SignatureAlgorithm,
    to_be_signed: Bytes,
}

impl CsrProfile {
    /// Builds the request and reads it back.
    ///
    /// # Errors
    /// [`CertError::AlternativeName`] when the certificate has an alternative name that is damaged,
    /// and no others are asked for.
    pub fn build(self) -> Result<LintedCsr, CertError> {
        let subject = match &self.subject {
            Some(subject) => encoded(subject_name(subject))?,
            None => subject_of(&self.certificate).ok_or(CertError::Subject)?,
        };
        // A key that is for RSASSA-PSS only stays so in its next certificate.
        let (spki, algorithm) = match read::pss_only(&self.certificate) {
            Some(only) => (spki_of(&self.certificate)?, only.default_algorithm()),
            None => {
                let default = self.public_key.spec().default_signing_algorithm();
                (self.public_key.spki_der(), default)
            }
        };
        let info = RequestInfo {
            version: 0,
            subject: AnyRef::from_der(&subject).map_err(|_| CertError::Subject)?,
            public_key: AnyRef::from_der(&spki).map_err(CertError::EncodeRequest)?,
            attributes: self.attributes(subject.len() == EMPTY_LEN)?,
        };
        let to_be_signed = encoded(info.to_der())?;
        let linted = LintedCsr {
            public_key: self.public_key,
            spki,
            algorithm,
            to_be_signed: to_be_signed.into(),
        };
        linted.check(&subject)?;
        Ok(linted)
    }

    /// Returns the extensions that the certificate shall have, as an attribute (RFC 2985 section
    /// 5.4.2).
    fn attributes(&self, is_nameless: bool) -> Result<SetOfVec<Attribute>, CertError> {
        let mut extensions = Vec::new();
        let names = self.alternative_names()?;
        if names.len() > EMPTY_LEN {
            extensions.push(Extension {
                extn_id: SUBJECT_ALT_NAME,
                // RFC 5280 section 4.2.1.6.
                critical: is_nameless,
                extn_value: encoded(OctetString::new(names))?,
            });
        }
        let usage = KeyUsage(KeyUsages::DigitalSignature | KeyUsages::NonRepudiation);
        extensions.push(Extension {
            extn_id: KEY_USAGE,
            critical: true,
            extn_value: encoded(OctetString::new(encoded(usage.to_der())?))?,
        });
        let mut values = SetOfVec::new();
        let extensions = encoded(Any::encode_from(&extensions))?;
        encoded(values.insert(extensions))?;
        let mut attributes = SetOfVec::new();
        let requested = Attribute {
            kind: ID_EXTENSION_REQ,
            values,
        };
        encoded(attributes.insert(requested))?;
        Ok(attributes)
    }

    /// Returns `GeneralNames` in DER.
    fn alternative_names(&self) -> Result<Vec<u8>, CertError> {
        let contents = match &self.names {
            Some(names) => {
                let names = names
                    .iter()
                    .map(|name| encoded(general_name(name)?.to_der()));
                names.collect::<Result<Vec<_>, _>>()?.concat()
            }
            None => {
                let parsed = read::parse(&self.certificate).map_err(|_| CertError::Subject)?;
                let names = alternative_names(&parsed);
                let names = names.iter().map(|name| {
                    let damaged = || CertError::AlternativeName(name.shown());
                    name.der().ok_or_else(damaged)
                });
                names.collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        encoded(AnyRef::new(Tag::Sequence, &contents).and_then(|any| any.to_der()))
    }
}

impl LintedCsr {
    /// Returns what is to be signed: the `CertificationRequestInfo` in DER.
    pub fn to_be_signed(&self) -> SigningInput {
        SigningInput::Message(self.to_be_signed.clone())
    }

    /// Returns how it is to be signed. The hash is as strong as the key, whatever that of the
    /// certificate.
    pub const fn signature_algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    /// Completes the request with its signature, which must be one of its own key, and returns it
    /// in PEM.
    pub fn complete(self, signature: &[u8]) -> Result<String, CertError> {
        let algorithm = self.signature_algorithm();
        self.public_key
            .verify(algorithm, &self.to_be_signed(), signature)?;
        let request = self.with_signature(signature)?;
        let label = "CERTIFICATE REQUEST";
        encoded(
            der::pem::encode_string(label, der::pem::LineEnding::LF, &request).map_err(Into::into),
        )
    }

    fn with_signature(&self, signature: &[u8]) -> Result<Vec<u8>, CertError> {
        let algorithm = algorithm_identifier(self.algorithm);
        let algorithm = AnyRef::new(Tag::Sequence, algorithm.as_ref());
        let request = Request {
            info: AnyRef::from_der(&self.to_be_signed).map_err(CertError::EncodeRequest)?,
            algorithm: encoded(algorithm)?,
            signature: BitStringRef::from_bytes(signature).map_err(CertError::EncodeRequest)?,
        };
        encoded(request.to_der())
    }

    /// Has another parser read what was written.
    fn check(&self, subject: &[u8]) -> Result<(), CertError> {
        let broken = |rule| {
            CertError::Lint(vec![Finding {
                rule,
                source: "RFC 2986 section 4.1",
            }])
        };
        let request = self.with_signature(&[0])?;
        let parsed = CertReq::from_der(&request).map_err(|_| broken("is not a request in DER"))?;
        if parsed.info.public_key.to_der().ok() != Some(self.spki.clone()) {
            return Err(broken("has another public key"));
        }
        if second_element(&self.to_be_signed).as_deref() != Some(subject) {
            return Err(broken("has another subject"));
        }
        Ok(())
    }
}

/// RFC 2986 section 4.1, with the parts as they are.
#[derive(Sequence)]
struct RequestInfo<'a> {
    version: u8,
    subject: AnyRef<'a>,
    public_key: AnyRef<'a>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT")]
    attributes: SetOfVec<Attribute>,
}

#[derive(Sequence, ValueOrd, PartialEq, Eq)]
struct Attribute {
    kind: ObjectIdentifier,
    values: SetOfVec<Any>,
}

/// RFC 2986 section 4.2.
#[derive(Sequence)]
struct Request<'a> {
    info: AnyRef<'a>,
    algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

/// Returns the contents of an `AlgorithmIdentifier`, in DER.
const fn algorithm_identifier(algorithm: SignatureAlgorithm) -> AlgorithmIdentifier {
    match algorithm {
        SignatureAlgorithm::RsaPkcs1(Hash::Sha256) => alg_id::RSA_PKCS1_SHA256,
        SignatureAlgorithm::RsaPkcs1(Hash::Sha384) => alg_id::RSA_PKCS1_SHA384,
        SignatureAlgorithm::RsaPkcs1(Hash::Sha512) => alg_id::RSA_PKCS1_SHA512,
        SignatureAlgorithm::RsaPss(Hash::Sha256) => alg_id::RSA_PSS_SHA256,
        SignatureAlgorithm::RsaPss(Hash::Sha384) => alg_id::RSA_PSS_SHA384,
        SignatureAlgorithm::RsaPss(Hash::Sha512) => alg_id::RSA_PSS_SHA512,
        SignatureAlgorithm::Ecdsa(Hash::Sha256) => alg_id::ECDSA_SHA256,
        SignatureAlgorithm::Ecdsa(Hash::Sha384) => alg_id::ECDSA_SHA384,
        SignatureAlgorithm::Ecdsa(Hash::Sha512) => alg_id::ECDSA_SHA512,
        SignatureAlgorithm::Ed25519 => alg_id::ED25519,
    }
}

/// Returns the public key of a certificate as it stands there, with what it is restricted to.
fn spki_of(certificate: &Certificate) -> Result<Vec<u8>, CertError> {
    let parsed = read::parse(certificate).map_err(|_| CertError::Subject)?;
    let spki = parsed.tbs_certificate().subject_public_key_info();
    encoded(spki.to_der())
}

/// Returns the subject of a certificate in DER, as it stands there.
fn subject_of(certificate: &Certificate) -> Option<Vec<u8>> {
    let to_be_signed = super::signature::to_be_signed(certificate)?;
    let mut parts = SliceReader::new(AnyRef::from_der(&to_be_signed).ok()?.value()).ok()?;
    let first = parts.tlv_bytes().ok()?;
    // The version, which one of version 1 leaves out, stands before the serial number.
    let is_version = first.first() == Some(&VERSION);
    let before = if is_version { 4 } else { 3 };
    for _ in 0..before {
        parts.tlv_bytes().ok()?;
    }
    Some(parts.tlv_bytes().ok()?.to_vec())
}

fn second_element(sequence: &[u8]) -> Option<Vec<u8>> {
    let mut parts = SliceReader::new(AnyRef::from_der(sequence).ok()?.value()).ok()?;
    parts.tlv_bytes().ok()?;
    Some(parts.tlv_bytes().ok()?.to_vec())
}

/// Writes a subject in DER, each part in a set of its own.
fn subject_name(subject: &Subject) -> der::Result<Vec<u8>> {
    let mut name = RdnSequence::default();
    for attribute in subject.attributes() {
        let tag = match attribute.is_printable() {
            true => Tag::PrintableString,
            false => Tag::Utf8String,
        };
        let mut part = RelativeDistinguishedName::default();
        part.insert(AttributeTypeAndValue {
            oid: match attribute.field {
                DnField::Country => ObjectIdentifier::new_unwrap("2.5.4.6"),
                DnField::State => ObjectIdentifier::new_unwrap("2.5.4.8"),
                DnField::Locality => ObjectIdentifier::new_unwrap("2.5.4.7"),
                DnField::Organization => ObjectIdentifier::new_unwrap("2.5.4.10"),
                DnField::OrganizationalUnit => ObjectIdentifier::new_unwrap("2.5.4.11"),
                DnField::CommonName => ObjectIdentifier::new_unwrap("2.5.4.3"),
            },
            value: Any::new(tag, attribute.value.as_bytes())?,
        })?;
        name.push(part);
    }
    name.to_der()
}

fn general_name(name: &SubjectAlternativeName) -> Result<GeneralName, CertError> {
    use der::asn1::Ia5String;
    let ia5 = |text: &str| Ia5String::new(text).map_err(|_| CertError::Name(text.to_owned()));
    Ok(match name {
        SubjectAlternativeName::Dns(text) => GeneralName::DnsName(ia5(text)?),
        SubjectAlternativeName::Email(text) => GeneralName::Rfc822Name(ia5(text)?),
        SubjectAlternativeName::Uri(text) => GeneralName::UniformResourceIdentifier(ia5(text)?),
        SubjectAlternativeName::Ip(address) => {
            let bytes = match address {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            };
            GeneralName::IpAddress(encoded(OctetString::new(bytes))?)
        }
    })
}

fn encoded<T>(result: der::Result<T>) -> Result<T, CertError> {
    result.map_err(CertError::EncodeRequest)
}

/// RFC 5280 section 4.2.1.3.
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// The tag of the version of a certificate: `[0]`.
const VERSION: u8 = 0xa0;
/// How many bytes an empty SEQUENCE has.
const EMPTY_LEN: usize = 2;
