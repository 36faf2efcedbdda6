//! keypairctl: a client of the gRPC API, and of nothing else in this library.
//!
//! Values are not judged here: the daemon knows what is allowed, and says so field by field. The client
//! turns flags into requests, answers into tables or JSON, and errors into sentences.

#![expect(clippy::doc_markdown, reason = "doc comments are help texts here")]

mod address;
mod adopted;
mod algorithms;
mod bench;
mod certificate;
mod columns;
mod command_line;
mod completions;
mod connect;
mod csr;
mod delete;
mod doctor;
mod doubtful_keys;
mod error;
mod export;
mod fit;
mod generate;
mod get;
mod import;
mod input;
mod label;
mod latencies;
mod link;
mod list;
mod man;
mod migrate;
mod out_file;
mod output;
mod password;
mod progress;
mod public_keys;
mod reach;
mod retry;
mod rotate;
mod rotation;
mod schedule;
mod sign;
mod tls;
mod values;
mod verify;
mod version;
mod watch;
mod wire;
mod yaml;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use prost_types::Timestamp;
use rustix::process::Signal;
use terminal_size::{Width, terminal_size_of};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Status;

pub use completions::answer_completions;
use connect::Connection;
use error::{Failure, http_status, is_not_grpc, is_unknown_call};
use output::Output;

use crate::printable::printable;

/// The command line of keypairctl.
#[derive(Debug, Parser)]
#[command(name = "keypairctl", version, about = ABOUT, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How answers are written: `table` as wide as the terminal, `wide` with all there is, `json`
    /// and `yaml` for programs, `name` for the ids alone.
    #[arg(
        short,
        long,
        global = true,
        env = "KEYPAIRCTL_OUTPUT",
        default_value = "table",
        ignore_case = true,
        hide_possible_values = true,
        hide_env_values = true,
        help_heading = "Output options"
    )]
    output: Output,
    #[command(flatten)]
    connection: Connection,
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
    Version(version::Version),
    Completions(completions::Completions),
    Man(man::Man),
}

/// What a command works with.
struct Context<'a> {
    connection: &'a Connection,
    output: Output,
    /// Standard output.
    out: &'a mut dyn Write,
    /// Whether that is a terminal.
    terminal: bool,
    /// How many columns that terminal has.
    width: Option<usize>,
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
            width: terminal_width(terminal),
            colour: terminal && !no_colour,
            out: &mut out,
            now,
            variable,
        };
        if self.output == Output::Name && !self.command.shows_names() {
            let sentence = "-o name is for commands that show key pairs; use json or yaml";
            let failure = Failure::Usage(sentence.to_owned());
            let _ = failure.write(&mut io::stderr(), Output::Table);
            return failure.exit_code();
        }
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
            Command::Version(command) => command.run(&mut context).await,
            Command::Completions(command) => command.run(&mut context),
            Command::Man(command) => command.run(&mut context),
        };
        let done = match done {
            Err(Failure::Refused(status)) => Err(explain(status, &self.connection).await),
            done => done,
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

impl Command {
    /// Tells whether an answer of the command has key pairs in it.
    const fn shows_names(&self) -> bool {
        matches!(
            self,
            Self::Generate(_)
                | Self::Get(_)
                | Self::List(_)
                | Self::Delete(_)
                | Self::Label(_)
                | Self::Import(_)
                | Self::CsrResponse(_)
                | Self::Link(_)
                | Self::Migrate(_)
                | Self::Rotate(_)
        )
    }
}

/// Says who answered, where that is not a daemon that knows the call.
async fn explain(status: Box<Status>, connection: &Connection) -> Failure {
    if is_unknown_call(&status) {
        return connection.explain_unknown_call().await;
    }
    let what = match http_status(&status) {
        Some(code) => format!("it answered with HTTP status {code}, and not in gRPC"),
        None if is_not_grpc(&status) => "it speaks HTTP/2, and not gRPC".to_owned(),
        None => return Failure::Refused(status),
    };
    match connection.target() {
        Ok(target) => Failure::Connect(Box::new(target.not_keypaird(&what))),
        Err(failure) => failure,
    }
}

/// Says how a command goes: on standard error, so that standard output has its result alone.
fn say_aside(what: &str) {
    // A closed standard error is no failure of the command.
    let _ = writeln!(io::stderr(), "keypairctl: {}", printable(what));
}

/// Returns how many columns the terminal at standard output has.
fn terminal_width(terminal: bool) -> Option<usize> {
    let (Width(columns), _) = terminal_size_of(io::stdout())?;
    (terminal && columns > 0).then(|| columns.into())
}

const ABOUT: &str = "Client of keypaird: signing key pairs in a PKCS#11 token or in software";
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the daemon refused the request, or failed; a question was answered with no;
     a file cannot be written; doctor: something does not work
  2  wrong usage
  3  there is no such key pair
  4  the daemon, or the provider, cannot be reached, or does not answer in time;
     trying again may help
  5  the signature is not valid

Examples:
  keypairctl generate --common-name Payments --organization Acme --country US \\
    --valid-days 1y --key-algorithm EC
  keypairctl list --expires-within 30d
  keypairctl sign payments --message order.xml --out order.sig
  keypairctl certificate payments --address unix:///run/keypaird/keypaird.sock
  keypairctl doctor --address kms.example:9443 --ca ca.pem";
