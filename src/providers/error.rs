//! Why a provider could not do what it was asked.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::domain::ProviderKind;

/// A failure of a provider: which one, at what, of which kind, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in {provider}: {kind}")]
pub struct ProviderError {
    /// The provider.
    pub provider: ProviderKind,
    /// What it was asked to do.
    pub operation: Operation,
    /// What this means for the caller.
    pub kind: ProviderErrorKind,
    /// What an operator is told, where more is known than the kind.
    pub finding: Option<Box<Finding>>,
    /// What went wrong inside. For logs, never for callers.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl ProviderError {
    /// Makes a failure without a deeper cause.
    pub fn new(provider: ProviderKind, operation: Operation, kind: ProviderErrorKind) -> Self {
        Self {
            provider,
            operation,
            kind,
            finding: None,
            source: None,
        }
    }

    /// Adds what an operator is told.
    pub fn found(mut self, finding: impl Into<Option<Finding>>) -> Self {
        self.finding = finding.into().map(Box::new);
        self
    }

    /// Adds the deeper cause.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

/// What a failure means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderErrorKind {
    /// The device is away, or failed in the middle: whether the operation happened is not known.
    Unavailable,
    /// The device refused the login. Nothing helps but another PIN.
    LoginRefused,
    /// Too much work is waiting already. Nothing was begun.
    Busy,
    /// The device did not answer in time: whether the operation happened is not known.
    TimedOut,
    /// The device cannot do this with this kind of key.
    Unsupported,
    /// The device forbids this.
    NotPermitted,
    /// The private key is not where it should be.
    KeyMissing,
    /// The stored private key cannot be decrypted, or is not of its kind.
    KeyUnreadable,
    /// The device did something else than it was told.
    Untrustworthy,
    /// Anything else. What was begun was undone.
    Failed,
}

impl ProviderErrorKind {
    /// Tells whether the device may be to blame, and not what was asked of it or who else asks.
    pub(super) const fn accuses_device(self) -> bool {
        match self {
            Self::Unavailable
            | Self::TimedOut
            | Self::KeyMissing
            | Self::KeyUnreadable
            | Self::Untrustworthy
            | Self::Failed => true,
            Self::LoginRefused | Self::Busy | Self::Unsupported | Self::NotPermitted => false,
        }
    }
}

impl fmt::Display for ProviderErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the device is not available",
            Self::LoginRefused => "the device refused the login",
            Self::Busy => "too much work is waiting",
            Self::TimedOut => "the device did not answer in time",
            Self::Unsupported => "the device cannot do this",
            Self::NotPermitted => "the device does not permit this",
            Self::KeyMissing => "the private key is missing",
            Self::KeyUnreadable => "the stored private key cannot be read",
            Self::Untrustworthy => "the device did something else than it was told",
            Self::Failed => "the device failed",
        })
    }
}

/// What a provider was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Make itself ready, or see whether it is.
    Connect,
    /// Generate a key.
    Generate,
    /// Sign.
    Sign,
    /// Take a key that was made elsewhere.
    Import,
    /// Give a key away.
    Export,
    /// Destroy a key.
    Destroy,
    /// Put a certificate on the token.
    PublishCertificate,
    /// Look at the objects of the token.
    Inventory,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Generate => "generate a key",
            Self::Sign => "sign",
            Self::Import => "import a key",
            Self::Export => "export a key",
            Self::Destroy => "destroy a key",
            Self::PublishCertificate => "publish a certificate",
            Self::Inventory => "list the objects",
        })
    }
}
