//! What `[rest]` means.

use super::checked::Faults;
use super::raw::{self, Texts};

/// Who may use REST.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// The origins whose web pages may read the public keys, each as browsers send it.
    pub cors_origins: Vec<String>,
}

impl Faults {
    pub(super) fn rest(&mut self, raw: raw::Rest) -> RestConfig {
        let key = "rest.cors_origins";
        let origins = self.given(key, raw.cors_origins);
        let cors_origins = origins.map(Texts::into_list).unwrap_or_default();
        for origin in cors_origins.iter().filter(|origin| !is_origin(origin)) {
            self.add(
                key,
                format!(
                    "{origin:?} is not an origin as browsers send it, such as \"https://app.example.com\" or \"http://localhost:3000\": no path, no \"*\", lower case, and no port that goes without saying"
                ),
            );
        }
        RestConfig { cors_origins }
    }
}

/// Tells whether a text is the serialisation of an origin (HTML, section 7.1.1) of a web page.
fn is_origin(text: &str) -> bool {
    let (rest, usual_port) = if let Some(rest) = text.strip_prefix("https://") {
        (rest, 443)
    } else if let Some(rest) = text.strip_prefix("http://") {
        (rest, 80)
    } else {
        return false;
    };
    // An IPv6 address has colons of its own, within brackets.
    let end = rest.find(']').map_or(0, |at| at + 1);
    let (host, port) = match rest.split_at(end).1.find(':') {
        Some(at) => {
            let (host, port) = rest.split_at(end + at);
            (host, port.strip_prefix(':'))
        }
        None => (rest, None),
    };
    is_host(host) && port.is_none_or(|port| is_unusual_port(port, usual_port))
}

fn is_host(host: &str) -> bool {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = inner {
        let parsed = address.parse::<std::net::Ipv6Addr>();
        return parsed.is_ok_and(|parsed| parsed.to_string() == address);
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
    !host.is_empty() && host.chars().all(allowed)
}

fn is_unusual_port(port: &str, usual: u16) -> bool {
    let number = port.parse::<u16>();
    number.is_ok_and(|number| number != 0 && number != usual && number.to_string() == port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for good in [
            "https://app.example",
            "https://app.example:8443",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:8080",
            "https://[2001:db8::1]",
            "https://xn--bcher-kva.example",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://*",
            "https://*.example",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?",
            "https://App.example",
            "HTTPS://app.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example:",
            "https://app.example:0",
            "https://app.example:08443",
            "https://app.example:65536",
            "https://app.example:+1",
            "https://user@app.example",
            "https://b\u{fc}cher.example",
            "https://[::1",
            "https://[::0001]",
            "https://[::1]x",
            "https://a:1:2",
            "ftp://app.example",
            "file://",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
