//! Passwords of files: from a prompt, a file or the environment, and never from the command line, which every
//! process of the machine may read.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use zeroize::Zeroizing;

use super::Context;
use super::error::Failure;

/// Options that say where a password is.
#[derive(Debug, Args)]
pub(super) struct PasswordOptions {
    /// File whose first line is the password of the file. A prompt asks for it when this is left out.
    #[arg(long, value_name = "FILE", conflicts_with = "password_env")]
    password_file: Option<PathBuf>,
    /// Environment variable with the password of the file.
    #[arg(long, value_name = "NAME")]
    password_env: Option<String>,
}

impl PasswordOptions {
    /// Returns the password, asking for it where neither a file nor a variable has it.
    pub(super) fn read(
        &self,
        context: &Context<'_>,
        asked: Asked,
    ) -> Result<Zeroizing<String>, Failure> {
        if let Some(path) = &self.password_file {
            let text = std::fs::read_to_string(path).map(Zeroizing::new);
            let text = text.map_err(|error| {
                Failure::Usage(format!("--password-file {}: {error}", path.display()))
            })?;
            return Ok(Zeroizing::new(
                text.lines().next().unwrap_or_default().to_owned(),
            ));
        }
        if let Some(name) = &self.password_env {
            let value = (context.variable)(name);
            return value.map(Zeroizing::new).ok_or_else(|| {
                Failure::Usage(format!("--password-env {name}: the variable is not set"))
            });
        }
        if !io::stdin().is_terminal() {
            return match asked {
                // A PEM file needs none.
                Asked::Once => Ok(Zeroizing::default()),
                Asked::Twice => Err(Failure::Usage(
                    "there is nobody to ask for a password; name it by --password-file or --password-env"
                        .to_owned(),
                )),
            };
        }
        let unreadable = |error: io::Error| Failure::Usage(format!("the password: {error}"));
        let prompt = |text: &str| {
            rpassword::prompt_password(text)
                .map(Zeroizing::new)
                .map_err(unreadable)
        };
        match asked {
            Asked::Once => prompt("Password of the file (empty for none): "),
            Asked::Twice => {
                let password = prompt("New password of the file: ")?;
                match password == prompt("The same once more: ")? {
                    true => Ok(password),
                    false => Err(Failure::Usage("the passwords differ".to_owned())),
                }
            }
        }
    }
}

/// How a prompt asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// For the password of a file there is.
    Once,
    /// For the password of a file to be made, and again, since it is not seen.
    Twice,
}
