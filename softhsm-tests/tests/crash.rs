//! The daemon killed at random moments under load, and what is there when it starts again; and stores that are restored.

#[path = "crash/restore.rs"]
mod restore;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keypaird::domain::{ListFilter, ListOrder, ListQuery, PageSize, ProviderKind};
use keypaird::proto::{CryptoProvider, NewKeyPairSettings};
use keypaird::providers::local::{KeyEncryptionKey, LocalProvider};
use keypaird::providers::{CryptoProvider as _, KeyName, StoredKey};
use keypaird::store::{EmbeddedStore, MetadataStore};
use rand::Rng;
use softhsm_tests::client::{Client, settings};
use softhsm_tests::conformance::a_message;
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, run};
use tonic::Code;

/// How often the daemon is killed.
const KILLS: usize = 100;
/// How many clients make and delete key pairs meanwhile.
const CLIENTS: usize = 8;
/// About how many key pairs there are.
const KEPT: usize = 40;

/// What the clients know.
#[derive(Debug, Default)]
struct Known {
    /// Fingerprints of key pairs whose making was acknowledged and whose deletion was not asked for.
    made: HashMap<String, String>,
    /// Key pairs whose deletion was asked for and not acknowledged.
    perhaps_deleted: HashSet<String>,
    /// Key pairs whose deletion was acknowledged.
    deleted: HashSet<String>,
}

/// What was counted over all kills.
#[derive(Debug, Default)]
struct Counts {
    generations_acknowledged: usize,
    deletions_acknowledged: usize,
    cut_off: usize,
    lost: usize,
    damaged: usize,
    undead: usize,
    orphaned_objects: usize,
    whole_without_answer: usize,
    swept: usize,
    cleared: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_orphaned_by_a_hundred_kills() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let known = Arc::new(Mutex::new(Known::default()));
    let counts = Arc::new(Mutex::new(Counts::default()));
    for _ in 0..KILLS {
        let daemon = home.start();
        check(&daemon, &token, &known, &counts).await;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (address, known) = (daemon.address(), Arc::clone(&known));
                let counts = Arc::clone(&counts);
                tokio::spawn(async move {
                    let client = Client::connect(&format!("http://{address}")).await;
                    load(&client, &known, &counts).await;
                })
            })
            .collect();
        let moment = rand::rng().random_range(5..600);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        daemon.kill();
        for client in clients {
            client.await.unwrap();
        }
    }
    let daemon = home.start();
    check(&daemon, &token, &known, &counts).await;
    daemon.stop();
    every_key_signs_what_its_certificate_verifies(&home, &token).await;

    let counts = counts.lock().unwrap();
    println!("{KILLS} kills: {counts:?}");
    assert_eq!(
        (
            counts.lost,
            counts.damaged,
            counts.undead,
            counts.orphaned_objects
        ),
        (0, 0, 0, 0)
    );
    assert!(counts.generations_acknowledged > KILLS && counts.deletions_acknowledged > KILLS);
    assert!(counts.cut_off > KILLS, "the kills must hit calls under way");
}

/// Makes and deletes key pairs until the daemon is gone.
async fn load(client: &Client, known: &Mutex<Known>, counts: &Mutex<Counts>) {
    loop {
        let victim = {
            let mut known = known.lock().unwrap();
            let count = known.made.len();
            let delete = rand::rng().random_range(0..2 * KEPT) < count;
            let id = delete.then(|| known.made.keys().next().cloned()).flatten();
            id.inspect(|id| {
                known.made.remove(id);
                known.perhaps_deleted.insert(id.clone());
            })
        };
        let done = match victim {
            Some(id) => match client.delete(&id).await {
                Ok(()) => {
                    let mut known = known.lock().unwrap();
                    known.perhaps_deleted.remove(&id);
                    known.deleted.insert(id);
                    counts.lock().unwrap().deletions_acknowledged += 1;
                    Ok(())
                }
                Err(status) => Err(status),
            },
            None => match client.generate(wanted()).await {
                Ok(view) => {
                    known
                        .lock()
                        .unwrap()
                        .made
                        .insert(view.id, view.sha256_fingerprint);
                    counts.lock().unwrap().generations_acknowledged += 1;
                    Ok(())
                }
                Err(status) => Err(status),
            },
        };
        if let Err(status) = done {
            // The connection broke; nothing else may go wrong.
            assert!(
                matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Cancelled
                ),
                "{status:?}"
            );
            counts.lock().unwrap().cut_off += 1;
            return;
        }
    }
}

fn wanted() -> NewKeyPairSettings {
    let mut random = rand::rng();
    let provider = match random.random_bool(0.6) {
        true => CryptoProvider::Hsm,
        false => CryptoProvider::Local,
    };
    let key_algorithm = match random.random_range(0..10) {
        0 => "RSA",
        1 | 2 => "ED25519",
        _ => "EC",
    };
    NewKeyPairSettings {
        key_algorithm: key_algorithm.into(),
        ..settings(provider)
    }
}

