//! One watch of one object: a stream of lines, each an event, until the server or a time limit ends it.
//!
//! The server is asked to end it after [`WATCH`] (`timeoutSeconds`). If it doesn't, we end it a little later,
//! because on a dead connection a watch looks like one on which nothing happens. The reader starts the next
//! watch from the version of the last event (bookmarks count), so nothing is missed in between.

use std::{marker::PhantomData, time::Duration};

use http_body_util::BodyExt;
use kube::{client::Body, core::WatchEvent};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::{
    api::{ApiError, Clock},
    metrics::Metrics,
};

/// How long one watch lasts. A dead connection blinds a drain for no longer than this; a longer drain needs
/// one more request for each further watch.
pub(super) const WATCH: Duration = Duration::from_secs(5);
/// How much longer the server may take to end a watch after that.
const SLACK: Duration = Duration::from_secs(2);
/// Maximum length of a line in bytes; an EndpointSlice of a thousand endpoints has about half a megabyte.
const LONGEST_LINE: usize = 8 << 20;

/// An open watch.
#[derive(Debug)]
pub(super) struct Watch<K> {
    body: Body,
    clock: Clock,
    opened: Instant,
    unread: Vec<u8>,
    /// Length of the prefix of `unread` that is known to contain no newline.
    searched: usize,
    metrics: Metrics,
    kind: PhantomData<fn() -> K>,
}

impl<K> Watch<K> {
    pub(super) fn new(body: Body, clock: Clock, metrics: Metrics) -> Self {
        Self {
            body,
            clock,
            opened: Instant::now(),
            unread: Vec::new(),
            searched: 0,
            metrics,
            kind: PhantomData,
        }
    }

    /// Returns the API server's clock and ours when the watch was opened.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Returns how long the watch has been open.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }
}

impl<K: DeserializeOwned> Watch<K> {
    /// Returns the next event, or `None` if the watch has ended normally. Cancel-safe: no data is lost if the
    /// future is dropped.
    pub(super) async fn next(&mut self) -> Option<Result<WatchEvent<K>, ApiError>> {
        let until = self.opened + WATCH + SLACK;
        loop {
            if let Some(line) = self.line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some(parse(&line));
            }
            match timeout_at(until, self.body.frame()).await {
                Err(_) => return Some(Err(ApiError::Timeout)),
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    return Some(Err(ApiError::Unreachable(error.to_string())));
                }
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.metrics.received(data.len());
                        self.unread.extend_from_slice(data);
                    }
                }
            }
            if self.unread.len() > LONGEST_LINE {
                return Some(Err(ApiError::Invalid("a line without an end".to_owned())));
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let found = self.unread[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        match found {
            Some(at) => {
                let rest = self.unread.split_off(self.searched + at + 1);
                self.searched = 0;
                Some(std::mem::replace(&mut self.unread, rest))
            }
            None => {
                self.searched = self.unread.len();
                None
            }
        }
    }
}

/// Parses one event. An `ERROR` event becomes an error, like an error status.
fn parse<K: DeserializeOwned>(line: &[u8]) -> Result<WatchEvent<K>, ApiError> {
    match serde_json::from_slice(line) {
        Ok(WatchEvent::Error(status)) => Err(ApiError::from_status(&status)),
        Ok(event) => Ok(event),
        Err(error) => Err(ApiError::Invalid(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    fn watch(bytes: &str) -> Watch<EndpointSlice> {
        let clock = Clock {
            local: Instant::now(),
            server: 0,
        };
        let metrics = Metrics::register(&prometheus::Registry::new());
        Watch::new(Body::from(bytes.as_bytes().to_vec()), clock, metrics)
    }

    const SLICE: &str = r#"{"type":"MODIFIED","object":{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"a","resourceVersion":"7"},"addressType":"IPv4","endpoints":null}}"#;

    #[tokio::test]
    async fn events_come_line_by_line_and_the_end_is_no_error() {
        let mut watch = watch(&format!("{SLICE}\n\n{SLICE}\n"));
        for _ in 0..2 {
            let event = watch.next().await.expect("an event").expect("well formed");
            assert!(matches!(event, WatchEvent::Modified(_)), "{event:?}");
        }
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn an_error_event_is_an_error() {
        let mut watch = watch(
            "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\
             \"status\":\"Failure\",\"message\":\"too old\",\"reason\":\"Expired\",\"code\":410}}\n",
        );
        let error = watch.next().await.expect("an event").expect_err("an error");
        assert!(error.is_gone(), "{error}");
    }

    #[tokio::test]
    async fn garbage_is_an_error_and_half_a_line_is_the_end() {
        let mut garbage = watch("<html>\n");
        let error = garbage
            .next()
            .await
            .expect("something")
            .expect_err("an error");
        assert_eq!(error.outcome(), "invalid");
        assert!(watch("{\"type\":").next().await.is_none());
    }
}
