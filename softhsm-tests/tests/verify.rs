//! `Verify`, and the test vectors of Wycheproof run through it.

use keypaird::domain::{
    Curve, Hash, KeyPairId, KeyRef, KeySpec, PublicKey, RsaSize, SignatureAlgorithm,
};
use keypaird::proto::{
    CryptoProvider, GenerationState, NewKeyPairSettings, SignRequest, SignatureEncoding,
    VerifyRequest, VerifyResponse, sign_request, verify_request,
};
use keypaird::store::{EmbeddedStore, MetadataStore, NewKeyPair};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::Home;
use tonic::Code;
use wycheproof::TestResult;

/// One public key with signatures that are its own, and some that are not.
struct Group {
    public_key: PublicKey,
    algorithm: SignatureAlgorithm,
    encoding: SignatureEncoding,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    message: Vec<u8>,
    signature: Vec<u8>,
    expected: TestResult,
}

/// Collects the cases of a set. The macro stands for a trait that the sets do not have.
macro_rules! groups {
    ($module:ident, $set:ident, $spec:expr, $algorithm:expr, $encoding:expr, $bits:expr) => {{
        let name = wycheproof::$module::TestName::$set;
        let set = wycheproof::$module::TestSet::load(name).unwrap();
        set.test_groups
            .into_iter()
            .map(|group| Group {
                public_key: PublicKey::new($spec, $bits(&group)),
                algorithm: $algorithm,
                encoding: $encoding,
                cases: group
                    .tests
                    .into_iter()
                    .map(|test| Case {
                        name: format!("{} {} ({})", stringify!($set), test.tc_id, test.comment),
                        message: test.msg.to_vec(),
                        signature: test.sig.to_vec(),
                        expected: test.result,
                    })
                    .collect(),
            })
            .collect::<Vec<_>>()
    }};
}

