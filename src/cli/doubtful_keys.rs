//! `keypairctl doubtful-keys`.

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::Context;
use super::delete::{answers_yes, refuse_without_terminal};
use super::error::Failure;
use super::output::Output;
use crate::proto::{DestroyDoubtfulKeyRequest, ListDoubtfulKeysRequest};

/// Show and destroy keys that may belong to key pairs that the restored store does not know.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoubtfulKeys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List them. The daemon neither uses nor destroys them.
    List,
    /// Destroy one, with all that has its CKA_ID. This cannot be undone.
    Destroy {
        /// CKA_ID of the private key, hexadecimal.
        private_key_id: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

impl DoubtfulKeys {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        match self.command {
            Command::List => list(context).await,
            Command::Destroy {
                private_key_id,
                yes,
            } => destroy(context, private_key_id, yes).await,
        }
    }
}

async fn list(context: &mut Context<'_>) -> Result<(), Failure> {
    let mut client = context.connection.open().await?.key_pairs();
    let request = context.connection.request(ListDoubtfulKeysRequest {});
    let answer = client.list_doubtful_keys(request).await?.into_inner();
    if context.output == Output::Json {
        return context.json("ListDoubtfulKeysResponse", &answer);
    }
    if answer.doubtful_keys.is_empty() {
        writeln!(context.out, "There are no doubtful keys.")?;
        return Ok(());
    }
    let rows = answer.doubtful_keys.iter().map(|key| {
        vec![
            Cell::new(&key.private_key_id),
            Cell::new(&key.id),
            Cell::new(key.generation),
            Cell::new(key.crypto_provider().as_str_name()),
            Cell::new(if key.linked { "yes" } else { "no" }),
        ]
    });
    let rows = rows.collect();
    context.table(&["CKA_ID", "ID", "GENERATION", "PROVIDER", "LINKED"], rows)
}

async fn destroy(
    context: &mut Context<'_>,
    private_key_id: String,
    yes: bool,
) -> Result<(), Failure> {
    if !yes {
        refuse_without_terminal()?;
        let question =
            format!("Destroy the key with the CKA_ID {private_key_id}? This cannot be undone.");
        if !answers_yes(&question)? {
            return Err(Failure::NotConfirmed("nothing was destroyed"));
        }
    }
    let mut client = context.connection.open().await?.key_pairs();
    let request = context.connection.request(DestroyDoubtfulKeyRequest {
        private_key_id: private_key_id.clone(),
    });
    let answer = client.destroy_doubtful_key(request).await?.into_inner();
    match context.output {
        Output::Json => context.json("DestroyDoubtfulKeyResponse", &answer),
        Output::Table => Ok(writeln!(
            context.out,
            "destroyed the key with the CKA_ID {private_key_id}"
        )?),
    }
}

const EXAMPLES: &str = "\
After a restore, see whether the key is one that a program relies on, then keep it or destroy it:
  keypairctl doubtful-keys list
  keypairctl link --private-key-id 3f8a41c05b7d92e6a1047cc98e25d0b3 --id payments
  keypairctl doubtful-keys destroy 3f8a41c05b7d92e6a1047cc98e25d0b3";
