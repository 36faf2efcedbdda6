//! Log lines on their way to standard error: a bounded queue, and a thread of its own that writes.
//!
//! Standard error may be a pipe whose reader has stopped: a log shipper that hangs, a terminal that
//! is suspended. A thread that wrote its own lines would then stop for good. So lines wait here, within
//! bounds, and what does not fit is lost and counted.
//!
//! `tracing_appender::non_blocking` was considered. It has no bound in bytes, cannot report a loss,
//! and when its queue is full at the end it writes about that itself, to where nothing can be written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Lines that are to be written, in their order.
#[derive(Debug)]
pub(super) struct LogQueue {
    bounds: Bounds,
    state: Mutex<State>,
    changed: Condvar,
}

/// How much a queue holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many lines.
    pub(super) lines: usize,
    /// How many bytes of lines.
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    /// How many bytes the lines have.
    bytes: usize,
    /// Whether the thread is writing a line, or reporting a loss.
    is_writing: bool,
    /// How many sources other than this process add lines.
    sources: usize,
    /// How many lines were lost.
    lost: u64,
    /// How many of these were reported.
    reported: u64,
}

impl LogQueue {
    /// Makes an empty queue.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Adds a line, or counts it as lost where there is no room. Never waits for the writer.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let bytes = state.bytes.saturating_add(line.len());
        if state.lines.len() >= self.bounds.lines || bytes > self.bounds.bytes {
            state.lost += 1;
            return;
        }
        state.bytes = bytes;
        state.lines.push_back(line.into());
        drop(state);
        self.changed.notify_all();
    }

    /// Adds a line before all others, whether there is room or not: the report of lost lines.
    pub(super) fn push_first(&self, line: &[u8]) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_add(line.len());
        state.lines.push_front(line.into());
        drop(state);
        self.changed.notify_all();
    }

    /// Returns how many lines were lost.
    pub(super) fn lost(&self) -> u64 {
        self.state.lock().lost
    }

    /// Notes that a source adds lines, until [`LogQueue::remove_source`].
    pub(super) fn add_source(&self) {
        self.state.lock().sources += 1;
    }

    /// Notes that a source adds no more lines.
    pub(super) fn remove_source(&self) {
        self.state.lock().sources -= 1;
        self.changed.notify_all();
    }

    /// Waits until all lines are written, of all sources, but no longer than a limit. Tells whether
    /// they are.
    pub(super) fn flush(&self, time_limit: Duration) -> bool {
        let mut state = self.state.lock();
        let waited =
            self.changed
                .wait_while_for(&mut state, |state| !state.is_flushed(), time_limit);
        !waited.timed_out()
    }

    /// Writes lines as they come: the life of a thread. `report` is called with the number of lines
    /// that were lost since it was called before, after a line could be written.
    pub(super) fn write_to(&self, mut out: impl Write, report: impl Fn(u64)) {
        let mut writer = LineWriter::default();
        let mut last_report = None;
        loop {
            let line = self.take();
            let written = writer.write(&mut out, &line);
            // Where nothing can be written, a report would be one more line that is lost.
            if let Some(lost) = self.note_written(written.is_ok(), &mut last_report) {
                report(lost);
                self.note_reported(lost);
            }
        }
    }

    /// Waits for a line and takes it.
    fn take(&self) -> Box<[u8]> {
        let mut state = self.state.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes = state.bytes.saturating_sub(line.len());
                state.is_writing = true;
                return line;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Notes that a line was written, or lost. Returns how many losses to report now.
    fn note_written(&self, is_written: bool, last_report: &mut Option<Instant>) -> Option<u64> {
        let mut state = self.state.lock();
        if !is_written {
            state.lost += 1;
        }
        let is_due = state.lines.is_empty()
            || last_report.is_none_or(|last: Instant| last.elapsed() >= REPORT_INTERVAL);
        let lost = state.lost - state.reported;
        if is_written && is_due && lost > 0 {
            *last_report = Some(Instant::now());
            return Some(lost);
        }
        state.is_writing = false;
        drop(state);
        self.changed.notify_all();
        None
    }

    /// Notes that losses were reported; the report is in the queue.
    fn note_reported(&self, lost: u64) {
        let mut state = self.state.lock();
        state.reported += lost;
        state.is_writing = false;
        drop(state);
        self.changed.notify_all();
    }
}

impl State {
    /// Tells whether all is written, and nothing more can come from other sources.
    fn is_flushed(&self) -> bool {
        self.lines.is_empty() && !self.is_writing && self.sources == 0
    }
}

