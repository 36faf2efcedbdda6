//! `keypairctl delete`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::Context;
use super::error::Failure;
use super::output::Output;
use crate::proto::DeleteSigningKeyPairRequest;

/// Delete a key pair and destroy its private key.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Delete {
    /// Identifier of the key pair.
    id: String,
    /// Only if the key pair still has this etag, as `get` showed it.
    #[arg(long)]
    etag: Option<String>,
    /// Destroy the key of a linked key pair on the token too, which stays there otherwise.
    #[arg(long)]
    destroy_linked_key: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Delete {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        if !self.yes && !confirmed(&self.id)? {
            writeln!(context.out, "nothing was deleted")?;
            return Ok(());
        }
        let mut client = context.connection.open().await?.key_pairs();
        let request = context.connection.request(DeleteSigningKeyPairRequest {
            id: self.id.clone(),
            etag: self.etag.unwrap_or_default(),
            destroy_linked_key: self.destroy_linked_key,
        });
        let answer = client.delete_signing_key_pair(request).await?.into_inner();
        match context.output {
            Output::Json => context.json("DeleteSigningKeyPairResponse", &answer),
            Output::Table => Ok(writeln!(
                context.out,
                "deleted {}; its private key is destroyed",
                self.id
            )?),
        }
    }
}

/// Asks the person at the terminal.
fn confirmed(id: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "a deletion cannot be undone; --yes confirms it where there is nobody to ask"
                .to_owned(),
        ));
    }
    let mut err = io::stderr();
    write!(
        err,
        "Delete {id} and destroy its private key? This cannot be undone. [y/N] "
    )?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

const EXAMPLES: &str = "\
Examples:
  keypairctl delete payments
  keypairctl delete payments --yes --etag 598f2475c183ca8b";
