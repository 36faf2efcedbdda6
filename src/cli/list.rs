//! `keypairctl list`.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use prost_types::Timestamp;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use super::Context;
use super::columns::{self, Column};
use super::error::Failure;
use super::generate::parse_label;
use super::output::{Form, Output};
use super::retry::Retrying;
use super::values::{KEY_ALGORITHMS, ORDERS, Provider, after, parse_span};
use crate::printable::printable;
use crate::proto::key_pair_service_client::KeyPairServiceClient;
use crate::proto::{
    CertificateValidity, CryptoProvider, KeyPairFilter, KeyPairView, ListSigningKeyPairsRequest,
    ListSigningKeyPairsResponse,
};

/// List key pairs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct List {
    /// Only those in LOCAL or HSM. For daemons in hybrid mode.
    #[arg(long, value_name = "PROVIDER", value_parser = Provider, hide_possible_values = true)]
    crypto_provider: Option<CryptoProvider>,
    /// Only those of RSA, EC or ED25519.
    #[arg(long, value_name = "NAME", value_parser = KEY_ALGORITHMS, hide_possible_values = true)]
    key_algorithm: Option<String>,
    /// Only those whose certificate is so.
    #[arg(long, ignore_case = true)]
    status: Option<Status>,
    /// Only those that expire before a day (2027-01-31) or a time (2027-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_before: Option<Timestamp>,
    /// Only those that expire within so long from now, such as 30d, 1y or 12h, or have expired.
    #[arg(long, value_name = "DURATION", value_parser = parse_span, conflicts_with = "expires_before")]
    expires_within: Option<i64>,
    /// Only those without rotation settings.
    #[arg(long)]
    not_rotating: bool,
    /// Only those with this text in id or subject.
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// Only those with this label. May be repeated: all must hold.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Order: create_time, id, expires or subject_dn; "expires desc" for the reverse.
    #[arg(long, value_name = "ORDER", value_parser = ORDERS, hide_possible_values = true)]
    order_by: Option<String>,
    /// How many at most, on as many pages as that takes.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["all", "page_size", "page_token"])]
    limit: Option<u32>,
    /// All of them, page after page.
    #[arg(long)]
    all: bool,
    /// How many on one page, 1 to 1000; 50 when left out.
    #[arg(long, value_name = "NUMBER", conflicts_with = "all")]
    page_size: Option<i32>,
    /// Go on where a page ended, with the same options.
    #[arg(long, value_name = "TOKEN", conflicts_with = "all")]
    page_token: Option<String>,
    /// The columns of the table, in this order.
    #[arg(
        long,
        value_delimiter = ',',
        ignore_case = true,
        value_name = "COLUMN,..."
    )]
    columns: Vec<Column>,
    /// Leave out the line with the names of the columns.
    #[arg(long)]
    no_headers: bool,
}

/// What a certificate can be.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    /// Within its validity.
    Valid,
    /// Past it.
    Expired,
    /// Before it.
    NotYetValid,
    /// Revoked.
    Revoked,
}

