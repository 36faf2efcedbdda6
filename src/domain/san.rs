//! Subject alternative names: recognised by their form, or named by a prefix.

use std::fmt;
use std::net::IpAddr;

use fluent_uri::Iri;

use super::{Refusal, Violations, is_unprintable};

/// A name of the subject beside its distinguished name (RFC 5280 section 4.2.1.6).
///
/// Each value is in the form in which it is encoded: ASCII, internationalised domains as A-labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectAlternativeName {
    /// dNSName. The leftmost label may be `*`.
    Dns(String),
    /// iPAddress.
    Ip(IpAddr),
    /// rfc822Name.
    Email(String),
    /// uniformResourceIdentifier.
    Uri(String),
}

impl SubjectAlternativeName {
    /// Checks one name as a caller wrote it.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            return Err(Refusal::new("must not be empty"));
        }
        if text.len() > NAME_LEN_MAX {
            return Err(Refusal::new(format!(
                "must have at most {NAME_LEN_MAX} bytes"
            )));
        }
        // Those that join letters belong to the spelling of some domain names, and are not in their
        // A-labels.
        let is_refused = |c: &char| is_unprintable(*c) && !matches!(c, '\u{200c}' | '\u{200d}');
        if let Some(unseen) = text.chars().find(is_refused) {
            return Err(Refusal::unseen(unseen));
        }
        for (prefix, parse) in PREFIXES {
            if let Some(named) = strip_prefix_ignore_case(text, prefix) {
                return parse(named);
            }
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        if text.contains("://") || strip_prefix_ignore_case(text, "urn:").is_some() {
            return uri(text);
        }
        if text.contains('@') {
            return email(text);
        }
        dns(text)
    }

    /// Checks all the names of a request: their form, and how many they are. Duplicates are removed.
    pub fn parse_all(given: &[String], violations: &mut Violations) -> Vec<Self> {
        if given.len() > COUNT_MAX {
            let found = given.len();
            violations.add(
                FIELD,
                Refusal::new(format!(
                    "{found} names were given; at most {COUNT_MAX} are allowed"
                )),
            );
            return Vec::new();
        }
        let bytes: usize = given.iter().map(String::len).sum();
        if bytes > BYTES_MAX {
            violations.add(
                FIELD,
                Refusal::new(format!(
                    "must have at most {BYTES_MAX} bytes altogether, and have {bytes}"
                )),
            );
            return Vec::new();
        }
        let mut names = Vec::with_capacity(given.len());
        let mut seen = std::collections::HashSet::with_capacity(given.len());
        for (index, text) in given.iter().enumerate() {
            match Self::parse(text) {
                Ok(name) if seen.insert(name.identity()) => names.push(name),
                Ok(_) => {}
                Err(refusal) => violations.add(format!("{FIELD}[{index}]"), refusal),
            }
        }
        names
    }

    /// Returns what two spellings of one name have in common: domains do not distinguish case.
    fn identity(&self) -> Self {
        match self {
            Self::Dns(name) => Self::Dns(name.to_ascii_lowercase()),
            Self::Email(mailbox) => Self::Email(match mailbox.rsplit_once('@') {
                Some((local, domain)) => format!("{local}@{}", domain.to_ascii_lowercase()),
                None => mailbox.clone(),
            }),
            Self::Ip(_) | Self::Uri(_) => self.clone(),
        }
    }
}

impl fmt::Display for SubjectAlternativeName {
    /// Writes the plain value, without a prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

fn ip(text: &str) -> Result<SubjectAlternativeName, Refusal> {
    text.parse()
        .map(SubjectAlternativeName::Ip)
        .map_err(|_| Refusal::of(text, "is not an IPv4 or IPv6 address"))
}

fn dns(text: &str) -> Result<SubjectAlternativeName, Refusal> {
    let (wildcard, domain) = match text.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", text),
    };
    let domain = host_name(domain).map_err(|why| {
        Refusal::of(
            text,
            format_args!(
                "is not a DNS name, IP address, e-mail address or URI ({why}); a prefix DNS:, IP:, email: or URI: names the kind"
            ),
        )
    })?;
    Ok(SubjectAlternativeName::Dns(format!("{wildcard}{domain}")))
}

