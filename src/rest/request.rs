//! What handlers take from a request: checked bodies, ids and query parameters.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;

use axum::RequestExt;
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http_body_util::LengthLimitError;
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::{Deserialize, Serialize};

use super::api_result::Refused;
use crate::domain::{Refusal, Violations};
use crate::service::ServiceError;

/// A body in JSON, and no query parameters.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Refused;

    async fn from_request(mut request: Request, _: &S) -> Result<Self, Refused> {
        let Query(Nothing {}) = request.extract_parts().await?;
        check_content_type(&request)?;
        let bytes = read(request.with_limited_body().into_body()).await?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let read = serde_path_to_error::deserialize(&mut json);
        let Object(body) = read.map_err(|error| {
            let path = error.path().to_string();
            if let Some(refusal) = too_many(error.inner()) {
                return ServiceError::Invalid(Violations::one(path, refusal)).into();
            }
            let (field, sentence) = explain(error.inner());
            let field = field.unwrap_or(
                match path
                    .chars()
                    .all(|c| c.is_alphanumeric() || "[].".contains(c))
                    && path != "."
                {
                    true => path,
                    false => "body".to_owned(),
                },
            );
            Refused::malformed(field, sentence)
        })?;
        match json.end() {
            Ok(()) => Ok(Self(body)),
            Err(_) => Err(Refused::malformed("body", "has something behind its end")),
        }
    }
}

/// Reads a body into one piece.
///
/// Each frame goes as soon as it is copied: a body in chunks of one byte would take more than a
/// hundred times its length if they were kept.
async fn read(mut body: Body) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| match is_too_large(&error) {
            true => Refused::Http(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is larger than server.max_message_bytes".to_owned(),
            ),
            false => Refused::malformed("body", "was broken off"),
        })?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// Tells whether a body could not be read because it is larger than it may be.
fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What is written as an object, and not as an array: whose elements serde would take for the fields, in their order.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::<T>(PhantomData);
        deserializer.deserialize_map(fields).map(Self)
    }
}

/// Reads the fields of an object.
struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// A list of texts, of which no more are kept than there may be.
pub(super) struct Names(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Names, A::Error> {
        let mut names = Vec::new();
        while names.len() < NAMES_MAX {
            match elements.next_element()? {
                Some(name) => names.push(name),
                None => return Ok(Names(names)),
            }
        }
        let mut found = NAMES_MAX;
        while elements.next_element::<IgnoredAny>()?.is_some() {
            found += 1;
        }
        match found {
            NAMES_MAX => Ok(Names(names)),
            found => Err(A::Error::custom(format_args!("{TOO_MANY}{found}"))),
        }
    }
}

/// A whole number, in any form that JSON has for it: `365`, `365.0`, `3.65e2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Whole(pub(super) i32);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WHOLE)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Whole, E> {
        let refused = |_| E::invalid_value(Unexpected::Signed(number), &self);
        i32::try_from(number).map(Whole).map_err(refused)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole, E> {
        let refused = |_| E::invalid_value(Unexpected::Unsigned(number), &self);
        i32::try_from(number).map(Whole).map_err(refused)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole, E> {
        let refused = || E::invalid_value(Unexpected::Float(number), &self);
        if number.fract() != 0.0 {
            return Err(refused());
        }
        let digits = format!("{number:.0}").parse();
        digits.map(Whole).map_err(|_| refused())
    }
}

/// What a whole number must be.
const WHOLE: &str = "a whole number from 0 to 2147483647";

/// Returns the refusal of a list that is too long, when that is what is wrong.
fn too_many(error: &serde_json::Error) -> Option<Refusal> {
    let said = error.to_string();
    let found = said.strip_prefix(TOO_MANY)?.split(' ').next()?;
    Some(Refusal::new(format!(
        "{found} names were given; at most {NAMES_MAX} are allowed"
    )))
}

const NAMES_MAX: usize = 1000;
/// How the error of a list that is too long begins. How many elements it has is behind it.
const TOO_MANY: &str = "too many elements: ";

/// Says what is wrong, and with which field when the path of the error does not tell. The value is not repeated: it
/// may be a password.
fn explain(error: &serde_json::Error) -> (Option<String>, String) {
    let said = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let said = said.strip_suffix(&place).unwrap_or(&said);
    if error.classify() != serde_json::error::Category::Data {
        return (Some("body".to_owned()), format!("is not JSON{place}"));
    }
    wanted(said)
}

/// Says what is allowed, from the words of serde, and of which field when these tell.
fn wanted(said: &str) -> (Option<String>, String) {
    if let Some(field) = said.strip_prefix("duplicate field ") {
        let field = field.trim_matches('`').to_owned();
        return (Some(field), "is given twice".to_owned());
    }
    let sentence = match said.strip_prefix("unknown field ") {
        Some(unknown) => match unknown.split_once(", expected ") {
            Some((_, known)) => format!("is unknown; must be {known}"),
            None => "is unknown; this path takes no parameters".to_owned(),
        },
        None => match said.split_once(", expected ").map(|(_, wanted)| wanted) {
            Some("i32" | "u32") | None => format!("must be {WHOLE}"),
            Some(wanted) => format!("must be {wanted}"),
        },
    };
    (None, sentence)
}

