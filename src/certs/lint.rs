//! Checks of a finished certificate against RFC 5280 and against what was asked for.
//!
//! The certificate is read back by x509-cert, a parser that had no part in writing it.

use std::fmt;

use const_oid::AssociatedOid;
use der::asn1::Any;
use der::oid::ObjectIdentifier;
use der::{Decode, Encode, Tag, Tagged};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::{Certificate as Parsed, Version};

use super::Profile;
use super::profile::key_identifier;
use crate::domain::{
    Certificate, DnField, Hash, SignatureAlgorithm, Subject, SubjectAlternativeName,
};

/// A rule that a certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub rule: &'static str,
    /// Where the rule stands.
    pub source: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule, self.source)
    }
}

/// Returns every rule that the certificate breaks. The signature itself is not looked at.
pub(super) fn findings(certificate: &Certificate, profile: &Profile) -> Vec<Finding> {
    let Ok(parsed) = Parsed::from_der(certificate.der()) else {
        return vec![Finding {
            rule: "is not a certificate in DER",
            source: "X.690 section 10",
        }];
    };
    let mut lint = Lint(Vec::new());
    // Also finds validity times in the wrong one of the two forms: x509-cert writes the right one.
    lint.rule(
        parsed.to_der().is_ok_and(|der| der == certificate.der()),
        "encodes differently when written anew",
        "X.690 section 10; RFC 5280 section 4.1.2.5",
    );
    lint.basics(&parsed, profile);
    lint.name(parsed.tbs_certificate().subject(), &profile.subject);
    lint.extensions(&parsed, profile);
    lint.0
}

struct Lint(Vec<Finding>);

impl Lint {
    fn rule(&mut self, holds: bool, rule: &'static str, source: &'static str) {
        if !holds {
            self.0.push(Finding { rule, source });
        }
    }

    fn basics(&mut self, parsed: &Parsed, profile: &Profile) {
        let tbs = parsed.tbs_certificate();
        self.rule(
            tbs.version() == Version::V3,
            "is not of version 3",
            "RFC 5280 section 4.1.2.1",
        );
        let serial = tbs.serial_number().as_bytes();
        let serial = serial.strip_prefix(&[0]).unwrap_or(serial);
        self.rule(
            serial == profile.serial_number.significant_bytes(),
            "has another serial number, or one that is not positive",
            "RFC 5280 section 4.1.2.2",
        );
        self.rule(
            tbs.signature() == parsed.signature_algorithm(),
            "names two signature algorithms",
            "RFC 5280 section 4.1.1.2",
        );
        let (oid, parameters) = algorithm_identifier(profile.signature_algorithm);
        self.rule(
            tbs.signature().oid == oid && tbs.signature().parameters == parameters,
            "names another signature algorithm, or its parameters wrongly",
            "RFC 4055 section 5; RFC 5758 section 3.2; RFC 8410 section 3",
        );
        self.rule(
            tbs.issuer() == tbs.subject() && !tbs.issuer().is_empty(),
            "has another issuer than subject, or none",
            "RFC 5280 section 4.1.2.4",
        );
        let validity = tbs.validity();
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        self.rule(
            u64::try_from(profile.validity.not_before.unix_timestamp())
                == Ok(seconds(validity.not_before))
                && u64::try_from(profile.validity.not_after.unix_timestamp())
                    == Ok(seconds(validity.not_after))
                && seconds(validity.not_before) <= seconds(validity.not_after),
            "has another validity",
            "RFC 5280 section 4.1.2.5",
        );
        self.rule(
            tbs.subject_public_key_info()
                .to_der()
                .is_ok_and(|der| der == profile.public_key.spki_der()),
            "has another public key",
            "RFC 5280 section 4.1.2.7",
        );
        self.rule(
            tbs.issuer_unique_id().is_none() && tbs.subject_unique_id().is_none(),
            "has unique identifiers",
            "RFC 5280 section 4.1.2.8",
        );
    }

    fn name(&mut self, found: &Name, asked: &Subject) {
        self.rule(
            found.iter_rdn().all(|rdn| rdn.len() == 1),
            "has a multi-valued part in its name",
            "RFC 5280 section 4.1.2.4",
        );
        let found: Vec<_> = found
            .iter()
            .map(|attribute| {
                let value = &attribute.value;
                (attribute.oid, value.tag(), value.value().to_vec())
            })
            .collect();
        let asked: Vec<_> = asked
            .attributes()
            .map(|attribute| {
                let tag = if attribute.is_printable() {
                    Tag::PrintableString
                } else {
                    Tag::Utf8String
                };
                (
                    oid_of(attribute.field),
                    tag,
                    attribute.value.as_bytes().to_vec(),
                )
            })
            .collect();
        self.rule(
            found == asked,
            "has another name, or one in other string types",
            "RFC 5280 section 4.1.2.4 and appendix A.1",
        );
    }

