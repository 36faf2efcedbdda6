//! The PKCS#11 provider: keys are generated in a token, used in it, and never leave it.
//!
//! A token is found by label or serial number, never by a slot number, which modules change at will. What
//! the module itself does not police is policed here: kinds of key, lengths of digests, one key for each
//! `CKA_ID`. Object handles stay in this room and are forgotten with the connection they belong to.
//! `cryptoki` is named here and nowhere else.

mod capabilities;
mod certificate;
mod connection;
mod destroy;
mod error;
mod find;
mod generate;
mod init_token;
mod inventory;
mod mechanism;
mod pin;
mod sign;
mod template;

use std::path::PathBuf;

use parking_lot::{Mutex, RwLock};
use secrecy::SecretString;
use tracing::warn;

use connection::Connection;
use error::Failure;
pub use init_token::{InitTokenError, init_token};
pub use pin::{PinError, PinSource};

use super::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, Operation, ProviderError,
    ProviderErrorKind, StoredKey, TokenObject, TokenObjects,
};
use crate::domain::{Certificate, KeyRef, KeySpec, ProviderKind, SignatureAlgorithm};

/// Which module, which token, and how to log in.
#[derive(Clone, Debug)]
pub struct Pkcs11Config {
    /// The shared library.
    pub module: PathBuf,
    /// The token.
    pub token: TokenSelector,
    /// The user PIN.
    pub pin: PinSource,
}

/// How a token is told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSelector {
    /// By `CK_TOKEN_INFO.label`.
    Label(String),
    /// By `CK_TOKEN_INFO.serialNumber`.
    Serial(String),
}

/// The PKCS#11 provider.
///
/// It starts without a connection. Any failure that may have cost the connection marks it as broken; then
/// every call is refused at once until [`CryptoProvider::connect`] has made a new one, from
/// `C_Initialize` on.
#[derive(Debug)]
pub struct Pkcs11Provider {
    config: Pkcs11Config,
    /// Readers are calls in the module; the writer is `connect`, so that `C_Finalize` is never called
    /// while a thread is in the module.
    connection: RwLock<Option<Connection>>,
    /// The PIN that the token refused. It is not tried again: a few tries lock the token.
    refused_pin: Mutex<Option<SecretString>>,
}

impl Pkcs11Provider {
    /// Makes a provider without a connection.
    pub fn new(config: Pkcs11Config) -> Self {
        Self {
            config,
            connection: RwLock::new(None),
            refused_pin: Mutex::new(None),
        }
    }

    /// The one door to the token: lends a logged-in session, and judges every failure.
    fn with<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&Connection, &cryptoki::session::Session) -> Result<T, Failure>,
    ) -> Result<T, ProviderError> {
        let guard = self.connection.read();
        let Some(connection) = guard.as_ref().filter(|connection| !connection.is_broken()) else {
            return Err(self.not_connected(operation));
        };
        connection
            .lend(work)
            .map_err(|failure| failure.into_provider_error(operation))
    }

    fn not_connected(&self, operation: Operation) -> ProviderError {
        let kind = match *self.refused_pin.lock() {
            Some(_) => ProviderErrorKind::LoginRefused,
            None => ProviderErrorKind::Unavailable,
        };
        ProviderError::new(ProviderKind::Hsm, operation, kind)
    }

    fn try_connect(&self) -> Result<(), Failure> {
        // Waits for the calls that are in the module, and keeps new ones out.
        let mut slot = self.connection.write();
        if slot
            .as_ref()
            .is_some_and(|connection| !connection.is_broken())
        {
            return Ok(());
        }
        if let Some(old) = slot.take() {
            old.finalize();
        }
        let pin = self.config.pin.read().map_err(Failure::Pin)?;
        let mut refused = self.refused_pin.lock();
        if refused
            .as_ref()
            .is_some_and(|refused| pin::same(refused, &pin))
        {
            return Err(Failure::LoginRefusedBefore);
        }
        *refused = None;
        match Connection::open(&self.config, &pin) {
            Ok(connection) => {
                *slot = Some(connection);
                Ok(())
            }
            Err(failure) => {
                if failure.is_refused_login() {
                    *refused = Some(pin);
                }
                Err(failure)
            }
        }
    }
}

