//! Imports and answers of a CA that are killed at any point: the old state is there, or the new
//! one. And backups at any point of what makes keys.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use keypaird::proto::{
    CryptoProvider, GenerateCsrRequest, ImportCsrResponseRequest, ImportSigningKeyPairRequest,
    ImportSigningKeyPairSettings, MigrateSigningKeyPairRequest, NewKeyPairSettings,
};
use serde_json::json;
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::keypairctl;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};
use tonic::{Code, Status};

const KILLS: u64 = 24;

/// How long after a request the daemon is killed: a little later each time, and the last times when it is answered.
const fn patience(round: u64) -> Duration {
    match round + 3 < KILLS {
        true => Duration::from_micros(round * 1200),
        false => Duration::from_millis(700),
    }
}

/// Starts the daemon again after a kill, and waits until it has cleared away what that left.
fn again(home: &Home, daemon: Daemon) -> Daemon {
    daemon.kill();
    let daemon = home.start();
    daemon.wait_for_log("the token and the store were compared");
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_killed_at_any_point_is_whole_or_nothing_of_it_is_left() {
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -subj /CN=x -days 9
         cat k.pem c.pem > x.pem",
    );
    let file_data = fs::read(folder.path().join("x.pem")).unwrap();
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let mut daemon = home.start();
    let (mut there, mut answered) = (0, 0);
    for round in 0..KILLS {
        let client = daemon.client().await;
        let id = format!("x{round}");
        let request = ImportSigningKeyPairRequest {
            settings: Some(ImportSigningKeyPairSettings {
                id: Some(id.clone()),
                file_data: file_data.clone(),
                crypto_provider: CryptoProvider::Hsm.into(),
                ..ImportSigningKeyPairSettings::default()
            }),
        };
        let importing =
            tokio::spawn(async move { client.key_pairs().import_signing_key_pair(request).await });
        tokio::time::sleep(patience(round)).await;
        daemon = again(&home, daemon);
        let acknowledged = importing.await.unwrap().is_ok();
        let client = daemon.client().await;
        match client.get(&id).await {
            Ok(view) => {
                client.signs(&view).await;
                there += 1;
                answered += usize::from(acknowledged);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound);
                assert!(!acknowledged, "an acknowledged import was lost");
            }
        }
        let kept = (token.count("Private Key"), token.count("Certificate"));
        assert_eq!(kept, (there, there), "after kill {round}");
    }
    println!("{there} of {KILLS} imports are there, {answered} of them were answered");
    assert!(there > 0, "every kill came before its import");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_ca_killed_at_any_point_is_taken_or_not_on_the_token_too() {
    let token = Token::fresh();
    let home = Home::hybrid(&token);
    let mut daemon = home.start();
    let client = daemon.client().await;
    let id = client
        .generate(settings(CryptoProvider::Hsm))
        .await
        .unwrap()
        .id;
    let request = GenerateCsrRequest {
        id: id.clone(),
        ..GenerateCsrRequest::default()
    };
    let csr = client
        .key_pairs()
        .generate_csr(request)
        .await
        .unwrap()
        .into_inner()
        .csr_pem;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.csr"), csr).unwrap();
    shell(
        folder.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=CA -days 30
         for n in 0 1; do
             openssl x509 -req -in x.csr -CA ca.crt -CAkey ca.key -days 2$n -out $n.crt
             openssl x509 -in $n.crt -outform DER -out $n.der; cat ca.crt >> $n.crt
         done",
    );
    let mut current = String::new();
    let (mut taken, mut answered) = (0, 0);
    // The one that the key pair does not have.
    let mut next = 0;
    for round in 0..KILLS {
        let client = daemon.client().await;
        let request = ImportCsrResponseRequest {
            id: id.clone(),
            file_data: fs::read(folder.path().join(format!("{next}.crt"))).unwrap(),
            etag: String::new(),
        };
        let taking =
            tokio::spawn(async move { client.key_pairs().import_csr_response(request).await });
        tokio::time::sleep(patience(round)).await;
        daemon = again(&home, daemon);
        let acknowledged = taking.await.unwrap().is_ok();
        let client = daemon.client().await;
        let view = client.get(&id).await.unwrap();
        client.signs(&view).await;
        let is_new = view.sha256_fingerprint != current;
        assert!(is_new || !acknowledged, "an acknowledged answer was lost");
        taken += usize::from(is_new);
        next = (next + usize::from(is_new)) % 2;
        answered += usize::from(acknowledged);
        current = view.sha256_fingerprint;
        // The token's copy is that certificate, and the only one.
        let begun = Instant::now();
        while on_token(&token, folder.path(), &id) != current {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "after kill {round}"
            );
        }
        assert_eq!(
            (token.count("Private Key"), token.count("Certificate")),
            (1, 1),
            "after kill {round}"
        );
    }
    println!("{taken} of {KILLS} answers were taken, {answered} of them were answered");
}

