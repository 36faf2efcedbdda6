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
mod foreign;
mod generate;
mod import;
mod init_token;
mod inventory;
mod mechanism;
mod pin;
mod rehearsal;
mod sign;
mod template;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use connection::Connection;
pub use connection::TokenIdentity;
use error::Failure;
pub use init_token::{InitTokenError, init_token};
pub(super) use pin::Login;
pub use pin::{PinError, PinSource};
pub use rehearsal::Rehearsal;

use super::{
    Capabilities, CryptoProvider, GeneratedKey, KeyName, KeySearch, LinkedKey, Operation,
    ProviderError, ProviderErrorKind, StoredKey, TokenKey, TokenObject, TokenObjects,
};
use crate::domain::{
    Certificate, KeyRef, KeySpec, PrivateKey, ProviderKind, PublicKey, SignatureAlgorithm,
    SigningInput,
};

/// Which module, which token, and how to log in.
#[derive(Clone, Debug)]
pub struct Pkcs11Config {
    /// The shared library.
    pub module: PathBuf,
    /// The token.
    pub token: TokenSelector,
    /// The user PIN.
    pub pin: PinSource,
    /// Which signatures are verified before they are returned.
    pub verify_signatures: VerifySignatures,
    /// Whether the PIN is tried though the token says that one more wrong one locks it.
    pub last_try: bool,
}

/// Which signatures of the token are verified with the public key before they are returned.
///
/// The first one made with an object handle always is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifySignatures {
    /// All.
    #[default]
    Always,
    /// One of 64.
    Sampled,
    /// None.
    Never,
}

/// How a token is told from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Every call in the module holds a share of it, so that `C_Finalize` can wait until there is none.
    connection: ArcSwapOption<Connection>,
    /// Held by whoever makes or ends a connection.
    changing: Mutex<()>,
    login: Login,
    /// How many signatures did not verify since the start.
    wrong_signatures: AtomicU64,
}

impl Pkcs11Provider {
    /// Makes a provider without a connection.
    pub fn new(config: Pkcs11Config) -> Self {
        Self {
            login: Login::new(config.pin.clone()),
            config,
            connection: ArcSwapOption::empty(),
            changing: Mutex::default(),
            wrong_signatures: AtomicU64::new(0),
        }
    }

    /// The one door to the token: lends a logged-in session, and judges every failure.
    fn with<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&Connection, &cryptoki::session::Session) -> Result<T, Failure>,
    ) -> Result<T, ProviderError> {
        let Some(connection) = self.connected() else {
            return Err(self.not_connected(operation));
        };
        connection
            .lend(work)
            .map_err(|failure| failure.into_provider_error(operation))
    }

    /// Returns the connection, if there is one that can be used.
    fn connected(&self) -> Option<Arc<Connection>> {
        let connection = self.connection.load_full()?;
        (!connection.is_broken()).then_some(connection)
    }

    fn not_connected(&self, operation: Operation) -> ProviderError {
        let kind = self.login.kind_when_unconnected();
        ProviderError::new(ProviderKind::Hsm, operation, kind)
    }

    /// Ends the connection, if there is one, when the last call has left the module.
    fn end_connection(&self) -> Result<(), Failure> {
        let Some(mut ending) = self.connection.swap(None) else {
            return Ok(());
        };
        let begun = Instant::now();
        loop {
            match Arc::try_unwrap(ending) {
                Ok(unshared) => {
                    unshared.finalize();
                    return Ok(());
                }
                Err(shared) if begun.elapsed() < CALLS_LEAVE_MAX => {
                    thread::sleep(CALLS_LEAVE_POLL);
                    ending = shared;
                }
                Err(shared) => {
                    shared.give_up();
                    self.connection.store(Some(shared));
                    return Err(Failure::CallsInModule);
                }
            }
        }
    }

    fn try_connect(&self) -> Result<Arc<Connection>, Failure> {
        let _changing = self.changing.lock();
        if let Some(connection) = self.connected() {
            return Ok(connection);
        }
        self.end_connection()?;
        let pin = self.login.pin()?;
        match Connection::open(&self.config, &pin) {
            Ok(connection) => {
                let connection = Arc::new(connection);
                self.connection.store(Some(Arc::clone(&connection)));
                self.login.accept();
                Ok(connection)
            }
            Err(failure) => {
                if let Some(finding) = failure.finding() {
                    self.login.note(pin, &finding);
                }
                Err(failure)
            }
        }
    }

    /// Tries the token by a key for this session only. For a process that does nothing else.
    pub(super) fn rehearse(&self) -> Result<Rehearsal, ProviderError> {
        self.with(Operation::Sign, |connection, session| {
            rehearsal::rehearse(session, connection.capabilities())
        })
    }

    /// Connects, and returns which token it is and what it can do.
    pub(super) fn log_in(&self) -> Result<(TokenIdentity, Capabilities), ProviderError> {
        let connection = self
            .try_connect()
            .map_err(|failure| failure.into_provider_error(Operation::Connect))?;
        Ok((
            connection.token().clone(),
            connection.capabilities().clone(),
        ))
    }
}

