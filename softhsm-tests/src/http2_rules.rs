//! The rules of HTTP/2 (RFC 9113) and HPACK (RFC 7541) that a peer may break, and what has to come of each.

use crate::frames::{
    ACK, CONTINUATION, Code, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PADDED, PING,
    PREFACE, PRIORITY, PUSH_PROMISE, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, field, frame,
    get, grpc, integer, request, settings_frame,
};

/// Something that a peer does on a connection that began as it should, and what may come of it.
pub struct Case {
    /// Where it is written.
    pub section: &'static str,
    /// What it is.
    pub name: &'static str,
    /// What is sent.
    pub bytes: Vec<u8>,
    /// What may come of it.
    pub allowed: Vec<Outcome>,
}

impl Case {
    /// Does it at a daemon, and tells what came of it.
    pub fn run(&self, address: std::net::SocketAddr) -> Outcome {
        let mut peer = Peer::greeted(address);
        peer.send(&self.bytes);
        peer.outcome()
    }
}

/// All that is tried.
pub fn cases() -> Vec<Case> {
    let mut cases = frame_cases();
    cases.extend(stream_cases());
    cases.extend(field_cases());
    cases
}

/// A connection error of this kind. `PROTOCOL_ERROR` is the name for all errors without another (section 7), and what h2, the
/// library below hyper, calls many that have one: the connection is ended all the same.
fn connection(code: Code) -> Vec<Outcome> {
    vec![Outcome::Goodbye(code), Outcome::Goodbye(Code::Protocol)]
}

/// A stream error of this kind, which a server may treat as a connection error (section 5.4.2).
fn stream(code: Code) -> Vec<Outcome> {
    [vec![Outcome::Reset(code)], connection(code)].concat()
}

/// An answer of any status, or a stream error: a malformed request (section 8.1.1).
fn malformed() -> Vec<Outcome> {
    let mut allowed = stream(Code::Protocol);
    allowed.push(Outcome::Answered);
    allowed
}

fn case(
    section: &'static str,
    name: &'static str,
    frames: &[Vec<u8>],
    allowed: Vec<Outcome>,
) -> Case {
    Case {
        section,
        name,
        bytes: frames.concat(),
        allowed,
    }
}

/// A call that waits for its message, and for ever if need be.
fn open(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS,
        stream,
        &grpc("/keypaird.v1.SigningService/Sign"),
    )
}

/// A call whose message was sent, and that is answered for ever.
fn watching(stream: u32) -> Vec<u8> {
    call(stream, "/keypaird.v1.EventService/WatchKeyPairs", b"")
}

