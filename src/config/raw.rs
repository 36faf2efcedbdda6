//! The configuration as it is written.

use std::fmt;
use std::fs;
use std::path::Path;

use config::{Environment as EnvironmentSource, File, FileFormat, Value};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};

use super::{ConfigError, Environment, Fault};

/// All keys there are. What is left out is [`Leaf::Absent`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    pub(super) server: Server,
    pub(super) crypto: Crypto,
    pub(super) store: Store,
    pub(super) rotation: Rotation,
    pub(super) auth: Auth,
    pub(super) rest: Rest,
    pub(super) telemetry: Telemetry,
}

/// `[server]`: where and how calls are answered.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Server {
    /// IP address and port; `127.0.0.1:9443` when absent. Port 0 lets the system choose.
    pub(super) listen: Leaf<String>,
    /// Path of a Unix socket to listen on as well.
    pub(super) unix_socket: Leaf<String>,
    /// Further names that callers may call the daemon by; none when absent.
    pub(super) hosts: Leaf<Texts>,
    /// What the REST paths of key pairs begin with; `/pf-admin-api/v1` when absent.
    pub(super) rest_base_path: Leaf<String>,
    /// The largest request in bytes; 4 MiB when absent.
    pub(super) max_message_bytes: Leaf<u64>,
    /// How many connections may be open at once; 10000 when absent.
    pub(super) max_connections: Leaf<u64>,
    /// How old a connection may become; as old as it likes when absent.
    pub(super) max_connection_age: Leaf<String>,
    /// How long a call may take whose caller sets no deadline; `60s` when absent.
    pub(super) request_timeout: Leaf<String>,
    /// How long calls under way may take to end when the daemon is stopped; `30s` when absent.
    pub(super) shutdown_grace: Leaf<String>,
    /// Whether to listen beyond loopback without TLS; false when absent.
    pub(super) allow_insecure: Leaf<bool>,
    pub(super) tls: Tls,
}

/// `[server.tls]`: TLS on the TCP port, when present.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tls {
    /// PEM file with the server's certificate and its chain.
    pub(super) certificate: Leaf<String>,
    /// PEM file with its private key.
    pub(super) private_key: Leaf<String>,
    /// PEM file with the CAs whose certificates clients must show.
    pub(super) client_ca: Leaf<String>,
}

/// `[rest]`: who may use REST.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rest {
    /// The origins whose web pages may read the public keys; none when absent.
    pub(super) cors_origins: Leaf<Texts>,
}

/// `[crypto]`: which providers run.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Crypto {
    /// `local`, `hsm` or `hybrid`; `local` when absent.
    pub(super) mode: Leaf<String>,
    /// `LOCAL` or `HSM`: what a request in hybrid mode means that names none; `HSM` when absent.
    pub(super) default_provider: Leaf<String>,
    /// Whether RSA keys of 1024 bits may be imported and linked, into the HSM; `false` when absent.
    pub(super) import_weak_keys: Leaf<bool>,
    /// How long a provider that signs for nobody is left alone, before it is tried by a signature; `10s` when absent.
    pub(super) canary_interval: Leaf<String>,
    pub(super) pkcs11: Pkcs11,
    pub(super) local: Local,
}

/// `[crypto.pkcs11]`: the token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pkcs11 {
    /// Path of the PKCS#11 module, a shared library.
    pub(super) module: Leaf<String>,
    /// The token's label.
    pub(super) token_label: Leaf<String>,
    /// Or its serial number.
    pub(super) token_serial: Leaf<String>,
    /// File with the user PIN in its first line.
    pub(super) pin_file: Leaf<String>,
    /// Or the name of an environment variable with the user PIN.
    pub(super) pin_env: Leaf<String>,
    /// How many signatures the token is given to make at once; 4 when absent.
    pub(super) sessions: Leaf<u64>,
    /// How many operations may wait for the token; 1024 when absent.
    pub(super) queue_length: Leaf<u64>,
    /// How long a caller waits for one operation of the token; `30s` when absent.
    pub(super) operation_timeout: Leaf<String>,
    /// `always`, `sampled` or `never`: which signatures of the token are verified before they are returned;
    /// `always` when absent.
    pub(super) verify_signatures: Leaf<String>,
    /// `process` or `in-process`: where the module is loaded; `process` when absent.
    pub(super) isolation: Leaf<String>,
}

/// `[crypto.local]`: the software provider.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Local {
    /// File with the key under which private keys are encrypted; made at the first start.
    pub(super) key_encryption_key_file: Leaf<String>,
    /// Whether software keys may be exported; `false` when absent.
    pub(super) allow_export: Leaf<bool>,
}

/// `[store]`: where key pairs are recorded.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Store {
    /// `sqlite://PATH`.
    pub(super) url: Leaf<String>,
}

/// `[rotation]`: how key pairs rotate, and what is told of their expiry.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rotation {
    /// Whether key pairs rotate by themselves; `true` when absent.
    pub(super) enabled: Leaf<bool>,
    /// How often it is looked at what is due; `60s` when absent.
    pub(super) check_interval: Leaf<String>,
    /// At how many days before the expiry of a certificate those are told who watch; `[30, 7, 1]` when absent.
    pub(super) expiry_warning_days: Leaf<Days>,
}

/// Texts: a list, or, from the environment, one with commas between them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    /// A list.
    List(Vec<String>),
    /// A text.
    Text(String),
}

impl Texts {
    /// Returns the texts one by one.
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::List(texts) => texts,
            Self::Text(text) => {
                let texts = text.split(',').map(str::trim);
                let texts = texts.filter(|text| !text.is_empty());
                texts.map(ToOwned::to_owned).collect()
            }
        }
    }
}

