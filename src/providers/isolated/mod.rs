//! The PKCS#11 provider in a process of its own, so that a module that crashes or hangs takes nothing with it.
//!
//! The process is this program once more, with [`serve`] as its life. A connection to the token is a process: to connect
//! anew is to start another one, which knows nothing of what befell the former. Questions and answers go over sockets
//! that only the two have, one for each thread that asks. The PIN is read here and handed over, so that a refused one is not
//! tried again by the next process.

mod process;
mod wire;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

pub use process::WorkerCommand;
use process::{Process, ProcessError};
use wire::{Begin, Fault, Request, Signatures};
pub use worker::serve;

use super::pkcs11::{Login, Pkcs11Config, Rehearsal, TokenIdentity};
use super::{
    AsyncSigner, Capabilities, CryptoProvider, Finding, GeneratedKey, KeyName, KeySearch, Lane,
    LinkedKey, Operation, ProviderError, ProviderErrorKind, SigningOrder, StoredKey, TokenKey,
    TokenObject, TokenObjects,
};
use crate::domain::{
    Certificate, KeyRef, KeySpec, PrivateKey, ProviderKind, PublicKey, SignatureAlgorithm,
    SigningInput,
};

/// The PKCS#11 provider in a process of its own.
#[derive(Debug)]
pub struct IsolatedPkcs11Provider {
    config: Pkcs11Config,
    command: WorkerCommand,
    login: Login,
    /// The process, from when it is connected.
    process: ArcSwapOption<Process>,
    /// Held by whoever starts or ends a process.
    changing: Mutex<()>,
    call_max: Duration,
}

impl IsolatedPkcs11Provider {
    /// Makes a provider without a process.
    ///
    /// A process with a call that lasts for longer than `call_max` is killed; generation and the like may take ten times as
    /// long.
    ///
    /// Each process is as nice as the thread that connects.
    pub fn new(config: Pkcs11Config, command: WorkerCommand, call_max: Duration) -> Self {
        Self {
            login: Login::new(config.pin.clone()),
            config,
            command,
            process: ArcSwapOption::empty(),
            changing: Mutex::default(),
            call_max,
        }
    }

    /// Returns which token is connected.
    pub fn identity(&self) -> Option<TokenIdentity> {
        let process = self.connected(Operation::Connect).ok()?;
        Some(process.connected().token.clone())
    }

    /// Tries the token by a key that lies on no token, and is gone afterwards. Not for a provider that is in use: see [`Rehearsal`].
    pub fn rehearse(&self) -> Result<Rehearsal, ProviderError> {
        self.ask(Lane::Sign, Operation::Sign, &Request::Rehearse)
    }

    /// Returns the process, if there is one that can be used.
    fn connected(&self, operation: Operation) -> Result<Arc<Process>, ProviderError> {
        let process = self.process.load_full();
        process
            .filter(|process| !process.is_given_up())
            .ok_or_else(|| error(operation, self.login.kind_when_unconnected()))
    }

    /// Has the token do something: the one door to the process.
    fn ask<T: DeserializeOwned>(
        &self,
        lane: Lane,
        operation: Operation,
        request: &Request,
    ) -> Result<T, ProviderError> {
        settle(operation, self.connected(operation)?.ask(lane, request))
    }

    async fn sign_in_one_go(&self, orders: Vec<SigningOrder>) -> Result<Signatures, ProviderError> {
        let process = self.connected(Operation::Sign)?;
        settle(Operation::Sign, process.ask_to_sign(orders).await)
    }
}

