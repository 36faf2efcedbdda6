//! Key pairs that a CA certifies: the request, the CA's answer, and what becomes of the certificate on the token.

#[path = "certified/paths.rs"]
mod paths;

use std::fs;
use std::path::Path;

use keypaird::domain::SignatureAlgorithm;
use keypaird::proto::{
    CryptoProvider, DistinguishedName, GenerateCsrRequest, ImportCsrResponseRequest, KeyPairView,
    NewKeyPairSettings, SignRequest, sign_request,
};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{OpensslVerifier, pkcs11_tool, shell};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const PROVIDERS: [CryptoProvider; 2] = [CryptoProvider::Local, CryptoProvider::Hsm];

/// A CA with an intermediate one, in `root.crt` and `inter.crt`, and `issue NAME [DAYS]`, which takes `NAME.csr`.
const CA: &str = r#"
    ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout $1.key -out $1.crt \
        -subj "/O=CA/CN=$1" -days 99 -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign \
        ${2:+-CA $2.crt -CAkey $2.key} 2>/dev/null; }
    issue() { openssl x509 -req -in $1.csr -CA ${3:-inter}.crt -CAkey ${3:-inter}.key -days ${2:-30} -copy_extensions copyall \
        -out $1.crt 2>/dev/null; }
"#;

async fn csr(client: &Client, id: &str) -> String {
    let request = GenerateCsrRequest {
        id: id.into(),
        ..GenerateCsrRequest::default()
    };
    let answer = client.key_pairs().generate_csr(request).await.unwrap();
    answer.into_inner().csr_pem
}

