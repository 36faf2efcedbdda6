//! `keypairctl list`.

use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color};
use prost_types::Timestamp;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};
use tonic::transport::Channel;

use super::error::Failure;
use super::generate::{parse_label, parse_provider};
use super::output::{Output, cell, days_left, key, provider, time};
use super::{Context, output};
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
    #[arg(long, value_parser = parse_provider)]
    crypto_provider: Option<CryptoProvider>,
    /// Only those of RSA, EC or ED25519.
    #[arg(long)]
    key_algorithm: Option<String>,
    /// Only those whose certificate is so.
    #[arg(long)]
    status: Option<Status>,
    /// Only those that expire before a day (2027-01-31) or a time (2027-01-31T12:00:00Z).
    #[arg(long, value_parser = parse_time)]
    expires_before: Option<Timestamp>,
    /// Only those with this text in id or subject.
    #[arg(long)]
    query: Option<String>,
    /// Only those with this label. May be repeated: all must hold.
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Order: create_time, id, expires or subject_dn; "expires desc" for the reverse.
    #[arg(long)]
    order_by: Option<String>,
    /// How many at most; 1000 is the most that a page has.
    #[arg(long, conflicts_with = "all")]
    page_size: Option<i32>,
    /// Go on where a page ended, with the same options.
    #[arg(long, conflicts_with = "all")]
    page_token: Option<String>,
    /// All of them, page after page.
    #[arg(long)]
    all: bool,
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
        let all = self.all;
        let mut request = self.request();
        let mut client = context.connection.open().await?.key_pairs();
        let mut answer = ListSigningKeyPairsResponse::default();
        loop {
            let page = client
                .list_signing_key_pairs(context.connection.request(request.clone()))
                .await?
                .into_inner();
            answer.key_pairs.extend(page.key_pairs);
            answer.total_size = page.total_size;
            answer.next_page_token.clone_from(&page.next_page_token);
            request.page_token = page.next_page_token;
            if !all || request.page_token.is_empty() {
                break;
            }
        }
        match context.output {
            Output::Json => context.json("ListSigningKeyPairsResponse", &answer),
            Output::Table => write_table(context, &answer),
        }
    }

    fn request(self) -> ListSigningKeyPairsRequest {
        let status = match self.status {
            None => CertificateValidity::Unspecified,
            Some(Status::Valid) => CertificateValidity::Valid,
            Some(Status::Expired) => CertificateValidity::Expired,
            Some(Status::NotYetValid) => CertificateValidity::NotYetValid,
            Some(Status::Revoked) => CertificateValidity::Revoked,
        };
        ListSigningKeyPairsRequest {
            page_size: if self.all {
                1000
            } else {
                self.page_size.unwrap_or_default()
            },
            page_token: self.page_token.unwrap_or_default(),
            filter: Some(KeyPairFilter {
                crypto_provider: self.crypto_provider.unwrap_or_default().into(),
                key_algorithm: self.key_algorithm.unwrap_or_default(),
                status: status.into(),
                expires_before: self.expires_before,
                query: self.query.unwrap_or_default(),
                labels: self.labels.into_iter().collect(),
            }),
            order_by: self.order_by.unwrap_or_default(),
        }
    }
}

/// Returns all key pairs, page after page.
pub(super) async fn all_key_pairs(
    context: &Context<'_>,
    client: &mut KeyPairServiceClient<Channel>,
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

fn write_table(
    context: &mut Context<'_>,
    answer: &ListSigningKeyPairsResponse,
) -> Result<(), Failure> {
    let with_provider = answer
        .key_pairs
        .iter()
        .any(|view| !provider(view).is_empty());
    let mut header = vec!["ID", "SUBJECT", "KEY", "STATUS", "EXPIRES", "DAYS LEFT"];
    if with_provider {
        header.insert(3, "PROVIDER");
    }
    let rows = answer
        .key_pairs
        .iter()
        .map(|view| row(context, view, with_provider))
        .collect();
    context.table(&header, rows)?;
    let shown = answer.key_pairs.len();
    if !answer.next_page_token.is_empty() {
        writeln!(
            context.out,
            "\n{shown} of {} key pairs. The next: --page-token {}, or --all",
            answer.total_size, answer.next_page_token
        )?;
    }
    Ok(())
}

fn row(context: &Context<'_>, view: &KeyPairView, with_provider: bool) -> Vec<Cell> {
    let days = output::days_left(view, context.now);
    let colour = match days {
        Some(days) if days < 0 => Some(Color::Red),
        Some(days) if days < SOON_DAYS => Some(Color::Yellow),
        _ => None,
    };
    let mut row = vec![
        cell(&view.id),
        cell(&view.subject_dn),
        cell(key(view)),
        context.cell(view.status().as_str_name(), colour),
        cell(time(view.expires)),
        context.cell(
            days_left(view, context.now)
                .map(|days| days.to_string())
                .unwrap_or_default(),
            colour,
        ),
    ];
    if with_provider {
        row.insert(3, cell(provider(view)));
    }
    row
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

/// From how many days on a certificate is shown as one that needs attention.
const SOON_DAYS: i64 = 30;
const EXAMPLES: &str = "\
Examples:
  keypairctl list --order-by expires
  keypairctl list -l team=pay
  keypairctl list --status expired --crypto-provider HSM
  keypairctl list --all --output json | jq -r '.keyPairs[].id'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::connect::Connection;
    use crate::cli::output::tests::{NOW, view};

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

    #[test]
    fn the_table_lines_up_and_says_what_comes_next() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            connection: Connection,
        }
        let only: Only = clap::Parser::parse_from(["x"]);
        let soon = KeyPairView {
            id: "a".into(),
            expires: Some(Timestamp {
                seconds: NOW.seconds - 1,
                nanos: 0,
            }),
            status: CertificateValidity::Expired.into(),
            ..view()
        };
        let answer = ListSigningKeyPairsResponse {
            key_pairs: vec![view(), soon],
            next_page_token: "TOKEN".into(),
            total_size: 7,
        };
        let write = |colour: bool| {
            let mut out = Vec::new();
            let mut context = Context {
                connection: &only.connection,
                output: Output::Table,
                out: &mut out,
                terminal: colour,
                colour,
                now: NOW,
                variable: |_| None,
            };
            write_table(&mut context, &answer).unwrap();
            String::from_utf8(out).unwrap()
        };
        let expected = "\
ID         SUBJECT                    KEY      PROVIDER   STATUS    EXPIRES                   DAYS LEFT
payments   CN=Example, O=Acme, C=US   EC-256   HSM        VALID     2027-11-24 00:09:17 UTC   365
a          CN=Example, O=Acme, C=US   EC-256   HSM        EXPIRED   2026-11-24 00:09:16 UTC   -1

2 of 7 key pairs. The next: --page-token TOKEN, or --all
";
        assert_eq!(write(false), expected);
    }
}
