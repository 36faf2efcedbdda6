//! Key pairs that rotate, in the token and in software, with a clock that is moved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keypaird::certs;
use keypaird::domain::{PublicKey, SignatureAlgorithm, SigningInput};
use keypaird::proto::key_pair_event::Type;
use keypaird::proto::{
    CryptoProvider, GenerationState, KeyPairRotationSettings, KeyPairView, ListPublicKeysRequest,
    NewKeyPairSettings, SignRequest, SignResponse, VerifyRequest, VerifyResponse, sign_request,
    verify_request,
};
use serde_json::{Value, json};
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::http;
use softhsm_tests::shifted_clock::ShiftedClock;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{OpensslVerifier, pkcs11_tool, shell};
use tonic::Code;

const OFTEN: &str = "rotation.check_interval = \"50ms\"";
const MESSAGE: &[u8] = b"message";
/// How many key pairs are rotated together.
const PAIRS: usize = 8;

fn buffers(creation: i32, activation: i32) -> KeyPairRotationSettings {
    KeyPairRotationSettings {
        creation_buffer_days: creation,
        activation_buffer_days: activation,
        ..KeyPairRotationSettings::default()
    }
}

/// Settings of a key pair that is valid for 100 days, and rotates 30 and 10 days before it is not.
fn rotating(id: &str, provider: CryptoProvider) -> NewKeyPairSettings {
    NewKeyPairSettings {
        id: Some(id.into()),
        valid_days: 100,
        rotation_settings: Some(buffers(30, 10)),
        ..settings(provider)
    }
}

async fn sign(client: &Client, id: &str) -> SignResponse {
    let request = SignRequest {
        id: id.into(),
        input: Some(sign_request::Input::Message(MESSAGE.into())),
        ..SignRequest::default()
    };
    client.sign(request).await.unwrap()
}

async fn verify(client: &Client, id: &str, signature: &[u8]) -> VerifyResponse {
    let request = VerifyRequest {
        id: id.into(),
        input: Some(verify_request::Input::Message(MESSAGE.into())),
        signature: signature.to_vec(),
        ..VerifyRequest::default()
    };
    client.verify(request).await.unwrap()
}

