//! The store in a SQLite database of its own.
//!
//! Write-ahead log, `synchronous = FULL`: a commit survives a power cut. One thread writes, and commits
//! together what came in meanwhile; reads run beside it on connections of their own. Lists go from key to
//! key, never by offset.

mod backup;
mod change;
mod companion;
mod counts;
mod events;
mod generation;
mod ids;
mod inspect;
mod intents;
mod lineage;
mod list;
mod open;
mod reader;
mod requests;
mod rows;
mod sharing;
mod snapshots;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params, params_from_iter};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    AnsweredRequest, Change, DiskSpace, Incarnation, Intent, IntentState, KnownKey, MetadataStore,
    NewIntent, NewKeyPair, Page, SharedKey, StoreError,
};
use crate::domain::{
    Certificate, Event, EventKind, KeyOrigin, KeyPair, KeyPairId, KeyRef, ListFilter, ListQuery,
    ProviderKind, RequestId, SealedKey,
};
pub use backup::{BackupError, BackupFile, Restored, back_up};
use change::Removal;
pub use inspect::inspect;
use reader::Readers;
use writer::Writer;

/// A store in one SQLite database, used by one daemon at a time.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
    news: watch::Sender<()>,
    /// What tells this opening of the store from all others.
    incarnation: Incarnation,
    history: Arc<str>,
    /// Held as long as the store is open.
    _lock: open::Lock,
}

impl EmbeddedStore {
    /// Opens the database, makes it if it is missing, and brings its schema up to date.
    ///
    /// Keys that an earlier opening was making are given up; in a restored copy all keys that no key
    /// pair has are doubtful. A database that is in use, damaged or of a later version is refused.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = lineage::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            readers: Readers::new(path)?,
            news: watch::Sender::new(()),
            incarnation: opened.incarnation,
            history: opened.history,
            writer: opened.writer,
            _lock: opened.lock,
        })
    }

    /// Ends reading and writing, and leaves the database in one file, without a log beside it.
    ///
    /// Waits for the reads and writes that were asked for before. Later ones are refused with
    /// [`StoreError::Closed`].
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Writes what those are told of who watch.
    async fn write_news<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.writer.write(work).await?;
        self.news.send_replace(());
        Ok(done)
    }
}

#[async_trait]
impl MetadataStore for EmbeddedStore {
    async fn begin_creation(&self, intent: NewIntent) -> Result<(), StoreError> {
        let owner = self.incarnation;
        self.writer
            .write(move |db| {
                ids::take_id(db, &intent.id)?;
                intents::begin(db, intent, owner)
            })
            .await
    }

    async fn complete_creation(&self, made: NewKeyPair) -> Result<(), StoreError> {
        let owner = self.incarnation;
        self.write_news(move |db| {
            let pair = &made.key_pair;
            match made.intent {
                Some(key_ref) if key_ref != pair.current.key_ref => {
                    return Err(StoreError::IntentGone);
                }
                Some(key_ref) => intents::complete(db, key_ref, &pair.id, owner)?,
                None => ids::take_key_and_id(db, pair)?,
            }
            rows::insert_key_pair(db, pair, made.sealed_key.as_ref())?;
            let event = match pair.origin() {
                KeyOrigin::Generated => EventKind::Created,
                KeyOrigin::Imported | KeyOrigin::Linked => EventKind::Imported,
            };
            events::insert(db, event, pair.create_time, &pair.id, Some(pair))?;
            match &made.request {
                Some(request) => requests::insert(db, request),
                None => Ok(()),
            }
        })
        .await
    }

    async fn begin_succession(&self, intent: NewIntent) -> Result<(), StoreError> {
        let owner = self.incarnation;
        self.writer
            .write(move |db| match intents::has_key_pair(db, &intent.id)? {
                true => intents::begin(db, intent, owner),
                false => Err(StoreError::IdGone),
            })
            .await
    }

    async fn replace(
        &self,
        was: &KeyPair,
        becomes: &KeyPair,
        change: Change,
    ) -> Result<bool, StoreError> {
        let (was, becomes, owner) = (was.clone(), becomes.clone(), self.incarnation);
        self.write_news(move |db| {
            let sealed_key = change.sealed_key.as_ref();
            let replaced = change::replace(db, &was, &becomes, sealed_key, owner)?;
            if let Some(event) = change.event.filter(|_| replaced) {
                events::insert(db, event, change.time, &becomes.id, Some(&becomes))?;
            }
            Ok(replaced)
        })
        .await
    }

