//! What stands in certificates that others made.

use const_oid::AssociatedOid;
use der::asn1::ObjectIdentifier;
use der::{Decode, Encode};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::certificate::{CertificateInner, Raw, Version};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::alternative_names::{AlternativeName, alternative_names};
use super::names::{self, CanonicalName};
use super::signature::{self, RSASSA_PSS, SignatureCheck};
use super::{dates, unread};
use crate::domain::{
    Certificate, IssuedCertificate, PssOnly, PublicKey, Refusal, Subject, SubjectAlternativeName,
    SubjectSettings, Violations, dn_part, printable,
};

/// A certificate as a lenient parser reads it: that others break a rule of RFC 5280 in it is their affair.
pub(super) type Parsed = CertificateInner<Raw>;

/// Reads what stands in a certificate.
///
/// # Errors
/// A sentence about the certificate, when it is damaged or its key is of a kind that keypaird does not keep.
pub fn read(certificate: &Certificate) -> Result<IssuedCertificate, Refusal> {
    read_parsed(certificate, &parse(certificate)?)
}

/// Reads what stands in a certificate that was parsed.
pub(super) fn read_parsed(
    certificate: &Certificate,
    parsed: &Parsed,
) -> Result<IssuedCertificate, Refusal> {
    let tbs = parsed.tbs_certificate();
    let spki = tbs.subject_public_key_info().to_der();
    let of_key = |refusal| Refusal::new(format!("has a certificate whose key {refusal}"));
    let public_key = PublicKey::from_spki_der(&spki.map_err(|_| damaged())?).map_err(of_key)?;
    let pss_only = signature::pss_only(parsed).map_err(of_key)?;
    if pss_only.is_some() && public_key.spec().is_weak() {
        let bits = public_key.spec().bits();
        let sentence = format!("is restricted to RSASSA-PSS, for which {bits} bits are too few");
        return Err(of_key(Refusal::new(sentence)));
    }
    Ok(IssuedCertificate {
        certificate: certificate.clone(),
        public_key,
        pss_only,
        signature_algorithm: signature_name(parsed.signature_algorithm()),
        serial_number: decimal(tbs.serial_number().as_bytes()),
        subject_dn: dn(tbs.subject()),
        issuer_dn: dn(tbs.issuer()),
        subject_alternative_names: alternative_names(parsed)
            .iter()
            .map(|name| printable(&name.shown()))
            .collect(),
        validity: dates::validity(certificate.der()).ok_or_else(damaged)?,
    })
}

/// Tells whether a certificate restricts its key to RSASSA-PSS, and to what of it. None when it is
/// damaged, too.
pub fn pss_only(certificate: &Certificate) -> Option<PssOnly> {
    let parsed = parse(certificate).ok()?;
    signature::pss_only(&parsed).ok()?
}

/// Tells whether a certificate was issued under its own name and signed by its own key.
pub fn is_self_signed(certificate: &Certificate) -> bool {
    let Ok(parsed) = parse(certificate) else {
        return false;
    };
    let tbs = parsed.tbs_certificate();
    let names = (
        CanonicalName::of(tbs.issuer()),
        CanonicalName::of(tbs.subject()),
    );
    names.0 == names.1
        && (signature::check(certificate, &parsed, &parsed) == SignatureCheck::Good
            || signature::is_own_with_sha_1(certificate, &parsed))
}

/// Returns the subject and the alternative names of a certificate, as another certificate could have them. None when
/// there are some that we do not write.
pub fn subject_and_names(
    certificate: &Certificate,
) -> Option<(Subject, Vec<SubjectAlternativeName>)> {
    let parsed = parse(certificate).ok()?;
    let subject_dn = parsed.tbs_certificate().subject();
    let mut settings = SubjectSettings::default();
    for attribute in subject_dn.iter() {
        let value = std::str::from_utf8(attribute.value.value())
            .ok()?
            .to_owned();
        let (_, name) = SHORT_NAMES.iter().find(|(oid, _)| *oid == attribute.oid)?;
        match *name {
            "CN" => settings.common_name = value,
            "OU" => settings.organization_unit = Some(value),
            "O" => settings.organization = value,
            "L" => settings.city = Some(value),
            "ST" => settings.state = Some(value),
            "C" => settings.country = value,
            _ => return None,
        }
    }
    let subject = settings.check("", &mut Violations::new())?;
    let names = alternative_names(&parsed);
    let names = names.iter().map(AlternativeName::writable);
    let names = names.collect::<Option<Vec<_>>>()?;
    (subject.to_string() == dn(subject_dn)).then_some((subject, names))
}

