//! Certificates, as OpenSSL and a strict linter of RFC 5280 see them.

use std::fs;
use std::path::{Path, PathBuf};

use keypaird::proto::{CryptoProvider, KeyPairView, NewKeyPairSettings};
use softhsm_tests::client::settings;
use softhsm_tests::daemon::Home;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{openssl_verifies, pkilint_accepts, run};

const PROVIDERS: [CryptoProvider; 2] = [CryptoProvider::Local, CryptoProvider::Hsm];

/// Every algorithm, size and certificate signature algorithm of the contract.
const COMBINATIONS: [(&str, i32, &str); 19] = [
    ("RSA", 2048, "SHA256withRSA"),
    ("RSA", 2048, "SHA384withRSA"),
    ("RSA", 2048, "SHA512withRSA"),
    ("RSA", 3072, "SHA256withRSA"),
    ("RSA", 3072, "SHA384withRSA"),
    ("RSA", 3072, "SHA512withRSA"),
    ("RSA", 4096, "SHA256withRSA"),
    ("RSA", 4096, "SHA384withRSA"),
    ("RSA", 4096, "SHA512withRSA"),
    ("EC", 256, "SHA256withECDSA"),
    ("EC", 256, "SHA384withECDSA"),
    ("EC", 256, "SHA512withECDSA"),
    ("EC", 384, "SHA256withECDSA"),
    ("EC", 384, "SHA384withECDSA"),
    ("EC", 384, "SHA512withECDSA"),
    ("EC", 521, "SHA256withECDSA"),
    ("EC", 521, "SHA384withECDSA"),
    ("EC", 521, "SHA512withECDSA"),
    ("ED25519", 255, "Ed25519"),
];

fn save(folder: &Path, view: &KeyPairView) -> PathBuf {
    let path = folder.join(format!("{}.pem", view.id));
    fs::write(&path, &view.certificate_pem).unwrap();
    path
}

