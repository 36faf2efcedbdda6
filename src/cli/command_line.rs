//! Reads the command line, with what clap lacks.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, Error, FromArgMatches};

use super::Cli;

impl Cli {
    /// Reads the command line and the environment. Ends the process where there is nothing to run:
    /// with the help, or with what is wrong and exit code 2.
    pub fn read(
        words: impl IntoIterator<Item = OsString>,
        variable: fn(&str) -> Option<String>,
    ) -> Self {
        match Self::try_read(words, variable) {
            Ok(cli) => cli,
            Err(error) => error.exit(),
        }
    }

    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// What clap says of a command line that cannot be followed, and of one that asks for help.
    pub(super) fn try_read(
        words: impl IntoIterator<Item = OsString>,
        variable: fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let command = Self::command().mut_args(|arg| without_empty_variable(arg, variable));
        let command = with_negative_numbers(command);
        let matches = command
            .try_get_matches_from(words)
            .map_err(with_right_advice)?;
        Self::from_arg_matches(&matches)
    }
}

/// Takes an empty variable for one that is not set, as other programs do.
fn without_empty_variable(arg: Arg, variable: fn(&str) -> Option<String>) -> Arg {
    let name = arg.get_env().and_then(OsStr::to_str);
    match name.and_then(variable) {
        Some(value) if value.is_empty() => arg.env(None::<&str>),
        _ => arg,
    }
}

/// Takes `-1` behind an option for its value. Whether it is a good one the daemon says.
fn with_negative_numbers(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let takes_value = arg.get_long().is_some() && arg.get_action().takes_values();
        match takes_value {
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    });
    command.mut_subcommands(with_negative_numbers)
}

/// Replaces the advice for a value that begins with a dash: behind an option, `--` does not help.
fn with_right_advice(mut error: Error) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if word.starts_with('-') => word.clone(),
        _ => return error,
    };
    let is_wrong = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(advice)) => advice
            .iter()
            .any(|one| one.to_string().contains("as a value, use")),
        // A short option that is none, which stands where a value is wanted.
        _ => !word.starts_with("--"),
    };
    if is_wrong {
        let advice = format!("to pass '{word}' as the value of an option, write '--OPTION={word}'");
        let advice = ContextValue::StyledStrs(vec![advice.into()]);
        error.insert(ContextKind::Suggested, advice);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, variable: fn(&str) -> Option<String>) -> Result<Cli, String> {
        let words = ["keypairctl"].into_iter().chain(line.split(' '));
        Cli::try_read(words.map(OsString::from), variable).map_err(|error| error.to_string())
    }

    #[test]
    fn negative_numbers_are_values_and_other_dashes_have_the_right_advice() {
        let generate = "generate --common-name x --organization x --country US --key-algorithm EC";
        assert!(read(&format!("{generate} --valid-days -1"), |_| None).is_ok());
        let said = read(&format!("{generate} --valid-days 1 --city -x"), |_| None).unwrap_err();
        assert!(said.contains("'--OPTION=-x'"), "{said}");
        assert!(!said.contains("'-- -x'"), "{said}");
    }

    #[test]
    fn the_definition_of_the_command_line_has_no_faults() {
        with_negative_numbers(Cli::command()).debug_assert();
    }

    #[test]
    fn what_is_behind_the_options_fits_80_columns() {
        fn check(command: &Command) {
            let help = command.get_after_help().map(ToString::to_string);
            for line in help.unwrap_or_default().lines() {
                let width = line.chars().count();
                assert!(width <= 80, "{}: {width}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn values_are_read_in_letters_of_either_case() {
        for line in [
            "list --status EXPIRED --crypto-provider Hsm --key-algorithm ec -o JSON",
            "list --columns ID,Cn --order-by EXPIRES",
            "public-keys x --format JWKS",
            "import x.p12 --format pkcs12 --output Yaml",
            "completions BASH",
            "sign x --encoding P1363 --signature-algorithm ed25519",
            "bench x --mode BATCH",
        ] {
            let cli = read(line, |_| None);
            assert!(cli.is_ok(), "{line}: {}", cli.unwrap_err());
        }
    }
}
