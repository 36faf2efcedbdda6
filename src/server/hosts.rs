//! The names that the daemon is called by: what `Host` and `:authority` may say.
//!
//! An attacker can make a name lead to our address (DNS rebinding). To a browser, the page of that
//! name and we are then one origin, and the page may send and read what it likes. The browser still
//! sends the name, and that name is not ours.

use std::net::{Ipv4Addr, Ipv6Addr};

use arc_swap::ArcSwap;

/// The names that are ours, besides every IP address and `localhost`.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Those of `server.hosts`, in lower case.
    configured: Vec<String>,
    /// The DNS names of our TLS certificate, in lower case; `*.` stands for one label.
    of_certificate: ArcSwap<Vec<String>>,
}

/// Why a host is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotOurs<'a> {
    /// It is not of the form that HTTP gives it.
    Malformed,
    /// It is the name of another host.
    Other(&'a str),
}

impl Hosts {
    /// Takes the names of the configuration.
    pub(super) fn new(configured: Vec<String>) -> Self {
        Self {
            configured,
            of_certificate: ArcSwap::default(),
        }
    }

    /// Replaces the names of the TLS certificate.
    pub(super) fn use_certificate(&self, mut names: Vec<String>) {
        for name in &mut names {
            name.make_ascii_lowercase();
        }
        self.of_certificate.store(names.into());
    }

    /// Checks the value of `Host` or `:authority`, whatever its port is.
    ///
    /// # Source
    /// RFC 9110, section 7.2, for the form; RFC 6125, section 6.4, for names with a wildcard.
    pub(super) fn check<'a>(&self, authority: &'a str) -> Result<(), NotOurs<'a>> {
        match parse(authority).ok_or(NotOurs::Malformed)? {
            Host::Address => Ok(()),
            Host::Name(name) if self.has(name) => Ok(()),
            Host::Name(name) => Err(NotOurs::Other(name)),
        }
    }

    fn has(&self, name: &str) -> bool {
        // The root may be written out.
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_it = |other: &String| other.eq_ignore_ascii_case(name);
        name.eq_ignore_ascii_case("localhost")
            || self.configured.iter().any(is_it)
            || self
                .of_certificate
                .load()
                .iter()
                .any(|pattern| covers(pattern, name))
    }
}

/// A host without its port.
#[derive(Debug, PartialEq, Eq)]
enum Host<'a> {
    /// An IP address as RFC 3986, section 3.2.2 writes it. Other forms, such as `2130706433` or
    /// `127.1`, are names to us.
    Address,
    Name(&'a str),
}

/// Reads `uri-host [ ":" port ]`.
fn parse(authority: &str) -> Option<Host<'_>> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            // Behind `%` stands the interface of a link-local address (RFC 6874).
            let (address, _zone) = address.split_once('%').unwrap_or((address, ""));
            address.parse::<Ipv6Addr>().ok()?;
            let port = if rest.is_empty() {
                rest
            } else {
                rest.strip_prefix(':')?
            };
            (Host::Address, port)
        }
        None => {
            let (name, port) = authority.split_once(':').unwrap_or((authority, ""));
            let host = match name.parse::<Ipv4Addr>() {
                Ok(_) => Host::Address,
                Err(_) => Host::Name(name),
            };
            (host, port)
        }
    };
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_of_a_name);
    let is_good = match host {
        Host::Address => true,
        Host::Name(name) => is_name(name),
    };
    (is_good && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(host)
}

/// Tells whether a byte may stand in a `reg-name` (RFC 3986, section 3.2.2).
const fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}

/// Tells whether a name of a certificate stands for a name: itself, or with a wildcard as its whole
/// first label, those with any one label there.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(name),
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && !parent.is_empty() && parent.eq_ignore_ascii_case(rest)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let hosts = Hosts::new(vec!["keys.example".into()]);
        hosts.use_certificate(vec![
            "Tls.example".into(),
            "*.pods.example".into(),
            "*".into(),
        ]);
        hosts
    }

    #[test]
    fn addresses_and_names_of_ours_are_accepted_with_any_port() {
        let hosts = hosts();
        for ours in [
            "127.0.0.1",
            "127.0.0.1:9443",
            "10.1.2.3:80",
            "0.0.0.0:9443",
            "[::1]",
            "[::1]:9443",
            "[fe80::1%25eth0]:9443",
            "[::ffff:127.0.0.1]:1",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "localhost:",
            "localhost:99999",
            "keys.example",
            "Keys.Example.:443",
            "tls.example",
            "a.pods.example",
            "A.PODS.EXAMPLE.",
        ] {
            assert_eq!(hosts.check(ours), Ok(()), "{ours}");
        }
    }

    #[test]
    fn other_names_are_not_ours_and_neither_are_odd_forms_of_addresses() {
        let hosts = hosts();
        for (other, name) in [
            ("evil.example:9443", "evil.example"),
            ("2130706433", "2130706433"),
            ("0x7f000001", "0x7f000001"),
            ("0x7f.1", "0x7f.1"),
            ("127.1:9443", "127.1"),
            ("0177.0.0.1", "0177.0.0.1"),
            ("127.0.0.1.", "127.0.0.1."),
            ("127.0.0.1.evil.example", "127.0.0.1.evil.example"),
            ("localhost..", "localhost.."),
            ("localhost.evil.example", "localhost.evil.example"),
            ("%6cocalhost", "%6cocalhost"),
            ("a.b.pods.example", "a.b.pods.example"),
            (".pods.example", ".pods.example"),
            ("pods.example", "pods.example"),
            ("*.pods.example.evil", "*.pods.example.evil"),
            ("example", "example"),
        ] {
            assert_eq!(hosts.check(other), Err(NotOurs::Other(name)), "{other}");
        }
    }

    #[test]
    fn what_is_no_host_is_malformed() {
        let hosts = hosts();
        for bad in [
            "",
            ":9443",
            "::1",
            "::1:9443",
            "[::1",
            "[::1]9443",
            "[localhost]",
            "[127.0.0.1]",
            "user@localhost",
            "user:secret@localhost",
            "localhost:port",
            "localhost:1:2",
            "localhost/path",
            "localhost, evil.example",
            "local host",
            "http://localhost",
        ] {
            assert_eq!(hosts.check(bad), Err(NotOurs::Malformed), "{bad}");
        }
    }

    #[test]
    fn the_names_of_a_new_certificate_replace_the_former_ones() {
        let hosts = hosts();
        hosts.use_certificate(vec!["new.example".into()]);
        assert_eq!(hosts.check("new.example"), Ok(()));
        assert!(hosts.check("tls.example").is_err());
        assert_eq!(hosts.check("keys.example"), Ok(()));
    }
}
