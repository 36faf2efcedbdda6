//! A load generator: many calls over one connection, with as little work for each as HTTP/2 allows.
//!
//! It shares the machine with the daemon that it measures, and what it spends is missing there. So it writes
//! frames that were encoded beforehand, and reads no more of an answer than tells whether it is one. A client
//! made from generated code spends 20 to 30 µs on a call, this one about 3.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prost::Message;

use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, push_frame,
};
use crate::measure::Samples;

/// A method of `keypaird.v1.SigningService` and the messages it is called with, in turn.
#[derive(Clone, Debug)]
pub struct Call {
    address: SocketAddr,
    path: String,
    /// Each in a DATA frame's payload: compression flag, length, message.
    messages: Vec<Vec<u8>>,
}

impl Call {
    /// Makes calls of a method at a daemon.
    pub fn new<M: Message>(address: SocketAddr, method: &str, messages: &[M]) -> Self {
        let framed = messages.iter().map(|message| {
            let length = u32::try_from(message.encoded_len()).unwrap();
            let mut framed = vec![0];
            framed.extend(length.to_be_bytes());
            framed.extend(message.encode_to_vec());
            framed
        });
        Self {
            address,
            path: format!("/keypaird.v1.SigningService/{method}"),
            messages: framed.collect(),
        }
    }

    fn message(&self, number: usize) -> &[u8] {
        &self.messages[number % self.messages.len()]
    }
}

/// What came of some load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many signatures were made.
    pub done: usize,
    /// How many were not.
    pub failed: usize,
    /// How long it took in all.
    pub took: Duration,
    /// How long each call took.
    pub latencies: Samples,
    /// How long each call took that was refused, in [`flood`].
    pub refusals: Samples,
}

impl Outcome {
    /// Returns how many signatures were made in a second.
    pub fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.done).unwrap()) / self.took.as_secs_f64()
    }

    fn count(&mut self, answer: &Answer) {
        match answer {
            Answer::One(true) => self.done += 1,
            Answer::One(false) => self.failed += 1,
            Answer::Many { done, failed } => {
                self.done += done;
                self.failed += failed;
            }
        }
    }
}

/// What one call gave.
enum Answer {
    One(bool),
    Many { done: usize, failed: usize },
}

/// Calls again and again for a while, with some calls in flight at any time.
pub fn closed(call: &Call, in_flight: usize, duration: Duration) -> Outcome {
    let mut connection = Connection::open(call);
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    let mut asked = HashMap::new();
    for number in 0..in_flight {
        asked.insert(connection.ask(call.message(number)), begun);
    }
    connection.flush();
    let mut number = in_flight;
    while !asked.is_empty() {
        let answers = connection.answers();
        let now = Instant::now();
        for (stream, answer) in answers {
            outcome.count(&answer);
            outcome.latencies.add(now - asked.remove(&stream).unwrap());
            if now - begun < duration {
                asked.insert(connection.ask(call.message(number)), now);
                number += 1;
            }
        }
        connection.flush();
    }
    outcome.took = begun.elapsed();
    outcome
}

/// Calls at a steady rate for a while, however long the answers take. The latency of a call counts from when
/// it was due.
pub fn open(call: &Call, rate: f64, duration: Duration) -> Outcome {
    let mut connection = Connection::open(call);
    let mut sender = connection.sender();
    let begun = Instant::now();
    let due = Mutex::new((HashMap::new(), false));
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u32.. {
                let at = Duration::from_secs_f64(f64::from(number) / rate);
                if at > duration {
                    break;
                }
                std::thread::sleep(at.saturating_sub(begun.elapsed()));
                let mut due = due.lock().unwrap();
                let stream = sender.ask(call.message(usize::try_from(number).unwrap()));
                due.0.insert(stream, begun + at);
                drop(due);
                sender.flush();
            }
            due.lock().unwrap().1 = true;
            // Something must come back for the reader to see that there is no more.
            sender.ask(call.message(0));
            sender.flush();
        });
        loop {
            for (stream, answer) in connection.answers() {
                if let Some(due) = due.lock().unwrap().0.remove(&stream) {
                    outcome.count(&answer);
                    outcome.latencies.add(due.elapsed());
                }
            }
            let due = due.lock().unwrap();
            if due.1 && due.0.is_empty() {
                break;
            }
        }
    });
    outcome.took = begun.elapsed();
    outcome
}