/// Numbers of days: a list, or, from the environment, a text such as `30,7,1`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Days {
    /// A list.
    List(Vec<i64>),
    /// A text.
    Text(String),
}

/// `[auth]`: not served yet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Auth {
    /// Only `none`.
    pub(super) mode: Leaf<String>,
}

/// `[telemetry]`: what the daemon tells of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Telemetry {
    /// `text` or `json`; `text` when absent.
    pub(super) log_format: Leaf<String>,
    /// Directives of tracing-subscriber's `EnvFilter`; `info` when absent.
    pub(super) log_filter: Leaf<String>,
    /// `off`, `changes`, `except-signing` or `all`; `except-signing` when absent.
    pub(super) access_log: Leaf<String>,
}

/// One value: not there, of the right type, or of a wrong one.
#[derive(Debug, Default)]
pub(super) enum Leaf<T> {
    /// Nothing was written.
    #[default]
    Absent,
    /// A value of the type.
    Given(T),
    /// Something else.
    Wrong(String),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Leaf<T> {
    /// Never fails, so that one wrong value does not hide the others.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let shown = match value.kind {
            config::ValueKind::Table(_) => "a table".to_owned(),
            config::ValueKind::Array(_) => "a list".to_owned(),
            ref kind => format!("{:?}", kind.to_string()),
        };
        Ok(match value.try_deserialize() {
            Ok(value) => Self::Given(value),
            Err(_) => Self::Wrong(shown),
        })
    }
}

impl Raw {
    /// Reads file and environment, and finds the keys that nobody knows.
    pub(super) fn read(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<(Self, Vec<Fault>), ConfigError> {
        let mut builder = config::Config::builder();
        if let Some(path) = file {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.to_owned(),
                source,
            })?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let variables = environment.variables.clone().into_iter().collect();
        builder = builder.add_source(
            EnvironmentSource::with_prefix("KEYPAIRD")
                .prefix_separator("__")
                .separator("__")
                .source(Some(variables)),
        );
        let config = builder.build().map_err(syntax)?;
        let mut faults = Vec::new();
        let raw = serde_ignored::deserialize(config, |path| {
            faults.push(Fault::new(path.to_string(), unknown(&path.to_string())));
        })
        .map_err(syntax)?;
        Ok((raw, faults))
    }
}

fn syntax(error: impl fmt::Display) -> ConfigError {
    ConfigError::Syntax(error.to_string())
}

/// Says that a key is unknown, and which one may have been meant.
fn unknown(key: &str) -> String {
    if PLANNED.contains(&key) {
        return "is not served by this version; leave it out".to_owned();
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let meant = KEYS
        .iter()
        .find(|known| last(known) == last(key) || distance(known, key) <= 2);
    match meant {
        Some(meant) => format!("is not a known key; did you mean {meant}?"),
        None => "is not a known key".to_owned(),
    }
}

/// How many characters must be added, taken away or changed to make one text of another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

const KEYS: &[&str] = &[
    "server.listen",
    "server.unix_socket",
    "server.hosts",
    "server.rest_base_path",
    "server.max_message_bytes",
    "server.max_connections",
    "server.max_connection_age",
    "server.request_timeout",
    "server.shutdown_grace",
    "server.allow_insecure",
    "server.tls.certificate",
    "server.tls.private_key",
    "server.tls.client_ca",
    "crypto.mode",
    "crypto.default_provider",
    "crypto.import_weak_keys",
    "crypto.canary_interval",
    "crypto.pkcs11.module",
    "crypto.pkcs11.token_label",
    "crypto.pkcs11.token_serial",
    "crypto.pkcs11.pin_file",
    "crypto.pkcs11.pin_env",
    "crypto.pkcs11.sessions",
    "crypto.pkcs11.queue_length",
    "crypto.pkcs11.operation_timeout",
    "crypto.pkcs11.verify_signatures",
    "crypto.pkcs11.isolation",
    "crypto.local.key_encryption_key_file",
    "crypto.local.allow_export",
    "store.url",
    "rotation.enabled",
    "rotation.check_interval",
    "rotation.expiry_warning_days",
    "auth.mode",
    "rest.cors_origins",
    "telemetry.log_format",
    "telemetry.log_filter",
    "telemetry.access_log",
];
/// Keys of the contract whose feature is not there yet: to ignore them would be to promise it.
const PLANNED: &[&str] = &[
    "audit",
    "telemetry.metrics_listen",
    "telemetry.otlp_endpoint",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_every_key_that_is_known_and_no_other() {
        let mut section = "";
        let mut in_example = Vec::new();
        for line in include_str!("../../deploy/keypaird.example.toml").lines() {
            // What is optional is commented out.
            let line = line.strip_prefix("# ").unwrap_or(line);
            if let Some(line) = line.strip_prefix('[') {
                section = line.trim_end_matches(']');
            } else if let Some((key, _)) = line.split_once(" = ")
                && !key.contains(' ')
            {
                in_example.push(format!("{section}.{key}"));
            }
        }
        let mut known = KEYS.to_vec();
        known.sort_unstable();
        in_example.sort_unstable();
        assert_eq!(in_example, known);
    }

    #[test]
    fn what_may_have_been_meant_is_told() {
        for (written, meant) in [
            ("server.max_conections", "server.max_connections"),
            ("max_connections", "server.max_connections"),
            ("crypto.pkcs11.isolatoin", "crypto.pkcs11.isolation"),
            ("crypto.canary_intervall", "crypto.canary_interval"),
        ] {
            let said = unknown(written);
            assert!(said.ends_with(&format!("did you mean {meant}?")), "{said}");
        }
    }
}