fn text(certificate: &Path) -> String {
    let path = certificate.to_str().unwrap();
    run("openssl", ["x509", "-noout", "-text", "-in", path])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_combination_in_both_providers_is_accepted_by_openssl_and_the_linter() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let folder = tempfile::tempdir().unwrap();
    let mut certificates = Vec::new();
    for provider in PROVIDERS {
        for (key_algorithm, key_size, signature_algorithm) in COMBINATIONS {
            let view = client
                .generate(NewKeyPairSettings {
                    key_algorithm: key_algorithm.into(),
                    key_size: Some(key_size),
                    signature_algorithm: Some(signature_algorithm.into()),
                    subject_alternative_names: vec!["example.com".into()],
                    ..settings(provider)
                })
                .await
                .unwrap_or_else(|error| {
                    panic!("{provider:?} {key_size} {signature_algorithm}: {error:?}")
                });
            assert_eq!(view.key_algorithm, key_algorithm);
            assert_eq!(view.key_size, key_size);
            assert_eq!(view.signature_algorithm, signature_algorithm);
            let certificate = save(folder.path(), &view);
            openssl_verifies(&certificate);
            let text = text(&certificate);
            let spelled = match signature_algorithm.split_once("with") {
                Some((hash, "RSA")) => format!("{}WithRSAEncryption", hash.to_lowercase()),
                Some((hash, _)) => format!("ecdsa-with-{hash}"),
                None => "ED25519".to_owned(),
            };
            let lines = text
                .matches(&format!("Signature Algorithm: {spelled}\n"))
                .count();
            assert_eq!(lines, 2, "{key_size} {signature_algorithm}: {text}");
            if key_algorithm != "ED25519" {
                assert!(
                    text.contains(&format!("Public-Key: ({key_size} bit)")),
                    "{text}"
                );
            }
            certificates.push(certificate);
        }
    }
    assert_eq!(certificates.len(), 38);
    pkilint_accepts(&certificates);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_a_certificate_is_what_was_asked_for() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let folder = tempfile::tempdir().unwrap();
    let base = || settings(CryptoProvider::Unspecified);

    let whole = client
        .generate(NewKeyPairSettings {
            common_name: "Zürich, \"Signing\" 署名".into(),
            organization: "Acme & Söhne".into(),
            organization_unit: Some("Engineering".into()),
            city: Some("Zürich".into()),
            state: Some("ZH".into()),
            country: "CH".into(),
            subject_alternative_names: [
                "bücher.example",
                "*.example.com",
                "192.0.2.1",
                "2001:db8::1",
                "a.b@example.com",
                "https://example.com/x?y=z",
                "spiffe://example.com/ns/default",
                "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            ]
            .map(String::from)
            .to_vec(),
            ..base()
        })
        .await
        .unwrap();
    assert_eq!(
        whole.subject_dn,
        "CN=\"Zürich, \\\"Signing\\\" 署名\", OU=Engineering, O=Acme & Söhne, L=Zürich, ST=ZH, C=CH"
    );
    assert_eq!(whole.issuer_dn, whole.subject_dn);
    let certificate = save(folder.path(), &whole);
    let shown = text(&certificate);
    for expected in [
        "Version: 3 (0x2)",
        "DNS:xn--bcher-kva.example, DNS:*.example.com, IP Address:192.0.2.1",
        "IP Address:2001:DB8:0:0:0:0:0:1, email:a.b@example.com, URI:https://example.com/x?y=z",
        "X509v3 Key Usage: critical\n                Digital Signature, Non Repudiation",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Subject Key Identifier:",
        "X509v3 Authority Key Identifier:",
    ] {
        assert!(shown.contains(expected), "{expected} is not in {shown}");
    }
    let asn1 = run(
        "openssl",
        ["asn1parse", "-in", certificate.to_str().unwrap()],
    );
    assert!(asn1.contains("PRINTABLESTRING   :CH"), "{asn1}");
    assert!(asn1.contains("PRINTABLESTRING   :Engineering"), "{asn1}");
    assert!(asn1.contains("UTF8STRING        :Z"), "{asn1}");
    let serial = run(
        "openssl",
        [
            "x509",
            "-noout",
            "-serial",
            "-fingerprint",
            "-sha256",
            "-in",
            certificate.to_str().unwrap(),
        ],
    );
    let fingerprint = serial
        .lines()
        .nth(1)
        .unwrap()
        .split('=')
        .nth(1)
        .unwrap()
        .replace(':', "");
    assert_eq!(whole.sha256_fingerprint, fingerprint);
    let hexadecimal = serial
        .lines()
        .next()
        .unwrap()
        .strip_prefix("serial=")
        .unwrap();
    let decimal = u128::from_str_radix(hexadecimal, 16).unwrap().to_string();
    assert_eq!(whole.serial_number, decimal);

    let smallest = client.generate(base()).await.unwrap();
    let longest = client
        .generate(NewKeyPairSettings {
            common_name: "c".repeat(64),
            organization: "o".repeat(64),
            organization_unit: Some("u".repeat(64)),
            city: Some("l".repeat(128)),
            state: Some("s".repeat(128)),
            valid_days: 36_500,
            subject_alternative_names: (0..1000).map(|n| format!("n{n}.example.com")).collect(),
            ..base()
        })
        .await
        .unwrap();
    assert_eq!(longest.subject_alternative_names.len(), 1000);
    let certificates: Vec<_> = [&whole, &smallest, &longest]
        .iter()
        .map(|view| save(folder.path(), view))
        .collect();
    for certificate in &certificates {
        openssl_verifies(certificate);
    }
    pkilint_accepts(&certificates);
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_exact_on_both_sides_of_2050() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let folder = tempfile::tempdir().unwrap();
    let now = client
        .generate(NewKeyPairSettings {
            valid_days: 1,
            ..settings(CryptoProvider::Unspecified)
        })
        .await
        .unwrap();
    // 2050-01-01T00:00:00Z.
    let days_to_2050 = (2_524_608_000 - now.valid_from.unwrap().seconds) / 86_400;
    let days_to_2050 = i32::try_from(days_to_2050).unwrap();
    let mut certificates = vec![save(folder.path(), &now)];
    for (valid_days, form) in [
        (days_to_2050, "UTCTIME"),
        (days_to_2050 + 1, "GENERALIZEDTIME"),
    ] {
        let view = client
            .generate(NewKeyPairSettings {
                valid_days,
                ..settings(CryptoProvider::Unspecified)
            })
            .await
            .unwrap();
        let (from, to) = (view.valid_from.unwrap(), view.expires.unwrap());
        assert_eq!(to.seconds - from.seconds, i64::from(valid_days) * 86_400);
        assert_eq!((from.nanos, to.nanos), (0, 0));
        let certificate = save(folder.path(), &view);
        let asn1 = run(
            "openssl",
            ["asn1parse", "-in", certificate.to_str().unwrap()],
        );
        let times: Vec<_> = asn1.lines().filter(|line| line.contains("TIME")).collect();
        assert!(
            times[0].contains("UTCTIME") && times[1].contains(form),
            "{times:?}"
        );
        certificates.push(certificate);
    }
    pkilint_accepts(&certificates);
}

#[tokio::test(flavor = "multi_thread")]
async fn serial_numbers_are_random_and_all_different() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let mut serials = std::collections::HashSet::new();
    let mut bits = 0;
    for _ in 0..200 {
        let view = client
            .generate(settings(CryptoProvider::Unspecified))
            .await
            .unwrap();
        let serial: u128 = view.serial_number.parse().unwrap();
        bits += serial.count_ones();
        assert!(serial > 0 && serials.insert(serial));
    }
    // 25,600 fair bits: half of them within ten standard deviations.
    assert!((12_000..13_600).contains(&bits), "{bits}");
}