/// Calls at a steady rate for a while from several connections, however many calls are refused. A client sends what is due
/// every millisecond, and, as it should, never has more calls under way on a connection than the daemon allows.
pub fn flood(call: &Call, connections: u32, rate: f64, duration: Duration) -> Outcome {
    let begun = Instant::now();
    let mut whole = Outcome::default();
    std::thread::scope(|scope| {
        let each = rate / f64::from(connections);
        let floods: Vec<_> = (0..connections)
            .map(|_| scope.spawn(move || one_flood(call, each, begun, duration)))
            .collect();
        for flood in floods {
            let outcome = flood.join().unwrap();
            whole.done += outcome.done;
            whole.failed += outcome.failed;
            whole.latencies.extend(outcome.latencies);
            whole.refusals.extend(outcome.refusals);
        }
    });
    whole.took = duration;
    whole
}

fn one_flood(call: &Call, rate: f64, begun: Instant, duration: Duration) -> Outcome {
    let mut connection = Connection::open(call);
    let mut sender = connection.sender();
    let under_way = Mutex::new((HashMap::new(), false));
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0_u32;
            loop {
                std::thread::sleep(Duration::from_millis(1));
                let now = begun.elapsed();
                if now > duration {
                    break;
                }
                let mut under_way = under_way.lock().unwrap();
                loop {
                    let due = Duration::from_secs_f64(f64::from(number) / rate);
                    if due > now || under_way.0.len() >= STREAMS_MAX {
                        break;
                    }
                    let stream = sender.ask(call.message(usize::try_from(number).unwrap()));
                    under_way.0.insert(stream, begun + due);
                    number += 1;
                }
                drop(under_way);
                sender.flush();
            }
            under_way.lock().unwrap().1 = true;
            // Something must come back for the reader to see that there is no more.
            sender.ask(call.message(0));
            sender.flush();
        });
        loop {
            let answers = connection.answers();
            let mut under_way = under_way.lock().unwrap();
            for (stream, answer) in answers {
                let Some(due) = under_way.0.remove(&stream) else {
                    continue;
                };
                outcome.count(&answer);
                match answer {
                    Answer::One(false) => outcome.refusals.add(due.elapsed()),
                    _ => outcome.latencies.add(due.elapsed()),
                }
            }
            if under_way.1 && under_way.0.is_empty() {
                break;
            }
        }
    });
    outcome
}

/// Keeps some streams busy for a while, each on a connection of its own with some messages in flight.
pub fn streams(call: &Call, streams: usize, window: usize, duration: Duration) -> Outcome {
    let begun = Instant::now();
    let mut whole = Outcome::default();
    std::thread::scope(|scope| {
        let busy: Vec<_> = (0..streams)
            .map(|_| scope.spawn(|| one_stream(call, window, begun + duration)))
            .collect();
        for stream in busy {
            let outcome = stream.join().unwrap();
            whole.done += outcome.done;
            whole.failed += outcome.failed;
        }
    });
    whole.took = begun.elapsed();
    whole
}

