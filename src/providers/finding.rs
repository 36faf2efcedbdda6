//! What is wrong with a device, as far as somebody can do something about it: one sentence and one remedy for each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is wrong with a device.
///
/// [`fmt::Display`] says it in a sentence that may be shown to callers: it names labels of tokens and return values of functions, and no
/// paths and secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// The file of the module is not there.
    ModuleMissing,
    /// The file of the module cannot be loaded.
    ModuleUnloadable(String),
    /// The file is a library of something else.
    NoModule,
    /// The process that the module is loaded in ended by itself.
    ModuleCrashed,
    /// A call does not come back from the module.
    ModuleHangs,
    /// A function of the module returned this.
    ModuleFailed {
        /// The function: `C_Initialize`.
        function: String,
        /// The return value.
        code: String,
    },
    /// No token is the one that is meant.
    NoSuchToken {
        /// By what it was looked for.
        wanted: String,
        /// The tokens there are.
        seen: Vec<String>,
    },
    /// Several tokens have the label.
    AmbiguousToken {
        /// By what it was looked for.
        wanted: String,
        /// Those that have it.
        found: Vec<String>,
    },
    /// The file with the PIN cannot be read.
    PinUnreadable(String),
    /// Everybody can read the file with the PIN.
    PinExposed(u32),
    /// There is nothing in the first line of the file with the PIN.
    PinEmpty,
    /// What is in the first line of the file with the PIN is no PIN: a sentence about it.
    PinMalformed(String),
    /// The token refused the PIN.
    PinRefused(TriesLeft),
    /// The token refused the PIN for its age, and not for what it is.
    PinExpired,
    /// The token has no user PIN.
    PinNotSet,
    /// The token takes no PIN any more.
    PinLocked {
        /// Whether the PIN was tried and this was the answer. Else the token said so before.
        tried: bool,
    },
    /// The token says that one more wrong PIN locks it, so the PIN was not tried.
    LastTry,
    /// The token gives no session that may write.
    WriteProtected,
}

/// How many wrong PINs a token takes before it locks, as far as it says (`CK_TOKEN_INFO.flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriesLeft {
    /// It says nothing.
    Unknown,
    /// Fewer than in the beginning (`CKF_USER_PIN_COUNT_LOW`).
    Fewer,
    /// One (`CKF_USER_PIN_FINAL_TRY`).
    One,
    /// None (`CKF_USER_PIN_LOCKED`).
    None,
}

