//! How a generation stands in a row, and in the JSON of an event.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use der::{Reader, SliceReader};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::rows::{
    algorithm, algorithm_number, from_micros, from_seconds, json, origin, origin_number, provider,
    provider_number, to_json, to_micros,
};
use super::{SealedKey, StoreError};
use crate::domain::{
    Certificate, Generation, GenerationState, KeyPair, KeyPairGeneration, KeyRef, KeySpec,
    PublicKey, SignatureAlgorithm, TokenAttributes, Validity,
};

/// The columns of a generation, in the order in which [`GenerationRow::read`] wants them.
pub(super) const COLUMNS: &str = "
    generations.number, generations.state, generations.key_ref, generations.provider, generations.origin,
    generations.key_algorithm, generations.key_size, generations.public_key, generations.token_attributes,
    generations.signature_algorithm, generations.certificate, generations.chain, generations.serial_number,
    generations.subject_dn, generations.issuer_dn, generations.subject_alternative_names,
    generations.not_before, generations.not_after, generations.activate_time, generations.signing_algorithm";

/// A generation in the types that SQLite and JSON know.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct GenerationRow {
    number: u32,
    state: i64,
    key_ref: Blob,
    provider: i64,
    origin: i64,
    key_algorithm: i64,
    key_size: i32,
    public_key: Blob,
    token_attributes: Option<i64>,
    signature_algorithm: String,
    certificate: Blob,
    chain: Blob,
    serial_number: String,
    subject_dn: String,
    issuer_dn: String,
    subject_alternative_names: String,
    not_before: i64,
    not_after: i64,
    activate_time: Option<i64>,
    /// Missing in what stores before version 7 wrote into events.
    #[serde(default)]
    signing_algorithm: Option<String>,
}

/// Bytes, which are text in JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Blob(Vec<u8>);

impl From<Blob> for String {
    fn from(blob: Blob) -> Self {
        STANDARD.encode(blob.0)
    }
}

impl TryFrom<String> for Blob {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

impl GenerationRow {
    /// Writes a generation down.
    pub(super) fn new(
        state: GenerationState,
        generation: &KeyPairGeneration,
    ) -> Result<Self, StoreError> {
        let spec = generation.public_key.spec();
        let chain: Vec<_> = generation.chain.iter().map(Certificate::der).collect();
        Ok(Self {
            number: generation.number.number(),
            state: state_number(state),
            key_ref: Blob(generation.key_ref.as_bytes().to_vec()),
            provider: provider_number(generation.provider),
            origin: origin_number(generation.origin),
            key_algorithm: algorithm_number(spec.algorithm()),
            key_size: spec.bits(),
            public_key: Blob(generation.public_key.bits().to_vec()),
            token_attributes: generation.token_attributes.map(to_bits),
            signature_algorithm: generation.certificate_signature_algorithm.clone(),
            certificate: Blob(generation.certificate.der().to_vec()),
            chain: Blob(chain.concat()),
            serial_number: generation.serial_number.clone(),
            subject_dn: generation.subject_dn.clone(),
            issuer_dn: generation.issuer_dn.clone(),
            subject_alternative_names: to_json(&generation.subject_alternative_names)?,
            not_before: generation.validity.not_before.unix_timestamp(),
            not_after: generation.validity.not_after.unix_timestamp(),
            activate_time: generation.activate_time.map(to_micros),
            signing_algorithm: Some(generation.signing_algorithm.name().to_owned()),
        })
    }

    /// Leaves out what changes in the life of a generation: it looks like a current one that was
    /// never activated.
    pub(super) fn unchanging(self) -> Self {
        Self {
            state: state_number(GenerationState::Current),
            activate_time: None,
            ..self
        }
    }

    /// Reads [`COLUMNS`] from the one at `first` on.
    pub(super) fn read(row: &Row<'_>, first: usize) -> Result<Self, StoreError> {
        Ok(Self {
            number: row.get(first)?,
            state: row.get(first + 1)?,
            key_ref: Blob(row.get(first + 2)?),
            provider: row.get(first + 3)?,
            origin: row.get(first + 4)?,
            key_algorithm: row.get(first + 5)?,
            key_size: row.get(first + 6)?,
            public_key: Blob(row.get(first + 7)?),
            token_attributes: row.get(first + 8)?,
            signature_algorithm: row.get(first + 9)?,
            certificate: Blob(row.get(first + 10)?),
            chain: Blob(row.get(first + 11)?),
            serial_number: row.get(first + 12)?,
            subject_dn: row.get(first + 13)?,
            issuer_dn: row.get(first + 14)?,
            subject_alternative_names: row.get(first + 15)?,
            not_before: row.get(first + 16)?,
            not_after: row.get(first + 17)?,
            activate_time: row.get(first + 18)?,
            signing_algorithm: row.get(first + 19)?,
        })
    }

