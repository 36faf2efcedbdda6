//! Clients that make the daemon keep more than they send: with heads, streams, trailers and small chunks.
//!
//! The tests try a few of each, and `benches/hostile.rs` as many as it takes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use keypaird::proto::NewKeyPairSettings;
use prost::Message;

use crate::frames::{
    ACK, DATA, END_HEADERS, Frame, HEADERS, PING, PREFACE, Peer, SETTINGS, WINDOW_UPDATE, call,
    field, frame, grpc, settings_frame,
};

/// Opens HTTP/1.1 connections, each with 400 KB of a head that does not end.
pub fn endless_heads(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let field = format!("x-filler: {}\r\n", "x".repeat(4000));
    let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}", {
        field.repeat(100)
    });
    crowd(address, connections, head.as_bytes())
}

/// A field that refers to the first entry of the dynamic table (RFC 7541, section 6.1 and appendix
/// A).
const INDEXED_62: u8 = 0b1011_1110;

/// Opens HTTP/2 connections with 1,000 calls each, whose heads have 460 fields without anything in them.
pub fn many_fields(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let mut head = grpc("/keypaird.v1.SigningService/Sign");
    // The first is a literal that is indexed, and the others refer to it (RFC 7541, section 6).
    let mut indexed = field("a", "");
    indexed[0] = 0x40;
    let mut first = head.clone();
    first.extend(&indexed);
    head.push(INDEXED_62);
    first.extend([INDEXED_62].repeat(459));
    head.extend([INDEXED_62].repeat(459));
    let asked: Vec<_> = (0..1000)
        .flat_map(|number| {
            let head = if number == 0 { &first } else { &head };
            frame(HEADERS, END_HEADERS, 2 * number + 1, head)
        })
        .collect();
    greeted(address, connections, &[], &asked)
}

/// Opens HTTP/2 connections with so many streams of `SignStream` each that say nothing. They come a
/// hundred at a time, for more than can be begun at once are refused.
pub fn idle_streams(address: SocketAddr, connections: usize, streams: u32) -> Vec<TcpStream> {
    let head = grpc("/keypaird.v1.SigningService/SignStream");
    let open = |_| {
        let mut peer = Peer::greeted(address);
        for number in 0..streams {
            peer.send(&frame(HEADERS, END_HEADERS, 2 * number + 1, &head));
            if number % 100 == 99 && !is_up_to_date(&mut peer) {
                break;
            }
        }
        peer.into_stream()
    };
    (0..connections).map(open).collect()
}

/// Waits until the daemon has read all that was sent. Tells whether the connection is still there.
fn is_up_to_date(peer: &mut Peer) -> bool {
    peer.send(&frame(PING, 0, 0, b"is read?"));
    while let Some(frame) = peer.receive() {
        if frame.kind == PING && frame.flags & ACK != 0 {
            return true;
        }
    }
    false
}

/// Opens HTTP/2 connections with so many calls each that are answered by an error with many details,
/// and reads none.
pub fn unread_errors(address: SocketAddr, connections: usize, calls: u32) -> Vec<TcpStream> {
    let wrong = NewKeyPairSettings {
        common_name: "wrong".into(),
        key_algorithm: "EC".into(),
        subject_alternative_names: (0..24)
            .map(|number| format!("wrong name {number}"))
            .collect(),
        ..NewKeyPairSettings::default()
    };
    let request = keypaird::proto::GenerateSigningKeyPairRequest {
        settings: Some(wrong),
        ..Default::default()
    }
    .encode_to_vec();
    let path = "/keypaird.v1.KeyPairService/GenerateSigningKeyPair";
    let asked: Vec<_> = (0..calls)
        .flat_map(|number| call(2 * number + 1, path, &request))
        .collect();
    greeted(address, connections, &[], &asked)
}

/// Opens HTTP/2 connections with a `SignStream` each that may not send an answer and is sent as much as
/// there is window for, up to a mebibyte: one message that is refused, and then zeros, which are
/// messages without anything in them.
pub fn full_windows(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let open = |_| {
        let mut peer = Peer::silent(address);
        peer.send(PREFACE);
        peer.send(&settings_frame(&[(4, 0)]));
        let mut windows = Windows::default();
        while !windows.acknowledged || windows.connection == INITIAL_WINDOW {
            windows.take(&peer.receive().expect("the daemon greets back"));
        }
        peer.send(&frame(SETTINGS, ACK, 0, &[]));
        let path = "/keypaird.v1.SigningService/SignStream";
        peer.send(&frame(HEADERS, END_HEADERS, 1, &grpc(path)));
        let mut rest = windows.stream.min(windows.connection).min(1024 * 1024);
        while rest > 0 {
            let part = rest.min(16_380);
            peer.send(&frame(DATA, 0, 1, &vec![0; part / 5 * 5]));
            rest -= part;
        }
        peer.into_stream()
    };
    (0..connections).map(open).collect()
}

/// Opens HTTP/1.1 connections with a body in so many chunks of one byte, which does not end.
pub fn small_chunks(address: SocketAddr, connections: usize, chunks: usize) -> Vec<TcpStream> {
    let head = "POST /pf-admin-api/v1/keyPairs/signing/generate HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let request = [head.as_bytes(), &b"1\r\n \r\n".repeat(chunks)].concat();
    crowd(address, connections, &request)
}

/// Opens HTTP/1.1 connections with a part each of a body of four megabytes.
pub fn slow_posters(address: SocketAddr, connections: usize, part: usize) -> Vec<TcpStream> {
    let head = "POST /pf-admin-api/v1/keyPairs/signing/generate HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 4000000\r\n\r\n";
    let request = [head.as_bytes(), &vec![b' '; part]].concat();
    crowd(address, connections, &request)
}

/// Opens connections and sends something on each.
pub fn crowd(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let mut connection = TcpStream::connect(address).unwrap();
        // It may have been ended already.
        let _ = connection.write_all(bytes);
        connection
    };
    (0..count).map(open).collect()
}

/// Tells whether the daemon has closed a connection, whatever it sent before.
pub fn is_closed(mut connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    let mut read = [0; 16 * 1024];
    loop {
        match connection.read(&mut read) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Opens HTTP/2 connections as one should, and sends something on each.
fn greeted(
    address: SocketAddr,
    count: usize,
    settings: &[(u16, u32)],
    bytes: &[u8],
) -> Vec<TcpStream> {
    let open = |_| {
        let mut peer = Peer::greeted_with(address, settings);
        peer.send(bytes);
        peer.into_stream()
    };
    (0..count).map(open).collect()
}

/// How much a client may send.
#[derive(Debug)]
struct Windows {
    stream: usize,
    connection: usize,
    acknowledged: bool,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            stream: INITIAL_WINDOW,
            connection: INITIAL_WINDOW,
            acknowledged: false,
        }
    }
}

impl Windows {
    /// Sees what a frame of the daemon's greeting says about it.
    fn take(&mut self, frame: &Frame) {
        let number = |bytes: &[u8]| {
            usize::try_from(u32::from_be_bytes(bytes[..4].try_into().unwrap())).unwrap()
        };
        match frame.kind {
            SETTINGS if frame.flags & ACK != 0 => {
                self.acknowledged = true;
            }
            SETTINGS => {
                let windows = frame.payload.chunks(6).filter(|one| one[..2] == [0, 4]);
                for window in windows {
                    self.stream = number(&window[2..]);
                }
            }
            WINDOW_UPDATE if frame.stream == 0 => self.connection += number(&frame.payload),
            _ => {}
        }
    }
}

/// RFC 9113, section 6.9.2.
const INITIAL_WINDOW: usize = 65_535;
