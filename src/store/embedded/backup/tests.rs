//! Backups are whole, private, and put back whole.

use std::os::unix::fs::PermissionsExt;

use time::macros::datetime;

use super::super::tests::{intent, intents, new, pair};
use super::super::{EmbeddedStore, IntentState, MetadataStore};
use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-30 19:24:13 UTC);

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.path("store.db")).unwrap()
    }

    fn back_up(&self) -> Result<u64, BackupError> {
        back_up(&self.path("store.db"), &self.path("copy.db"), false)
    }

    fn restore(&self) -> Result<Restored, BackupError> {
        BackupFile::open(&self.path("copy.db"))?.restore(&self.path("store.db"), NOW)
    }

    /// Returns the names of the files that begin so.
    fn files(&self, begin: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(begin))
            .collect();
        names.sort();
        names
    }
}

async fn add(store: &EmbeddedStore, number: u8) {
    let pair = pair(&format!("id-{number}"), [number; 16]);
    store.complete_creation(new(pair)).await.unwrap();
}

#[tokio::test]
async fn a_store_is_backed_up_while_it_is_used_and_put_back() {
    let stage = Stage::new();
    let store = stage.open();
    let history = store.event_history();
    add(&store, 1).await;
    add(&store, 2).await;
    assert_eq!(stage.back_up().unwrap(), 2);
    let mode = fs::metadata(stage.path("copy.db")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert_eq!(stage.files("copy"), ["copy.db"]);
    assert!(matches!(stage.back_up(), Err(BackupError::Exists(_))));
    add(&store, 3).await;
    let replaced = back_up(&stage.path("store.db"), &stage.path("copy.db"), true);
    assert_eq!(replaced.unwrap(), 3);
    add(&store, 4).await;

    // Not while it is used.
    assert!(matches!(
        stage.restore(),
        Err(BackupError::Store(StoreError::InUse(_)))
    ));
    drop(store);
    let restored = stage.restore().unwrap();
    assert_eq!(restored.key_pairs, 3);
    let former = stage.path("store.db.before-restore-20261130T192413Z");
    assert_eq!(restored.former, Some(former.clone()));
    assert_eq!(
        back_up(&former, &stage.path("former.db"), false).unwrap(),
        4
    );
    assert_eq!(stage.files("copy"), ["copy.db"]);

    let store = stage.open();
    assert_eq!(
        store.count(crate::domain::ProviderKind::Hsm).await.unwrap(),
        3
    );
    assert_ne!(store.event_history(), history);
    // A store at rest is backed up as well, and nothing is left beside it.
    store.close().await;
    drop(store);
    let again = back_up(&stage.path("store.db"), &stage.path("again.db"), false);
    assert_eq!(again.unwrap(), 3);
    assert!(!stage.path("store.db-wal").exists() && !stage.path("store.db-shm").exists());
}

#[tokio::test]
async fn a_restore_takes_the_log_of_the_former_store_away_and_keeps_it() {
    let stage = Stage::new();
    let store = stage.open();
    add(&store, 1).await;
    stage.back_up().unwrap();
    for number in 2..150 {
        add(&store, number).await;
    }
    let killed = ["store.db", "store.db-wal"].map(|name| fs::read(stage.path(name)).unwrap());
    drop(store);
    fs::write(stage.path("store.db"), &killed[0]).unwrap();
    fs::write(stage.path("store.db-wal"), &killed[1]).unwrap();
    let former = stage.restore().unwrap().former.unwrap();
    assert!(!stage.path("store.db-wal").exists());
    // With its log the former store is whole.
    let count = |path: &Path| count_key_pairs(&Connection::open(path).unwrap()).unwrap();
    assert_eq!(count(&former), 149);
    drop(stage.open());
    assert_eq!(count(&stage.path("store.db")), 1);
    assert_eq!(stage.files("store.db.restoring"), [""; 0]);
}

#[tokio::test]
async fn a_restore_that_is_interrupted_is_refused_or_whole() {
    let stage = Stage::new();
    let store = stage.open();
    store.begin_creation(intent("x", 1)).await.unwrap();
    stage.back_up().unwrap();
    let log = fs::read(stage.path("store.db-wal")).unwrap();
    drop(store);
    let connection = Connection::open(stage.path("copy.db")).unwrap();

    // Marked, and the former database is there with its log.
    lineage::mark_as_copy(&stage.path("store.db"), &connection).unwrap();
    fs::write(stage.path("store.db-wal"), &log).unwrap();
    let opened = EmbeddedStore::open(&stage.path("store.db"));
    assert!(matches!(opened, Err(StoreError::ForeignLog { .. })));
    // The new database is there, and the log as yet.
    fs::copy(stage.path("copy.db"), stage.path("store.db")).unwrap();
    let opened = EmbeddedStore::open(&stage.path("store.db"));
    assert!(matches!(opened, Err(StoreError::ForeignLog { .. })));
    // The restore is made again.
    fs::write(stage.path("store.db.restoring"), "half").unwrap();
    stage.restore().unwrap();
    let doubtful = (1, "x".to_owned(), IntentState::Doubtful);
    assert_eq!(intents(&stage.open()).await, [doubtful]);
}

#[tokio::test]
async fn a_backup_is_put_where_no_store_was() {
    let stage = Stage::new();
    let store = stage.open();
    add(&store, 1).await;
    stage.back_up().unwrap();
    let elsewhere = stage.path("new/folder/store.db");
    let backup = BackupFile::open(&stage.path("copy.db")).unwrap();
    let restored = backup.restore(&elsewhere, NOW).unwrap();
    assert_eq!(restored.former, None);
    let there = EmbeddedStore::open(&elsewhere).unwrap();
    assert_ne!(there.event_history(), store.event_history());
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused_and_the_store_stays() {
    let stage = Stage::new();
    let store = stage.open();
    for number in 1..100 {
        add(&store, number).await;
    }
    stage.back_up().unwrap();
    drop(store);
    let before = fs::read(stage.path("store.db")).unwrap();
    let copy = fs::read(stage.path("copy.db")).unwrap();
    let refused = |expected: &str| {
        let refused = stage.restore().unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(fs::read(stage.path("store.db")).unwrap(), before);
        assert_eq!(stage.files("store.db.before").len(), 0);
    };

    let mut damaged = copy.clone();
    let middle = copy.len() / 2 / 4096 * 4096;
    damaged[middle..middle + 64].fill(0xff);
    fs::write(stage.path("copy.db"), damaged).unwrap();
    refused("it is damaged");
    fs::write(stage.path("copy.db"), &copy[..copy.len() - 4096]).unwrap();
    refused("it is damaged");
    for other in ["", "this is no database, it is a letter"] {
        fs::write(stage.path("copy.db"), other).unwrap();
        refused("it is no store of keypaird");
    }
    fs::remove_file(stage.path("copy.db")).unwrap();
    let foreign = Connection::open(stage.path("copy.db")).unwrap();
    foreign
        .execute_batch("CREATE TABLE letters (text TEXT); PRAGMA user_version = 2")
        .unwrap();
    refused("it is no store of keypaird");
    foreign.pragma_update(None, "user_version", 99).unwrap();
    refused("cannot be restored by this version");
    drop(foreign);
    fs::remove_file(stage.path("copy.db")).unwrap();
    refused("cannot be used");
}

#[test]
fn a_store_that_is_missing_and_a_backup_over_the_store_itself_are_refused() {
    let stage = Stage::new();
    assert!(matches!(
        stage.back_up(),
        Err(BackupError::Store(StoreError::Missing(_)))
    ));
    drop(stage.open());
    let store = stage.path("store.db");
    assert!(matches!(
        back_up(&store, stage.folder.path(), true),
        Err(BackupError::IsFolder(_))
    ));
    assert!(matches!(
        back_up(&store, &store, true),
        Err(BackupError::IsStore(_))
    ));
    // Nor is anything else that the store needs, there or not, or any file that is no backup.
    for member in ["-wal", "-shm", ".lock", ".lineage"] {
        let path = open::beside(&store, member);
        assert!(matches!(
            back_up(&store, &path, true),
            Err(BackupError::IsStore(_))
        ));
    }
    let key = stage.path("key-encryption-key");
    for contents in ["", "a key"] {
        fs::write(&key, contents).unwrap();
        std::os::unix::fs::symlink(&key, stage.path("link")).unwrap();
        for path in [&key, &stage.path("link")] {
            assert!(matches!(
                back_up(&store, path, true),
                Err(BackupError::NoBackup(_))
            ));
        }
        fs::remove_file(stage.path("link")).unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), contents);
    }
    let itself = BackupFile::open(&store).unwrap().restore(&store, NOW);
    assert!(matches!(itself, Err(BackupError::IsStore(_))));
    assert_eq!(stage.files("copy"), [""; 0]);
}

