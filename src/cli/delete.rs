//! `keypairctl delete`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::json;

use super::Context;
use super::connect::Daemon;
use super::error::Failure;
use super::input::key_pair;
use super::output::{Form, Output};
use crate::proto::delete_signing_key_pair_response::PrivateKeyFate;
use crate::proto::{DeleteSigningKeyPairRequest, KeyOrigin};

/// Delete a key pair, and destroy its private key unless that was linked.
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
        if !self.yes {
            refuse_without_terminal()?;
        }
        let daemon = context.connection.open().await?;
        let etag = match self.yes {
            true => self.etag.clone(),
            false => Some(self.confirm(&daemon, context).await?),
        };
        let request = context.connection.request(DeleteSigningKeyPairRequest {
            id: self.id.clone(),
            etag: etag.unwrap_or_default(),
            destroy_linked_key: self.destroy_linked_key,
        });
        let mut client = daemon.key_pairs();
        let answer = client.delete_signing_key_pair(request).await?.into_inner();
        match context.output.form() {
            Form::Data if context.output == Output::Name => context.data(&json!({"id": self.id})),
            Form::Data => context.json("DeleteSigningKeyPairResponse", &answer),
            Form::Text => Ok(writeln!(
                context.out,
                "deleted {}; {}",
                self.id,
                sentence(answer.private_key())
            )?),
        }
    }

    /// Asks the person at the terminal, and returns the etag of the key pair that the answer is about.
    async fn confirm(&self, daemon: &Daemon, context: &Context<'_>) -> Result<String, Failure> {
        let view = key_pair(&self.id, daemon, context).await?;
        let is_kept = view.key_origin() == KeyOrigin::Linked && !self.destroy_linked_key;
        let question = match is_kept {
            true => format!("Delete {}? Its private key stays on the token.", self.id),
            false => format!(
                "Delete {} and destroy its private key? This cannot be undone.",
                self.id
            ),
        };
        match answers_yes(&question)? {
            true => Ok(self.etag.clone().unwrap_or(view.etag)),
            false => Err(Failure::NotConfirmed("nothing was deleted")),
        }
    }
}

/// Refuses what must be confirmed when standard input is no terminal.
pub(super) fn refuse_without_terminal() -> Result<(), Failure> {
    if io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::Usage(
        "a deletion cannot be undone; --yes confirms it without a terminal".to_owned(),
    ))
}

/// Asks the person at the terminal.
pub(super) fn answers_yes(question: &str) -> Result<bool, Failure> {
    let mut err = io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn sentence(fate: PrivateKeyFate) -> &'static str {
    match fate {
        PrivateKeyFate::Destroyed => "its private key is destroyed",
        PrivateKeyFate::LeftOnToken => "its private key stays on the token",
        PrivateKeyFate::Pending => {
            "its private key is NOT destroyed yet: the daemon destroys it as soon as the token permits"
        }
        PrivateKeyFate::Scheduled => "its private key will be destroyed later",
        PrivateKeyFate::Unspecified => {
            "this daemon does not say whether its private key is destroyed"
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl delete payments
  keypairctl delete payments --yes --etag 598f2475c183ca8b";
