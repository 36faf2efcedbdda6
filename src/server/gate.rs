//! What keeps web pages out: every request names a host of ours, and comes from no page.
//!
//! A caller on this machine is admitted without more, and so is a browser on this machine, which
//! sends what any page tells it to. The browser says that a page asks: by `Origin`, by
//! `Sec-Fetch-Site`, and by the name that the page was called by.

use std::sync::Arc;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{Method, Request, Version};

use super::hosts::{Hosts, NotOurs};
use crate::rest;
use crate::service::ServiceError;

/// Decides which requests are answered.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    /// None where any host will do: no name leads to a Unix socket.
    hosts: Option<Arc<Hosts>>,
    /// The origins whose pages may read the public keys, as browsers send them.
    origins: Arc<[String]>,
}

/// How a request is let in.
#[derive(Debug)]
pub(super) enum Admission {
    /// As that of any program.
    Program,
    /// As that of a page of this origin, which may read the answer.
    Page(HeaderValue),
    /// As the question whether a page of this origin may ask.
    Preflight(HeaderValue),
}

impl Gate {
    /// Takes the names that are ours, and the origins of `rest.cors_origins`.
    pub(super) fn new(hosts: Arc<Hosts>, origins: Vec<String>) -> Self {
        Self {
            hosts: Some(hosts),
            origins: origins.into(),
        }
    }

    /// Returns the one of connections that do not come over the network, which accepts any host.
    pub(super) fn of_unix_socket(&self) -> Self {
        Self {
            hosts: None,
            origins: Arc::clone(&self.origins),
        }
    }

    /// Lets a request in, or refuses it.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<Admission, ServiceError> {
        check_host(self.hosts.as_deref(), request)?;
        self.check_page(request)
    }

    /// Lets requests of no page in, and of listed origins those that read the public keys.
    ///
    /// `Sec-Fetch-Site` is `none` where a person typed the address. Our front page has no script,
    /// so that `same-origin` is no better than the others, unless a person follows one of its
    /// links: then the browser shows the answer as a page of its own, which no other page can read.
    fn check_page<B>(&self, request: &Request<B>) -> Result<Admission, ServiceError> {
        let headers = request.headers();
        let mut origins = headers.get_all(ORIGIN).iter();
        if let Some(origin) = origins.next() {
            let is_listed = |listed: &String| listed.as_bytes() == origin.as_bytes();
            let may_read = origins.next().is_none()
                && rest::is_public(request.uri().path())
                && self.origins.iter().any(is_listed);
            return match *request.method() {
                Method::GET | Method::HEAD if may_read => Ok(Admission::Page(origin.clone())),
                Method::OPTIONS
                    if may_read && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) =>
                {
                    Ok(Admission::Preflight(origin.clone()))
                }
                _ => Err(foreign_page("Origin", origin)),
            };
        }
        let sites = headers.get_all(SEC_FETCH_SITE);
        match sites.iter().find(|site| *site != "none") {
            None => Ok(Admission::Program),
            Some(site) if site == "same-origin" && follows_a_link(request) => {
                Ok(Admission::Program)
            }
            Some(site) => Err(foreign_page("Sec-Fetch-Site", site)),
        }
    }
}

/// Tells whether a person follows a link of the front page, to a page of its own.
fn follows_a_link<B>(request: &Request<B>) -> bool {
    let says = |name, value: &str| {
        let mut said = request.headers().get_all(name).iter();
        said.next().is_some_and(|said| said == value) && said.next().is_none()
    };
    *request.method() == Method::GET
        && rest::is_linked(request.uri().path())
        && says(SEC_FETCH_SITE, "same-origin")
        && says(SEC_FETCH_MODE, "navigate")
        && says(SEC_FETCH_DEST, "document")
}

fn foreign_page(name: &str, value: &HeaderValue) -> ServiceError {
    ServiceError::ForeignPage(format!("{name}: {}", shown(value.as_bytes())))
}

/// Checks the target's authority and `Host`: there is one, and each that is there is ours. Where
/// any host will do, there are no names of ours to compare with.
///
/// # Source
/// RFC 9112, section 3.2: HTTP/1.1 has exactly one `Host`; RFC 9113, section 8.3.1: HTTP/2 has
/// `:authority`, and may have `Host`. HTTP/1.0 needs none, and no browser speaks it.
fn check_host<B>(hosts: Option<&Hosts>, request: &Request<B>) -> Result<(), ServiceError> {
    let mut named = request.headers().get_all(HOST).iter();
    let (host, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(malformed("must be given once"));
    }
    let authority = request.uri().authority();
    let is_missing = match request.version() {
        Version::HTTP_11 => host.is_none(),
        Version::HTTP_2 => host.is_none() && authority.is_none(),
        _ => false,
    };
    if is_missing {
        return Err(malformed("is required"));
    }
    let Some(hosts) = hosts else {
        return Ok(());
    };
    let authority = authority.map(|authority| authority.as_str().as_bytes());
    for host in authority.into_iter().chain(host.map(HeaderValue::as_bytes)) {
        let text = std::str::from_utf8(host).unwrap_or_default();
        match hosts.check(text) {
            Ok(()) => {}
            Err(NotOurs::Malformed) => return Err(malformed("must be a name or an IP address")),
            Err(NotOurs::Other(name)) => {
                return Err(ServiceError::WrongHost(shown(name.as_bytes())));
            }
        }
    }
    Ok(())
}

fn malformed(sentence: &'static str) -> ServiceError {
    ServiceError::malformed("Host", sentence)
}

/// Returns the beginning of what a caller sent, which is enough to recognise it.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().take(SHOWN_MAX).collect()
}

/// Fetch Metadata Request Headers, section 2.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// How many characters a DNS name has at most.
const SHOWN_MAX: usize = 253;
