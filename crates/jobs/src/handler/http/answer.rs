//! Maps answers to verdicts, by the table in the parent module.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use jiff::{Span, SpanRelativeTo};
use reqwest::{
    Response, StatusCode,
    header::{DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER},
};
use tokio::time::timeout;

use super::{Target, chain, coding::Coding};
use crate::handler::{Retry, Verdict};

/// The longest wait that an answer can ask for; a job that its target forgot waits this long.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long to wait for an outcome if the answer does not say.
const DEFERRED: Duration = Duration::from_secs(60 * 60);
/// How much of a failure's body is kept for people, and how long to wait for it.
const ERROR_LIMIT: usize = 8 << 10;
const ERROR_TIME: Duration = Duration::from_secs(5);
/// How much of an unneeded body is read so that its connection can be used again. Reading more would cost more
/// than a new connection.
const REST_LIMIT: usize = 1 << 20;
const REST_TIME: Duration = Duration::from_secs(1);
/// Number of characters of a redirect's target that are shown.
const LOCATION_LIMIT: usize = 300;

/// Returns the verdict for an answer whose head has arrived. Only a success is read for as long as it takes.
pub(super) async fn verdict(target: &Target, mut response: Response, limit: usize) -> Verdict {
    let status = response.status();
    if status == StatusCode::ACCEPTED {
        let within = deferred(target, response.headers());
        drop_rest(response);
        return Verdict::Deferred { within };
    }
    if !status.is_success() {
        return failed(target, response).await;
    }
    let coding = Coding::of(response.headers());
    let longest = match coding {
        Some(_) => Coding::longest(limit),
        None => limit,
    };
    let (body, read) = first_bytes(&mut response, longest).await;
    match read {
        Ok(()) => {
            drop_rest(response);
            Verdict::Done {
                result: match coding {
                    Some(coding) => uncoded(target, &coding, body, limit),
                    None => body,
                },
            }
        }
        Err(error) => Verdict::Failed {
            error: format!(
                "{target} answered {status}, and the connection broke before the answer was complete: {}",
                chain(&error.without_url())
            ),
            retry: Retry::Backoff,
        },
    }
}

/// Whether the target, or a gateway before it, says that it has too much to do or is not there.
pub(super) fn asks_for_less(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

async fn failed(target: &Target, mut response: Response) -> Verdict {
    let status = response.status();
    let retry = match status {
        StatusCode::GONE => Retry::Never,
        _ => match retry_after(response.headers(), their_time(response.headers())) {
            Some(wait) => Retry::After(wait),
            None => Retry::Backoff,
        },
    };
    let mut error = format!("{target} answered {status}");
    if status.is_redirection() {
        let location = text(response.headers(), LOCATION).unwrap_or("nowhere");
        let location: String = location.chars().take(LOCATION_LIMIT).collect();
        error += &format!(
            " and points to {location}; redirects are not followed: configure the URL that answers itself"
        );
    }
    match said(&mut response).await {
        Ok(text) if text.is_empty() => {}
        Ok(text) => error += &format!(": {text}"),
        Err(coding) => {
            let coding = coding.name();
            error += &format!(
                ", with a body in the content coding '{coding}', although 'identity' was asked for; it is not shown"
            );
        }
    }
    drop_rest(response);
    Verdict::Failed { error, retry }
}

/// Returns a result without its coding. If that can't be undone, the result is kept as it came.
fn uncoded(target: &Target, coding: &Coding, body: Bytes, limit: usize) -> Bytes {
    coding.undone(&body, limit).unwrap_or_else(|| {
        coding.warn(target);
        body.slice(..body.len().min(limit))
    })
}

/// Returns the first bytes of a failure's body as text, for people, and for any database: PostgreSQL's text can't hold
/// a NUL. The error is the coding that makes the body unreadable.
async fn said(response: &mut Response) -> Result<String, Coding> {
    let coding = Coding::of(response.headers());
    let mut kept = BytesMut::new();
    let read = timeout(ERROR_TIME, read_into(&mut kept, response, ERROR_LIMIT + 1)).await;
    let mut cut = kept.len() > ERROR_LIMIT;
    let mut kept = kept.freeze();
    if let Some(coding) = coding {
        kept = coding.undone(&kept, ERROR_LIMIT + 1).ok_or(coding)?;
    }
    cut |= kept.len() > ERROR_LIMIT;
    kept.truncate(ERROR_LIMIT);
    let text = String::from_utf8_lossy(&kept).replace('\0', "\u{fffd}");
    let text = text.trim();
    Ok(match cut || !matches!(read, Ok(Ok(()))) {
        true => format!("{text}…"),
        false => text.to_owned(),
    })
}

async fn first_bytes(response: &mut Response, limit: usize) -> (Bytes, reqwest::Result<()>) {
    let mut kept = BytesMut::new();
    let read = read_into(&mut kept, response, limit).await;
    (kept.freeze(), read)
}

/// Reads to the body's end, or until `limit` bytes have been read.
async fn read_into(
    kept: &mut BytesMut,
    response: &mut Response,
    limit: usize,
) -> reqwest::Result<()> {
    while kept.len() < limit {
        let Some(chunk) = response.chunk().await? else {
            break;
        };
        let room = limit - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(())
}

/// Reads on for a moment in the background, since the worker needs no more of the body.
fn drop_rest(mut response: Response) {
    tokio::spawn(timeout(REST_TIME, async move {
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await
            && read < REST_LIMIT
        {
            read += chunk.len();
        }
    }));
}

fn deferred(target: &Target, headers: &HeaderMap) -> Duration {
    let asked = text(headers, HeaderName::from_static("lameduck-deferred"));
    let within = asked.and_then(|asked| {
        let within = duration(asked);
        if within.is_none() {
            tracing::warn!(
                %target,
                "the answer's header lameduck-deferred is not a duration above zero, and an hour is waited for the \
                 outcome; write it as in 1800 or 30m"
            );
        }
        within
    });
    within.unwrap_or(DEFERRED).min(LONGEST_WAIT)
}

/// Parses seconds, or a duration as people write it; `None` unless it is above zero.
fn duration(text: &str) -> Option<Duration> {
    let duration = seconds(text).or_else(|| {
        let span: Span = text.parse().ok()?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
        Duration::try_from(duration).ok()
    });
    duration.filter(|duration| !duration.is_zero())
}

/// Returns how long to wait, if the answer says so in seconds or as a date (RFC 9110, section 10.2.3). Zero and
/// a date in the past are ignored.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = text(headers, RETRY_AFTER)?;
    let wait = seconds(text).or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).ok()
    });
    wait.filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(LONGEST_WAIT))
}

