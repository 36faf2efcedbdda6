//! keypairctl: a client of the gRPC API, and of nothing else in this library.
//!
//! Values are not judged here: the daemon knows what is allowed, and says so field by field. The client
//! turns flags into requests, answers into tables or JSON, and errors into sentences.

#![expect(clippy::doc_markdown, reason = "doc comments are help texts here")]

mod algorithms;
mod bench;
mod certificate;
mod completions;
mod connect;
mod csr;
mod delete;
mod doctor;
mod doubtful_keys;
mod error;
mod export;
mod generate;
mod get;
mod import;
mod input;
mod label;
mod latencies;
mod link;
mod list;
mod migrate;
mod notes;
mod out_file;
mod output;
mod password;
mod printable;
mod progress;
mod public_keys;
mod rotate;
mod rotation;
mod schedule;
mod sign;
mod verify;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use prost_types::Timestamp;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use connect::Connection;
use error::Failure;
use output::Output;

/// The command line of keypairctl.
#[derive(Debug, Parser)]
#[command(name = "keypairctl", version, about = ABOUT, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// How answers are written: `table` for people, `json` for programs.
    #[arg(
        long,
        global = true,
        env = "KEYPAIRCTL_OUTPUT",
        default_value = "table"
    )]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Generate),
    Get(get::Get),
    List(list::List),
    Delete(delete::Delete),
    Label(label::Label),
    Algorithms(algorithms::Algorithms),
    Certificate(certificate::Certificate),
    Import(import::Import),
    Export(export::Export),
    Csr(csr::Csr),
    CsrResponse(csr::CsrResponse),
    Link(link::Link),
    Migrate(migrate::Migrate),
    Rotation(rotation::Rotation),
    Rotate(rotate::Rotate),
    Schedule(schedule::Schedule),
    Watch(watch::Watch),
    Sign(sign::Sign),
    Verify(verify::Verify),
    PublicKeys(public_keys::PublicKeys),
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    DoubtfulKeys(doubtful_keys::DoubtfulKeys),
    Completions(completions::Completions),
}

/// What a command works with.
struct Context<'a> {
    connection: &'a Connection,
    output: Output,
    /// Standard output.
    out: &'a mut dyn Write,
    /// Whether that is a terminal.
    terminal: bool,
    /// Whether colours are of use there.
    colour: bool,
    /// The current time.
    now: Timestamp,
    /// Looks an environment variable up.
    variable: fn(&str) -> Option<String>,
}

impl Cli {
    /// Runs the command and returns the exit code. Answers go to standard output, errors to standard error.
    pub async fn run(self, now: Timestamp, variable: fn(&str) -> Option<String>) -> ExitCode {
        // A file that may not grow further (`ulimit -f`) is an error where it is written, as a full
        // disk is: SIGXFSZ would end the process, and leave a part of the file.
        let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        // https://no-color.org
        let no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let mut out = io::stdout().lock();
        let terminal = out.is_terminal();
        let mut context = Context {
            connection: &self.connection,
            output: self.output,
            terminal,
            colour: terminal && !no_colour,
            out: &mut out,
            now,
            variable,
        };
        let done = match self.command {
            Command::Generate(command) => command.run(&mut context).await,
            Command::Get(command) => command.run(&mut context).await,
            Command::List(command) => command.run(&mut context).await,
            Command::Delete(command) => command.run(&mut context).await,
            Command::Label(command) => command.run(&mut context).await,
            Command::Algorithms(command) => command.run(&mut context).await,
            Command::Certificate(command) => command.run(&mut context).await,
            Command::Import(command) => command.run(&mut context).await,
            Command::Export(command) => command.run(&mut context).await,
            Command::Csr(command) => command.run(&mut context).await,
            Command::CsrResponse(command) => command.run(&mut context).await,
            Command::Link(command) => command.run(&mut context).await,
            Command::Migrate(command) => command.run(&mut context).await,
            Command::Rotation(command) => command.run(&mut context).await,
            Command::Rotate(command) => command.run(&mut context).await,
            Command::Schedule(command) => command.run(&mut context).await,
            Command::Watch(command) => command.run(&mut context).await,
            Command::Sign(command) => command.run(&mut context).await,
            Command::Verify(command) => command.run(&mut context).await,
            Command::PublicKeys(command) => command.run(&mut context).await,
            Command::Bench(command) => command.run(&mut context).await,
            Command::Doctor(command) => command.run(&mut context).await,
            Command::DoubtfulKeys(command) => command.run(&mut context).await,
            Command::Completions(command) => command.run(&mut context),
        };
        let flushed = out.flush().map_err(Failure::Write);
        match done.and(flushed) {
            Ok(()) => ExitCode::SUCCESS,
            // Whoever read us has read enough.
            Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(failure) => {
                // When standard error is closed too, only the exit code is left to tell.
                let _ = failure.write(&mut io::stderr(), self.output);
                failure.exit_code()
            }
        }
    }
}

const ABOUT: &str = "Client of keypaird: signing key pairs in a PKCS#11 token or in software";
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the daemon refused the request, or failed; a question was answered with no; a file cannot
     be written; doctor: something is wrong
  2  wrong usage
  3  there is no such key pair
  4  the daemon, or the provider, cannot be reached; trying again may help
  5  the signature is not valid

Examples:
  keypairctl generate --common-name Payments --organization Acme --country US --valid-days 365 --key-algorithm EC
  keypairctl list --expires-before 2027-01-01
  keypairctl sign payments --message order.xml --out order.sig
  keypairctl --address unix:///run/keypaird/keypaird.sock certificate payments > payments.pem";
