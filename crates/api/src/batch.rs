//! Many jobs in one request and one commit, one job per line.
//!
//! Batches have a path of their own, because newline-delimited JSON may also be the payload of a single job: the
//! content type alone could not tell the two apart.

use std::{fmt, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};
use utoipa::ToSchema;

use super::{
    ApiQueue, Problem, Service,
    extract::{AtQueue, object},
    options::{self, Options},
    schemas::{Delay, Name, Time},
    submit::Accepted,
};
use lameduck_jobs::job::{NewJob, QueueName};

/// A job of a batch: one of the three payloads, and what else is to be said.
// Each value is parsed on its own, so that an error can name it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    /// JSON; the handler gets it byte for byte as it is written here. `null` is none: it counts as absent, as with
    /// every other member.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Raw<'a>,
    /// Text.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    payload_text: Raw<'a>,
    /// Bytes.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    payload_base64: Raw<'a>,
    /// The default is that of the payload: application/json, text/plain, application/octet-stream.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    content_type: Raw<'a>,
    /// As the query's.
    #[serde(borrow)]
    #[schema(inline, value_type = Option<Delay>)]
    delay: Raw<'a>,
    /// As the query's.
    #[serde(borrow)]
    #[schema(value_type = Option<Timestamp>)]
    run_at: Raw<'a>,
    /// As the query's.
    #[serde(borrow)]
    #[schema(value_type = Option<i8>, minimum = -9, maximum = 9)]
    priority: Raw<'a>,
    /// As the query's.
    #[serde(borrow)]
    #[schema(inline, value_type = Option<Time>)]
    timeout: Raw<'a>,
    /// As the query's.
    #[serde(borrow)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    max_attempts: Raw<'a>,
    /// As the header.
    #[serde(borrow)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255)]
    idempotency_key: Raw<'a>,
}

/// A value as it is written, if it is there.
type Raw<'a> = Option<&'a RawValue>;

/// What became of a line.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Answer {
    /// It was stored, or had been before.
    Accepted(Accepted),
    /// It was not.
    #[schema(title = "Refused")]
    Refused {
        /// Why.
        problem: Problem,
    },
}

