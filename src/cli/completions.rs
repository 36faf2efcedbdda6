//! `keypairctl completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::error::Failure;
use super::{Cli, Context};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "keypairctl", &mut script);
        Ok(context.out.write_all(&script)?)
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl completions bash > /etc/bash_completion.d/keypairctl
  keypairctl completions zsh > ~/.zfunc/_keypairctl";
