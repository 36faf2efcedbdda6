//! The address of the daemon, as `--address` names it.

use std::fmt;
use std::path::PathBuf;

use http::uri::Authority;

/// Where the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A port, with or without TLS.
    Tcp {
        /// A DNS name, or an IP address without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether TLS is spoken there.
        tls: bool,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads an address. One without a scheme has TLS if options of TLS are given.
    ///
    /// # Errors
    /// A sentence that follows the name and the value of the option.
    pub(super) fn parse(text: &str, tls_options: &[&str]) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.is_empty() {
                true => Err("has no path; write unix:///PATH".to_owned()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        if text.starts_with('/') {
            return Err(format!("is a path; for a Unix socket, write unix://{text}"));
        }
        let split = text.split_once("://");
        let split = split.map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        let split = split.as_ref().map(|(scheme, rest)| (&**scheme, *rest));
        let (tls, rest, default_port) = match split {
            Some(("https", rest)) => (true, rest, 443),
            Some(("http", rest)) => match tls_options {
                [] => (false, rest, 80),
                [option, ..] => {
                    return Err(format!(
                        "is without TLS, and {option} is for TLS; write https://{rest}, or leave {option} out"
                    ));
                }
            },
            Some((scheme, _)) => {
                return Err(format!(
                    "has the unknown scheme {scheme:?}; write http://HOST:PORT, https://HOST:PORT or unix:///PATH"
                ));
            }
            None => (!tls_options.is_empty(), text, DEFAULT_PORT),
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if !matches!(path, "" | "/") {
            return Err(format!(
                "has a path ({path}), and gRPC needs none; leave it out"
            ));
        }
        let (host, port) = host_and_port(authority)?;
        Ok(Self::Tcp {
            host,
            port: port.unwrap_or(default_port),
            tls,
        })
    }

    /// Returns the authority of requests: host and port, or what stands for the daemon at a Unix
    /// socket.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls: true, .. } => write!(f, "https://{}", self.authority()),
            Self::Tcp { tls: false, .. } => write!(f, "http://{}", self.authority()),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    if text.matches(':').count() > 1 && !text.starts_with('[') {
        return Err(
            "has more than one colon; an IPv6 address stands in brackets: [::1]:9443".to_owned(),
        );
    }
    if text.contains('@') {
        return Err("has a user name, which keypaird does not know; leave it out".to_owned());
    }
    let none = "has no host; write http://HOST:PORT, https://HOST:PORT or unix:///PATH";
    let authority: Authority = text.parse().map_err(|_| none.to_owned())?;
    let host = authority.host();
    if host.is_empty() {
        return Err(none.to_owned());
    }
    let rest = text.get(host.len()..).unwrap_or_default();
    let port = match rest.strip_prefix(':') {
        None => None,
        Some(port) => match port.parse() {
            Ok(port @ 1..) => Some(port),
            _ => return Err(format!("has the port {port:?}; a port is 1 to 65535")),
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port))
}

/// The port of an address that names neither a scheme nor a port.
const DEFAULT_PORT: u16 = 9443;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, options, expected) in [
            ("127.0.0.1:9443", &[][..], "http://127.0.0.1:9443"),
            ("127.0.0.1:9443", &["--ca"], "https://127.0.0.1:9443"),
            ("kms.example", &[], "http://kms.example:9443"),
            ("https://kms.example/", &["--ca"], "https://kms.example:443"),
            ("https://kms.example:9443", &[], "https://kms.example:9443"),
            ("http://[::1]:9443", &[], "http://[::1]:9443"),
            ("HTTPS://h:1", &[], "https://h:1"),
            ("[::1]", &["--client-cert"], "https://[::1]:9443"),
            ("unix:///run/k.sock", &["--ca"], "unix:///run/k.sock"),
            ("unix:k.sock", &[], "unix://k.sock"),
        ] {
            let read = Address::parse(text, options).map(|address| address.to_string());
            assert_eq!(read.as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_with_the_remedy() {
        for (text, options, expected) in [
            (
                "ftp://x",
                &[][..],
                "has the unknown scheme \"ftp\"; write http",
            ),
            ("nonsense://", &[], "has the unknown scheme \"nonsense\""),
            (
                "http://h:1",
                &["--ca"],
                "is without TLS, and --ca is for TLS; write https://h:1, or",
            ),
            ("", &[], "has no host; write"),
            ("https://", &[], "has no host; write"),
            (":9443", &[], "has no host; write"),
            ("a b", &[], "has no host; write"),
            ("::1:9443", &[], "stands in brackets"),
            ("user@h:1", &[], "has a user name"),
            ("h:0", &[], "has the port \"0\"; a port is 1 to 65535"),
            ("h:65536", &[], "has the port \"65536\""),
            ("h:", &[], "has the port \"\""),
            (
                "https://h:1/pf-admin-api/v1",
                &[],
                "has a path (/pf-admin-api/v1)",
            ),
            (
                "/run/k.sock",
                &[],
                "is a path; for a Unix socket, write unix:///run/k.sock",
            ),
            ("unix://", &[], "has no path"),
        ] {
            let said = Address::parse(text, options).unwrap_err();
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }
}
