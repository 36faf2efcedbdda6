//! Which providers there are, and which of them a request may use.

use std::fmt;

use serde::Serialize;

use super::Refusal;

/// A kind of place where keys live and work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProviderKind {
    /// The software provider: keys are stored encrypted by the daemon.
    Local,
    /// The PKCS#11 token.
    Hsm,
}

impl ProviderKind {
    /// Both, in the order of their wire numbers.
    pub const ALL: [Self; 2] = [Self::Local, Self::Hsm];

    /// Returns the name on the wire: `LOCAL` or `HSM`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "LOCAL",
            Self::Hsm => "HSM",
        }
    }

    /// Tells whether the provider itself keeps private keys. Those of the software provider are in
    /// the store, and begin and end with their record.
    pub const fn keeps_keys(self) -> bool {
        match self {
            Self::Local => false,
            Self::Hsm => true,
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which providers the daemon runs: the setting `crypto.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderMode {
    /// Software only.
    Local,
    /// The token only.
    Hsm,
    /// Both: each request may choose by its `cryptoProvider`.
    Hybrid,
}

impl ProviderMode {
    /// Returns the name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Hsm => "hsm",
            Self::Hybrid => "hybrid",
        }
    }

    /// Tells whether keys of `kind` are served in this mode.
    pub const fn serves(self, kind: ProviderKind) -> bool {
        match self {
            Self::Local => matches!(kind, ProviderKind::Local),
            Self::Hsm => matches!(kind, ProviderKind::Hsm),
            Self::Hybrid => true,
        }
    }
}

impl fmt::Display for ProviderMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How `cryptoProvider` is understood: the mode, and what an absent field means in hybrid mode.
#[derive(Clone, Copy, Debug)]
pub struct ProviderPolicy {
    /// Which providers run.
    pub mode: ProviderMode,
    /// What a request in hybrid mode means that names no provider.
    pub default: ProviderKind,
}

impl ProviderPolicy {
    /// Resolves the `cryptoProvider` of a request that makes a key.
    pub fn resolve(&self, asked: Option<ProviderKind>) -> Result<ProviderKind, Refusal> {
        match (self.mode, self.narrow(asked)?) {
            (ProviderMode::Local, _) => Ok(ProviderKind::Local),
            (ProviderMode::Hsm, _) => Ok(ProviderKind::Hsm),
            (ProviderMode::Hybrid, asked) => Ok(asked.unwrap_or(self.default)),
        }
    }

    /// Checks the `cryptoProvider` of a request that may be narrowed to one.
    pub fn narrow(&self, asked: Option<ProviderKind>) -> Result<Option<ProviderKind>, Refusal> {
        match (self.mode, asked) {
            (ProviderMode::Local | ProviderMode::Hsm, Some(_)) => Err(Refusal::new(format!(
                "is applicable in hybrid mode only, and this daemon runs in {} mode; leave it out",
                self.mode
            ))),
            (_, asked) => Ok(asked),
        }
    }

    /// Returns what a view shows of a key's provider: nothing where the field is not applicable.
    pub fn shown(&self, kind: ProviderKind) -> Option<ProviderKind> {
        (self.mode == ProviderMode::Hybrid).then_some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hybrid_mode_lets_a_request_choose() {
        use ProviderKind::{Hsm, Local};
        let policy = |mode| ProviderPolicy { mode, default: Hsm };

        assert_eq!(policy(ProviderMode::Local).resolve(None), Ok(Local));
        assert_eq!(policy(ProviderMode::Hsm).resolve(None), Ok(Hsm));
        assert_eq!(policy(ProviderMode::Hybrid).resolve(None), Ok(Hsm));
        assert_eq!(policy(ProviderMode::Hybrid).resolve(Some(Local)), Ok(Local));
        for mode in [ProviderMode::Local, ProviderMode::Hsm] {
            for kind in ProviderKind::ALL {
                assert!(policy(mode).resolve(Some(kind)).is_err());
                assert_eq!(policy(mode).shown(kind), None);
            }
        }
    }
}
