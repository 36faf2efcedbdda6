//! Whether two distinguished names are the same (RFC 5280 section 7.1): the kind of string, the
//! case of letters and the number of blanks do not count.

use der::asn1::BmpString;
use der::{Encode, Tag, Tagged};
use icu_normalizer::ComposingNormalizerBorrowed;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::Name;

/// What names that are the same have in common. Takes memory as the name does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CanonicalName(Vec<Vec<u8>>);

impl CanonicalName {
    /// Brings a name into the form in which it is compared.
    pub(super) fn of(name: &Name) -> Self {
        let parts = name.iter_rdn().map(|rdn| {
            let mut attributes: Vec<_> = rdn.iter().map(attribute).collect();
            attributes.sort();
            attributes.concat()
        });
        Self(parts.collect())
    }

    /// Tells whether the name has no parts.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a part with its kind and lengths, so that no two of them look alike.
fn attribute(attribute: &AttributeTypeAndValue) -> Vec<u8> {
    let kind = attribute.oid.as_bytes();
    let (is_text, value) = match text(attribute) {
        Some(text) => (1, prepared(&text).into_bytes()),
        None => (0, attribute.value.to_der().unwrap_or_default()),
    };
    let len = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
    [&len(kind), kind, &[is_text], &len(&value), &value].concat()
}

/// Returns the text of a value, whichever kind of string it is.
pub(super) fn text(attribute: &AttributeTypeAndValue) -> Option<String> {
    let bytes = attribute.value.value();
    match attribute.value.tag() {
        Tag::PrintableString
        | Tag::Utf8String
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => std::str::from_utf8(bytes).ok().map(str::to_owned),
        // Taken for Latin-1, as most programs do that still write it.
        Tag::TeletexString => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        Tag::BmpString => BmpString::from_ucs2(bytes)
            .ok()
            .map(|text| text.to_string()),
        _ => None,
    }
}

/// Prepares a text for comparison (RFC 4518 section 2): normalised, without regard to case, and
/// with one blank where there are several.
fn prepared(text: &str) -> String {
    let normal = ComposingNormalizerBorrowed::new_nfkc().normalize(text);
    // To upper case and back makes one of letters that differ in their lower case only, such as
    // sharp s and ss.
    let folded: String = normal
        .chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect();
    let words: Vec<_> = folded.split_whitespace().collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use der::Decode;

    use super::*;

    const COMMON_NAME: &[u8] = b"\x55\x04\x03";
    const ORGANIZATION: &[u8] = b"\x55\x04\x0a";

    /// Writes an element of less than 128 bytes.
    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let contents = parts.concat();
        [&[tag, u8::try_from(contents.len()).unwrap()], &*contents].concat()
    }

    fn value(kind: &[u8], tag: u8, text: &[u8]) -> Vec<u8> {
        tlv(0x30, &[&tlv(0x06, &[kind]), &tlv(tag, &[text])])
    }

    fn name(sets: &[&[u8]]) -> CanonicalName {
        let sets: Vec<_> = sets.iter().map(|set| tlv(0x31, &[set])).collect();
        let der = tlv(0x30, &[&sets.concat()]);
        CanonicalName::of(&Name::from_der(&der).unwrap())
    }

    #[test]
    fn names_are_the_same_whatever_their_strings_letters_and_blanks() {
        let (utf8, printable, ia5, teletex, bmp) = (0x0c, 0x13, 0x16, 0x14, 0x1e);
        let common = |tag, text: &[u8]| name(&[&value(COMMON_NAME, tag, text)]);
        let root = common(utf8, b"Acme Root");
        for (what, other, same) in [
            (
                "another kind of string",
                common(printable, b"Acme Root"),
                true,
            ),
            ("IA5String", common(ia5, b"Acme Root"), true),
            ("TeletexString", common(teletex, b"Acme Root"), true),
            (
                "BMPString",
                common(bmp, b"\0A\0c\0m\0e\0 \0R\0o\0o\0t"),
                true,
            ),
            ("other letters", common(printable, b"ACME rOOT"), true),
            ("more blanks", common(utf8, b"  Acme \t Root "), true),
            ("no blank", common(utf8, b"AcmeRoot"), false),
            ("another text", common(utf8, b"Acme Rood"), false),
            ("bytes that are no text", common(0x04, b"Acme Root"), false),
            (
                "another attribute",
                name(&[&value(ORGANIZATION, utf8, b"Acme Root")]),
                false,
            ),
        ] {
            assert_eq!(other == root, same, "{what}");
        }
        // A letter with its mark, in one character, in two, and in Latin-1.
        let umlaut = common(utf8, "Zürich".as_bytes());
        assert_eq!(umlaut, common(utf8, "Zu\u{308}RICH".as_bytes()));
        assert_eq!(umlaut, common(teletex, b"Z\xfcrich"));
        assert_eq!(common(utf8, "Straße".as_bytes()), common(utf8, b"STRASSE"));
    }

    #[test]
    fn the_order_of_sets_counts_and_that_within_a_set_does_not() {
        let common = value(COMMON_NAME, 0x0c, b"a");
        let company = value(ORGANIZATION, 0x13, b"b");
        let in_order = name(&[&common, &company]);
        assert_ne!(in_order, name(&[&company, &common]));
        assert_ne!(in_order, name(&[&[&*common, &*company].concat()]));
        // DER orders a set by the bytes of its members, which another kind of string changes.
        let set = |long: u8, short: u8| {
            let mut members = [
                value(COMMON_NAME, long, b"yyy"),
                value(COMMON_NAME, short, b"zz"),
            ];
            members.sort();
            name(&[&members.concat()])
        };
        assert_eq!(set(0x0c, 0x13), set(0x13, 0x0c));
        assert!(name(&[]).is_empty() && !in_order.is_empty());
    }
}