impl List {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let answer = self.fetch(context, &mut client).await?;
        match context.output.form() {
            Form::Data => context.json("ListSigningKeyPairsResponse", &answer)?,
            Form::Text => self.write_table(context, &answer)?,
        }
        // A footer is for people, and not for what reads the table.
        if context.output != Output::Json && context.output != Output::Yaml {
            context.out.flush()?;
            if let Some(footer) = self.footer(&answer) {
                writeln!(io::stderr(), "{}", printable(&footer))?;
            }
        }
        Ok(())
    }

    /// Asks for one page, or for as many as it takes.
    async fn fetch(
        &self,
        context: &Context<'_>,
        client: &mut KeyPairServiceClient<Retrying>,
    ) -> Result<ListSigningKeyPairsResponse, Failure> {
        // What rotates is not known before it is asked for.
        let is_filtered = self.not_rotating;
        let wanted = match (self.limit, self.all || is_filtered) {
            (Some(limit), _) => usize::try_from(limit).unwrap_or(usize::MAX),
            (None, true) => usize::MAX,
            (None, false) => 0,
        };
        let mut request = self.request(context.now);
        let mut answer = ListSigningKeyPairsResponse::default();
        if self.limit == Some(0) {
            return Ok(answer);
        }
        loop {
            if wanted > 0 {
                let left = wanted - answer.key_pairs.len();
                let size = if is_filtered {
                    PAGE_SIZE_MAX
                } else {
                    left.min(PAGE_SIZE_MAX)
                };
                request.page_size = i32::try_from(size).unwrap_or(i32::MAX);
            }
            let page = client
                .list_signing_key_pairs(context.connection.request(request.clone()))
                .await?
                .into_inner();
            let rotates = |view: &KeyPairView| view.rotation_settings.is_some();
            let kept = page.key_pairs.into_iter();
            answer
                .key_pairs
                .extend(kept.filter(|view| !is_filtered || !rotates(view)));
            answer.total_size = page.total_size;
            answer.next_page_token.clone_from(&page.next_page_token);
            request.page_token = page.next_page_token;
            if answer.key_pairs.len() >= wanted || request.page_token.is_empty() {
                break;
            }
        }
        if is_filtered {
            answer.key_pairs.truncate(wanted);
            answer.total_size = i32::try_from(answer.key_pairs.len()).unwrap_or(i32::MAX);
            answer.next_page_token.clear();
        }
        Ok(answer)
    }

    fn request(&self, now: Timestamp) -> ListSigningKeyPairsRequest {
        let within = self.expires_within.map(|seconds| after(now, seconds));
        let status = match self.status {
            None => CertificateValidity::Unspecified,
            Some(Status::Valid) => CertificateValidity::Valid,
            Some(Status::Expired) => CertificateValidity::Expired,
            Some(Status::NotYetValid) => CertificateValidity::NotYetValid,
            Some(Status::Revoked) => CertificateValidity::Revoked,
        };
        ListSigningKeyPairsRequest {
            page_size: self.page_size.unwrap_or_default(),
            page_token: self.page_token.clone().unwrap_or_default(),
            filter: Some(KeyPairFilter {
                crypto_provider: self.crypto_provider.unwrap_or_default().into(),
                key_algorithm: self.key_algorithm.clone().unwrap_or_default(),
                status: status.into(),
                expires_before: self.expires_before.or(within),
                query: self.query.clone().unwrap_or_default(),
                labels: self.labels.iter().cloned().collect(),
            }),
            order_by: self.order_by.clone().unwrap_or_default(),
        }
    }

    fn write_table(
        &self,
        context: &mut Context<'_>,
        answer: &ListSigningKeyPairsResponse,
    ) -> Result<(), Failure> {
        if answer.key_pairs.is_empty() {
            return Ok(());
        }
        let columns = match &*self.columns {
            [] => Column::of(context.output, &answer.key_pairs),
            chosen => chosen.to_vec(),
        };
        columns::write(context, &columns, &answer.key_pairs, !self.no_headers)
    }

    /// Says how many there are beyond those that are shown, if there are some, or that there are
    /// none.
    fn footer(&self, answer: &ListSigningKeyPairsResponse) -> Option<String> {
        let shown = answer.key_pairs.len();
        if shown == 0 && self.limit != Some(0) {
            let any = self.crypto_provider.is_some()
                || self.key_algorithm.is_some()
                || self.status.is_some()
                || self.expires_before.is_some()
                || self.expires_within.is_some()
                || self.not_rotating
                || self.query.is_some()
                || !self.labels.is_empty();
            return Some(match any {
                true => "no key pairs match".to_owned(),
                false => "there are no key pairs".to_owned(),
            });
        }
        let token = &answer.next_page_token;
        if token.is_empty() {
            return None;
        }
        let total = answer.total_size;
        Some(format!(
            "{shown} of {total} key pairs. The next: --page-token {token}, or --all"
        ))
    }
}

/// Returns all key pairs, page after page.
pub(super) async fn all_key_pairs(
    context: &Context<'_>,
    client: &mut KeyPairServiceClient<Retrying>,
) -> Result<Vec<KeyPairView>, Failure> {
    let mut request = ListSigningKeyPairsRequest {
        page_size: 1000,
        ..ListSigningKeyPairsRequest::default()
    };
    let mut views = Vec::new();
    loop {
        let page = context.connection.request(request.clone());
        let page = client.list_signing_key_pairs(page).await?.into_inner();
        views.extend(page.key_pairs);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(views);
        }
    }
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let day = format_description!("[year]-[month]-[day]");
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| Some(Date::parse(text, day).ok()?.midnight().assume_utc()))
        .ok_or("must be a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")?;
    Ok(Timestamp {
        seconds: time.unix_timestamp(),
        nanos: 0,
    })
}