/// A request that is whole.
fn asking(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

fn frame_cases() -> Vec<Case> {
    let setting = |name, value| settings_frame(&[(name, value)]);
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    vec![
        case(
            "4.1",
            "a frame of an unknown type",
            &[frame(0x16, 0, 0, b"what is it")],
            vec![Outcome::Ignored],
        ),
        case(
            "4.1",
            "undefined flags",
            &[frame(PING, 0x16, 0, b"12345678")],
            vec![Outcome::Ignored],
        ),
        case(
            "4.1",
            "a reserved bit",
            &[frame(PING, 0, 1 << 31, b"12345678")],
            vec![Outcome::Ignored],
        ),
        case(
            "4.2",
            "DATA longer than SETTINGS_MAX_FRAME_SIZE",
            &[open(1), frame(DATA, 0, 1, &vec![0; 16_385])],
            stream(Code::FrameSize),
        ),
        case(
            "4.2",
            "HEADERS longer than SETTINGS_MAX_FRAME_SIZE",
            &[frame(HEADERS, END_HEADERS, 1, &vec![0x82; 16_385])],
            connection(Code::FrameSize),
        ),
        case(
            "4.3",
            "PRIORITY within a header block",
            &[
                frame(HEADERS, 0, 1, &get("/healthz")),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]),
            ],
            connection(Code::Protocol),
        ),
        case(
            "4.3",
            "HEADERS of another stream within a header block",
            &[
                frame(HEADERS, 0, 1, &get("/healthz")),
                asking(3, &get("/healthz")),
            ],
            connection(Code::Protocol),
        ),
        case(
            "5.5",
            "an unknown frame within a header block",
            &[
                frame(HEADERS, 0, 1, &get("/healthz")),
                frame(0x16, 0, 0, b"what is it"),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ],
            connection(Code::Protocol),
        ),
        case(
            "6.1",
            "DATA on stream 0",
            &[frame(DATA, 0, 0, b"data")],
            connection(Code::Protocol),
        ),
        case(
            "6.1",
            "DATA with more padding than payload",
            &[open(1), frame(DATA, PADDED, 1, b"\x10data")],
            connection(Code::Protocol),
        ),
        case(
            "6.2",
            "HEADERS on stream 0",
            &[asking(0, &get("/healthz"))],
            connection(Code::Protocol),
        ),
        case(
            "6.2",
            "HEADERS with more padding than payload",
            &[frame(HEADERS, END_HEADERS | PADDED, 1, b"\x20\x82\x86\x84")],
            connection(Code::Protocol),
        ),
        case(
            "6.3",
            "PRIORITY on stream 0",
            &[frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 7])],
            connection(Code::Protocol),
        ),
        case(
            "6.3",
            "PRIORITY of four bytes",
            &[open(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 3])],
            stream(Code::FrameSize),
        ),
        case(
            "5.3",
            "PRIORITY of a stream on itself",
            &[frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 7])],
            // RFC 7540 has a stream error; RFC 9113 has the frame ignored.
            [vec![Outcome::Ignored], stream(Code::Protocol)].concat(),
        ),
        case(
            "6.4",
            "RST_STREAM on stream 0",
            &[frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])],
            connection(Code::Protocol),
        ),
        case(
            "6.4",
            "RST_STREAM of three bytes",
            &[open(1), frame(RST_STREAM, 0, 1, &[0, 0, 0])],
            connection(Code::FrameSize),
        ),
        case(
            "6.5",
            "SETTINGS with ACK and a payload",
            &[frame(SETTINGS, ACK, 0, &[0; 6])],
            connection(Code::FrameSize),
        ),
        case(
            "6.5",
            "SETTINGS on a stream",
            &[frame(SETTINGS, 0, 1, &[])],
            connection(Code::Protocol),
        ),
        case(
            "6.5",
            "SETTINGS of three bytes",
            &[frame(SETTINGS, 0, 0, &[0; 3])],
            connection(Code::FrameSize),
        ),
        case(
            "6.5.2",
            "SETTINGS_ENABLE_PUSH of 2",
            &[setting(2, 2)],
            connection(Code::Protocol),
        ),
        case(
            "6.5.2",
            "SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1",
            &[setting(4, 1 << 31)],
            connection(Code::FlowControl),
        ),
        case(
            "6.5.2",
            "SETTINGS_MAX_FRAME_SIZE under 2^14",
            &[setting(5, 16_383)],
            connection(Code::Protocol),
        ),
        case(
            "6.5.2",
            "SETTINGS_MAX_FRAME_SIZE over 2^24-1",
            &[setting(5, 1 << 24)],
            connection(Code::Protocol),
        ),
        case(
            "6.5.2",
            "an unknown setting",
            &[setting(0x99, 1)],
            vec![Outcome::Ignored],
        ),
        case(
            "6.6",
            "PUSH_PROMISE from a client",
            &[
                open(1),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            ],
            connection(Code::Protocol),
        ),
        case(
            "6.7",
            "PING on a stream",
            &[frame(PING, 0, 1, b"12345678")],
            connection(Code::Protocol),
        ),
        case(
            "6.7",
            "PING of six bytes",
            &[frame(PING, 0, 0, b"123456")],
            connection(Code::FrameSize),
        ),
        case(
            "6.7",
            "an answer to no PING",
            &[frame(PING, ACK, 0, b"12345678")],
            vec![Outcome::Ignored],
        ),
        case(
            "6.8",
            "GOAWAY on a stream",
            &[frame(GOAWAY, 0, 1, &[0; 8])],
            connection(Code::Protocol),
        ),
        case(
            "6.9",
            "WINDOW_UPDATE by 0",
            &[update(0, 0)],
            connection(Code::Protocol),
        ),
        case(
            "6.9",
            "WINDOW_UPDATE of a stream by 0",
            &[open(1), update(1, 0)],
            stream(Code::Protocol),
        ),
        case(
            "6.9",
            "WINDOW_UPDATE of three bytes",
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            connection(Code::FrameSize),
        ),
        case(
            "6.9.1",
            "a window over 2^31-1",
            &[update(0, 0x7fff_ffff)],
            connection(Code::FlowControl),
        ),
        case(
            "6.9.1",
            "a window of a stream over 2^31-1",
            &[open(1), update(1, 0x7fff_ffff)],
            stream(Code::FlowControl),
        ),
        case(
            "6.9.2",
            "SETTINGS that take a stream's window over 2^31-1",
            &[open(1), update(1, 0x7fff_0000), setting(4, 0x7fff_ffff)],
            connection(Code::FlowControl),
        ),
        case(
            "6.10",
            "CONTINUATION without a header block",
            &[frame(CONTINUATION, END_HEADERS, 1, &get("/healthz"))],
            connection(Code::Protocol),
        ),
        case(
            "6.10",
            "CONTINUATION behind a whole header block",
            &[
                open(1),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")),
            ],
            connection(Code::Protocol),
        ),
        case(
            "6.10",
            "CONTINUATION on stream 0",
            &[
                frame(HEADERS, 0, 1, &get("/healthz")),
                frame(CONTINUATION, END_HEADERS, 0, &field("a", "b")),
            ],
            connection(Code::Protocol),
        ),
        case(
            "6.10",
            "a header block in several frames",
            &{
                let block = get("/healthz");
                let mut frames = vec![frame(HEADERS, END_STREAM, 1, &block[..1])];
                let parts = block[1..]
                    .chunks(block.len() / 3)
                    .map(|part| frame(CONTINUATION, 0, 1, part));
                frames.extend(parts);
                frames.push(frame(CONTINUATION, END_HEADERS, 1, b""));
                frames
            },
            vec![Outcome::Answered, Outcome::Ignored],
        ),
    ]
}

