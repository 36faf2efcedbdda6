//! `keypairctl rotate`.

use clap::Args;

use super::error::Failure;
use super::output::Form;
use super::{Context, progress};
use crate::proto::{KeyPairView, RotateSigningKeyPairRequest};

/// Make the next key of a key pair now, under the same id.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Rotate {
    /// Identifier of the key pair.
    id: String,
    /// Have it sign at once. Otherwise it is published, and signs when its time comes, or at `rotate --activate`.
    #[arg(long)]
    activate: bool,
    /// Only if the key pair still has this etag, as `get` showed it: so a repeated command rotates once.
    #[arg(long)]
    etag: Option<String>,
}

impl Rotate {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(RotateSigningKeyPairRequest {
            id: self.id,
            activate: self.activate,
            etag: self.etag.unwrap_or_default(),
        });
        let call = client.rotate_signing_key_pair(request);
        let answer = progress::spin(context.output, "rotating the key pair".to_owned(), call)
            .await?
            .into_inner();
        match context.output.form() {
            Form::Data => context.json("RotateSigningKeyPairResponse", &answer),
            Form::Text => context.view(&answer.key_pair.unwrap_or_else(KeyPairView::default)),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl rotate payments
  The key may be known to others:
    keypairctl rotate payments --activate";