/// Compares what the clients know with what store and token have.
async fn check(daemon: &Daemon, token: &Token, known: &Mutex<Known>, counts: &Mutex<Counts>) {
    let compared = daemon.wait_for_log("the token and the store were compared");
    let client = daemon.client().await;
    let listed = client.list_all().await;
    let objects = pkcs11_tool(token, &["--list-objects"]);
    let labels_of = |kind: &str| labels(&objects, kind);
    let (private, public, certificate) = (
        labels_of("Private Key"),
        labels_of("Public Key"),
        labels_of("Certificate"),
    );

    let mut known = known.lock().unwrap();
    let mut counts = counts.lock().unwrap();
    counts.swept += usize::try_from(compared["swept"].as_u64().unwrap()).unwrap();
    counts.cleared += usize::try_from(compared["destroyed"].as_u64().unwrap()).unwrap();
    let mut on_token = 0;
    let mut fingerprints = HashMap::new();
    for view in &listed {
        fingerprints.insert(view.id.clone(), view.sha256_fingerprint.clone());
        let hsm = view.crypto_provider() == CryptoProvider::Hsm;
        let expected = usize::from(hsm);
        on_token += expected;
        for labels in [&private, &public, &certificate] {
            let found = labels.iter().filter(|label| **label == view.id).count();
            counts.damaged += usize::from(found != expected);
        }
    }
    let all_objects = objects
        .lines()
        .filter(|line| !line.starts_with(' '))
        .count();
    counts.orphaned_objects += all_objects - 3 * on_token;
    for (id, fingerprint) in &known.made {
        counts.lost += usize::from(fingerprints.get(id) != Some(fingerprint));
    }
    for id in &known.deleted {
        counts.undead += usize::from(fingerprints.contains_key(id));
    }
    // What was committed just before the kill, so that the answer did not get out, is whole and now known;
    // a deletion that was cut off either happened or did not.
    let known = &mut *known;
    for id in known.perhaps_deleted.drain() {
        match fingerprints.get(&id) {
            Some(fingerprint) => {
                known.made.insert(id, fingerprint.clone());
            }
            None => {
                known.deleted.insert(id);
            }
        }
    }
    for (id, fingerprint) in fingerprints {
        if let Entry::Vacant(unknown) = known.made.entry(id) {
            counts.whole_without_answer += 1;
            unknown.insert(fingerprint);
        }
    }
}

fn labels(objects: &str, kind: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut inside = false;
    for line in objects.lines() {
        if !line.starts_with(' ') {
            inside = line.starts_with(&format!("{kind} Object"));
        } else if inside && let Some(label) = line.trim().strip_prefix("label:") {
            labels.push(label.trim().to_owned());
        }
    }
    labels
}

/// Uses every private key that is left: on the token by OpenSC, in software by opening the store.
async fn every_key_signs_what_its_certificate_verifies(home: &Home, token: &Token) {
    let store = EmbeddedStore::open(&home.path("keypaird.db")).unwrap();
    let kek = KeyEncryptionKey::read(&home.path("key-encryption-key")).unwrap();
    let local = LocalProvider::new(kek);
    let page = store
        .list(
            ListQuery {
                filter: ListFilter::default(),
                order: ListOrder::default(),
                page_size: PageSize::parse(1000).unwrap(),
                after: None,
                skip: 0,
                with_total: false,
                with_sharers: false,
            },
            std::time::SystemTime::now().into(),
        )
        .await
        .unwrap();
    assert!(page.next.is_none() && !page.key_pairs.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (message, signature, key) = (path("message"), path("signature"), path("key.pem"));
    std::fs::write(&message, [7; 32]).unwrap();
    let mut used = 0;
    for pair in page.key_pairs {
        let current = &pair.current;
        let spec = current.public_key.spec();
        if pair.provider() == ProviderKind::Local {
            let stored = StoredKey {
                name: KeyName {
                    id: pair.id.clone(),
                    generation: current.number,
                    key_ref: current.key_ref,
                },
                public_key: current.public_key.clone(),
                sealed: store.sealed_key(current.key_ref).await.unwrap(),
            };
            let signed = local
                .sign(&stored, current.signing_algorithm, &a_message())
                .unwrap();
            current
                .public_key
                .verify(current.signing_algorithm, &a_message(), &signed)
                .unwrap();
        } else {
            std::fs::write(&key, current.public_key.pem()).unwrap();
            let id = current.key_ref.to_string();
            let on_token = run_pkcs11_sign(token, &id, spec, &message, &signature);
            if on_token {
                run(
                    "openssl",
                    [
                        "pkeyutl", "-verify", "-pubin", "-inkey", &key, "-in", &message,
                        "-sigfile", &signature,
                    ],
                );
            }
            let stored = path("token.der");
            pkcs11_tool(
                token,
                &[
                    "--read-object",
                    "--type",
                    "cert",
                    "--id",
                    &id,
                    "-o",
                    &stored,
                ],
            );
            assert_eq!(std::fs::read(&stored).unwrap(), current.certificate.der());
        }
        used += 1;
    }
    println!("{used} keys signed");
}

/// Signs a digest with pkcs11-tool, where its version knows the mechanism.
fn run_pkcs11_sign(
    token: &Token,
    id: &str,
    spec: keypaird::domain::KeySpec,
    message: &str,
    signature: &str,
) -> bool {
    let mechanism = match spec.algorithm() {
        keypaird::domain::KeyAlgorithm::Rsa => "RSA-PKCS",
        keypaird::domain::KeyAlgorithm::Ec => "ECDSA",
        keypaird::domain::KeyAlgorithm::Ed25519 => return false,
    };
    let mut arguments = Vec::new();
    arguments.extend(["--sign", "--mechanism", mechanism, "--id", id]);
    arguments.extend(["--input-file", message, "--output-file", signature]);
    arguments.extend(["--signature-format", "openssl"]);
    pkcs11_tool(token, &arguments);
    true
}
