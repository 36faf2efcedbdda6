//! A plain HTTP client, which takes every answer as one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::daemon::Daemon;

/// What the paths of key pairs begin with.
pub const BASE: &str = "/pf-admin-api/v1";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Returns a header field, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends any request.
pub fn send(
    daemon: &Daemon,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .build()
        .into();
    let url = format!("http://{}{path}", daemon.address());
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).unwrap();
    let mut response = agent.run(request).unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response
            .body_mut()
            .with_config()
            .limit(BODY_LEN_MAX)
            .read_to_vec()
            .unwrap(),
    }
}

/// Sends the bytes of one HTTP/1.1 request on a connection of its own, and reads until the daemon
/// closes it. The request should ask for that: `Connection: close`.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    parse(&received)
}

/// Reads an answer of HTTP/1.x whose body ends with the connection.
fn parse(received: &[u8]) -> Answer {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {}", String::from_utf8_lossy(received)));
    let head = std::str::from_utf8(&received[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    Answer {
        status: status.parse().unwrap(),
        headers: headers.collect(),
        body: received[end + 4..].to_vec(),
    }
}

/// Asks for a path below the base path.
pub fn get(daemon: &Daemon, path: &str) -> Answer {
    send(daemon, "GET", &format!("{BASE}{path}"), &[], b"")
}

/// Posts JSON to a path below the base path.
pub fn post(daemon: &Daemon, path: &str, body: &Value) -> Answer {
    let path = format!("{BASE}{path}");
    let json = [("content-type", "application/json")];
    send(daemon, "POST", &path, &json, body.to_string().as_bytes())
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const BODY_LEN_MAX: u64 = 1024 * 1024 * 1024;
