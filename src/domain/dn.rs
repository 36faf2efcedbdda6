//! The subject of a certificate: its parts, their bounds, and how it is written.

use std::fmt;

use super::{Refusal, Violations, is_unprintable};

/// The kinds of part a subject can have (X.520).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnField {
    /// countryName.
    Country,
    /// stateOrProvinceName.
    State,
    /// localityName.
    Locality,
    /// organizationName.
    Organization,
    /// organizationalUnitName.
    OrganizationalUnit,
    /// commonName.
    CommonName,
}

impl DnField {
    /// Returns the short name: `C`, `ST`, `L`, `O`, `OU`, `CN`.
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Country => "C",
            Self::State => "ST",
            Self::Locality => "L",
            Self::Organization => "O",
            Self::OrganizationalUnit => "OU",
            Self::CommonName => "CN",
        }
    }

    /// Returns how many characters a value may have (upper bounds of X.520, RFC 5280 appendix A.1).
    const fn len_max(self) -> usize {
        match self {
            Self::Country => 2,
            Self::State | Self::Locality => 128,
            Self::Organization | Self::OrganizationalUnit | Self::CommonName => 64,
        }
    }

    /// Tells whether every subject we write has this part.
    const fn is_required(self) -> bool {
        matches!(self, Self::CommonName | Self::Organization | Self::Country)
    }

    /// Checks the value of a part.
    pub fn check(self, value: &str) -> Result<String, Refusal> {
        if self == Self::Country {
            return if value.len() == 2 && value.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                Ok(value.to_owned())
            } else {
                Err(Refusal::new(
                    "must be two letters, a country code of ISO 3166",
                ))
            };
        }
        let len_max = self.len_max();
        if value.trim().is_empty() {
            return Err(Refusal::new(format!(
                "must have 1 to {len_max} characters that are not all blank"
            )));
        }
        let len = value.chars().count();
        if len > len_max {
            return Err(Refusal::new(format!(
                "must have at most {len_max} characters, and has {len}"
            )));
        }
        if value.chars().any(char::is_control) {
            return Err(Refusal::new("must not contain control characters"));
        }
        if let Some(unseen) = value.chars().find(|c| is_unprintable(*c)) {
            return Err(Refusal::unseen(unseen));
        }
        Ok(value.to_owned())
    }
}

/// One part of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnAttribute<'a> {
    /// Which part.
    pub field: DnField,
    /// Its value.
    pub value: &'a str,
}

impl DnAttribute<'_> {
    /// Tells whether the value is encoded as a PrintableString: it consists of the characters of X.680
    /// section 41.4, but for the question mark, at which the encoder under rcgen (yasna 0.6.0) panics.
    pub fn is_printable(&self) -> bool {
        self.value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=".contains(&byte))
    }
}

/// The distinguished name of a certificate's subject, each part checked by [`DnField::check`].
///
/// Shown most specific first: `CN=Example, OU=Engineering, O=Acme, L=Austin, ST=Texas, C=US`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// CN.
    pub common_name: String,
    /// OU.
    pub organization_unit: Option<String>,
    /// O.
    pub organization: String,
    /// L.
    pub city: Option<String>,
    /// ST.
    pub state: Option<String>,
    /// C.
    pub country: String,
}

impl Subject {
    /// Returns the parts there are, in the order in which they are encoded: C, ST, L, O, OU, CN.
    pub fn attributes(&self) -> impl DoubleEndedIterator<Item = DnAttribute<'_>> {
        [
            (DnField::Country, Some(&self.country)),
            (DnField::State, self.state.as_ref()),
            (DnField::Locality, self.city.as_ref()),
            (DnField::Organization, Some(&self.organization)),
            (DnField::OrganizationalUnit, self.organization_unit.as_ref()),
            (DnField::CommonName, Some(&self.common_name)),
        ]
        .into_iter()
        .filter_map(|(field, value)| value.map(|value| DnAttribute { field, value }))
    }
}

/// A subject as a caller wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectSettings {
    /// `commonName`.
    pub common_name: String,
    /// `organization`.
    pub organization: String,
    /// `organizationUnit`.
    pub organization_unit: Option<String>,
    /// `city`.
    pub city: Option<String>,
    /// `state`.
    pub state: Option<String>,
    /// `country`.
    pub country: String,
}