impl CryptoProvider for Pkcs11Provider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Hsm
    }

    fn availability(&self) -> Result<(), ProviderError> {
        match self.connected() {
            Some(_) => Ok(()),
            None => Err(self.not_connected(Operation::Connect)),
        }
    }

    fn connect(&self) -> Result<(), ProviderError> {
        if self.availability().is_err() {
            let (token, _) = self.log_in()?;
            // Only now, so that who waits for these words is served.
            token.announce();
        }
        Ok(())
    }

    fn disconnect(&self) {
        let _changing = self.changing.lock();
        if let Err(failure) = self.end_connection() {
            warn!(error = %failure, "the connection to the token is not ended properly");
        }
    }

    fn probe(&self) -> Result<(), ProviderError> {
        self.with(Operation::Connect, |connection, _| connection.probe())
    }

    fn capabilities(&self) -> Result<Capabilities, ProviderError> {
        match self.connected() {
            Some(connection) => Ok(connection.capabilities().clone()),
            None => Err(self.not_connected(Operation::Connect)),
        }
    }

    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError> {
        self.with(Operation::Generate, |connection, session| {
            generate::generate(connection, session, name, spec)
                .map_err(|failure| undo(connection, session, name.key_ref, failure))
        })
    }

    fn import(&self, name: &KeyName, key: &PrivateKey) -> Result<GeneratedKey, ProviderError> {
        self.with(Operation::Import, |connection, session| {
            import::import(connection, session, name, key)
                .map_err(|failure| undo(connection, session, name.key_ref, failure))
        })
    }

    /// Never: a key in a token stays there.
    fn export(&self, _key: &StoredKey) -> Result<PrivateKey, ProviderError> {
        let kind = ProviderErrorKind::Unsupported;
        Err(ProviderError::new(
            ProviderKind::Hsm,
            Operation::Export,
            kind,
        ))
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, ProviderError> {
        let verify = self.config.verify_signatures;
        self.with(Operation::Sign, |connection, session| {
            sign::sign(connection, session, key, algorithm, input, verify).inspect_err(|failure| {
                if matches!(failure, Failure::WrongSignature) {
                    let wrong_signatures = 1 + self.wrong_signatures.fetch_add(1, Relaxed);
                    error!(
                        key_pair = %key.name.id, key_ref = %key.name.key_ref, wrong_signatures,
                        "the token returned a wrong signature; it is not handed out, and the session is closed"
                    );
                }
            })
        })
    }

    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        if !key_ref.may_be_chosen_here() {
            let kind = ProviderErrorKind::Failed;
            let error = ProviderError::new(ProviderKind::Hsm, Operation::Destroy, kind);
            return Err(error
                .because("another program chose this CKA_ID, and may have other objects with it"));
        }
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
            certificate::publish(session, name, certificate)
                .inspect_err(|failure| sweep_certificate(session, failure))
        })
    }

    fn replace_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        self.with(Operation::PublishCertificate, |_, session| {
            certificate::replace(session, name, certificate)
                .inspect_err(|failure| sweep_certificate(session, failure))
        })
    }

    fn find_keys(&self, search: &KeySearch) -> Result<Vec<TokenKey>, ProviderError> {
        self.with(Operation::Inventory, |_, session| {
            foreign::find_keys(session, search)
        })
    }

    fn certificates_of(&self, id: &[u8]) -> Result<Vec<Certificate>, ProviderError> {
        self.with(Operation::Inventory, |_, session| {
            foreign::certificates(session, id)
        })
    }

    fn look_at_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        self.with(Operation::Inventory, |connection, session| {
            destroy::look_at_linked(connection, session, key_ref, public_key)
        })
    }

    fn destroy_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        self.with(Operation::Destroy, |connection, session| {
            destroy::destroy_linked(connection, session, key_ref, public_key)
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

/// Removes what a failed creation of a certificate object left: it has no `CKA_ID` yet, perhaps, by which it
/// would be found later.
fn sweep_certificate(session: &cryptoki::session::Session, failure: &Failure) {
    if !failure.breaks_connection()
        && let Err(cleanup) = inventory::sweep_half_made(session)
    {
        warn!(error = %cleanup, "a half-made certificate object may be left on the token");
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

/// How long calls may take to leave the module before it is finalised.
const CALLS_LEAVE_MAX: Duration = Duration::from_secs(1);
const CALLS_LEAVE_POLL: Duration = Duration::from_millis(1);
