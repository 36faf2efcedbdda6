//! `keypairctl man`.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::error::Failure;
use super::{Cli, Context};

/// Write the manual pages, one for each command.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Man {
    /// The folder to write them to. It is made if it is missing.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Man {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<(), Failure> {
        let failed = |error| Failure::File {
            path: self.folder.clone(),
            error,
        };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), &self.folder).map_err(failed)?;
        writeln!(
            context.out,
            "wrote {}",
            self.folder.join("keypairctl.1").display()
        )?;
        Ok(())
    }
}

const EXAMPLES: &str = "\
Examples:
  keypairctl man /usr/local/share/man/man1
  keypairctl man man && man ./man/keypairctl-list.1";
