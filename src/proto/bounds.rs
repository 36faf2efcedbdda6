//! How many elements the lists of requests may have, counted on the wire before a message is
//! decoded.
//!
//! An element of two bytes becomes a hundred and more when it is decoded. To count them takes no
//! memory.

/// What a field of a message is, when it is a list or may have one in it.
#[derive(Debug)]
enum Field {
    List(List),
    Message(&'static [(u32, Field)]),
}

/// The lists that requests have.
#[derive(Clone, Copy, Debug)]
enum List {
    Requests,
    Names,
    Labels,
    FilterLabels,
}

/// A list with more elements than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// The JSON path of the list.
    pub field: &'static str,
    /// What its elements are, in words.
    pub elements: &'static str,
    /// How many elements it may have, in words.
    pub allowed: &'static str,
    /// How many it has.
    pub found: usize,
}

/// The bounds of the requests of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Bounds(&'static [(u32, Field)]);

impl Bounds {
    /// Returns the bounds of a message of the package, by its name.
    pub fn of(message: &str) -> Self {
        use Field::{List as L, Message};
        const SETTINGS: &[(u32, Field)] = &[(8, L(List::Names)), (15, L(List::Labels))];
        const IMPORT_SETTINGS: &[(u32, Field)] = &[(6, L(List::Labels))];
        const FILTER: &[(u32, Field)] = &[(6, L(List::FilterLabels))];
        Self(match message {
            "BatchSignRequest" => &[(1, L(List::Requests))],
            "GenerateCsrRequest" => &[(3, L(List::Names))],
            "GenerateSigningKeyPairRequest" => &[(1, Message(SETTINGS))],
            "ImportSigningKeyPairRequest" => &[(1, Message(IMPORT_SETTINGS))],
            "LinkSigningKeyPairRequest" => &[(5, Message(SETTINGS)), (6, L(List::Labels))],
            "ListPublicKeysRequest" => &[(4, L(List::Labels))],
            "ListSigningKeyPairsRequest" => &[(3, Message(FILTER))],
            "UpdateLabelsRequest" => &[(2, L(List::Labels))],
            _ => &[],
        })
    }

    /// Counts the elements of all lists in a message. What is no message is left to the decoder.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn check(self, message: &[u8]) -> Result<(), TooMany> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut counts = [0; List::ALL.len()];
        count(message, self.0, &mut counts);
        for (list, found) in List::ALL.into_iter().zip(counts) {
            if found > ELEMENTS_MAX {
                let (field, elements, allowed) = list.names();
                return Err(TooMany {
                    field,
                    elements,
                    allowed,
                    found,
                });
            }
        }
        Ok(())
    }
}

impl List {
    const ALL: [Self; 4] = [
        Self::Requests,
        Self::Names,
        Self::Labels,
        Self::FilterLabels,
    ];

    /// Returns the JSON path of the list, what its elements are, and how many it may have, in
    /// words.
    const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Requests => ("requests", "requests", "1 to 1000"),
            Self::Names => ("subjectAlternativeNames", "names", "at most 1000"),
            // Of those with the same key the last one counts, so that more than 64 may come.
            Self::Labels => ("labels", "labels", "at most 64"),
            Self::FilterLabels => ("filter.labels", "labels", "at most 64"),
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::Names => 1,
            Self::Labels => 2,
            Self::FilterLabels => 3,
        }
    }
}

/// Counts elements. A message that comes in several pieces is one, as for the decoder, and so are
/// its lists.
fn count(mut message: &[u8], fields: &'static [(u32, Field)], counts: &mut [usize]) {
    while let Some((number, value, rest)) = next_field(message) {
        message = rest;
        match fields.iter().find(|(known, _)| *known == number) {
            Some((_, Field::List(list))) => {
                if let Some(count) = counts.get_mut(list.index()) {
                    *count += 1;
                }
            }
            Some((_, Field::Message(fields))) => count(value, fields, counts),
            None => {}
        }
    }
}