fn one_stream(call: &Call, window: usize, until: Instant) -> Outcome {
    let mut connection = Connection::open(call);
    let mut outcome = Outcome::default();
    let stream = connection.sender.begin();
    for number in 0..window {
        connection.sender.data(stream, call.message(number), false);
    }
    connection.flush();
    let mut in_flight = window;
    let mut received = Vec::new();
    while in_flight > 0 {
        connection.read_frames(|_, frame| {
            assert_eq!(frame.kind & !HEADERS, 0, "the stream was reset");
            if frame.kind == DATA {
                received.extend_from_slice(frame.payload);
            }
        });
        let go_on = Instant::now() < until;
        let mut rest = &received[..];
        while let Some((message, behind)) = split_message(rest) {
            rest = behind;
            in_flight -= 1;
            // Behind a correlation id of one character, field 2 is a signature and field 3 an error.
            outcome.count(&Answer::One(message.get(3) == Some(&0x12)));
            if go_on {
                let number = outcome.done + in_flight;
                connection.sender.data(stream, call.message(number), false);
                in_flight += 1;
            }
        }
        let taken = received.len() - rest.len();
        received.drain(..taken);
        connection.flush();
    }
    outcome
}

/// An HTTP/2 connection (RFC 9113), as much of it as load needs.
struct Connection {
    sender: Sender,
    tcp: TcpStream,
    received: Vec<u8>,
    /// What arrived of answers that are not complete.
    bodies: HashMap<u32, Vec<u8>>,
    batch: bool,
}

/// The half that asks.
struct Sender {
    tcp: TcpStream,
    out: Vec<u8>,
    next_stream: u32,
    /// The header fields, in full; with them, HPACK learns the short form.
    first_headers: Option<Vec<u8>>,
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    payload: &'a [u8],
}

impl Connection {
    fn open(call: &Call) -> Self {
        let tcp = TcpStream::connect(call.address).unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut headers = vec![0x83, 0x86];
        let authority = call.address.to_string();
        // RFC 7541: literals that are added to the dynamic table, their names from the static one or new.
        for (name, value) in [
            (&[0x44][..], call.path.as_str()),
            (&[0x41], &authority),
            (&[0x5f], "application/grpc"),
            (b"\x40\x02te", "trailers"),
        ] {
            headers.extend(name);
            headers.push(u8::try_from(value.len()).unwrap());
            headers.extend(value.as_bytes());
        }
        let mut connection = Self {
            sender: Sender {
                tcp: tcp.try_clone().unwrap(),
                out: PREFACE.to_vec(),
                next_stream: 1,
                first_headers: Some(headers),
            },
            tcp,
            received: Vec::new(),
            bodies: HashMap::new(),
            batch: call.path.ends_with("/BatchSign"),
        };
        // Windows that are never filled.
        let mut settings = vec![0, SETTINGS_INITIAL_WINDOW_SIZE];
        settings.extend(0x7fff_ffff_u32.to_be_bytes());
        connection.sender.frame(SETTINGS, 0, 0, &settings);
        let more = 0x7fff_0000_u32.to_be_bytes();
        connection.sender.frame(WINDOW_UPDATE, 0, 0, &more);
        connection.flush();
        // The daemon's settings come first.
        connection.read_frames(|_, _| ());
        connection.flush();
        connection
    }

    fn ask(&mut self, message: &[u8]) -> u32 {
        self.sender.ask(message)
    }

    fn flush(&mut self) {
        self.sender.flush();
    }

    /// Gives the asking half away, for use by another thread.
    fn sender(&mut self) -> Sender {
        Sender {
            tcp: self.tcp.try_clone().unwrap(),
            out: Vec::new(),
            next_stream: self.sender.next_stream,
            first_headers: self.sender.first_headers.take(),
        }
    }

