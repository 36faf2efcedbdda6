//! Certificates that were made to be expensive: each is read or refused in time that grows with its length.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::domain::{Certificate, Curve, END_OF_TIME, KeySpec, PublicKey};

const NOW: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);
/// What a file may have, less what the rest of a certificate takes.
const MONSTROUS: usize = 250_000;
/// Ends a test that would last for minutes. What a certificate costs is printed: a fraction of a second.
const LIMIT: Duration = Duration::from_secs(20);

/// Writes an element.
pub(super) fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = contents.len();
    let bytes = u32::try_from(len).unwrap().to_be_bytes();
    let head = match len {
        0..0x80 => vec![tag, bytes[3]],
        0x80..0x100 => vec![tag, 0x81, bytes[3]],
        0x100..0x1_0000 => vec![tag, 0x82, bytes[2], bytes[3]],
        _ => vec![tag, 0x83, bytes[1], bytes[2], bytes[3]],
    };
    [head, contents.to_vec()].concat()
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// A key with a part of a name, in a set of its own.
fn attribute(name: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(0x06, name), &tlv(tag, value)])
}

const COMMON_NAME: &[u8] = b"\x55\x04\x03";
const UTF8: u8 = 0x0c;
const ECDSA_SHA512: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04";

const VALIDITY: &[u8] = b"\x30\x1e\x17\x0d260101000000Z\x17\x0d491231235959Z";

pub(super) fn common_name(name: &str) -> Vec<u8> {
    sequence(&[&tlv(0x31, &attribute(COMMON_NAME, UTF8, name.as_bytes()))])
}

fn key() -> &'static EcdsaKeyPair {
    static KEY: OnceLock<EcdsaKeyPair> = OnceLock::new();
    KEY.get_or_init(new_key)
}

fn new_key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap()
}

fn public(key: &EcdsaKeyPair) -> PublicKey {
    PublicKey::new(KeySpec::Ec(Curve::P521), key.public_key().as_ref())
}

/// The parts of a certificate, each of which may be anything.
struct Parts {
    serial_number: Vec<u8>,
    issuer: Vec<u8>,
    validity: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    extensions: Vec<u8>,
}

impl Parts {
    fn new() -> Self {
        Self {
            serial_number: vec![1],
            issuer: common_name("x"),
            validity: VALIDITY.to_vec(),
            subject: common_name("x"),
            spki: public(key()).spki_der(),
            extensions: Vec::new(),
        }
    }

    fn signed_by(&self, key: &EcdsaKeyPair) -> Certificate {
        let extensions = match self.extensions.is_empty() {
            true => Vec::new(),
            false => tlv(0xa3, &tlv(0x30, &self.extensions)),
        };
        let tbs = sequence(&[
            b"\xa0\x03\x02\x01\x02",
            &tlv(0x02, &self.serial_number),
            ECDSA_SHA512,
            &self.issuer,
            &self.validity,
            &self.subject,
            &self.spki,
            &extensions,
        ]);
        let signature = key.sign(&SystemRandom::new(), &tbs).unwrap();
        let signature = [&[0][..], signature.as_ref()].concat();
        Certificate::from_der(sequence(&[&tbs, ECDSA_SHA512, &tlv(0x03, &signature)]))
    }
}

pub(super) fn extension(oid: &[u8], value: &[u8]) -> Vec<u8> {
    sequence(&[&tlv(0x06, oid), &tlv(0x04, value)])
}

fn alternative_names(names: &[u8]) -> Vec<u8> {
    extension(b"\x55\x1d\x11", &tlv(0x30, names))
}

/// Repeats an element until it has the wanted length.
fn many(element: &[u8]) -> Vec<u8> {
    element.repeat(MONSTROUS / element.len())
}

/// Does with certificates all that is done with those of a caller, and says what came of it.
fn take(name: &str, certificates: &[Certificate]) -> Result<Certified, String> {
    let file: String = certificates.iter().map(Certificate::pem).collect();
    let begun = Instant::now();
    let certified = certify(&public(key()), certificates.to_vec(), NOW);
    let _ = read_certificates(file.as_bytes());
    for certificate in certificates {
        let _ = (is_self_signed(certificate), subject_and_names(certificate));
    }
    let took = begun.elapsed();
    println!("{name}: {took:?}");
    assert!(took < LIMIT, "{name}: {took:?}");
    certified.map_err(|refusal| refusal.to_string())
}