/// Waits until a view is as it should be, and returns it.
async fn wait_for(
    client: &Client,
    id: &str,
    as_it_should: impl Fn(&KeyPairView) -> bool,
) -> KeyPairView {
    let begun = Instant::now();
    loop {
        let view = client.get(id).await.unwrap();
        if as_it_should(&view) {
            return view;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{view:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes down what is published of a key pair.
async fn published(client: &Client, id: &str) -> Vec<(i32, GenerationState)> {
    let request = ListPublicKeysRequest {
        id: id.into(),
        ..ListPublicKeysRequest::default()
    };
    let keys = client.signing().list_public_keys(request).await.unwrap();
    let keys = keys.into_inner().public_keys.into_iter();
    keys.map(|key| (key.generation, key.generation_state()))
        .collect()
}

fn jwks(daemon: &Daemon) -> BTreeSet<String> {
    let set = http::send(daemon, "GET", "/.well-known/jwks.json", &[], b"").json();
    let keys = set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_lives_through_its_rotation_in_both_providers() {
    let token = Token::fresh();
    let clock = ShiftedClock::new();
    let daemon = clock.given_to(Home::hybrid(&token).with(OFTEN)).start();
    let client = daemon.client().await;
    let mut watch = client.watch("hsm", "").await.unwrap();
    for (id, provider) in [
        ("hsm", CryptoProvider::Hsm),
        ("local", CryptoProvider::Local),
    ] {
        let view = client.generate(rotating(id, provider)).await.unwrap();
        let echoed = view.rotation_settings.unwrap();
        assert_eq!(echoed.id, id);
        assert_eq!((echoed.key_algorithm(), echoed.key_size()), ("EC", 256));
        assert_eq!(
            (echoed.signature_algorithm(), echoed.valid_days()),
            ("SHA256withECDSA", 100)
        );
        assert_eq!(echoed.crypto_provider(), provider);
    }
    let first = sign(&client, "hsm").await;
    assert_eq!(first.generation, 1);
    assert_eq!((token.count("Private Key"), jwks(&daemon).len()), (1, 2));

    // Made and published; the former signs.
    clock.set_days_ahead(75);
    for id in ["hsm", "local"] {
        let view = wait_for(&client, id, |view| view.pending.is_some()).await;
        let pending = view.pending.unwrap();
        assert_eq!((view.generation, pending.number), (1, 2));
        let (activates, expires) = (pending.activate_time.unwrap(), view.expires.unwrap());
        // It was late by five days, and is published as long as it would have been.
        assert_eq!((expires.seconds - activates.seconds + 43_200) / 86_400, 5);
        assert_eq!(sign(&client, id).await.generation, 1);
        let states = [(1, GenerationState::Current), (2, GenerationState::Pending)];
        assert_eq!(published(&client, id).await, states);
    }
    assert_eq!(
        (token.count("Private Key"), token.count("Certificate")),
        (2, 2)
    );
    assert_eq!(jwks(&daemon).len(), 4);
    // The warning waits for a clock that is steady, and so the next day waits for the warning.
    for kind in [Type::Created, Type::PendingCreated, Type::Expiring] {
        let event = watch.next().await.unwrap();
        assert_eq!((event.r#type(), event.id.as_str()), (kind, "hsm"));
        let after = event.key_pair.unwrap();
        assert_eq!(after.generation, 1);
        assert_eq!(after.pending.is_some(), kind != Type::Created);
    }

    // It signs, and both are known.
    clock.set_days_ahead(97);
    for id in ["hsm", "local"] {
        let view = wait_for(&client, id, |view| view.generation == 2).await;
        assert_eq!(view.id, id);
        assert_eq!(view.previous.as_ref().unwrap().number, 1);
        let second = sign(&client, id).await;
        assert_eq!(second.generation, 2);
        assert_eq!(
            second.certificate_sha256_fingerprint,
            view.sha256_fingerprint
        );
        OpensslVerifier::new(&view.public_key_pem).accepts(
            SignatureAlgorithm::parse(&second.signature_algorithm).unwrap(),
            MESSAGE,
            &second.signature,
        );
        let verified = verify(&client, id, &second.signature).await;
        assert_eq!(verified.generation_state(), GenerationState::Current);
        let states = [
            (2, GenerationState::Current),
            (1, GenerationState::Previous),
        ];
        assert_eq!(published(&client, id).await, states);
    }
    let verified = verify(&client, "hsm", &first.signature).await;
    assert_eq!((verified.valid, verified.generation), (true, 1));
    assert_eq!(verified.generation_state(), GenerationState::Previous);

    // The former is gone, and so is its key.
    clock.set_days_ahead(102);
    for id in ["hsm", "local"] {
        wait_for(&client, id, |view| view.previous.is_none()).await;
        assert_eq!(
            published(&client, id).await,
            [(2, GenerationState::Current)]
        );
    }
    assert!(!verify(&client, "hsm", &first.signature).await.valid);
    let begun = Instant::now();
    while (token.count("Private Key"), token.count("Certificate")) != (1, 1) {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    let event = watch.next().await.unwrap();
    assert_eq!(
        (event.r#type(), event.id.as_str()),
        (Type::Activated, "hsm")
    );
    let after = event.key_pair.unwrap();
    assert_eq!((after.generation, after.pending.is_some()), (2, false));
    client.delete("hsm").await.unwrap();
    assert_eq!(watch.next().await.unwrap().r#type(), Type::Deleted);
    assert_eq!(
        (token.count("Private Key"), token.count("Certificate")),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_away_delays_the_rotation_and_signing_in_software_does_not_notice() {
    let token = Token::fresh();
    let clock = ShiftedClock::new();
    let home = Home::hybrid(&token).with(OFTEN);
    let daemon = clock.given_to(home).start();
    let client = daemon.client().await;
    for (id, provider) in [
        ("hsm", CryptoProvider::Hsm),
        ("local", CryptoProvider::Local),
    ] {
        client.generate(rotating(id, provider)).await.unwrap();
    }
    let serving = async |expected| {
        let is_so = async || client.serves("rotation").await == expected;
        daemon.wait_until("rotation serves, or not", is_so).await
    };
    let metric = |name: &str| {
        let text = http::send(&daemon, "GET", "/metrics", &[], b"");
        let text = String::from_utf8(text.body).unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{text}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    serving(true).await;
    assert_eq!(metric("keypaird_rotation_overdue"), "0");

    let (here, away) = (token.objects(), token.objects().with_extension("away"));
    std::fs::rename(&here, &away).unwrap();
    let away_is_noticed = async || !client.serves("provider/HSM").await;
    daemon
        .wait_until("provider/HSM ceases", away_is_noticed)
        .await;
    clock.set_days_ahead(75);
    wait_for(&client, "local", |view| view.pending.is_some()).await;
    serving(false).await;
    assert_eq!(metric("keypaird_rotation_overdue"), "1");
    assert_eq!(metric("keypaird_provider_available{provider=\"HSM\"}"), "0");
    assert!(client.serves("keypaird.v1.SigningService").await);
    assert_eq!(sign(&client, "local").await.generation, 1);
    // What the token can do, it says when it is there.
    let other = KeyPairRotationSettings {
        key_algorithm: Some("RSA".into()),
        crypto_provider: CryptoProvider::Hsm.into(),
        ..buffers(30, 10)
    };
    let generate = NewKeyPairSettings {
        rotation_settings: Some(other.clone()),
        ..rotating("other", CryptoProvider::Local)
    };
    for refused in [
        client.update_rotation("hsm", other).await.err(),
        client.generate(generate).await.err(),
    ] {
        let refused = reason(&refused.unwrap());
        assert_eq!(refused, (Code::Unavailable, "PROVIDER_UNAVAILABLE".into()));
    }
    client
        .update_rotation("hsm", buffers(30, 10))
        .await
        .unwrap();
    let line = daemon.wait_for_log("a rotation is overdue; it is tried again");
    assert_eq!(line["key_pair"], "hsm");
    assert_eq!(line["days_left"], 24);

    std::fs::rename(&away, &here).unwrap();
    wait_for(&client, "hsm", |view| view.pending.is_some()).await;
    serving(true).await;
    assert_eq!(metric("keypaird_rotation_overdue"), "0");
    assert_eq!(
        metric("keypaird_rotation_steps_total{action=\"create_pending\"}"),
        "2"
    );
    let mut watch = client.watch("", "e0").await.unwrap();
    let mut kinds = Vec::new();
    while !kinds.contains(&Type::ProviderRecovered) {
        kinds.push(watch.next().await.unwrap().r#type());
    }
    assert!(kinds.contains(&Type::ProviderUnavailable), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_in_the_token_is_made_up_for_as_soon_as_that_is_connected() {
    let token = Token::fresh();
    let clock = ShiftedClock::new();
    let seldom = "rotation.check_interval = \"30m\"";
    let home = clock.given_to(Home::hybrid(&token).with(seldom));
    let daemon = home.start();
    let client = daemon.client().await;
    let hsm = CryptoProvider::Hsm;
    client.generate(rotating("hsm", hsm)).await.unwrap();
    daemon.stop();
    clock.set_days_ahead(75);
    // It is looked at what is due before the token is connected, and not again for half an hour.
    let daemon = home.start();
    let client = daemon.client().await;
    wait_for(&client, "hsm", |view| view.pending.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_changes_nothing_for_those_who_sign() {
    // The module in a process of its own, as it is by default, and in the daemon's.
    let homes: [fn(&Token) -> Home; 2] = [Home::hybrid, |token| Home::hybrid(token).in_process()];
    for home in homes {
        let token = Token::fresh();
        let daemon = home(&token).with(OFTEN).start();
        let client = daemon.client().await;
        for provider in [CryptoProvider::Local, CryptoProvider::Hsm] {
            while_64_sign(&client, provider).await;
        }
    }
}

async fn while_64_sign(client: &Client, provider: CryptoProvider) {
    let id = client.generate(settings(provider)).await.unwrap().id;
    let done = Arc::new(AtomicBool::new(false));
    let signers: Vec<_> = (0..64)
        .map(|_| {
            let (client, id, done) = (client.clone(), id.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut signed = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    signed.push(sign(&client, &id).await);
                }
                signed
            })
        })
        .collect();
    let mut views = vec![client.get(&id).await.unwrap()];
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        // At once, or in two steps.
        if round % 2 == 0 {
            client.rotate(&id, false).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        views.push(client.rotate(&id, true).await.unwrap());
        if round == 3 {
            // The last one is of another kind, and in the token.
            let other = KeyPairRotationSettings {
                key_algorithm: Some("RSA".into()),
                crypto_provider: CryptoProvider::Hsm.into(),
                ..buffers(30, 10)
            };
            client.update_rotation(&id, other).await.unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    done.store(true, Ordering::Relaxed);
    let last = &views[5];
    assert_eq!(
        (last.crypto_provider(), &*last.key_algorithm),
        (CryptoProvider::Hsm, "RSA")
    );
    let verifiers: Vec<_> = views
        .iter()
        .map(|view| OpensslVerifier::new(&view.public_key_pem))
        .collect();
    let keys: Vec<_> = views.iter().map(public_key).collect();
    let message = SigningInput::Message(MESSAGE.to_vec().into());
    let mut seen = [0; 6];
    for signer in signers {
        let signed = signer.await.unwrap();
        let generations = signed.iter().map(|one| one.generation);
        assert!(generations.is_sorted(), "a client saw a generation go back");
        for one in &signed {
            let index = usize::try_from(one.generation - 1).unwrap();
            let algorithm = SignatureAlgorithm::parse(&one.signature_algorithm).unwrap();
            keys[index]
                .verify(algorithm, &message, &one.signature)
                .unwrap();
            let certificate = &views[index].sha256_fingerprint;
            assert_eq!(&one.certificate_sha256_fingerprint, certificate);
            // Others' eyes see now and then one of each generation.
            if seen[index] % 500 == 0 {
                verifiers[index].accepts(algorithm, MESSAGE, &one.signature);
                let verified = verify(client, &id, &one.signature).await;
                assert_eq!(
                    (verified.valid, verified.generation),
                    (true, one.generation)
                );
            }
            seen[index] += 1;
        }
    }
    assert!(
        seen.iter().all(|count| *count > 0),
        "{provider:?}: {seen:?}"
    );
    println!("{provider:?}: {seen:?} signatures by generation, none failed");
}

/// Reads the public key in the certificate of a view.
fn public_key(view: &KeyPairView) -> PublicKey {
    let certificates = certs::read_certificates(view.certificate_pem.as_bytes()).unwrap();
    certs::read(&certificates[0]).unwrap().public_key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_killed_at_any_point_goes_on_and_makes_one_successor() {
    let token = Token::fresh();
    let clock = ShiftedClock::new();
    let home = clock.given_to(Home::hybrid(&token).with(OFTEN));
    let mut daemon = home.start();
    let client = daemon.client().await;
    for n in 0..PAIRS {
        let settings = rotating(&format!("x{n}"), CryptoProvider::Hsm);
        client.generate(settings).await.unwrap();
    }
    let mut interrupted = 0;
    for round in 0..12_u64 {
        // A step of all of them is due; the daemon dies while it does them.
        let (days, keys) = match round % 3 {
            0 => (75, 2),
            1 => (98, 2),
            _ => (102, 1),
        };
        let cycle = u32::try_from(round / 3).unwrap();
        daemon.kill();
        clock.set_days_ahead(cycle * 75 + days);
        daemon = home.start();
        tokio::time::sleep(Duration::from_millis(7 * round)).await;
        daemon.kill();
        let before = token.count("Private Key");
        interrupted += usize::from(!before.is_multiple_of(PAIRS));
        daemon = home.start();
        let client = daemon.client().await;
        let number = i32::try_from(cycle).unwrap() + 1;
        for n in 0..PAIRS {
            let id = format!("x{n}");
            let view = wait_for(&client, &id, |view| match round % 3 {
                0 => view.pending.is_some(),
                1 => view.generation == number + 1,
                _ => view.generation == number + 1 && view.previous.is_none(),
            })
            .await;
            let pending = view.pending.as_ref().map(|one| one.number);
            assert_eq!(
                pending,
                (round % 3 == 0).then_some(number + 1),
                "round {round}, {id}"
            );
            client.signs(&view).await;
        }
        let begun = Instant::now();
        while (token.count("Private Key"), token.count("Certificate"))
            != (keys * PAIRS, keys * PAIRS)
        {
            let count = (token.count("Private Key"), token.count("Certificate"));
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "round {round}: {count:?}"
            );
        }
    }
    println!("{interrupted} of 12 kills left a rotation half done");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_checked_when_they_are_saved() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let id = client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap()
        .id;
    let wrong = KeyPairRotationSettings {
        key_algorithm: Some("EC".into()),
        key_size: Some(2048),
        signature_algorithm: Some("SHA1withRSA".into()),
        valid_days: Some(40_000),
        ..buffers(0, 500)
    };
    let refused = client.update_rotation(&id, wrong).await.unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::InvalidArgument, "VALIDATION_FAILED".into())
    );
    let path = format!("/keyPairs/signing/{id}/rotationSettings");
    let put = |body: &Value| {
        let path = format!("{}{path}", http::BASE);
        let json = [("content-type", "application/json")];
        http::send(&daemon, "PUT", &path, &json, body.to_string().as_bytes())
    };
    let answer = put(
        &json!({"creationBufferDays": 0, "activationBufferDays": 500, "keyAlgorithm": "EC",
        "keySize": 2048, "signatureAlgorithm": "SHA1withRSA", "validDays": 40_000}),
    );
    assert_eq!(answer.status, 422);
    let errors = answer.json()["validationErrors"]
        .as_array()
        .unwrap()
        .clone();
    let fields: Vec<_> = errors
        .iter()
        .map(|error| error["fieldPath"].as_str().unwrap())
        .collect();
    let expected = [
        "keySize",
        "signatureAlgorithm",
        "validDays",
        "creationBufferDays",
        "activationBufferDays",
    ];
    assert_eq!(fields, expected);

    assert_eq!(http::get(&daemon, &path).status, 404);
    let delete = || {
        let path = format!("{}{path}", http::BASE);
        http::send(&daemon, "DELETE", &path, &[], b"")
    };
    assert_eq!(delete().status, 404);
    let saved = put(&json!({"creationBufferDays": 7, "activationBufferDays": 7}));
    assert_eq!(saved.status, 200);
    let complete = json!({"id": id, "creationBufferDays": 7, "activationBufferDays": 7, "keyAlgorithm": "EC",
        "keySize": 256, "signatureAlgorithm": "SHA256withECDSA", "validDays": 365});
    assert_eq!(saved.json(), complete);
    assert_eq!(http::get(&daemon, &path).json(), complete);
    let view = http::get(&daemon, &format!("/keyPairs/signing/{id}")).json();
    assert_eq!(view["rotationSettings"], complete);
    assert_eq!(view.as_object().unwrap().len(), 16);
    let grpc = client.get(&id).await.unwrap().rotation_settings.unwrap();
    assert_eq!((grpc.creation_buffer_days, grpc.valid_days()), (7, 365));
    assert_eq!(grpc.crypto_provider(), CryptoProvider::Hsm);
    assert_eq!(delete().status, 204);
    assert_eq!(http::get(&daemon, &path).status, 404);
    for wrong in [
        json!({"creationBufferDays": "7"}),
        json!([null, 7, 7, null, null, null, null]),
    ] {
        assert_eq!(put(&wrong).status, 400);
    }
    assert_eq!(
        put(&json!({"creationBufferDays": 7, "rotateDaily": true})).status,
        400
    );

    // At generation too.
    let generate = http::post(
        &daemon,
        "/keyPairs/signing/generate",
        &json!({"commonName": "E", "organization": "A", "country": "US", "validDays": 10, "keyAlgorithm": "EC",
            "cryptoProvider": "LOCAL", "rotationSettings": {"creationBufferDays": 10, "activationBufferDays": 1}}),
    );
    assert_eq!(generate.status, 422);
    let error = &generate.json()["validationErrors"][0];
    assert_eq!(error["fieldPath"], "rotationSettings.creationBufferDays");

    // A key pair of a CA is renewed by that CA: the settings end, and there are no others.
    client.update_rotation(&id, buffers(7, 7)).await.unwrap();
    client.rotate(&id, false).await.unwrap();
    let csr = http::get(&daemon, &format!("/keyPairs/signing/{id}/csr"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.csr"), csr.body).unwrap();
    shell(
        folder.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 30
         openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days 20 -out x.crt
         cat ca.crt >> x.crt",
    );
    let answer = client
        .key_pairs()
        .import_csr_response(keypaird::proto::ImportCsrResponseRequest {
            id: id.clone(),
            file_data: std::fs::read(folder.path().join("x.crt")).unwrap(),
            etag: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert!(answer.rotation_settings_ended);
    let certified = answer.key_pair.unwrap();
    assert_eq!(certified.rotation_settings, None);
    // What was pending stays so, and does not begin to sign.
    let pending = certified.pending.unwrap();
    assert_eq!((pending.number, pending.activate_time), (2, None));
    for refused in [
        client.update_rotation(&id, buffers(7, 7)).await.err(),
        client.rotate(&id, true).await.err(),
    ] {
        let refused = reason(&refused.unwrap());
        assert_eq!(
            refused,
            (Code::FailedPrecondition, "NOT_SELF_SIGNED".into())
        );
    }
    let answer = put(&json!({"creationBufferDays": 7, "activationBufferDays": 7}));
    assert_eq!(
        (answer.status, answer.json()["resultId"].clone()),
        (422, json!("validation_error"))
    );
    let missing = client
        .update_rotation("nobody", buffers(7, 7))
        .await
        .unwrap_err();
    assert_eq!(
        reason(&missing),
        (Code::NotFound, "KEY_PAIR_NOT_FOUND".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pending_key_signed_is_accepted_and_said_to_be_its() {
    let token = Token::fresh();
    let daemon = Home::hybrid(&token).start();
    let client = daemon.client().await;
    let id = client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap()
        .id;
    let view = client.rotate(&id, false).await.unwrap();
    assert_eq!((view.generation, view.pending.unwrap().number), (1, 2));
    // keypaird does not sign with it yet. The token does.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let digest = keypaird::domain::Hash::Sha256.digest(MESSAGE);
    std::fs::write(path("digest"), digest).unwrap();
    // The tool chooses a key to sign with by CKA_ID only.
    let listed = pkcs11_tool(&token, &["--list-objects", "--type", "privkey"]);
    let mut lines = listed.lines().map(str::trim);
    assert!(lines.any(|line| line.starts_with("label:") && line.ends_with(&format!("{id}#2"))));
    let key = lines.find_map(|line| line.strip_prefix("ID:"));
    let key = key.unwrap().trim();
    pkcs11_tool(
        &token,
        &[
            "--sign",
            "--mechanism",
            "ECDSA",
            "--signature-format",
            "openssl",
            "--id",
            key,
            "--input-file",
            &path("digest"),
            "--output-file",
            &path("signature"),
        ],
    );
    let verified = verify(&client, &id, &std::fs::read(path("signature")).unwrap()).await;
    assert_eq!((verified.valid, verified.generation), (true, 2));
    assert_eq!(verified.generation_state(), GenerationState::Pending);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_pair_keeps_its_signing_algorithm_until_its_settings_name_another() {
    let daemon = Home::local().start();
    let client = daemon.client().await;
    let made = client.generate(NewKeyPairSettings {
        key_size: Some(384),
        ..rotating("x", CryptoProvider::Unspecified)
    });
    let made = made.await.unwrap();
    // The owner's default of certificates, and what JWS wants of the curve.
    assert_eq!(made.signature_algorithm, "SHA256withECDSA");
    assert_eq!(made.signing_algorithm, "SHA384withECDSA");
    let filled_in = made.rotation_settings.unwrap();
    assert_eq!(filled_in.signature_algorithm(), "SHA256withECDSA");
    let mut expected = "SHA384withECDSA";
    for (what, change, certificate, now) in [
        ("nothing", None, "SHA256withECDSA", "SHA384withECDSA"),
        (
            "what was filled in",
            Some((384, "SHA256withECDSA")),
            "SHA256withECDSA",
            "SHA384withECDSA",
        ),
        (
            "another hash",
            Some((384, "SHA512withECDSA")),
            "SHA512withECDSA",
            "SHA512withECDSA",
        ),
        (
            "the same again",
            Some((384, "SHA512withECDSA")),
            "SHA512withECDSA",
            "SHA512withECDSA",
        ),
        (
            "another curve",
            Some((521, "SHA256withECDSA")),
            "SHA256withECDSA",
            "SHA512withECDSA",
        ),
        (
            "a third curve",
            Some((256, "SHA256withECDSA")),
            "SHA256withECDSA",
            "SHA256withECDSA",
        ),
    ] {
        if let Some((size, algorithm)) = change {
            let settings = KeyPairRotationSettings {
                key_size: Some(size),
                signature_algorithm: Some(algorithm.into()),
                ..filled_in.clone()
            };
            client.update_rotation("x", settings).await.unwrap();
            // Settings are for the next generation.
            assert_eq!(
                client.get("x").await.unwrap().signing_algorithm,
                expected,
                "{what}"
            );
        }
        let view = client.rotate("x", true).await.unwrap();
        assert_eq!(view.signature_algorithm, certificate, "{what}");
        assert_eq!(view.signing_algorithm, now, "{what}");
        let signed = sign(&client, "x").await;
        assert_eq!(signed.signature_algorithm, now, "{what}");
        assert!(
            verify(&client, "x", &signed.signature).await.valid,
            "{what}"
        );
        expected = now;
    }
    let keys = client
        .signing()
        .list_public_keys(ListPublicKeysRequest::default())
        .await;
    let keys = keys.unwrap().into_inner().public_keys.into_iter();
    let algorithms: Vec<_> = keys.map(|key| key.jwk.unwrap().alg).collect();
    // The current one first, then the former ones, the last one first.
    assert_eq!(
        algorithms,
        ["ES256", "ES512", "", "", "ES384", "ES384", "ES384"]
    );
}