impl Finding {
    /// Says what to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::ModuleMissing => {
                "install the module, or correct crypto.pkcs11.module; it is looked for again and again"
            }
            Self::ModuleUnloadable(_) => {
                "see that the module is for this machine, and that what it needs is installed and may be read"
            }
            Self::NoModule => {
                "set crypto.pkcs11.module to the PKCS#11 library of the token's vendor"
            }
            Self::ModuleCrashed => {
                "tell the module's vendor; meanwhile see that its own configuration and its way to the token are in order"
            }
            Self::ModuleHangs => {
                "look at the way to the token: its network, its cable, the vendor's service on this machine"
            }
            Self::ModuleFailed { .. } => {
                "see what the module's vendor says of this return value, and look at the token and at the module's own configuration"
            }
            Self::NoSuchToken { .. } => {
                "correct crypto.pkcs11.token_label or token_serial, bring the token, or make one by keypaird init-token; it is looked for again and again"
            }
            Self::AmbiguousToken { .. } => {
                "choose one by crypto.pkcs11.token_serial in place of token_label"
            }
            Self::PinUnreadable(_) => {
                "put the PIN into crypto.pkcs11.pin_file, which the daemon's user must be able to read; it is read again and again"
            }
            Self::PinExposed(_) => "run chmod o= on crypto.pkcs11.pin_file",
            Self::PinEmpty => "put the PIN into the first line of crypto.pkcs11.pin_file",
            Self::PinMalformed(_) => {
                "write the PIN as plain text, without a byte order mark, as by printf %s PIN > FILE; it is read again, and nothing was sent to the token"
            }
            Self::PinRefused(_) => {
                "put the right PIN into crypto.pkcs11.pin_file; it is read again, and this one is not tried again (with pin_env, set it and start anew)"
            }
            Self::PinExpired => {
                "have the PIN changed by the token's own tools, and put the new one into crypto.pkcs11.pin_file; it is read again"
            }
            Self::PinNotSet => {
                "have the token's security officer set the user PIN, put it into crypto.pkcs11.pin_file, and start anew"
            }
            Self::PinLocked { tried: true } => {
                "have the token's security officer unlock it with a new user PIN, and put that into crypto.pkcs11.pin_file; it is read again"
            }
            Self::PinLocked { tried: false } => {
                "have the token's security officer unlock it; the daemon notices, and until then tries no PIN"
            }
            Self::LastTry => {
                "see that the right PIN is in crypto.pkcs11.pin_file, and run keypaird check-config --connect --last-try: a login that succeeds gives all tries back, and the daemon notices"
            }
            Self::WriteProtected => "take the write protection off the token by its own tools",
        }
    }

    /// Tells whether a PIN was tried that must not be tried again.
    pub(super) const fn condemns_pin(&self) -> bool {
        matches!(
            self,
            Self::PinRefused(_)
                | Self::PinExpired
                | Self::PinNotSet
                | Self::PinLocked { tried: true }
        )
    }

    /// Tells whether it is about the file or the library of the module, and not about what the token does.
    pub const fn is_of_module(&self) -> bool {
        matches!(
            self,
            Self::ModuleMissing
                | Self::ModuleUnloadable(_)
                | Self::NoModule
                | Self::ModuleCrashed
                | Self::ModuleHangs
                | Self::ModuleFailed { .. }
        )
    }

    /// Tells whether there is no PIN to try.
    pub const fn is_of_pin_file(&self) -> bool {
        matches!(
            self,
            Self::PinUnreadable(_) | Self::PinExposed(_) | Self::PinEmpty | Self::PinMalformed(_)
        )
    }

    /// Tells whether it is about the PIN.
    pub const fn is_of_pin(&self) -> bool {
        matches!(
            self,
            Self::PinUnreadable(_)
                | Self::PinExposed(_)
                | Self::PinEmpty
                | Self::PinMalformed(_)
                | Self::PinRefused(_)
                | Self::PinExpired
                | Self::PinNotSet
                | Self::PinLocked { .. }
                | Self::LastTry
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ModuleMissing => f.write_str("the file of the PKCS#11 module is not there"),
            Self::ModuleUnloadable(why) => {
                write!(f, "the PKCS#11 module cannot be loaded: {why}")
            }
            Self::NoModule => f.write_str(
                "the file that should be the PKCS#11 module is another library: it has no C_GetFunctionList",
            ),
            Self::ModuleCrashed => f.write_str(
                "the PKCS#11 module crashed, or ended the process that it was loaded in",
            ),
            Self::ModuleHangs => f.write_str("a call does not come back from the PKCS#11 module"),
            Self::ModuleFailed { function, code } => {
                write!(f, "{function} of the PKCS#11 module returned {code}")
            }
            Self::NoSuchToken { wanted, seen } if seen.is_empty() => {
                write!(f, "there is no token {wanted}; the PKCS#11 module shows none at all")
            }
            Self::NoSuchToken { wanted, seen } => write!(
                f,
                "there is no token {wanted}; the PKCS#11 module shows {}",
                seen.join(", ")
            ),
            Self::AmbiguousToken { wanted, found } => {
                write!(f, "there are {} tokens {wanted}: {}", found.len(), found.join(", "))
            }
            Self::PinUnreadable(why) => write!(f, "the file with the PIN cannot be read: {why}"),
            Self::PinExposed(mode) => write!(
                f,
                "the file with the PIN is accessible to everybody (mode {mode:03o}), and so is not used"
            ),
            Self::PinEmpty => f.write_str("the file with the PIN has nothing in its first line"),
            Self::PinMalformed(why) => write!(f, "the PIN {why}"),
            Self::PinRefused(tries) => write!(f, "the token refused the PIN; {tries}"),
            Self::PinExpired => f.write_str("the token refused the PIN because it has expired"),
            Self::PinNotSet => f.write_str("the token has no user PIN yet"),
            Self::PinLocked { .. } => {
                f.write_str("the token is locked after too many wrong PINs, and takes none")
            }
            Self::LastTry => f.write_str(
                "the token says that one more wrong PIN locks it, so the PIN was not tried",
            ),
            Self::WriteProtected => f.write_str("the token is write-protected"),
        }
    }
}

impl fmt::Display for TriesLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "it does not say how many tries are left",
            Self::Fewer => "it says that some tries are used up, and not how many are left",
            Self::One => "one more wrong PIN locks it",
            Self::None => "no try is left: it is locked now",
        })
    }
}