/// Submit many jobs.
///
/// One JSON object a line, or an array of them, all stored in one commit; the answers come in the same order. One that
/// can't be read refuses the whole batch. Options are said in the lines, each job's own: in the query or in headers
/// they are refused. Repeat a batch whose answer was lost only with a key in every line.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/jobs:batch", operation_id = "submit_batch", tag = "jobs",
    params(
        ("queue" = inline(Name), Path, description = "The queue"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, handed on to each job's handler"),
    ),
    request_body(
        content(
            (Vec<Line<'static>> = "application/json"),
            (String = "application/x-ndjson", example = "{\"payload\": {\"width\": 80}}\n{\"payload_text\": \"bye\", \"delay\": \"10m\"}\n"),
        ),
        description = "A job a line (see the schema Line), or an array of jobs; which of the two the first byte tells",
    ),
    responses(
        (status = 202, description = "All were stored", body = Vec<Answer>),
        (status = 207, description = "Some or all were refused, each for a reason of its own: see each", body = Vec<Answer>),
        (status = 400, description = "A line can't be read, or options are not in the lines; nothing was stored", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody works on this queue", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Too many lines, or too many bytes", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Overloaded, or the storage failed; see Retry-After", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn submit(
    State(service): State<Arc<Service>>,
    AtQueue(queue): AtQueue,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let answers = take_in(&service, &queue, query.as_deref(), &headers, body).await;
    let refused = |problem: &Problem| service.refusals.refused(&queue, problem);
    let answers = answers.inspect_err(refused)?;
    for answer in &answers {
        if let Answer::Refused { problem } = answer {
            refused(problem);
        }
    }
    Ok(answer(answers))
}

async fn take_in(
    service: &Service,
    queue: &QueueName,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<Answer>, Problem> {
    let settings = service.open_queue(queue)?;
    options::check_coding(headers)?;
    nothing_beside_the_lines(query, headers)?;
    let traceparent = options::traceparent(headers);
    let body = service.bodies.read(body, service.limits.batch()).await?;
    let mut jobs = Vec::new();
    let (written, place) = written(&body.bytes, service.limits.max_batch)?;
    for (number, line) in (1..).zip(written) {
        let job = Line::parse(line).and_then(|line| line.into_job(settings));
        let mut job = job.map_err(|problem| problem.at(place, number))?;
        if job.payload.len() > service.limits.max_body {
            let exceeded = service.limits.payload().exceeded();
            return Err(exceeded.at(place, number));
        }
        job.traceparent.clone_from(&traceparent);
        jobs.push(job);
    }
    let answers = service.store(queue, jobs).await?;
    let answers = answers.into_iter().map(|answer| match answer {
        Ok(submitted) => Answer::Accepted(Accepted::new(queue.clone(), submitted)),
        Err(problem) => Answer::Refused { problem },
    });
    Ok(answers.collect())
}

/// Refuses options in the query or in headers: they could mean all lines or none, and either would surprise somebody.
fn nothing_beside_the_lines(query: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    let header = headers.keys().find(|name| options::is_option(name));
    let found = match (query.filter(|query| !query.is_empty()), header) {
        (None, None) => return Ok(()),
        (Some(_), _) => "the query".to_owned(),
        (None, Some(name)) => format!("the header {name}"),
    };
    Err(Problem::bad_request(format!(
        "{found} says something about jobs; of a batch each line says it itself, as in \
         {{\"payload\": 1, \"delay\": \"30s\", \"idempotency_key\": \"order-17\"}}. Nothing was stored"
    )))
}

/// Returns the jobs of a batch as they are written, and the word for one of them.
fn written(body: &[u8], most: usize) -> Result<(Vec<&[u8]>, &'static str), Problem> {
    match body.trim_ascii_start().first() {
        Some(b'[') => Ok((items(body, most)?, "item")),
        _ => Ok((lines(body, most)?, "line")),
    }
}

/// Returns the lines of a batch. Empty lines after the last job are allowed, because some writers leave them.
fn lines(body: &[u8], most: usize) -> Result<Vec<&[u8]>, Problem> {
    let body = body.trim_ascii_end();
    if body.is_empty() {
        return Err(empty());
    }
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').take(most + 1).collect();
    match lines.len() > most {
        true => Err(too_many(most)),
        false => Ok(lines),
    }
}

/// Returns the items of a batch that is an array. It stops at the limit: an item takes more memory than its text.
fn items(body: &[u8], most: usize) -> Result<Vec<&[u8]>, Problem> {
    let mut found = Items {
        most,
        items: Vec::new(),
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = reader
        .deserialize_seq(&mut found)
        .and_then(|()| reader.end());
    match (read, found.items) {
        (_, items) if items.len() > most => Err(too_many(most)),
        (Err(error), _) => Err(Problem::bad_request(format!(
            "the body begins like a JSON array of jobs and is none: {error}; nothing of the batch was stored"
        ))),
        (Ok(()), items) if items.is_empty() => Err(empty()),
        (Ok(()), items) => Ok(items
            .into_iter()
            .map(|item| item.get().as_bytes())
            .collect()),
    }
}

fn empty() -> Problem {
    Problem::bad_request(
        "the batch is empty; it has a JSON object for each job, one a line, or all in one array",
    )
}

fn too_many(most: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("a batch has at most {most} jobs (setting 'max-batch')"),
    )
}

/// Collects the items of an array, up to one more than the limit.
struct Items<'a> {
    most: usize,
    items: Vec<&'a RawValue>,
}

impl<'a> Visitor<'a> for &mut Items<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of jobs")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(item) = array.next_element()? {
            self.items.push(item);
            if self.items.len() > self.most {
                return Err(A::Error::custom("there are too many"));
            }
        }
        Ok(())
    }
}

