//! A plain HTTP client, which takes every answer as one.

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Request};

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

const BODY_LEN_MAX: u64 = 1024 * 1024 * 1024;