    /// Waits for answers, and returns those that are there.
    fn answers(&mut self) -> Vec<(u32, Answer)> {
        let mut answers = Vec::new();
        let mut bodies = std::mem::take(&mut self.bodies);
        let batch = self.batch;
        self.read_frames(|stream, frame| {
            if frame.kind == DATA {
                bodies
                    .entry(stream)
                    .or_default()
                    .extend_from_slice(frame.payload);
            }
            if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
                // An error has no body.
                let body = bodies.remove(&stream);
                answers.push((stream, answer(batch, body.as_deref())));
            }
        });
        self.bodies = bodies;
        self.flush();
        answers
    }

    /// Reads what is there, and hands on the frames of streams.
    fn read_frames(&mut self, mut take: impl FnMut(u32, Frame<'_>)) {
        let filled = self.received.len();
        self.received.resize(filled + READ_LEN, 0);
        // Whoever else is ready to run goes first, so that one read takes several answers.
        self.tcp.peek(&mut [0]).unwrap();
        std::thread::yield_now();
        let count = self.tcp.read(&mut self.received[filled..]).unwrap();
        assert!(count > 0, "the daemon closed the connection");
        self.received.truncate(filled + count);
        let mut rest = &self.received[..];
        while let Some((head, behind)) = rest.split_at_checked(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let Some((payload, next)) = behind.split_at_checked(usize::try_from(length).unwrap())
            else {
                break;
            };
            rest = next;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    self.sender.frame(SETTINGS, ACK, 0, &[]);
                }
                PING if flags & ACK == 0 => {
                    self.sender.frame(PING, ACK, 0, payload);
                }
                GOAWAY => panic!("the daemon said goodbye"),
                DATA | HEADERS | RST_STREAM => {
                    take(
                        stream,
                        Frame {
                            kind,
                            flags,
                            payload,
                        },
                    );
                }
                _ => {}
            }
        }
        let taken = self.received.len() - rest.len();
        self.received.drain(..taken);
    }
}

impl Sender {
    /// Begins a call, and returns its stream.
    fn begin(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        // The last four fields of the first request are the dynamic table, the newest first.
        let short = || vec![0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
        let headers = self.first_headers.take().unwrap_or_else(short);
        self.frame(HEADERS, END_HEADERS, stream, &headers);
        stream
    }

    fn ask(&mut self, message: &[u8]) -> u32 {
        let stream = self.begin();
        self.data(stream, message, true);
        stream
    }

    fn data(&mut self, stream: u32, message: &[u8], last: bool) {
        let mut chunks = message.chunks(FRAME_LEN_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let ends = last && chunks.peek().is_none();
            let flags = if ends { END_STREAM } else { 0 };
            self.frame(DATA, flags, stream, chunk);
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        push_frame(&mut self.out, kind, flags, stream, payload);
    }

    fn flush(&mut self) {
        if !self.out.is_empty() {
            self.tcp.write_all(&self.out).unwrap();
            self.out.clear();
        }
    }
}

fn answer(batch: bool, body: Option<&[u8]>) -> Answer {
    let message = body.and_then(split_message);
    match (batch, message) {
        (true, Some((message, _))) => count_results(message),
        (_, message) => Answer::One(message.is_some()),
    }
}

/// Counts the results of a `BatchSignResponse`, of which each is a signature or an error.
fn count_results(mut message: &[u8]) -> Answer {
    let (mut done, mut failed) = (0, 0);
    while let Some((tag, rest)) = message.split_first() {
        assert_eq!(*tag, FIELD_1, "results");
        message = rest;
        let length = prost::decode_length_delimiter(&mut message).unwrap();
        let (result, behind) = message.split_at(length);
        message = behind;
        match result.first() {
            Some(&FIELD_1) => done += 1,
            _ => failed += 1,
        }
    }
    Answer::Many { done, failed }
}

/// Splits the first whole message off.
fn split_message(received: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = received.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().unwrap());
    rest.split_at_checked(usize::try_from(length).unwrap())
}

/// The tag of a message in field 1 (Protocol Buffers, Message Structure).
const FIELD_1: u8 = 0x0a;
const SETTINGS_INITIAL_WINDOW_SIZE: u8 = 4;
const FRAME_LEN_MAX: usize = 16 * 1024;
/// The daemon allows 1024, and one is asked for at the end.
const STREAMS_MAX: usize = 1000;
const READ_LEN: usize = 64 * 1024;