    async fn unpublished(
        &self,
        id: Option<&KeyPairId>,
    ) -> Result<Vec<(KeyPairId, KeyRef)>, StoreError> {
        let id = id.cloned();
        self.readers
            .read(move |db| {
                let (of_one, of_all) = (
                    "SELECT key_pairs.id, generations.key_ref FROM key_pairs
                     JOIN generations ON generations.key_pair = key_pairs.sequence
                     JOIN unpublished ON unpublished.key_ref = generations.key_ref
                     WHERE key_pairs.id = ?1",
                    "SELECT key_pairs.id, generations.key_ref FROM unpublished
                     JOIN generations ON generations.key_ref = unpublished.key_ref
                     JOIN key_pairs ON key_pairs.sequence = generations.key_pair",
                );
                let mut statement =
                    db.prepare_cached(if id.is_some() { of_one } else { of_all })?;
                let id = id.as_ref().map(KeyPairId::as_str);
                let mut rows = statement.query(params_from_iter(id))?;
                let mut keys = Vec::new();
                while let Some(row) = rows.next()? {
                    keys.push((rows::id(row, 0)?, rows::key_ref(row, 1)?));
                }
                Ok(keys)
            })
            .await
    }

    async fn note_published(
        &self,
        key_ref: KeyRef,
        certificate: &Certificate,
    ) -> Result<(), StoreError> {
        let certificate = certificate.clone();
        self.writer
            .write(move |db| {
                // Not if it was replaced again meanwhile.
                db.prepare_cached(
                    "DELETE FROM unpublished WHERE key_ref = ?1
                     AND EXISTS (SELECT 1 FROM generations WHERE key_ref = ?1 AND certificate = ?2)",
                )?
                .execute(params![key_ref.as_bytes(), certificate.der()])?;
                Ok(())
            })
            .await
    }