/// Returns the fingerprint of the certificate of a key pair on the token.
fn on_token(token: &Token, folder: &Path, label: &str) -> String {
    let path = folder.join("on-token.der");
    let out = path.to_str().unwrap();
    pkcs11_tool(
        token,
        &[
            "--read-object",
            "--type",
            "cert",
            "--label",
            label,
            "--output-file",
            out,
        ],
    );
    shell(
        folder,
        "openssl x509 -inform DER -in on-token.der -noout -fingerprint -sha256 > fingerprint",
    );
    let said = fs::read_to_string(folder.join("fingerprint")).unwrap();
    said.trim().rsplit('=').next().unwrap().replace(':', "")
}

/// What makes a key on the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Making {
    Generate,
    Rotate,
    Import,
    Migrate,
}

impl Making {
    /// Makes the key, under the id `x`.
    async fn run(self, client: Client, file_data: Vec<u8>) -> Result<(), Status> {
        match self {
            Self::Generate => client
                .generate(named_x(CryptoProvider::Hsm))
                .await
                .map(drop),
            Self::Rotate => client.rotate("x", false).await.map(drop),
            Self::Import => {
                let settings = ImportSigningKeyPairSettings {
                    id: Some("x".into()),
                    file_data,
                    crypto_provider: CryptoProvider::Hsm.into(),
                    ..ImportSigningKeyPairSettings::default()
                };
                let request = ImportSigningKeyPairRequest {
                    settings: Some(settings),
                };
                let imported = client.key_pairs().import_signing_key_pair(request).await;
                imported.map(drop)
            }
            Self::Migrate => {
                let request = MigrateSigningKeyPairRequest {
                    id: "x".into(),
                    crypto_provider: CryptoProvider::Hsm.into(),
                    etag: String::new(),
                };
                let migrated = client.key_pairs().migrate_signing_key_pair(request).await;
                migrated.map(drop)
            }
        }
    }

