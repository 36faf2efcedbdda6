//! Why x509-cert does not read a certificate, as far as the reason is known and is no damage.

use super::dates;
use crate::domain::Refusal;
use crate::domain::ber::{CONTEXT_0, Element, Elements, SEQUENCE};

/// Refuses a certificate that is not read, with the reason.
pub(super) fn refusal(der: &[u8]) -> Refusal {
    Refusal::new(match Names::find(der) {
        Some(names) if names.has(UNIVERSAL_STRING) => {
            "has a certificate with a UniversalString in a name, which is not read; have it issued with UTF8String"
        }
        Some(_) if dates::validity(der).is_none() => {
            "has a certificate with a date that is not in the form of DER: with seconds, in UTC"
        }
        _ => "has a damaged certificate",
    })
}

/// Issuer and subject.
struct Names<'a>([Element<'a>; 2]);

impl<'a> Names<'a> {
    /// Finds them behind version, serial number and signature algorithm (RFC 5280 section 4.1).
    fn find(der: &'a [u8]) -> Option<Self> {
        let mut parts = Elements::of(der)
            .take(SEQUENCE)?
            .parts()
            .take(SEQUENCE)?
            .parts();
        if parts.next()?.tag == CONTEXT_0 {
            parts.next()?;
        }
        parts.take(SEQUENCE)?;
        let issuer = parts.take(SEQUENCE)?;
        parts.take(SEQUENCE)?;
        Some(Self([issuer, parts.take(SEQUENCE)?]))
    }

    /// Tells whether a value in them has a tag.
    fn has(&self, tag: u8) -> bool {
        let mut found = false;
        for name in self.0 {
            let mut rdns = name.parts();
            while let Some(rdn) = rdns.next() {
                let mut attributes = rdn.parts();
                while let Some(attribute) = attributes.next() {
                    let mut parts = attribute.parts();
                    let _type = parts.next();
                    found |= parts.next().is_some_and(|value| value.tag == tag);
                }
            }
        }
        found
    }
}

const UNIVERSAL_STRING: u8 = 0x1c;

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate as far as its subject.
    fn certificate(string: u8, date: &[u8; 13]) -> Vec<u8> {
        let element = |tag: u8, parts: &[&[u8]]| {
            let contents = parts.concat();
            let mut whole = vec![tag, u8::try_from(contents.len()).unwrap()];
            whole.extend(contents);
            whole
        };
        let value = element(string, &[b"abcd"]);
        let attribute = element(SEQUENCE, &[b"\x06\x03\x55\x04\x03", &value]);
        let name = element(SEQUENCE, &[&element(0x31, &[&attribute])]);
        let date = element(0x17, &[date]);
        let validity = element(SEQUENCE, &[&date, &date]);
        let signed = [b"\x02\x01\x01", &b"\x30\x00"[..], &name, &validity, &name];
        element(SEQUENCE, &[&element(SEQUENCE, &signed)])
    }

    #[test]
    fn what_is_no_damage_is_named() {
        for (der, words) in [
            (certificate(0x1c, b"700101000000Z"), "UniversalString"),
            (certificate(0x0c, b"70010100+0100"), "form of DER"),
            (certificate(0x0c, b"700101000000Z"), "damaged"),
            (Vec::new(), "damaged"),
        ] {
            let said = refusal(&der).to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
