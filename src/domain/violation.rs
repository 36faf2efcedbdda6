//! What is wrong with a request, field by field.

use std::borrow::Cow;
use std::fmt;

use crate::printable::excerpt;

/// How many violations one answer carries at most.
///
/// They travel in the trailers of a gRPC response, for which clients allow 8 KiB (gRPC C-core) to
/// 16 KiB (hyper).
const REPORTED_MAX: usize = 24;

/// How much of a caller's own value a message repeats, in characters.
const QUOTED_MAX: usize = 48;

/// Why a value is refused, in the caller's terms: a sentence that says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Cow<'static, str>);

impl Refusal {
    /// Makes a refusal of a sentence without a subject, such as `must be two letters`.
    ///
    /// A sentence that has a name from a certificate in it may be very long, and is shortened: it
    /// must fit the head of an answer.
    pub fn new(sentence: impl Into<Cow<'static, str>>) -> Self {
        let sentence = sentence.into();
        if sentence.len() <= SENTENCE_MAX {
            return Self(sentence);
        }
        let mut kept = SENTENCE_MAX;
        while !sentence.is_char_boundary(kept) {
            kept -= 1;
        }
        Self(Cow::Owned(format!("{} ...", &sentence[..kept])))
    }

    /// Makes a refusal that begins with the refused value, shortened and with control characters escaped.
    pub fn of(value: &str, sentence: impl fmt::Display) -> Self {
        Self::new(format!("{} {sentence}", quoted(value)))
    }

    /// Refuses a value for a character that shows nothing of its own.
    pub fn unseen(character: char) -> Self {
        let code = u32::from(character);
        Self(Cow::Owned(format!(
            "must not contain the character U+{code:04X}, which cannot be seen"
        )))
    }
}

/// How many bytes a sentence may have. With the details of an error it has to fit the 16 KiB that
/// HTTP/2 clients take of trailers.
const SENTENCE_MAX: usize = 400;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One field of a request that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON path of the field from the request's settings: `commonName`, `subjectAlternativeNames[2]`.
    pub field: Cow<'static, str>,
    /// What is allowed.
    pub refusal: Refusal,
}

/// All the fields of a request that cannot be accepted, in the order they were found.
///
/// Past 24 they are counted but not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations {
    kept: Vec<Violation>,
    dropped: usize,
}

impl Violations {
    /// Makes an empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a collection of one.
    pub fn one(field: impl Into<Cow<'static, str>>, refusal: Refusal) -> Self {
        let mut violations = Self::new();
        violations.add(field, refusal);
        violations
    }

    /// Notes that `field` is refused.
    pub fn add(&mut self, field: impl Into<Cow<'static, str>>, refusal: Refusal) {
        if self.kept.len() < REPORTED_MAX {
            let mut field = field.into();
            // That of a JSON object may have a name of any length.
            if let Cow::Owned(name) = &field {
                field = Cow::Owned(excerpt(name).into_owned());
            }
            self.kept.push(Violation { field, refusal });
        } else {
            self.dropped += 1;
        }
    }

    /// Takes over what another check found.
    pub fn extend(&mut self, others: Self) {
        self.dropped += others.dropped;
        for violation in others.kept {
            self.add(violation.field, violation.refusal);
        }
    }

    /// Takes over what another check found in a part of the request.
    pub fn extend_under(&mut self, path: &str, others: Self) {
        self.dropped += others.dropped;
        for violation in others.kept {
            self.add(format!("{path}{}", violation.field), violation.refusal);
        }
    }

    /// Gives fields the names that a caller knows them by. What has no other name keeps its own.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&str) -> Option<&'static str>) -> Self {
        for violation in &mut self.kept {
            if let Some(name) = name(&violation.field) {
                violation.field = name.into();
            }
        }
        self
    }

    /// Passes a checked value on, or notes why it is refused.
    pub fn check<T>(
        &mut self,
        field: impl Into<Cow<'static, str>>,
        checked: Result<T, Refusal>,
    ) -> Option<T> {
        checked.map_err(|refusal| self.add(field, refusal)).ok()
    }

    /// Tells whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns the violations kept.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.kept.iter()
    }

    /// Returns how many more there were than [`Violations::iter`] yields.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Ends a check: `Ok` when nothing was refused.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.kept.first() else {
            return f.write_str("no violations");
        };
        write!(f, "{}: {}", first.field, first.refusal)?;
        match self.kept.len() - 1 + self.dropped {
            0 => Ok(()),
            1 => f.write_str(" (and 1 more field)"),
            more => write!(f, " (and {more} more fields)"),
        }
    }
}

/// Shows a value in a message: in quotes, short, and on one line.
fn quoted(value: &str) -> String {
    let mut shown: String = value.chars().take(QUOTED_MAX).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_shortened_to_what_fits_an_answer() {
        let long = "ü".repeat(30_000);
        for refusal in [Refusal::new(long.clone()), Refusal::of("x", &long)] {
            let shown = refusal.to_string();
            assert!(shown.len() < 420 && shown.ends_with("ü ..."), "{shown}");
        }
        assert_eq!(Refusal::new("is required").to_string(), "is required");
    }

    #[test]
    fn the_first_violation_is_the_message_and_the_rest_are_counted() {
        let mut violations = Violations::one("commonName", Refusal::new("is required"));
        assert_eq!(violations.to_string(), "commonName: is required");
        violations.add("country", Refusal::new("must be two letters"));
        assert_eq!(
            violations.to_string(),
            "commonName: is required (and 1 more field)"
        );
    }

    #[test]
    fn a_flood_of_violations_stays_small() {
        let mut violations = Violations::new();
        for index in 0..100_000 {
            violations.add(
                format!("subjectAlternativeNames[{index}]"),
                Refusal::of(&"x".repeat(1000), "is not a name"),
            );
        }
        assert_eq!(violations.iter().count(), 24);
        assert_eq!(violations.dropped(), 99_976);
        let bytes: usize = violations
            .iter()
            .map(|violation| violation.field.len() + violation.refusal.to_string().len())
            .sum();
        assert!(bytes < 4096, "{bytes} bytes");
    }

    #[test]
    fn a_field_of_any_length_is_short_in_a_message() {
        let mut violations = Violations::new();
        violations.add("x".repeat(60_000), Refusal::new("is unknown"));
        violations.add("a\u{202e}b", Refusal::new("is unknown"));
        let fields: Vec<_> = violations.iter().map(|one| &*one.field).collect();
        assert_eq!(
            fields,
            [format!("{}…", "x".repeat(253)), "a\u{202e}b".into()]
        );
    }

    #[test]
    fn a_quoted_value_cannot_break_out_of_its_line() {
        assert_eq!(
            Refusal::of("a\n\"b\u{1b}[31m", "is not a name").to_string(),
            r#""a\n\"b\u{1b}[31m" is not a name"#
        );
    }
}