impl SubjectSettings {
    /// Checks all parts. Their field paths begin with `prefix`. None when something is refused.
    pub fn check(self, prefix: &str, violations: &mut Violations) -> Option<Subject> {
        let mut part = |name: &str, kind: DnField, value: Option<String>| {
            let value = value?;
            let checked = kind.check(&value);
            violations.check(
                format!("{prefix}{name}"),
                checked.map_err(|refusal| match (value.is_empty(), kind.is_required()) {
                    (true, true) => Refusal::new(format!("is required; {refusal}")),
                    (true, false) => {
                        Refusal::new(format!("{refusal}; leave it out when there is none"))
                    }
                    (false, _) => refusal,
                }),
            )
        };
        let given = [
            self.organization_unit.is_some(),
            self.city.is_some(),
            self.state.is_some(),
        ];
        let common_name = part("commonName", DnField::CommonName, Some(self.common_name));
        let organization = part(
            "organization",
            DnField::Organization,
            Some(self.organization),
        );
        let organization_unit = part(
            "organizationUnit",
            DnField::OrganizationalUnit,
            self.organization_unit,
        );
        let city = part("city", DnField::Locality, self.city);
        let state = part("state", DnField::State, self.state);
        let country = part("country", DnField::Country, Some(self.country));
        let checked = [organization_unit.is_some(), city.is_some(), state.is_some()];
        (checked == given).then_some(())?;
        Some(Subject {
            common_name: common_name?,
            organization_unit,
            organization: organization?,
            city,
            state,
            country: country?,
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attribute) in self.attributes().rev().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            f.write_str(&dn_part(attribute.field.short_name(), attribute.value))?;
        }
        Ok(())
    }
}

/// Shows a part of a name: its value in double quotes where it would otherwise be ambiguous.
pub fn dn_part(name: &str, value: &str) -> String {
    let plain = value.trim() == value && !value.contains([',', '+', '"', '\\', '=', '<', '>', ';']);
    if plain {
        return format!("{name}={value}");
    }
    let mut shown = format!("{name}=\"");
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            shown.push('\\');
        }
        shown.push(character);
    }
    shown.push('"');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(common_name: &str, organization: &str) -> Subject {
        Subject {
            common_name: common_name.into(),
            organization_unit: None,
            organization: organization.into(),
            city: None,
            state: None,
            country: "US".into(),
        }
    }

    #[test]
    fn a_whole_name_is_shown_most_specific_first() {
        let name = Subject {
            organization_unit: Some("Engineering".into()),
            city: Some("Austin".into()),
            state: Some("Texas".into()),
            ..subject("Example", "Acme")
        };
        assert_eq!(
            name.to_string(),
            "CN=Example, OU=Engineering, O=Acme, L=Austin, ST=Texas, C=US"
        );
    }

    #[test]
    fn values_that_would_be_ambiguous_are_quoted() {
        for (common_name, shown) in [
            ("Example", "CN=Example"),
            ("Acme, Inc.", "CN=\"Acme, Inc.\""),
            ("A+B", "CN=\"A+B\""),
            ("a=b", "CN=\"a=b\""),
            ("<x>;", "CN=\"<x>;\""),
            (" x", "CN=\" x\""),
            ("x ", "CN=\"x \""),
            ("say \"x\" \\", "CN=\"say \\\"x\\\" \\\\\""),
            ("Zürich", "CN=Zürich"),
            ("#x", "CN=#x"),
        ] {
            let name = subject(common_name, "Acme").to_string();
            assert_eq!(name, format!("{shown}, O=Acme, C=US"));
        }
    }

    #[test]
    fn parts_are_bounded_as_x520_bounds_them() {
        for (field, len_max) in [
            (DnField::CommonName, 64),
            (DnField::Organization, 64),
            (DnField::OrganizationalUnit, 64),
            (DnField::Locality, 128),
            (DnField::State, 128),
        ] {
            assert!(field.check("x").is_ok());
            // Characters are counted, not bytes.
            assert!(field.check(&"ü".repeat(len_max)).is_ok());
            assert_eq!(
                field
                    .check(&"ü".repeat(len_max + 1))
                    .unwrap_err()
                    .to_string(),
                format!(
                    "must have at most {len_max} characters, and has {}",
                    len_max + 1
                )
            );
            for bad in [
                "",
                "  ",
                "a\0b",
                "a\nb",
                "\u{7f}",
                "a\u{9b}b",
                "a\u{202e}b",
                "a\u{2028}b",
                "a\u{200b}b",
                "a\u{feff}b",
            ] {
                assert!(field.check(bad).is_err(), "{field:?} {bad:?}");
            }
        }
        assert!(DnField::Country.check("US").is_ok());
        assert!(DnField::Country.check("us").is_ok());
        for bad in ["", "U", "USA", "U1", "ÜS", "  "] {
            assert!(DnField::Country.check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn printable_strings_are_told_apart() {
        let printable = |value| {
            DnAttribute {
                field: DnField::CommonName,
                value,
            }
            .is_printable()
        };
        assert!(printable("Acme (UK) Ltd. +1, a/b:c=d-e'"));
        for other in ["a?b", "a@b", "a*b", "a_b", "a&b", "Zürich", "a;b"] {
            assert!(!printable(other), "{other}");
        }
    }
}
