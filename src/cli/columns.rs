//! The columns of a list of key pairs.

use clap::ValueEnum;
use comfy_table::{Cell, Color};

use super::Context;
use super::error::Failure;
use super::fit::fit;
use super::output::{Output, days_left, expires_in, key, labels, provider, time};
use crate::printable::printable;
use crate::proto::{KeyOrigin, KeyPairView};

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Column {
    /// The identifier.
    Id,
    /// The common name of the subject.
    Cn,
    /// The whole subject.
    Subject,
    /// The issuer.
    Issuer,
    /// The subject alternative names.
    San,
    /// Key algorithm and size.
    Key,
    /// The signature algorithm of the certificate.
    Signature,
    /// LOCAL or HSM, in hybrid mode.
    Provider,
    /// GENERATED, IMPORTED or LINKED.
    Origin,
    /// Whether the certificate is valid.
    Status,
    /// When it expires, counted from now.
    Expires,
    /// When it began.
    ValidFrom,
    /// When it expires.
    ExpireTime,
    /// When the key pair was made.
    CreateTime,
    /// The number of the current generation.
    Generation,
    /// Whether it rotates.
    Rotates,
    /// The labels.
    Labels,
    /// The serial number of the certificate.
    Serial,
    /// The SHA-256 fingerprint of the certificate.
    Sha256,
    /// The etag.
    Etag,
}

impl Column {
    /// Returns the columns of an output. Empty ones that only some daemons fill are left out.
    pub(super) fn of(output: Output, views: &[KeyPairView]) -> Vec<Self> {
        let columns: &[Self] = match output {
            Output::Wide => &[
                Self::Id,
                Self::Subject,
                Self::Key,
                Self::Signature,
                Self::Provider,
                Self::Origin,
                Self::Status,
                Self::Expires,
                Self::ExpireTime,
                Self::Generation,
                Self::Rotates,
                Self::Labels,
            ],
            _ => &[
                Self::Id,
                Self::Cn,
                Self::Key,
                Self::Provider,
                Self::Status,
                Self::Expires,
            ],
        };
        let shown = |column: &&Self| {
            **column != Self::Provider || views.iter().any(|view| !provider(view).is_empty())
        };
        columns.iter().filter(shown).copied().collect()
    }

    fn header(self) -> String {
        let name = self.to_possible_value();
        let name = name.map(|value| value.get_name().to_owned());
        name.unwrap_or_default()
            .to_ascii_uppercase()
            .replace('-', " ")
    }

    fn text(self, context: &Context<'_>, view: &KeyPairView) -> String {
        match self {
            Self::Id => view.id.clone(),
            Self::Cn => common_name(&view.subject_dn),
            Self::Subject => view.subject_dn.clone(),
            Self::Issuer => view.issuer_dn.clone(),
            Self::San => view.subject_alternative_names.join(", "),
            Self::Key => key(view),
            Self::Signature => view.signature_algorithm.clone(),
            Self::Provider => provider(view),
            Self::Origin => match view.key_origin() {
                KeyOrigin::Unspecified => String::new(),
                origin => origin.as_str_name().to_owned(),
            },
            Self::Status => view.status().as_str_name().to_owned(),
            Self::Expires => expires_in(view, context.now),
            Self::ValidFrom => time(view.valid_from),
            Self::ExpireTime => time(view.expires),
            Self::CreateTime => time(view.create_time),
            Self::Generation => view.generation.to_string(),
            Self::Rotates => match view.rotation_settings {
                Some(_) => "yes".to_owned(),
                None => "no".to_owned(),
            },
            Self::Labels => labels(view),
            Self::Serial => view.serial_number.clone(),
            Self::Sha256 => view.sha256_fingerprint.clone(),
            Self::Etag => view.etag.clone(),
        }
    }

