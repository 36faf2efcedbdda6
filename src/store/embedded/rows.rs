//! How key pairs stand in rows.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::generation::{self, GenerationRow};
use super::{KnownKey, StoreError};
use crate::domain::{
    Certificate, Generation, GenerationState, GenerationTemplate, KeyAlgorithm, KeyOrigin, KeyPair,
    KeyPairId, KeyRef, Labels, Lifecycle, ProviderKind, Rotation, SealedKey,
};

/// Returns the query of what [`key_pair`] reads. Conditions follow.
pub(super) fn select_key_pair() -> String {
    select_key_pair_from("key_pairs")
}

/// Returns the query of what [`key_pair`] reads, from `key_pairs` or from a join with it.
/// Conditions follow.
///
/// To SQLite, `CROSS JOIN` says which table to go through: by an index of `key_pairs`, in the order asked for.
pub(super) fn select_key_pair_from(from: &str) -> String {
    format!(
        "SELECT key_pairs.sequence, key_pairs.id, key_pairs.labels, key_pairs.create_time, key_pairs.revision,
                key_pairs.rotation, key_pairs.last_generation, key_pairs.others, {}
         FROM {from} CROSS JOIN generations ON generations.key_pair = key_pairs.sequence
                                              AND generations.number = key_pairs.generation",
        generation::COLUMNS
    )
}

/// Reads a row of [`select_key_pair`], and the generations beside the current one, if there are any.
pub(super) fn key_pair(db: &Connection, row: &Row<'_>) -> Result<KeyPair, StoreError> {
    let rotation: Option<String> = row.get(5)?;
    let (_, current) = GenerationRow::read(row, 8)?.generation()?;
    let mut pair = KeyPair {
        id: id(row, 1)?,
        labels: Labels::from_stored(json(&row.get::<_, String>(2)?, "labels")?),
        create_time: from_micros(row.get(3)?)?,
        revision: row.get(4)?,
        rotation: rotation
            .map(|text| json::<StoredRotation>(&text, "rotation")?.rotation())
            .transpose()?,
        current,
        pending: None,
        previous: Vec::new(),
        last_number: generation_number(row.get(6)?)?,
    };
    if row.get::<_, i64>(7)? > 0 {
        read_others(db, row.get(0)?, &mut pair)?;
    }
    Ok(pair)
}

/// Finds a key pair.
pub(super) fn find_key_pair(
    db: &Connection,
    id: &KeyPairId,
) -> Result<Option<KeyPair>, StoreError> {
    let mut statement =
        db.prepare_cached(&format!("{} WHERE key_pairs.id = ?1", select_key_pair()))?;
    let mut rows = statement.query([id.as_str()])?;
    let row = rows.next()?;
    row.map(|row| key_pair(db, row)).transpose()
}

/// Finds a key pair with the encrypted private key that signs, both as they are at one moment.
pub(super) fn find_signing_key(
    db: &Connection,
    id: &KeyPairId,
) -> Result<Option<(KeyPair, Option<SealedKey>)>, StoreError> {
    let view = db.unchecked_transaction()?;
    let Some(pair) = find_key_pair(&view, id)? else {
        return Ok(None);
    };
    let sealed = sealed_key(&view, pair.current.key_ref)?;
    Ok(Some((pair, sealed)))
}

/// Reads the encrypted private key of a generation.
pub(super) fn sealed_key(
    db: &Connection,
    key_ref: KeyRef,
) -> Result<Option<SealedKey>, StoreError> {
    let sealed: Option<Option<Vec<u8>>> = db
        .prepare_cached("SELECT sealed_key FROM generations WHERE key_ref = ?1")?
        .query_row([key_ref.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(sealed.flatten().map(SealedKey::from_bytes))
}

/// Reads the keys of all key pairs of a provider.
pub(super) fn keys_of(
    db: &Connection,
    provider: ProviderKind,
) -> Result<Vec<KnownKey>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT generations.key_ref, key_pairs.id, generations.certificate FROM key_pairs
         JOIN generations ON generations.key_pair = key_pairs.sequence
         WHERE generations.provider = ?1 AND generations.state < 4",
    )?;
    let mut rows = statement.query([provider_number(provider)])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let certificate: Vec<u8> = row.get(2)?;
        keys.push(KnownKey {
            key_ref: key_ref(row, 0)?,
            key_pair: id(row, 1)?,
            fingerprint: Certificate::from_der(certificate).sha256_fingerprint(),
        });
    }
    Ok(keys)
}

