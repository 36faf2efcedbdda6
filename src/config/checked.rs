//! The configuration as it is meant.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::raw::{self, Leaf, Raw};
use super::{Config, ConfigError, Environment, Fault};
use crate::domain::{ProviderKind, ProviderMode, ProviderPolicy};
use crate::providers::pkcs11::{PinSource, Pkcs11Config, TokenSelector, VerifySignatures};
use crate::telemetry::{self, AccessLog, LogFormat, TelemetryConfig};

/// Which providers run.
#[derive(Clone, Debug)]
pub struct CryptoConfig {
    /// The mode, and what an absent `cryptoProvider` means.
    pub policy: ProviderPolicy,
    /// The token, in the modes that use one.
    pub token: Option<TokenConfig>,
    /// The software provider, in the modes that use it.
    pub local: Option<LocalConfig>,
    /// Whether software keys may be exported.
    pub allow_export: bool,
    /// Whether keys may come in that are too weak for anything new.
    pub import_weak_keys: bool,
    /// How long a provider that signs for nobody is left alone, before it is tried by a signature.
    pub canary_interval: Duration,
}

/// The token, and how it is used.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// Module, token and login.
    pub pkcs11: Pkcs11Config,
    /// Where the module is loaded.
    pub isolation: Isolation,
    /// How many signatures it makes at once.
    pub sessions: usize,
    /// How many operations may wait for it.
    pub queue_length: usize,
    /// How long a caller waits for one operation.
    pub operation_timeout: Duration,
}

/// Where the PKCS#11 module is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// In a process of its own.
    Process,
    /// In the daemon.
    InProcess,
}

/// The software provider.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The file of the key encryption key.
    pub key_encryption_key_file: PathBuf,
}

/// Where key pairs are recorded.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The SQLite database.
    pub path: PathBuf,
}

/// Finds what the configuration means, or everything that is wrong with it.
pub(super) fn check(
    raw: Raw,
    unknown: Vec<Fault>,
    environment: &Environment,
) -> Result<Config, ConfigError> {
    let mut faults = Faults(unknown);
    let server = faults.server(raw.server);
    let rest = faults.rest(raw.rest);
    let crypto = faults.crypto(raw.crypto, environment);
    let store = faults.store(raw.store, environment);
    let access_log = faults.access_log(raw.telemetry.access_log);
    let telemetry = faults.telemetry(raw.telemetry.log_format, raw.telemetry.log_filter);
    let rotation = faults.rotation(raw.rotation);
    if let Some(mode) = faults.given("auth.mode", raw.auth.mode)
        && mode != "none"
    {
        faults.add(
            "auth.mode",
            "this version serves \"none\" only; restrict access by mutual TLS",
        );
    }
    match (server, crypto, store, telemetry) {
        (Some(server), Some(crypto), Some(store), Some(telemetry)) if faults.0.is_empty() => {
            Ok(Config {
                server,
                rest,
                crypto,
                store,
                rotation,
                telemetry,
                access_log,
            })
        }
        _ => Err(ConfigError::Faults(faults.0)),
    }
}

