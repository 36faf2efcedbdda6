//! `keypairctl doubtful-keys`.

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::Context;
use super::delete::{answers_yes, refuse_without_terminal};
use super::error::Failure;
use super::output::Form;
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
        /// CKA_ID of the private key, hexadecimal, two digits for each byte.
        #[arg(value_parser = parse_cka_id)]
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

/// Reads a `CKA_ID`, whose bytes may have colons between them.
fn parse_cka_id(text: &str) -> Result<String, &'static str> {
    let digits = text.bytes().filter(|byte| *byte != b':');
    let count = digits.clone().filter(u8::is_ascii_hexdigit).count();
    match count > 0 && count % 2 == 0 && digits.count() == count {
        true => Ok(text.to_owned()),
        false => Err("must be a CKA_ID in hexadecimal, two digits for each byte"),
    }
}

async fn list(context: &mut Context<'_>) -> Result<(), Failure> {
    let mut client = context.connection.open().await?.key_pairs();
    let request = context.connection.request(ListDoubtfulKeysRequest {});
    let answer = client.list_doubtful_keys(request).await?.into_inner();
    if context.output.form() == Form::Data {
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
    match context.output.form() {
        Form::Data => context.json("DestroyDoubtfulKeyResponse", &answer),
        Form::Text => Ok(writeln!(
            context.out,
            "destroyed the key with the CKA_ID {private_key_id}"
        )?),
    }
}

const EXAMPLES: &str = "\
After a restore, see whether a program relies on the key, then keep it or
destroy it.

Examples:
  keypairctl doubtful-keys list
  keypairctl link --id x --private-key-id 3f8a41c05b7d92e6a1047cc98e25d0b3
  keypairctl doubtful-keys destroy 3f8a41c05b7d92e6a1047cc98e25d0b3";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cka_id_is_hexadecimal() {
        for (text, good) in [
            ("01ab", true),
            ("01:AB", true),
            ("", false),
            (":", false),
            ("1", false),
            ("nothex", false),
            ("0x01", false),
        ] {
            assert_eq!(parse_cka_id(text).is_ok(), good, "{text:?}");
        }
    }
}
