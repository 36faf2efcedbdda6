//! A PKCS#11 module that fails when told: `fault-module/fault_module.c`, between the daemon and SoftHSM2; and a daemon that
//! uses it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use keypaird::proto::{
    CryptoProvider, KeyPairView, SignRequest, SignResponse, VerifyRequest, sign_request,
    verify_request,
};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::client::{Client, reason, settings};
use crate::daemon::{Daemon, Home, Isolation};
use crate::measure::children;
use crate::token::Token;

/// The module, and what it is told.
#[derive(Debug)]
pub struct FaultyModule {
    folder: PathBuf,
    /// What removes the folder, unless somebody else does.
    _owned: Option<TempDir>,
}

impl FaultyModule {
    /// Compiles the module. Nothing is wrong with it as yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let module = Self {
            folder: folder.path().to_owned(),
            _owned: Some(folder),
        };
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("fault-module/build.sh");
        let compiled = Command::new(build).arg(module.library()).status().unwrap();
        assert!(compiled.success());
        module.mend();
        module
    }

    /// Returns the one that this process loads, which belongs to somebody else.
    pub fn of_process() -> Self {
        let orders = PathBuf::from(std::env::var_os("FAULT_FILE").unwrap());
        Self {
            folder: orders.parent().unwrap().to_owned(),
            _owned: None,
        }
    }

    /// Has a daemon use it.
    #[must_use]
    pub fn given_to(&self, home: Home) -> Home {
        home.replacing(
            "module",
            &format!("module = \"{}\"", self.library().display()),
        )
        .env("FAULT_FILE", self.orders().to_str().unwrap())
    }

    /// Tells it what to do from now on, in lines of `FUNCTION SKIP TIMES ACTION [VALUE]`.
    pub fn tell(&self, orders: &str) {
        let new = self.folder.join("new");
        let mut file = orders.as_bytes().to_vec();
        assert!(file.len() < LINES_LEN);
        // Behind the lines the module counts what it has seen.
        file.resize(LINES_LEN + 32 * size_of::<u64>(), 0);
        fs::write(&new, file).unwrap();
        fs::rename(new, self.orders()).unwrap();
    }

    /// Has it do what SoftHSM2 does.
    pub fn mend(&self) {
        self.tell("");
    }

    /// Returns whether an order of one line was carried out, `skip` being what it leaves alone.
    pub fn has_struck(&self, skip: u64) -> bool {
        let file = fs::read(self.orders()).unwrap();
        u64::from_ne_bytes(*file[LINES_LEN..].first_chunk().unwrap()) > skip
    }

    /// Returns the functions that were called so far, and how often.
    pub fn functions_called(&self) -> BTreeMap<String, u64> {
        let functions = self.all_calls().into_iter();
        functions
            .map(|(name, (called, _))| (name, called))
            .filter(|(_, called)| *called > 0)
            .collect()
    }

    /// Returns how often a function was called so far, by all processes.
    pub fn called(&self, function: &str) -> u64 {
        self.calls(function).0
    }

    /// Returns how many sessions are open.
    pub fn sessions(&self) -> u64 {
        self.calls("sessions").1
    }

    /// Returns how often a function was called, and how often it succeeded.
    fn calls(&self, name: &str) -> (u64, u64) {
        *self.all_calls().get(name).unwrap_or(&(0, 0))
    }

    fn all_calls(&self) -> BTreeMap<String, (u64, u64)> {
        // There is none before the module was loaded.
        let told = fs::read(self.folder.join("orders.calls")).unwrap_or_default();
        let (entries, _) = told.as_chunks::<CALLS_LEN>();
        let calls = entries.iter().map(|entry| {
            let name = entry.split(|byte| *byte == 0).next().unwrap_or_default();
            let number = |at| u64::from_ne_bytes(*entry[at..].first_chunk().unwrap());
            let (called, succeeded) = (number(CALLS_LEN - 16), number(CALLS_LEN - 8));
            (
                String::from_utf8_lossy(name).into_owned(),
                (called, succeeded),
            )
        });
        calls.collect()
    }

    /// Waits until no more sessions are open than there may be when nothing is being done.
    ///
    /// # Panics
    /// When there are more after a while: they have leaked.
    pub fn assert_no_session_leaked(&self, after: &str) {
        let begun = Instant::now();
        while self.sessions() > SESSIONS_MAX {
            let open = self.sessions();
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "{after}: {open} sessions are open"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the shared library.
    pub fn library(&self) -> PathBuf {
        self.folder.join("faulty.so")
    }

    /// Returns the file of orders, for `FAULT_FILE`.
    pub fn orders(&self) -> PathBuf {
        self.folder.join("orders")
    }
}

/// A daemon in hybrid mode over a module that fails when told, with a key pair in each provider.
#[derive(Debug)]
pub struct Stage {
    /// The module.
    pub module: FaultyModule,
    /// The daemon.
    pub daemon: Daemon,
    /// A client of it.
    pub client: Client,
    /// A key pair in the token.
    pub hsm: KeyPairView,
    /// A key pair in software.
    pub local: KeyPairView,
    /// The token.
    pub token: Token,
    isolation: Isolation,
    /// How many threads its provider has.
    threads: usize,
}

impl Stage {
    /// Makes one with a fresh token.
    pub async fn new(isolation: Isolation) -> Self {
        Self::at(Token::fresh(), isolation, |home| home).await
    }

    /// Makes one with a token, where something is changed in the configuration.
    pub async fn at(token: Token, isolation: Isolation, change: impl FnOnce(Home) -> Home) -> Self {
        let module = FaultyModule::new();
        let home = change(Home::hybrid(&token).isolating(isolation));
        let daemon = module.given_to(home).start();
        let client = daemon.client().await;
        let generate = async |provider| client.generate(settings(provider)).await.unwrap();
        let stage = Self {
            hsm: generate(CryptoProvider::Hsm).await,
            local: generate(CryptoProvider::Local).await,
            module,
            client,
            token,
            isolation,
            threads: provider_threads(&daemon),
            daemon,
        };
        stage.sign(&stage.hsm).await.unwrap();
        stage
    }

    /// Returns what a signature is asked for with.
    pub fn request(view: &KeyPairView) -> SignRequest {
        SignRequest {
            id: view.id.clone(),
            input: Some(sign_request::Input::Message(MESSAGE.into())),
            ..SignRequest::default()
        }
    }

    /// Has a key pair sign. Whatever happens, what comes is right.
    pub async fn sign(&self, view: &KeyPairView) -> Result<SignResponse, Status> {
        let signed = self.client.sign(Self::request(view)).await?;
        let request = VerifyRequest {
            id: view.id.clone(),
            input: Some(verify_request::Input::Message(MESSAGE.into())),
            signature: signed.signature.clone(),
            ..VerifyRequest::default()
        };
        assert!(self.client.verify(request).await.unwrap().valid);
        Ok(signed)
    }

    /// Has software keys sign, which know nothing of all this.
    pub async fn software_signs(&self) {
        for _ in 0..3 {
            self.sign(&self.local).await.unwrap();
        }
    }

    /// Waits until the key in the token cannot sign, and returns what the caller is told.
    pub async fn refused(&self, fault: &str, expected: &str) -> Status {
        let begun = Instant::now();
        loop {
            match self.sign(&self.hsm).await {
                Err(status) if reason(&status).1 == expected => return status,
                other => assert!(
                    begun.elapsed() < PATIENCE,
                    "{fault}: {other:?}\n{}",
                    self.daemon.log()
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the key in the token signs again, looks that nothing was left behind, and returns how long that took.
    pub async fn recovered(&self, fault: &str) -> Duration {
        let begun = Instant::now();
        while let Err(status) = self.sign(&self.hsm).await {
            assert!(
                begun.elapsed() < PATIENCE,
                "{fault}: {status:?}\n{}",
                self.daemon.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = begun.elapsed();
        self.software_signs().await;
        self.module.assert_no_session_leaked(fault);
        // One process for the module, and no other left over; and no thread.
        let expected = usize::from(self.isolation == Isolation::Process);
        let left_over = || {
            children(self.daemon.pid()).len() != expected
                || provider_threads(&self.daemon) != self.threads
        };
        while left_over() {
            assert!(
                begun.elapsed() < PATIENCE,
                "{fault}: processes or threads are left over, or missing"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        took
    }

    /// Waits until the token has as many private keys and certificates as it should.
    pub fn holds(&self, fault: &str, count: usize) {
        let begun = Instant::now();
        loop {
            let found = ["Private Key", "Certificate"].map(|kind| self.token.count(kind));
            if found == [count; 2] {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{fault}: {found:?}\n{}",
                self.daemon.log()
            );
        }
    }
}

/// Returns how many threads of a daemon work for the token's provider.
fn provider_threads(daemon: &Daemon) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")));
    // One may end meanwhile.
    names
        .filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("hsm-")))
        .count()
}

/// Tells whether a deadline passed, whoever of the two noticed first.
pub fn is_out_of_time(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

const MESSAGE: &[u8] = b"message";
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the lines of a file of orders may be, and how long an entry of the file of calls is: see the module.
const LINES_LEN: usize = 4096;
const CALLS_LEN: usize = 48;
/// One that keeps the login, and one for each thread: four that sign, and the one that generates.
const SESSIONS_MAX: u64 = 6;

impl Default for FaultyModule {
    fn default() -> Self {
        Self::new()
    }
}