fn stream_cases() -> Vec<Case> {
    vec![
        case(
            "5.1",
            "DATA on an idle stream",
            &[frame(DATA, END_STREAM, 1, b"data")],
            connection(Code::Protocol),
        ),
        case(
            "5.1",
            "RST_STREAM on an idle stream",
            &[frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            connection(Code::Protocol),
        ),
        case(
            "5.1",
            "WINDOW_UPDATE on an idle stream",
            &[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100])],
            connection(Code::Protocol),
        ),
        case(
            "5.1",
            "DATA behind END_STREAM",
            &[watching(1), frame(DATA, END_STREAM, 1, b"data")],
            stream(Code::StreamClosed),
        ),
        case(
            "5.1",
            "HEADERS behind END_STREAM",
            &[watching(1), asking(1, &get("/healthz"))],
            stream(Code::StreamClosed),
        ),
        case(
            "5.1",
            "CONTINUATION behind END_STREAM",
            &[watching(1), frame(CONTINUATION, END_HEADERS, 1, b"")],
            [stream(Code::StreamClosed), connection(Code::Protocol)].concat(),
        ),
        case(
            "5.1",
            "DATA behind RST_STREAM",
            &[
                open(1),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(DATA, 0, 1, b"data"),
            ],
            // What was on its way is to be borne with.
            [vec![Outcome::Ignored], stream(Code::StreamClosed)].concat(),
        ),
        case(
            "5.1",
            "WINDOW_UPDATE and RST_STREAM behind END_STREAM",
            &[
                watching(1),
                frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100]),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            ],
            vec![Outcome::Ignored],
        ),
        case(
            "5.1.1",
            "a stream of an even number",
            &[asking(2, &get("/healthz"))],
            connection(Code::Protocol),
        ),
        case(
            "5.1.1",
            "a stream of a number below the last",
            &[open(5), asking(3, &get("/healthz"))],
            [connection(Code::Protocol), stream(Code::StreamClosed)].concat(),
        ),
        case(
            "5.1.2",
            "more streams than SETTINGS_MAX_CONCURRENT_STREAMS",
            &(0..1025)
                .map(|number| open(2 * number + 1))
                .collect::<Vec<_>>(),
            [stream(Code::RefusedStream), stream(Code::Protocol)].concat(),
        ),
        case(
            "8.1",
            "trailers without END_STREAM",
            &[open(1), frame(HEADERS, END_HEADERS, 1, &field("a", "b"))],
            malformed(),
        ),
        case(
            "8.1.1",
            "less DATA than content-length says",
            &[
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[
                        grpc("/keypaird.v1.SigningService/Sign"),
                        field("content-length", "9"),
                    ]
                    .concat(),
                ),
                frame(DATA, END_STREAM, 1, b"data"),
            ],
            malformed(),
        ),
    ]
}

