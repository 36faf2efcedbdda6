//! Lists of any length, written page by page as they are read.

use std::future::Future;

use axum::body::Body;
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use crate::service::ServiceError;

/// Some members of an array, each in JSON.
#[derive(Default)]
pub(super) struct Slice(String);

impl<T: Serialize> FromIterator<T> for Slice {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        // Texts are always JSON.
        let members = members.into_iter();
        let members: Vec<_> = members
            .filter_map(|member| serde_json::to_string(&member).ok())
            .collect();
        Self(members.join(","))
    }
}

/// Writes an object with one array in it, whose first slice is there already. `before` is what comes before the
/// first member.
///
/// An error in the middle breaks the connection off, so that half a list is not taken for a whole one.
pub(super) fn array(
    before: &'static str,
    first: Slice,
    rest: impl Stream<Item = Result<Slice, ServiceError>> + Send + 'static,
) -> Body {
    let text = |text: &'static str| stream::once(std::future::ready(Ok(text.to_owned())));
    let members = stream::once(std::future::ready(Ok(first)))
        .chain(rest)
        .enumerate()
        .map(|(number, slice)| {
            slice.map(|slice| match number == 0 || slice.0.is_empty() {
                true => slice.0,
                false => format!(",{}", slice.0),
            })
        });
    Body::from_stream(text(before).chain(members).chain(text("]}")))
}

/// Reads the page of a token, and returns it with the token of the page after it. Nothing follows the last page,
/// nor an error.
pub(super) async fn next<F>(
    page_token: String,
    read: impl FnOnce(String) -> F,
) -> Option<(Result<Slice, ServiceError>, String)>
where
    F: Future<Output = Result<(String, Slice), ServiceError>>,
{
    if page_token.is_empty() {
        return None;
    }
    Some(match read(page_token).await {
        Ok((next, slice)) => (Ok(slice), next),
        Err(error) => (Err(error), String::new()),
    })
}
