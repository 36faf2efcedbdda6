//! A copy of a store is noticed, and nothing else is taken for one.

use super::super::tests::{intent, intents};
use super::super::{EmbeddedStore, IntentState, MetadataStore};
use super::*;

/// A store in a folder of its own, with a backup.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.database()).unwrap()
    }

    /// Opens the store, and tells whether it takes itself for a copy.
    fn is_copy(&self, history: &str) -> bool {
        *self.open().event_history() != *history
    }

    /// Copies the database as it is now.
    fn copy(&self) -> PathBuf {
        let copy = self.folder.path().join("copy.db");
        let _ = fs::remove_file(&copy);
        let connection = Connection::open(self.database()).unwrap();
        let name = copy.to_str().unwrap();
        connection.execute("VACUUM INTO ?1", [name]).unwrap();
        copy
    }

    /// Copies a file over the database, which keeps its inode number.
    fn copy_back(&self, copy: &Path) {
        fs::copy(copy, self.database()).unwrap();
    }

    fn companion(&self) -> Companion {
        Companion::read(&self.database()).unwrap().unwrap()
    }

    fn set_companion(&self, companion: Companion) {
        companion.write(&self.database()).unwrap();
    }
}

/// Has a store change once.
async fn change(store: &EmbeddedStore, number: u8) {
    let intent = intent(&format!("id-{number}"), number);
    store.begin_creation(intent).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_opened_again_is_no_copy() {
    let stage = Stage::new();
    let store = stage.open();
    let history = store.event_history();
    assert_eq!(history.len(), 32);
    change(&store, 1).await;
    let first = stage.companion().incarnation;
    drop(store);
    for number in 2..5 {
        let store = stage.open();
        assert_eq!(store.event_history(), history);
        assert_ne!(stage.companion().incarnation, first);
        change(&store, number).await;
    }
}

#[tokio::test]
async fn a_former_state_is_noticed_whichever_way_it_came_back() {
    let stage = Stage::new();
    let store = stage.open();
    let history = store.event_history().to_string();
    change(&store, 1).await;
    let copy = stage.copy();
    change(&store, 2).await;
    drop(store);

    // Of the same incarnation, with fewer changes.
    stage.copy_back(&copy);
    let store = stage.open();
    let second = store.event_history().to_string();
    assert_ne!(second, history);
    change(&store, 3).await;
    drop(store);

    // Of an earlier incarnation, with as many changes or more.
    stage.copy_back(&copy);
    assert!(stage.is_copy(&second));

    // As it was last, but another file.
    let last = stage.open().event_history().to_string();
    let moved = stage.folder.path().join("moved.db");
    fs::copy(stage.database(), &moved).unwrap();
    fs::rename(&moved, stage.database()).unwrap();
    assert!(stage.is_copy(&last));

    // Without its companion, or with one that is damaged.
    for damage in [
        |path: PathBuf| fs::remove_file(path).unwrap(),
        |path: PathBuf| fs::write(path, "keypaird-lineage-v1\n").unwrap(),
    ] {
        let last = stage.open().event_history().to_string();
        damage(Companion::path(&stage.database()));
        assert!(stage.is_copy(&last));
        let last = stage.open().event_history().to_string();
        assert!(!stage.is_copy(&last));
    }

    // By `keypaird restore`.
    let last = stage.open().event_history().to_string();
    mark_as_copy(
        &stage.database(),
        &Connection::open(stage.database()).unwrap(),
    )
    .unwrap();
    assert!(stage.is_copy(&last));
}

/// Has the companion say that it was last written earlier than it was.
fn put_back_note(stage: &Stage, seconds: i64) {
    let path = Companion::path(&stage.database());
    let text = fs::read_to_string(&path).unwrap();
    let (head, time) = text.trim_end().rsplit_once(' ').unwrap();
    let noted = time.parse::<i64>().unwrap() - seconds;
    fs::write(&path, format!("{head} {noted:020}\n")).unwrap();
}

#[tokio::test]
async fn a_folder_that_is_put_back_in_place_is_noticed() {
    let stage = Stage::new();
    let store = stage.open();
    change(&store, 1).await;
    store.close().await;
    drop(store);
    let history = stage.open().event_history().to_string();
    let files = [stage.database(), Companion::path(&stage.database())];
    let folder = files.clone().map(|file| fs::read(file).unwrap());
    change(&stage.open(), 2).await;

    // The same files: database and companion agree, and are of the time of the copy.
    for (file, bytes) in files.iter().zip(folder) {
        fs::write(file, bytes).unwrap();
    }
    put_back_note(&stage, 61);
    let store = stage.open();
    assert_ne!(*store.event_history(), history);
    let expected = (1, "id-1".to_owned(), IntentState::Doubtful);
    assert_eq!(intents(&store).await, [expected]);
}

#[tokio::test]
async fn a_note_by_a_clock_that_was_set_since_is_of_no_copy() {
    let stage = Stage::new();
    let history = stage.open().event_history().to_string();
    for seconds in [-86_400, 30] {
        put_back_note(&stage, seconds);
        assert!(!stage.is_copy(&history), "{seconds}");
    }
    change(&stage.open(), 1).await;
    assert!(!stage.is_copy(&history));
}

#[tokio::test]
async fn the_keys_of_a_copy_are_doubtful_for_good_and_those_of_a_killed_daemon_aborted() {
    let expect = |number: u8, state| (number, format!("id-{number}"), state);
    let stage = Stage::new();
    let store = stage.open();
    change(&store, 1).await;
    let copy = stage.copy();
    change(&store, 2).await;
    drop(store);
    let store = stage.open();
    let aborted = [1, 2].map(|number| expect(number, IntentState::Aborted));
    assert_eq!(intents(&store).await, aborted);
    drop(store);

    stage.copy_back(&copy);
    let mut expected = vec![expect(1, IntentState::Doubtful)];
    for number in 3..5 {
        let store = stage.open();
        assert_eq!(intents(&store).await, expected);
        change(&store, number).await;
        expected.push(expect(number, IntentState::Aborted));
    }
}

/// Makes a store as a former release did: without incarnations.
fn former_release(stage: &Stage) {
    let mut connection = open::open(&stage.database()).unwrap();
    open::migrate(&stage.database(), &mut connection).unwrap();
}

#[tokio::test]
async fn the_tokens_of_a_former_release_are_good_until_a_restore() {
    let stage = Stage::new();
    former_release(&stage);
    let copy = stage.copy();
    for number in 1..3 {
        let store = stage.open();
        assert_eq!(&*store.event_history(), "");
        change(&store, number).await;
    }
    // The backup of the former release knows nothing of incarnations either.
    stage.copy_back(&copy);
    let history = stage.open().event_history();
    assert_eq!(history.len(), 32);
    assert!(!stage.is_copy(&history));
}

#[tokio::test]
async fn an_opening_that_is_killed_at_any_point_leaves_no_copy_and_hides_none() {
    let stage = Stage::new();
    let store = stage.open();
    let history = store.event_history().to_string();
    let copy = stage.copy();
    change(&store, 1).await;
    drop(store);
    let opened = stage.companion();
    let next = Some(Incarnation::from_random([9; 16]));

    // The companion names the next incarnation, and the database does not have it yet.
    stage.set_companion(Companion { next, ..opened });
    assert!(!stage.is_copy(&history));

    // The database has it, and the companion is as before.
    let opened = stage.companion();
    drop(stage.open());
    let next = stage.companion().incarnation;
    stage.set_companion(Companion { next, ..opened });
    assert!(!stage.is_copy(&history));

    // A copy is noticed again.
    let of_copy = Companion {
        incarnation: None,
        next: Some(Incarnation::from_random([9; 16])),
        ..stage.companion()
    };
    stage.copy_back(&copy);
    stage.set_companion(of_copy);
    assert!(stage.is_copy(&history));

    // The first opening of a store, new or of a former release.
    let stage = Stage::new();
    former_release(&stage);
    stage.set_companion(Companion {
        inode: fs::metadata(stage.database()).unwrap().ino(),
        progress: Progress::default(),
        ..of_copy
    });
    assert!(!stage.is_copy(""));
}

#[tokio::test]
async fn the_companion_knows_each_change_and_how_much_the_file_has() {
    let stage = Stage::new();
    let store = stage.open();
    let opened = stage.companion().progress;
    assert_eq!(opened.changes, opened.checkpointed);
    for number in 1..=150 {
        change(&store, number).await;
        let changes = stage.companion().progress.changes;
        assert_eq!(changes, opened.changes + u64::from(number));
    }
    store.close().await;
    let closed = stage.companion().progress;
    assert_eq!(closed.changes, opened.changes + 150);
    assert_eq!(closed.changes, closed.checkpointed);
    assert!(!open::beside(&stage.database(), "-wal").exists());
    assert!(matches!(
        store.begin_creation(intent("late", 200)).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        store.due(super::super::tests::NOW, 1).await,
        Err(StoreError::Closed)
    ));
}

#[tokio::test]
async fn a_log_of_another_database_is_refused_and_that_of_its_own_is_not() {
    let stage = Stage::new();
    let store = stage.open();
    change(&store, 1).await;
    let copy = stage.copy();
    for number in 2..=150 {
        change(&store, number).await;
    }
    // The files as a kill leaves them.
    let log = open::beside(&stage.database(), "-wal");
    let (database, its_log) = (fs::read(stage.database()).unwrap(), fs::read(&log).unwrap());
    let companion = stage.companion();
    assert!(companion.progress.checkpointed > 100);
    drop(store);
    let put_back = |database: &[u8]| {
        fs::write(stage.database(), database).unwrap();
        fs::write(&log, &its_log).unwrap();
        stage.set_companion(companion);
    };

    put_back(&database);
    refuse_foreign_log(&stage.database()).unwrap();
    put_back(&fs::read(&copy).unwrap());
    let refused = EmbeddedStore::open(&stage.database()).unwrap_err();
    assert!(
        matches!(refused, StoreError::ForeignLog { .. }),
        "{refused:?}"
    );
    // A file that cannot be read alone says nothing of its log.
    put_back(b"torn");
    refuse_foreign_log(&stage.database()).unwrap();

    put_back(&database);
    let store = stage.open();
    assert_eq!(intents(&store).await.len(), 150);
}

#[tokio::test]
async fn a_damaged_database_is_refused_at_the_start() {
    let stage = Stage::new();
    let store = stage.open();
    for number in 1..=200 {
        change(&store, number).await;
    }
    drop(store);
    let mut database = fs::read(stage.database()).unwrap();
    let pages = database.len() / 4096;
    assert!(pages > 20);
    let last = (pages - 1) * 4096;
    database[last..last + 64].fill(0xff);
    fs::write(stage.database(), database).unwrap();
    let refused = EmbeddedStore::open(&stage.database()).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("keypaird restore"),
        "{refused}"
    );
    let seen = inspect::inspect(&stage.database()).unwrap_err();
    assert!(matches!(seen, StoreError::Damaged { .. }), "{seen:?}");
}

#[tokio::test]
async fn a_log_that_is_removed_under_a_store_ends_all_writing_and_nothing_is_lost() {
    let stage = Stage::new();
    let store = stage.open();
    let history = store.event_history();
    change(&store, 1).await;
    fs::remove_file(open::beside(&stage.database(), "-wal")).unwrap();
    let refused = store.begin_creation(intent("id-2", 2)).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    store.failure().cancelled().await;
    let refused = store.begin_creation(intent("id-3", 3)).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    drop(store);
    // The second is there as well, since it was committed before anyone looked.
    let store = stage.open();
    assert_eq!(store.event_history(), history);
    assert_eq!(intents(&store).await.len(), 2);
}

#[tokio::test]
async fn a_database_that_is_replaced_under_a_store_is_not_written_behind_its_back() {
    let stage = Stage::new();
    let store = stage.open();
    change(&store, 1).await;
    let copy = stage.copy();
    fs::rename(&copy, stage.database()).unwrap();
    let refused = store.begin_creation(intent("id-2", 2)).await;
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
    store.failure().cancelled().await;
}