fn all_groups() -> Vec<Group> {
    const DER: SignatureEncoding = SignatureEncoding::Der;
    const P1363: SignatureEncoding = SignatureEncoding::P1363;
    let mut all = Vec::new();
    macro_rules! ecdsa {
        ($($set:ident: $curve:ident $hash:ident $encoding:ident),* $(,)?) => {$(
            let len = 1 + 2 * Curve::$curve.field_len();
            all.extend(groups!(
                ecdsa, $set, KeySpec::Ec(Curve::$curve), SignatureAlgorithm::Ecdsa(Hash::$hash), $encoding,
                // The point is the end of the SubjectPublicKeyInfo.
                |group: &wycheproof::ecdsa::TestGroup| group.der[group.der.len() - len..].to_vec()
            ));
        )*};
    }
    ecdsa!(
        EcdsaSecp256r1Sha256: P256 Sha256 DER,
        EcdsaSecp256r1Sha512: P256 Sha512 DER,
        EcdsaSecp256r1Sha256P1363: P256 Sha256 P1363,
        EcdsaSecp256r1Sha512P1363: P256 Sha512 P1363,
        EcdsaSecp384r1Sha256: P384 Sha256 DER,
        EcdsaSecp384r1Sha384: P384 Sha384 DER,
        EcdsaSecp384r1Sha512: P384 Sha512 DER,
        EcdsaSecp384r1Sha384P1363: P384 Sha384 P1363,
        EcdsaSecp384r1Sha512P1363: P384 Sha512 P1363,
        EcdsaSecp521r1Sha512: P521 Sha512 DER,
        EcdsaSecp521r1Sha512P1363: P521 Sha512 P1363,
    );
    macro_rules! rsa {
        ($($module:ident $set:ident: $size:ident $scheme:ident $hash:ident),* $(,)?) => {$(
            all.extend(groups!(
                $module, $set, KeySpec::Rsa(RsaSize::$size), SignatureAlgorithm::$scheme(Hash::$hash), DER,
                |group: &wycheproof::$module::TestGroup| group.asn_key.to_vec()
            ));
        )*};
    }
    rsa!(
        rsa_pkcs1_verify Rsa2048Sha256: Bits2048 RsaPkcs1 Sha256,
        rsa_pkcs1_verify Rsa2048Sha384: Bits2048 RsaPkcs1 Sha384,
        rsa_pkcs1_verify Rsa2048Sha512: Bits2048 RsaPkcs1 Sha512,
        rsa_pkcs1_verify Rsa3072Sha256: Bits3072 RsaPkcs1 Sha256,
        rsa_pkcs1_verify Rsa3072Sha384: Bits3072 RsaPkcs1 Sha384,
        rsa_pkcs1_verify Rsa3072Sha512: Bits3072 RsaPkcs1 Sha512,
        rsa_pkcs1_verify Rsa4096Sha256: Bits4096 RsaPkcs1 Sha256,
        rsa_pkcs1_verify Rsa4096Sha384: Bits4096 RsaPkcs1 Sha384,
        rsa_pkcs1_verify Rsa4096Sha512: Bits4096 RsaPkcs1 Sha512,
        rsa_pss_verify RsaPss2048Sha256Mgf1SaltLen32: Bits2048 RsaPss Sha256,
        rsa_pss_verify RsaPss2048Sha384Mgf1SaltLen48: Bits2048 RsaPss Sha384,
        rsa_pss_verify RsaPss3072Sha256Mgf1SaltLen32: Bits3072 RsaPss Sha256,
        rsa_pss_verify RsaPss4096Sha256Mgf1SaltLen32: Bits4096 RsaPss Sha256,
        rsa_pss_verify RsaPss4096Sha384Mgf1SaltLen48: Bits4096 RsaPss Sha384,
        rsa_pss_verify RsaPss4096Sha512Mgf1SaltLen64: Bits4096 RsaPss Sha512,
    );
    all.extend(groups!(
        eddsa,
        Ed25519,
        KeySpec::Ed25519,
        SignatureAlgorithm::Ed25519,
        DER,
        |group: &wycheproof::eddsa::TestGroup| group.der[group.der.len() - 32..].to_vec()
    ));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_agrees_with_wycheproof() {
    let groups = all_groups();
    let home = Home::local();
    record(&home, &groups).await;
    let daemon = home.start();
    let client = daemon.client().await;
    let mut counts = (0, 0);
    for (number, group) in groups.into_iter().enumerate() {
        for case in group.cases {
            let mut inputs = vec![verify_request::Input::Message(case.message.clone().into())];
            if let Some(hash) = group.algorithm.hash() {
                let digest = hash.digest(&case.message);
                inputs.push(verify_request::Input::Digest(digest.into()));
            }
            for input in inputs {
                let answer = client
                    .verify(VerifyRequest {
                        id: format!("group{number}"),
                        input: Some(input),
                        signature: case.signature.clone(),
                        signature_algorithm: group.algorithm.name().into(),
                        encoding: group.encoding.into(),
                        // The vectors have signatures with other salts that are to be refused.
                        pss_salt_length: match group.algorithm {
                            SignatureAlgorithm::RsaPss(hash) => {
                                i32::try_from(hash.digest_len()).ok()
                            }
                            _ => None,
                        },
                    })
                    .await
                    .unwrap_or_else(|error| panic!("{}: {error}", case.name));
                match case.expected {
                    TestResult::Valid => assert!(answer.valid, "{} is refused", case.name),
                    TestResult::Invalid => assert!(!answer.valid, "{} passes", case.name),
                    // A missing NULL in DigestInfo and the like: either is right.
                    TestResult::Acceptable => {}
                }
                match answer.valid {
                    true => counts.0 += 1,
                    false => counts.1 += 1,
                }
            }
        }
    }
    let (valid, invalid) = counts;
    println!("{valid} signatures were found valid, {invalid} were not");
    assert!(valid > 2000 && invalid > 2000, "{valid} {invalid}");
}

/// Records key pairs with public keys that nobody has the private ones of.
async fn record(home: &Home, groups: &[Group]) {
    let daemon = home.start();
    let client = daemon.client().await;
    let first = client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    daemon.stop();
    let store = EmbeddedStore::open(&home.path("keypaird.db")).unwrap();
    let first = KeyPairId::parse(&first.id).unwrap();
    let first = store.key_pair(&first).await.unwrap().unwrap();
    for (number, group) in groups.iter().enumerate() {
        let mut key_pair = first.clone();
        key_pair.id = KeyPairId::parse(&format!("group{number}")).unwrap();
        key_pair.current.key_ref = KeyRef::from_random(rand::random());
        key_pair.current.public_key = group.public_key.clone();
        store
            .complete_creation(NewKeyPair {
                key_pair,
                sealed_key: None,
                intent: None,
                request: None,
            })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_own_signatures_from_others_and_bad_requests_from_bad_signatures() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let view = client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .unwrap();
    let rsa = client
        .generate(NewKeyPairSettings {
            key_algorithm: "RSA".into(),
            ..settings(CryptoProvider::Unspecified)
        })
        .await
        .unwrap();
    let signed = client
        .sign(SignRequest {
            id: view.id.clone(),
            input: Some(sign_request::Input::Message(b"message"[..].into())),
            ..SignRequest::default()
        })
        .await
        .unwrap();
    let request = VerifyRequest {
        id: view.id.clone(),
        input: Some(verify_request::Input::Message(b"message"[..].into())),
        signature: signed.signature.clone(),
        ..VerifyRequest::default()
    };
    assert_eq!(
        client.verify(request.clone()).await.unwrap(),
        VerifyResponse {
            valid: true,
            generation: 1,
            generation_state: GenerationState::Current.into(),
            certificate_sha256_fingerprint: view.sha256_fingerprint,
        }
    );
    // Not valid, and no error: another message, a cut signature, none, the other form, the other hash.
    for other in [
        VerifyRequest {
            input: Some(verify_request::Input::Message(b"massage"[..].into())),
            ..request.clone()
        },
        VerifyRequest {
            signature: signed.signature[..20].to_vec(),
            ..request.clone()
        },
        VerifyRequest {
            signature: Vec::new(),
            ..request.clone()
        },
        VerifyRequest {
            encoding: SignatureEncoding::P1363.into(),
            ..request.clone()
        },
        VerifyRequest {
            signature_algorithm: "SHA384withECDSA".into(),
            ..request.clone()
        },
    ] {
        let answer = client.verify(other).await.unwrap();
        assert_eq!(answer, VerifyResponse::default());
    }
    refused(
        &client,
        VerifyRequest {
            id: "nobody".into(),
            ..request.clone()
        },
        Code::NotFound,
    )
    .await;
    refused(
        &client,
        VerifyRequest {
            id: String::new(),
            ..request.clone()
        },
        Code::InvalidArgument,
    )
    .await;
    refused(
        &client,
        VerifyRequest {
            input: None,
            ..request.clone()
        },
        Code::InvalidArgument,
    )
    .await;
    refused(
        &client,
        VerifyRequest {
            encoding: 7,
            ..request.clone()
        },
        Code::InvalidArgument,
    )
    .await;
    let wrong_key = VerifyRequest {
        id: rsa.id,
        signature_algorithm: "SHA256withECDSA".into(),
        ..request
    };
    refused(&client, wrong_key, Code::InvalidArgument).await;
}

async fn refused(client: &Client, request: VerifyRequest, code: Code) {
    let status = client.verify(request).await.unwrap_err();
    assert_eq!(reason(&status).0, code, "{status:?}");
}
