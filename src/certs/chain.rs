//! The answer of a CA: a certificate with those of its issuers, in whatever form and order.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::{Decode, Encode, Reader, SliceReader};
use rustls_pki_types::alg_id;
use time::OffsetDateTime;

use super::read::{self, Parsed, dn, may_issue, parse};
use crate::domain::ber::{CONTEXT_0, Elements, OBJECT_IDENTIFIER, SEQUENCE};
use crate::domain::{
    Certificate, CertificateValidity, IssuedCertificate, PublicKey, Refusal, Validity,
};

/// The certificate of a key, and those it stands on.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub leaf: IssuedCertificate,
    /// Its issuers, from its own on.
    pub chain: Vec<Certificate>,
}

/// Reads the certificates of a file: PEM or DER, one or many, or PKCS#7 (RFC 5652), in DER or BER, of which only they are
/// taken. Of PEM, armour and line ends may be lost.
pub fn read_certificates(file: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    if file.len() > FILE_LEN_MAX {
        return Err(too_long(file.len()));
    }
    let certificates = match file.first() {
        Some(0x30) => from_der(file)?,
        _ => from_text(file)?,
    };
    match certificates.len() {
        0 => Err(Refusal::new("has no certificate")),
        1..=CERTIFICATES_MAX => Ok(certificates),
        count => Err(too_many(count)),
    }
}

/// Finds the certificate of a public key among others, and orders those it stands on. Every link is checked:
/// names, signature, that the issuer is a CA, and validity at a time.
///
/// The root may be left out. Takes up to a tenth of a second, and so does not belong on a thread that has
/// others waiting.
pub fn certify(
    public_key: &PublicKey,
    certificates: Vec<Certificate>,
    now: OffsetDateTime,
) -> Result<Certified, Refusal> {
    find_and_order(public_key, certificates, now).map(|(certified, _)| certified)
}

/// Does the same, and refuses a certificate that its own key has signed.
pub fn certify_by_ca(
    public_key: &PublicKey,
    certificates: Vec<Certificate>,
    now: OffsetDateTime,
) -> Result<Certified, Refusal> {
    let (certified, is_self_signed) = find_and_order(public_key, certificates, now)?;
    if is_self_signed || issued_itself_with_sha_1(&certified.leaf.certificate) {
        return Err(Refusal::new(
            "has a self-signed certificate; give the one that the CA issued",
        ));
    }
    Ok(certified)
}

/// Does what [`certify`] does, and tells whether the certificate is self-signed.
fn find_and_order(
    public_key: &PublicKey,
    mut certificates: Vec<Certificate>,
    now: OffsetDateTime,
) -> Result<(Certified, bool), Refusal> {
    refuse_too_much(&certificates)?;
    let mut seen = Vec::new();
    certificates.retain(|certificate| {
        let new = !seen.contains(certificate);
        seen.push(certificate.clone());
        new
    });
    let spki = public_key.spki_der();
    let mut own = Vec::new();
    let mut others = Vec::new();
    for certificate in certificates {
        let read = Candidate::read(certificate)?;
        let key = read
            .parsed
            .tbs_certificate()
            .subject_public_key_info()
            .to_der();
        match key.is_ok_and(|key| key == spki) {
            true => own.push(read),
            false => others.push(read),
        }
    }
    let leaf = match <[Candidate; 1]>::try_from(own) {
        Ok([leaf]) => leaf,
        Err(none) if none.is_empty() => {
            return Err(Refusal::new(
                "has no certificate of this key pair's public key",
            ));
        }
        Err(_) => {
            return Err(Refusal::new(
                "has several certificates of this key pair's public key; give one",
            ));
        }
    };
    let issued = read::read_parsed(&leaf.certificate, &leaf.parsed)?;
    if issued.validity.at(now) == CertificateValidity::Expired {
        return Err(Refusal::new("has a certificate that is expired"));
    }
    let (chain, is_self_signed) = order(leaf, others, now)?;
    let certified = Certified {
        leaf: issued,
        chain,
    };
    Ok((certified, is_self_signed))
}