#[test]
fn a_serial_number_of_more_than_64_bytes_is_refused_by_name() {
    let with = |len: usize| {
        let mut parts = Parts::new();
        parts.serial_number = vec![0x7f; len];
        parts.signed_by(key())
    };
    for (len, accepted) in [
        (1, true),
        (20, true),
        (64, true),
        (65, false),
        (4_000, false),
    ] {
        let taken = take(&format!("a serial number of {len} bytes"), &[with(len)]);
        let read = read(&with(len)).map_err(|refusal| refusal.to_string());
        assert_eq!(read.is_ok(), accepted, "{len}: {read:?}");
        if accepted {
            taken.unwrap();
            continue;
        }
        let refused = taken.unwrap_err();
        assert_eq!(read.unwrap_err(), refused);
        for said in [&len.to_string(), "serial number", "64", "RFC 5280", "20"] {
            assert!(refused.contains(said), "{refused}");
        }
    }
}

/// A name for a certificate, and what makes it hostile.
type Row<'a> = (&'a str, Box<dyn Fn(&mut Parts) + 'a>);

#[test]
fn whatever_a_certificate_has_too_much_of_it_is_read_or_refused_in_no_time() {
    let long_oid = [vec![0x2a], vec![0x81; MONSTROUS], vec![1]].concat();
    // In the opposite of the order that a SET has in DER.
    let attributes: Vec<_> = (0..MONSTROUS / 16)
        .rev()
        .map(|number| attribute(COMMON_NAME, UTF8, format!("{number:05}").as_bytes()))
        .collect();
    let one_set = sequence(&[&tlv(0x31, &attributes.concat())]);
    let many_sets = tlv(0x30, &many(&tlv(0x31, &attribute(COMMON_NAME, UTF8, b"x"))));
    let one_value = |tag, byte| {
        sequence(&[&tlv(
            0x31,
            &attribute(COMMON_NAME, tag, &vec![byte; MONSTROUS]),
        )])
    };
    let nested_name = tlv(0xa4, &many_sets);
    let rsa = |modulus: usize, exponent: &[u8]| {
        let numbers = sequence(&[&tlv(0x02, &vec![0x7f; modulus]), &tlv(0x02, exponent)]);
        let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        sequence(&[algorithm, &tlv(0x03, &[&[0][..], &numbers].concat())])
    };
    let huge = vec![0x7f; MONSTROUS];
    let rows: [Row<'_>; 15] = [
        (
            "a serial number",
            Box::new(|parts| parts.serial_number.clone_from(&huge)),
        ),
        (
            "an object identifier",
            Box::new(|parts| {
                let set = tlv(0x31, &attribute(&long_oid, UTF8, b"x"));
                parts.subject = sequence(&[&set]);
            }),
        ),
        (
            "a set of parts of a name",
            Box::new(|parts| parts.subject.clone_from(&one_set)),
        ),
        (
            "parts of a name",
            Box::new(|parts| parts.issuer.clone_from(&many_sets)),
        ),
        (
            "control characters",
            Box::new(|parts| parts.subject = one_value(UTF8, 0x01)),
        ),
        (
            "quotation marks",
            Box::new(|parts| parts.subject = one_value(UTF8, b'"')),
        ),
        (
            "an unknown string",
            Box::new(|parts| parts.subject = one_value(0x1c, b'x')),
        ),
        (
            "a string of two-byte characters",
            Box::new(|parts| parts.subject = one_value(0x1e, b'x')),
        ),
        (
            "alternative names",
            Box::new(|parts| parts.extensions = alternative_names(&many(&tlv(0x82, b"x")))),
        ),
        (
            "alternative names that are names",
            Box::new(|parts| parts.extensions = alternative_names(&nested_name)),
        ),
        (
            "extensions",
            Box::new(|parts| parts.extensions = many(&extension(b"\x55\x1d\x7f", b""))),
        ),
        (
            "an extension",
            Box::new(|parts| parts.extensions = extension(b"\x55\x1d\x13", &huge)),
        ),
        (
            "a modulus",
            Box::new(|parts| parts.spki = rsa(MONSTROUS, &[1, 0, 1])),
        ),
        (
            "a public exponent",
            Box::new(|parts| parts.spki = rsa(256, &huge)),
        ),
        (
            "both numbers",
            Box::new(|parts| parts.spki = rsa(1024, &vec![0x7f; 1024])),
        ),
    ];
    for (name, change) in rows {
        let mut issuer = Parts::new();
        change(&mut issuer);
        let hostile = issuer.signed_by(key());
        // By itself, and as the issuer of the key's own certificate, with whose name it then comes.
        let _ = (take(name, std::slice::from_ref(&hostile)), read(&hostile));
        let mut leaf = Parts::new();
        leaf.issuer.clone_from(&issuer.subject);
        let _ = take(name, &[leaf.signed_by(key()), hostile]);
    }
}

