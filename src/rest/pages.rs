//! Lists of any length, written as they are taken: a few key pairs are in memory at a time, however
//! long the list is.

use std::future::Future;

use axum::body::Body;
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use crate::service::ServiceError;

/// Members of an array, each of which becomes JSON when its turn comes.
pub(super) struct Members(Box<dyn Iterator<Item = String> + Send>);

impl Members {
    /// Takes values that become members.
    pub(super) fn of<T, M>(values: Vec<T>, member: impl Fn(T) -> M + Send + 'static) -> Self
    where
        T: Send + 'static,
        M: Serialize,
    {
        let members = values.into_iter().filter_map(move |value| {
            // Texts are always JSON.
            serde_json::to_string(&member(value)).ok()
        });
        Self(Box::new(members))
    }

    /// Writes some members, separated by commas. Empty after the last one.
    fn next_chunk(&mut self) -> String {
        let mut chunk = String::new();
        for member in self.0.by_ref() {
            if !chunk.is_empty() {
                chunk.push(',');
            }
            chunk.push_str(&member);
            if chunk.len() >= CHUNK_BYTES {
                break;
            }
        }
        chunk
    }
}

/// Writes an object with one array in it, whose first members are there already. `before` is what
/// comes before the
/// first member.
///
/// An error in the middle breaks the connection off, so that half a list is not taken for a whole one.
pub(super) fn array(
    before: &'static str,
    first: Members,
    rest: impl Stream<Item = Result<Members, ServiceError>> + Send + 'static,
) -> Body {
    let text = |text: &'static str| stream::once(std::future::ready(Ok(text.to_owned())));
    let writing = (Some(first), Box::pin(rest));
    let chunks = stream::unfold(writing, |(mut members, mut rest)| async {
        loop {
            let chunk = members.as_mut().map(Members::next_chunk);
            if let Some(chunk) = chunk.filter(|chunk| !chunk.is_empty()) {
                return Some((Ok(chunk), (members, rest)));
            }
            match rest.next().await? {
                Ok(more) => members = Some(more),
                Err(error) => return Some((Err(error), (None, rest))),
            }
        }
    });
    let separated = chunks.enumerate().map(|(number, chunk)| {
        chunk.map(|chunk| match number {
            0 => chunk,
            _ => format!(",{chunk}"),
        })
    });
    Body::from_stream(text(before).chain(separated).chain(text("]}")))
}

/// Reads the page of a token, and returns it with the token of the page after it. Nothing follows the last page,
/// nor an error.
pub(super) async fn next<T, F>(
    page_token: String,
    read: impl FnOnce(String) -> F,
) -> Option<(Result<T, ServiceError>, String)>
where
    F: Future<Output = Result<(String, T), ServiceError>>,
{
    if page_token.is_empty() {
        return None;
    }
    Some(match read(page_token).await {
        Ok((next, page)) => (Ok(page), next),
        Err(error) => (Err(error), String::new()),
    })
}

/// How many bytes of key pairs are read at a time: as long as a client takes nothing, they are kept
/// for it.
pub(super) const READ_BYTES: usize = 128 * 1024;
/// How many bytes of JSON are written at a time.
const CHUNK_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(lists: Vec<Result<Vec<usize>, ServiceError>>) -> Result<String, axum::Error> {
        let mut pages = lists
            .into_iter()
            .map(|list| list.map(|numbers| Members::of(numbers, |number| number)));
        let first = pages.next().unwrap().unwrap();
        let rest = stream::iter(pages.collect::<Vec<_>>());
        let body = array(r#"{"items":["#, first, rest);
        let bytes = axum::body::to_bytes(body, usize::MAX).await?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn members_are_separated_wherever_pages_and_chunks_end() {
        let ok = |numbers: &[usize]| Ok(numbers.to_vec());
        for (lists, expected) in [
            (vec![ok(&[])], r#"{"items":[]}"#),
            (vec![ok(&[1, 2])], r#"{"items":[1,2]}"#),
            (
                vec![ok(&[]), ok(&[1]), ok(&[]), ok(&[2, 3])],
                r#"{"items":[1,2,3]}"#,
            ),
        ] {
            assert_eq!(written(lists).await.unwrap(), expected);
        }
        let many: Vec<_> = (0..20_000).collect();
        let text = written(vec![Ok(many.clone())]).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["items"].as_array().unwrap().len(), many.len());
    }

    #[tokio::test]
    async fn an_error_in_the_middle_leaves_no_whole_list() {
        let lists = vec![Ok(vec![1]), Err(ServiceError::Panicked), Ok(vec![2])];
        assert!(written(lists).await.is_err());
    }
}
