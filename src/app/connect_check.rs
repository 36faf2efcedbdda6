//! `keypaird check-config --connect`: tries all that `serve` would need, and says in sentences how it is.
//!
//! Nothing is changed: the store is only read, what is made on the token is for a session only, and no file is made, but for SQLite's index
//! (`-shm`) of a log that a crash left beside the store, where that is lost. A daemon that runs with the same configuration is not disturbed. The
//! module is loaded in a process of its own, whatever the configuration says.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::path::Path;

use rustix::fs::{Access, access};

use super::StartError;
use super::module_process;
use super::system::refuse_wrong_clock;
use crate::config::{Config, ServerConfig, TokenConfig};
use crate::providers::isolated::IsolatedPkcs11Provider;
use crate::providers::local::{KeyEncryptionKey, KeyEncryptionKeyError};
use crate::providers::pkcs11::{Pkcs11Config, Rehearsal};
use crate::providers::{CryptoProvider, ProviderError, ProviderErrorKind};
use crate::server::{ServerError, Tls, is_left_socket};
use crate::store::{StoreError, StoreInspection, inspect};
use crate::telemetry::{LogFormat, TelemetryConfig, chain};

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub subject: &'static str,
    /// What it comes to.
    pub verdict: Verdict,
    /// How it is, in a sentence.
    pub message: String,
    /// What to do. None where nothing is to be done.
    pub remedy: Option<String>,
}

/// What a trial comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Ok,
    /// It works, and an operator should look at it.
    Warn,
    /// It does not work. `serve` would end with this exit code; 1 when it would run all the same.
    Fail {
        /// The exit code.
        exit_code: u8,
    },
}

impl Check {
    fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(subject, Verdict::Ok, message)
    }

    fn warn(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(subject, Verdict::Warn, message)
    }

    fn fail(subject: &'static str, exit_code: u8, message: impl Into<String>) -> Self {
        Self::new(subject, Verdict::Fail { exit_code }, message)
    }

    fn new(subject: &'static str, verdict: Verdict, message: impl Into<String>) -> Self {
        Self {
            subject,
            verdict,
            message: message.into(),
            remedy: None,
        }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "OK",
            Verdict::Warn => "WARN",
            Verdict::Fail { .. } => "FAIL",
        };
        write!(f, "{verdict:4}  {:11}  {}", self.subject, self.message)?;
        match &self.remedy {
            // The caller indents a line by two.
            Some(remedy) => write!(f, "\n{:21}-> {remedy}", ""),
            None => Ok(()),
        }
    }
}

/// What failed, and what there is to look at beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWell {
    /// How many things failed.
    pub failures: usize,
    /// How many things work and should be looked at.
    pub warnings: usize,
    /// What to end with.
    pub exit_code: u8,
}

impl fmt::Display for NotWell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failures {
            1 => f.write_str("1 failure")?,
            failures => write!(f, "{failures} failures")?,
        }
        match self.warnings {
            0 => Ok(()),
            1 => f.write_str(", 1 warning"),
            warnings => write!(f, ", {warnings} warnings"),
        }
    }
}

/// Says what checks come to: how many warnings there are.
///
/// # Errors
/// When something failed. The exit code is the one that `serve` would end with: that of the first
/// thing which it would not run with, since the checks are in its order; and 1 when it would run
/// with all.
pub fn conclude(checks: &[Check]) -> Result<usize, NotWell> {
    let warnings = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Warn)
        .count();
    let failed = checks.iter().filter_map(|check| match check.verdict {
        Verdict::Fail { exit_code } => Some(exit_code),
        Verdict::Ok | Verdict::Warn => None,
    });
    let exit_codes: Vec<u8> = failed.collect();
    if exit_codes.is_empty() {
        return Ok(warnings);
    }
    let mut ending = exit_codes.iter().copied();
    let ending = ending.find(|exit_code| *exit_code != RUNS_WITH_IT);
    Err(NotWell {
        failures: exit_codes.len(),
        warnings,
        exit_code: ending.unwrap_or(RUNS_WITH_IT),
    })
}