/// What is wrong so far.
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, key: &str, message: impl Into<String>) {
        self.0.push(Fault::new(key, message));
    }

    /// Returns a value that was given with the right type.
    pub(super) fn given<T>(&mut self, key: &str, leaf: Leaf<T>) -> Option<T> {
        match leaf {
            Leaf::Absent => None,
            Leaf::Given(value) => Some(value),
            Leaf::Wrong(shown) => {
                let expected = std::any::type_name::<T>();
                let expected = match expected {
                    "bool" => "true or false",
                    "u64" => "a whole number",
                    name if name.ends_with("Days") => "a list of whole numbers",
                    name if name.ends_with("Texts") => "a list of texts",
                    _ => "a text",
                };
                self.add(key, format!("must be {expected}, and is {shown}"));
                None
            }
        }
    }

    pub(super) fn path(&mut self, key: &str, leaf: Leaf<String>) -> Option<PathBuf> {
        let path = self.given(key, leaf)?;
        if path.is_empty() {
            self.add(key, "must not be empty; leave the key out instead");
            return None;
        }
        Some(path.into())
    }

    pub(super) fn duration(
        &mut self,
        key: &str,
        leaf: Leaf<String>,
        default: Duration,
    ) -> Duration {
        let Some(text) = self.given(key, leaf) else {
            return default;
        };
        match humantime::parse_duration(&text) {
            Ok(duration) if !duration.is_zero() => duration,
            _ => {
                self.add(
                    key,
                    format!("must be a duration such as \"30s\" or \"5m\", and is {text:?}"),
                );
                default
            }
        }
    }

    pub(super) fn number(
        &mut self,
        key: &str,
        leaf: Leaf<u64>,
        default: usize,
        max: usize,
    ) -> usize {
        match self.given(key, leaf) {
            None => default,
            Some(number) => match usize::try_from(number) {
                Ok(number) if (1..=max).contains(&number) => number,
                _ => {
                    self.add(key, format!("must be 1 to {max}, and is {number}"));
                    default
                }
            },
        }
    }

    /// Returns the one of `choices` that is named; `default` when none is, and nothing when it is another name.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        leaf: Leaf<String>,
        default: T,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Some(given) = self.given(key, leaf) else {
            return Some(default);
        };
        let chosen = choices.iter().find(|(name, _)| *name == given);
        if chosen.is_none() {
            let mut names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("{name:?}"))
                .collect();
            let last = names.pop().unwrap_or_default();
            let names = names.join(", ");
            self.add(key, format!("must be {names} or {last}, and is {given:?}"));
        }
        chosen.map(|(_, value)| *value)
    }

    fn crypto(&mut self, raw: raw::Crypto, environment: &Environment) -> Option<CryptoConfig> {
        let mode = self.choice(
            "crypto.mode",
            raw.mode,
            ProviderMode::Local,
            &[
                ("local", ProviderMode::Local),
                ("hsm", ProviderMode::Hsm),
                ("hybrid", ProviderMode::Hybrid),
            ],
        );
        let default = self.choice(
            "crypto.default_provider",
            raw.default_provider,
            ProviderKind::Hsm,
            &[("LOCAL", ProviderKind::Local), ("HSM", ProviderKind::Hsm)],
        );
        let allow_export = self.given("crypto.local.allow_export", raw.local.allow_export);
        let import_weak_keys = self.given("crypto.import_weak_keys", raw.import_weak_keys);
        let canary_interval = self.duration(
            "crypto.canary_interval",
            raw.canary_interval,
            Duration::from_secs(10),
        );
        if canary_interval < CANARY_INTERVAL_MIN {
            self.add("crypto.canary_interval", "must be 1s at least");
        }
        let mode = mode?;
        // What a mode does not use is checked for its types only, so that one file serves all modes.
        let token = self.token(raw.pkcs11, environment, mode.serves(ProviderKind::Hsm));
        let key_encryption_key_file = self
            .path(
                "crypto.local.key_encryption_key_file",
                raw.local.key_encryption_key_file,
            )
            .unwrap_or_else(|| environment.state_folder.join("key-encryption-key"));
        Some(CryptoConfig {
            policy: ProviderPolicy {
                mode,
                default: default?,
            },
            token,
            allow_export: allow_export == Some(true),
            import_weak_keys: import_weak_keys == Some(true),
            canary_interval,
            local: mode.serves(ProviderKind::Local).then_some(LocalConfig {
                key_encryption_key_file,
            }),
        })
    }

    fn token(
        &mut self,
        raw: raw::Pkcs11,
        environment: &Environment,
        used: bool,
    ) -> Option<TokenConfig> {
        let module = self.path("crypto.pkcs11.module", raw.module);
        let label = self.given("crypto.pkcs11.token_label", raw.token_label);
        // PKCS#11 fills a label with blanks up to 32 characters: those at its end are none of it.
        let label = label.map(|label| label.trim_end_matches(' ').to_owned());
        let serial = self.given("crypto.pkcs11.token_serial", raw.token_serial);
        let pin_file = self.path("crypto.pkcs11.pin_file", raw.pin_file);
        let pin_env = self.given("crypto.pkcs11.pin_env", raw.pin_env);
        let sessions = self.number("crypto.pkcs11.sessions", raw.sessions, 4, 1024);
        let queue_length = self.number(
            "crypto.pkcs11.queue_length",
            raw.queue_length,
            1024,
            1_000_000,
        );
        let operation_timeout = self.duration(
            "crypto.pkcs11.operation_timeout",
            raw.operation_timeout,
            Duration::from_secs(30),
        );
        let verify_signatures = self.choice(
            "crypto.pkcs11.verify_signatures",
            raw.verify_signatures,
            VerifySignatures::Always,
            &[
                ("always", VerifySignatures::Always),
                ("sampled", VerifySignatures::Sampled),
                ("never", VerifySignatures::Never),
            ],
        );
        let isolation = self.choice(
            "crypto.pkcs11.isolation",
            raw.isolation,
            Isolation::Process,
            &[
                ("process", Isolation::Process),
                ("in-process", Isolation::InProcess),
            ],
        );
        if !used {
            return None;
        }
        if module.is_none() {
            self.add(
                "crypto.pkcs11.module",
                "is required in this mode: the path of the PKCS#11 module, such as /usr/lib/softhsm/libsofthsm2.so",
            );
        }
        let token = match (label, serial) {
            (Some(label), None) if !label.is_empty() => Some(TokenSelector::Label(label)),
            (None, Some(serial)) if !serial.is_empty() => Some(TokenSelector::Serial(serial)),
            _ => {
                self.add(
                    "crypto.pkcs11.token_label",
                    "name the token by either crypto.pkcs11.token_label or crypto.pkcs11.token_serial",
                );
                None
            }
        };
        let pin = match (pin_file, pin_env) {
            (Some(file), None) => Some(PinSource::File(file)),
            (None, Some(name)) => match environment.variables.get(&name) {
                Some(pin) if !pin.is_empty() => Some(PinSource::Value(SecretString::from(&**pin))),
                _ => {
                    self.add(
                        "crypto.pkcs11.pin_env",
                        format!("the environment variable {name} is not set"),
                    );
                    None
                }
            },
            _ => {
                self.add(
                    "crypto.pkcs11.pin_file",
                    "give the user PIN by either crypto.pkcs11.pin_file or crypto.pkcs11.pin_env",
                );
                None
            }
        };
        Some(TokenConfig {
            pkcs11: Pkcs11Config {
                module: module?,
                token: token?,
                pin: pin?,
                verify_signatures: verify_signatures?,
                last_try: false,
            },
            isolation: isolation?,
            sessions,
            queue_length,
            operation_timeout,
        })
    }

    fn store(&mut self, raw: raw::Store, environment: &Environment) -> Option<StoreConfig> {
        let Some(url) = self.given("store.url", raw.url) else {
            return Some(StoreConfig {
                path: environment.state_folder.join("keypaird.db"),
            });
        };
        match url.strip_prefix("sqlite://") {
            Some(path) if !path.is_empty() => Some(StoreConfig { path: path.into() }),
            _ if url.starts_with("postgres://") => {
                self.add(
                    "store.url",
                    "PostgreSQL is not served by this version; use sqlite://PATH",
                );
                None
            }
            _ => {
                self.add(
                    "store.url",
                    "must be sqlite://PATH, such as sqlite:///var/lib/keypaird/keypaird.db",
                );
                None
            }
        }
    }

    fn access_log(&mut self, raw: Leaf<String>) -> AccessLog {
        let choices = AccessLog::ALL.map(|log| (log.name(), log));
        let chosen = self.choice("telemetry.access_log", raw, AccessLog::default(), &choices);
        chosen.unwrap_or_default()
    }

    fn telemetry(
        &mut self,
        log_format: Leaf<String>,
        log_filter: Leaf<String>,
    ) -> Option<TelemetryConfig> {
        let log_format = self.choice(
            "telemetry.log_format",
            log_format,
            LogFormat::Text,
            &LogFormat::ALL.map(|form| (form.name(), form)),
        );
        let log_filter = self
            .given("telemetry.log_filter", log_filter)
            .unwrap_or_else(|| "info".to_owned());
        if let Err(error) = telemetry::filter(&log_filter) {
            self.add(
                "telemetry.log_filter",
                format!("is not a filter of log lines: {error}"),
            );
        }
        Some(TelemetryConfig {
            log_format: log_format?,
            log_filter,
        })
    }
}

/// An HSM is not asked more often than that whether it signs.
const CANARY_INTERVAL_MIN: Duration = Duration::from_secs(1);
