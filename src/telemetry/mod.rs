//! Log lines: structured, on standard error, in text or JSON.
//!
//! The daemon never waits for the reader of its log: lines go through a bounded queue, and a thread of
//! its own writes them.
//!
//! Secrets are of types whose `Debug` says nothing, so none can be logged by mistake.

mod access_log;
mod call;
mod log_queue;
mod log_writer;
mod seldom;

use std::error::Error;
use std::io;

pub use access_log::AccessLog;
pub use call::{Call, CallId, CallIds};
pub use log_writer::{FlushOnDrop, flush, log_pipe, lost_log_lines, print};
pub use seldom::Seldom;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

/// What the daemon tells of itself.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// The form of log lines.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// Returns its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Reads which log lines are to be written.
pub fn filter(directives: &str) -> Result<EnvFilter, ParseError> {
    // cryptoki logs one error for each mechanism it does not know, and for each session that is gone.
    EnvFilter::builder().parse(format!("cryptoki=off,{directives}"))
}

/// Begins to write the log of the daemon, panics included. To be called once.
///
/// Nothing that is logged waits for the reader of standard error. What comes faster than it is read
/// is lost, counted, and reported later.
pub fn start(config: &TelemetryConfig) -> Result<(), Box<dyn Error + Send + Sync>> {
    subscribe(config, log_writer::start()?)
}

/// Begins to write the log lines of a child process to its standard error, which is the
/// [`log_pipe`] of the daemon. To be called once.
pub fn start_in_child(config: &TelemetryConfig) -> Result<(), Box<dyn Error + Send + Sync>> {
    subscribe(config, io::stderr)
}

fn subscribe<W>(config: &TelemetryConfig, writer: W) -> Result<(), Box<dyn Error + Send + Sync>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(&config.log_filter)?)
        .with_span_events(FmtSpan::NONE)
        // A line that cannot be written, as on a full disk, is lost. To say so would be one more such line, and a panic.
        .log_internal_errors(false)
        .with_writer(writer);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
    }
}

/// Writes an error with all its causes, outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