fn check_content_type(request: &Request) -> Result<(), Refused> {
    let refused = |message: &str| {
        Err(Refused::Http(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            message.to_owned(),
        ))
    };
    let encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
    if encodings
        .map(|encoding| encoding.to_str().unwrap_or("?"))
        .flat_map(|encodings| encodings.split(','))
        .any(|encoding| !encoding.trim().eq_ignore_ascii_case("identity"))
    {
        return refused(
            "the body must not be compressed; send it without the header Content-Encoding",
        );
    }
    let Some(content_type) = request.headers().get(header::CONTENT_TYPE) else {
        return refused("the content type must be application/json, and is missing");
    };
    let content_type = content_type
        .to_str()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut parts = content_type.split(';').map(str::trim);
    if parts.next() != Some("application/json") {
        return refused("the content type must be application/json");
    }
    let charset = parts.find_map(|part| part.strip_prefix("charset="));
    match charset.map(|charset| charset.trim_matches('"')) {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(()),
        Some(_) => refused("the charset must be utf-8"),
    }
}

/// The id in the path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        let id = id.map_err(|_| Refused::malformed("id", "is not UTF-8, percent-encoded"))?;
        Ok(Self(id.0))
    }
}

/// The query parameters that a path knows, none of them twice.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        read_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// The query parameters that a path knows, and any number of `label=KEY=VALUE`.
pub(super) struct Labelled<T>(pub(super) T, pub(super) BTreeMap<String, String>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Labelled<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let query = parts.uri.query().unwrap_or_default();
        let mut labels = BTreeMap::new();
        let mut others = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name != LABEL {
                others.append_pair(&name, &value);
                continue;
            }
            let (key, value) = value
                .split_once('=')
                .ok_or_else(|| Refused::malformed(LABEL, "must be KEY=VALUE, percent-encoded"))?;
            let known = labels.insert(key.to_owned(), value.to_owned());
            if known.is_some_and(|known| known != value) {
                let sentence = "asks for two values of one key, which no key pair has";
                return Err(Refused::malformed(LABEL, sentence));
            }
        }
        read_query(&others.finish()).map(|others| Self(others, labels))
    }
}

fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Refused> {
    let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let (field, sentence) = wanted(&error.inner().to_string());
        Refused::malformed(field.unwrap_or(error.path().to_string()), sentence)
    })
}

/// The parameter that asks for key pairs with a label.
pub(super) const LABEL: &str = "label";

/// Takes no query parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Reads a file in a field: base64 in either alphabet, with or without padding, or PEM as it is.
pub(super) fn file_data(field: &'static str, text: &str) -> Result<Vec<u8>, Refused> {
    if text.contains("-----BEGIN ") {
        return Ok(text.as_bytes().to_vec());
    }
    let compact: String = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    BASE64
        .decode(compact)
        .map_err(|_| Refused::malformed(field, "must be base64, or PEM"))
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        number: i32,
        inner: Option<Object<Inner>>,
    }

    #[derive(Deserialize)]
    struct Inner {
        name: String,
    }

    /// Returns the number and the name, or where something is wrong, and what.
    fn read(text: &str) -> Result<(i32, Option<String>), (String, String)> {
        let mut json = serde_json::Deserializer::from_str(text);
        let read = serde_path_to_error::deserialize(&mut json);
        let Object(Outer { number, inner }) =
            read.map_err(|error| (error.path().to_string(), explain(error.inner()).1))?;
        Ok((number, inner.map(|Object(Inner { name })| name)))
    }

    #[test]
    fn fields_are_told_by_their_names_and_never_by_their_places() {
        assert_eq!(read(r#"{"number": 7}"#), Ok((7, None)));
        assert_eq!(read(r#"{"number": 7, "inner": null}"#), Ok((7, None)));
        let whole = r#"{"inner": {"name": "x"}, "number": 7}"#;
        assert_eq!(read(whole), Ok((7, Some("x".to_owned()))));
        for (text, path, sentence) in [
            (r#"[7, {"name": "x"}]"#, ".", "must be an object"),
            ("7", ".", "must be an object"),
            (
                r#"{"number": 7, "inner": ["x"]}"#,
                "inner",
                "must be an object",
            ),
            (
                r#"{"number": 7, "inner": "x"}"#,
                "inner",
                "must be an object",
            ),
            (
                r#"{"number": 7, "inner": {"name": 1}}"#,
                "inner.name",
                "must be a string",
            ),
        ] {
            let wrong = Err((path.to_owned(), sentence.to_owned()));
            assert_eq!(read(text), wrong, "{text}");
        }
    }

    #[test]
    fn of_a_list_that_is_too_long_no_more_is_kept_than_there_may_be() {
        #[derive(Deserialize)]
        struct Body {
            names: Option<Names>,
        }
        let read = |count: usize| {
            let text = format!(r#"{{"names": [{}]}}"#, vec![r#""""#; count].join(","));
            let mut json = serde_json::Deserializer::from_str(&text);
            let read = serde_path_to_error::deserialize::<_, Body>(&mut json);
            read.map(|body| body.names.map(|Names(names)| names.len()))
                .map_err(|error| {
                    let refusal = too_many(error.inner()).unwrap().to_string();
                    (error.path().to_string(), refusal)
                })
        };
        assert_eq!(read(0), Ok(Some(0)));
        assert_eq!(read(1000), Ok(Some(1000)));
        for count in [1001, 200_000] {
            let refusal = format!("{count} names were given; at most 1000 are allowed");
            assert_eq!(read(count), Err(("names".to_owned(), refusal)));
        }
        for (text, wanted) in [
            (r#"{"names": null}"#, None),
            (r#"{"names": {}}"#, Some("must be a sequence")),
            (r#"{"names": [1]}"#, Some("must be a string")),
        ] {
            let mut json = serde_json::Deserializer::from_str(text);
            let read = serde_path_to_error::deserialize::<_, Body>(&mut json);
            let said = read.err().map(|error| explain(error.inner()).1);
            assert_eq!(said.as_deref(), wanted, "{text}");
        }
    }
}