/// Writes lines, each by one call where that is possible, so that other writers of a pipe do not
/// come in between (pipe(7)).
#[derive(Debug, Default)]
struct LineWriter {
    /// Whether the last line broke off in the middle, as on a disk that is full.
    is_broken: bool,
}

impl LineWriter {
    fn write(&mut self, out: &mut impl Write, line: &[u8]) -> io::Result<()> {
        if self.is_broken {
            out.write_all(b"\n")?;
            self.is_broken = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_broken = rest.len() < line.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// How often lost lines are reported at most, while the queue is never empty.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Read};
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        lines: 100,
        bytes: 1000,
    };

    /// Writes a queue into a pipe, and losses as lines of their own.
    fn written_to(queue: &Arc<LogQueue>, out: PipeWriter) {
        let queue = Arc::clone(queue);
        thread::spawn(move || {
            queue.write_to(out, |lost| {
                queue.push_first(format!("{lost} were lost\n").as_bytes());
            });
        });
    }

    fn read(mut from: impl Read, length: usize) -> String {
        let mut text = vec![0; length];
        from.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_are_written_in_their_order_and_a_flush_waits_for_them() {
        let queue = Arc::new(LogQueue::new(BOUNDS));
        let lines: Vec<_> = (0..10).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            queue.push(line.as_bytes());
        }
        assert!(!queue.flush(Duration::ZERO));
        let (reader, writer) = io::pipe().unwrap();
        written_to(&queue, writer);
        assert!(queue.flush(PATIENCE));
        let expected = lines.concat();
        assert_eq!(read(reader, expected.len()), expected);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn what_is_over_either_bound_is_lost_counted_and_reported_when_lines_are_read_again() {
        for (bounds, line) in [
            (Bounds { lines: 3, ..BOUNDS }, "a\n"),
            (Bounds { bytes: 6, ..BOUNDS }, "a\n"),
        ] {
            let queue = Arc::new(LogQueue::new(bounds));
            for _ in 0..5 {
                queue.push(line.as_bytes());
            }
            assert_eq!(queue.lost(), 2);
            let (mut reader, writer) = io::pipe().unwrap();
            written_to(&queue, writer);
            // Reported once a line was written, before those that come later.
            let expected = "a\n2 were lost\na\na\n";
            assert_eq!(read(&mut reader, expected.len()), expected);
            assert!(queue.flush(PATIENCE));
            queue.push(b"b\n");
            assert_eq!(read(&mut reader, 2), "b\n");
            assert_eq!(queue.lost(), 2);
        }
    }

    #[test]
    fn a_pipe_that_is_not_read_keeps_neither_a_line_nor_a_flush_waiting() {
        let queue = Arc::new(LogQueue::new(BOUNDS));
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&vec![b'x'; PIPE_LEN]).unwrap();
        written_to(&queue, writer);
        for _ in 0..1000 {
            queue.push(b"a line\n");
        }
        let lost = queue.lost();
        assert!((899..=900).contains(&lost), "{lost}");
        assert!(!queue.flush(Duration::from_millis(10)));
        assert_eq!(read(&mut reader, PIPE_LEN), "x".repeat(PIPE_LEN));
        assert!(queue.flush(PATIENCE));
        let report = format!("a line\n{lost} were lost\na line\n");
        assert_eq!(read(&mut reader, report.len()), report);
    }

    /// Takes some bytes, then fails once, then takes all.
    struct Full {
        room: usize,
        has_failed: bool,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.has_failed {
                self.written.lock().extend(bytes);
                return Ok(bytes.len());
            }
            if self.room == 0 {
                self.has_failed = true;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.written.lock().extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_lost_and_the_next_one_stands_alone() {
        let queue = Arc::new(LogQueue::new(BOUNDS));
        let written = Arc::new(Mutex::new(Vec::new()));
        let full = Full {
            room: 4,
            has_failed: false,
            written: Arc::clone(&written),
        };
        for line in ["first\n", "second\n"] {
            queue.push(line.as_bytes());
        }
        let writing = Arc::clone(&queue);
        thread::spawn(move || {
            writing.write_to(full, |lost| {
                writing.push_first(format!("{lost} was lost\n").as_bytes());
            });
        });
        assert!(queue.flush(PATIENCE));
        assert_eq!(*written.lock(), b"firs\nsecond\n1 was lost\n");
    }

    const PATIENCE: Duration = Duration::from_secs(30);
    /// What a new pipe holds (pipe(7)).
    const PIPE_LEN: usize = 65_536;
}