fn field_cases() -> Vec<Case> {
    let asked = |fields: &[(&str, &str)]| asking(1, &request(fields));
    let with = |name, value| asking(1, &[get("/healthz"), field(name, value)].concat());
    let block = |block: &[u8]| asking(1, &[get("/healthz"), block.to_vec()].concat());
    let large = "x".repeat(4000);
    vec![
        case(
            "8.2.1",
            "a field name in upper case",
            &[with("X-Name", "value")],
            stream(Code::Protocol),
        ),
        case(
            "8.2.1",
            "a line break in a value",
            &[with("x-name", "one\r\ntwo")],
            malformed(),
        ),
        case(
            "8.2.2",
            "a field of the connection",
            &[with("connection", "keep-alive")],
            malformed(),
        ),
        case(
            "8.2.2",
            "TE with more than trailers",
            &[with("te", "trailers, deflate")],
            malformed(),
        ),
        case(
            "8.3",
            "an unknown pseudo-header field",
            &[with(":name", "value")],
            stream(Code::Protocol),
        ),
        case(
            "8.3",
            "a pseudo-header field of a response",
            &[with(":status", "200")],
            malformed(),
        ),
        case(
            "8.3",
            "a pseudo-header field behind a field",
            &[asked(&[
                (":method", "GET"),
                (":scheme", "http"),
                ("x-name", "value"),
                (":path", "/healthz"),
            ])],
            malformed(),
        ),
        case(
            "8.3",
            "a pseudo-header field in trailers",
            &[open(1), asking(1, &field(":path", "/healthz"))],
            malformed(),
        ),
        case(
            "8.3.1",
            "no :method",
            &[asked(&[(":scheme", "http"), (":path", "/healthz")])],
            malformed(),
        ),
        case(
            "8.3.1",
            "no :path",
            &[asked(&[(":method", "GET"), (":scheme", "http")])],
            malformed(),
        ),
        case(
            "8.3.1",
            "an empty :path",
            &[asked(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", ""),
            ])],
            malformed(),
        ),
        case(
            "8.3.1",
            "two of :path",
            &[with(":path", "/healthz")],
            malformed(),
        ),
        case(
            "10.5.1",
            "more fields than SETTINGS_MAX_HEADER_LIST_SIZE",
            &[
                frame(
                    HEADERS,
                    END_STREAM,
                    1,
                    &[get("/healthz"), field("a", &large)].concat(),
                ),
                frame(CONTINUATION, 0, 1, &field("b", &large)),
                frame(CONTINUATION, 0, 1, &field("c", &large)),
                frame(CONTINUATION, 0, 1, &field("d", &large)),
                frame(CONTINUATION, END_HEADERS, 1, &field("e", &large)),
            ],
            [malformed(), stream(Code::EnhanceYourCalm)].concat(),
        ),
        case(
            "7541 2.3.3",
            "an index of 0",
            &[block(&[0x80])],
            connection(Code::Compression),
        ),
        case(
            "7541 2.3.3",
            "an index beyond the tables",
            &[block(&[0xff, 0x7f])],
            connection(Code::Compression),
        ),
        case(
            "7541 5.1",
            "an integer without end",
            &[block(&[0xff; 40])],
            connection(Code::Compression),
        ),
        case(
            "7541 5.2",
            "a text longer than the block",
            &[block(&[0x00, 0x7e, b'a'])],
            connection(Code::Compression),
        ),
        case(
            "7541 5.2",
            "Huffman code padded with zeros",
            &[block(&[
                0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0x00, 0x01, b'a',
            ])],
            connection(Code::Compression),
        ),
        case(
            "7541 5.2",
            "Huffman code with an end-of-string symbol",
            &[block(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'a'])],
            connection(Code::Compression),
        ),
        case(
            "7541 6.3",
            "a table larger than SETTINGS_HEADER_TABLE_SIZE",
            &[asking(
                1,
                &[vec![0x3f, 0xff, 0xff, 0x03], get("/healthz")].concat(),
            )],
            connection(Code::Compression),
        ),
        case(
            "7541 4.2",
            "a change of the table's size behind a field",
            &[block(&[0x20])],
            connection(Code::Compression),
        ),
        case(
            "7541 7",
            "a small block that stands for many megabytes",
            &{
                // A field of 4000 bytes for the dynamic table, and that again and again.
                let mut bomb = get("/healthz");
                bomb.extend(b"\x40\x01a");
                bomb.extend(integer(3900, 7));
                bomb.extend([b'x'; 3900]);
                bomb.extend([0xbe; 12_000]);
                [asking(1, &bomb)]
            },
            [malformed(), stream(Code::EnhanceYourCalm)].concat(),
        ),
    ]
}

/// What a connection may begin with that is no HTTP/2, and has to be closed for it (section 3.4).
pub fn bad_beginnings() -> Vec<(&'static str, Vec<u8>)> {
    let mut other = PREFACE.to_vec();
    other[20..].copy_from_slice(b"\r\r\r\r");
    vec![
        ("another preface", other),
        (
            "a preface and then another frame than SETTINGS",
            [PREFACE.to_vec(), frame(PING, 0, 1, b"12345678")].concat(),
        ),
        (
            "a preface and then random bytes",
            [PREFACE.to_vec(), vec![0xa5; 64]].concat(),
        ),
        (
            "TLS where there is none",
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7, 7, 7],
        ),
    ]
}
