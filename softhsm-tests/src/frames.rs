//! HTTP/2 by hand (RFC 9113): frames as they should be, and as they should not.
//!
//! [`Peer`] sends any bytes and tells what the daemon makes of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Frame types, section 6.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const PRIORITY: u8 = 2;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PUSH_PROMISE: u8 = 5;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const ACK: u8 = 1;
/// See [`ACK`].
pub const END_STREAM: u8 = 1;
/// See [`ACK`].
pub const END_HEADERS: u8 = 4;
/// See [`ACK`].
pub const PADDED: u8 = 8;

/// What a connection begins with, section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Error codes, section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// `NO_ERROR`.
    NoError,
    /// `PROTOCOL_ERROR`.
    Protocol,
    /// `INTERNAL_ERROR`.
    Internal,
    /// `FLOW_CONTROL_ERROR`.
    FlowControl,
    /// `SETTINGS_TIMEOUT`.
    SettingsTimeout,
    /// `STREAM_CLOSED`.
    StreamClosed,
    /// `FRAME_SIZE_ERROR`.
    FrameSize,
    /// `REFUSED_STREAM`.
    RefusedStream,
    /// `CANCEL`.
    Cancel,
    /// `COMPRESSION_ERROR`.
    Compression,
    /// `CONNECT_ERROR`.
    Connect,
    /// `ENHANCE_YOUR_CALM`.
    EnhanceYourCalm,
}

impl Code {
    fn from_bytes(bytes: &[u8]) -> Self {
        let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        [
            Self::NoError,
            Self::Protocol,
            Self::Internal,
            Self::FlowControl,
            Self::SettingsTimeout,
            Self::StreamClosed,
            Self::FrameSize,
            Self::RefusedStream,
            Self::Cancel,
            Self::Compression,
            Self::Connect,
            Self::EnhanceYourCalm,
        ][usize::try_from(number).unwrap()]
    }
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// What the daemon did about something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended the connection by a GOAWAY frame.
    Goodbye(Code),
    /// It ended the connection without a word.
    Closed,
    /// It reset a stream, and the connection lives.
    Reset(Code),
    /// It sent a whole answer, and the connection lives.
    Answered,
    /// It sent nothing, and the connection lives.
    Ignored,
}

/// A connection on which anything may be sent.
#[derive(Debug)]
pub struct Peer {
    tcp: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// Connects and says nothing.
    pub fn silent(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            tcp,
            received: Vec::new(),
        }
    }

    /// Connects and begins as one should.
    pub fn greeted(address: SocketAddr) -> Self {
        Self::greeted_with(address, &[])
    }

    /// Connects and begins with some settings.
    pub fn greeted_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self::silent(address);
        peer.send(PREFACE);
        peer.send(&settings_frame(settings));
        // The daemon's settings, and that it took ours.
        let mut seen = [false, false];
        while seen != [true, true] {
            let frame = peer.receive().expect("the daemon greets back");
            if frame.kind == SETTINGS {
                seen[usize::from(frame.flags & ACK)] = true;
            }
        }
        peer.send(&frame(SETTINGS, ACK, 0, &[]));
        peer
    }

    /// Sends bytes. It is no fault when the daemon has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.tcp.write_all(bytes);
    }

    /// Sends bytes, for as long as the daemon takes them, and tells whether it took all.
    pub fn try_send(&mut self, bytes: &[u8], patience: Duration) -> bool {
        self.tcp.set_write_timeout(Some(patience)).unwrap();
        self.tcp.write_all(bytes).is_ok()
    }

    /// Gives the connection away, for it to lie idle.
    pub fn into_stream(self) -> TcpStream {
        self.tcp
    }

    /// Closes the sending half.
    pub fn finish(&self) {
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
    }

    /// Waits for the next frame. There is none when the connection was closed.
    pub fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            let mut read = [0; 16 * 1024];
            match self.tcp.read(&mut read) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&read[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(error.kind()) => {
                    panic!("the daemon says nothing and stays");
                }
                Err(_) => return None,
            }
        }
    }

    /// Reads and forgets all there is, until the daemon closes the connection. Tells whether it does in time.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut read = [0; 16 * 1024];
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return false;
            }
            self.tcp.set_read_timeout(Some(rest)).unwrap();
            match self.tcp.read(&mut read) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if is_timeout(error.kind()) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Tells what the daemon did about all that was sent, with a ping that it answers last.
    pub fn outcome(&mut self) -> Outcome {
        let ping = frame(PING, 0, 0, b"the last");
        self.send(&ping);
        let (mut outcome, mut answered, mut pongs) = (Outcome::Ignored, false, 0);
        loop {
            let Some(frame) = self.receive() else {
                return Outcome::Closed;
            };
            match frame.kind {
                GOAWAY => return Outcome::Goodbye(Code::from_bytes(&frame.payload[4..])),
                RST_STREAM => outcome = Outcome::Reset(Code::from_bytes(&frame.payload)),
                HEADERS | DATA if frame.flags & END_STREAM != 0 => answered = true,
                PING if frame.flags & ACK != 0 && frame.payload == b"the last" => {
                    pongs += 1;
                    match outcome {
                        Outcome::Ignored if answered => return Outcome::Answered,
                        // An answer to a request may take longer than one to a ping.
                        Outcome::Ignored if pongs < PINGS => {
                            std::thread::sleep(Duration::from_millis(10));
                            self.send(&ping);
                        }
                        _ => return outcome,
                    }
                }
                _ => {}
            }
        }
    }

    /// Waits for the end of the answer on a stream, and tells whether there was one rather than a reset.
    pub fn is_answered(&mut self, stream: u32) -> bool {
        loop {
            let frame = self.receive().expect("the connection stays");
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.stream == stream && frame.kind == RST_STREAM {
                return false;
            }
            if frame.stream == stream
                && matches!(frame.kind, HEADERS | DATA)
                && frame.flags & END_STREAM != 0
            {
                return true;
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (head, rest) = self.received.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (payload, _) = rest.split_at_checked(usize::try_from(length).unwrap())?;
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload: payload.to_vec(),
        };
        self.received.drain(..9 + frame.payload.len());
        Some(frame)
    }
}