    async fn due(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<KeyPairId>, StoreError> {
        self.readers
            .read(move |db| {
                let mut statement = db.prepare_cached(
                    "SELECT id FROM key_pairs WHERE due <= ?1 ORDER BY due LIMIT ?2",
                )?;
                let mut rows = statement.query(params![now.unix_timestamp(), limit])?;
                let mut ids = Vec::new();
                while let Some(row) = rows.next()? {
                    ids.push(rows::id(row, 0)?);
                }
                Ok(ids)
            })
            .await
    }

    async fn count_due(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        self.readers
            .read(move |db| counts::count_due(db, before))
            .await
    }

    async fn unwarned(
        &self,
        now: OffsetDateTime,
        days: &[u16],
        limit: u32,
    ) -> Result<Vec<(KeyPairId, u16)>, StoreError> {
        let mut days = days.to_vec();
        days.sort_unstable();
        self.readers
            .read(move |db| events::unwarned(db, now, &days, limit))
            .await
    }

    async fn note_warning(
        &self,
        key_pair: &KeyPair,
        days: u16,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let key_pair = key_pair.clone();
        self.write_news(move |db| events::warn(db, &key_pair, days, time))
            .await
    }

    async fn note_provider_event(
        &self,
        kind: EventKind,
        provider: ProviderKind,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        self.write_news(move |db| events::insert_of_provider(db, kind, time, provider))
            .await
    }

    async fn events_after(&self, sequence: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.readers
            .read_history(move |db| events::after(db, sequence, limit))
            .await
    }

    async fn event_span(&self) -> Result<(i64, i64), StoreError> {
        self.readers.read(events::span).await
    }

    fn event_history(&self) -> Arc<str> {
        Arc::clone(&self.history)
    }

    async fn forget_events(&self, before: OffsetDateTime) -> Result<(), StoreError> {
        // A few at a time, so that other writes do not wait for a month of events.
        while self
            .writer
            .write(move |db| events::forget_some(db, before))
            .await?
        {}
        Ok(())
    }

    async fn request_time(&self) -> Result<Option<OffsetDateTime>, StoreError> {
        self.readers.read(requests::time).await
    }

    async fn forget_requests(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        self.writer.write(move |db| requests::forget(db, now)).await
    }

    fn event_news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    fn failure(&self) -> CancellationToken {
        self.writer.failure().clone()
    }

    async fn abort_creation(
        &self,
        key_ref: KeyRef,
        remains: IntentState,
    ) -> Result<Option<Intent>, StoreError> {
        self.writer
            .write(move |db| intents::abort(db, key_ref, remains))
            .await
    }

    async fn intent(&self, key_ref: KeyRef) -> Result<Option<Intent>, StoreError> {
        self.readers
            .read(move |db| intents::find(db, key_ref))
            .await
    }

    async fn intents(&self) -> Result<Vec<Intent>, StoreError> {
        self.readers.read(intents::all).await
    }

    async fn doubt(&self, key_ref: KeyRef) -> Result<(), StoreError> {
        self.writer
            .write(move |db| intents::doubt(db, key_ref))
            .await
    }

    async fn schedule_destruction(&self, key_ref: KeyRef) -> Result<Option<Intent>, StoreError> {
        self.writer
            .write(move |db| intents::schedule_destruction(db, key_ref))
            .await
    }

    async fn end_doubt(&self, key_ref: KeyRef) -> Result<bool, StoreError> {
        self.writer
            .write(move |db| intents::end_doubt(db, key_ref))
            .await
    }

    async fn end_intent(&self, key_ref: KeyRef) -> Result<(), StoreError> {
        self.writer.write(move |db| intents::end(db, key_ref)).await
    }

    async fn key_pair(&self, id: &KeyPairId) -> Result<Option<KeyPair>, StoreError> {
        let id = id.clone();
        self.readers
            .read(move |db| rows::find_key_pair(db, &id))
            .await
    }

    async fn signing_key(
        &self,
        id: &KeyPairId,
    ) -> Result<Option<(KeyPair, Option<SealedKey>)>, StoreError> {
        let id = id.clone();
        self.readers
            .read_signing_key(move |db| rows::find_signing_key(db, &id))
            .await
    }

    async fn list(&self, query: ListQuery, now: OffsetDateTime) -> Result<Page, StoreError> {
        self.readers
            .read_list(move |db| list::page(db, &query, now))
            .await
    }

    async fn key_pair_and_sharers(
        &self,
        id: &KeyPairId,
    ) -> Result<Option<(KeyPair, Vec<KeyPairId>)>, StoreError> {
        let id = id.clone();
        self.readers
            .read(move |db| sharing::with_others(db, &id))
            .await
    }

    async fn sharing_a_key(&self, id: &KeyPairId) -> Result<Vec<KeyPairId>, StoreError> {
        let id = id.clone();
        self.readers.read(move |db| sharing::others(db, &id)).await
    }

    async fn shared_keys(
        &self,
        filter: &ListFilter,
        keys: &[KeyRef],
        now: OffsetDateTime,
    ) -> Result<Vec<SharedKey>, StoreError> {
        let (filter, keys) = (filter.clone(), keys.to_vec());
        self.readers
            .read_list(move |db| sharing::shared_keys(db, &filter, &keys, now))
            .await
    }

    async fn published_version(&self, now: OffsetDateTime) -> Result<String, StoreError> {
        let history = self.event_history();
        self.readers
            .read(move |db| events::published_version(db, &history, now))
            .await
    }

    async fn begin_deletion(
        &self,
        key_pair: &KeyPair,
        destroy_linked: bool,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let (pair, owner) = (key_pair.clone(), self.incarnation);
        let removal = Removal::Deletion { destroy_linked };
        self.write_news(move |db| change::delete(db, &pair, removal, owner, time))
            .await
    }

    async fn take_back(
        &self,
        key_pair: &KeyPair,
        doubtful: Option<Intent>,
        time: OffsetDateTime,
    ) -> Result<bool, StoreError> {
        let (pair, owner) = (key_pair.clone(), self.incarnation);
        self.write_news(move |db| change::take_back(db, &pair, doubtful.as_ref(), owner, time))
            .await
    }

    async fn sealed_key(&self, key_ref: KeyRef) -> Result<Option<SealedKey>, StoreError> {
        self.readers
            .read(move |db| rows::sealed_key(db, key_ref))
            .await
    }

    async fn keys_of(&self, provider: ProviderKind) -> Result<Vec<KnownKey>, StoreError> {
        self.readers
            .read(move |db| rows::keys_of(db, provider))
            .await
    }

    async fn count_expiring(
        &self,
        provider: Option<ProviderKind>,
        from: OffsetDateTime,
        before: OffsetDateTime,
        with_rotation: bool,
    ) -> Result<u64, StoreError> {
        self.readers
            .read(move |db| counts::count_expiring(db, provider, from, before, with_rotation))
            .await
    }

    fn disk_space(&self) -> Option<DiskSpace> {
        let space = rustix::fs::statvfs(&self.path).ok()?;
        Some(DiskSpace {
            available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        })
    }

    async fn count(&self, provider: ProviderKind) -> Result<u64, StoreError> {
        self.readers
            .read(move |db| counts::count(db, provider))
            .await
    }

    async fn answered_request(
        &self,
        request_id: &RequestId,
        not_before: OffsetDateTime,
    ) -> Result<Option<(AnsweredRequest, Option<KeyPair>)>, StoreError> {
        let request_id = request_id.clone();
        self.readers
            .read(move |db| requests::find(db, request_id, not_before))
            .await
    }

    async fn key_encryption_check(&self) -> Result<Option<SealedKey>, StoreError> {
        self.readers.read(rows::key_encryption_check).await
    }

    async fn record_key_encryption_check(&self, check: SealedKey) -> Result<(), StoreError> {
        self.writer
            .write(move |db| {
                db.prepare_cached("INSERT INTO facts (name, value) VALUES (?1, ?2)")?
                    .execute(params![rows::KEY_ENCRYPTION_CHECK, check.as_bytes()])?;
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod tests;