/// Returns the time at the origin of the answer, if the answer gives it (RFC 9110, section 6.6.1): dates in the answer
/// are by that clock, and not by ours.
fn their_time(headers: &HeaderMap) -> SystemTime {
    let date = text(headers, DATE).and_then(|text| httpdate::parse_http_date(text).ok());
    date.unwrap_or_else(SystemTime::now)
}

/// Parses a whole number of seconds; one that is too large becomes the largest.
fn seconds(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retried(value: &str) -> Option<Duration> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        retry_after(&headers, now)
    }

    fn target() -> Target {
        Target::parse("http://resize/jobs").unwrap()
    }

    fn waits(value: &str) -> Duration {
        let name = HeaderName::from_static("lameduck-deferred");
        deferred(
            &target(),
            &HeaderMap::from_iter([(name, value.parse().unwrap())]),
        )
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(retried("17"), seconds(17));
        assert_eq!(retried(" 17 "), seconds(17));
        // 784,111,777 is 08:49:37.
        assert_eq!(retried("Sun, 06 Nov 1994 08:50:07 GMT"), seconds(30));
        assert_eq!(retried("Sunday, 06-Nov-94 08:50:07 GMT"), seconds(30));
    }

    #[test]
    fn a_date_to_retry_after_is_compared_with_the_date_of_its_answer() {
        let headers = HeaderMap::from_iter([
            (DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap()),
            (
                RETRY_AFTER,
                "Sun, 06 Nov 1994 08:50:07 GMT".parse().unwrap(),
            ),
        ]);
        let wait = retry_after(&headers, their_time(&headers));
        assert_eq!(wait, Some(Duration::from_secs(30)));
    }

    #[test]
    fn an_absurd_retry_after_is_none_or_the_longest() {
        for absurd in [
            "",
            "0",
            "-5",
            "+5",
            "1.5",
            "soon",
            "1e9",
            "Sun, 06 Nov 1994 08:49:36 GMT",
        ] {
            assert_eq!(retried(absurd), None, "{absurd}");
        }
        for long in [
            "99999999999999999999999",
            "18446744073709551615",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert_eq!(retried(long), Some(LONGEST_WAIT), "{long}");
        }
    }

    #[test]
    fn deferred_is_seconds_or_as_people_write_it() {
        assert_eq!(waits("1800"), Duration::from_secs(1800));
        assert_eq!(waits("30m"), Duration::from_secs(1800));
        assert_eq!(waits("1h 30m"), Duration::from_secs(5400));
        assert_eq!(waits("2d"), Duration::from_secs(172_800));
        assert_eq!(waits("30d"), LONGEST_WAIT);
        assert_eq!(waits("99999999999999999999"), LONGEST_WAIT);
        for absurd in ["", "0", "0s", "-5", "-5m", "1 month", "a while"] {
            assert_eq!(waits(absurd), DEFERRED, "{absurd}");
        }
        assert_eq!(deferred(&target(), &HeaderMap::new()), DEFERRED);
    }
}