/// Refuses more than [`read_certificates`] reads: certificates come out of key files and tokens too.
fn refuse_too_much(certificates: &[Certificate]) -> Result<(), Refusal> {
    let count = certificates.len();
    if count > CERTIFICATES_MAX {
        return Err(too_many(count));
    }
    let bytes: usize = certificates.iter().map(|one| one.der().len()).sum();
    match bytes {
        ..=FILE_LEN_MAX => Ok(()),
        _ => Err(too_long(bytes)),
    }
}

fn too_many(count: usize) -> Refusal {
    Refusal::new(format!(
        "has {count} certificates, and may have {CERTIFICATES_MAX}"
    ))
}

fn too_long(bytes: usize) -> Refusal {
    Refusal::new(format!("has {bytes} bytes, and may have {FILE_LEN_MAX}"))
}

/// A certificate that may belong to a chain, parsed once.
#[derive(Debug)]
struct Candidate {
    certificate: Certificate,
    parsed: Parsed,
    key_id: Option<Vec<u8>>,
    issuer_key_id: Option<Vec<u8>>,
}

impl Candidate {
    fn read(certificate: Certificate) -> Result<Self, Refusal> {
        let parsed = parse(&certificate)?;
        let (key_id, issuer_key_id) = read::key_identifiers(&parsed);
        Ok(Self {
            certificate,
            parsed,
            key_id,
            issuer_key_id,
        })
    }

    /// Tells whether it was issued by another: under its name, and signed by its key.
    fn is_issued_by(&self, other: &Self, checks: &mut SignatureChecks) -> Result<bool, Refusal> {
        let named = self.parsed.tbs_certificate().issuer();
        if named != other.parsed.tbs_certificate().subject() {
            return Ok(false);
        }
        checks.take()?;
        Ok(is_signed_by(&self.certificate, &self.parsed, &other.parsed).unwrap_or(false))
    }

    /// Tells whether it names another's key as the one that signed it.
    fn names_key_of(&self, other: &Self) -> bool {
        self.issuer_key_id.is_some() && self.issuer_key_id == other.key_id
    }
}

/// How many signatures may still be verified to order a chain. One of P-521, the slowest, takes about a
/// millisecond.
#[derive(Debug)]
struct SignatureChecks(u32);

impl SignatureChecks {
    /// Takes what a chain of the greatest length needs, whose certificates name the keys that signed
    /// them, and one of ten that share a name and do not.
    const fn of_a_chain() -> Self {
        Self(SIGNATURE_CHECKS_MAX)
    }

    fn take(&mut self) -> Result<(), Refusal> {
        self.0 = self.0.checked_sub(1).ok_or_else(|| {
            Refusal::new(format!(
                "has so many certificates of one name that more than {SIGNATURE_CHECKS_MAX} signatures would have to be checked to order them; give only those of the chain"
            ))
        })?;
        Ok(())
    }
}

/// Orders the issuers of a certificate, each under the one it issued, and tells whether the first one
/// is self-signed.
fn order(
    leaf: Candidate,
    mut others: Vec<Candidate>,
    now: OffsetDateTime,
) -> Result<(Vec<Certificate>, bool), Refusal> {
    let mut checks = SignatureChecks::of_a_chain();
    let mut chain: Vec<Certificate> = Vec::new();
    let mut last = leaf;
    let is_self_signed = last.is_issued_by(&last, &mut checks)?;
    let mut is_root = is_self_signed;
    while !is_root && let Some(index) = issuer_of(&last, &others, &mut checks)? {
        let issuer = others.swap_remove(index);
        let subject = dn(issuer.parsed.tbs_certificate().subject());
        if !may_issue(&issuer.parsed, chain.len()) {
            return Err(Refusal::of(
                &subject,
                "may not issue certificates (basicConstraints, keyUsage), and has issued one of the chain",
            ));
        }
        if validity(&issuer.parsed)
            .is_none_or(|validity| validity.at(now) != CertificateValidity::Valid)
        {
            return Err(Refusal::of(&subject, "is expired, or not valid yet"));
        }
        chain.push(issuer.certificate.clone());
        is_root = issuer.is_issued_by(&issuer, &mut checks)?;
        last = issuer;
    }
    match others.first() {
        None => Ok((chain, is_self_signed)),
        Some(foreign) => Err(Refusal::of(
            &dn(foreign.parsed.tbs_certificate().subject()),
            "is the certificate of somebody who does not belong to the chain; leave it out, or add what is missing between",
        )),
    }
}

