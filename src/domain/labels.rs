//! Labels: what callers write on their key pairs.

use std::collections::BTreeMap;

use super::{Refusal, Violations};
use crate::printable::is_unprintable;

/// Up to 64 pairs of a key and a value, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks the labels of a request.
    pub fn check(given: BTreeMap<String, String>, violations: &mut Violations) -> Self {
        if given.len() > COUNT_MAX {
            let found = given.len();
            violations.add(
                "labels",
                Refusal::new(format!(
                    "{found} labels were given; at most {COUNT_MAX} are allowed"
                )),
            );
            return Self::default();
        }
        for (key, value) in &given {
            if key.is_empty() || key.len() > KEY_LEN_MAX || !key.bytes().all(is_key_byte) {
                violations.add(
                    "labels",
                    Refusal::of(
                        key,
                        "is no label key; must be 1 to 63 of lower-case letters, digits, '.', '_', '-' and '/'",
                    ),
                );
            } else if value.chars().count() > VALUE_LEN_MAX || value.chars().any(is_unprintable) {
                violations.add(
                    format!("labels.{key}"),
                    Refusal::new(
                        "must have at most 255 characters, none of them a control character or one that changes how text is shown (such as U+202E)",
                    ),
                );
            }
        }
        Self(given)
    }

    /// Takes labels that were checked when they were stored.
    pub fn from_stored(stored: BTreeMap<String, String>) -> Self {
        Self(stored)
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether these labels have all the others, with the same values.
    pub fn contain(&self, others: &Self) -> bool {
        let mut others = others.0.iter();
        others.all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// Returns the pairs.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

fn is_key_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/')
}

const COUNT_MAX: usize = 64;
const KEY_LEN_MAX: usize = 63;
const VALUE_LEN_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(given: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
        let mut violations = Violations::new();
        Labels::check(given.into_iter().collect(), &mut violations);
        violations.iter().map(|v| v.field.to_string()).collect()
    }

    #[test]
    fn labels_are_bounded_in_number_and_length() {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let many = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new()));

        assert_eq!(fields(many(64)), [""; 0]);
        assert_eq!(fields(many(65)), ["labels"]);
        assert_eq!(fields([label(&"k".repeat(63), &"v".repeat(255))]), [""; 0]);
        assert_eq!(fields([label(&"k".repeat(64), "")]), ["labels"]);
        assert_eq!(fields([label("", "")]), ["labels"]);
        assert_eq!(fields([label("Team", "")]), ["labels"]);
        assert_eq!(fields([label("team", &"v".repeat(256))]), ["labels.team"]);
        assert_eq!(fields([label("team", "a\nb")]), ["labels.team"]);
        assert_eq!(fields([label("team", "a\u{202e}b")]), ["labels.team"]);
        assert_eq!(fields([label("te\u{202e}am", "")]), ["labels"]);
    }
}