    fn extensions(&mut self, parsed: &Parsed, profile: &Profile) {
        let extensions = parsed.tbs_certificate().extensions();
        let extensions = extensions.map_or(&[][..], Vec::as_slice);
        let mut seen: Vec<_> = extensions
            .iter()
            .map(|extension| extension.extn_id)
            .collect();
        seen.sort_unstable();
        let mut expected = vec![
            AuthorityKeyIdentifier::OID,
            BasicConstraints::OID,
            KeyUsage::OID,
            SubjectKeyIdentifier::OID,
        ];
        if !profile.names.is_empty() {
            expected.push(SubjectAltName::OID);
        }
        expected.sort_unstable();
        self.rule(
            seen == expected,
            "has other extensions, or one twice",
            "RFC 5280 section 4.2",
        );
        let critical = [BasicConstraints::OID, KeyUsage::OID];
        self.rule(
            extensions
                .iter()
                .all(|extension| extension.critical == critical.contains(&extension.extn_id)),
            "has an extension of the wrong criticality",
            "RFC 5280 section 4.2.1",
        );
        let identifier = key_identifier(&profile.public_key);
        self.rule(
            extension::<SubjectKeyIdentifier>(parsed)
                .is_some_and(|found| found.0.as_bytes() == identifier),
            "has no subject key identifier of its key",
            "RFC 5280 section 4.2.1.2",
        );
        self.rule(
            extension::<AuthorityKeyIdentifier>(parsed).is_some_and(|found| {
                found
                    .key_identifier
                    .is_some_and(|found| found.as_bytes() == identifier)
                    && found.authority_cert_issuer.is_none()
                    && found.authority_cert_serial_number.is_none()
            }),
            "has no authority key identifier of its key",
            "RFC 5280 section 4.2.1.1",
        );
        self.rule(
            extension::<KeyUsage>(parsed).is_some_and(|found| {
                found.0 == KeyUsages::DigitalSignature | KeyUsages::NonRepudiation
            }),
            "has another key usage than digitalSignature and nonRepudiation",
            "RFC 5280 section 4.2.1.3",
        );
        self.rule(
            extension::<BasicConstraints>(parsed)
                .is_some_and(|found| !found.ca && found.path_len_constraint.is_none()),
            "is a CA certificate",
            "RFC 5280 section 4.2.1.9",
        );
        let names = extension::<SubjectAltName>(parsed).map_or_else(Vec::new, |found| found.0);
        self.rule(
            names.len() == profile.names.len()
                && names
                    .iter()
                    .zip(&profile.names)
                    .all(|(found, asked)| is_same_name(found, asked)),
            "has other subject alternative names",
            "RFC 5280 section 4.2.1.6",
        );
    }
}

/// Reads an extension, if it is there and encoded in the one way that DER allows.
fn extension<'a, T>(parsed: &'a Parsed) -> Option<T>
where
    T: Decode<'a, Error = der::Error> + Encode + AssociatedOid,
{
    let extensions = parsed.tbs_certificate().extensions()?;
    let found = extensions
        .iter()
        .find(|extension| extension.extn_id == T::OID)?;
    let value = T::from_der(found.extn_value.as_bytes()).ok()?;
    (value.to_der().ok()? == found.extn_value.as_bytes()).then_some(value)
}

fn is_same_name(found: &GeneralName, asked: &SubjectAlternativeName) -> bool {
    match (found, asked) {
        (GeneralName::DnsName(found), SubjectAlternativeName::Dns(asked))
        | (GeneralName::Rfc822Name(found), SubjectAlternativeName::Email(asked))
        | (GeneralName::UniformResourceIdentifier(found), SubjectAlternativeName::Uri(asked)) => {
            found.as_str() == asked
        }
        (GeneralName::IpAddress(found), SubjectAlternativeName::Ip(asked)) => match asked {
            std::net::IpAddr::V4(asked) => found.as_bytes() == asked.octets(),
            std::net::IpAddr::V6(asked) => found.as_bytes() == asked.octets(),
        },
        _ => false,
    }
}

fn algorithm_identifier(algorithm: SignatureAlgorithm) -> (ObjectIdentifier, Option<Any>) {
    match algorithm {
        SignatureAlgorithm::RsaPkcs1(hash) => {
            let oid = match hash {
                Hash::Sha256 => "1.2.840.113549.1.1.11",
                Hash::Sha384 => "1.2.840.113549.1.1.12",
                Hash::Sha512 => "1.2.840.113549.1.1.13",
            };
            (ObjectIdentifier::new_unwrap(oid), Some(Any::null()))
        }
        // Not offered for certificates, and so never found in one.
        SignatureAlgorithm::RsaPss(_) => {
            (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10"), None)
        }
        SignatureAlgorithm::Ecdsa(hash) => {
            let oid = match hash {
                Hash::Sha256 => "1.2.840.10045.4.3.2",
                Hash::Sha384 => "1.2.840.10045.4.3.3",
                Hash::Sha512 => "1.2.840.10045.4.3.4",
            };
            (ObjectIdentifier::new_unwrap(oid), None)
        }
        SignatureAlgorithm::Ed25519 => (ObjectIdentifier::new_unwrap("1.3.101.112"), None),
    }
}

/// X.520.
fn oid_of(field: DnField) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(match field {
        DnField::Country => "2.5.4.6",
        DnField::State => "2.5.4.8",
        DnField::Locality => "2.5.4.7",
        DnField::Organization => "2.5.4.10",
        DnField::OrganizationalUnit => "2.5.4.11",
        DnField::CommonName => "2.5.4.3",
    })
}
