//! `keypairctl link`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::Context;
use super::error::Failure;
use super::generate::parse_label;
use super::input::read_whole;
use super::output::Form;
use super::values::parse_days;

use crate::proto::{LinkSigningKeyPairRequest, NewKeyPairSettings};

/// Adopt a private key that is already on the token.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(
    ArgGroup::new("private_key").args(["private_key_label", "private_key_id"]).required(true)
))]
pub(super) struct Link {
    /// Label of the private key (CKA_LABEL).
    #[arg(long, value_name = "LABEL")]
    private_key_label: Option<String>,
    /// CKA_ID of the private key, hexadecimal.
    #[arg(long, value_name = "HEX")]
    private_key_id: Option<String>,
    /// Identifier, 1 to 64 of `a-z 0-9 . _ -`. One is made when this is left out.
    #[arg(long)]
    id: Option<String>,
    /// Certificate of the key, with or without its chain. When neither this nor a new subject is given, it is
    /// the one on the token.
    #[arg(long, value_name = "FILE", conflicts_with = "common_name")]
    certificate: Option<PathBuf>,
    /// Common name (CN) of a new self-signed certificate.
    #[arg(long, requires_all = ["organization", "country", "valid_days"])]
    common_name: Option<String>,
    /// Organization (O).
    #[arg(long, requires = "common_name")]
    organization: Option<String>,
    /// Country (C), two letters.
    #[arg(long, requires = "common_name")]
    country: Option<String>,
    /// Days until the new certificate expires, 1 to 36500, or 1y, 4w.
    #[arg(long, value_name = "DAYS", value_parser = parse_days, requires = "common_name")]
    valid_days: Option<i32>,
    /// Subject alternative name of the new certificate. May be repeated.
    #[arg(long = "san", value_name = "NAME", requires = "common_name")]
    subject_alternative_names: Vec<String>,
    /// Label. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

impl Link {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let certificate = self.certificate.as_deref().map(read_whole).transpose()?;
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(LinkSigningKeyPairRequest {
            id: self.id,
            private_key_label: self.private_key_label.unwrap_or_default(),
            private_key_id: self.private_key_id.unwrap_or_default(),
            certificate: certificate.unwrap_or_default(),
            settings: self.common_name.map(|common_name| NewKeyPairSettings {
                common_name,
                organization: self.organization.unwrap_or_default(),
                country: self.country.unwrap_or_default(),
                valid_days: self.valid_days.unwrap_or_default(),
                subject_alternative_names: self.subject_alternative_names,
                ..NewKeyPairSettings::default()
            }),
            labels: self.labels.into_iter().collect(),
        });
        let answer = client.link_signing_key_pair(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("LinkSigningKeyPairResponse", &answer),
            Form::Text => context.adopted(
                answer.key_pair,
                &answer.warnings,
                &answer.ignored_certificates,
            ),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl link --private-key-label old-signing-key --id payments \\
    --certificate payments.pem --label team=pay
  keypairctl link --private-key-id 01ab --common-name Payments \\
    --organization Acme --country US --valid-days 1y
  Deleting it leaves the key on the token, unless it is told to destroy it:
    keypairctl delete payments --destroy-linked-key";