async fn answer(client: &Client, id: &str, file_data: &[u8]) -> Result<KeyPairView, Status> {
    let request = ImportCsrResponseRequest {
        id: id.into(),
        file_data: file_data.to_vec(),
        etag: String::new(),
    };
    let answer = client.key_pairs().import_csr_response(request).await?;
    Ok(answer.into_inner().key_pair.unwrap())
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_with_an_intermediate_one_certifies_key_pairs_of_both_providers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(folder, &format!("{CA}\nca root; ca inter root"));
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    for provider in PROVIDERS {
        for (key_algorithm, key_size) in [
            ("RSA", 2048),
            ("EC", 256),
            ("EC", 384),
            ("EC", 521),
            ("ED25519", 255),
        ] {
            let made = client.generate(NewKeyPairSettings {
                key_algorithm: key_algorithm.into(),
                key_size: Some(key_size),
                subject_alternative_names: vec!["a.example".into(), "192.0.2.1".into()],
                ..settings(provider)
            });
            let made = made.await.unwrap();
            fs::write(folder.join("x.csr"), csr(&client, &made.id).await).unwrap();
            let said = shell(
                folder,
                &format!(
                    "{CA}\nopenssl req -in x.csr -noout -verify -text -nameopt RFC2253 2>&1; issue x
                     cat x.crt inter.crt root.crt > ordered.pem; cat root.crt x.crt inter.crt > any-order.pem
                     openssl crl2pkcs7 -nocrl -certfile any-order.pem -out x.p7.pem
                     openssl crl2pkcs7 -nocrl -certfile any-order.pem -outform DER -out x.p7b
                     openssl x509 -in x.crt -outform DER -out x.der
                     base64 -w0 any-order.pem > base64-of.pem; base64 -w0 x.der > bare.b64
                     awk -v ORS='\\\\n' 1 any-order.pem > escaped.pem"
                ),
            );
            assert!(said.contains("verify OK"), "{said}");
            for expected in [
                "DNS:a.example, IP Address:192.0.2.1",
                "Digital Signature, Non Repudiation",
            ] {
                assert!(said.contains(expected), "{said}");
            }
            for (file, chain) in [
                ("any-order.pem", 2),
                ("x.p7.pem", 2),
                ("x.p7b", 2),
                ("x.der", 0),
                ("base64-of.pem", 2),
                ("bare.b64", 0),
                ("escaped.pem", 2),
                ("ordered.pem", 2),
            ] {
                let view = answer(&client, &made.id, &read(folder, file)).await;
                let view = view.unwrap_or_else(|status| panic!("{file}: {status}"));
                assert_eq!(
                    view.certificate_pem.matches("BEGIN CERTIFICATE").count(),
                    chain + 1,
                    "{file}"
                );
                assert_eq!(view.issuer_dn, "CN=inter, O=CA");
                assert_eq!(view.subject_dn, made.subject_dn);
                assert_eq!(view.signature_algorithm, "SHA256withECDSA");
                assert_eq!(view.public_key_pem, made.public_key_pem);
                assert_ne!(view.etag, made.etag);
                assert_eq!(client.get(&made.id).await.unwrap(), view);
            }
            let view = client.get(&made.id).await.unwrap();
            fs::write(folder.join("chain.pem"), &view.certificate_pem).unwrap();
            shell(
                folder,
                "openssl verify -CAfile root.crt -untrusted chain.pem chain.pem",
            );
            // Signatures go on with an algorithm of the key, whoever signed the certificate.
            let signed = client.sign(SignRequest {
                id: made.id.clone(),
                input: Some(sign_request::Input::Message(b"message"[..].into())),
                ..SignRequest::default()
            });
            let signed = signed.await.unwrap();
            assert_eq!(
                signed.certificate_sha256_fingerprint,
                view.sha256_fingerprint
            );
            let algorithm = SignatureAlgorithm::parse(&signed.signature_algorithm).unwrap();
            OpensslVerifier::new(&view.public_key_pem).accepts(
                algorithm,
                b"message",
                &signed.signature,
            );
        }
    }
    // One certificate for each key, and it is the new one.
    let listed = pkcs11_tool(&token, &["--list-objects", "--type", "cert"]);
    let ids: Vec<_> = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ID:"))
        .collect();
    assert_eq!(ids.len(), 5, "{listed}");
    let path = folder.join("on-token.der");
    let path = path.to_str().unwrap();
    for id in ids {
        let read = [
            "--read-object",
            "--type",
            "cert",
            "--id",
            id.trim(),
            "--output-file",
            path,
        ];
        pkcs11_tool(&token, &read);
        let issuer = shell(
            folder,
            "openssl x509 -inform DER -in on-token.der -noout -issuer",
        );
        assert!(issuer.contains("CN = inter"), "{issuer}");
    }
    assert!(!daemon.log().contains("put on the token later"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_an_answer_to_the_request_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let made = client.generate(NewKeyPairSettings {
        crypto_provider: 0,
        ..settings(CryptoProvider::Local)
    });
    let made = made.await.unwrap();
    fs::write(folder.join("x.csr"), csr(&client, &made.id).await).unwrap();
    fs::write(folder.join("own.crt"), &made.certificate_pem).unwrap();
    shell(
        folder,
        &format!(
            r"{CA}
            ca root; ca inter root; ca stranger
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout no-ca.key -out no-ca.crt \
                -subj /O=CA/CN=no-ca -days 9 -addext basicConstraints=critical,CA:false -CA root.crt -CAkey root.key 2>/dev/null
            cp x.csr y.csr; cp x.csr z.csr; issue x; issue y -1; issue z 30 no-ca
            cat z.crt no-ca.crt root.crt > not-a-ca.pem
            cat x.crt stranger.crt > foreign.pem
            cat x.crt root.crt > gap.pem
            cat x.crt inter.key > with-key.pem
            # A forged link: another intermediate CA under the same name.
            mkdir forged; (cd forged; ca root; cp ../inter.crt ../inter.key .; ca inter root; cat ../x.crt inter.crt) > forged.pem"
        ),
    );
    for (file, words) in [
        ("y.crt", "expired"),
        ("inter.crt", "no certificate of this key pair's public key"),
        ("own.crt", "self-signed"),
        ("not-a-ca.pem", "may not issue"),
        (
            "foreign.pem",
            "\"CN=stranger, O=CA\" is the certificate of somebody",
        ),
        ("gap.pem", "does not belong to the chain"),
        ("with-key.pem", "private key"),
        ("forged.pem", "does not belong to the chain"),
        ("x.csr", "CERTIFICATE REQUEST"),
    ] {
        let refused = answer(&client, &made.id, &read(folder, file))
            .await
            .unwrap_err();
        assert_eq!(
            reason(&refused),
            (Code::InvalidArgument, "VALIDATION_FAILED".into()),
            "{file}"
        );
        let details = refused.get_error_details();
        let field = details.bad_request().unwrap().field_violations[0].clone();
        assert_eq!(field.field, "fileData");
        assert!(
            field.description.contains(words),
            "{file}: {}",
            field.description
        );
    }
    assert_eq!(client.get(&made.id).await.unwrap(), made);
    let good = read(folder, "x.crt");
    let stale = ImportCsrResponseRequest {
        id: made.id.clone(),
        file_data: good.clone(),
        etag: "0123".into(),
    };
    let refused = client
        .key_pairs()
        .import_csr_response(stale)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), (Code::Aborted, "ETAG_MISMATCH".into()));
    // Damage anywhere is refused, and never believed.
    let mut der = Vec::new();
    shell(
        folder,
        "openssl x509 -in x.crt -outform DER -out x.der; openssl crl2pkcs7 -nocrl -certfile x.crt -outform DER -out x.p7b",
    );
    for file in ["x.der", "x.p7b"] {
        der.clear();
        der.extend(read(folder, file));
        for index in 0..der.len() {
            for damaged in [&der[..index], &{
                let mut damaged = der.clone();
                damaged[index] ^= 0x55;
                damaged
            }] {
                if let Ok(certificates) = keypaird::certs::read_certificates(damaged) {
                    for certificate in certificates {
                        let _ = keypaird::certs::read(&certificate);
                        let _ = keypaird::certs::is_self_signed(&certificate);
                    }
                }
            }
        }
    }
    assert!(answer(&client, &made.id, &good).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_have_another_subject_and_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let made = client.generate(NewKeyPairSettings {
        crypto_provider: 0,
        ..settings(CryptoProvider::Local)
    });
    let made = made.await.unwrap();
    let mut request = GenerateCsrRequest {
        id: made.id.clone(),
        subject: Some(DistinguishedName {
            common_name: "Other".into(),
            organization: "Acme".into(),
            country: "CH".into(),
            city: Some("Bern".into()),
            ..DistinguishedName::default()
        }),
        subject_alternative_names: vec!["b.example".into()],
    };
    let csr = client
        .key_pairs()
        .generate_csr(request.clone())
        .await
        .unwrap();
    fs::write(folder.path().join("x.csr"), csr.into_inner().csr_pem).unwrap();
    let said = shell(
        folder.path(),
        "openssl req -in x.csr -noout -subject -text -verify 2>&1",
    );
    assert!(
        said.contains("subject=C = CH, L = Bern, O = Acme, CN = Other"),
        "{said}"
    );
    assert!(
        said.contains("DNS:b.example") && said.contains("verify OK"),
        "{said}"
    );
    request.subject.as_mut().unwrap().country = "Switzerland".into();
    request.subject_alternative_names = vec!["-".into()];
    let refused = client.key_pairs().generate_csr(request).await.unwrap_err();
    let details = refused.get_error_details();
    let fields: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|field| &*field.field)
        .collect();
    assert_eq!(fields, ["subject.country", "subjectAlternativeNames[0]"]);
}