fn answer(answers: Vec<Answer>) -> Response {
    let problems = || {
        answers.iter().filter_map(|answer| match answer {
            Answer::Refused { problem } => Some(problem),
            Answer::Accepted(_) => None,
        })
    };
    let status = match problems().next() {
        None => StatusCode::ACCEPTED,
        Some(_) => StatusCode::MULTI_STATUS,
    };
    let retry = problems().filter_map(Problem::retry_seconds).max();
    let mut response = (status, Json(&answers)).into_response();
    if let Some(seconds) = retry {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

// === impl Line ===

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Problem> {
        if line.trim_ascii().is_empty() {
            return Err(Problem::bad_request(
                "the line is empty; only after the last job empty lines mean nothing",
            ));
        }
        object("a job of a batch", r#"{"payload": {"width": 80}}"#, line)?;
        serde_json::from_slice(line).map_err(|error| Problem::bad_request(in_words(&error)))
    }

    fn into_job(self, queue: &ApiQueue) -> Result<NewJob, Problem> {
        let delay = text("delay", self.delay)?;
        let run_at = text("run_at", self.run_at)?;
        let timeout = text("timeout", self.timeout)?;
        let priority = self.priority.map(|number| number.get().parse()).transpose();
        let attempts = |number: &RawValue| options::check_attempts(number.get().parse().ok());
        let options = Options {
            delay: delay.as_deref().map(options::parse_delay).transpose()?,
            run_at: run_at.as_deref().map(options::parse_run_at).transpose()?,
            priority: priority
                .map_err(|error| Problem::bad_request(format!("priority: {error}")))?,
            timeout: timeout.as_deref().map(options::parse_timeout).transpose()?,
            max_attempts: self.max_attempts.map(attempts).transpose()?,
        };
        let content_type = text("content_type", self.content_type)?;
        let key = text("idempotency_key", self.idempotency_key)?;
        let (payload, usual) = payload(
            self.payload,
            text("payload_text", self.payload_text)?,
            text("payload_base64", self.payload_base64)?,
        )?;
        Ok(NewJob {
            queue: queue.name.clone(),
            payload,
            content_type: options::check_content_type(content_type.as_deref().unwrap_or(usual))?,
            run_at: options.not_before()?,
            priority: options.priority.unwrap_or_default(),
            timeout: options.timeout,
            traceparent: None,
            max_attempts: options.max_attempts.unwrap_or(queue.max_attempts),
            idempotency_key: key.as_deref().map(options::check_key).transpose()?,
        })
    }
}

/// Reads a value that must be text.
fn text(word: &str, value: Raw<'_>) -> Result<Option<String>, Problem> {
    let Some(value) = value else {
        return Ok(None);
    };
    let value = value.get();
    serde_json::from_str(value).map(Some).map_err(|error| {
        let why = match value.starts_with('"') {
            true => in_words(&error),
            false => format!("{} is none", value.chars().take(40).collect::<String>()),
        };
        Problem::bad_request(format!("'{word}' is a text in quotes: {why}"))
    })
}

/// Describes what is wrong with a line's JSON, for people.
fn in_words(error: &serde_json::Error) -> String {
    // serde_json also says the line, which is always the first here.
    let said = error.to_string();
    let said = said.replace(" at line 1 column ", " at column ");
    match error.classify() {
        Category::Eof => "the line ends before its JSON does".to_owned(),
        Category::Syntax => format!("this is not JSON: {said}"),
        Category::Data | Category::Io => said,
    }
}

/// Returns the payload, and its default content type.
fn payload(
    json: Raw<'_>,
    text: Option<String>,
    base64: Option<String>,
) -> Result<(Bytes, &'static str), Problem> {
    match (json, text, base64) {
        (Some(json), None, None) => {
            let json = Bytes::copy_from_slice(json.get().as_bytes());
            Ok((json, "application/json"))
        }
        (None, Some(text), None) => Ok((text.into(), "text/plain; charset=utf-8")),
        (None, None, Some(base64)) => STANDARD
            .decode(base64)
            .map(|bytes| (bytes.into(), "application/octet-stream"))
            .map_err(|error| Problem::bad_request(format!("payload_base64: {error}"))),
        _ => Err(Problem::bad_request(
            "a job has one payload: 'payload' (JSON), 'payload_text' or 'payload_base64'. A null counts as absent; JSON's \
             null itself is \"payload_text\": \"null\", \"content_type\": \"application/json\"",
        )),
    }
}
