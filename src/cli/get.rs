//! `keypairctl get`.

use clap::Args;

use super::Context;
use super::error::Failure;
use super::output::Form;
use crate::proto::{GetSigningKeyPairRequest, KeyPairView};

/// Show a key pair.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Get {
    /// Identifier of the key pair.
    id: String,
}

impl Get {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let request = context
            .connection
            .request(GetSigningKeyPairRequest { id: self.id });
        let answer = client.get_signing_key_pair(request).await?.into_inner();
        match context.output.form() {
            Form::Data => context.json("GetSigningKeyPairResponse", &answer),
            Form::Text => context.view(&answer.key_pair.unwrap_or_else(KeyPairView::default)),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl get payments
  keypairctl get payments --output json | jq -r .keyPair.publicKeyPem
  Its certificate: keypairctl certificate payments";