fn email(text: &str) -> Result<SubjectAlternativeName, Refusal> {
    let refused = |why: &str| Refusal::of(text, format_args!("is not an e-mail address ({why})"));
    let (local, domain) = text
        .rsplit_once('@')
        .ok_or_else(|| refused("it has no '@'"))?;
    let is_atom = |atom: &str| !atom.is_empty() && atom.bytes().all(is_atom_byte);
    if local.len() > 64 || !local.split('.').all(is_atom) {
        return Err(refused(
            "the part before the '@' must be 1 to 64 ASCII letters, digits and marks of RFC 5322",
        ));
    }
    let domain = host_name(domain).map_err(|why| refused(&why))?;
    Ok(SubjectAlternativeName::Email(format!("{local}@{domain}")))
}

fn uri(text: &str) -> Result<SubjectAlternativeName, Refusal> {
    let refused = |why: &str| Refusal::of(text, format_args!("is not an absolute URI ({why})"));
    let iri = Iri::parse(text).map_err(|error| refused(&error.to_string()))?;
    let Some(authority) = iri.authority() else {
        if iri.path().is_empty() {
            return Err(refused("nothing follows its scheme"));
        }
        return Ok(SubjectAlternativeName::Uri(iri.to_uri().into_string()));
    };
    // RFC 5280 section 4.2.1.6: an authority must name a host, by a domain name or an address.
    let host = authority.host();
    let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    if is_address {
        return Ok(SubjectAlternativeName::Uri(iri.to_uri().into_string()));
    }
    let ascii = host_name(host).map_err(|why| refused(&why))?;
    let before = text.find("://").map_or(0, |at| at + 3)
        + authority.as_str().find('@').map_or(0, |at| at + 1);
    let after = before + host.len();
    let rewritten = match (text.get(..before), text.get(after..)) {
        (Some(head), Some(tail)) => format!("{head}{ascii}{tail}"),
        _ => return Err(refused("its host cannot be found")),
    };
    let iri = Iri::parse(rewritten).map_err(|(error, _)| refused(&error.to_string()))?;
    Ok(SubjectAlternativeName::Uri(iri.to_uri().into_string()))
}

/// Checks a host name (RFC 1123 section 2.1) and returns it in ASCII, as given where it was ASCII.
fn host_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a host name is missing".into());
    }
    let ascii = if text.is_ascii() && !text.to_ascii_lowercase().contains("xn--") {
        text.to_owned()
    } else {
        idna::domain_to_ascii_strict(text)
            .map_err(|_| "it is not a valid internationalised domain name")?
    };
    if ascii.len() > 253 {
        return Err("a host name has at most 253 characters".into());
    }
    for label in ascii.split('.') {
        let ok = (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !ok {
            return Err(
                "the labels of a host name are 1 to 63 letters, digits and inner hyphens".into(),
            );
        }
    }
    let last = ascii.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the last label of a host name is not a number".into());
    }
    Ok(ascii)
}

/// `atext` of RFC 5322 section 3.2.3.
fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

type Parse = fn(&str) -> Result<SubjectAlternativeName, Refusal>;

