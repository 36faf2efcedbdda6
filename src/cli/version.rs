//! `keypairctl version`.

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use super::error::Failure;
use super::output::Form;
use crate::proto::{GetVersionRequest, GetVersionResponse};

/// Show the versions of this program and of the daemon.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Version {
    /// Show that of this program only, and ask no daemon.
    #[arg(long)]
    client: bool,
}

impl Version {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let own = one(crate::VERSION, crate::REVISION);
        if self.client {
            return match context.output.form() {
                Form::Data => context.data(&json!({"client": own_json()})),
                Form::Text => context.lines([("keypairctl", own)]),
            };
        }
        let asked = ask(context).await;
        match (context.output.form(), &asked) {
            (Form::Data, Ok(daemon)) => {
                context.data(&json!({"client": own_json(), "daemon": daemon_json(daemon)}))?;
            }
            // What is known is shown, also when the daemon is not there.
            (Form::Data, Err(_)) => context.data(&json!({"client": own_json()}))?,
            (Form::Text, Ok(daemon)) => {
                let version = one(&daemon.version, &daemon.revision);
                let api = daemon.api.clone();
                context.lines([("keypairctl", own), ("keypaird", version), ("API", api)])?;
            }
            (Form::Text, Err(_)) => context.lines([("keypairctl", own)])?,
        }
        asked.map(drop)
    }
}

async fn ask(context: &Context<'_>) -> Result<GetVersionResponse, Failure> {
    let mut client = context.connection.open().await?.key_pairs();
    let request = context.connection.request(GetVersionRequest {});
    Ok(client.get_version(request).await?.into_inner())
}

/// Writes a version with the revision that it was built from: `0.1.0 (1f2e3d4c5b6a)`.
pub(super) fn one(version: &str, revision: &str) -> String {
    match revision.get(..REVISION_LEN) {
        Some(short) => format!("{version} ({short})"),
        None => version.to_owned(),
    }
}

fn own_json() -> Value {
    json!({"version": crate::VERSION, "revision": crate::REVISION})
}

fn daemon_json(daemon: &GetVersionResponse) -> Value {
    json!({"version": daemon.version, "revision": daemon.revision, "api": daemon.api})
}

/// So many digits tell one revision from the others.
const REVISION_LEN: usize = 12;
const EXAMPLES: &str = "\
Examples:
  keypairctl version
  keypairctl version --client -o json";
