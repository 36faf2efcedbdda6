//! `keypairctl import`.

use std::path::PathBuf;

use clap::Args;

use super::error::Failure;
use super::export::Format;
use super::generate::parse_label;
use super::input::read_whole;
use super::output::Form;
use super::password::{Asked, PasswordOptions};
use super::values::Provider;
use super::{Context, progress};
use crate::proto::{CryptoProvider, ImportSigningKeyPairRequest, ImportSigningKeyPairSettings};

/// Import a private key with its certificate from a PKCS#12 or PEM file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Import {
    /// The file; `-` for standard input.
    file: PathBuf,
    /// Identifier, 1 to 64 of `a-z 0-9 . _ -`. One is made when this is left out.
    #[arg(long)]
    id: Option<String>,
    /// What the file must be. Found out when this is left out.
    #[arg(long, ignore_case = true)]
    format: Option<Format>,
    /// Where the key shall live: LOCAL or HSM. For daemons in hybrid mode.
    #[arg(long, value_name = "PROVIDER", value_parser = Provider, hide_possible_values = true)]
    crypto_provider: Option<CryptoProvider>,
    /// Label. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    password: PasswordOptions,
}

impl Import {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let file_data = read_whole(&self.file)?;
        let password = self.password.read(context, Asked::Once)?;
        let mut client = context.connection.open().await?.key_pairs();
        let request = ImportSigningKeyPairRequest {
            settings: Some(ImportSigningKeyPairSettings {
                id: self.id,
                file_data,
                format: Format::number(self.format),
                password: password.to_string(),
                crypto_provider: self.crypto_provider.unwrap_or_default().into(),
                labels: self.labels.into_iter().collect(),
            }),
        };
        let call = client.import_signing_key_pair(context.connection.request(request));
        let message = "importing a key pair".to_owned();
        let answer = progress::spin(context.output, message, call)
            .await?
            .into_inner();
        match context.output.form() {
            Form::Data => context.json("ImportSigningKeyPairResponse", &answer),
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
  keypairctl import payments.p12 --id payments --crypto-provider HSM
  keypairctl import key-and-certificate.pem --id payments
  PASSWORD=... keypairctl import payments.p12 --password-env PASSWORD";
