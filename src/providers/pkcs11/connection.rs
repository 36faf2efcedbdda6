//! A connection to a token: module, slot, login, sessions, and what was learnt through them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use parking_lot::Mutex;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::error::Failure;
use super::inventory::Inventory;
use super::{Pkcs11Config, TokenSelector, VerifySignatures, capabilities};
use crate::domain::KeyRef;
use crate::providers::{Capabilities, Finding, TriesLeft};

/// A token that we are logged in to.
#[derive(Debug)]
pub(super) struct Connection {
    pkcs11: Pkcs11,
    slot: Slot,
    token: TokenIdentity,
    capabilities: Capabilities,
    /// Keeps the login: the token forgets it, and all handles, with the last session.
    anchor: Mutex<Session>,
    /// Sessions that nobody uses at the moment. There are never more than threads that call us.
    idle: Mutex<Vec<Session>>,
    /// Handles of private keys, since to find an object takes the longer the more there are.
    private_keys: Mutex<HashMap<KeyRef, KeyHandle>>,
    pub(super) inventory: Mutex<Inventory>,
    broken: AtomicBool,
    /// Whether it was said that it is broken.
    lost: AtomicBool,
    /// Counts signatures, of which some are verified.
    signatures: AtomicU64,
    opened: Instant,
    /// When a private key was used last, in milliseconds from when it was opened.
    last_use: AtomicU64,
}

/// What a token says it is, in `CK_TOKEN_INFO`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenIdentity {
    /// `label`.
    pub label: String,
    /// `serialNumber`.
    pub serial_number: String,
    /// `model`.
    pub model: String,
    /// `CKF_WRITE_PROTECTED`.
    pub write_protected: bool,
}

impl fmt::Display for TokenIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            label,
            serial_number,
            model,
            ..
        } = self;
        write!(f, "{label:?}, serial number {serial_number}, model {model}")
    }
}

impl TokenIdentity {
    /// Says that it can be used from now on.
    pub(in crate::providers) fn announce(&self) {
        info!(
            label = self.label,
            serial = self.serial_number,
            model = self.model,
            "connected to the token"
        );
    }
}

/// Where a private key lies on the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyHandle {
    /// The object.
    pub(super) handle: ObjectHandle,
    /// Whether a signature made with it verified with the key pair's public key.
    pub(super) proved: bool,
}

impl Connection {
    /// Loads the module, finds the token, logs in, and asks what the token can do.
    pub(super) fn open(config: &Pkcs11Config, pin: &SecretString) -> Result<Self, Failure> {
        let pkcs11 = Pkcs11::new(&config.module)
            .map_err(|cause| Failure::unloadable(&config.module, cause))?;
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match pkcs11.initialize(arguments) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        Self::log_in(&pkcs11, config, pin).inspect_err(|_| finalize(pkcs11))
    }