impl CryptoProvider for Pkcs11Provider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Hsm
    }

    fn availability(&self) -> Result<(), ProviderError> {
        // A writer that waits or works means that there is no connection.
        let connected = self.connection.try_read().is_some_and(|guard| {
            guard
                .as_ref()
                .is_some_and(|connection| !connection.is_broken())
        });
        if connected {
            Ok(())
        } else {
            Err(ProviderError::new(
                ProviderKind::Hsm,
                Operation::Connect,
                match self.refused_pin.try_lock().as_deref() {
                    Some(Some(_)) => ProviderErrorKind::LoginRefused,
                    _ => ProviderErrorKind::Unavailable,
                },
            ))
        }
    }

    fn connect(&self) -> Result<(), ProviderError> {
        self.try_connect()
            .map_err(|failure| failure.into_provider_error(Operation::Connect))
    }

    fn disconnect(&self) {
        if let Some(connection) = self.connection.write().take() {
            connection.finalize();
        }
    }

    fn probe(&self) -> Result<(), ProviderError> {
        self.with(Operation::Connect, |connection, _| connection.probe())
    }

    fn capabilities(&self) -> Result<Capabilities, ProviderError> {
        let guard = self.connection.try_read();
        guard
            .as_deref()
            .and_then(Option::as_ref)
            .map(|connection| connection.capabilities().clone())
            .ok_or_else(|| {
                ProviderError::new(
                    ProviderKind::Hsm,
                    Operation::Connect,
                    ProviderErrorKind::Unavailable,
                )
            })
    }

    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError> {
        self.with(Operation::Generate, |connection, session| {
            generate::generate(connection, session, name, spec)
                .map_err(|failure| undo(connection, session, name.key_ref, failure))
        })
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, ProviderError> {
        self.with(Operation::Sign, |connection, session| {
            sign::sign(connection, session, key, algorithm, message)
        })
    }

    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        self.with(Operation::Destroy, |connection, session| {
            destroy::destroy_all(connection, session, key_ref)
        })
    }

    fn token(&self) -> Option<&dyn TokenObjects> {
        Some(self)
    }
}

impl TokenObjects for Pkcs11Provider {
    fn publish_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        self.with(Operation::PublishCertificate, |_, session| {
            certificate::publish(session, name, certificate).inspect_err(|failure| {
                // What is left of it has no CKA_ID yet, perhaps, by which it would be found later.
                if !failure.breaks_connection()
                    && let Err(cleanup) = inventory::sweep_half_made(session)
                {
                    warn!(error = %cleanup, "a half-made certificate object may be left on the token");
                }
            })
        })
    }

    fn begin_inventory(&self) -> Result<(), ProviderError> {
        self.with(Operation::Inventory, inventory::begin)
    }

    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError> {
        self.with(Operation::Inventory, |connection, session| {
            Ok(inventory::next(connection, session))
        })
    }

    fn sweep_half_made(&self) -> Result<usize, ProviderError> {
        self.with(Operation::Destroy, |_, session| {
            inventory::sweep_half_made(session)
        })
    }
}

/// Removes what a failed creation left, which modules do leave, and returns what to report: the failure
/// itself, or that the outcome is unknown.
fn undo(
    connection: &Connection,
    session: &cryptoki::session::Session,
    key_ref: KeyRef,
    failure: Failure,
) -> Failure {
    if failure.breaks_connection() {
        return failure;
    }
    let cleaned = destroy::destroy_all(connection, session, key_ref)
        .and_then(|()| inventory::sweep_half_made(session));
    match cleaned {
        Ok(swept) => {
            warn!(%key_ref, swept, "a failed creation was undone on the token");
            failure
        }
        Err(cleanup) => {
            warn!(%key_ref, error = %cleanup, "a failed creation could not be undone on the token yet");
            Failure::OutcomeUnknown(Box::new(failure))
        }
    }
}
