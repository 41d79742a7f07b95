//! The bounds of a job, however it is submitted.
//!
//! HTTP, `lameduck.enqueue` and the library take the same values: the engines check every job against these
//! constants, the API words its refusals with them, and the SQL of PostgreSQL's schema repeats them (a test compares
//! the two). Values outside of them can't be stored, so every stored job can be read.

use std::{ops::RangeInclusive, time::Duration};

use super::job::{NewJob, When};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest delay of a job; `run_at` may be as far ahead.
pub const MAX_DELAY: Duration = DAY.saturating_mul(365);

/// Minimum and maximum timeout of a run.
pub const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY.saturating_mul(7);

/// Maximum number of attempts that a submitter may ask for.
pub const MAX_ATTEMPTS: u32 = 100;

/// Maximum number of bytes of an idempotency key.
pub const MAX_KEY: usize = 255;

/// Maximum number of bytes of a content type.
pub const MAX_CONTENT_TYPE: usize = 255;

/// Maximum number of bytes of a payload that storage takes. The setting `max-body` limits HTTP to less.
pub const MAX_PAYLOAD: usize = 256 << 20;

/// Instants that storage takes, in microseconds since 1970: up to the year 9999, so that each can be written as
/// RFC 3339.
pub const INSTANTS: RangeInclusive<i64> = 0..=253_370_764_800_000_000;

/// The bound that a job violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutOfBounds {
    /// The delay is too long.
    #[error("'delay' is at most 365 days (365d)")]
    Delay,
    /// The instant is too far ahead by the storage's clock.
    #[error("'run_at' is at most 365 days ahead")]
    RunAt,
    /// The timeout is too short or too long.
    #[error("'timeout' is from 1ms to 7 days (7d)")]
    Timeout,
    /// The idempotency key is empty, too long, or has control characters.
    #[error("an Idempotency-Key has 1 to {MAX_KEY} bytes, and no control characters")]
    Key,
    /// The content type is empty, too long, or not visible ASCII.
    #[error("a content type is 1 to {MAX_CONTENT_TYPE} characters of visible ASCII")]
    ContentType,
    /// The payload is too large.
    #[error("a payload has at most {MAX_PAYLOAD} bytes")]
    Payload,
}

/// Checks a job that storage receives at this instant of its own clock.
pub fn check(job: &NewJob, now: jiff::Timestamp) -> Result<(), OutOfBounds> {
    match job.run_at {
        Some(When::After(delay)) if delay > MAX_DELAY => return Err(OutOfBounds::Delay),
        Some(When::At(at)) if at > When::After(MAX_DELAY).instant(now) => {
            return Err(OutOfBounds::RunAt);
        }
        _ => {}
    }
    if job
        .timeout
        .is_some_and(|timeout| !TIMEOUT.contains(&timeout))
    {
        return Err(OutOfBounds::Timeout);
    }
    if job
        .idempotency_key
        .as_deref()
        .is_some_and(|key| !is_key(key))
    {
        return Err(OutOfBounds::Key);
    }
    if !is_content_type(&job.content_type) {
        return Err(OutOfBounds::ContentType);
    }
    if job.payload.len() > MAX_PAYLOAD {
        return Err(OutOfBounds::Payload);
    }
    Ok(())
}

/// Whether this can be an idempotency key.
pub fn is_key(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && !key.chars().any(char::is_control)
}

/// Whether this can be a content type; handlers get it as a header, so it has to be a valid header value.
pub fn is_content_type(text: &str) -> bool {
    let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=MAX_CONTENT_TYPE).contains(&text.len()) && text.bytes().all(visible)
}

/// Whether this is a trace context (W3C Trace Context, section 3.2). An invalid one is ignored, and the job is accepted
/// (section 4.3).
pub fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length| {
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        part.len() == length && part.bytes().all(lower)
    };
    let [version, trace, parent, flags] = parts[..] else {
        return false;
    };
    let valid = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    valid && version != "ff" && trace.contains(|c| c != '0') && parent.contains(|c| c != '0')
}
