//! The options that a submitter may give for a job, by the same names in the query, in headers, and in the lines of
//! a batch.
//!
//! | word | query | header | bounds |
//! | --- | --- | --- | --- |
//! | delay | `delay=30s` | `Lameduck-Delay` | at most 365 days; not with `run_at` |
//! | run_at | `run_at=2027-01-01T00:00:00Z` | `Lameduck-Run-At` | at most 365 days ahead |
//! | priority | `priority=3` | `Lameduck-Priority` | -9 to 9 |
//! | timeout | `timeout=5m` | `Lameduck-Timeout` | 1 ms to 7 days |
//! | max_attempts | `max_attempts=3` | `Lameduck-Max-Attempts` | 1 to 100 |
//!
//! A misspelt option is refused and not ignored: a job that has run without its delay can't be called back.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Problem,
    schemas::{Delay, Time},
};
use lameduck_jobs::{
    bounds::{self, MAX_ATTEMPTS, MAX_CONTENT_TYPE, MAX_DELAY, MAX_KEY, OutOfBounds, TIMEOUT},
    job::{Priority, When},
};

/// Prefix of the headers for options that can also be given in the query.
const PREFIX: &str = "lameduck-";

/// Header that makes a repeated submission harmless.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The options in words, as the query and the headers have them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Words {
    /// Not before so much time has passed, as in `30s`, `1h30m` or `2d`; at most 365 days (`365d`).
    #[serde(default)]
    #[param(inline, value_type = Option<Delay>)]
    delay: Option<String>,
    /// Not before this instant (RFC 3339); at most 365 days ahead. One in the past means now.
    #[serde(default)]
    #[param(value_type = Option<Timestamp>)]
    run_at: Option<String>,
    /// From -9 to 9, higher first. Default 0.
    #[serde(default)]
    #[param(value_type = Option<i8>, minimum = -9, maximum = 9)]
    priority: Option<String>,
    /// How long a run may take, from `1ms` to 7 days (`7d`). The default is the queue's.
    #[serde(default)]
    #[param(inline, value_type = Option<Time>)]
    timeout: Option<String>,
    /// Attempts in all before the job is dead, from 1 to 100. The default is the queue's.
    #[serde(default)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100)]
    max_attempts: Option<String>,
}

/// The parsed options, each `None` where it was not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) delay: Option<Duration>,
    pub(super) run_at: Option<Timestamp>,
    pub(super) priority: Option<Priority>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_attempts: Option<u32>,
}

// === impl Options ===

impl Options {
    /// Reads the options from the query and the headers of a request.
    pub(super) fn of_request(query: &Words, headers: &HeaderMap) -> Result<Self, Problem> {
        let query = Self::from_words(query)?;
        let headers = Self::from_words(&Words::from_headers(headers)?)?;
        query.and(headers)
    }

    fn from_words(words: &Words) -> Result<Self, Problem> {
        let priority = words.priority.as_deref().map(str::parse).transpose();
        let attempts = |text: &str| check_attempts(text.parse().ok());
        Ok(Self {
            delay: words.delay.as_deref().map(parse_delay).transpose()?,
            run_at: words.run_at.as_deref().map(parse_run_at).transpose()?,
            priority: priority
                .map_err(|error| Problem::bad_request(format!("priority: {error}")))?,
            timeout: words.timeout.as_deref().map(parse_timeout).transpose()?,
            max_attempts: words.max_attempts.as_deref().map(attempts).transpose()?,
        })
    }

    /// Merges two sets of options. An option that is given in both must be the same in both.
    fn and(self, other: Self) -> Result<Self, Problem> {
        fn one<T: PartialEq>(word: &str, a: Option<T>, b: Option<T>) -> Result<Option<T>, Problem> {
            match (a, b) {
                (Some(a), Some(b)) if a != b => Err(Problem::bad_request(format!(
                    "'{word}' is one thing in the query and another in the header; give it once"
                ))),
                (a, b) => Ok(a.or(b)),
            }
        }
        Ok(Self {
            delay: one("delay", self.delay, other.delay)?,
            run_at: one("run_at", self.run_at, other.run_at)?,
            priority: one("priority", self.priority, other.priority)?,
            timeout: one("timeout", self.timeout, other.timeout)?,
            max_attempts: one("max_attempts", self.max_attempts, other.max_attempts)?,
        })
    }

    /// Returns when the job may run, if not at once. Only the storage decides how far ahead that is, by its clock.
    pub(super) fn not_before(&self) -> Result<Option<When>, Problem> {
        match (self.delay, self.run_at) {
            (Some(_), Some(_)) => Err(Problem::bad_request(
                "'delay' and 'run_at' say the same thing in two ways; give one of them",
            )),
            (Some(delay), None) => Ok(Some(When::After(delay))),
            (None, at) => Ok(at.map(When::At)),
        }
    }
}

// === impl Words ===