/// Reads the generations beside the current one.
fn read_others(db: &Connection, sequence: i64, pair: &mut KeyPair) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {} FROM generations WHERE key_pair = ?1 AND state IN (2, 3) ORDER BY number DESC",
        generation::COLUMNS
    ))?;
    let mut rows = statement.query([sequence])?;
    while let Some(row) = rows.next()? {
        let (state, generation) = GenerationRow::read(row, 0)?.generation()?;
        generation::place(pair, state, generation);
    }
    Ok(())
}

/// Writes a key pair that is new.
pub(super) fn insert_key_pair(
    db: &Connection,
    pair: &KeyPair,
    sealed_key: Option<&SealedKey>,
) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO key_pairs (id, provider, origin, labels, create_time, revision, generation,
                                key_algorithm, subject_dn, not_before, not_after, rotation, last_generation,
                                others, due)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    )?
    .execute(params![
        pair.id.as_str(),
        provider_number(pair.provider()),
        origin_number(pair.origin()),
        to_json(pair.labels.as_map())?,
        to_micros(pair.create_time),
        pair.revision,
        pair.current.number.number(),
        algorithm_number(pair.current.public_key.spec().algorithm()),
        pair.current.subject_dn,
        pair.current.validity.not_before.unix_timestamp(),
        pair.current.validity.not_after.unix_timestamp(),
        rotation(pair)?,
        pair.last_number.number(),
        others(pair),
        due(pair),
    ])?;
    GenerationRow::new(GenerationState::Current, &pair.current)?.write(
        db,
        db.last_insert_rowid(),
        sealed_key,
    )
}

/// Writes what changed of a key pair, but for its generations, and returns its sequence number. None when it is no
/// longer what it was: its revision is another one, or its id was given away anew.
pub(super) fn update_key_pair(
    db: &Connection,
    was: &KeyPair,
    pair: &KeyPair,
) -> Result<Option<i64>, StoreError> {
    Ok(db
        .prepare_cached(
            "UPDATE key_pairs SET provider = ?3, origin = ?4, labels = ?5, revision = ?6, generation = ?7,
                    key_algorithm = ?8, subject_dn = ?9, not_before = ?10, not_after = ?11, rotation = ?12,
                    last_generation = ?13, others = ?14, due = ?15,
                    warned = CASE WHEN generation = ?7 AND not_after = ?11 THEN warned ELSE 100000 END
             WHERE id = ?1 AND revision = ?2
               AND EXISTS (SELECT 1 FROM generations WHERE key_pair = sequence AND key_ref = ?16)
             RETURNING sequence",
        )?
        .query_row(
            params![
                pair.id.as_str(),
                was.revision,
                provider_number(pair.provider()),
                origin_number(pair.origin()),
                to_json(pair.labels.as_map())?,
                pair.revision,
                pair.current.number.number(),
                algorithm_number(pair.current.public_key.spec().algorithm()),
                pair.current.subject_dn,
                pair.current.validity.not_before.unix_timestamp(),
                pair.current.validity.not_after.unix_timestamp(),
                rotation(pair)?,
                pair.last_number.number(),
                others(pair),
                due(pair),
                was.current.key_ref.as_bytes(),
            ],
            |row| row.get(0),
        )
        .optional()?)
}

/// Returns when something is next to be done with a key pair, in seconds since 1970.
fn due(pair: &KeyPair) -> Option<i64> {
    let step = Lifecycle::of(pair).next()?;
    Some(step.time.unix_timestamp())
}

fn others(pair: &KeyPair) -> u32 {
    let others = pair.generations().count() - 1;
    u32::try_from(others).unwrap_or(u32::MAX)
}

fn rotation(pair: &KeyPair) -> Result<Option<String>, StoreError> {
    let stored = pair.rotation.as_ref().map(StoredRotation::new);
    stored.map(|stored| to_json(&stored)).transpose()
}

/// Rotation settings in the types that JSON knows.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct StoredRotation {
    creation_buffer_days: u16,
    activation_buffer_days: u16,
    key_algorithm: i64,
    key_size: i32,
    signature_algorithm: String,
    valid_days: u16,
    provider: i64,
}