impl CryptoProvider for IsolatedPkcs11Provider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Hsm
    }

    fn availability(&self) -> Result<(), ProviderError> {
        self.connected(Operation::Connect).map(drop)
    }

    fn connect(&self) -> Result<(), ProviderError> {
        let failed = |kind| error(Operation::Connect, kind);
        let _changing = self.changing.lock();
        if self.availability().is_ok() {
            return Ok(());
        }
        if let Some(former) = self.process.load_full() {
            if !former.end() {
                return Err(failed(ProviderErrorKind::Unavailable).found(Finding::ModuleHangs));
            }
            self.process.store(None);
        }
        let pin = self.login.pin();
        let pin =
            pin.map_err(|cause| failed(cause.kind()).found(cause.finding()).because(cause))?;
        let begin = Begin {
            module: self.config.module.clone(),
            token: self.config.token.clone(),
            verify_signatures: self.config.verify_signatures,
            last_try: self.config.last_try,
            pin: pin.expose_secret().to_owned().into(),
        };
        let started = Process::start(&self.command, &begin, self.call_max);
        match started.map_err(|cause| gone(Operation::Connect, cause))? {
            Ok(process) => {
                let process = Arc::new(process);
                self.login.accept();
                self.process.store(Some(Arc::clone(&process)));
                // Only now, so that who waits for these words is served.
                process.connected().token.announce();
                Ok(())
            }
            Err(fault) => {
                let fault = ProviderError::from(fault);
                if let Some(finding) = &fault.finding {
                    self.login.note(pin, finding);
                }
                Err(fault)
            }
        }
    }

    fn disconnect(&self) {
        let _changing = self.changing.lock();
        if let Some(process) = self.process.swap(None) {
            process.end();
        }
    }

    fn probe(&self) -> Result<(), ProviderError> {
        self.ask(Lane::Sign, Operation::Connect, &Request::Probe)
    }

    fn capabilities(&self) -> Result<Capabilities, ProviderError> {
        let process = self.connected(Operation::Connect)?;
        Ok(process.connected().capabilities.clone())
    }

    fn generate(&self, name: &KeyName, spec: KeySpec) -> Result<GeneratedKey, ProviderError> {
        let name = name.clone();
        let request = Request::Generate { name, spec };
        self.ask(Lane::Manage, Operation::Generate, &request)
    }

    fn import(&self, name: &KeyName, key: &PrivateKey) -> Result<GeneratedKey, ProviderError> {
        let request = Request::Import {
            name: name.clone(),
            public_key: key.public_key().clone(),
            pkcs8: key.pkcs8().to_vec().into(),
        };
        self.ask(Lane::Manage, Operation::Import, &request)
    }

    /// Never: a key in a token stays there.
    fn export(&self, _key: &StoredKey) -> Result<PrivateKey, ProviderError> {
        Err(error(Operation::Export, ProviderErrorKind::Unsupported))
    }

    fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        input: &SigningInput,
    ) -> Result<Vec<u8>, ProviderError> {
        let order = SigningOrder {
            key: Arc::new(key.clone()),
            algorithm,
            input: input.clone(),
        };
        let process = self.connected(Operation::Sign)?;
        let mut signed = settle(Operation::Sign, process.ask_to_sign_blocking(vec![order]))?;
        signed.pop().map_or_else(
            || Err(error(Operation::Sign, ProviderErrorKind::Failed)),
            received,
        )
    }

    fn async_signer(&self) -> Option<&dyn AsyncSigner> {
        Some(self)
    }

    fn destroy(&self, key_ref: KeyRef) -> Result<(), ProviderError> {
        self.ask(Lane::Manage, Operation::Destroy, &Request::Destroy(key_ref))
    }

    fn token(&self) -> Option<&dyn TokenObjects> {
        Some(self)
    }
}

#[async_trait]
impl AsyncSigner for IsolatedPkcs11Provider {
    /// They share a question and an answer.
    async fn sign_all(&self, orders: Vec<SigningOrder>) -> Vec<Result<Vec<u8>, ProviderError>> {
        let count = orders.len();
        let hashed = match orders.iter().any(|order| order.input.is_large()) {
            true => tokio::task::spawn_blocking(|| hashed(orders)).await,
            false => Ok(hashed(orders)),
        };
        let failed = |cause| error(Operation::Sign, ProviderErrorKind::Failed).because(cause);
        let signed = match hashed.map_err(failed) {
            Ok(orders) => self.sign_in_one_go(orders).await,
            Err(failure) => Err(failure),
        };
        match signed {
            Ok(signed) => signed.into_iter().map(received).collect(),
            Err(failed) => {
                let kind = failed.kind;
                // What befell them together befell each of them. The first tells why.
                let first = std::iter::once(failed);
                let others = std::iter::repeat_with(|| error(Operation::Sign, kind));
                first.chain(others).take(count).map(Err).collect()
            }
        }
    }
}