/// Reads a field: its number, its bytes when it has a length, and what is behind it. None at the
/// end, and where there is no field.
fn next_field(message: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (tag, rest) = varint(message)?;
    let number = u32::try_from(tag >> 3).ok()?;
    match tag & 7 {
        0 => varint(rest).map(|(_, rest)| (number, &rest[..0], rest)),
        1 => Some((number, &[], rest.get(8..)?)),
        2 => {
            let (len, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            Some((number, value, rest))
        }
        // Groups: their fields are those of nothing that we know, and may be looked through as any
        // others.
        3 | 4 => Some((UNKNOWN, &[], rest)),
        5 => Some((number, &[], rest.get(4..)?)),
        _ => None,
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// No field has this number.
const UNKNOWN: u32 = 0;
/// How many elements a list has at most on the wire.
const ELEMENTS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prost::Message as _;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;
    use crate::proto::{
        BatchSignRequest, FILE_DESCRIPTOR_SET, GenerateSigningKeyPairRequest, NewKeyPairSettings,
        SignRequest,
    };

    fn check(name: &str, message: &[u8]) -> Result<(), String> {
        let checked = Bounds::of(name).check(message);
        checked.map_err(|many| format!("{} {}", many.field, many.found))
    }

    #[test]
    fn elements_are_counted_wherever_they_stand() {
        let batch = |count| BatchSignRequest {
            requests: vec![SignRequest::default(); count],
        };
        for (count, expected) in [
            (0, Ok(())),
            (1000, Ok(())),
            (1001, Err("requests 1001".to_owned())),
        ] {
            let message = batch(count).encode_to_vec();
            assert_eq!(check("BatchSignRequest", &message), expected);
        }
        let generate = |names, labels: usize| GenerateSigningKeyPairRequest {
            settings: Some(NewKeyPairSettings {
                common_name: "x".repeat(1000),
                valid_days: -1,
                subject_alternative_names: vec![String::new(); names],
                labels: (0..labels)
                    .map(|number| (number.to_string(), String::new()))
                    .collect(),
                ..NewKeyPairSettings::default()
            }),
            ..GenerateSigningKeyPairRequest::default()
        };
        let name = "GenerateSigningKeyPairRequest";
        let check = |message: &[u8]| check(name, message);
        assert_eq!(check(&generate(1000, 1000).encode_to_vec()), Ok(()));
        let names = Err("subjectAlternativeNames 1001".to_owned());
        assert_eq!(check(&generate(1001, 0).encode_to_vec()), names);
        let labels = Err("labels 1001".to_owned());
        assert_eq!(check(&generate(0, 1001).encode_to_vec()), labels);

        // Settings that come several times are put together by the decoder, and so are their lists.
        let message = generate(501, 0).encode_to_vec().repeat(2);
        assert_eq!(check(&message), Err("subjectAlternativeNames 1002".into()));
        let decoded = GenerateSigningKeyPairRequest::decode(&*message).unwrap();
        let names = decoded.settings.unwrap().subject_alternative_names;
        assert_eq!(names.len(), 1002);
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder() {
        let whole = BatchSignRequest {
            requests: vec![SignRequest::default(); 2],
        };
        let whole = whole.encode_to_vec();
        for end in 0..whole.len() {
            assert_eq!(check("BatchSignRequest", &whole[..end]), Ok(()));
        }
        for damaged in [
            &b"\xff"[..],
            &[0xff; 20],
            b"\x0a\xff\xff\xff\xff\x0f",
            b"\x0f",
        ] {
            assert_eq!(check("BatchSignRequest", damaged), Ok(()));
        }
    }

    /// Finds the lists in a message, each with the numbers of the fields that lead to it.
    fn lists(
        messages: &BTreeMap<String, DescriptorProto>,
        name: &str,
        path: &[i32],
        found: &mut BTreeSet<Vec<i32>>,
    ) {
        assert!(path.len() < 8, "{name} is in itself");
        for field in &messages[name].field {
            let path = [path, &[field.number()]].concat();
            if field.label() == Label::Repeated {
                found.insert(path);
            } else if field.r#type() == Type::Message
                && field.type_name().starts_with(".keypaird.v1.")
            {
                lists(messages, field.type_name(), &path, found);
            }
        }
    }

    fn bounded(fields: &[(u32, Field)], path: &[i32], found: &mut BTreeSet<Vec<i32>>) {
        for (number, field) in fields {
            let path = [path, &[i32::try_from(*number).unwrap()]].concat();
            match field {
                Field::List(_) => _ = found.insert(path),
                Field::Message(fields) => bounded(fields, &path, found),
            }
        }
    }

    #[test]
    fn every_list_of_every_request_has_a_bound() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let ours = set
            .file
            .iter()
            .filter(|file| file.package() == "keypaird.v1");
        let messages: BTreeMap<_, _> = ours
            .clone()
            .flat_map(|file| &file.message_type)
            .map(|message| (format!(".keypaird.v1.{}", message.name()), message.clone()))
            .collect();
        let methods = ours
            .flat_map(|file| &file.service)
            .flat_map(|one| &one.method);
        let mut checked = 0;
        for method in methods {
            let (mut there, mut with_bound) = (BTreeSet::new(), BTreeSet::new());
            lists(&messages, method.input_type(), &[], &mut there);
            let name = method.input_type().trim_start_matches(".keypaird.v1.");
            bounded(Bounds::of(name).0, &[], &mut with_bound);
            assert_eq!(there, with_bound, "{name}");
            checked += there.len();
        }
        assert!(checked >= 7, "{checked} lists");
    }
}