/// The longest page that the daemon makes.
const PAGE_SIZE_MAX: usize = 1000;
const EXAMPLES: &str = "\
Examples:
  keypairctl list --order-by expires
  keypairctl list -l team=pay
  keypairctl list --status expired --crypto-provider HSM
  keypairctl list --expires-within 30d --not-rotating
  keypairctl list -o wide --limit 2000
  keypairctl list --columns id,expire-time,labels --no-headers
  keypairctl list --all -o name";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::{NOW, view, written};

    #[test]
    fn days_and_times_are_read() {
        assert_eq!(parse_time("2027-01-31").unwrap().seconds, 1_801_353_600);
        assert_eq!(
            parse_time("2027-01-31T01:00:00+01:00").unwrap().seconds,
            1_801_353_600
        );
        for bad in ["", "tomorrow", "2027-02-30", "2027-01-31 12:00"] {
            assert!(parse_time(bad).is_err(), "{bad:?}");
        }
    }

    fn shown(output: Output, width: Option<usize>, answer: &ListSigningKeyPairsResponse) -> String {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            list: List,
        }
        let only: Only = clap::Parser::parse_from(["x"]);
        written(output, width, |context| {
            only.list.write_table(context, answer)
        })
    }

    fn answer() -> ListSigningKeyPairsResponse {
        let generated = KeyPairView {
            id: "3kq0v7d1m8x2c5n9b4z6h0j1f".into(),
            subject_dn: "CN=\"Payments, the second\", O=Acme, C=US".into(),
            key_algorithm: "RSA".into(),
            key_size: 4096,
            expires: Some(Timestamp {
                seconds: NOW.seconds - 1,
                nanos: 0,
            }),
            status: CertificateValidity::Expired.into(),
            ..view()
        };
        ListSigningKeyPairsResponse {
            key_pairs: vec![view(), generated],
            next_page_token: "TOKEN".into(),
            total_size: 7,
        }
    }

    #[test]
    fn a_row_fits_a_terminal_of_80_columns() {
        let expected = "\
ID                         CN         KEY       PROVIDER  STATUS   EXPIRES
payments                   Example    EC-256    HSM       VALID    in 365 days
3kq0v7d1m8x2c5n9b4z6h0j1f  Payments…  RSA-4096  HSM       EXPIRED  0 minutes ago
";
        let table = shown(Output::Table, Some(80), &answer());
        assert_eq!(table, expected);
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
    }

    #[test]
    fn a_pipe_and_wide_have_all_there_is() {
        let piped = shown(Output::Table, None, &answer());
        assert!(
            piped.contains("  Payments, the second  RSA-4096  "),
            "{piped}"
        );
        let wide = shown(Output::Wide, Some(80), &answer());
        let expected = "\
ID                         SUBJECT                                  KEY       SIGNATURE        PROVIDER  ORIGIN  STATUS   EXPIRES        EXPIRE TIME              GENERATION  ROTATES  LABELS
payments                   CN=Example, O=Acme, C=US                 EC-256    SHA256withECDSA  HSM               VALID    in 365 days    2027-11-24 00:09:17 UTC  0           no       team=payments
3kq0v7d1m8x2c5n9b4z6h0j1f  CN=\"Payments, the second\", O=Acme, C=US  RSA-4096  SHA256withECDSA  HSM               EXPIRED  0 minutes ago  2026-11-24 00:09:16 UTC  0           no       team=payments
";
        assert_eq!(wide, expected);
    }

    #[test]
    fn a_footer_says_what_is_not_shown() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            list: List,
        }
        let footer = |arguments: &str, answer: &ListSigningKeyPairsResponse| {
            let words = ["x"].into_iter().chain(arguments.split_whitespace());
            let only: Only = clap::Parser::parse_from(words);
            only.list.footer(answer)
        };
        let none = ListSigningKeyPairsResponse::default();
        for (arguments, answer, expected) in [
            (
                "",
                &answer(),
                Some("2 of 7 key pairs. The next: --page-token TOKEN, or --all"),
            ),
            ("", &none, Some("there are no key pairs")),
            ("--query x", &none, Some("no key pairs match")),
            ("--expires-within 30d", &none, Some("no key pairs match")),
            ("--limit 0", &none, None),
        ] {
            assert_eq!(
                footer(arguments, answer).as_deref(),
                expected,
                "{arguments}"
            );
        }
    }
}
