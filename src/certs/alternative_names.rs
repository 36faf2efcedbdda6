//! Subject alternative names, one by one: a name that is damaged hides no other.

use std::net::IpAddr;

use der::asn1::ObjectIdentifier;
use der::{AnyRef, Decode, Reader, SliceReader, Tag, Tagged};
use x509_cert::ext::pkix::name::GeneralName;

use super::read::{Parsed, dn, hex};
use crate::domain::SubjectAlternativeName;

/// A name as it stands in a certificate.
#[derive(Debug)]
pub(super) struct AlternativeName<'a> {
    /// The whole element.
    der: &'a [u8],
    /// What it says; none when it is damaged.
    name: Option<GeneralName>,
}

/// Returns all the names of a certificate, in their order.
pub(super) fn alternative_names(parsed: &Parsed) -> Vec<AlternativeName<'_>> {
    let extensions = parsed.tbs_certificate().extensions();
    let mut extensions = extensions.into_iter().flatten();
    let Some(found) = extensions.find(|found| found.extn_id == SUBJECT_ALT_NAME) else {
        return Vec::new();
    };
    let whole = found.extn_value.as_bytes();
    let damaged = |der| AlternativeName { der, name: None };
    let Some(sequence) = AnyRef::from_der(whole)
        .ok()
        .filter(|any| any.tag() == Tag::Sequence)
    else {
        return vec![damaged(whole)];
    };
    let mut names = Vec::new();
    let mut rest = sequence.value();
    while !rest.is_empty() {
        let element = SliceReader::new(rest).and_then(|mut reader| reader.tlv_bytes());
        let name = element.map_or_else(|_| damaged(rest), AlternativeName::new);
        rest = rest.get(name.der.len()..).unwrap_or_default();
        names.push(name);
    }
    names
}

impl<'a> AlternativeName<'a> {
    fn new(der: &'a [u8]) -> Self {
        let name = GeneralName::from_der(der).ok();
        Self {
            der,
            name: name.filter(is_in_order),
        }
    }

    /// Returns the whole element in DER. None when it is damaged.
    pub(super) fn der(&self) -> Option<&'a [u8]> {
        self.name.is_some().then_some(self.der)
    }

    /// Returns the name as one that we write. None when it is of another kind, or damaged.
    pub(super) fn writable(&self) -> Option<SubjectAlternativeName> {
        Some(match self.name.as_ref()? {
            GeneralName::DnsName(text) => SubjectAlternativeName::Dns(text.to_string()),
            GeneralName::Rfc822Name(text) => SubjectAlternativeName::Email(text.to_string()),
            GeneralName::UniformResourceIdentifier(text) => {
                SubjectAlternativeName::Uri(text.to_string())
            }
            GeneralName::IpAddress(bytes) => SubjectAlternativeName::Ip(address(bytes.as_bytes())?),
            _ => return None,
        })
    }

    /// Shows the name in the plain form; kinds that we do not write, with what they are before
    /// them, and what is damaged in hexadecimal digits: `DNS:#c3bc2e6578616d706c65`.
    pub(super) fn shown(&self) -> String {
        match &self.name {
            Some(
                GeneralName::DnsName(text)
                | GeneralName::Rfc822Name(text)
                | GeneralName::UniformResourceIdentifier(text),
            ) => text.to_string(),
            Some(GeneralName::IpAddress(bytes)) => match address(bytes.as_bytes()) {
                Some(address) => address.to_string(),
                None => self.shown_in_digits(),
            },
            Some(GeneralName::DirectoryName(name)) => format!("DirName:{}", dn(name)),
            Some(GeneralName::RegisteredId(oid)) => format!("RID:{oid}"),
            Some(GeneralName::OtherName(other)) => format!("otherName:{}", other.type_id),
            Some(GeneralName::EdiPartyName(_)) => "ediPartyName".to_owned(),
            None => self.shown_in_digits(),
        }
    }

    fn shown_in_digits(&self) -> String {
        let kind = self.der.first().and_then(|tag| {
            let kinds = KINDS.iter().enumerate();
            let mut kinds = kinds.filter(|_| tag & CONTEXT_SPECIFIC != 0);
            kinds.find(|(number, _)| *number == usize::from(tag & TAG_NUMBER))
        });
        let contents = AnyRef::from_der(self.der).map_or(self.der, |any| any.value());
        match kind {
            Some((_, kind)) => format!("{kind}:#{}", hex(contents)),
            None => format!("#{}", hex(self.der)),
        }
    }
}

/// Tells whether a name is what its kind allows. Text that could break out of a line is not.
fn is_in_order(name: &GeneralName) -> bool {
    match name {
        GeneralName::DnsName(text)
        | GeneralName::Rfc822Name(text)
        | GeneralName::UniformResourceIdentifier(text) => {
            !text.as_bytes().is_empty() && !text.as_bytes().iter().any(u8::is_ascii_control)
        }
        GeneralName::IpAddress(bytes) => address(bytes.as_bytes()).is_some(),
        _ => true,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(Into::into);
    let v6 = <[u8; 16]>::try_from(bytes).map(Into::into);
    v4.or(v6).ok()
}

/// RFC 5280 section 4.2.1.6.
pub(super) const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// The kinds of names, in the order of their tags, as OpenSSL calls them.
const KINDS: [&str; 9] = [
    "otherName",
    "email",
    "DNS",
    "X400Name",
    "DirName",
    "EdiPartyName",
    "URI",
    "IP",
    "RID",
];
const CONTEXT_SPECIFIC: u8 = 0x80;
const TAG_NUMBER: u8 = 0x1f;