/// Finds the issuer of a certificate: first among those whose key it names.
fn issuer_of(
    certificate: &Candidate,
    others: &[Candidate],
    checks: &mut SignatureChecks,
) -> Result<Option<usize>, Refusal> {
    for named in [true, false] {
        for (index, other) in others.iter().enumerate() {
            if certificate.names_key_of(other) == named
                && certificate.is_issued_by(other, checks)?
            {
                return Ok(Some(index));
            }
        }
    }
    Ok(None)
}

/// Tells whether a certificate was issued under its own name and signed by its own key.
pub(super) fn issued_itself(certificate: &Certificate) -> bool {
    let Ok(parsed) = parse(certificate) else {
        return false;
    };
    let tbs = parsed.tbs_certificate();
    tbs.issuer() == tbs.subject() && is_signed_by(certificate, &parsed, &parsed).unwrap_or(false)
}

/// Tells whether an RSA key has certified itself with SHA-1, as old systems did. A link of a chain is nothing like that.
pub(super) fn issued_itself_with_sha_1(certificate: &Certificate) -> bool {
    let check = || {
        let parsed = parse(certificate).ok()?;
        let tbs = parsed.tbs_certificate();
        let named = read::signature_name(parsed.signature_algorithm()) == "SHA1withRSA";
        if !named || tbs.issuer() != tbs.subject() {
            return None;
        }
        let key = tbs.subject_public_key_info().to_der().ok()?;
        let key = PublicKey::from_spki_der(&key).ok()?;
        let signature = parsed.signature().as_bytes()?;
        key.verify_sha_1(&to_be_signed(certificate)?, signature)
    };
    check().is_some()
}

/// Returns the part of a certificate that is signed, as it was signed: an encoder of ours might write it otherwise.
fn to_be_signed(certificate: &Certificate) -> Option<Vec<u8>> {
    let sequence = der::AnyRef::from_der(certificate.der()).ok()?;
    let mut parts = SliceReader::new(sequence.value()).ok()?;
    Some(parts.tlv_bytes().ok()?.to_vec())
}

/// Verifies a signature once: by our own code for the kinds of keys that we keep, and by webpki for all
/// others. webpki takes RSA keys of up to 8,192 bits with public exponents of up to 33.
fn is_signed_by(certificate: &Certificate, parsed: &Parsed, by: &Parsed) -> Option<bool> {
    let to_be_signed = to_be_signed(certificate)?;
    let signature = parsed.signature().as_bytes()?;
    let spki = by.tbs_certificate().subject_public_key_info();
    let name = read::signature_name(parsed.signature_algorithm());
    if let Ok(key) = PublicKey::from_spki_der(&spki.to_der().ok()?)
        && let Ok(algorithm) = key.spec().signing_algorithm(&name)
    {
        let message = crate::domain::SigningInput::Message(to_be_signed.into());
        return Some(key.verify(algorithm, &message, signature).is_ok());
    }
    let key_algorithm = contents(&spki.algorithm.to_der().ok()?)?;
    let key = spki.subject_public_key.as_bytes()?;
    let algorithm = contents(&parsed.signature_algorithm().to_der().ok()?)?;
    let fitting = webpki::ALL_VERIFICATION_ALGS.iter().find(|known| {
        known.signature_alg_id().as_ref() == algorithm
            && (known.public_key_alg_id().as_ref() == key_algorithm
                || is_rsa(known.public_key_alg_id().as_ref(), &key_algorithm))
    })?;
    let verified = fitting.verify_signature(key, &to_be_signed, signature);
    Some(verified.is_ok())
}

/// webpki's RSA algorithms name the key with its NULL parameter, which some leave out.
fn is_rsa(known: &[u8], key: &[u8]) -> bool {
    let rsa = alg_id::RSA_ENCRYPTION;
    known == rsa.as_ref() && rsa.as_ref().starts_with(key)
}

