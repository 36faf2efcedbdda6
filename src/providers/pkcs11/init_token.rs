//! Initialises a new token.

use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::session::UserType;
use secrecy::SecretString;

use super::error::Failure;

/// Initialises a token in a free slot (`C_InitToken`) and sets its user PIN (`C_InitPIN`).
///
/// Returns the serial number of the new token.
///
/// # Errors
/// When a token has the label already: this never touches a token that is in use.
pub fn init_token(
    module: &Path,
    label: &str,
    so_pin: &SecretString,
    user_pin: &SecretString,
) -> Result<String, InitTokenError> {
    if label.is_empty() || label.len() > LABEL_LEN_MAX {
        return Err(InitTokenError::Label);
    }
    let pkcs11 = Pkcs11::new(module).map_err(failed)?;
    pkcs11
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .map_err(failed)?;
    let initialized = initialize_free_slot(&pkcs11, label, so_pin, user_pin);
    // Everything was said already; a module that does not end well changes nothing of it.
    let _ = pkcs11.finalize();
    initialized
}

fn initialize_free_slot(
    pkcs11: &Pkcs11,
    label: &str,
    so_pin: &SecretString,
    user_pin: &SecretString,
) -> Result<String, InitTokenError> {
    let mut free = None;
    for slot in pkcs11.get_slots_with_token().map_err(failed)? {
        let Ok(token) = pkcs11.get_token_info(slot) else {
            continue;
        };
        if !token.token_initialized() {
            free.get_or_insert(slot);
        } else if token.label() == label {
            return Err(InitTokenError::Exists(label.to_owned()));
        }
    }
    let slot = free.ok_or(InitTokenError::NoFreeSlot)?;
    pkcs11.init_token(slot, so_pin, label).map_err(failed)?;
    let session = pkcs11.open_rw_session(slot).map_err(failed)?;
    session.login(UserType::So, Some(so_pin)).map_err(failed)?;
    session.init_pin(user_pin).map_err(failed)?;
    let token = pkcs11.get_token_info(slot).map_err(failed)?;
    Ok(token.serial_number().to_owned())
}

fn failed(error: Error) -> InitTokenError {
    InitTokenError::Module(Box::new(Failure::Module(error)))
}

/// `CK_TOKEN_INFO.label` has 32 bytes.
const LABEL_LEN_MAX: usize = 32;

/// Why a token was not initialised.
#[derive(Debug, thiserror::Error)]
pub enum InitTokenError {
    /// There is one with this label.
    #[error("a token with label {0:?} exists already")]
    Exists(String),
    /// The module has no slot for it.
    #[error("the module shows no slot with an uninitialised token")]
    NoFreeSlot,
    /// The label cannot be one.
    #[error("a token label must have 1 to 32 bytes")]
    Label,
    /// The module failed.
    #[error("initialise the token")]
    Module(#[source] Box<dyn std::error::Error + Send + Sync>),
}
