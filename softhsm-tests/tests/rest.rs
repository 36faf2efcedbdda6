//! The REST API, as programs of the owner's key pair resource use it, and as web pages may not.

#[path = "rest/foreign_clients.rs"]
mod foreign_clients;
#[path = "rest/jwks.rs"]
mod jwks;
#[path = "rest/labels.rs"]
mod labels;
#[path = "rest/web_pages.rs"]
mod web_pages;

use std::fs;

use keypaird::proto::CryptoProvider;
use serde_json::{Value, json};
use softhsm_tests::client::settings;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::http::{Answer, BASE, get, post, send};
use softhsm_tests::shifted_clock::ShiftedClock;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tonic_types::StatusExt;

const JSON: (&str, &str) = ("content-type", "application/json");

fn wanted() -> Value {
    json!({
        "commonName": "Example", "organization": "Ping Identity", "country": "US", "validDays": 365,
        "keyAlgorithm": "EC", "subjectAlternativeNames": ["example.com", "192.0.2.1"],
    })
}

fn generate(daemon: &Daemon, changes: &Value) -> Answer {
    let mut settings = wanted();
    settings
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    post(daemon, "/keyPairs/signing/generate", &settings)
}

/// Returns status, `resultId` and the refused fields, of an error that is one of the contract.
fn refused(answer: &Answer) -> (u16, String, Vec<String>) {
    assert!(
        answer
            .header("content-type")
            .starts_with("application/json"),
        "{answer:?}"
    );
    let body = answer.json();
    assert!(!body["message"].as_str().unwrap().is_empty());
    let fields = body["validationErrors"].as_array().into_iter().flatten();
    let fields = fields.map(|error| {
        assert!(!error["errorId"].as_str().unwrap().is_empty());
        assert!(!error["message"].as_str().unwrap().is_empty());
        error["fieldPath"].as_str().unwrap().to_owned()
    });
    (
        answer.status,
        body["resultId"].as_str().unwrap().to_owned(),
        fields.collect(),
    )
}

