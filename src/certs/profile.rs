//! What stands in a self-signed certificate, and how rcgen is made to write it.

use bytes::Bytes;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, SanType,
};
use sha2::Digest as _;

use super::signer::{self, Signer, SubjectKey};
use super::{CertError, lint};
use crate::domain::{
    Certificate, DnField, PublicKey, SignatureAlgorithm, SigningInput, Subject,
    SubjectAlternativeName, Validity,
};

/// All that stands in a certificate.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Subject and issuer.
    pub subject: Subject,
    /// Subject alternative names; the extension is left out when there are none.
    pub names: Vec<SubjectAlternativeName>,
    /// Validity.
    pub validity: Validity,
    /// Serial number.
    pub serial_number: SerialNumber,
    /// The subject's public key.
    pub public_key: PublicKey,
    /// How the certificate is signed.
    pub signature_algorithm: SignatureAlgorithm,
}

/// The serial number of a certificate: 128 random bits, which are not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// Makes a serial number of 128 random bits. Zero is not one (RFC 5280 section 4.1.2.2), so the last
    /// bit stands in for the one draw in 2^128.
    pub fn from_random(mut bits: [u8; 16]) -> Self {
        if bits == [0; 16] {
            bits[15] = 1;
        }
        Self(bits)
    }

    /// Returns the number in decimal digits.
    pub fn decimal(&self) -> String {
        u128::from_be_bytes(self.0).to_string()
    }

    /// Returns the number, big-endian, without leading zeros.
    pub(super) fn significant_bytes(&self) -> &[u8] {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        self.0.get(zeros..).unwrap_or_default()
    }
}

/// A certificate that was built, found in order, and lacks only its signature.
#[derive(Debug)]
pub struct Linted {
    profile: Profile,
    params: CertificateParams,
    tbs_der: Bytes,
}

impl Profile {
    /// Builds the certificate and lints it.
    pub fn build(self) -> Result<Linted, CertError> {
        let params = self.params()?;
        let signer = Signer::capturing(
            &self.public_key,
            signer::signature(self.signature_algorithm),
        );
        let draft = self.write(&params, &signer)?;
        let findings = lint::findings(&draft, &self);
        if !findings.is_empty() {
            return Err(CertError::Lint(findings));
        }
        let tbs_der = signer.captured();
        Ok(Linted {
            profile: self,
            params,
            tbs_der,
        })
    }

    /// Runs rcgen: the signature algorithm is the issuer's, and the public key the subject's.
    fn write(&self, params: &CertificateParams, signer: &Signer) -> Result<Certificate, CertError> {
        let issuer = Issuer::from_params(params, signer);
        let certificate = params
            .signed_by(&SubjectKey(&self.public_key), &issuer)
            .map_err(CertError::Encode)?;
        Ok(Certificate::from_der(certificate.der().as_ref()))
    }

    /// States everything that rcgen would otherwise choose by itself.
    fn params(&self) -> Result<CertificateParams, CertError> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(self.serial_number.0.to_vec().into());
        params.not_before = self.validity.not_before;
        params.not_after = self.validity.not_after;
        params.distinguished_name = distinguished_name(&self.subject)?;
        params.subject_alt_names = self.names.iter().map(san).collect::<Result<_, _>>()?;
        // Writes basicConstraints and the subject key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::ContentCommitment,
        ];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(&self.public_key));
        Ok(params)
    }
}

impl Linted {
    /// Returns what is to be signed: the `TBSCertificate` in DER.
    pub fn to_be_signed(&self) -> SigningInput {
        SigningInput::Message(self.tbs_der.clone())
    }

    /// Completes the certificate with its signature, which must be one of the subject's own key.
    pub fn complete(self, signature: Vec<u8>) -> Result<Certificate, CertError> {
        let algorithm = self.profile.signature_algorithm;
        self.profile
            .public_key
            .verify(algorithm, &self.to_be_signed(), &signature)?;
        let signer = Signer::with_signature(
            &self.profile.public_key,
            signer::signature(algorithm),
            self.tbs_der,
            signature,
        );
        self.profile.write(&self.params, &signer)
    }
}

/// Returns the key identifier of a public key: the first 160 bits of SHA-256 over the subjectPublicKey
/// (RFC 7093 section 2, method 1).
pub(super) fn key_identifier(public_key: &PublicKey) -> Vec<u8> {
    let digest = sha2::Sha256::digest(public_key.bits());
    digest.iter().copied().take(20).collect()
}

pub(super) fn distinguished_name(subject: &Subject) -> Result<DistinguishedName, CertError> {
    let mut name = DistinguishedName::new();
    for attribute in subject.attributes() {
        let kind = match attribute.field {
            DnField::Country => DnType::CountryName,
            DnField::State => DnType::StateOrProvinceName,
            DnField::Locality => DnType::LocalityName,
            DnField::Organization => DnType::OrganizationName,
            DnField::OrganizationalUnit => DnType::OrganizationalUnitName,
            DnField::CommonName => DnType::CommonName,
        };
        let value = if attribute.is_printable() {
            let printable = attribute.value.try_into();
            DnValue::PrintableString(
                printable.map_err(|_| CertError::Name(attribute.value.to_owned()))?,
            )
        } else {
            DnValue::Utf8String(attribute.value.to_owned())
        };
        name.push(kind, value);
    }
    Ok(name)
}

pub(super) fn san(name: &SubjectAlternativeName) -> Result<SanType, CertError> {
    let ia5 = |text: &String| {
        Ia5String::try_from(text.as_str()).map_err(|_| CertError::Name(text.clone()))
    };
    Ok(match name {
        SubjectAlternativeName::Dns(text) => SanType::DnsName(ia5(text)?),
        SubjectAlternativeName::Ip(address) => SanType::IpAddress(*address),
        SubjectAlternativeName::Email(text) => SanType::Rfc822Name(ia5(text)?),
        SubjectAlternativeName::Uri(text) => SanType::URI(ia5(text)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_positive_and_shown_in_decimal() {
        assert_eq!(SerialNumber::from_random([0; 16]).decimal(), "1");
        let mut bits = [0; 16];
        bits[14] = 1;
        assert_eq!(SerialNumber::from_random(bits).decimal(), "256");
        assert_eq!(SerialNumber::from_random(bits).significant_bytes(), [1, 0]);
        assert_eq!(
            SerialNumber::from_random([0xff; 16]).decimal(),
            u128::MAX.to_string()
        );
    }
}