/// Tries all that a configuration names: the store, the key encryption key, the TLS files, the addresses, the token. The PIN is tried once at
/// most; when the token says that one more wrong one locks it, only if `last_try`.
pub fn check_connections(config: &Config, last_try: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Err(error) = refuse_wrong_clock() {
        checks.push(wrong_start("clock", &error));
    }
    let inspected = inspect(&config.store.path);
    let runs = inspected.as_ref().is_ok_and(|found| found.in_use);
    checks.push(check_store(&config.store.path, &inspected));
    if let Some(local) = &config.crypto.local {
        let path = &local.key_encryption_key_file;
        checks.push(check_key_encryption_key(
            path,
            &config.store.path,
            &inspected,
        ));
    }
    checks.extend(check_addresses(&config.server, runs));
    if let Some(token) = &config.crypto.token {
        checks.extend(check_token(token, last_try));
    }
    checks
}

fn check_store(path: &Path, inspected: &Result<StoreInspection, StoreError>) -> Check {
    let shown = path.display();
    let found = match inspected {
        Ok(found) => found,
        Err(error) => {
            let (message, remedy) = match error {
                StoreError::Database(cause) => (
                    format!("{shown} cannot be read as a database: {cause}"),
                    "see that store.url names a database of keypaird, or restore it from a backup",
                ),
                StoreError::Damaged { finding, .. } => (
                    format!("{shown} is damaged: {finding}"),
                    "restore it from a backup: keypaird restore FILE",
                ),
                StoreError::ForeignLog { log, .. } => (
                    format!(
                        "{} belongs to another database: {shown} was replaced and its log was left behind",
                        log.display()
                    ),
                    "run keypaird restore FILE, which replaces both",
                ),
                StoreError::TooNew { .. } => (chain(error), "or point store.url at another store"),
                _ => (
                    chain(error),
                    "see that the daemon's user may read and write it, or change store.url",
                ),
            };
            return Check::fail("store", 69, message).remedy(remedy);
        }
    };
    let Some(schema) = found.schema else {
        return match can_be_made(path, path) {
            Ok(()) => Check::ok("store", format!("{shown} is not there; serve makes it")),
            Err(error) => Check::fail("store", 69, cannot_be_made(path, &error))
                .remedy("have the daemon's user own its folder, or change store.url"),
        };
    };
    let counted = match found.key_pairs {
        1 => "one key pair".to_owned(),
        count => format!("{count} key pairs"),
    };
    let upgrade = match schema.found < schema.known {
        true => format!(
            "; serve brings it from schema version {} to {}",
            schema.found, schema.known
        ),
        false => String::new(),
    };
    let message = format!("{shown}, with {counted}{upgrade}");
    match found.in_use {
        true => Check::warn(
            "store",
            format!("{message}; a keypaird runs with it, and a second one would not start"),
        ),
        false => Check::ok("store", message),
    }
}

