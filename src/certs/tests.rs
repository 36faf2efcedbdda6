//! Certificates of every kind pass the lint, and each rule of the lint fires.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::domain::{
    Certificate, Curve, KeyAlgorithm, KeySpec, PublicKey, RsaSize, SignatureAlgorithm, Subject,
    SubjectAlternativeName, Validity,
};

fn subject() -> Subject {
    Subject {
        common_name: "Example".into(),
        organization_unit: Some("Zürich".into()),
        organization: "Acme".into(),
        city: None,
        state: None,
        country: "CH".into(),
    }
}

fn public_key(spec: KeySpec) -> PublicKey {
    match spec {
        KeySpec::Rsa(RsaSize::Bits1024) => PublicKey::rsa(spec, &[0xc3; 128], &[1, 0, 1]).unwrap(),
        KeySpec::Rsa(RsaSize::Bits2048) => PublicKey::rsa(spec, &[0xc3; 256], &[1, 0, 1]).unwrap(),
        KeySpec::Rsa(RsaSize::Bits3072) => PublicKey::rsa(spec, &[0xc3; 384], &[1, 0, 1]).unwrap(),
        KeySpec::Rsa(RsaSize::Bits4096) => PublicKey::rsa(spec, &[0xc3; 512], &[1, 0, 1]).unwrap(),
        KeySpec::Ec(curve) => {
            let mut point = vec![7; 1 + 2 * curve.field_len()];
            point[0] = 4;
            PublicKey::new(spec, point)
        }
        KeySpec::Ed25519 => PublicKey::new(spec, [7; 32]),
    }
}

fn profile() -> Profile {
    Profile {
        subject: subject(),
        names: [
            "a.example",
            "192.0.2.1",
            "2001:db8::1",
            "a@b.example",
            "https://a.example/",
        ]
        .iter()
        .map(|name| SubjectAlternativeName::parse(name).unwrap())
        .collect(),
        validity: Validity::days_from(datetime!(2026-11-23 12:00 UTC), 365),
        serial_number: SerialNumber::from_random([0x80; 16]),
        public_key: public_key(KeySpec::Ec(Curve::P256)),
        signature_algorithm: SignatureAlgorithm::parse("SHA256withECDSA").unwrap(),
    }
}

/// Signs with a real key, so that there is a whole certificate to look at.
fn signed() -> (Certificate, Profile) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let profile = Profile {
        public_key: PublicKey::new(KeySpec::Ec(Curve::P256), key.public_key().as_ref()),
        ..profile()
    };
    let linted = profile.clone().build().unwrap();
    let random = aws_lc_rs::rand::SystemRandom::new();
    let to_be_signed = linted.to_be_signed();
    let signature = key.sign(&random, to_be_signed.message().unwrap()).unwrap();
    (
        linted.complete(signature.as_ref().to_vec()).unwrap(),
        profile,
    )
}

#[test]
fn subject_and_names_are_taken_over_into_the_next_certificate() {
    let (certificate, profile) = signed();
    let taken = subject_and_names(&certificate);
    assert_eq!(taken, Some((profile.subject, profile.names)));
}

#[test]
fn every_kind_of_key_and_signature_passes() {
    for algorithm in KeyAlgorithm::ALL {
        for spec in algorithm.specs() {
            for signature_algorithm in algorithm.signature_algorithms() {
                let built = Profile {
                    public_key: public_key(*spec),
                    signature_algorithm: *signature_algorithm,
                    ..profile()
                }
                .build();
                assert!(
                    built.is_ok(),
                    "{spec} {signature_algorithm}: {:?}",
                    built.err()
                );
            }
        }
    }
}

#[test]
fn validity_passes_on_both_sides_of_2050() {
    for last in [
        datetime!(2049-12-31 23:59:59 UTC),
        datetime!(2050-01-01 00:00:00 UTC),
        datetime!(2126-10-30 00:00:00 UTC),
    ] {
        let mut late = profile();
        late.validity.not_after = last;
        assert!(late.build().is_ok(), "{last}");
    }
}

#[test]
fn certificates_are_taken_out_of_pkcs_7_in_der_and_in_ber() {
    let (certificate, _) = signed();
    // Of which no length is told before: ContentInfo, SignedData, what is signed, and the certificates.
    let ber = [
        &b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80"[..],
        b"\x30\x80\x02\x01\x01\x31\x00",
        b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01\x00\x00",
        b"\xa0\x80",
        certificate.der(),
        certificate.der(),
        b"\x00\x00\x31\x00",
        b"\x00\x00\x00\x00\x00\x00",
    ]
    .concat();
    let tlv = |tag: u8, contents: &[u8]| {
        let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, contents].concat()
    };
    let two = [certificate.der(), certificate.der()].concat();
    let signed_data = [
        &b"\x02\x01\x01\x31\x00"[..],
        b"\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01",
        &tlv(0xa0, &two),
        b"\x31\x00",
    ]
    .concat();
    let content_info = [
        &b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"[..],
        &tlv(0xa0, &tlv(0x30, &signed_data)),
    ]
    .concat();
    for pkcs7 in [ber, tlv(0x30, &content_info)] {
        let read = read_certificates(&pkcs7).unwrap();
        assert_eq!(read, [certificate.clone(), certificate.clone()]);
        assert!(read_certificates(&pkcs7[..pkcs7.len() - 1]).is_err());
        assert!(read_certificates(&[&pkcs7[..], b"\0"].concat()).is_err());
    }
}

