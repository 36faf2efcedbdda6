//! How key pairs, intents and requests stand in rows.

use der::{Reader, SliceReader};
use rusqlite::{Connection, OptionalExtension, Row, params};
use time::OffsetDateTime;

use super::{AnsweredRequest, Intent, REQUESTS_KEPT, StoreError};
use crate::domain::{
    Certificate, Generation, KeyAlgorithm, KeyOrigin, KeyPair, KeyPairGeneration, KeyPairId,
    KeyRef, Labels, ProviderKind, PublicKey, RequestId, SealedKey, TokenAttributes, Validity,
};

/// Selects what [`key_pair`] reads. Conditions follow.
///
/// To SQLite, `CROSS JOIN` says which table to go through: by an index of `key_pairs`, in the order asked for.
pub(super) const SELECT_KEY_PAIR: &str = "
    SELECT key_pairs.sequence, key_pairs.id, key_pairs.provider, key_pairs.origin, key_pairs.labels,
           key_pairs.create_time, key_pairs.revision, key_pairs.key_algorithm,
           generations.number, generations.key_ref, generations.key_size, generations.public_key,
           generations.token_attributes, generations.signature_algorithm, generations.certificate,
           generations.serial_number, generations.subject_dn, generations.issuer_dn,
           generations.subject_alternative_names, generations.not_before, generations.not_after,
           generations.chain
    FROM key_pairs CROSS JOIN generations ON generations.key_pair = key_pairs.sequence
                                   AND generations.number = key_pairs.generation";

/// Reads a row of [`SELECT_KEY_PAIR`].
pub(super) fn key_pair(row: &Row<'_>) -> Result<KeyPair, StoreError> {
    let algorithm = algorithm(row.get(7)?)?;
    let spec = algorithm
        .spec(row.get(10)?)
        .map_err(|_| StoreError::Corrupt("key_size"))?;
    let public_key: Vec<u8> = row.get(11)?;
    let token_attributes: Option<i64> = row.get(12)?;
    let certificate: Vec<u8> = row.get(14)?;
    Ok(KeyPair {
        id: id(row, 1)?,
        provider: provider(row.get(2)?)?,
        origin: origin(row.get(3)?)?,
        labels: Labels::from_stored(json(&row.get::<_, String>(4)?, "labels")?),
        create_time: from_micros(row.get(5)?)?,
        revision: row.get(6)?,
        current: KeyPairGeneration {
            number: generation(row.get(8)?)?,
            key_ref: key_ref(row, 9)?,
            public_key: PublicKey::new(spec, public_key),
            token_attributes: token_attributes.map(from_bits),
            certificate: Certificate::from_der(certificate),
            chain: chain(&row.get::<_, Vec<u8>>(21)?)?,
            certificate_signature_algorithm: row.get(13)?,
            serial_number: row.get(15)?,
            subject_dn: row.get(16)?,
            issuer_dn: row.get(17)?,
            subject_alternative_names: json(
                &row.get::<_, String>(18)?,
                "subject_alternative_names",
            )?,
            validity: Validity {
                not_before: from_seconds(row.get(19)?)?,
                not_after: from_seconds(row.get(20)?)?,
            },
        },
    })
}

/// Writes a key pair with its current generation.
pub(super) fn insert_key_pair(
    db: &Connection,
    pair: &KeyPair,
    sealed_key: Option<&SealedKey>,
) -> Result<(), StoreError> {
    let current = &pair.current;
    let spec = current.public_key.spec();
    db.prepare_cached(
        "INSERT INTO key_pairs (id, provider, origin, labels, create_time, revision, generation,
                                key_algorithm, subject_dn, not_before, not_after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        pair.id.as_str(),
        provider_number(pair.provider),
        origin_number(pair.origin),
        to_json(pair.labels.as_map())?,
        to_micros(pair.create_time),
        pair.revision,
        current.number.number(),
        algorithm_number(spec.algorithm()),
        current.subject_dn,
        current.validity.not_before.unix_timestamp(),
        current.validity.not_after.unix_timestamp(),
    ])?;
    insert_generation(db, db.last_insert_rowid(), current, sealed_key)
}

/// Writes what changed of a key pair that had a revision, and returns its sequence number. None when there is
/// no such key pair.
pub(super) fn update_key_pair(
    db: &Connection,
    revision: u32,
    pair: &KeyPair,
) -> Result<Option<i64>, StoreError> {
    let current = &pair.current;
    Ok(db
        .prepare_cached(
            "UPDATE key_pairs SET provider = ?3, origin = ?4, labels = ?5, revision = ?6, generation = ?7,
                    key_algorithm = ?8, subject_dn = ?9, not_before = ?10, not_after = ?11
             WHERE id = ?1 AND revision = ?2
             RETURNING sequence",
        )?
        .query_row(
            params![
                pair.id.as_str(),
                revision,
                provider_number(pair.provider),
                origin_number(pair.origin),
                to_json(pair.labels.as_map())?,
                pair.revision,
                current.number.number(),
                algorithm_number(current.public_key.spec().algorithm()),
                current.subject_dn,
                current.validity.not_before.unix_timestamp(),
                current.validity.not_after.unix_timestamp(),
            ],
            |row| row.get(0),
        )
        .optional()?)
}