/// Returns what is in a SEQUENCE.
fn contents(der: &[u8]) -> Option<Vec<u8>> {
    Some(der::AnyRef::from_der(der).ok()?.value().to_vec())
}

fn validity(parsed: &Parsed) -> Option<Validity> {
    let validity = parsed.tbs_certificate().validity();
    let time = |time: x509_cert::time::Time| {
        let seconds = i64::try_from(time.to_unix_duration().as_secs()).ok()?;
        OffsetDateTime::from_unix_timestamp(seconds).ok()
    };
    Some(Validity {
        not_before: time(validity.not_before)?,
        not_after: time(validity.not_after)?,
    })
}

/// Reads DER: a certificate, or PKCS#7, which may be BER as well.
fn from_der(der: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    if Parsed::from_der(der).is_ok() {
        return Ok(vec![Certificate::from_der(der)]);
    }
    from_pkcs7(der)
        .ok_or_else(|| Refusal::new("is neither a certificate nor PKCS#7, or is damaged"))
}

/// Takes the certificates out of a `SignedData` (RFC 5652 section 5.1): in a `ContentInfo` that names it, they
/// are the part tagged 0 behind version, digest algorithms and content. A walk over the tags does: the cms
/// crate for this version of der is not released yet, and reads no BER.
fn from_pkcs7(file: &[u8]) -> Option<Vec<Certificate>> {
    let mut elements = Elements::of(file);
    let content_info = elements.take(SEQUENCE).filter(|_| elements.is_empty())?;
    let mut parts = content_info.parts();
    if parts.take(OBJECT_IDENTIFIER)?.contents != SIGNED_DATA {
        return None;
    }
    let signed_data = parts.take(CONTEXT_0)?.parts().take(SEQUENCE)?;
    let mut parts = signed_data.parts();
    while !parts.is_empty() {
        let part = parts.next()?;
        if part.tag != CONTEXT_0 {
            continue;
        }
        let mut found = Vec::new();
        let mut certificates = part.parts();
        while !certificates.is_empty() {
            found.push(Certificate::from_der(certificates.next()?.whole));
        }
        return Some(found);
    }
    None
}

/// Reads PEM, or base64 that has lost its armour.
fn from_text(file: &[u8]) -> Result<Vec<Certificate>, Refusal> {
    let neither = || Refusal::new("is neither PEM, DER nor base64, or is damaged");
    let text = std::str::from_utf8(file).map_err(|_| neither())?;
    // Line ends are lost on the way through JSON by hand.
    let text = text.replace("\\r", "").replace("\\n", "\n");
    if !text.contains(BEGIN) {
        let inner = decode(&text).ok_or_else(neither)?;
        return match inner.first() {
            Some(0x30) => from_der(&inner),
            // Base64 of PEM.
            _ if inner
                .windows(BEGIN.len())
                .any(|part| part == BEGIN.as_bytes()) =>
            {
                from_text(&inner)
            }
            _ => Err(neither()),
        };
    }
    let mut certificates = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (label, rest) = block.split_once("-----").ok_or_else(neither)?;
        let (body, _) = rest.split_once("-----END ").ok_or_else(neither)?;
        match label {
            "CERTIFICATE" | "X509 CERTIFICATE" | "PKCS7" | "CMS" => {
                certificates.extend(from_der(&decode(body).ok_or_else(neither)?)?);
            }
            label if label.contains("PRIVATE KEY") => {
                return Err(Refusal::new(
                    "has a private key, which stays where it is; give certificates only",
                ));
            }
            other => {
                return Err(Refusal::of(
                    other,
                    "is a kind of block that is not expected here",
                ));
            }
        }
    }
    Ok(certificates)
}

/// Decodes base64, with blanks and line ends anywhere.
fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(compact).ok()
}

const BEGIN: &str = "-----BEGIN ";
const FILE_LEN_MAX: usize = 256 * 1024;
const CERTIFICATES_MAX: usize = 32;
const SIGNATURE_CHECKS_MAX: u32 = 96;
/// The object identifier id-signedData, in DER.
const SIGNED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
