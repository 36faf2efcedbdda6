//! What fuzzers begin with: for each target, inputs that are taken, or nearly so.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use keypaird::domain::{ListFilter, ListOrder, PageToken};
use keypaird::proto::{
    BatchSignRequest, DistinguishedName, GenerateCsrRequest, GenerateSigningKeyPairRequest,
    GetSigningKeyPairRequest, ImportCsrResponseRequest, ImportSigningKeyPairRequest,
    ImportSigningKeyPairSettings, KeyPairFilter, KeyPairRotationSettings,
    LinkSigningKeyPairRequest, ListPublicKeysRequest, ListSigningKeyPairsRequest,
    MigrateSigningKeyPairRequest, NewKeyPairSettings, PlanRotationRequest,
    RotateSigningKeyPairRequest, SignRequest, SignStreamRequest, UpdateLabelsRequest,
    UpdateRotationSettingsRequest, VerifyRequest, WatchKeyPairsRequest, sign_request,
    verify_request,
};
use prost::Message;

use super::calls::{METHODS, ROUTES};
use super::files::PASSWORD;
use super::stage::IDS;
use crate::tools::shell;

/// Returns the seeds, each with the name of its target. Keys and certificates are made by OpenSSL.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let mut seeds = Vec::new();
    for name in ["ec.p12", "rsa.p12", "legacy.p12", "ec.safe", "rsa.safe"] {
        seeds.push(("pkcs12", read(name)));
    }
    for name in [
        "ec.pem",
        "rsa.pem",
        "ed.pem",
        "encrypted.pem",
        "scrypt.pem",
        "sec1.pem",
        "pkcs1.pem",
    ] {
        seeds.push(("pem", read(name)));
    }
    for name in [
        "ec.der",
        "chain.pem",
        "chain.p7b",
        "chain.b64",
        "rsa.der",
        "ed.der",
    ] {
        seeds.push(("csr_answer", read(name)));
    }
    for message in messages(&read("ec.pem"), &read("ec.der")) {
        seeds.push(("protobuf", message));
    }
    for body in bodies(&String::from_utf8(read("ec.pem")).unwrap()) {
        seeds.push(("json", body));
    }
    for how in 0..16 {
        let token = PageToken {
            sequence: 1,
            value: "1795435200".into(),
        };
        let text = token.encode(&ListFilter::default(), ListOrder::default());
        seeds.push(("page_token", [&[how], text.as_bytes()].concat()));
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/keypaird.example.toml");
    let example = fs::read_to_string(example).unwrap();
    // Every key at once, too.
    let all = example.replace("\n# [", "\n[").replace("# ", "");
    seeds.push(("configuration", example.into_bytes()));
    seeds.push(("configuration", all.into_bytes()));
    let variables = b"\0KEYPAIRD__CRYPTO__MODE=hybrid\nKEYPAIRD__SERVER__LISTEN=[::1]:0";
    seeds.push(("configuration", variables.to_vec()));
    seeds
}

/// Makes keys, certificates, and files with them.
fn files(folder: &Path) {
    shell(
        folder,
        &format!(
            "new() {{
                 openssl req -x509 -newkey $2 -nodes -keyout $1.key -out $1.crt -subj /C=US/O=A/CN=$1 -days 3650 \\
                     -addext subjectAltName=DNS:a.example,IP:192.0.2.1,email:a@example.com,URI:urn:a 2>/dev/null
                 cat $1.key $1.crt > $1.pem
                 openssl x509 -in $1.crt -outform DER -out $1.der
                 openssl pkcs12 -export -in $1.pem -out $1.p12 -passout pass:{PASSWORD} -iter 1
                 openssl pkcs12 -export -in $1.pem -out plain.p12 -passout pass:{PASSWORD} -keypbe NONE -certpbe NONE
                 # What the MAC protects: the third value in the file whose contents are bytes.
                 at=$(openssl asn1parse -inform DER -in plain.p12 | awk '/OCTET STRING/ {{print $1; exit}}' FS=:)
                 openssl asn1parse -inform DER -in plain.p12 -strparse $((at)) -out $1.safe -noout
             }}
             new ec 'ec -pkeyopt ec_paramgen_curve:P-256'
             new rsa rsa:2048
             new ed ed25519
             openssl pkcs12 -export -in ec.pem -out legacy.p12 -passout pass:{PASSWORD} -legacy -iter 1
             (openssl pkcs8 -topk8 -in ec.key -passout pass:{PASSWORD} -iter 1; cat ec.crt) > encrypted.pem
             (openssl pkcs8 -topk8 -in ec.key -passout pass:{PASSWORD} -scrypt -scrypt_N 2; cat ec.crt) > scrypt.pem
             (openssl ec -in ec.key 2>/dev/null; cat ec.crt) > sec1.pem
             (openssl rsa -in rsa.key -traditional 2>/dev/null; cat rsa.crt) > pkcs1.pem
             openssl req -new -key ec.key -out x.csr -subj /CN=x
             openssl x509 -req -in x.csr -CA rsa.crt -CAkey rsa.key -days 3650 -out x.crt 2>/dev/null
             cat x.crt rsa.crt > chain.pem
             openssl crl2pkcs7 -nocrl -certfile chain.pem -outform DER -out chain.p7b
             base64 chain.p7b > chain.b64"
        ),
    );
}