    fn log_in(pkcs11: &Pkcs11, config: &Pkcs11Config, pin: &SecretString) -> Result<Self, Failure> {
        let (slot, token) = find_token(pkcs11, &config.token)?;
        match TriesLeft::of(&token) {
            TriesLeft::None => {
                return Err(Failure::LoginHeld(Finding::PinLocked { tried: false }));
            }
            // No machine spends the last one.
            TriesLeft::One if !config.last_try => return Err(Failure::LoginHeld(Finding::LastTry)),
            _ => {}
        }
        let anchor = pkcs11.open_rw_session(slot)?;
        match anchor.login(UserType::User, Some(pin)) {
            // The login belongs to the process, not to the session.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(cause) if Failure::is_refused_login(&cause) => {
                let token = pkcs11.get_token_info(slot);
                let tries = token.map_or(TriesLeft::Unknown, |token| TriesLeft::of(&token));
                return Err(Failure::LoginRefused { cause, tries });
            }
            Err(error) => return Err(error.into()),
        }
        let capabilities = capabilities::ask(pkcs11, slot)?;
        Ok(Self {
            pkcs11: pkcs11.clone(),
            slot,
            token: TokenIdentity {
                label: token.label().to_owned(),
                serial_number: token.serial_number().to_owned(),
                model: token.model().to_owned(),
                write_protected: token.write_protected(),
            },
            capabilities,
            anchor: Mutex::new(anchor),
            idle: Mutex::default(),
            private_keys: Mutex::default(),
            inventory: Mutex::default(),
            broken: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            signatures: AtomicU64::new(0),
            opened: Instant::now(),
            last_use: AtomicU64::new(0),
        })
    }

    /// Returns which token it is.
    pub(super) const fn token(&self) -> &TokenIdentity {
        &self.token
    }

    /// Returns what the token can do.
    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Tells whether the connection must be made anew.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Marks the connection as one to be made anew.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Lends a session, and judges the failure if there is one.
    pub(super) fn lend<T>(
        &self,
        work: impl FnOnce(&Self, &Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let idle = self.idle.lock().pop();
        let session = match idle.map_or_else(|| self.pkcs11.open_rw_session(self.slot), Ok) {
            Ok(session) => session,
            Err(error) => return Err(self.judge(error.into())),
        };
        match work(self, &session) {
            Ok(done) => {
                self.idle.lock().push(session);
                Ok(done)
            }
            Err(failure) => {
                if failure.spares_session() {
                    self.idle.lock().push(session);
                }
                Err(self.judge(failure))
            }
        }
    }

    /// Marks the connection as broken when a failure means that.
    fn judge(&self, failure: Failure) -> Failure {
        let breaks = failure.breaks_connection();
        let lost = breaks
            || (failure.is_vague() && self.probe().is_err())
            || (failure.is_missing_key() && self.may_be_blind());
        if !lost {
            return failure;
        }
        if !self.lost.swap(true, Ordering::AcqRel) {
            warn!(error = %failure, "the connection to the token is lost");
        }
        self.give_up();
        match breaks {
            true => failure,
            false => Failure::Lost(Box::new(failure)),
        }
    }

    /// Notes that a private key was used.
    pub(super) fn note_use(&self) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_use.store(millis, Ordering::Relaxed);
    }

    /// Tells whether a key that is missing may be shown to another connection. What SoftHSM2 once failed to read, for want
    /// of a directory or of descriptors, it forgets until `C_Finalize`.
    ///
    /// Where other keys are used all the while, they are disturbed for it now and then only.
    fn may_be_blind(&self) -> bool {
        let age = self.opened.elapsed();
        let last_use = Duration::from_millis(self.last_use.load(Ordering::Relaxed));
        age.saturating_sub(last_use) > IDLE_BLIND_MIN || age > BLIND_MAX
    }

    /// Asks the token whether it is still there, by `C_GetTokenInfo`, since modules open sessions on tokens that are
    /// gone; and whether we are still logged in, by `C_GetSessionInfo`, since a private key is then not refused, but not
    /// there.
    pub(super) fn probe(&self) -> Result<(), Failure> {
        let asked = match self.pkcs11.get_token_info(self.slot) {
            Err(error @ Error::Pkcs11(..)) => Err(error.into()),
            // An odd field in the answer is an answer.
            Ok(_) | Err(_) => self.ask_whether_logged_in(),
        };
        if asked.is_err() {
            self.give_up();
        }
        asked
    }

    fn ask_whether_logged_in(&self) -> Result<(), Failure> {
        // Whoever holds it is asking.
        let Some(anchor) = self.anchor.try_lock() else {
            return Ok(());
        };
        match anchor.get_session_info()?.session_state() {
            SessionState::RoUser | SessionState::RwUser => Ok(()),
            _ => Err(Failure::LoggedOut),
        }
    }

    /// Returns the handle of a private key, when it is known.
    pub(super) fn known_private_key(&self, key_ref: KeyRef) -> Option<KeyHandle> {
        self.private_keys.lock().get(&key_ref).copied()
    }

    /// Remembers the handle of a private key.
    pub(super) fn remember_private_key(&self, key_ref: KeyRef, handle: ObjectHandle) {
        let mut private_keys = self.private_keys.lock();
        let known = private_keys.get(&key_ref);
        // What was proved of a handle stays true of it.
        if known.is_none_or(|known| known.handle != handle) {
            let proved = false;
            private_keys.insert(key_ref, KeyHandle { handle, proved });
        }
    }

    /// Notes that a handle stands for the private key of the public key in our books.
    pub(super) fn prove_private_key(&self, key_ref: KeyRef, handle: ObjectHandle) {
        let proved = true;
        self.private_keys
            .lock()
            .insert(key_ref, KeyHandle { handle, proved });
    }

    /// Tells whether the signature that was just made is one to verify.
    pub(super) fn is_due(&self, verify: VerifySignatures) -> bool {
        match verify {
            VerifySignatures::Always => true,
            VerifySignatures::Sampled => {
                let count = self.signatures.fetch_add(1, Ordering::Relaxed);
                count.is_multiple_of(SAMPLED_OF)
            }
            VerifySignatures::Never => false,
        }
    }

    /// Forgets the handle of a private key.
    pub(super) fn forget_private_key(&self, key_ref: KeyRef) {
        self.private_keys.lock().remove(&key_ref);
    }

    /// Ends the connection. No thread may be in the module.
    pub(super) fn finalize(self) {
        let Self {
            pkcs11,
            anchor,
            idle,
            ..
        } = self;
        drop(idle);
        drop(anchor);
        finalize(pkcs11);
    }
}

