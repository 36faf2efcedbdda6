//! The log of the daemon: the queue of its lines, what adds to it, and the thread that writes it.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use tracing::{Level, Metadata, error, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::log_queue::{Bounds, LogQueue};

/// Makes the queue and its thread, and has panics written as log lines. To be called once.
///
/// # Errors
/// When there is a log already, or no thread can be started.
pub(super) fn start() -> io::Result<QueuedLines> {
    if LOG.set(LogQueue::new(BOUNDS)).is_err() {
        return Err(io::Error::other("the log is written already"));
    }
    let queue = LOG.get().ok_or(io::ErrorKind::NotFound)?;
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || queue.write_to(StandardError, report_lost_lines))?;
    panic::set_hook(Box::new(move |info| log_panic(queue, info)));
    Ok(QueuedLines(queue))
}

/// Waits until the log lines so far are written, but no longer than a limit: their reader may have
/// stopped.
pub fn flush(time_limit: Duration) {
    if let Some(queue) = LOG.get() {
        queue.flush(time_limit);
    }
}

/// Writes what is left of the log when this is dropped, in at most a second.
#[derive(Debug)]
#[must_use]
pub struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush(FLUSH_MAX);
    }
}

/// Writes a line to standard error as it is, after the log lines so far.
pub fn print(line: &str) {
    let line = format!("{line}\n");
    match LOG.get() {
        Some(queue) => queue.push(line.as_bytes()),
        // When it is closed, only the exit code is left to tell.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Returns how many log lines were lost, because they were not read fast enough or could not be
/// written.
pub fn lost_log_lines() -> u64 {
    LOG.get().map_or(0, LogQueue::lost)
}

/// Returns a pipe whose lines join the log as they are: the standard error of a child process, which
/// then never waits for the reader of the log. None where no log is written.
///
/// # Errors
/// When no pipe can be made, or no thread be started.
pub fn log_pipe() -> io::Result<Option<PipeWriter>> {
    let Some(queue) = LOG.get() else {
        return Ok(None);
    };
    let (reader, writer) = io::pipe()?;
    let source = Source::new(queue);
    thread::Builder::new()
        .name("log-pipe".to_owned())
        .spawn(move || source.relay(reader))?;
    Ok(Some(writer))
}

/// A process that adds lines to a queue.
#[derive(Debug)]
struct Source(&'static LogQueue);

impl Source {
    fn new(queue: &'static LogQueue) -> Self {
        queue.add_source();
        Self(queue)
    }

    /// Adds lines until the other end of a pipe is closed: the life of a thread.
    fn relay(&self, from: PipeReader) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // An error is the end of the pipe, too.
        while matches!(
            from.by_ref()
                .take(LINE_LEN_MAX)
                .read_until(b'\n', &mut line),
            Ok(1..)
        ) {
            if !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            self.0.push(&line);
            line.clear();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.remove_source();
    }
}

/// Adds the lines of this process to the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedLines(&'static LogQueue);

impl<'a> MakeWriter<'a> for QueuedLines {
    type Writer = QueuedLine;

    fn make_writer(&'a self) -> QueuedLine {
        QueuedLine {
            queue: self.0,
            is_report: false,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> QueuedLine {
        QueuedLine {
            queue: self.0,
            is_report: meta.target() == LOST_LINES,
        }
    }
}

/// Takes one line.
#[derive(Debug)]
pub(super) struct QueuedLine {
    queue: &'static LogQueue,
    /// Whether it reports lost lines.
    is_report: bool,
}

impl Write for QueuedLine {
    /// Takes all bytes, which are a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.is_report {
            true => self.queue.push_first(line),
            false => self.queue.push(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, also where another process has set it to not block.
#[derive(Debug)]
struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr();
        loop {
            match stderr.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn report_lost_lines(count: u64) {
    warn!(target: LOST_LINES, count, "log lines were lost");
}

/// Logs a panic. The usual way, which writes to standard error at once, might not come back.
fn log_panic(queue: &LogQueue, info: &PanicHookInfo<'_>) {
    // Not where error lines are filtered out, nor where the panic is one of writing a log line.
    if !tracing::enabled!(Level::ERROR) {
        queue.push(format!("{info}\n").as_bytes());
        return;
    }
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = is_captured.then(|| tracing::field::display(backtrace));
    let current = thread::current();
    let location = info.location().map(tracing::field::display);
    let said = said(info.payload());
    error!(
        thread = current.name(),
        location, said, backtrace, "a thread panicked"
    );
}

fn said(payload: &dyn Any) -> &str {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(said), _) => said,
        (_, Some(said)) => said,
        _ => "",
    }
}

static LOG: OnceLock<LogQueue> = OnceLock::new();
/// What reports of lost lines are known by.
const LOST_LINES: &str = module_path!();
/// What waits at most for a reader that has stopped: minutes of an ordinary log.
const BOUNDS: Bounds = Bounds {
    lines: 16_384,
    bytes: 4 * 1024 * 1024,
};
/// A longer line of a child process is cut into several.
const LINE_LEN_MAX: u64 = 64 * 1024;
/// How long the end of the process waits for the reader of the log.
const FLUSH_MAX: Duration = Duration::from_secs(1);