fn is(status: u16, result_id: &str, fields: &[&str]) -> (u16, String, Vec<String>) {
    (
        status,
        result_id.to_owned(),
        fields.iter().map(ToString::to_string).collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_lives_its_life_over_rest_and_is_the_same_over_grpc() {
    let token = Token::fresh();
    let home = Home::hybrid(&token).env("KEYPAIRD__CRYPTO__LOCAL__ALLOW_EXPORT", "true");
    let daemon = home.start();
    let client = daemon.client().await;
    for provider in ["LOCAL", "HSM"] {
        let id = provider.to_ascii_lowercase();
        let made = generate(&daemon, &json!({"id": id, "cryptoProvider": provider}));
        assert_eq!(made.status, 201);
        let view = made.json();
        let keys: Vec<_> = view.as_object().unwrap().keys().cloned().collect();
        let mut expected = vec![
            "id",
            "serialNumber",
            "subjectDN",
            "subjectAlternativeNames",
            "issuerDN",
            "validFrom",
            "expires",
            "keyAlgorithm",
            "keySize",
            "signatureAlgorithm",
            "version",
            "sha1Fingerprint",
            "sha256Fingerprint",
            "status",
            "cryptoProvider",
        ];
        expected.sort_unstable();
        assert_eq!(
            {
                let mut keys = keys;
                keys.sort_unstable();
                keys
            },
            expected
        );
        let same = client.get(&id).await.unwrap();
        assert_eq!(view["serialNumber"], same.serial_number);
        assert_eq!(view["subjectDN"], "CN=Example, O=Ping Identity, C=US");
        assert_eq!(
            view["subjectAlternativeNames"],
            json!(["example.com", "192.0.2.1"])
        );
        assert_eq!(view["sha256Fingerprint"], same.sha256_fingerprint);
        assert_eq!(view["status"], "VALID");
        assert_eq!(view["cryptoProvider"], provider);
        let expires = view["expires"].as_str().unwrap();
        assert_eq!(expires.get(19..), Some(".000Z"), "{expires}");
        assert_eq!(
            get(&daemon, &format!("/keyPairs/signing/{id}")).json(),
            view
        );

        let certificate = get(&daemon, &format!("/keyPairs/signing/{id}/certificate"));
        assert_eq!(
            certificate.header("content-type"),
            "application/x-x509-ca-cert"
        );
        assert_eq!(
            String::from_utf8(certificate.body).unwrap(),
            same.certificate_pem
        );
        let csr = get(&daemon, &format!("/keyPairs/signing/{id}/csr"));
        assert_eq!(csr.header("content-type"), "application/pkcs10");
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("x.csr"), &csr.body).unwrap();
        shell(
            folder,
            "openssl req -in x.csr -noout -verify 2>&1
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 9 2>/dev/null
             openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days 9 -out x.crt 2>/dev/null",
        );
        let answer = fs::read_to_string(folder.join("x.crt")).unwrap();
        let certified = post(
            &daemon,
            &format!("/keyPairs/signing/{id}/csr"),
            &json!({"fileData": answer}),
        );
        assert_eq!(certified.status, 200);
        assert_eq!(certified.json()["issuerDN"], "CN=CA");

        for (path, content_type) in [
            ("pkcs12", "application/x-pkcs12"),
            ("pem", "application/x-pem-file"),
        ] {
            let path = format!("/keyPairs/signing/{id}/{path}");
            let exported = post(&daemon, &path, &json!({"password": "correct horse"}));
            if provider == "HSM" {
                assert_eq!(refused(&exported), is(403, "forbidden", &[]));
                continue;
            }
            assert_eq!(exported.header("content-type"), content_type);
            fs::write(folder.join("file"), &exported.body).unwrap();
            // In the URL alphabet, without padding.
            let data = shell(folder, "base64 -w0 file | tr '+/' '-_' | tr -d =");
            let imported = post(
                &daemon,
                "/keyPairs/signing/import",
                &json!({"fileData": data, "password": "correct horse", "cryptoProvider": "HSM", "format": null}),
            );
            assert_eq!(imported.status, 201, "{imported:?}");
            assert_eq!(
                imported.json()["sha256Fingerprint"],
                certified.json()["sha256Fingerprint"]
            );
            assert_eq!(
                refused(&post(&daemon, &path, &json!({"password": "short"}))),
                is(422, "validation_error", &["password"])
            );
        }
        let path = format!("{BASE}/keyPairs/signing/{id}");
        let deleted = send(&daemon, "DELETE", &path, &[JSON], b"");
        assert_eq!((deleted.status, deleted.body.len()), (204, 0));
        assert_eq!(
            refused(&send(&daemon, "DELETE", &path, &[], b"")),
            is(404, "resource_not_found", &[])
        );
    }
    pkcs11_tool(
        &token,
        &[
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--label",
            "old key",
            "--id",
            "0a",
            "--usage-sign",
        ],
    );
    let link = |id: &str| {
        post(
            &daemon,
            "/keyPairs/signing/link",
            &json!({"id": "linked", "privateKeyId": id}),
        )
    };
    assert_eq!(
        refused(&link("old key")),
        is(422, "validation_error", &["certificateData"])
    );
    for named in ["0b", "no such label", ""] {
        assert_eq!(
            refused(&link(named)),
            is(422, "validation_error", &["privateKeyId"]),
            "{named}"
        );
    }
    let no_base64 = json!({"privateKeyId": "0a", "certificateData": "%"});
    assert_eq!(
        refused(&post(&daemon, "/keyPairs/signing/link", &no_base64)),
        is(400, "bad_request", &["certificateData"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_grpc_with_the_status_of_the_contract() {
    let token = Token::fresh();
    let home = Home::hybrid(&token).env("KEYPAIRD__SERVER__MAX_MESSAGE_BYTES", "65536");
    let daemon = home.start();
    let client = daemon.client().await;
    let bad = json!({"commonName": "", "country": "USA", "validDays": 0, "keySize": 1024, "keyAlgorithm": "RSA"});
    let answer = generate(&daemon, &bad);
    assert_eq!(
        refused(&answer),
        is(
            422,
            "validation_error",
            &["commonName", "country", "validDays", "keySize"]
        )
    );
    let mut same = settings(CryptoProvider::Unspecified);
    same.common_name = String::new();
    same.country = "USA".into();
    same.valid_days = 0;
    same.key_algorithm = "RSA".into();
    same.key_size = Some(1024);
    let status = client.generate(same).await.unwrap_err();
    let details = status.get_error_details();
    let said: Vec<_> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|field| (field.field.clone(), field.description.clone()))
        .collect();
    let errors = answer.json()["validationErrors"].clone();
    let rest: Vec<_> = errors
        .as_array()
        .unwrap()
        .iter()
        .map(|error| {
            (
                error["fieldPath"].as_str().unwrap().to_owned(),
                error["message"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(rest, said);

    assert_eq!(generate(&daemon, &json!({"id": "a"})).status, 201);
    assert_eq!(
        refused(&generate(&daemon, &json!({"id": "a"}))),
        is(422, "validation_error", &["id"])
    );
    assert_eq!(
        refused(&get(&daemon, "/keyPairs/signing/b")),
        is(404, "resource_not_found", &[])
    );
    for path in ["/x", "/keyPairs/signing/a/x", "/keyPairs"] {
        assert_eq!(
            refused(&get(&daemon, path)),
            is(404, "resource_not_found", &[]),
            "{path}"
        );
    }
    let path = format!("{BASE}/keyPairs/signing/generate");
    let send = |headers: &[(&str, &str)], body: &[u8]| send(&daemon, "POST", &path, headers, body);
    for (body, field) in [
        ("{", "body"),
        ("", "body"),
        ("[]", "body"),
        ("7", "body"),
        (
            r#"{"rotationSettings": [null, 30, 10]}"#,
            "rotationSettings",
        ),
        (r#"{"rotationSettings": "daily"}"#, "rotationSettings"),
        (
            r#"{"rotationSettings": {"keySize": "2048"}}"#,
            "rotationSettings.keySize",
        ),
        (
            r#"{"rotationSettings": {"days": 30}}"#,
            "rotationSettings.days",
        ),
        ("{} {}", "body"),
        (r#"{"id": "b", "id": "c"}"#, "id"),
        (r#"{"ID": "b"}"#, "ID"),
        (r#"{"keySize": "2048"}"#, "keySize"),
        (r#"{"keySize": 1e99}"#, "keySize"),
        (r#"{"validDays": 4294967296}"#, "validDays"),
        (r#"{"cryptoProvider": "hsm"}"#, "cryptoProvider"),
        (
            r#"{"subjectAlternativeNames": [1]}"#,
            "subjectAlternativeNames[0]",
        ),
        (&"[".repeat(10_000), "body"),
        (&format!("{{\"id\": {}", "[".repeat(10_000)), "id"),
    ] {
        let answer = send(&[JSON], body.as_bytes());
        assert_eq!(
            refused(&answer),
            is(400, "bad_request", &[field]),
            "{}",
            &body[..body.len().min(40)]
        );
    }
    assert_eq!(refused(&send(&[JSON], b"{\"id\": \"\xff\"}")).0, 400);
    for content_type in [
        "text/plain",
        "application/json;charset=utf-16",
        "application/xml",
    ] {
        assert_eq!(
            refused(&send(&[("content-type", content_type)], b"{}")),
            is(415, "bad_request", &[])
        );
    }
    assert_eq!(refused(&send(&[], b"{}")).0, 415);
    for encoding in ["gzip", "br", "identity, gzip"] {
        let compressed = send(&[JSON, ("content-encoding", encoding)], b"\x1f\x8b");
        assert_eq!(refused(&compressed), is(415, "bad_request", &[]));
    }
    let fine = [
        ("content-type", "Application/JSON; charset=\"UTF-8\""),
        ("accept", "image/png"),
    ];
    assert_eq!(send(&fine, wanted().to_string().as_bytes()).status, 201);
    let large = format!("{{\"id\": \"{}\"}}", "x".repeat(65_536));
    assert_eq!(
        refused(&send(&[JSON], large.as_bytes())),
        is(413, "bad_request", &[])
    );
    let put = softhsm_tests::http::send(&daemon, "PUT", &path, &[JSON], b"{}");
    assert_eq!(refused(&put), is(405, "bad_request", &[]));
    assert_eq!(put.header("allow"), "POST");
    for (query, status, field) in [
        ("page=0", 422, "page"),
        ("numberPerPage=0", 422, "numberPerPage"),
        ("numberPerPage=1001", 422, "numberPerPage"),
        ("page=4294967295", 422, "page"),
        ("page=x", 400, "page"),
        ("page=-1", 400, "page"),
        ("pages=1", 400, "pages"),
        ("page=1&page=2", 400, "page"),
        ("page=99999999999", 400, "page"),
    ] {
        let (found, _, fields) = refused(&get(&daemon, &format!("/keyPairs/signing?{query}")));
        assert_eq!((found, fields), (status, vec![field.to_owned()]), "{query}");
    }
    for (method, path) in [("GET", "/a"), ("DELETE", "/a"), ("POST", "/generate")] {
        let path = format!("{BASE}/keyPairs/signing{path}?dryRun=true");
        let answer = softhsm_tests::http::send(&daemon, method, &path, &[JSON], b"{}");
        assert_eq!(refused(&answer), is(400, "bad_request", &["dryRun"]));
        let said = answer.json()["message"].to_string();
        assert!(said.contains("is unknown"), "{said}");
    }
    // The caller's name for the request comes back, and stands in the log.
    let named = softhsm_tests::http::send(
        &daemon,
        "GET",
        "/nothing",
        &[("x-request-id", "mine-7")],
        b"",
    );
    assert_eq!(named.header("x-request-id"), "mine-7");
    assert!(!daemon.log().contains("\"ERROR\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_whole_or_in_pages() {
    let daemon = Home::local().start();
    for number in 0..25 {
        let made = generate(
            &daemon,
            &json!({"id": format!("k{number:02}"), "commonName": format!("Name {}", number % 5)}),
        );
        assert_eq!(made.status, 201);
        assert_eq!(made.json().get("cryptoProvider"), None);
    }
    let ids = |query: &str| -> Vec<String> {
        let answer = get(&daemon, &format!("/keyPairs/signing{query}"));
        assert_eq!(answer.status, 200);
        let items = answer.json()["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = ids("");
    assert_eq!(all.len(), 25);
    let pages: Vec<_> = (1..=4)
        .flat_map(|page| ids(&format!("?page={page}&numberPerPage=7")))
        .collect();
    assert_eq!(pages, all);
    assert!(ids("?page=5&numberPerPage=7").is_empty());
    assert_eq!(ids("?filter=name%203"), ["k03", "k08", "k13", "k18", "k23"]);
    assert_eq!(ids("?filter=name+3&page=2&numberPerPage=2"), ["k13", "k18"]);
    assert_eq!(
        refused(&generate(&daemon, &json!({"cryptoProvider": "LOCAL"}))),
        is(422, "validation_error", &["cryptoProvider"])
    );
    assert_eq!(send(&daemon, "GET", "/healthz", &[], b"").status, 200);
    assert_eq!(send(&daemon, "GET", "/readyz", &[], b"").status, 200);
}

#[test]
fn whole_numbers_are_read_in_every_form_that_json_has() {
    let daemon = Home::local().start();
    let path = format!("{BASE}/keyPairs/signing/generate");
    let make = |days: &str, size: &str, buffer: &str| {
        let body = format!(
            r#"{{"commonName": "E", "organization": "A", "country": "US", "keyAlgorithm": "EC",
                 "validDays": {days}, "keySize": {size},
                 "rotationSettings": {{"creationBufferDays": {buffer}, "activationBufferDays": 1}}}}"#
        );
        send(&daemon, "POST", &path, &[JSON], body.as_bytes())
    };
    for (days, size, buffer) in [
        ("365.0", "384.0", "30.0"),
        ("3.65e2", "2.56E+2", "30"),
        ("365", "null", "3e1"),
    ] {
        let made = make(days, size, buffer);
        assert_eq!(made.status, 201, "{days}: {made:?}");
        let settings = &made.json()["rotationSettings"];
        assert_eq!(settings["creationBufferDays"].as_i64(), Some(30));
        assert_eq!(settings["validDays"].as_i64(), Some(365));
    }
    for days in [
        "365.5",
        "1e99",
        "-1e10",
        "2147483648",
        "\"365\"",
        "true",
        "[1]",
        "1e-1",
    ] {
        let answer = make(days, "256", "1");
        assert_eq!(refused(&answer), is(400, "bad_request", &["validDays"]));
        let said = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(said.contains("must be a whole number"), "{days}: {said}");
    }
    for (days, status) in [("36501.0", 422), ("-0.0", 422), ("0", 422)] {
        assert_eq!(make(days, "256", "1").status, status, "{days}");
    }
}

#[test]
fn the_date_of_an_answer_follows_the_clock_back() {
    let clock = ShiftedClock::new();
    let daemon = clock.given_to(Home::local()).start();
    let date = || {
        let date = send(&daemon, "GET", "/healthz", &[], b"");
        OffsetDateTime::parse(date.header("date"), &Rfc2822).unwrap()
    };
    let now = date();
    clock.set_days_ahead(40);
    let ahead = date() - now;
    assert!((40..41).contains(&ahead.whole_days()), "{ahead}");
    clock.set_days_ahead(0);
    let back = date() - now;
    assert_eq!(back.whole_days(), 0, "{back}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_to_before_1970_ends_no_connection() {
    let clock = ShiftedClock::new();
    let daemon = clock.given_to(Home::local()).start();
    let client = daemon.client().await;
    let made = client.generate(settings(CryptoProvider::Unspecified)).await;
    let made = made.unwrap();
    clock.set_days_back(DAYS_TO_BEFORE_1970);
    // More connections than there are threads, so that each thread has some for the first time.
    for _ in 0..16 {
        let answer = send(&daemon, "GET", "/healthz", &[], b"");
        assert_eq!(answer.status, 200);
        let date = OffsetDateTime::parse(answer.header("date"), &Rfc2822).unwrap();
        assert!(date.year() < 1970, "{date}");
        let client = daemon.client().await;
        let got = client.get(&made.id).await.unwrap();
        // By that clock it is not valid yet.
        assert_eq!(got.certificate_pem, made.certificate_pem);
    }
    clock.set_days_back(0);
    let answer = send(&daemon, "GET", "/healthz", &[], b"");
    let date = OffsetDateTime::parse(answer.header("date"), &Rfc2822).unwrap();
    assert!(date.year() > 1970, "{date}");
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Some sixty-eight years, from this century on.
const DAYS_TO_BEFORE_1970: u32 = 25_000;

#[test]
fn with_a_clock_before_1970_nothing_starts() {
    let clock = ShiftedClock::new();
    clock.set_days_back(DAYS_TO_BEFORE_1970);
    let home = clock.given_to(Home::local());
    let refused = home.run(&["serve"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(70), "{said}");
    assert!(
        said.contains("keypaird: the system clock shows 19"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    assert!(!home.path("keypaird.db").exists());
    let checked = home.run(&["check-config", "--connect"]);
    assert_eq!(checked.status.code(), Some(70));
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(said.contains("FAIL  clock "), "{said}");
}

#[test]
fn readiness_tells_of_a_token_that_is_away() {
    let token = Token::none();
    let daemon = Home::hybrid(&token).start_without_token();
    assert_eq!(send(&daemon, "GET", "/healthz", &[], b"").status, 200);
    let answer = send(&daemon, "GET", "/readyz", &[], b"");
    assert_eq!(refused(&answer), is(503, "provider_unavailable", &[]));
    assert!(answer.json()["message"].as_str().unwrap().contains("HSM"));
    let away = generate(&daemon, &json!({"cryptoProvider": "HSM"}));
    assert_eq!(refused(&away), is(503, "provider_unavailable", &[]));
    assert_eq!(away.header("retry-after"), "1");
    assert_eq!(
        generate(&daemon, &json!({"cryptoProvider": "LOCAL"})).status,
        201
    );
}

#[test]
fn the_base_path_is_the_operators() {
    let daemon = Home::local()
        .env("KEYPAIRD__SERVER__REST_BASE_PATH", "/keys/")
        .start();
    assert_eq!(
        send(&daemon, "GET", "/keys/keyPairs/signing", &[], b"").status,
        200
    );
    assert_eq!(get(&daemon, "/keyPairs/signing").status, 404);
    let description = send(&daemon, "GET", "/openapi.json", &[], b"").json();
    assert!(description["paths"]["/keys/keyPairs/signing"].is_object());
    let root = Home::local()
        .env("KEYPAIRD__SERVER__REST_BASE_PATH", "/")
        .start();
    assert_eq!(
        send(&root, "GET", "/keyPairs/signing", &[], b"").status,
        200
    );
}
