//! The providers that run.

use std::sync::Arc;

use super::ProviderHandle;
use crate::domain::{ProviderKind, ProviderPolicy};

/// The providers of the configured mode.
#[derive(Clone, Debug)]
pub struct Registry {
    policy: ProviderPolicy,
    handles: Vec<Arc<ProviderHandle>>,
}

impl Registry {
    /// Collects the providers of a mode. Of each kind there is one at most.
    pub fn new(policy: ProviderPolicy, handles: Vec<Arc<ProviderHandle>>) -> Self {
        Self { policy, handles }
    }

    /// Returns how `cryptoProvider` is understood.
    pub fn policy(&self) -> &ProviderPolicy {
        &self.policy
    }

    /// Returns a provider; none when it is off in this mode.
    pub fn provider(&self, kind: ProviderKind) -> Option<&Arc<ProviderHandle>> {
        self.handles.iter().find(|handle| handle.kind() == kind)
    }

    /// Returns all that run.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ProviderHandle>> {
        self.handles.iter()
    }
}