fn id() -> String {
    IDS[0].to_owned()
}

/// Returns messages behind the numbers of their methods.
fn messages(key_file: &[u8], certificate: &[u8]) -> Vec<Vec<u8>> {
    let settings = NewKeyPairSettings {
        common_name: "Example".into(),
        organization: "Acme".into(),
        country: "US".into(),
        valid_days: 365,
        key_algorithm: "EC".into(),
        key_size: Some(256),
        signature_algorithm: Some("SHA256withECDSA".into()),
        crypto_provider: 1,
        subject_alternative_names: vec!["a.example".into(), "URI:urn:a".into(), "::1".into()],
        rotation_settings: Some(rotation()),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        ..NewKeyPairSettings::default()
    };
    let sign = SignRequest {
        id: id(),
        input: Some(sign_request::Input::Message(Bytes::from_static(b"message"))),
        signature_algorithm: "SHA384withECDSA".into(),
        encoding: 2,
        ..SignRequest::default()
    };
    let mut seeds = vec![
        seed(
            "GenerateSigningKeyPair",
            &GenerateSigningKeyPairRequest {
                settings: Some(settings.clone()),
                request_id: "r".into(),
                validate_only: true,
            },
        ),
        seed(
            "UpdateLabels",
            &UpdateLabelsRequest {
                id: id(),
                labels: [("team".to_owned(), "pay".to_owned())].into(),
                etag: "0".into(),
            },
        ),
        seed(
            "ListSigningKeyPairs",
            &ListSigningKeyPairsRequest {
                page_size: 1,
                order_by: "expires desc".into(),
                filter: Some(KeyPairFilter {
                    crypto_provider: 1,
                    key_algorithm: "EC".into(),
                    status: 1,
                    expires_before: Some(prost_types::Timestamp {
                        seconds: 1_895_435_200,
                        nanos: 1,
                    }),
                    query: "a".into(),
                    labels: [("team".to_owned(), "pay".to_owned())].into(),
                }),
                ..ListSigningKeyPairsRequest::default()
            },
        ),
        seed(
            "LinkSigningKeyPair",
            &LinkSigningKeyPairRequest {
                private_key_label: "label".into(),
                certificate: certificate.to_vec(),
                settings: Some(settings),
                labels: [("team".to_owned(), "pay".to_owned())].into(),
                ..LinkSigningKeyPairRequest::default()
            },
        ),
        seed(
            "ImportSigningKeyPair",
            &ImportSigningKeyPairRequest {
                settings: Some(ImportSigningKeyPairSettings {
                    file_data: key_file.to_vec(),
                    format: 2,
                    crypto_provider: 1,
                    ..ImportSigningKeyPairSettings::default()
                }),
            },
        ),
        seed(
            "GenerateCsr",
            &GenerateCsrRequest {
                id: id(),
                subject: Some(DistinguishedName {
                    common_name: "x".into(),
                    organization: "y".into(),
                    country: "CH".into(),
                    ..DistinguishedName::default()
                }),
                subject_alternative_names: vec!["email:a@example.com".into()],
            },
        ),
        seed(
            "ImportCsrResponse",
            &ImportCsrResponseRequest {
                id: id(),
                file_data: certificate.to_vec(),
                ..ImportCsrResponseRequest::default()
            },
        ),
        seed(
            "MigrateSigningKeyPair",
            &MigrateSigningKeyPairRequest {
                id: id(),
                crypto_provider: 2,
                ..MigrateSigningKeyPairRequest::default()
            },
        ),
        seed(
            "UpdateRotationSettings",
            &UpdateRotationSettingsRequest {
                id: id(),
                rotation_settings: Some(rotation()),
                ..UpdateRotationSettingsRequest::default()
            },
        ),
        seed(
            "PlanRotation",
            &PlanRotationRequest {
                id: id(),
                steps: 12,
                rotation_settings: Some(rotation()),
            },
        ),
        seed(
            "RotateSigningKeyPair",
            &RotateSigningKeyPairRequest {
                id: id(),
                activate: true,
                ..RotateSigningKeyPairRequest::default()
            },
        ),
        seed("Sign", &sign),
        seed(
            "BatchSign",
            &BatchSignRequest {
                requests: vec![sign.clone(), sign.clone()],
            },
        ),
        seed(
            "SignStream",
            &SignStreamRequest {
                correlation_id: "c".into(),
                request: Some(sign),
            },
        ),
        seed(
            "Verify",
            &VerifyRequest {
                id: id(),
                input: Some(verify_request::Input::Digest(Bytes::from_static(&[7; 32]))),
                signature: b"\x30\x06\x02\x01\x01\x02\x01\x01".to_vec(),
                ..VerifyRequest::default()
            },
        ),
        seed(
            "ListPublicKeys",
            &ListPublicKeysRequest {
                page_size: 1,
                labels: [("team".to_owned(), "pay".to_owned())].into(),
                ..ListPublicKeysRequest::default()
            },
        ),
        seed(
            "WatchKeyPairs",
            &WatchKeyPairsRequest {
                id: id(),
                ..WatchKeyPairsRequest::default()
            },
        ),
    ];
    // An id is the first field of every other request, and a message by itself.
    let id = GetSigningKeyPairRequest { id: id() }.encode_to_vec();
    seeds.extend(METHODS.iter().enumerate().map(|(number, _)| {
        let number = u8::try_from(number).unwrap();
        [&[number], &*id].concat()
    }));
    seeds
}