/// Hashes what is hashed here, which then need not travel.
fn hashed(mut orders: Vec<SigningOrder>) -> Vec<SigningOrder> {
    for order in &mut orders {
        order.input = order.input.hashed(order.algorithm).into_owned();
    }
    orders
}

impl TokenObjects for IsolatedPkcs11Provider {
    fn publish_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        let request = Request::PublishCertificate {
            name: name.clone(),
            certificate: certificate.clone(),
        };
        self.ask(Lane::Manage, Operation::PublishCertificate, &request)
    }

    fn replace_certificate(
        &self,
        name: &KeyName,
        certificate: &Certificate,
    ) -> Result<(), ProviderError> {
        let request = Request::ReplaceCertificate {
            name: name.clone(),
            certificate: certificate.clone(),
        };
        self.ask(Lane::Manage, Operation::PublishCertificate, &request)
    }

    fn find_keys(&self, search: &KeySearch) -> Result<Vec<TokenKey>, ProviderError> {
        let request = Request::FindKeys(search.clone());
        self.ask(Lane::Manage, Operation::Inventory, &request)
    }

    fn certificates_of(&self, id: &[u8]) -> Result<Vec<Certificate>, ProviderError> {
        let request = Request::CertificatesOf(id.to_vec());
        self.ask(Lane::Manage, Operation::Inventory, &request)
    }

    fn look_at_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        let public_key = public_key.clone();
        let request = Request::LookAtLinkedKey {
            key_ref,
            public_key,
        };
        self.ask(Lane::Manage, Operation::Inventory, &request)
    }

    fn destroy_linked_key(
        &self,
        key_ref: KeyRef,
        public_key: &PublicKey,
    ) -> Result<LinkedKey, ProviderError> {
        let public_key = public_key.clone();
        let request = Request::DestroyLinkedKey {
            key_ref,
            public_key,
        };
        self.ask(Lane::Manage, Operation::Destroy, &request)
    }

    fn begin_inventory(&self) -> Result<(), ProviderError> {
        self.ask(Lane::Manage, Operation::Inventory, &Request::BeginInventory)
    }

    fn continue_inventory(&self) -> Result<Vec<TokenObject>, ProviderError> {
        self.ask(
            Lane::Manage,
            Operation::Inventory,
            &Request::ContinueInventory,
        )
    }

    fn sweep_half_made(&self) -> Result<usize, ProviderError> {
        self.ask(Lane::Manage, Operation::Destroy, &Request::SweepHalfMade)
    }
}

fn received(signature: Result<ByteBuf, Fault>) -> Result<Vec<u8>, ProviderError> {
    Ok(signature?.into_vec())
}

/// Says what the answer of the process, or that there is none, means outside.
fn settle<T>(
    operation: Operation,
    asked: Result<Result<T, Fault>, ProcessError>,
) -> Result<T, ProviderError> {
    let answer = asked.map_err(|cause| gone(operation, cause))?;
    answer.map_err(ProviderError::from)
}

/// Says that there is no answer of the process.
fn gone(operation: Operation, cause: ProcessError) -> ProviderError {
    let finding = match cause {
        ProcessError::Ended => Some(Finding::ModuleCrashed),
        ProcessError::OutOfTime => Some(Finding::ModuleHangs),
        ProcessError::Start(_) | ProcessError::Talk(_) => None,
    };
    error(operation, ProviderErrorKind::Unavailable)
        .found(finding)
        .because(cause)
}

fn error(operation: Operation, kind: ProviderErrorKind) -> ProviderError {
    ProviderError::new(ProviderKind::Hsm, operation, kind)
}

#[cfg(test)]
mod tests;