    /// Returns how narrow a column may become, where it may.
    const fn width_min(self) -> Option<usize> {
        match self {
            Self::Cn => Some(8),
            Self::Id => Some(12),
            Self::Subject | Self::Issuer | Self::San | Self::Labels => Some(16),
            _ => None,
        }
    }
}

/// Writes a list.
pub(super) fn write(
    context: &mut Context<'_>,
    columns: &[Column],
    views: &[KeyPairView],
    with_header: bool,
) -> Result<(), Failure> {
    let mut header: Vec<_> = columns.iter().map(|column| column.header()).collect();
    let mut texts: Vec<Vec<String>> = Vec::with_capacity(views.len());
    for view in views {
        let cells = columns
            .iter()
            .map(|column| printable(&column.text(context, view)));
        texts.push(cells.collect());
    }
    if !with_header {
        header.iter_mut().for_each(String::clear);
    }
    // All that is asked for is shown, where it is asked for.
    if context.output != Output::Wide
        && let Some(width) = context.width
    {
        let header: Vec<_> = header.iter().map(String::as_str).collect();
        fit(&header, &mut texts, cuts(columns), width);
    }
    let rows = views.iter().zip(texts).map(|(view, texts)| {
        let colour = colour(context, view);
        let cells = columns
            .iter()
            .zip(texts)
            .map(|(column, text)| match column {
                Column::Status | Column::Expires => context.cell(text, colour),
                _ => Cell::new(text),
            });
        cells.collect()
    });
    let rows = rows.collect();
    let header: Vec<_> = header.iter().map(String::as_str).collect();
    let width = context.width.take();
    let written = context.table(&header, rows);
    context.width = width;
    written
}

/// Returns the columns that may be cut, in their order: what is shown in the last place first, and
/// names before ids, which are for copying.
fn cuts(columns: &[Column]) -> Vec<(usize, usize)> {
    let of = |ids: bool| {
        let columns = columns.iter().enumerate().rev();
        let columns = columns.filter(move |(_, column)| (**column == Column::Id) == ids);
        columns.filter_map(|(number, column)| Some((number, column.width_min()?)))
    };
    of(false).chain(of(true)).collect()
}

fn colour(context: &Context<'_>, view: &KeyPairView) -> Option<Color> {
    match days_left(view, context.now) {
        Some(days) if days < 0 => Some(Color::Red),
        Some(days) if days < SOON_DAYS => Some(Color::Yellow),
        _ => None,
    }
}

/// Returns the common name in a subject as keypaird shows it, or the whole subject where it has
/// none.
fn common_name(subject_dn: &str) -> String {
    let begins = |at: &usize| *at == 0 || subject_dn[..*at].ends_with(", ");
    let mut found = subject_dn.match_indices("CN=").map(|(at, _)| at);
    let Some(at) = found.find(begins) else {
        return subject_dn.to_owned();
    };
    let value = &subject_dn[at + "CN=".len()..];
    let Some(quoted) = value.strip_prefix('"') else {
        return value.split(", ").next().unwrap_or_default().to_owned();
    };
    let mut name = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => name.extend(characters.next()),
            other => name.push(other),
        }
    }
    name
}

/// From how many days on a certificate is shown as one that needs attention.
const SOON_DAYS: i64 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_found_in_a_subject() {
        for (subject, expected) in [
            ("CN=Example, O=Acme, C=US", "Example"),
            ("OU=x, CN=Example", "Example"),
            (r#"CN="Acme, \"Inc\"", C=US"#, "Acme, \"Inc\""),
            ("O=XCN=y, C=US", "O=XCN=y, C=US"),
            ("O=Acme", "O=Acme"),
            ("", ""),
        ] {
            assert_eq!(common_name(subject), expected, "{subject}");
        }
    }

    #[test]
    fn names_are_cut_from_the_last_on_and_ids_after_them() {
        let columns = [Column::Id, Column::Cn, Column::Expires, Column::Labels];
        assert_eq!(cuts(&columns), [(3, 16), (1, 8), (0, 12)]);
    }
}
