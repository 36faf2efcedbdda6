//! What went wrong with the token, and what that means: for the session, the connection and the caller.

use std::path::Path;

use cryptoki::error::{Error, RvError};

use super::pin::LoginError;
use crate::domain::ProviderKind;
use crate::providers::{Finding, Operation, ProviderError, ProviderErrorKind, TriesLeft};

/// A failure in this room.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// A PKCS#11 function returned something else than `CKR_OK`, or the module could not be called.
    #[error("{}", describe(.0))]
    Module(#[source] Error),
    /// The file of the module is not there, or is none.
    #[error("{0}")]
    Unloadable(Finding, #[source] Error),
    /// There is no token as it was described, or more than one.
    #[error("{0}")]
    Token(Finding),
    /// The token would not take a PIN, or only one more, so that none was tried.
    #[error("{0}")]
    LoginHeld(Finding),
    /// The token refused the login.
    #[error("{}; {tries}", describe(.cause))]
    LoginRefused {
        /// Why.
        #[source]
        cause: Error,
        /// How many tries are left.
        tries: TriesLeft,
    },
    /// There is no PIN to log in with.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The login is gone.
    #[error("the token has forgotten the login")]
    LoggedOut,
    /// The connection was lost, and this came of it.
    #[error("the connection to the token was lost")]
    Lost(#[source] Box<Failure>),
    /// Calls are still in the module, so it cannot be finalised.
    #[error("calls do not come back from the module")]
    CallsInModule,
    /// There is no private key with the `CKA_ID`.
    #[error("the token has no private key with this CKA_ID")]
    KeyMissing,
    /// There are several private keys with the `CKA_ID`.
    #[error("the token has {0} private keys with one CKA_ID")]
    AmbiguousKey(usize),
    /// The algorithm does not go with the key.
    #[error("the algorithm is not one of the key")]
    Unsupported,
    /// The token does not do as told.
    #[error("the token {0}")]
    Untrustworthy(&'static str),
    /// The token returned a signature that is none of the key.
    #[error("the token returned a signature that does not verify with the public key")]
    WrongSignature,
    /// The token does not take keys from elsewhere.
    #[error("the token does not permit the import")]
    ImportForbidden(#[source] Error),
    /// A certificate of ours cannot be read.
    #[error("read the certificate")]
    Certificate(#[source] der::Error),
    /// A creation failed and could not be undone.
    #[error("undo what was begun")]
    OutcomeUnknown(#[source] Box<Failure>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl Failure {
    /// Tells whether the session can be used again. After an error within an operation it may be stuck in
    /// `CKR_OPERATION_ACTIVE` for good, and one that signed wrongly is not trusted with another signature.
    pub(super) fn spares_session(&self) -> bool {
        matches!(
            self,
            Self::KeyMissing
                | Self::AmbiguousKey(_)
                | Self::Unsupported
                | Self::Untrustworthy(_)
                | Self::Certificate(_)
        )
    }

    /// Tells whether all that belongs to the connection is lost: sessions, login, handles.
    pub(super) fn breaks_connection(&self) -> bool {
        use RvError::{
            CryptokiNotInitialized, DeviceError, DeviceRemoved, SessionClosed,
            SessionHandleInvalid, SlotIdInvalid, TokenNotPresent, TokenNotRecognized,
            UserNotLoggedIn,
        };
        match self {
            Self::Module(Error::Pkcs11(code, _)) => matches!(
                code,
                CryptokiNotInitialized
                    | DeviceError
                    | DeviceRemoved
                    | SessionClosed
                    | SessionHandleInvalid
                    | SlotIdInvalid
                    | TokenNotPresent
                    | TokenNotRecognized
                    | UserNotLoggedIn
            ),
            Self::LoggedOut | Self::Lost(_) => true,
            Self::OutcomeUnknown(cause) => cause.breaks_connection(),
            _ => false,
        }
    }

    /// Tells whether the failure says too little, so that the token must be asked whether it is still there.
    pub(super) fn is_vague(&self) -> bool {
        matches!(
            self,
            Self::Module(Error::Pkcs11(
                RvError::GeneralError
                    | RvError::FunctionFailed
                    | RvError::HostMemory
                    | RvError::DeviceMemory
                    | RvError::ObjectHandleInvalid
                    | RvError::KeyHandleInvalid
                    // The session is another one than it was when the operation began.
                    | RvError::OperationNotInitialized
                    | RvError::SessionCount,
                _
            )) | Self::KeyMissing
        )
    }

    /// Tells whether a private key is not there.
    pub(super) fn is_missing_key(&self) -> bool {
        matches!(self, Self::KeyMissing)
    }

    /// Tells whether a handle was used that no longer stands for an object.
    pub(super) fn is_stale_handle(&self) -> bool {
        matches!(
            self,
            Self::Module(Error::Pkcs11(
                RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid,
                _
            ))
        )
    }

    /// Tells whether a private key is of another kind than the algorithm it was to sign with, or a
    /// signature of another form.
    pub(super) fn is_of_another_kind(&self) -> bool {
        matches!(
            self,
            Self::WrongSignature
                | Self::Module(Error::Pkcs11(
                    RvError::KeyTypeInconsistent | RvError::KeySizeRange,
                    _
                ))
        )
    }

    /// Tells whether the token refused the login, so that trying again can only do harm.
    pub(super) fn is_refused_login(error: &Error) -> bool {
        matches!(
            error,
            Error::Pkcs11(
                RvError::PinIncorrect
                    | RvError::PinInvalid
                    | RvError::PinLenRange
                    | RvError::PinExpired
                    | RvError::PinLocked
                    | RvError::UserPinNotInitialized,
                _
            )
        )
    }

    /// Says that the module cannot be loaded from a file.
    pub(super) fn unloadable(module: &Path, cause: Error) -> Self {
        let finding = match &cause {
            Error::LibraryLoading(why) => {
                let why = why.to_string();
                let module = module.display().to_string();
                match why.strip_prefix(&module) {
                    Some(rest) if rest.contains("No such file") => Finding::ModuleMissing,
                    Some(rest) => Finding::ModuleUnloadable(rest.trim_matches([':', ' ']).into()),
                    None => Finding::ModuleUnloadable(why),
                }
            }
            Error::MissingSymbol(_) => Finding::NoModule,
            _ => return Self::Module(cause),
        };
        Self::Unloadable(finding, cause)
    }

    /// Returns what an operator is told.
    pub(super) fn finding(&self) -> Option<Finding> {
        match self {
            Self::Module(Error::Pkcs11(RvError::TokenWriteProtected, _)) => {
                Some(Finding::WriteProtected)
            }
            Self::Module(Error::Pkcs11(code, function)) => Some(Finding::ModuleFailed {
                function: format!("C_{function:?}"),
                code: format!("{code:?}"),
            }),
            Self::Unloadable(finding, _) | Self::Token(finding) | Self::LoginHeld(finding) => {
                Some(finding.clone())
            }
            Self::LoginRefused { cause, tries } => Some(match cause {
                Error::Pkcs11(RvError::PinLocked, _) => Finding::PinLocked { tried: true },
                Error::Pkcs11(RvError::PinExpired, _) => Finding::PinExpired,
                Error::Pkcs11(RvError::UserPinNotInitialized, _) => Finding::PinNotSet,
                _ => Finding::PinRefused(*tries),
            }),
            Self::Login(error) => Some(error.finding()),
            Self::CallsInModule => Some(Finding::ModuleHangs),
            Self::Lost(cause) | Self::OutcomeUnknown(cause) => cause.finding(),
            _ => None,
        }
    }

    fn kind(&self) -> ProviderErrorKind {
        match self {
            Self::LoginRefused { .. } | Self::LoginHeld(_) => ProviderErrorKind::LoginRefused,
            _ if self.breaks_connection() => ProviderErrorKind::Unavailable,
            Self::Module(Error::Pkcs11(code, _)) => match code {
                RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::CurveNotSupported
                | RvError::DomainParamsInvalid
                | RvError::KeySizeRange => ProviderErrorKind::Unsupported,
                RvError::SessionCount => ProviderErrorKind::Busy,
                _ => ProviderErrorKind::Failed,
            },
            Self::Unloadable(..)
            | Self::Token(_)
            | Self::CallsInModule
            | Self::LoggedOut
            | Self::Lost(_)
            | Self::OutcomeUnknown(_) => ProviderErrorKind::Unavailable,
            Self::KeyMissing => ProviderErrorKind::KeyMissing,
            Self::ImportForbidden(_) => ProviderErrorKind::NotPermitted,
            Self::Unsupported => ProviderErrorKind::Unsupported,
            Self::Untrustworthy(_) | Self::AmbiguousKey(_) | Self::WrongSignature => {
                ProviderErrorKind::Untrustworthy
            }
            Self::Login(error) => error.kind(),
            Self::Module(_) | Self::Certificate(_) => ProviderErrorKind::Failed,
        }
    }

    /// Says what this means outside of this room.
    pub(super) fn into_provider_error(self, operation: Operation) -> ProviderError {
        ProviderError::new(ProviderKind::Hsm, operation, self.kind())
            .found(self.finding())
            .because(self)
    }
}

/// Names function and return value. cryptoki's own texts are paragraphs of the specification.
fn describe(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("C_{function:?} returned {code:?}"),
        other => other.to_string(),
    }
}
