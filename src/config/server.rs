//! What `[server]` means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::checked::Faults;
use super::raw::{self, Leaf, Texts};

/// Where and how calls are answered.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The TCP address.
    pub listen: SocketAddr,
    /// The path of a Unix socket.
    pub unix_socket: Option<PathBuf>,
    /// Further names that callers may call the daemon by, in lower case.
    pub hosts: Vec<String>,
    /// What the REST paths of key pairs begin with.
    pub rest_base_path: String,
    /// The largest request in bytes.
    pub max_message_bytes: usize,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// How old a connection may become.
    pub max_connection_age: Option<Duration>,
    /// How long a call may take.
    pub request_timeout: Duration,
    /// How long calls under way may take to end at a stop.
    pub shutdown_grace: Duration,
    /// TLS on the TCP address.
    pub tls: Option<TlsConfig>,
}

/// The files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// The CAs whose certificates clients must show, PEM.
    pub client_ca: Option<PathBuf>,
}

impl Faults {
    pub(super) fn server(&mut self, raw: raw::Server) -> Option<ServerConfig> {
        let listen = self.given("server.listen", raw.listen);
        let listen = listen.as_deref().unwrap_or("127.0.0.1:9443");
        let listen = listen.parse::<SocketAddr>();
        if listen.is_err() {
            self.add(
                "server.listen",
                "must be an IP address and a port, such as \"127.0.0.1:9443\" or \"[::1]:9443\"",
            );
        }
        let unix_socket = self.path("server.unix_socket", raw.unix_socket);
        let hosts = self.hosts(raw.hosts);
        let rest_base_path = self.base_path(raw.rest_base_path);
        let max_message_bytes = self.number(
            "server.max_message_bytes",
            raw.max_message_bytes,
            4 * 1024 * 1024,
            MESSAGE_BYTES_MAX,
        );
        let max_connections = self.number(
            "server.max_connections",
            raw.max_connections,
            10_000,
            1_000_000,
        );
        let max_connection_age = match raw.max_connection_age {
            Leaf::Absent => None,
            age => Some(self.duration("server.max_connection_age", age, Duration::MAX)),
        };
        let request_timeout = self.duration(
            "server.request_timeout",
            raw.request_timeout,
            Duration::from_secs(60),
        );
        let shutdown_grace = self.duration(
            "server.shutdown_grace",
            raw.shutdown_grace,
            Duration::from_secs(30),
        );
        let allow_insecure = self.given("server.allow_insecure", raw.allow_insecure);
        let tls = self.tls(raw.tls);
        let listen = listen.ok()?;
        if !listen.ip().is_loopback() && tls == Ok(None) && allow_insecure != Some(true) {
            self.add(
                "server.listen",
                format!(
                    "{listen} can be reached from other machines, which needs TLS: set server.tls.certificate and server.tls.private_key, or listen on 127.0.0.1 (server.allow_insecure = true permits it all the same)"
                ),
            );
        }
        Some(ServerConfig {
            listen,
            unix_socket,
            hosts,
            rest_base_path: rest_base_path?,
            max_message_bytes,
            max_connections,
            max_connection_age,
            request_timeout,
            shutdown_grace,
            tls: tls.ok()?,
        })
    }

    /// Returns the further names of the daemon, in lower case and without the dot of the root.
    fn hosts(&mut self, leaf: Leaf<Texts>) -> Vec<String> {
        let key = "server.hosts";
        let given = self.given(key, leaf).map(Texts::into_list);
        let names = given.unwrap_or_default().into_iter().map(|given| {
            let name = given.strip_suffix('.').unwrap_or(&given);
            if !is_dns_name(name) {
                self.add(
                    key,
                    format!(
                        "{given:?} is not a DNS name such as \"keys.example.com\": no port, no wildcard; IP addresses are always accepted"
                    ),
                );
            }
            name.to_ascii_lowercase()
        });
        names.collect()
    }

    /// Returns what REST paths begin with, without a slash at its end.
    fn base_path(&mut self, leaf: Leaf<String>) -> Option<String> {
        let given = self.given("server.rest_base_path", leaf);
        let path = given.as_deref().unwrap_or("/pf-admin-api/v1");
        let path = path.trim_end_matches('/');
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
        let good = path.is_empty()
            || path.starts_with('/') && !path.contains("//") && path.chars().all(allowed);
        if !good {
            self.add(
                "server.rest_base_path",
                "must be a path such as \"/pf-admin-api/v1\", or \"/\"",
            );
            return None;
        }
        Some(path.to_owned())
    }

    /// Returns the files of TLS, none without TLS, or an error when they are incomplete.
    fn tls(&mut self, raw: raw::Tls) -> Result<Option<TlsConfig>, ()> {
        let certificate = self.path("server.tls.certificate", raw.certificate);
        let private_key = self.path("server.tls.private_key", raw.private_key);
        let client_ca = self.path("server.tls.client_ca", raw.client_ca);
        match (certificate, private_key, client_ca) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(private_key), client_ca) => Ok(Some(TlsConfig {
                certificate,
                private_key,
                client_ca,
            })),
            (certificate, private_key, _) => {
                for (key, missing) in [
                    ("server.tls.certificate", certificate.is_none()),
                    ("server.tls.private_key", private_key.is_none()),
                ] {
                    if missing {
                        self.add(key, "is required for TLS");
                    }
                }
                Err(())
            }
        }
    }
}

/// Tells whether a text can be the DNS name of a host: labels of letters, digits, `-` and `_`, the
/// last of which is no number, as that of an IP address is.
fn is_dns_name(name: &str) -> bool {
    let is_of_a_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_of_a_label);
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !is_number
}

/// The most that one request may have: it is in memory as a whole, and several times that when it
/// is decoded.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_dns_name() {
        for good in [
            "keys",
            "Keys.example",
            "a-b.c_d.example",
            "xn--bcher-kva.example",
            "1.example",
        ] {
            assert!(is_dns_name(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            ".",
            "a..b",
            "*",
            "*.example",
            "a:1",
            "127.0.0.1",
            "[::1]",
            "http://a",
            "b\u{fc}cher.example",
            "a b",
            &long,
        ] {
            assert!(!is_dns_name(bad), "{bad}");
        }
    }
}
