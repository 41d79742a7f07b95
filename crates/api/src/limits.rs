//! What a request may cost: bytes, time, and how many at once.
//!
//! A body is held in memory until its job is durable. So what all bodies hold together is bounded, and a
//! request gets its share of it before the first byte is read: by its `Content-Length`, or by what it may
//! have at the most; and a few kilobytes on top, which it costs beside its body, so that
//! their number is bounded, too. Who finds no room is told so at once, and costs nothing.

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

/// Bytes that a request costs beside its body.
const BESIDE: usize = 4096;

/// What a request may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a payload. Default 1 MiB.
    pub max_body: usize,
    /// Jobs in a batch. Default 1,000: one commit of a few milliseconds.
    pub max_batch: usize,
    /// Bytes of a batch. Default 16 MiB.
    pub max_batch_body: usize,
    /// Bytes that all bodies under way hold together, each with 4 KiB on top and a batch twice; the
    /// largest one fits in any case. Default 64 MiB.
    pub max_bodies: usize,
    /// Requests that wait for a job: long polls and event streams. Default 4,000.
    pub max_waiting: usize,
    /// How long a body may pause. Default 30 s.
    pub body_pause: Duration,
    /// How long it may take in all. Default 60 s.
    pub body_time: Duration,
}

/// Room for the bodies under way.
#[derive(Debug)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    pause: Duration,
    time: Duration,
}

/// A body, and its share of the room.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// How long a body may be, and what says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Longest {
    pub(super) bytes: usize,
    /// How often its bytes are held: a batch and its payloads are two.
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
    /// What a body of this length takes of the room.
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