impl StoredRotation {
    pub(super) fn new(rotation: &Rotation) -> Self {
        let next = &rotation.next;
        Self {
            creation_buffer_days: rotation.creation_buffer_days,
            activation_buffer_days: rotation.activation_buffer_days,
            key_algorithm: algorithm_number(next.spec.algorithm()),
            key_size: next.spec.bits(),
            signature_algorithm: next.signature_algorithm.name().to_owned(),
            valid_days: next.valid_days,
            provider: provider_number(next.provider),
        }
    }

    pub(super) fn rotation(self) -> Result<Rotation, StoreError> {
        let corrupt = |_| StoreError::Corrupt("rotation");
        let algorithm = algorithm(self.key_algorithm)?;
        Ok(Rotation {
            creation_buffer_days: self.creation_buffer_days,
            activation_buffer_days: self.activation_buffer_days,
            next: GenerationTemplate {
                spec: algorithm.spec(self.key_size).map_err(corrupt)?,
                signature_algorithm: algorithm
                    .signature_algorithm(&self.signature_algorithm)
                    .map_err(corrupt)?,
                valid_days: self.valid_days,
                provider: provider(self.provider)?,
            },
        })
    }
}

pub(super) fn id(row: &Row<'_>, column: usize) -> Result<KeyPairId, StoreError> {
    let id: String = row.get(column)?;
    KeyPairId::parse(&id).map_err(|_| StoreError::Corrupt("id"))
}

pub(super) fn key_ref(row: &Row<'_>, column: usize) -> Result<KeyRef, StoreError> {
    let bytes: Vec<u8> = row.get(column)?;
    KeyRef::from_slice(&bytes).ok_or(StoreError::Corrupt("key_ref"))
}

pub(super) fn generation_number(number: u32) -> Result<Generation, StoreError> {
    Generation::new(number).ok_or(StoreError::Corrupt("generation"))
}

pub(super) const fn provider_number(provider: ProviderKind) -> i64 {
    match provider {
        ProviderKind::Local => 1,
        ProviderKind::Hsm => 2,
    }
}

pub(super) fn provider(number: i64) -> Result<ProviderKind, StoreError> {
    ProviderKind::ALL
        .into_iter()
        .find(|provider| provider_number(*provider) == number)
        .ok_or(StoreError::Corrupt("provider"))
}

pub(super) const fn algorithm_number(algorithm: KeyAlgorithm) -> i64 {
    match algorithm {
        KeyAlgorithm::Rsa => 1,
        KeyAlgorithm::Ec => 2,
        KeyAlgorithm::Ed25519 => 3,
    }
}

pub(super) fn algorithm(number: i64) -> Result<KeyAlgorithm, StoreError> {
    KeyAlgorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm_number(*algorithm) == number)
        .ok_or(StoreError::Corrupt("key_algorithm"))
}

pub(super) const fn origin_number(origin: KeyOrigin) -> i64 {
    match origin {
        KeyOrigin::Generated => 1,
        KeyOrigin::Imported => 2,
        KeyOrigin::Linked => 3,
    }
}

pub(super) fn origin(number: i64) -> Result<KeyOrigin, StoreError> {
    KeyOrigin::ALL
        .into_iter()
        .find(|origin| origin_number(*origin) == number)
        .ok_or(StoreError::Corrupt("origin"))
}

pub(super) fn to_micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// Reads what tells the key encryption key that the store was made with.
pub(super) fn key_encryption_check(db: &Connection) -> Result<Option<SealedKey>, StoreError> {
    let check: Option<Vec<u8>> = db
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")?
        .query_row([KEY_ENCRYPTION_CHECK], |row| row.get(0))
        .optional()?;
    Ok(check.map(SealedKey::from_bytes))
}

/// The name of the fact that tells the key encryption key.
pub(super) const KEY_ENCRYPTION_CHECK: &str = "key_encryption_check";

pub(super) fn from_micros(micros: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .map_err(|_| StoreError::Corrupt("time"))
}

pub(super) fn from_seconds(seconds: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| StoreError::Corrupt("time"))
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt("JSON"))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    text: &str,
    column: &'static str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt(column))
}