/// Sees whether `serve` can make a file in its folder. It makes the folders of the store as well.
fn can_be_made(path: &Path, store: &Path) -> io::Result<()> {
    let made = folder_of(store);
    let mut folder = folder_of(path);
    while !folder.exists() && made.starts_with(folder) {
        folder = folder_of(folder);
    }
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from)
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent();
    let named = folder.filter(|folder| !folder.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

fn cannot_be_made(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    format!("{shown} is not there, and cannot be made: {error}")
}

fn check_key_encryption_key(
    path: &Path,
    store: &Path,
    inspected: &Result<StoreInspection, StoreError>,
) -> Check {
    const SUBJECT: &str = "key file";
    let exit_code = 77;
    let check_value = match inspected {
        Ok(found) => found.key_encryption_check.as_ref(),
        Err(_) => None,
    };
    let error = match (KeyEncryptionKey::read(path), check_value) {
        (Ok(_), None) if inspected.is_err() => {
            let message = format!(
                "{} can be read; without the store it cannot be seen whether it is the right one",
                path.display()
            );
            return Check::warn(SUBJECT, message);
        }
        (Ok(key), Some(check)) if key.recognises(check) => {
            return Check::ok(
                SUBJECT,
                format!("{} is the one of the store", path.display()),
            );
        }
        (Ok(_), Some(_)) => KeyEncryptionKeyError::Wrong(path.to_owned()),
        (Ok(_), None) => {
            return Check::ok(SUBJECT, format!("{} can be used", path.display()));
        }
        (Err(KeyEncryptionKeyError::Missing(_)), None) => {
            return match can_be_made(path, store) {
                Ok(()) => {
                    let message = format!("{} is not there; serve makes it", path.display());
                    Check::ok(SUBJECT, message)
                }
                Err(error) => Check::fail(SUBJECT, exit_code, cannot_be_made(path, &error))
                    .remedy("have the daemon's user own its folder, or change crypto.local.key_encryption_key_file"),
            };
        }
        (Err(error), _) => error,
    };
    let text = chain(&error);
    // What it is, and what to do, are one sentence there.
    match text.split_once("; ") {
        Some((message, remedy)) => Check::fail(SUBJECT, exit_code, message).remedy(remedy),
        None => Check::fail(SUBJECT, exit_code, text),
    }
}

fn check_addresses(server: &ServerConfig, runs: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(tls) = &server.tls {
        checks.push(match Tls::check(tls) {
            Ok(()) => Check::ok("TLS", format!("{} and its key can be used", tls.certificate.display())),
            Err(error) => wrong_start("TLS", &error.into())
                .remedy("put a certificate and its private key in PEM there, which the daemon's user must be able to read"),
        });
    }
    let address = server.listen;
    checks.push(match TcpListener::bind(address) {
        Ok(_) => Check::ok("address", format!("{address} is free")),
        Err(source) if runs && source.kind() == io::ErrorKind::AddrInUse => {
            Check::warn("address", format!("{address} is in use, as the store is"))
        }
        Err(source) => {
            let address = address.to_string();
            wrong_start(
                "address",
                &StartError::from(ServerError::Listen { address, source }),
            )
            .remedy("end what listens there (ss -ltnp shows it), or change server.listen")
        }
    });
    checks.extend(
        server
            .unix_socket
            .as_deref()
            .map(|path| check_socket(path, runs)),
    );
    checks
}

fn check_socket(path: &Path, runs: bool) -> Check {
    const SUBJECT: &str = "socket";
    let shown = path.display();
    let wrong = |message: String, remedy: &str| {
        let remedy = format!("{remedy}, or change server.unix_socket");
        Check::fail(SUBJECT, 69, message).remedy(remedy)
    };
    let folder = folder_of(path);
    if !folder.is_dir() {
        return wrong(format!("the folder of {shown} is not there"), "make it");
    }
    let found = is_left_socket(path).map_err(|error| (error.kind(), error));
    match found {
        Ok(_) => match access(folder, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Check::ok(SUBJECT, format!("{shown} is free")),
            Err(error) => wrong(
                format!("{shown} is free, and cannot be made: {error}"),
                "have the daemon's user own its folder",
            ),
        },
        Err((io::ErrorKind::AlreadyExists, _)) => wrong(
            format!("at {shown} there is a file that is no socket"),
            "remove it",
        ),
        Err((io::ErrorKind::AddrInUse, _)) if runs => {
            Check::warn(SUBJECT, format!("{shown} is in use, as the store is"))
        }
        Err((io::ErrorKind::AddrInUse, _)) => {
            wrong(format!("another process answers at {shown}"), "end it")
        }
        Err((_, error)) => wrong(
            format!("it cannot be seen whether {shown} is free: {error}"),
            "see that the daemon's user may connect to what is there, or remove it",
        ),
    }
}

fn check_token(token: &TokenConfig, last_try: bool) -> Vec<Check> {
    let module = format!(
        "{} is loaded, by a process of its own",
        token.pkcs11.module.display()
    );
    let provider = IsolatedPkcs11Provider::new(
        Pkcs11Config {
            last_try,
            ..token.pkcs11.clone()
        },
        // What it has to say is said here.
        module_process::command(&TelemetryConfig {
            log_format: LogFormat::Text,
            log_filter: "off".to_owned(),
        }),
        token.operation_timeout,
    );
    let mut checks = Vec::new();
    if let Err(failure) = provider.connect() {
        checks.extend(what_is_wrong(&module, &failure));
        return checks;
    }
    checks.push(Check::ok("module", module));
    if let Some(identity) = provider.identity() {
        checks.push(Check::ok("token", identity.to_string()));
        if identity.write_protected {
            let message =
                "the token says that it is write-protected: no key can be made, or destroyed";
            checks.push(
                Check::fail("token", 1, message).remedy("take the protection off by its own tools"),
            );
        }
    }
    checks.push(Check::ok("PIN", "the token accepts it"));
    for missing in provider.capabilities().unwrap_or_default().missing() {
        checks.push(Check::ok("mechanisms", missing.to_string()));
    }
    checks.push(match provider.rehearse() {
        Ok(Rehearsal::Signed(spec)) => Check::ok(
            "signature",
            format!("made by a trial key ({spec}), which is gone again, and verified"),
        ),
        Ok(Rehearsal::NotMade(why)) => Check::warn(
            "signature",
            format!("not tried: the token makes no key for a trial ({why}); serve tries with the keys of the store"),
        ),
        Err(failure) if failure.kind == ProviderErrorKind::Untrustworthy => {
            let said = "the trial signature failed: it does not verify with the public key";
            Check::fail("signature", 1, said).remedy(
                "look at the token and its module: none of its signatures would be handed out",
            )
        }
        Err(failure) => {
            let said = format!("the trial signature failed: {}", sentence(&failure));
            with_remedy(Check::fail("signature", 1, said), &failure)
        }
    });
    provider.disconnect();
    checks
}

/// Says what is in the way of a connection, after what was passed before it.
fn what_is_wrong(module: &str, failure: &ProviderError) -> Vec<Check> {
    let mut checks = Vec::new();
    let subject = match &failure.finding {
        Some(finding) if finding.is_of_module() => "module",
        Some(finding) if finding.is_of_pin_file() => "PIN",
        Some(finding) => {
            checks.push(Check::ok("module", module));
            match finding.is_of_pin() {
                true => {
                    checks.push(Check::ok("token", "it is there"));
                    "PIN"
                }
                false => "token",
            }
        }
        None => "token",
    };
    let wrong = Check::fail(subject, 1, sentence(failure));
    checks.push(with_remedy(wrong, failure));
    checks
}

fn sentence(failure: &ProviderError) -> String {
    match &failure.finding {
        Some(finding) => finding.to_string(),
        None => chain(failure),
    }
}

fn with_remedy(check: Check, failure: &ProviderError) -> Check {
    match &failure.finding {
        Some(finding) => check.remedy(finding.remedy()),
        None => check,
    }
}

fn wrong_start(subject: &'static str, error: &StartError) -> Check {
    Check::fail(subject, error.exit_code(), chain(error))
}

/// What is wrong that `serve` would run with.
const RUNS_WITH_IT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_first_thing_that_would_end_serve() {
        let conclude = |codes: &[u8]| {
            let mut checks = vec![Check::ok("a", "is well"), Check::warn("b", "is in use")];
            let wrong = codes.iter().map(|code| Check::fail("c", *code, "fails"));
            checks.extend(wrong);
            conclude(&checks).map_err(|not_well| (not_well.failures, not_well.exit_code))
        };
        assert_eq!(conclude(&[]), Ok(1));
        assert_eq!(conclude(&[1, 1]), Err((2, 1)));
        assert_eq!(conclude(&[69, 77, 1]), Err((3, 69)));
        assert_eq!(conclude(&[1, 77, 69]), Err((3, 77)));
    }

    #[test]
    fn serve_makes_folders_for_the_store_and_for_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let store = path("new/state/store.db");
        let kind = |name: &str| can_be_made(&path(name), &store).map_err(|error| error.kind());
        assert_eq!(kind("new/state/store.db"), Ok(()));
        assert_eq!(kind("new/state/key"), Ok(()));
        assert_eq!(kind("new/key"), Ok(()));
        assert_eq!(kind("key"), Ok(()));
        assert_eq!(kind("other/key"), Err(io::ErrorKind::NotFound));
        assert!(!path("new").exists());
        assert_eq!(folder_of(Path::new("key")), Path::new("."));
    }
}
