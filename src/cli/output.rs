//! Answers as tables for people, or as protobuf's own JSON for programs.

use clap::ValueEnum;
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use unicode_width::UnicodeWidthStr;

use super::Context;
use super::error::Failure;
use super::fit::GAP_LEN;
use super::yaml;
use crate::printable::{printable, printable_json};
use crate::proto::{
    CertificateValidity, CryptoProvider, FILE_DESCRIPTOR_SET, GenerationState, KeyPairView,
};

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people, as wide as the terminal.
    Table,
    /// For people, with all there is.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
    /// The ids of the key pairs alone, a line for each.
    Name,
}

/// What an answer is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people to read.
    Text,
    /// For programs: see [`Context::json`] and [`Context::data`].
    Data,
}

impl Output {
    /// Returns what answers are made for.
    pub(super) const fn form(self) -> Form {
        match self {
            Self::Table | Self::Wide => Form::Text,
            Self::Json | Self::Yaml | Self::Name => Form::Data,
        }
    }
}

impl Context<'_> {
    /// Writes a message for programs, in the JSON form of protobuf: fields in camelCase, enum
    /// values by name, times in RFC 3339. What is absent is left out. In YAML the names and values
    /// are the same.
    pub(super) fn json(&mut self, name: &str, message: &impl Message) -> Result<(), Failure> {
        let json = to_json(name, message).map_err(Failure::Answer)?;
        if self.output == Output::Json {
            writeln!(self.out, "{}", printable_json(&json))?;
            return Ok(());
        }
        let value =
            serde_json::from_str(&json).map_err(|error| Failure::Answer(error.to_string()))?;
        self.data(&value)
    }

    /// Writes a value for programs.
    pub(super) fn data(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        match self.output {
            Output::Yaml => write!(self.out, "{}", yaml::document(value))?,
            Output::Name => {
                for id in ids(value) {
                    writeln!(self.out, "{}", printable(id))?;
                }
            }
            Output::Table | Output::Wide | Output::Json => {
                writeln!(self.out, "{}", printable_json(&format!("{value:#}")))?;
            }
        }
        Ok(())
    }

    /// Returns the width that a table has to fit, if any: on a terminal, unless all is asked for.
    pub(super) fn fitted_width(&self) -> Option<usize> {
        self.width.filter(|_| self.output != Output::Wide)
    }

    /// Writes a table of a header and rows. On a terminal the last column is broken into lines
    /// where it is too wide.
    pub(super) fn table(&mut self, header: &[&str], rows: Vec<Vec<Cell>>) -> Result<(), Failure> {
        let mut table = Table::new();
        match self.colour {
            true => table.enforce_styling(),
            false => table.force_no_tty(),
        };
        let others = header.len().saturating_sub(1);
        let taken: usize = (0..others)
            .map(|column| GAP_LEN + usize::from(column_width(header, &rows, column)))
            .sum();
        let width = self.fitted_width();
        let last_width = width.map(|width| width.saturating_sub(taken));
        table
            .load_style(presets::NOTHING)
            .set_header(header.iter().map(Cell::new))
            .add_rows(rows);
        for (number, column) in table.column_iter_mut().enumerate() {
            column.set_padding((
                0,
                if number == others {
                    0
                } else {
                    GAP_LEN.try_into().unwrap_or(2)
                },
            ));
            if number < others {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        match (width, last_width) {
            (Some(width), Some(LAST_WIDTH_MIN..)) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(u16::try_from(width).unwrap_or(u16::MAX)),
            _ => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let lines: Vec<_> = table.lines().collect();
        let without_header = usize::from(header.iter().all(|name| name.is_empty()));
        for line in lines.iter().skip(without_header) {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// Writes all of a key pair that a person wants to know, a line for each.
    pub(super) fn view(&mut self, view: &KeyPairView) -> Result<(), Failure> {
        let lines = lines(view, self.now);
        self.lines(lines)
    }

    /// Writes names with their values, a line for each.
    pub(super) fn lines(
        &mut self,
        lines: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<(), Failure> {
        let width = 21;
        for (name, value) in lines {
            writeln!(self.out, "{name:width$} {}", printable(&value))?;
        }
        Ok(())
    }

    /// Returns a cell in a colour, where colours are of use.
    pub(super) fn cell(&self, text: impl ToString, colour: Option<Color>) -> Cell {
        match colour.filter(|_| self.colour) {
            Some(colour) => cell(text).fg(colour),
            None => cell(text),
        }
    }
}

/// Returns a cell without a colour.
pub(super) fn cell(text: impl ToString) -> Cell {
    Cell::new(printable(&Cell::new(text).content()))
}

/// What a view shows, in the order of importance. Empty values are left out.
fn lines(view: &KeyPairView, now: Timestamp) -> Vec<(&'static str, String)> {
    let expires = match days_left(view, now) {
        Some(days) => {
            let unit = if days == 1 { "day" } else { "days" };
            format!("{} ({days} {unit} left)", time(view.expires))
        }
        None => time(view.expires),
    };
    let token = view.token_attributes.map(|attributes| {
        let stated = [
            (attributes.sensitive, "sensitive"),
            (attributes.always_sensitive, "always sensitive"),
            (attributes.never_extractable, "never extractable"),
            (attributes.local, "made on the token"),
        ];
        let stated: Vec<_> = stated
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, name)| *name)
            .collect();
        stated.join(", ")
    });
    let status = match view.status() {
        CertificateValidity::Unspecified => String::new(),
        status => status.as_str_name().to_owned(),
    };
    let generation = match view.generation {
        // The first is nothing to speak of.
        0 | 1 => String::new(),
        number => number.to_string(),
    };
    let next = view.pending.as_ref().map(|next| match next.activate_time {
        Some(_) => format!("{}, signs from {}", next.number, time(next.activate_time)),
        None => format!("{}, signs when told to", next.number),
    });
    let next = next.unwrap_or_default();
    let previous = view.previous.as_ref();
    let previous =
        previous.map(|one| format!("{}, published until {}", one.number, time(one.expires)));
    let previous = previous.unwrap_or_default();
    let rotates = view.rotation_settings.as_ref().map(|settings| {
        format!(
            "made {} and signing {} days before the expiry",
            settings.creation_buffer_days, settings.activation_buffer_days
        )
    });
    let rotates = rotates.unwrap_or_default();
    // What the certificate says is what signatures have, as long as a CA did not choose it.
    let signs_otherwise = match signing_algorithm(view) {
        same if same == view.signature_algorithm => "",
        other => other,
    };
    let mut lines = vec![
        ("id", view.id.clone()),
        ("subject", view.subject_dn.clone()),
        (
            "alternative names",
            view.subject_alternative_names.join(", "),
        ),
        ("key", key(view)),
        ("signature algorithm", view.signature_algorithm.clone()),
        ("signs with", signs_otherwise.to_owned()),
        ("provider", provider(view)),
        ("the token states", token.unwrap_or_default()),
        ("status", status),
        ("valid from", time(view.valid_from)),
        ("expires", expires),
        ("serial number", view.serial_number.clone()),
        ("SHA-256 fingerprint", view.sha256_fingerprint.clone()),
        ("SHA-1 fingerprint", view.sha1_fingerprint.clone()),
        ("generation", generation),
        ("next generation", next),
        ("previous generation", previous),
        ("rotates", rotates),
        ("labels", labels(view)),
        ("same key as", view.also_key_pair_ids.join(", ")),
        ("etag", view.etag.clone()),
    ];
    if view.issuer_dn != view.subject_dn {
        lines.insert(2, ("issuer", view.issuer_dn.clone()));
    }
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// Returns what the key pair signs with by default. Daemons before 0.2 do not tell: they go by the
/// certificate.
pub(super) fn signing_algorithm(view: &KeyPairView) -> &str {
    match &*view.signing_algorithm {
        "" => &view.signature_algorithm,
        named => named,
    }
}

/// Returns the labels in the order of their keys: `stage=prod, team=pay`.
pub(super) fn labels(view: &KeyPairView) -> String {
    let labels = view.labels.iter();
    let mut labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    labels.join(", ")
}

/// Returns algorithm and size: `EC-256`, `ED25519`.
pub(super) fn key(view: &KeyPairView) -> String {
    match &*view.key_algorithm {
        "ED25519" => "ED25519".to_owned(),
        algorithm => format!("{algorithm}-{}", view.key_size),
    }
}

/// Returns the provider, empty where it is not shown.
pub(super) fn provider(view: &KeyPairView) -> String {
    match view.crypto_provider() {
        CryptoProvider::Unspecified => String::new(),
        provider => provider.as_str_name().to_owned(),
    }
}

/// Returns what a generation is now.
pub(super) fn generation_state(state: GenerationState) -> &'static str {
    match state {
        GenerationState::Unspecified => "",
        GenerationState::Current => "current",
        GenerationState::Pending => "pending",
        GenerationState::Previous => "previous",
    }
}

/// Returns how many whole days are left until a certificate expires, negative when it has.
pub(super) fn days_left(view: &KeyPairView, now: Timestamp) -> Option<i64> {
    let seconds = view.expires?.seconds.saturating_sub(now.seconds);
    Some(seconds.div_euclid(86_400))
}

/// Shows a time in UTC, to the second.
pub(super) fn time(timestamp: Option<Timestamp>) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    timestamp
        .and_then(|timestamp| OffsetDateTime::from_unix_timestamp(timestamp.seconds).ok())
        .and_then(|time| time.format(format).ok())
        .unwrap_or_default()
}

/// Writes a time as programs read it (RFC 3339).
pub(super) fn rfc3339(timestamp: Timestamp) -> String {
    let time = OffsetDateTime::from_unix_timestamp(timestamp.seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Returns how wide a column is, header included.
fn column_width(header: &[&str], rows: &[Vec<Cell>], column: usize) -> u16 {
    let cells = rows.iter().filter_map(|row| row.get(column));
    let widths = cells.map(|cell| cell.content().width());
    let header = header.get(column).map_or(0, |name| name.width());
    let width = widths.chain([header]).max().unwrap_or_default();
    u16::try_from(width).unwrap_or(u16::MAX)
}

/// Returns the ids of the key pairs in an answer.
fn ids(answer: &serde_json::Value) -> Vec<&str> {
    let one = answer.pointer("/keyPair/id").or_else(|| answer.get("id"));
    let several = answer.get("keyPairs").and_then(serde_json::Value::as_array);
    let several = several
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("id"));
    one.into_iter()
        .chain(several)
        .filter_map(serde_json::Value::as_str)
        .collect()
}

/// Returns when a certificate expires, counted from now: `in 19 days`, `in 3 hours`, `2 days ago`.
pub(super) fn expires_in(view: &KeyPairView, now: Timestamp) -> String {
    counted(view.expires, now)
}

/// Returns a time, counted from now.
pub(super) fn counted(time: Option<Timestamp>, now: Timestamp) -> String {
    let Some(expires) = time else {
        return String::new();
    };
    let left = expires.seconds.saturating_sub(now.seconds);
    let (number, unit) = match left.unsigned_abs() {
        seconds @ 86_400.. => (seconds / 86_400, "day"),
        seconds @ 3600.. => (seconds / 3600, "hour"),
        seconds => (seconds / 60, "minute"),
    };
    let s = if number == 1 { "" } else { "s" };
    match left {
        0.. => format!("in {number} {unit}{s}"),
        _ => format!("{number} {unit}{s} ago"),
    }
}

fn to_json(name: &str, message: &impl Message) -> Result<String, String> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())?;
    let descriptor = pool
        .get_message_by_name(&format!("keypaird.v1.{name}"))
        .ok_or_else(|| format!("there is no message {name}"))?;
    let dynamic = DynamicMessage::decode(descriptor, &*message.encode_to_vec())
        .map_err(|error| error.to_string())?;
    let mut json = serde_json::Serializer::pretty(Vec::new());
    dynamic
        .serialize_with_options(&mut json, &SerializeOptions::new())
        .map_err(|error| error.to_string())?;
    String::from_utf8(json.into_inner()).map_err(|error| error.to_string())
}

/// Less than this is no width to break lines to.
pub(super) const LAST_WIDTH_MIN: usize = 20;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::connect::Connection;
    use crate::proto::TokenAttributes;

    pub(crate) const NOW: Timestamp = Timestamp {
        seconds: 1_795_478_957,
        nanos: 0,
    };

    /// Returns what is written to a terminal of a width, or to a pipe.
    pub(crate) fn written(
        output: Output,
        width: Option<usize>,
        write: impl FnOnce(&mut Context<'_>) -> Result<(), Failure>,
    ) -> String {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            connection: Connection,
        }
        let only: Only = clap::Parser::parse_from(["x"]);
        let mut out = Vec::new();
        let mut context = Context {
            connection: &only.connection,
            output,
            out: &mut out,
            terminal: width.is_some(),
            width,
            colour: false,
            now: NOW,
            variable: |_| None,
        };
        write(&mut context).unwrap();
        String::from_utf8(out).unwrap()
    }

    pub(crate) fn view() -> KeyPairView {
        KeyPairView {
            id: "payments".into(),
            serial_number: "235146864432115932".into(),
            subject_dn: "CN=Example, O=Acme, C=US".into(),
            issuer_dn: "CN=Example, O=Acme, C=US".into(),
            key_algorithm: "EC".into(),
            key_size: 256,
            signature_algorithm: "SHA256withECDSA".into(),
            status: CertificateValidity::Valid.into(),
            crypto_provider: CryptoProvider::Hsm.into(),
            valid_from: Some(NOW),
            expires: Some(Timestamp {
                seconds: NOW.seconds + 365 * 86_400,
                nanos: 0,
            }),
            token_attributes: Some(TokenAttributes {
                sensitive: true,
                always_sensitive: true,
                never_extractable: true,
                local: true,
            }),
            labels: [("team".to_owned(), "payments".to_owned())].into(),
            ..KeyPairView::default()
        }
    }

    #[test]
    fn a_view_shows_what_there_is_and_leaves_out_the_rest() {
        let shown: Vec<_> = lines(&view(), NOW)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(
            shown,
            [
                "id: payments",
                "subject: CN=Example, O=Acme, C=US",
                "key: EC-256",
                "signature algorithm: SHA256withECDSA",
                "provider: HSM",
                "the token states: sensitive, always sensitive, never extractable, made on the token",
                "status: VALID",
                "valid from: 2026-11-24 00:09:17 UTC",
                "expires: 2027-11-24 00:09:17 UTC (365 days left)",
                "serial number: 235146864432115932",
                "labels: team=payments",
            ]
        );
    }

    #[test]
    fn the_expiry_is_counted_from_now() {
        for (seconds, expected) in [
            (19 * 86_400 + 5, "in 19 days"),
            (86_400, "in 1 day"),
            (86_399, "in 23 hours"),
            (3600, "in 1 hour"),
            (61, "in 1 minute"),
            (0, "in 0 minutes"),
            (-1, "0 minutes ago"),
            (-2 * 3600, "2 hours ago"),
            (-2 * 86_400, "2 days ago"),
        ] {
            let view = KeyPairView {
                expires: Some(Timestamp {
                    seconds: NOW.seconds + seconds,
                    nanos: 0,
                }),
                ..view()
            };
            assert_eq!(expires_in(&view, NOW), expected, "{seconds}");
        }
    }

    #[test]
    fn the_names_in_an_answer_are_the_ids_of_its_key_pairs() {
        for (answer, expected) in [
            (serde_json::json!({"keyPair": {"id": "a"}}), &["a"][..]),
            (
                serde_json::json!({"keyPairs": [{"id": "a"}, {"id": "b"}]}),
                &["a", "b"],
            ),
            (
                serde_json::json!({"id": "a", "privateKey": "DESTROYED"}),
                &["a"],
            ),
            (serde_json::json!({}), &[]),
        ] {
            assert_eq!(ids(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn json_is_that_of_the_contract() {
        let json = to_json("KeyPairView", &view()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["subjectDN"], "CN=Example, O=Acme, C=US");
        assert_eq!(json["cryptoProvider"], "HSM");
        assert_eq!(json["status"], "VALID");
        assert_eq!(json["validFrom"], "2026-11-24T00:09:17Z");
        assert!(json.get("rotationSettings").is_none());
        let local = KeyPairView {
            crypto_provider: CryptoProvider::Unspecified.into(),
            ..view()
        };
        let json = to_json("KeyPairView", &local).unwrap();
        assert!(!json.contains("cryptoProvider"), "{json}");
    }

    #[test]
    fn days_are_counted_down_and_below_zero() {
        let expires_in = |seconds: i64| KeyPairView {
            expires: Some(Timestamp {
                seconds: NOW.seconds + seconds,
                nanos: 0,
            }),
            ..KeyPairView::default()
        };
        assert_eq!(days_left(&expires_in(86_400), NOW), Some(1));
        assert_eq!(days_left(&expires_in(86_399), NOW), Some(0));
        assert_eq!(days_left(&expires_in(-1), NOW), Some(-1));
        assert_eq!(days_left(&KeyPairView::default(), NOW), None);
    }
}