fn rotation() -> KeyPairRotationSettings {
    KeyPairRotationSettings {
        creation_buffer_days: 30,
        activation_buffer_days: 10,
        key_algorithm: Some("EC".into()),
        key_size: Some(384),
        valid_days: Some(200),
        ..KeyPairRotationSettings::default()
    }
}

fn seed(method: &str, message: &impl Message) -> Vec<u8> {
    let ending = format!("/{method}");
    let number = METHODS
        .iter()
        .position(|known| known.path.ends_with(&ending));
    let mut seed = vec![u8::try_from(number.unwrap()).unwrap()];
    seed.extend(message.encode_to_vec());
    seed
}

/// Returns bodies and queries behind the numbers of their calls.
fn bodies(key_file: &str) -> Vec<Vec<u8>> {
    let key_file = serde_json::to_string(key_file).unwrap();
    let generate = r#"{"commonName":"E","organization":"o","country":"US","validDays":9,"keyAlgorithm":"EC","keySize":256,
        "subjectAlternativeNames":["a.example"],"cryptoProvider":"LOCAL","rotationSettings":{"creationBufferDays":3,"activationBufferDays":1}}"#;
    let mut seeds = Vec::new();
    for (number, route) in ROUTES.iter().enumerate() {
        let body = match route.path.rsplit_once('/').unwrap().1 {
            "generate" => generate.to_owned(),
            "import" => format!(r#"{{"id":"i","fileData":{key_file},"format":"PEM","password":""}}"#),
            "link" => r#"{"privateKeyId":"0a0b","certificateData":"MAA="}"#.to_owned(),
            "pem" | "pkcs12" => r#"{"password":"correct horse"}"#.to_owned(),
            "csr" => format!(r#"{{"fileData":{key_file}}}"#),
            "rotationSettings" => {
                r#"{"creationBufferDays":30,"activationBufferDays":10,"validDays":99,"keyAlgorithm":"RSA"}"#.to_owned()
            }
            "signing" => "page=1&numberPerPage=1&filter=a".to_owned(),
            _ => IDS[0].to_owned(),
        };
        let number = u8::try_from(number).unwrap();
        for place in [0, 128] {
            seeds.push([&[number, place], body.as_bytes()].concat());
        }
    }
    seeds
}