type Change = fn(&mut Profile);

#[test]
fn each_difference_between_asked_and_built_is_found() {
    let (certificate, asked) = signed();
    let rules = |asked: Profile| -> Vec<_> {
        let findings = lint::findings(&certificate, &asked);
        findings.into_iter().map(|finding| finding.rule).collect()
    };
    assert_eq!(rules(asked.clone()), [""; 0]);

    let changes: [(Change, &[&str]); 9] = [
        (
            |p| p.serial_number = SerialNumber::from_random([1; 16]),
            &["has another serial number, or one that is not positive"],
        ),
        (
            |p| p.signature_algorithm = SignatureAlgorithm::parse("SHA384withECDSA").unwrap(),
            &["names another signature algorithm, or its parameters wrongly"],
        ),
        (
            |p| p.validity.not_after += time::Duration::SECOND,
            &["has another validity"],
        ),
        (
            |p| p.validity.not_before -= time::Duration::SECOND,
            &["has another validity"],
        ),
        (
            |p| p.public_key = public_key(KeySpec::Ec(Curve::P384)),
            &[
                "has another public key",
                "has no subject key identifier of its key",
                "has no authority key identifier of its key",
            ],
        ),
        (
            |p| p.subject.common_name = "Other".into(),
            &["has another name, or one in other string types"],
        ),
        (
            |p| p.subject.city = Some("Bern".into()),
            &["has another name, or one in other string types"],
        ),
        (
            |p| p.names.swap(0, 1),
            &["has other subject alternative names"],
        ),
        (
            |p| p.names.clear(),
            &[
                "has other extensions, or one twice",
                "has other subject alternative names",
            ],
        ),
    ];
    for (change, expected) in changes {
        let mut other = asked.clone();
        change(&mut other);
        assert_eq!(rules(other), expected);
    }
}

#[test]
fn damage_anywhere_in_the_signed_part_is_found() {
    let (certificate, asked) = signed();
    let whole = certificate.der();
    // The outer SEQUENCE's head of four bytes stands before it.
    let signed_len = asked.clone().build().unwrap().to_be_signed().len();
    for index in 0..4 + signed_len {
        for bit in 0..8 {
            let mut damaged = whole.to_vec();
            damaged[index] ^= 1 << bit;
            let findings = lint::findings(&Certificate::from_der(damaged), &asked);
            assert!(!findings.is_empty(), "bit {bit} of byte {index}");
        }
    }
}

#[test]
fn a_signature_of_another_key_or_over_something_else_is_refused() {
    let key = Ed25519KeyPair::generate().unwrap();
    let profile = Profile {
        public_key: PublicKey::new(KeySpec::Ed25519, key.public_key().as_ref()),
        signature_algorithm: SignatureAlgorithm::Ed25519,
        ..profile()
    };
    let complete = |signature: &[u8]| {
        let linted = profile.clone().build().unwrap();
        linted.complete(signature.to_vec())
    };
    let to_be_signed = profile.clone().build().unwrap().to_be_signed();
    let to_be_signed = to_be_signed.message().unwrap();
    assert!(complete(key.sign(to_be_signed).as_ref()).is_ok());
    let other = Ed25519KeyPair::generate().unwrap();
    for wrong in [
        key.sign(b"something else").as_ref(),
        other.sign(to_be_signed).as_ref(),
        &[0; 64],
        &[],
    ] {
        assert!(matches!(complete(wrong), Err(CertError::Signature(_))));
    }
}

proptest! {
    #[test]
    fn any_serial_number_passes(bits: [u8; 16], zeros in 0_usize..16) {
        let mut bits = bits;
        bits[..zeros].fill(0);
        let profile = Profile { serial_number: SerialNumber::from_random(bits), ..profile() };
        prop_assert!(profile.build().is_ok());
    }

    #[test]
    fn any_name_that_validation_lets_through_passes(
        common_name in "\\PC{1,64}",
        organization in "[ -~]{1,64}",
        country in "[A-Za-z]{2}",
    ) {
        use crate::domain::DnField;
        prop_assume!(DnField::CommonName.check(&common_name).is_ok());
        prop_assume!(DnField::Organization.check(&organization).is_ok());
        let subject = Subject { common_name, organization, country, ..subject() };
        let built = Profile { subject, ..profile() }.build();
        prop_assert!(built.is_ok(), "{:?}", built.err());
    }
}