/// Leaves the module as if it had never been initialised, whatever state it is in.
fn finalize(pkcs11: Pkcs11) {
    if let Err(error) = pkcs11.finalize() {
        debug!(%error, "C_Finalize failed");
    }
}

/// Finds the one token that is meant.
fn find_token(pkcs11: &Pkcs11, selector: &TokenSelector) -> Result<(Slot, TokenInfo), Failure> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for slot in pkcs11.get_slots_with_token()? {
        let token = match pkcs11.get_token_info(slot) {
            Ok(token) => token,
            Err(error) => {
                // One odd token must not hide the others.
                debug!(slot = slot.id(), %error, "a slot does not tell its token");
                continue;
            }
        };
        if !token.token_initialized() {
            continue;
        }
        seen.push(named(&token));
        let matches = match selector {
            TokenSelector::Label(label) => token.label() == label,
            TokenSelector::Serial(serial) => token.serial_number() == serial,
        };
        if matches {
            found.push((slot, token));
        }
    }
    let wanted = match selector {
        TokenSelector::Label(label) => format!("with label {label:?}"),
        TokenSelector::Serial(serial) => format!("with serial number {serial:?}"),
    };
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (Some(last), _) => {
            found.push(last);
            let found = found.iter().map(|(_, token)| named(token)).collect();
            Err(Failure::Token(Finding::AmbiguousToken { wanted, found }))
        }
        (None, _) => Err(Failure::Token(Finding::NoSuchToken { wanted, seen })),
    }
}

/// Says which token it is.
fn named(token: &TokenInfo) -> String {
    let (label, serial_number) = (token.label(), token.serial_number());
    format!("{label:?} (serial number {serial_number})")
}

impl TriesLeft {
    /// Reads what a token says.
    fn of(token: &TokenInfo) -> Self {
        if token.user_pin_locked() {
            Self::None
        } else if token.user_pin_final_try() {
            Self::One
        } else if token.user_pin_count_low() {
            Self::Fewer
        } else {
            Self::Unknown
        }
    }
}

/// For how long no key is used before one that is missing makes the connection suspect, and how old it is when that is
/// suspect in any case.
const IDLE_BLIND_MIN: Duration = Duration::from_secs(2);
const BLIND_MAX: Duration = Duration::from_secs(60);
/// Of how many signatures one is verified where they are sampled.
const SAMPLED_OF: u64 = 64;
