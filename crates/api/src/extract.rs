//! Extractors for the path and the query of a request, with problems as their rejections.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::Problem;
use lameduck_jobs::job::{JobId, QueueName};

/// The query, as a type that refuses unknown parameters.
pub(super) struct Asked<T>(pub(super) T);

/// The job that the path names.
pub(super) struct AtJob(pub(super) JobId);

/// The queue that the path names; it need not exist.
pub(super) struct AtQueue(pub(super) QueueName);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(asked) = query.map_err(|rejection| {
            let text = rejection.body_text();
            let what = text.trim_start_matches("Failed to deserialize query string: ");
            Problem::bad_request(format!("in the query: {what}"))
        })?;
        Ok(Self(asked))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AtJob {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = segment(parts, state).await?;
        let id = id.parse();
        id.map(Self)
            .map_err(|_| Problem::not_found("a job's id is a UUID"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AtQueue {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name: Result<QueueName, _> = segment(parts, state).await?.parse();
        name.map(Self)
            .map_err(|error| Problem::not_found(error.to_string()))
    }
}

/// Refuses JSON that is not an object: serde would also read structs from arrays, in the order of their fields.
pub(super) fn object(what: &str, example: &str, json: &[u8]) -> Result<(), Problem> {
    let found = match json.trim_ascii_start().first() {
        Some(b'{') => return Ok(()),
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) => "something else",
        None => "nothing",
    };
    Err(Problem::bad_request(format!(
        "{what} is a JSON object, as in {example}; this is {found}"
    )))
}

/// Returns the limit that the query asks for, or else the usual one.
pub(super) fn limit(asked: Option<&str>, usual: usize, most: usize) -> Result<usize, Problem> {
    let Some(asked) = asked else {
        return Ok(usual);
    };
    let limit = asked.parse().ok();
    limit
        .filter(|limit| (1..=most).contains(limit))
        .ok_or_else(|| Problem::bad_request(format!("'limit' is a whole number from 1 to {most}")))
}

async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let segment = Path::<String>::from_request_parts(parts, state).await;
    let Path(segment) = segment.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    Ok(segment)
}