/// Makes a chain of certificates under one name, of which each was signed by the key of the one before: the last is the
/// leaf.
fn one_name(count: usize, with_key_identifiers: bool) -> Vec<Certificate> {
    let keys: Vec<_> = (1..count).map(|_| new_key()).collect();
    let keys: Vec<&EcdsaKeyPair> = keys.iter().chain([key()]).collect();
    let certificates = keys.iter().enumerate().map(|(index, own)| {
        let issuer = index.saturating_sub(1);
        let mut extensions = vec![extension(b"\x55\x1d\x13", b"\x30\x03\x01\x01\xff")];
        if with_key_identifiers {
            let id = |index: usize| [u8::try_from(index).unwrap(); 20];
            extensions.push(extension(b"\x55\x1d\x0e", &tlv(0x04, &id(index))));
            let authority = sequence(&[&tlv(0x80, &id(issuer))]);
            extensions.push(extension(b"\x55\x1d\x23", &authority));
        }
        let parts = Parts {
            spki: public(own).spki_der(),
            extensions: extensions.concat(),
            ..Parts::new()
        };
        parts.signed_by(keys[issuer])
    });
    certificates.collect()
}

#[test]
fn a_chain_under_one_name_is_ordered_by_key_identifiers_with_a_check_for_each_link() {
    for backwards in [false, true] {
        let mut certificates = one_name(32, true);
        let expected: Vec<_> = certificates.iter().rev().skip(1).cloned().collect();
        if backwards {
            certificates.reverse();
        }
        let certified = take("a chain under one name", &certificates).unwrap();
        assert_eq!(certified.chain, expected);
    }
}

#[test]
fn a_chain_that_takes_too_many_signature_checks_is_refused() {
    // Each looks for its issuer among all that are left.
    let certificates = one_name(32, false);
    let refused = take("a chain under one name without hints", &certificates).unwrap_err();
    assert!(refused.contains("signature"), "{refused}");
    // Short ones need no hints.
    let certified = take("a short chain", &one_name(8, false)).unwrap();
    assert_eq!(certified.chain.len(), 7);
}

#[test]
fn whatever_dates_a_certificate_has_they_are_read_or_refused() {
    let utc_time = |text: &&str| tlv(0x17, text.as_bytes());
    let generalized_time = |text: &&str| tlv(0x18, text.as_bytes());
    let dates: Vec<_> = ["000101000000Z", "491231235959Z", "500101000000Z"]
        .iter()
        .map(utc_time)
        .chain(
            [
                "00000101000000Z",
                "19500101000000Z",
                "19700101000000Z",
                "99991231235958Z",
                "99991231235959Z",
                "99991231235960Z",
                "99991231240000Z",
            ]
            .iter()
            .map(generalized_time),
        )
        .collect();
    let mut latest = None;
    for not_before in &dates {
        for not_after in &dates {
            let parts = Parts {
                validity: sequence(&[not_before, not_after]),
                ..Parts::new()
            };
            let certificate = parts.signed_by(key());
            let _ = take("dates", std::slice::from_ref(&certificate));
            if let Ok(issued) = read(&certificate) {
                let validity = issued.validity;
                let _ = (validity.at(NOW), validity.end());
                latest = latest.max(Some(validity.not_after));
            }
        }
    }
    assert_eq!(latest, Some(END_OF_TIME));
}