/// Writes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + payload.len());
    push_frame(&mut frame, kind, flags, stream, payload);
    frame
}

/// Writes a frame behind others.
pub fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.extend(&length[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// Writes a SETTINGS frame.
pub fn settings_frame(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload = settings.iter().flat_map(|(name, value)| {
        let mut setting = name.to_be_bytes().to_vec();
        setting.extend(value.to_be_bytes());
        setting
    });
    frame(SETTINGS, 0, 0, &payload.collect::<Vec<_>>())
}

/// Writes a header field as a literal that is not indexed (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.extend(integer(text.len(), 7));
        field.extend(text.as_bytes());
    }
    field
}

/// Writes an integer with a prefix of some bits, the bits before it being 0 (RFC 7541, section 5.1).
pub fn integer(mut number: usize, bits: u32) -> Vec<u8> {
    let max = (1 << bits) - 1;
    if number < max {
        return vec![u8::try_from(number).unwrap()];
    }
    let mut written = vec![u8::try_from(max).unwrap()];
    number -= max;
    while number >= 128 {
        written.push(u8::try_from(number % 128 + 128).unwrap());
        number /= 128;
    }
    written.push(u8::try_from(number).unwrap());
    written
}

/// Writes the header block of a request.
pub fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|(name, value)| field(name, value));
    fields.collect()
}

/// Writes the header block of a `GET`.
pub fn get(path: &str) -> Vec<u8> {
    request(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
    ])
}

/// Writes the header block of a gRPC call.
pub fn grpc(path: &str) -> Vec<u8> {
    request(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// Writes a gRPC call with its message.
pub fn call(stream: u32, path: &str, message: &[u8]) -> Vec<u8> {
    let mut out = frame(HEADERS, END_HEADERS, stream, &grpc(path));
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let mut chunks = body.chunks(16 * 1024).peekable();
    while let Some(chunk) = chunks.next() {
        let flags = if chunks.peek().is_none() {
            END_STREAM
        } else {
            0
        };
        push_frame(&mut out, DATA, flags, stream, chunk);
    }
    out
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// How many pings are answered before it is clear that nothing else is.
const PINGS: usize = 5;
/// How long the daemon may take to say anything.
const PATIENCE: Duration = Duration::from_secs(10);
