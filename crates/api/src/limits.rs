//! Limits on the cost of a request: bytes, time, and how many at once.
//!
//! A body is held in memory until its job is durable. So the memory of all bodies together is limited, and a
//! request reserves its share before the first byte is read: its `Content-Length`, or else the longest body that
//! it may have. The share includes a few kilobytes for what a request costs beside its body, so that the number
//! of requests is limited, too. A request for which there is no memory left is refused at once, and costs nothing.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::StatusCode};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{Problem, refusals::Refusal};
use lameduck_lifecycle::later;

/// Memory that a request costs beside its body, in bytes.
const BESIDE: usize = 4096;

/// Limits on the cost of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum size of a payload in bytes. Default 1 MiB.
    pub max_body: usize,
    /// Maximum number of jobs in a batch. Default 1,000: one commit of a few milliseconds.
    pub max_batch: usize,
    /// Maximum size of a batch in bytes. Default 16 MiB.
    pub max_batch_body: usize,
    /// Maximum memory of all bodies in flight, in bytes: each counts with 4 KiB on top, and a batch counts twice.
    /// The largest allowed body fits in any case. Default 64 MiB.
    pub max_bodies: usize,
    /// Maximum number of requests that wait for a job: long polls and event streams. Default 4,000.
    pub max_waiting: usize,
    /// How long a body may pause. Default 30 s.
    pub body_pause: Duration,
    /// How long a body may take in all. Default 60 s.
    pub body_time: Duration,
}

/// The memory quota of the bodies in flight.
#[derive(Debug)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    pause: Duration,
    time: Duration,
}

/// A body, and its share of the quota.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The maximum length of a body, and the setting for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest {
    pub(super) bytes: usize,
    /// How many copies of its bytes are held: two for a batch, whose payloads are copied out of it.
    copies: usize,
    what: &'static str,
    setting: &'static str,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 1 << 20,
            max_batch: 1_000,
            max_batch_body: 16 << 20,
            max_bodies: 64 << 20,
            max_waiting: 4_000,
            body_pause: Duration::from_secs(30),
            body_time: Duration::from_secs(60),
        }
    }
}

impl Limits {
    pub(super) fn payload(&self) -> Longest {
        Longest {
            bytes: self.max_body,
            copies: 1,
            what: "a payload",
            setting: "max-body",
        }
    }

    pub(super) fn batch(&self) -> Longest {
        Longest {
            // A batch of one is never smaller than its job alone.
            bytes: self.max_batch_body.max(self.max_body),
            copies: 2,
            what: "a batch",
            setting: "max-batch-body",
        }
    }
}

// === impl Longest ===

impl Longest {
    /// Returns how much of the quota a body of this length takes.
    fn share(&self, length: usize) -> usize {
        length.saturating_mul(self.copies).saturating_add(BESIDE)
    }

    pub(super) fn exceeded(&self) -> Problem {
        let Self {
            bytes,
            what,
            setting,
            ..
        } = self;
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{what} has at most {bytes} bytes (setting '{setting}')"),
        )
    }
}

// === impl Bodies ===

impl Bodies {
    pub(super) fn new(limits: &Limits) -> Self {
        let room = limits
            .max_bodies
            .max(limits.batch().share(limits.batch().bytes))
            .min(Semaphore::MAX_PERMITS);
        Self {
            room: Arc::new(Semaphore::new(room)),
            pause: limits.body_pause,
            time: limits.body_time,
        }
    }

    /// Reads a body to its end.
    pub(super) async fn read(&self, mut body: Body, longest: Longest) -> Result<Held, Problem> {
        let until = later(Instant::now(), self.time);
        let size = body.size_hint();
        if size.lower() > longest.bytes as u64 {
            return Err(longest.exceeded());
        }
        let length = size
            .exact()
            .and_then(|exact| usize::try_from(exact).ok())
            .unwrap_or(longest.bytes);
        let room = self.reserve(longest.share(length))?;
        let mut bytes = BytesMut::new();
        loop {
            let pause = later(Instant::now(), self.pause);
            let frame = match timeout_at(pause.min(until), body.frame()).await {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(Problem::bad_request(format!("the body broke off: {error}")));
                }
                Err(_) => return Err(self.too_slow()),
            };
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > longest.bytes {
                    return Err(longest.exceeded());
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(Held {
            bytes: bytes.freeze(),
            _room: room,
        })
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(bytes);
        room.map_err(|_| {
            Problem::overloaded(
                "too many bodies are under way at the same time; nothing was read of this one \
                 (setting 'max-bodies')",
            )
            .because(Refusal::TooManyBodies)
        })
    }

    fn too_slow(&self) -> Problem {
        let (pause, time) = (self.pause, self.time);
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the body did not come: it may pause for {pause:?} (setting 'body-pause'), and take {time:?} in \
                 all (setting 'body-time')"
            ),
        )
    }
}
