//! Certificate signing requests: PKCS#10 (RFC 2986).

use bytes::Bytes;
use der::{Decode, Encode};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyUsagePurpose, SanType};
use x509_cert::request::CertReq;

use super::profile::{distinguished_name, san};
use super::signer::{Signer, of_key};
use super::{CertError, Finding, read};
use crate::domain::{
    Certificate, Curve, Hash, KeySpec, PublicKey, SignatureAlgorithm, SigningInput, Subject,
    SubjectAlternativeName,
};

/// All that stands in a request.
#[derive(Clone, Debug)]
pub struct CsrProfile {
    /// The key's certificate, from which the request takes what is not said otherwise.
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
    params: CertificateParams,
    public_key: PublicKey,
    to_be_signed: Bytes,
}

impl CsrProfile {
    /// Builds the request and reads it back.
    ///
    /// # Errors
    /// [`CertError::Subject`] when the certificate's subject cannot be written, such as one with two parts of a
    /// kind.
    pub fn build(self) -> Result<LintedCsr, CertError> {
        let params = self.params()?;
        let signer = Signer::capturing(&self.public_key, of_key(self.public_key.spec()));
        let request = params
            .serialize_request(&signer)
            .map_err(CertError::Encode)?;
        self.check(request.der())?;
        Ok(LintedCsr {
            params,
            to_be_signed: signer.captured(),
            public_key: self.public_key,
        })
    }

    fn params(&self) -> Result<CertificateParams, CertError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = match &self.subject {
            Some(subject) => distinguished_name(subject)?,
            None => subject_of(&self.certificate).ok_or(CertError::Subject)?,
        };
        let names = match &self.names {
            Some(names) => names.clone(),
            None => read::names(&self.certificate),
        };
        params.subject_alt_names = names.iter().map(san).collect::<Result<Vec<SanType>, _>>()?;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::ContentCommitment,
        ];
        Ok(params)
    }

    fn check(&self, request: &[u8]) -> Result<(), CertError> {
        let broken = |rule| {
            CertError::Lint(vec![Finding {
                rule,
                source: "RFC 2986 section 4.1",
            }])
        };
        let parsed = CertReq::from_der(request).map_err(|_| broken("is not a request in DER"))?;
        let spki = parsed.info.public_key.to_der();
        if spki.ok() != Some(self.public_key.spki_der()) {
            return Err(broken("has another public key"));
        }
        if self.subject.is_none() {
            let certificate = read::parse(&self.certificate).map_err(|_| CertError::Subject)?;
            let wanted = certificate.tbs_certificate().subject().to_der();
            if parsed.info.subject.to_der().ok() != wanted.ok() {
                return Err(CertError::Subject);
            }
        }
        Ok(())
    }
}

impl LintedCsr {
    /// Returns what is to be signed: the `CertificationRequestInfo` in DER.
    pub fn to_be_signed(&self) -> SigningInput {
        SigningInput::Message(self.to_be_signed.clone())
    }

    /// Returns how it is to be signed. The hash is as strong as the key, whatever that of the certificate.
    pub const fn signature_algorithm(&self) -> SignatureAlgorithm {
        match self.public_key.spec() {
            KeySpec::Rsa(_) => SignatureAlgorithm::RsaPkcs1(Hash::Sha256),
            KeySpec::Ec(Curve::P256) => SignatureAlgorithm::Ecdsa(Hash::Sha256),
            KeySpec::Ec(Curve::P384) => SignatureAlgorithm::Ecdsa(Hash::Sha384),
            KeySpec::Ec(Curve::P521) => SignatureAlgorithm::Ecdsa(Hash::Sha512),
            KeySpec::Ed25519 => SignatureAlgorithm::Ed25519,
        }
    }

    /// Completes the request with its signature, which must be one of its own key, and returns it in PEM.
    pub fn complete(self, signature: Vec<u8>) -> Result<String, CertError> {
        let algorithm = self.signature_algorithm();
        self.public_key
            .verify(algorithm, &self.to_be_signed(), &signature)?;
        let signer = Signer::with_signature(
            &self.public_key,
            of_key(self.public_key.spec()),
            self.to_be_signed,
            signature,
        );
        let request = self
            .params
            .serialize_request(&signer)
            .map_err(CertError::Encode)?;
        let label = "CERTIFICATE REQUEST";
        der::pem::encode_string(label, der::pem::LineEnding::LF, request.der())
            .map_err(|_| CertError::Subject)
    }
}

/// Takes a subject over as it stands in a certificate, as far as rcgen can write it.
fn subject_of(certificate: &Certificate) -> Option<DistinguishedName> {
    let parsed = read::parse(certificate).ok()?;
    let mut name = DistinguishedName::new();
    for attribute in parsed.tbs_certificate().subject().iter() {
        let arcs = attribute.oid.arcs().map(u64::from).collect::<Vec<_>>();
        let kind = DnType::from_oid(&arcs);
        let text = std::str::from_utf8(attribute.value.value()).ok()?;
        name.push(
            kind,
            match der::Tagged::tag(&attribute.value) {
                der::Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
                der::Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
                der::Tag::Ia5String => DnValue::Ia5String(text.try_into().ok()?),
                _ => return None,
            },
        );
    }
    Some(name)
}