#[tokio::test]
async fn each_software_key_of_a_backup_is_shown_before_it_is_put_back() {
    let stage = Stage::new();
    let store = stage.open();
    add(&store, 1).await;
    for number in 2..5 {
        let mut made = new(pair(&format!("id-{number}"), [number; 16]));
        made.sealed_key = Some(SealedKey::from_bytes([number; 100]));
        store.complete_creation(made).await.unwrap();
    }
    stage.back_up().unwrap();
    let backup = BackupFile::open(&stage.path("copy.db")).unwrap();
    let shown = std::cell::RefCell::new(Vec::new());
    let all = backup.check_software_keys(|id, _, key_ref, sealed| {
        shown
            .borrow_mut()
            .push((id.to_string(), sealed.as_bytes()[0]));
        key_ref.as_bytes()[0] == sealed.as_bytes()[0]
    });
    all.unwrap();
    let mut shown = shown.into_inner();
    shown.sort();
    assert_eq!(
        shown,
        [2, 3, 4].map(|number| (format!("id-{number}"), number))
    );
    let one = backup.check_software_keys(|_, _, _, sealed| sealed.as_bytes()[0] != 3);
    let refused = one.unwrap_err().to_string();
    assert!(
        refused.contains("copy.db has a private key of the key pair id-3"),
        "{refused}"
    );
}