    /// Writes the row of a key pair. One with the same key is overwritten, and keeps its encrypted private key
    /// when none is given.
    pub(super) fn write(
        &self,
        db: &Connection,
        key_pair: i64,
        sealed_key: Option<&SealedKey>,
    ) -> Result<(), StoreError> {
        db.prepare_cached(
            "INSERT INTO generations
                 (key_ref, key_pair, number, state, provider, origin, key_algorithm, key_size, public_key,
                  sealed_key, token_attributes, signature_algorithm, certificate, chain, serial_number,
                  subject_dn, issuer_dn, subject_alternative_names, not_before, not_after, activate_time,
                  signing_algorithm)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
                     ?22)
             ON CONFLICT (key_ref) DO UPDATE SET
                 state = excluded.state, token_attributes = excluded.token_attributes,
                 signature_algorithm = excluded.signature_algorithm, certificate = excluded.certificate,
                 chain = excluded.chain, serial_number = excluded.serial_number, subject_dn = excluded.subject_dn,
                 issuer_dn = excluded.issuer_dn,
                 subject_alternative_names = excluded.subject_alternative_names,
                 not_before = excluded.not_before, not_after = excluded.not_after,
                 activate_time = excluded.activate_time",
        )?
        .execute(params![
            self.key_ref.0,
            key_pair,
            self.number,
            self.state,
            self.provider,
            self.origin,
            self.key_algorithm,
            self.key_size,
            self.public_key.0,
            sealed_key.map(SealedKey::as_bytes),
            self.token_attributes,
            self.signature_algorithm,
            self.certificate.0,
            self.chain.0,
            self.serial_number,
            self.subject_dn,
            self.issuer_dn,
            self.subject_alternative_names,
            self.not_before,
            self.not_after,
            self.activate_time,
            self.signing_algorithm,
        ])?;
        Ok(())
    }

    /// Understands what was written down.
    pub(super) fn generation(self) -> Result<(GenerationState, KeyPairGeneration), StoreError> {
        let spec = algorithm(self.key_algorithm)?
            .known_spec(self.key_size)
            .ok_or(StoreError::Corrupt("key_size"))?;
        let state = state(self.state)?;
        let signing_algorithm = match &self.signing_algorithm {
            None => signing_algorithm_before_version_7(spec, &self.signature_algorithm),
            Some(name) => {
                SignatureAlgorithm::parse(name).ok_or(StoreError::Corrupt("signing_algorithm"))?
            }
        };
        let generation = KeyPairGeneration {
            number: Generation::new(self.number).ok_or(StoreError::Corrupt("number"))?,
            provider: provider(self.provider)?,
            origin: origin(self.origin)?,
            key_ref: KeyRef::from_slice(&self.key_ref.0).ok_or(StoreError::Corrupt("key_ref"))?,
            public_key: PublicKey::new(spec, self.public_key.0),
            token_attributes: self.token_attributes.map(from_bits),
            certificate: Certificate::from_der(self.certificate.0),
            chain: chain(&self.chain.0)?,
            certificate_signature_algorithm: self.signature_algorithm,
            serial_number: self.serial_number,
            subject_dn: self.subject_dn,
            issuer_dn: self.issuer_dn,
            subject_alternative_names: json(
                &self.subject_alternative_names,
                "subject_alternative_names",
            )?,
            validity: Validity {
                not_before: from_seconds(self.not_before)?,
                not_after: from_seconds(self.not_after)?,
            },
            activate_time: self.activate_time.map(from_micros).transpose()?,
            signing_algorithm,
        };
        Ok((state, generation))
    }
}

/// Returns what a key signed with by default before that was stored: the certificate's algorithm
/// where the key can make it. Migration 0007 says the same in SQL.
fn signing_algorithm_before_version_7(spec: KeySpec, certificate: &str) -> SignatureAlgorithm {
    spec.signing_algorithm(certificate)
        .unwrap_or_else(|_| spec.algorithm().default_signature_algorithm())
}

/// Puts a generation into its place in a key pair.
pub(super) fn place(key_pair: &mut KeyPair, state: GenerationState, generation: KeyPairGeneration) {
    match state {
        GenerationState::Current => key_pair.current = generation,
        GenerationState::Pending => key_pair.pending = Some(generation),
        GenerationState::Previous => key_pair.previous.push(generation),
    }
}

/// The state of a generation of which only the public part is left.
pub(super) const RETIRED: i64 = 4;

pub(super) fn state(number: i64) -> Result<GenerationState, StoreError> {
    GenerationState::ALL
        .into_iter()
        .find(|state| state_number(*state) == number)
        .ok_or(StoreError::Corrupt("state"))
}

pub(super) const fn state_number(state: GenerationState) -> i64 {
    match state {
        GenerationState::Current => 1,
        GenerationState::Pending => 2,
        GenerationState::Previous => 3,
    }
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