    /// Where the token is held up in the middle of it: a function, and how many calls of it come
    /// before.
    fn points(self) -> [(&'static str, u64); 2] {
        match self {
            Self::Generate | Self::Rotate => [("C_GenerateKeyPair", 0), ("C_GetAttributeValue", 0)],
            Self::Import | Self::Migrate => [("C_CreateObject", 0), ("C_CreateObject", 1)],
        }
    }
}

fn named_x(provider: CryptoProvider) -> NewKeyPairSettings {
    NewKeyPairSettings {
        id: Some("x".into()),
        ..settings(provider)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_being_made_at_the_backup_is_left_alone_by_the_restored_store() {
    let folder = tempfile::tempdir().unwrap();
    shell(
        folder.path(),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -subj /CN=x -days 9
         cat k.pem c.pem > x.pem",
    );
    let file_data = fs::read(folder.path().join("x.pem")).unwrap();
    for making in [
        Making::Generate,
        Making::Rotate,
        Making::Import,
        Making::Migrate,
    ] {
        for point in making.points() {
            restore_in_the_middle(making, point, &file_data).await;
        }
    }
}

/// Takes a backup while a key is being made, has it made to the end, and goes back to the backup.
async fn restore_in_the_middle(making: Making, (function, skip): (&str, u64), file_data: &[u8]) {
    let what = format!("{making:?}, {function} {skip}");
    let (token, module) = (Token::fresh(), FaultyModule::new());
    let home = module.given_to(Home::hybrid(&token));
    let daemon = home.start();
    daemon.wait_for_log("the token and the store were compared");
    let client = daemon.client().await;
    match making {
        Making::Rotate => drop(client.generate(named_x(CryptoProvider::Hsm)).await.unwrap()),
        Making::Migrate => drop(
            client
                .generate(named_x(CryptoProvider::Local))
                .await
                .unwrap(),
        ),
        Making::Generate | Making::Import => {}
    }
    module.tell(&format!("{function} {skip} 1 block"));
    let call = tokio::spawn(making.run(daemon.client().await, file_data.to_vec()));
    daemon
        .wait_until(&what, async || module.has_struck(skip))
        .await;
    let (database, copy) = (home.path("keypaird.db"), home.path("copy.db"));
    let backup = rusqlite::Connection::open(&database).unwrap();
    let into = copy.to_str().unwrap();
    backup.execute("VACUUM INTO ?1", [into]).unwrap();
    drop(backup);
    module.mend();
    call.await.unwrap().unwrap();
    client.signs(&client.get("x").await.unwrap()).await;
    let keys = token.count("Private Key");
    daemon.stop();

    for suffix in ["keypaird.db-wal", "keypaird.db-shm"] {
        let _ = fs::remove_file(home.path(suffix));
    }
    fs::rename(&copy, &database).unwrap();
    let daemon = home.start();
    daemon.wait_for_log("the token and the store were compared");
    assert_eq!(token.count("Private Key"), keys, "{what}: a key is lost");
    let logged = daemon.wait_for_log("a key is doubtful, and is neither used nor destroyed");
    let cka_id = logged["cka_id"].as_str().unwrap().to_owned();
    assert_eq!(logged["key_pair"], "x", "{what}");
    let listed = keypairctl::json(&daemon, &["--output", "json", "doubtful-keys", "list"]);
    assert_eq!(listed["doubtfulKeys"][0]["privateKeyId"], cka_id, "{what}");
    // A client that knows nothing of us sees the same.
    let seen = daemon.grpcurl().key_pairs("ListDoubtfulKeys", &json!({}));
    assert_eq!(seen.unwrap(), listed, "{what}");
    let doctor = keypairctl::run(&daemon, &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "{what}");
    assert!(
        keypairctl::out(&doctor).contains("1 key is doubtful"),
        "{what}"
    );

    let client = daemon.client().await;
    if matches!(making, Making::Generate | Making::Import) {
        let refused = client.generate(named_x(CryptoProvider::Local)).await;
        let (code, said) = reason(&refused.unwrap_err());
        assert_eq!((code, &*said), (Code::AlreadyExists, "KEY_PAIR_EXISTS"));
        // A token without a key pair of ours to try it with is connected anew now and then, and
        // callers are told to come again meanwhile.
        let link = [
            "link",
            "--private-key-id",
            &cka_id,
            "--id",
            "x",
            "--retry",
            "30s",
        ];
        keypairctl::succeeded(&daemon, &link);
        client.signs(&client.get("x").await.unwrap()).await;
        assert_eq!(token.count("Private Key"), keys, "{what}");
    } else {
        if matches!(making, Making::Rotate) {
            let destroy = json!({"privateKeyId": cka_id});
            let destroyed = daemon.grpcurl().key_pairs("DestroyDoubtfulKey", &destroy);
            assert_eq!(destroyed.unwrap(), json!({}), "{what}");
        } else {
            let destroy = [
                "doubtful-keys",
                "destroy",
                &cka_id,
                "--yes",
                "--retry",
                "30s",
            ];
            keypairctl::succeeded(&daemon, &destroy);
        }
        client.signs(&client.get("x").await.unwrap()).await;
        assert_eq!(token.count("Private Key"), keys - 1, "{what}");
    }
    let listed = keypairctl::succeeded(&daemon, &["doubtful-keys", "list"]);
    assert_eq!(listed, "There are no doubtful keys.\n", "{what}");
}