const PREFIXES: [(&str, Parse); 4] = [("DNS:", dns), ("IP:", ip), ("email:", email), ("URI:", uri)];
const FIELD: &str = "subjectAlternativeNames";
/// A certificate with more is of no use to anyone and a burden to everyone who verifies it.
const COUNT_MAX: usize = 1000;
const BYTES_MAX: usize = 64 * 1024;
const NAME_LEN_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::SubjectAlternativeName::{Dns, Email, Ip, Uri};
    use super::*;

    #[test]
    fn each_kind_is_recognised_by_its_form_or_by_its_prefix() {
        let dns = |text: &str| Dns(text.into());
        let ip = |text: &str| Ip(text.parse().unwrap());
        let email = |text: &str| Email(text.into());
        let uri = |text: &str| Uri(text.into());
        for (given, expected) in [
            ("example.com", dns("example.com")),
            ("Example.COM", dns("Example.COM")),
            ("localhost", dns("localhost")),
            ("*.example.com", dns("*.example.com")),
            ("DNS:example.com", dns("example.com")),
            ("dns:example.com", dns("example.com")),
            ("bücher.example", dns("xn--bcher-kva.example")),
            ("*.bücher.example", dns("*.xn--bcher-kva.example")),
            ("xn--bcher-kva.example", dns("xn--bcher-kva.example")),
            ("192.0.2.1", ip("192.0.2.1")),
            ("IP:192.0.2.1", ip("192.0.2.1")),
            ("2001:DB8:0:0::1", ip("2001:db8::1")),
            ("a.b+c@example.com", email("a.b+c@example.com")),
            ("email:a@example.com", email("a@example.com")),
            ("a@bücher.example", email("a@xn--bcher-kva.example")),
            (
                "https://example.com/x?y#z",
                uri("https://example.com/x?y#z"),
            ),
            ("URI:mailto:a@example.com", uri("mailto:a@example.com")),
            (
                "urn:uuid:6e8bc430-9c3a-11d9",
                uri("urn:uuid:6e8bc430-9c3a-11d9"),
            ),
            ("spiffe://prod.acme/ns/a", uri("spiffe://prod.acme/ns/a")),
            (
                "https://[2001:db8::1]:8443/",
                uri("https://[2001:db8::1]:8443/"),
            ),
            (
                "https://me@bücher.example:1/ü",
                uri("https://me@xn--bcher-kva.example:1/%C3%BC"),
            ),
        ] {
            assert_eq!(
                SubjectAlternativeName::parse(given),
                Ok(expected),
                "{given}"
            );
        }
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for bad in [
            "",
            " ",
            "a b",
            "*",
            "*.",
            "a.*.example.com",
            "example.com.",
            ".example.com",
            "a..b",
            "-a.example",
            "a-.example",
            "under_score.example",
            "256.1.1.1",
            "1.2.3",
            "example.com:8443",
            "IP:example.com",
            "IP:",
            "DNS:",
            "DNS:a@b",
            "@example.com",
            "a@",
            "a@@example.com",
            "a b@example.com",
            "ü@example.com",
            "email:example.com",
            "https://",
            "https:///path",
            "https://exa mple.com/",
            "https://example.com/<x>",
            "URI:example.com",
            "URI:urn:",
            "xn--a.example",
            "a\0.example",
            "a\u{1b}.example",
            "https://a.example/\u{202e}x",
            "https://a.example/\u{2028}x",
            "urn:a\u{200b}b",
            "email:a\u{9b}@a.example",
            &"a".repeat(64),
            &format!("{}.example", "a.".repeat(130)),
            &"x".repeat(5000),
        ] {
            let refused = SubjectAlternativeName::parse(bad);
            assert!(refused.is_err(), "{bad:?} gave {refused:?}");
        }
    }

    #[test]
    fn names_keep_their_order_and_lose_their_duplicates() {
        let given = [
            "b.example",
            "192.0.2.1",
            "B.example",
            "IP:192.0.2.1",
            "a@X.example",
            "a@x.example",
            "A@x.example",
        ]
        .map(String::from);
        let mut violations = Violations::new();
        let names = SubjectAlternativeName::parse_all(&given, &mut violations);
        assert!(violations.is_empty());
        let shown: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["b.example", "192.0.2.1", "a@X.example", "A@x.example"]
        );
    }

    #[test]
    fn a_thousand_names_are_accepted_and_one_more_is_not() {
        let names =
            |count: usize| -> Vec<String> { (0..count).map(|n| format!("n{n}.example")).collect() };
        let mut violations = Violations::new();
        assert_eq!(
            SubjectAlternativeName::parse_all(&names(1000), &mut violations).len(),
            1000
        );
        assert!(violations.is_empty());
        SubjectAlternativeName::parse_all(&names(1001), &mut violations);
        assert_eq!(
            violations.to_string(),
            "subjectAlternativeNames: 1001 names were given; at most 1000 are allowed"
        );
    }

    #[test]
    fn names_have_64_kib_altogether() {
        let names = vec![format!("https://example.com/{}", "x".repeat(2004)); 33];
        let mut violations = Violations::new();
        let accepted = SubjectAlternativeName::parse_all(&names[..32], &mut violations);
        assert_eq!(accepted.len(), 1);
        assert!(violations.is_empty());
        SubjectAlternativeName::parse_all(&names, &mut violations);
        assert_eq!(
            violations.to_string(),
            "subjectAlternativeNames: must have at most 65536 bytes altogether, and have 66792"
        );
    }
}
