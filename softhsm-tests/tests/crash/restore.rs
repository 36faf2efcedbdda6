//! Stores that are restored from a backup: which keys they leave on the token, and what watchers
//! are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keypaird::proto::{
    CryptoProvider, ImportSigningKeyPairRequest, ImportSigningKeyPairSettings, KeyPairView,
    MigrateSigningKeyPairRequest, NewKeyPairSettings,
};
use rand::Rng;
use serde_json::Value;
use softhsm_tests::client::{Client, reason, settings};
use softhsm_tests::daemon::{Daemon, Home, binary};
use softhsm_tests::faults::FaultyModule;
use softhsm_tests::token::Token;
use softhsm_tests::tools::{pkcs11_tool, shell};
use tonic::Code;

fn store(home: &Home) -> PathBuf {
    home.path("keypaird.db")
}

/// Copies the database while a daemon uses it, as `sqlite3 keypaird.db ".backup FILE"` does.
fn copy_online(home: &Home, file: &Path) {
    let from = rusqlite::Connection::open(store(home)).unwrap();
    let mut to = rusqlite::Connection::open(file).unwrap();
    let backup = rusqlite::backup::Backup::new(&from, &mut to).unwrap();
    backup
        .run_to_completion(100, Duration::from_millis(1), None)
        .unwrap();
}