/// Writes a generation of the key pair with a sequence number.
pub(super) fn insert_generation(
    db: &Connection,
    key_pair: i64,
    current: &KeyPairGeneration,
    sealed_key: Option<&SealedKey>,
) -> Result<(), StoreError> {
    let spec = current.public_key.spec();
    db.prepare_cached(
        "INSERT INTO generations (key_ref, key_pair, number, key_size, public_key, sealed_key,
                                  token_attributes, signature_algorithm, certificate, serial_number,
                                  subject_dn, issuer_dn, subject_alternative_names, not_before, not_after,
                                  chain)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?
    .execute(params![
        current.key_ref.as_bytes(),
        key_pair,
        current.number.number(),
        spec.bits(),
        current.public_key.bits(),
        sealed_key.map(SealedKey::as_bytes),
        current.token_attributes.map(to_bits),
        current.certificate_signature_algorithm,
        current.certificate.der(),
        current.serial_number,
        current.subject_dn,
        current.issuer_dn,
        to_json(&current.subject_alternative_names)?,
        current.validity.not_before.unix_timestamp(),
        current.validity.not_after.unix_timestamp(),
        current.chain.iter().map(Certificate::der).collect::<Vec<_>>().concat(),
    ])?;
    Ok(())
}

/// Reads a row of `key_ref, id, generation, provider`.
pub(super) fn intent(row: &Row<'_>) -> Result<Intent, StoreError> {
    Ok(Intent {
        key_ref: key_ref(row, 0)?,
        id: id(row, 1)?,
        generation: generation(row.get(2)?)?,
        provider: provider(row.get(3)?)?,
    })
}

/// Writes an intent.
pub(super) fn insert_intent(
    db: &Connection,
    intent: &Intent,
    condemned: bool,
) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO intents (key_ref, id, generation, provider, condemned)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        intent.key_ref.as_bytes(),
        intent.id.as_str(),
        intent.generation.number(),
        provider_number(intent.provider),
        condemned,
    ])?;
    Ok(())
}

/// Reads a row of `settings_digest, key_pair_id, made_at`.
pub(super) fn request(row: &Row<'_>, request_id: RequestId) -> Result<AnsweredRequest, StoreError> {
    let settings: Vec<u8> = row.get(0)?;
    Ok(AnsweredRequest {
        request_id,
        settings: settings
            .try_into()
            .map_err(|_| StoreError::Corrupt("settings_digest"))?,
        key_pair: id(row, 1)?,
        made_at: from_seconds(row.get(2)?)?,
    })
}

/// Writes an answered request, over an outdated one of the same name, and forgets the outdated ones.
pub(super) fn insert_request(db: &Connection, request: &AnsweredRequest) -> Result<(), StoreError> {
    let outdated = (request.made_at - REQUESTS_KEPT).unix_timestamp();
    db.prepare_cached("DELETE FROM requests WHERE made_at < ?1")?
        .execute([outdated])?;
    db.prepare_cached(
        "INSERT INTO requests (request_id, settings_digest, key_pair_id, made_at)
         VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        request.request_id.as_str(),
        request.settings,
        request.key_pair.as_str(),
        request.made_at.unix_timestamp(),
    ])?;
    Ok(())
}

pub(super) fn id(row: &Row<'_>, column: usize) -> Result<KeyPairId, StoreError> {
    let id: String = row.get(column)?;
    KeyPairId::parse(&id).map_err(|_| StoreError::Corrupt("id"))
}

pub(super) fn key_ref(row: &Row<'_>, column: usize) -> Result<KeyRef, StoreError> {
    let bytes: Vec<u8> = row.get(column)?;
    KeyRef::from_slice(&bytes).ok_or(StoreError::Corrupt("key_ref"))
}

fn generation(number: u32) -> Result<Generation, StoreError> {
    Generation::new(number).ok_or(StoreError::Corrupt("generation"))
}

/// Splits the certificates of a chain, which are kept one behind the other.
fn chain(stored: &[u8]) -> Result<Vec<Certificate>, StoreError> {
    let split = || {
        let mut reader = SliceReader::new(stored)?;
        let mut chain = Vec::new();
        while !reader.is_finished() {
            chain.push(Certificate::from_der(reader.tlv_bytes()?));
        }
        Ok::<_, der::Error>(chain)
    };
    split().map_err(|_| StoreError::Corrupt("chain"))
}

pub(super) const fn provider_number(provider: ProviderKind) -> i64 {
    match provider {
        ProviderKind::Local => 1,
        ProviderKind::Hsm => 2,
    }
}

fn provider(number: i64) -> Result<ProviderKind, StoreError> {
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

fn algorithm(number: i64) -> Result<KeyAlgorithm, StoreError> {
    KeyAlgorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm_number(*algorithm) == number)
        .ok_or(StoreError::Corrupt("key_algorithm"))
}

const fn origin_number(origin: KeyOrigin) -> i64 {
    match origin {
        KeyOrigin::Generated => 1,
        KeyOrigin::Imported => 2,
        KeyOrigin::Linked => 3,
    }
}

fn origin(number: i64) -> Result<KeyOrigin, StoreError> {
    KeyOrigin::ALL
        .into_iter()
        .find(|origin| origin_number(*origin) == number)
        .ok_or(StoreError::Corrupt("origin"))
}

fn to_bits(attributes: TokenAttributes) -> i64 {
    [
        attributes.sensitive,
        attributes.always_sensitive,
        attributes.never_extractable,
        attributes.local,
    ]
    .into_iter()
    .rev()
    .fold(0, |bits, set| bits << 1 | i64::from(set))
}

fn from_bits(bits: i64) -> TokenAttributes {
    TokenAttributes {
        sensitive: bits & 1 != 0,
        always_sensitive: bits & 2 != 0,
        never_extractable: bits & 4 != 0,
        local: bits & 8 != 0,
    }
}

fn to_micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

fn from_micros(micros: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .map_err(|_| StoreError::Corrupt("time"))
}

fn from_seconds(seconds: i64) -> Result<OffsetDateTime, StoreError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| StoreError::Corrupt("time"))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt("JSON"))
}

fn json<T: serde::de::DeserializeOwned>(text: &str, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt(column))
}
