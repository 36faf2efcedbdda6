//! `keypairctl migrate`.

use clap::Args;

use super::error::Failure;
use super::output::Form;
use super::values::Provider;
use super::{Context, progress};
use crate::proto::{CryptoProvider, KeyPairView, MigrateSigningKeyPairRequest};

/// Move a software key pair into the HSM, under the same id.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Migrate {
    /// Identifier of the key pair.
    id: String,
    /// Where its key shall live: HSM.
    #[arg(long, value_name = "PROVIDER", value_parser = Provider, hide_possible_values = true)]
    to: CryptoProvider,
    /// Only if the key pair still has this etag, as `get` showed it.
    #[arg(long)]
    etag: Option<String>,
}

impl Migrate {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(MigrateSigningKeyPairRequest {
            id: self.id,
            crypto_provider: self.to.into(),
            etag: self.etag.unwrap_or_default(),
        });
        let call = client.migrate_signing_key_pair(request);
        let message = "moving the key pair".to_owned();
        let answer = progress::spin(context.output, message, call)
            .await?
            .into_inner();
        match context.output.form() {
            Form::Data => context.json("MigrateSigningKeyPairResponse", &answer),
            Form::Text => context.view(&answer.key_pair.unwrap_or_else(KeyPairView::default)),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl migrate payments --to HSM

It may be repeated after it was broken off: the key pair signs with one of the
two keys at any time.";
