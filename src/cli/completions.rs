//! `keypairctl completions`, and what the scripts ask when a word is completed.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, Command, CommandFactory, FromArgMatches, ValueEnum};
use clap_complete::env::Shells;
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::connect::Connection;
use super::error::Failure;
use super::{Cli, Context};
use crate::proto::{KeyPairFilter, ListSigningKeyPairsRequest};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell.
    #[arg(ignore_case = true)]
    shell: Shell,
}

/// The shells that there are scripts for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    #[value(name = "powershell")]
    Power,
    Zsh,
}

impl Completions {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let name = self.shell.to_possible_value();
        let name = name.as_ref().map_or("", PossibleValue::get_name);
        let mut script = Vec::new();
        if let Some(shell) = Shells::builtins().completer(name) {
            shell.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
        }
        Ok(context.out.write_all(&script)?)
    }
}

/// Answers a completion script and ends the process, if it is one that asks. `words` is the command
/// line.
///
/// The script names the shell in `KEYPAIRCTL_COMPLETE`, and the words of the line behind `--`.
pub fn answer_completions(words: impl IntoIterator<Item = OsString>) {
    let words = words.into_iter().skip_while(|word| word != "--").skip(1);
    // It is set once, before anything is asked.
    let _ = WORDS.set(words.collect());
    CompleteEnv::with_factory(|| with_ids(Cli::command()))
        .var(VARIABLE)
        .bin(PROGRAM)
        .complete();
}

/// Has the daemon asked for the ids of key pairs, where a command wants one.
fn with_ids(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.is_positional() && arg.get_id() == "id" {
        true => arg.add(ArgValueCompleter::new(ids)),
        false => arg,
    });
    command.mut_subcommands(with_ids)
}

/// Returns the ids of key pairs that begin so, as the daemon of the command line has them. None
/// when it does not answer at once: a shell that waits is worse than a word that is not completed.
fn ids(current: &OsStr) -> Vec<CompletionCandidate> {
    let begin = current.to_string_lossy();
    let found = connection().and_then(|connection| {
        let runtime = Builder::new_current_thread().enable_all().build().ok()?;
        let listing = async { timeout(PATIENCE, list(&connection, &begin)).await };
        let ids = runtime.block_on(listing);
        runtime.shutdown_background();
        ids.ok()?
    });
    let ids = found.unwrap_or_default().into_iter();
    ids.filter(|id| id.starts_with(&*begin))
        .map(CompletionCandidate::new)
        .collect()
}

/// Reads how the daemon is reached from the line that is being written, and from the environment.
fn connection() -> Option<Connection> {
    let words = WORDS.get().cloned().unwrap_or_default();
    let matches = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(words);
    Connection::from_arg_matches(&matches.ok()?).ok()
}

async fn list(connection: &Connection, begin: &str) -> Option<Vec<String>> {
    let mut client = connection.open().await.ok()?.key_pairs();
    let request = connection.request(ListSigningKeyPairsRequest {
        page_size: CANDIDATES_MAX,
        filter: Some(KeyPairFilter {
            query: begin.to_owned(),
            ..KeyPairFilter::default()
        }),
        order_by: "id".to_owned(),
        ..ListSigningKeyPairsRequest::default()
    });
    let answer = client
        .list_signing_key_pairs(request)
        .await
        .ok()?
        .into_inner();
    Some(answer.key_pairs.into_iter().map(|view| view.id).collect())
}

static WORDS: OnceLock<Vec<OsString>> = OnceLock::new();
const PROGRAM: &str = "keypairctl";
/// By which a script tells the program to complete. It has the name of the program, so that no
/// other one is meant.
const VARIABLE: &str = "KEYPAIRCTL_COMPLETE";
const PATIENCE: Duration = Duration::from_secs(1);
/// More than a person reads.
const CANDIDATES_MAX: i32 = 200;
const EXAMPLES: &str = "\
The script asks keypairctl, which knows commands, options and values, and asks
the daemon for the ids of key pairs, at the address on the line or in
KEYPAIRCTL_ADDRESS.

Examples:
  source <(keypairctl completions bash)
  keypairctl completions bash > /etc/bash_completion.d/keypairctl
  keypairctl completions zsh > ~/.zfunc/_keypairctl";
