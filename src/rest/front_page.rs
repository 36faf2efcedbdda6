//! `GET /`: a page for people who point their browser at the daemon.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::jwks;
use crate::service::{ProviderState, Service};

/// What the page says that does not change while the daemon runs.
#[derive(Clone, Debug)]
pub(super) struct FrontPage {
    /// What the paths of key pairs begin with.
    pub(super) base_path: Arc<str>,
}

impl FrontPage {
    /// Returns the page: version, mode, how the providers are, and where to read on.
    pub(super) fn show(&self, service: &Service) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            // It has no script, and no other page may frame it.
            (header::CONTENT_SECURITY_POLICY, POLICY),
        ];
        (headers, self.text(service)).into_response()
    }

    fn text(&self, service: &Service) -> String {
        let mut providers = String::new();
        for health in service.health() {
            let state = match health.state {
                ProviderState::Serving => "ok",
                _ => "failed",
            };
            // Writing to a text does not fail.
            let _ = write!(
                providers,
                "<tr><th>{}</th><td>{state}: {}</td></tr>",
                health.provider,
                escaped(&health.message)
            );
        }
        let key_pairs = escaped(&format!("{}/keyPairs/signing", self.base_path));
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>keypaird</title><style>{STYLE}</style>\
             <h1>keypaird</h1><p>This daemon manages signing key pairs.\
             <table><tr><th>Version</th><td>{}</td></tr><tr><th>Mode</th><td>{}</td></tr>{providers}</table>\
             <ul><li><a href=/openapi.json>/openapi.json</a> describes the REST API, which is at \
             <code>{key_pairs}</code>\
             <li><a href={jwks}>{jwks}</a> has the public keys of all key pairs\
             <li><a href=/readyz>/readyz</a> and <a href=/healthz>/healthz</a> tell whether the daemon works\
             <li><a href=/metrics>/metrics</a> is for monitoring</ul>\
             <p>gRPC is answered at this port too. <code>keypairctl doctor</code> looks for what is wrong.\n",
            env!("CARGO_PKG_VERSION"),
            service.mode(),
            jwks = jwks::PATH,
        )
    }
}

/// Takes the meaning from the characters that HTML gives one.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// The page has a style of its own, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'none'";
const STYLE: &str = "body{font:16px/1.5 sans-serif;max-width:45em;margin:2em auto;padding:0 1em}\
                     th{text-align:left;padding-right:1em;vertical-align:top}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_message_becomes_html() {
        assert_eq!(
            escaped("<b a=\"'&'\">"),
            "&lt;b a=&quot;&#39;&amp;&#39;&quot;&gt;"
        );
    }
}