impl Words {
    fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut words = Self::default();
        for name in headers.keys() {
            let Some(option) = name.as_str().strip_prefix(PREFIX) else {
                continue;
            };
            let word = match option {
                "delay" => &mut words.delay,
                "run-at" => &mut words.run_at,
                "priority" => &mut words.priority,
                "timeout" => &mut words.timeout,
                "max-attempts" => &mut words.max_attempts,
                _ => {
                    return Err(Problem::bad_request(format!(
                        "there is no option {name}; there are Lameduck-Delay, Lameduck-Run-At, Lameduck-Priority, \
                         Lameduck-Timeout and Lameduck-Max-Attempts"
                    )));
                }
            };
            *word = header_text(headers, name, 100)?.map(str::to_owned);
        }
        Ok(words)
    }
}

/// Whether a header is an option of a job.
pub(super) fn is_option(header: &HeaderName) -> bool {
    *header == KEY || header.as_str().starts_with(PREFIX)
}

// === words ===

/// Parses a duration as people write it; a day has 24 hours, as in the settings.
pub(super) fn parse_duration(word: &str, text: &str) -> Result<Duration, Problem> {
    let days = SpanRelativeTo::days_are_24_hours();
    let parsed = text.parse::<Span>().and_then(|span| span.to_duration(days));
    parsed
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            Problem::bad_request(format!(
                "'{word}' is a duration, written as in 500ms, 30s, 1h30m, 2d; '{}' is none",
                shown(text)
            ))
        })
}

pub(super) fn parse_delay(text: &str) -> Result<Duration, Problem> {
    let delay = parse_duration("delay", text)?;
    if delay > MAX_DELAY {
        return Err(Problem::bad_request(OutOfBounds::Delay.to_string()));
    }
    Ok(delay)
}

pub(super) fn parse_timeout(text: &str) -> Result<Duration, Problem> {
    let timeout = parse_duration("timeout", text)?;
    if !TIMEOUT.contains(&timeout) {
        return Err(Problem::bad_request(OutOfBounds::Timeout.to_string()));
    }
    Ok(timeout)
}

/// Parses how long the next message about an outcome may take.
pub(super) fn parse_within(text: &str) -> Result<Duration, Problem> {
    let within = parse_duration("within", text)?;
    if !TIMEOUT.contains(&within) {
        return Err(Problem::bad_request("'within' is from 1ms to 7 days (7d)"));
    }
    Ok(within)
}

pub(super) fn parse_run_at(text: &str) -> Result<Timestamp, Problem> {
    text.parse().map_err(|_| {
        Problem::bad_request(format!(
            "'run_at' is an instant as RFC 3339 writes it, 2027-01-01T06:00:00Z (in a query a '+' is %2B); '{}' \
             is none",
            shown(text)
        ))
    })
}

pub(super) fn check_attempts(attempts: Option<u32>) -> Result<u32, Problem> {
    attempts
        .filter(|attempts| (1..=MAX_ATTEMPTS).contains(attempts))
        .ok_or_else(|| {
            Problem::bad_request(format!(
                "'max_attempts' is a whole number from 1 to {MAX_ATTEMPTS}"
            ))
        })
}

pub(super) fn check_key(key: &str) -> Result<String, Problem> {
    if key.is_empty() {
        return Err(Problem::bad_request(
            "the Idempotency-Key is empty; leave it out or give it a value",
        ));
    }
    if !bounds::is_key(key) {
        return Err(Problem::bad_request(format!(
            "an Idempotency-Key has at most {MAX_KEY} bytes, and no control characters"
        )));
    }
    Ok(key.to_owned())
}

pub(super) fn check_content_type(text: &str) -> Result<String, Problem> {
    if !bounds::is_content_type(text) {
        return Err(Problem::bad_request(OutOfBounds::ContentType.to_string()));
    }
    Ok(text.to_owned())
}

/// Returns the only value of a header.
pub(super) fn header_text<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    limit: usize,
) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(name) {
            true => Err(Problem::bad_request(format!(
                "the header {name} is given more than once"
            ))),
            false => Ok(None),
        };
    };
    match value.to_str() {
        Ok(text) if text.len() <= limit => Ok(Some(text)),
        _ => Err(Problem::bad_request(format!(
            "the header {name} must be at most {limit} characters of visible ASCII"
        ))),
    }
}

/// Refuses a body with a content coding: it would be stored and handed on as if it were not encoded.
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii);
    // An empty list item or `identity` is no coding (RFC 9110, sections 5.6.1.2 and 8.4.1).
    let is_none = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    match codings.find(|coding| !is_none(coding)) {
        None => Ok(()),
        Some(coding) => Err(Problem::coded(format!(
            "the body has the Content-Encoding '{}', and only bodies without one are taken: send it as it is. To \
             have compressed bytes as a payload, leave the header out and give their own Content-Type, such as \
             application/gzip",
            shown(&String::from_utf8_lossy(coding))
        ))),
    }
}

pub(super) fn content_type(headers: &HeaderMap) -> Result<String, Problem> {
    match header_text(headers, &header::CONTENT_TYPE, MAX_CONTENT_TYPE)? {
        Some(given) => check_content_type(given),
        None => Ok("application/octet-stream".to_owned()),
    }
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    header_text(headers, &KEY, MAX_KEY)?
        .map(check_key)
        .transpose()
}

/// Returns the submitter's trace context. An invalid one is ignored and is no reason to refuse the job (W3C Trace
/// Context, section 4.3).
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    bounds::is_traceparent(text).then(|| text.to_owned())
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}