/// Parses a certificate: the one way to do it, so that all bounds hold.
///
/// # Errors
/// When it is damaged, or its serial number is longer than [`SERIAL_NUMBER_BYTES_MAX`].
pub(super) fn parse(certificate: &Certificate) -> Result<Parsed, Refusal> {
    parse_der(certificate.der())
}

/// Does the same with the bytes of a certificate.
pub(super) fn parse_der(der: &[u8]) -> Result<Parsed, Refusal> {
    let parsed = Parsed::from_der(&dates::from_1970_on(der)).map_err(|_| unread::refusal(der))?;
    let serial_number = parsed.tbs_certificate().serial_number().as_bytes().len();
    match serial_number {
        ..=SERIAL_NUMBER_BYTES_MAX => Ok(parsed),
        _ => Err(Refusal::new(format!(
            "has a certificate with a serial number of {serial_number} bytes; at most {SERIAL_NUMBER_BYTES_MAX} are read, and RFC 5280 allows 20"
        ))),
    }
}

/// Tells whether a certificate may issue others, and how many may stand between it and the last. A
/// certificate of version 1 cannot say so: as a root, it is what its owner says it is.
pub(super) fn may_issue(parsed: &Parsed, below: usize, is_root: bool) -> bool {
    if parsed.tbs_certificate().version() == Version::V1 {
        return is_root;
    }
    let constraints = extension::<BasicConstraints>(parsed);
    let is_ca = constraints.is_some_and(|found| {
        let room = found.path_len_constraint.map_or(usize::MAX, usize::from);
        found.ca && below <= room
    });
    is_ca && extension::<KeyUsage>(parsed).is_none_or(|usage| usage.key_cert_sign())
}

/// Tells whether a certificate says that its key does not sign (RFC 5280 section 4.2.1.3): it has a
/// key usage without digitalSignature.
pub fn is_not_for_signatures(certificate: &Certificate) -> bool {
    let usage = parse(certificate).ok();
    let usage = usage.and_then(|parsed| extension::<KeyUsage>(&parsed));
    usage.is_some_and(|usage| !usage.digital_signature())
}

/// Returns the identifier of a certificate's key, and that of the key it was signed by (RFC 5280
/// sections 4.2.1.1 and 4.2.1.2), as far as it names them.
pub(super) fn key_identifiers(parsed: &Parsed) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let own = extension::<SubjectKeyIdentifier>(parsed).map(|found| found.0);
    let authority = extension::<AuthorityKeyIdentifier>(parsed);
    let authority = authority.and_then(|found| found.key_identifier);
    let bytes = |id: der::asn1::OctetString| id.as_bytes().to_vec();
    (own.map(bytes), authority.map(bytes))
}

fn damaged() -> Refusal {
    Refusal::new("has a damaged certificate")
}

fn extension<T: for<'a> Decode<'a> + AssociatedOid>(parsed: &Parsed) -> Option<T> {
    let extensions = parsed.tbs_certificate().extensions()?;
    let found = extensions.iter().find(|found| found.extn_id == T::OID)?;
    T::from_der(found.extn_value.as_bytes()).ok()
}