/// Puts a copy in the place of the database, as a careful operator does by hand.
fn copy_back(home: &Home, file: &Path) {
    for left in ["keypaird.db-wal", "keypaird.db-shm"] {
        let _ = fs::remove_file(home.path(left));
    }
    fs::copy(file, store(home)).unwrap();
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command of keypaird, and returns its exit code and all that it says.
fn runs(home: &Home, arguments: &[&str]) -> (i32, String) {
    let output = home.run(arguments);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

fn succeeds(home: &Home, arguments: &[&str]) {
    let (code, said) = runs(home, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
}

fn named(id: &str, provider: CryptoProvider) -> NewKeyPairSettings {
    NewKeyPairSettings {
        id: Some(id.into()),
        ..settings(provider)
    }
}

/// Returns the lines of the log that say this.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["message"] == message)
        .collect()
}

const RESTORED: &str = "the store is a restored copy";
const DOUBTFUL: &str =
    "a key may belong to a key pair that is newer than the restored store; it is left on the token";

/// A call that makes a key on the token.
#[derive(Clone, Copy, Debug)]
enum Making {
    Generate,
    Rotate,
    Import,
    Migrate,
}

impl Making {
    /// Returns the function of the module that makes the key.
    const fn function(self) -> &'static str {
        match self {
            Self::Generate | Self::Rotate => "C_GenerateKeyPair",
            Self::Import | Self::Migrate => "C_CreateObject",
        }
    }

    /// Makes what must be there before.
    async fn prepare(self, client: &Client) {
        let provider = match self {
            Self::Generate | Self::Import => return,
            Self::Rotate => CryptoProvider::Hsm,
            Self::Migrate => CryptoProvider::Local,
        };
        client.generate(named("payments", provider)).await.unwrap();
    }

    async fn call(self, client: Client) -> KeyPairView {
        match self {
            Self::Generate => {
                let wanted = named("payments", CryptoProvider::Hsm);
                client.generate(wanted).await.unwrap()
            }
            Self::Rotate => client.rotate("payments", true).await.unwrap(),
            Self::Import => {
                let folder = tempfile::tempdir().unwrap();
                shell(
                    folder.path(),
                    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k.pem -out c.pem -subj /CN=x -days 9
                     cat k.pem c.pem > x.pem",
                );
                let request = ImportSigningKeyPairRequest {
                    settings: Some(ImportSigningKeyPairSettings {
                        id: Some("payments".into()),
                        file_data: fs::read(folder.path().join("x.pem")).unwrap(),
                        crypto_provider: CryptoProvider::Hsm.into(),
                        ..ImportSigningKeyPairSettings::default()
                    }),
                };
                let answer = client.key_pairs().import_signing_key_pair(request).await;
                answer.unwrap().into_inner().key_pair.unwrap()
            }
            Self::Migrate => {
                let request = MigrateSigningKeyPairRequest {
                    id: "payments".into(),
                    crypto_provider: CryptoProvider::Hsm.into(),
                    ..MigrateSigningKeyPairRequest::default()
                };
                let answer = client.key_pairs().migrate_signing_key_pair(request).await;
                answer.unwrap().into_inner().key_pair.unwrap()
            }
        }
    }
}

/// Returns the `CKA_ID`s of the private keys on a token, in hexadecimal.
fn private_keys(token: &Token) -> Vec<String> {
    let listed = pkcs11_tool(token, &["--list-objects", "--type", "privkey"]);
    let ids = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("ID:"));
    ids.map(|id| id.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_newer_than_a_restored_backup_is_never_destroyed() {
    for making in [
        Making::Generate,
        Making::Rotate,
        Making::Import,
        Making::Migrate,
    ] {
        let token = Token::fresh();
        let module = FaultyModule::new();
        let home = module.given_to(Home::hybrid(&token));
        let copy = home.path("copy.db");
        let daemon = home.start();
        let client = daemon.client().await;
        making.prepare(&client).await;
        let before = private_keys(&token);

        // The copy is made while the token makes the key.
        module.tell(&format!("{} 0 1 block", making.function()));
        let call = tokio::spawn(making.call(client.clone()));
        let begun = async || module.has_struck(0);
        daemon.wait_until("the token makes a key", begun).await;
        // By the commands, or by hand.
        let by_command = matches!(making, Making::Rotate | Making::Import);
        match by_command {
            true => succeeds(&home, &["backup", path(&copy)]),
            false => copy_online(&home, &copy),
        }
        module.mend();
        let view = call.await.unwrap();
        client.signs(&view).await;
        daemon.stop();
        let after = private_keys(&token);
        let newer: Vec<_> = after.iter().filter(|id| !before.contains(id)).collect();
        assert_eq!(newer.len(), 1, "{making:?}");

        match by_command {
            true => succeeds(&home, &["restore", path(&copy)]),
            false => copy_back(&home, &copy),
        }
        let daemon = home.start();
        daemon.wait_for_log("the token and the store were compared");
        let (_, log) = daemon.stop();
        assert_eq!(private_keys(&token), after, "{making:?}\n{log}");
        let said = lines(&log, RESTORED);
        assert_eq!((said.len(), &said[0]["doubtful"]), (1, &1.into()), "{log}");
        let said = lines(&log, DOUBTFUL);
        assert_eq!(said.len(), 1, "{log}");
        assert_eq!(said[0]["key_pair"], "payments");
        assert_eq!(said[0]["cka_id"], newer[0].as_str());

        // The next start is a plain one, and the key is as doubtful as before.
        let daemon = home.start();
        daemon.wait_for_log("the token and the store were compared");
        let (_, log) = daemon.stop();
        assert_eq!(private_keys(&token), after, "{making:?}\n{log}");
        assert!(lines(&log, RESTORED).is_empty(), "{log}");
    }
}

/// Generates software keys until the daemon is gone, and returns how many were acknowledged.
async fn load(client: Client) -> usize {
    let mut acknowledged = 0;
    while client
        .generate(settings(CryptoProvider::Unspecified))
        .await
        .is_ok()
    {
        acknowledged += 1;
    }
    acknowledged
}

/// Starts to generate software keys by a few clients.
async fn under_load(daemon: &Daemon) -> Vec<tokio::task::JoinHandle<usize>> {
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(tokio::spawn(load(daemon.client().await)));
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_daemon_was_killed_at_any_point_is_no_restored_copy() {
    let home = Home::local();
    for kill in 0..30 {
        let daemon = home.start();
        assert!(lines(&daemon.log(), RESTORED).is_empty(), "kill {kill}");
        let clients = under_load(&daemon).await;
        let moment = rand::rng().random_range(0..60);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        daemon.kill();
        for client in clients {
            client.await.unwrap();
        }
    }
    let (_, log) = home.start().stop();
    assert!(lines(&log, RESTORED).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_taken_at_any_point_is_noticed_when_it_is_put_back() {
    for round in 0..12 {
        let home = Home::local();
        let copy = home.path("copy.db");
        let daemon = home.start();
        let client = daemon.client().await;
        let clients = under_load(&daemon).await;
        let moment = rand::rng().random_range(0..80);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        copy_online(&home, &copy);
        // What the copy does not have.
        let newer = client.generate(settings(CryptoProvider::Unspecified)).await;
        let newer = newer.unwrap().id;
        match round % 2 {
            0 => daemon.kill(),
            _ => drop(daemon.stop()),
        }
        for client in clients {
            client.await.unwrap();
        }
        copy_back(&home, &copy);
        let daemon = home.start();
        assert_eq!(lines(&daemon.log(), RESTORED).len(), 1, "round {round}");
        let gone = daemon.client().await.get(&newer).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_token_from_before_a_restore_is_refused() {
    let home = Home::local();
    let copy = home.path("copy.db");
    let daemon = home.start();
    let client = daemon.client().await;
    let mut watch = client.watch("", "").await.unwrap();
    let generate = async |client: &Client, count: usize| {
        let mut last = String::new();
        for _ in 0..count {
            let wanted = settings(CryptoProvider::Unspecified);
            last = client.generate(wanted).await.unwrap().id;
        }
        last
    };
    generate(&client, 3).await;
    copy_online(&home, &copy);
    generate(&client, 3).await;
    for _ in 0..6 {
        watch.next().await.unwrap();
    }
    daemon.stop();
    copy_back(&home, &copy);

    let daemon = home.start();
    let client = daemon.client().await;
    // More events than were lost, so that the number of the token is there again.
    let last = generate(&client, 5).await;
    let refused = client.watch("", &watch.token).await.unwrap_err();
    assert_eq!(
        reason(&refused),
        (Code::InvalidArgument, "VALIDATION_FAILED".into())
    );
    assert!(
        refused.message().contains("was restored from a backup"),
        "{}",
        refused.message()
    );
    // From the beginning, all events are told; and their tokens are good after a restart.
    let mut watch = client.watch("", "e0").await.unwrap();
    for _ in 0..7 {
        watch.next().await.unwrap();
    }
    daemon.stop();
    let daemon = home.start();
    let client = daemon.client().await;
    let mut again = client.watch("", &watch.token).await.unwrap();
    assert_eq!(again.next().await.unwrap().id, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_database_is_noticed_before_it_is_replayed() {
    let home = Home::local();
    let copy = home.path("copy.db");
    let daemon = home.start();
    let client = daemon.client().await;
    let mut made = Vec::new();
    for _ in 0..40 {
        let wanted = settings(CryptoProvider::Unspecified);
        made.push(client.generate(wanted).await.unwrap().id);
    }
    copy_online(&home, &copy);
    for _ in 0..80 {
        let wanted = settings(CryptoProvider::Unspecified);
        client.generate(wanted).await.unwrap();
    }
    for id in &made[..20] {
        client.delete(id).await.unwrap();
    }
    daemon.kill();
    assert!(fs::metadata(home.path("keypaird.db-wal")).unwrap().len() > 0);
    fs::copy(&copy, store(&home)).unwrap();

    for command in [&["serve"][..], &["check-config", "--connect"]] {
        let (code, said) = runs(&home, command);
        assert_eq!(code, 69, "{said}");
        assert!(said.contains("keypaird restore"), "{said}");
    }
    // Nothing was made of it: the database is the backup as yet.
    assert_eq!(fs::read(store(&home)).unwrap(), fs::read(&copy).unwrap());

    succeeds(&home, &["restore", path(&copy)]);
    let daemon = home.start();
    let mut listed: Vec<_> = daemon.client().await.list_all().await;
    listed.sort_by_key(|view| made.iter().position(|id| *id == view.id));
    let listed: Vec<_> = listed.into_iter().map(|view| view.id).collect();
    assert_eq!(listed, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_backed_up_or_restored_is_said_with_an_exit_code() {
    let home = Home::local();
    let copy = home.path("copy.db");
    let backup = ["backup", path(&copy)];
    let restore = ["restore", path(&copy)];
    let says = |arguments: &[&str], expected_code: i32, expected: &str| {
        let (code, said) = runs(&home, arguments);
        assert_eq!(code, expected_code, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    };
    says(&backup, 69, "there is no store at ");
    says(&restore, 1, "copy.db");
    let daemon = home.start();
    let client = daemon.client().await;
    let wanted = settings(CryptoProvider::Unspecified);
    client.generate(wanted).await.unwrap();
    says(&backup, 0, "backed up one key pair to ");
    says(
        &backup,
        1,
        "exists; choose another name, or replace it by --force",
    );
    says(
        &["backup", "--force", path(&copy)],
        0,
        "not in it: the key encryption key",
    );
    says(&restore, 69, "is in use by another keypaird");
    daemon.stop();

    let key = home.path("key-encryption-key");
    let stranger = Home::local();
    stranger.start().stop();
    let right = fs::read(&key).unwrap();
    fs::write(&key, fs::read(stranger.path("key-encryption-key")).unwrap()).unwrap();
    says(&restore, 77, "is not the one that the store was made with");
    fs::remove_file(&key).unwrap();
    says(&restore, 77, "is missing");
    fs::write(&key, right).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let whole = fs::read(&copy).unwrap();
    fs::write(&copy, &whole[..whole.len() / 2]).unwrap();
    says(&restore, 1, "cannot be restored: it is damaged");
    // An encrypted key lacks its last byte, which SQLite does not notice.
    fs::write(&copy, &whole).unwrap();
    rusqlite::Connection::open(&copy)
        .unwrap()
        .execute(
            "UPDATE generations SET sealed_key = substr(sealed_key, 1, length(sealed_key) - 1)",
            (),
        )
        .unwrap();
    says(&restore, 1, "does not decrypt under the key encryption key");
    fs::write(&copy, whole).unwrap();
    says(&restore, 0, "restored one key pair to ");
    let (_, log) = home.start().stop();
    assert_eq!(lines(&log, RESTORED).len(), 1, "{log}");
}

/// Returns the commands below a heading of `OPERATIONS.md`, as they are written there.
fn commands(heading: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/OPERATIONS.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n### {heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_make_a_backup_and_put_it_back() {
    let home = Home::local();
    let backups = tempfile::tempdir().unwrap();
    let mut daemon = Some(home.start());
    let generate = async |daemon: &Option<Daemon>| {
        let client = daemon.as_ref().unwrap().client().await;
        let wanted = settings(CryptoProvider::Unspecified);
        client.generate(wanted).await.unwrap()
    };
    let (config, binaries) = (home.write_config(), binary("keypaird"));
    // The paths of the page are those of an installation.
    let carry_out = |daemon: &mut Option<Daemon>, command: &str| match command {
        "systemctl stop keypaird" => assert!(daemon.take().unwrap().stop().0.success()),
        "systemctl start keypaird" => *daemon = Some(home.start()),
        command => {
            let address = daemon.as_ref().map(|daemon| daemon.address().to_string());
            let here = command
                .replace("/etc/keypaird/keypaird.toml", path(&config))
                .replace("/var/backups", path(backups.path()));
            let environment = format!(
                "export PATH={}:$PATH KEYPAIRCTL_ADDRESS={}\n",
                path(binaries.parent().unwrap()),
                address.unwrap_or_default()
            );
            shell(backups.path(), &(environment + &here));
        }
    };
    let kept = generate(&daemon).await;
    for command in commands("Making a backup") {
        carry_out(&mut daemon, &command);
    }
    let newer = generate(&daemon).await;
    for command in commands("Putting a backup back") {
        carry_out(&mut daemon, &command);
    }
    let daemon = daemon.unwrap();
    let client = daemon.client().await;
    assert_eq!(client.get(&kept.id).await.unwrap(), kept);
    client.signs(&kept).await;
    assert_eq!(
        client.get(&newer.id).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(lines(&daemon.log(), RESTORED).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_leaves_no_log() {
    let home = Home::local();
    for round in 0..14 {
        let daemon = home.start();
        let clients = under_load(&daemon).await;
        let moment = rand::rng().random_range(0..60);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let (status, log) = daemon.stop();
        assert!(status.success());
        for left in ["keypaird.db-wal", "keypaird.db-shm"] {
            assert!(!home.path(left).exists(), "{left}, round {round}\n{log}");
        }
        for client in clients {
            client.await.unwrap();
        }
    }
}