/// Shows a name, the most specific part first.
pub(super) fn dn(name: &Name) -> String {
    let mut parts: Vec<_> = name
        .iter_rdn()
        .map(|rdn| rdn.iter().map(part).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(", ")
}

fn part(attribute: &AttributeTypeAndValue) -> String {
    let name = SHORT_NAMES.iter().find(|(oid, _)| *oid == attribute.oid);
    let name = name.map_or_else(|| attribute.oid.to_string(), |(_, name)| (*name).to_owned());
    let text = names::text(attribute);
    match text {
        Some(text) => dn_part(&name, &printable(&text)),
        None => format!(
            "{name}=#{}",
            hex(&attribute.value.to_der().unwrap_or_default())
        ),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

/// Shows a number in two's complement, big-endian, in decimal digits. Takes time that grows with the
/// square of its length, which is bounded by [`SERIAL_NUMBER_BYTES_MAX`].
fn decimal(bytes: &[u8]) -> String {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if negative {
        // ! and plus one.
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            let (sum, over) = (!*byte).overflowing_add(u8::from(carry));
            (*byte, carry) = (sum, over);
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u16;
        for byte in &mut magnitude {
            let value = rest << 8 | u16::from(*byte);
            *byte = u8::try_from(value / 10).unwrap_or_default();
            rest = value % 10;
        }
        digits.push(char::from_digit(rest.into(), 10).unwrap_or('0'));
    }
    if digits.is_empty() {
        digits.push('0');
    }
    if negative {
        digits.push('-');
    }
    digits.iter().rev().collect()
}

/// Returns the name on the wire of what a certificate is signed with.
pub(super) fn signature_name(algorithm: &AlgorithmIdentifierOwned) -> String {
    if algorithm.oid == RSASSA_PSS {
        return match signature::pss_parameters(algorithm) {
            Some(parameters) => parameters.hash.name().to_owned() + "withRSAandMGF1",
            None => algorithm.oid.to_string(),
        };
    }
    let named = SIGNATURES.iter().find(|(oid, _)| *oid == algorithm.oid);
    named.map_or_else(|| algorithm.oid.to_string(), |(_, name)| (*name).to_owned())
}

/// How long a serial number may be, in bytes. RFC 5280 section 4.1.2.2 allows 20; some CAs have used
/// more.
const SERIAL_NUMBER_BYTES_MAX: usize = 64;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// RFC 4519 section 2, and what is found in practice beside it.
const SHORT_NAMES: [(ObjectIdentifier, &str); 14] = [
    (oid("2.5.4.3"), "CN"),
    (oid("2.5.4.4"), "SN"),
    (oid("2.5.4.5"), "serialNumber"),
    (oid("2.5.4.6"), "C"),
    (oid("2.5.4.7"), "L"),
    (oid("2.5.4.8"), "ST"),
    (oid("2.5.4.9"), "street"),
    (oid("2.5.4.10"), "O"),
    (oid("2.5.4.11"), "OU"),
    (oid("2.5.4.12"), "title"),
    (oid("2.5.4.42"), "GN"),
    (oid("0.9.2342.19200300.100.1.1"), "UID"),
    (oid("0.9.2342.19200300.100.1.25"), "DC"),
    (oid("1.2.840.113549.1.9.1"), "emailAddress"),
];
/// RFC 4055, RFC 5758, RFC 8410, and the older ones.
const SIGNATURES: [(ObjectIdentifier, &str); 9] = [
    (oid("1.2.840.113549.1.1.5"), "SHA1withRSA"),
    (oid("1.2.840.113549.1.1.11"), "SHA256withRSA"),
    (oid("1.2.840.113549.1.1.12"), "SHA384withRSA"),
    (oid("1.2.840.113549.1.1.13"), "SHA512withRSA"),
    (oid("1.2.840.10045.4.1"), "SHA1withECDSA"),
    (oid("1.2.840.10045.4.3.2"), "SHA256withECDSA"),
    (oid("1.2.840.10045.4.3.3"), "SHA384withECDSA"),
    (oid("1.2.840.10045.4.3.4"), "SHA512withECDSA"),
    (oid("1.3.101.112"), "Ed25519"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_of_any_length_and_sign_are_shown_in_decimal() {
        for (bytes, expected) in [
            (&[][..], "0"),
            (&[0], "0"),
            (&[0x7f], "127"),
            (&[0, 0x80], "128"),
            (&[0x80], "-128"),
            (&[0xff], "-1"),
            (&[1, 0], "256"),
        ] {
            assert_eq!(decimal(bytes), expected);
        }
        let mut long = vec![0];
        long.extend([0xff; 16]);
        assert_eq!(decimal(&long), u128::MAX.to_string());
        assert_eq!(
            decimal(&[0x7f; 20]),
            "727885129180488904360266563744972327436484050815"
        );
    }
}
